"""Volumes and label maps from files; segmentations come from `seg_nrrd` and are passed on here.

=================== ============ ====================================================
ending              read by      place in the patient
=================== ============ ====================================================
.nii, .nii.gz       nibabel      sform or qform, see `read_volume`
.nrrd, .nhdr        ITK          space, space origin, space directions
.mha, .mhd          ITK          Offset, TransformMatrix, ElementSpacing
.png, .jpg, .jpeg   Pillow       none: pixels of 1 mm, as 3D Slicer opens them
=================== ============ ====================================================

Rules
-----
* Voxels come out as (k, j, i), affines as (i, j, k, 1) -> RAS mm; LPS stays inside.
* One scalar value per voxel: colours and time series are refused, never reduced silently. The
  exception is a 2-D colour picture, which is turned into its luminance.
* What cannot be trusted is refused by one sentence that names the file; nothing is mended.
"""

# SimpleITK ships no types for its methods.
# mypy: allow-untyped-calls

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, cast

import nibabel
import numpy as np
import SimpleITK as sitk
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from PIL import Image, UnidentifiedImageError

from protosam.errors import GeometryError, InvalidInput, OutOfMemory, UnreadableFile
from protosam.extents import FloatArray, VoxelArray
from protosam.geometry import Volume, checked_affine, flip_ras_lps
from protosam.itk_grid import affine_of_image, check_file, read_image
from protosam.seg_nrrd import (
    DEFAULT_COLOUR,
    DEFAULT_TERMINOLOGY,
    Segment,
    SegmentationFile,
    read_segmentation,
    write_segmentation,
)

__all__ = [
    "DEFAULT_COLOUR",
    "DEFAULT_TERMINOLOGY",
    "READABLE_ENDINGS",
    "Segment",
    "SegmentationFile",
    "read_labelmap",
    "read_segmentation",
    "read_volume",
    "write_segmentation",
]

_Grid: TypeAlias = tuple[VoxelArray, FloatArray]

