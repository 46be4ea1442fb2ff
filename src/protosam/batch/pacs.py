"""A batch and a PACS: the series of a study onto this disk, and results back.

Rules
-----
* A series counts as fetched when all of its instances are there; one that cannot be had is one
  row. What was fetched stays until the batch has nothing more to do, and then goes away.
* A result is stored after it counts here. What a server did not take stays on the disk and is
  tried again by the next run.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from protosam.batch.manifest import Manifest, Row
from protosam.dicom.sources import Files
from protosam.dicom.web import Pacs
from protosam.errors import Cancelled, ServerFailure

FETCHED = ".fetched"
"""Folder of the study's files, with patients' names in them."""


def fetch_study(
    pacs: Pacs, study_uid: str, manifest: Manifest, should_stop: Callable[[], bool]
) -> Files:
    """Fetch those series of a study that still have something to do.

    Parameters
    ----------
    pacs : Pacs
    study_uid : str
        Study instance UID.
    manifest : Manifest
        Gets a row for each series that cannot be had.
    should_stop : callable
        Asked between two instances.

    Returns
    -------
    Files
        Of the series that came whole.

    Raises
    ------
    ServerFailure
        The server cannot even list the study, or has none of this UID.
    """
    listed = pacs.series_of(study_uid)
    if not listed:
        raise ServerFailure("The server has no such study.", "Check its study instance UID.")
    paths: list[Path] = []
    for one in listed:
        if should_stop():
            break
        # Segmentations and structure sets have no rows; series that need them ask for them.
        if _is_finished(manifest, one.series_uid):
            continue
        key = _key(one.series_uid)
        try:
            folder = manifest.folder / FETCHED / one.series_uid
            paths += pacs.fetch_series(study_uid, one.series_uid, folder, should_stop=should_stop)
            manifest.forget(key)
        except Cancelled:
            break  # the next run goes on with the instances that are missing
        except ServerFailure as error:
            manifest.record([Row(key, one.series_uid, status="failed", reason=str(error))])
    return Files(tuple(sorted(paths)), root=manifest.folder / FETCHED)


def drop_fetched(manifest: Manifest) -> None:
    """Remove what was fetched once nothing is left to do."""
    if not any(row.is_open for row in manifest.rows):
        shutil.rmtree(manifest.folder / FETCHED, ignore_errors=True)


def store_results(pacs: Pacs, manifest: Manifest, should_stop: Callable[[], bool]) -> list[str]:
    """Store the DICOM results of all rows that are done.

    Parameters
    ----------
    pacs : Pacs
    manifest : Manifest
        Its rows say afterwards what is stored.
    should_stop : callable
        Asked between two series.

    Returns
    -------
    list of str
        What was not stored, and why.
    """
    problems = []
    for row in manifest.rows:
        if should_stop():
            break
        paths = [manifest.folder / name for name in _dicom(row.files)]
        if row.status != "done" or row.stored or not paths:
            continue
        try:
            pacs.store(paths)
        except ServerFailure as error:
            problems.append(f"Series {row.series_uid} was not stored: {error}")
            continue
        manifest.record([replace(row, stored=True)])
    return problems


def _dicom(files: Iterable[str]) -> list[str]:
    return [name for name in files if name.endswith(".dcm")]


def _is_finished(manifest: Manifest, series_uid: str) -> bool:
    own = [row for row in manifest.rows if row.series_uid == series_uid]
    return bool(own) and not any(row.is_open for row in own)


def _key(series_uid: str) -> str:
    return hashlib.sha256(f"fetch\n{series_uid}".encode()).hexdigest()[:16]
