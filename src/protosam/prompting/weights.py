"""PerSAM-F: two weights that say how large a part of the object its user means.

Owns the fit and the use of the weights. A click is ambiguous, and the model answers it with
three masks; PerSAM-F (arXiv 2305.03048, section 3.3) learns on the reference how to mix them:
``sum_j w_j logits_j`` with ``w_0 = 1 - w_1 - w_2``. The masks do not change while it learns, so
they are computed once. Masks are (H, W) of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from protosam.models.many_answers import predict_many, readings
from protosam.models.slice_model import SliceAnswer, SliceEmbedding, SliceModel, SlicePrompts
from protosam.prompting.cascade import tight_box

STEPS = 200
"""Of the optimiser. The paper takes 1000 with a rate of 1e-3; two numbers need fewer."""

RATE = 1e-2


@dataclass(frozen=True)
class MaskWeights:
    """What each of the masks of a click counts."""

    values: tuple[float, ...]

    def mix(self, masks: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        """Weighted sum of logits; of a model with one mask that mask alone."""
        if len(masks) != len(self.values):
            return masks[0]
        mixed: npt.NDArray[np.float32] = np.tensordot(
            np.array(self.values, dtype=np.float32), np.stack(masks), axes=1
        ).astype(np.float32)
        return mixed


def fit_weights(
    masks: Sequence[npt.NDArray[np.float32]], truth: npt.NDArray[np.bool_]
) -> MaskWeights:
    """Learn the weights on the reference.

    Parameters
    ----------
    masks : sequence of (H, W) float32
        Logits that the model reads from one click on the reference.
    truth : (H, W) bool

    Notes
    -----
    Loss: soft Dice plus focal loss (alpha 0.25, gamma 2), AdamW, all weights alike at first.
    """
    if len(masks) < 2:
        return MaskWeights((1.0,))
    logits = torch.from_numpy(np.stack(masks)).float()
    wanted = torch.from_numpy(truth).float()
    free = torch.full((len(masks) - 1,), 1 / len(masks), requires_grad=True)
    optimiser = torch.optim.AdamW([free], lr=RATE, eps=1e-4)
    for _ in range(STEPS):
        weights = torch.cat([1 - free.sum().view(1), free])
        loss = _loss(torch.einsum("m,mhw->hw", weights, logits), wanted)
        optimiser.zero_grad()
        torch.autograd.backward([loss])
        optimiser.step()
    found = torch.cat([1 - free.sum().view(1), free]).detach()
    return MaskWeights(tuple(float(w) for w in found))


def weighted_answer(
    model: SliceModel, embedding: SliceEmbedding, prompts: SlicePrompts, weights: MaskWeights
) -> SliceAnswer:
    """Answer a click with weighted masks, then refine it twice with the box of the mask."""
    mixed = weights.mix(readings(model, embedding, prompts))
    answer = SliceAnswer(mixed, 0.0, 1.0)
    for _ in range(2):
        box = tight_box(answer.logits > 0)
        if box is None:
            return answer
        asked = replace(prompts, prior_logits=answer.logits, box_rc=box)
        (answer,) = predict_many(model, embedding, [asked])
    return answer


def _loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    found = logits.sigmoid()
    dice = 1 - (2 * (found * wanted).sum() + 1) / (found.sum() + wanted.sum() + 1)
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    right = torch.where(wanted > 0, found, 1 - found)
    alpha = torch.where(wanted > 0, 0.25, 0.75)
    return dice + (alpha * (1 - right) ** 2 * entropy).mean()
