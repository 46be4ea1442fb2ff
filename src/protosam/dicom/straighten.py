"""A tilted or uneven stack, resampled to a right-angled, even grid.

Rules
-----
* Rows and columns keep their directions and spacings; only the line of the slices becomes the
  normal. So a value is interpolated between two slices and along the tilt, and nowhere else.
* Slices get the usual step of the source.
* Outside of the source stands its lowest value (air on CT).
* It knows stacks and arrays: no files, no tags. Positions are LPS mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from protosam.dicom.stacks import Stack
from protosam.extents import FloatArray, VoxelArray
from protosam.geometry import checked_affine, flip_ras_lps


@dataclass(frozen=True, eq=False)
class StraightGrid:
    """Where the resampled voxels lie."""

    depths_mm: FloatArray
    """(K,) along the normal, from the first source slice."""
    offset_px: tuple[int, int]
    """Rows and columns added before the first source pixel."""
    shape: tuple[int, int]
    """Rows and columns."""
    affine: FloatArray
    """(4, 4), (i, j, k, 1) -> RAS mm."""


def straight_grid(stack: Stack) -> StraightGrid:
    """Smallest right-angled grid, on the rows and columns of the first slice, that holds a stack.

    Parameters
    ----------
    stack : Stack
        Two slices or more.
    """
    first = stack.frames[0]
    row_mm, column_mm = first.spacing_mm
    # A shift along a row moves columns, one down a column moves rows.
    moved = stack.shifts_mm[:, ::-1] / (row_mm, column_mm)
    before = np.ceil(-moved.min(axis=0).clip(max=0) - 1e-6).astype(int)
    after = np.ceil(moved.max(axis=0).clip(min=0) - 1e-6).astype(int)
    step = float(np.median(np.diff(stack.depths_mm)))
    count = int(np.floor(float(stack.depths_mm[-1]) / step + 1e-6)) + 1
    lps = np.eye(4)
    lps[:3, 0] = first.axes_lps[0] * column_mm
    lps[:3, 1] = first.axes_lps[1] * row_mm
    lps[:3, 2] = first.normal_lps * step
    lps[:3, 3] = first.position_lps_mm - lps[:3, 1] * before[0] - lps[:3, 0] * before[1]
    rows, columns = (int(n) for n in np.add(first.shape, before + after))
    return StraightGrid(
        (np.arange(count) * step).astype(np.float64),
        (int(before[0]), int(before[1])),
        (rows, columns),
        checked_affine(flip_ras_lps(lps)),
    )


def straightened(stack: Stack, values: Sequence[VoxelArray], grid: StraightGrid) -> VoxelArray:
    """Sample a stack on its straight grid, linearly.

    Parameters
    ----------
    stack : Stack
        The slices in order.
    values : sequence of (rows, columns) arrays
        Their values, one dtype.
    grid : StraightGrid
        From `straight_grid`.

    Returns
    -------
    (K, rows, columns) array
        Of the same dtype; rounded where that is a whole number.
    """
    fill = float(min(one.min() for one in values))
    result = np.empty((len(grid.depths_mm), *grid.shape), dtype=values[0].dtype)
    for k, depth in enumerate(grid.depths_mm):
        above = int(np.searchsorted(stack.depths_mm, depth, side="right"))
        above = min(max(above, 1), len(values) - 1)
        run = stack.depths_mm[above] - stack.depths_mm[above - 1]
        weight = float(np.clip((depth - stack.depths_mm[above - 1]) / run, 0, 1))
        plane = np.zeros(grid.shape)
        for n, part in ((above - 1, 1 - weight), (above, weight)):
            if part > 0:
                plane += part * _moved(stack, values[n], n, grid, fill)
        result[k] = plane.round() if result.dtype.kind in "iu" else plane
    return result


def _moved(stack: Stack, slice_: VoxelArray, n: int, grid: StraightGrid, fill: float) -> FloatArray:
    """One source slice on rows and columns of the grid."""
    row_mm, column_mm = stack.frames[0].spacing_mm
    shift = np.add(stack.shifts_mm[n][::-1] / (row_mm, column_mm), grid.offset_px)
    moved: FloatArray = ndimage.affine_transform(
        slice_.astype(np.float64),
        (1.0, 1.0),
        offset=-shift,
        output_shape=grid.shape,
        order=1,
        mode="constant",
        cval=fill,
    )
    return moved
