"""One client of a shared worker: what it may, what it shares, and what the log says of it.

Rules
-----
* A client knows its volumes by its own names for them; the engine gets them under a digest that is
  computed here, so no client can reach or spoil what the engine keeps of another's.
* "The model in memory" means the one that this client has asked for last: others may have loaded
  theirs meanwhile. Models and adapters are names here, never paths of this machine.
* Cases are not kept here and adapters not taught: their folders would be this machine's.
* Volumes beyond a limit make room for each other; one that is beyond it alone is refused.
* The log has one line a request: verb, outcome, bytes and seconds, no names and no uids.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from protosam.errors import InvalidInput, OutOfMemory
from protosam.geometry import Volume
from protosam.wire import messages
from protosam.wire.frames import Frame, RefusedFrame
from protosam.wire.learning import LEARNING_REQUESTS
from protosam.wire.messages import Reply
from protosam.worker.conversation import Conversation
from protosam.worker.engine import Engine
from protosam.worker.jobs import Job
from protosam.worker.outbox import Outbox, Writes
from protosam.worker.turns import Turns
from protosam.worker.volumes import VolumeStore

KEPT = 8
"""Choices of a model that are remembered, in case the last ones fail."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]*")
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Asked:
    verb: str
    nbytes: int
    begun_s: float
    volume_uid: str


def _nothing(_request_id: int) -> None:
    """Nobody wants to know."""


class GuestOutbox(Outbox):
    """An outbox that logs each answer.

    Parameters
    ----------
    stream : Writes
        Where to.
    number : int
        Of the connection, for the log.
    """

    def __init__(self, stream: Writes, number: int) -> None:
        super().__init__(stream)
        self._number = number
        self._asked: dict[int, _Asked] = {}
        self._asking = threading.Lock()
        self.on_failure: Callable[[int], object] = _nothing
        """Gets the number of each request that failed."""

    def note(self, frame: Frame) -> None:
        """Remember a request until its answer goes out."""
        nbytes = sum(int(one.nbytes) for one in frame.arrays.values())
        uid = frame.body.get("volume_uid", "")
        verb = frame.kind if frame.kind in messages.REQUESTS else "unknown verb"
        asked = _Asked(verb, nbytes, time.monotonic(), uid if isinstance(uid, str) else "")
        with self._asking:
            self._asked[frame.request_id] = asked

    def send(
        self, request_id: int, reply: Reply, *, unless: Callable[[], bool] | None = None
    ) -> int:
        """Write a reply; the answer of a request is logged."""
        is_last = reply.KIND not in messages.INTERIM
        with self._asking:
            asked = self._asked.get(request_id)
            if is_last:
                self._asked.pop(request_id, None)
        if asked is not None and hasattr(reply, "volume_uid"):
            changed: Any = reply
            reply = dataclasses.replace(changed, volume_uid=asked.volume_uid)
        if isinstance(reply, messages.Failed):
            self.on_failure(request_id)
        written = super().send(request_id, reply, unless=unless)
        if asked is not None and is_last:
            _LOG.info(
                "connection %d: %s, %s, %d bytes in, %d bytes out, %.3f s",
                self._number,
                asked.verb,
                reply.KIND,
                asked.nbytes,
                written,
                time.monotonic() - asked.begun_s,
            )
        return written


class Guest(Conversation):
    """One client's conversation with a worker that it shares.

    Parameters
    ----------
    outbox : GuestOutbox
    turns : Turns
        Where its jobs wait.
    started_s : float
        Monotonic time of the connection.
    open_bytes : int
        Voxels that it may have open.
    model : str
        What answers until it asks for another one; empty = what is in memory at first.
    """

    def __init__(
        self,
        outbox: GuestOutbox,
        turns: Turns,
        *,
        started_s: float,
        open_bytes: int,
        model: str,
    ) -> None:
        super().__init__(outbox, started_s=started_s, volumes=VolumeStore(open_bytes))
        self._notes = outbox
        self._turns = turns
        self._open_bytes = open_bytes
        self._choices = {0: (model, "")}
        outbox.on_failure = self._take_back
        self._digests: dict[str, str] = {}

    def hear(self, frame: Frame | RefusedFrame) -> None:
        """Take what the client has said."""
        if isinstance(frame, Frame):
            self._notes.note(frame)
            if frame.kind in LEARNING_REQUESTS:
                self.outbox.send(frame.request_id, messages.Failed.of(_not_for_guests()))
                return
        super().hear(frame)

    def tell_ready(self, engine: Engine) -> None:
        """Say that requests are worked on from now on."""
        if self._choices.get(0) == ("", ""):
            self._choices[0] = (engine.stats().model, "")
        super().tell_ready(engine)

    def put(self, job: Job) -> list[Job]:
        """Queue a job among those of all clients."""
        return self._turns.put(self, job)

    def volume_of(self, request: messages.OpenVolume) -> Volume:
        """Volume as it is kept.

        Raises
        ------
        OutOfMemory
            It is larger than all that this client may have open.
        """
        if request.voxels.nbytes > self._open_bytes:
            raise OutOfMemory(
                f"The volume takes {request.voxels.nbytes} bytes; a client of this worker may have "
                f"{self._open_bytes} open.",
                "Crop it, or send it in a smaller type of voxels.",
            )
        volume = super().volume_of(request)
        self._digests = {uid: own for uid, own in self._digests.items() if self.volume_for(uid)}
        self._digests[volume.uid] = Volume(volume.voxels, volume.affine).uid
        return volume

    def volume_for(self, uid: str) -> Volume | None:
        """Volume under the name that the engine knows it by."""
        volume = super().volume_for(uid)
        if volume is None:
            return None
        return Volume(volume.voxels, volume.affine, self._digests[uid])

    def request_for(self, request_id: int, request: messages.Request) -> messages.Request:
        """Request with this client's own choice of a model in it.

        Raises
        ------
        InvalidInput
            A path instead of a name.
        """
        if not hasattr(request, "model") or not hasattr(request, "adapter"):
            return request
        for text in (request.model, request.adapter):
            if text and not _NAME.fullmatch(text):
                raise InvalidInput(
                    "A worker that several clients share knows models and adapters by their names.",
                    "Give a name; its owner can put a file of yours among its own.",
                )
        model, adapter = list(self._choices.values())[-1]
        if request.model:
            model, adapter = request.model, request.adapter
        elif request.adapter:
            adapter = request.adapter
        self._choices = {**dict(list(self._choices.items())[-KEPT:]), request_id: (model, adapter)}
        changed: Any = request
        own: messages.Request = dataclasses.replace(changed, model=model, adapter=adapter)
        return own

    def _take_back(self, request_id: int) -> None:
        """Forget the choice of a request that failed: its model may not be there."""
        if len(self._choices) > 1:
            self._choices.pop(request_id, None)


def _not_for_guests() -> InvalidInput:
    return InvalidInput(
        "A worker that several clients share keeps no cases and teaches no adapters: their "
        "folders would be on its own machine.",
        "Learn with a worker of your own machine; its owner can put an adapter among its own.",
    )
