"""How far a found mask is from the true one: overlap, surface distances, volume.

Owns the definitions of every figure of accuracy that the project prints, with the empty
cases spelled out. Knows nothing of files, prompts, models or affines: it takes boolean
arrays of two or three axes and the spacing along each axis in mm. Torch-free on purpose;
``Testing/reference`` holds the results equal to those of MONAI.

Surface voxels are the mask minus its erosion by the face-connected neighbourhood, and what
lies beyond the array counts as background, as in ``monai.metrics.utils.get_mask_edges``.
Distances are Euclidean, between the centres of surface voxels. Axes of length one are
dropped first, so that a single slice is measured as a plane: eroding it along its normal
would make every voxel of it surface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import KDTree

from protosam.errors import InvalidInput

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

NSD_TOLERANCE_MM = 2.0
"""Tolerance of the normalised surface Dice in the evaluation protocol."""

HAUSDORFF_PERCENTILE = 95.0
"""Percentile of the directed surface distances that stands for the worst one."""


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances between the surfaces of two masks, both ways.

    Attributes
    ----------
    found_to_truth_mm, truth_to_found_mm : (n,), (m,) float64
        Distance of each surface voxel to the nearest one of the other mask. Both are
        empty where either mask is empty.
    worst_mm : float
        Diagonal of the whole grid: the distance given to an answer that is missing.
    both_empty : bool
        Neither mask has a voxel, which is agreement.
    """

    found_to_truth_mm: FloatArray
    truth_to_found_mm: FloatArray
    worst_mm: float
    both_empty: bool = False

    def nsd(self, tolerance_mm: float = NSD_TOLERANCE_MM) -> float:
        """Return the share of both surfaces that lies within `tolerance_mm` of the other.

        1 for two empty masks, 0 where only one of them is empty.
        """
        total = len(self.found_to_truth_mm) + len(self.truth_to_found_mm)
        if total == 0:
            return float(self.both_empty)
        near = np.count_nonzero(self.found_to_truth_mm <= tolerance_mm)
        near += np.count_nonzero(self.truth_to_found_mm <= tolerance_mm)
        return float(near / total)

    def hd95_mm(self) -> float:
        """Return the larger of the two directed 95th percentiles, in mm.

        0 for two empty masks, `worst_mm` where only one of them is empty.
        """
        if self.found_to_truth_mm.size == 0:
            return 0.0 if self.both_empty else self.worst_mm
        directed = (self.found_to_truth_mm, self.truth_to_found_mm)
        return float(max(np.percentile(distances, HAUSDORFF_PERCENTILE) for distances in directed))


class TrueSurface:
    """The surface of a true mask, kept to measure many answers against it.

    A k-d tree over surface voxels answers for a liver in CT in 0.15 s and for an adrenal
    gland in 0.01 s, once it stands (0.05 s); the distance transforms of MONAI's two metrics
    need 0.37 s for the liver (one core of an AMD EPYC).

    Parameters
    ----------
    truth : (K, J, I) or (J, I) bool
        The mask to measure against; may be empty.
    spacing_mm : sequence of float
        Voxel size along each axis of `truth`.

    Raises
    ------
    InvalidInput
        Spacing that does not fit the array, or is not positive and finite.
    """

    def __init__(self, truth: BoolArray, spacing_mm: Sequence[float]) -> None:
        self._shape = truth.shape
        self._spacing_mm = _checked_spacing(truth, spacing_mm)
        self._worst_mm = float(np.linalg.norm(np.asarray(truth.shape) * self._spacing_mm))
        self._points_mm = _surface_points_mm(truth, self._spacing_mm)
        self._tree = KDTree(self._points_mm) if len(self._points_mm) else None

    def distances(self, found: BoolArray) -> SurfaceDistances:
        """Return the surface distances between `found` and the true mask.

        Raises
        ------
        InvalidInput
            `found` has another shape than the true mask.
        """
        if found.shape != self._shape:
            raise InvalidInput(
                f"The found mask has the shape {found.shape}, the true one {self._shape}.",
                "Measure masks on one grid.",
            )
        points_mm = _surface_points_mm(found, self._spacing_mm)
        if self._tree is None or len(points_mm) == 0:
            nothing = np.empty(0)
            agreed = self._tree is None and len(points_mm) == 0
            return SurfaceDistances(nothing, nothing, self._worst_mm, agreed)
        return SurfaceDistances(
            found_to_truth_mm=self._tree.query(points_mm)[0],
            truth_to_found_mm=KDTree(points_mm).query(self._points_mm)[0],
            worst_mm=self._worst_mm,
        )


