"""The source volume: from a volume node of the scene to what the worker segments.

Rules
-----
* Voxels are not copied: the worker's volume is a read-only view of the node's image, and keeps it
  alive.
* A volume gets a new random identity whenever its image is changed. A digest of its content would
  hold the host up: 0.5 s for 512x512x400 voxels of int16. Nothing is lost by it: the worker's cache
  on the disk goes by the voxels.
* Clicks go through `to_world`, which holds every linear parent transform exactly, shear included.
  The worker gets the nearest right-angled grid, because it needs no more than spacing and axes.
* Names of volumes stay here: nothing of them goes to the worker.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import numpy as np
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from protosam.errors import InvalidInput
from protosam.extents import FloatArray, PointKJI, VoxelArray
from protosam.geometry import Volume, ras_to_kji
from protosam.scene.grids import (
    Node,
    array_of,
    grid_digest,
    invertible,
    matrix_of,
    parent_to_world,
    upright,
)

RIGID_TOLERANCE = 1e-4
"""A parent transform that changes no length by more than this part leaves the spacing alone."""


@dataclass(frozen=True, eq=False)
class Source:
    """A volume of the scene that can be clicked in."""

    node_id: str
    """MRML id of its node."""
    volume: Volume
    """What the worker gets."""
    to_world: FloatArray
    """(4, 4), (i, j, k, 1) to RAS mm through all parent transforms; may be sheared."""
    grid: str
    """Digest of its own grid, without parent transforms."""

    def kji_of(self, point_ras_mm: FloatArray) -> PointKJI:
        """Continuous voxel index of a point of the world."""
        k, j, i = ras_to_kji(self.to_world, point_ras_mm).tolist()
        return k, j, i

    def holds(self, point_kji: PointKJI) -> bool:
        """Whether a continuous index lies in a voxel."""
        shape = self.volume.shape_kji
        return all(-0.5 <= x < n - 0.5 for x, n in zip(point_kji, shape, strict=True))


class Sources:
    """The volumes that were read, each once for each state of its image."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[tuple[object, ...], Source]] = {}

    def of(self, node: Node) -> Source:
        """Source of a volume node; the same `Volume` as long as its image is the same.

        Raises
        ------
        InvalidInput
            The node is no scalar volume with voxels, or its voxels cannot be used.
        GeometryError
            A parent transform is not linear, or the grid cannot be trusted.
        """
        scalars = _scalars(node)
        own = vtkMatrix4x4()
        node.GetIJKToRASMatrix(own)
        own_affine = invertible(matrix_of(own), "grid of the source volume")
        parent = parent_to_world(node, "source volume")
        to_world = parent @ own_affine
        affine = upright(own_affine if _is_rigid(parent) else to_world)
        image = node.GetImageData()
        key = (image.GetMTime(), scalars.GetMTime(), affine[:3, :3].tobytes())
        node_id = str(node.GetID())
        known = self._read.get(node_id)
        if known is not None and known[0] == key:
            volume = known[1].volume
        else:
            volume = Volume(_voxels(image, scalars), affine, uuid.uuid4().hex)
        grid = grid_digest(own_affine, volume.shape_kji)
        source = Source(node_id, volume, to_world, grid)
        self._read[node_id] = (key, source)
        return source

    def uids(self) -> dict[str, str]:
        """Identity of each volume, by the id of its node."""
        return {node_id: source.volume.uid for node_id, (_, source) in self._read.items()}

    def forget(self, node_id: str) -> None:
        """Drop a volume."""
        self._read.pop(node_id, None)


def _scalars(node: Node) -> Node:
    """Scalars of a volume node that can be segmented."""
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise InvalidInput(
            "The source volume is a label map.", "Choose the image that was segmented instead."
        )
    image = node.GetImageData() if node.IsA("vtkMRMLScalarVolumeNode") else None
    scalars = image.GetPointData().GetScalars() if image is not None else None
    if scalars is None or scalars.GetNumberOfTuples() == 0:
        raise InvalidInput(
            "The source volume holds no voxels.", "Choose a volume that is loaded completely."
        )
    if scalars.GetNumberOfComponents() != 1:
        raise InvalidInput(
            f"The source volume has {scalars.GetNumberOfComponents()} values in each voxel, "
            "wanted 1.",
            "Convert it to a scalar volume (module Vector to Scalar Volume).",
        )
    return scalars


def _voxels(image: Node, scalars: Node) -> VoxelArray:
    """(K, J, I) view of the scalars."""
    i, j, k = image.GetDimensions()
    voxels: VoxelArray = array_of(scalars).reshape(k, j, i)
    return voxels


def _is_rigid(matrix: FloatArray) -> bool:
    linear = matrix[:3, :3]
    return bool(np.abs(linear.T @ linear - np.eye(3)).max() < RIGID_TOLERANCE)
