"""Grids of scene nodes: where their voxels lie in the world, and how one grid maps onto another.

Rules
-----
* Matrices are (4, 4) float64 and map (i, j, k, 1) to millimetres: of the world (RAS) where a name
  says `to_world`, of the segmentation's own space otherwise. They may be sheared: a parent
  transform may do that, and voxels are found through it all the same.
* Index points and extents are (k, j, i), counted from the first voxel of the grid, also where VTK
  counts from another number (`ReferenceGrid.first_kji`).
* Transforms that are not linear are refused with a sentence.
* It knows VTK's matrices and MRML's nodes by their methods only; classes come from the host.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from protosam.errors import GeometryError
from protosam.extents import BoolArray, Extent, FloatArray, IndexKJI, VoxelArray, three_ints
from protosam.geometry import MIN_RELATIVE_VOLUME, kji_to_ras, ras_to_kji

Node: TypeAlias = Any
"""A node or object of the scene; Slicer's wrapped classes have no types."""

SAME_GRID_VOXELS = 1e-3
"""Two grids are one if no corner of them is farther apart than this part of a voxel."""


array_of: Callable[[Any], VoxelArray] = vtk_to_numpy
"""View of a vtkDataArray; it keeps the array alive."""


def matrix_of(matrix: Node) -> FloatArray:
    """(4, 4) array of a vtkMatrix4x4."""
    return np.array([[matrix.GetElement(row, n) for n in range(4)] for row in range(4)])


def vtk_matrix(matrix: FloatArray) -> Node:
    """Make a vtkMatrix4x4 of a (4, 4) array."""
    made = vtkMatrix4x4()
    made.DeepCopy(np.asarray(matrix, dtype=np.float64).ravel().tolist())
    return made


def parent_to_world(node: Node, what: str) -> FloatArray:
    """Matrix from a node's own space to the world, through all its parent transforms.

    Parameters
    ----------
    node : vtkMRMLTransformableNode
    what : str
        What the node is, for the error.

    Raises
    ------
    GeometryError
        One of the transforms is not linear, or they flatten space.
    """
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if not parent.IsTransformToWorldLinear():
        raise GeometryError(
            f"The {what} lies under a transform that is not linear.",
            "Harden that transform in the Transforms module, or take it off.",
        )
    to_world = vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(to_world)
    return invertible(matrix_of(to_world), f"transform of the {what}")


def invertible(matrix: FloatArray, what: str) -> FloatArray:
    """Return a matrix that can be inverted, or refuse it; `what` names it in the error."""
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
        relative_volume = abs(np.linalg.det(matrix[:3, :3])) / np.prod(lengths)
    if not np.isfinite(matrix).all() or not relative_volume > MIN_RELATIVE_VOLUME:
        raise GeometryError(
            f"The {what} has no inverse: it gives space no depth in some direction.",
            "Correct its numbers in the Transforms or Volumes module.",
        )
    return matrix


def upright(affine: FloatArray) -> FloatArray:
    """Right-angled grid nearest to an affine, with the same spacing and origin.

    The polar decomposition of the direction cosines gives the nearest rotation. Models need no
    more of a sheared grid than its spacing and which way its axes run.

    Parameters
    ----------
    affine : (4, 4) float64
        (i, j, k, 1) to mm; not singular.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    straight = affine.copy()
    straight[:3, :3] = (left @ right) * spacing
    return straight


def grid_digest(matrix: FloatArray, shape_kji: Sequence[int]) -> str:
    """Text that tells grids apart: 16 hexadecimal digits, the same after a save and a load.

    Headers keep about 7 digits, so the matrix is rounded to 0.001 mm.
    """
    rounded = np.round(matrix, 3) + 0.0
    text = f"{tuple(shape_kji)}{rounded.tolist()}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, eq=False)
class ReferenceGrid:
    """The grid that a segmentation's masks are written on."""

    matrix: FloatArray
    """(4, 4), VTK's (i, j, k, 1) to mm of the segmentation's own space."""
    to_world: FloatArray
    """(4, 4), indices counted from the first voxel (i, j, k, 1) to RAS mm."""
    first_kji: IndexKJI
    """VTK's index of the first voxel."""
    shape_kji: IndexKJI
    """Number of voxels."""

    @property
    def digest(self) -> str:
        """Text that tells grids apart, without the segmentation's parent transform."""
        return grid_digest(self.matrix, (*self.first_kji, *self.shape_kji))

    def vtk_extent(self, extent: Extent) -> list[int]:
        """VTK's six inclusive bounds (i, j, k) of an extent of this grid."""
        bounds: list[int] = []
        for axis in (2, 1, 0):
            first = self.first_kji[axis]
            bounds += [extent.start_kji[axis] + first, extent.stop_kji[axis] + first - 1]
        return bounds


