"""Procedural volumes: shapes and textures without any patient in them.

They make the model class-agnostic: partitions of a body into cells, warped ellipsoids, tubes,
shells and plates, painted with random intensities, textures and blur, in the spirit of SynthSeg
(Billot et al. 2023, doi 10.1016/j.media.2023.102789) and of UniverSeg's synthetic tasks.
Arrays are (k, j, i); spacing is 1 mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

SIDE = 96
"""Voxels on each side."""

FloatGrid = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Painted:
    """A procedural volume.

    Attributes
    ----------
    image : (SIDE, SIDE, SIDE) float32
        Intensities, about 0..1.
    labels : (SIDE, SIDE, SIDE) uint8
        0 is background.
    """

    image: FloatGrid
    labels: npt.NDArray[np.uint8]


def procedural_volume(seed: int) -> Painted:
    """Make one volume; the same seed gives the same volume."""
    rng = np.random.default_rng([seed, 77])
    grid = _warped_grid(rng)
    body = _ellipsoid(grid, np.zeros(3), rng.uniform(0.6, 1.1, size=3), rng)
    labels = _cells(grid, rng) if rng.random() < 0.6 else np.ones((SIDE,) * 3, dtype=np.uint8)
    labels[~body] = 0
    next_label = int(labels.max()) + 1
    for _ in range(int(rng.integers(3, 14))):
        shape = _random_shape(grid, rng)
        if rng.random() < 0.85:
            shape &= body
        if shape.sum() > 60:
            labels[shape] = next_label
            next_label += 1
    return Painted(_paint(labels, rng), labels)


def smooth_noise(rng: np.random.Generator, cells: int) -> FloatGrid:
    """Noise of unit variance with about `cells` cells on each side; (SIDE, SIDE, SIDE)."""
    coarse = rng.normal(size=(cells + 1,) * 3).astype(np.float32)
    noise = ndimage.zoom(coarse, SIDE / (cells + 1), order=1, grid_mode=True, mode="nearest")
    return np.asarray(noise / (noise.std() + 1e-6), dtype=np.float32)


def _warped_grid(rng: np.random.Generator) -> FloatGrid:
    """Coordinates in -1..1, smoothly displaced; (3, SIDE, SIDE, SIDE)."""
    axis = np.linspace(-1, 1, SIDE, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))
    strength = rng.uniform(0.0, 0.12)
    for axis_index in range(3):
        grid[axis_index] += strength * smooth_noise(rng, int(rng.integers(3, 7)))
    return grid


def _cells(grid: FloatGrid, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Partition into cells round random seeds, some larger than others."""
    count = int(rng.integers(2, 26))
    seeds = rng.uniform(-0.9, 0.9, size=(count, 3)).astype(np.float32)
    weights = rng.uniform(0, 0.25, size=count).astype(np.float32)
    best = np.full((SIDE,) * 3, np.inf, dtype=np.float32)
    labels = np.zeros((SIDE,) * 3, dtype=np.uint8)
    for index, (seed, weight) in enumerate(zip(seeds, weights, strict=True), start=1):
        distance = ((grid - seed[:, None, None, None]) ** 2).sum(axis=0) - weight
        closer = distance < best
        best[closer] = distance[closer]
        labels[closer] = index
    return labels


def _rotation(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return np.asarray(q)


def _ellipsoid(
    grid: FloatGrid,
    centre: npt.NDArray[Any],
    radii: npt.NDArray[Any],
    rng: np.random.Generator,
    power: float = 2.0,
) -> npt.NDArray[np.bool_]:
    """Superellipsoid |x/a|^p + |y/b|^p + |z/c|^p < 1, randomly turned."""
    turned = np.tensordot(_rotation(rng), grid - centre[:, None, None, None], axes=1)
    scaled = np.abs(turned / radii[:, None, None, None]) ** power
    return np.asarray(scaled.sum(axis=0) < 1)


def _tube(grid: FloatGrid, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Bend a tube of slowly changing radius, perhaps with branches."""
    out = np.zeros((SIDE,) * 3, dtype=bool)
    start = rng.uniform(-0.5, 0.5, size=3)
    for _ in range(int(rng.integers(1, 4))):
        position, heading = start.copy(), rng.normal(size=3)
        radius = rng.uniform(0.02, 0.12)
        for _ in range(int(rng.integers(8, 30))):
            heading = heading / np.linalg.norm(heading) + rng.normal(0, 0.35, size=3)
            position = position + 0.06 * heading / np.linalg.norm(heading)
            radius = float(np.clip(radius * rng.uniform(0.93, 1.08), 0.015, 0.16))
            _stamp(out, grid, position, radius)
    return out


def _stamp(
    out: npt.NDArray[np.bool_], grid: FloatGrid, centre: npt.NDArray[Any], radius: float
) -> None:
    """Add a ball to `out`, looking only at its neighbourhood of the (little warped) grid."""
    reach = radius + 0.25
    low = np.clip(((centre - reach + 1) / 2 * SIDE).astype(int), 0, SIDE)
    high = np.clip(((centre + reach + 1) / 2 * SIDE).astype(int) + 1, 0, SIDE)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    offset = grid[(slice(None), *box)] - centre[:, None, None, None]
    out[box] |= (offset**2).sum(axis=0) < radius**2


def _random_shape(grid: FloatGrid, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    kind = rng.choice(
        ["ellipsoid", "box", "tube", "shell", "blob"], p=[0.35, 0.1, 0.25, 0.12, 0.18]
    )
    if kind == "tube":
        return _tube(grid, rng)
    centre = rng.uniform(-0.7, 0.7, size=3)
    size = np.exp(rng.uniform(np.log(0.05), np.log(0.6)))
    radii = size * rng.uniform(0.5, 1.3, size=3)
    power = 8.0 if kind == "box" else 2.0
    turn = int(rng.integers(2**31))
    solid = _ellipsoid(grid, centre, radii, np.random.default_rng(turn), power)
    if kind == "shell":
        thickness = rng.uniform(0.55, 0.85)
        solid &= ~_ellipsoid(grid, centre, thickness * radii, np.random.default_rng(turn), power)
    if kind == "blob":
        solid &= smooth_noise(rng, int(rng.integers(4, 16))) > rng.uniform(-0.8, 0.3)
    return solid


def _paint(labels: npt.NDArray[np.uint8], rng: np.random.Generator) -> FloatGrid:
    """Give every label an intensity and texture, then blur and shade the whole."""
    count = int(labels.max()) + 1
    contrast = rng.uniform(0.3, 1.0)
    means = 0.5 + contrast * (rng.random(count) - 0.5)
    if rng.random() < 0.5:
        means[0] = rng.choice([0.0, rng.random() * 0.2])
    coarse = smooth_noise(rng, int(rng.integers(4, 12)))
    fine = smooth_noise(rng, int(rng.integers(16, 47)))
    amounts = rng.uniform(0, 0.08, size=(2, count)) * (rng.random((2, count)) < 0.6)
    image = means[labels] + amounts[0][labels] * coarse + amounts[1][labels] * fine
    image = ndimage.gaussian_filter(image, rng.uniform(0.2, 1.1))
    if rng.random() < 0.4:
        image = image * (1 + 0.2 * smooth_noise(rng, 2))
    return np.asarray(image, dtype=np.float32)
