"""Looking through a batch: a result with its image for an editor, and what became of it.

Rules
-----
* What was decided lies in `review.json` beside the manifest: series key -> verdict. The manifest
  belongs to the batch and is only read here, so both may go on at once.
* A result is handed out on the very grid that the batch has segmented, for every kind of source,
  and a corrected one has to lie on it again.
* Nothing of the batch's own results is changed. Indices are (k, j, i).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import SimpleITK as sitk
from filelock import FileLock

from protosam.batch.manifest import Row, rows_in, write_json
from protosam.batch.sources import Series, inventory
from protosam.batch.work import read_source
from protosam.cases.corrected import CorrectedCase, CorrectedSegment
from protosam.cases.manifest import SavedCase
from protosam.cases.saved import CaseFolder
from protosam.dicom.read import SeriesVolume
from protosam.dicom.rtstruct import read_structures
from protosam.dicom.segmentations import read_segments as read_seg
from protosam.dicom.sources import files_of
from protosam.dicom.terminology import coding_of, kept_codes
from protosam.errors import InvalidInput, StorageFailure, UnreadableFile
from protosam.geometry import Volume
from protosam.itk_grid import set_image_affine
from protosam.prompting.finished import read_segments
from protosam.seg_nrrd import Segment, write_segmentation
from protosam.storage import atomic_path, storage_failure

FILE = "review.json"

Verdict = Literal["accepted", "corrected"]

IMAGE, SEGMENTATION = "image.nrrd", "segmentation.seg.nrrd"
"""Names of what is handed out."""

WAIT_S = 10.0
"""How long to wait for another program that decides."""


@dataclass(frozen=True)
class HandedOut:
    """A result for an editor."""

    image: Path
    segmentation: Path


def verdicts(folder: Path) -> dict[str, Verdict]:
    """Read what was decided: series key -> verdict; empty before the first.

    Raises
    ------
    UnreadableFile
        The file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_text("utf-8"))
        found = {str(key): value for key, value in data.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise _damaged(path) from error
    if any(value not in get_args(Verdict) for value in found.values()):
        raise _damaged(path)
    return found


def decide(folder: Path, key: str, verdict: Verdict | None) -> Row:
    """Note what became of a result; None takes an earlier verdict back.

    Raises
    ------
    InvalidInput
        There is no such series, or it has no result.
    StorageFailure
        It cannot be written.
    """
    row = finished_row(folder, key)
    try:
        with FileLock(folder / ".review-lock", timeout=WAIT_S):
            known = {one: said for one, said in verdicts(folder).items() if one != row.key}
            write_json(folder / FILE, {**known, row.key: verdict} if verdict else known)
    except (OSError, TimeoutError) as error:
        raise StorageFailure(
            f"The verdict cannot be written into {folder}.", "Check the permissions, or try again."
        ) from error
    return row


def finished_row(folder: Path, key: str) -> Row:
    """Row of a series that is done.

    Parameters
    ----------
    folder : Path
        Of the batch.
    key : str
        Of the row, or its first letters.

    Raises
    ------
    InvalidInput
        None or several begin so, or it is not done.
    UnreadableFile
        There is no batch.
    """
    rows = [row for row in rows_in(folder) if key and row.key.startswith(key)]
    if len(rows) != 1:
        raise InvalidInput(
            f"{len(rows)} series of this batch begin with {key!r}.",
            "Take the key from `protosam review list`.",
        )
    if rows[0].status != "done":
        raise InvalidInput(
            f"The series is {rows[0].status}: {rows[0].reason}", "Choose one that is done."
        )
    return rows[0]


def hand_out(folder: Path, source: Path, key: str, into: Path) -> HandedOut:
    """Write image and result of a series for an editor.

    Parameters
    ----------
    folder : Path
        Of the batch.
    source : Path
        Where its images lie; the batch itself remembers no path.
    key : str
    into : Path
        Folder; made if it is missing. Image and result of before are replaced.

    Raises
    ------
    ProtoSAMError
        No such series, no result, a source that is not the batch's, or no space.
    """
    row = finished_row(folder, key)
    target = HandedOut(into / IMAGE, into / SEGMENTATION)
    with _source_of(row, source) as image:
        segments = _segments(folder, row, image)
        try:
            into.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_failure(into, error) from error
        _write_image(target.image, image.volume)
        write_segmentation(target.segmentation, segments, image.volume)
    return target


def keep_corrected(
    folder: Path, source: Path, key: str, segmentation: Path, cases: Path
) -> SavedCase:
    """Keep a corrected result as a case to learn from, and note that it was corrected.

    Parameters
    ----------
    folder, source, key
        As for `hand_out`.
    segmentation : Path
        What the editor has saved, ``.seg.nrrd``; empty segments are left out.
    cases : Path
        Folder of corrected cases; made if it is missing.

    Raises
    ------
    ProtoSAMError
        Likewise; or segments that overlap, lie on another grid, or are all empty.
    """
    row = finished_row(folder, key)
    with _source_of(row, source) as image:
        found = [one for one in read_segments(segmentation, image.volume) if one.mask.any()]
        segments = tuple(_corrected(one) for one in found)
        case = CorrectedCase(image.volume, segments)
        patient = _patient(image) or row.key
        saved = CaseFolder.create(cases).save(case, patient=patient)
    decide(folder, row.key, "corrected")
    return saved


def accepted_files(folder: Path, row: Row) -> list[Path]:
    """DICOM files of a result, which an archive can take.

    Raises
    ------
    InvalidInput
        It was written in other forms only.
    """
    found = [folder / name for name in row.files if name.endswith(".dcm")]
    if not found:
        raise InvalidInput(
            "The result has no DICOM file.", "Run the batch with --form seg, or correct it."
        )
    return found


@contextmanager
def _source_of(row: Row, source: Path) -> Iterator[SeriesVolume]:
    with files_of(source) as files:
        found = inventory(files, straighten=True)
        tasks = [task for task in found.tasks if task.row.key == row.key]
        if len(tasks) != 1:
            raise InvalidInput(
                "The series of this result is not in the source.",
                "Give the folder, archive or list that the batch was run on.",
            )
        series: Series = tasks[0].content
        yield read_source(series, straighten=True, show_names=False)


def _segments(folder: Path, row: Row, image: SeriesVolume) -> list[Segment]:
    """Segments of a result, from whichever of its files is nearest to the masks."""
    for ending in (".seg.nrrd", "segmentation.dcm", "labelmap.dcm", "structures.dcm"):
        for name in row.files:
            if name.endswith(ending):
                found = _read(folder / name, ending, image)
                return [replace(one, id="") for one in found]
    return []  # nothing was found in it; an editor can begin


def _read(path: Path, ending: str, image: SeriesVolume) -> Sequence[Segment]:
    if ending == ".seg.nrrd":
        return read_segments(path, image.volume)
    read = read_structures if ending == "structures.dcm" else read_seg
    return read(path, image).segments


def _write_image(path: Path, volume: Volume) -> None:
    voxels = volume.voxels
    image = sitk.GetImageFromArray(voxels.astype("u1") if voxels.dtype == bool else voxels)
    set_image_affine(image, volume.affine)
    with atomic_path(path) as temporary:
        try:
            sitk.WriteImage(image, str(temporary))
        except RuntimeError as error:
            raise StorageFailure(
                f"{path} was not written.", "Check the space and the permissions there."
            ) from error


def _corrected(segment: Segment) -> CorrectedSegment:
    try:
        coding = coding_of(segment.name, segment.terminology)
    except InvalidInput:
        coding = None  # a case to learn from may have any name
    code, side = kept_codes(coding)
    return CorrectedSegment(segment.name, segment.mask, code=code, side=side)


def _patient(image: SeriesVolume) -> str:
    if not image.frames:
        return ""
    (header,) = replace(image, frames=image.frames[:1]).source_headers()
    return str(header.get("PatientID", None) or "")


def _damaged(path: Path) -> UnreadableFile:
    return UnreadableFile(f"{path} is damaged.", "Move it away; verdicts are given anew then.")
