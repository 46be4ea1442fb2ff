"""Studies of computed phantoms as DICOM, with boxes for their organs: what a batch is measured on.

Every series is the phantom of another seed, so no two are alike; nothing of a patient is in it.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from protosam.extents import bounding_extent
from protosam.geometry import kji_to_ras
from protosam.phantom import Phantom, make_phantom

COLUMNS = ("series", "structure", "kind", "r", "a", "s", "r2", "a2", "s2")
RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class WrittenSeries:
    """One series on the disk."""

    uid: str
    folder: Path
    phantom: Phantom


def write_study(
    folder: Path, seeds: list[int], *, missing: int | None = None
) -> list[WrittenSeries]:
    """Write one series for each seed, each of a study and patient of its own.

    Parameters
    ----------
    folder : Path
    seeds : list of int
    missing : int, optional
        Slice that the last series lacks, so that it is refused.
    """
    found = []
    for seed in seeds:
        left_out = missing if seed == seeds[-1] else None
        found.append(_write(folder / f"scan{seed}", make_phantom(seed), seed, left_out))
    return found


def write_boxes(path: Path, series: list[WrittenSeries], organs: tuple[str, ...]) -> None:
    """Write the table of boxes round organs, as a person might draw them in Slicer."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for one in series:
            for organ in organs:
                extent = bounding_extent(one.phantom.mask(organ))
                if extent is None:
                    raise ValueError(f"the phantom has no {organ}")
                corners = np.array([extent.start_kji, np.subtract(extent.stop_kji, 1)])
                places = kji_to_ras(one.phantom.volume.affine, corners)
                rows.writerow([one.uid, organ, "box", *(f"{x:.3f}" for x in places.reshape(-1))])


def _write(folder: Path, phantom: Phantom, number: int, left_out: int | None) -> WrittenSeries:
    folder.mkdir(parents=True)
    study, series, frame = (generate_uid() for _ in range(3))
    for k in range(len(phantom.volume.voxels)):
        if k == left_out:
            continue
        dataset = _slice(phantom, k, number)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.FrameOfReferenceUID = frame
        dataset.save_as(folder / f"{k:04d}.dcm", enforce_file_format=True)
    return WrittenSeries(series, folder, phantom)


def _slice(phantom: Phantom, k: int, number: int) -> FileDataset:
    affine = phantom.volume.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    directions = RAS_TO_LPS[:, None] * affine[:3, :3] / spacing
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.Manufacturer = "CT", "computed"
    dataset.PatientName, dataset.PatientID = "Phantom", f"PHANTOM-{number}"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.AccessionNumber = "", "O", ""
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20260101", "120000", "1"
    dataset.ReferringPhysicianName, dataset.PositionReferenceIndicator = "", ""
    dataset.SeriesNumber, dataset.InstanceNumber = 1, k + 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    position = RAS_TO_LPS * (affine @ [0, 0, k, 1])[:3]
    dataset.ImagePositionPatient = [float(f"{x:.6f}") for x in position]
    orientation = (*directions[:, 0], *directions[:, 1])
    dataset.ImageOrientationPatient = [float(f"{x:.9f}") for x in orientation]
    dataset.PixelSpacing = [float(f"{spacing[1]:.6f}"), float(f"{spacing[0]:.6f}")]
    dataset.SliceThickness = float(f"{spacing[2]:.6f}")
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, 0, "HU"
    pixels = phantom.volume.voxels[k].astype("<i2")
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.PixelData = pixels.tobytes()
    return dataset
