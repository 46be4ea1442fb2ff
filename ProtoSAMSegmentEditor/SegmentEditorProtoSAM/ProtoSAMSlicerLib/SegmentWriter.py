"""How answers get into a segment here: through the effect's own modifier, on every Slicer.

Rules
-----
* `modifySegmentByLabelmap` of the effect obeys editable area, intensity range and overwrite mode;
  it is there in Slicer 5.8 as in later ones, where the logic class is what it calls.
* Masks are worked out for the selected segment. An answer for another one is written with that one
  selected for the moment, and no widget hears of it.
* Undo and redo are the editor's own buttons and keys.
"""

from __future__ import annotations

import slicer

from ProtoSAMSlicerLib import Core
from ProtoSAMSlicerLib.Translation import tr as _


class SegmentWriter:
    """Writer of the scene package on a Segment Editor effect.

    Parameters
    ----------
    scriptedEffect : qSlicerSegmentEditorScriptedEffect
        The effect.
    core : Core.Core
        For its errors.
    """

    def __init__(self, scriptedEffect, core: Core.Core) -> None:
        self._effect = scriptedEffect
        self._errors = core.errors
        self._added = ""

    def save_state(self) -> None:
        """Keep the segmentation for undo; an added segment and its first answer are one step."""
        added, self._added = self._added, ""
        if not added:
            self._effect.saveStateForUndo()

    def addSegment(self) -> str:
        """Add an empty segment, selected, and return its id."""
        node = self._effect.parameterSetNode()
        self._effect.saveStateForUndo()
        added = node.GetSegmentationNode().GetSegmentation().AddEmptySegment()
        node.SetSelectedSegmentID(added)
        self._added = added
        return added

    def forgetAdded(self) -> None:
        """Something else may have changed the segmentation: the next answer is its own step."""
        self._added = ""

    def add(self, segmentation_node, segment_id: str, labelmap, _extent: list[int]) -> None:
        """Add voxels, masks on. The labelmap is cropped, so its extent is all there is."""
        mode = slicer.qSlicerSegmentEditorAbstractEffect.ModificationModeAdd
        self._modify(segmentation_node, segment_id, labelmap, mode)

    def remove(self, segmentation_node, segment_id: str, labelmap, _extent: list[int]) -> None:
        """Remove voxels, masks on."""
        mode = slicer.qSlicerSegmentEditorAbstractEffect.ModificationModeRemove
        self._modify(segmentation_node, segment_id, labelmap, mode)

    def undo(self) -> bool:
        """Nothing: the editor's own button does it."""
        return False

    def redo(self) -> bool:
        """Nothing: the editor's own button does it."""
        return False

    def _modify(self, segmentation_node, segment_id: str, labelmap, mode: int) -> None:
        node = self._effect.parameterSetNode()
        if node is None or node.GetSegmentationNode() is not segmentation_node:
            raise self._errors.InvalidInput(
                _("The answer belongs to another segmentation than the one in the Segment Editor."),
                _("Choose that segmentation and press Update."),
            )
        selected = node.GetSelectedSegmentID()
        if selected == segment_id:
            self._effect.modifySelectedSegmentByLabelmap(labelmap, mode)
            return
        blocked = node.GetDisableModifiedEvent()
        node.SetDisableModifiedEvent(1)
        try:
            node.SetSelectedSegmentID(segment_id)
            self._effect.modifySegmentByLabelmap(segmentation_node, segment_id, labelmap, mode)
        finally:
            node.SetSelectedSegmentID(selected)
            node.SetDisableModifiedEvent(blocked)
