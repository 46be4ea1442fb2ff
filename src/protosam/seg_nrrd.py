"""Segmentations as 3D Slicer stores them: one `.seg.nrrd` with names, colours and terminology.

Rules
-----
* The file covers the whole grid of the reference volume, gzip-compressed, space
  left-posterior-superior, text in UTF-8; so Slicer, SimpleITK and others place it by itself.
* Segments that share a voxel lie in different layers (a leading `list` axis), as Slicer does;
  the others share a layer under different label values.
* The keys are those of Slicer's `vtkMRMLSegmentationStorageNode`, read and written by its rules.
* LPS and (i, j, k) extents appear here only on the way to and from the file.

The NRRD itself is read and written by ITK. pynrrd was tried and left: it writes and reads headers
as ASCII, so that names such as "Größe" fail or lose letters.
"""

# SimpleITK ships no types for its methods.
# mypy: allow-untyped-calls

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from protosam.errors import InvalidInput, StorageFailure, UnreadableFile
from protosam.extents import BoolArray, Extent, FloatArray, IndexKJI, VoxelArray, bounding_extent
from protosam.geometry import Volume
from protosam.itk_grid import affine_of_image, read_image, set_image_affine
from protosam.storage import atomic_path

DEFAULT_TERMINOLOGY = (
    "Segmentation category and type - 3D Slicer General Anatomy list"
    "~SCT^85756007^Tissue~SCT^85756007^Tissue~^^"
    "~Anatomic codes - DICOM master list~^^~^^"
)
"""Slicer's entry for a segment of which nothing is known: the generic tissue."""

DEFAULT_COLOUR = (128 / 255, 174 / 255, 128 / 255)
"""Slicer's colour of that entry."""

COMPRESSION_LEVEL = 2
"""Of 1 to 9. 512x512x600 with one organ: level 1 made 1.7 MB, 2 0.2 MB, 6 0.3 MB, in 0.10, 0.11
and 0.27 s (ITK 5.4, one core)."""

_TERMINOLOGY_TAG = "TerminologyEntry"
_REPRESENTATION = "Binary labelmap"
_TAG_SEPARATOR = "|"
_HEADER_START = 4096
"""Bytes in which ITK's own header fields lie; the keys of the segments follow."""


@dataclass(frozen=True, eq=False)
class Segment:
    """One named structure of a segmentation."""

    name: str
    """What the user reads; any letters, no control characters."""
    mask: BoolArray
    """(K, J, I) bool, on the grid of the reference volume; may be empty."""
    colour: tuple[float, float, float] = DEFAULT_COLOUR
    """Red, green, blue in 0..1."""
    id: str = ""
    """Unique in its file; '' lets `write_segmentation` number it."""
    terminology: str = DEFAULT_TERMINOLOGY
    """Slicer's terminology entry: seven fields parted by '~', codes as scheme^value^meaning."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Further tags of the segment, for example DICOM.SegmentAlgorithmType."""

    def __post_init__(self) -> None:
        mask = np.asarray(self.mask)
        if mask.ndim != 3 or mask.dtype != np.bool_:
            raise InvalidInput(
                f"The mask of segment {self.name!r} is {mask.dtype} {mask.shape}, "
                "wanted bool (k, j, i).",
                "Compare the labels with a value first.",
            )
        colour = tuple(float(part) for part in self.colour)
        if len(colour) != 3 or not all(0 <= part <= 1 for part in colour):
            raise InvalidInput(
                f"The colour of segment {self.name!r} is {self.colour}, "
                "wanted three numbers from 0 to 1.",
                "Divide by 255 if they are bytes.",
            )
        object.__setattr__(self, "colour", colour)
        object.__setattr__(self, "tags", dict(self.tags))
        self._check_texts()

    def _check_texts(self) -> None:
        texts = {"name": self.name, "id": self.id, "terminology": self.terminology}
        for key, value in self.tags.items():
            texts[f"tag {key!r}"] = f"{key}{value}"
        for what, text in texts.items():
            if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
                raise InvalidInput(
                    f"The {what} {text!r} of a segment holds control characters.",
                    "Write it on one line of plain text.",
                )
        if not self.name:
            raise InvalidInput("A segment has no name.", "Give it one.")
        if self.terminology.count("~") != 6 or "|" in self.terminology:
            raise InvalidInput(
                f"The terminology of segment {self.name!r} is {self.terminology!r}, wanted seven "
                "fields parted by '~', without '|'.",
                "Leave it out, or copy the entry from a segmentation that Slicer saved.",
            )
        for key, value in self.tags.items():
            if not key or ":" in key or "|" in key + value or key == _TERMINOLOGY_TAG:
                raise InvalidInput(
                    f"The tag {key!r}: {value!r} of segment {self.name!r} cannot be stored.",
                    "Use neither '|' nor, in the key, ':'; the terminology has its own field.",
                )


