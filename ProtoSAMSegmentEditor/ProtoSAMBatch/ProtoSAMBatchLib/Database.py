"""Slicer's DICOM database: which series it has, and new segmentations into it.

Rules
-----
* It reads what the database knows and opens no file; names stay in memory.
* Nothing is removed or changed; a SEG is copied into the database when the user accepts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import slicer

IMAGES = ("CT", "MR", "PT", "NM", "US", "XA", "CR", "DX", "MG")
"""Modalities that may hold images; what cannot be segmented is refused by the batch itself."""

REFERENCES = ("SEG", "RTSTRUCT")
"""Modalities that go with the images of their study."""


@dataclass(frozen=True)
class DatabaseSeries:
    """One series as the table shows it."""

    uid: str
    study_uid: str
    patient: str
    study: str
    series: str
    modality: str
    files: tuple[str, ...]


def is_open() -> bool:
    """Whether there is a database to read."""
    database = getattr(slicer, "dicomDatabase", None)  # Slicer sets it once it has started
    return database is not None and bool(database.isOpen)


def all_series() -> list[DatabaseSeries]:
    """All series with files; empty while no database is open."""
    if not is_open():
        return []
    database = slicer.dicomDatabase
    return [
        _series(patient, study, uid)
        for patient in database.patients()
        for study in database.studiesForPatient(patient)
        for uid in database.seriesForStudy(study)
    ]


def files_of(chosen: list[DatabaseSeries], known: list[DatabaseSeries]) -> tuple[Path, ...]:
    """Files of chosen series, and of the segmentations of their studies."""
    studies = {one.study_uid for one in chosen}
    along = [one for one in known if one.study_uid in studies and one.modality in REFERENCES]
    paths = [Path(path) for one in (*chosen, *along) for path in one.files]
    return tuple(dict.fromkeys(paths))


def insert(paths: tuple[Path, ...]) -> None:
    """Copy DICOM files into the database."""
    for path in paths:
        slicer.dicomDatabase.insert(str(path))


def _series(patient: str, study: str, uid: str) -> DatabaseSeries:
    database = slicer.dicomDatabase
    return DatabaseSeries(
        str(uid),
        str(study),
        str(database.nameForPatient(patient) or ""),
        str(database.descriptionForStudy(study) or ""),
        str(database.descriptionForSeries(uid) or ""),
        str(database.fieldForSeries("Modality", uid) or ""),
        tuple(str(path) for path in database.filesForSeries(uid)),
    )
