"""The review of proposals in a scene: which there are, where to look, what was decided.

Rules
-----
* Everything is read from the segments' tags each time, so undo, redo and loading need no help.
* A proposal that was cleared or undone is none any more.
* Slices are counted along an axis of the volume; places to look at are RAS mm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from protosam.extents import BoolArray, Extent, FloatArray
from protosam.geometry import kji_to_ras, ras_to_kji
from protosam.prompts import PromptSet
from protosam.scene.editing import Editing, Place
from protosam.scene.examples import Examples
from protosam.scene.finished import finished_ids
from protosam.scene.grids import Node
from protosam.scene.homes import remove_segment
from protosam.scene.records import Patch, tag_of
from protosam.scene.review import (
    REVIEW_TAG,
    ExamplesStatus,
    Review,
    ReviewRow,
    StripSlice,
    checked_slices,
    own_prompts,
    review_of,
    strip_of,
    summary_of,
)
from protosam.scene.selection import BLOCKING
from protosam.scene.sessions import Job, Session, says_where
from protosam.scene.source import Source


class Reviewing:
    """The proposals of one controller.

    Parameters
    ----------
    editing : Editing
    place : Place
        Kept up to date by the controller.
    examples : Examples
        What goes on.
    """

    def __init__(self, editing: Editing, place: Place, examples: Examples) -> None:
        self._editing, self._place, self._examples = editing, place, examples
        self._seen: tuple[str, int] | None = None

    def status(self) -> ExamplesStatus:
        """Everything that a panel shows about examples."""
        selection, work = self._place.selection, self._examples.work
        node = selection.segmentation_node
        is_ready = selection.source is not None and selection.problem not in BLOCKING
        if node is None or node.GetScene() is None:
            return ExamplesStatus()
        reviewed = [one for one in self._ids() if tag_of(self._segment(one), REVIEW_TAG)]
        rows = [row for row in map(self._row, reviewed) if row is not None]
        rows.sort(key=lambda row: (row.confidence, row.name))
        chosen = next((row for row in rows if row.segment_id == selection.segment_id), None)
        phase = "" if work is None else "making" if work.homes is None else "applying"
        strip, axis = self._strip(selection.segment_id) if chosen is not None else ((), 0)
        return ExamplesStatus(
            phase=phase,  # type: ignore[arg-type]  # one of three texts
            progress=0.0 if work is None else work.progress,
            progress_text="" if work is None else work.progress_text,
            can_make=is_ready and work is None and bool(finished_ids(node)),
            can_apply=is_ready,
            rows=tuple(row for row in rows if row.decision != "accepted"),
            selected=chosen,
            strip=strip,
            axis=axis,
        )

    def accept(self, segment_id: str) -> bool:
        """Note that the user has accepted a proposal; False if there is none."""
        review = self._review(segment_id)
        if review is None:
            return False
        with self._editing.writing():
            self._segment(segment_id).SetTag(REVIEW_TAG, review.accept().to_text())
        self._editing.prompts_changed = True
        return True

    def reject(self, segment_id: str, look: Callable[[], object]) -> bool:
        """Take a proposal out, as one undo state; False if there is none.

        The user's own clicks stay, with what they give. A segment that was added goes.

        Parameters
        ----------
        segment_id : str
        look : callable
            Has the controller look at the scene again: masks are those of the selected segment.
        """
        review, writer = self._review(segment_id), self._place.writer
        if review is None or writer is None:
            return False
        self._place.editor_node.SetSelectedSegmentID(segment_id)
        look()
        session, source = self._editing.session(), self._place.selection.source
        if session is None or source is None:
            return False
        session.give_up()
        self._editing.read_loaded(session)
        with self._editing.writing():
            writer.save_state()
            self._segment(segment_id).RemoveTag(REVIEW_TAG)
        self._editing.prompts_changed = True
        kept = own_prompts(session.record.prompts)
        if says_where(kept) and not session.is_elsewhere(source):
            session.wanted = kept
            self._editing.ask(session, joins=True)
        else:
            self._take_out(segment_id, session, source, review)
        return True

    def next_place(self) -> FloatArray | None:
        """Place of the most doubtful slice of the selected segment, then of the next one.

        Returns
        -------
        (3,) float64 or None
            RAS mm, inside of the segment if it has voxels there; None if there is no proposal.
        """
        segment_id = self._place.selection.segment_id
        review, session = self._review(segment_id), self._editing.session()
        if review is None or session is None:
            return None
        order = review.places(checked_slices(session.wanted, review.axis))
        order = order or tuple(sorted(review.confidences))[:1]
        if not order:
            return None
        known = self._seen is not None and self._seen[0] == segment_id and self._seen[1] in order
        at = (order.index(self._seen[1]) + 1) % len(order) if self._seen and known else 0
        return self.place_of(order[at])

    def place_of(self, index: int) -> FloatArray | None:
        """Place in a slice of the selected segment, see `next_place`."""
        selection = self._place.selection
        review, source = self._review(selection.segment_id), selection.source
        if review is None or source is None:
            return None
        depth = source.volume.shape_kji[review.axis]
        index = min(max(int(index), 0), depth - 1)
        self._seen = (selection.segment_id, index)
        kji = self._inside(selection.segment_id, review.axis, index)
        if kji is None:
            kji = (np.asarray(source.volume.shape_kji, dtype=np.float64) - 1) / 2
        kji[review.axis] = index
        place: FloatArray = kji_to_ras(source.to_world, kji)
        return place

    def _take_out(self, segment_id: str, session: Session, source: Source, review: Review) -> None:
        """Remove what a proposal has written, and the segment if it was added for it."""
        node = self._place.selection.segmentation_node
        start = replace(session.record, barred=Patch())
        session.wanted, session.start = PromptSet(), start
        job = Job(source, start, PromptSet(), joins=True)
        self._editing.write((str(node.GetID()), segment_id), session, job, None)
        session.hint = "first_click"
        if review.added and self._editing.layers(self._place.selection).count(segment_id) == 0:
            with self._editing.writing():
                remove_segment(node, self._place.editor_node, segment_id)

    def _row(self, segment_id: str) -> ReviewRow | None:
        review, session = self._review(segment_id), self._editing.session_of(segment_id)
        if review is None or session is None:
            return None
        segment = self._segment(segment_id)
        checked = checked_slices(session.wanted, review.axis)
        confidence, doubtful = summary_of(tag_of(segment, REVIEW_TAG), checked)
        return ReviewRow(
            segment_id=segment_id,
            name=str(segment.GetName() or ""),
            decision=review.decision(session.record.revision),
            confidence=confidence,
            doubtful=doubtful,
        )

    def _strip(self, segment_id: str) -> tuple[tuple[StripSlice, ...], int]:
        text = tag_of(self._segment(segment_id), REVIEW_TAG)
        review, session = review_of(text), self._editing.session_of(segment_id)
        if review is None or session is None:
            return (), 0
        return strip_of(text, checked_slices(session.wanted, review.axis)), review.axis

    def _review(self, segment_id: str) -> Review | None:
        """Review of a segment; None if there is no proposal in it."""
        segment, session = self._segment(segment_id), self._editing.session_of(segment_id)
        if segment is None or session is None:
            return None
        if session.record.prompts.is_empty and session.record.ours.is_empty:
            return None
        return review_of(tag_of(segment, REVIEW_TAG))

    def _inside(self, segment_id: str, axis: int, index: int) -> FloatArray | None:
        """(3,) voxel of the volume in a slice of a segment, the one nearest to its middle."""
        layers, source = self._editing.layers(self._place.selection), self._place.selection.source
        box, mask = layers.whole(segment_id)
        if source is None or not mask.any():
            return None
        at_kji = _places(mask, box)
        there = ras_to_kji(source.to_world, kji_to_ras(layers.grid.to_world, at_kji))
        there = there[np.floor(there[:, axis] + 0.5) == index]
        if not len(there):
            return None
        nearest: FloatArray = there[np.abs(there - there.mean(axis=0)).sum(axis=1).argmin()]
        return nearest.copy()

    def _ids(self) -> tuple[str, ...]:
        segmentation = self._place.selection.segmentation_node.GetSegmentation()
        return tuple(
            segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())
        )

    def _segment(self, segment_id: str) -> Node:
        node = self._place.selection.segmentation_node
        if node is None or not segment_id:
            return None
        return node.GetSegmentation().GetSegment(segment_id)


def _places(mask: BoolArray, box: Extent) -> FloatArray:
    """(n, 3) float64 indices (k, j, i) of the voxels of a mask that lies at a box."""
    places: FloatArray = np.argwhere(mask).astype(np.float64) + box.start_kji
    return places
