"""Volumes as NIfTI files that say nothing but their grid.

Owns the bytes. Voxels are (k, j, i), affines in RAS mm.
"""

from __future__ import annotations

import gzip

import nibabel
import numpy as np

from protosam.errors import InvalidInput
from protosam.geometry import Volume

_NIFTI_TYPES = {
    np.dtype(np.bool_): np.uint8,
    np.dtype(np.float16): np.float32,
    np.dtype(np.int64): np.int32,
    np.dtype(np.uint64): np.uint32,
}


def nifti_bytes(volume: Volume) -> bytes:
    """Compressed NIfTI with nothing in its header but the grid; equal volumes give equal bytes.

    Raises
    ------
    InvalidInput
        When 64-bit integers do not fit into 32 bits, which is all that NIfTI's readers share.
    """
    voxels = volume.voxels
    wanted = _NIFTI_TYPES.get(voxels.dtype)
    stored = voxels if wanted is None else voxels.astype(wanted)
    if wanted is not None and not np.array_equal(stored, voxels):
        raise InvalidInput(
            f"The image has values of {voxels.dtype} that 32 bits do not hold.",
            "Rescale the image before saving the case.",
        )
    image = nibabel.Nifti1Image(stored.T, volume.affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=3, mtime=0)
