"""A picture of a segment: three planes through it, its outline, and the clicks that made it.

Owns drawing only. Coordinates are voxel indices (k, j, i); each plane is drawn with the true
proportions of its voxels. Nothing that names a patient or a file is written into the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from protosam.extents import BoolArray
from protosam.geometry import Volume
from protosam.intensity import Window
from protosam.plane_pictures import draw_outline, draw_slice, finish_plane, middle_of, planes_of
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
    figure, planes = planes_of(mask.shape, 4, 4.4)
    for axis, plane in planes:
        index = centre[axis]
        draw_slice(plane, volume, window, axis=axis, index=index)
        draw_outline(plane, np.take(mask, index, axis=axis), OUTLINE)
        finish_plane(plane, volume, axis=axis, index=index, font_points=10)
        _draw_points(plane, points, axis, index)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, facecolor="black", format="png")


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
