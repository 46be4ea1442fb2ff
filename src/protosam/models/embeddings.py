"""Embeddings of slices: made where needed, kept while there is room, never stale.

Every key holds all that an embedding depends on: the voxels (by the volume's uid, a digest of
its content), the window, the model with its adapter (by digest), the kind of device, axis, slice
and rectangle. So nothing has to be invalidated; what is no longer asked for falls out at the old
end. On disk, where entries outlive the process that can vouch for the uid, the name of an entry
also holds the very pixels that the encoder sees, and the versions of the software.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from protosam import __version__
from protosam.errors import InvalidInput
from protosam.models.disk_cache import DiskStore
from protosam.models.lru import LruStore
from protosam.models.planes import Planes, Rect
from protosam.models.slice_model import SliceEmbedding, SliceModel, WorksAhead

DEFAULT_LIMIT_BYTES = 1 << 30
"""Memory for embeddings: about 800 slices of the built-in model in bfloat16."""

DISK_FORMAT = 1
"""Part of every name on disk; raised whenever `SliceModel.pack` gives other tensors."""

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddingKey:
    """All that an embedding depends on."""

    model_digest: str
    device_type: str
    """An embedding lies on its device, and other devices round in other ways."""
    volume_uid: str
    window: tuple[float, float]
    axis: int
    index: int
    rect: Rect


class EmbeddingCache(LruStore[EmbeddingKey, SliceEmbedding]):
    """Least-recently-used store of embeddings, limited in bytes.

    Parameters
    ----------
    limit_bytes : int
        The newest entry is kept even if it alone is larger.
    disk : DiskStore, optional
        Where embeddings of models that say `worth_storing` are kept as well.
    """

    def __init__(
        self, limit_bytes: int = DEFAULT_LIMIT_BYTES, disk: DiskStore | None = None
    ) -> None:
        super().__init__(limit_bytes, lambda embedding: embedding.nbytes)
        self.disk = disk

    def forget_volume(self, uid: str) -> None:
        """Drop everything of a volume that was closed from memory; the disk keeps its own."""
        self.drop_where(lambda key: key.volume_uid == uid)


class Embedder:
    """Embeds slices of one volume with one model, through a cache.

    Parameters
    ----------
    model : SliceModel
    planes : Planes
    cache : EmbeddingCache
    one_at_a_time : bool
        Never give the model more than one slice at once, to save memory.
    """

    def __init__(
        self,
        model: SliceModel,
        planes: Planes,
        cache: EmbeddingCache,
        *,
        one_at_a_time: bool = False,
    ) -> None:
        self._model, self._planes, self._cache = model, planes, cache
        self._batch_size = 1 if one_at_a_time else model.batch_size
        self._worker: WorksAhead | None = None
        if not one_at_a_time and isinstance(model, WorksAhead) and model.lookahead > 0:
            self._worker = model
        self._begun: dict[EmbeddingKey, Future[SliceEmbedding]] = {}

    def has(self, index: int, rect: Rect) -> bool:
        """Whether the embedding of a slice is there already; brings it in from the disk."""
        return self._find(index, rect) is not None

    def get(self, index: int, rect: Rect) -> SliceEmbedding:
        """Embedding of a rectangle of a slice, made now if it is not there."""
        found = self._find(index, rect)
        if found is None:
            (found,) = self._make([index], rect)
        return found

    def prefetch(self, indices: Sequence[int], rect: Rect) -> None:
        """Embed the next slices: beside the caller's work, or in one batch.

        In a batch it is done now, and only if the first of them is not there.
        """
        if self._worker is not None:
            self._begin(self._worker, indices[: 1 + self._worker.lookahead], rect)
        elif indices and not self.has(indices[0], rect):
            near = indices[: self._batch_size]
            self._make([z for z in near if not self.has(z, rect)], rect)

    def _begin(self, worker: WorksAhead, indices: Sequence[int], rect: Rect) -> None:
        """Have these embeddings made; what was begun for others and still waits is dropped."""
        wanted = {self._key(z, rect): z for z in indices}
        for key in [k for k in self._begun if k not in wanted]:
            if self._begun[key].cancel() or self._begun[key].done():
                del self._begun[key]
        for key, z in wanted.items():
            if key not in self._begun and self._cache.get(key) is None:
                stack = self._stack(z, rect)
                self._begun[key] = worker.embed_later(stack, self._planes.spacing_rc_mm)

    def _find(self, index: int, rect: Rect) -> SliceEmbedding | None:
        key = self._key(index, rect)
        begun = self._begun.pop(key, None)
        if begun is not None:
            self._cache.put(key, begun.result())
        found = self._cache.get(key)
        if found is None and self._disk is not None:
            found = self._read(self._disk, key)
            if found is not None:
                self._cache.put(key, found)
        return found

    def _make(self, indices: Sequence[int], rect: Rect) -> Sequence[SliceEmbedding]:
        stacks = np.stack([self._stack(z, rect) for z in indices])
        made = self._model.embed(stacks, self._planes.spacing_rc_mm)
        for index, embedding in zip(indices, made, strict=True):
            key = self._key(index, rect)
            self._cache.put(key, embedding)
            if self._disk is not None:
                self._disk.write_later(self._name_on_disk(key), self._model.pack(embedding))
        return made

    def _read(self, disk: DiskStore, key: EmbeddingKey) -> SliceEmbedding | None:
        name = self._name_on_disk(key)
        tensors = disk.read(name)
        if tensors is None:
            return None
        try:
            return self._model.unpack(tensors)
        except InvalidInput as error:
            _LOGGER.warning("The entry %s on disk was deleted. %s", name, error)
            disk.drop(name)
            return None

    @property
    def _disk(self) -> DiskStore | None:
        return self._cache.disk if self._model.worth_storing else None

    def _name_on_disk(self, key: EmbeddingKey) -> str:
        """Digest of the key, the encoder's whole input and the software."""
        facts = (DISK_FORMAT, __version__, torch.__version__, key, self._planes.spacing_rc_mm)
        digest = hashlib.blake2b(repr(facts).encode(), digest_size=20)
        digest.update(self._stack(key.index, key.rect).data)
        return digest.hexdigest()

    def _stack(self, index: int, rect: Rect) -> npt.NDArray[np.float32]:
        return self._planes.stack(index, rect, self._model.context_slices)

    def _key(self, index: int, rect: Rect) -> EmbeddingKey:
        window = self._planes.window
        return EmbeddingKey(
            self._model.digest,
            self._model.device.type,
            self._planes.volume.uid,
            (window.low, window.high),
            self._planes.axis,
            index,
            rect,
        )
