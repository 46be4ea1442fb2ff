"""Answers of a model, kept so that a question that was asked before costs nothing.

Every request carries all of its prompts and is answered from the first one on, so most questions
of a request are those of the request before it, which had one click less. The key of an answer
holds all that it depends on: the embedding's key and the very prompts, the priors among them. So
nothing has to be invalidated, and an answer from here is the one that the model would give.
Knows nothing of volumes and slices.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from protosam.models.embeddings import EmbeddingKey
from protosam.models.slice_model import SliceAnswer, SlicePrompts

DEFAULT_LIMIT_BYTES = 1 << 28
"""Memory for answers; an object of 100 slices with ten clicks needs about a third of it."""


@dataclass(frozen=True)
class AnswerKey:
    """All that an answer depends on."""

    embedding: EmbeddingKey
    prompts: bytes
    """Digest of the prompts, by `prompts_digest`."""


class AnswerCache:
    """Least-recently-used store of answers, limited in bytes.

    Parameters
    ----------
    limit_bytes : int
        The newest answer is kept even if it alone is larger.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[AnswerKey, SliceAnswer] = OrderedDict()
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the logits that are held."""
        return self._nbytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: AnswerKey) -> SliceAnswer | None:
        """Answer to a question, or None; makes it the newest."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: AnswerKey, answer: SliceAnswer) -> None:
        """Keep an answer, dropping the oldest ones where the limit is passed."""
        old = self._entries.pop(key, None)
        self._nbytes += answer.logits.nbytes - (0 if old is None else old.logits.nbytes)
        self._entries[key] = answer
        while self._nbytes > self._limit_bytes and len(self._entries) > 1:
            _, dropped = self._entries.popitem(last=False)
            self._nbytes -= dropped.logits.nbytes

    def forget_volume(self, uid: str) -> None:
        """Drop all answers for a volume that was closed."""
        for key in [k for k in self._entries if k.embedding.volume_uid == uid]:
            self._nbytes -= self._entries.pop(key).logits.nbytes

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
        self._nbytes = 0


def prompts_digest(prompts: SlicePrompts) -> bytes:
    """Digest of clicks, box and priors; equal only for the same question (16 bytes)."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (
        prompts.points_rc,
        prompts.positive,
        prompts.box_rc,
        prompts.prior_logits,
        prompts.neighbour_logits,
    ):
        if part is None:
            digest.update(b"none;")
        else:
            digest.update(f"{part.dtype.str}{part.shape};".encode())
            digest.update(np.ascontiguousarray(part).data)
    return digest.digest()
