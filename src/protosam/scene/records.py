"""What ProtoSAM has written into a segment, and how it is remembered.

Rules
-----
* Masks are kept as packed bits on the segmentation's reference grid: some 100 KB for an organ, so
  every undo state can have its own record.
* A record is a value: it is replaced, never changed. Its revision stands in a tag of the segment,
  which Slicer's undo saves and restores with the mask; so prompts keep step with undo and redo by
  themselves.
* The tag alone is enough after a save and a load: it holds the prompts, and the number of voxels
  that tells whether the mask is still the one that they gave.
* No names of patients, files, folders or machines go into a tag. Slicer's files part tags by "|",
  which therefore does not occur in them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from vtkmodules.vtkCommonCore import reference

from protosam import __version__
from protosam.errors import InvalidPrompt
from protosam.extents import BoolArray, Extent, bounding_extent, pack_bits, unpack_bits
from protosam.prompt_checks import strict_loads, strict_record, wrong_value
from protosam.prompts import PromptSet
from protosam.scene.grids import Node, moved, within

PROMPTS_TAG = "ProtoSAM.Prompts"
"""Tag with the prompts; see `TagRecord`."""

TAG_VERSION = 1
"""Version of the tag's JSON; raised whenever a key changes its meaning."""

UNKNOWN_COUNT = -1
"""Number of voxels in a tag where the segment holds more than ProtoSAM's own."""

_TAG_KEYS = ("version", "revision", "grid", "voxels", "set")
_ORIGIN_TAGS = (
    "ProtoSAM.Model",
    "ProtoSAM.Digest",
    "ProtoSAM.Adapter",
    "DICOM.SegmentAlgorithmType",
    "DICOM.SegmentAlgorithmName",
)
_EMPTY = Extent((0, 0, 0), (0, 0, 0))


