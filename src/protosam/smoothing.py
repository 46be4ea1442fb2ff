"""Smoothing of a mask that keeps the volume of each of its bodies.

Rules
-----
* A mask is (K, J, I) bool; lengths are in mm, so anisotropic voxels are right. Bodies hang together
  over faces, edges and corners.
* Every body keeps its number of voxels exactly. Bodies neither vanish nor merge; one may part at a
  thin neck.
* What lies beyond the edge of the array is taken to be as the voxels at the edge are, and an axis
  of length 1 is not smoothed along: a 2-D image is treated in 2-D.
* Near a click the surface stays as it was: somebody has looked there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from protosam.extents import BoolArray, Extent, IndexKJI, bounding_extent, three_ints
from protosam.mending import checked_mm
from protosam.morphology import CORNERS, reach_kji, voxels_in

MIN_VOXELS = 27
"""Bodies of fewer voxels stay as they are: they have no surface to speak of, and noise has
thousands of them."""

TRUNCATE = 4.0
"""Standard deviations after which the Gaussian ends: what it leaves out is below 1e-4."""

_CLICK_REACH = 3.0
"""Standard deviations from a click after which its hold on the surface is below 2 %."""


@dataclass(frozen=True)
class _Kernel:
    """The Gaussian, in voxels of one array."""

    sigma_mm: float
    spacing_kji_mm: tuple[float, ...]

    def blurred(self, body: BoolArray) -> npt.NDArray[np.float32]:
        """Share of the body in the neighbourhood of each voxel, 0..1."""
        sigma = [self.sigma_mm / step for step in self.spacing_kji_mm]
        # Further out than the array is wide there are only copies of its edge.
        reach = [
            min(int(TRUNCATE * s + 0.5), size) for s, size in zip(sigma, body.shape, strict=True)
        ]
        share: npt.NDArray[np.float32] = ndimage.gaussian_filter(
            body.astype(np.float32), sigma, mode="nearest", radius=reach
        )
        return share

    def hold(self, share: npt.NDArray[np.float32], body: BoolArray, click: IndexKJI) -> None:
        """Draw the share near a click back to what the body was there, in place."""
        far = reach_kji(_CLICK_REACH * self.sigma_mm, self.spacing_kji_mm)
        around = Extent(click, three_ints(np.add(click, 1), "stop")).pad(far).clip(body.shape)
        squared = np.zeros((1, 1, 1), np.float32)
        for n in range(3):
            steps = np.arange(around.start_kji[n], around.stop_kji[n]) - click[n]
            away_mm = (steps * self.spacing_kji_mm[n]).astype(np.float32)
            squared = squared + np.expand_dims(away_mm**2, [m for m in range(3) if m != n])
        weight = np.exp(-squared / (2 * self.sigma_mm**2))
        share[around.slices] += weight * (body[around.slices] - share[around.slices])


def smoothed(
    mask: BoolArray,
    sigma_mm: float,
    spacing_kji_mm: Sequence[float],
    *,
    inside_kji: Sequence[IndexKJI] = (),
    outside_kji: Sequence[IndexKJI] = (),
) -> BoolArray:
    """Smooth the surface of each body and keep its volume.

    Each body is blurred with a Gaussian, and of the voxels the ones with the highest values become
    the new body, as many as it had: one step, of duration ``sigma_mm**2 / 2``, of the motion by
    mean curvature that preserves the volume. Bumps and pits narrower than `sigma_mm` go, a ball
    stays.

    Parameters
    ----------
    mask : (K, J, I) bool
    sigma_mm : float
        Standard deviation of the Gaussian; 0 changes nothing.
    spacing_kji_mm : 3 floats
        mm.
    inside_kji, outside_kji : sequences of (k, j, i)
        Voxels of the mask that stay in it, and voxels of the background that stay there; one that
        lies in the wrong of the two is left to the smoothing.

    Returns
    -------
    (K, J, I) bool
        With exactly as many voxels as `mask`, none of them further outside of the bounding box of
        its body than `sigma_mm`, rounded up to whole voxels, and one voxel.

    Notes
    -----
    S. J. Ruuth and B. T. R. Wetton, "A simple scheme for volume-preserving motion by mean
    curvature", Journal of Scientific Computing 19 (2003) 373-384, after the threshold dynamics of
    Merriman, Bence and Osher (1992). Deviations: each body has its own threshold, since one for all
    of them lets the large ones grow at the cost of the small ones, which then vanish; bodies may
    not touch; and near a click the blurred body is blended with the body itself.

    Smoothing twice smooths more. What never falls is the share of the neighbourhood that lies in
    the same body, summed over its voxels (Esedoglu and Otto 2015, doi:10.1002/cpa.21527).
    """
    result = np.array(mask, dtype=np.bool_)
    extent = bounding_extent(result)
    if extent is None or checked_mm(sigma_mm, "sigma_mm") == 0:
        return result
    kernel = _Kernel(sigma_mm, tuple(spacing_kji_mm))
    grow = reach_kji(sigma_mm, spacing_kji_mm)
    work = extent.pad(grow).pad(1).clip(result.shape)
    whole = result[work.slices]
    labels, _ = ndimage.label(whole, CORNERS)
    for number, found in enumerate(ndimage.find_objects(labels), start=1):
        tight = Extent(_numbers(found, "start"), _numbers(found, "stop"))
        box = tight.pad(grow).pad(1).clip(whole.shape)
        body = labels[box.slices] == number
        if np.count_nonzero(body) < MIN_VOXELS:
            continue
        near = (voxels_in(box, voxels_in(work, one)) for one in (inside_kji, outside_kji))
        held, unwanted = (
            [voxel for voxel in voxels if body[voxel] == wanted]
            for voxels, wanted in zip(near, (True, False), strict=True)
        )
        share = kernel.blurred(body)
        for voxel in held + unwanted:
            kernel.hold(share, body, voxel)
        _put(share, held, np.inf)
        _put(share, unwanted, -np.inf)
        others = whole[box.slices] & ~body
        share[_barred(whole, labels, number, box)] = -np.inf
        whole[box.slices] = others | _highest(share, body)
    return result


def _barred(whole: BoolArray, labels: npt.NDArray[np.int32], number: int, box: Extent) -> BoolArray:
    """Voxels of a box that belong to another body or touch one."""
    wide = box.pad(1).clip(whole.shape)
    others: BoolArray = whole[wide.slices] & (labels[wide.slices] != number)
    if others.any():
        others = ndimage.binary_dilation(others, CORNERS)
    within = Extent(
        three_ints(np.subtract(box.start_kji, wide.start_kji), "start"),
        three_ints(np.subtract(box.stop_kji, wide.start_kji), "stop"),
    )
    barred: BoolArray = others[within.slices]
    return barred


def _highest(share: npt.NDArray[np.float32], body: BoolArray) -> BoolArray:
    """As many voxels as the body has, those of the largest share; of equal ones the body's own."""
    count = int(np.count_nonzero(body))
    level = np.partition(share, share.size - count, axis=None)[share.size - count]
    chosen: BoolArray = share > level
    for equal in (np.flatnonzero((share == level) & own) for own in (body, ~body)):
        chosen.flat[equal[: count - np.count_nonzero(chosen)]] = True
    return chosen


def _put(share: npt.NDArray[np.float32], voxels_kji: Sequence[IndexKJI], value: float) -> None:
    for voxel in voxels_kji:
        share[voxel] = value


def _numbers(found: tuple[slice, ...], which: str) -> IndexKJI:
    return three_ints([getattr(one, which) for one in found], which)
