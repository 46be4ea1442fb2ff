"""The application behind the page: scene, views, controller and worker client, in step.

Rules
-----
* It runs on one thread, that of the event loop, and nothing in it waits: the worker is drained,
  files are read and written beside it.
* The page is told by values, see `page_state`; what it asks for comes in by `actions`.
* Knows nothing of a web server, so that tests can run it without one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

import slicer

from protosam.errors import InvalidInput, ProtoSAMError
from protosam.extents import FloatArray
from protosam.scene import Controller, LogicWriter, MadeExample, Message, Status
from protosam.wire.client import Pending, WorkerClient
from protosam.wire.messages import LoadModel, ModelInfo, ModelList, ModelLoaded
from protosam_app import page_state
from protosam_app.adapting import adapt_values
from protosam_app.opening import Opened, open_path
from protosam_app.pointer import Pointer
from protosam_app.segments import Segments
from protosam_app.shelf import Shelf
from protosam_app.stage import Node, Stage
from protosam_app.surfaces import Shape, Surfaces
from protosam_app.uploads import Inbox
from protosam_app.views import SPACE, Views

Result = TypeVar("Result")

SURFACE_PAUSE_S = 0.25
"""Surfaces are made when nothing has changed for so long."""

INFO_S = 8.0
"""After this a message that is not an error goes by itself."""

LONGEST_WAIT_S = 0.1
"""Between two looks at the scene and the worker."""

SHORTEST_WAIT_S = 0.01
"""Likewise; 5 ms would take a third of a core while the worker needs it."""

MOST_ALERTS = 4


class App:
    """Everything behind one page; the listener of the controller.

    Parameters
    ----------
    client : WorkerClient
        Starts the worker when the first volume comes.
    publish : callable
        Gets the page's values that may have changed.
    inbox : Inbox
        Where files from the page are kept and archives unpacked.
    """

    def __init__(
        self, client: WorkerClient, publish: Callable[[page_state.Values], None], inbox: Inbox
    ) -> None:
        self.stage = Stage()
        self.views = Views(self.stage)
        self.segments = Segments(self.stage)
        self.surfaces = Surfaces(self.stage)
        self.client, self.inbox = client, inbox
        self._patients: dict[str, str] = {}
        self.controller = Controller(slicer, client, self)
        self.controller.learning.ask_patients(self._patient_of)
        self.pointer = Pointer(self.stage, self.views, self.segments, self.controller, self.touch)
        self.shelf = Shelf()
        self.counts: dict[str, int] = {}
        self.prompt_order: list[str] = []
        self.enlarged = ""
        self.opening: list[str] = []
        self.models: tuple[ModelInfo, ...] = ()
        self.folder_refused = False
        self._publish = publish
        self._alerts: list[dict[str, object]] = []
        self._alert_ids = 0
        self._surface_keys: dict[str, object] = {}
        self._quiet_since_s = self._followed_s = 0.0
        self._asked_s: float | None = None
        self._last_ms: int | None = None
        self._dirty, self._closed = True, False
        self._wake = asyncio.Event()
        self._threads = ThreadPoolExecutor(2, "protosam-files")
        self.controller.attach(self.stage.editor, LogicWriter(self.stage.logic))

    # The controller tells these three.

    def status_changed(self, status: Status) -> None:
        """Take in a new status."""
        if status.busy and self._asked_s is None:
            self._asked_s = time.monotonic()
        elif not status.busy and self._asked_s is not None:
            if status.hint_key not in ("failed", "working"):
                self._last_ms = round(1000 * (time.monotonic() - self._asked_s))
            self._asked_s = None
        ids = [row.id for row in status.prompts]
        kept = [one for one in self.prompt_order if one in ids]
        self.prompt_order = kept + [one for one in ids if one not in kept]
        self.touch()

    def prompts_changed(self) -> None:
        """Draw the prompts anew."""
        self.pointer.redraw_all()
        self.touch()

    def message(self, message: Message) -> None:
        """Show a message until it is closed, or for some seconds if it is no error."""
        self._alert_ids += 1
        alert = {**asdict(message), "id": self._alert_ids, "until_s": time.monotonic() + INFO_S}
        same = [one for one in self._alerts if one["text"] == message.text]
        for one in same:
            self._alerts.remove(one)
        self._alerts = [*self._alerts, alert][-MOST_ALERTS:]
        self.touch()

    # What goes on.

    def touch(self) -> None:
        """Have the page told soon."""
        self._dirty = True
        self._wake.set()

    async def run(self) -> None:
        """Go on until `close`."""
        while not self._closed:
            self.tick()
            self._wake.clear()
            wanted_s = self.controller.wanted_interval_ms() / 1000
            wait_s = min(max(wanted_s, SHORTEST_WAIT_S), LONGEST_WAIT_S)
            try:
                await asyncio.wait_for(self._wake.wait(), wait_s)
            except asyncio.TimeoutError:
                continue

    def tick(self) -> None:
        """Hear the worker, follow the scene, tell the page."""
        self.controller.drain()
        now = time.monotonic()
        if now - self._followed_s > LONGEST_WAIT_S / 2:
            self._followed_s = now
            self._ask_for_models()
            self._follow_segments()
            self._drop_old_alerts()
        if self._dirty:
            self._dirty = False
            self._publish(self.values())

    def values(self) -> page_state.Values:
        """Everything that the page shows."""
        return {
            **page_state.status_values(self.controller.status, self._last_ms),
            **page_state.scene_values(self.stage, self.segments, self.counts),
            **page_state.view_values(self.views),
            **page_state.example_values(self.controller, self.shelf, self.views),
            **adapt_values(self.controller.status.learning, refused=self.folder_refused),
            "tool": self.pointer.tool,
            "active_view": self.pointer.active,
            "linked": self.pointer.linked,
            "readout": self.pointer.readout,
            "enlarged": self.enlarged,
            "opening": self.opening[0] if self.opening else "",
            "surface_count": self.surfaces.count,
            "alerts": [
                {key: value for key, value in one.items() if key != "until_s"}
                for one in self._alerts
            ],
            "models": [
                {"name": one.name, "available": one.available, "licence": one.licence}
                for one in self.models
            ],
        }

    def close_alert(self, alert_id: int) -> None:
        """Take a message away; 0 takes all."""
        self._alerts = [one for one in self._alerts if alert_id and one["id"] != alert_id]
        self.touch()

    def tell(self, error: ProtoSAMError) -> None:
        """Show what went wrong."""
        self.message(Message("error", error.message, error.next_step))

    # Volumes.

    async def open(self, path: Path, name: str = "") -> bool:
        """Read a file or folder beside the event loop and show it; whether that worked."""
        self.opening.append(name or path.name)
        self.touch()
        try:
            opened = await self.beside(partial(self._read, path, name))
        except ProtoSAMError as error:
            self.tell(error)
            return False
        finally:
            self.opening.pop(0)
            self.touch()
        self.show(opened)
        return True

    async def beside(self, work: Callable[[], Result]) -> Result:
        """Do something slow with files beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def show(self, opened: Opened) -> None:
        """Add a volume, choose it and give it an empty segment."""
        node = self.stage.add_volume(opened)
        self._patients[node.GetID()] = opened.patient
        self.choose_volume(node.GetID())
        self.segments.add(undoable=False)
        self.controller.refresh()
        if opened.note:
            self.message(Message("info", opened.note))

    def choose_volume(self, volume_id: str) -> None:
        """Show another volume with its segments."""
        node = next((one for one in self.stage.volumes if one.GetID() == volume_id), None)
        self.surfaces.clear()
        self._surface_keys.clear()
        self.counts.clear()
        self._last_ms = None
        self.stage.show_volume(node)
        ids = self.segments.ids()
        if ids:
            self.segments.select(ids[-1])
        self.views.show_volume(node)
        self.controller.refresh()
        self.pointer.redraw_all()
        self.touch()

    def close_volume(self) -> None:
        """Remove the volume that is shown, with its segments."""
        node = self.stage.volume
        if node is not None:
            self.choose_volume("")
            self._patients.pop(node.GetID(), None)
            self.stage.remove_volume(node)
            self.controller.refresh()
            left = self.stage.volumes
            if left:
                self.choose_volume(left[-1].GetID())
            self.touch()

    # Examples.

    def use_as_example(self) -> None:
        """Learn the visible segments, and keep what was learnt at hand."""

        def made(example: MadeExample) -> None:
            try:
                entry = self.shelf.put_made(example.names, example.content)
            except InvalidInput as error:
                self.tell(error)
                return
            text = f"Learnt: {entry.name}."
            self.message(Message("info", text, "Open the next volume and apply it there."))

        self.controller.make_example(made)

    def go_to(self, place: FloatArray | None) -> None:
        """Show a point of the world, RAS mm, in all planes."""
        if place is not None:
            self.views.centre_on(place)
            self.pointer.redraw_all()
            self.touch()

    # Models.

    def choose_model(self, name: str) -> None:
        """Load another model in the worker; the next click uses it."""
        before = self.stage.setting("Model")

        def done(pending: Pending[ModelLoaded]) -> None:
            if pending.error is not None:
                self.stage.set_setting("Model", before)
                self.tell(pending.error)
            self.models = ()
            self.touch()

        self.stage.set_setting("Model", name)
        self.client.load_model(LoadModel(name), done)
        self.controller.refresh()
        self.touch()

    def close(self) -> None:
        """End the worker and let go of everything."""
        self._closed = True
        self._wake.set()
        self.controller.scene_closed()
        self.client.close()
        self.views.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _patient_of(self, node: Node) -> str:
        return self._patients.get(str(node.GetID()), "")

    def _read(self, path: Path, name: str) -> Opened:
        """Read a volume, on another thread; what was unpacked for it does not outlive that."""
        unpacked: list[Path] = []

        def unpack(archive: Path) -> Path:
            unpacked.append(self.inbox.unpack(archive))
            return unpacked[-1]

        try:
            return open_path(path, name=name, unpack=unpack)
        finally:
            for folder in unpacked:
                self.inbox.remove(folder)

    def _ask_for_models(self) -> None:
        if self.models or self.client.state.phase != "ready":
            return
        self.models = (ModelInfo("", "", "", False, False),)  # asked for; the answer replaces it

        def done(pending: Pending[ModelList]) -> None:
            self.models = () if pending.error is not None else pending.result().models
            self.touch()

        self.client.models(done)

    def _follow_segments(self) -> None:
        """Renew at most one surface; each takes some ten milliseconds."""
        keys = {one: self.segments.state_of(one) for one in self.segments.ids()}
        if keys != self._surface_keys and self.controller.status.busy:
            self._quiet_since_s = time.monotonic()
        changed = [one for one, key in keys.items() if self._surface_keys.get(one) != key]
        gone = self._surface_keys.keys() - keys.keys()
        if gone:
            for one in gone:
                self._surface_keys.pop(one)
            self.touch()
        if changed and time.monotonic() - self._quiet_since_s > SURFACE_PAUSE_S:
            self._renew_surface(changed[0])
            self._surface_keys[changed[0]] = keys[changed[0]]
        self.surfaces.follow(self.segments.rows())

    def _renew_surface(self, segment_id: str) -> None:
        grid = self.segments.grid()
        if grid is None:
            return
        count = self.surfaces.count
        extent, mask = self.segments.voxels(segment_id, grid)
        self.counts[segment_id] = int(mask.sum())
        self.surfaces.show(segment_id, Shape(extent, mask, grid.to_world))
        self.surfaces.follow(self.segments.rows())
        if count == 0 and self.surfaces.count:
            self.views.fit(SPACE)
        elif self.surfaces.count > count:
            self.views.frame_space()
        self.views.space.schedule_render()
        self.touch()

    def _drop_old_alerts(self) -> None:
        now = time.monotonic()
        kept = [
            one
            for one in self._alerts
            if one["level"] == "error" or float(str(one["until_s"])) > now
        ]
        if len(kept) != len(self._alerts):
            self._alerts = kept
            self.touch()
