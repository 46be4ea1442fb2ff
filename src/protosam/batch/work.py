"""One series from its files to results that count; what runs in a lane or on another machine.

Rules
-----
* Results are written into a folder of their own under a passing name, compared by
  `dicom.results`, and then renamed together (`batch_manifest.commit`). Nothing is written
  anywhere else, least of all to the source.
* A structure that was not found is a row without voxels, and no segment in a file.
* Masks are (k, j, i); places are RAS mm.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from protosam.batch.finding import Case, Finder, FoundSegment, Way
from protosam.batch.manifest import RESULTS, Row, Structure, commit
from protosam.batch.patients import Whose, whose
from protosam.batch.queue import Task
from protosam.batch.report_picture import draw_planes
from protosam.batch.sources import Series
from protosam.dicom.find import FoundSeries, SeriesIdentity
from protosam.dicom.read import SeriesVolume, read_series
from protosam.dicom.results import FORMS, Form, save_segments
from protosam.dicom.rtstruct import read_structures
from protosam.dicom.segmentations import read_segments
from protosam.dicom.terminology import coding_of
from protosam.dicom.write import codings_of
from protosam.errors import InvalidInput, ProtoSAMError, StorageFailure
from protosam.metrics import volume_ml
from protosam.seg_nrrd import Segment
from protosam.storage import storage_failure
from protosam.volume_io import read_volume

WORKING = ".working"
"""Folder of what is not finished; emptied when a batch begins."""

FILES: dict[Form, str] = {
    "seg": "segmentation.dcm",
    "labelmap": "labelmap.dcm",
    "rtstruct": "structures.dcm",
    "seg.nrrd": "segmentation.seg.nrrd",
}

PICTURE = "picture.png"

SURE = 0.5
"""Slices of less confidence are doubtful."""

MOST_DOUBTFUL = 8
"""How many of them a row names."""


@dataclass(frozen=True)
class Order:
    """What is done with every series."""

    out: Path
    """Folder of the batch."""
    way: Way
    """What segments."""
    forms: tuple[Form, ...] = ("seg",)
    """Of the results of DICOM series; plain files get '.seg.nrrd' always."""
    straighten: bool = False
    """Whether tilted series are resampled instead of refused."""
    patient_key: bytes = b""
    """Of `batch/patients.py`."""
    show_patient: bool = False
    """Whether ids and dates may be seen."""

    def __post_init__(self) -> None:
        wrong = [form for form in self.forms if form not in FORMS]
        if wrong or not self.forms:
            raise InvalidInput(
                f"Results cannot be written as {', '.join(wrong) or 'nothing'}.",
                f"Choose from {', '.join(FORMS)}.",
            )


class SeriesWork:
    """A `batch.Work`: reads, segments, writes, compares, draws, commits.

    Parameters
    ----------
    order : Order
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._finder: Finder | None = None

    def prepare(self) -> None:
        """Load the model."""
        self._finder = self._order.way.open()

    def carry_out(self, task: Task[Series]) -> Row:
        """Do one series; see `batch.Work`."""
        begun = time.monotonic()
        if self._finder is None:
            self.prepare()
        order = self._order
        source = read_source(
            task.content, straighten=order.straighten, show_names=order.show_patient
        )
        references = self._references(task.content, source)
        found = self._finder_here.find(Case(source.volume, task.content.names, references))
        row = self._row(task, source, found)
        with _Staging(self._order.out, row.key) as staging:
            kept = [one for one in found if one.segment.mask.any()]
            files = self._write(staging, task.content, source, kept)
            draw_planes(staging / PICTURE, source.volume, [one.segment for one in kept])
            row = _with_files(row, files)
            row = replace(row, elapsed_s=time.monotonic() - begun)
            return commit(self._order.out, staging, row)

    @property
    def _finder_here(self) -> Finder:
        if self._finder is None:
            raise InvalidInput("The model is not loaded.", "Call prepare first.")
        return self._finder

    def _references(self, series: Series, source: SeriesVolume) -> tuple[Segment, ...]:
        if not self._order.way.wants_references:
            return ()
        found: list[Segment] = []
        for one in series.references:
            read = read_segments if one.kind == "segmentation" else read_structures
            try:
                found += read(one.paths[0], source).segments
            except InvalidInput:
                continue  # it belongs to another series of the study, or is damaged
        if not any(one.mask.any() for one in found):
            raise InvalidInput(
                "The study holds no segmentation or structure set that lies on this series.",
                "Segment it another way.",
            )
        return tuple(found)

    def _row(self, task: Task[Series], source: SeriesVolume, found: list[FoundSegment]) -> Row:
        person = self._whose(source)
        missing = [one.segment.name for one in found if not one.segment.mask.any()]
        notes = dict.fromkeys(
            (*task.row.notes, *source.notes, *(n for f in found for n in f.notes))
        )
        return replace(
            task.row,
            status="done",
            reason=f"Not found: {', '.join(missing)}." if missing else "",
            structures=tuple(_structure(one, source) for one in found),
            notes=tuple(notes),
            patient=person.patient,
            day=person.day,
            date=person.date,
        )

    def _whose(self, source: SeriesVolume) -> Whose:
        if not source.frames:
            return Whose()
        (header,) = replace(source, frames=source.frames[:1]).source_headers()
        texts = [str(header.get(name, None) or "") for name in ("PatientID", "StudyDate")]
        order = self._order
        return whose(texts[0], texts[1], order.patient_key, show=order.show_patient)

    def _write(
        self, staging: Path, series: Series, source: SeriesVolume, kept: Sequence[FoundSegment]
    ) -> list[str]:
        if not kept:
            return []
        forms = self._order.forms if isinstance(series.source, FoundSeries) else ("seg.nrrd",)
        segments = [one.segment for one in kept]
        if forms != ("seg.nrrd",):
            codings_of(segments)  # refused before anything is written
        algorithm = self._finder_here.algorithm
        return [
            save_segments(staging / FILES[form], segments, source, algorithm, form).name
            for form in forms
        ]


