"""Slices of a volume across one array axis, and rectangles within them.

Owns the turn from (k, j, i) to (slice, row, col): the slice axis comes first, the two others
keep their order. Rectangles let a model look closer at an object than at the whole slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from protosam.geometry import Volume
from protosam.intensity import Window, apply_window

ABSENT = -8.0
"""Logit of what lies outside a looked-at rectangle: surely not the object."""

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Rect:
    """Rows ``top <= r < bottom`` and columns ``left <= c < right`` of a slice."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the rectangle in a slice's array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def holds(self, point_rc: Sequence[float]) -> bool:
        """Whether a point (row, col) falls into a pixel of the rectangle."""
        row, col = point_rc
        return (
            self.top - 0.5 <= row < self.bottom - 0.5 and self.left - 0.5 <= col < self.right - 0.5
        )

    def union(self, other: Rect) -> Rect:
        """Smallest rectangle that holds both."""
        return Rect(
            min(self.top, other.top),
            max(self.bottom, other.bottom),
            min(self.left, other.left),
            max(self.right, other.right),
        )

    def intersection(self, other: Rect) -> Rect:
        """Largest rectangle in both; of no area where they do not meet."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Rect(top, max(top, bottom), left, max(left, right))


@dataclass(frozen=True, eq=False)
class Patch:
    """Logits in a rectangle of a slice; everywhere else the object is absent.

    Attributes
    ----------
    rect : Rect
    logits : (rows, columns) float32
    """

    rect: Rect
    logits: Logits

    def on(self, rect: Rect) -> Logits:
        """Return the logits on another rectangle, `ABSENT` where nothing is known."""
        out = np.full(rect.shape, ABSENT, dtype=np.float32)
        shared = self.rect.intersection(rect)
        if 0 not in shared.shape:
            out[_within(shared, rect)] = self.logits[_within(shared, self.rect)]
        return out

    @property
    def mask_rect(self) -> Rect | None:
        """Bounding rectangle of the positive logits in the slice; None if there are none."""
        rows = np.flatnonzero((self.logits > 0).any(axis=1))
        cols = np.flatnonzero((self.logits > 0).any(axis=0))
        if rows.size == 0:
            return None
        top, left = self.rect.top, self.rect.left
        return Rect(
            top + int(rows[0]),
            top + int(rows[-1]) + 1,
            left + int(cols[0]),
            left + int(cols[-1]) + 1,
        )

    @property
    def deepest(self) -> tuple[int, int]:
        """Pixel (row, col) of the slice that lies deepest in the mask.

        That of the highest logit if the mask is empty; the logits themselves can be highest at
        its edge, or all alike.
        """
        logits, rect = self.logits, self.mask_rect
        if rect is None:
            row, col = np.unravel_index(int(logits.argmax()), logits.shape)
            return int(row) + self.rect.top, int(col) + self.rect.left
        inside = np.pad(self.on(rect) > 0, 1)
        depth = ndimage.distance_transform_edt(inside)
        row, col = np.unravel_index(int(depth.argmax()), depth.shape)
        return int(row) - 1 + rect.top, int(col) - 1 + rect.left

    def cropped(self) -> Patch:
        """Return the same mask with the logits in its own bounding rectangle alone."""
        rect = self.mask_rect
        return self if rect is None else Patch(rect, self.on(rect))

    @property
    def area(self) -> int:
        """Number of positive pixels."""
        return int(np.count_nonzero(self.logits > 0))


class Planes:
    """The slices of a volume across one axis, windowed on demand.

    Parameters
    ----------
    volume : Volume
    axis : int
        Array axis (0, 1, 2 for k, j, i) across which the slices lie.
    window : Window
    """

    def __init__(self, volume: Volume, axis: int, window: Window) -> None:
        self.volume, self.axis, self.window = volume, axis, window
        self._order = (axis, *(a for a in range(3) if a != axis))
        self._voxels: npt.NDArray[Any] = np.moveaxis(volume.voxels, axis, 0)
        spacing = volume.spacing_kji_mm
        self.spacing_rc_mm = (spacing[self._order[1]], spacing[self._order[2]])
        self.step_mm = spacing[axis]

    @property
    def depth(self) -> int:
        """Number of slices."""
        return int(self._voxels.shape[0])

    @property
    def whole(self) -> Rect:
        """Rectangle of a whole slice."""
        return Rect(0, int(self._voxels.shape[1]), 0, int(self._voxels.shape[2]))

    def turn(self, point_kji: Sequence[float]) -> tuple[float, float, float]:
        """Take a point from (k, j, i) to (slice, row, col)."""
        z, row, col = (float(point_kji[a]) for a in self._order)
        return z, row, col

    def unturn_point(self, point: Sequence[float]) -> tuple[float, float, float]:
        """Take a point from (slice, row, col) to (k, j, i)."""
        placed = dict(zip(self._order, (float(v) for v in point), strict=True))
        return placed[0], placed[1], placed[2]

    def unturn(self, block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Take an array (slice, row, col) to (k, j, i)."""
        return np.moveaxis(block, 0, self.axis)

    def stack(self, index: int, rect: Rect, context: int) -> Logits:
        """Return a slice between its neighbours, windowed.

        Returns
        -------
        (2 * context + 1, rows, columns) float32 in 0..1
            Beyond the first and the last slice these are repeated.
        """
        indices = np.clip(np.arange(index - context, index + context + 1), 0, self.depth - 1)
        return apply_window(
            np.stack([self._voxels[(int(z), *rect.slices)] for z in indices]), self.window
        )