@dataclass(frozen=True)
class Patch:
    """A mask, cut to its bounding box and packed."""

    extent: Extent = _EMPTY
    """Where the box lies in the grid; empty if the mask is."""
    bits: bytes = b""
    """The box, packed by `extents.pack_bits`."""

    @classmethod
    def of(cls, mask: BoolArray, box: Extent) -> Patch:
        """Patch of a crop that lies at a box."""
        tight = bounding_extent(mask) if mask.size else None
        if tight is None:
            return cls()
        return cls(moved(tight, box.start_kji), pack_bits(mask[tight.slices]))

    @property
    def is_empty(self) -> bool:
        """Whether it holds no voxel."""
        return self.extent.is_empty

    @property
    def count(self) -> int:
        """Number of its voxels."""
        return int(np.unpackbits(np.frombuffer(self.bits, dtype=np.uint8)).sum(dtype=np.int64))

    def mask(self) -> BoolArray:
        """Mask inside of `extent`."""
        return unpack_bits(self.bits, self.extent.shape_kji)

    def crop(self, box: Extent) -> BoolArray:
        """Mask on a box of the grid."""
        out = np.zeros(box.shape_kji, dtype=np.bool_)
        both = self.extent.intersection(box)
        if not both.is_empty:
            k, j, i = within(both, self.extent)
            whole = k == slice(0, self.extent.shape_kji[0])
            out[within(both, box)] = self.mask()[:, j, i] if whole else self._layers(k)[:, j, i]
        return out

    def _layers(self, k: slice) -> BoolArray:
        """Mask of some layers of the box; the others stay packed, as unpacking takes its time."""
        _, rows, columns = self.extent.shape_kji
        begin, end = k.start * rows * columns, k.stop * rows * columns
        part = np.frombuffer(self.bits, dtype=np.uint8)[begin // 8 : -(-end // 8)]
        flat = np.unpackbits(part)[begin % 8 :][: end - begin]
        return flat.view(np.bool_).reshape(-1, rows, columns)


@dataclass(frozen=True)
class Record:
    """Everything that ProtoSAM knows about a segment as it has left it."""

    prompts: PromptSet = field(default_factory=PromptSet)
    """Prompts that the mask follows from."""
    revision: str = ""
    """Identity of this state; empty = ProtoSAM has written nothing."""
    source_grid: str = ""
    """Digest of the source volume's grid."""
    reference_grid: str = ""
    """Digest of the segmentation's grid that the patches lie on."""
    ours: Patch = Patch()
    """Voxels that are in the segment because ProtoSAM put them there."""
    sealed: Patch = Patch()
    """Part of `ours` that earlier, closed prompt lists gave."""
    barred: Patch = Patch()
    """Voxels that were erased by hand out of the answer: they are not put back."""
    taken: Mapping[str, Patch] = field(default_factory=dict)
    """Voxels that other segments lost to this one, by segment id."""
    alone: bool = False
    """Whether the segment was empty before."""

    @property
    def voxels(self) -> int:
        """Number of voxels that tells this mask again after a load, or `UNKNOWN_COUNT`."""
        return self.ours.count if self.alone and self.sealed.is_empty else UNKNOWN_COUNT


@dataclass(frozen=True)
class TagRecord:
    """The tag `ProtoSAM.Prompts` of a segment."""

    prompts: PromptSet
    """See `Record`."""
    revision: str
    """See `Record`."""
    source_grid: str
    """See `Record`."""
    voxels: int
    """See `Record`."""

    @classmethod
    def of(cls, record: Record) -> TagRecord:
        """Tag of a record."""
        return cls(record.prompts, record.revision, record.source_grid, record.voxels)

    def to_text(self) -> str:
        """Text of the tag."""
        content = {
            "version": TAG_VERSION,
            "revision": self.revision,
            "grid": self.source_grid,
            "voxels": self.voxels,
            "set": self.prompts.to_json(),
        }
        text = json.dumps(content, allow_nan=False, sort_keys=True, separators=(",", ":"))
        return text.replace("|", "\\u007c")

    @classmethod
    def from_text(cls, text: str) -> TagRecord:
        """Tag from `to_text`'s form.

        Raises
        ------
        InvalidPrompt
            It is not JSON, of another version, or holds something else than it should.
        """
        content = strict_record(strict_loads(text), _TAG_KEYS, "prompt tag")
        if content["version"] != TAG_VERSION:
            raise InvalidPrompt(
                f"The points of this segment have format version {content['version']!r}, wanted "
                f"{TAG_VERSION}.",
                "Use the same version of ProtoSAM that saved them, or click anew.",
            )
        for key, kind in (("revision", str), ("grid", str), ("voxels", int)):
            if type(content[key]) is not kind:
                raise wrong_value(key, content[key], kind.__name__)
        prompts = PromptSet.from_json(content["set"])
        return cls(prompts, content["revision"], content["grid"], content["voxels"])


def tag_of(segment: Node, name: str) -> str:
    """Value of a segment's tag; empty if it has none."""
    value = reference("")
    return str(value) if segment.GetTag(name, value) else ""


@dataclass(frozen=True)
class Origin:
    """Where an answer comes from."""

    model: str
    """Name of the model."""
    digest: str
    """Identity of its weights and adapter."""
    adapter: str
    """Name of the adapter; empty = none."""


def set_tags(segment: Node, record: Record, origin: Origin | None) -> None:
    """Write the prompts and where the mask comes from; no origin leaves the old one.

    A segment without prompts and without voxels of ours gets all of them taken off.
    """
    tags = {PROMPTS_TAG: TagRecord.of(record).to_text(), "ProtoSAM.Version": __version__}
    if origin is not None:
        tags |= {
            "ProtoSAM.Model": origin.model,
            "ProtoSAM.Digest": origin.digest,
            "ProtoSAM.Adapter": origin.adapter,
            "DICOM.SegmentAlgorithmType": "SEMIAUTOMATIC",
            "DICOM.SegmentAlgorithmName": f"ProtoSAM {origin.model}".strip(),
        }
    if record.prompts.is_empty and record.ours.is_empty:
        tags = dict.fromkeys((*tags, *_ORIGIN_TAGS), "")
    for name, value in tags.items():
        if value:
            segment.SetTag(name, value.replace("|", "/"))
        else:
            segment.RemoveTag(name)
