"""Writing to a client on a thread of its own, so that one that does not read holds up nobody.

Rules
-----
* What waits is limited: beyond `WAITING_BYTES` the one who writes waits, and gives up when nothing
  moves for as long as the stream itself would.
* A stream that breaks takes nothing more; who writes is told with the next write.
"""

from __future__ import annotations

import threading
from collections import deque

from protosam.wire.tls import STALL_S, SecureStream

WAITING_BYTES = 64 << 20
"""A mask of 800 slices of 512 x 512 takes 26 MB."""


class Mailing:
    """Buffers on their way to a stream.

    Parameters
    ----------
    stream : SecureStream
        Written to from the thread of this object alone.
    """

    def __init__(self, stream: SecureStream) -> None:
        self._stream = stream
        self._changed = threading.Condition()
        self._waiting: deque[memoryview] = deque()
        self._nbytes = 0
        self._ends = self._broken = False
        self._thread = threading.Thread(target=self._run, name="protosam writer", daemon=True)
        self._thread.start()

    def write(self, data: memoryview) -> int:
        """Take a buffer, which must not change any more; return its length.

        Raises
        ------
        OSError
            The stream is broken, or the other end does not read.
        """
        with self._changed:
            moved = self._changed.wait_for(
                lambda: self._nbytes <= WAITING_BYTES or self._broken or self._ends, STALL_S
            )
            self._broken = self._broken or not moved
            if self._broken or self._ends:
                raise BrokenPipeError("the client takes no more replies")
            self._waiting.append(data)
            self._nbytes += len(data)
            self._changed.notify_all()
            return len(data)

    def close(self, limit_s: float) -> None:
        """Take nothing more, and wait until all is written, but not longer than this."""
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        self._thread.join(max(0.0, limit_s))

    def _run(self) -> None:
        while (data := self._next()) is not None:
            try:
                self._stream.write(data)
            except (OSError, ValueError):  # a closed stream is a ValueError to some of its parts
                with self._changed:
                    self._broken = True
                    self._changed.notify_all()
                return
            with self._changed:
                self._nbytes -= len(data)
                self._changed.notify_all()

    def _next(self) -> memoryview | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ends or self._broken)
            return self._waiting.popleft() if self._waiting and not self._broken else None
