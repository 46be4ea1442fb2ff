"""One slice with its place, as the header of its file says; many of them in an enhanced file.

Rules
-----
* It reads headers and knows no other slice: order, gaps and echoes are `stacks.py`'s and
  `split.py`'s.
* Positions and axes are LPS millimetres; (2, 3) axes are unit vectors along a row (column index
  grows) and down a column (row index grows). Spacings are (between rows, between columns).
* Messages hold UIDs, numbers and geometry, never what else stands in a header.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from protosam.errors import GeometryError, InvalidInput
from protosam.extents import FloatArray

MARKS = (
    "EchoNumbers",
    "EchoTime",
    "EffectiveEchoTime",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "TriggerTime",
    "NominalCardiacTriggerDelayTime",
    "DiffusionBValue",
    "InversionTime",
    "FlipAngle",
    "ComplexImageComponent",
    "ConvolutionKernel",
    "ImageType",
    "StackID",
    "AcquisitionNumber",
    "AcquisitionDateTime",
    "AcquisitionTime",
    "ContentTime",
)
"""What can tell two slices at one place apart, the surest first."""

HEADER_TAGS = [
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
    "Modality",
    "FrameOfReferenceUID",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "SliceThickness",
    "ConversionType",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ReferencedSeriesSequence",
    "ReferencedFrameOfReferenceSequence",
    *MARKS,
]
"""All that is read of a header before pixels are wanted."""

MIN_THICKNESS_MM = 1e-3


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice with pixels and a place."""

    path: Path
    """File that it lies in."""
    index: int
    """Its place in the file, from 0."""
    instance_uid: str
    """SOP instance UID of the file."""
    position_lps_mm: FloatArray
    """(3,) centre of its first pixel."""
    axes_lps: FloatArray
    """(2, 3) unit vectors along its rows and down its columns."""
    spacing_mm: tuple[float, float]
    """Between rows, and between columns."""
    shape: tuple[int, int]
    """Rows and columns."""
    thickness_mm: float
    """As the header says; 1 where it says nothing."""
    marks: Mapping[str, str] = field(default_factory=dict)
    """Values of `MARKS` that the header holds."""
    is_localizer: bool = False
    """A scout on which other series were planned."""

    @property
    def normal_lps(self) -> FloatArray:
        """(3,) unit vector across the slice, right-handed with its axes."""
        normal: FloatArray = np.cross(self.axes_lps[0], self.axes_lps[1])
        return normal


def read_header(path: Path) -> Dataset:
    """Read the header of a DICOM file, without pixels; see `HEADER_TAGS`.

    Raises
    ------
    pydicom.errors.InvalidDicomError and others
        Whatever pydicom says of a file that is none; `find.py` turns it into a row.
    """
    return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=HEADER_TAGS)


def frames_of(path: Path, header: Dataset) -> tuple[Frame, ...]:
    """All slices of one file.

    Parameters
    ----------
    path : Path
        The file.
    header : Dataset
        From `read_header`.

    Raises
    ------
    InvalidInput
        Colours, or several frames without a place for each.
    GeometryError
        No complete orientation, position and pixel spacing.
    """
    if int(header.get("SamplesPerPixel", 1) or 1) != 1:
        raise InvalidInput("The images are in colours.", "Choose a series of grey images.")
    if "PerFrameFunctionalGroupsSequence" in header:
        return tuple(_enhanced_frames(path, header))
    count = int(header.get("NumberOfFrames", 1) or 1)
    if count > 1:
        raise InvalidInput(
            f"A file holds {count} frames, and no place for each of them.",
            "Export the series as enhanced multi-frame or as single slices.",
        )
    marks = {name: _text(header[name].value) for name in MARKS if _holds(header, name)}
    return (_frame(path, 0, header, header, marks),)


def _enhanced_frames(path: Path, header: Dataset) -> Iterator[Frame]:
    shared = _first(header, "SharedFunctionalGroupsSequence")
    for index, groups in enumerate(header.PerFrameFunctionalGroupsSequence):
        merged = Dataset()
        marks: dict[str, str] = {}
        for level in (shared, groups):
            for name, value in _leaves(level):
                if name in MARKS or name == "FrameType":
                    marks["ImageType" if name == "FrameType" else name] = _text(value)
                elif name in _GEOMETRY:
                    setattr(merged, name, value)
        yield _frame(path, index, header, merged, marks)


_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")


def _leaves(groups: Dataset | None) -> Iterator[tuple[str, Any]]:
    """Values two levels down: each functional group is a sequence of one item."""
    for group in groups or ():
        if group.VR != "SQ" or not group.value:
            continue
        # Derivation images and the like hold frames of other files; they are no facts of this one.
        for element in group.value[0]:
            if element.VR != "SQ" and element.value not in (None, ""):
                yield element.keyword, element.value


def _frame(path: Path, index: int, header: Dataset, place: Dataset, marks: dict[str, str]) -> Frame:
    position, axes, spacing = _place(place)
    kind = [*_values(header.get("ImageType")), *marks.get("ImageType", "").split("\\")]
    thickness = float(place.get("SliceThickness", None) or 1.0)
    rows, columns = int(header.get("Rows", 0) or 0), int(header.get("Columns", 0) or 0)
    if rows < 1 or columns < 1:
        raise GeometryError(
            f"An image has {rows} rows and {columns} columns.", "Export the series again."
        )
    return Frame(
        path,
        index,
        str(header.get("SOPInstanceUID", "")),
        position,
        axes,
        spacing,
        (rows, columns),
        max(thickness, MIN_THICKNESS_MM),
        marks,
        "LOCALIZER" in kind,
    )


def _place(place: Dataset) -> tuple[FloatArray, FloatArray, tuple[float, float]]:
    try:
        position = _numbers(place.ImagePositionPatient, 3)
        axes = _numbers(place.ImageOrientationPatient, 6).reshape(2, 3)
        spacing = _numbers(place.PixelSpacing, 2)
    except (AttributeError, TypeError, ValueError) as error:
        raise GeometryError(
            "An image has no complete orientation, position and pixel spacing in the patient.",
            "Export the series again, or choose another one.",
        ) from error
    lengths = np.linalg.norm(axes, axis=1)
    if np.abs(lengths - 1).max() > 1e-2 or abs(float(axes[0] @ axes[1])) > 1e-2:
        raise GeometryError(
            f"The direction cosines of an image are {axes.round(4).tolist()}, wanted two unit "
            "vectors at right angles.",
            "Export the series again, or choose another one.",
        )
    if spacing.min() <= 0:
        raise GeometryError(
            f"The pixel spacing of an image is {spacing.tolist()} mm.",
            "Export the series again, or choose another one.",
        )
    return position, axes / lengths[:, None], (float(spacing[0]), float(spacing[1]))


def _numbers(values: Sequence[Any], count: int) -> FloatArray:
    numbers = np.array([float(value) for value in values], dtype=np.float64)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"{count} finite numbers wanted")
    return numbers


def _first(dataset: Dataset, name: str) -> Dataset | None:
    sequence = dataset.get(name)
    return sequence[0] if sequence else None


def _holds(header: Dataset, name: str) -> bool:
    return name in header and header[name].value not in (None, "")


def _values(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(part) for part in value]


def _text(value: Any) -> str:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return str(value)
    return "\\".join(str(part) for part in value)
