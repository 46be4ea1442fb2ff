"""How far two sets of features lie apart: optimal transport, which P2SAM retrieves by.

Owns the distance and its spread within one object. Sets are (n, d) arrays of points; no point
has a place. The solver is POT's (network simplex). Knows nothing of images or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import ot

from protosam.errors import InvalidInput

FloatArray = npt.NDArray[np.floating]

SET_LIMIT = 256
"""Points of a set that are compared; 256 against 256 take 0.02 s, 1500 against 2500 over 1 s."""

NOTHING = 1e6
"""Distance of an empty set: further than any other."""


@dataclass(frozen=True)
class Spread:
    """How far parts of one object lie from each other; what is normal for it."""

    mean: float
    deviation: float

    def unlike(self, distance: float) -> float:
        """By how many deviations a distance is above the mean; 0 where it is below."""
        return max(0.0, (distance - self.mean) / max(self.deviation, 0.05 * self.mean, 1e-9))


def transport_distance(one: FloatArray, other: FloatArray, *, limit: int = SET_LIMIT) -> float:
    """Squared 2-Wasserstein distance of two sets of points with equal weights.

    ``W = min over plans P with uniform margins of sum_ij P_ij |one_i - other_j|^2``.

    Parameters
    ----------
    one, other : (n, d), (m, d) float
        Order does not matter.
    limit : int
        Of larger sets so many points are compared, the same ones each time.

    Returns
    -------
    float
        0 for equal sets; `NOTHING` if one of them is empty.

    Raises
    ------
    InvalidInput
        If the points of the two sets have different numbers of coordinates.

    Notes
    -----
    Distance and use as in P2SAM (arXiv 2403.05433, distribution-guided retrieval), whose code
    takes POT's default cost, the squared one. {0, 1} and {2, 3} lie 4 apart.
    """
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
        raise InvalidInput(
            f"Sets of shapes {one.shape} and {other.shape} cannot be compared.",
            "Give (n, d) and (m, d) features of one model.",
        )
    if len(one) == 0 or len(other) == 0:
        return NOTHING
    first, second = (at_most(a.astype(np.float64), limit) for a in (one, other))
    cost = ot.dist(first, second, metric="sqeuclidean")
    weights = (np.full(len(a), 1 / len(a)) for a in (first, second))
    return max(0.0, float(ot.emd2(*weights, cost, numItermax=1_000_000)))


def spread_of(groups: Sequence[FloatArray]) -> Spread:
    """Calibrate on an object: each of its parts against all the others together.

    Parameters
    ----------
    groups : sequence of (n, d) float
        For instance the features of each slice. A single one is halved at random (seed 0).

    Returns
    -------
    Spread
        Of the distances; with a deviation of 0 where there is but one point.
    """
    parts = [g for g in groups if len(g)]
    if len(parts) == 1:
        shuffled = np.random.default_rng(0).permutation(parts[0])
        parts = [p for p in (shuffled[::2], shuffled[1::2]) if len(p)]
    if len(parts) < 2:
        return Spread(0.0, 0.0)
    distances = [
        transport_distance(part, np.concatenate(parts[:n] + parts[n + 1 :]))
        for n, part in enumerate(parts)
    ]
    return Spread(float(np.mean(distances)), float(np.std(distances)))


def in_order(points: FloatArray) -> FloatArray:
    """Sort points by their place on one fixed line, so that their order has no part in a result."""
    along = points.astype(np.float64) @ np.cos(np.arange(points.shape[1]))
    return points[np.argsort(along, kind="stable")]


def at_most(points: FloatArray, limit: int) -> FloatArray:
    """Draw `limit` points, the same ones whatever their order."""
    ordered = in_order(points)
    if len(ordered) <= limit:
        return ordered
    chosen = np.random.default_rng(0).choice(len(ordered), limit, replace=False)
    return ordered[np.sort(chosen)]
