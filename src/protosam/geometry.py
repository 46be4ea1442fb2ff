"""Grids in the patient: what a volume is, and every conversion between voxels and millimetres.

Rules
-----
* Arrays are indexed (k, j, i), as `slicer.util.arrayFromVolume` gives them.
* An affine is (4, 4) float64 and maps (i, j, k, 1) to RAS millimetres. Voxel centres lie at
  integer indices, so voxel n covers [n - 0.5, n + 0.5) along its axis.
* Index points are written (k, j, i) like the arrays; this module turns them round for the affine,
  and no other module does. RAS and LPS differ by the sign of the first two rows (`flip_ras_lps`).
* Geometry refuses rather than guesses: a singular or sheared affine is an error with its numbers.
* It knows numpy only: no files, no prompts, no models.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from protosam.errors import GeometryError, InvalidInput, InvalidPrompt
from protosam.extents import Extent, FloatArray, IndexKJI, PointKJI, VoxelArray, three_ints

AnatomicalAxis: TypeAlias = Literal["sagittal", "coronal", "axial"]

__all__ = [
    "MAX_AXIS_COSINE",
    "MIN_RELATIVE_VOLUME",
    "MIN_SPACING_MM",
    "AnatomicalAxis",
    "Extent",
    "FloatArray",
    "IndexKJI",
    "PointKJI",
    "Volume",
    "VoxelArray",
    "affine_of_extent",
    "anatomical_axis",
    "checked_affine",
    "flip_ras_lps",
    "kji_to_ras",
    "nearest_voxel",
    "ras_to_kji",
    "spacing_kji_mm",
    "volume_uid",
]

MIN_SPACING_MM = 1e-6
"""A spacing below one nanometre is a header that says zero."""

MIN_RELATIVE_VOLUME = 1e-6
"""|det| of the direction cosines below which two axes run along each other (1 = orthogonal)."""

MAX_AXIS_COSINE = 0.01
"""Largest |cosine| between two axes (0.57 degrees): float32 headers stay below 1e-6, a gantry tilt
of 18.5 degrees gives 0.32. Within it, distances along the axes are right to 1 %."""

_FLIP_XY = np.diag([-1.0, -1.0, 1.0, 1.0])
_ANATOMY: tuple[AnatomicalAxis, ...] = ("sagittal", "coronal", "axial")


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar image with its place in the patient and its identity.

    The voxels are kept as a read-only, C-contiguous array in native byte order (copied only where
    the given array is not), so that `uid` stays true. Two volumes are the same if their uids are.
    """

    voxels: VoxelArray
    """(K, J, I) bool, integer or float; finite; any unit."""
    affine: FloatArray
    """(4, 4) float64, maps (i, j, k, 1) to RAS mm; not singular, not sheared."""
    uid: str = ""
    """Content digest, see `volume_uid`; computed when not given."""

    def __post_init__(self) -> None:
        voxels = _checked_voxels(self.voxels)
        affine = checked_affine(self.affine)
        object.__setattr__(self, "voxels", voxels)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "uid", self.uid or volume_uid(voxels, affine))

    @property
    def shape_kji(self) -> IndexKJI:
        """Number of voxels along k, j, i."""
        k, j, i = self.voxels.shape
        return k, j, i

    @property
    def spacing_kji_mm(self) -> PointKJI:
        """Distance of voxel centres along k, j, i in mm."""
        return spacing_kji_mm(self.affine)


