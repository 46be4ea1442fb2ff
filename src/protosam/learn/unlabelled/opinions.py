"""What the frozen model's opinions of an image come to: one target, and how sure it is.

Owns how opinions are joined and weighed. SemiSAM (arXiv 2312.06316) takes one, as it is. SemiSAM+
(arXiv 2502.20749) takes several and weighs voxels by how much they differ; its released code
multiplies by the variance, so that the least certain voxels count most. Here the weight is
exp(-8 u) of the variance u, and 0.13 where opinions differ most. Opinions are joined with
weights of their own, their Dice with the small network's answer.

Arrays are (d, h, w) on the working grid. The small network's answer comes in without gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from protosam.errors import InvalidInput

SHARPNESS = 8.0
"""Of the weight: exp(-SHARPNESS u); the variance u of probabilities is at most about 0.25."""


@dataclass(frozen=True, eq=False)
class Assistance:
    """What generalists say of one image.

    Attributes
    ----------
    target : (labels, d, h, w) float tensor
        Probability of each object.
    weight : (1, d, h, w) float tensor
        How much each voxel counts, 0..1; 0 where nobody was asked.
    """

    target: torch.Tensor
    weight: torch.Tensor


def single(opinion: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Target and weight of one opinion, as SemiSAM has it: yes or no, all voxels alike."""
    asked = opinion.isfinite()
    return (opinion > 0.5).float(), asked.float()


def joined(
    opinions: Sequence[torch.Tensor], believed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Target and weight of several opinions, as SemiSAM+ means it.

    Parameters
    ----------
    opinions : sequence of (d, h, w) tensor
        Probabilities, NaN where not asked.
    believed : (d, h, w) tensor
        The small network's.

    Raises
    ------
    InvalidInput
        When there is no opinion.
    """
    if not opinions:
        raise InvalidInput("There is no opinion to join.", "Leave such images out.")
    stack = torch.stack([*opinions])  # (n, d, h, w)
    asked = stack.isfinite()
    known = torch.where(asked, stack, torch.zeros(()))
    trust = torch.stack([_dice(one > 0.5, believed > 0.5) for one in known]) + 1e-3
    shares = asked * trust[:, None, None, None]
    total = shares.sum(dim=0)
    target = (known * shares).sum(dim=0) / total.clamp_min(1e-6)
    every = torch.cat([stack, believed[None]])  # the small network's own answer is one of them
    weight = confidence(variance(every)) * (total > 0)
    return target, weight


def confidence(spread: torch.Tensor) -> torch.Tensor:
    """Weight of voxels by the variance of opinions: the less they differ, the more."""
    return torch.exp(-SHARPNESS * spread)


def variance(stack: torch.Tensor) -> torch.Tensor:
    """Variance over the first axis of what is not NaN there."""
    there = stack.isfinite()
    count = there.sum(dim=0).clamp_min(1)
    known = torch.where(there, stack, torch.zeros(()))
    mean = known.sum(dim=0) / count
    return (((known - mean) ** 2) * there).sum(dim=0) / count


def _dice(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    total = one.sum() + other.sum()
    return 2 * (one & other).sum() / total if total else torch.ones(())
