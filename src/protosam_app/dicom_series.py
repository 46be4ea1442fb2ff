"""DICOM files into one volume: which files belong together, in which order, where they lie.

Rules
-----
* pydicom reads the headers and says where slices lie; ITK's GDCM reads the pixels, because it
  knows the compressed ones and applies the rescaling.
* Slices are put in order by their positions, never by file names. Gaps, tilted gantries, several
  slices at one place and mixed orientations are refused, with the numbers.
* DICOM's LPS stays in here. Messages hold no names and no ids of patients.
"""

# SimpleITK ships no types for its methods.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.errors import InvalidDicomError

from protosam.errors import GeometryError, InvalidInput, OutOfMemory, UnreadableFile
from protosam.extents import FloatArray, VoxelArray
from protosam.geometry import Volume, checked_affine, flip_ras_lps

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference of two direction cosines within one series."""

STEP_TOLERANCE = 0.02
"""Largest difference of a step between slices from the usual one, as a part of it."""

TILT_TOLERANCE_MM = 0.05
"""Largest sideways shift from one slice to the next."""

_TAGS = [
    "SeriesInstanceUID",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "SliceThickness",
]


@dataclass(frozen=True, eq=False)
class Slice:
    """One file with pixels and a place."""

    path: Path
    """Where it is."""
    position_lps_mm: FloatArray
    """(3,) centre of its first pixel."""
    axes_lps: FloatArray
    """(2, 3) unit vectors along its rows (column index grows) and down its columns."""
    spacing_mm: tuple[float, float]
    """Between rows, and between columns."""
    shape: tuple[int, int]
    """Rows and columns."""
    thickness_mm: float
    """As the header says; 1 where it says nothing."""


@dataclass(frozen=True, eq=False)
class Series:
    """Slices of one series, in any order."""

    files: tuple[Slice, ...]
    """At least one."""


@dataclass(frozen=True)
class Found:
    """The series in a set of files."""

    chosen: Series
    """The one with the most slices."""
    others: int
    """How many more there are."""


def find_series(files: Sequence[Path]) -> Found:
    """Look for image series; other DICOM objects and other files are passed over.

    Raises
    ------
    UnreadableFile
        None of the files is a DICOM image.
    InvalidInput
        The images are in colours or hold several frames.
    """
    series: dict[str, list[Slice]] = defaultdict(list)
    refused: InvalidInput | None = None
    for path in files:
        header = _header(path)
        if header is None:
            continue
        try:
            found = _slice_of(path, header)
        except InvalidInput as error:
            refused = error
        else:
            series[str(header.get("SeriesInstanceUID", ""))].append(found)
    if not series and refused is not None:
        raise refused
    if not series:
        raise UnreadableFile(
            "None of the files there is an image that can be read.",
            "Choose NIfTI, NRRD or MetaImage files, or the folder of a DICOM series.",
        )
    ranked = sorted(series.values(), key=len, reverse=True)
    return Found(Series(tuple(ranked[0])), len(ranked) - 1)


def read_series(series: Series) -> Volume:
    """Read the pixels of a series in the order of its positions.

    Raises
    ------
    GeometryError
        The slices do not form a regular, right-angled grid.
    UnreadableFile
        Pixels that cannot be decoded.
    """
    ordered, affine = _grid(series.files)
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(one.path) for one in ordered])
    try:
        with _quiet_itk():
            image = reader.Execute()
    except RuntimeError as error:
        if "allocate memory" in str(error):
            raise OutOfMemory(
                "The series does not fit into the memory.", "Close other programs."
            ) from error
        raise UnreadableFile(
            "The pixels of the series cannot be decoded.",
            "Export it again, uncompressed if there is a choice.",
        ) from error
    voxels: VoxelArray = sitk.GetArrayFromImage(image)
    if voxels.dtype == np.int32 and voxels.min() >= -32768 and voxels.max() <= 32767:
        voxels = voxels.astype(np.int16)  # half the memory, here and in the worker
    return Volume(voxels.reshape(len(ordered), *ordered[0].shape), affine)


class _quiet_itk:
    """No warnings of ITK while a block runs; it compares the slices again, by another rule."""

    def __enter__(self) -> None:
        self._was_on = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.GlobalWarningDisplayOff()

    def __exit__(self, *_: object) -> None:
        sitk.ProcessObject.SetGlobalWarningDisplay(self._was_on)


def _header(path: Path) -> pydicom.Dataset | None:
    """Header of a DICOM image; None for everything else."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError, AttributeError):
        return None  # a file of another kind beside the images, as DICOMDIR or a text
    return header if "ImagePositionPatient" in header and "Rows" in header else None


