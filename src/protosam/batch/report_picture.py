"""A picture of segments: three planes through a volume with an outline for each.

Owns drawing only. Array indices are (k, j, i); each plane has the true proportions of its voxels
and stands upright. Nothing that names a patient or a file is written into a picture.
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
from protosam.intensity import apply_window, auto_window
from protosam.seg_nrrd import DEFAULT_COLOUR, Segment
from protosam.storage import atomic_path

DOTS_PER_INCH = 80
OTHER_COLOUR = (1.0, 0.69, 0.0)
"""Of a segment that has Slicer's grey-green of the unknown tissue, which is hard to see."""


def draw_planes(path: Path, volume: Volume, segments: Sequence[Segment]) -> None:
    """Write a PNG of three planes through the middle of all segments.

    Parameters
    ----------
    path : Path
        Where to.
    volume : Volume
    segments : sequence of Segment
        On the volume's grid; none, or empty ones, give the planes through the middle.

    Raises
    ------
    StorageFailure
        The file could not be written.
    """
    whole: BoolArray = np.zeros(volume.shape_kji, dtype=np.bool_)
    for one in segments:
        whole |= one.mask
    centre = fullest_slices(whole)
    axes = [n for n in range(3) if min(np.delete(volume.shape_kji, n)) > 1] or [0]
    figure = Figure(figsize=(3 * len(axes), 3.2), layout="constrained", facecolor="black")
    FigureCanvasAgg(figure)
    for axis, plane in zip(axes, figure.subplots(1, len(axes), squeeze=False)[0], strict=True):
        _draw_image(plane, volume, axis, centre[axis])
        for one in segments:
            _draw_outline(plane, np.take(one.mask, centre[axis], axis=axis), one)
        _turn_upright(plane, volume, axis)
        plane.set_title(
            f"{anatomical_axis(volume.affine, axis)}, {'kji'[axis]} = {centre[axis]}",
            color="white",
            fontsize=8,
        )
        plane.set_axis_off()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, facecolor="black", format="png")


def fullest_slices(mask: BoolArray) -> IndexKJI:
    """Slices in which a mask has most voxels, across k, j and i; the middle ones if it is empty."""
    if not mask.any():
        k, j, i = (size // 2 for size in mask.shape)
        return k, j, i
    k, j, i = (
        int(mask.sum(axis=tuple(other for other in range(3) if other != axis)).argmax())
        for axis in range(3)
    )
    return k, j, i


def _draw_image(plane: Axes, volume: Volume, axis: int, index: int) -> None:
    window = auto_window(volume.voxels)
    grey = apply_window(np.take(volume.voxels, index, axis=axis), window)
    height_mm, width_mm = np.delete(volume.spacing_kji_mm, axis)
    plane.imshow(grey, cmap="gray", vmin=0, vmax=1, aspect=height_mm / width_mm, origin="upper")


def _draw_outline(plane: Axes, cut: BoolArray, segment: Segment) -> None:
    if not cut.any() or cut.all() or min(cut.shape) < 2:
        return  # there is no line between inside and outside
    colour = OTHER_COLOUR if segment.colour == DEFAULT_COLOUR else segment.colour
    plane.contour(cut, levels=[0.5], colors=[colour], linewidths=1.4)


def _turn_upright(plane: Axes, volume: Volume, axis: int) -> None:
    """Head or front up, and the patient's right on the left."""
    rows, columns = (other for other in range(3) if other != axis)
    down, along = _along(volume, rows), _along(volume, columns)
    if down[1] > 0 and down[0] in (1, 2):
        plane.invert_yaxis()
    if along[1] > 0 and along[0] in (0, 1):
        plane.invert_xaxis()


def _along(volume: Volume, axis: int) -> tuple[int, float]:
    """RAS axis that an array axis runs along most, and the sign."""
    direction = volume.affine[:3, 2 - axis]
    largest = int(np.abs(direction).argmax())
    return largest, float(np.sign(direction[largest]))
