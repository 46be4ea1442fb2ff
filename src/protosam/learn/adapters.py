"""The folder of adapters: versions of each, which one is active, and what is known of them.

Owns who changes it, and how; the form of an adapter's folder is `models.adapter_folder`'s, that of
the card in each version `adapter_cards`'. A version appears complete or not at all and is never
changed; another one becomes active by replacing one small file. A program that is killed at any
moment leaves the old adapter active. Pictures in a version's folder show patients' images and do
not leave it: an export is a copy without them. Knows nothing of tensors and models, and takes no
time to import. Speaks no coordinates.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from protosam.errors import InvalidInput, StorageFailure
from protosam.learn.adapter_cards import (
    CARD,
    PICTURES,
    AdapterCard,
    read_card,
    verify_files,
    write_card,
)
from protosam.models.adapter_folder import (
    ACTIVE,
    FORMAT,
    ActiveNote,
    loadable,
    read_active,
    version_folder,
    version_numbers,
)
from protosam.models.weights import make_folder, user_folder
from protosam.storage import atomic_path, storage_failure

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class AdapterVersion:
    """A version in the folder."""

    name: str
    number: int
    folder: Path
    card: AdapterCard
    active: bool

    @property
    def path(self) -> Path:
        """What ``--adapter`` takes: the folder of a LoRA, or the file of a shift."""
        return loadable(self.folder)

    @property
    def pictures(self) -> tuple[Path, ...]:
        """Pictures of what it has changed."""
        return tuple(sorted(self.folder.glob(PICTURES)))


def adapters_folder(given: Path | None = None) -> Path:
    """Folder of the adapters: the one that is given, else the user's own."""
    return user_folder().parent / "adapters" if given is None else given


