"""One host's conversation: its volumes, its jobs, and what is answered without the device.

Rules
-----
* Everything here runs on the thread that reads the host's stream and never computes: volumes are
  taken in, cancels and questions about the worker itself are answered at once.
* A request that cannot be read is answered by a failure, and the next one is heard.
* What belongs to the device becomes a job; who does it is not known here.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable

import psutil

from protosam import __version__
from protosam.errors import WorkerFailure
from protosam.geometry import Volume
from protosam.wire import messages
from protosam.wire.frames import Frame, RefusedFrame
from protosam.worker.device import failure_of
from protosam.worker.engine import Engine
from protosam.worker.jobs import Job, JobQueue
from protosam.worker.outbox import Outbox
from protosam.worker.volumes import VolumeStore


class Conversation:
    """What one host has asked for and has open.

    Parameters
    ----------
    outbox : Outbox
        The way to the host.
    started_s : float
        Monotonic time of the worker's first line.
    volumes : VolumeStore, optional
        Where its volumes are kept; None = one of its own.
    """

    def __init__(
        self, outbox: Outbox, *, started_s: float, volumes: VolumeStore | None = None
    ) -> None:
        self.outbox = outbox
        self.jobs = JobQueue()
        self.engine: Engine | None = None
        self.goodbye_id = 0
        """Id of the request to end; 0 until it comes."""
        self._started_s = started_s
        self._volumes = volumes or VolumeStore()
        self._handlers: dict[type[messages.Request], Callable[[int, messages.Request], None]] = {
            messages.Greeting: self._greet,
            messages.OpenVolume: self._open,
            messages.Cancel: self._cancel,
            messages.Stats: self._tell_stats,
            messages.Shutdown: self._shut_down,
        }

    def greet(self) -> None:
        """Say hello."""
        self._greet(0, messages.Greeting(""))

    def tell_ready(self, engine: Engine) -> None:
        """Say that requests are worked on from now on."""
        self.engine = engine
        stats = engine.stats()
        elapsed_s = time.monotonic() - self._started_s
        self.outbox.send(0, messages.Ready(stats.model, stats.device, elapsed_s, engine.notes()))

    def hear(self, frame: Frame | RefusedFrame) -> None:
        """Take what the host has said."""
        if isinstance(frame, RefusedFrame):
            self.outbox.send(frame.request_id, messages.Failed.of(frame.error))
            return
        try:
            request = messages.parse_request(frame)
            handler = self._handlers.get(type(request), self._enqueue)
            handler(frame.request_id, request)
        except Exception as error:  # noqa: BLE001 - the dispatch loop: a fault ends the request, not the worker
            self.outbox.send(frame.request_id, failure_of(error, frame.kind))

    def give_up(self) -> None:
        """Drop all jobs, and take no more."""
        self._refuse(self.jobs.close())

    def say_goodbye(self) -> None:
        """Answer the request to end, if there was one; nothing is said after that."""
        request_id, self.goodbye_id = self.goodbye_id, 0
        if request_id:
            self.outbox.send_last(request_id, messages.Goodbye())

    def put(self, job: Job) -> list[Job]:
        """Queue a job; return those that are not wanted any more because of it."""
        return self.jobs.put(job)

    def volume_of(self, request: messages.OpenVolume) -> Volume:
        """Volume as it is kept."""
        return Volume(request.voxels, request.affine, request.uid)

    def volume_for(self, uid: str) -> Volume | None:
        """Volume as the engine gets it; None if it is not open."""
        return self._volumes.get(uid)

    def request_for(self, request_id: int, request: messages.Request) -> messages.Request:  # noqa: ARG002 - for those that share an engine
        """Request as the engine gets it."""
        return request

    def _greet(self, request_id: int, _: messages.Request) -> None:
        python = platform.python_version()
        self.outbox.send(request_id, messages.Hello(__version__, python, os.getpid()))

    def _open(self, request_id: int, request: messages.Request) -> None:
        if not isinstance(request, messages.OpenVolume):
            raise WorkerFailure(f"{request.VERB!r} does not bring a volume.")
        volume = self.volume_of(request)
        closed = self._volumes.add(volume)
        self.outbox.send(request_id, messages.VolumeOpened(volume.uid, closed))

    def _cancel(self, request_id: int, request: messages.Request) -> None:
        if not isinstance(request, messages.Cancel):
            raise WorkerFailure(f"{request.VERB!r} does not cancel anything.")
        dropped = self.jobs.cancel(request.cancels)
        self.outbox.send(request_id, messages.CancelTaken(found=bool(dropped)))
        self._refuse(dropped)

    def _tell_stats(self, request_id: int, _: messages.Request) -> None:
        engine = None if self.engine is None else self.engine.stats()
        report = messages.StatsReport(
            memory_mb=psutil.Process().memory_info().rss / 1e6,
            cache_mb=0.0 if engine is None else engine.cache_bytes / 1e6,
            volumes=self._volumes.uids(),
            volumes_mb=self._volumes.nbytes() / 1e6,
            model="" if engine is None else engine.model,
            device="" if engine is None else engine.device,
            waiting=len(self.jobs),
            served=self.outbox.served,
            uptime_s=time.monotonic() - self._started_s,
        )
        self.outbox.send(request_id, report)

    def _shut_down(self, request_id: int, _: messages.Request) -> None:
        self.goodbye_id = request_id

    def _enqueue(self, request_id: int, request: messages.Request) -> None:
        if isinstance(request, messages.Adapt) and self.jobs.teaches:
            raise WorkerFailure(
                "The worker teaches an adapter already.", "Wait for that run, or stop it."
            )
        volume = None
        if isinstance(request, messages.AboutVolume):
            volume = self.volume_for(request.volume_uid)
            if volume is None:
                failed = messages.Failed(
                    messages.VOLUME_NOT_OPEN,
                    f"The volume {request.volume_uid!r} is not open in the worker.",
                    "Send it again, then repeat the request.",
                )
                self.outbox.send(request_id, failed)
                return
        if isinstance(request, messages.Predict) and volume is not None:
            request.prompts.check_inside(volume.shape_kji)
        if isinstance(request, messages.CloseVolume):
            self._volumes.remove(request.uid)
        self._refuse(self.put(Job(request_id, self.request_for(request_id, request), volume)))

    def _refuse(self, jobs: list[Job]) -> None:
        for job in jobs:
            self.outbox.send(job.request_id, messages.Cancelled(job.reason))
