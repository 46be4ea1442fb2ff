"""P2SAM's cascade: points, then points and logits, then points, logits and a box.

Owns how all candidates of one slice are answered in three calls of the decoder, and that clicks
of the user always win. Coordinates are (row, col) pixels of the image that was encoded. Source:
arXiv 2403.05433, cascaded post-refinement, as in PerSAM (arXiv 2305.03048).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from protosam.models.many_answers import predict_many
from protosam.models.slice_model import SliceAnswer, SliceEmbedding, SliceModel, SlicePrompts

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class UserClicks:
    """What the user has clicked in this image.

    Attributes
    ----------
    points_rc : (n, 2) float
    positive : (n,) bool
    """

    points_rc: npt.NDArray[np.floating]
    positive: BoolArray

    @classmethod
    def none(cls) -> UserClicks:
        """No click at all."""
        return cls(np.zeros((0, 2)), np.zeros(0, dtype=bool))

    def obeyed_by(self, mask: BoolArray) -> bool:
        """Whether a mask (H, W) holds all positive clicks and no negative one."""
        cells = np.floor(np.asarray(self.points_rc) + 0.5).astype(int).reshape(-1, 2)
        cells = np.clip(cells, 0, np.array(mask.shape) - 1)
        found = mask[cells[:, 0], cells[:, 1]]
        return bool((found == self.positive).all())


def with_user(found: SlicePrompts, user: UserClicks, *, near_px: float) -> SlicePrompts:
    """Join clicks that were found with the user's; near a click of the user the found one goes.

    Parameters
    ----------
    found : SlicePrompts
        With points alone.
    user : UserClicks
    near_px : float
        Found points within this distance of a user's click of the other sign are dropped.
    """
    if not len(user.points_rc):
        return found
    apart = np.linalg.norm(found.points_rc[:, None] - user.points_rc[None], axis=2)
    against = (apart < near_px) & (found.positive[:, None] != user.positive[None])
    kept = ~against.any(axis=1)
    return replace(
        found,
        points_rc=np.concatenate([user.points_rc, found.points_rc[kept]]),
        positive=np.concatenate([user.positive, found.positive[kept]]),
    )


def cascade(
    model: SliceModel, embedding: SliceEmbedding, candidates: Sequence[SlicePrompts]
) -> list[SliceAnswer]:
    """Answer candidates in three calls of the decoder, however many there are.

    Parameters
    ----------
    model : SliceModel
    embedding : SliceEmbedding
    candidates : sequence of SlicePrompts
        Points alone.

    Returns
    -------
    list of SliceAnswer
        In the order of the candidates. One whose second mask is empty gets no box; its third
        answer is its second.
    """
    first = predict_many(model, embedding, candidates)
    again = [replace(c, prior_logits=a.logits) for c, a in zip(candidates, first, strict=True)]
    second = predict_many(model, embedding, again)
    boxed: list[SlicePrompts] = []
    rows: list[int] = []
    for n, (given, answer) in enumerate(zip(candidates, second, strict=True)):
        box = tight_box(answer.logits > 0)
        if box is not None:
            boxed.append(replace(given, prior_logits=answer.logits, box_rc=box))
            rows.append(n)
    answers = list(second)
    for n, answer in zip(rows, predict_many(model, embedding, boxed), strict=True):
        answers[n] = answer
    return answers


def tight_box(mask: BoolArray) -> npt.NDArray[np.float64] | None:
    """First row, first column, last row, last column of a mask; None if it is empty."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    return np.array([rows[0], cols[0], rows[-1], cols[-1]], dtype=np.float64)
