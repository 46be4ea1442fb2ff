"""Training samples: three nearby slices of one volume in one frame, with objects in them.

A sample is what propagation meets: slice A is clicked, slice B is `step` slices further, where the
object may have changed, or ended, and slice C as far again. Frames are square; the same warp is
used for all slices (for single images B and C are the same image, warped a little further each).
Objects are labels, unions of labels, and homogeneous regions grown from a random pixel, so that
the model stays class-agnostic.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch.nn import functional as F

from protosam.learn.augment import vary_intensities
from protosam.learn.clicks import pick
from protosam.learn.sources import Source

NATIVE_SIDE = 256
"""Frame side at which a whole slice is seen when the model is used."""

NEAR_END = 0.32
"""Share of the samples drawn at an end of the object, where B often has nothing of it."""

MIN_PIXELS = 24
"""Smallest area of an object in slice A of the frame."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One training sample.

    Attributes
    ----------
    images : (3, 3, S, S) float32
        Slices A, B and C, each between its neighbours, 0..1.
    targets : (m, 3, S/2, S/2) float32
        Soft masks of the objects in A, B and C, on the half grid.
    """

    images: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True, eq=False)
class _Plane:
    """A slice plane of a source, seen with the slice axis first."""

    image: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    spacing_mm: tuple[float, float, float]
    box: tuple[tuple[int, int], ...]


class Sampler:
    """Draws samples from prepared sources.

    Parameters
    ----------
    sources : name -> volumes
    mix : name -> share
    objects : int
        Objects in each sample.
    """

    def __init__(
        self, sources: dict[str, list[Source]], mix: dict[str, float], objects: int
    ) -> None:
        self._sources = sources
        self._mix = {name: mix[name] for name in sources}
        self._objects = objects

    def draw(self, rng: np.random.Generator, side: int) -> Sample:
        """Draw one sample in frames of `side` pixels; tries again until an object is visible."""
        while True:
            sample = self._try(rng, side)
            if sample is not None:
                return sample

    def _try(self, rng: np.random.Generator, side: int) -> Sample | None:
        volumes = self._sources[pick(rng, self._mix)]
        source = volumes[int(rng.integers(len(volumes)))]
        label = int(rng.choice(list(source.objects)))
        plane = _plane(source, label, _axis(source, rng))
        slices = _slices(plane, rng)
        where = _bounds(np.asarray(plane.labels[slices[0]]) == label)
        if where is None:
            return None
        grids = _grids(plane, where, side, rng, slices=slices)
        images = torch.stack(
            [_warp(_stack(plane.image, z, rng), g) for z, g in zip(slices, grids, strict=True)]
        )
        labels = torch.stack(
            [
                _warp(np.asarray(plane.labels[z])[None].astype(np.float32), g, nearest=True)[0]
                for z, g in zip(slices, grids, strict=True)
            ]
        )
        images = vary_intensities(images, labels, rng)
        masks = _choose_objects(images[:, 1], labels, label, self._objects, rng)
        if masks is None:
            return None
        targets = F.avg_pool2d(masks, 2)
        if bool((targets[:, 0].amax(dim=(1, 2)) < 0.5).any()):
            return None  # scattered pixels that no cell of the half grid holds
        return Sample(images, targets)


def _axis(source: Source, rng: np.random.Generator) -> int:
    """Slice axis: mostly across the thickest slices, any where the voxels are nearly cubes."""
    shape, spacing = source.labels.shape, np.array(source.spacing_kji_mm)
    usable = [a for a in range(3) if min(n for i, n in enumerate(shape) if i != a) >= 16]
    thick = spacing.max() > 2 * spacing.min()
    shares = {a: 3.0 if thick and spacing[a] == spacing.max() else 1.0 for a in usable}
    return int(pick(rng, shares))


def _plane(source: Source, label: int, axis: int) -> _Plane:
    order = (axis, *(a for a in range(3) if a != axis))
    k, r, c = (source.spacing_kji_mm[a] for a in order)
    box = tuple(source.objects[label][a] for a in order)
    return _Plane(
        np.moveaxis(source.image, axis, 0), np.moveaxis(source.labels, axis, 0), (k, r, c), box
    )


def _slices(plane: _Plane, rng: np.random.Generator) -> tuple[int, int, int]:
    """Slice A through the object, B one to a few further, C as many again; often near the ends."""
    depth = plane.image.shape[0]
    first, stop = plane.box[0]
    step = int(pick(rng, {1: 0.6, 2: 0.28, 3: 0.12}))
    if plane.spacing_mm[0] < 1.6 and rng.random() < 0.4:
        step += 1
    direction = 1 if rng.random() < 0.5 else -1
    if rng.random() < NEAR_END:
        end = stop - 1 if direction > 0 else first
        a = int(np.clip(end - direction * rng.integers(0, 2), first, stop - 1))
    else:
        a = int(rng.integers(first, stop))
    if not 0 <= a + direction * step < depth:
        direction = -direction
    b = a + direction * step if 0 <= a + direction * step < depth else a
    c = b + direction * step if 0 <= b + direction * step < depth else b
    return a, b, c


def _bounds(mask: npt.NDArray[np.bool_]) -> tuple[float, float, float, float] | None:
    """First row, last row, first column, last column of a mask."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    return float(rows[0]), float(rows[-1]), float(cols[0]), float(cols[-1])


