"""Prototypes of tokens: unit directions, how they are found, and how tokens belong to them.

Owns the arithmetic of the Token Prototype Encoder that needs neither network nor memory: spherical
k-means, soft and fuzzy memberships; `moving_prototypes.py` moves them. Knows nothing of encoders,
images or files. Speaks no coordinates: tokens are rows of a table
(n, c), prototypes rows of a table (k, c), and only directions count, never lengths.

All is computed in float32 whatever the precision around it: at a temperature of 0.07 the rounding
of a cosine to bfloat16 would shift a logit by up to 0.03.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from protosam.errors import InvalidInput

TEMPERATURE = 0.07
"""Default of `memberships`: of 64 random prototypes in 768 channels a token that lies on one gives
it all but 1e-4 of its weight (at the 1.0 of the released ProtoSAM 0.04, where 0.016 is uniform)."""

ROUNDING = 1e-6
"""Added to distances, and the length below which a sum of unit tokens has no direction."""


def unit_tokens(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens (..., c) divided by their lengths, float32; a zero token stays zero."""
    return F.normalize(tokens.float(), dim=-1)


def centre_of(tokens: torch.Tensor) -> torch.Tensor:
    """Mean of the unit tokens (n, c), which `away_from` takes; (c,) float32.

    Its length says how alike the directions are, 1 for tokens that all point the same way.

    Raises
    ------
    InvalidInput
        When tokens are no table of finite numbers, or all are zero.
    """
    unit = with_direction(finite_table(tokens))
    if len(unit) == 0:
        raise InvalidInput(
            f"None of {len(tokens)} tokens has a direction.", "Give tokens that are not zero."
        )
    return unit.mean(dim=0)