def focus(plane: Planes, mask: Rect, *, current: Rect | None, zoom: float = 2.0) -> Rect:
    """Rectangle to look at an object in: about `zoom` times as long as the object.

    It is a square in mm (cut at the slice's edges), its side on a ladder of powers of the square
    root of 2 and its centre on a coarse raster, so that small changes of the object keep the
    rectangle and with it the cached embeddings.

    Parameters
    ----------
    plane : Planes
    mask : Rect
        Bounding rectangle of the object.
    current : Rect or None
        Rectangle looked at so far; kept while the object fits it well.
    """
    spacing = np.array(plane.spacing_rc_mm)
    low = np.array([mask.top, mask.left]) * spacing
    high = np.array([mask.bottom, mask.right]) * spacing
    if current is not None and _fits(current, mask, plane, zoom):
        return current
    whole_mm = float((np.array(plane.whole.shape) * spacing).max())
    wanted_mm = max(zoom * float((high - low).max()), MIN_FOCUS_PIXELS * float(spacing.min()))
    steps = np.floor(2 * np.log2(whole_mm / wanted_mm)) if wanted_mm < whole_mm else 0
    if steps < 1:
        return plane.whole
    side_mm = whole_mm * 2 ** (-steps / 2)
    raster = side_mm / 8
    centre = np.round((low + high) / 2 / raster) * raster
    first = np.floor((centre - side_mm / 2) / spacing).astype(int)
    last = np.ceil((centre + side_mm / 2) / spacing).astype(int)
    rect = Rect(int(first[0]), int(last[0]), int(first[1]), int(last[1]))
    return rect.intersection(plane.whole)


MIN_FOCUS_PIXELS = 32
"""Shortest side of a rectangle that is looked at, in the finer pixels of the slice."""


def _fits(current: Rect, mask: Rect, plane: Planes, zoom: float) -> bool:
    """Whether the object lies inside with some room, and is not lost in it either."""
    whole = plane.whole
    room = 0.1 * min(current.shape)
    inside = (
        (current.top == whole.top or mask.top - current.top >= room)
        and (current.bottom == whole.bottom or current.bottom - mask.bottom >= room)
        and (current.left == whole.left or mask.left - current.left >= room)
        and (current.right == whole.right or current.right - mask.right >= room)
    )
    spacing = np.array(plane.spacing_rc_mm)
    seen = float((np.array(current.shape) * spacing).max())
    object_mm = float((np.array(mask.shape) * spacing).max())
    smallest = MIN_FOCUS_PIXELS * float(spacing.min())
    return inside and (seen <= 2 * zoom * object_mm or seen <= 1.5 * smallest)


def _within(inner: Rect, outer: Rect) -> tuple[slice, slice]:
    return (
        slice(inner.top - outer.top, inner.bottom - outer.top),
        slice(inner.left - outer.left, inner.right - outer.left),
    )