def reference_grid(mrml: Node, segmentation_node: Node, volume_node: Node) -> ReferenceGrid:
    """Grid that the Segment Editor writes on, made from the volume where there is none yet.

    Parameters
    ----------
    mrml : namespace
        Slicer's classes.
    segmentation_node : vtkMRMLSegmentationNode
    volume_node : vtkMRMLScalarVolumeNode
        The source volume.

    Raises
    ------
    GeometryError
        The segmentation lies under a transform that is not linear, or its grid cannot be read.
    """
    to_world = parent_to_world(segmentation_node, "segmentation")
    segmentation = segmentation_node.GetSegmentation()
    converter = mrml.vtkSegmentationConverter
    name = converter.GetReferenceImageGeometryParameterName()
    if not segmentation.GetConversionParameter(name):
        segmentation_node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    image = mrml.vtkOrientedImageData()
    text = segmentation.GetConversionParameter(name)
    if not text or not converter.DeserializeImageGeometry(text, image, False):
        raise GeometryError(
            "The segmentation has no grid to write on.",
            "Choose its source geometry in the Segment Editor (the icon beside the volume).",
        )
    local = vtkMatrix4x4()
    image.GetImageToWorldMatrix(local)
    matrix, bounds = matrix_of(local), image.GetExtent()
    first = three_ints(bounds[4::-2], "first voxel")
    shape = three_ints([bounds[n + 1] - bounds[n] + 1 for n in (4, 2, 0)], "shape")
    from_first = matrix.copy()
    from_first[:3, 3] = kji_to_ras(matrix, first)
    return ReferenceGrid(matrix, to_world @ from_first, first, shape)


class GridMap:
    """Nearest voxels of one grid for the voxels of another.

    Parameters
    ----------
    source_to_world, target_to_world : (4, 4) float64
        (i, j, k, 1) to RAS mm of the two grids.
    source_shape_kji, target_shape_kji : 3 ints
        Their sizes.
    """

    def __init__(
        self,
        source_to_world: FloatArray,
        source_shape_kji: Sequence[int],
        target_to_world: FloatArray,
        target_shape_kji: Sequence[int],
    ) -> None:
        self._source_to_world, self._target_to_world = source_to_world, target_to_world
        self._source_shape = three_ints(source_shape_kji, "shape")
        self._target_shape = three_ints(target_shape_kji, "shape")
        self._to_source = np.linalg.inv(source_to_world) @ target_to_world
        corners = _corners(Extent.of_shape(target_shape_kji))
        there = ras_to_kji(source_to_world, kji_to_ras(target_to_world, corners))
        self.is_identity = bool(np.abs(there - corners).max() < SAME_GRID_VOXELS)

    def extent(self, extent: Extent) -> Extent:
        """Smallest extent of the target that holds every voxel whose nearest one lies in this."""
        if extent.is_empty:
            return Extent((0, 0, 0), (0, 0, 0))
        if self.is_identity:
            return extent.clip(self._target_shape)
        outer = _corners(extent) + np.where(_corners(extent) == extent.start_kji, -0.5, 0.5)
        there = ras_to_kji(self._target_to_world, kji_to_ras(self._source_to_world, outer))
        start = np.floor(there.min(axis=0)).astype(int)
        stop = np.ceil(there.max(axis=0)).astype(int) + 1
        found = Extent(three_ints(start, "start"), three_ints(stop, "stop"))
        return found.clip(self._target_shape)

    def sample(self, mask: BoolArray, extent: Extent, box: Extent) -> BoolArray:
        """Mask on the voxels of a box of the target.

        Parameters
        ----------
        mask : (k, j, i) bool
            Crop of the source; may be a broadcast view.
        extent : Extent
            Where the crop lies in the source. Outside of it is background.
        box : Extent
            Voxels of the target that are asked for.
        """
        out = np.zeros(box.shape_kji, dtype=np.bool_)
        if self.is_identity:
            both = extent.intersection(box)
            if not both.is_empty:
                out[within(both, box)] = mask[within(both, extent)]
            return out
        # One slab at a time: the index arrays of a whole organ would take some 100 MB.
        rows, columns = np.meshgrid(
            np.arange(box.start_kji[1], box.stop_kji[1]),
            np.arange(box.start_kji[2], box.stop_kji[2]),
            indexing="ij",
        )
        linear, offset = self._to_source[:3, :3], self._to_source[:3, 3]
        for n, k in enumerate(range(box.start_kji[0], box.stop_kji[0])):
            at_ijk = columns[..., None] * linear[:, 0] + rows[..., None] * linear[:, 1]
            at_ijk = at_ijk + (k * linear[:, 2] + offset)
            index = np.floor(at_ijk[..., ::-1] + 0.5).astype(np.int64) - extent.start_kji
            inside = ((index >= 0) & (index < extent.shape_kji)).all(axis=-1)
            found = index[inside]
            out[n][inside] = mask[found[:, 0], found[:, 1], found[:, 2]]
        return out


def _corners(extent: Extent) -> FloatArray:
    """(8, 3) first and last voxels (k, j, i) of an extent."""
    last = np.subtract(extent.stop_kji, 1)
    sides = np.stack([np.asarray(extent.start_kji), last]).astype(np.float64)
    grid = np.meshgrid(*(sides[:, n] for n in range(3)), indexing="ij")
    return np.stack([one.ravel() for one in grid], axis=-1)


def within(part: Extent, whole: Extent) -> tuple[slice, slice, slice]:
    """Index of a part in an array that holds only the whole (both extents of one grid)."""
    k, j, i = (
        slice(a - first, b - first)
        for a, b, first in zip(part.start_kji, part.stop_kji, whole.start_kji, strict=True)
    )
    return k, j, i


def moved(extent: Extent, by_kji: Sequence[int]) -> Extent:
    """Extent with its indices counted from elsewhere."""
    start, stop = np.add(extent.start_kji, by_kji), np.add(extent.stop_kji, by_kji)
    return Extent(three_ints(start, "start"), three_ints(stop, "stop"))
