"""From prompts to the mask in a segment: asking the worker, and writing what it answers.

Rules
-----
* Every request carries the whole list of prompts. An answer is written only while it is still the
  one that is awaited, its volume is still selected, and its segment still exists.
* One action, one undo state, one record in the segment's tag. What is shown of an answer before it
  is there is none of these, and goes with its request.
* What goes wrong becomes one message. Prompts that only lack an answer stay, so that the next click
  carries them again; prompts that were refused for what they are, go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from protosam.errors import Cancelled, InvalidInput, ProtoSAMError
from protosam.intensity import Window
from protosam.prompts import PromptSet
from protosam.scene.desk import Desk, Question, window_of
from protosam.scene.drawing import drawing, grid_map, hint_of, on_grid
from protosam.scene.grids import GridMap, Node, reference_grid
from protosam.scene.layers import Layers
from protosam.scene.masking import Masks
from protosam.scene.preview import Preview
from protosam.scene.records import PROMPTS_TAG, Origin, Patch, Record, set_tags, tag_of
from protosam.scene.selection import Selection
from protosam.scene.sessions import Job, Session, new_revision, restored, says_where
from protosam.scene.settings import Settings
from protosam.scene.status import TEXTS, Message
from protosam.scene.writing import Canvas, Writer
from protosam.wire.messages import Partial, Progress, Result
from protosam.wire.pending import Pending

Key = tuple[str, str]

_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class Place:
    """What the controller is attached to, as of its last look."""

    editor_node: Node = None
    """vtkMRMLSegmentEditorNode, or None."""
    writer: Writer | None = None
    """The host's writer."""
    selection: Selection = field(default_factory=lambda: Selection("detached"))
    """What is selected."""
    settings: Settings = field(default_factory=Settings)
    """What is set."""


