"""Where a click goes: the deepest voxel of an object or of an error.

Owns the geometry of the robot's clicks. Arrays have two or three axes, (j, i) or (k, j, i);
depth is the Euclidean distance to the outside in mm along the axes of the grid. Everything
is computed in the bounding box of what matters, and the same masks always give the same
click: where several voxels are equally deep, or regions equally large, the first one in C
order is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from protosam.errors import InvalidInput
from protosam.extents import BoolArray


@dataclass(frozen=True)
class Click:
    """What the robot does next."""

    place: tuple[int, ...]
    """Voxel on the board, one index for each of its axes."""
    positive: bool
    """True where the object is missed, False where the answer has too much."""


def first_click(truth: BoolArray, spacing_mm: Sequence[float]) -> Click:
    """Return a positive click at the deepest voxel of the object's largest component.

    Parameters
    ----------
    truth : bool array
        The board, two or three axes.
    spacing_mm : sequence of float
        Voxel size along each axis.

    Raises
    ------
    InvalidInput
        There is no object.
    """
    component = _largest_component(truth)
    if component is None:
        raise InvalidInput(
            "The robot was given an empty true mask.", "Leave labels without voxels out."
        )
    return Click(component.deepest(spacing_mm), positive=True)


def next_click(found: BoolArray, truth: BoolArray, spacing_mm: Sequence[float]) -> Click | None:
    """Return a click where the answer is most wrong, None when there is no error.

    Missed and extra voxels are looked at apart, so that an answer shifted by a voxel is not
    one ring of error. Of the largest components of the two the one of more voxels is taken,
    the missed one where they are equal. The click is positive in a missed region.
    """
    missed = _largest_component(truth & ~found)
    extra = _largest_component(found & ~truth)
    if missed is not None and (extra is None or missed.count >= extra.count):
        return Click(missed.deepest(spacing_mm), positive=True)
    if extra is not None:
        return Click(extra.deepest(spacing_mm), positive=False)
    return None


def bounding_slices(mask: BoolArray) -> tuple[slice, ...]:
    """Return the bounding box of a mask of any number of axes; () when it is empty."""
    spans: list[slice] = []
    for axis in range(mask.ndim):
        others = tuple(n for n in range(mask.ndim) if n != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        if filled.size == 0:
            return ()
        spans.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(spans)


@dataclass(frozen=True, eq=False)
class _Component:
    """A connected region, cut to its bounding box."""

    box: tuple[slice, ...]
    crop: BoolArray
    count: int

    def deepest(self, spacing_mm: Sequence[float]) -> tuple[int, ...]:
        """Return the voxel farthest from the outside, the first in C order of equals.

        What lies beyond the board counts as outside, so that a click keeps off its rim.
        """
        inside = np.pad(self.crop, 1)
        depth_mm = ndimage.distance_transform_edt(inside, sampling=tuple(spacing_mm))
        place = np.unravel_index(int(np.argmax(depth_mm)), inside.shape)
        return tuple(int(n) - 1 + b.start for n, b in zip(place, self.box, strict=True))


def _largest_component(mask: BoolArray) -> _Component | None:
    """Return the face-connected region of most voxels, the first in C order of equals."""
    box = bounding_slices(mask)
    if not box:
        return None
    labels, count = ndimage.label(mask[box])
    if count == 1:
        return _Component(box, mask[box], int(np.count_nonzero(labels)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest = int(sizes.argmax())
    inner = ndimage.find_objects(labels)[largest - 1]
    outer = tuple(
        slice(a.start + b.start, a.start + b.stop) for a, b in zip(box, inner, strict=True)
    )
    return _Component(outer, labels[inner] == largest, int(sizes[largest]))
