"""What a lesson expects in one target: which features, and where.

Owns the joining of several cases, the expected place after alignment, and the points that
features and place are compared in. Places are RAS mm of the target. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from protosam.prompting.align import Alignment
from protosam.prompting.cloud import Float32Array
from protosam.prompting.example import Lesson
from protosam.prompting.parts import parts_of, similarity
from protosam.prompting.transport import SET_LIMIT, Spread, at_most, spread_of

Places = npt.NDArray[np.float64]

UNSURE_SHARE = 0.04
"""Standard deviation of the expected place in lengths of the body's diagonal: after alignment,
middles of objects were 3 to 5 % of it away (training cases of five data sets)."""

LIKENESS = 8.0
"""What a cosine of 1 counts against the logarithm of the expected place's density."""

SKETCH = 150
"""Places by which the expected place is drawn."""

SLICE_SET = 64
"""Tokens of a slice that are compared with others."""

NOT_HERE = -20.0
"""Logarithm of the density far away."""


@dataclass(frozen=True, eq=False)
class Expectation:
    """What is looked for in a target.

    Attributes
    ----------
    features, beside : (n, d), (m, d) float32
        Tokens under the masks of all cases, and outside of them.
    at_mm : (n, 3) float
        Where the former are expected.
    unsure_mm : float
        Standard deviation of the place.
    placed : bool
        Whether the place counts.
    volume_mm3 : float
        Mean volume of the masks.
    """

    features: Float32Array
    beside: Float32Array
    at_mm: Places
    unsure_mm: float
    placed: bool
    volume_mm3: float
    _parts: dict[int, Float32Array] = field(default_factory=dict, init=False)

    def log_place(self, points_mm: Places) -> Places:
        """Logarithm of the expected place's density at points (n, 3), 0 at its peak."""
        if not self.placed:
            return np.zeros(len(points_mm))
        sketch = self.at_mm[_drawn(len(self.at_mm), SKETCH)]
        near = np.zeros(len(points_mm))
        inside = self._reached(points_mm)
        near[inside] = _density(points_mm[inside], sketch, self.unsure_mm)
        peak = float(_density(sketch, sketch, self.unsure_mm).max())
        placed: Places = np.clip(np.log(near / peak + 1e-12), NOT_HERE, 0)
        return placed

    def scores(self, parts: Float32Array, features: Float32Array, points_mm: Places) -> Places:
        """How much each place (n) looks like each part, where it is expected; (p, n)."""
        likeness = LIKENESS * similarity(parts, features).astype(np.float64)
        joined: Places = likeness + self.log_place(points_mm)[None]
        return joined

    def parts(self, count: int) -> Float32Array:
        """Parts of the object, see `parts.parts_of`; found once."""
        if count not in self._parts:
            self._parts[count] = parts_of(self.features[_drawn(len(self.features), 500)], count)
        return self._parts[count]

    def beside_parts(self, count: int) -> Float32Array:
        """Parts of what is beside the object; found once."""
        if -count not in self._parts:
            self._parts[-count] = parts_of(self.beside, count)
        return self._parts[-count]

    def points_of(self, features: Float32Array, at_mm: Places) -> Float32Array:
        """Points (n, d or d + 3) that sets are compared in: features, and the place if it counts.

        A squared distance of 1 is that of two tokens whose channels differ by 1 deviation each,
        or that lie 2 deviations of the place from each other.
        """
        scaled = features / np.sqrt(features.shape[1])
        if self.placed:
            scaled = np.column_stack([scaled, at_mm / (2 * self.unsure_mm)])
        points: Float32Array = scaled.astype(np.float32)
        return points

    @property
    def own_points(self) -> Float32Array:
        """The reference's own points, as many as are compared."""
        rows = _drawn(len(self.features), SET_LIMIT)
        return self.points_of(self.features[rows], self.at_mm[rows])

    def _reached(self, points_mm: Places) -> npt.NDArray[np.bool_]:
        low, high = self.at_mm.min(axis=0), self.at_mm.max(axis=0)
        far = 6 * self.unsure_mm
        reached: npt.NDArray[np.bool_] = ((points_mm > low - far) & (points_mm < high + far)).all(
            axis=1
        )
        return reached


def expectation(
    lesson: Lesson,
    alignments: Sequence[Alignment],
    *,
    diagonal_mm: float,
    placed: bool,
    closer: bool = False,
) -> Expectation:
    """Say what a lesson expects in a target.

    Parameters
    ----------
    lesson : Lesson
    alignments : sequence of Alignment
        From each case of the example to the target.
    diagonal_mm : float
        Of the target's body.
    placed : bool
        Whether the place counts.
    closer : bool
        Whether features are those of the closer look, where there is one.
    """
    features, beside, at_mm = [], [], []
    for sample in lesson.samples:
        near = sample.closer if closer else None
        features.append(sample.features if near is None else near.features)
        beside.append(sample.beside if near is None else near.beside)
        places = sample.at_mm if near is None else near.at_mm
        at_mm.append(alignments[sample.case].to_target(places))
    volumes = [
        np.count_nonzero(s.mask) * abs(float(np.linalg.det(s.mask_affine[:3, :3])))
        for s in lesson.samples
    ]
    return Expectation(
        np.concatenate(features),
        np.concatenate(beside),
        np.concatenate(at_mm),
        UNSURE_SHARE * diagonal_mm,
        placed,
        float(np.mean(volumes)),
    )


def own_spread(lesson: Lesson, expected: Expectation) -> Spread:
    """How far the slices of the object lie from each other, by features alone."""
    d = expected.features.shape[1]
    slices = [f / np.sqrt(d) for sample in lesson.samples for f in sample.by_slice]
    slices = [at_most(f, SLICE_SET) for f in slices]
    return spread_of([slices[n] for n in np.unique(np.linspace(0, len(slices) - 1, 9).astype(int))])


def _density(points_mm: Places, sketch: Places, unsure_mm: float) -> Places:
    """Mean of Gaussians round the places of a sketch, at points (n,)."""
    squared = (
        (points_mm**2).sum(axis=1)[:, None]
        + (sketch**2).sum(axis=1)[None]
        - 2 * points_mm @ sketch.T
    )
    mean: Places = np.exp(-np.maximum(squared, 0) / (2 * unsure_mm**2)).mean(axis=1)
    return mean


def _drawn(count: int, limit: int) -> npt.NDArray[np.int64]:
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, limit, replace=False))
