"""What the worker asks of an engine: the seam between the wire and the models.

`service` holds the real one, which brings torch; tests bring their own. It is built and asked on
one thread, the one that owns the device; `stats` alone may be called from any thread, and what
`course` returns is followed on a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from protosam.geometry import Volume
from protosam.wire.messages import (
    Adapt,
    Adapted,
    AdapterList,
    Adapters,
    ApplyExample,
    CaseList,
    CaseSaved,
    ChangeAdapter,
    ExampleApplied,
    ExampleMade,
    LoadModel,
    LookIntoCases,
    MakeExample,
    ModelInfo,
    ModelLoaded,
    Partial,
    Predict,
    Prewarm,
    Proposed,
    ProposedSlices,
    Result,
    SaveCase,
    Taught,
)

OnProgress = Callable[[float, str], None]
"""Gets a fraction from 0 to 1 and what is being done."""

OnPartial = Callable[[Partial], None]
"""Gets slices of an answer as they are made."""

OnProposed = Callable[[ProposedSlices | Proposed], None]
"""Gets proposals as they are made."""

OnTaught = Callable[[Taught], None]
"""Gets the steps of a run that teaches."""

ShouldStop = Callable[[], bool]
"""Asked between the steps of a job."""

Keeping = SaveCase | LookIntoCases | Adapters | ChangeAdapter
"""Requests about files of cases and adapters, which need no model."""

Kept = CaseSaved | CaseList | AdapterList
"""Their answers."""


def _to_nobody(_part: ProposedSlices | Proposed | Taught) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Follow:
    """How a host follows the work on an example, or a run that teaches, and ends it."""

    on_progress: OnProgress
    """Gets how far it is."""
    should_stop: ShouldStop
    """Asked between the steps; other work may be done meanwhile."""
    on_proposed: OnProposed = _to_nobody
    """Gets proposals."""
    on_taught: OnTaught = _to_nobody
    """Gets steps."""


Course = Callable[[Follow], Adapted]
"""A run that teaches; it does not touch the device that answers clicks."""


@dataclass(frozen=True)
class EngineStats:
    """What an engine has in memory."""

    model: str
    """Model in memory; empty = none."""
    device: str
    """Where it computes."""
    cache_bytes: int
    """Embeddings in memory."""


class Engine(Protocol):
    """Models, and what is kept of their work."""

    def notes(self) -> tuple[str, ...]:
        """Sentences for the user about the start."""
        ...

    def stats(self) -> EngineStats:
        """Sizes, from any thread and at any time."""
        ...

    def models(self) -> tuple[ModelInfo, ...]:
        """Every model that is known."""
        ...

    def load(self, request: LoadModel, on_progress: OnProgress) -> ModelLoaded:
        """Load a model in place of the one in memory."""
        ...

    def predict(
        self,
        volume: Volume,
        request: Predict,
        on_progress: OnProgress,
        should_stop: ShouldStop,
        on_partial: OnPartial,
    ) -> Result:
        """Segment one object; `errors.Cancelled` if it was stopped.

        `on_partial` is called only if the request asks for it.
        """
        ...

    def prewarm(self, volume: Volume, request: Prewarm, should_stop: ShouldStop) -> int:
        """Embed slices until stopped; return how many."""
        ...

    def make_example(
        self,
        volume: Volume,
        request: MakeExample,
        on_progress: OnProgress,
        should_stop: ShouldStop,
    ) -> ExampleMade:
        """Learn finished segments; `errors.Cancelled` if it was stopped.

        While `should_stop` is asked, this engine may be asked something else.
        """
        ...

    def apply_example(
        self,
        volume: Volume,
        request: ApplyExample,
        on_progress: OnProgress,
        should_stop: ShouldStop,
        on_proposed: OnProposed,
    ) -> ExampleApplied:
        """Propose the segments of examples; `errors.Cancelled` if it was stopped.

        While `should_stop` is asked, this engine may be asked something else.
        """
        ...

    def forget(self, uid: str) -> None:
        """Drop what is kept of a volume."""
        ...

    def keep(self, request: Keeping, volume: Volume | None) -> Kept:
        """Save or look up cases and adapters; `volume` is what a case is saved of."""
        ...

    def course(self, request: Adapt) -> Course:
        """Prepare a run that teaches; at once, and with the model in memory if none is named."""
        ...
