"""The same queue on many machines: a `batch.Pool` of Ray actors.

Rules
-----
* Every actor holds one model and does one series at a time; paths travel, voxels do not, so all
  machines must see source and results under the same paths. Nothing is put into the object store
  but tasks and rows: 0.45 KB for each slice of a series.
* A series whose machine or process is lost is tried again elsewhere; results count by the same
  rename as on one machine, so two attempts cannot both count.
* One that takes too long costs its actor, and a new one takes its place. Memory is Ray's to watch.
* Ray comes with the extra `ray`; it is asked for here and nowhere else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from protosam.batch.lanes import ATTEMPTS, START_S, Limits, row_after
from protosam.batch.manifest import Row
from protosam.batch.queue import Ended, Task, Work
from protosam.errors import InvalidInput, MissingExtra, ProtoSAMError, WorkerFailure, from_kind

try:
    import ray
    from ray.exceptions import RayError
except ImportError:  # the extra is not installed; `RayPool` says so
    ray = None

STARTS = 3
"""How often a cluster of this machine is tried; Ray waits 30 s for a node, which a busy machine can
exceed."""

LOCAL = "local"
"""Address that starts a cluster on this machine for as long as the batch lasts."""


@dataclass(eq=False)
class _Seat:
    """One actor and what it does."""

    actor: Any
    ready: Any
    """Reference to the answer of `prepare`; None once it has come."""
    begun: float
    task: Task[Any] | None = None
    answer: Any = None


class _Lane:
    """What runs in an actor."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def prepare(self) -> tuple[str, str, str] | None:
        """Load the model; what went wrong as kind, message and next step."""
        try:
            self._work.prepare()
        except ProtoSAMError as error:
            return error.kind, error.message, error.next_step
        return None

    def carry_out(self, task: Task[Any]) -> Row:
        """Do a task; whatever is wrong with its series becomes its row."""
        return row_after(self._work, task)


