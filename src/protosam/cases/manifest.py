"""The list of a folder's corrected cases: what the file ``manifest.json`` says.

Owns its form; the folder is `cases.saved`'s. Holds no voxels.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from protosam.cases.roles import ROLES, Role
from protosam.errors import UnreadableFile
from protosam.storage import atomic_path

FORMAT = "protosam-cases"
VERSION = 1
"""Version of the folder; another one is refused."""

MANIFEST = "manifest.json"

PLACE = re.compile(r"[0-9a-f]{16}(-[0-9]+)?")
"""Name of a case's folder."""


@dataclass(frozen=True)
class SavedCase:
    """A case in the folder, not read yet."""

    id: str
    """What it is called, as long as it is there."""
    patient: str
    """Salted hash of the patient's key."""
    role: Role
    """What it is for; never changes."""
    origin: str
    """Digest of the image as it was saved."""
    files: dict[str, str]
    """SHA-256 of each file."""
    revision: int = 1
    """How many times it was saved."""

    @property
    def place(self) -> str:
        """Name of its folder, another one each time that it is saved."""
        return place_of(self.id, self.revision)


@dataclass(frozen=True)
class Manifest:
    """What a folder says of its cases."""

    salt: str
    """Of the patients' hashes."""
    held_out_share: float
    labels: dict[int, str]
    """Name of each number."""
    cases: dict[str, SavedCase]
    """By id, in the order in which they were first saved."""


def place_of(id: str, revision: int) -> str:
    """Name of the folder of a case that was saved so many times."""
    return id if revision == 1 else f"{id}-{revision}"


def read_manifest(path: Path) -> Manifest:
    """Read the list.

    Raises
    ------
    UnreadableFile
        When it is missing, damaged, another file, or of another version.
    """
    next_step = "Choose a folder of corrected cases, or begin one."
    try:
        entries: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadableFile(f"{path} cannot be read: {error.strerror}.", next_step) from error
    except ValueError as error:
        raise UnreadableFile(f"{path} is damaged: {error}.", next_step) from error
    if not isinstance(entries, dict) or entries.get("format") != FORMAT:
        raise UnreadableFile(f"{path} is no list of corrected cases.", next_step)
    if entries.get("version") != VERSION:
        raise UnreadableFile(
            f"{path} has version {entries.get('version')}; this program reads {VERSION}.",
            "Update ProtoSAM.",
        )
    try:
        cases = {id: _case(id, facts) for id, facts in entries["cases"].items()}
        labels = {int(n): str(name) for n, name in entries["labels"].items()}
        manifest = Manifest(str(entries["salt"]), float(entries["held_out_share"]), labels, cases)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableFile(f"{path} is damaged: {error}.", next_step) from error
    if not all(PLACE.fullmatch(case.place) for case in cases.values()):
        raise UnreadableFile(f"{path} names a case that has no folder of its own.", next_step)
    if any(case.role not in ROLES for case in cases.values()):
        raise UnreadableFile(f"{path} has a role that is none of {ROLES}.", next_step)
    return manifest


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the list, whole or not at all.

    Raises
    ------
    StorageFailure
        When it cannot be written.
    """
    cases = {id: asdict(case) for id, case in manifest.cases.items()}
    for facts in cases.values():
        del facts["id"]
    entries = {
        "format": FORMAT,
        "version": VERSION,
        "salt": manifest.salt,
        "held_out_share": manifest.held_out_share,
        "labels": manifest.labels,
        "cases": cases,
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(entries, indent=1), encoding="utf-8")


def _case(id: str, facts: dict[str, Any]) -> SavedCase:
    return SavedCase(id=id, **{**facts, "revision": int(facts.get("revision", 1))})
