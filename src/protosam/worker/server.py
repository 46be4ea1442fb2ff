"""The server on pipes: one host, one conversation, and the end of both.

Rules
-----
* `Hello` goes out before anything heavy is imported; requests are heard from then on and wait.
* The end of the host's stream ends the worker: what runs is stopped, and if it does not stop
  within `GRACE_S` the process leaves without it.
* Where the place in the stream is lost, the worker says so under id 0 and ends, with exit code 2.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from io import FileIO

from protosam.errors import BrokenFrame
from protosam.wire import messages
from protosam.wire.frames import FrameDecoder
from protosam.worker.conversation import Conversation
from protosam.worker.device import failure_of, run_jobs
from protosam.worker.engine import Engine
from protosam.worker.outbox import Outbox

GRACE_S = 1.0
"""How long a running job may take to stop once the host is gone."""

_LOG = logging.getLogger(__name__)


class Server:
    """One worker's conversation with its host.

    Parameters
    ----------
    wire_in, wire_out : FileIO
        The host's frames and the worker's, both unbuffered.
    started_s : float
        Monotonic time of the worker's first line.
    leave : callable
        Ends the process at once with an exit code; `os._exit`, except in tests.
    """

    def __init__(
        self,
        wire_in: FileIO,
        wire_out: FileIO,
        *,
        started_s: float,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._wire_in = wire_in
        self._outbox = Outbox(wire_out)
        self._talk = Conversation(self._outbox, started_s=started_s)
        self._leave = leave
        self._exit_code = 0

    def start(self) -> None:
        """Say hello and hear requests from now on."""
        self._talk.greet()
        threading.Thread(target=self._hear, name="protosam reader", daemon=True).start()

    def serve(self, build_engine: Callable[[Callable[[str], None]], Engine]) -> int:
        """Build the engine and work until the host ends it; this thread owns the device.

        Parameters
        ----------
        build_engine : callable
            Gets a function to tell the host what is being done.

        Returns
        -------
        int
            Exit code: 0 = the host ended it, 1 = no engine, 2 = the stream was broken.
        """
        try:
            engine = build_engine(self._tell)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the host gets a sentence
            self._outbox.send(0, failure_of(error, "start"))
            return 1
        self._talk.tell_ready(engine)
        run_jobs(engine, self._talk.jobs, self._outbox)
        self._talk.say_goodbye()
        return self._exit_code

    def _tell(self, text: str) -> None:
        self._outbox.send(0, messages.Progress(0.0, text))

    def _hear(self) -> None:
        try:
            self._hear_frames()
        except BrokenFrame as error:
            self._exit_code = 2
            self._outbox.send_last(0, messages.Failed.of(error))
        except OSError as error:
            _LOG.warning("The host's stream cannot be read: %s", error)
        self._talk.give_up()
        time.sleep(GRACE_S)
        self._talk.say_goodbye()
        self._leave(self._exit_code)

    def _hear_frames(self) -> None:
        decoder = FrameDecoder()
        while not self._talk.goodbye_id:
            count = self._wire_in.readinto(decoder.buffer())
            if not count:
                return
            frame = decoder.filled(count)
            if frame is not None:
                self._talk.hear(frame)
