"""Series whose every stored value says where its pixel lies, so any reader can be checked.

The value of a pixel is a plane function of its LPS position (see `value_at`), computed here from
the position and directions of its slice, without a line of the package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

Change = Callable[[int, Dataset], None]

AXIAL = ((1, 0, 0), (0, 1, 0))
SAGITTAL = ((0, 1, 0), (0, 0, -1))
CORONAL = ((1, 0, 0), (0, 0, -1))
FEET_FIRST = ((-1, 0, 0), (0, 1, 0))


def oblique(*degrees: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Rows and columns of axial slices turned about x, y and z one after the other."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        part = np.eye(3)
        a, b = (n for n in range(3) if n != axis)
        part[[a, b], [a, b]] = np.cos(angle)
        part[a, b], part[b, a] = -np.sin(angle), np.sin(angle)
        turn = part @ turn
    return tuple(turn[:, 0].tolist()), tuple(turn[:, 1].tolist())


PLANES = {
    "axial": AXIAL,
    "sagittal": SAGITTAL,
    "coronal": CORONAL,
    "feet first": FEET_FIRST,
    "oblique": oblique(20, -15, 33),
}


def value_at(lps_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Value of a position: no two axes or signs can be mistaken for each other."""
    return 3.0 * lps_mm[..., 0] - 5.0 * lps_mm[..., 1] + 8.0 * lps_mm[..., 2]


@dataclass(frozen=True)
class Layout:
    """How the slices of a phantom lie."""

    plane: tuple[tuple[float, ...], tuple[float, ...]] = AXIAL
    slices: int = 6
    shape: tuple[int, int] = (9, 13)
    spacing_mm: tuple[float, float] = (1.25, 0.75)
    step_mm: float = 2.5
    origin: tuple[float, float, float] = (-31.5, 12.25, 40.0)
    tilt_mm: float = 0.0
    """Sideways shift down a column from one slice to the next."""
    depths: tuple[float, ...] = ()
    """Positions along the normal in mm instead of even steps."""

    def positions(self) -> NDArray[np.float64]:
        """(n, 3) LPS mm of the first pixels."""
        row, column = (np.array(axis, dtype=float) for axis in self.plane)
        normal = np.cross(row, column)
        depths = np.array(self.depths or np.arange(self.slices) * self.step_mm, dtype=float)
        sideways = np.arange(len(depths)) * self.tilt_mm
        return self.origin + depths[:, None] * normal + sideways[:, None] * column

    def values(self, position: NDArray[np.float64]) -> NDArray[np.float64]:
        """(rows, columns) values of one slice."""
        row, column = (np.array(axis, dtype=float) for axis in self.plane)
        down, along = np.indices(self.shape).astype(float)
        places = (
            position
            + along[..., None] * self.spacing_mm[1] * row
            + down[..., None] * self.spacing_mm[0] * column
        )
        return value_at(places)


@dataclass(frozen=True)
class Ids:
    """UIDs of a series."""

    study: str
    series: str
    reference: str

    @classmethod
    def new(cls) -> Ids:
        return cls(generate_uid(), generate_uid(), generate_uid())

    def other_series(self) -> Ids:
        return replace(self, series=generate_uid())


def header(ids: Ids, modality: str = "CT", sop_class: UID | None = None) -> FileDataset:
    """What all images of a study share, complete enough for a validator."""
    dataset = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    storage = sop_class or (CTImageStorage if modality == "CT" else MRImageStorage)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = storage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "OTHER"]
    dataset.PatientName = "Phantom^Müller"
    dataset.PatientID = "SECRET-4711"
    dataset.PatientBirthDate = "19700101"
    dataset.PatientSex = "O"
    dataset.StudyInstanceUID = ids.study
    dataset.SeriesInstanceUID = ids.series
    dataset.FrameOfReferenceUID = ids.reference
    dataset.PositionReferenceIndicator = ""
    dataset.StudyID = "1"
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20240229"
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "101112"
    dataset.AccessionNumber = "A1"
    dataset.ReferringPhysicianName = ""
    dataset.SeriesNumber = 5
    dataset.Modality = modality
    dataset.Manufacturer = "Phantom"
    dataset.PatientPosition = "HFS"
    return dataset


def set_pixels(dataset: Dataset, stored: NDArray[np.int16]) -> None:
    """Signed 16-bit pixels of one frame or several."""
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    dataset.PixelData = stored.astype("<i2").tobytes()


