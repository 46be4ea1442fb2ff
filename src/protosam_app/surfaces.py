"""Surfaces of the segments for the 3-D view.

Rules
-----
* A surface is made from a coarse copy of the mask, so that it takes some ten milliseconds however
  large the segment is; it is for looking at, and nothing is measured on it.
* Surfaces are model nodes beside the segmentation: the segment itself keeps its label map alone,
  so that edits and undo states do not carry meshes about.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
from vtkmodules.util.numpy_support import numpy_to_vtk
from vtkmodules.vtkCommonDataModel import vtkImageData, vtkPolyData
from vtkmodules.vtkCommonMath import vtkMatrix4x4
from vtkmodules.vtkCommonTransforms import vtkTransform
from vtkmodules.vtkFiltersCore import vtkFlyingEdges3D, vtkPolyDataNormals
from vtkmodules.vtkFiltersCore import vtkWindowedSincPolyDataFilter as vtkSmoother
from vtkmodules.vtkFiltersGeneral import vtkTransformPolyDataFilter

from protosam.extents import BoolArray, Extent, FloatArray, bounding_extent
from protosam_app.segments import Row, rgb_of
from protosam_app.stage import Node, Stage

MOST_CELLS = 80
"""Cells along the longest side of the coarse copy."""


@dataclass(frozen=True)
class Shape:
    """What a surface is made from."""

    extent: Extent
    """Box of the mask in its grid."""
    mask: BoolArray
    """(k, j, i) bool, cut to the box."""
    to_world: FloatArray
    """(4, 4), indices of the grid (i, j, k, 1) to RAS mm."""


class Surfaces:
    """The models of one stage, one for each segment that has voxels.

    Parameters
    ----------
    stage : Stage
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._nodes: dict[str, Node] = {}
        self._followed: list[Row] = []

    def show(self, segment_id: str, shape: Shape) -> None:
        """Make or renew the surface of a segment; an empty mask removes it."""
        if not shape.mask.any():
            self.remove(segment_id)
            return
        node = self._nodes.get(segment_id)
        if node is None:
            node = slicer.vtkMRMLModelNode()
            node.SetSaveWithScene(False)
            self._stage.scene.AddNode(node)
            node.CreateDefaultDisplayNodes()
            display = node.GetDisplayNode()
            display.SetVisibility2D(False)
            display.SetScalarVisibility(False)
            display.SetAmbient(0.15)
            display.SetSpecular(0.25)
            display.SetPower(20)
            self._nodes[segment_id] = node
            self._followed = []
        node.SetAndObservePolyData(surface_of(shape))

    def follow(self, rows: list[Row]) -> None:
        """Take over colours and visibility; remove surfaces of segments that are gone."""
        if rows == self._followed:
            return  # a colour that is set again draws the view again
        self._followed = list(rows)
        known = {row.id: row for row in rows}
        for segment_id in [one for one in self._nodes if one not in known]:
            self.remove(segment_id)
        for segment_id, node in self._nodes.items():
            display, row = node.GetDisplayNode(), known[segment_id]
            display.SetColor(*rgb_of(row.colour))
            display.SetVisibility(row.visible)

    def remove(self, segment_id: str) -> None:
        """Remove a surface, if there is one."""
        node = self._nodes.pop(segment_id, None)
        if node is not None:
            self._stage.scene.RemoveNode(node.GetDisplayNode())
            self._stage.scene.RemoveNode(node)

    def clear(self) -> None:
        """Remove all surfaces."""
        for segment_id in list(self._nodes):
            self.remove(segment_id)

    @property
    def count(self) -> int:
        """How many surfaces there are."""
        return len(self._nodes)


def surface_of(shape: Shape) -> vtkPolyData:
    """Smooth surface of a mask, in RAS mm."""
    coarse, cell, origin = _coarse(shape)
    image = vtkImageData()
    image.SetDimensions(*coarse.shape[::-1])
    scalars = numpy_to_vtk(coarse.ravel(), deep=1)  # type: ignore[no-untyped-call]
    image.GetPointData().SetScalars(scalars)
    edges = vtkFlyingEdges3D()
    edges.SetInputData(image)
    edges.SetValue(0, 0.5)
    edges.ComputeNormalsOff()
    edges.ComputeScalarsOff()
    smoother = vtkSmoother()
    smoother.SetInputConnection(edges.GetOutputPort())
    smoother.SetNumberOfIterations(20)
    smoother.SetPassBand(0.02)
    smoother.BoundarySmoothingOff()
    smoother.NonManifoldSmoothingOn()
    placed = vtkTransformPolyDataFilter()
    placed.SetInputConnection(smoother.GetOutputPort())
    placed.SetTransform(_to_world(shape.to_world, cell, origin))
    normals = vtkPolyDataNormals()
    normals.SetInputConnection(placed.GetOutputPort())
    normals.SplittingOff()
    normals.AutoOrientNormalsOn()
    normals.Update()
    surface: vtkPolyData = normals.GetOutput()
    return surface


def _coarse(shape: Shape) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Share of the mask in cells of several voxels; size of a cell and its first centre (kji)."""
    tight = bounding_extent(shape.mask)
    mask = shape.mask if tight is None else shape.mask[tight.slices]
    start = np.array(shape.extent.start_kji) + (0 if tight is None else np.array(tight.start_kji))
    # Cells as even in space as they can be: thick slices are not joined before thin ones are.
    spacing = np.linalg.norm(shape.to_world[:3, :3], axis=0)[::-1]
    widest = float((np.array(mask.shape) * spacing).max()) / MOST_CELLS
    cell = np.maximum(1, np.round(widest / spacing)).astype(int)
    missing = (-np.array(mask.shape)) % cell
    padded = np.pad(mask, [(0, int(n)) for n in missing])
    k, j, i = (n // c for n, c in zip(padded.shape, cell, strict=True))
    blocks = padded.reshape(k, cell[0], j, cell[1], i, cell[2])
    share = np.pad(blocks.mean(axis=(1, 3, 5), dtype=np.float32), 1)
    first = start + (cell - 1) / 2 - cell
    return share, cell, first


def _to_world(affine: FloatArray, cell_kji: FloatArray, first_kji: FloatArray) -> vtkTransform:
    cells = np.eye(4)
    cells[:3, :3] = np.diag(cell_kji[::-1])
    cells[:3, 3] = first_kji[::-1]
    matrix = vtkMatrix4x4()
    matrix.DeepCopy((affine @ cells).ravel().tolist())
    transform = vtkTransform()
    transform.SetMatrix(matrix)
    return transform
