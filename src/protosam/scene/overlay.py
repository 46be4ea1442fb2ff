"""A drawing over a segment for a while: voxels that are coming, and voxels that are going.

Rules
-----
* It is a segmentation node of its own, hidden from lists and not saved with the scene. The segment
  beneath it, its display and the undo states are never touched, so nothing of a drawing can stay
  behind in them, whatever the user does meanwhile: undo, save, delete, paint.
* What is coming has the segment's colour, what is going is darkened; both are drawn in slice views
  only. Visibility and opacity are the segment's.
* Extents are of the segmentation's reference grid, (k, j, i).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from vtkmodules.vtkCommonCore import VTK_UNSIGNED_CHAR

from protosam.extents import BoolArray, Extent, VoxelArray
from protosam.scene.grids import Node, ReferenceGrid, array_of, vtk_matrix, within
from protosam.scene.layers import BINARY_LABELMAP, SCALARS_NAME

COMING, GOING = "coming", "going"
_VALUES = {COMING: 1, GOING: 2}
_GOING_COLOUR = (0.12, 0.12, 0.12)
_GOING_OPACITY = 0.6
_MARGIN = 8
"""Voxels by which the drawing's image grows beyond what is needed, so that it seldom has to."""


@dataclass(frozen=True)
class _Look:
    """How a visible segment is drawn in slices."""

    transform_id: str | None
    colour: tuple[float, ...]
    has_fill: bool
    has_outline: bool
    opacity: float
    fill: float
    outline: float


class Overlay:
    """One drawing over one segment; it is there until `remove`.

    Parameters
    ----------
    mrml : namespace
        Slicer's classes.
    segmentation_node : vtkMRMLSegmentationNode
        In a scene.
    segment_id : str
    grid : ReferenceGrid
        Of that segmentation.
    """

    def __init__(
        self, mrml: Node, segmentation_node: Node, segment_id: str, grid: ReferenceGrid
    ) -> None:
        self._mrml, self._grid = mrml, grid
        self._below, self._segment_id = segmentation_node, segment_id
        self.extent = Extent((0, 0, 0), (0, 0, 0))
        self._values: VoxelArray = np.zeros((0, 0, 0), dtype=np.uint8)
        self._image: Node = None
        self._look: _Look | None = None
        self._node = self._made(segmentation_node.GetScene())

    def paint(self, box: Extent, region: BoolArray, coming: BoolArray, going: BoolArray) -> None:
        """Draw a part anew.

        Parameters
        ----------
        box : Extent
            Of the grid.
        region, coming, going : (k, j, i) bool
            On the box: which voxels are spoken about, and what becomes of them.
        """
        if self.extent.union(box) != self.extent:
            self._grow(self.extent.union(box).pad(_MARGIN).clip(self._grid.shape_kji))
        part = self._values[within(box, self.extent)]
        part[region] = 0
        part[region & coming] = _VALUES[COMING]
        part[region & going] = _VALUES[GOING]

    def shown(self) -> None:
        """Have the views draw what was painted."""
        if self._image is not None:
            self._image.GetPointData().GetScalars().Modified()
            self._image.Modified()
        self.follow()

    def follow(self) -> None:
        """Take over the segment's colour and visibility; be invisible without it."""
        look = self._look_below()
        if look == self._look:
            return  # each change, even to the same value, has the views drawn again
        self._look = look
        display = self._node.GetDisplayNode()
        display.SetVisibility(look is not None)
        if look is not None:
            self._node.SetAndObserveTransformNodeID(look.transform_id)
            self._node.GetSegmentation().GetSegment(COMING).SetColor(*look.colour)
            display.SetVisibility2DFill(look.has_fill)
            display.SetVisibility2DOutline(look.has_outline)
            display.SetOpacity(look.opacity)
            display.SetSegmentOpacity2DFill(COMING, look.fill)
            display.SetSegmentOpacity2DOutline(COMING, look.outline)

    def remove(self) -> None:
        """Take it out of the scene."""
        scene = self._node.GetScene()
        if scene is None:
            return
        count = self._node.GetNumberOfDisplayNodes()
        displays = [self._node.GetNthDisplayNode(n) for n in range(count)]
        for display in displays:
            display.SetVisibility(False)  # views draw again when this changes
        scene.RemoveNode(self._node)
        for display in displays:
            scene.RemoveNode(display)

    def _look_below(self) -> _Look | None:
        below, name = self._below.GetDisplayNode(), self._segment_id
        segment = self._below.GetSegmentation().GetSegment(name)
        if below is None or segment is None or self._below.GetScene() is None:
            return None
        if not (below.GetVisibility() and below.GetSegmentVisibility(name)):
            return None
        return _Look(
            transform_id=self._below.GetTransformNodeID(),
            colour=tuple(segment.GetColor()),
            has_fill=bool(below.GetVisibility2DFill()),
            has_outline=bool(below.GetVisibility2DOutline()),
            opacity=below.GetOpacity(),
            fill=below.GetOpacity2DFill() * below.GetSegmentOpacity2DFill(name),
            outline=below.GetOpacity2DOutline() * below.GetSegmentOpacity2DOutline(name),
        )

    def _made(self, scene: Node) -> Node:
        node = self._mrml.vtkMRMLSegmentationNode()
        node.SetName("ProtoSAM preview")
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        node.SetSelectable(False)
        node.SetUndoEnabled(False)
        node.SetAttribute("SubjectHierarchy.ExcludeFromTree", "1")
        for name, value in _VALUES.items():
            segment = self._mrml.vtkSegment()
            segment.SetName(name)
            segment.SetLabelValue(value)
            segment.SetColor(*_GOING_COLOUR)
            node.GetSegmentation().AddSegment(segment, name)
        scene.AddNode(node)
        node.CreateDefaultDisplayNodes()
        display, below = node.GetDisplayNode(), self._below.GetDisplayNode()
        display.SetSaveWithScene(False)
        display.SetVisibility(False)
        display.SetVisibility3D(False)
        display.SetOpacity2DFill(1.0)
        display.SetOpacity2DOutline(1.0)
        display.SetSegmentOpacity2DFill(GOING, _GOING_OPACITY)
        display.SetSegmentVisibility2DOutline(GOING, False)
        if below is not None:
            display.SetSliceIntersectionThickness(below.GetSliceIntersectionThickness())
            for n in range(below.GetNumberOfViewNodeIDs()):
                display.AddViewNodeID(below.GetNthViewNodeID(n))
        return node

    def _grow(self, extent: Extent) -> None:
        """Go on with an image of this extent, which holds the old one."""
        image = self._mrml.vtkOrientedImageData()
        image.SetImageToWorldMatrix(vtk_matrix(self._grid.matrix))
        image.SetExtent(*self._grid.vtk_extent(extent))
        image.AllocateScalars(VTK_UNSIGNED_CHAR, 1)
        scalars = image.GetPointData().GetScalars()
        scalars.SetName(SCALARS_NAME)
        values = array_of(scalars).reshape(extent.shape_kji)
        values[...] = 0
        if not self.extent.is_empty:
            values[within(self.extent, extent)] = self._values
        self.extent, self._values, self._image = extent, values, image
        for name in _VALUES:
            segment = self._node.GetSegmentation().GetSegment(name)
            segment.AddRepresentation(BINARY_LABELMAP, image)
