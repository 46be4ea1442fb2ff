"""ITK images and their grids: reading with sentences for errors, and the affine of an image.

Rules
-----
* ITK keeps origin, spacing and direction in LPS; outside of this file and `seg_nrrd` all is RAS.
* It knows images and files, not what is in them.
"""

# SimpleITK ships no types for its methods.
# mypy: allow-untyped-calls

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from protosam.errors import GeometryError, OutOfMemory, UnreadableFile
from protosam.extents import FloatArray
from protosam.geometry import checked_affine, flip_ras_lps, spacing_kji_mm


def read_image(path: Path) -> sitk.Image:
    """Image of a file that ITK can read.

    Raises
    ------
    UnreadableFile
        Missing, empty, damaged, or not what its name says.
    GeometryError
        A spacing of zero or a singular direction in its header.
    OutOfMemory
        Its voxels do not fit.
    """
    check_file(path)
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error)
        if "Zero-valued spacing" in reason:
            raise GeometryError(
                f"{path.name}: the header gives a spacing of 0 mm.",
                "Repair it, then open it again.",
            ) from error
        if "determinant is 0" in reason:
            raise GeometryError(
                f"{path.name}: the affine is singular, two of its axes run along each other.",
                "Repair its header, then open it again.",
            ) from error
        if "Failed to allocate memory" in reason:
            raise OutOfMemory(
                f"{path.name} does not fit into the memory.", "Crop it, or close other programs."
            ) from error
        raise UnreadableFile(
            f"{path.name} is damaged, or is not what its name says.",
            "Export it again; a .mhd or .nhdr file needs its data file beside it.",
        ) from error


def check_file(path: Path) -> None:
    """Refuse what is missing, a folder, not readable or empty."""
    try:
        size, is_folder = path.stat().st_size, path.is_dir()
        if not is_folder:
            path.open("rb").close()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UnreadableFile(
            f"{path} cannot be opened: {reason}.", "Check the name and the permissions."
        ) from error
    if is_folder:
        raise UnreadableFile(f"{path} is a folder, wanted a file.", "Name the file in it.")
    if size == 0:
        raise UnreadableFile(f"{path.name} is empty (0 bytes).", "Export or copy it again.")


def affine_of_image(image: sitk.Image) -> FloatArray:
    """Affine (4, 4), (i, j, k, 1) -> RAS mm; a 2-D image lies in the plane k = 0, 1 mm thick.

    Raises
    ------
    GeometryError
        See `geometry.checked_affine`.
    """
    n = image.GetDimension()
    direction = np.array(image.GetDirection(), dtype=np.float64).reshape(n, n)
    lps = np.eye(4)
    lps[:n, :n] = direction * np.array(image.GetSpacing())
    lps[:n, 3] = image.GetOrigin()
    return checked_affine(flip_ras_lps(lps))


def set_image_affine(image: sitk.Image, affine: FloatArray) -> None:
    """Place a 3-D image by an affine (i, j, k, 1) -> RAS mm."""
    lps = flip_ras_lps(affine)
    spacing_ijk_mm = spacing_kji_mm(affine)[::-1]
    image.SetSpacing(spacing_ijk_mm)
    image.SetDirection((lps[:3, :3] / spacing_ijk_mm).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
