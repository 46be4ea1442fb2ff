"""A connection to a worker that listens elsewhere, at the host's end: the same as a process.

Rules
-----
* It offers what `WorkerProcess` offers: buffers out, frames in, and one `Ended` after all else.
* Connecting, reading and writing happen on daemon threads of this object; nothing waits on the
  caller's.
* A connection that is lost is a worker that died: the next request makes a new one.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from queue import SimpleQueue

from protosam.errors import BrokenFrame, ProtoSAMError, WorkerDied, WorkerFailure
from protosam.wire.frames import FrameDecoder
from protosam.wire.process import REPLY_LIMITS, Ended, Events
from protosam.wire.tls import STALL_S, SecureStream, ServerAddress, client_context, show_token

_STEP = "Check host, port and network, and that the worker runs there."


class ServerConnection:
    """One connection, from start to end.

    Parameters
    ----------
    address : ServerAddress
    events : SimpleQueue
        Gets (this object, frame or `Ended`), in the order of the stream.
    """

    def __init__(self, address: ServerAddress, events: Events) -> None:
        self._address = address
        self._events = events
        self._outbox: SimpleQueue[Iterator[memoryview] | None] = SimpleQueue()
        self._decoder = FrameDecoder(REPLY_LIMITS)
        self._lock = threading.Lock()
        self._stream: SecureStream | None = None
        self._unwanted = False
        self.received = 0
        threading.Thread(target=self._run, name="protosam reader", daemon=True).start()

    @property
    def inside_frame(self) -> bool:
        """Whether a frame has begun to arrive and not ended."""
        return self._decoder.inside_frame

    def send(self, buffers: Iterator[memoryview]) -> None:
        """Write these buffers after all that was sent before; returns at once."""
        self._outbox.put(buffers)

    def close_input(self, kill_after_s: float) -> None:
        """Say that nothing more comes once all is written; end it if that takes too long."""
        self._outbox.put(None)
        timer = threading.Timer(kill_after_s, self.kill)
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        """End the connection now; harmless when it has ended."""
        with self._lock:
            self._unwanted = True
            if self._stream is not None:
                self._stream.close()

    def _run(self) -> None:
        try:
            stream = self._connect()
        except ProtoSAMError as error:
            self._events.put((self, Ended(None, error)))
            return
        except (OSError, ValueError) as error:  # what is no name of a host is a ValueError
            self._events.put((self, Ended(None, self._not_reached(error))))
            return
        writer = threading.Thread(
            target=self._write, args=(stream,), name="protosam writer", daemon=True
        )
        writer.start()
        end = self._read(stream)
        stream.close()
        self._outbox.put(None)
        self._events.put((self, Ended(None, end)))

    def _connect(self) -> SecureStream:
        address = self._address
        context = client_context(address.ca_file)
        plain = socket.create_connection((address.host, address.port), STALL_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            stream = self._stream = SecureStream(plain, context, address.host)
            if self._unwanted:
                stream.close()
        try:
            stream.shake_hands()
            show_token(stream, address)
        except (OSError, ValueError, ProtoSAMError):
            stream.close()
            raise
        return stream

    def _not_reached(self, error: OSError | ValueError) -> ProtoSAMError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return WorkerFailure(
                f"The certificate of {self._address} is not trusted: {error.verify_message}.",
                "Give the certificate, or that of its authority, as --tls-ca FILE.",
            )
        if isinstance(error, ssl.SSLError):
            return WorkerFailure(
                f"What listens at {self._address} does not speak TLS 1.3.", "Check host and port."
            )
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return WorkerDied(f"The worker at {self._address} cannot be reached: {why}.", _STEP)

    def _read(self, stream: SecureStream) -> ProtoSAMError:
        lost = WorkerDied(
            f"The connection to the worker at {self._address} was lost.", "Repeat the request."
        )
        while True:
            try:
                count = stream.readinto(self._decoder.buffer())
                if count is None:
                    continue
                if not count:
                    return lost
                self.received += count
                frame = self._decoder.filled(count)
            except BrokenFrame as error:
                return error
            except (OSError, ValueError):
                return lost  # a closed stream is a ValueError to some of its parts
            if frame is not None:
                self._events.put((self, frame))

    def _write(self, stream: SecureStream) -> None:
        # A connection that breaks is seen by the reader, which tells.
        with contextlib.suppress(OSError):
            while (buffers := self._outbox.get()) is not None:
                for buffer in buffers:
                    stream.write(buffer)
            stream.end_writing()
