"""DICOM SEG into masks on the grid of a volume, for reference and for comparing what was written.

Rules
-----
* Each frame is placed by its own position and orientation, by hand with pydicom: so it also reads
  what other programs wrote, and does not share code with what writes here.
* Where the pixels of a frame fall on voxels (any crop, flip or order of axes), they are copied;
  else the segment is resampled to the nearest, and a note says so.
* A segmentation in another frame of reference is refused.
* LPS becomes RAS in `_to_ras`; masks are (k, j, i).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID
from scipy import ndimage

from protosam.dicom.faults import DAMAGED
from protosam.dicom.quiet import quiet_headers
from protosam.dicom.read import SeriesVolume
from protosam.dicom.terminology import Code, Coding
from protosam.errors import GeometryError, UnreadableFile
from protosam.extents import BoolArray, FloatArray, VoxelArray
from protosam.geometry import flip_ras_lps, ras_to_kji
from protosam.seg_nrrd import DEFAULT_COLOUR, DEFAULT_TERMINOLOGY, Segment

ON_VOXEL = 0.1
"""How far, in voxels, the pixels of a frame may lie from voxels to count as the same."""


@dataclass(frozen=True, eq=False)
class ReadSegments:
    """Segments of a SEG or RTSTRUCT on the grid of a volume."""

    segments: tuple[Segment, ...]
    """In the order of the file, masks (k, j, i)."""
    notes: tuple[str, ...] = ()
    """What could not be placed, and what was resampled."""


def read_segments(path: Path, source: SeriesVolume) -> ReadSegments:
    """Read a DICOM SEG (binary, fractional from one half on, or label map).

    Parameters
    ----------
    path : Path
        The SEG.
    source : SeriesVolume
        The series whose grid is wanted; it need not be the one that the SEG was made from.

    Raises
    ------
    UnreadableFile
        No SEG, or a damaged one.
    GeometryError
        Another frame of reference.
    """
    try:
        with quiet_headers():
            dataset = pydicom.dcmread(path)
            refuse_other_place(str(dataset.FrameOfReferenceUID), source)
            items = described_segments(dataset)
            numbers = [int(item.SegmentNumber) for item in items]
            masks, lost, off_grid = _placed(dataset, numbers, source)
            for number in off_grid:
                masks[number] = _resampled(dataset, number, source)
            segments = tuple(
                _segment(item, masks[number]) for item, number in zip(items, numbers, strict=True)
            )
    except GeometryError:
        raise
    except DAMAGED as error:
        raise UnreadableFile(
            "The file is no DICOM segmentation, or a damaged one.", "Export it again."
        ) from error
    notes = [f"Segment {number} was resampled: it has a grid of its own." for number in off_grid]
    if lost:
        notes.append(f"{lost} pixels of the segmentation lie outside of the series.")
    return ReadSegments(segments, tuple(notes))


def refuse_other_place(frame_of_reference_uid: str, source: SeriesVolume) -> None:
    """Refuse objects whose coordinates are not those of the series."""
    wanted = source.identity.frame_of_reference_uid
    if frame_of_reference_uid != wanted:
        raise GeometryError(
            f"The segmentation lies in the frame of reference {frame_of_reference_uid}, the series "
            f"in {wanted}.",
            "Choose the series that it was made for, or register the two first.",
        )


def described_segments(dataset: Dataset) -> list[Dataset]:
    """List the items of a segment sequence, without the background that a label map describes."""
    is_map = str(dataset.SegmentationType) == "LABELMAP"
    items = list(dataset.SegmentSequence)
    return [one for one in items if not (is_map and int(one.SegmentNumber) == 0)]


def _placed(
    dataset: Dataset, numbers: list[int], source: SeriesVolume
) -> tuple[dict[int, BoolArray], int, list[int]]:
    """Masks by segment number, pixels outside of the grid, and segments that are not on it."""
    masks = {n: np.zeros(source.volume.shape_kji, dtype=np.bool_) for n in numbers}
    lost, off_grid = 0, set()
    for number, affine, pixels in _planes(dataset, numbers):
        rows, columns = np.nonzero(pixels)
        if rows.size == 0:
            continue
        flat = np.stack([columns, rows, np.zeros_like(rows), np.ones_like(rows)])
        exact = ras_to_kji(source.volume.affine, (affine @ flat)[:3].T)
        index = exact.round().astype(np.int64)
        if float(np.abs(exact - index).max()) > ON_VOXEL:
            off_grid.add(number)
            continue
        inside = ((index >= 0) & (index < source.volume.shape_kji)).all(axis=1)
        lost += int((~inside).sum())
        masks[number][tuple(index[inside].T)] = True
    return masks, lost, sorted(off_grid)


def _planes(
    dataset: Dataset, numbers: list[int]
) -> Iterator[tuple[int, FloatArray, NDArray[np.bool_]]]:
    """Segment number, (4, 4) affine (i, j, 0, 1) -> RAS mm, and mask of each frame."""
    kind = str(dataset.SegmentationType)
    half = int(dataset.get("MaximumFractionalValue", 1)) / 2
    shared = dataset.SharedFunctionalGroupsSequence[0]
    items = dataset.PerFrameFunctionalGroupsSequence
    count = 0
    for item, pixels in zip(items, _pixels(dataset), strict=True):
        count += 1
        affine = _to_ras(item, shared)
        if kind == "LABELMAP":
            for number in set(np.unique(pixels).tolist()) & set(numbers):
                yield number, affine, pixels == number
            continue
        group = _group("SegmentIdentificationSequence", item, shared)
        number = int(group.ReferencedSegmentNumber)
        yield number, affine, (pixels >= half if kind == "FRACTIONAL" else pixels > 0)
    if count != int(dataset.NumberOfFrames):
        raise ValueError("frames are missing")


def _pixels(dataset: Dataset) -> Iterator[VoxelArray]:
    """Frames one after the other.

    Single bits run on from frame to frame without a gap, and pydicom 3.0 takes frames apart only
    where they begin with a byte.
    """
    if int(dataset.BitsAllocated) != 1 or UID(dataset.file_meta.TransferSyntaxUID).is_compressed:
        yield from iter_pixels(dataset, raw=True)
        return
    packed = np.frombuffer(dataset.PixelData, np.uint8)
    size = int(dataset.Rows) * int(dataset.Columns)
    for start in range(0, size * int(dataset.NumberOfFrames), size):
        first, last = start // 8, -(-(start + size) // 8)
        bits = np.unpackbits(packed[first:last], bitorder="little")[start % 8 :][:size]
        yield bits.reshape(int(dataset.Rows), int(dataset.Columns))  # too few do not fit


def _group(name: str, item: Dataset, shared: Dataset) -> Dataset:
    found: Dataset = (item.get(name) or shared[name].value)[0]
    return found


def _to_ras(item: Dataset, shared: Dataset) -> FloatArray:
    position = _group("PlanePositionSequence", item, shared).ImagePositionPatient
    axes = _group("PlaneOrientationSequence", item, shared).ImageOrientationPatient
    spacing = _group("PixelMeasuresSequence", item, shared).PixelSpacing
    directions = np.array(axes, dtype=np.float64).reshape(2, 3)
    lps = np.eye(4)
    lps[:3, 0] = directions[0] * float(spacing[1])
    lps[:3, 1] = directions[1] * float(spacing[0])
    lps[:3, 3] = np.array(position, dtype=np.float64)
    return flip_ras_lps(lps)


def _resampled(dataset: Dataset, number: int, source: SeriesVolume) -> BoolArray:
    """Nearest pixels of a segment that has a grid of its own."""
    loaded = hd.seg.Segmentation.from_dataset(dataset)
    volume = loaded.get_volume(
        segment_numbers=[number], combine_segments=False, allow_missing_positions=True
    )
    voxels: VoxelArray = volume.array[..., 0]
    to_lps_own = volume.affine  # of (axis 0, axis 1, axis 2, 1)
    to_lps_target = flip_ras_lps(source.volume.affine)[:, [2, 1, 0, 3]]
    matrix = np.linalg.inv(to_lps_own) @ to_lps_target
    moved: VoxelArray = ndimage.affine_transform(
        voxels, matrix, output_shape=source.volume.shape_kji, order=0, mode="grid-constant"
    )
    return moved > 0


def _segment(item: Dataset, mask: BoolArray) -> Segment:
    number = int(item.SegmentNumber)
    name = plain_text(str(item.get("SegmentLabel", ""))) or f"Segment {number}"
    colour = DEFAULT_COLOUR
    if "RecommendedDisplayCIELabValue" in item:
        lab = hd.color.CIELabColor.from_dicom_value(item.RecommendedDisplayCIELabValue)
        red, green, blue = (min(max(part / 255, 0.0), 1.0) for part in lab.to_rgb())
        colour = (red, green, blue)
    coding = coding_in(item)
    return Segment(name, mask, colour, terminology=coding.entry if coding else DEFAULT_TERMINOLOGY)


def coding_in(item: Dataset) -> Coding | None:
    """Codes of an item of a segment sequence; None where it has no category or type."""
    category = _code(item, "SegmentedPropertyCategoryCodeSequence")
    kind = _code(item, "SegmentedPropertyTypeCodeSequence")
    if category is None or kind is None:
        return None
    kind_item = item.SegmentedPropertyTypeCodeSequence[0]
    region = _code(item, "AnatomicRegionSequence")
    return Coding(
        category,
        kind,
        _code(kind_item, "SegmentedPropertyTypeModifierCodeSequence"),
        region,
        _code(item.AnatomicRegionSequence[0], "AnatomicRegionModifierSequence") if region else None,
    )


def _code(item: Dataset, name: str) -> Code | None:
    sequence = item.get(name)
    if not sequence:
        return None
    one = sequence[0]
    value = one.get("CodeValue") or one.get("LongCodeValue") or ""
    parts = (
        str(one.get("CodingSchemeDesignator", "")),
        str(value),
        str(one.get("CodeMeaning", "")),
    )
    return Code(*(plain_text(part) for part in parts))


def plain_text(text: str) -> str:
    """Text without what parts fields in Slicer's entries, and without control characters."""
    kept = (letter for letter in text if unicodedata.category(letter) not in ("Cc", "Cs"))
    return "".join(letter for letter in kept if letter not in "~^|").strip()
