"""The server: hears requests, answers the quick ones itself and queues the rest for the device.

Rules
-----
* `Hello` goes out before anything heavy is imported; requests are heard from then on and wait.
* The reading thread never computes: volumes are taken in, cancels and questions about the worker
  itself are answered there, at once, whatever the device does.
* The end of the host's stream ends the worker: what runs is stopped, and if it does not stop
  within `GRACE_S` the process leaves without it.
* A request that cannot be read is answered by a failure, and the next one is heard. Only where the
  place in the stream is lost does the worker say so under id 0 and end, with exit code 2.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Callable
from io import FileIO

import psutil

from protosam import __version__
from protosam.errors import BrokenFrame, WorkerFailure
from protosam.geometry import Volume
from protosam.wire import messages
from protosam.wire.frames import Frame, FrameDecoder, RefusedFrame
from protosam.worker.device import failure_of, run_jobs
from protosam.worker.engine import Engine
from protosam.worker.jobs import Job, JobQueue
from protosam.worker.outbox import Outbox
from protosam.worker.volumes import VolumeStore

GRACE_S = 1.0
"""How long a running job may take to stop once the host is gone."""

_LOG = logging.getLogger(__name__)


class Server:
    """One worker's conversation with its host.

    Parameters
    ----------
    wire_in, wire_out : FileIO
        The host's frames and the worker's, both unbuffered.
    started_s : float
        Monotonic time of the worker's first line.
    leave : callable
        Ends the process at once with an exit code; `os._exit`, except in tests.
    """

    def __init__(
        self,
        wire_in: FileIO,
        wire_out: FileIO,
        *,
        started_s: float,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._wire_in = wire_in
        self._outbox = Outbox(wire_out)
        self._started_s = started_s
        self._leave = leave
        self._jobs = JobQueue()
        self._volumes = VolumeStore()
        self._engine: Engine | None = None
        self._exit_code = 0
        self._goodbye_id = 0
        self._handlers: dict[type[messages.Request], Callable[[int, messages.Request], None]] = {
            messages.Greeting: self._greet,
            messages.OpenVolume: self._open,
            messages.Cancel: self._cancel,
            messages.Stats: self._tell_stats,
            messages.Shutdown: self._shut_down,
        }

    def start(self) -> None:
        """Say hello and hear requests from now on."""
        self._greet(0, messages.Greeting(""))
        threading.Thread(target=self._hear, name="protosam reader", daemon=True).start()

    def serve(self, build_engine: Callable[[Callable[[str], None]], Engine]) -> int:
        """Build the engine and work until the host ends it; this thread owns the device.

        Parameters
        ----------
        build_engine : callable
            Gets a function to tell the host what is being done.

        Returns
        -------
        int
            Exit code: 0 = the host ended it, 1 = no engine, 2 = the stream was broken.
        """
        try:
            engine = build_engine(lambda text: self._outbox.send(0, messages.Progress(0.0, text)))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the host gets a sentence
            self._outbox.send(0, failure_of(error, "start"))
            return 1
        self._engine = engine
        stats = engine.stats()
        elapsed_s = time.monotonic() - self._started_s
        self._outbox.send(0, messages.Ready(stats.model, stats.device, elapsed_s, engine.notes()))
        run_jobs(engine, self._jobs, self._outbox)
        self._say_goodbye()
        return self._exit_code

    def _hear(self) -> None:
        try:
            self._hear_frames()
        except BrokenFrame as error:
            self._exit_code = 2
            self._outbox.send_last(0, messages.Failed.of(error))
        except OSError as error:
            _LOG.warning("The host's stream cannot be read: %s", error)
        self._refuse(self._jobs.close())
        time.sleep(GRACE_S)
        self._say_goodbye()
        self._leave(self._exit_code)

    def _hear_frames(self) -> None:
        decoder = FrameDecoder()
        while not self._goodbye_id:
            count = self._wire_in.readinto(decoder.buffer())
            if not count:
                return
            frame = decoder.filled(count)
            if isinstance(frame, RefusedFrame):
                self._outbox.send(frame.request_id, messages.Failed.of(frame.error))
            elif frame is not None:
                self._take(frame)

    def _take(self, frame: Frame) -> None:
        try:
            request = messages.parse_request(frame)
            handler = self._handlers.get(type(request), self._enqueue)
            handler(frame.request_id, request)
        except Exception as error:  # noqa: BLE001 - the dispatch loop: a fault ends the request, not the worker
            self._outbox.send(frame.request_id, failure_of(error, frame.kind))

    def _greet(self, request_id: int, _: messages.Request) -> None:
        python = platform.python_version()
        self._outbox.send(request_id, messages.Hello(__version__, python, os.getpid()))

    def _open(self, request_id: int, request: messages.Request) -> None:
        if not isinstance(request, messages.OpenVolume):
            raise WorkerFailure(f"{request.VERB!r} does not bring a volume.")
        volume = Volume(request.voxels, request.affine, request.uid)
        closed = self._volumes.add(volume)
        self._outbox.send(request_id, messages.VolumeOpened(volume.uid, closed))

    def _cancel(self, request_id: int, request: messages.Request) -> None:
        if not isinstance(request, messages.Cancel):
            raise WorkerFailure(f"{request.VERB!r} does not cancel anything.")
        dropped = self._jobs.cancel(request.cancels)
        self._outbox.send(request_id, messages.CancelTaken(found=bool(dropped)))
        self._refuse(dropped)

    def _tell_stats(self, request_id: int, _: messages.Request) -> None:
        engine = None if self._engine is None else self._engine.stats()
        report = messages.StatsReport(
            memory_mb=psutil.Process().memory_info().rss / 1e6,
            cache_mb=0.0 if engine is None else engine.cache_bytes / 1e6,
            volumes=self._volumes.uids(),
            volumes_mb=self._volumes.nbytes() / 1e6,
            model="" if engine is None else engine.model,
            device="" if engine is None else engine.device,
            waiting=len(self._jobs),
            served=self._outbox.served,
            uptime_s=time.monotonic() - self._started_s,
        )
        self._outbox.send(request_id, report)

    def _shut_down(self, request_id: int, _: messages.Request) -> None:
        self._goodbye_id = request_id

    def _enqueue(self, request_id: int, request: messages.Request) -> None:
        volume = None
        if isinstance(request, messages.Predict | messages.Prewarm):
            volume = self._volumes.get(request.volume_uid)
            if volume is None:
                failed = messages.Failed(
                    messages.VOLUME_NOT_OPEN,
                    f"The volume {request.volume_uid!r} is not open in the worker.",
                    "Send it again, then repeat the request.",
                )
                self._outbox.send(request_id, failed)
                return
        if isinstance(request, messages.Predict) and volume is not None:
            request.prompts.check_inside(volume.shape_kji)
        if isinstance(request, messages.CloseVolume):
            self._volumes.remove(request.uid)
        self._refuse(self._jobs.put(Job(request_id, request, volume)))

    def _refuse(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._outbox.send(job.request_id, messages.Cancelled(job.reason))

    def _say_goodbye(self) -> None:
        request_id, self._goodbye_id = self._goodbye_id, 0
        if request_id:
            self._outbox.send_last(request_id, messages.Goodbye())
