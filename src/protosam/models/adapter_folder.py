"""The folder of a named adapter: its versions, and the small file that says which one is in use.

Owns the form::

    <name>/active.json     the version in use (or none), and those before it
    <name>/v001/           a version: card and the adapter's own files (peft's, or a shift)

Whoever loads an adapter and whoever adds versions read the same file by the same rules. Knows
nothing of tensors and cards. Speaks no coordinates.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from protosam.errors import InvalidInput, UnreadableFile

FORMAT = 1
"""Version of ``active.json``; another one is refused."""

ACTIVE, SHIFT_FILE = "active.json", "adapter.shift"

_VERSION = re.compile(r"v(\d{3,})")


@dataclass(frozen=True)
class ActiveNote:
    """What ``active.json`` says."""

    version: int | None = None
    """In use; None for the bare model."""
    before: tuple[int | None, ...] = ()
    """What was in use before, oldest first."""


def read_active(folder: Path) -> ActiveNote:
    """Read which version of an adapter is in use; none where nothing was written yet.

    Raises
    ------
    UnreadableFile
        When the file is damaged or of another version.
    """
    path = folder / ACTIVE
    if not path.is_file():
        return ActiveNote()
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        note = ActiveNote(entries["version"], tuple(entries["before"]))
        known = entries["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableFile(
            f"{path} cannot be read: {error}.",
            f"Delete it, then `protosam adapters activate {folder.name} --version N`.",
        ) from error
    if not known:
        raise UnreadableFile(f"{path} is of another version.", "Update ProtoSAM.")
    if not all(n is None or type(n) is int for n in (note.version, *note.before)):
        raise UnreadableFile(
            f"{path} names versions that are no numbers.",
            f"Delete it, then `protosam adapters activate {folder.name} --version N`.",
        )
    return note


def version_folder(folder: Path, number: int) -> Path:
    """Folder of a version."""
    return folder / f"v{number:03d}"


def version_numbers(folder: Path) -> list[int]:
    """Numbers of the versions that are there, in order."""
    if not folder.is_dir():
        return []
    matches = (_VERSION.fullmatch(path.name) for path in folder.iterdir() if path.is_dir())
    return sorted(int(match[1]) for match in matches if match)


def loadable(version: Path) -> Path:
    """Return what a version is loaded from: the file of a shift, or the folder of a LoRA."""
    shift = version / SHIFT_FILE
    return shift if shift.is_file() else version


def followed(given: Path) -> Path:
    """Go from the folder of a named adapter to the version in use; anything else stays as it is.

    Raises
    ------
    InvalidInput
        When no version is in use, or the one in use is gone.
    UnreadableFile
        When ``active.json`` is damaged.
    """
    if not given.is_dir():
        return given
    numbers = version_numbers(given)
    if not numbers and not (given / ACTIVE).is_file():
        return given
    active = read_active(given).version
    if active not in numbers:
        what = "no version in use" if active is None else f"no version {active}, which is in use"
        raise InvalidInput(
            f"The adapter {given.name!r} has {what}; there are {numbers or 'none'}.",
            f"`protosam adapters activate {given.name} --version N`, or leave the adapter out.",
        )
    return loadable(version_folder(given, active))
