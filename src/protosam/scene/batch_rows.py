"""What a batch's folder says, read as a host reads it: rows, how far it is, verdicts.

Rules
-----
* It only reads, and never holds anything: the batch that writes these files may be at work. They
  are replaced whole, so what is read is the old or the new.
* It knows the few entries that are shown; `protosam.batch.manifest` owns the form.
* Standard library alone: the host's Python needs nothing else for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protosam.errors import UnreadableFile

MANIFEST, REVIEW = "manifest.json", "review.json"

FORMAT, VERSION = "protosam-batch", 1

_RANK = {"failed": 0, "done": 1, "refused": 2, "cancelled": 3, "waiting": 4}


@dataclass(frozen=True)
class FoundStructure:
    """One structure in one series."""

    name: str
    volume_ml: float
    confidence: float
    """0..1."""


@dataclass(frozen=True)
class BatchRow:
    """One series of a batch."""

    key: str
    """What commands call it."""
    series_uid: str
    part: str
    """Which volume of the series; '' where there is one."""
    status: str
    """waiting, done, refused, failed or cancelled."""
    reason: str
    structures: tuple[FoundStructure, ...]
    verdict: str = ""
    """accepted, corrected, or '' while nothing was decided."""

    @property
    def is_open(self) -> bool:
        """Whether there is still something to compute."""
        return self.status in ("waiting", "cancelled")

    @property
    def confidence(self) -> float:
        """Of the least sure structure; 0 without one."""
        return min((one.confidence for one in self.structures), default=0.0)


def read_rows(folder: Path) -> tuple[BatchRow, ...]:
    """Rows of a batch, the doubtful ones first; empty before its first.

    Raises
    ------
    UnreadableFile
        What lies there is no manifest of this version, or is damaged.
    """
    path = folder / MANIFEST
    data = _json_in(path)
    if data is None:
        return ()
    verdicts = _json_in(folder / REVIEW) or {}
    try:
        if (data["format"], data["version"]) != (FORMAT, VERSION):
            raise UnreadableFile(f"{path} is of another form or version.", "Choose another folder.")
        rows = [_row(one, verdicts) for one in data["rows"]]
        return tuple(sorted(rows, key=_doubt))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path) from error


def _row(data: dict[str, Any], verdicts: dict[str, str]) -> BatchRow:
    structures = tuple(
        FoundStructure(str(one["name"]), float(one["volume_ml"]), float(one["confidence"]))
        for one in data["structures"]
    )
    key = str(data["key"])
    texts = [str(data[name]) for name in ("series_uid", "part", "status", "reason")]
    uid, part, status, reason = texts
    return BatchRow(key, uid, part, status, reason, structures, str(verdicts.get(key, "")))


def _doubt(row: BatchRow) -> tuple[int, float, str, str]:
    return _RANK.get(row.status, 0), row.confidence, row.series_uid, row.part


def _json_in(path: Path) -> Any:
    """Content of a file; None if there is none."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> UnreadableFile:
    return UnreadableFile(f"{path} cannot be read.", "Choose the folder of a batch.")
