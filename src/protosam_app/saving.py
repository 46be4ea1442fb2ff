"""Segments into files that the browser downloads.

Rules
-----
* `take` looks at the scene, on its own thread; `write` needs nothing of it and may take seconds.
* Files cover the whole grid of the volume and open over it in 3D Slicer.
"""

# SimpleITK ships no types for its methods.
# mypy: allow-untyped-calls

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk

from protosam.errors import InvalidInput, StorageFailure
from protosam.extents import BoolArray, Extent
from protosam.geometry import Volume
from protosam.itk_grid import set_image_affine
from protosam.scene import ReferenceGrid
from protosam.seg_nrrd import DEFAULT_TERMINOLOGY, Segment, write_segmentation
from protosam.storage import atomic_path
from protosam_app.segments import Segments, rgb_of
from protosam_app.stage import Stage
from protosam_app.uploads import safe_name

Format = Literal["seg", "labelmap"]

ENDINGS: dict[Format, str] = {"seg": ".seg.nrrd", "labelmap": ".nii.gz"}


@dataclass(frozen=True, eq=False)
class Part:
    """One segment as it was when it was taken."""

    name: str
    """As the user reads it."""
    colour: tuple[float, float, float]
    """0 to 1."""
    extent: Extent
    """Box of the mask."""
    mask: BoolArray
    """(k, j, i) bool, cut to the box."""
    tags: dict[str, str]
    """Slicer's and our own."""
    terminology: str
    """Slicer's entry for what it is."""


@dataclass(frozen=True, eq=False)
class Picture:
    """What is to be written."""

    name: str
    """Name of the volume."""
    reference: Volume
    """Its grid."""
    parts: tuple[Part, ...]
    """In the order of the list."""

    def file_name(self, form: Format) -> str:
        """Name for the download."""
        return safe_name(self.name) + ENDINGS[form]


def take(stage: Stage, segments: Segments) -> Picture:
    """Copy the segments out of the scene.

    Raises
    ------
    InvalidInput
        There is nothing to save.
    """
    grid, reference = segments.grid(), stage.reference
    if grid is None or reference is None:
        raise InvalidInput("There is no volume.", "Open one first.")
    parts = tuple(_part(segments, row.id, grid) for row in segments.rows())
    if not any(part.mask.any() for part in parts):
        raise InvalidInput("All segments are empty.", "Click inside an object first.")
    return Picture(stage.volume.GetName(), reference, parts)


def write(picture: Picture, folder: Path, form: Format) -> Path:
    """Write a file; return its path.

    Raises
    ------
    StorageFailure
        The disk is full.
    """
    target = folder / picture.file_name(form)
    if form == "seg":
        shape = picture.reference.shape_kji
        whole = [
            Segment(
                part.name,
                _whole(part, shape),
                part.colour,
                terminology=part.terminology,
                tags=part.tags,
            )
            for part in picture.parts
        ]
        write_segmentation(target, whole, picture.reference)
    else:
        _write_labelmap(picture, target)
    return target


def _part(segments: Segments, segment_id: str, grid: ReferenceGrid) -> Part:
    row = next(one for one in segments.rows() if one.id == segment_id)
    extent, mask = segments.voxels(segment_id, grid)
    tags = dict(segments.tags(segment_id))
    terminology = segments.terminology(segment_id) or DEFAULT_TERMINOLOGY
    return Part(row.name, rgb_of(row.colour), extent, mask, tags, terminology)


def _whole(part: Part, shape_kji: tuple[int, int, int]) -> BoolArray:
    mask = np.zeros(shape_kji, dtype=np.bool_)
    mask[part.extent.slices] = part.mask
    return mask


def _write_labelmap(picture: Picture, target: Path) -> None:
    """Values from 1 in the order of the list; where segments overlap, the later one wins."""
    labels = np.zeros(picture.reference.shape_kji, dtype=np.uint8)
    if len(picture.parts) > np.iinfo(np.uint8).max:
        labels = labels.astype(np.uint16)
    for value, part in enumerate(picture.parts, start=1):
        labels[part.extent.slices][part.mask] = value
    image = sitk.GetImageFromArray(labels)
    set_image_affine(image, picture.reference.affine)
    with atomic_path(target) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
        except RuntimeError as error:
            raise StorageFailure(
                "The labelmap was not written.", "Free some space for temporary files."
            ) from error
