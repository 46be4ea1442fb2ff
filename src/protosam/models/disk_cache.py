"""Tensors on disk that can be made again: small files, limited in number of bytes, never trusted.

Rules
-----
* A file holds the tensors of one name, as safetensors, with its name, a checksum and the tensors'
  order of axes in the header. What does not fit these, or cannot be read, is deleted and counts as
  not there. A tensor comes back with the same bits and with its axes in the same order in memory:
  convolutions round differently after channels-last than after channels-first.
* A file appears whole or not at all: it is written under another name and then renamed. It is not
  flushed to the disk first; after a power cut the checksum tells.
* Writing never keeps anybody waiting: one thread writes, what does not fit into its queue is left
  out. Whatever the system refuses (no space, no permission) turns the store off for good.
* Only the owner may read the files: they are made from images of patients.
* It knows nothing of models, volumes or slices. It is safe to use from several threads, and
  several processes may share a folder.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import tempfile
import threading
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import platformdirs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from protosam.errors import InvalidInput

DEFAULT_LIMIT_BYTES = 2 << 30
"""Bytes on disk: about 500 slices of SAM at 4 MB each."""

QUEUE_LENGTH = 8
"""Entries that may wait to be written: 32 MB of SAM's."""

STALE_S = 3600.0
"""Age from which a file that was never finished belongs to a process that is gone."""

_SUFFIX = ".safetensors"
_UNFINISHED = ".part"

_LOGGER = logging.getLogger(__name__)

Tensors = Mapping[str, torch.Tensor]


def default_folder() -> Path:
    """Folder in the user's own cache, where the system expects what can be made again."""
    return Path(platformdirs.user_cache_dir("protosam", appauthor=False)) / "embeddings"


