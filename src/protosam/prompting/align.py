"""From a place in the reference to the like place in the target, in millimetres.

Owns the alignment of two token clouds: an affine map that is found by matching landmarks
(random tokens of the reference's body) with tokens of the target that look alike and lie near,
the neighbourhood shrinking from step to step (after robust point matching: Gold et al. 1998,
doi 10.1016/S0031-3203(98)80010-1, with features added to the distance), and a smooth
displacement on top of it. This is this project's own addition to P2SAM, which looks at features
alone. All places are RAS mm. Knows nothing of objects or models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protosam.prompting.cloud import Cloud, Float32Array

Places = npt.NDArray[np.float64]

LANDMARKS = 500
"""Tokens of a reference that are kept to align by; 500 against 2500 take 0.7 s (one busy core)."""

TARGETS = 2500
STEPS = 10
FIRST_REACH, LAST_REACH = 0.08, 0.03
"""Standard deviation of the neighbourhood, in lengths of the body's diagonal."""

FEATURE_WEIGHT = 12.0
"""What half a mean squared difference of features counts against half a squared distance."""

SMOOTHNESS = 0.08
"""Standard deviation of the displacement's smoothing, in lengths of the diagonal."""

MAX_STRETCH = 1.2
"""Patients differ in size by less; boxes of bodies that differ more were cut differently."""

START_WEIGHT = 0.2
"""What each of `ANCHORED` landmarks says for the first guess."""

ANCHORED = 150


@dataclass(frozen=True, eq=False)
class Landmarks:
    """What a reference is aligned by.

    Attributes
    ----------
    features : (n, d) float32
        Standardised.
    at_mm : (n, 3) float
    low_mm, high_mm : (3,) float
        Box of the body.
    """

    features: Float32Array
    at_mm: Places
    low_mm: Places
    high_mm: Places

    @classmethod
    def of(cls, cloud: Cloud) -> Landmarks:
        """Draw them from a reference's body (seed 0)."""
        rows = _drawn(np.flatnonzero(cloud.body), LANDMARKS)
        return cls(cloud.features[rows], cloud.at_mm[rows], cloud.low_mm, cloud.high_mm)


@dataclass(frozen=True, eq=False)
class Alignment:
    """A map of places.

    Attributes
    ----------
    affine : (4, 3) float
        Rows for R, A, S of the reference and for 1.
    at_mm, moved_mm : (n, 3) float
        Landmarks in the reference, and by how much they move beyond the affine.
    weight : (n,) float
    reach_mm : float
        Of the smoothing.
    """

    affine: Places
    at_mm: Places
    moved_mm: Places
    weight: Places
    reach_mm: float

    def to_target(self, points_mm: Places) -> Places:
        """Take points (n, 3) of the reference to the target."""
        squared = _squared(points_mm, self.at_mm)
        near = np.exp(-squared / (2 * self.reach_mm**2)) * self.weight
        moved = near @ self.moved_mm / (near.sum(axis=1, keepdims=True) + 0.5)
        placed: Places = _extended(points_mm) @ self.affine + moved
        return placed


def box_alignment(landmarks: Landmarks, target: Cloud) -> Alignment:
    """Map the boxes of the two bodies onto each other, stretched as far as patients differ."""
    size = np.maximum(landmarks.high_mm - landmarks.low_mm, 1e-3)
    stretch = (target.high_mm - target.low_mm) / size
    stretch = np.clip(stretch, 1 / MAX_STRETCH, MAX_STRETCH)
    middles = [(a.low_mm + a.high_mm) / 2 for a in (landmarks, target)]
    affine = np.vstack([np.diag(stretch), middles[1] - middles[0] * stretch])
    nowhere = np.zeros((1, 3))
    return Alignment(affine, nowhere, nowhere, np.zeros(1), 1.0)


def align(landmarks: Landmarks, target: Cloud) -> Alignment:
    """Find where the places of a reference lie in a target.

    Parameters
    ----------
    landmarks : Landmarks
        Of the reference.
    target : Cloud
    """
    start = box_alignment(landmarks, target)
    rows = _drawn(np.flatnonzero(target.body), TARGETS)
    places, diagonal = target.at_mm[rows], float(np.linalg.norm(target.high_mm - target.low_mm))
    unlike = _squared(landmarks.features, target.features[rows]) / landmarks.features.shape[1]
    first = _extended(landmarks.at_mm) @ start.affine
    anchors = landmarks.at_mm[:ANCHORED], first[:ANCHORED]
    affine, wanted, weight, here = start.affine, first, np.ones(len(first)), first
    for reach in np.geomspace(FIRST_REACH, LAST_REACH, STEPS) * max(diagonal, 1.0):
        here = _extended(landmarks.at_mm) @ affine
        wanted = _matched(here, places, unlike, float(reach))
        # A landmark that would jump has met another of its kind.
        weight = 1 / (1 + ((wanted - here) ** 2).sum(axis=1) / reach**2)
        affine = _affine(landmarks.at_mm, wanted, weight, anchors)
    here = _extended(landmarks.at_mm) @ affine
    return Alignment(affine, landmarks.at_mm, wanted - here, weight, SMOOTHNESS * diagonal)


def _matched(here: Places, places: Places, unlike: Float32Array, reach: float) -> Places:
    """Where each landmark's likes lie, on average."""
    energy = -FEATURE_WEIGHT * unlike - _squared(here, places) / reach**2
    energy = np.exp(energy - energy.max(axis=1, keepdims=True))
    wanted: Places = energy @ places / energy.sum(axis=1, keepdims=True)
    return wanted


def _affine(
    at_mm: Places, wanted: Places, weight: Places, anchors: tuple[Places, Places]
) -> Places:
    """Weighted least squares, held by the anchors where landmarks say little."""
    given = np.vstack([_extended(at_mm), _extended(anchors[0])])
    root = np.sqrt(np.concatenate([weight, np.full(len(anchors[0]), START_WEIGHT)]))[:, None]
    found: Places = np.linalg.lstsq(given * root, np.vstack([wanted, anchors[1]]) * root)[0]
    return found


def _extended(points: Places) -> Places:
    return np.column_stack([points, np.ones(len(points))])


def _squared(
    one: npt.NDArray[np.floating], other: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """Squared distances (n, m)."""
    squared = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None] - 2 * one @ other.T
    positive: npt.NDArray[np.float64] = np.maximum(squared, 0).astype(np.float64)
    return positive


def _drawn(rows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    if len(rows) <= count:
        return rows
    kept: npt.NDArray[np.int64] = np.random.default_rng(0).choice(rows, count, replace=False)
    return kept