@dataclass(frozen=True, eq=False)
class SegmentationFile:
    """What a `.seg.nrrd` holds."""

    segments: tuple[Segment, ...]
    """In the order of the file."""
    affine: FloatArray
    """(4, 4), (i, j, k, 1) -> RAS mm, of the file's grid."""
    shape_kji: IndexKJI
    """Shape of the file's grid and of each mask."""


def write_segmentation(path: str | Path, segments: Sequence[Segment], reference: Volume) -> None:
    """Write segments as a `.seg.nrrd` that 3D Slicer 5 opens as a segmentation.

    Parameters
    ----------
    path : path
        Ends with ``.seg.nrrd``; an existing file is replaced only once the new one is complete.
    segments : sequence of Segment
        Masks on the grid of `reference`.
    reference : Volume
        Its grid becomes the reference geometry.

    Raises
    ------
    InvalidInput
        Another file ending, a mask of another shape, an id given twice, a grid of one voxel.
    StorageFailure
        No space, no permission, no such folder.
    """
    target = Path(path)
    if not target.name.lower().endswith(".seg.nrrd"):
        raise InvalidInput(
            f"A segmentation cannot be written as {target.name}.", "End the name with .seg.nrrd."
        )
    named = _with_ids(segments)
    _check_grid(named, reference.shape_kji)
    places = _places(named)
    labels = _label_images(named, places, reference.shape_kji)
    image = sitk.GetImageFromArray(labels, isVector=labels.ndim > 3)
    set_image_affine(image, reference.affine)
    for key, value in _header(named, places, reference).items():
        image.SetMetaData(key, value)
    with atomic_path(target) as temporary:
        _write_image(image, temporary, target)
        _name_list_axis(temporary)


def read_segmentation(path: str | Path) -> SegmentationFile:
    """Read a `.seg.nrrd` of this module or of 3D Slicer 4.11 and newer.

    Parameters
    ----------
    path : path

    Returns
    -------
    SegmentationFile
        Masks on the file's own grid, which in files of Slicer may be a part of the volume's.

    Raises
    ------
    UnreadableFile
        Missing, damaged, not a segmentation, or of an older form.
    GeometryError
        Its grid cannot be trusted.
    """
    source = Path(path)
    image = read_image(source)
    keys = set(image.GetMetaDataKeys())
    if image.GetDimension() != 3 or "Segmentation_Extent" in keys:
        raise UnreadableFile(
            f"{source.name} holds a segmentation in an older form ({image.GetDimension()} axes).",
            "Open it in 3D Slicer and save it again.",
        )
    count = 0
    while f"Segment{count}_ID" in keys:
        count += 1
    if count == 0 and "Segmentation_MasterRepresentation" not in keys:
        raise UnreadableFile(
            f"{source.name} is an image without segments.",
            "Read it as a label map, or save it from 3D Slicer as a segmentation.",
        )
    voxels = sitk.GetArrayFromImage(image)
    if voxels.ndim == 3:
        voxels = voxels[..., np.newaxis]
    k, j, i = voxels.shape[:3]
    try:
        segments = tuple(_read_segment(image, n, voxels) for n in range(count))
    except (ValueError, IndexError) as error:
        raise UnreadableFile(
            f"{source.name} describes its segments wrongly: {error}",
            "Open it in 3D Slicer and save it again.",
        ) from error
    return SegmentationFile(segments, affine_of_image(image), (k, j, i))


def _read_segment(image: sitk.Image, index: int, voxels: VoxelArray) -> Segment:
    """Segment by its keys; those that Slicer may leave out get the value that Slicer gives them."""
    keys = set(image.GetMetaDataKeys())

    def value(name: str, default: str) -> str:
        key = f"Segment{index}_{name}"
        return str(image.GetMetaData(key)) if key in keys else default

    identity = value("ID", "")
    red, green, blue = (float(part) for part in value("Color", "0.5 0.5 0.5").split())
    tags = dict(tag.split(":", 1) for tag in value("Tags", "").split(_TAG_SEPARATOR) if ":" in tag)
    return Segment(
        name=value("Name", identity),
        mask=voxels[..., int(value("Layer", str(index)))] == int(value("LabelValue", "1")),
        colour=(red, green, blue),
        id=identity,
        terminology=tags.pop(_TERMINOLOGY_TAG, DEFAULT_TERMINOLOGY),
        tags=tags,
    )


def _with_ids(segments: Sequence[Segment]) -> list[Segment]:
    named = [
        segment if segment.id else replace(segment, id=f"Segment_{number}")
        for number, segment in enumerate(segments, start=1)
    ]
    ids = [segment.id for segment in named]
    twice = sorted({one for one in ids if ids.count(one) > 1})
    if twice:
        raise InvalidInput(
            f"The segment ids {twice} occur more than once.", "Give each segment its own id."
        )
    return named


def _check_grid(segments: Sequence[Segment], shape_kji: IndexKJI) -> None:
    if shape_kji == (1, 1, 1):
        raise InvalidInput(
            "A grid of one voxel cannot be stored: 3D Slicer reads it as no grid at all.",
            "Give an image with more than one voxel.",
        )
    for segment in segments:
        if segment.mask.shape != shape_kji:
            raise InvalidInput(
                f"The mask of segment {segment.name!r} has shape {segment.mask.shape}, "
                f"the image {shape_kji}.",
                "Give masks on the grid of the image.",
            )


