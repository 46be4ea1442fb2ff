"""The client: a host's hold on its worker. Torch-free, quick to import, and never waiting.

Rules
-----
* All methods are called from one thread, the host's, and return at once (`Pending.wait` apart,
  which is for scripts).
* Callbacks run from `drain`, on the host's thread, and from nowhere else. A host calls it from
  its own loop: a timer of 2 to 10 ms while `busy`, slower otherwise.
* The worker is started by the first request, and again by the first one after its death. A death
  fails everything that was pending, once. Requests are not repeated by themselves, but volumes
  are sent again when a request needs them.
* A worker that listens elsewhere is connected to instead of started, and everything else is the
  same; a lost connection is a death.
* A worker that ends three times in a row before it was ready is not started any more until
  `restart` is called.
* Volumes are kept by reference until `close_volume`; their voxels must not change meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from protosam import __version__
from protosam.geometry import Volume
from protosam.wire import messages
from protosam.wire.connection import ServerConnection
from protosam.wire.exchange import Exchange
from protosam.wire.patience import WorkerState
from protosam.wire.pending import Pending
from protosam.wire.process import Channel, Events, LogTail, WorkerProcess
from protosam.wire.tls import ServerAddress, server_address

__all__ = ["Pending", "ServerAddress", "WorkerClient", "WorkerState", "server_address"]

DRAIN_S = 0.01
"""How long one `drain` goes on, so that a flood of replies leaves the host its frame rate."""

Done = Callable[[Pending[Any]], object]
Reported = Callable[[messages.Progress], object]
Shown = Callable[[messages.Partial], object]
Learnt = Callable[[messages.Taught], object]
Suggested = Callable[[messages.ProposedSlices | messages.Proposed], object]


class WorkerClient:
    """Starts a worker, asks it, and hands its answers to the host's own loop.

    Whatever goes wrong with a request (an unknown volume, a worker that cannot be started, a
    client that was closed) arrives as its outcome, like every answer, and never as an exception of
    the call that made it.

    Parameters
    ----------
    command : sequence of str or ServerAddress, optional
        Program and arguments of the worker, or where one listens; None = this Python with
        ``-m protosam.worker``.
    env : mapping, optional
        Environment of the worker; None = the host's own.
    log_path : Path, optional
        File that gets all that workers print.
    on_state : callable, optional
        Gets a `WorkerState` at each change, from `drain`.

    Examples
    --------
    ::

        client = WorkerClient()
        client.open_volume(volume)
        client.predict(Predict(volume.uid, prompts), on_done=lambda one: show(one.result()))
        timer.timeout.connect(client.drain)
    """

    def __init__(
        self,
        command: Sequence[str] | ServerAddress | None = None,
        *,
        env: Mapping[str, str] | None = None,
        log_path: Path | None = None,
        on_state: Callable[[WorkerState], object] | None = None,
    ) -> None:
        wanted = command or (sys.executable, "-m", "protosam.worker")

        def launch(events: Events, log: LogTail) -> Channel:
            if isinstance(wanted, ServerAddress):
                return ServerConnection(wanted, events)
            return WorkerProcess(wanted, events, log, env)

        self._exchange = Exchange(launch, log_path, on_state)

    def __enter__(self) -> WorkerClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def state(self) -> WorkerState:
        """What is known of the worker."""
        return self._exchange.state

    @property
    def busy(self) -> bool:
        """Whether something is awaited, so that `drain` should be called often."""
        return self._exchange.busy

    def log_tail(self, count: int = 40) -> list[str]:
        """Last lines that the worker printed, oldest first; 200 are kept."""
        return self._exchange.log.lines(count)

    def drain(self, budget_s: float = DRAIN_S, wait_s: float = 0.0) -> int:
        """Handle what has arrived and call the callbacks that are due.

        Parameters
        ----------
        budget_s : float
            After this long the rest is left to the next call.
        wait_s : float
            While `busy`, how long to wait if nothing has arrived. Slicer needs 0.005: its event
            loop keeps Python's lock, so the reading and writing threads run only while somebody
            waits here.

        Returns
        -------
        int
            How many things were handled; 0 = nothing has happened.
        """
        return self._exchange.drain(budget_s, wait_s)

    def start(self) -> None:
        """Start the worker ahead of the first request, if it does not run."""
        self._exchange.start()

    def restart(self) -> None:
        """End the worker at once and start a new one; what was pending fails."""
        self._exchange.restart()

    def close(self) -> None:
        """Let the worker end; what is pending fails. Kills it in the background if it hangs."""
        self._exchange.close()

    def open_volume(
        self, volume: Volume, on_done: Done | None = None
    ) -> Pending[messages.VolumeOpened]:
        """Send a volume, unless this worker has it; it is sent again when a new worker needs it."""
        opened = self._exchange.open_volume(volume)
        if on_done is not None:
            opened.when_done(on_done)
        return opened

    def close_volume(self, uid: str, on_done: Done | None = None) -> Pending[messages.VolumeClosed]:
        """Forget a volume at both ends."""
        closed = self._exchange.close_volume(uid)
        if on_done is not None:
            closed.when_done(on_done)
        return closed

    def predict(
        self,
        request: messages.Predict,
        on_done: Done | None = None,
        on_progress: Reported | None = None,
        on_partial: Shown | None = None,
    ) -> Pending[messages.Result]:
        """Ask for the mask of one object; its volume must have been given to `open_volume`.

        `on_partial` gets slices of the answer as they are made, if the request asks for that.
        """
        pending = self._ask(request, on_done, on_progress)
        if on_partial is not None:
            pending.on_partial(on_partial)
        return pending

    def prewarm(
        self, request: messages.Prewarm, on_done: Done | None = None
    ) -> Pending[messages.Prewarmed]:
        """Have slices embedded ahead of the clicks, while nothing else is asked."""
        return self._ask(request, on_done)

    def make_example(
        self,
        request: messages.MakeExample,
        on_done: Done | None = None,
        on_progress: Reported | None = None,
    ) -> Pending[messages.ExampleMade]:
        """Have finished segments of a volume learnt; the answer holds a file's content."""
        return self._ask(request, on_done, on_progress)

    def apply_example(
        self,
        request: messages.ApplyExample,
        on_done: Done | None = None,
        on_progress: Reported | None = None,
        on_proposed: Suggested | None = None,
    ) -> Pending[messages.ExampleApplied]:
        """Have the segments of examples proposed in a volume.

        `on_proposed` gets each proposal as soon as it is made, and slices of those on their way if
        the request asks for that.
        """
        pending = self._ask(request, on_done, on_progress)
        if on_proposed is not None:
            pending.on_partial(on_proposed)
        return pending

    def load_model(
        self,
        request: messages.LoadModel,
        on_done: Done | None = None,
        on_progress: Reported | None = None,
    ) -> Pending[messages.ModelLoaded]:
        """Load a model ahead of the first prediction with it."""
        return self._ask(request, on_done, on_progress)

    def save_case(
        self, request: messages.SaveCase, on_done: Done | None = None
    ) -> Pending[messages.CaseSaved]:
        """Have a volume and its finished segments kept; it must have been given."""
        return self._ask(request, on_done)

    def look_into_cases(
        self, request: messages.LookIntoCases, on_done: Done | None = None
    ) -> Pending[messages.CaseList]:
        """Ask what a folder of cases holds."""
        return self._ask(request, on_done)

    def adapt(
        self,
        request: messages.Adapt,
        on_done: Done | None = None,
        on_progress: Reported | None = None,
        on_taught: Learnt | None = None,
    ) -> Pending[messages.Adapted]:
        """Have a new version of an adapter taught; everything else is answered meanwhile.

        `on_taught` gets each step with its loss, for a curve.
        """
        pending = self._ask(request, on_done, on_progress)
        if on_taught is not None:
            pending.on_partial(on_taught)
        return pending

    def adapters(
        self, request: messages.Adapters, on_done: Done | None = None
    ) -> Pending[messages.AdapterList]:
        """Ask which adapters there are."""
        return self._ask(request, on_done)

    def change_adapter(
        self, request: messages.ChangeAdapter, on_done: Done | None = None
    ) -> Pending[messages.AdapterList]:
        """Make another version of an adapter the active one, or delete one."""
        return self._ask(request, on_done)

    def models(self, on_done: Done | None = None) -> Pending[messages.ModelList]:
        """Ask which models there are."""
        return self._ask(messages.Models(), on_done)

    def stats(self, on_done: Done | None = None) -> Pending[messages.StatsReport]:
        """Ask for memory and counts; answered at once, even by a busy worker."""
        return self._ask(messages.Stats(), on_done)

    def hello(self, on_done: Done | None = None) -> Pending[messages.Hello]:
        """Ask who is there; answered at once, even by a busy worker."""
        return self._ask(messages.Greeting(__version__), on_done)

    def shutdown(self, on_done: Done | None = None) -> Pending[messages.Goodbye]:
        """Ask the worker to end; a later request starts a new one."""
        return self._ask(messages.Shutdown(), on_done)

    def _ask(
        self,
        request: messages.Request,
        on_done: Done | None = None,
        on_progress: Reported | None = None,
    ) -> Pending[Any]:
        pending: Pending[Any] = Pending(self._exchange, request)
        if on_done is not None:
            pending.when_done(on_done)
        if on_progress is not None:
            pending.on_progress(on_progress)
        self._exchange.send(pending)
        return pending