PICTURE_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Place of a 2-D picture: pixels of 1 mm, columns (i) to the left, rows (j) to the back, one slice
of 1 mm; the place in which 3D Slicer opens a picture."""

_UNIT_MM = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}


def read_volume(path: str | Path) -> Volume:
    """Read a scalar image.

    Parameters
    ----------
    path : path
        NIfTI, NRRD, MetaImage, or a 2-D picture, told apart by the ending.

    Returns
    -------
    Volume
        A 2-D picture is one slice (1, rows, columns), colours as their luminance
        (ITU-R 601: 0.299 R + 0.587 G + 0.114 B), without transparency.

    Raises
    ------
    UnreadableFile
        Missing, empty, damaged, of an unknown ending, or not what its name says.
    InvalidInput
        Colours or more than three axes; voxels that are NaN, infinite or complex.
    GeometryError
        A spacing of zero, a singular or sheared affine.
    OutOfMemory
        The voxels do not fit.

    Notes
    -----
    NIfTI may hold two places. Where only one is set, it is taken. Where both are set and differ,
    the sform is taken if its code is 1 (scanner), the qform otherwise; where neither is set, the
    image lies at the origin with axes to the left, back and head. This is what ITK does, so a mask
    lies right over its image in 3D Slicer; nibabel alone would always prefer the sform.
    """
    return _volume(Path(path), _READERS)


def read_labelmap(path: str | Path) -> Volume:
    """Read an image of labels: whole numbers, 0 for background.

    Parameters
    ----------
    path : path
        As for `read_volume`; of a picture with a palette the indices are the labels.

    Returns
    -------
    Volume
        Voxels of an integer type (whole numbers stored as floats become int32).

    Raises
    ------
    InvalidInput
        Values that are not whole numbers, or a picture in colours; and all of `read_volume`.
    """
    return _volume(Path(path), {**_READERS, **_PICTURES_AS_LABELS}, _as_labels)


def _volume(
    path: Path,
    readers: dict[str, Callable[[Path], _Grid]],
    convert: Callable[[VoxelArray], VoxelArray] | None = None,
) -> Volume:
    ending = _ending(path)
    if ending not in readers:
        raise UnreadableFile(
            f"{path.name}: files that end with {ending or 'nothing'} cannot be read.",
            f"Give one of {', '.join(READABLE_ENDINGS)}.",
        )
    check_file(path)
    try:
        voxels, affine = readers[ending](path)
        return Volume(voxels if convert is None else convert(voxels), affine)
    except MemoryError as error:
        raise OutOfMemory(
            f"{path.name} does not fit into the memory.", "Crop it, or close other programs."
        ) from error
    except InvalidInput as error:
        if error.message.startswith(path.name):
            raise
        raise type(error)(f"{path.name}: {error.message}", error.next_step) from error


def _ending(path: Path) -> str:
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def _read_nifti(path: Path) -> _Grid:
    try:
        image = nibabel.load(path, mmap=False)
        if not isinstance(image, nibabel.Nifti1Image):
            raise UnreadableFile(f"{path.name} is not a NIfTI file.", "Export it again.")
        affine = _nifti_affine(image, path)
        _refuse_more_axes(image.shape, image.get_data_dtype())
        voxels = _nifti_voxels(image)
    except (ImageFileError, HeaderDataError, OSError, EOFError, OverflowError, zlib.error) as error:
        raise _damaged(path) from error
    return voxels, affine


def _nifti_voxels(image: nibabel.Nifti1Image) -> VoxelArray:
    """(K, J, I) as stored where the header scales nothing, otherwise scaled to float32."""
    proxy = cast("ArrayProxy", image.dataobj)
    plain = proxy.slope == 1 and proxy.inter == 0
    stored = proxy.get_unscaled() if plain else np.asarray(proxy, dtype=np.float32)
    shape_ijk = (*image.shape, 1, 1)[:3]
    # Column-major (i, j, k) becomes row-major (k, j, i) without a copy.
    voxels: VoxelArray = stored.reshape(shape_ijk, order="F").T
    return voxels


def _nifti_affine(image: nibabel.Nifti1Image, path: Path) -> FloatArray:
    header = image.header
    spacing_ijk = _stored_spacing(image, path)
    sform, sform_code = image.get_sform(coded=True)
    qform, qform_code = image.get_qform(coded=True)
    if qform_code and (not sform_code or (sform_code != 1 and _differ(sform, qform))):
        affine = qform
    elif sform_code:
        affine = sform
    else:
        affine = flip_ras_lps(np.diag([*spacing_ijk, 1.0]))
    unit_mm = _UNIT_MM[header.get_xyzt_units()[0]]
    return checked_affine(np.diag([unit_mm, unit_mm, unit_mm, 1.0]) @ affine)


def _differ(sform: FloatArray, qform: FloatArray) -> bool:
    return not np.allclose(sform, qform, rtol=0, atol=1e-3)


def _stored_spacing(image: nibabel.Nifti1Image, path: Path) -> list[float]:
    """Spacing as the file has it: nibabel would silently turn 0 into 1."""
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rb") as file:
        stored = type(image.header).from_fileobj(file, check=False)
    spacing = [abs(float(x)) for x in stored["pixdim"][1:4]]
    used = spacing[: max(1, min(3, image.ndim))]
    if not all(np.isfinite(used)) or min(used) == 0:
        raise GeometryError(
            f"The header gives a spacing of {' x '.join(f'{x:g}' for x in used)} (i, j, k).",
            "Repair its header, then open it again.",
        )
    return [*used, 1.0, 1.0][:3]


def _refuse_more_axes(shape_ijk: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    if dtype.names:
        raise InvalidInput(
            f"The voxels are colours ({', '.join(dtype.names)}).", "Choose one scalar channel."
        )
    if any(n != 1 for n in shape_ijk[3:]):
        raise InvalidInput(
            f"The image has {len(shape_ijk)} axes of {' x '.join(map(str, shape_ijk))}, wanted 3.",
            "Choose one time point or channel and save it alone.",
        )


def _read_itk(path: Path) -> _Grid:
    image = read_image(path)
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InvalidInput(
            f"The voxels have {image.GetNumberOfComponentsPerPixel()} values each (colours, a "
            "vector field, or overlapping segments), wanted one.",
            "Choose one scalar channel; read segmentations as segmentations.",
        )
    size_ijk = image.GetSize()
    _refuse_more_axes(size_ijk, np.dtype(np.void))
    for _ in size_ijk[3:]:
        image = image[..., 0]
    voxels = sitk.GetArrayFromImage(image)
    return voxels[np.newaxis] if voxels.ndim == 2 else voxels, affine_of_image(image)


def _read_picture(path: Path) -> _Grid:
    return _pixels(path, {"1": "L", "LA": "L", "La": "L", "P": "RGB", "PA": "RGB"}, to_grey=True)


def _read_label_picture(path: Path) -> _Grid:
    return _pixels(path, {"1": "L"}, to_grey=False)


def _pixels(path: Path, simplified: dict[str, str], *, to_grey: bool) -> _Grid:
    try:
        with Image.open(path) as picture:
            frame = picture.convert(simplified.get(picture.mode, picture.mode))
            if to_grey and frame.mode not in _GREY_MODES:
                frame = frame.convert("L")
            pixels = np.asarray(frame)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise _damaged(path) from error
    except Image.DecompressionBombError as error:
        raise InvalidInput(f"The picture is too large: {error}", "Scale it down.") from error
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    if pixels.ndim != 2:
        raise InvalidInput(
            f"The label picture is in colours ({frame.mode}).",
            "Save the labels as grey values or with a palette.",
        )
    return pixels[np.newaxis], PICTURE_AFFINE


def _as_labels(voxels: VoxelArray) -> VoxelArray:
    if voxels.dtype.kind != "f" or not np.isfinite(voxels).all():
        return voxels  # `Volume` refuses what is not finite
    whole = np.rint(voxels)
    if not np.array_equal(whole, voxels) or np.abs(whole).max() > np.iinfo(np.int32).max:
        raise InvalidInput(
            f"The values ({voxels.min():g} to {voxels.max():g}) are not whole numbers.",
            "Give a label map, not an image.",
        )
    return whole.astype(np.int32)


def _damaged(path: Path) -> UnreadableFile:
    return UnreadableFile(
        f"{path.name} is damaged, or is not what its name says.", "Export or copy it again."
    )


_GREY_MODES = ("L", "I", "F", "I;16", "I;16L", "I;16B")
_ITK_READERS: dict[str, Callable[[Path], _Grid]] = dict.fromkeys(
    (".nrrd", ".nhdr", ".mha", ".mhd"), _read_itk
)
_READERS: dict[str, Callable[[Path], _Grid]] = {
    ".nii": _read_nifti,
    ".nii.gz": _read_nifti,
    **_ITK_READERS,
    **dict.fromkeys((".png", ".jpg", ".jpeg"), _read_picture),
}
_PICTURES_AS_LABELS: dict[str, Callable[[Path], _Grid]] = dict.fromkeys(
    (".png", ".jpg", ".jpeg"), _read_label_picture
)

READABLE_ENDINGS = tuple(_READERS)
"""Endings of the files that `read_volume` and `read_labelmap` take."""
