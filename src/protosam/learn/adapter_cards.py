"""What is known of one version of an adapter, as a file beside it.

Owns the card and the digests of the files that it speaks for. A card holds no name of a case,
because names of files can be names of patients: only digests of them. Knows nothing of tensors.
Speaks no coordinates.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from protosam import __version__
from protosam.errors import WeightsRefused
from protosam.storage import atomic_path

FORMAT = 1
"""Version of the card; another one is refused."""

CARD = "card.json"

PICTURES = "before-after-*.png"
"""Names of pictures in a version's folder, see `gate_pictures`; no answer depends on them."""


@dataclass(frozen=True)
class AdapterCard:
    """What is known of one version of an adapter; no name of a case, only digests of them."""

    tier: str
    """How it was taught: ``shift``, ``decoder``, ``full``, or ``specialist``: its own network."""
    base_name: str
    """Model that it goes with."""
    base_sha256: str
    """Digest of that model's weights; on others it is refused."""
    labels: tuple[str, ...]
    """Names of what was taught."""
    cases: tuple[str, ...]
    """Digests of the cases that were learnt from."""
    held_out: tuple[str, ...]
    """Digests of the cases that it was judged by."""
    seed: int
    settings: dict[str, Any]
    """Of the training."""
    figures: dict[str, float]
    """Of the training: loss, seconds, steps."""
    gate: dict[str, Any]
    """The gate's report, see `gate.GateReport.to_json`."""
    method: str = "labelled"
    program: str = __version__
    format: int = FORMAT


def write_card(folder: Path, card: AdapterCard) -> None:
    """Write the card of a folder that holds the adapter's files, and nothing else, already.

    Raises
    ------
    StorageFailure
        When it cannot be written.
    """
    kept = (path for path in sorted(folder.iterdir()) if not fnmatch(path.name, PICTURES))
    files = {path.name: _sha256(path) for path in kept}
    entries = {**dataclasses.asdict(card), "files": files}
    with atomic_path(folder / CARD) as temporary:
        temporary.write_text(json.dumps(entries, indent=1), encoding="utf-8")


def verify_files(folder: Path) -> None:
    """Compare a version's files with the digests on its card; pictures may be gone.

    Raises
    ------
    WeightsRefused
        When one is missing or was changed.
    """
    for name, digest in _entries(folder / CARD).get("files", {}).items():
        path = folder / name
        if fnmatch(name, PICTURES):
            continue  # on cards written before pictures were left out of them
        if not path.is_file() or _sha256(path) != digest:
            raise WeightsRefused(
                f"{path} is missing or was changed.", "Adapt again, or activate another version."
            )


def _entries(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsRefused(f"{path} cannot be read: {error}.", "Adapt again.") from error
    if not isinstance(entries, dict) or entries.get("format") != FORMAT:
        raise WeightsRefused(f"{path} is of another version.", "Update ProtoSAM, or adapt again.")
    return entries


def read_card(folder: Path) -> AdapterCard:
    """Read the card of a version.

    Raises
    ------
    WeightsRefused
        When it is missing, damaged or of another format.
    """
    path = folder / CARD
    entries = _entries(path)
    entries.pop("files", None)
    try:
        card = AdapterCard(**entries)
    except TypeError as error:
        raise WeightsRefused(f"{path} is not understood: {error}.", "Adapt again.") from error
    return dataclasses.replace(
        card,
        labels=tuple(card.labels),
        cases=tuple(card.cases),
        held_out=tuple(card.held_out),
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