class RayPool:
    """A `batch.Pool` on a Ray cluster.

    Parameters
    ----------
    work : Work
        Pickled once for each actor.
    address : str
        Of the cluster: 'local', 'auto', or 'ray://HOST:PORT'.
    count : int
        Number of actors.
    limits : Limits, optional
        The time of a series; a limit of memory is refused.
    gpus : float
        Of each actor; 0 = none, 0.5 = two actors share one.

    Raises
    ------
    MissingExtra
        Ray is not installed.
    InvalidInput
        A count, limit or number of GPUs that cannot be.
    WorkerFailure
        The cluster does not answer.
    """

    def __init__(
        self,
        work: Work,
        address: str = LOCAL,
        count: int = 1,
        limits: Limits | None = None,
        *,
        gpus: float = 0.0,
    ) -> None:
        if ray is None:
            raise MissingExtra("Ray is not installed.", "Install it: pip install 'protosam[ray]'.")
        if count < 1 or gpus < 0:
            raise InvalidInput(
                f"{count} workers with {gpus} GPUs each cannot be had.",
                "Give at least one worker and no less than 0 GPUs.",
            )
        self._limits = limits or Limits()
        if self._limits.memory_bytes is not None:
            raise InvalidInput(
                "Memory of a series is not limited on Ray.", "Leave --memory-gb out; Ray watches."
            )
        self._started_here = not ray.is_initialized()
        if self._started_here:
            _connect(address, count)
        self._kind = ray.remote(_Lane).options(num_cpus=1, num_gpus=gpus or None)
        self._work, self._count = ray.put(work), count
        self._seats: list[_Seat] = []
        self._attempts: dict[str, int] = {}

    def expect(self, tasks: int) -> None:
        """Begin actors for so many tasks: they load the model while others look for series."""
        wanted = min(tasks, self._count)
        while len(self._seats) < wanted:
            self._new_seat()
        idle = [seat for seat in self._seats if seat.task is None]
        for seat in idle[: len(self._seats) - wanted]:
            self._dropped(seat)

    @property
    def has_room(self) -> bool:
        """Whether an actor is free, or may still be made."""
        return sum(seat.task is not None for seat in self._seats) < self._count

    def start(self, task: Task[Any]) -> None:
        """Give a task to an actor."""
        seat = next((one for one in self._seats if one.task is None), None) or self._new_seat()
        seat.task = task
        self._attempts[task.row.key] = self._attempts.get(task.row.key, 0) + 1
        if seat.ready is None:
            _hand_over(seat)

    def ended(self, wait_s: float) -> Sequence[Ended]:
        """Tasks that ended; see `batch.Pool`."""
        busy = [seat for seat in self._seats if seat.task is not None]
        ray.wait([seat.ready or seat.answer for seat in busy], timeout=wait_s)
        found = [self._look(seat) for seat in busy]
        return [Ended(row) for row in found if row is not None]

    def stop(self) -> None:
        """End all actors, and the cluster if it was started here."""
        for seat in self._seats:
            ray.kill(seat.actor, no_restart=True)
        self._seats.clear()
        if self._started_here:
            ray.shutdown()

    def _new_seat(self) -> _Seat:
        actor = self._kind.remote(self._work)
        seat = _Seat(actor, actor.prepare.remote(), time.monotonic())
        self._seats.append(seat)
        return seat

    def _look(self, seat: _Seat) -> Row | None:
        """Say what became of the task of a seat; None while it runs."""
        awaited = seat.ready or seat.answer
        if not ray.wait([awaited], timeout=0)[0]:
            return self._beyond_time(seat)
        try:
            answer = ray.get(awaited)
        except RayError as error:
            return self._after_death(seat, type(error).__name__)
        if seat.ready is None:
            seat.task, seat.answer = None, None
            return answer  # type: ignore[no-any-return]  # a Row, as `_Lane.carry_out` says
        if answer is not None:
            raise from_kind(*answer)
        seat.ready = None
        _hand_over(seat)
        return None

    def _after_death(self, seat: _Seat, kind: str) -> Row | None:
        was_ready, task = seat.ready is None, self._dropped(seat)
        if task is None:
            return None
        if not was_ready:
            raise WorkerFailure(
                f"An actor could not load the model: it was lost ({kind}).",
                "See that the machines of the cluster have ProtoSAM and the files it needs.",
            )
        if self._attempts[task.row.key] < ATTEMPTS:
            self.start(task)
            return None
        reason = f"Its process or machine was lost ({kind}), {ATTEMPTS} times in a row."
        return replace(task.row, status="failed", reason=reason)

    def _beyond_time(self, seat: _Seat) -> Row | None:
        spent_s = time.monotonic() - seat.begun
        if seat.ready is not None:
            if spent_s > START_S:
                raise WorkerFailure(
                    f"No actor was ready within {START_S:.0f} s.",
                    "See that the cluster has a free core, and the GPUs asked for.",
                )
            return None
        if spent_s <= self._limits.time_s:
            return None
        task = self._dropped(seat)
        if task is None:
            return None
        reason = f"It took more than {self._limits.time_s:g} s."
        return replace(task.row, status="failed", reason=reason, elapsed_s=spent_s)

    def _dropped(self, seat: _Seat) -> Task[Any] | None:
        ray.kill(seat.actor, no_restart=True)
        self._seats.remove(seat)
        return seat.task


def _hand_over(seat: _Seat) -> None:
    seat.begun = time.monotonic()
    seat.answer = seat.actor.carry_out.remote(seat.task)


def _connect(address: str, count: int) -> None:
    # Ray would send usage figures, listen on all addresses, and copy all that actors print.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    options: dict[str, Any] = {}
    if address == LOCAL:
        options = {
            "num_cpus": count,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
        }
    for attempt in range(STARTS if address == LOCAL else 1):
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False, **options)
        except Exception as error:  # Ray raises it itself when a node is late
            ray.shutdown()
            if attempt + 1 < STARTS and address == LOCAL:
                continue
            raise WorkerFailure(
                f"The Ray cluster at {address} does not answer ({type(error).__name__}).",
                "Check the address with `ray status`, or give --ray local.",
            ) from error
        return
