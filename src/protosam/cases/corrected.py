"""A corrected case as a value: an image, what was found in it, and from which prompts.

Owns what may be kept: voxels, geometry, names of segments, prompts, codes, a model's digest and,
if wanted, a day. There is no place for a header's text, a file's name or a time of day. Knows no
files. Voxels are (k, j, i).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from protosam.errors import GeometryError, InvalidInput
from protosam.geometry import Volume
from protosam.prompts import PromptSet

BoolArray = npt.NDArray[np.bool_]

MOST_SEGMENTS = 255
"""Labels of a label map are bytes, and 0 is the background."""


@dataclass(frozen=True)
class Code:
    """What a segment is, as DICOM codes it."""

    value: str
    """For instance ``10200004``."""
    scheme: str
    """For instance ``SCT``."""
    meaning: str
    """For instance ``Liver``."""

    def __post_init__(self) -> None:
        if not all(isinstance(x, str) and x.strip() for x in dataclasses.astuple(self)):
            raise InvalidInput(
                f"The code {dataclasses.astuple(self)} is not three texts.",
                "Give value, scheme and meaning, or no code.",
            )


@dataclass(frozen=True, eq=False)
class CorrectedSegment:
    """One object of a case.

    Attributes
    ----------
    name : str
        As in the segmentation; the same name in all cases.
    mask : (K, J, I) bool
        Not empty.
    prompts : PromptSet
        What the user gave.
    code : Code or None
    side : Code or None
        Which one of what there are two of.
    """

    name: str
    mask: BoolArray
    prompts: PromptSet = field(default_factory=PromptSet)
    code: Code | None = None
    side: Code | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise InvalidInput("A segment has no name.", "Name it, then save the case.")
        if self.mask.dtype != np.bool_ or not self.mask.any():
            raise InvalidInput(
                f"The segment {self.name!r} is empty or not a mask.",
                "Segment the object, or leave this segment out.",
            )


@dataclass(frozen=True, eq=False)
class CorrectedCase:
    """What *Save corrected case* keeps.

    Attributes
    ----------
    image : Volume
    segments : tuple of CorrectedSegment
        On the image's grid; they may not overlap.
    model_digest : str
        Of the model that answered the prompts; empty where there was none, or several.
    day : date or None
        A day at most.
    """

    image: Volume
    segments: tuple[CorrectedSegment, ...]
    model_digest: str = ""
    day: date | None = None

    def __post_init__(self) -> None:
        if isinstance(self.day, datetime):
            raise InvalidInput("A case was given a time of day.", "Give the day alone, or nothing.")
        if not 1 <= len(self.segments) <= MOST_SEGMENTS:
            raise InvalidInput(
                f"The case has {len(self.segments)} segments; wanted are 1 to {MOST_SEGMENTS}.",
                "Segment something, then save the case.",
            )
        names = [segment.name for segment in self.segments]
        if len(set(names)) < len(names):
            raise InvalidInput(f"Segment names occur twice: {sorted(names)}.", "Rename one.")
        for segment in self.segments:
            if segment.mask.shape != self.image.shape_kji:
                raise GeometryError(
                    f"The segment {segment.name!r} has {segment.mask.shape} voxels (k, j, i), "
                    f"the image {self.image.shape_kji}.",
                    "Bring the segment onto the grid of the image.",
                )
            segment.prompts.check_inside(self.image.shape_kji)

    @property
    def origin(self) -> str:
        """Digest of the image's voxels and place: the same image has the same."""
        return self.image.uid

    def over(self, before: CorrectedCase) -> CorrectedCase:
        """Return this case with those segments of an earlier one whose names it has not.

        Parameters
        ----------
        before : CorrectedCase
            Of the same image.
        """
        names = {segment.name for segment in self.segments}
        kept = tuple(segment for segment in before.segments if segment.name not in names)
        is_one = not kept or before.model_digest == self.model_digest
        digest = self.model_digest if is_one else ""
        return dataclasses.replace(self, segments=(*kept, *self.segments), model_digest=digest)

    def label_map(self, numbers: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Write all segments into one map.

        Parameters
        ----------
        numbers : sequence of int
            Label of each segment, 1 to `MOST_SEGMENTS`.

        Returns
        -------
        (K, J, I) uint8

        Raises
        ------
        InvalidInput
            When two segments overlap.
        """
        labels = np.zeros(self.image.shape_kji, dtype=np.uint8)
        for number, segment in zip(numbers, self.segments, strict=True):
            shared = int(np.count_nonzero(labels[segment.mask]))
            if shared:
                raise InvalidInput(
                    f"The segment {segment.name!r} shares {shared} voxels with others.",
                    "Save overlapping segments as cases of their own folders.",
                )
            labels[segment.mask] = number
        return labels


def segment_to_json(segment: CorrectedSegment, label: int) -> dict[str, Any]:
    """Everything of a segment but its mask."""
    return {
        "label": label,
        "name": segment.name,
        "prompts": segment.prompts.to_json(),
        "code": None if segment.code is None else dataclasses.asdict(segment.code),
        "side": None if segment.side is None else dataclasses.asdict(segment.side),
    }


def segment_from_json(entry: dict[str, Any], labels: npt.NDArray[np.generic]) -> CorrectedSegment:
    """Segment from `segment_to_json` and the label map.

    Raises
    ------
    InvalidInput
        When the entry or its label is not as it was written.
    KeyError, TypeError
        When entries are missing or unknown.
    """
    codes = (entry["code"], entry.get("side"))  # cases saved before 2026-12 have no side
    code, side = (None if one is None else Code(**one) for one in codes)
    mask = np.asarray(labels == int(entry["label"]), dtype=np.bool_)
    prompts = PromptSet.from_json(entry["prompts"])
    return CorrectedSegment(str(entry["name"]), mask, prompts, code, side)
