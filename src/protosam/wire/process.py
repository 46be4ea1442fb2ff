"""The worker process at the host's end: buffers out, frames in, and one end.

Rules
-----
* Nothing here waits on the caller's thread: starting, reading, writing, reaping and killing happen
  on daemon threads of this object, and what they find goes into one queue.
* Exactly one `Ended` comes from each process, after everything else that it said.
* A stream that is no longer made of frames ends the process.
* It knows frames, not what they say.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, Protocol

from protosam.errors import BrokenFrame, ProtoSAMError, WorkerDied
from protosam.wire.frames import Frame, FrameDecoder, Limits, RefusedFrame

LOG_LINES = 200
"""Lines of the worker's output that are kept in memory."""

LOG_LINE_BYTES = 4096
"""Of longer lines the end is kept."""

LOG_FILE_BYTES = 4 << 20
"""A log file that has grown beyond this is put aside as `.old` when a worker starts."""

REPLY_LIMITS = Limits(payload_bytes=1 << 30)
"""The largest reply is the packed mask of 2048 x 2048 x 2048 voxels."""

REAP_S = 0.3
"""How long a worker that has closed its stream may take to exit before it is killed."""

LOG_WAIT_S = 0.2
"""How long the last log lines of a dead worker are waited for; a child of it may hold them open."""

PIPE_BYTES = 1 << 20
"""Size asked for the pipes where the system allows it: fewer switches for a volume."""


@dataclass(frozen=True)
class Ended:
    """The process is gone."""

    exit_code: int | None
    """As `subprocess` gives it; None if it was never started."""
    error: ProtoSAMError | None
    """Why this end ended it; None if it went by itself."""


class Channel(Protocol):
    """A worker as the exchange sees it: a process, or a connection to one that listens."""

    received: int
    """Bytes that have come from it."""

    @property
    def inside_frame(self) -> bool:
        """Whether a frame has begun to arrive and not ended."""
        ...

    def send(self, buffers: Iterator[memoryview]) -> None:
        """Write these buffers after all that was sent before; returns at once."""
        ...

    def close_input(self, kill_after_s: float) -> None:
        """Let it end by itself once it has read everything; end it if it does not."""
        ...

    def kill(self) -> None:
        """End it now; harmless when it has ended."""
        ...


Events = SimpleQueue[tuple[Channel, Frame | RefusedFrame | Ended]]
"""What channels say, in the order of their streams."""


class LogTail:
    """The last lines that workers wrote, and all of them in a file if one is named."""

    def __init__(self, path: Path | None = None) -> None:
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        self._path = path

    def lines(self, count: int = LOG_LINES) -> list[str]:
        """Last lines, oldest first."""
        return list(self._lines)[-count:]

    def note(self, line: str) -> None:
        """Add a line of the host's own."""
        self._lines.append(line)

    def follow(self, stream: FileIO) -> None:
        """Take lines until the stream ends; a file that cannot be written is said in the tail."""
        # The stream is read raw: a buffered one that is locked by a daemon thread while the
        # interpreter ends is a fatal error of Python.
        rest = b""
        with contextlib.ExitStack() as stack:
            stack.enter_context(stream)
            file = self._open_file(stack)
            while chunk := stream.read(1 << 16):
                *lines, rest = (rest + chunk).split(b"\n")
                self._lines.extend(_text(line) for line in lines)
                rest = rest[-LOG_LINE_BYTES:]
                file = self._copy(chunk, file)
        if rest:
            self._lines.append(_text(rest))

    def _copy(self, chunk: bytes, file: BinaryIO | None) -> BinaryIO | None:
        if file is not None:
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:
                self.note(f"(the log file {self._path} cannot be written: {error})")
                return None
        return file

    def _open_file(self, stack: contextlib.ExitStack) -> BinaryIO | None:
        if self._path is None:
            return None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists() and self._path.stat().st_size > LOG_FILE_BYTES:
                self._path.replace(self._path.with_name(self._path.name + ".old"))
            return stack.enter_context(self._path.open("ab"))
        except OSError as error:
            self.note(f"(the log file {self._path} cannot be opened: {error})")
            return None


