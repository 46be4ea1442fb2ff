"""The list of segments: what it shows, and what its buttons do.

Rules
-----
* Everything is read from and written to the segmentation of the scene.
* A locked segment has Slicer's status "completed": clicks leave it alone, and while there is one,
  clicks in another segment overwrite nothing.
* Adding and deleting are steps of undo; names, colours and visibility are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import slicer

from protosam.errors import InvalidInput
from protosam.extents import BoolArray, Extent
from protosam.geometry import spacing_kji_mm
from protosam.scene import BINARY_LABELMAP, Layers, ReferenceGrid, reference_grid, tag_of
from protosam_app.stage import Node, Stage

PALETTE = (
    "#4fc3a1",
    "#f2a65a",
    "#6fa8ff",
    "#e573b5",
    "#e3d15b",
    "#9b7bff",
    "#ff7b6b",
    "#7bd4f0",
    "#a8d65c",
    "#d19a7a",
)
"""Colours that stand apart from each other and from grey images."""

STATUS_TAG = "Segmentation.Status"
SAVED_TAGS = (
    STATUS_TAG,
    "ProtoSAM.Prompts",
    "ProtoSAM.Proposal",
    "ProtoSAM.Model",
    "ProtoSAM.Digest",
    "ProtoSAM.Adapter",
    "ProtoSAM.Version",
    "DICOM.SegmentAlgorithmType",
    "DICOM.SegmentAlgorithmName",
)
"""Tags that go into files; VTK's Python has no call that lists them."""

NAME_LETTERS = 80
"""Longest name of a segment."""


@dataclass(frozen=True)
class Row:
    """One segment in the list."""

    id: str
    """Its id in the segmentation."""
    name: str
    """As the user reads it."""
    colour: str
    """#rrggbb."""
    visible: bool
    """Whether it is drawn."""
    locked: bool
    """Whether clicks leave it alone."""


