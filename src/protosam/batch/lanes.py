"""Processes on this machine, each with a model of its own, that do one series after the other.

Rules
-----
* A lane is a process of its own behind a pipe; whatever kills it costs the series it had, and a new
  lane takes the next one. A series whose process died by itself gets a second attempt.
* Time and memory of a series are watched from here and end its process; the time for loading the
  model does not count. Memory is resident memory: torch reserves far more addresses than it uses.
* A lane ends by itself when this process does, even by SIGKILL.
* Each lane is spawned and imports for itself; or, on Linux, lanes are forked from a server that
  `begin_early` starts: it imports what they need once, while this process imports its own, and has
  no threads that a fork would lose.
* Errors of this package travel as text; of any other only its kind and place, because messages of
  libraries quote headers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import psutil

from protosam.batch.manifest import Row, Status
from protosam.batch.queue import Ended, Task, Work
from protosam.errors import InvalidInput, ProtoSAMError, WorkerFailure, from_kind

ATTEMPTS = 2
"""How often a series may take its process with it."""

START_S = 900.0
"""Longest time for loading the model."""

STOP_S = 2.0
"""How long a lane without work may take to end before it is killed."""

Start = Literal["spawn", "forkserver"]
"""How lanes are started."""

NEEDED = "protosam.batch.ways"
"""Module that lanes import before all else; its libraries take seconds."""

_THREADS = "OMP_NUM_THREADS"


def begin_early(count: int) -> Start:
    """Start what lanes can be forked from, before this process imports anything that takes long.

    Parameters
    ----------
    count : int
        Number of lanes that there will be; they share the cores.

    Returns
    -------
    {"forkserver", "spawn"}
        For `LanePool`.
    """
    if sys.platform != "linux":
        return "spawn"
    multiprocessing.set_forkserver_preload([NEEDED])
    with _threads(count):  # OpenMP reads it once, when torch is imported
        forkserver.ensure_running()
    return "forkserver"


@dataclass(frozen=True)
class Limits:
    """What one series may take."""

    time_s: float = 3600.0
    memory_bytes: int | None = None
    """Resident memory of its process; None = no limit."""

    def __post_init__(self) -> None:
        if not self.time_s > 0 or (self.memory_bytes is not None and self.memory_bytes <= 0):
            raise InvalidInput(
                f"A series may take {self.time_s} s and {self.memory_bytes} bytes.",
                "Give limits above 0.",
            )


@dataclass(eq=False)
class _Lane:
    process: BaseProcess
    pipe: Connection
    born: float
    ready: bool = False
    task: Task[Any] | None = None
    begun: float = field(default_factory=time.monotonic)


class LanePool:
    """A `batch.Pool` of processes.

    Parameters
    ----------
    work : Work
        Pickled once for each lane.
    count : int
        Number of lanes.
    limits : Limits, optional
    start : {"spawn", "forkserver"}
        The latter where `begin_early` said so.
    """

    def __init__(
        self,
        work: Work,
        count: int = 1,
        limits: Limits | None = None,
        *,
        start: Start = "spawn",
    ) -> None:
        if count < 1:
            raise InvalidInput(f"{count} workers cannot do anything.", "Give at least one.")
        self._work, self._count, self._start = work, count, start
        self._limits = limits or Limits()
        self._lanes: list[_Lane] = []
        self._attempts: dict[str, int] = {}

    def expect(self, tasks: int) -> None:
        """Begin lanes for so many tasks: they load the model while others look for series."""
        wanted = min(tasks, self._count)
        while len(self._lanes) < wanted:
            self._new_lane()
        idle = [lane for lane in self._lanes if lane.task is None]
        self._end(idle[: len(self._lanes) - wanted])

    @property
    def has_room(self) -> bool:
        """Whether a lane is free, or may still be made."""
        return sum(lane.task is not None for lane in self._lanes) < self._count

    def start(self, task: Task[Any]) -> None:
        """Give a task to a lane."""
        lane = next((one for one in self._lanes if one.task is None), None) or self._new_lane()
        lane.task = task
        self._attempts[task.row.key] = self._attempts.get(task.row.key, 0) + 1
        if lane.ready:
            _hand_over(lane)

    def ended(self, wait_s: float) -> Sequence[Ended]:
        """Tasks that ended; see `batch.Pool`."""
        wait([lane.pipe for lane in self._lanes if lane.task is not None], timeout=wait_s)
        found = [self._look(lane) for lane in list(self._lanes) if lane.task is not None]
        return [Ended(row) for row in found if row is not None]

    def stop(self) -> None:
        """End all lanes: those that work or still load by force, others by closing their pipes."""
        self._end(list(self._lanes))

    def _end(self, lanes: Sequence[_Lane]) -> None:
        for lane in lanes:
            if lane.task is not None or not lane.ready:
                lane.process.kill()
            lane.pipe.close()
        for lane in lanes:
            lane.process.join(STOP_S)
            if lane.process.exitcode is None:
                lane.process.kill()
                lane.process.join()
            self._lanes.remove(lane)

    def _new_lane(self) -> _Lane:
        context: Any = multiprocessing.get_context(self._start)
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, self._work), daemon=True)
        with _threads(self._count):
            process.start()
        theirs.close()
        lane = _Lane(process, ours, time.monotonic())
        self._lanes.append(lane)
        return lane

    def _look(self, lane: _Lane) -> Row | None:
        """Say what became of the task of a lane; None while it runs."""
        try:
            while lane.pipe.poll():
                answer = lane.pipe.recv()
                if isinstance(answer, _Unready):
                    raise from_kind(answer.kind, answer.message, answer.next_step)
                if isinstance(answer, Row):
                    lane.task = None
                    return answer
                lane.ready = True
                _hand_over(lane)
        except (EOFError, ConnectionResetError):
            return self._after_death(lane)
        return self._beyond_limits(lane)

    def _after_death(self, lane: _Lane) -> Row | None:
        lane.process.join()
        task, code, was_ready = lane.task, lane.process.exitcode, lane.ready
        self._drop(lane)
        if task is None:
            return None
        how = _in_words(code)
        if not was_ready:
            raise WorkerFailure(
                f"A process could not load the model: it {how}.", "Run `protosam doctor`."
            )
        if self._attempts[task.row.key] < ATTEMPTS:
            self.start(task)
            return None
        return replace(
            task.row, status="failed", reason=f"Its process {how}, {ATTEMPTS} times in a row."
        )

    def _beyond_limits(self, lane: _Lane) -> Row | None:
        task, limits = lane.task, self._limits
        spent_s = time.monotonic() - lane.begun
        if task is None:
            return None
        if not lane.ready:
            if time.monotonic() - lane.born > START_S:
                raise WorkerFailure(f"Loading the model took more than {START_S:.0f} s.")
            return None
        reason = ""
        if spent_s > limits.time_s:
            reason = f"It took more than {limits.time_s:g} s."
        elif limits.memory_bytes is not None and _resident(lane.process) > limits.memory_bytes:
            reason = f"It took more than {limits.memory_bytes / 2**20:.0f} MiB of memory."
        if not reason:
            return None
        lane.process.kill()
        lane.process.join()
        self._drop(lane)
        return replace(task.row, status="failed", reason=reason, elapsed_s=spent_s)

    def _drop(self, lane: _Lane) -> None:
        lane.pipe.close()
        self._lanes.remove(lane)


def _hand_over(lane: _Lane) -> None:
    """Send a lane its task; only once it listens, since a long task would wait in the pipe."""
    lane.begun = time.monotonic()
    # One that has died meanwhile is seen by `ended`, which starts the task again.
    with suppress(BrokenPipeError, ConnectionResetError):
        lane.pipe.send(lane.task)


@dataclass(frozen=True)
class _Ready:
    """The model is loaded."""


@dataclass(frozen=True)
class _Unready:
    kind: str
    message: str
    next_step: str


def serve(pipe: Connection, work: Work) -> None:
    """Do tasks from a pipe until it closes; what a lane runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work.prepare()
    except ProtoSAMError as error:
        pipe.send(_Unready(error.kind, error.message, error.next_step))
        return
    pipe.send(_Ready())
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            os._exit(0)  # taking the libraries down in order takes seconds, and nothing is open
        pipe.send(row_after(work, task))