class _Staging:
    """A folder that goes away unless it was renamed."""

    def __init__(self, out: Path, key: str) -> None:
        self._parent, self._key = out / WORKING, key

    def __enter__(self) -> Path:
        try:
            self._parent.mkdir(parents=True, exist_ok=True)
            self._path = Path(tempfile.mkdtemp(prefix=f"{self._key}-", dir=self._parent))
            # mkdtemp's folders are closed to the group; results are as open as the user's others.
            mask = os.umask(0)
            os.umask(mask)
            self._path.chmod(0o777 & ~mask)
        except OSError as error:
            raise storage_failure(self._parent, error) from error
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def clear_working(out: Path) -> None:
    """Remove what processes left behind that were killed.

    Raises
    ------
    StorageFailure
        It cannot be removed.
    """
    folder = out / WORKING
    if folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise StorageFailure(f"{folder} cannot be removed.", "Remove it by hand.") from error


def read_source(series: Series, *, straighten: bool, show_names: bool) -> SeriesVolume:
    """Read the volume of a series or of a plain file.

    Parameters
    ----------
    series : Series
    straighten : bool
        Whether a tilted series is resampled instead of refused.
    show_names : bool
        Whether a message may name the file.

    Raises
    ------
    ProtoSAMError
        What is wrong with it.
    """
    if isinstance(series.source, FoundSeries):
        return read_series(series.source, straighten=straighten)
    try:
        volume = read_volume(series.source)
    except ProtoSAMError as error:
        if show_names:
            raise
        # The message names the file, and the file may be named for a patient.
        said = error.message
        for name in (str(series.source), series.source.name):
            said = said.replace(name, "the file")
        raise type(error)(said[:1].upper() + said[1:], error.next_step) from None
    # A plain file has a grid and no source slices; so nothing but .seg.nrrd can refer to it.
    return SeriesVolume(volume, SeriesIdentity("", "", "", "", ""), ())


def _structure(found: FoundSegment, source: SeriesVolume) -> Structure:
    mask, slices = found.segment.mask, found.slices
    doubtful = sorted((n for n in slices if slices[n] < SURE), key=lambda n: slices[n])
    return Structure(
        found.segment.name,
        code_text(found.segment),
        volume_ml(mask, source.volume.spacing_kji_mm),
        found.confidence if mask.any() else 0.0,
        doubtful=tuple(doubtful[:MOST_DOUBTFUL]),
        slices={int(n): float(value) for n, value in slices.items()},
    )


def code_text(segment: Segment) -> str:
    """Code of a segment as 'SCT 64033007 Kidney, left'; '' where it has none."""
    try:
        coding = coding_of(segment.name, segment.terminology)
    except InvalidInput:
        return ""
    side = f", {coding.side.meaning.lower()}" if coding.side else ""
    return f"{coding.type.scheme} {coding.type.value} {coding.type.meaning}{side}"


def _with_files(row: Row, names: Sequence[str]) -> Row:
    files = tuple(f"{RESULTS}/{row.key}/{name}" for name in names)
    first = files[0] if files else ""
    structures = tuple(
        replace(one, file=first if one.volume_ml > 0 else "") for one in row.structures
    )
    return replace(
        row, files=files, structures=structures, picture=f"{RESULTS}/{row.key}/{PICTURE}"
    )
