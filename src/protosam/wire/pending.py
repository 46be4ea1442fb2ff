"""A request that waits for its answer, at the host's end.

Rules
-----
* It is settled once: by an answer, by an error, or by being cancelled (which is an error, too).
* Its callbacks run on the host's thread, from `WorkerClient.drain`, and never from within the call
  that made the request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from protosam.errors import Cancelled, ProtoSAMError, WorkerFailure
from protosam.wire.replies import Progress, Reply
from protosam.wire.requests import Request

Answer = TypeVar("Answer", bound=Reply)


class Line(Protocol):
    """What a pending request needs of the client that made it."""

    def soon(self, call: Callable[[], object]) -> None:
        """Call this in the next `drain`."""

    def give_up(self, request_id: int) -> None:
        """Ask the worker to cancel a request."""

    def drain(self, budget_s: float, wait_s: float) -> int:
        """Handle what has arrived; wait up to `wait_s` for the first of it."""

    def clock(self) -> float:
        """Monotonic seconds."""


class Pending(Generic[Answer]):
    """One request and what became of it.

    Attributes
    ----------
    request_id : int
        Number on the wire, 0 until it is sent; another one if the client has to send it again.
    repeats : int
        How often the client has sent it again, with its volume.
    request : Request
        What was asked.
    error : ProtoSAMError or None
        Why there is no answer, once it is done.
    """

    def __init__(self, line: Line, request: Request) -> None:
        self.request_id = 0
        self.request = request
        self.repeats = 0
        self.error: ProtoSAMError | None = None
        self._line = line
        self._answer: Answer | None = None
        self._on_done: list[Callable[[Pending[Answer]], object]] = []
        self._on_progress: list[Callable[[Progress], object]] = []
        self._on_partial: list[Callable[[Any], object]] = []

    @property
    def done(self) -> bool:
        """Whether it is settled, in whatever way."""
        return self._answer is not None or self.error is not None

    @property
    def was_cancelled(self) -> bool:
        """Whether it was given up: by the host, or superseded by a newer request."""
        return isinstance(self.error, Cancelled)

    def when_done(self, callback: Callable[[Pending[Answer]], object]) -> None:
        """Have this called with this object once it is settled, also if it is already."""
        if self.done:
            self._line.soon(lambda: callback(self))
        else:
            self._on_done.append(callback)

    def on_progress(self, callback: Callable[[Progress], object]) -> None:
        """Have this called with each progress report."""
        self._on_progress.append(callback)

    def on_partial(self, callback: Callable[[Any], object]) -> None:
        """Have this called with each part of the answer that comes ahead of it.

        These are the replies that `Request.hears`: `Partial`, `ProposedSlices`, `Proposed`,
        `Taught`.

        Once the request is settled it is not called any more.
        """
        self._on_partial.append(callback)

    def result(self) -> Answer:
        """Answer of a request that is done.

        Raises
        ------
        ProtoSAMError
            What went wrong; `Cancelled` if it was given up.
        WorkerFailure
            It is not done yet.
        """
        if self.error is not None:
            raise self.error
        if self._answer is None:
            raise WorkerFailure(
                f"The {self.request.VERB!r} request is not answered yet.",
                "Wait for it, or use its callbacks.",
            )
        return self._answer

    def cancel(self) -> bool:
        """Ask the worker to give it up; it is settled when the worker says so.

        Returns
        -------
        bool
            Whether there was anything left to cancel.
        """
        if self.done:
            return False
        self._line.give_up(self.request_id)
        return True

    def wait(self, timeout_s: float) -> Answer:
        """Block until it is settled, draining meanwhile. For scripts and tests, never for a GUI.

        Raises
        ------
        ProtoSAMError
            What went wrong.
        WorkerFailure
            Nothing came in time; the request stays pending.
        """
        end = self._line.clock() + timeout_s
        while not self.done:
            rest = end - self._line.clock()
            if rest <= 0:
                raise WorkerFailure(
                    f"The {self.request.VERB!r} request was not answered within {timeout_s:g} s.",
                    "Cancel it, or start the worker again.",
                )
            self._line.drain(rest, min(rest, 0.05))
        return self.result()

    def settle(self, outcome: Answer | ProtoSAMError) -> None:
        """Set what became of it and have the callbacks called. The client's part, no one else's."""
        if self.done:
            return
        if isinstance(outcome, ProtoSAMError):
            self.error = outcome
        else:
            self._answer = outcome
        callbacks, self._on_done = self._on_done, []
        for callback in callbacks:
            self.when_done(callback)

    def hand_out(self, partial: Reply) -> None:
        """Pass a part of the answer on. The client's part, no one else's."""
        for callback in self._on_partial:
            self._line.soon(lambda call=callback: self.done or call(partial))  # type: ignore[misc]

    def report(self, progress: Progress) -> None:
        """Pass a progress report on. The client's part, no one else's."""
        for callback in self._on_progress:
            self._line.soon(lambda call=callback: call(progress))  # type: ignore[misc]