def _slice_of(path: Path, header: pydicom.Dataset) -> Slice:
    if int(header.get("SamplesPerPixel", 1)) != 1:
        raise InvalidInput("The DICOM images are in colours.", "Choose a series of grey images.")
    if int(header.get("NumberOfFrames", 1) or 1) > 1:
        raise InvalidInput(
            "The DICOM file holds several frames (enhanced multi-frame).",
            "Convert it to NIfTI, for instance with dcm2niix, or open it in 3D Slicer.",
        )
    try:
        axes = np.array([float(x) for x in header.ImageOrientationPatient]).reshape(2, 3)
        position = np.array([float(x) for x in header.ImagePositionPatient]).reshape(3)
        rows_mm, columns_mm = (float(x) for x in header.PixelSpacing)
    except (AttributeError, TypeError, ValueError) as error:
        raise GeometryError(
            "A DICOM image has no complete orientation, position and pixel spacing.",
            "Export the series again, or choose another one.",
        ) from error
    return Slice(
        path,
        position,
        axes,
        (rows_mm, columns_mm),
        (int(header.Rows), int(header.Columns)),
        float(header.get("SliceThickness", None) or 1.0),
    )


def _grid(slices: Sequence[Slice]) -> tuple[list[Slice], FloatArray]:
    """Slices by position along their normal, and the affine (i, j, k, 1) -> RAS mm."""
    first = slices[0]
    for other in slices[1:]:
        if np.abs(other.axes_lps - first.axes_lps).max() > ORIENTATION_TOLERANCE:
            raise GeometryError(
                "The slices of the series lie in different orientations.",
                "Open the parts of the series one by one.",
            )
        same_spacing = np.allclose(other.spacing_mm, first.spacing_mm, rtol=1e-3)
        if other.shape != first.shape or not same_spacing:
            raise GeometryError(
                f"The slices of the series differ in size: {first.shape} and {other.shape} pixels "
                f"of {first.spacing_mm} and {other.spacing_mm} mm.",
                "Open the parts of the series one by one.",
            )
    normal = np.cross(first.axes_lps[0], first.axes_lps[1])
    ordered = sorted(slices, key=lambda one: float(one.position_lps_mm @ normal))
    step = _step(ordered, normal)
    lps = np.eye(4)
    lps[:3, 0] = first.axes_lps[0] * first.spacing_mm[1]
    lps[:3, 1] = first.axes_lps[1] * first.spacing_mm[0]
    lps[:3, 2] = normal * step
    lps[:3, 3] = ordered[0].position_lps_mm
    return ordered, checked_affine(flip_ras_lps(lps))


def _step(ordered: Sequence[Slice], normal: FloatArray) -> float:
    """Distance between slices in mm; refused if it is not the same everywhere."""
    if len(ordered) == 1:
        return ordered[0].thickness_mm
    moves = np.diff([one.position_lps_mm for one in ordered], axis=0)
    steps = moves @ normal
    usual = float(np.median(steps))
    if usual <= 0 or steps.min() < 1e-3:
        raise GeometryError(
            f"Several of the {len(ordered)} slices lie at the same place: the series holds several "
            "echoes, phases or reconstructions.",
            "Export them as separate series.",
        )
    if np.abs(steps - usual).max() > max(STEP_TOLERANCE * usual, 0.01):
        raise GeometryError(
            f"The slices lie between {steps.min():.2f} and {steps.max():.2f} mm apart, mostly "
            f"{usual:.2f} mm: some are missing, or the spacing changes.",
            "Export the complete series, or resample it in 3D Slicer.",
        )
    sideways = float(np.linalg.norm(moves - np.outer(steps, normal), axis=1).max())
    if sideways > TILT_TOLERANCE_MM:
        raise GeometryError(
            f"The slices are shifted sideways by {sideways:.2f} mm from one to the next: the "
            "gantry was tilted.",
            "Resample the series in 3D Slicer (its DICOM module does that), then open it again.",
        )
    return float(steps.mean())