class WorkerProcess:
    """One run of the worker, from start to end.

    Parameters
    ----------
    command : sequence of str
        Program and arguments.
    events : SimpleQueue
        Gets (this object, frame or `Ended`), in the order of the stream.
    log : LogTail
        Gets what the process writes to its error stream.
    env : mapping, optional
        Environment of the process; None = the host's own.
    """

    def __init__(
        self,
        command: Sequence[str],
        events: Events,
        log: LogTail,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._command = list(command)
        self._events = events
        self._log = log
        self._env = None if env is None else dict(env)
        self._outbox: SimpleQueue[Iterator[memoryview] | None] = SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._unwanted = False
        self._decoder = FrameDecoder(REPLY_LIMITS)
        self.received = 0
        _thread(self._run, "reader")

    @property
    def inside_frame(self) -> bool:
        """Whether a frame has begun to arrive and not ended."""
        return self._decoder.inside_frame

    def send(self, buffers: Iterator[memoryview]) -> None:
        """Write these buffers after all that was sent before; returns at once."""
        self._outbox.put(buffers)

    def close_input(self, kill_after_s: float) -> None:
        """Let the process end by itself once it has read everything; kill it if it does not."""
        self._outbox.put(None)
        timer = threading.Timer(kill_after_s, self.kill)
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        """End the process and its children now; harmless when it has ended."""
        with self._lock:
            self._unwanted = True
            process = self._process
            if process is None or process.poll() is not None:
                return
            if sys.platform == "win32":
                process.kill()
            else:
                # It leads its own session. A launcher that started the real Python goes with it.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)

    def _run(self) -> None:
        try:
            process = self._start()
        except OSError as error:
            died = WorkerDied(
                f"The worker could not be started: {error}.",
                f"Check that {self._command[0]} is there and may be run.",
            )
            self._events.put((self, Ended(None, died)))
            return
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
        if not (
            isinstance(stdin, FileIO) and isinstance(stdout, FileIO) and isinstance(stderr, FileIO)
        ):
            raise TypeError("subprocess gave no raw pipes although they were asked for")
        writer = _thread(lambda: self._write(stdin), "writer")
        log = _thread(lambda: self._log.follow(stderr), "log")
        with stdout:
            broken = self._read(stdout)
        if broken is not None:
            self.kill()
        code = self._reap(process)
        self._outbox.put(None)
        writer.join(LOG_WAIT_S)
        log.join(LOG_WAIT_S)
        self._events.put((self, Ended(code, broken)))

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._unwanted:
                raise ProcessLookupError("it was ended before it had begun")
            self._process = subprocess.Popen(
                self._command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._env,
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                pipesize=PIPE_BYTES,
            )
            return self._process

    def _read(self, stream: FileIO) -> BrokenFrame | None:
        while True:
            try:
                count = stream.readinto(self._decoder.buffer())
                if not count:
                    return None
                self.received += count
                frame = self._decoder.filled(count)
            except BrokenFrame as error:
                return error
            except OSError as error:
                return BrokenFrame(f"The worker's stream cannot be read: {error}.")
            if frame is not None:
                self._events.put((self, frame))

    def _write(self, stream: FileIO) -> None:
        # A pipe that breaks means that the process ends; the reader sees that and tells.
        with contextlib.suppress(OSError), stream:
            while (buffers := self._outbox.get()) is not None:
                for buffer in buffers:
                    rest = buffer
                    while rest:
                        rest = rest[stream.write(rest) :]

    def _reap(self, process: subprocess.Popen[bytes]) -> int:
        try:
            return process.wait(REAP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return process.wait()


def _text(line: bytes) -> str:
    return line[-LOG_LINE_BYTES:].decode("utf-8", errors="replace").rstrip()


def _thread(target: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=target, name=f"protosam {name}", daemon=True)
    thread.start()
    return thread
