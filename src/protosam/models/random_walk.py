"""A random walk over small objects: clicks and neighbouring slices agree with the model's answer.

Sweeps answer slice by slice, so that a click acts where it lies and, through the waves, along one
axis at a time. Here all voxels of a box are solved for together: a walk starts at each of them,
crosses small intensity steps more easily than large ones, may stop anywhere with the probability
that the model gave there, and stops at clicks for certain (Grady 2005, "Multilabel random walker
image segmentation using prior models", doi 10.1109/CVPR.2005.239, eq. 14). Array order is
(k, j, i); lengths are in mm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import cg

from protosam.extents import Extent, three_ints
from protosam.geometry import Volume
from protosam.intensity import Window, apply_window
from protosam.models.views import SURE, Field
from protosam.prompts import Point

MAX_VOXELS = 100_000
"""Boxes with more voxels are left as they are: on a coarser grid the walk blurs what it should
mend, and on their own it takes longer than the sweeps."""

REACH_MM = 4.0
"""How far an answer spreads at most where there are no edges and no clicks."""

REACH_SHARE = 0.5
"""It spreads no further than this share of the radius of a ball of the answer's volume."""

CLICKED = 4.0
"""How much more the model's answer counts in the slices that were clicked."""

EDGE = 10.0
"""How much an intensity step hinders the walk: exp(-EDGE * step ** 2 / deviation)."""

CLICK_MM = 3.0
"""Radius of the ball that a click decides."""

MARGIN = 0.15
"""Share of the box's side that is added on each side, at least `MIN_MARGIN` voxels."""

MIN_MARGIN = 2

CERTAIN = 1e3
"""Weight of a click against the walk's steps, which weigh at most 1."""

WALK_FROM = 3
"""Clicks from which the walk follows the 3-D head; with fewer it takes from small objects."""

TOLERANCE = 1e-4
"""Relative residual of the solver."""


def walked(
    volume: Volume, whole: Field, points: Sequence[Point], *, window: Window, axis: int
) -> Field:
    """Let the answer for a small object and its clicks settle.

    Parameters
    ----------
    volume : Volume
    whole : Field
        Logits of the model's answer.
    points : sequence of Point
    window : Window
    axis : int
        Array axis across which the slices lie that were answered first.

    Returns
    -------
    Field
        Over a somewhat larger box; `whole` itself where that box has more than `MAX_VOXELS`, or
        the answer is empty.
    """
    box = _box(volume, whole, points)
    shape = box.shape_kji
    if int(np.prod(shape)) > MAX_VOXELS or not (whole.logits > 0).any():
        return whole
    logits = whole.on(box)
    spacing = np.asarray(volume.spacing_kji_mm)
    grey = apply_window(volume.voxels[box.slices], window).astype(np.float64)
    prior = 1 / (1 + np.exp(-logits.astype(np.float64)))
    reach_mm = min(REACH_MM, REACH_SHARE * _radius_mm(logits > 0, spacing))
    trust = np.full(shape, (float(spacing.min()) / reach_mm) ** 2)
    places = [np.subtract(point.voxel_kji, box.start_kji) for point in points]
    np.moveaxis(trust, axis, 0)[sorted({int(place[axis]) for place in places})] *= CLICKED
    for point, place in zip(points, places, strict=True):
        ball = _ball(shape, place, spacing)
        prior[ball], trust[ball] = float(point.positive), CERTAIN
    found = _solved(grey, prior, trust, spacing)
    floor = 1 / (1 + np.exp(SURE))
    found = np.clip(found, floor, 1 - floor)
    return Field(box, np.log(found / (1 - found)).astype(np.float32), whole.weight)


def _box(volume: Volume, whole: Field, points: Sequence[Point]) -> Extent:
    """Box of the answer and the clicks, with a margin, inside the volume."""
    places = np.array([p.voxel_kji for p in points], dtype=int).reshape(-1, 3)
    low = np.vstack([places, [whole.extent.start_kji]]).min(axis=0)
    high = np.vstack([places + 1, [whole.extent.stop_kji]]).max(axis=0)
    sides = np.asarray(whole.extent.shape_kji)
    margin = np.maximum(MIN_MARGIN, np.round(MARGIN * sides)).astype(int)
    start = np.maximum(low - margin, 0)
    stop = np.minimum(high + margin, volume.shape_kji)
    return Extent(three_ints(start, "start"), three_ints(stop, "stop"))


def _radius_mm(mask: npt.NDArray[np.bool_], spacing: npt.NDArray[np.float64]) -> float:
    """Radius of a ball of the mask's volume."""
    volume = np.count_nonzero(mask) * float(np.prod(spacing))
    return float((3 * volume / (4 * np.pi)) ** (1 / 3))


def _ball(
    shape: tuple[int, ...], centre: npt.NDArray[np.int_], spacing: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Voxels within `CLICK_MM` of a voxel, that voxel among them however large it is."""
    grids = np.ogrid[tuple(slice(0, n) for n in shape)]
    squares = [((g - c) * mm) ** 2 for g, c, mm in zip(grids, centre, spacing, strict=True)]
    ball = np.asarray(squares[0] + squares[1] + squares[2] <= CLICK_MM**2)
    ball[tuple(int(c) for c in centre)] = True
    return ball


def _solved(
    grey: npt.NDArray[np.float64],
    prior: npt.NDArray[np.float64],
    trust: npt.NDArray[np.float64],
    spacing: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Solve (L + diag(trust)) x = trust * prior for the probabilities of all voxels.

    L is the Laplacian of the grid's graph, whose edges weigh what a step costs.
    """
    numbers = np.arange(grey.size).reshape(grey.shape)
    scale = EDGE / max(float(grey.std()), 1e-3)
    ends, weights = [], []
    for axis, mm in enumerate(spacing / spacing.min()):
        one, other = (np.delete(numbers, index, axis=axis).ravel() for index in (-1, 0))
        steps = np.diff(grey, axis=axis).ravel()
        ends.append((one, other))
        weights.append(np.exp(-scale * steps**2) / mm + 1e-6)
    rows = np.concatenate([np.concatenate(pair) for pair in ends])
    columns = np.concatenate([np.concatenate(pair[::-1]) for pair in ends])
    values = np.concatenate([np.tile(w, 2) for w in weights])
    graph = sparse.csr_matrix((values, (rows, columns)), shape=(grey.size, grey.size))
    diagonal = np.asarray(graph.sum(axis=1)).ravel() + trust.ravel()
    system = sparse.diags(diagonal) - graph
    wanted = (trust * prior).ravel()
    solution, failed = cg(
        system, wanted, x0=prior.ravel(), M=sparse.diags(1 / diagonal), rtol=TOLERANCE
    )
    if failed:
        raise ArithmeticError(f"The random walk did not settle ({failed} steps).")
    return np.asarray(solution).reshape(grey.shape)
