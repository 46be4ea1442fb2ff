"""What a host knows of its worker, and how long it waits for it.

Owns the states, the limits on silence, and the sentence about a death.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Literal

from protosam.errors import ProtoSAMError, WorkerDied, WorkerFailure
from protosam.wire.process import Channel, LogTail
from protosam.wire.replies import Hello, Ready

HELLO_LIMIT_S = 60.0
"""Silence before the first word; a virus scanner may take half a minute over Python and numpy."""

STALL_LIMIT_S = 10.0
"""Silence in the middle of a frame. The worker writes frames whole: it can only be stuck."""

LONGEST_STEP_S = 0.1
"""Silence is counted only while the host drains, at most this much each time: in a host that rests
(Slicer between two timer events) the reading thread does not run either."""

DEATH_LINES = 12
"""Log lines in the message of a death; `WorkerClient.log_tail` has more."""


@dataclass(frozen=True)
class WorkerState:
    """What is known of the worker."""

    phase: Literal["stopped", "starting", "ready", "refused", "closed"]
    """With "refused" it will not be started until `restart` is called; `text` says why."""
    text: str = ""
    """A sentence for the user, or empty."""
    hello: Hello | None = None
    """What it said first; None until then."""
    ready: Ready | None = None
    """What it said when it had loaded its model; None until then."""


class Patience:
    """Counts the silence of one worker."""

    def __init__(self) -> None:
        self._received = -1
        self._silent_s = 0.0
        self._last_s = 0.0

    def watch(self, process: Channel, now_s: float, state: WorkerState) -> ProtoSAMError | None:
        """Look at the worker; say why it must be given up, if it must.

        Parameters
        ----------
        process : Channel
            The worker.
        now_s : float
            Monotonic seconds.
        state : WorkerState
            What is known of it.
        """
        if process.received != self._received:
            self._received, self._silent_s = process.received, 0.0
        else:
            self._silent_s += min(now_s - self._last_s, LONGEST_STEP_S)
        self._last_s = now_s
        if state.hello is None and self._silent_s > HELLO_LIMIT_S:
            return WorkerFailure(
                f"The worker has said nothing for {HELLO_LIMIT_S:.0f} s.",
                "Check that its command starts a ProtoSAM worker.",
            )
        if process.inside_frame and self._silent_s > STALL_LIMIT_S:
            return WorkerFailure(
                f"The worker stopped in the middle of a reply for {STALL_LIMIT_S:.0f} s.",
                "Repeat the request.",
            )
        return None


def died(exit_code: int | None, log: LogTail) -> WorkerDied:
    """Error about a worker that ended by itself.

    Parameters
    ----------
    exit_code : int or None
        As `subprocess` gives it: negative for a signal.
    log : LogTail
        Its last lines go into the message.
    """
    code = str(exit_code)
    if exit_code is not None and exit_code < 0:
        known = {int(one): one.name for one in signal.Signals}
        code = f"{exit_code}, {known.get(-exit_code, 'unknown signal')}"
    lines = log.lines(DEATH_LINES)
    last = "Its last lines were:\n" + "\n".join(lines) if lines else "It left no log lines."
    return WorkerDied(
        f"The worker ended by itself (exit code {code}). {last}\n",
        "Repeat the request: a new worker will be started.",
    )
