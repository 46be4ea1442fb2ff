"""What lies in a source becomes rows and tasks: DICOM series, and plain volumes beside them.

Rules
-----
* Each DICOM series is a row, refused or with a task; so is each NIfTI, NRRD or MetaImage file.
* Keys are digests: a name of a file may be the name of a patient, and comes into a row only where
  it is to be shown.
* Segmentations and structure sets are no rows; they go with the series of their study whose frame
  of reference they share.
* Headers only; it reads no pixels and writes nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from protosam.batch.manifest import Row
from protosam.batch.queue import Task
from protosam.dicom.find import FoundSeries, find_series
from protosam.dicom.sources import Files

PLAIN_ENDINGS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
SEGMENTATION_ENDING = ".seg.nrrd"
DIGITS = 16


@dataclass(frozen=True, eq=False)
class Series:
    """One volume to be read, and what goes with it."""

    source: FoundSeries | Path
    """A DICOM series, or a plain file."""
    names: tuple[str, ...]
    """What a table of prompts may call it."""
    references: tuple[FoundSeries, ...] = ()
    """SEG and RTSTRUCT of its study."""


@dataclass(frozen=True, eq=False)
class Inventory:
    """All that was found."""

    tasks: tuple[Task[Series], ...]
    """What can be segmented."""
    refused: tuple[Row, ...]
    """What cannot, with reasons."""
    left_out: dict[str, int]
    """Reason -> number of files that are nothing of this."""


def inventory(files: Files, *, straighten: bool = False, show_names: bool = False) -> Inventory:
    """Sort files into tasks, refusals and the rest.

    Parameters
    ----------
    files : Files
        From `dicom.sources.files_of`; open while tasks are done.
    straighten : bool
        Whether series that are refused for a tilt or uneven steps alone become tasks.
    show_names : bool
        Whether rows may hold names of files.
    """
    plain = [path for path in files.paths if _is_plain(path)]
    segmentations = [path for path in files.paths if path.name.endswith(SEGMENTATION_ENDING)]
    rest = set(plain) | set(segmentations)
    dicom = tuple(path for path in files.paths if path not in rest)
    found = find_series(Files(dicom, files.notes, files.root))
    rows = [one for one in found.series if one not in found.references]
    tasks = [_plain_task(path, files.root, show_names) for path in plain]
    refused = []
    for key, one in _with_keys(rows):
        row = Row(key, one.identity.series_uid, one.part, notes=one.notes)
        if one.is_taken or (straighten and one.can_straighten):
            uid = one.identity.series_uid
            names = (uid, f"{uid} {one.part}") if one.part else (uid,)
            tasks.append(Task(row, Series(one, names, _references(one, found.references))))
        else:
            reason = f"{one.reason} {one.next_step}".strip()
            refused.append(replace(row, status="refused", reason=reason))
    left_out = Counter(note.reason for note in found.notes)
    left_out.update("It is a segmentation, not an image." for _ in segmentations)
    return Inventory(tuple(tasks), tuple(refused), dict(left_out))


def _is_plain(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(PLAIN_ENDINGS) and not name.endswith(SEGMENTATION_ENDING)


def _plain_task(path: Path, root: Path | None, show_names: bool) -> Task[Series]:
    name = path.relative_to(root).as_posix() if root else path.name
    key = _digest(["file", name])
    row = Row(key, f"file-{key}", name=name if show_names else "")
    return Task(row, Series(path.absolute(), tuple(dict.fromkeys((name, path.name)))))


def _with_keys(rows: Iterable[FoundSeries]) -> list[tuple[str, FoundSeries]]:
    seen: Counter[str] = Counter()
    found = []
    for one in rows:
        identity = one.identity
        key = _digest([identity.study_uid, identity.series_uid, one.kind, one.part])
        seen[key] += 1
        found.append((key if seen[key] == 1 else _digest([key, str(seen[key])]), one))
    return found


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:DIGITS]


def _references(one: FoundSeries, references: Iterable[FoundSeries]) -> tuple[FoundSeries, ...]:
    wanted = one.identity
    return tuple(ref for ref in references if ref.identity.study_uid == wanted.study_uid)
