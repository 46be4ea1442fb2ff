"""What the 3-D head sees: the answer, the bank's memberships, clicks and intensities on one grid.

Owns the box round an object, its grid of (nearly) cubic voxels, and the way there and back.
Array order is (k, j, i) throughout; lengths are in mm. Knows nothing of networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from protosam.extents import Extent, bounding_extent, three_ints
from protosam.geometry import Volume
from protosam.intensity import Window, apply_window
from protosam.models.views import SURE, Field
from protosam.models.volume_head import STRIDE
from protosam.prompts import Point

LONGEST = 64
"""Voxels of the grid's longest side, at most."""

HOPEFUL = -2.0
"""Logit above which a voxel may yet belong to the object."""

MARGIN, MARGIN_MM = 0.25, 10.0
"""Share of the box's side and length that are added on each side."""

NEAR_MM = 3.0
"""Width (sigma) of the narrow Gaussian round a click; at least one voxel of the grid."""

FAR_SHARE = 0.12
"""Width of the wide Gaussian, as a share of the grid's longest side."""


@dataclass(frozen=True)
class HeadGrid:
    """A box of the volume, and how many voxels the head sees along its sides.

    Attributes
    ----------
    extent : Extent
    spacing_kji_mm : (float, float, float)
        Of the volume.
    shape : (int, int, int)
        Multiples of `STRIDE`, at most `LONGEST`.
    """

    extent: Extent
    spacing_kji_mm: tuple[float, float, float]
    shape: tuple[int, int, int]

    @classmethod
    def over(cls, extent: Extent, spacing_kji_mm: Sequence[float]) -> HeadGrid:
        """Grid over a box: voxels as cubic as the stride allows, no finer than the volume's."""
        spacing = [float(s) for s in spacing_kji_mm]
        sides = [n * mm for n, mm in zip(extent.shape_kji, spacing, strict=True)]
        voxel_mm = max(max(sides) / LONGEST, min(spacing))
        counts = [STRIDE * max(1, math.ceil(s / voxel_mm / STRIDE - 1e-6)) for s in sides]
        shape = three_ints([min(LONGEST, n) for n in counts], "shape")
        return cls(extent, (spacing[0], spacing[1], spacing[2]), shape)

    @property
    def voxel_kji_mm(self) -> tuple[float, ...]:
        """Sides of a voxel of the grid."""
        mm = zip(self.extent.shape_kji, self.spacing_kji_mm, self.shape, strict=True)
        return tuple(n * step / count for n, step, count in mm)

    def place(self, point_kji: Sequence[float]) -> npt.NDArray[np.float64]:
        """Take a point of the volume to the grid, (3,) in voxels of the grid."""
        scale = np.divide(self.shape, self.extent.shape_kji)
        inner = np.subtract(point_kji, self.extent.start_kji) + 0.5
        placed: npt.NDArray[np.float64] = inner * scale - 0.5
        return placed


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the sweeps have left, on the volume's own voxels within a box.

    Attributes
    ----------
    answer : (k, j, i) float32
        Mean logits of the views, within `SURE` either way.
    doubt : (k, j, i) float32
        Standard deviation of the views' logits.
    membership : (k, j, i) float32
        Log odds of the prototype bank; 0 where nothing is known.
    grey : (k, j, i) float32
        Windowed intensities, 0..1.
    """

    answer: npt.NDArray[np.float32]
    doubt: npt.NDArray[np.float32]
    membership: npt.NDArray[np.float32]
    grey: npt.NDArray[np.float32]


def box_of(
    volume: Volume,
    whole: Field,
    points: Sequence[Point],
    margins: tuple[float, float] = (MARGIN, MARGIN_MM),
) -> Extent | None:
    """Box of what may belong to the object, and of the clicks, with a margin, in the volume.

    None where nothing may, and nothing was clicked. `margins` are a share of the box's side and a
    length in mm; the larger one is added on each side.
    """
    places = np.array([p.voxel_kji for p in points], dtype=int).reshape(-1, 3)
    hopeful = bounding_extent(whole.logits > HOPEFUL)
    if hopeful is not None:
        found = hopeful.moved(whole.extent.start_kji)
        places = np.vstack([places, found.start_kji, np.subtract(found.stop_kji, 1)])
    if len(places) == 0:
        return None
    low, high = places.min(axis=0), places.max(axis=0) + 1
    box = Extent(three_ints(low, "start"), three_ints(high, "stop"))
    return with_margin(box, volume.spacing_kji_mm, margins).clip(volume.shape_kji)


def with_margin(
    box: Extent, spacing_kji_mm: Sequence[float], margins: tuple[float, float]
) -> Extent:
    """Box with the larger of a share of its side and a length in mm added on each side."""
    share, length_mm = margins
    least = np.ceil(length_mm / np.asarray(spacing_kji_mm))
    margin = np.maximum(np.ceil(share * np.asarray(box.shape_kji)), least).astype(int)
    return box.pad([int(n) for n in margin])


def evidence_in(
    extent: Extent,
    volume: Volume,
    views: Sequence[Field],
    membership: Field | None,
    window: Window,
) -> Evidence:
    """Gather what is known in a box.

    Parameters
    ----------
    extent : Extent
    volume : Volume
    views : sequence of Field
        Answers of the sweeps across each axis; at least one.
    membership : Field or None
        Log odds of the prototype bank; none are 0 everywhere.
    window : Window
    """
    weights = [v.weight / sum(w.weight for w in views) for v in views]
    shown = [view.on(extent, -SURE) for view in views]
    answer = np.zeros(extent.shape_kji, dtype=np.float32)
    for logits, weight in zip(shown, weights, strict=True):
        answer += np.float32(weight) * logits
    squares = np.zeros_like(answer)
    for logits, weight in zip(shown, weights, strict=True):
        squares += np.float32(weight) * (logits - answer) ** 2
    return Evidence(
        answer=answer,
        doubt=np.sqrt(squares),
        membership=np.zeros_like(answer) if membership is None else membership.on(extent, 0.0),
        grey=apply_window(volume.voxels[extent.slices], window).astype(np.float32),
    )


def head_maps(evidence: Evidence, grid: HeadGrid, points: Sequence[Point]) -> torch.Tensor:
    """Draw the head's input.

    Returns
    -------
    (1, len(HEAD_CHANNELS), k, j, i) float32
        On the grid.
    """
    e = evidence
    shown = np.stack([e.answer / SURE, e.doubt / SURE, e.membership / SURE, 2 * e.grey - 1])
    seen = resampled(torch.from_numpy(shown.astype(np.float32))[None], grid.shape)
    clicks = click_maps(
        np.array([grid.place(p.point_kji) for p in points]).reshape(-1, 3),
        np.array([p.positive for p in points], dtype=bool),
        grid,
    )
    return torch.cat([seen, torch.from_numpy(clicks)[None], size_map(grid)], dim=1)


def size_map(grid: HeadGrid) -> torch.Tensor:
    """Logarithm of the voxel's side in mm, (1, 1, k, j, i) float32."""
    voxel_mm = float(np.mean(grid.voxel_kji_mm))
    return torch.full((1, 1, *grid.shape), math.log(voxel_mm))


