"""One result in the Segment Editor: its two nodes, and what was made of them.

Rules
-----
* At most one result is loaded; the next one takes its place, after the user agreed if there is
  something to lose.
* Nodes are known by their ids: the user may remove them at any time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer

LABELMAP = "Binary labelmap"
"""Slicer's name of the representation that is drawn in."""


class ReviewedResult:
    """What is loaded for review."""

    def __init__(self) -> None:
        self._ids: tuple[str, ...] = ()
        self._stamps: dict[str, int] = {}
        self.key = ""

    def load(self, key: str, name: str, image: Path, segmentation: Path) -> None:
        """Show a result in the Segment Editor."""
        self.remove()
        volume = slicer.util.loadVolume(str(image), {"name": name})
        found = slicer.util.loadSegmentation(str(segmentation), {"name": name})
        found.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        self._ids, self.key = (volume.GetID(), found.GetID()), key
        slicer.util.selectModule("SegmentEditor")
        editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        editor.setSegmentationNode(found)
        # Called setMasterVolumeNode before Slicer 5.2.
        setter = getattr(editor, "setSourceVolumeNode", None) or editor.setMasterVolumeNode
        setter(volume)
        self._stamps = _stamps(found)

    def save(self, path: Path) -> bool:
        """Write the segmentation as it stands; False if there is none any more."""
        node = self._segmentation()
        saved = node is not None and bool(slicer.util.saveNode(node, str(path)))
        if saved:
            self._stamps = _stamps(node)
        return saved

    def remove(self) -> None:
        """Take the result out of the scene."""
        for one in self._ids:
            node = slicer.mrmlScene.GetNodeByID(one)
            if node is not None:
                slicer.mrmlScene.RemoveNode(node)
        self._ids, self.key = (), ""

    @property
    def is_changed(self) -> bool:
        """Whether the user has drawn in it since it was loaded or saved."""
        node = self._segmentation()
        return node is not None and _stamps(node) != self._stamps

    def _segmentation(self) -> Any:
        return slicer.mrmlScene.GetNodeByID(self._ids[1]) if self._ids else None


def _stamps(node: Any) -> dict[str, int]:
    """Return when each segment's voxels were changed last; surfaces made from them do not count."""
    segmentation = node.GetSegmentation()
    found = {}
    for number in range(segmentation.GetNumberOfSegments()):
        voxels = segmentation.GetNthSegment(number).GetRepresentation(LABELMAP)
        stamp = 0 if voxels is None else int(voxels.GetMTime())
        found[segmentation.GetNthSegmentID(number)] = stamp
    return found