def volume_uid(voxels: VoxelArray, affine: ArrayLike) -> str:
    """Digest of the content: voxels, their dtype and shape, and the affine.

    BLAKE2b hashes the array in place: 0.5 s for 512x512x600 int16 on a 2-core virtual machine.
    (SHA-256 takes half of that there, but twice as long on processors without SHA instructions.)

    Parameters
    ----------
    voxels : (K, J, I) array
        Any plain dtype; byte order and memory layout do not matter.
    affine : (4, 4) array_like
        (i, j, k, 1) -> RAS mm.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    plain = np.ascontiguousarray(voxels, dtype=voxels.dtype.newbyteorder("="))
    matrix = np.asarray(affine, dtype=np.float64) + 0.0  # -0.0 and 0.0 are the same place
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{plain.dtype.str}{plain.shape}".encode())
    digest.update(matrix.astype("<f8").tobytes())
    digest.update(plain.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def checked_affine(affine: ArrayLike) -> FloatArray:
    """Read-only float64 copy of an affine that can be trusted.

    Parameters
    ----------
    affine : (4, 4) array_like
        (i, j, k, 1) -> RAS mm.

    Raises
    ------
    GeometryError
        Not (4, 4) numbers, not finite, last row not 0 0 0 1, a spacing of zero, two axes that run
        along each other, or axes that are not at right angles (a gantry tilt, for example).
    """
    try:
        matrix = np.array(affine, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise GeometryError("The affine is not an array of numbers.", _AFFINE_STEP) from error
    if matrix.shape != (4, 4):
        raise GeometryError(f"The affine has shape {matrix.shape}, wanted (4, 4).", _AFFINE_STEP)
    if not np.isfinite(matrix).all():
        raise GeometryError("The affine holds NaN or infinite numbers.", _AFFINE_STEP)
    if not np.array_equal(matrix[3], (0, 0, 0, 1)):
        raise GeometryError(
            f"The last row of the affine is {matrix[3].tolist()}, wanted [0, 0, 0, 1].",
            _AFFINE_STEP,
        )
    _refuse_bad_axes(matrix)
    matrix.flags.writeable = False
    return matrix


_AFFINE_STEP = "Export the image again with its position and spacing, or repair its header."


def _refuse_bad_axes(matrix: FloatArray) -> None:
    spacing_ijk = np.linalg.norm(matrix[:3, :3], axis=0)
    if spacing_ijk.min() < MIN_SPACING_MM:
        axis = "ijk"[int(spacing_ijk.argmin())]
        raise GeometryError(
            f"The affine is singular: the spacing along {axis} is {spacing_ijk.min():g} mm.",
            _AFFINE_STEP,
        )
    directions = matrix[:3, :3] / spacing_ijk
    relative_volume = abs(float(np.linalg.det(directions)))
    if relative_volume < MIN_RELATIVE_VOLUME:
        raise GeometryError(
            "The affine is singular: two of its axes run along each other "
            f"(relative voxel volume {relative_volume:.1e}, wanted 1).",
            _AFFINE_STEP,
        )
    cosines = np.abs(directions.T @ directions - np.eye(3))
    if cosines.max() > MAX_AXIS_COSINE:
        degrees = 90 - float(np.degrees(np.arccos(min(1.0, cosines.max()))))
        raise GeometryError(
            f"The axes of the image are {degrees:.1f} degrees away from right angles "
            f"(a gantry tilt?), at most {np.degrees(np.arcsin(MAX_AXIS_COSINE)):.1f} are accepted.",
            "Resample the image to a rectangular grid first.",
        )


def _checked_voxels(voxels: VoxelArray) -> VoxelArray:
    if not isinstance(voxels, np.ndarray) or voxels.dtype.kind not in "biuf":
        given = voxels.dtype if isinstance(voxels, np.ndarray) else type(voxels).__name__
        raise InvalidInput(
            f"The voxels are {given}, wanted an array of real numbers.",
            "Give one scalar channel (grey values, not colours or complex numbers).",
        )
    if voxels.ndim != 3:
        raise InvalidInput(
            f"The image has {voxels.ndim} axes {voxels.shape}, wanted 3 (k, j, i).",
            "Choose one time point or channel; give a 2-D image as one slice (1, rows, columns).",
        )
    if voxels.size == 0:
        raise InvalidInput(
            f"The image of shape {voxels.shape} holds no voxel.", "Export the image again."
        )
    if voxels.dtype.kind == "f":
        _refuse_non_finite(voxels)
    plain = np.ascontiguousarray(voxels, dtype=voxels.dtype.newbyteorder("=")).view()
    plain.flags.writeable = False
    return plain


def _refuse_non_finite(voxels: VoxelArray) -> None:
    # min and max carry NaN and infinity out without the 1-byte-per-voxel mask of isfinite.
    with np.errstate(invalid="ignore"):
        clean = np.isfinite(voxels.min()) and np.isfinite(voxels.max())
    if not clean:
        count = int(voxels.size - np.count_nonzero(np.isfinite(voxels)))
        raise InvalidInput(
            f"{count} of {voxels.size} voxels are NaN or infinite.",
            "Replace them by a value that means 'outside' in this image, then try again.",
        )


def spacing_kji_mm(affine: ArrayLike) -> PointKJI:
    """Distance of voxel centres along k, j, i in mm.

    A column of the affine is the step in RAS of one index; its length is the spacing.

    Parameters
    ----------
    affine : (4, 4) array_like
        (i, j, k, 1) -> RAS mm.

    Examples
    --------
    >>> spacing_kji_mm(np.diag([0.5, 0.75, 3.0, 1.0]))
    (3.0, 0.75, 0.5)
    """
    matrix = np.asarray(affine, dtype=np.float64)
    i_mm, j_mm, k_mm = np.linalg.norm(matrix[:3, :3], axis=0).tolist()
    return k_mm, j_mm, i_mm


def kji_to_ras(affine: ArrayLike, points_kji: ArrayLike) -> FloatArray:
    """World positions of index points.

    Parameters
    ----------
    affine : (4, 4) array_like
        (i, j, k, 1) -> RAS mm.
    points_kji : (..., 3) array_like
        Continuous indices (k, j, i).

    Returns
    -------
    (..., 3) float64
        RAS mm.

    Examples
    --------
    >>> kji_to_ras(np.diag([2.0, 3.0, 4.0, 1.0]), [[1, 0, 0]]).tolist()
    [[0.0, 0.0, 4.0]]
    """
    matrix = np.asarray(affine, dtype=np.float64)
    points_ijk = _points(points_kji)[..., ::-1]
    world: FloatArray = points_ijk @ matrix[:3, :3].T + matrix[:3, 3]
    return world


def ras_to_kji(affine: ArrayLike, points_ras_mm: ArrayLike) -> FloatArray:
    """Continuous indices of world positions; the inverse of `kji_to_ras`.

    Parameters
    ----------
    affine : (4, 4) array_like
        (i, j, k, 1) -> RAS mm.
    points_ras_mm : (..., 3) array_like
        RAS mm.

    Returns
    -------
    (..., 3) float64
        (k, j, i); whole numbers are voxel centres.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    offsets = _points(points_ras_mm) - matrix[:3, 3]
    points_ijk: FloatArray = offsets @ np.linalg.inv(matrix[:3, :3]).T
    return points_ijk[..., ::-1]