class DiskStore:
    """Tensors by name in a folder.

    Parameters
    ----------
    folder : Path
        Made, for the owner alone, when the first entry is written.
    limit_bytes : int
        The entries that were used longest ago are deleted beyond it.
    """

    def __init__(self, folder: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.folder = folder
        self._limit_bytes = limit_bytes
        self._queue: queue.Queue[tuple[str, Tensors] | None] = queue.Queue(QUEUE_LENGTH)
        self._writer: threading.Thread | None = None
        self._lock = threading.Lock()
        self._is_on, self._is_closed = True, False

    @property
    def is_on(self) -> bool:
        """Whether it still reads and writes; False after the system refused something."""
        return self._is_on

    def path(self, name: str) -> Path:
        """File of a name.

        Raises
        ------
        InvalidInput
            If the name is more than lower-case hexadecimal digits.
        """
        if not name or set(name) - set("0123456789abcdef"):
            raise InvalidInput(f"The name {name!r} is not a digest.", "Name entries by a digest.")
        return self.folder / f"{name}{_SUFFIX}"

    def read(self, name: str) -> dict[str, torch.Tensor] | None:
        """Tensors of a name, in main memory; None if there are none that can be trusted."""
        if not self._is_on:
            return None
        path = self.path(name)
        try:
            tensors = _read(path, name)
            os.utime(path)  # used now: the last to be deleted
        except FileNotFoundError:
            return None
        except (SafetensorError, ValueError) as error:
            _LOGGER.warning("%s is damaged and was deleted: %s", path, error)
            self.drop(name)
            return None
        except OSError as error:
            self._turn_off(error)
            return None
        return tensors

    def drop(self, name: str) -> None:
        """Delete an entry, if it is there."""
        try:
            self.path(name).unlink(missing_ok=True)
        except OSError as error:
            self._turn_off(error)

    def write_later(self, name: str, tensors: Tensors) -> bool:
        """Write tensors when there is time; they must not be changed any more.

        Parameters
        ----------
        name : str
            A digest of all that the tensors depend on.
        tensors : name -> tensor
            In main memory.

        Returns
        -------
        bool
            False if nothing will be written: too many others wait, or it is off or closed.

        Raises
        ------
        InvalidInput
            If the name is no digest.
        """
        self.path(name)
        with self._lock:
            if self._is_closed or not self._is_on or self._queue.full():
                return False
            if self._writer is None:
                self._writer = threading.Thread(
                    target=self._write_all, name="embeddings-to-disk", daemon=True
                )
                self._writer.start()
            self._queue.put((name, tensors))
        return True

    def wait(self) -> None:
        """Wait until everything that was accepted is written or given up."""
        self._queue.join()

    def close(self) -> None:
        """Write what is waiting, then end the thread; it can still be read."""
        with self._lock:
            self._is_closed = True
            writer, self._writer = self._writer, None
        if writer is not None:
            self._queue.put(None)
            writer.join()

    def clear(self) -> None:
        """Delete all entries."""
        self.wait()
        try:
            for entry in _entries(self.folder):
                entry.path.unlink(missing_ok=True)
        except OSError as error:
            self._turn_off(error)

    def _write_all(self) -> None:
        while (waiting := self._queue.get()) is not None:
            if self._is_on:
                self._try_to_write(*waiting)
            self._queue.task_done()
        self._queue.task_done()

    def _try_to_write(self, name: str, tensors: Tensors) -> None:
        try:
            self._write(name, tensors)
        except (OSError, MemoryError, SafetensorError, ValueError, RuntimeError) as error:
            # The last three are what `save` says of tensors that it cannot write.
            self._turn_off(error)

    def _write(self, name: str, tensors: Tensors) -> None:
        # Not `storage.atomic_path`: it flushes to the disk, and asks for the process's umask by
        # setting it, which would race with files made meanwhile on the other thread.
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        orders = {key: _order(tensor) for key, tensor in tensors.items()}
        plain = {key: t.permute(orders[key]).contiguous() for key, t in tensors.items()}
        facts = {"name": name, "orders": json.dumps(orders)}
        data = save(plain, {**facts, "crc32": _checksum(plain, facts["orders"])})
        handle, temporary = tempfile.mkstemp(suffix=_UNFINISHED, dir=self.folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(temporary).replace(self.path(name))
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
        _delete_unfinished(self.folder)
        _delete(_entries(self.folder), self._limit_bytes)

    def _turn_off(self, error: Exception) -> None:
        self._is_on = False
        _LOGGER.warning("Embeddings are no longer kept on disk in %s: %s", self.folder, error)


class _Entry(NamedTuple):
    used_ns: int
    size_bytes: int
    path: Path


def _read(path: Path, name: str) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        facts = file.metadata() or {}
        # Copied, because the file stays mapped as long as its own tensors live.
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    if facts.get("name") != name:
        raise ValueError(f"it holds the entry {facts.get('name')}")
    orders = facts.get("orders", "")
    if facts.get("crc32") != _checksum(tensors, orders):
        raise ValueError("its checksum is wrong")
    back = {key: np.argsort(order).tolist() for key, order in json.loads(orders).items()}
    return {key: tensor.permute(back[key]) for key, tensor in tensors.items()}


def _order(tensor: torch.Tensor) -> list[int]:
    """List the axes as they lie in memory, the slowest first."""
    return sorted(range(tensor.dim()), key=tensor.stride, reverse=True)


def _checksum(tensors: Tensors, orders: str) -> str:
    total = zlib.crc32(orders.encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        total = zlib.crc32(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        # As bytes, because numpy has no bfloat16.
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"


def _entries(folder: Path) -> list[_Entry]:
    """Finished files, the last used first."""
    found = [(path, _facts(path)) for path in folder.glob(f"*{_SUFFIX}")]
    entries = [_Entry(f.st_mtime_ns, f.st_size, path) for path, f in found if f is not None]
    return sorted(entries, reverse=True)


def _delete(entries: list[_Entry], limit_bytes: int) -> None:
    """Delete the entries behind those that fit into the limit."""
    total = 0
    for entry in entries:
        total += entry.size_bytes
        if total > limit_bytes:
            entry.path.unlink(missing_ok=True)


def _delete_unfinished(folder: Path) -> None:
    oldest = time.time() - STALE_S
    for path in folder.glob(f"*{_UNFINISHED}"):
        facts = _facts(path)
        if facts is not None and facts.st_mtime < oldest:
            path.unlink(missing_ok=True)


def _facts(path: Path) -> os.stat_result | None:
    """Return size and times of a file; None if another thread or process has just removed it."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None
