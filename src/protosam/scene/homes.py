"""Where a proposal goes: into which segment of the segmentation, and when a new one is added.

Rules
-----
* A segment of the proposal's name takes it, if ProtoSAM alone has drawn in it, on this volume, and
  the user has neither accepted nor closed it. Else a segment is added: what is finished stays.
* All that one application changes is one undo state, unless something else was changed in between.
"""

from __future__ import annotations

from dataclasses import dataclass

from protosam.scene.editing import Editing, Place
from protosam.scene.finished import TERMINOLOGY_TAG
from protosam.scene.grids import Node
from protosam.scene.layers import BINARY_LABELMAP
from protosam.scene.records import PROMPTS_TAG, tag_of
from protosam.scene.review import REVIEW_TAG, review_of
from protosam.scene.selection import STATUS_TAG
from protosam.scene.sessions import Job
from protosam.wire.messages import Proposed


@dataclass(eq=False)
class Home:
    """The segment that a proposal goes into."""

    segment_id: str
    """Of the segmentation."""
    added: bool
    """Whether it was added for the proposal."""
    job: Job
    """What is awaited for it; another job in its session means that the user has gone on."""


class Homes:
    """The segments that one application of examples writes into.

    Parameters
    ----------
    editing : Editing
    place : Place
        With a writer and a segmentation.
    """

    def __init__(self, editing: Editing, place: Place) -> None:
        self._editing, self._place = editing, place
        self._node: Node = place.selection.segmentation_node
        self._begun = {one: self._state(one) for one in self.ids()}
        self._left: object = None
        self.by_name: dict[str, Home | None] = {}

    def ids(self) -> tuple[str, ...]:
        """Ids of all segments."""
        segmentation = self._node.GetSegmentation()
        return tuple(
            segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())
        )

    def of(self, name: str, job: Job) -> Home | None:
        """Home for a proposal, found or added once; None if the user goes on with it himself.

        Parameters
        ----------
        name : str
            Of the proposal.
        job : Job
            Begins to be awaited if the home is new.
        """
        if name not in self.by_name:
            self.by_name[name] = self._settled(name, job)
        home = self.by_name[name]
        if home is None or self._job_of(home) is not home.job:
            return None
        return home

    def taking(self, name: str) -> str:
        """Id of the segment that would take a proposal; empty if none is there."""
        named = [one for one in self.ids() if self._segment(one).GetName() == name]
        return next((one for one in named if self._takes(one)), "")

    def spared(self) -> tuple[str, ...]:
        """Segments that proposals leave alone: those that are neither homes nor under review."""
        homes = {home.segment_id for home in self.by_name.values() if home is not None}
        return tuple(one for one in self.ids() if one not in homes and not self._is_open(one))

    def begin_change(self) -> None:
        """Save an undo state, unless nothing but this application has changed anything since."""
        writer = self._place.writer
        if writer is not None and self._left != self._fingerprint():
            with self._editing.writing():
                writer.save_state()

    def end_change(self) -> None:
        """Remember how things were left."""
        self._left = self._fingerprint()

    def describe(self, home: Home, part: Proposed) -> None:
        """Give an added segment the colour and the code of its proposal."""
        if not home.added:
            return
        with self._editing.writing():
            segment = self._segment(home.segment_id)
            segment.SetColor(*part.colour)
            if part.terminology:
                segment.SetTag(TERMINOLOGY_TAG, part.terminology)

    def leave(self, name: str) -> None:
        """Let go of a home; one that was added and is still empty goes."""
        home = self.by_name.get(name)
        if home is None:
            return
        self.by_name[name] = None
        session = self._editing.session_of(home.segment_id)
        if session is not None and session.job is home.job:
            session.job = None
        home.job.withdraw()
        if home.added and session is not None and not session.record.revision:
            self._remove(home.segment_id)

    def _remove(self, segment_id: str) -> None:
        with self._editing.writing():
            remove_segment(self._node, self._place.editor_node, segment_id)
        self.end_change()

    def _settled(self, name: str, job: Job) -> Home | None:
        found = self.taking(name)
        if found and self._begun.get(found) != self._state(found):
            return None
        home = Home(found or self._added(name), not found, job)
        session = self._editing.session_of(home.segment_id)
        if session is None or session.job is not None:
            return None
        session.job = job
        return home

    def _added(self, name: str) -> str:
        self.begin_change()
        taken = {self._segment(one).GetName() for one in self.ids()}
        free = (f"{name} (proposal {n})" for n in range(2, 10**6))
        if name not in taken:
            own = name
        elif f"{name} (proposal)" not in taken:
            own = f"{name} (proposal)"
        else:
            own = next(one for one in free if one not in taken)
        with self._editing.writing():
            added = str(self._node.GetSegmentation().AddEmptySegment("", own))
        self.end_change()
        return added

    def _takes(self, segment_id: str) -> bool:
        segment, session = self._segment(segment_id), self._editing.session_of(segment_id)
        review = review_of(tag_of(segment, REVIEW_TAG))
        is_closed = tag_of(segment, STATUS_TAG) == "completed"
        if session is None or is_closed or (review is not None and review.accepted):
            return False
        source = self._place.selection.source
        if source is None or session.is_elsewhere(source):
            return False
        self._editing.read_loaded(session, segment_id)
        count = self._editing.layers(self._place.selection).count(segment_id)
        return session.start.sealed.is_empty and session.record.ours.count == count

    def _is_open(self, segment_id: str) -> bool:
        review = review_of(tag_of(self._segment(segment_id), REVIEW_TAG))
        return review is not None and not review.accepted

    def _job_of(self, home: Home) -> Job | None:
        session = self._editing.session_of(home.segment_id)
        return None if session is None else session.job

    def _segment(self, segment_id: str) -> Node:
        return self._node.GetSegmentation().GetSegment(segment_id)

    def _state(self, segment_id: str) -> str:
        return tag_of(self._segment(segment_id), PROMPTS_TAG)

    def _fingerprint(self) -> object:
        """Something that differs whenever voxels or prompts of any segment may have changed."""
        # VTK counts all changes of all objects with one clock, so no two images share a time.
        found = []
        for one in self.ids():
            segment = self._segment(one)
            image = segment.GetRepresentation(BINARY_LABELMAP)
            time = None if image is None else image.GetMTime()
            found.append((one, time, segment.GetLabelValue(), self._state(one)))
        return tuple(found)


def remove_segment(segmentation_node: Node, editor_node: Node, segment_id: str) -> None:
    """Take a segment out; another one is selected in its place."""
    segmentation = segmentation_node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    if editor_node.GetSelectedSegmentID() == segment_id:
        rest = [one for one in ids if one != segment_id]
        editor_node.SetSelectedSegmentID(rest[-1] if rest else "")
    segmentation.RemoveSegment(segment_id)
