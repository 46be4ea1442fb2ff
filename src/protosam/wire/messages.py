"""Messages: requests and replies to frames, and strictly back.

Owns the two tables of what may be said (`REQUESTS` for the worker's ears, `REPLIES` for the
host's) and nothing of how bytes travel. A frame that is not one of them is an error with a
sentence; nothing in a frame chooses code by name.
"""

from __future__ import annotations

from typing import Any

from protosam.errors import InvalidInput, WorkerFailure
from protosam.wire.fields import ModelInfo, from_body, to_body
from protosam.wire.headers import PROTOCOL_VERSION, Frame
from protosam.wire.learning import (
    LEARNING_REPLIES,
    LEARNING_REQUESTS,
    Adapt,
    Adapted,
    AdapterList,
    Adapters,
    CaseList,
    CaseSaved,
    ChangeAdapter,
    LookIntoCases,
    SaveCase,
    Taught,
)
from protosam.wire.proposals import (
    PROPOSALS,
    ExampleApplied,
    ExampleMade,
    Proposed,
    ProposedSlices,
)
from protosam.wire.replies import REPLIES as PLAIN_REPLIES
from protosam.wire.replies import (
    SUPERSEDED,
    VOLUME_NOT_OPEN,
    Cancelled,
    CancelTaken,
    Failed,
    Goodbye,
    Hello,
    ModelList,
    ModelLoaded,
    Partial,
    Prewarmed,
    Progress,
    Ready,
    Reply,
    Result,
    StatsReport,
    VolumeClosed,
    VolumeOpened,
)
from protosam.wire.requests import REQUESTS as PLAIN_REQUESTS
from protosam.wire.requests import (
    AboutVolume,
    ApplyExample,
    Cancel,
    CloseVolume,
    Greeting,
    LoadModel,
    MakeExample,
    Models,
    OpenVolume,
    Predict,
    Prewarm,
    Request,
    Shutdown,
    Stats,
)
from protosam.wire.standings import AdapterInfo, Standing
from protosam.wire.teaching import SegmentClicks, TaughtSegment

REQUESTS: dict[str, type[Request]] = {**PLAIN_REQUESTS, **LEARNING_REQUESTS}
"""Every verb; there is no other way into the worker."""

REPLIES: dict[str, type[Reply]] = {**PLAIN_REPLIES, **PROPOSALS, **LEARNING_REPLIES}
"""Every kind of reply."""

INTERIM = ("progress", "partial", "proposed_slices", "proposed", "taught")
"""Kinds of replies that come before the answer of their request."""

__all__ = [
    "INTERIM",
    "PROTOCOL_VERSION",
    "REPLIES",
    "REQUESTS",
    "SUPERSEDED",
    "VOLUME_NOT_OPEN",
    "AboutVolume",
    "Adapt",
    "Adapted",
    "AdapterInfo",
    "AdapterList",
    "Adapters",
    "ApplyExample",
    "Cancel",
    "CancelTaken",
    "Cancelled",
    "CaseList",
    "CaseSaved",
    "ChangeAdapter",
    "CloseVolume",
    "ExampleApplied",
    "ExampleMade",
    "Failed",
    "Goodbye",
    "Greeting",
    "Hello",
    "LoadModel",
    "LookIntoCases",
    "MakeExample",
    "ModelInfo",
    "ModelList",
    "ModelLoaded",
    "Models",
    "OpenVolume",
    "Partial",
    "Predict",
    "Prewarm",
    "Prewarmed",
    "Progress",
    "Proposed",
    "ProposedSlices",
    "Ready",
    "Reply",
    "Request",
    "Result",
    "SaveCase",
    "SegmentClicks",
    "Shutdown",
    "Standing",
    "Stats",
    "StatsReport",
    "Taught",
    "TaughtSegment",
    "VolumeClosed",
    "VolumeOpened",
    "parse_reply",
    "parse_request",
    "reply_frame",
    "request_frame",
]


def request_frame(request_id: int, request: Request) -> Frame:
    """Frame of a request."""
    body, arrays = to_body(request)
    return Frame(request_id, request.VERB, body, arrays)


def reply_frame(request_id: int, reply: Reply) -> Frame:
    """Frame of a reply."""
    body, arrays = to_body(reply)
    return Frame(request_id, reply.KIND, body, arrays)


def parse_request(frame: Frame) -> Request:
    """Request in a frame.

    Raises
    ------
    InvalidInput
        The verb is not known, a field is missing, unknown or of another type, or the values are
        refused by their own classes (`GeometryError`, `InvalidPrompt` ...).
    """
    request_type = REQUESTS.get(frame.kind)
    if request_type is None:
        raise InvalidInput(
            f"The verb {frame.kind!r} is not known; the verbs are {', '.join(REQUESTS)}.",
            "Use a worker and a host of the same ProtoSAM version.",
        )
    request: Request = from_body(request_type, frame.body, dict(frame.arrays))
    return request


def parse_reply(frame: Frame) -> Reply:
    """Reply in a frame.

    Raises
    ------
    WorkerFailure
        The kind is not known, or its content is not what that kind must hold.
    """
    reply_type: type[Any] | None = REPLIES.get(frame.kind)
    if reply_type is None:
        raise WorkerFailure(
            f"The worker sent a reply of the unknown kind {frame.kind!r}.",
            "Use a worker and a host of the same ProtoSAM version.",
        )
    try:
        reply: Reply = from_body(reply_type, frame.body, dict(frame.arrays))
    except InvalidInput as error:
        raise WorkerFailure(
            f"The worker sent a reply that cannot be read: {error.message}", error.next_step
        ) from error
    return reply
