"""The built-in phantom: a computed abdomen whose truth is known, with clicks to make in it.

Rules
-----
* Everything follows from the seed; nothing is read from the disk, nothing is trained on it and no
  figure of accuracy is measured on it.
* The grid is anisotropic and slightly oblique, so that mistakes in the geometry would show.
* Shapes are given in parts of the image's half sides along (k, j, i), intensities in HU-like units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from protosam.clicks import first_click
from protosam.extents import BoolArray, FloatArray, IndexKJI, VoxelArray
from protosam.geometry import Volume

SHAPE_KJI: IndexKJI = (56, 144, 176)
"""Shape of the phantom."""

SPACING_KJI_MM = (3.0, 1.8, 1.8)
"""Spacing of the phantom: thicker than wide, as scanners give it."""

DEFAULT_SEED = 20
"""Seed of the phantom that the demo shows."""

_TILT_DEGREES = 8.0
_NOISE_HU = 14.0
_SHADING_HU = 5.0
_BLUR_VOXELS = 0.8
_AIR_HU = -1000.0


@dataclass(frozen=True)
class _Body:
    """An ellipsoid by its middle and half axes, in parts of the image's half sides (k, j, i)."""

    middle: tuple[float, float, float]
    half_axes: tuple[float, float, float]
    hu: float
    bumps: float = 0.0
    """How far the surface is pushed in and out, as a part of the half axes."""


_TRUNK = _Body((0.0, 0.0, 0.0), (1.7, 0.86, 0.9), -95.0)
_INNER = _Body((0.0, 0.0, 0.0), (1.7, 0.76, 0.82), 30.0, 0.02)
_STOMACH = _Body((0.2, -0.22, 0.42), (0.36, 0.24, 0.2), 20.0, 0.06)
_SPINE = _Body((0.0, 0.48, 0.0), (1.7, 0.16, 0.12), 420.0, 0.05)
_LIVER = (
    _Body((0.15, -0.1, -0.36), (0.62, 0.48, 0.36), 105.0, 0.08),
    _Body((0.2, -0.28, 0.0), (0.4, 0.26, 0.36), 105.0, 0.08),
)
_ORGANS = {
    "liver": _LIVER,
    "spleen": (_Body((0.2, 0.25, 0.52), (0.42, 0.28, 0.18), 120.0, 0.05),),
    "right kidney": (_Body((-0.5, 0.3, -0.36), (0.36, 0.18, 0.13), 170.0, 0.04),),
    "left kidney": (_Body((-0.45, 0.3, 0.36), (0.36, 0.18, 0.13), 170.0, 0.04),),
    "aorta": (_Body((0.0, 0.2, 0.06), (1.7, 0.07, 0.05), 180.0),),
}
"""Organs with a label, 1 for the first; where two meet, the later one wins."""


@dataclass(frozen=True, eq=False)
class Phantom:
    """An image, its truth, and the clicks that a person might make for one organ of it."""

    volume: Volume
    """(K, J, I) int16, HU-like."""
    labels: Volume
    """(K, J, I) uint8 label map on the same grid, 0 for background."""
    names: Mapping[int, str]
    """Name of each label value."""
    clicks: tuple[tuple[IndexKJI, bool], ...]
    """Voxel (k, j, i) and whether it lies in the liver, in the order in which they are made."""

    @property
    def truth(self) -> BoolArray:
        """(K, J, I) bool mask of the organ that `clicks` ask for, the liver."""
        return self.mask("liver")

    def mask(self, name: str) -> BoolArray:
        """(K, J, I) bool mask of an organ; a name that the phantom does not have is a KeyError."""
        label = {organ: value for value, organ in self.names.items()}[name]
        mask: BoolArray = self.labels.voxels == label
        return mask


def make_phantom(seed: int = DEFAULT_SEED) -> Phantom:
    """Compute the phantom; takes well under a second.

    Parameters
    ----------
    seed : int
        Not negative. The same voxels for the same seed; another one gives other bumps on the
        organs, other shading and other noise.
    """
    random = np.random.default_rng(seed)
    bumps = _smooth_noise(random)
    hu = np.full(SHAPE_KJI, _AIR_HU)
    for body in (_TRUNK, _INNER, _STOMACH, _SPINE):
        hu[_inside(body, bumps)] = body.hu
    labels = _labels(bumps)
    for label, bodies in enumerate(_ORGANS.values(), start=1):
        hu[labels == label] = bodies[0].hu
    hu = ndimage.gaussian_filter(hu, _BLUR_VOXELS)  # partial volume of the scanner
    hu += random.normal(0.0, _NOISE_HU, SHAPE_KJI) + _SHADING_HU * _smooth_noise(random)
    affine = _affine()
    return Phantom(
        volume=Volume(hu.round().astype(np.int16), affine),
        labels=Volume(labels, affine),
        names=dict(enumerate(_ORGANS, start=1)),
        clicks=_clicks(labels, bumps),
    )


def _labels(bumps: FloatArray) -> VoxelArray:
    """(K, J, I) uint8; organs give way to the stomach and the spine."""
    labels = np.zeros(SHAPE_KJI, dtype=np.uint8)
    for label, bodies in enumerate(_ORGANS.values(), start=1):
        labels[np.logical_or.reduce([_inside(body, bumps) for body in bodies])] = label
    for body in (_STOMACH, _SPINE):
        labels[_inside(body, bumps)] = 0
    return labels


def _smooth_noise(random: np.random.Generator) -> FloatArray:
    """(K, J, I) slow change between -1 and 1."""
    noise = ndimage.gaussian_filter(random.normal(size=SHAPE_KJI), (4, 8, 8))
    scaled: FloatArray = noise / np.abs(noise).max()
    return scaled


def _inside(body: _Body, bumps: FloatArray) -> BoolArray:
    """(K, J, I) mask of a body; its radius varies with the smooth noise."""
    axes = [np.linspace(-1.0, 1.0, size) for size in SHAPE_KJI]
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    radius_squared = sum(
        ((place - middle) / half) ** 2
        for place, middle, half in zip(grid, body.middle, body.half_axes, strict=True)
    )
    inside: BoolArray = radius_squared < (1.0 + 4.0 * body.bumps * bumps) ** 2
    return inside


def _affine() -> FloatArray:
    """(i, j, k, 1) -> RAS mm: columns to the left, rows to the back, tilted about the left axis."""
    tilt = np.deg2rad(_TILT_DEGREES)
    rotation = np.array(
        [
            [1.0, 0.0, 0.0],
            [0.0, np.cos(tilt), -np.sin(tilt)],
            [0.0, np.sin(tilt), np.cos(tilt)],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-1.0, -1.0, 1.0]) @ np.diag(SPACING_KJI_MM[::-1])
    middle_ijk = (np.array(SHAPE_KJI[::-1]) - 1) / 2
    affine[:3, 3] = -affine[:3, :3] @ middle_ijk
    return affine


def _clicks(labels: VoxelArray, bumps: FloatArray) -> tuple[tuple[IndexKJI, bool], ...]:
    """One click in the thick of each lobe of the liver, then one beside it: in the spleen."""
    right, left = ((labels == 1) & _inside(lobe, bumps) for lobe in _LIVER)
    return (_deepest(right), True), (_deepest(left & ~right), True), (_deepest(labels == 2), False)


def _deepest(mask: BoolArray) -> IndexKJI:
    k, j, i = first_click(mask, SPACING_KJI_MM).place
    return k, j, i
