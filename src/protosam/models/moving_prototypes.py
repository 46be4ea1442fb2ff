"""Prototypes that move with the tokens they see, and none of which is lost.

Owns the momentum update of ProtoSAM's prototypes and the care for those that nobody uses; released
code has no such care, and all but one of its prototypes stay zero for good. Knows nothing of
encoders, images or files. Tokens are rows of a table (n, c); only their directions count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from protosam.errors import InvalidInput
from protosam.models.prototypes import (
    ROUNDING,
    finite_table,
    same_width,
    sums_by_owner,
    unit_tokens,
    with_direction,
)

MOMENTUM = 0.99
"""Largest momentum of an update."""

DEAD_BELOW = 1e-4
"""Share of the tokens below which a prototype counts as unused."""


@dataclass(frozen=True, eq=False)
class Prototypes:
    """Prototypes and what is known of their use.

    Attributes
    ----------
    directions : (k, c) float32
        Of length 1.
    usage : (k,) float32
        Moving average of the share of the tokens that are nearest to each.
    updates : int
        Updates so far; counts as many as an initialisation was worth (`momentum_at`).
    """

    directions: torch.Tensor
    usage: torch.Tensor
    updates: int = 0

    def __post_init__(self) -> None:
        shape = tuple(self.directions.shape)
        if len(shape) != 2 or 0 in shape or tuple(self.usage.shape) != shape[:1]:
            raise InvalidInput(
                f"Prototypes of shape {shape} came with a usage of shape "
                f"{tuple(self.usage.shape)}; wanted are (k, c) and (k,), k and c at least 1.",
                "Build them with `Prototypes.at`.",
            )
        if self.updates < 0:
            raise InvalidInput(f"The number of updates is {self.updates}; wanted is 0 or more.")

    @classmethod
    def at(cls, directions: torch.Tensor, updates: int = 0) -> Prototypes:
        """Prototypes at these directions (k, c), of any length but 0, each used as much.

        Raises
        ------
        InvalidInput
            When a direction is zero or not finite: a zero prototype is equally far from all
            tokens, and the tokens that it wins by a tie never leave it.
        """
        unit = unit_tokens(finite_table(directions))
        lost = int((unit.norm(dim=-1) < 0.5).sum())
        if lost:
            raise InvalidInput(
                f"{lost} of {len(unit)} prototypes are zero and have no direction.",
                "Take them from tokens with `spherical_kmeans`.",
            )
        usage = torch.full((len(unit),), 1 / max(1, len(unit)), device=unit.device)
        return cls(unit, usage, updates)

    @torch.no_grad()
    def updated(
        self,
        tokens: torch.Tensor,
        *,
        momentum: float = MOMENTUM,
        dead_below: float = DEAD_BELOW,
    ) -> Prototypes:
        """Prototypes after one more batch of tokens; these stay as they are.

        Each moves towards the mean of the unit tokens that are nearest to it and is made of
        length 1 again. One that is used less than `dead_below` moves to the token that all others
        are farthest from, so that none is lost for good.

        Parameters
        ----------
        tokens : (n, c) tensor
            Zero tokens say nothing and are left out; without others nothing changes.
        momentum : float
            From 0 to below 1; early updates have less (`momentum_at`).
        dead_below : float
            Share of the tokens; 0 leaves unused prototypes where they are.

        Raises
        ------
        InvalidInput
            When `momentum` is out of range, the channels differ, or tokens are not finite.
        """
        same_width(tokens, self.directions)
        unit = with_direction(finite_table(tokens))
        if len(unit) == 0:
            return self
        m = momentum_at(self.updates, momentum)
        k = len(self.directions)
        nearest = (unit @ self.directions.T).argmax(dim=1)  # (n,)
        counts = torch.bincount(nearest, minlength=k)
        means = sums_by_owner(unit, nearest, k) / counts.clamp_min(1).unsqueeze(-1)
        moved = m * self.directions + (1 - m) * means
        moves = (counts > 0) & (moved.norm(dim=-1) > ROUNDING)
        directions = torch.where(moves.unsqueeze(-1), F.normalize(moved, dim=-1), self.directions)
        usage = m * self.usage + (1 - m) * counts / len(unit)
        grown = Prototypes(directions, usage, self.updates + 1)
        return grown._revived(unit, dead_below)

    def _revived(self, unit: torch.Tensor, dead_below: float) -> Prototypes:
        """Put unused prototypes where no other is near; they begin with an equal share of use."""
        living = self.usage >= dead_below
        living[self.usage.argmax()] = True
        if bool(living.all()):
            return self
        directions, usage = self.directions.clone(), self.usage.clone()
        nearest = (unit @ directions[living].T).amax(dim=1)  # (n,) closeness to the living
        for index in torch.nonzero(~living).flatten().tolist():
            if float(nearest.min()) > 1 - ROUNDING:
                break  # all tokens have a prototype of their own: let the rest wait for others
            farthest = unit[nearest.argmin()]
            directions[index], usage[index] = farthest, 1 / len(usage)
            nearest = torch.maximum(nearest, unit @ farthest)
        return replace(self, directions=directions, usage=usage)


def momentum_at(updates: int, momentum: float = MOMENTUM) -> float:
    """Momentum of the next update, min(momentum, 1 - 1 / (updates + 1)).

    So the first update replaces, and the first 1 / (1 - momentum) of them make a plain mean.

    Raises
    ------
    InvalidInput
        When `momentum` is not from 0 to below 1: at 1 nothing would ever move.
    """
    if not 0 <= momentum < 1:
        raise InvalidInput(f"The momentum is {momentum}; wanted is 0 or more and less than 1.")
    return min(momentum, 1 - 1 / (updates + 1))


def usage_entropy(usage: torch.Tensor) -> float:
    """Entropy of the shares of use over its maximum: 1 when all k are used alike, 0 for one alone.

    Parameters
    ----------
    usage : (k,) tensor
        Shares or counts, not all zero.

    Raises
    ------
    InvalidInput
        When nothing was used, or a share is negative or not finite.
    """
    shares = usage.double()
    total = float(shares.sum())
    if not (math.isfinite(total) and total > 0) or bool((shares < 0).any()):
        raise InvalidInput(
            f"The shares of use sum to {total}; wanted are shares of 0 or more, one above 0."
        )
    if len(shares) == 1:
        return 1.0
    return float(torch.special.entr(shares / total).sum()) / math.log(len(shares))
