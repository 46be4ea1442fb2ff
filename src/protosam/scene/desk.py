"""The worker's desk: which volumes it has, what it is asked, how it is.

Rules
-----
* The client may be shared by several controllers: only volumes that this one opened are closed.
* Volumes go to the worker when they are chosen, ahead of the first click; slices near the view are
  embedded ahead while nothing else is asked. Whether that works is nobody's business but its own:
  a failure shows again, with its sentence, when a click needs the same thing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from protosam.errors import InvalidInput
from protosam.extents import PointKJI
from protosam.intensity import Window
from protosam.mending import CleanUp
from protosam.prompts import PromptSet
from protosam.scene.settings import Settings
from protosam.scene.source import Source
from protosam.wire.client import WorkerClient
from protosam.wire.messages import (
    ApplyExample,
    ExampleApplied,
    ExampleMade,
    MakeExample,
    Partial,
    Predict,
    Prewarm,
    Progress,
    Proposed,
    ProposedSlices,
    Result,
    SegmentClicks,
    StatsReport,
    TaughtSegment,
)
from protosam.wire.pending import Pending

PREWARM_SLICES = 8
"""Slices that are embedded ahead round the middle of a view."""

PREWARM_EVERY_S = 0.3
"""Shortest time between two of those requests."""

STATS_EVERY_S = 3.0
"""How often the worker is asked for its memory."""

Named = Callable[[str], str]


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked for one segment."""

    source: Source
    """The volume."""
    prompts: PromptSet
    """All prompts."""
    settings: Settings
    """Model, adapter and clean-up."""
    window: Window | None
    """Intensities to look at; None lets the worker choose."""
    target: str
    """Name of the segment on the wire."""
    generation: int
    """Number of the request for this target."""
    settled: tuple[str, ...] = ()
    """Ids of the prompts whose answer is shown already."""


@dataclass(frozen=True, eq=False)
class ExampleWish:
    """What examples are asked for."""

    source: Source
    """The volume."""
    contents: tuple[bytes, ...]
    """Contents of `.psexample` files."""
    clicks: tuple[SegmentClicks, ...]
    """What the user has clicked already."""
    settings: Settings
    """Model and adapter."""
    target: str
    """Name of the asking controller on the wire."""
    generation: int
    """Number of the request for this target."""


