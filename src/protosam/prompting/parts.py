"""Parts of an object, and where in another image each of them is found.

Owns P2SAM's part-aware prompts (arXiv 2403.05433): the features under the reference's mask are
cut into parts by k-means, each part's mean is looked for in the target, and its best place
becomes a positive click; parts of the background give the negative ones. Works on plain arrays:
features (n, d), similarities (parts, n) over candidate places. Places have coordinates of any
dimension, in any unit; whoever calls knows which. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans

from protosam.errors import InvalidInput
from protosam.prompting.transport import in_order

FloatArray = npt.NDArray[np.floating]

SEED = 0
"""Of k-means; with `RESTARTS` starts the parts are the same each time."""

RESTARTS = 10


@dataclass(frozen=True, eq=False)
class Clicks:
    """Places that a candidate clicks.

    Attributes
    ----------
    places : (p,) int
        Indices into the list of places; positive ones first.
    positive : (p,) bool
    """

    places: npt.NDArray[np.int64]
    positive: npt.NDArray[np.bool_]


def unit(features: FloatArray) -> npt.NDArray[np.float32]:
    """Scale rows (n, d) to length 1; rows of zeros stay."""
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    scaled: npt.NDArray[np.float32] = (features / np.maximum(length, 1e-9)).astype(np.float32)
    return scaled


def parts_of(features: FloatArray, count: int) -> npt.NDArray[np.float32]:
    """Means of the parts of an object, of length 1.

    Parameters
    ----------
    features : (n, d) float
        Of the tokens under the mask.
    count : int
        Number of parts; never more than there are different tokens.

    Returns
    -------
    (parts, d) float32
        Sorted by the size of the part, largest first.

    Raises
    ------
    InvalidInput
        If there are no features or no parts are wanted.
    """
    if len(features) == 0 or count < 1:
        raise InvalidInput(
            f"{len(features)} features were to be cut into {count} parts.",
            "Give a reference whose mask holds something, and 1 part or more.",
        )
    ordered = in_order(features).astype(np.float32)
    count = min(count, len(np.unique(ordered, axis=0)))
    if count == 1:
        return unit(ordered.mean(axis=0, keepdims=True))
    found = KMeans(count, n_init=RESTARTS, random_state=SEED).fit(ordered)
    sizes = np.bincount(found.labels_, minlength=count)
    return unit(found.cluster_centers_[np.argsort(-sizes, kind="stable")])


def similarity(parts: FloatArray, features: FloatArray) -> npt.NDArray[np.float32]:
    """Cosine of each part with each token.

    Parameters
    ----------
    parts : (p, d) float
        Of length 1.
    features : (n, d) float

    Returns
    -------
    (p, n) float32
    """
    cosines: npt.NDArray[np.float32] = parts.astype(np.float32) @ unit(features).T
    return cosines


def best_places(
    scores: FloatArray, places: FloatArray, *, apart: float, taken: Sequence[int] = ()
) -> list[int]:
    """Best place of each part, no two of them closer than `apart`.

    Parameters
    ----------
    scores : (p, n) float
        Similarity of each part with each place; -inf where a place is not allowed (padding).
    places : (n, a) float
        Coordinates, for the distance.
    apart : float
        Of two places that are closer, the later part takes its next best.
    taken : sequence of int
        Places that are taken already.

    Returns
    -------
    list of int
        At most one for each part; parts for which nothing is left have none.
    """
    chosen: list[int] = []
    for row in scores:
        allowed = np.isfinite(row)
        for place in (*taken, *chosen):
            allowed &= np.linalg.norm(places - places[place], axis=1) >= apart
        if allowed.any():
            chosen.append(int(np.where(allowed, row, -np.inf).argmax()))
    return chosen


def top_places(score: FloatArray, places: FloatArray, count: int, *, apart: float) -> list[int]:
    """Best `count` places of one score (n,): more points without parts, as a control."""
    return best_places(np.repeat(score[None], count, axis=0), places, apart=apart)


def clicks_of(positive: Sequence[int], negative: Sequence[int]) -> Clicks:
    """Join places of both signs; a negative one at a positive place is dropped."""
    kept = [n for n in negative if n not in positive]
    return Clicks(
        np.array([*positive, *kept], dtype=np.int64),
        np.array([True] * len(positive) + [False] * len(kept), dtype=bool),
    )
