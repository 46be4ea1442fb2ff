"""Prompts from what a model is sure of: clicks deep in the sure inside and in the sure outside.

Owns which part of an answer is reliable and where clicks go in it, in two or three axes. The
signs are those of the places: positive clicks lie in the sure inside, negative ones in the sure
outside, never otherwise. After SemiSAM, which prompts a large model from the sure part of a small
one's answer (Zhang et al. 2024, arXiv 2312.06316).

Places are indices of the array. Knows nothing of volumes and models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.int64]

INSIDE, OUTSIDE = 0.9, 0.05
"""Probabilities from which, and up to which, a place is sure."""

UNSURE = 0.25 * math.log(2)
"""Largest entropy, in nats, of a place that counts as inside."""

NEAR, FAR = 3.0, 15.0
"""Distances from the answer, in pixels, between which the outside is clicked: beside it, where an
answer would leak to, and not in the air."""

COUNT = 3
"""Clicks of either sign."""

GROWN = 0.05
"""Part of its sides by which the box of the inside is grown."""


@dataclass(frozen=True, eq=False)
class ReliablePrompts:
    """Clicks and a box.

    Attributes
    ----------
    positive : (n, d) int64
        Places in the sure inside; at least one.
    negative : (m, d) int64
        Places in the sure outside; there may be none.
    low, high : (d,) float64
        First and last index of the box of the inside, grown; within the array.
    """

    positive: IntArray
    negative: IntArray
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]

    @property
    def places(self) -> npt.NDArray[np.float64]:
        """All clicks, the positive ones first."""
        return np.concatenate([self.positive, self.negative]).astype(np.float64)

    @property
    def signs(self) -> BoolArray:
        """True for the positive ones."""
        return np.arange(len(self.positive) + len(self.negative)) < len(self.positive)


def reliable_prompts(probability: FloatArray, count: int = COUNT) -> ReliablePrompts | None:
    """Prompts for an object, from an answer that is not known to be right.

    Parameters
    ----------
    probability : (H, W) or (K, J, I) float
        Of the object, 0..1.
    count : int
        Clicks of either sign, at most.

    Returns
    -------
    ReliablePrompts or None
        None where nothing is surely inside.
    """
    inside = sure_inside(probability)
    if not inside.any():
        return None
    away = ndimage.distance_transform_edt(probability <= 0.5)
    outside = (probability <= OUTSIDE) & (away >= NEAR) & (away <= FAR)
    places = np.argwhere(inside)
    low, high = places.min(axis=0).astype(np.float64), places.max(axis=0).astype(np.float64)
    grow = GROWN * (high - low + 1)
    last = np.array(probability.shape) - 1.0
    return ReliablePrompts(
        farthest_places(inside, count),
        farthest_places(outside, count),
        np.maximum(low - grow, 0.0),
        np.minimum(high + grow, last),
    )


def sure_inside(probability: FloatArray) -> BoolArray:
    """Places that are surely inside, less the outermost layer of them where that leaves some."""
    sure = (probability >= INSIDE) & (entropy(probability) <= UNSURE)
    eroded: BoolArray = ndimage.binary_erosion(sure, border_value=1)
    return eroded if eroded.any() else sure


def entropy(probability: FloatArray) -> npt.NDArray[np.float64]:
    """Entropy of yes or no in nats, 0 to ln 2."""
    p = np.clip(np.asarray(probability, dtype=np.float64), 1e-7, 1 - 1e-7)
    found: npt.NDArray[np.float64] = -p * np.log(p) - (1 - p) * np.log(1 - p)
    return found


def farthest_places(mask: BoolArray, count: int) -> IntArray:
    """Deepest place of a mask, then each time the one farthest from all before.

    Parameters
    ----------
    mask : bool, any axes
    count : int

    Returns
    -------
    (n, d) int64
        At most `count`; none for an empty mask.
    """
    places = np.argwhere(mask)
    if not len(places) or count < 1:
        return np.zeros((0, mask.ndim), dtype=np.int64)
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))
    chosen = [np.unravel_index(int(depth.argmax()), depth.shape)]
    first = np.array(chosen[0]) - 1
    kept, far = [first], np.linalg.norm(places - first, axis=1)
    while len(kept) < min(count, len(places)):
        kept.append(places[int(far.argmax())])
        far = np.minimum(far, np.linalg.norm(places - kept[-1], axis=1))
    return np.asarray(kept, dtype=np.int64)
