"""Answers into segments, by the Segment Editor's own rules.

Rules
-----
* Editable area, intensity range and overwrite mode are obeyed voxel for voxel as Slicer's
  ModifySegmentByLabelmap does. Where `masking` can tell the editable voxels, the write is cut to
  them and done by the function that ModifySegmentByLabelmap ends in; before that, it works on whole
  label maps, and took 0.1 to 0.6 s with 512x512x400 voxels. Elsewhere the host's `Writer` calls it.
* An answer replaces what ProtoSAM has put into the segment before, never what is there by another
  hand. Only differences are written, as crops by extent: "Remove" for what is no longer wanted,
  "Add" for what is new. ("Set" clears the whole segment first and takes ten times as long.)
* What actually changed is read back, because masks may have kept something out.
* What an answer took from other segments is remembered. When a later one no longer wants it, its
  owner gets it back, as far as the overwrite mode allows that owner to be changed now.
* One undo state is saved before the first change of an action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from protosam.extents import BoolArray, Extent, bounding_extent
from protosam.scene.grids import Node, moved
from protosam.scene.masking import Masks
from protosam.scene.records import Patch, Record

DIRECT_ARGUMENT = "segmentIdsToOverwrite"
"""Argument of SetBinaryLabelmapToSegment that must be there for writing without the host."""


class Writer(Protocol):
    """How a host changes a segment and keeps its undo states."""

    def save_state(self) -> None:
        """Keep the segmentation as it is for undo."""

    def add(
        self, segmentation_node: Node, segment_id: str, labelmap: Node, extent: list[int]
    ) -> None:
        """ModifySegmentByLabelmap in mode Add, masks on.

        Parameters
        ----------
        segmentation_node : vtkMRMLSegmentationNode
        segment_id : str
        labelmap : vtkOrientedImageData
            uint8, 0 or 1, on the reference grid, cropped.
        extent : six ints
            Bounds of the crop as VTK counts them.
        """

    def remove(
        self, segmentation_node: Node, segment_id: str, labelmap: Node, extent: list[int]
    ) -> None:
        """ModifySegmentByLabelmap in mode Remove, masks on; parameters as for `add`."""

    def undo(self) -> bool:
        """Go back one state; False if the host's own buttons do that, or there is none."""

    def redo(self) -> bool:
        """Go forward one state; False as for `undo`."""


class LogicWriter:
    """Writer on a vtkSlicerSegmentEditorLogic (Slicer 5.10 and later, and slicer-core)."""

    def __init__(self, logic: Node) -> None:
        self._logic = logic

    def save_state(self) -> None:
        """Keep the segmentation as it is for undo."""
        self._logic.SaveStateForUndo()

    def add(
        self, segmentation_node: Node, segment_id: str, labelmap: Node, extent: list[int]
    ) -> None:
        """Add voxels, see `Writer.add`."""
        mode = self._logic.ModificationModeAdd
        self._logic.ModifySegmentByLabelmap(
            segmentation_node, segment_id, labelmap, mode, extent, True, False
        )

    def remove(
        self, segmentation_node: Node, segment_id: str, labelmap: Node, extent: list[int]
    ) -> None:
        """Remove voxels, see `Writer.remove`."""
        mode = self._logic.ModificationModeRemove
        self._logic.ModifySegmentByLabelmap(
            segmentation_node, segment_id, labelmap, mode, extent, True, False
        )

    def undo(self) -> bool:
        """Go back one state, if there is one."""
        can = bool(self._logic.CanUndo())
        if can:
            self._logic.Undo()
        return can

    def redo(self) -> bool:
        """Go forward one state, if there is one."""
        can = bool(self._logic.CanRedo())
        if can:
            self._logic.Redo()
        return can