class AdapterStore:
    """All adapters of a folder.

    Parameters
    ----------
    folder : Path, optional
        Made when something is first written; the user's own if None.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = adapters_folder(folder)

    def names(self) -> tuple[str, ...]:
        """Names of all adapters that have a version."""
        if not self.folder.is_dir():
            return ()
        found = (path.name for path in sorted(self.folder.iterdir()) if path.is_dir())
        return tuple(
            name for name in found if _NAME.fullmatch(name) and version_numbers(self.folder / name)
        )

    def versions(self, name: str) -> tuple[AdapterVersion, ...]:
        """All versions of an adapter, oldest first.

        Raises
        ------
        InvalidInput
            When there is no such adapter.
        WeightsRefused
            When a version's card cannot be read.
        """
        return tuple(self._read(name, number) for number in self._numbers(name))

    def version(self, name: str, number: int | None = None) -> AdapterVersion:
        """One version; the active one if no number is given.

        Raises
        ------
        InvalidInput
            When there is none, or none is active.
        """
        numbers = self._numbers(name)
        wanted = read_active(self.folder / name).version if number is None else number
        if wanted is not None and wanted in numbers:
            return self._read(name, wanted)  # alone: a damaged one beside it is no reason to refuse
        has = ", ".join(str(one) for one in numbers)
        what = "no active version" if number is None else f"no version {number}"
        raise InvalidInput(
            f"The adapter {name!r} has {what}.",
            f"It has {has}; `protosam adapters activate {name} --version N` makes one active.",
        )

    def active_path(self, name: str) -> Path | None:
        """Path of the active version, for ``--adapter``; None where there is none."""
        if not _NAME.fullmatch(name) or read_active(self.folder / name).version is None:
            return None
        return self.version(name).path

    def add(
        self, name: str, card: AdapterCard, write: Callable[[Path], None], *, activate: bool
    ) -> AdapterVersion:
        """Add a version.

        Parameters
        ----------
        name : str
        card : AdapterCard
        write : (folder) -> None
            Writes the adapter's own files into a new, empty folder.
        activate : bool
            Whether it becomes the active one.

        Raises
        ------
        StorageFailure
            When it cannot be written; nothing has changed then.
        """
        place = self.folder / checked_name(name)
        make_folder(place)
        with self._held(name):
            for left in (*place.glob(".new-*"), *place.glob(".gone-*")):  # by a killed program
                shutil.rmtree(left, ignore_errors=True)
            number = max((0, *version_numbers(place))) + 1
            self._fill(self._place(name, number), card, write)
            if activate:
                self._make_active(name, number)
        return self.version(name, number)

    def activate(self, name: str, number: int) -> AdapterVersion:
        """Make a version the active one."""
        chosen = self.version(name, number)
        verify_files(chosen.folder)
        with self._held(name):
            self._make_active(name, number)
        return self.version(name, number)

    def rollback(self, name: str) -> AdapterVersion | None:
        """Make active what was before; None where that is the bare model.

        Raises
        ------
        InvalidInput
            When nothing was active before.
        """
        self._numbers(name)
        with self._held(name):
            now = read_active(self.folder / name)
            before = [n for n in now.before if n is None or self._place(name, n).is_dir()]
            if not before:
                raise InvalidInput(
                    f"Nothing was active before the version {now.version} of {name!r}.",
                    f"`protosam adapters activate {name} --version N` chooses one.",
                )
            self._write_active(name, ActiveNote(before[-1], tuple(before[:-1])))
        return None if before[-1] is None else self.version(name)

    def discard(self, name: str, number: int) -> None:
        """Delete a version that is not active.

        Raises
        ------
        InvalidInput
            When it is active, or there is none of this number.
        StorageFailure
            When it cannot be deleted.
        """
        chosen = self.version(name, number)
        with self._held(name):
            if read_active(self.folder / name).version == number:
                raise InvalidInput(
                    f"The version {number} of {name!r} is active.",
                    f"`protosam adapters rollback {name}` first.",
                )
            gone = chosen.folder.with_name(f".gone-{chosen.folder.name}")
            try:
                chosen.folder.rename(gone)
                shutil.rmtree(gone)
            except OSError as error:
                raise storage_failure(chosen.folder, error) from error

    def export(self, name: str, target: Path, number: int | None = None) -> Path:
        """Copy a version into a new folder, which peft and ``--adapter`` can load; no pictures.

        Raises
        ------
        InvalidInput
            When the target exists.
        StorageFailure
            When it cannot be written.
        """
        chosen = self.version(name, number)
        verify_files(chosen.folder)
        if target.exists():
            raise InvalidInput(f"{target} exists already.", "Give a folder that does not exist.")
        make_folder(target.absolute().parent)
        left_out = {CARD, *(path.name for path in chosen.pictures)}

        def copy(new: Path) -> None:
            for path in sorted(chosen.folder.iterdir()):
                if path.name not in left_out:
                    shutil.copyfile(path, new / path.name)

        self._fill(target.absolute(), chosen.card, copy)
        return target

    def _numbers(self, name: str) -> tuple[int, ...]:
        numbers = tuple(version_numbers(self.folder / checked_name(name)))
        if not numbers:
            raise InvalidInput(
                f"There is no adapter {name!r} in {self.folder}.",
                f"There are: {', '.join(self.names()) or 'none yet'}.",
            )
        return numbers

    def _read(self, name: str, number: int) -> AdapterVersion:
        place, active = self._place(name, number), read_active(self.folder / name).version
        return AdapterVersion(name, number, place, read_card(place), number == active)

    def _place(self, name: str, number: int) -> Path:
        return version_folder(self.folder / name, number)

    def _fill(self, place: Path, card: AdapterCard, write: Callable[[Path], None]) -> None:
        def fill(new: Path) -> None:
            write(new)
            write_card(new, card)

        self._fill_from(place, fill)

    def _fill_from(self, place: Path, fill: Callable[[Path], None]) -> None:
        """Fill a folder under another name, then rename it."""
        temporary: Path | None = None
        try:
            temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=place.parent))
            fill(temporary)
            temporary.chmod(0o755)
            temporary.rename(place)
        except OSError as error:
            raise storage_failure(place, error) from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)

    def _make_active(self, name: str, number: int) -> None:
        now = read_active(self.folder / name)
        if now.version != number:
            self._write_active(name, ActiveNote(number, (*now.before, now.version)))

    def _write_active(self, name: str, active: ActiveNote) -> None:
        entries = {"format": FORMAT, **dataclasses.asdict(active)}
        with atomic_path(self.folder / name / ACTIVE) as temporary:
            temporary.write_text(json.dumps(entries), encoding="utf-8")

    def _held(self, name: str) -> AbstractContextManager[object]:
        return _Held(self.folder / name / ".lock", name)


class _Held:
    """Holds an adapter against other programs for moments; the system lets go of the dead's."""

    def __init__(self, path: Path, name: str) -> None:
        self._lock, self._name = FileLock(path, timeout=10.0), name

    def __enter__(self) -> None:
        try:
            self._lock.acquire()
        except Timeout as error:
            raise StorageFailure(
                f"Another program is changing the adapter {self._name!r}.", "Try again later."
            ) from error

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def checked_name(name: str) -> str:
    """Name of an adapter, if it can be one.

    Raises
    ------
    InvalidInput
        When it cannot.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} cannot be an adapter's name.",
            "Give up to 64 letters, digits, dots, dashes and underscores, a letter or digit first.",
        )
    return name