def click_maps(
    places: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_], grid: HeadGrid
) -> npt.NDArray[np.float32]:
    """Gaussians round clicks: the largest one counts where they overlap.

    Parameters
    ----------
    places : (n, 3) float
        In voxels of the grid.
    positive : (n,) bool
    grid : HeadGrid

    Returns
    -------
    (4, k, j, i) float32
        Positive narrow, positive wide, negative narrow, negative wide.
    """
    steps = np.asarray(grid.voxel_kji_mm)
    widths = (max(NEAR_MM, float(steps.max())), FAR_SHARE * float(max(grid.shape * steps)))
    out = np.zeros((4, *grid.shape), dtype=np.float32)
    for place, is_positive in zip(places, positive, strict=True):
        along = [
            ((np.arange(n) - p) * mm) ** 2
            for n, p, mm in zip(grid.shape, place, steps, strict=True)
        ]
        for number, width in enumerate(widths):
            k, j, i = (np.exp(-squares / (2 * width**2)).astype(np.float32) for squares in along)
            ball = k[:, None, None] * j[None, :, None] * i[None, None, :]
            channel = out[number if is_positive else 2 + number]
            np.maximum(channel, ball, out=channel)
    return out


def resampled(maps: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Bring maps (b, c, k, j, i) to another number of voxels over the same box.

    Sides that shrink are averaged, sides that grow are interpolated.
    """
    smaller = [min(a, b) for a, b in zip(maps.shape[2:], shape, strict=True)]
    out = F.adaptive_avg_pool3d(maps, three_ints(smaller, "shape"))
    if list(shape) != smaller:
        out = F.interpolate(out, size=list(shape), mode="trilinear", align_corners=False)
    return out
