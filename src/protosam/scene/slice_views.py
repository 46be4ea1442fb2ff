"""Slice views: from a place on the screen to the world, and back.

Rules
-----
* A place on the screen is the slice node's XY: device pixels of VTK, origin at the bottom left.
* Conversions go through the node's own matrix in float64, so they hold for every orientation.
* It knows views, not volumes; what lies at a place of the world is said elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protosam.extents import FloatArray
from protosam.scene.grids import Node, matrix_of

PointXY = tuple[float, float]


def is_light_box(slice_node: Node) -> bool:
    """Whether the view shows several slices (up to Slicer 5.8); XY do not say which one then."""
    if not hasattr(slice_node, "GetLayoutGridRows"):
        return False
    return bool(slice_node.GetLayoutGridRows() * slice_node.GetLayoutGridColumns() > 1)


def xy_to_ras(slice_node: Node, xy: Sequence[float]) -> FloatArray:
    """World position (RAS mm) of a place in a view.

    Parameters
    ----------
    slice_node : vtkMRMLSliceNode
    xy : 2 floats
        Device pixels, origin at the bottom left.
    """
    point: FloatArray = matrix_of(slice_node.GetXYToRAS()) @ (float(xy[0]), float(xy[1]), 0.0, 1.0)
    return point[:3]


@dataclass(frozen=True, eq=False)
class ViewPlane:
    """The plane that a view shows, as numbers."""

    ras_to_xy: FloatArray
    """(4, 4), RAS mm to device pixels."""
    normal_ras: FloatArray
    """(3,) unit normal of the plane."""
    origin_ras_mm: FloatArray
    """(3,) a point of the plane."""

    @classmethod
    def of(cls, slice_node: Node) -> ViewPlane:
        """Plane of a slice node."""
        to_ras = matrix_of(slice_node.GetXYToRAS())
        slice_to_ras = matrix_of(slice_node.GetSliceToRAS())
        normal = slice_to_ras[:3, 2] / np.linalg.norm(slice_to_ras[:3, 2])
        to_xy: FloatArray = np.asarray(np.linalg.pinv(to_ras), dtype=np.float64)
        return cls(to_xy, normal, to_ras[:3, 3])

    def xy_of(self, point_ras_mm: FloatArray) -> PointXY:
        """Place of a world position, seen along the normal."""
        x, y = (self.ras_to_xy @ (*(point_ras_mm - self._above(point_ras_mm)), 1.0))[:2].tolist()
        return x, y

    def distance_mm(self, point_ras_mm: FloatArray) -> float:
        """Signed distance from the plane."""
        return float((point_ras_mm - self.origin_ras_mm) @ self.normal_ras)

    def axis_of(self, to_world: FloatArray) -> int:
        """Array axis (0 = k, 1 = j, 2 = i) of a grid that runs most nearly along the normal.

        The planes of equal index are meant, whose normals differ from the axes in a sheared grid.
        """
        gradients = np.linalg.inv(to_world[:3, :3])  # row n: how index n changes in the world
        across = np.abs(gradients @ self.normal_ras) / np.linalg.norm(gradients, axis=1)
        return 2 - int(across.argmax())

    def step_mm(self, to_world: FloatArray) -> float:
        """Distance along the normal in which the index of `axis_of` changes by one."""
        gradients = np.linalg.inv(to_world[:3, :3])
        change = np.abs(gradients @ self.normal_ras)[2 - self.axis_of(to_world)]
        return float(1.0 / change)

    def _above(self, point_ras_mm: FloatArray) -> FloatArray:
        part: FloatArray = self.distance_mm(point_ras_mm) * self.normal_ras
        return part
