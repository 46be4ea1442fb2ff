"""Answers of a model, kept so that a question that was asked before costs nothing.

Every request carries all of its prompts and is answered from the first one on, so most questions
of a request are those of the request before it, which had one click less. The key of an answer
holds all that it depends on: the embedding's key and the very prompts, the priors among them. So
nothing has to be invalidated, and an answer from here is the one that the model would give.
Knows nothing of volumes and slices.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from protosam.models.embeddings import EmbeddingKey
from protosam.models.lru import LruStore
from protosam.models.slice_model import SliceAnswer, SlicePrompts

DEFAULT_LIMIT_BYTES = 1 << 28
"""Memory for answers; an object of 100 slices with ten clicks needs about a third of it."""


@dataclass(frozen=True)
class AnswerKey:
    """All that an answer depends on."""

    embedding: EmbeddingKey
    prompts: bytes
    """Digest of the prompts, by `prompts_digest`."""


class AnswerCache(LruStore[AnswerKey, SliceAnswer]):
    """Least-recently-used store of answers, limited in bytes of their logits.

    Parameters
    ----------
    limit_bytes : int
        The newest answer is kept even if it alone is larger.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        super().__init__(limit_bytes, lambda answer: answer.logits.nbytes)

    def forget_volume(self, uid: str) -> None:
        """Drop all answers for a volume that was closed."""
        self.drop_where(lambda key: key.embedding.volume_uid == uid)


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