def _grids(
    plane: _Plane,
    where: tuple[float, float, float, float],
    side: int,
    rng: np.random.Generator,
    *,
    slices: tuple[int, ...],
) -> list[torch.Tensor]:
    """Make the grids of the slices: one warp, and a little step on wherever a slice repeats."""
    shape, spacing = plane.image.shape[1:], np.array(plane.spacing_mm[1:])
    centre, scale = _view(shape, spacing, where, side, rng)
    turn = _turn(rng) / scale  # frame pixels to mm
    grids = [_grid(turn, centre, shape, spacing, side)]
    for before, now in itertools.pairwise(slices):
        if now == before:
            angle, zoom = rng.normal(0, 0.08), rng.uniform(0.94, 1.06)
            nudge = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            turn = turn @ (zoom * nudge)
            centre = centre + rng.normal(0, 0.02, size=2) * side / scale
        grids.append(_grid(turn, centre, shape, spacing, side))
    return grids


def _view(
    shape: tuple[int, ...],
    spacing: npt.NDArray[Any],
    where: tuple[float, float, float, float],
    side: int,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[Any], float]:
    """Centre in mm (row, col) and scale in frame pixels per mm."""
    extent_mm = np.array(shape) * spacing
    low = np.array([where[0], where[2]]) * spacing
    high = (np.array([where[1], where[3]]) + 1) * spacing
    object_mm = float((high - low).max())
    kind = pick(rng, {"whole": 0.2, "native": 0.35, "focus": 0.45})
    if kind == "whole":
        scale = side / extent_mm.max() * rng.uniform(0.85, 1.15)
        return extent_mm / 2 + rng.normal(0, 0.03, size=2) * extent_mm, float(scale)
    if kind == "native":
        scale = NATIVE_SIDE / extent_mm.max() * rng.uniform(0.8, 1.25)
    else:
        scale = side / object_mm * np.exp(rng.uniform(np.log(0.12), np.log(0.9)))
    scale = float(min(scale, 8.0 / spacing.min()))
    slack = max(0.15 * side / scale, side / scale - 0.7 * object_mm)
    return (low + high) / 2 + rng.uniform(-0.5, 0.5, size=2) * slack, scale


def _turn(rng: np.random.Generator) -> npt.NDArray[Any]:
    """Random rotation, flips, transposition and stretch of (row, col)."""
    angle = 0.0
    if rng.random() < 0.5:
        angle = rng.normal(0, 0.25) if rng.random() < 0.8 else rng.uniform(-np.pi, np.pi)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = matrix @ np.diag(rng.choice([-1.0, 1.0], size=2) * np.exp(rng.normal(0, 0.07, 2)))
    return matrix[::-1].copy() if rng.random() < 0.25 else matrix


