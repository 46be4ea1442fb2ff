"""Pseudo-labels for slices without labels, let through by prototypes.

A model's own answer teaches it only where two judges agree: the decoder, by a confidence that is
asked for, and the prototypes of the classes, by the looks of the tokens (`PrototypeBank`); never
in a band round the answer's edge, where both are guesses. After ProtoSAM, whose released code has
the parts and never connects them; schedules after mean-teacher training (Tarvainen and Valpola
2017, arXiv:1703.01780; ramp of Laine and Aila 2017, arXiv:1610.02242).

Masks are (..., h, w). Knows nothing of networks and optimisers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from protosam.errors import InvalidInput

CONFIDENT_FIRST, CONFIDENT_LAST = 0.9, 0.7
"""Probability that a pixel needs, at the beginning and at the end of a training."""

RAMP = 0.4
"""Share of a training over which the weight of the unlabelled term rises."""

EDGE = 1
"""Pixels on either side of the answer's edge that teach nothing (a 3x3 dilation and erosion)."""


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """What an answer may teach.

    Attributes
    ----------
    target : (..., h, w) float32
        0 or 1.
    weight : (..., h, w) float32
        1 where the pixel teaches, else 0.
    """

    target: torch.Tensor
    weight: torch.Tensor

    @property
    def share(self) -> float:
        """Share of the pixels that teach; a fall to 0 or a rise to 1 is a warning."""
        return float(self.weight.mean())


@dataclass(frozen=True)
class PseudoSettings:
    """How strict the gate is."""

    confident_first: float = CONFIDENT_FIRST
    confident_last: float = CONFIDENT_LAST
    largest_weight: float = 0.5
    """Weight of the unlabelled term at the end of its rise."""
    edge: int = EDGE

    def __post_init__(self) -> None:
        for name in ("confident_first", "confident_last"):
            value = getattr(self, name)
            if not 0.5 <= value < 1:
                raise InvalidInput(
                    f"{name} is {value}, wanted from 0.5 to below 1.",
                    "Give the probability that a pixel needs to teach.",
                )
        if not (math.isfinite(self.largest_weight) and self.largest_weight >= 0) or self.edge < 0:
            raise InvalidInput(
                f"The largest weight is {self.largest_weight} and the edge {self.edge} pixels; "
                "wanted are 0 or more.",
            )

    def confidence_at(self, progress: float) -> float:
        """Probability that a pixel needs when so much (0..1) of the training is done."""
        return self.confident_first + (self.confident_last - self.confident_first) * progress

    def weight_at(self, progress: float) -> float:
        """Weight of the unlabelled term: largest * exp(-5 (1 - t / T)^2) with T = `RAMP`."""
        rest = 1 - min(1.0, progress / RAMP)
        return self.largest_weight * math.exp(-5 * rest**2)


def gated_labels(
    logits: torch.Tensor,
    log_odds: torch.Tensor,
    settings: PseudoSettings,
    progress: float,
) -> PseudoLabels:
    """Pseudo-labels of answers.

    Parameters
    ----------
    logits : (..., h, w) tensor
        The decoder's answer; no gradient goes through it.
    log_odds : (..., h, w) tensor
        Memberships of the prototypes on the same pixels, above 0 for the object.
    settings : PseudoSettings
    progress : float
        Part of the training that is done, 0..1.

    Raises
    ------
    InvalidInput
        When the two differ in shape, or `progress` is out of range.
    """
    if logits.shape != log_odds.shape or logits.ndim < 2:
        raise InvalidInput(
            f"Logits of shape {tuple(logits.shape)} came with memberships of shape "
            f"{tuple(log_odds.shape)}; wanted is one shape (..., h, w).",
            "Spread the memberships to the pixels of the logits.",
        )
    if not 0 <= progress <= 1:
        raise InvalidInput(f"The progress is {progress}, wanted from 0 to 1.")
    probability = torch.sigmoid(logits.detach().float())
    inside = probability > 0.5
    sure = torch.maximum(probability, 1 - probability) >= settings.confidence_at(progress)
    agreed = inside == (log_odds.detach() > 0)
    teaches = sure & agreed & ~edge_band(inside, settings.edge)
    return PseudoLabels(inside.float(), teaches.float())


def edge_band(mask: torch.Tensor, reach: int) -> torch.Tensor:
    """Pixels within `reach` of the edge of masks (..., h, w) bool: dilation less erosion."""
    if reach == 0:
        return torch.zeros_like(mask)
    flat = mask.float().reshape(-1, 1, *mask.shape[-2:])
    size = 2 * reach + 1
    dilated = F.max_pool2d(flat, size, stride=1, padding=reach)
    eroded = -F.max_pool2d(-flat, size, stride=1, padding=reach)
    return ((dilated - eroded) > 0).reshape(mask.shape)


def pseudo_loss(logits: torch.Tensor, labels: PseudoLabels) -> torch.Tensor:
    """Half Dice, half cross-entropy, over the pixels that teach.

    Parameters
    ----------
    logits : (..., h, w) tensor
        Of the network that learns, for the same pixels.
    labels : PseudoLabels

    Returns
    -------
    0-d tensor
        0, with a gradient of 0, where nothing teaches.
    """
    weight, target = labels.weight, labels.target
    probability = torch.sigmoid(logits) * weight
    wanted = target * weight
    overlap = (probability * wanted).sum()
    dice = 1 - (2 * overlap + 1) / (probability.sum() + wanted.sum() + 1)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return 0.5 * dice + 0.5 * (entropy * weight).sum() / weight.sum().clamp_min(1)
