"""A controller's hold on the scene: what it is attached to, and how it keeps step.

Rules
-----
* Whatever the host calls, the scene is looked at first: the segment editor node says what is
  selected and set, the segment's tag what its prompts are. No state of the scene is kept here.
* The host is told through its `Listener`, at most once for each call.
* Nothing waits, and nothing is raised for what a user or a scene does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from protosam.extents import PointKJI
from protosam.scene.case_saving import CaseSaving
from protosam.scene.desk import Desk
from protosam.scene.editing import Editing, Place
from protosam.scene.examples import Examples
from protosam.scene.grids import Node
from protosam.scene.learning import LearningDesk
from protosam.scene.reviewing import Reviewing
from protosam.scene.selection import Selection, look
from protosam.scene.sessions import Session
from protosam.scene.settings import Settings
from protosam.scene.source import Source, Sources
from protosam.scene.status import TEXTS, Listener, Message, Status
from protosam.scene.status_of import status_of
from protosam.scene.writing import Writer
from protosam.wire.client import WorkerClient

BUSY_MS, TEACHING_MS, IDLE_MS, DETACHED_MS = 5, 50, 100, 500
"""Intervals of the host's timer: while an answer is awaited, while there is but a run that teaches,
attached, and otherwise."""


def _same(text: str) -> str:
    return text


class Attached:
    """The part of a controller that follows the scene and the worker; see `Controller`."""

    def __init__(
        self,
        mrml: Node,
        client: WorkerClient,
        listener: Listener,
        *,
        translate: Callable[[str], str] = _same,
        model_path: Callable[[str], str] = _same,
        adapter_path: Callable[[str], str] = _same,
    ) -> None:
        self._listener, self._translate = listener, translate
        self._sources = Sources()
        self._place = Place()
        self._desk = Desk(client, model_path, adapter_path)
        self._messages: list[Message] = []
        self._editing = Editing(mrml, self._desk, self._place, self._messages.append, translate)
        self._examples = Examples(
            self._editing, self._desk, self._place, self._messages.append, translate
        )
        self._reviewing = Reviewing(self._editing, self._place, self._examples)
        self.learning = LearningDesk(
            self._desk,
            self._place,
            CaseSaving(self._editing, self._place),
            tell=self._messages.append,
            translate=translate,
            publish=self.refresh,
        )
        self._bad_parameters: tuple[str, ...] = ()
        self._slip = ""
        self.status = Status()

    def attach(self, editor_node: Node, writer: Writer) -> None:
        """Begin to work on a segment editor node."""
        self._place.editor_node, self._place.writer = editor_node, writer
        self.refresh()

    def detach(self) -> None:
        """Give up what runs and let go of the scene; prompts stay on their segments."""
        self._examples.cancel()
        self._editing.give_up_all()
        self._place.editor_node = self._place.writer = None
        self._place.selection = Selection("detached")
        self._publish()

    def scene_closed(self) -> None:
        """Let go of everything that belongs to the scene, in the worker too."""
        self.detach()
        self._editing.forget()
        for node_id in self._desk.opened():
            self._forget_volume(node_id)

    def refresh(self) -> None:
        """Look at the scene again and tell the listener what has changed."""
        if self._editing.is_writing:
            return  # this comes from an event of our own change, which is told when it is whole
        self._look()
        self._publish()

    def worker_changed(self) -> None:
        """Show the worker's new state."""
        self._publish()

    def drain(self, wait_s: float = 0.0) -> int:
        """Hear the worker, keep step with the scene; see `WorkerClient.drain`."""
        if self._editing.is_writing:
            return 0
        if self._place.editor_node is not None:
            self._look()
            session = self._editing.session()
            if session is not None:
                self._editing.read_loaded(session)
            self._desk.watch()
        count = self._desk.client.drain(wait_s=wait_s)
        self._publish()
        return count

    def wanted_interval_ms(self) -> int:
        """After how long the host should drain next."""
        if self._is_busy():
            return BUSY_MS
        if self.learning.is_teaching:
            return TEACHING_MS
        return DETACHED_MS if self._place.editor_node is None else IDLE_MS

    def _is_busy(self) -> bool:
        """Whether something is awaited besides a run that teaches, which takes minutes."""
        is_known = self._editing.is_awaiting or self._examples.work is not None
        is_more = not self.learning.is_teaching or is_known or self._desk.is_awaiting
        return self._desk.client.busy and is_more

    def _look(self) -> None:
        """Take in what is selected and set."""
        place, before = self._place, self._place.selection
        if place.editor_node is not None and place.editor_node.GetScene() is None:
            self.detach()
        place.selection = now = look(place.editor_node, self._sources)
        if place.editor_node is not None:
            self._read_settings()
        if now.source is not None and self._desk.open(now.source):
            self._prewarm(now.source, _middle(now.source))
        if _volume_of(before) != _volume_of(now):
            self._editing.give_up_all()
        elif before.segmentation_node is not now.segmentation_node:
            self._editing.give_up_all(now.key[0] if now.key else "")
        if before.key != now.key:
            self._slip = ""
            self._editing.prompts_changed = True
        self._drop_missing_volumes()
        self._editing.session()
        self._examples.follow()
        self._editing.follow_previews()

    def _read_settings(self) -> None:
        self._place.settings, bad = Settings.read(self._place.editor_node)
        if bad and bad != self._bad_parameters:
            text = self._translate(TEXTS["bad_parameter"]).format(detail=", ".join(bad))
            self._messages.append(Message("warning", text))
        self._bad_parameters = bad

    def _drop_missing_volumes(self) -> None:
        node = self._place.editor_node
        scene = None if node is None else node.GetScene()
        if scene is None:
            return
        for node_id in self._desk.opened():
            if scene.GetNodeByID(node_id) is None:
                self._forget_volume(node_id)

    def _forget_volume(self, node_id: str) -> None:
        self._desk.close(node_id)
        self._sources.forget(node_id)

    def _prewarm(self, source: Source, centre_kji: PointKJI) -> None:
        settings = self._place.settings
        self._desk.prewarm(source, centre_kji, settings, window=self._editing.window())

    def _ready(self) -> tuple[Session | None, Source | None]:
        """Session and source to act on; two None if there is a problem, which is the hint then."""
        self._look()
        self._slip = ""
        session, selection = self._editing.session(), self._place.selection
        if selection.problem or session is None:
            self._publish()
            return None, None
        return session, selection.source

    def _ask(self, session: Session) -> bool:
        self._editing.ask(session)
        self._publish()
        return True

    def _hinted(self, key: str) -> bool:
        """Show a hint about what was just tried; it did not work."""
        self._slip = key
        self._publish()
        return False

    def _publish(self) -> None:
        """Tell the listener, if there is anything to tell."""
        changed, self._editing.prompts_changed = self._editing.prompts_changed, False
        session = self._editing.session()
        now = status_of(self._place, self._desk, session, self._slip, self._translate)
        now = replace(now, examples=self._reviewing.status(), learning=self.learning.status())
        if now != self.status:
            self.status = now
            self._listener.status_changed(now)
        if changed or self._editing.prompts_changed:
            self._editing.prompts_changed = False
            self._listener.prompts_changed()
        # Last, because a host may show a message box, whose own event loop comes back to here.
        messages = self._messages.copy()
        self._messages.clear()
        for message in messages:
            self._listener.message(message)


def _middle(source: Source) -> PointKJI:
    k, j, i = ((n - 1) / 2 for n in source.volume.shape_kji)
    return k, j, i


def _volume_of(selection: Selection) -> str:
    return "" if selection.source is None else selection.source.volume.uid
