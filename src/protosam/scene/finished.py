"""Finished segments of the scene, as the worker learns from them: on the volume's own grid.

Rules
-----
* Every visible segment with voxels counts as finished, except proposals that nobody has decided on:
  an example must not learn from its own guesses.
* It looks and changes nothing.
"""

from __future__ import annotations

from protosam.scene.grids import GridMap, Node
from protosam.scene.layers import BINARY_LABELMAP, Layers
from protosam.scene.records import Patch, tag_of
from protosam.scene.review import REVIEW_TAG, review_of
from protosam.scene.source import Source
from protosam.wire.messages import TaughtSegment

TERMINOLOGY_TAG = "TerminologyEntry"
"""Slicer's tag for what a segment is."""

TERMINOLOGY_PARTS = 7
"""Fields of an entry, parted by "~"; others do not travel."""


def finished_ids(segmentation_node: Node) -> tuple[str, ...]:
    """Ids of the segments that could be learnt; some may turn out to be empty."""
    segmentation, display = segmentation_node.GetSegmentation(), segmentation_node.GetDisplayNode()
    ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    if display is not None:
        ids = [one for one in ids if display.GetSegmentVisibility(one)]
    return tuple(one for one in ids if _may_be_finished(segmentation.GetSegment(one)))


def _may_be_finished(segment: Node) -> bool:
    image = segment.GetRepresentation(BINARY_LABELMAP)
    if image is None or min(image.GetDimensions()) < 1:
        return False
    review = review_of(tag_of(segment, REVIEW_TAG))
    return review is None or review.accepted


def finished_segments(
    segmentation_node: Node, layers: Layers, source: Source
) -> tuple[TaughtSegment, ...]:
    """Segments to learn from.

    Parameters
    ----------
    segmentation_node : vtkMRMLSegmentationNode
    layers : Layers
        Of that segmentation.
    source : Source
        The volume that they were drawn on.
    """
    grid, volume = layers.grid, source.volume
    grids = GridMap(grid.to_world, grid.shape_kji, source.to_world, volume.shape_kji)
    found = []
    for one in finished_ids(segmentation_node):
        box, mask = layers.whole(one)
        drawn = Patch.of(mask, box)
        there = grids.extent(drawn.extent)
        drawn = Patch.of(grids.sample(drawn.mask(), drawn.extent, there), there)
        if not drawn.is_empty:
            segment = segmentation_node.GetSegmentation().GetSegment(one)
            found.append(_taught(segment, drawn))
    return tuple(found)


def _taught(segment: Node, drawn: Patch) -> TaughtSegment:
    terminology = tag_of(segment, TERMINOLOGY_TAG)
    if len(terminology.split("~")) != TERMINOLOGY_PARTS or "|" in terminology:
        terminology = ""
    red, green, blue = segment.GetColor()
    return TaughtSegment(
        str(segment.GetName()), terminology, (red, green, blue), drawn.extent, drawn.bits
    )