def row_after(work: Work, task: Task[Any]) -> Row:
    """Row of a task after it was tried; this is the border that one bad series does not cross."""
    begun = time.monotonic()
    status: Status = "failed"
    try:
        return work.carry_out(task)
    except InvalidInput as error:
        status, reason = "refused", str(error)
    except ProtoSAMError as error:
        reason = str(error)
    except MemoryError:
        reason = "It does not fit into the memory."
    except Exception as error:  # noqa: BLE001 - one series must not end the others
        reason = f"A fault of the program: {_place_of(error)}."
    elapsed_s = time.monotonic() - begun
    return replace(task.row, status=status, reason=reason, elapsed_s=elapsed_s)


def _place_of(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _resident(process: BaseProcess) -> int:
    """Bytes of memory of a process and those that it started; 0 if it is gone."""
    try:
        one = psutil.Process(process.pid)
        family = [one, *one.children(recursive=True)]
        return sum(int(member.memory_info().rss) for member in family)
    except psutil.NoSuchProcess:
        return 0


def _in_words(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by signal {-code}"
    return f"ended with code {code}"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Share the cores among lanes that are started meanwhile, unless the user has decided."""
    if _THREADS in os.environ:
        yield
        return
    os.environ[_THREADS] = str(max(1, (os.cpu_count() or 1) // count))
    try:
        yield
    finally:
        del os.environ[_THREADS]
