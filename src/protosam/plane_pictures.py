"""Three planes through a volume, drawn: what the pictures of a segment and of a report share.

Owns which slices are shown, their proportions, their directions and the outline. Array indices are
(k, j, i); each plane has the true proportions of its voxels, head or front up and the patient's
right on the left. Writes nothing that names a patient or a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from protosam.extents import BoolArray, IndexKJI
from protosam.geometry import Volume, anatomical_axis
from protosam.intensity import Window, apply_window

OUTLINE_POINTS = 1.4
"""Width of an outline."""


def middle_of(mask: BoolArray) -> IndexKJI:
    """Slices in which a mask has most voxels, across k, j and i; the middle ones if it is empty."""
    if not mask.any():
        k, j, i = (size // 2 for size in mask.shape)
        return k, j, i
    k, j, i = (
        int(mask.sum(axis=tuple(other for other in range(3) if other != axis)).argmax())
        for axis in range(3)
    )
    return k, j, i


def planes_of(
    shape_kji: tuple[int, ...], side_inch: float, height_inch: float
) -> tuple[Figure, Iterator[tuple[int, Axes]]]:
    """Begin a black figure; return it with (array axis, plane) for each plane with an area.

    A 2-D image has one such plane.
    """
    axes = [n for n in range(3) if min(np.delete(shape_kji, n)) > 1] or [0]
    size = (side_inch * len(axes), height_inch)
    figure = Figure(figsize=size, layout="constrained", facecolor="black")
    FigureCanvasAgg(figure)
    return figure, zip(axes, figure.subplots(1, len(axes), squeeze=False)[0], strict=True)


def draw_slice(plane: Axes, volume: Volume, window: Window, *, axis: int, index: int) -> None:
    """Draw one slice in grey, in the voxels' true proportions."""
    grey = apply_window(np.take(volume.voxels, index, axis=axis), window)
    height_mm, width_mm = np.delete(volume.spacing_kji_mm, axis)
    plane.imshow(grey, cmap="gray", vmin=0, vmax=1, aspect=height_mm / width_mm, origin="upper")


def draw_outline(plane: Axes, cut: BoolArray, colour: Any) -> None:
    """Draw the line between inside and outside, where there is one."""
    if cut.any() and not cut.all() and min(cut.shape) > 1:
        plane.contour(cut, levels=[0.5], colors=[colour], linewidths=OUTLINE_POINTS)


def finish_plane(plane: Axes, volume: Volume, *, axis: int, index: int, font_points: int) -> None:
    """Turn a plane upright and write above it which one it is."""
    _turn_upright(plane, volume, axis)
    name = f"{anatomical_axis(volume.affine, axis)}, {'kji'[axis]} = {index}"
    plane.set_title(name, color="white", fontsize=font_points)
    plane.set_axis_off()


def _turn_upright(plane: Axes, volume: Volume, axis: int) -> None:
    rows, columns = (other for other in range(3) if other != axis)
    down, along = _direction(volume, rows), _direction(volume, columns)
    # Rows run down the picture: they should run to inferior or posterior.
    if down[1] > 0 and down[0] in (1, 2):
        plane.invert_yaxis()
    # Columns run to the right: they should run to the patient's left, or to posterior.
    if along[1] > 0 and along[0] in (0, 1):
        plane.invert_xaxis()


def _direction(volume: Volume, axis: int) -> tuple[int, float]:
    """RAS axis (0, 1, 2) that an array axis runs along most, and its sign there."""
    direction = volume.affine[:3, 2 - axis]
    largest = int(np.abs(direction).argmax())
    return largest, float(np.sign(direction[largest]))
