"""Losses of the built-in model's training.

Logits and targets are on the half grid; targets are soft (a cell half covered is 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from protosam.models.tiny import Masks

BCE_WEIGHT = 2.0
"""Weight of cross-entropy against Dice."""

IOU_WEIGHT = 0.5
"""Weight of the score's loss."""

PRESENCE_WEIGHT = 0.5
"""Weight of the presence output's loss."""

ALL_READINGS_WEIGHT = 0.1
"""Share of every reading's loss beside the best one's, so that no reading dies."""


@dataclass(frozen=True, eq=False)
class LossParts:
    """Total loss and what it is made of, means over the objects."""

    total: torch.Tensor
    mask: float
    iou: float
    presence: float


def mask_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Dice plus weighted cross-entropy.

    Parameters
    ----------
    logits : (..., h, w)
    target : (..., h, w) in 0..1, broadcastable to `logits`

    Returns
    -------
    (...)
        Soft Dice loss (Milletari et al. 2016, doi 10.1109/3DV.2016.79, eq. 1, without squares)
        plus `BCE_WEIGHT` times the mean cross-entropy. An empty target has no Dice term.
    """
    target = target.expand_as(logits)
    probability = torch.sigmoid(logits)
    overlap = (probability * target).sum(dim=(-2, -1))
    sizes = probability.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1))
    dice = 1 - (2 * overlap + 1) / (sizes + 1)
    not_empty = target.amax(dim=(-2, -1)) >= 0.5
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(-2, -1))
    return dice * not_empty + BCE_WEIGHT * bce


def hard_iou(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Intersection over union of thresholded masks (..., h, w); two empty masks have IoU 1."""
    found, wanted = logits > 0, target.expand_as(logits) >= 0.5
    union = (found | wanted).sum(dim=(-2, -1))
    overlap = (found & wanted).sum(dim=(-2, -1))
    return torch.where(union > 0, overlap / union.clamp_min(1), torch.ones_like(union) * 1.0)


def prompt_loss(masks: Masks, target: torch.Tensor, single: torch.Tensor) -> LossParts:
    """Loss of one round of answers.

    Parameters
    ----------
    masks : Masks
        Decoder output of ``n`` objects.
    target : (n, h, w) in 0..1
    single : (n,) bool
        True for a single click: the best of masks 1-3 counts (SAM, appendix A) besides mask 0.
    """
    losses = mask_loss(masks.logits, target.unsqueeze(1))  # (n, 4)
    readings = losses[:, 1:]
    best = readings.amin(dim=1) + ALL_READINGS_WEIGHT * readings.mean(dim=1)
    chosen = torch.where(single, best + losses[:, 0], losses[:, 0])
    with torch.no_grad():
        actual_iou = hard_iou(masks.logits, target.unsqueeze(1))
    score = F.binary_cross_entropy_with_logits(masks.iou, actual_iou)
    present = (target.amax(dim=(-2, -1)) >= 0.5).float()
    presence = F.binary_cross_entropy_with_logits(masks.presence, present)
    total = chosen.mean() + IOU_WEIGHT * score + PRESENCE_WEIGHT * presence
    return LossParts(
        total, chosen.detach().mean().item(), score.detach().item(), presence.detach().item()
    )
