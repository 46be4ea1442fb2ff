"""The device's thread: one job after another, and one answer to each.

Rules
-----
* Every job that is taken is answered once, whatever happens in the engine. One that was dropped
  meanwhile has had its answer, `Cancelled`; what comes of it is thrown away.
* Between the steps of a job that may take a minute, what is quick is done: a click is answered
  while examples are applied. All of it on this one thread: the engine is asked one thing at a time.
* A run that teaches goes on beside the device, on a thread of its own that only waits for it, and
  is answered by the same rules.
* A fault of the engine goes to the log in full and over the wire as one sentence.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import get_args

from protosam.errors import Cancelled as CancelledError
from protosam.errors import OutOfMemory, ProtoSAMError, WorkerFailure
from protosam.geometry import Volume
from protosam.wire import messages
from protosam.worker.engine import Course, Engine, Follow, Keeping, ShouldStop
from protosam.worker.jobs import CANCELLED, LONG, Job, JobQueue
from protosam.worker.outbox import Outbox

PROGRESS_S = 0.05
"""Progress is told at most twenty times a second."""

_LOG = logging.getLogger(__name__)


def run_jobs(engine: Engine, jobs: JobQueue, outbox: Outbox) -> None:
    """Work until the queue is closed.

    Parameters
    ----------
    engine : Engine
        Asked from this thread only.
    jobs : JobQueue
        Where jobs come from.
    outbox : Outbox
        Where answers go.
    """
    while (job := jobs.next()) is not None:
        do_job(engine, job, jobs, outbox)


def do_job(
    engine: Engine,
    job: Job,
    jobs: JobQueue,
    outbox: Outbox,
    *,
    do_quick: Callable[[], object] | None = None,
) -> None:
    """Do one job that was taken from a queue, and answer it if that is still wanted.

    Parameters
    ----------
    engine : Engine
    job : Job
    jobs : JobQueue
        Where it was taken from.
    outbox : Outbox
        Where its answer goes.
    do_quick : callable, optional
        Does the quick jobs that wait, between the steps of a long one; None = those of this queue.
    """

    def quick_of_this_queue() -> None:
        while (quick := jobs.take_between()) is not None:
            do_job(engine, quick, jobs, outbox)

    def should_stop() -> bool:
        if not job.stopped.is_set() and isinstance(job.request, LONG):
            (do_quick or quick_of_this_queue)()
        return job.stopped.is_set()

    progress = _Progress(outbox, job)
    request = job.request
    if isinstance(request, messages.Adapt):
        _do_beside(lambda: engine.course(request), job, jobs, progress)
        return
    _end(job, jobs, outbox, _answer(job, lambda: _perform(engine, job, progress, should_stop)))


def _do_beside(
    prepare: Callable[[], Course], job: Job, jobs: JobQueue, progress: _Progress
) -> None:
    """Begin what goes on without the device, on a thread that answers it in the end."""
    try:
        course = prepare()
    except ProtoSAMError as error:
        _end(job, jobs, progress.outbox, messages.Failed.of(error))
        return
    jobs.go_beside(job)

    def attend() -> None:
        jobs.await_beside(job)
        follow = Follow(progress, job.stopped.is_set, on_taught=progress.part)
        _end(job, jobs, progress.outbox, _answer(job, lambda: course(follow)))

    threading.Thread(target=attend, name="protosam learning", daemon=True).start()


def _end(job: Job, jobs: JobQueue, outbox: Outbox, reply: messages.Reply) -> None:
    """Answer a job that has ended, if that is still wanted."""
    if not jobs.finish(job):
        return
    try:
        outbox.send(job.request_id, reply)
    except ProtoSAMError as error:
        _LOG.error("The answer %r cannot be sent: %s", reply.KIND, error)
        outbox.send(job.request_id, messages.Failed.of(WorkerFailure(str(error))))


def failure_of(error: Exception, doing: str) -> messages.Failed:
    """Failure as it goes over the wire; what is not an error of this package goes to the log.

    Parameters
    ----------
    error : Exception
        What was raised.
    doing : str
        Verb, for the sentence.
    """
    if isinstance(error, ProtoSAMError):
        return messages.Failed.of(error)
    if isinstance(error, MemoryError):
        return messages.Failed.of(
            OutOfMemory(
                f"There was not enough memory for {doing!r}.",
                "Close other volumes or programs, or choose a smaller model.",
            )
        )
    _LOG.error("%r failed", doing, exc_info=error)
    return messages.Failed.of(
        WorkerFailure(
            f"{doing!r} failed in the worker ({type(error).__name__}).",
            "Try again; if it fails again, report it with the worker's log.",
        )
    )


def _answer(job: Job, perform: Callable[[], messages.Reply]) -> messages.Reply:
    try:
        return perform()
    except CancelledError:
        if isinstance(job.request, messages.Prewarm):
            return messages.Prewarmed(0, yielded=True)
        return messages.Cancelled(job.reason or CANCELLED)
    except Exception as error:  # noqa: BLE001 - the dispatch loop: a fault ends the job, not the worker
        return failure_of(error, job.request.VERB)


def _perform(
    engine: Engine, job: Job, progress: _Progress, should_stop: ShouldStop
) -> messages.Reply:
    request, volume = job.request, job.volume
    if isinstance(request, get_args(Keeping)):
        return engine.keep(request, volume)
    if isinstance(request, messages.Models):
        return messages.ModelList(engine.models())
    if isinstance(request, messages.LoadModel):
        return engine.load(request, progress)
    if isinstance(request, messages.CloseVolume):
        engine.forget(request.uid)
        return messages.VolumeClosed(request.uid)
    if volume is not None:
        return _perform_in(volume, engine, request, progress, should_stop)
    raise WorkerFailure(f"{request.VERB!r} is not a job for the device.")


def _perform_in(
    volume: Volume,
    engine: Engine,
    request: messages.Request,
    progress: _Progress,
    should_stop: ShouldStop,
) -> messages.Reply:
    if isinstance(request, messages.Predict):
        return engine.predict(volume, request, progress, should_stop, progress.part)
    if isinstance(request, messages.MakeExample):
        return engine.make_example(volume, request, progress, should_stop)
    if isinstance(request, messages.ApplyExample):
        return engine.apply_example(volume, request, progress, should_stop, progress.part)
    if isinstance(request, messages.Prewarm):
        slices = engine.prewarm(volume, request, should_stop)
        return messages.Prewarmed(slices, yielded=should_stop())
    raise WorkerFailure(f"{request.VERB!r} is not a job for the device.")


class _Progress:
    """Tells the host how far a job is, not too often, and nothing of one that was dropped."""

    def __init__(self, outbox: Outbox, job: Job) -> None:
        self.outbox, self._job = outbox, job
        self._next_s = 0.0

    def __call__(self, fraction: float, text: str) -> None:
        now = time.monotonic()
        if now >= self._next_s:
            self._next_s = now + PROGRESS_S
            self._say(messages.Progress(min(max(fraction, 0.0), 1.0), text))

    def part(self, part: messages.Reply) -> None:
        """Pass on a part of the answer."""
        self._say(part)

    def _say(self, reply: messages.Reply) -> None:
        self.outbox.send(self._job.request_id, reply, unless=self._job.stopped.is_set)
