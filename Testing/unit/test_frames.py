"""Frames: any stream, cut anywhere, damaged anyhow."""

from __future__ import annotations

import json
import random
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protosam.errors import BrokenFrame, ProtocolMismatch
from protosam.wire.frames import (
    MAGIC,
    PREFIX_BYTES,
    Frame,
    FrameDecoder,
    Limits,
    RefusedFrame,
    encode,
)
from protosam.wire.headers import DTYPES, PROTOCOL_VERSION

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
ARRAYS = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.sampled_from(sorted(DTYPES)).flatmap(
        lambda dtype: hnp.arrays(
            "<" + dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
        )
    ),
    max_size=3,
)
FRAMES = st.builds(
    Frame,
    st.integers(0, 2**31),
    st.text(max_size=12),
    st.dictionaries(st.text(max_size=6), JSON_VALUES, max_size=4),
    ARRAYS,
)


def bytes_of(*frames, **options):
    return b"".join(bytes(part) for frame in frames for part in encode(frame, **options))


def assert_same(expected, found):
    assert isinstance(found, Frame), found
    assert (expected.request_id, expected.kind) == (found.request_id, found.kind)
    assert dict(expected.body) == dict(found.body)
    assert list(expected.arrays) == list(found.arrays)
    for name, array in expected.arrays.items():
        assert array.dtype == found.arrays[name].dtype
        np.testing.assert_array_equal(array, found.arrays[name])


def raw_frame(header, payload=b""):
    """Frame with a header of any content, all its checksums right."""
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    lengths = struct.pack("<4sIQI", MAGIC, len(header), len(payload), zlib.crc32(header))
    checks = struct.pack("<I", zlib.crc32(lengths)), struct.pack("<I", zlib.crc32(payload))
    return lengths + checks[0] + header + payload + checks[1]


def a_header(**changes):
    header = {"v": PROTOCOL_VERSION, "id": 7, "kind": "predict", "body": {}, "arrays": []}
    return {**header, **changes}


def some_frames():
    rng = np.random.default_rng(5)
    return [
        Frame(1, "hello", {"version": "1"}),
        Frame(2, "open_volume", {"uid": "u"}, {"voxels": rng.integers(-9, 9, (3, 4, 5), "i2")}),
        Frame(3, "predict", {"prompts": [1.5, None, "ß"]}, {"bits": np.zeros(0, "u1")}),
        Frame(
            4, "result", {}, {"a": rng.random((2, 3)).astype("f4"), "b": np.arange(9, dtype="i8")}
        ),
        Frame(5, "bye"),
    ]


@settings(max_examples=40)
@given(st.lists(FRAMES, max_size=3), st.integers(1, 50))
def test_frames_come_back_as_they_went_whatever_their_content(frames, piece):
    stream = bytes_of(*frames)
    decoder = FrameDecoder()
    found = [
        one
        for start in range(0, len(stream), piece)
        for one in decoder.feed(stream[start : start + piece])
    ]

    assert len(found) == len(frames)
    for expected, one in zip(frames, found, strict=True):
        assert_same(expected, one)
    assert not decoder.inside_frame


def test_ten_thousand_random_splits_give_the_same_frames():
    frames = some_frames()
    stream = memoryview(bytes_of(*frames))
    rng = random.Random(1)
    for _ in range(10_000):
        cuts = sorted(rng.randrange(len(stream) + 1) for _ in range(rng.randrange(1, 12)))
        decoder = FrameDecoder()
        found = []
        for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            found += decoder.feed(stream[start:stop])

        assert [one.kind for one in found] == [one.kind for one in frames]
        for expected, one in zip(frames, found, strict=True):
            for name, array in expected.arrays.items():
                assert array.tobytes() == one.arrays[name].tobytes()
        assert not decoder.inside_frame


def test_every_single_damaged_byte_is_noticed():
    frame = some_frames()[1]
    clean = bytes_of(frame)
    for position in range(len(clean)):
        damaged = bytearray(clean)
        damaged[position] ^= 0x41
        try:
            found = FrameDecoder().feed(bytes(damaged))
        except BrokenFrame:
            continue

        assert [type(one) for one in found] == [RefusedFrame], position


