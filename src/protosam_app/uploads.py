"""Files that come from the page: where they are kept, how large they may be, how they are unpacked.

Rules
-----
* They lie in one folder that only this user can read and that is removed at the end.
* Names from outside are cut to their last part and to harmless letters; nothing that a name or an
  archive says leads out of the folder.
* Sizes are counted while bytes arrive, never believed.
"""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from protosam.errors import InvalidInput, StorageFailure, UnreadableFile

CHUNK = 1 << 20
"""Bytes that are copied at a time."""


@dataclass(frozen=True)
class Limits:
    """How much may come in."""

    upload_bytes: int = 4 << 30
    """In one upload, all files together."""
    unpacked_bytes: int = 8 << 30
    """Out of one archive."""
    files: int = 20_000
    """In one upload or archive."""


class Inbox:
    """The folder for files from the page.

    Parameters
    ----------
    limits : Limits, optional
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._folder = tempfile.TemporaryDirectory(prefix="protosam-", ignore_cleanup_errors=True)
        self.path = Path(self._folder.name)

    def close(self) -> None:
        """Remove everything."""
        self._folder.cleanup()

    def new_folder(self) -> Path:
        """Make an empty folder for one upload or archive."""
        return Path(tempfile.mkdtemp(dir=self.path))

    def remove(self, folder: Path) -> None:
        """Remove what `new_folder` made."""
        if self.path in folder.parents:
            shutil.rmtree(folder, ignore_errors=True)

    async def save(
        self, folder: Path, name: str, chunks: AsyncIterator[bytes], *, taken_bytes: int = 0
    ) -> int:
        """Write one file of an upload; return how many bytes the upload has now.

        Parameters
        ----------
        folder : Path
            From `new_folder`.
        name : str
            As the browser sent it.
        chunks : async iterator of bytes
        taken_bytes : int
            Of the upload's earlier files.

        Raises
        ------
        InvalidInput
            The upload is too large or has too many files.
        StorageFailure
            The disk is full.
        """
        if sum(1 for _ in folder.iterdir()) >= self.limits.files:
            raise _too_many(self.limits.files)
        target = _free_path(folder / safe_name(name))
        try:
            with target.open("xb") as file:
                async for chunk in chunks:
                    taken_bytes += len(chunk)
                    if taken_bytes > self.limits.upload_bytes:
                        raise _too_large(self.limits.upload_bytes)
                    file.write(chunk)
        except OSError as error:
            raise _no_room(self.path) from error
        return taken_bytes

    def unpack(self, archive: Path) -> Path:
        """Unpack an archive into a new folder.

        Every file is written under its last name, numbered where two share one, so that no path in
        the archive matters; links and other special entries are left out.

        Raises
        ------
        UnreadableFile
            It is no archive, is damaged or needs a password.
        InvalidInput
            It holds too much.
        StorageFailure
            The disk is full.
        """
        folder = self.new_folder()
        try:
            with zipfile.ZipFile(archive) as opened:
                self._extract(opened, folder)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise UnreadableFile("The archive is damaged.", "Pack it again.") from error
        except RuntimeError as error:  # what zipfile raises for a password
            raise UnreadableFile(
                "The archive needs a password.", "Unpack it, then open the folder."
            ) from error
        except OSError as error:
            raise _no_room(self.path) from error
        return folder

    def _extract(self, opened: zipfile.ZipFile, folder: Path) -> None:
        entries = [one for one in opened.infolist() if _is_plain(one)]
        if len(entries) > self.limits.files:
            raise _too_many(self.limits.files)
        room = self.limits.unpacked_bytes
        for entry in entries:
            target = _free_path(folder / safe_name(entry.filename))
            with opened.open(entry) as source, target.open("xb") as file:
                while chunk := source.read(CHUNK):
                    room -= len(chunk)
                    if room < 0:
                        raise _too_large(self.limits.unpacked_bytes)
                    file.write(chunk)


def safe_name(name: str) -> str:
    """Last part of a name, of letters, digits and ``._- ()`` only, at most 120 of them."""
    last = PurePosixPath(name.replace("\\", "/")).name
    kept = "".join(one if one.isalnum() or one in "._- ()" else "_" for one in last)
    kept = kept.strip(". ")[-120:].lstrip(". ")
    return kept or "file"


def _free_path(path: Path) -> Path:
    if not path.exists():
        return path
    numbers = range(2, 1_000_000)
    return next(free for n in numbers if not (free := path.with_name(f"{n}_{path.name}")).exists())


def _is_plain(entry: zipfile.ZipInfo) -> bool:
    mode = entry.external_attr >> 16
    is_special = mode != 0 and stat.S_IFMT(mode) not in (0, stat.S_IFREG)
    name = PurePosixPath(entry.filename.replace("\\", "/")).name
    return not (entry.is_dir() or is_special or name.startswith(".") or not name)


def _too_large(limit: int) -> InvalidInput:
    return InvalidInput(
        f"That is more than {limit / 2**30:.3g} GB.",
        "Start `protosam app` with the file's name instead: it is read from the disk then.",
    )


def _too_many(limit: int) -> InvalidInput:
    return InvalidInput(f"Those are more than {limit} files.", "Choose the folder of one series.")


def _no_room(folder: Path) -> StorageFailure:
    free_mb = shutil.disk_usage(folder.parent).free / 2**20
    return StorageFailure(
        f"The files could not be kept; {free_mb:.0f} MB are free for temporary files.",
        "Free some space, then try again.",
    )