def _grid(
    turn: npt.NDArray[Any],
    centre_mm: npt.NDArray[Any],
    shape: tuple[int, ...],
    spacing: npt.NDArray[Any],
    side: int,
) -> torch.Tensor:
    """Grid for `grid_sample`: frame pixel -> mm -> normalised (x, y) of the slice."""
    offsets = np.arange(side) - (side - 1) / 2
    rows = turn[0, 0] * offsets[:, None] + turn[0, 1] * offsets[None] + centre_mm[0]
    cols = turn[1, 0] * offsets[:, None] + turn[1, 1] * offsets[None] + centre_mm[1]
    y = 2 * rows / (shape[0] * spacing[0]) - 1
    x = 2 * cols / (shape[1] * spacing[1]) - 1
    return torch.from_numpy(np.stack([x, y], axis=-1).astype(np.float32))


def _stack(image: npt.NDArray[Any], z: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Put a slice between its neighbours; thrice itself for single images and sometimes else."""
    depth = image.shape[0]
    if depth == 1 or rng.random() < 0.15:
        return np.repeat(np.asarray(image[z], dtype=np.float32)[None], 3, axis=0)
    indices = np.clip([z - 1, z, z + 1], 0, depth - 1)
    return np.stack([np.asarray(image[i], dtype=np.float32) for i in indices])


def _warp(
    channels: npt.NDArray[np.float32], grid: torch.Tensor, *, nearest: bool = False
) -> torch.Tensor:
    """Sample (c, h, w) at the grid (S, S, 2); outside the slice is 0."""
    tensor = torch.from_numpy(channels).unsqueeze(0)
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(tensor, grid.unsqueeze(0), mode=mode, align_corners=False)[0]


def _choose_objects(
    slices: torch.Tensor, labels: torch.Tensor, main: int, count: int, rng: np.random.Generator
) -> torch.Tensor | None:
    """Masks (count, s, S, S): the main label first, then others; None if it is not visible."""
    first = (labels == main).float()
    if int(first[0].sum()) < MIN_PIXELS:
        return None
    values, sizes = torch.unique(labels[0], return_counts=True)
    others = [
        float(v)
        for v, n in zip(values, sizes, strict=True)
        if v not in (0, main) and n >= MIN_PIXELS
    ]
    masks = [first]
    while len(masks) < count:
        masks.append(_another(slices, labels, main, others, rng))
    return torch.stack(masks)


def _another(
    slices: torch.Tensor,
    labels: torch.Tensor,
    main: int,
    others: list[float],
    rng: np.random.Generator,
) -> torch.Tensor:
    kind = pick(rng, {"label": 0.5, "union": 0.12, "region": 0.38})
    if kind == "region" or not others:
        region = _region(slices.numpy(), rng)
        if region is not None:
            return torch.from_numpy(region)
        return (labels == main).float()
    other = others[int(rng.integers(len(others)))]
    mask = labels == other
    return (mask | (labels == main)).float() if kind == "union" else mask.float()


def _region(
    slices: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.float32] | None:
    """Grow a homogeneous region from a random pixel, in all slices; (s, S, S) or None."""
    side = slices.shape[1]
    row, col = rng.integers(side // 8, side - side // 8, size=2)
    sigma, tolerance = rng.uniform(0.7, 2.5), rng.uniform(0.04, 0.2)
    smooth = ndimage.gaussian_filter(slices, (0, sigma, sigma))
    value = smooth[0, row, col]
    masks = []
    for one in smooth:
        labels, _ = ndimage.label(np.abs(one - value) < tolerance)
        here = labels[row, col]
        mask = labels == here if here else np.zeros(labels.shape, dtype=bool)
        masks.append(ndimage.binary_fill_holes(mask) if rng.random() < 0.5 else mask)
    area = np.count_nonzero(masks[0])
    if not 2 * MIN_PIXELS <= area <= 0.85 * side * side:
        return None
    return np.stack(masks).astype(np.float32)
