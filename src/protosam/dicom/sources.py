"""What a user points at becomes files: a folder, a zip, a DICOMDIR, a list, single files.

Rules
-----
* It opens no DICOM file but a DICOMDIR, and judges nothing else by its content.
* An archive is unpacked into a folder of its own that goes away afterwards, under numbers instead
  of the names in it, and only after its sizes were found to be bearable.
* What cannot be used is a note with a reason, and never ends the rest.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom

from protosam.dicom.faults import DAMAGED
from protosam.dicom.quiet import quiet_headers
from protosam.errors import InvalidInput, UnreadableFile
from protosam.storage import storage_failure

DICOMDIR = "DICOMDIR"

LIST_ENDING = ".filelist"
"""Ending of a text file in UTF-8 that names one file in each line, as programs write it that keep
a database of files."""


@dataclass(frozen=True)
class Limits:
    """What is still taken; the defaults hold a 4D study of a whole body."""

    files: int = 200_000
    """Most files of a folder or an archive."""
    file_bytes: int = 8 << 30
    """Largest unpacked file of an archive."""
    total_bytes: int = 64 << 30
    """Largest sum of an archive's unpacked files."""
    spare_bytes: int = 256 << 20
    """Space that stays free on the disk of the temporary folder."""


@dataclass(frozen=True)
class FileNote:
    """One file that was not used."""

    name: str
    """Its path, within the folder or archive."""
    reason: str
    """Why, as a sentence."""


@dataclass(frozen=True)
class Files:
    """What was found under one source."""

    paths: tuple[Path, ...]
    """Sorted; regular files."""
    notes: tuple[FileNote, ...] = ()
    """What was left out."""
    root: Path | None = None
    """Folder that names in notes start from."""


@contextmanager
def files_of(source: str | Path, limits: Limits | None = None) -> Iterator[Files]:
    """Files of a folder, a zip, a DICOMDIR, a list, or one file; valid while the block runs.

    Parameters
    ----------
    source : path
        What the user pointed at.
    limits : Limits, optional
        Bounds against archives that unpack without end.

    Raises
    ------
    UnreadableFile
        It is not there, or a broken archive or DICOMDIR.
    InvalidInput
        It holds more than the limits allow.
    StorageFailure
        No space to unpack.
    """
    path, bounds = Path(source), limits or Limits()
    if path.is_dir():
        yield _folder(path, bounds)
    elif not path.is_file():
        raise UnreadableFile(f"There is no file or folder {path}.", "Check the path.")
    elif path.name.upper() == DICOMDIR:
        yield _media(path)
    elif path.name.endswith(LIST_ENDING):
        yield _listed(path, bounds)
    elif zipfile.is_zipfile(path):
        with tempfile.TemporaryDirectory(prefix="protosam-dicom-") as folder:
            yield _unpacked(path, Path(folder), bounds)
    else:
        yield Files((path,), root=path.parent)


def _folder(root: Path, limits: Limits) -> Files:
    paths: list[Path] = []
    notes: list[FileNote] = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if name.upper() == DICOMDIR:
                continue  # a list of the files that are walked through anyway
            if not path.is_file():  # a pipe or a socket would wait for ever
                reason = "It is not a regular file."
                notes.append(FileNote(path.relative_to(root).as_posix(), reason))
                continue
            paths.append(path)
            if len(paths) > limits.files:
                raise InvalidInput(
                    f"The folder holds more than {limits.files} files.",
                    "Choose the folder of one study.",
                )
    return Files(tuple(sorted(paths)), tuple(notes), root)


def _listed(path: Path, limits: Limits) -> Files:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(
            f"The list {path.name} cannot be read.", "Write one path a line, in UTF-8."
        ) from error
    named = sorted({(path.parent / line).absolute() for line in lines if line.strip()})
    if len(named) > limits.files:
        raise InvalidInput(
            f"The list names more than {limits.files} files.", "List the files of one study."
        )
    there = tuple(one for one in named if one.is_file())
    gone = len(named) - len(there)
    notes = [FileNote(path.name, "A file of the list is not there.") for _ in range(gone)]
    return Files(there, tuple(notes))


def _media(path: Path) -> Files:
    """Files that a DICOMDIR lists; it may name only what lies beside and below it."""
    try:
        with quiet_headers():
            ids = [
                one.get("ReferencedFileID") for one in pydicom.dcmread(path).DirectoryRecordSequence
            ]
    except DAMAGED as error:
        raise UnreadableFile(
            f"{path.name} is not a DICOM directory.", "Choose the folder that it lies in."
        ) from error
    root = path.parent
    found: dict[Path, None] = {}
    notes: list[FileNote] = []
    for value in ids:
        if not value:
            continue
        parts = [value] if isinstance(value, str) else [str(part) for part in value]
        there = _below(root, parts)
        if there is None:
            notes.append(FileNote("/".join(parts), "The DICOMDIR lists it, but it is not there."))
        else:
            found[there] = None
    return Files(tuple(found), tuple(notes), root)


def _below(root: Path, parts: list[str]) -> Path | None:
    """Find a listed file; media written in capitals are often copied in small letters."""
    if any(part in ("", ".", "..") or "/" in part or "\\" in part for part in parts):
        return None
    path = root
    for part in parts:
        spelled = (path / name for name in (part, part.lower(), part.upper()))
        path = next((one for one in spelled if one.exists()), path / part)
    return path if path.is_file() else None


def _unpacked(path: Path, folder: Path, limits: Limits) -> Files:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [one for one in archive.infolist() if not one.is_dir()]
            _refuse_flood(members, folder, limits)
            return _members(archive, members, folder)
    except zipfile.BadZipFile as error:
        raise UnreadableFile(
            f"{path.name} is a damaged archive.", "Fetch or export it again."
        ) from error


def _members(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path) -> Files:
    paths: list[Path] = []
    notes: list[FileNote] = []
    for number, member in enumerate(members):
        if Path(member.filename).name.upper() == DICOMDIR:
            continue
        target = folder / f"{number:06d}"
        reason = _unpack(archive, member, target)
        if reason or zipfile.is_zipfile(target):
            notes.append(
                FileNote(member.filename, reason or "It is an archive within the archive.")
            )
            target.unlink(missing_ok=True)
        else:
            paths.append(target)
    return Files(tuple(paths), tuple(notes), folder)


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> str:
    """Write one member; why not, or ''."""
    try:
        # zipfile gives out no more bytes than the sizes that were checked say.
        with archive.open(member) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError):
        return "It is damaged."
    except NotImplementedError:
        return "It is packed by a method that is not known here."
    except RuntimeError:
        return "It is encrypted."
    except OSError as error:
        raise storage_failure(target, error) from error
    return ""


def _refuse_flood(members: list[zipfile.ZipInfo], folder: Path, limits: Limits) -> None:
    total = sum(one.file_size for one in members)
    largest = max((one.file_size for one in members), default=0)
    room = shutil.disk_usage(folder).free - limits.spare_bytes
    bounds = (
        (len(members), limits.files, "files"),
        (largest, limits.file_bytes, "bytes in one file"),
        (total, limits.total_bytes, "bytes in all"),
        (total, room, "bytes, which the temporary folder has no room for"),
    )
    for given, bound, what in bounds:
        if given > bound:
            raise InvalidInput(
                f"The archive would unpack to {given} {what}; at most {bound} are accepted.",
                "Unpack it yourself and choose the folder of one study.",
            )