@dataclass(frozen=True)
class _Place:
    """Where a segment is stored."""

    layer: int
    """Index of the image it is drawn in."""
    label: int
    """Value of its voxels there, from 1."""
    extent: Extent | None
    """Its bounding box; None if it is empty."""


def _places(segments: Sequence[Segment]) -> list[_Place]:
    """Put each segment into the first layer where it meets no other."""
    layers: list[list[tuple[Extent, BoolArray]]] = [[]]
    counts: list[int] = [0]
    places = []
    for segment in segments:
        extent = bounding_extent(segment.mask)
        layer = 0
        if extent is not None:
            layer = next(
                (n for n, drawn in enumerate(layers) if not _meets(segment.mask, extent, drawn)),
                len(layers),
            )
            if layer == len(layers):
                layers.append([])
                counts.append(0)
            layers[layer].append((extent, segment.mask))
        counts[layer] += 1
        places.append(_Place(layer, counts[layer], extent))
    return places


def _meets(mask: BoolArray, extent: Extent, drawn: Sequence[tuple[Extent, BoolArray]]) -> bool:
    for other_extent, other in drawn:
        common = extent.intersection(other_extent).slices
        if (mask[common] & other[common]).any():
            return True
    return False


def _label_images(
    segments: Sequence[Segment], places: Sequence[_Place], shape_kji: IndexKJI
) -> VoxelArray:
    """(K, J, I) label map, or (K, J, I, layers) where there is more than one layer."""
    count = 1 + max((place.layer for place in places), default=0)
    top = max((place.label for place in places), default=0)
    kind = np.uint8 if top <= np.iinfo(np.uint8).max else np.uint16
    images = np.zeros((*shape_kji, count), dtype=kind)
    for segment, place in zip(segments, places, strict=True):
        if place.extent is not None:
            box = place.extent.slices
            images[(*box, place.layer)][segment.mask[box]] = place.label
    return images[..., 0] if count == 1 else images


def _header(
    segments: Sequence[Segment], places: Sequence[_Place], reference: Volume
) -> dict[str, str]:
    """Keys of Slicer's storage node, which looks for each of them by this name."""
    header = {
        "Segmentation_ContainedRepresentationNames": f"{_REPRESENTATION}|",
        "Segmentation_ConversionParameters": f"Reference image geometry|{_geometry(reference)}|&",
        "Segmentation_MasterRepresentation": _REPRESENTATION,
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for n, (segment, place) in enumerate(zip(segments, places, strict=True)):
        tags = {_TERMINOLOGY_TAG: segment.terminology, **segment.tags}
        fields = {
            "ID": segment.id,
            "Name": segment.name,
            "NameAutoGenerated": "0",
            "Color": " ".join(repr(part) for part in segment.colour),
            "ColorAutoGenerated": "0",
            "Extent": _extent_text(place.extent),
            "LabelValue": str(place.label),
            "Layer": str(place.layer),
            "Tags": "".join(f"{key}:{tags[key]}|" for key in sorted(tags)),
        }
        header.update({f"Segment{n}_{key}": value for key, value in fields.items()})
    return header


def _geometry(reference: Volume) -> str:
    """Slicer's text of a grid: the affine row by row, then the extent."""
    numbers = [repr(float(x)) for x in reference.affine.ravel()]
    extent = _extent_text(Extent.of_shape(reference.shape_kji)).split()
    return "".join(f"{part};" for part in (*numbers, *extent))


def _extent_text(extent: Extent | None) -> str:
    """First and last index along i, j, k, as VTK writes extents."""
    if extent is None:
        return "0 -1 0 -1 0 -1"
    pairs = zip(reversed(extent.start_kji), reversed(extent.stop_kji), strict=True)
    return " ".join(f"{start} {stop - 1}" for start, stop in pairs)


def _write_image(image: sitk.Image, temporary: Path, target: Path) -> None:
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(temporary))
    writer.SetImageIO("NrrdImageIO")
    writer.SetUseCompression(True)
    writer.SetCompressionLevel(COMPRESSION_LEVEL)
    try:
        writer.Execute(image)
    except RuntimeError as error:
        # ITK says that it could not write, but not why.
        free_mb = shutil.disk_usage(target.parent).free / 2**20
        raise StorageFailure(
            f"{target} was not written; {free_mb:.1f} MB are free on its disk.",
            "Free some space or choose another folder, then save again.",
        ) from error


def _name_list_axis(path: Path) -> None:
    """Call the axis of the layers `list`, as Slicer does; ITK can only write `vector`.

    The blanks keep the length of the line, so that the data need not be moved.
    """
    written, wanted = b"\nkinds: vector ", b"\nkinds: list   "
    with path.open("r+b") as file:
        place = file.read(_HEADER_START).find(written)
        if place >= 0:
            file.seek(place)
            file.write(wanted)
