"""The queue: every series ends exactly once, whatever happens to the processes on the way.

Rules
-----
* A series ends when its row says so in the manifest. Its results count by one rename before that
  (`manifest.commit`), so what was finished when a process was killed is found again and not
  repeated, and what was not finished left nothing behind.
* A series that is refused, fails, or takes its process with it is one row, and never the end of
  the others. What would fail for all alike (no model) ends the batch, with rows still waiting.
* Who computes is a `Pool`: processes on this machine (`lanes.py`) or on many (`ray_lanes.py`).
* It knows rows and tasks, nothing of images or models.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from protosam.batch.manifest import Manifest, Row, committed

T = TypeVar("T")

POLL_S = 0.2
"""Longest time between two looks at whether to stop."""


@dataclass(frozen=True, eq=False)
class Task(Generic[T]):
    """One series to be done."""

    row: Row
    content: T
    """What the work needs; paths, never voxels."""


@dataclass(frozen=True, eq=False)
class Ended:
    """A task that came to its end in a pool."""

    row: Row
    """With its status and reason."""


class Work(Protocol):
    """What is done with a task; it is pickled and travels to whoever computes."""

    def prepare(self) -> None:
        """Load what all tasks share.

        Raises
        ------
        ProtoSAMError
            That cannot be had; no task would succeed.
        """
        ...

    def carry_out(self, task: Task[Any]) -> Row:
        """Do one task; results are committed before it returns.

        Raises
        ------
        ProtoSAMError
            What was wrong with this series.
        """
        ...


class Pool(Protocol):
    """Those who compute."""

    def expect(self, tasks: int) -> None:
        """Make ready for so many tasks at most; who would have nothing to do is sent home."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether one more task can be started."""
        ...

    def start(self, task: Task[Any]) -> None:
        """Begin a task."""
        ...

    def ended(self, wait_s: float) -> Sequence[Ended]:
        """Tasks that ended; waits so long for the first.

        Raises
        ------
        ProtoSAMError
            Nobody can compute (no model, no cluster).
        """
        ...

    def stop(self) -> None:
        """End everything at once; what runs is lost."""
        ...


@dataclass(frozen=True)
class Progress:
    """How far a batch is."""

    finished: int
    """Rows that need nothing more."""
    total: int
    running: int
    elapsed_s: float
    """Since this run began."""
    left_s: float | None
    """At the pace of this run; None before the first series has ended."""


@dataclass(frozen=True)
class Hooks:
    """How a host follows the work and ends it; both are called often and must not wait."""

    on_progress: Callable[[Progress], None] = field(default=lambda _progress: None)
    should_stop: Callable[[], bool] = field(default=lambda: False)


def run_queue(
    manifest: Manifest, tasks: Sequence[Task[Any]], pool: Pool, hooks: Hooks | None = None
) -> bool:
    """Do all tasks whose rows are open.

    Parameters
    ----------
    manifest : Manifest
        Entered; rows of unknown tasks are added to it.
    tasks : sequence of Task
    pool : Pool
        Stopped when this returns or raises.
    hooks : Hooks, optional

    Returns
    -------
    bool
        False where it was stopped; what was not done is then 'cancelled'.

    Raises
    ------
    ProtoSAMError
        Nobody can compute, or the manifest cannot be written. Rows stay as they are.
    """
    manifest.enrol(task.row for task in tasks)
    _adopt(manifest)
    own = hooks or Hooks()
    try:
        if own.should_stop():
            # The tasks may be a part of the source only, so what is missing is not gone.
            manifest.record([_cancelled(row) for row in manifest.rows if row.is_open])
            return False
        waiting = _open(manifest, tasks)
        pool.expect(len(waiting))
        return _Run(manifest, pool, own, waiting).to_the_end()
    finally:
        pool.stop()


def _adopt(manifest: Manifest) -> None:
    """Take up results that were whole when the process before was killed."""
    found = [committed(manifest.folder, row) for row in manifest.rows if row.is_open]
    if any(found):
        manifest.record([row for row in found if row is not None])


def _open(manifest: Manifest, tasks: Sequence[Task[Any]]) -> deque[Task[Any]]:
    by_key = {task.row.key: task for task in tasks}
    waiting = deque[Task[Any]]()
    gone = []
    for row in manifest.rows:
        if row.is_open and row.key in by_key:
            waiting.append(replace(by_key[row.key], row=row))
        elif row.is_open:
            reason = "It was in the source before and is no longer there."
            gone.append(replace(row, status="failed", reason=reason))
    if gone:
        manifest.record(gone)
    return waiting


def _cancelled(row: Row) -> Row:
    return replace(row, status="cancelled", reason="The batch was stopped before its end.")


class _Run:
    def __init__(
        self, manifest: Manifest, pool: Pool, hooks: Hooks, waiting: deque[Task[Any]]
    ) -> None:
        self.manifest, self.pool, self.hooks, self.waiting = manifest, pool, hooks, waiting
        self.running: dict[str, Task[Any]] = {}
        self.begun = time.monotonic()
        self.ended = 0

    def to_the_end(self) -> bool:
        self._show()
        while self.waiting or self.running:
            if self.hooks.should_stop():
                self._cancel()
                return False
            while self.waiting and self.pool.has_room:
                task = self.waiting.popleft()
                self.running[task.row.key] = task
                self.pool.start(task)
            self._take(self.pool.ended(POLL_S))
        return True

    def _take(self, ended: Sequence[Ended]) -> None:
        if not ended:
            return
        # One that was killed for its time may have been through a moment before.
        rows = [
            one.row
            if one.row.status == "done"
            else committed(self.manifest.folder, one.row) or one.row
            for one in ended
        ]
        self.manifest.record(rows)
        for row in rows:
            self.running.pop(row.key, None)
        self.ended += len(rows)
        self._show()

    def _cancel(self) -> None:
        self.pool.stop()
        left = [task.row for task in (*self.running.values(), *self.waiting)]
        rows = [committed(self.manifest.folder, row) or _cancelled(row) for row in left]
        self.manifest.record(rows)

    def _show(self) -> None:
        elapsed_s = time.monotonic() - self.begun
        left = len(self.waiting) + len(self.running)
        self.hooks.on_progress(
            Progress(
                finished=sum(not row.is_open for row in self.manifest.rows),
                total=len(self.manifest.rows),
                running=len(self.running),
                elapsed_s=elapsed_s,
                left_s=elapsed_s / self.ended * left if self.ended else None,
            )
        )
