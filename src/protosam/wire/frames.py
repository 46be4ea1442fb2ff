"""Frames: bytes to header and arrays, and back. No I/O, no threads, no knowledge of verbs.

One frame, all numbers little-endian::

    offset  bytes  what
         0      4  magic, b"PSAM"
         4      4  H, bytes of the header
         8      8  P, bytes of the payload (all arrays together)
        16      4  CRC-32 of the header
        20      4  CRC-32 of the 20 bytes before this one
        24      H  header: one JSON object, UTF-8
      24+H      P  the arrays one after another, C order, in the order of the header
    24+H+P      4  CRC-32 of the payload

The header is described in `headers`.

Rules
-----
* Every length is checked against `Limits` before anything is allocated for it.
* The prefix, its checksums and the keys "v" and "id" mean the same in every protocol version, so
  that two ends of different versions can tell each other so.
* A damaged prefix loses the place in the stream: `BrokenFrame` is raised, and again at every
  further call. Any other fault leaves the place known: the frame is skipped and comes out as a
  `RefusedFrame`, and the stream goes on.
* Array bytes go straight from the stream into the array that is handed out; pages of memory are
  touched only as their bytes arrive.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from protosam.errors import BrokenFrame
from protosam.wire.headers import (
    PROTOCOL_VERSION,
    Frame,
    RefusedFrame,
    header_bytes,
    parse_header,
)

__all__ = ["CHUNK", "MAGIC", "Frame", "FrameDecoder", "Limits", "RefusedFrame", "encode"]

MAGIC = b"PSAM"
CHUNK = 1 << 20
"""Bytes of an array that are handed out or skipped at a time."""

_LENGTHS = struct.Struct("<4sIQI")
_CHECK = struct.Struct("<I")
PREFIX_BYTES = _LENGTHS.size + _CHECK.size
_STREAM_STEP = "Start the worker again; the request can be repeated."


@dataclass(frozen=True)
class Limits:
    """What one frame may ask for."""

    header_bytes: int = 1 << 20
    """A header holds prompts and settings; a thousand clicks take about 0.1 MiB."""
    payload_bytes: int = 1 << 32
    """A 512 x 512 x 1000 volume of float64 takes 2 GiB."""


def encode(
    frame: Frame, *, version: int = PROTOCOL_VERSION, limits: Limits | None = None
) -> Iterator[memoryview]:
    """Bytes of a frame, as buffers to write one after another.

    Arrays are not copied, unless they are strided or big-endian; they come in pieces of `CHUNK`
    bytes, whose checksum is taken when they are asked for. What cannot be sent is refused before
    the first buffer.

    Parameters
    ----------
    frame : Frame
        What to send.
    version : int
        Protocol version to write; another than our own only in tests.
    limits : Limits, optional
        The same limits as the other end keeps.

    Raises
    ------
    BrokenFrame
        A dtype that may not travel, a body that is not JSON, or a frame above the limits.
    """
    limits = limits or Limits()
    header = header_bytes(frame, version)
    payload = sum(int(array.nbytes) for array in frame.arrays.values())
    _check_lengths(len(header), payload, limits)
    lengths = _LENGTHS.pack(MAGIC, len(header), payload, zlib.crc32(header))
    start = b"".join((lengths, _CHECK.pack(zlib.crc32(lengths)), header))
    return _buffers(start, frame.arrays)


def _buffers(start: bytes, arrays: Mapping[str, NDArray[Any]]) -> Iterator[memoryview]:
    yield memoryview(start)
    check = 0
    for array in arrays.values():
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        data = plain.reshape(-1).view(np.uint8).data
        for start_byte in range(0, len(data), CHUNK):
            piece = data[start_byte : start_byte + CHUNK]
            check = zlib.crc32(piece, check)
            yield piece
    yield memoryview(_CHECK.pack(check))


def _check_lengths(header: int, payload: int, limits: Limits) -> None:
    if header > limits.header_bytes or payload > limits.payload_bytes:
        raise BrokenFrame(
            f"A frame with a header of {header} bytes and arrays of {payload} bytes is too large: "
            f"at most {limits.header_bytes} and {limits.payload_bytes} are accepted.",
            "Send a smaller volume or fewer prompts.",
        )


class FrameDecoder:
    """Frames from a stream that arrives in pieces of any size.

    Either `feed` bytes, or read straight into `buffer` and tell `filled` how many came; the
    second way spares one copy of every array.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._broken: BrokenFrame | None = None
        self._check: int = 0
        self._open_prefix()

    @property
    def inside_frame(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._stage != "prefix" or self._position > 0

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame | RefusedFrame]:
        """Take bytes as they came; return the frames that are now complete.

        Raises
        ------
        BrokenFrame
            The place in the stream is lost; the connection must end.
        """
        rest = memoryview(data).cast("B")
        frames = []
        while rest:
            target = self.buffer()
            count = min(len(target), len(rest))
            target[:count] = rest[:count]
            rest = rest[count:]
            done = self.filled(count)
            if done is not None:
                frames.append(done)
        return frames

    def buffer(self) -> memoryview:
        """Where the next bytes of the stream belong; never empty.

        Raises
        ------
        BrokenFrame
            The place in the stream was lost before.
        """
        if self._broken is not None:
            raise self._broken
        return self._target[self._position :]

    def filled(self, count: int) -> Frame | RefusedFrame | None:
        """Say that this many bytes were put into `buffer`; return a frame if one is complete.

        Raises
        ------
        BrokenFrame
            The place in the stream is lost; the connection must end.
        """
        if self._stage == "payload":
            # Piece by piece, while it is still in the processor's cache.
            piece = self._target[self._position : self._position + count]
            self._check = zlib.crc32(piece, self._check)
        self._position += count
        if self._position < len(self._target):
            return None
        if self._stage == "prefix":
            self._take_prefix()
            return None
        if self._stage == "header":
            self._take_header()
        elif self._stage == "payload":
            self._open_next_array()
        else:
            return self._take_check()
        return None

    def _open(self, stage: str, target: memoryview) -> None:
        self._stage = stage
        self._target = target
        self._position = 0

    def _open_prefix(self) -> None:
        self._frame: Frame | RefusedFrame | None = None
        self._waiting: list[memoryview] = []
        self._check = 0
        self._to_skip = 0
        self._open("prefix", memoryview(bytearray(PREFIX_BYTES)))

    def _break(self, message: str) -> NoReturn:
        self._broken = BrokenFrame(message, _STREAM_STEP)
        raise self._broken

    def _take_prefix(self) -> None:
        prefix = bytes(self._target)
        magic, header, payload, header_check = _LENGTHS.unpack_from(prefix)
        (check,) = _CHECK.unpack_from(prefix, _LENGTHS.size)
        if magic != MAGIC:
            self._break(f"The bytes {prefix[:8]!r} are not the start of a frame.")
        if check != zlib.crc32(prefix[: _LENGTHS.size]):
            self._break("The start of a frame is damaged: its checksum does not fit.")
        try:
            _check_lengths(header, payload, self._limits)
        except BrokenFrame as error:
            self._broken = error
            raise
        if header == 0:
            self._break("A frame has an empty header.")
        self._header_check, self._payload = header_check, payload
        self._open("header", memoryview(bytearray(header)))

    def _take_header(self) -> None:
        raw = bytes(self._target)
        if zlib.crc32(raw) == self._header_check:
            self._frame = parse_header(raw, self._payload)
        else:
            error = BrokenFrame(
                "The header of a frame is damaged: its checksum does not fit.", _STREAM_STEP
            )
            self._frame = RefusedFrame(0, error)
        if isinstance(self._frame, RefusedFrame):
            self._to_skip = self._payload
        else:
            arrays = self._frame.arrays.values()
            self._waiting = [array.reshape(-1).view(np.uint8).data for array in arrays]
        self._open_next_array()

    def _open_next_array(self) -> None:
        if self._to_skip:
            count = min(self._to_skip, CHUNK)
            self._to_skip -= count
            self._open("payload", memoryview(bytearray(count)))
            return
        while self._waiting:
            target = self._waiting.pop(0)
            if len(target):
                self._open("payload", target)
                return
        self._open("check", memoryview(bytearray(_CHECK.size)))

    def _take_check(self) -> Frame | RefusedFrame | None:
        (check,) = _CHECK.unpack(self._target)
        frame = self._frame
        if isinstance(frame, Frame) and check != self._check:
            error = BrokenFrame(
                f"The arrays of a {frame.kind!r} frame are damaged: their checksum does not fit.",
                _STREAM_STEP,
            )
            frame = RefusedFrame(frame.request_id, error)
        self._open_prefix()
        return frame