def mutate(clean, rng):
    damaged = bytearray(clean)
    for _ in range(rng.randrange(1, 4)):
        place = rng.randrange(len(damaged))
        kind = rng.randrange(4)
        if kind == 0:
            damaged[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del damaged[place : place + rng.randrange(1, 20)]
        elif kind == 2:
            damaged[place:place] = rng.randbytes(rng.randrange(1, 20))
        else:
            damaged[place : place + 8] = rng.randbytes(8)
    return bytes(damaged) or b"\0"


def test_a_thousand_mutated_streams_end_in_a_sentence_and_never_invent_a_frame():
    frames = some_frames()
    clean = bytes_of(*frames)
    genuine = {bytes_of(one) for one in frames}
    rng = random.Random(2)
    for _ in range(1_000):
        damaged = mutate(clean, rng)
        decoder = FrameDecoder()
        found = []
        try:
            for start in range(0, len(damaged), 37):
                found += decoder.feed(damaged[start : start + 37])
        except BrokenFrame as error:
            assert error.message and error.next_step

        for one in found:
            assert isinstance(one, RefusedFrame) or bytes_of(one) in genuine


def test_a_stream_that_has_lost_its_place_stays_broken():
    decoder = FrameDecoder()
    with pytest.raises(BrokenFrame, match="not the start of a frame"):
        decoder.feed(b"Hello, I am a stray line of print output.\n")
    with pytest.raises(BrokenFrame, match="not the start of a frame"):
        decoder.feed(bytes_of(Frame(1, "hello")))


@pytest.mark.parametrize(
    ("header", "payload"), [(2**32 - 1, 0), (100, 2**64 - 1), (1 << 20 | 1, 0), (9, 2**32 + 1)]
)
def test_a_lying_length_is_refused_before_anything_is_allocated(header, payload):
    lengths = struct.pack("<4sIQI", MAGIC, header, payload, 0)
    prefix = lengths + struct.pack("<I", zlib.crc32(lengths))
    tracemalloc.start()
    with pytest.raises(BrokenFrame, match="too large"):
        FrameDecoder().feed(prefix)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 100_000


def test_an_empty_header_is_refused():
    lengths = struct.pack("<4sIQI", MAGIC, 0, 0, 0)
    with pytest.raises(BrokenFrame, match="empty header"):
        FrameDecoder().feed(lengths + struct.pack("<I", zlib.crc32(lengths)))


@pytest.mark.parametrize(
    ("bad", "payload", "words"),
    [
        (b"\xff\xfe", b"", "not JSON"),
        (b"[" * 100_000, b"", "not JSON"),
        (b"9" * 10_000, b"", "not JSON"),
        (b'{"v": NaN}', b"", "not JSON"),
        (b"[]", b"", "not a JSON object"),
        (a_header(id="7"), b"", "request id"),
        (a_header(id=True), b"", "request id"),
        (a_header(id=-1), b"", "request id"),
        (a_header(extra=1), b"", "keys"),
        (a_header(kind=5), b"", "kind"),
        (a_header(kind="k" * 65), b"", "kind"),
        (a_header(body=[]), b"", "body"),
        (a_header(arrays={}), b"", "list of at most"),
        (a_header(arrays=[{"name": "a", "dtype": "i2", "shape": [9]}] * 17), b"", "list of"),
        (a_header(arrays=[{"name": "a", "dtype": "O", "shape": [1]}]), b"12345678", "dtypes"),
        (a_header(arrays=[{"name": "a", "dtype": "b1", "shape": [1]}]), b"1", "dtypes"),
        (a_header(arrays=[{"name": "a", "dtype": ["u1"], "shape": [1]}]), b"1", "dtypes"),
        (a_header(arrays=[{"name": "a", "dtype": "u1", "shape": [-1]}]), b"1", "dtypes"),
        (a_header(arrays=[{"name": "a", "dtype": "u1", "shape": [1.0]}]), b"1", "dtypes"),
        (a_header(arrays=[{"name": "a", "dtype": "u1", "shape": [1] * 5}]), b"1", "at most 4"),
        (a_header(arrays=[{"name": "a", "dtype": "u1"}]), b"1", "dtypes"),
        (a_header(arrays=[{"name": "a", "dtype": "i2", "shape": [600]}]), b"12", "1200 bytes"),
        (a_header(arrays=[{"name": "a", "dtype": "u1", "shape": [1 << 39]}]), b"12", "2 were sent"),
        (a_header(arrays=[{"name": "a", "dtype": "u1", "shape": [1]}] * 2), b"12", "were sent"),
        (a_header(arrays=[{"name": "a", "dtype": "u1", "shape": [0, 1 << 39, 1 << 39]}]), b"", ""),
        (a_header(), b"some payload", "12 were sent"),
    ],
)
def test_a_bad_header_is_refused_with_a_sentence_and_the_next_frame_is_read(bad, payload, words):
    stream = raw_frame(bad, payload) + bytes_of(Frame(8, "stats"))
    found = FrameDecoder().feed(stream)

    assert len(found) == 2
    assert isinstance(found[0], RefusedFrame)
    assert words in found[0].error.message
    assert found[0].error.next_step
    assert_same(Frame(8, "stats"), found[1])


def test_a_refused_frame_still_names_its_request():
    found = FrameDecoder().feed(raw_frame(a_header(body=None)))

    assert [one.request_id for one in found] == [7]


def test_a_frame_of_another_protocol_version_is_refused_with_both_versions():
    stream = bytes_of(Frame(3, "from_the_future"), version=99) + bytes_of(Frame(4, "stats"))
    refused, read = FrameDecoder().feed(stream)

    assert isinstance(refused, RefusedFrame)
    assert isinstance(refused.error, ProtocolMismatch)
    assert refused.request_id == 3
    assert "99" in refused.error.message
    assert f"version {PROTOCOL_VERSION}" in refused.error.message
    assert_same(Frame(4, "stats"), read)


def test_what_cannot_be_sent_is_refused_by_the_sender():
    with pytest.raises(BrokenFrame, match="complex128"):
        encode(Frame(1, "open", {}, {"voxels": np.zeros(3, complex)}))
    with pytest.raises(BrokenFrame, match="object"):
        encode(Frame(1, "open", {}, {"voxels": np.array([print])}))
    with pytest.raises(BrokenFrame, match="JSON"):
        encode(Frame(1, "open", {"score": float("nan")}))
    with pytest.raises(BrokenFrame, match="JSON"):
        encode(Frame(1, "open", {"score": object()}))
    with pytest.raises(BrokenFrame, match="too large"):
        encode(Frame(1, "open", {}, {"a": np.zeros(100)}), limits=Limits(payload_bytes=799))


def test_strided_and_big_endian_arrays_arrive_with_the_same_values():
    grid = np.arange(24, dtype=">i4").reshape(2, 3, 4)
    frame = Frame(1, "open", {}, {"a": grid.T, "b": grid[:, ::2, ::-1]})
    (found,) = FrameDecoder().feed(bytes_of(frame))

    np.testing.assert_array_equal(found.arrays["a"], grid.T)
    np.testing.assert_array_equal(found.arrays["b"], grid[:, ::2, ::-1])


def test_a_contiguous_array_is_handed_out_without_a_copy():
    array = np.arange(1000, dtype="<i2")
    parts = list(encode(Frame(1, "open", {}, {"a": array})))

    assert np.shares_memory(np.frombuffer(parts[1], dtype="<i2"), array)


@pytest.mark.wall_clock
def test_a_large_array_is_read_in_linear_time_and_without_a_second_copy():
    array = np.zeros((64, 512, 512), "<i2")  # 34 MB
    stream = memoryview(bytes_of(Frame(1, "open", {}, {"a": array})))
    started = time.perf_counter()
    tracemalloc.start()
    decoder = FrameDecoder()
    found = []
    for start in range(0, len(stream), 16384):
        found += decoder.feed(stream[start : start + 16384])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert found[0].arrays["a"].shape == array.shape
    assert peak < 1.1 * array.nbytes
    assert time.perf_counter() - started < 3.0


def test_bytes_can_be_read_straight_into_the_decoder():
    frames = some_frames()
    stream = bytes_of(*frames)
    decoder = FrameDecoder()
    found, position = [], 0
    while position < len(stream):
        target = decoder.buffer()
        assert len(target) > 0
        count = min(len(target), 5, len(stream) - position)
        target[:count] = stream[position : position + count]
        position += count
        done = decoder.filled(count)
        if done is not None:
            found.append(done)

    for expected, one in zip(frames, found, strict=True):
        assert_same(expected, one)


def test_the_prefix_is_what_the_document_says():
    stream = bytes_of(Frame(1, "stats"))
    header = json.loads(stream[PREFIX_BYTES:-4])

    assert PREFIX_BYTES == 24
    assert stream[:4] == b"PSAM"
    assert header == {"v": 1, "id": 1, "kind": "stats", "body": {}, "arrays": []}
    assert struct.unpack("<IQ", stream[4:16]) == (len(stream) - 28, 0)
