"""What is selected in the Segment Editor, and whether it can be clicked in.

Rules
-----
* It looks and changes nothing. What is missing or cannot be used comes back as the key of a hint,
  never as an exception.
* A segment of the status "completed" counts as locked by the user.
"""

from __future__ import annotations

from dataclasses import dataclass

from protosam.errors import InvalidInput
from protosam.scene.grids import Node, parent_to_world
from protosam.scene.layers import BINARY_LABELMAP
from protosam.scene.records import tag_of
from protosam.scene.source import Source, Sources

STATUS_TAG = "Segmentation.Status"

BLOCKING = ("detached", "no_volume", "bad_volume", "no_segmentation", "bad_segmentation")
"""Problems of the volume or the segmentation, and not only of the selected segment."""
"""Slicer's tag with the state of a segment."""


@dataclass(frozen=True, eq=False)
class Selection:
    """One look at the segment editor node."""

    problem: str = ""
    """Key of a hint if nothing can be clicked; empty = all is there."""
    detail: str = ""
    """What the hint says beyond its text."""
    volume_node: Node = None
    """vtkMRMLScalarVolumeNode, or None."""
    source: Source | None = None
    """It as a volume, or None if there is none that can be used."""
    segmentation_node: Node = None
    """vtkMRMLSegmentationNode, or None."""
    segment_id: str = ""
    """Selected segment; empty = none."""

    @property
    def key(self) -> tuple[str, str] | None:
        """Segmentation's node id and segment id, if a segment is selected."""
        if self.segmentation_node is None or not self.segment_id:
            return None
        return str(self.segmentation_node.GetID()), self.segment_id

    @property
    def segment(self) -> Node:
        """vtkSegment, or None."""
        if self.key is None:
            return None
        return self.segmentation_node.GetSegmentation().GetSegment(self.segment_id)


def look(editor_node: Node, sources: Sources) -> Selection:
    """Look at a segment editor node.

    Parameters
    ----------
    editor_node : vtkMRMLSegmentEditorNode or None
    sources : Sources
        Reads the volume, or knows it.
    """
    if editor_node is None or editor_node.GetScene() is None:
        return Selection("detached")
    volume_node, source, problem, detail = editor_node.GetSourceVolumeNode(), None, "", ""
    if volume_node is None:
        problem = "no_volume"
    else:
        try:
            source = sources.of(volume_node)
        except InvalidInput as error:
            problem, detail = "bad_volume", str(error)
    segmentation_node = editor_node.GetSegmentationNode()
    segment_id = editor_node.GetSelectedSegmentID() or ""
    if not problem:
        problem, detail = _segment_problem(segmentation_node, segment_id)
    if segmentation_node is not None and problem in ("no_segment", "bad_segmentation"):
        segment_id = ""
    return Selection(problem, detail, volume_node, source, segmentation_node, segment_id)


def _segment_problem(node: Node, segment_id: str) -> tuple[str, str]:
    if node is None or node.GetSegmentation() is None:
        return "no_segmentation", ""
    try:
        parent_to_world(node, "segmentation")
    except InvalidInput as error:
        return "bad_segmentation", str(error)
    segmentation = node.GetSegmentation()
    if segmentation.GetSourceRepresentationName() != BINARY_LABELMAP:
        return "bad_segmentation", (
            "The segmentation is not made of label maps: convert its source representation to "
            "binary label map in the Segmentations module."
        )
    segment = segmentation.GetSegment(segment_id) if segment_id else None
    if segment is None:
        return "no_segment", ""
    if not _is_visible(node.GetDisplayNode(), segment_id):
        return "hidden", ""
    return "completed" if tag_of(segment, STATUS_TAG) == "completed" else "", ""


def _is_visible(display: Node, segment_id: str) -> bool:
    if display is None:
        return True
    return bool(display.GetVisibility() and display.GetSegmentVisibility(segment_id))