def nearest_voxel(
    affine: ArrayLike, point_ras_mm: Sequence[float], shape_kji: Sequence[int]
) -> IndexKJI:
    """Voxel that a world position lies in.

    Parameters
    ----------
    affine : (4, 4) array_like
        (i, j, k, 1) -> RAS mm.
    point_ras_mm : 3 floats
        RAS mm.
    shape_kji : 3 ints
        Shape of the volume.

    Returns
    -------
    (k, j, i) ints

    Raises
    ------
    InvalidPrompt
        The position is not finite or lies outside of every voxel.
    """
    point = np.asarray(point_ras_mm, dtype=np.float64)
    if point.shape != (3,) or not np.isfinite(point).all():
        raise InvalidPrompt(
            f"The point {point_ras_mm} is not three finite numbers (RAS mm).",
            "Click inside the image.",
        )
    point_kji = ras_to_kji(affine, point)
    index = np.floor(point_kji + 0.5)
    if (index < 0).any() or (index >= np.asarray(shape_kji)).any():
        place = ", ".join(f"{x:.1f}" for x in point_kji)
        raise InvalidPrompt(
            f"The point lies outside of the image: voxel (k, j, i) = ({place}), "
            f"image {tuple(int(n) for n in shape_kji)}.",
            "Click inside the image.",
        )
    return three_ints(index.astype(np.int64), "voxel")


def anatomical_axis(affine: ArrayLike, axis: int) -> AnatomicalAxis:
    """Name of the slices that lie across an array axis, of oblique grids the nearest one.

    The three array axes get three different names: of the six assignments to (R, A, S) the one
    with the largest sum of |direction cosine| is taken.

    Parameters
    ----------
    affine : (4, 4) array_like
        (i, j, k, 1) -> RAS mm.
    axis : int
        Array axis: 0 = k, 1 = j, 2 = i.

    Examples
    --------
    >>> anatomical_axis(np.eye(4), 0)
    'axial'
    """
    if axis not in (0, 1, 2):
        raise InvalidInput(f"There is no array axis {axis}.", "Choose 0 (k), 1 (j) or 2 (i).")
    matrix = np.asarray(affine, dtype=np.float64)[:3, :3]
    cosines_kji = np.abs(matrix / np.linalg.norm(matrix, axis=0))[:, ::-1]  # (ras, kji)
    best = max(
        itertools.permutations(range(3)),
        key=lambda order: sum(float(cosines_kji[order[n], n]) for n in range(3)),
    )
    return _ANATOMY[best[axis]]


def flip_ras_lps(affine: ArrayLike) -> FloatArray:
    """Affine to RAS from the affine to LPS, or the other way round: the flip is its own inverse."""
    flipped: FloatArray = _FLIP_XY @ np.asarray(affine, dtype=np.float64) + 0.0
    return flipped


def affine_of_extent(affine: ArrayLike, extent: Extent) -> FloatArray:
    """Affine of the crop `voxels[extent.slices]`: same axes, origin at its first voxel.

    Parameters
    ----------
    affine : (4, 4) array_like
        (i, j, k, 1) -> RAS mm, of the whole array.
    extent : Extent
        The crop; it may start before index 0.
    """
    moved = np.array(affine, dtype=np.float64)
    moved[:3, 3] = kji_to_ras(moved, extent.start_kji)
    return moved


def _points(points: ArrayLike) -> FloatArray:
    array = np.asarray(points, dtype=np.float64)
    if array.shape[-1:] != (3,):
        raise InvalidInput(
            f"Points have three coordinates; an array of shape {array.shape} was given.",
            "Give points as (n, 3).",
        )
    return array
