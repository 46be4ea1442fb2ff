"""A first click for an image in which nobody has clicked: the middle of a large, even, bright body.

This is for the demonstration only, where any volume has to give a sensible segment without a
person; nothing else in the package makes up prompts. Places are voxel indices (k, j, i).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from protosam.errors import InvalidInput
from protosam.extents import BoolArray, FloatArray, IndexKJI
from protosam.geometry import Volume
from protosam.intensity import apply_window, auto_window

WORKING_SIDE = 96
"""Longest side of the grid that is looked at; the middle of a large body needs no finer one."""

WHITE = 0.98
"""Windowed intensity above which a voxel tells nothing of its neighbourhood."""

EVEN_MM = 6.0
"""Side of the neighbourhood in mm in which the intensities of an even body stay alike."""


def bright_body_centre(volume: Volume) -> IndexKJI:
    """Voxel deepest inside the bright and even part of an image.

    Otsu's threshold parts the body from the background, a second one the bright half of the body
    from the dark one; what is at the window's top (bone, metal, contrast) is left out. Even is a
    local standard deviation that is not above the median of the bright voxels.

    Parameters
    ----------
    volume : Volume
        Any scalar image that is not constant.

    Returns
    -------
    (k, j, i) ints

    Raises
    ------
    InvalidInput
        The image is constant, or nothing in it is brighter than the rest.
    """
    grey, step_kji = _working_copy(volume)
    spacing_mm = [s * n for s, n in zip(volume.spacing_kji_mm, step_kji, strict=True)]
    depth_mm = _depth_mm(_even_and_bright(grey, spacing_mm), spacing_mm)
    if not depth_mm.any():
        raise InvalidInput(
            "No even, bright body was found in the image to start from.",
            'Name a point yourself, for example POINTS="40,120,130,+".',
        )
    deepest = np.unravel_index(int(depth_mm.argmax()), depth_mm.shape)
    k, j, i = (int(index) * step for index, step in zip(deepest, step_kji, strict=True))
    return k, j, i


def _working_copy(volume: Volume) -> tuple[FloatArray, IndexKJI]:
    """Every n-th voxel of the windowed image, and n along k, j, i."""
    window = auto_window(volume.voxels)
    k, j, i = (max(1, math.ceil(size / WORKING_SIDE)) for size in volume.shape_kji)
    return apply_window(volume.voxels[::k, ::j, ::i], window).astype(np.float64), (k, j, i)


def _even_and_bright(grey: FloatArray, spacing_mm: Sequence[float]) -> BoolArray:
    size = [
        max(3, round(EVEN_MM / step)) if n > 1 else 1
        for step, n in zip(spacing_mm, grey.shape, strict=True)
    ]
    mean = ndimage.uniform_filter(grey, size)
    spread = np.sqrt(np.maximum(ndimage.uniform_filter(grey**2, size) - mean**2, 0.0))
    body = (mean > threshold_otsu(grey)) & (mean < WHITE)
    if body.any() and np.ptp(mean[body]) > 0:
        body &= mean >= threshold_otsu(mean[body])
    even: BoolArray = body & (spread <= np.median(spread[body])) if body.any() else body
    return even


def _depth_mm(mask: BoolArray, spacing_mm: Sequence[float]) -> FloatArray:
    """Distance to the nearest voxel outside; the image's own edge counts as outside."""
    margin = [(1, 1) if n > 1 else (0, 0) for n in mask.shape]
    depth: FloatArray = ndimage.distance_transform_edt(np.pad(mask, margin), sampling=spacing_mm)
    return depth[tuple(slice(low, low + n) for (low, _), n in zip(margin, mask.shape, strict=True))]
