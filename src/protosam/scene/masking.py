"""Where the Segment Editor's masking settings allow a segment to change.

Rules
-----
* The meaning is Slicer's: `vtkMRMLSegmentationNode::GenerateEditMask` for the editable area, both
  ends inclusive for the intensity range. A test compares voxel by voxel.
* It is computed for a box only. Slicer computes it for the whole volume, which held the host up for
  0.3 to 0.6 s with 512x512x400 voxels; for the box of an organ it takes some 10 ms.
* The edited segment is the one that is written, whichever is selected by then.
* An intensity range needs the source volume on the reference grid voxel for voxel; on another grid
  Slicer interpolates, and is left to do it itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from protosam.extents import BoolArray, Extent, VoxelArray
from protosam.scene.grids import Node
from protosam.scene.layers import Layers
from protosam.scene.records import Patch


@dataclass(frozen=True, eq=False)
class Masks:
    """The masking settings for one segment."""

    mrml: Node
    """Slicer's classes."""
    editor_node: Node
    """vtkMRMLSegmentEditorNode with the settings."""
    segmentation_node: Node
    """vtkMRMLSegmentationNode."""
    segment_id: str
    """The edited segment."""
    layers: Layers
    """Of that segmentation."""
    voxels: VoxelArray | None
    """(K, J, I) source volume on the reference grid; None if it lies on another grid."""

    @property
    def are_on(self) -> bool:
        """Whether anything is masked."""
        everywhere = self.mrml.vtkMRMLSegmentationNode.EditAllowedEverywhere
        return bool(self._has_range or self.editor_node.GetMaskMode() != everywhere)

    @property
    def are_known(self) -> bool:
        """Whether `editable` can tell."""
        return self.voxels is not None or not self._has_range

    @property
    def _has_range(self) -> bool:
        return bool(self.editor_node.GetSourceVolumeIntensityMask())

    def editable(self, box: Extent, taken: Mapping[str, Patch]) -> BoolArray:
        """Where voxels may be changed.

        Parameters
        ----------
        box : Extent
            Of the reference grid.
        taken : mapping
            Voxels that other segments lost to the edited one. They count as inside of a mask
            segment that had them, so that they can be taken out again and given back.

        Returns
        -------
        (k, j, i) bool
            On the box.
        """
        inside, names = self._area()
        area = self.layers.union(names, box)
        if inside and self._is_single:
            for name in names & set(taken):
                area |= taken[name].crop(box)
        if not inside:
            area = ~area
        if self._has_range and self.voxels is not None:
            low, high = self.editor_node.GetSourceVolumeIntensityMaskRange()
            values = self.voxels[box.slices]
            area &= (values >= low) & (values <= high)
        return area

    @property
    def _is_single(self) -> bool:
        single = self.mrml.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment
        return bool(self.editor_node.GetMaskMode() == single)

    def _area(self) -> tuple[bool, set[str]]:
        """Segments that the editable area is inside or outside of."""
        modes, mode = self.mrml.vtkMRMLSegmentationNode, self.editor_node.GetMaskMode()
        if mode == modes.EditAllowedEverywhere:
            return False, set()
        if self._is_single:
            name = self.editor_node.GetMaskSegmentID()
            return True, {name} if name else set()
        names = set(self.layers.ids())
        if mode in (
            modes.EditAllowedInsideVisibleSegments,
            modes.EditAllowedOutsideVisibleSegments,
        ):
            display = self.segmentation_node.GetDisplayNode()
            names = {one for one in names if display is None or display.GetSegmentVisibility(one)}
        if mode in (modes.EditAllowedInsideAllSegments, modes.EditAllowedInsideVisibleSegments):
            return True, names
        return False, names - {self.segment_id}