class Segments:
    """The segments of the segmentation that is edited.

    Parameters
    ----------
    stage : Stage
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    @property
    def selected(self) -> str:
        """Id of the segment that clicks go into, or empty."""
        chosen = str(self._stage.editor.GetSelectedSegmentID() or "")
        return chosen if self._segment(chosen) is not None else ""

    def ids(self) -> list[str]:
        """Ids in the order of the list."""
        segmentation = self._segmentation()
        if segmentation is None:
            return []
        return [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]

    def rows(self) -> list[Row]:
        """Read what the list shows."""
        display = None if self._node is None else self._node.GetDisplayNode()
        rows = []
        for one in self.ids():
            segment = self._segment(one)
            visible = display is not None and bool(display.GetSegmentVisibility(one))
            colour = hex_of(segment.GetColor())
            rows.append(Row(one, segment.GetName(), colour, visible, _is_locked(segment)))
        return rows

    def select(self, segment_id: str) -> None:
        """Let clicks go into a segment."""
        if self._segment(segment_id) is not None:
            self._stage.editor.SetSelectedSegmentID(segment_id)
            self._protect()

    def step(self, by: int) -> None:
        """Select the next or the previous segment."""
        ids = self.ids()
        if ids:
            here = ids.index(self.selected) if self.selected in ids else 0
            self.select(ids[(here + by) % len(ids)])

    def add(self, name: str = "", *, undoable: bool = True) -> str:
        """Add an empty segment and select it; its id, or empty where there is no volume."""
        segmentation = self._segmentation()
        if segmentation is None:
            return ""
        if undoable:
            self._stage.logic.SaveStateForUndo()
        names = {row.name for row in self.rows()}
        free = (f"Segment {n}" for n in range(1, 10**6))
        name = name or next(one for one in free if one not in names)
        used = [row.colour for row in self.rows()]
        colour = min(PALETTE, key=used.count)
        added = str(segmentation.AddEmptySegment("", name, rgb_of(colour)))
        self.select(added)
        return added

    def rename(self, segment_id: str, name: str) -> None:
        """Name a segment; an empty name changes nothing."""
        segment = self._segment(segment_id)
        kept = " ".join("".join(one for one in name if one.isprintable()).split())[:NAME_LETTERS]
        if segment is not None and kept:
            segment.SetName(kept)

    def colour(self, segment_id: str, colour: str) -> None:
        """Colour a segment, #rrggbb."""
        segment = self._segment(segment_id)
        if segment is not None:
            segment.SetColor(rgb_of(colour))

    def toggle_visible(self, segment_id: str) -> None:
        """Show or hide a segment."""
        if self._segment(segment_id) is not None:
            display = self._node.GetDisplayNode()
            display.SetSegmentVisibility(segment_id, not display.GetSegmentVisibility(segment_id))

    def toggle_locked(self, segment_id: str) -> None:
        """Lock or unlock a segment."""
        segment = self._segment(segment_id)
        if segment is None:
            return
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        status = logic.InProgress if _is_locked(segment) else logic.Completed
        logic.SetSegmentStatus(segment, status)
        self._protect()

    def delete(self, segment_id: str) -> None:
        """Delete a segment that is not locked; the one before it is selected."""
        segment = self._segment(segment_id)
        if segment is None or _is_locked(segment):
            return
        ids = self.ids()
        place = ids.index(segment_id)
        self._stage.logic.SaveStateForUndo()
        self._segmentation().RemoveSegment(segment_id)
        left = self.ids()
        self._stage.editor.SetSelectedSegmentID(left[max(place - 1, 0)] if left else "")

    def keep_selected(self) -> None:
        """Select a segment again after undo has taken the selected one away."""
        ids = self.ids()
        if not self.selected:
            self._stage.editor.SetSelectedSegmentID(ids[-1] if ids else "")

    def set_keep_others(self, keep: bool) -> None:
        """Set whether clicks may take voxels from other segments."""
        self._stage.editor.SetAttribute("ProtoSAMApp.KeepOthers", "1" if keep else "0")
        self._protect()

    @property
    def keeps_others(self) -> bool:
        """Whether the user wants other segments left alone."""
        return bool(self._stage.editor.GetAttribute("ProtoSAMApp.KeepOthers") == "1")

    def grid(self) -> ReferenceGrid | None:
        """Grid that the segments are drawn on; None where there is no volume."""
        if self._node is None or self._stage.volume is None:
            return None
        return reference_grid(slicer, self._node, self._stage.volume)

    def voxels(self, segment_id: str, grid: ReferenceGrid) -> tuple[Extent, BoolArray]:
        """Read a box with all of a segment in it, and its voxels there."""
        return Layers(slicer, self._node, grid).whole(segment_id)

    def whole(self, segment_id: str, grid: ReferenceGrid) -> BoolArray:
        """(K, J, I) bool mask of a segment on the whole grid."""
        return Layers(slicer, self._node, grid).segment(segment_id, Extent.of_shape(grid.shape_kji))

    def state_of(self, segment_id: str) -> object:
        """Something that differs whenever a segment's voxels may have changed."""
        segment = self._segment(segment_id)
        image = segment.GetRepresentation(BINARY_LABELMAP)
        # VTK counts all changes of all objects with one clock, so no two images share a time.
        return None if image is None else (image.GetMTime(), segment.GetLabelValue())

    def tags(self, segment_id: str) -> Mapping[str, str]:
        """Tags of a segment that are worth saving."""
        segment = self._segment(segment_id)
        texts = {name: tag_of(segment, name) for name in SAVED_TAGS}
        return {name: text for name, text in texts.items() if text}

    def terminology(self, segment_id: str) -> str:
        """Slicer's entry for what a segment is; empty if it has none."""
        return tag_of(self._segment(segment_id), "TerminologyEntry")

    @property
    def _node(self) -> Node:
        return self._stage.segmentation

    def _segmentation(self) -> Node:
        return None if self._node is None else self._node.GetSegmentation()

    def _segment(self, segment_id: str) -> Node:
        segmentation = self._segmentation()
        return (
            None if segmentation is None or not segment_id else segmentation.GetSegment(segment_id)
        )

    def _protect(self) -> None:
        """Let clicks overwrite other segments only where none of those is locked."""
        modes = slicer.vtkMRMLSegmentEditorNode
        others = [row.locked for row in self.rows() if row.id != self.selected]
        protect = self.keeps_others or any(others)
        self._stage.editor.SetOverwriteMode(
            modes.OverwriteNone if protect else modes.OverwriteAllSegments
        )


def ml_of(count: int, grid: ReferenceGrid) -> float:
    """Volume of so many voxels."""
    k, j, i = spacing_kji_mm(grid.to_world)
    return count * k * j * i / 1000.0


def hex_of(rgb: tuple[float, float, float]) -> str:
    """Colour as #rrggbb."""
    return "#" + "".join(f"{round(min(max(part, 0.0), 1.0) * 255):02x}" for part in rgb)


def rgb_of(colour: str) -> tuple[float, float, float]:
    """Colour as three numbers from 0 to 1.

    Raises
    ------
    InvalidInput
        It is not #rrggbb.
    """
    digits = colour.removeprefix("#")
    try:
        if len(digits) != 6:
            raise ValueError
        red, green, blue = (int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4))
    except ValueError as error:
        raise InvalidInput(f"{colour!r} is no colour, wanted #rrggbb.", "Choose one.") from error
    return red, green, blue


def _is_locked(segment: Node) -> bool:
    return tag_of(segment, STATUS_TAG) == "completed"
