"""Finished segmentations from files, on the grid of their image.

Owns how a `.seg.nrrd` (whose grid may be a part of the image's, as Slicer writes it) or a label
map becomes segments, and the names of a label map's labels. Masks are (k, j, i).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protosam.errors import GeometryError, InvalidInput
from protosam.extents import Extent, IndexKJI, three_ints
from protosam.geometry import FloatArray, Volume, kji_to_ras, ras_to_kji
from protosam.seg_nrrd import Segment, read_segmentation
from protosam.volume_io import read_labelmap

GRID_TOLERANCE = 0.02
"""Largest difference of two grids, in voxels of the image."""


def read_segments(path: Path, volume: Volume, *, name: str | None = None) -> list[Segment]:
    """Read a finished segmentation of an image.

    Parameters
    ----------
    path : Path
        ``.seg.nrrd``, or a label map.
    volume : Volume
        The image.
    name : str, optional
        Of the segment, where the file has but one.

    Raises
    ------
    GeometryError
        If the file's grid is not that of the image, nor a part of it.
    InvalidInput
        If the file holds no segment, or several and a name was given.
    UnreadableFile
        If it cannot be read.
    """
    if path.name.lower().endswith(".seg.nrrd"):
        file = read_segmentation(path)
        place = _place(file.affine, file.shape_kji, volume, path)
        segments = [replace(s, mask=_placed(s.mask, place, volume)) for s in file.segments]
    else:
        labels = read_labelmap(path)
        place = _place(labels.affine, labels.shape_kji, volume, path)
        segments = [
            Segment(f"label {value}", _placed(labels.voxels == value, place, volume))
            for value in np.unique(labels.voxels)
            if value > 0
        ]
    if not segments:
        raise InvalidInput(f"{path.name} holds no segment.", "Give a finished segmentation.")
    if name is None:
        return segments
    if len(segments) > 1:
        raise InvalidInput(
            f"{path.name} holds {len(segments)} segments, and one name was given: {name}.",
            "Leave the name out, or give a file with one segment.",
        )
    return [replace(segments[0], name=name)]


def _place(affine: FloatArray, shape_kji: IndexKJI, volume: Volume, path: Path) -> Extent:
    """Extent of a file's grid in the image, which it must fit."""
    corners = np.array([(0, 0, 0), [n - 1 for n in shape_kji]])
    first, last = ras_to_kji(volume.affine, kji_to_ras(affine, corners))
    whole = np.round(first)
    off = max(float(np.abs(first - whole).max()), float(np.abs(last - whole - corners[1]).max()))
    start = three_ints(whole.astype(int), "start")
    place = Extent(start, three_ints(np.add(start, shape_kji), "stop"))
    if off > GRID_TOLERANCE or place.clip(volume.shape_kji) != place:
        raise GeometryError(
            f"{path.name} has {shape_kji} voxels (k, j, i) that do not lie on those of the image "
            f"{volume.shape_kji}.",
            "Give the segmentation of this very image, or resample it onto the image's grid.",
        )
    return place


def _placed(mask: npt.NDArray[np.bool_], place: Extent, volume: Volume) -> npt.NDArray[np.bool_]:
    out = np.zeros(volume.shape_kji, dtype=bool)
    out[place.slices] = mask
    return out
