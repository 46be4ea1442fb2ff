"""What a batch knows of its series: one row each, in a file that survives a kill at any moment.

Rules
-----
* `manifest.json` is replaced as a whole, flushed to the disk, after each change of a row; a reader
  sees the old or the new one. One process at a time may hold the folder.
* A row is known by its key, a digest; nothing that names a patient is in it but what the caller
  puts there on purpose (`Row.patient`, `Row.name`).
* It knows rows and folders, nothing of images, models or processes.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from protosam.errors import InvalidInput, StorageFailure, UnreadableFile
from protosam.storage import atomic_path, storage_failure

Status = Literal["waiting", "done", "refused", "failed", "cancelled"]

FILE = "manifest.json"
FORMAT = "protosam-batch"
VERSION = 1
"""Raised whenever an entry changes its meaning."""

RESULTS = "series"
"""Folder of the results; one folder a series in it, named by its key."""

OUTCOME = "outcome.json"
"""File in the folder of a series that says what was found; it is written last."""


@dataclass(frozen=True)
class Structure:
    """One structure in one series."""

    name: str
    code: str
    """As 'SCT 10200004 Liver'; '' without one."""
    volume_ml: float
    confidence: float
    """0..1; 0 where it was not found."""
    file: str = ""
    """Relative to the folder of the batch; '' where there is none."""
    doubtful: tuple[int, ...] = ()
    """Slices of low confidence, the lowest first."""
    slices: dict[int, float] = field(default_factory=dict)
    """Confidence of each slice; kept in `OUTCOME`, not in the manifest."""


@dataclass(frozen=True)
class Row:
    """One series and what became of it."""

    key: str
    """Digest that names it here, see `batch/sources.py`."""
    series_uid: str
    """Series instance UID; of a plain file 'file-' and its key."""
    part: str = ""
    """Which volume of the series, as 'echo 2'; '' where there is one."""
    status: Status = "waiting"
    reason: str = ""
    """Why it was refused, failed or cancelled; of what is done, what was missing."""
    structures: tuple[Structure, ...] = ()
    files: tuple[str, ...] = ()
    """All results, relative to the folder of the batch."""
    notes: tuple[str, ...] = ()
    """What a user should know of it."""
    picture: str = ""
    """Relative to the folder of the batch; '' where there is none."""
    patient: str = ""
    """Keyed digest, or the id where it may be shown; '' where none is known."""
    day: int | None = None
    """Day of the study on the patient's own shifted calendar, see `batch/patients.py`."""
    date: str = ""
    """Date of the study where it may be shown."""
    name: str = ""
    """Name of the file where it may be shown."""
    elapsed_s: float = 0.0
    stored: bool = False
    """Whether a PACS has the results."""

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise InvalidInput(
                f"A row cannot be {self.status!r}.", f"Choose one of {', '.join(get_args(Status))}."
            )

    @property
    def is_open(self) -> bool:
        """Whether there is still something to do."""
        return self.status in ("waiting", "cancelled")

    @property
    def doubt(self) -> float:
        """1 for what failed, else what the least sure structure lacks to full confidence."""
        if self.status != "done":
            return 1.0
        return 1 - min((one.confidence for one in self.structures), default=0.0)


