"""Examples at work in a scene: what is learnt, what is proposed, and what becomes of proposals.

Rules
-----
* Contents of example files come from the host and go to the host; they are not looked into.
* A proposal is written as an answer is: through the masking rules, with undo, with its prompts on
  the segment, so that the next click corrects it. It gives way to finished segments.
* A click that the user makes meanwhile is answered first, and a segment that the user goes on with
  himself gets no proposal.
* What a user has decided stands on the segments, see `review`; nothing of it is kept here.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from protosam.errors import Cancelled, InvalidInput, ProtoSAMError
from protosam.prompts import PromptSet
from protosam.scene.desk import Desk, ExampleWish
from protosam.scene.editing import Editing, Place
from protosam.scene.finished import finished_segments
from protosam.scene.homes import Home, Homes
from protosam.scene.review import REVIEW_TAG, Review, own_prompts
from protosam.scene.selection import BLOCKING, Selection
from protosam.scene.sessions import Job, Session
from protosam.scene.source import Source
from protosam.scene.status import HINTS, TEXTS, Message
from protosam.wire.messages import (
    ExampleApplied,
    ExampleMade,
    Partial,
    Progress,
    Proposed,
    ProposedSlices,
    Result,
    SegmentClicks,
)
from protosam.wire.pending import Pending

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class MadeExample:
    """An example that was made."""

    content: bytes
    """Of a `.psexample` file."""
    names: tuple[str, ...]
    """Segments in it."""


@dataclass(eq=False)
class Work:
    """One request about examples that is out."""

    source: Source
    """The volume."""
    node_id: str
    """Id of the segmentation node."""
    homes: Homes | None = None
    """Where proposals go; None while an example is made."""
    pending: Pending[ExampleApplied] | Pending[ExampleMade] | None = None
    """The request itself."""
    progress: float = 0.0
    """0 to 1."""
    progress_text: str = ""
    """What is being done."""
    notes: tuple[str, ...] = ()
    """Sentences that came with proposals."""
    written: tuple[str, ...] = ()
    """Names of the segments that are proposed."""


class Examples:
    """One controller's business with examples.

    Parameters
    ----------
    editing : Editing
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
        editing: Editing,
        desk: Desk,
        place: Place,
        tell: Callable[[Message], None],
        translate: Callable[[str], str],
    ) -> None:
        self._editing, self._desk, self._place = editing, desk, place
        self._tell, self._translate = tell, translate
        self._target, self._generation = uuid.uuid4().hex, 0
        self.work: Work | None = None

    def make(self, on_made: Callable[[MadeExample], object]) -> bool:
        """Have the finished segments learnt; False if there is none."""
        self.cancel()
        selection, settings = self._place.selection, self._place.settings
        source, node = selection.source, selection.segmentation_node
        if source is None or node is None or self._is_blocked(selection):
            return False
        try:
            segments = finished_segments(node, self._editing.layers(selection), source)
        except InvalidInput as error:
            self._tell(Message("error", error.message, error.next_step))
            return False
        if not segments:
            text, step = (
                self._translate(TEXTS[one]) for one in ("nothing_finished", "finish_first")
            )
            self._tell(Message("warning", text, step))
            return False
        work = self.work = Work(source, str(node.GetID()))
        work.pending = self._desk.make_example(
            source,
            segments,
            settings,
            lambda pending: self._made(work, pending, on_made),
            lambda report: self._progressed(work, report),
        )
        return True

    def apply(self, contents: Sequence[bytes]) -> bool:
        """Have the segments of examples proposed in the volume; False if that cannot be asked."""
        self.cancel()
        selection, settings = self._place.selection, self._place.settings
        source, node = selection.source, selection.segmentation_node
        if source is None or node is None or self._is_blocked(selection):
            return False
        homes = Homes(self._editing, self._place)
        self._generation += 1
        work = Work(source, str(node.GetID()), homes)
        try:
            wish = ExampleWish(
                source,
                tuple(contents),
                self._clicks(homes, source),
                settings,
                self._target,
                self._generation,
            )
            work.pending = self._desk.apply_examples(
                wish,
                lambda pending: self._applied(work, pending),
                lambda report: self._progressed(work, report),
                lambda part: self._proposed(work, part),
            )
        except InvalidInput as error:
            self._tell(Message("error", error.message, error.next_step))
            return False
        self.work = work
        return True

    def cancel(self) -> bool:
        """Give up what runs; proposals that were made stay. Return whether something ran."""
        work, self.work = self.work, None
        if work is None:
            return False
        if work.pending is not None:
            work.pending.cancel()
        self._clear_away(work)
        return True

    def follow(self) -> None:
        """Give up what runs for a volume or segmentation that is not selected any more."""
        if self.work is not None and not self._is_wanted(self.work):
            self.cancel()

    def _is_blocked(self, selection: Selection) -> bool:
        """Whether nothing can be read from or written to what is selected; says so."""
        if selection.problem not in BLOCKING:
            return self._place.writer is None
        text = self._translate(HINTS[selection.problem]).format(detail=selection.detail)
        self._tell(Message("warning", text))
        return True

    def _clicks(self, homes: Homes, source: Source) -> tuple[SegmentClicks, ...]:
        """Clicks of the user in segments that would take a proposal."""
        names = {self._name(one): one for one in reversed(homes.ids())}
        found = []
        for name in names:
            session = self._editing.session_of(homes.taking(name))
            if session is None or session.is_elsewhere(source):
                continue
            own = own_prompts(session.wanted)
            if not own.is_empty:
                found.append(SegmentClicks(name, replace(own, scope="volume", axis=None)))
        return tuple(found)

    def _progressed(self, work: Work, report: Progress) -> None:
        work.progress, work.progress_text = report.fraction, report.text
        for home in [] if work.homes is None else work.homes.by_name.values():
            if home is not None:
                home.job.progress, home.job.progress_text = report.fraction, report.text

    def _made(
        self,
        work: Work,
        pending: Pending[ExampleMade],
        on_made: Callable[[MadeExample], object],
    ) -> None:
        if self.work is not work:
            return
        self.work = None
        if pending.error is not None:
            self._failed(pending.error)
            return
        made = pending.result()
        on_made(MadeExample(made.example, made.names))

    def _applied(self, work: Work, pending: Pending[ExampleApplied]) -> None:
        if self.work is not work:
            return
        self.work = None
        self._clear_away(work)
        if pending.error is not None:
            self._failed(pending.error)
            return
        if work.written:
            text = self._translate(TEXTS["proposed"]).format(names=", ".join(work.written))
            self._tell(Message("info", text, self._translate(TEXTS["review_next"])))
        if work.notes:
            self._tell(Message("warning", " ".join(dict.fromkeys(work.notes))))

    def _proposed(self, work: Work, part: ProposedSlices | Proposed) -> None:
        if self.work is not work or work.homes is None:
            return
        if not self._is_wanted(work):
            self.cancel()
            return
        if isinstance(part, Proposed):
            notes = tuple(f"{part.name}: {note}" for note in part.notes)
            work.notes = (*work.notes, *notes)
        try:
            if isinstance(part, ProposedSlices):
                self._show(work, work.homes, part)
            elif part.extent is None:
                work.homes.leave(part.name)
            else:
                self._write(work, work.homes, part)
        except InvalidInput as error:
            # Without a grid to write on there is nothing to show either.
            _LOG.warning("No proposal for a segment: %s", error)
            work.homes.leave(part.name)
            work.notes = (*work.notes, str(error))
        self._editing.prompts_changed = True

    def _show(self, work: Work, homes: Homes, part: ProposedSlices) -> None:
        """Draw slices of a proposal that is on its way."""
        home = homes.of(part.name, self._job(work))
        if home is None:
            return
        if home.job.preview is None:
            home.job.preview = self._editing.preview(home.segment_id, home.job)
        with self._editing.writing():
            home.job.preview.show(Partial(part.axis, part.slices, part.extent, part.bits))

    def _write(self, work: Work, homes: Homes, part: Proposed) -> None:
        """Write a proposal into its segment."""
        home = homes.of(part.name, self._job(work))
        session = None if home is None else self._editing.session_of(home.segment_id)
        if home is None or session is None:
            text = self._translate(TEXTS["gone_on"]).format(name=part.name)
            work.notes = (*work.notes, text)
            return
        session.job = None
        home.job.withdraw()
        before = session.record.revision
        self._editing.read_loaded(session, home.segment_id)
        homes.begin_change()
        homes.describe(home, part)
        job = self._ready(session, home, part)
        job.spared = self._spared(homes)
        result = _result(part, work, self._target, self._generation)
        self._editing.write((work.node_id, home.segment_id), session, job, result)
        if session.record.revision != before:
            self._note(session, home, part)
            work.written = (*work.written, self._name(home.segment_id))
        homes.end_change()
        if home.added and session.record.revision == before:
            homes.leave(part.name)

    def _ready(self, session: Session, home: Home, part: Proposed) -> Job:
        """Take the prompts of a proposal over, so that clicks go on from them."""
        prompts = part.prompts
        if prompts.scope == "volume":
            prompts = replace(prompts, axis=None)  # as a list that was clicked has it
        start = session.record
        if not start.revision:
            count = self._editing.layers(self._place.selection).count(home.segment_id)
            start = replace(start, alone=count == 0)
        session.wanted, session.start, session.grid = prompts, start, home.job.source.grid
        return Job(home.job.source, start, prompts, home.job.adapter, joins=True)

    def _note(self, session: Session, home: Home, part: Proposed) -> None:
        """Put the review on the segment, and select it if nothing else is being worked on."""
        review = Review(part.axis, session.record.revision, part.confidences, added=home.added)
        node, editor = self._place.selection.segmentation_node, self._place.editor_node
        with self._editing.writing():
            segment = node.GetSegmentation().GetSegment(home.segment_id)
            segment.SetTag(REVIEW_TAG, review.to_text())
        selected = str(editor.GetSelectedSegmentID() or "")
        chosen = self._editing.session_of(selected)
        layers = self._editing.layers(self._place.selection)
        is_idle = chosen is None or (chosen.wanted.is_empty and layers.count(selected) == 0)
        if is_idle:
            with self._editing.writing():
                editor.SetSelectedSegmentID(home.segment_id)

    def _spared(self, homes: Homes) -> tuple[str, ...]:
        """Finished segments that overlap could take voxels from; none where overlap is allowed."""
        editor = self._place.editor_node
        return () if editor.GetOverwriteMode() == editor.OverwriteNone else homes.spared()

    def _job(self, work: Work) -> Job:
        session = Session()
        return Job(work.source, session.record, PromptSet(), self._place.settings.adapter)

    def _clear_away(self, work: Work) -> None:
        """Let go of segments that wait for proposals which will not come."""
        if work.homes is None or not self._is_wanted(work):
            return
        for name in list(work.homes.by_name):
            work.homes.leave(name)
        self._editing.prompts_changed = True

    def _is_wanted(self, work: Work) -> bool:
        """Whether the volume and the segmentation are still there and selected."""
        selection = self._place.selection
        node, source = selection.segmentation_node, selection.source
        if self._place.writer is None or source is None or node is None:
            return False
        same_volume = source.volume.uid == work.source.volume.uid
        return same_volume and node.GetID() == work.node_id and node.GetScene() is not None

    def _failed(self, error: ProtoSAMError) -> None:
        if not isinstance(error, Cancelled):
            first, _, details = error.message.partition("\n")
            text = first.removesuffix(" Its last lines were:")
            self._tell(Message("error", text, error.next_step, details.strip()))

    def _name(self, segment_id: str) -> str:
        node = self._place.selection.segmentation_node
        return str(node.GetSegmentation().GetSegment(segment_id).GetName() or "")


def _result(part: Proposed, work: Work, target: str, generation: int) -> Result:
    """Make the answer that a proposal is, for what writes answers."""
    sure = list(part.confidences.values())
    return Result(
        volume_uid=work.source.volume.uid,
        target=target,
        generation=generation,
        extent=part.extent,
        bits=part.bits,
        score=sum(sure) / len(sure) if sure else 0.0,
        slice_scores=part.confidences,
        axis=part.axis,
        window=part.window,
        model=part.model,
        digest=part.digest,
        timings_s={"total": part.elapsed_s},
        notes=part.notes,
    )