def slice_of(layout: Layout, ids: Ids, n: int, modality: str = "CT") -> FileDataset:
    """One single-frame image; its value is stored as twice the value plus 100."""
    dataset = header(ids, modality)
    position = layout.positions()[n]
    dataset.InstanceNumber = n + 1
    dataset.ImagePositionPatient = [float(f"{x:.6f}") for x in position]
    dataset.ImageOrientationPatient = [float(f"{x:.9f}") for axis in layout.plane for x in axis]
    dataset.PixelSpacing = list(layout.spacing_mm)
    dataset.SliceThickness = layout.step_mm
    dataset.AcquisitionNumber = 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 0.5, -50
    dataset.RescaleType = "HU"
    if modality == "CT":
        dataset.KVP = 120
    else:
        dataset.ScanningSequence, dataset.SequenceVariant = "SE", "NONE"
        dataset.ScanOptions, dataset.MRAcquisitionType = "", "2D"
        dataset.RepetitionTime, dataset.EchoTime, dataset.EchoTrainLength = 500, 10, 1
    set_pixels(dataset, np.rint(2 * layout.values(position) + 100).astype(np.int16))
    return dataset


def write_series(
    folder: Path,
    layout: Layout | None = None,
    ids: Ids | None = None,
    *,
    modality: str = "CT",
    change: Change | None = None,
    name: str = "IM",
) -> list[Path]:
    """Write a series of single frames, by names in an order that means nothing.

    `change` is called with the number and the dataset of each slice before it is written.
    """
    layout, ids = layout or Layout(), ids or Ids.new()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for n in range(len(layout.positions())):
        dataset = slice_of(layout, ids, n, modality)
        if change is not None:
            change(n, dataset)
        path = folder / f"{name}{(n * 7) % 11:02d}{n:03d}"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def enhanced(
    layout: Layout, ids: Ids, *, echoes: tuple[float, ...] = (10.0,), shared: bool = True
) -> FileDataset:
    """One enhanced MR file with all slices of all echoes, echo after echo for each slice.

    `shared` puts orientation and spacing into the shared functional groups, else into each frame.
    Echo n has n * 1000 added to its values.
    """
    dataset = header(ids, "MR", UID("1.2.840.10008.5.1.4.1.1.4.1"))
    positions = layout.positions()
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = [float(f"{x:.9f}") for axis in layout.plane for x in axis]
    measures.PixelSpacing, measures.SliceThickness = list(layout.spacing_mm), layout.step_mm
    common = Dataset()
    dataset.PerFrameFunctionalGroupsSequence = []
    frames = []
    for position in positions:
        for number, echo in enumerate(echoes):
            item, place, transformation, timing = Dataset(), Dataset(), Dataset(), Dataset()
            place.ImagePositionPatient = [float(f"{x:.6f}") for x in position]
            transformation.RescaleSlope, transformation.RescaleIntercept = 0.5, number * 1000 - 50
            transformation.RescaleType = "US"
            timing.EffectiveEchoTime = echo
            item.PlanePositionSequence = [place]
            item.PixelValueTransformationSequence = [transformation]
            item.MREchoSequence = [timing]
            if not shared:
                item.PlaneOrientationSequence = [orientation]
                item.PixelMeasuresSequence = [measures]
            dataset.PerFrameFunctionalGroupsSequence.append(item)
            frames.append(np.rint(2 * layout.values(position) + 100).astype(np.int16))
    if shared:
        common.PlaneOrientationSequence = [orientation]
        common.PixelMeasuresSequence = [measures]
    dataset.SharedFunctionalGroupsSequence = [common]
    dataset.InstanceNumber = 1
    dataset.NumberOfFrames = len(frames)
    set_pixels(dataset, np.stack(frames))
    return dataset


def same_values(voxels: NDArray[np.generic], affine: NDArray[np.float64]) -> float:
    """Largest difference between the voxels of a volume and the values of their RAS places."""
    k, j, i = np.indices(voxels.shape).reshape(3, -1).astype(float)
    ras = (affine @ np.stack([i, j, k, np.ones_like(i)]))[:3].T
    wanted = value_at(ras * (-1, -1, 1))
    return float(np.abs(voxels.reshape(-1) - wanted).max())
