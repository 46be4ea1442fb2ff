"""The prototype bank: what the object and its surroundings look like, learned without a gradient.

One bank belongs to one target in one volume and one direction of view. It is made of the neck
tokens of slices whose answer is known: sub-prototypes of the foreground and of the background, by
spherical k-means. For any other slice it tells how much each token belongs to the object. After
ProtoSAM's prototypes with soft assignment, kept at the neck and tied to the two classes; moved
only by answers that were given, never while predicting.

Tokens are rows of a table (n, c). Knows nothing of images, slices and backbones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from protosam.errors import InvalidInput
from protosam.models.prototypes import cosines, spherical_kmeans, unit_tokens

FOREGROUND, BACKGROUND = 4, 12
"""Sub-prototypes of either class, at most; surroundings are more varied than objects."""

TEMPERATURE = 0.1
"""Of the soft assignment."""

INSIDE, OUTSIDE = 0.5, 0.1
"""Shares of the object in a token's cell from which, and up to which, it stands for a class."""

ITERATIONS = 10
"""Of the clustering; later ones move prototypes that no longer matter for who belongs where."""

SAME = 1e-2
"""Unit tokens whose components are equal to this step have the same direction."""

SURE = 4.0
"""Log odds are cut to this either way."""


@dataclass(frozen=True, eq=False)
class PrototypeBank:
    """Sub-prototypes of an object and of what surrounds it.

    Attributes
    ----------
    centre : (c,) float32
        Mean token, taken from every token first: what all tokens share tells nothing.
    foreground, background : (k, c) float32
        Of length 1.
    temperature : float
        Of the soft assignment.
    """

    centre: torch.Tensor
    foreground: torch.Tensor
    background: torch.Tensor
    temperature: float = TEMPERATURE

    def __post_init__(self) -> None:
        channels = {self.centre.shape[-1], self.foreground.shape[-1], self.background.shape[-1]}
        if len(channels) != 1:
            raise InvalidInput(
                f"The bank's centre and prototypes have {sorted(channels)} channels.",
                "Build it with `bank_of` from tokens of one layer.",
            )

    def log_odds(self, tokens: torch.Tensor) -> torch.Tensor:
        """How much tokens belong to the object.

        The memberships of all sub-prototypes are a softmax of cosines over the temperature
        (`prototypes.memberships`); those of the foreground, q, and of the background sum to 1.

        Parameters
        ----------
        tokens : (n, c) tensor

        Returns
        -------
        (n,) float32
            log(q / (1 - q)), within `SURE` either way.

        Raises
        ------
        InvalidInput
            When the channels differ.
        """
        if tokens.shape[-1] != self.centre.shape[-1]:
            raise InvalidInput(
                f"Tokens of {tokens.shape[-1]} channels were given to a bank of "
                f"{self.centre.shape[-1]}.",
                "Use the bank of this very model.",
            )
        moved = tokens.float() - self.centre
        inside = torch.logsumexp(cosines(moved, self.foreground) / self.temperature, dim=-1)
        outside = torch.logsumexp(cosines(moved, self.background) / self.temperature, dim=-1)
        return (inside - outside).clamp(-SURE, SURE)


@torch.no_grad()
def bank_of(tokens: torch.Tensor, share: torch.Tensor) -> PrototypeBank | None:
    """Build a bank from tokens whose answer is known.

    Parameters
    ----------
    tokens : (n, c) tensor
        Of one or several slices, without padding.
    share : (n,) tensor
        Share of the object in each token's cell, 0..1.

    Returns
    -------
    PrototypeBank or None
        None where one of the two classes has no token: an empty answer, or one that fills all
        that was looked at, tells nothing of the difference.

    Raises
    ------
    InvalidInput
        When the two do not belong together, or tokens are not finite.
    """
    if tokens.ndim != 2 or share.shape != tokens.shape[:1]:
        raise InvalidInput(
            f"Tokens of shape {tuple(tokens.shape)} came with shares of shape "
            f"{tuple(share.shape)}; wanted are (n, c) and (n,)."
        )
    if len(tokens) == 0 or float(share.max()) <= OUTSIDE:
        return None
    # An object thinner than a cell fills none of them by half: then its fullest cells stand for it.
    inside = share >= min(INSIDE, 0.9 * float(share.max()))
    outside = share <= OUTSIDE
    if not bool(outside.any()):
        return None
    flat = tokens.float()
    centre = flat.mean(dim=0)
    moved = flat - centre
    return PrototypeBank(
        centre, _some(moved[inside], FOREGROUND), _some(moved[outside], BACKGROUND)
    )


def _some(tokens: torch.Tensor, most: int) -> torch.Tensor:
    """At most so many prototypes; fewer where there are fewer different directions.

    Air gives many tokens of the very same direction.
    """
    directions = len(torch.unique(torch.round(unit_tokens(tokens) / SAME), dim=0))
    count = max(1, min(most, math.ceil(len(tokens) / 2), directions))
    return spherical_kmeans(tokens, count, iterations=ITERATIONS)
