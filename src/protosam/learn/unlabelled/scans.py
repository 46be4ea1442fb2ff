"""Volumes as a small network learns from them: on a working grid, in patches turned and stretched.

Owns the choice of grid and patch from finished cases, and how patches are drawn. A scan of the pool
has no place for labels. Arrays are (c, d, h, w) on the working grid (`models.specialist`); spacing
is in mm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from protosam.extents import bounding_extent
from protosam.geometry import Volume
from protosam.learn.finished_cases import FinishedCase
from protosam.models.specialist import on_working_grid, resized_to, working_shape
from protosam.models.specialist_card import CELL, SpecialistCard

OBJECT_VOXELS = 40
"""Voxels of the working grid along an object's longest side; 48 are a patch's."""

LONGEST_PATCH = 48

TURN_DEGREES = 15.0
STRETCH = 0.15
BRIGHTNESS, NOISE = 0.15, 0.05
ON_OBJECT = 0.7
"""Share of the labelled patches whose middle lies on the object."""


@dataclass(frozen=True, eq=False)
class LabelledScan:
    """A finished case on its working grid.

    Attributes
    ----------
    image : (1, d, h, w) float tensor
    objects : (labels, d, h, w) float tensor
        Share of each object in each voxel.
    """

    image: torch.Tensor
    objects: torch.Tensor


@dataclass(frozen=True, eq=False)
class PoolScan:
    """An image of which nothing is known, on its working grid.

    Attributes
    ----------
    image : (1, d, h, w) float tensor
    volume : Volume
        What generalists look at.
    """

    image: torch.Tensor
    volume: Volume


@dataclass(frozen=True, eq=False)
class Patch3D:
    """Where a patch lies, and how it is turned.

    Attributes
    ----------
    centre : (3,) float64
        Voxel of the working grid.
    turn : (3, 3) float64
        From the patch's voxels to the grid's.
    """

    centre: npt.NDArray[np.float64]
    turn: npt.NDArray[np.float64]


def card_for(
    cases: Sequence[FinishedCase], names: dict[int, str], networks: tuple[str, ...]
) -> SpecialistCard:
    """Grid, patch and labels for a specialist of finished cases.

    The spacing is that of the coarsest grid on which the longest object still has
    `OBJECT_VOXELS`, and never finer than the images.
    """
    own = np.median([case.image.spacing_kji_mm for case in cases], axis=0)
    longest_mm = max(
        float((np.array(box.shape_kji) * case.image.spacing_kji_mm).max())
        for case in cases
        if (box := bounding_extent(np.isin(case.labels.voxels, case.wanted))) is not None
    )
    spacing = np.maximum(own, longest_mm / OBJECT_VOXELS)
    shapes = [working_shape(case.image, spacing) for case in cases]
    sides = [CELL * math.ceil(min(LONGEST_PATCH, int(n)) / CELL) for n in np.max(shapes, axis=0)]
    labels = tuple(names[n] for n in sorted(names))
    k, j, i = (round(float(s), 4) for s in spacing)
    return SpecialistCard(labels, networks, (k, j, i), (sides[0], sides[1], sides[2]))


def labelled_scan(case: FinishedCase, numbers: Sequence[int], card: SpecialistCard) -> LabelledScan:
    """Bring a finished case to the working grid; `numbers` are its labels in the card's order."""
    masks = np.stack([case.labels.voxels == n for n in numbers]).astype(np.float32)
    shape = working_shape(case.image, card.spacing_mm)
    objects = resized_to(torch.from_numpy(masks), shape)
    return LabelledScan(on_working_grid(case.image, card.spacing_mm), objects)


def pool_scan(volume: Volume, card: SpecialistCard) -> PoolScan:
    """Bring an image of the pool to the working grid."""
    return PoolScan(on_working_grid(volume, card.spacing_mm), volume)


def drawn_patch(
    shape: Sequence[int],
    card: SpecialistCard,
    rng: np.random.Generator,
    on: torch.Tensor | None = None,
) -> Patch3D:
    """Draw a place and a turn.

    Parameters
    ----------
    shape : (d, h, w)
        Of the scan.
    card : SpecialistCard
    rng : Generator
    on : (d, h, w) tensor, optional
        Where most of the middles lie.
    """
    size, side = np.array(shape, dtype=np.float64), np.array(card.patch, dtype=np.float64)
    low, high = np.minimum(side / 2, size / 2), np.maximum(size - side / 2, size / 2)
    centre = rng.uniform(low, high) - 0.5
    if on is not None and rng.random() < ON_OBJECT:
        places = np.argwhere(on.numpy() >= 0.5)
        if len(places):
            centre = np.clip(places[int(rng.integers(len(places)))], low - 0.5, high - 0.5)
    spacing = np.array(card.spacing_mm)
    turned = _rotation(rng) * float(np.exp(rng.uniform(-STRETCH, STRETCH)))
    return Patch3D(centre, turned * spacing[None, :] / spacing[:, None])


def cut(maps: torch.Tensor, patch: Patch3D, sides: Sequence[int], *, beyond: str) -> torch.Tensor:
    """Take a patch out of maps.

    Parameters
    ----------
    maps : (c, d, h, w) tensor
    patch : Patch3D
    sides : (int, int, int)
    beyond : {"border", "zeros"}
        What lies outside of the maps.

    Returns
    -------
    (c, *sides) tensor
    """
    steps = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in sides]
    offsets = torch.stack(torch.meshgrid(*steps, indexing="ij"), dim=-1)  # (*sides, 3)
    places = offsets @ torch.from_numpy(patch.turn).T + torch.from_numpy(patch.centre)
    size = torch.tensor(maps.shape[1:], dtype=torch.float64)
    grid = ((2 * places + 1) / size - 1).flip(-1).float()  # grid_sample wants (w, h, d)
    taken = F.grid_sample(maps[None], grid[None], padding_mode=beyond, align_corners=False)
    return taken[0]


def varied(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Vary contrast, brightness and noise of a patch with mean 0 and deviation 1."""
    contrast, brightness = 1 + rng.uniform(-BRIGHTNESS, BRIGHTNESS), rng.normal(0, BRIGHTNESS)
    noise = torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
    return image * contrast + brightness + float(rng.uniform(0, NOISE)) * noise


def classes_of(objects: torch.Tensor) -> torch.Tensor:
    """Shares of objects (labels, ...) with that of the background before them; they sum to 1."""
    background = (1 - objects.sum(dim=0, keepdim=True)).clamp_min(0)
    whole = torch.cat([background, objects])
    return whole / whole.sum(dim=0, keepdim=True).clamp_min(1e-6)


def _rotation(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Rotation about the three axes by up to `TURN_DEGREES` each."""
    turn = np.eye(3)
    for axis in range(3):
        angle = math.radians(float(rng.uniform(-TURN_DEGREES, TURN_DEGREES)))
        a, b = (n for n in range(3) if n != axis)
        step = np.eye(3)
        step[a, a] = step[b, b] = math.cos(angle)
        step[a, b], step[b, a] = -math.sin(angle), math.sin(angle)
        turn = step @ turn
    return turn
