"""Jobs: what waits for the device, in which order, and what makes way for what.

Rules
-----
* Everything is done in the order of arrival, except that prewarming comes last, and that what is
  quick is done between the steps of examples (`LONG`), which may take a minute.
* A newer prediction of a target supersedes an older one, waiting or running; newer is what has at
  least the same generation. So does a newer application of examples. A newer prewarm of a volume
  supersedes an older one.
* A running prewarm stops when anything else arrives.
* A run that teaches takes the device for a moment only and goes on beside it, one at a
  time: a second one is to be refused while a first is wanted, and waits for one that is ending.
* A job is stopped by its event, which it looks at between its steps. Who stopped it answers it at
  once: the host need not wait for the end of a step, which may be the encoding of a large image.
* It knows no engine and no wire; it is safe to use from several threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from protosam.geometry import Volume
from protosam.wire.messages import (
    SUPERSEDED,
    Adapt,
    ApplyExample,
    LoadModel,
    MakeExample,
    Predict,
    Prewarm,
    Request,
)

CANCELLED = "cancelled"
SHUTDOWN = "shutdown"

LONG = (MakeExample, ApplyExample, LoadModel)
"""Requests that are not done between the steps of another one."""


@dataclass(eq=False)
class Job:
    """One request on its way through the device."""

    request_id: int
    """Number on the wire."""
    request: Request
    """What was asked."""
    volume: Volume | None = None
    """The volume it is about, held so that closing it does not take it away."""
    reason: str = ""
    """Why nobody wants it any more; empty while its answer is wanted."""
    stopped: threading.Event = field(default_factory=threading.Event)
    """Set as soon as it should stop: it is not wanted, or it has to make way."""

    def drop(self, reason: str) -> None:
        """Make it stop, unwanted."""
        self.reason = reason
        self.stopped.set()


class JobQueue:
    """Jobs that wait, the one that runs, and those that go on beside it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[Job] = []
        self._running: Job | None = None
        self._interrupted: Job | None = None
        self._beside: list[Job] = []
        self._closed = False

    def __len__(self) -> int:
        with self._changed:
            return len(self._known())

    @property
    def teaches(self) -> bool:
        """Whether a run that teaches is wanted, waiting or going on."""
        with self._changed:
            return any(isinstance(one.request, Adapt) and not one.reason for one in self._known())

    def put(self, job: Job) -> list[Job]:
        """Add a job.

        Returns
        -------
        list of Job
            Those that are not wanted any more because of it, each with its reason, to be answered
            by the caller. The new one itself is among them if it is the outdated one, or if the
            queue is closed.
        """
        with self._changed:
            if self._closed:
                job.drop(SHUTDOWN)
                return [job]
            rivals = [one for one in self._known() if not one.reason and _is_rival(one, job)]
            if any(_generation(one) > _generation(job) for one in rivals):
                job.drop(SUPERSEDED)
                return [job]
            dropped = self._drop(lambda one: one in rivals, SUPERSEDED)
            running = self._running
            if running is not None and _is_prewarm(running) and not _is_prewarm(job):
                running.stopped.set()
            self._waiting.append(job)
            self._changed.notify_all()
            return dropped

    def next(self) -> Job | None:
        """Wait for a job and start it; None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            job = min(self._waiting, key=_is_prewarm)
            self._waiting.remove(job)
            self._running = job
            return job

    def take(self, *, prewarm: bool) -> Job | None:
        """Start the first job that is a prewarm, or that is none; None if none waits."""
        with self._changed:
            job = next((one for one in self._waiting if _is_prewarm(one) == prewarm), None)
            if job is not None and not self._closed:
                self._waiting.remove(job)
                self._running = job
                return job
            return None

    def make_way(self) -> None:
        """Stop a running prewarm, for a job of somebody else."""
        with self._changed:
            if self._running is not None and _is_prewarm(self._running):
                self._running.stopped.set()

    def take_between(self) -> Job | None:
        """Start the next job between two steps of the one that runs, if it is a quick one.

        `finish` goes back to the one that was interrupted. Jobs do not overtake each other: what
        waits behind a long one waits on.
        """
        with self._changed:
            waiting = [one for one in self._waiting if not _is_prewarm(one)]
            if self._closed or not waiting or isinstance(waiting[0].request, LONG):
                return None
            self._waiting.remove(waiting[0])
            self._interrupted, self._running = self._running, waiting[0]
            return waiting[0]

    def go_beside(self, job: Job) -> None:
        """Let the job that runs go on without the device."""
        with self._changed:
            self._running, self._interrupted = self._interrupted, None
            self._beside.append(job)

    def await_beside(self, job: Job) -> None:
        """Wait until what went beside the device earlier has ended, or this job is dropped."""
        with self._changed:
            self._changed.wait_for(lambda: self._beside[0] is job or job.stopped.is_set())

    def finish(self, job: Job) -> bool:
        """Say that a job has ended; return whether its answer is still wanted."""
        with self._changed:
            if job in self._beside:
                self._beside.remove(job)
                self._changed.notify_all()
            else:
                self._running, self._interrupted = self._interrupted, None
            return not job.reason

    def cancel(self, request_id: int) -> list[Job]:
        """Drop a job; return it alone, to be answered, or nothing if it is not there."""
        with self._changed:
            return self._drop(lambda one: one.request_id == request_id, CANCELLED)

    def close(self) -> list[Job]:
        """Drop everything and take no more; return the jobs that are to be answered."""
        with self._changed:
            self._closed = True
            dropped = self._drop(lambda _: True, SHUTDOWN)
            self._changed.notify_all()
            return dropped

    def _known(self) -> list[Job]:
        held = [one for one in (self._running, self._interrupted) if one]
        return self._waiting + held + self._beside

    def _drop(self, unwanted: Callable[[Job], bool], reason: str) -> list[Job]:
        """Drop jobs that are still wanted, waiting or running; return them."""
        dropped = [one for one in self._known() if not one.reason and unwanted(one)]
        self._waiting = [one for one in self._waiting if one not in dropped]
        for one in dropped:
            one.drop(reason)
        self._changed.notify_all()
        return dropped


def _is_rival(old: Job, new: Job) -> bool:
    """Whether only one of the two is still wanted."""
    if isinstance(old.request, Predict) and isinstance(new.request, Predict):
        return bool(new.request.target) and old.request.target == new.request.target
    if isinstance(old.request, ApplyExample) and isinstance(new.request, ApplyExample):
        return bool(new.request.target) and old.request.target == new.request.target
    if isinstance(old.request, Prewarm) and isinstance(new.request, Prewarm):
        return old.request.volume_uid == new.request.volume_uid
    return False


def _is_prewarm(job: Job) -> bool:
    return isinstance(job.request, Prewarm)


def _generation(job: Job) -> int:
    return job.request.generation if isinstance(job.request, Predict | ApplyExample) else 0
