"""A run that teaches, in a process of its own beside the device.

Rules
-----
* The process is spawned, gives way to everything else that wants the processor, and has one thread
  less than the worker, so that clicks are answered meanwhile.
* A pipe holds it: a word on it means stop, which is looked at between steps; its end means leave at
  once. So the process never outlives the worker, even if that is killed.
* What does not stop within `GRACE_S` is ended. Nothing is lost but the steps since the last
  checkpoint: the same request goes on from there.
* What it prints lands in the worker's log: it inherits the descriptors that the worker has left
  (`descriptors`), never those of the wire.
* It is told what to do by a value that is pickled; what that needs is imported over there.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

import psutil

from protosam.errors import Cancelled, MissingExtra, WorkerFailure
from protosam.wire.messages import Adapt, Adapted, Failed, Progress, Taught
from protosam.worker.device import PROGRESS_S, failure_of
from protosam.worker.engine import Follow
from protosam.worker.teaching_plan import TeachingPlan

GRACE_S = 5.0
"""How long it may take to stop: a step of the recipe takes about 1 s on two cores."""

END_S = 2.0
"""How long it may take to leave once the pipe is closed."""

TICK_S = 0.1
"""How often it is looked whether the run is still wanted."""

TAUGHT_S = 0.1
"""Steps are told at most ten times a second; the last one always."""

NICE = 10
"""How far the process gives way, of 19."""

STARTING = "starting the process that teaches"
"""What is told before anything else; its libraries take some seconds."""

_STOP = b"stop"


@dataclass(frozen=True)
class Teaching:
    """What is to be taught, as work: can be pickled, and is carried out by being called."""

    plan: TeachingPlan

    def __call__(self, follow: Follow) -> Adapted:
        """Teach, and judge.

        Raises
        ------
        MissingExtra
            A library is not installed.
        ProtoSAMError
            What `learn.gated_run.adapt` raises.
        """
        try:
            # Late, because this module is the worker's, too, and must not make it wait for peft.
            from protosam.worker.learning import carry_out  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"Adapting needs the library {error.name}, which the worker's Python lacks.",
                "Install peft and MONAI there, then try again.",
            ) from error
        return carry_out(self.plan, follow)


@dataclass(frozen=True)
class OwnProcess:
    """A course that is carried out in a process of its own.

    Attributes
    ----------
    work : callable
        Can be pickled; gets how it is followed, and may raise anything.
    """

    work: Callable[[Follow], Adapted]

    def __call__(self, follow: Follow) -> Adapted:
        """Start the process, pass on what it says, and return what came of it.

        Raises
        ------
        Cancelled
            It was stopped.
        WorkerFailure
            It ended without an answer.
        ProtoSAMError
            What the work raises.
        """
        if follow.should_stop():
            raise Cancelled("Stopped before it began.", "Ask again when there is time.")
        follow.on_progress(0.0, STARTING)
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        work = pickle.dumps(self.work)
        process = context.Process(target=serve, args=(theirs, work), daemon=True)
        process.start()
        theirs.close()
        try:
            return _attend(process, ours, follow)
        finally:
            ours.close()
            process.join(END_S)
            if process.exitcode is None:
                process.kill()
                process.join()


def _attend(process: SpawnProcess, pipe: Connection, follow: Follow) -> Adapted:
    """Pass on what a process says until it answers or ends."""
    asked_s: float | None = None
    while True:
        if asked_s is None and follow.should_stop():
            asked_s = time.monotonic()
            with suppress(OSError):  # gone already, which is seen below
                pipe.send(_STOP)
        if asked_s is not None and time.monotonic() - asked_s > GRACE_S:
            raise Cancelled("It did not stop by itself and was ended.", "It can go on later.")
        try:
            said = pipe.recv() if pipe.poll(TICK_S) else None
        except (EOFError, OSError) as error:
            raise _death(process, was_asked=asked_s is not None) from error
        if isinstance(said, Progress):
            follow.on_progress(said.fraction, said.text)
        elif isinstance(said, Taught):
            follow.on_taught(said)
        elif isinstance(said, Failed):
            raise said.exception()
        elif isinstance(said, Adapted):
            return said


def _death(process: SpawnProcess, *, was_asked: bool) -> Cancelled | WorkerFailure:
    process.join(END_S)
    if was_asked:
        return Cancelled("The run was stopped.", "It can go on later.")
    code = process.exitcode
    by_signal = code is not None and code < 0
    how = f"was ended by signal {-code}" if code and by_signal else f"ended with code {code}"
    return WorkerFailure(
        f"The process that teaches {how}; the version in use is the same as before.",
        "Ask for the same again: it goes on from its last checkpoint. If it ends again, close "
        "other programs, since memory may be short, and look into the worker's log.",
    )


def serve(pipe: Connection, work: bytes) -> None:
    """Do the work and answer; what the process runs.

    Parameters
    ----------
    pipe : Connection
        To the worker.
    work : bytes
        Pickled; from the worker that has started this process, and from nobody else.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the worker decides
    _give_way()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    stopped = threading.Event()
    threading.Thread(target=_hear, args=(pipe, stopped), daemon=True).start()
    teller = _Teller(pipe)
    follow = Follow(teller.progress, stopped.is_set, on_taught=teller.taught)
    answer: Adapted | Failed
    try:
        answer = pickle.loads(work)(follow)
    except Exception as error:  # noqa: BLE001 - the border of the process: a fault becomes a sentence
        answer = failure_of(error, Adapt.VERB)
    pipe.send(answer)


def _hear(pipe: Connection, stopped: threading.Event) -> None:
    """Hear the worker: a word means stop, the end of the pipe means leave."""
    while True:
        try:
            pipe.recv()
        except (EOFError, OSError):
            os._exit(1)
        stopped.set()


def _give_way() -> None:
    # Before any library starts threads: they inherit it.
    if sys.platform == "win32":
        psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
    else:
        os.nice(NICE)


class _Teller:
    """Tells the worker how far it is, not too often."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._next_progress_s = self._next_taught_s = 0.0

    def progress(self, fraction: float, text: str) -> None:
        """Tell how far the run is."""
        now = time.monotonic()
        if now >= self._next_progress_s:
            self._next_progress_s = now + PROGRESS_S
            self._pipe.send(Progress(fraction, text))

    def taught(self, step: Taught) -> None:
        """Tell a step."""
        now = time.monotonic()
        if now >= self._next_taught_s or step.step == step.steps:
            self._next_taught_s = now + TAUGHT_S
            self._pipe.send(step)