class Manifest:
    """The rows of one batch; a context manager that holds its folder.

    Parameters
    ----------
    folder : Path
        Where results go; made if it is missing.
    order : str
        Digest of what is to be done; a folder is continued only with the same one.
    """

    def __init__(self, folder: Path, order: str) -> None:
        self.folder = folder
        self.order = order
        self._rows: dict[str, Row] = {}

    def __enter__(self) -> Manifest:
        """Take the folder and read what is there.

        Raises
        ------
        StorageFailure
            The folder cannot be made, or another process works in it.
        UnreadableFile
            A manifest that is damaged.
        InvalidInput
            A batch of other options, or of a newer program.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / ".lock")
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise StorageFailure(
                f"Another batch works in {self.folder}.", "Wait for it, or choose another folder."
            ) from error
        except OSError as error:
            raise storage_failure(self.folder, error) from error
        try:
            if (self.folder / FILE).exists():
                self._rows = {row.key: row for row in _rows_in(self.folder / FILE, self.order)}
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the folder go."""
        self._lock.release()

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows in the order in which they came."""
        return tuple(self._rows.values())

    def row(self, key: str) -> Row | None:
        """Row of a key, if there is one."""
        return self._rows.get(key)

    def enrol(self, rows: Iterable[Row]) -> None:
        """Add rows; one that is known keeps what became of it.

        What is open is taken up again, and so is what was refused before it was opened and can be
        opened now, because its source was mended.

        Raises
        ------
        StorageFailure
            It could not be written.
        """
        for row in rows:
            known = self._rows.get(row.key)
            unopened = known is not None and known.status == "refused" and known.elapsed_s == 0
            if known is None or known.is_open or unopened:
                self._rows[row.key] = row
        self._save()

    def record(self, rows: Sequence[Row]) -> None:
        """Replace rows by what they are now.

        Raises
        ------
        StorageFailure
            It could not be written; the old manifest is as it was.
        """
        for row in rows:
            self._rows[row.key] = row
        self._save()

    def reopen_failed(self) -> None:
        """Let rows that failed wait again.

        Raises
        ------
        StorageFailure
            It could not be written.
        """
        failed = [row for row in self.rows if row.status == "failed"]
        self.record([replace(row, status="waiting", reason="") for row in failed])

    def forget(self, key: str) -> None:
        """Remove a row that others have taken the place of.

        Raises
        ------
        StorageFailure
            It could not be written.
        """
        if self._rows.pop(key, None) is not None:
            self._save()

    def _save(self) -> None:
        write_json(
            self.folder / FILE,
            {
                "format": FORMAT,
                "version": VERSION,
                "order": self.order,
                "rows": [_brief(row) for row in self._rows.values()],
            },
        )


def rows_in(folder: Path) -> list[Row]:
    """Rows of a batch as they stand, also while it runs; nothing is held or changed.

    Raises
    ------
    UnreadableFile
        There is no batch, or its manifest is damaged.
    InvalidInput
        It is of another version.
    """
    return _rows_in(folder / FILE, None)


def committed(folder: Path, row: Row) -> Row | None:
    """Row of a series whose results are whole on the disk; None where they are not.

    Parameters
    ----------
    folder : Path
        Of the batch.
    row : Row
        What is known of it.

    Raises
    ------
    UnreadableFile
        The results are there, and what they say of themselves is damaged.
    """
    path = folder / RESULTS / row.key / OUTCOME
    return row_of(_json_in(path), path) if path.exists() else None


def commit(folder: Path, staging: Path, row: Row) -> Row:
    """Let the results of one series count: one rename, which happens wholly or not at all.

    Parameters
    ----------
    folder : Path
        Of the batch.
    staging : Path
        Folder on the same disk that holds the result files; it becomes the series' own.
    row : Row
        What is to be said of them.

    Returns
    -------
    Row
        The same; or that of another process that was quicker.

    Raises
    ------
    StorageFailure
        No space, or no permission.
    """
    target = folder / RESULTS / row.key
    write_json(staging / OUTCOME, dataclasses.asdict(row))
    flush_folder(staging)
    try:
        target.parent.mkdir(exist_ok=True)
        staging.rename(target)
    except OSError as error:
        there = committed(folder, row)
        if there is None:
            raise storage_failure(target, error) from error
        return there
    flush_folder(target.parent)
    return row


def write_json(path: Path, data: object) -> None:
    """Write JSON so that it is there wholly or not at all, and stays there.

    Raises
    ------
    StorageFailure
        No space, no permission, no such folder.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1), "utf-8")
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Let renames in a folder reach the disk, where the system can be asked for that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def row_of(data: Any, path: Path) -> Row:
    """Row from JSON.

    Raises
    ------
    UnreadableFile
        It is none.
    """
    try:
        structures = tuple(
            Structure(
                **{
                    **one,
                    "doubtful": tuple(one["doubtful"]),
                    "slices": {int(n): float(c) for n, c in one.get("slices", {}).items()},
                }
            )
            for one in data["structures"]
        )
        lists = {name: tuple(data[name]) for name in ("files", "notes")}
        return Row(**{**data, **lists, "structures": structures})
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise _damaged(path) from error


def _brief(row: Row) -> dict[str, Any]:
    data = dataclasses.asdict(row)
    for one in data["structures"]:
        del one["slices"]
    return data


def _rows_in(path: Path, order: str | None) -> list[Row]:
    data = _json_in(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise _damaged(path)
    if data.get("version") != VERSION:
        raise InvalidInput(
            f"{path} is of version {data.get('version')!r}; this program continues {VERSION}.",
            "Choose another folder, or use the program that began it.",
        )
    if order is not None and data.get("order") != order:
        raise InvalidInput(
            f"{path.parent} holds a batch of other options.",
            "Give the options that it was begun with, or choose another folder.",
        )
    rows = data.get("rows")
    if not isinstance(rows, list):
        raise _damaged(path)
    return [row_of(one, path) for one in rows]


def _json_in(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path) from error
    except OSError as error:
        raise UnreadableFile(
            f"{path} cannot be read: {error.strerror}.", "Check the permissions."
        ) from error


def _damaged(path: Path) -> UnreadableFile:
    return UnreadableFile(
        f"{path} is damaged, or no file of a batch.", "Choose another folder for the results."
    )
