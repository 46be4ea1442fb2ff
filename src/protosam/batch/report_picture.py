"""A picture of segments: three planes through a volume with an outline for each.

Owns drawing only. Array indices are (k, j, i); each plane has the true proportions of its voxels
and stands upright. Nothing that names a patient or a file is written into a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from protosam.extents import BoolArray
from protosam.geometry import Volume
from protosam.intensity import auto_window
from protosam.plane_pictures import draw_outline, draw_slice, finish_plane, middle_of, planes_of
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
    centre, window = middle_of(whole), auto_window(volume.voxels)
    figure, planes = planes_of(volume.shape_kji, 3, 3.2)
    for axis, plane in planes:
        index = centre[axis]
        draw_slice(plane, volume, window, axis=axis, index=index)
        for one in segments:
            colour = OTHER_COLOUR if one.colour == DEFAULT_COLOUR else one.colour
            draw_outline(plane, np.take(one.mask, index, axis=axis), colour)
        finish_plane(plane, volume, axis=axis, index=index, font_points=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, facecolor="black", format="png")
