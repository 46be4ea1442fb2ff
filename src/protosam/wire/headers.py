"""Headers of frames: the JSON object that says what a frame is and which arrays follow it.

Rules
-----
* A header is {"v": protocol version, "id": request id, "kind": verb or kind of reply,
  "body": {...}, "arrays": [{"name": ..., "dtype": "i2", "shape": [600, 512, 512]}]}, no key more.
* "v" and "id" mean the same in every protocol version.
* Nothing in it is trusted: dtypes are on a list, shapes must add up to the payload that was
  announced, and arrays are allocated only when all of it fits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from protosam.errors import BrokenFrame, OutOfMemory, ProtocolMismatch, ProtoSAMError

PROTOCOL_VERSION = 1
"""Raised whenever a verb, a field or the layout changes its meaning."""

DTYPES = frozenset(("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"))
"""Array types that may travel, little-endian; booleans go as u1."""

MAX_ARRAYS = 16
MAX_AXES = 4
MAX_NAME = 64

_HEADER_KEYS = frozenset(("v", "id", "kind", "body", "arrays"))
_VERSIONS_STEP = "Use a worker and a host of the same ProtoSAM version."
_SENDER_STEP = "The sender is at fault: check that both ends are of the same ProtoSAM version."


@dataclass(frozen=True, eq=False)
class Frame:
    """One message as it travels: a small JSON body and some arrays."""

    request_id: int
    """Number of the request that this is or belongs to; 0 belongs to none."""
    kind: str
    """Verb of a request or kind of a reply."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """JSON object."""
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Arrays by name, of any allowed dtype, any shape of at most four axes."""


@dataclass(frozen=True)
class RefusedFrame:
    """A frame that was skipped: its bytes are gone, the stream goes on."""

    request_id: int
    """The request it belonged to, 0 where that could not be read."""
    error: ProtoSAMError
    """Why it was refused."""


def header_bytes(frame: Frame, version: int) -> bytes:
    """Header of a frame, as UTF-8.

    Raises
    ------
    BrokenFrame
        A dtype that may not travel, or a body that is not JSON.
    """
    header = {
        "v": version,
        "id": frame.request_id,
        "kind": frame.kind,
        "body": frame.body,
        "arrays": [_describe(name, array) for name, array in frame.arrays.items()],
    }
    try:
        return json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise BrokenFrame(
            f"The body of {frame.kind!r} cannot be written as JSON: {error}.",
            "Numbers must be finite and keys must be strings.",
        ) from error


def parse_header(raw: bytes, payload: int) -> Frame | RefusedFrame:
    """Frame with arrays allocated but not yet filled, or why it must be skipped.

    Parameters
    ----------
    raw : bytes
        The header as it came.
    payload : int
        Bytes of arrays that the prefix announced.
    """
    request_id = 0
    try:
        header = _parse_json(raw)
        request_id = _request_id(header)
        _check_version(header)
        return _frame_of(header, payload)
    except ProtoSAMError as error:
        return RefusedFrame(request_id, error)


def _describe(name: str, array: NDArray[Any]) -> dict[str, Any]:
    dtype = array.dtype.str[1:]
    if dtype not in DTYPES:
        raise BrokenFrame(
            f"The array {name!r} is {array.dtype}, wanted one of {', '.join(sorted(DTYPES))}.",
            "Convert the array before it is sent.",
        )
    return {"name": name, "dtype": dtype, "shape": list(array.shape)}


def _parse_json(raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # ValueError: JSON, UTF-8 and huge integers
        raise BrokenFrame(f"The header of a frame is not JSON: {error}.", _SENDER_STEP) from error
    if not isinstance(header, dict):
        raise BrokenFrame("The header of a frame is not a JSON object.", _SENDER_STEP)
    return header


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _request_id(header: dict[str, Any]) -> int:
    request_id = header.get("id")
    if type(request_id) is not int or not 0 <= request_id < 1 << 63:
        raise BrokenFrame(
            f"The request id of a frame is {request_id!r:.80}, wanted a whole number.", _SENDER_STEP
        )
    return request_id


def _check_version(header: dict[str, Any]) -> None:
    version = header.get("v")
    if type(version) is not int or version != PROTOCOL_VERSION:
        raise ProtocolMismatch(
            f"A frame of protocol version {version!r:.80} came, "
            f"this end speaks version {PROTOCOL_VERSION}.",
            _VERSIONS_STEP,
        )


def _frame_of(header: dict[str, Any], payload: int) -> Frame:
    if header.keys() != _HEADER_KEYS:
        raise BrokenFrame(
            f"The header of a frame has the keys {sorted(header)!r:.200}, "
            f"wanted {sorted(_HEADER_KEYS)}.",
            _SENDER_STEP,
        )
    kind, body, descriptors = header["kind"], header["body"], header["arrays"]
    if not isinstance(kind, str) or len(kind) > MAX_NAME or not isinstance(body, dict):
        raise BrokenFrame("The kind or the body of a frame is not what it must be.", _SENDER_STEP)
    if not isinstance(descriptors, list) or len(descriptors) > MAX_ARRAYS:
        raise BrokenFrame(
            f"The arrays of a {kind!r} frame are not a list of at most {MAX_ARRAYS}.", _SENDER_STEP
        )
    shapes = dict(_descriptor(one, kind) for one in descriptors)
    sizes = [math.prod(shape) * dtype.itemsize for dtype, shape in shapes.values()]
    if len(shapes) != len(descriptors) or sum(sizes) != payload:
        raise BrokenFrame(
            f"The arrays of a {kind!r} frame should take {sum(sizes)} bytes by their shapes, "
            f"{payload} were sent.",
            _SENDER_STEP,
        )
    try:
        arrays = {name: np.empty(shape, dtype) for name, (dtype, shape) in shapes.items()}
    except (MemoryError, ValueError) as error:
        raise OutOfMemory(
            f"There is no memory for {payload} bytes of arrays.", "Close other volumes first."
        ) from error
    return Frame(header["id"], kind, body, arrays)


def _descriptor(one: object, kind: str) -> tuple[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    if isinstance(one, dict) and one.keys() == {"name", "dtype", "shape"}:
        name, dtype, shape = one["name"], one["dtype"], one["shape"]
        named = isinstance(name, str) and len(name) <= MAX_NAME
        typed = isinstance(dtype, str) and dtype in DTYPES
        sized = isinstance(shape, list) and len(shape) <= MAX_AXES
        if named and typed and sized and all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
            return name, (np.dtype("<" + dtype), tuple(shape))
    raise BrokenFrame(
        f"An array of a {kind!r} frame is described as {one!r:.200}, wanted a name, one of the "
        f"dtypes {', '.join(sorted(DTYPES))} and a shape of at most {MAX_AXES} axes.",
        _SENDER_STEP,
    )