def away_from(tokens: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """Take the centre (c,) from unit tokens (..., c), float32, so that their directions differ.

    Tokens of a network lie in a narrow cone: in blocks 2 and 4 of the built-in model on CT and MR
    the centre has length 0.89 and 0.94, all cosines lie near it, and at a temperature of 0.07 a
    token spreads over 32 and 46 of 64 prototypes. Less the centre it belongs to 2.8 and 2.5.

    Raises
    ------
    InvalidInput
        When the channels differ.
    """
    same_width(tokens, centre)
    return unit_tokens(tokens) - centre.float()


def cosines(tokens: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    """Cosine of each token with each prototype.

    Parameters
    ----------
    tokens : (..., c) tensor
    prototypes : (k, c) tensor
        Of any length; a zero one has the cosine 0 with everything.

    Returns
    -------
    (..., k) float32

    Raises
    ------
    InvalidInput
        When the channels differ.
    """
    same_width(tokens, prototypes)
    # Autocast would round the product to bfloat16.
    with torch.autocast(tokens.device.type, enabled=False):
        return unit_tokens(tokens) @ unit_tokens(prototypes).T


def memberships(
    tokens: torch.Tensor,
    prototypes: torch.Tensor,
    temperature: float | torch.Tensor = TEMPERATURE,
) -> torch.Tensor:
    """How much each token belongs to each prototype: softmax of cosines over a temperature.

    ProtoSAM's soft assignment, with a temperature that separates.

    Parameters
    ----------
    tokens : (..., c) tensor
    prototypes : (k, c) tensor
    temperature : float or 0-d tensor
        Above 0; small values make it a choice of one. A tensor may learn.

    Returns
    -------
    (..., k) float32
        Rows sum to 1.

    Raises
    ------
    InvalidInput
        When the temperature is a number that is not above 0.
    """
    if not isinstance(temperature, torch.Tensor) and not (
        math.isfinite(temperature) and temperature > 0
    ):
        raise InvalidInput(
            f"The temperature is {temperature}; wanted is a number above 0.",
            f"Give for example {TEMPERATURE}.",
        )
    return torch.softmax(cosines(tokens, prototypes) / temperature, dim=-1)


def fuzzy_memberships(
    tokens: torch.Tensor, prototypes: torch.Tensor, fuzziness: float = 2.0
) -> torch.Tensor:
    """Fuzzy c-means memberships (Bezdek 1981) with 1 - cosine as the distance d.

    u_ik = 1 / sum_j (d_ik / d_ij)^(2 / (f - 1)), computed as a softmax of -2 / (f - 1) log d.

    Parameters
    ----------
    tokens : (..., c) tensor
    prototypes : (k, c) tensor
    fuzziness : float
        f, above 1; towards 1 it becomes a choice of one.

    Returns
    -------
    (..., k) float32
        Rows sum to 1.

    Raises
    ------
    InvalidInput
        When `fuzziness` is not above 1.
    """
    if not (math.isfinite(fuzziness) and fuzziness > 1):
        raise InvalidInput(f"The fuzziness is {fuzziness}; wanted is a number above 1.")
    distances = (1 - cosines(tokens, prototypes)).clamp_min(0) + ROUNDING
    return torch.softmax(-2 / (fuzziness - 1) * distances.log(), dim=-1)


def fuzzy_centres(
    tokens: torch.Tensor, belonging: torch.Tensor, fuzziness: float = 2.0
) -> torch.Tensor:
    """Fuzzy c-means centres: directions of the token sums weighted by memberships^f.

    Parameters
    ----------
    tokens : (n, c) tensor
    belonging : (n, k) tensor
        From `fuzzy_memberships`.
    fuzziness : float
        The same f.

    Returns
    -------
    (k, c) float32
        Of length 1, or zero where the weighted tokens cancel out.
    """
    return F.normalize((belonging.float() ** fuzziness).T @ unit_tokens(tokens), dim=-1)


@torch.no_grad()
def spherical_kmeans(
    tokens: torch.Tensor, k: int, seed: int = 0, iterations: int = 50
) -> torch.Tensor:
    """Cluster directions (spherical k-means, Dhillon and Modha 2001, doi 10.1023/A:1007612920971).

    Seeded by k-means++ (Arthur and Vassilvitskii 2007) with 1 - cosine, half of the squared
    distance of unit tokens. A cluster that loses all of its tokens begins anew at the token that is
    farthest from all centres.

    Parameters
    ----------
    tokens : (n, c) tensor
        Of any length; zero tokens have no direction and are left out.
    k : int
        Number of prototypes.
    seed : int
        The same tokens and seed give the same prototypes.
    iterations : int
        At most; it ends when no token changes its cluster.

    Returns
    -------
    (k, c) float32
        Of length 1, on the device of the tokens.

    Raises
    ------
    InvalidInput
        When tokens are not a table of finite numbers, or have fewer than k directions.
    """
    unit = with_direction(finite_table(tokens))
    if not 1 <= k <= len(unit):
        raise InvalidInput(
            f"{k} prototypes were asked for of {len(unit)} tokens that are not zero.",
            f"Ask for 1 to {len(unit)} prototypes, or give more tokens."
            if len(unit)
            else "Give tokens that are not zero.",
        )
    centres = _plus_plus(unit, k, seed)
    nearest = torch.full((len(unit),), -1, device=unit.device)
    for _ in range(iterations):
        closeness, now = (unit @ centres.T).max(dim=1)
        if torch.equal(now, nearest):
            break
        nearest = now
        sums = sums_by_owner(unit, nearest, k)
        centres = torch.where(
            sums.norm(dim=-1, keepdim=True) > ROUNDING, F.normalize(sums, dim=-1), centres
        )
        for index in torch.nonzero(torch.bincount(nearest, minlength=k) == 0).flatten().tolist():
            farthest = unit[closeness.argmin()]
            centres[index] = farthest
            closeness = torch.maximum(closeness, unit @ farthest)
    return centres


def _plus_plus(unit: torch.Tensor, k: int, seed: int) -> torch.Tensor:
    """First centres: each a token, the best of some that are drawn by distance to those before."""
    random = torch.Generator().manual_seed(seed)
    tries = 2 + int(math.log(k))  # as scikit-learn has; with one try, bundles share a centre often
    draws = torch.rand(k, tries, generator=random, dtype=torch.float64).to(unit.device)
    chosen = [int(draws[0, 0] * len(unit))]
    distance = _distances(unit, chosen)[:, 0]
    for draw in draws[1:]:
        along = distance.cumsum(dim=0)
        if float(along[-1]) == 0:
            raise InvalidInput(
                f"{k} prototypes were asked for, and the {len(unit)} tokens have only "
                f"{len(chosen)} directions.",
                f"Ask for at most {len(chosen)} prototypes, or give more varied tokens.",
            )
        drawn = torch.searchsorted(along, draw * along[-1], right=True).clamp_max(len(unit) - 1)
        left = torch.minimum(distance.unsqueeze(1), _distances(unit, drawn.tolist()))
        best = int(left.sum(dim=0).argmin())
        chosen.append(int(drawn[best]))
        distance = left[:, best]
    return unit[chosen].clone()


def _distances(unit: torch.Tensor, centres: list[int]) -> torch.Tensor:
    """1 - cosine of tokens (n, c) with some of them, (n, m) float64; mere rounding is 0."""
    found = 1 - (unit @ unit[centres].T).double()
    return torch.where(found > ROUNDING, found, torch.zeros_like(found))


def sums_by_owner(unit: torch.Tensor, owner: torch.Tensor, k: int) -> torch.Tensor:
    """Sum of the tokens (n, c) of each owner, (k, c)."""
    # A product, because adding by index has no fixed order on a graphics card.
    return F.one_hot(owner, k).to(unit.dtype).T @ unit


def with_direction(tokens: torch.Tensor) -> torch.Tensor:
    """Make tokens unit and leave out those that are zero."""
    unit = unit_tokens(tokens)
    return unit[unit.norm(dim=-1) > 0.5]


def same_width(tokens: torch.Tensor, prototypes: torch.Tensor) -> None:
    """Refuse tokens that have other channels than prototypes, or than a centre.

    Raises
    ------
    InvalidInput
        When the last axes differ, or there is no prototype.
    """
    if len(prototypes) == 0:
        raise InvalidInput(
            "There are no prototypes to belong to.", "Find some with `spherical_kmeans`."
        )
    if tokens.shape[-1] != prototypes.shape[-1]:
        raise InvalidInput(
            f"Tokens of {tokens.shape[-1]} channels were given to prototypes of "
            f"{prototypes.shape[-1]}.",
            "Use prototypes made from the same layer of the same network.",
        )


def finite_table(tokens: torch.Tensor) -> torch.Tensor:
    """Give tokens back if they are a table (n, c) of finite floating numbers.

    Raises
    ------
    InvalidInput
        When they are not.
    """
    if tokens.ndim != 2 or not tokens.is_floating_point():
        raise InvalidInput(
            f"Tokens came as {tokens.dtype} of shape {tuple(tokens.shape)}; wanted is a table "
            "(n, c) of floating numbers.",
            "Flatten the grid of tokens first.",
        )
    if not bool(torch.isfinite(tokens).all()):
        raise InvalidInput(
            "Some tokens are infinite or no numbers; prototypes made from them would be lost.",
            "Check the image's intensities and the precision that the network ran in.",
        )
    return tokens