class Editing:
    """The segments of one controller.

    Parameters
    ----------
    mrml : namespace
        Slicer's classes.
    desk : Desk
    place : Place
        Kept up to date by the controller.
    tell : callable
        Gets messages.
    translate : callable
        From an English sentence to the user's language.
    """

    def __init__(
        self,
        mrml: Node,
        desk: Desk,
        place: Place,
        tell: Callable[[Message], None],
        translate: Callable[[str], str],
    ) -> None:
        self._mrml, self._desk, self._place = mrml, desk, place
        self._tell, self._translate = tell, translate
        self._sessions: dict[Key, Session] = {}
        self._told: ProtoSAMError | None = None
        self.prompts_changed = False
        self.is_writing = False

    def session(self) -> Session | None:
        """Session of the selected segment, in step with its tag; None if there is no segment."""
        return self.session_of(self._place.selection.segment_id)

    def session_of(self, segment_id: str) -> Session | None:
        """Session of a segment of the selected segmentation; None if there is no such segment."""
        node = self._place.selection.segmentation_node
        segment = None
        if node is not None and segment_id:
            segment = node.GetSegmentation().GetSegment(segment_id)
        if segment is None:
            return None
        key = (str(node.GetID()), segment_id)
        if key not in self._sessions:
            self._sessions[key] = Session()
        session = self._sessions[key]
        if self.is_writing:
            return session
        try:
            changed = session.follow(tag_of(segment, PROMPTS_TAG))
        except InvalidInput as error:
            changed = True
            text = self._translate(TEXTS["bad_tag"]).format(detail=error.message)
            self._tell(Message("warning", text, error.next_step))
        self.prompts_changed |= changed
        return session

    def read_loaded(self, session: Session, segment_id: str = "") -> None:
        """Find out how much of a loaded segment is ours; not to be done from within an event.

        While an undo is going on, events come when a segment has its tags already and its voxels
        not yet. No id means the selected segment.
        """
        selection, tag = self._place.selection, session.loaded
        segment_id = segment_id or selection.segment_id
        if tag is None or selection.volume_node is None or not segment_id:
            return
        layers = self.layers(selection)
        box, mask = layers.whole(segment_id)
        session.read(restored(tag, layers.grid.digest, Patch.of(mask, box)))
        if session.record.ours.is_empty and tag.voxels != 0 and not tag.prompts.is_empty:
            session.hint = "not_ours"

    def forget(self) -> None:
        """Give up everything and forget all segments."""
        self.give_up_all()
        self._sessions.clear()

    def give_up_all(self, keep_segmentation: str = "") -> None:
        """Take back what is not answered, apart from segments of one segmentation."""
        for (node_id, _), session in self._sessions.items():
            if node_id != keep_segmentation and session.take_back():
                self.prompts_changed = True

    def awaits(self, node: Node) -> bool:
        """Whether an answer is awaited for any segment of a segmentation."""
        node_id = str(node.GetID())
        return any(key[0] == node_id and one.job is not None for key, one in self._sessions.items())

    @property
    def is_awaiting(self) -> bool:
        """Whether an answer is awaited for anything."""
        return any(one.job is not None for one in self._sessions.values())

    def ask(self, session: Session, *, joins: bool = False) -> None:
        """Have the mask follow the prompts that are wanted now; `joins` as in `Job`."""
        source, settings = self._place.selection.source, self._place.settings
        key = self._place.selection.key
        if source is None or key is None:
            return
        session.give_up()
        self.read_loaded(session)
        self.prompts_changed = True
        job = Job(source, session.start, session.wanted, settings.adapter, joins=joins)
        if not says_where(session.wanted):
            self.write(key, session, job, None)
            session.hint = "first_click" if session.wanted.is_empty else "needs_object"
            return
        if session.record.revision == "" and not session.start.alone:
            is_empty = self.layers(self._place.selection).count(key[1]) == 0
            job.start = session.start = replace(session.start, alone=is_empty)
        session.job, session.hint = job, "working"
        question = Question(
            source,
            session.wanted,
            settings,
            self.window(),
            session.target,
            session.generation,
            session.settled,
        )
        job.pending = self._desk.predict(
            question,
            on_done=lambda pending: self._answered(key, session, job, pending),
            on_progress=lambda report: self._progressed(job, report),
            on_partial=lambda partial: self._partly_answered(key, session, job, partial),
        )

    def clear(self, session: Session) -> None:
        """Take all prompts away, with what they have written."""
        source, key = self._place.selection.source, self._place.selection.key
        session.give_up()
        self.read_loaded(session)
        session.wanted, session.start = PromptSet(), session.record
        if key is not None and source is not None and session.record.revision:
            start = replace(session.record, barred=Patch())
            self.write(key, session, Job(source, start, PromptSet()), None)
        session.hint = "first_click"
        self.prompts_changed = True

    def seal(self, session: Session) -> None:
        """Keep the mask, forget the prompts."""
        key, writer = self._place.selection.key, self._place.writer
        self.read_loaded(session)
        session.take_back()
        session.seal()
        if key is not None and writer is not None and session.record.revision:
            with self.writing():
                writer.save_state()
                self._note(key, session, replace(session.start, barred=Patch()), None)
        session.hint = "sealed"
        self.prompts_changed = True

    def window(self) -> Window | None:
        """Window that the settings ask for; a wrong one is told and left to the worker."""
        try:
            return window_of(self._place.settings, self._place.selection.volume_node)
        except InvalidInput:
            self._tell(Message("warning", self._translate(TEXTS["bad_window"])))
            return None

    def _progressed(self, job: Job, report: Progress) -> None:
        job.progress, job.progress_text = report.fraction, report.text

    def follow_previews(self) -> None:
        """Keep what is shown ahead of answers in step with its segments."""
        for session in self._sessions.values():
            if session.job is not None and session.job.preview is not None:
                session.job.preview.follow()

    def _partly_answered(self, key: Key, session: Session, job: Job, partial: Partial) -> None:
        """Show some slices of an answer; the segment stays as it is."""
        if session.job is not job:
            return
        if not self.is_wanted(key, job):
            job.withdraw()
            return
        with self.writing():
            try:
                if job.preview is None:
                    job.preview = self.preview(key[1], job)
                job.preview.show(partial)
            except InvalidInput as error:
                # The answer goes on; what is wrong with the scene is told when that is written.
                _LOG.warning("No preview: %s", error)
                job.withdraw()

    def preview(self, segment_id: str, job: Job) -> Preview:
        """Make a drawing for the answer of a job."""
        layers = self.layers(self._place.selection)
        grids = grid_map(job.source, layers.grid)
        masks = self._masks(segment_id, job, layers, grids)
        start = on_grid(job.start, layers.grid)
        return Preview(masks, grids, job.source.volume.shape_kji, start)

    def _answered(self, key: Key, session: Session, job: Job, pending: Pending[Result]) -> None:
        if session.job is not job:
            return  # a newer request, an undo or a cancel has made it stale
        session.job = None
        job.withdraw()
        self.prompts_changed = True
        if pending.error is not None:
            self._failed(session, pending.error)
            return
        if not self.is_wanted(key, job):
            session.take_back()
            return
        self.write(key, session, job, pending.result())

    def _failed(self, session: Session, error: ProtoSAMError) -> None:
        session.hint = "failed"
        if isinstance(error, Cancelled):
            return
        if isinstance(error, InvalidInput):
            session.take_back()
        if error is self._told:
            return  # the death of a worker fails every request with the same error
        self._told = error
        first, _, details = error.message.partition("\n")
        text = first.removesuffix(" Its last lines were:")
        self._tell(Message("error", text, error.next_step, details.strip()))

    def is_wanted(self, key: Key, job: Job) -> bool:
        """Whether volume, segmentation and segment of a job are still there and selected."""
        selection = self._place.selection
        node = selection.segmentation_node
        if self._place.writer is None or selection.source is None or node is None:
            return False
        same_volume = selection.source.volume.uid == job.source.volume.uid
        same_node = node.GetID() == key[0] and node.GetScene() is not None
        return same_volume and same_node and node.GetSegmentation().GetSegment(key[1]) is not None

    def write(self, key: Key, session: Session, job: Job, result: Result | None) -> None:
        """Bring an answer into a segment; None = an empty one that needs no worker."""
        node = self._place.selection.segmentation_node
        if node is None:
            return
        was_modifying = node.StartModify()
        try:
            self._write_into(key, session, job, result)
        except InvalidInput as error:
            self._failed(session, error)
        finally:
            node.EndModify(was_modifying)

    def _write_into(self, key: Key, session: Session, job: Job, result: Result | None) -> None:
        writer = self._place.writer
        if writer is None:
            return
        with self.writing():
            layers = self.layers(self._place.selection)
            grids = grid_map(job.source, layers.grid)
            canvas = Canvas(self._masks(key[1], job, layers, grids), writer)
            if not canvas.is_safe:
                self._not_written(session)
                return
            start = on_grid(job.start, layers.grid)
            drawn, stays = drawing(job, start, grids, result)
            if job.spared and not drawn.is_empty:
                free = drawn.mask() & ~layers.union(job.spared, drawn.extent)
                drawn = Patch.of(free, drawn.extent)
            if not job.joins:
                writer.save_state()
            if start.alone and start.ours.is_empty and not start.prompts.ids:
                layers.part(key[1])
            record = replace(
                canvas.draw(start, drawn, stays),
                prompts=job.prompts,
                source_grid=job.source.grid,
                reference_grid=layers.grid.digest,
            )
            self._note(key, session, record, result, job.adapter)
            session.hint = hint_of(record, drawn)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Take no notice of the scene: what it says now is half written."""
        before, self.is_writing = self.is_writing, True
        try:
            yield
        finally:
            self.is_writing = before

    def _not_written(self, session: Session) -> None:
        session.hint = "failed"
        text, step = (self._translate(TEXTS[key]) for key in ("not_selected", "select_again"))
        self._tell(Message("warning", text, step))

    def _masks(self, segment_id: str, job: Job, layers: Layers, grids: GridMap) -> Masks:
        voxels = job.source.volume.voxels if grids.is_identity else None
        editor_node, node = self._place.editor_node, self._place.selection.segmentation_node
        return Masks(self._mrml, editor_node, node, segment_id, layers, voxels)

    def _note(
        self,
        key: Key,
        session: Session,
        record: Record,
        result: Result | None,
        adapter: str = "",
    ) -> None:
        """Write a record's tags."""
        segment = self._place.selection.segmentation_node.GetSegmentation().GetSegment(key[1])
        record = replace(record, revision=new_revision())
        origin = None if result is None else Origin(result.model, result.digest, adapter)
        set_tags(segment, record, origin)
        session.written(record, tag_of(segment, PROMPTS_TAG))
        session.last = result

    def layers(self, selection: Selection) -> Layers:
        """Label maps of what is selected; there must be a segmentation and a volume."""
        node = selection.segmentation_node
        return Layers(self._mrml, node, reference_grid(self._mrml, node, selection.volume_node))
