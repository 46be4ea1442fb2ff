"""Files that hold segments: `.seg.nrrd`, or one number for each voxel.

Owns which endings there are, and what is refused before the work. Masks are (k, j, i).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from protosam.errors import InvalidInput, StorageFailure
from protosam.geometry import Volume
from protosam.itk_grid import set_image_affine
from protosam.seg_nrrd import Segment, write_segmentation
from protosam.storage import atomic_path

LABELMAP_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Endings of files that hold one number for each voxel: 1, 2 ... in the segments, 0 elsewhere."""

SEGMENTATION_ENDING = ".seg.nrrd"


def check_output(path: Path) -> None:
    """Refuse an output whose format is not known or whose folder is not there.

    Raises
    ------
    InvalidInput
        The ending is none of those that can be written.
    StorageFailure
        The folder does not exist.
    """
    endings = (SEGMENTATION_ENDING, *LABELMAP_ENDINGS)
    if not path.name.lower().endswith(endings):
        raise InvalidInput(
            f"{path.name} does not say what to write.",
            f"Let the name end in {', '.join(endings[:-1])} or {endings[-1]}.",
        )
    if not path.parent.is_dir():
        raise StorageFailure(f"There is no folder {path.parent}.", "Make it first.")


def write_segments(path: Path, segments: Sequence[Segment], volume: Volume) -> None:
    """Write segments as ``.seg.nrrd``, or as a labelmap for the other endings.

    Parameters
    ----------
    path : Path
    segments : sequence of Segment
        At most 255; in a labelmap the later one wins where two overlap.
    volume : Volume
        Whose grid the masks are on.

    Raises
    ------
    StorageFailure
        They could not be written.
    """
    if path.name.lower().endswith(SEGMENTATION_ENDING):
        write_segmentation(path, list(segments), volume)
        return
    labels = np.zeros(volume.shape_kji, dtype=np.uint8)
    for number, one in enumerate(segments, start=1):
        labels[one.mask] = number
    _write_labelmap(path, labels, volume)


def _write_labelmap(path: Path, labels: npt.NDArray[np.uint8], volume: Volume) -> None:
    image = sitk.GetImageFromArray(labels)
    set_image_affine(image, volume.affine)
    with atomic_path(path) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
        except RuntimeError as error:
            # ITK does not pass on what the system said; no space is the usual reason.
            raise StorageFailure(
                f"{path} was not written.", "Check the space and the permissions there."
            ) from error
