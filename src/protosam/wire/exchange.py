"""The exchange: which requests are out, which volumes the worker has, and what its words mean.

Rules
-----
* Everything runs on the host's thread. What the threads of a `Channel` find is handled in
  `drain`, and callbacks are called there and nowhere else.
* Each request is settled once. The end of a worker settles all of them; only volumes are sent
  again by themselves, when a request needs them.
* A worker that says something that cannot be right is ended, and its requests fail with a
  sentence: there is no state in between.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protosam.errors import (
    Cancelled,
    InvalidInput,
    ProtocolMismatch,
    ProtoSAMError,
    WorkerDied,
    WorkerFailure,
)
from protosam.geometry import Volume
from protosam.wire import messages
from protosam.wire.frames import Frame, RefusedFrame, encode
from protosam.wire.patience import Patience, WorkerState, died
from protosam.wire.pending import Pending
from protosam.wire.process import Channel, Ended, Events, LogTail

MAX_EARLY_DEATHS = 3
"""Deaths in a row before a worker was ready, after which starting one is refused."""

CLOSE_S = 3.0
"""How long a worker may take to end by itself once its input is closed."""

Launch = Callable[[Events, LogTail], Channel]
"""Starts a worker, or a connection to one; returns at once."""


class Exchange:
    """All that goes to and fro between one host and its workers, one worker at a time.

    Parameters
    ----------
    launch : callable
        Starts a worker.
    log_path : Path or None
        File that gets all that workers print.
    on_state : callable or None
        Gets a `WorkerState` at each change, from `drain`.
    """

    def __init__(
        self,
        launch: Launch,
        log_path: Path | None,
        on_state: Callable[[WorkerState], object] | None,
    ) -> None:
        self._launch = launch
        self._on_state = on_state
        self.log = LogTail(log_path)
        self.state = WorkerState("stopped")
        self._ids = itertools.count(1)
        self._events: Events = queue.SimpleQueue()
        self._due: deque[Callable[[], object]] = deque()
        self._pending: dict[int, Pending[Any]] = {}
        self._volumes: dict[str, Volume] = {}
        self._opened: dict[str, Pending[Any]] = {}
        self._process: Channel | None = None
        self._patience = Patience()
        self._early_deaths = 0
        self._refusal: ProtoSAMError | None = None

    @property
    def busy(self) -> bool:
        """Whether something is awaited."""
        return bool(self._pending or self._due) or self.state.phase == "starting"

    # The host's loop: what it calls, and what a `Pending` needs of it.

    def drain(self, budget_s: float, wait_s: float) -> int:
        """Handle what has arrived and call what is due; return how many things that were."""
        end = self.clock() + budget_s
        count = 0
        if wait_s > 0 and not self._due and self.busy:
            try:
                self._handle(*self._events.get(timeout=wait_s))
            except queue.Empty:
                self._watch()
                return 0
            count = 1
        while self._due or not self._events.empty():
            if self._due:
                self._due.popleft()()
            else:
                self._handle(*self._events.get())
            count += 1
            if self.clock() > end:
                break
        self._watch()
        return count

    def soon(self, call: Callable[[], object]) -> None:
        """Call this in the next `drain`."""
        self._due.append(call)

    def give_up(self, request_id: int) -> None:
        """Ask the worker to cancel a request that is still out."""
        if request_id in self._pending:
            self.send(Pending(self, messages.Cancel(request_id)))

    def clock(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def _watch(self) -> None:
        if self._process is not None:
            error = self._patience.watch(self._process, self.clock(), self.state)
            if error is not None:
                self._lose(error)

    # The worker's life.

    def start(self) -> None:
        """Start the worker, unless it runs or is refused."""
        if self._process is None and self._refusal is None:
            self._patience = Patience()
            self._process = self._launch(self._events, self.log)
            self._set_state(WorkerState("starting", "The worker is starting."))

    def restart(self) -> None:
        """End the worker at once and start a new one; what was pending fails."""
        self._lose(WorkerDied("The worker was ended to start a new one.", "Repeat the request."))
        self._early_deaths = 0
        self._refusal = None
        self.start()

    def close(self) -> None:
        """Let the worker end and take no more requests; what was pending fails."""
        self._refusal = WorkerFailure("The client was closed.", "Call `restart` to go on.")
        self._part(self._refusal)
        self._set_state(WorkerState("closed"))

    def _set_state(self, state: WorkerState) -> None:
        self.state = state
        if self._on_state is not None:
            call = self._on_state
            self.soon(lambda: call(state))

    def _lose(self, error: ProtoSAMError) -> None:
        """Give the worker up: end it, and settle all that was asked of it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        self._early_deaths += self.state.ready is None
        if isinstance(error, ProtocolMismatch):
            self._refusal = error
        elif self._early_deaths >= MAX_EARLY_DEATHS:
            self._refusal = WorkerFailure(
                f"The worker ended {self._early_deaths} times in a row before it was ready. "
                f"The last time: {error.message}",
                error.next_step or "Mend the cause, then start the worker again.",
            )
        self._settle_all(error)
        self._set_state(WorkerState("refused" if self._refusal else "stopped", str(error)))

    def _part(self, error: ProtoSAMError) -> None:
        """Let the worker end by itself, and settle all that was asked of it."""
        process, self._process = self._process, None
        if process is not None:
            process.close_input(CLOSE_S)
        self._settle_all(error)

    def _settle_all(self, error: ProtoSAMError) -> None:
        pending, self._pending = self._pending, {}
        self._opened.clear()
        for one in pending.values():
            one.settle(error)

    # Requests.

    def send(self, pending: Pending[Any]) -> None:
        """Put a request on its way, behind its volume if the worker lacks it."""
        self.start()
        uid = _volume_of(pending.request)
        if uid is not None and uid not in self._opened:
            if uid not in self._volumes:
                pending.settle(
                    InvalidInput(
                        f"The volume {uid!r} was not given to this client.",
                        "Call `open_volume` with it first.",
                    )
                )
                return
            self._send_volume(self._volumes[uid])
        self._transmit(pending)

    def open_volume(self, volume: Volume) -> Pending[Any]:
        """Keep a volume and send it, unless this worker has it or is just getting it."""
        self.start()
        self._volumes[volume.uid] = volume
        opened = self._opened.get(volume.uid)
        if opened is None or opened.error is not None:
            opened = self._send_volume(volume)
        return opened

    def close_volume(self, uid: str) -> Pending[Any]:
        """Forget a volume at both ends."""
        self._volumes.pop(uid, None)
        pending: Pending[Any] = Pending(self, messages.CloseVolume(uid))
        if self._opened.pop(uid, None) is not None:
            self._transmit(pending)
        else:
            pending.settle(messages.VolumeClosed(uid))
        return pending

    def _send_volume(self, volume: Volume) -> Pending[Any]:
        request = messages.OpenVolume(volume.uid, volume.voxels, volume.affine)
        opened: Pending[Any] = Pending(self, request)
        if self._transmit(opened):
            self._opened[volume.uid] = opened
        return opened

    def _transmit(self, pending: Pending[Any]) -> bool:
        if self._process is None:
            pending.settle(self._refusal or WorkerFailure("The worker does not run."))
            return False
        pending.request_id = next(self._ids)
        try:
            buffers = encode(messages.request_frame(pending.request_id, pending.request))
        except ProtoSAMError as error:
            pending.settle(error)
            return False
        self._pending[pending.request_id] = pending
        self._process.send(buffers)
        return True

    # What the worker says.

    def _handle(self, process: Channel, event: Frame | RefusedFrame | Ended) -> None:
        if process is not self._process:
            return  # the last words of a worker that was given up before
        if isinstance(event, Ended):
            self._lose(event.error or died(event.exit_code, self.log))
        elif isinstance(event, RefusedFrame):
            self._refused(event.request_id, event.error)
        else:
            try:
                reply = messages.parse_reply(event)
            except WorkerFailure as error:
                self._refused(event.request_id, error)
            else:
                self._take(event.request_id, reply)

    def _refused(self, request_id: int, error: ProtoSAMError) -> None:
        """Something that cannot be read: its request fails, or the worker is given up."""
        if isinstance(error, ProtocolMismatch) or self.state.hello is None:
            self._lose(error)
        elif (pending := self._pending.pop(request_id, None)) is not None:
            pending.settle(error)
        else:
            self._lose(error)

    def _take(self, request_id: int, reply: messages.Reply) -> None:
        if self.state.hello is None and not isinstance(reply, messages.Hello):
            self._lose(WorkerFailure("The program that was started is not a ProtoSAM worker."))
        elif request_id == 0:
            self._take_unasked(reply)
        elif (pending := self._pending.get(request_id)) is None:
            if reply.KIND in messages.INTERIM:
                return  # of a request that was given up while this was on its way
            self.log.note(f"(a {reply.KIND!r} reply to the unknown request {request_id} came)")
        elif isinstance(reply, messages.Progress):
            pending.report(reply)
        elif pending.request.hears(reply):
            pending.hand_out(reply)
        else:
            del self._pending[request_id]
            self._settle(pending, reply)

    def _take_unasked(self, reply: messages.Reply) -> None:
        state = self.state
        if isinstance(reply, messages.Hello):
            self._set_state(WorkerState(state.phase, state.text, reply, state.ready))
        elif isinstance(reply, messages.Progress):
            self._set_state(WorkerState(state.phase, reply.text, state.hello, state.ready))
        elif isinstance(reply, messages.Ready):
            self._early_deaths = 0
            self._set_state(WorkerState("ready", " ".join(reply.notes), state.hello, reply))
        elif isinstance(reply, messages.Failed):
            self._lose(reply.exception())
        else:
            self._lose(WorkerFailure(f"The worker sent a {reply.KIND!r} reply to no request."))

    def _settle(self, pending: Pending[Any], reply: messages.Reply) -> None:
        if isinstance(reply, messages.Failed):
            if not (reply.error == messages.VOLUME_NOT_OPEN and self._sent_again(pending)):
                pending.settle(reply.exception())
        elif isinstance(reply, messages.Cancelled):
            pending.settle(reply.exception())
        elif isinstance(reply, pending.request.ANSWER):
            if isinstance(reply, messages.VolumeOpened):
                for uid in reply.closed:
                    self._opened.pop(uid, None)
            pending.settle(reply)
            if isinstance(reply, messages.Goodbye):
                self._part(WorkerDied("The worker was shut down.", "Repeat the request."))
                self._set_state(WorkerState("stopped"))
        else:
            error = WorkerFailure(
                f"The worker answered {pending.request.VERB!r} with a {reply.KIND!r} reply."
            )
            pending.settle(error)
            self._lose(error)

    def _sent_again(self, pending: Pending[Any]) -> bool:
        """Deal with a request whose volume the worker lacks; False if it must simply fail."""
        uid = _volume_of(pending.request)
        if uid is None or uid not in self._volumes or pending.repeats > 0:
            return False
        opened = self._opened.get(uid)
        if opened is not None and opened.error is not None:
            del self._opened[uid]
            pending.settle(opened.error)
        elif self._is_outdated(pending):
            pending.settle(Cancelled(f"The request was given up ({messages.SUPERSEDED})."))
        else:
            if opened is not None and opened.request_id < pending.request_id:
                del self._opened[uid]
            pending.repeats += 1
            self.send(pending)
        return True

    def _is_outdated(self, pending: Pending[Any]) -> bool:
        target = getattr(pending.request, "target", "")
        return bool(target) and any(
            one.request_id > pending.request_id and getattr(one.request, "target", "") == target
            for one in self._pending.values()
        )


def _volume_of(request: messages.Request) -> str | None:
    return request.volume_uid if isinstance(request, messages.AboutVolume) else None