class Desk:
    """One controller's business with the worker.

    Parameters
    ----------
    client : WorkerClient
    model_path, adapter_path : callable
        From a name in the settings to what the worker is asked for.
    """

    def __init__(self, client: WorkerClient, model_path: Named, adapter_path: Named) -> None:
        self.client = client
        self.stats: StatsReport | None = None
        self._model_path, self._adapter_path = model_path, adapter_path
        self._opened: dict[str, str] = {}
        self._prewarmed_s = self._asked_s = float("-inf")
        self._stats_pending: Pending[StatsReport] | None = None
        self._awaited: list[Pending[Any]] = []
        self._named_model, self._had_adapter = "", False

    @property
    def is_awaiting(self) -> bool:
        """Whether a volume or slices are on their way to the worker."""
        self._awaited = [one for one in self._awaited if not one.done]
        return bool(self._awaited)

    def adapter_path(self, name: str) -> str:
        """Return what the worker is asked for by the name of an adapter."""
        return self._adapter_path(name)

    def open(self, source: Source) -> bool:
        """Send a volume unless that was done; return whether it was new."""
        uid, old = source.volume.uid, self._opened.get(source.node_id)
        if uid == old:
            return False
        if old is not None:
            self.client.close_volume(old)
        self._opened[source.node_id] = uid
        self._awaited.append(self.client.open_volume(source.volume))
        return True

    def close(self, node_id: str) -> None:
        """Forget the volume of a node, here and in the worker."""
        uid = self._opened.pop(node_id, None)
        if uid is not None and self.client.state.phase != "closed":
            self.client.close_volume(uid)

    def opened(self) -> tuple[str, ...]:
        """Ids of the nodes whose volumes the worker was given."""
        return tuple(self._opened)

    def predict(
        self,
        question: Question,
        on_done: Callable[[Pending[Result]], object],
        on_progress: Callable[[Progress], object],
        on_partial: Callable[[Partial], object],
    ) -> Pending[Result]:
        """Ask for a mask, and for parts of it while it is made."""
        self.open(question.source)
        usual = question.settings.clean_up == CleanUp()
        request = Predict(
            question.source.volume.uid,
            question.prompts,
            target=question.target,
            generation=question.generation,
            window=question.window,
            model=self.model_path(question.settings),
            adapter=self._adapter(question.settings),
            clean_up=None if usual else question.settings.clean_up,
            partial=True,
            settled=question.settled,
        )
        return self.client.predict(request, on_done, on_progress, on_partial)

    def make_example(
        self,
        source: Source,
        segments: tuple[TaughtSegment, ...],
        settings: Settings,
        on_done: Callable[[Pending[ExampleMade]], object],
        on_progress: Callable[[Progress], object],
    ) -> Pending[ExampleMade]:
        """Have finished segments of a volume learnt."""
        self.open(source)
        request = MakeExample(
            source.volume.uid,
            segments,
            model=self.model_path(settings),
            adapter=self._adapter(settings),
        )
        return self.client.make_example(request, on_done, on_progress)

    def apply_examples(
        self,
        wish: ExampleWish,
        on_done: Callable[[Pending[ExampleApplied]], object],
        on_progress: Callable[[Progress], object],
        on_proposed: Callable[[ProposedSlices | Proposed], object],
    ) -> Pending[ExampleApplied]:
        """Have the segments of examples proposed in a volume, slice by slice."""
        self.open(wish.source)
        request = ApplyExample(
            wish.source.volume.uid,
            wish.contents,
            clicks=wish.clicks,
            target=wish.target,
            generation=wish.generation,
            model=self.model_path(wish.settings),
            adapter=self._adapter(wish.settings),
            partial=True,
        )
        return self.client.apply_example(request, on_done, on_progress, on_proposed)

    def prewarm(
        self,
        source: Source,
        centre_kji: PointKJI,
        settings: Settings,
        *,
        window: Window | None,
        axis: int | None = None,
    ) -> None:
        """Have slices embedded, unless that was asked a moment ago or something else runs."""
        now = time.monotonic()
        waits = now - self._prewarmed_s < PREWARM_EVERY_S
        if waits or self.client.state.phase in ("refused", "closed"):
            return
        self._prewarmed_s = now
        self.open(source)
        request = Prewarm(
            source.volume.uid,
            centre_kji,
            axis=axis,
            window=window,
            count=PREWARM_SLICES,
            model=self.model_path(settings),
            adapter=self._adapter(settings),
        )
        self._awaited.append(self.client.prewarm(request))

    def watch(self) -> None:
        """Ask for the worker's memory now and then."""
        now = time.monotonic()
        pending = self._stats_pending
        if pending is not None and pending.done:
            self.stats = None if pending.error is not None else pending.result()
            self._stats_pending = None
        if self.client.state.phase != "ready":
            self.stats = None
        elif self._stats_pending is None and now - self._asked_s > STATS_EVERY_S:
            self._asked_s = now
            self._stats_pending = self.client.stats()

    def model_path(self, settings: Settings) -> str:
        """Return what the worker is asked for; empty = the model in memory, with its adapter."""
        if settings.model:
            self._named_model = self._model_path(settings.model)
            return self._named_model
        if settings.adapter or not self._had_adapter:
            return ""
        # The model in memory may still have the adapter that is not wanted any more.
        ready = self.client.state.ready
        return self._named_model or (ready.model if ready else "")

    def _adapter(self, settings: Settings) -> str:
        self._had_adapter = self._had_adapter or bool(settings.adapter)
        return self._adapter_path(settings.adapter) if settings.adapter else ""


def window_of(settings: Settings, volume_node: Any) -> Window | None:
    """Window that the settings ask for; None lets the worker choose.

    Raises
    ------
    InvalidInput
        The two values that were set make no window.
    """
    if settings.window == "values":
        return Window(settings.window_low, settings.window_high)
    if settings.window == "view":
        limits = view_window(volume_node)
        return None if limits is None else Window(*limits)
    return None


def view_window(volume_node: Any) -> tuple[float, float] | None:
    """Window that a volume is shown with; None if it has no display or an empty window."""
    display = None if volume_node is None else volume_node.GetDisplayNode()
    if display is None or not hasattr(display, "GetWindowLevelMin"):
        return None
    low, high = float(display.GetWindowLevelMin()), float(display.GetWindowLevelMax())
    try:
        Window(low, high)
    except InvalidInput:
        return None
    return low, high
