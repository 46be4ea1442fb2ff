"""A picture of a segment: three planes through it, its outline, and the clicks that made it.

Owns drawing only. Coordinates are voxel indices (k, j, i); each plane is drawn with the true
proportions of its voxels. Nothing that names a patient or a file is written into the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from protosam.extents import BoolArray, IndexKJI
from protosam.geometry import Volume, anatomical_axis
from protosam.intensity import Window, apply_window
from protosam.prompts import Point
from protosam.storage import atomic_path

OUTLINE = "#ffb000"
CLICK_COLOURS = {True: "#35d04f", False: "#ff4040"}
DOTS_PER_INCH = 110


def draw_segment(
    path: Path, volume: Volume, mask: BoolArray, *, window: Window, points: Sequence[Point] = ()
) -> None:
    """Write a PNG with the three planes through the middle of a segment.

    Parameters
    ----------
    path : Path
        Where to.
    volume : Volume
        The image.
    mask : (K, J, I) bool
        The segment on the image's grid; it may be empty.
    window : Window
        Intensities that become black and white.
    points : sequence of Point
        Clicks; each is drawn in the planes that it lies in (within one voxel).

    Raises
    ------
    StorageFailure
        The file could not be written.
    """
    centre = middle_of(mask)
    axes = _axes_with_an_area(mask)
    figure = Figure(figsize=(4 * len(axes), 4.4), layout="constrained", facecolor="black")
    FigureCanvasAgg(figure)
    for axis, plane in zip(axes, figure.subplots(1, len(axes), squeeze=False)[0], strict=True):
        _draw_plane(plane, volume, mask, axis=axis, index=centre[axis], window=window)
        _draw_points(plane, points, axis, centre[axis])
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, facecolor="black", format="png")


def middle_of(mask: BoolArray) -> IndexKJI:
    """Slices in which a mask has most voxels, across k, j and i; the image's middle if empty."""
    if not mask.any():
        k, j, i = (size // 2 for size in mask.shape)
        return k, j, i
    k, j, i = (
        int(mask.sum(axis=tuple(other for other in range(3) if other != axis)).argmax())
        for axis in range(3)
    )
    return k, j, i


def _axes_with_an_area(mask: BoolArray) -> list[int]:
    """Axes across which there are planes of more than one row: one for a 2-D image."""
    return [n for n in range(3) if min(np.delete(mask.shape, n)) > 1] or [0]


def _draw_plane(
    plane: Axes, volume: Volume, mask: BoolArray, *, axis: int, index: int, window: Window
) -> None:
    grey = apply_window(np.take(volume.voxels, index, axis=axis), window)
    outline = np.take(mask, index, axis=axis)
    height_mm, width_mm = np.delete(volume.spacing_kji_mm, axis)
    plane.imshow(grey, cmap="gray", vmin=0, vmax=1, aspect=height_mm / width_mm, origin="upper")
    if outline.any() and not outline.all() and min(outline.shape) > 1:
        plane.contour(outline, levels=[0.5], colors=[OUTLINE], linewidths=1.4)
    _turn_upright(plane, volume, axis)
    name = f"{anatomical_axis(volume.affine, axis)}, {'kji'[axis]} = {index}"
    plane.set_title(name, color="white", fontsize=10)
    plane.set_axis_off()


def _turn_upright(plane: Axes, volume: Volume, axis: int) -> None:
    """Let the patient's head, or front in axial planes, be up and the patient's right be left."""
    rows, columns = (other for other in range(3) if other != axis)
    up, left = _largest_direction(volume, rows), _largest_direction(volume, columns)
    # Rows run down the picture: they should run to inferior or posterior.
    if up[1] > 0 and up[0] in (1, 2):
        plane.invert_yaxis()
    # Columns run to the right: they should run to the patient's left, or to posterior.
    if left[1] > 0 and left[0] in (0, 1):
        plane.invert_xaxis()


def _largest_direction(volume: Volume, axis: int) -> tuple[int, float]:
    """RAS axis (0, 1, 2) that an array axis runs along most, and its sign there."""
    direction = volume.affine[:3, 2 - axis]
    largest = int(np.abs(direction).argmax())
    return largest, float(np.sign(direction[largest]))


def _draw_points(plane: Axes, points: Sequence[Point], axis: int, index: int) -> None:
    rows, columns = (other for other in range(3) if other != axis)
    for point in points:
        if abs(point.point_kji[axis] - index) > 1:
            continue
        plane.plot(
            point.point_kji[columns],
            point.point_kji[rows],
            marker="+" if point.positive else "x",
            color=CLICK_COLOURS[point.positive],
            markersize=11,
            markeredgewidth=2,
        )
