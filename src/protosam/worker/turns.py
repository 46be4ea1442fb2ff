"""Turns: several conversations share one device, one job of each after the other.

Rules
-----
* Who has had a job comes last; among jobs of one conversation its own queue decides.
* Prewarming comes after everything else of anybody, and stops for it. What is quick is done
  between the steps of what is long, whoever asked for either.
* It is safe to use from several threads; one of them, the device's, takes jobs.
"""

from __future__ import annotations

import functools
import threading
from collections import deque

from protosam.wire.messages import Prewarm
from protosam.worker.conversation import Conversation
from protosam.worker.device import do_job
from protosam.worker.engine import Engine
from protosam.worker.jobs import Job


class Turns:
    """The conversations that wait for the device."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Conversation] = deque()
        self._running: Conversation | None = None
        self._closed = False

    def join(self, talk: Conversation) -> None:
        """Let a conversation have turns."""
        with self._changed:
            self._waiting.append(talk)

    def leave(self, talk: Conversation) -> None:
        """Take a conversation out; its queue is closed by its owner."""
        with self._changed:
            if talk in self._waiting:
                self._waiting.remove(talk)

    def put(self, talk: Conversation, job: Job) -> list[Job]:
        """Queue a job of a conversation, as `JobQueue.put` does."""
        dropped = talk.jobs.put(job)
        with self._changed:
            if self._running is not None and not isinstance(job.request, Prewarm):
                self._running.jobs.make_way()
            self._changed.notify_all()
        return dropped

    def close(self) -> None:
        """Give out no more turns."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def serve(self, engine: Engine) -> None:
        """Work until closed; this thread owns the device."""
        while (turn := self._next()) is not None:
            talk, job = turn
            do_job(
                engine, job, talk.jobs, talk.outbox, do_quick=functools.partial(self._quick, engine)
            )
            with self._changed:
                self._running = None

    def _quick(self, engine: Engine) -> None:
        """Do quick jobs of everybody, between two steps of a long one: one each."""
        with self._changed:
            talks = list(self._waiting)
        for talk in talks:
            job = talk.jobs.take_between()
            if job is not None:
                do_job(engine, job, talk.jobs, talk.outbox)

    def _next(self) -> tuple[Conversation, Job] | None:
        with self._changed:
            while not self._closed:
                turn = self._ready(prewarm=False) or self._ready(prewarm=True)
                if turn is not None:
                    self._running = turn[0]
                    return turn
                self._changed.wait()
            return None

    def _ready(self, *, prewarm: bool) -> tuple[Conversation, Job] | None:
        for talk in list(self._waiting):
            job = talk.jobs.take(prewarm=prewarm)
            if job is not None:
                self._waiting.remove(talk)
                self._waiting.append(talk)
                return talk, job
        return None