class Canvas:
    """One segment that answers are written into.

    Parameters
    ----------
    masks : Masks
        Say which segment it is, and where it may be changed.
    writer : Writer
        The host's.
    """

    def __init__(self, masks: Masks, writer: Writer) -> None:
        self._masks, self._writer = masks, writer
        self._mrml, self._editor = masks.mrml, masks.editor_node
        self._node, self._segment_id = masks.segmentation_node, masks.segment_id
        self._layers = masks.layers
        self._logic = masks.mrml.vtkSlicerSegmentationsModuleLogic
        # A class of C++ whose lists are not wrapped for Python would refuse the call.
        is_wrapped = DIRECT_ARGUMENT in (self._logic.SetBinaryLabelmapToSegment.__doc__ or "")
        self._masks_itself = masks.are_known and is_wrapped

    @property
    def is_safe(self) -> bool:
        """Whether the masks will be those of this segment; Slicer's are the selected one's."""
        is_selected = self._editor.GetSelectedSegmentID() == self._segment_id
        return bool(is_selected or self._masks_itself or not self._masks.are_on)

    def draw(self, record: Record, drawn: Patch, stays: Patch) -> Record:
        """Replace our part of the segment; the undo state must have been saved.

        Parameters
        ----------
        record : Record
            What was known of the segment.
        drawn : Patch
            The answer.
        stays : Patch
            Our earlier part that this answer does not speak about.

        Returns
        -------
        Record
            With new `ours`, `barred` and `taken`.
        """
        box = record.ours.extent.union(drawn.extent).union(stays.extent)
        box = box.clip(self._layers.grid.shape_kji)
        if box.is_empty:
            return record
        ours, now = record.ours.crop(box), self._layers.segment(self._segment_id, box)
        barred = record.barred.crop(box) | (ours & ~now)
        wanted = (drawn.crop(box) | stays.crop(box)) & ~barred
        taken = {name: patch for name, patch in record.taken.items() if self._exists(name)}
        drop, add = ours & now & ~wanted, wanted & ~now
        if drop.any():
            taken = self._remove(box, drop, taken)
        if add.any():
            taken = self._add(box, add, taken)
        after = self._layers.segment(self._segment_id, box)
        self._begun()
        return replace(
            record,
            ours=Patch.of(((ours & now) | add) & after, box),
            barred=Patch.of(barred, box),
            taken=taken,
        )

    def _remove(self, box: Extent, drop: BoolArray, taken: Mapping[str, Patch]) -> dict[str, Patch]:
        """Take voxels out and give them back to those who had them; return what is still owed."""
        small, tight = self._editable(drop, box, taken)
        if tight is None:
            return dict(taken)
        if self._masks_itself:
            self._merge(self._segment_id, tight, ~small, self._logic.MODE_MERGE_MIN)
        else:
            self._writer.remove(self._node, self._segment_id, *self._labelmap(tight, small))
        gone = small & ~self._layers.segment(self._segment_id, tight)
        return self._give_back(tight, gone, taken)

    def _add(self, box: Extent, add: BoolArray, taken: Mapping[str, Patch]) -> dict[str, Patch]:
        """Put voxels in; return what is owed to other segments now."""
        small, tight = self._editable(add, box, {})
        if tight is None:
            return dict(taken)
        before = self._layers.others(self._segment_id, tight, small)
        if self._masks_itself:
            losers = [name for name in before if self._may_change(name)]
            self._merge(self._segment_id, tight, small, self._logic.MODE_MERGE_MASK, losers)
            for name in losers:
                # Asked afterwards: beside protected segments, ours has moved to its own label map.
                if not self._layers.shared(name, self._segment_id):
                    self._merge(name, tight, ~before[name], self._logic.MODE_MERGE_MIN)
        else:
            self._writer.add(self._node, self._segment_id, *self._labelmap(tight, small))
        owed = dict(taken)
        for name, had in before.items():
            lost = had & ~self._layers.segment(name, tight)
            if lost.any():
                owed[name] = _merged(owed.get(name, Patch()), Patch.of(lost, tight))
        return owed

    def _merge(
        self, segment_id: str, box: Extent, mask: BoolArray, mode: int, losers: Sequence[str] = ()
    ) -> None:
        """Change one segment as ModifySegmentByLabelmap does in the end.

        Parameters
        ----------
        segment_id : str
        box : Extent
        mask : (k, j, i) bool
            What to add, or, for MODE_MERGE_MIN, what may stay.
        mode : int
            MODE_MERGE_MASK or MODE_MERGE_MIN.
        losers : sequence of str
            Segments of the same label map that lose these voxels; others are never overwritten.
        """
        labelmap, extent = self._labelmap(box, mask)
        self._logic.SetBinaryLabelmapToSegment(
            labelmap, self._node, segment_id, mode, extent, False, list(losers)
        )

    def _labelmap(self, box: Extent, mask: BoolArray) -> tuple[Node, list[int]]:
        """Slicer's image of a mask, and its bounds."""
        return self._layers.labelmap(box, mask), self._layers.grid.vtk_extent(box)

    def _editable(
        self, mask: BoolArray, box: Extent, taken: Mapping[str, Patch]
    ) -> tuple[BoolArray, Extent | None]:
        """Part of a mask that may be changed, cut to its bounding box."""
        small, tight = _tight(mask, box)
        if tight is None or not (self._masks.are_on and self._masks.are_known):
            return small, tight
        small = small & self._masks.editable(tight, taken)
        return small, tight if small.any() else None

    def _give_back(
        self, box: Extent, gone: BoolArray, taken: Mapping[str, Patch]
    ) -> dict[str, Patch]:
        """Restore to other segments what they lost where we are gone."""
        back = {name: patch.crop(box) & gone for name, patch in taken.items()}
        back = {name: mask for name, mask in back.items() if mask.any()}
        back = {name: mask for name, mask in back.items() if self._may_change(name)}
        if not back:
            return dict(taken)
        everybody = np.logical_or.reduce(list(back.values()))
        for mask in self._layers.others(self._segment_id, box, everybody).values():
            everybody &= ~mask  # somebody else has it now, by another hand
        owed = dict(taken)
        for name, mask in back.items():
            small, tight = _tight(mask & everybody, box)
            if tight is not None:
                self._merge(name, tight, small, self._logic.MODE_MERGE_MASK)
            owed[name] = _without(owed[name], mask, box)
        return owed

    def _begun(self) -> None:
        """Mark the segment as in progress, as every edit in the Segment Editor does."""
        segment = self._node.GetSegmentation().GetSegment(self._segment_id)
        if self._logic.GetSegmentStatus(segment) == self._logic.NotStarted:
            self._logic.SetSegmentStatus(segment, self._logic.InProgress)

    def _may_change(self, segment_id: str) -> bool:
        """Whether the overwrite mode lets another segment be changed."""
        modes = self._mrml.vtkMRMLSegmentEditorNode
        mode = self._editor.GetOverwriteMode()
        if mode == modes.OverwriteNone:
            return False
        display = self._node.GetDisplayNode()
        if mode == modes.OverwriteVisibleSegments and display is not None:
            return bool(display.GetSegmentVisibility(segment_id))
        return True

    def _exists(self, segment_id: str) -> bool:
        return self._node.GetSegmentation().GetSegment(segment_id) is not None


def _tight(mask: BoolArray, box: Extent) -> tuple[BoolArray, Extent | None]:
    """Cut a mask to its bounding box; return that, and where it lies (None = it is empty)."""
    tight = bounding_extent(mask)
    if tight is None:
        return mask, None
    return mask[tight.slices], moved(tight, box.start_kji)


def _merged(one: Patch, other: Patch) -> Patch:
    box = one.extent.union(other.extent)
    return Patch.of(one.crop(box) | other.crop(box), box)


def _without(patch: Patch, mask: BoolArray, box: Extent) -> Patch:
    left = patch.mask()
    both = Patch.of(mask, box).crop(patch.extent)
    return Patch.of(left & ~both, patch.extent)