def dice(found: BoolArray, truth: BoolArray) -> float:
    """Return twice the overlap over the sum of the sizes.

    Parameters
    ----------
    found, truth : bool arrays of one shape

    Returns
    -------
    float
        0 to 1; 1 for two empty masks, 0 where only one of them is empty.

    Raises
    ------
    InvalidInput
        The shapes differ.
    """
    if found.shape != truth.shape:
        raise InvalidInput(
            f"The found mask has the shape {found.shape}, the true one {truth.shape}.",
            "Measure masks on one grid.",
        )
    total = np.count_nonzero(found) + np.count_nonzero(truth)
    if total == 0:
        return 1.0
    return float(2 * np.count_nonzero(found & truth) / total)


def nsd(
    found: BoolArray,
    truth: BoolArray,
    spacing_mm: Sequence[float],
    tolerance_mm: float = NSD_TOLERANCE_MM,
) -> float:
    """Return the normalised surface Dice, the share of both surfaces within a tolerance.

    As ``monai.metrics.compute_surface_dice``: voxels of the surface are counted, not its
    area (S. Nikolov et al., https://doi.org/10.2196/26151, weigh by area).
    """
    return TrueSurface(truth, spacing_mm).distances(found).nsd(tolerance_mm)


def hd95_mm(found: BoolArray, truth: BoolArray, spacing_mm: Sequence[float]) -> float:
    """Return the 95th-percentile Hausdorff distance in mm.

    The larger of the two directed percentiles, as ``monai.metrics
    .compute_hausdorff_distance(percentile=95)``. Where one mask is empty it is the
    diagonal of the grid, the worst distance there is, and never NaN.
    """
    return TrueSurface(truth, spacing_mm).distances(found).hd95_mm()


def volume_ml(mask: BoolArray, spacing_mm: Sequence[float]) -> float:
    """Return the volume of the mask in millilitres.

    Parameters
    ----------
    mask : bool array
    spacing_mm : sequence of float
        Voxel size along each of the three axes; a single slice counts with its thickness.
    """
    voxel_mm3 = float(np.prod(np.asarray(spacing_mm, dtype=np.float64)))
    return float(np.count_nonzero(mask) * voxel_mm3 / 1000.0)


def area_under_clicks(scores: Sequence[float]) -> float:
    """Return the trapezoid over scores after click 1..N, divided by N-1.

    One score is its own area. The result lies between the lowest and the highest score,
    so that it reads as a Dice.

    Raises
    ------
    InvalidInput
        No score at all.
    """
    if not scores:
        raise InvalidInput("There is no score to average.", "Play at least one click.")
    if len(scores) == 1:
        return float(scores[0])
    values = np.asarray(scores, dtype=np.float64)
    return float(((values[1:] + values[:-1]) / 2).mean())


def _checked_spacing(mask: BoolArray, spacing_mm: Sequence[float]) -> FloatArray:
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if spacing.shape != (mask.ndim,) or not np.all(np.isfinite(spacing)) or np.any(spacing <= 0):
        raise InvalidInput(
            f"A mask of {mask.ndim} axes came with the spacing {tuple(spacing_mm)} mm.",
            "Give one positive number of millimetres for each axis.",
        )
    return spacing


def _surface_points_mm(mask: BoolArray, spacing_mm: FloatArray) -> FloatArray:
    """Return the centres of the surface voxels, (n, axes) in mm from the first voxel."""
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    thick = [axis for axis, length in enumerate(mask.shape) if length > 1]
    if not boxes or boxes[0] is None or not thick:
        return np.argwhere(mask) * spacing_mm
    crop = mask[boxes[0]]
    flat = tuple(slice(None) if axis in thick else 0 for axis in range(mask.ndim))
    plane = crop[flat]
    surface = plane & ~ndimage.binary_erosion(plane)
    first = np.asarray([box.start for box in boxes[0]], dtype=np.float64)[thick]
    points: FloatArray = (np.argwhere(surface) + first) * spacing_mm[thick]
    return points
