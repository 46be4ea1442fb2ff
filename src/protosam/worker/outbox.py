"""The worker's end of the wire for writing: whole frames, from any thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from protosam.wire.frames import encode
from protosam.wire.messages import INTERIM, Reply, reply_frame

_LOG = logging.getLogger(__name__)


class Writes(Protocol):
    """An unbuffered stream, as `io.FileIO` is one."""

    def write(self, data: memoryview, /) -> int:
        """Write some of it; return how many bytes."""
        ...


class Outbox:
    """Writes one frame after another.

    Parameters
    ----------
    stream : Writes
        Where to; unbuffered.
    """

    def __init__(self, stream: Writes) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._last_said = False
        self.served = 0
        """Answers sent; progress, partial answers and what was not asked for are not counted."""

    def send(
        self, request_id: int, reply: Reply, *, unless: Callable[[], bool] | None = None
    ) -> int:
        """Write a reply. A host that is gone is logged; the reader finds the end of its stream.

        Parameters
        ----------
        request_id : int
        reply : Reply
        unless : () -> bool, optional
            Asked when it is this reply's turn; True drops it. Who makes this true before sending a
            reply of its own can be sure that nothing comes behind that.

        Returns
        -------
        int
            Bytes written.

        Raises
        ------
        BrokenFrame
            The reply cannot be put into a frame; nothing was written.
        """
        buffers = encode(reply_frame(request_id, reply))
        written = 0
        with self._lock:
            if self._last_said or (unless is not None and unless()):
                return 0
            self.served += request_id > 0 and reply.KIND not in INTERIM
            try:
                for buffer in buffers:
                    rest = buffer
                    while rest:
                        rest = rest[self._stream.write(rest) :]
                    written += len(buffer)
            except OSError as error:
                _LOG.warning("The host takes no more replies: %s", error)
        return written

    def send_last(self, request_id: int, reply: Reply) -> None:
        """Write a reply after which nothing more is said: later ones are dropped."""
        self.send(request_id, reply)
        with self._lock:
            self._last_said = True
