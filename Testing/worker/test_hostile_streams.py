"""Either end against an end that is broken, old, or something else altogether."""

from __future__ import annotations

import random
import shutil
import struct
import time
import zlib

import pytest

from protosam.errors import (
    BrokenFrame,
    ProtocolMismatch,
    ProtoSAMError,
    WorkerDied,
    WorkerFailure,
)
from protosam.wire import messages, patience
from protosam.wire.client import WorkerClient
from protosam.wire.frames import MAGIC, encode
from protosam.wire.messages import reply_frame, request_frame

LIMIT_S = 20.0

SPEAK = """
import os, time
from protosam.wire import messages
from protosam.wire.frames import Frame, FrameDecoder, encode
from protosam.wire.messages import reply_frame

def say(request_id, reply, **options):
    write(b"".join(encode(reply_frame(request_id, reply), **options)))

def write(data):
    while data:
        data = data[os.write(1, data):]

def hello():
    say(0, messages.Hello("0", "3", 1))

def requests():
    decoder = FrameDecoder()
    while data := os.read(0, 1 << 16):
        yield from decoder.feed(data)

def wait():
    while os.read(0, 1 << 16):
        pass
"""


def stats_fail(client, kind, words):
    with pytest.raises(kind, match=words) as caught:
        client.stats().wait(LIMIT_S)
    return caught.value


def test_a_program_that_is_missing_is_a_sentence():
    client = WorkerClient(["/there/is/no/such/program"])
    error = stats_fail(client, WorkerDied, "could not be started")

    assert "/there/is/no/such/program" in error.next_step


def test_a_program_that_ends_is_started_three_times_and_then_refused(clients):
    client = clients("die")
    for _ in range(3):
        stats_fail(client, WorkerDied, r"exit code 7(.|\n)*no library")
    assert client.state.phase == "refused"
    stats_fail(client, WorkerFailure, "3 times in a row before it was ready")
    client.restart()
    stats_fail(client, WorkerDied, "exit code 7")

    assert client.state.phase == "stopped"


@pytest.mark.parametrize(
    ("mode", "kind", "words"),
    [
        ("no-engine", "ModelUnavailable", "There are no weights"),
        ("broken-engine", "WorkerFailure", r"'start' failed in the worker \(.*Error\)"),
    ],
)
def test_an_engine_that_cannot_be_built_says_why(clients, mode, kind, words):
    client = clients(mode)
    with pytest.raises(Exception, match=words) as caught:
        client.models().wait(LIMIT_S)

    assert type(caught.value).__name__ == kind


def test_a_program_that_prints_is_not_taken_for_a_worker(clients):
    client = clients(program="print('Hello, world, this is a long line of text.' * 3)")
    stats_fail(client, BrokenFrame, "not the start of a frame")


def test_a_program_that_echoes_is_not_taken_for_a_worker(clients):
    client = clients(program="import os\nwhile d := os.read(0, 99): os.write(1, d)")
    stats_fail(client, WorkerFailure, "unknown kind 'stats'")


def test_a_reply_before_hello_is_not_taken(clients):
    client = clients(program=SPEAK + "say(0, messages.Goodbye())\nwait()")
    stats_fail(client, WorkerFailure, "not a ProtoSAM worker")


def test_a_worker_of_another_version_is_refused_with_both_versions(clients):
    client = clients(program=SPEAK + 'say(0, messages.Hello("9", "3", 1), version=9)\nwait()')
    for _ in range(2):
        error = stats_fail(client, ProtocolMismatch, "protocol version 9.*version 1")

    assert "same ProtoSAM version" in error.next_step
    assert client.state.phase == "refused"


def test_a_worker_with_a_huge_header_is_ended_before_anything_is_allocated(clients):
    lengths = struct.pack("<4sIQI", MAGIC, 2**31, 0, 0)
    data = lengths + struct.pack("<I", zlib.crc32(lengths))
    client = clients(program=f"{SPEAK}hello()\nwrite({data!r})\nwait()")
    stats_fail(client, BrokenFrame, "too large")


def test_a_worker_that_hangs_up_in_the_middle_of_a_frame_has_died(clients):
    program = "hello()\nwrite(b''.join(encode(reply_frame(1, messages.Goodbye())))[:40])"
    stats_fail(clients(program=SPEAK + program), WorkerDied, "exit code 0")


def test_a_worker_that_stops_in_the_middle_of_a_frame_is_given_up(clients, monkeypatch):
    monkeypatch.setattr(patience, "STALL_LIMIT_S", 0.5)
    program = "hello()\nwrite(b''.join(encode(reply_frame(1, messages.Goodbye())))[:40])\nwait()"
    stats_fail(clients(program=SPEAK + program), WorkerFailure, "in the middle of a reply")


def test_a_program_that_stays_silent_is_given_up(clients, monkeypatch):
    monkeypatch.setattr(patience, "HELLO_LIMIT_S", 0.5)
    stats_fail(clients(program=SPEAK + "wait()"), WorkerFailure, "has said nothing")


def test_a_host_that_rests_does_not_take_its_own_pause_for_silence(clients, monkeypatch):
    monkeypatch.setattr(patience, "HELLO_LIMIT_S", 0.5)
    client = clients(program=SPEAK + "time.sleep(1)\nhello()\nwait()")
    client.start()
    client.drain()
    end = time.monotonic() + LIMIT_S
    while client._exchange._process.received == 0 and time.monotonic() < end:
        time.sleep(0.01)
    client.drain()
    client.drain()

    assert client.state.hello is not None
    assert client.state.phase == "starting"


def test_a_worker_that_keeps_its_stream_closed_but_lives_on_is_ended(clients):
    program = "hello()\nos.close(1)\ntime.sleep(60)"
    started = time.monotonic()
    stats_fail(clients(program=SPEAK + program), WorkerDied, "-9")

    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("messages.Goodbye()", "answered 'stats' with a 'goodbye' reply"),
        ("messages.Cancelled('cancelled')", "given up"),
        ("messages.Failed('NoSuchKind', 'It did not work.', '')", "It did not work"),
    ],
)
def test_an_answer_of_the_wrong_kind_is_a_failure(clients, reply, words):
    program = f"hello()\nfor one in requests(): say(one.request_id, {reply})"
    with pytest.raises(Exception, match=words):
        clients(program=SPEAK + program).stats().wait(LIMIT_S)


def test_an_answer_that_cannot_be_read_fails_its_request_only(clients):
    program = """
hello()
for number, one in enumerate(requests()):
    if number == 0:
        write(b"".join(encode(Frame(one.request_id, "hello", {"pid": "text"}))))
    else:
        say(one.request_id, messages.Hello("0", "3", 1))
"""
    client = clients(program=SPEAK + program)
    first, second = client.hello(), client.hello()
    with pytest.raises(WorkerFailure, match="cannot be read"):
        first.wait(LIMIT_S)

    assert second.wait(LIMIT_S).pid == 1


def test_a_reply_to_no_request_is_noted_and_a_wrong_word_of_its_own_ends_it(clients, until):
    program = "hello()\nsay(77, messages.Goodbye())\nsay(0, messages.Goodbye())\nwait()"
    client = clients(program=SPEAK + program)
    stats_fail(client, WorkerFailure, "'goodbye' reply to no request")

    assert any("unknown request 77" in line for line in client.log_tail())


def test_a_failure_of_the_connection_fails_everything(clients):
    program = "hello()\nfor _ in requests(): say(0, messages.Failed('BrokenFrame', 'Lost.', ''))"
    client = clients(program=SPEAK + program)
    both = [client.stats(), client.models()]
    for one in both:
        with pytest.raises(BrokenFrame, match="Lost"):
            one.wait(LIMIT_S)


def test_a_huge_header_length_ends_the_worker_with_a_sentence(a_raw_worker):
    lengths = struct.pack("<4sIQI", MAGIC, 2**32 - 1, 0, 0)
    a_raw_worker.send(lengths + struct.pack("<I", zlib.crc32(lengths)))
    failed = a_raw_worker.answer(0)
    while failed.KIND != "failed":
        failed = a_raw_worker.answer(0)

    assert failed.error == "BrokenFrame"
    assert "too large" in failed.message
    assert a_raw_worker.process.wait(LIMIT_S) == 2


def test_truncated_arrays_get_a_sentence_and_the_connection_survives(a_raw_worker):
    header = (
        b'{"v":1,"id":1,"kind":"open_volume","body":{"uid":"v"},'
        b'"arrays":[{"name":"voxels","dtype":"i2","shape":[3,4,5]}]}'
    )
    payload = bytes(100)
    lengths = struct.pack("<4sIQI", MAGIC, len(header), len(payload), zlib.crc32(header))
    check, tail = struct.pack("<I", zlib.crc32(lengths)), struct.pack("<I", zlib.crc32(payload))
    a_raw_worker.send(lengths + check + header + payload + tail)
    failed = a_raw_worker.answer(1)
    a_raw_worker.ask(2, messages.Stats())

    assert "120 bytes by their shapes, 100 were sent" in failed.message
    assert a_raw_worker.answer(2).KIND == "stats_report"


def test_a_frame_cut_off_by_the_end_of_the_stream_ends_the_worker_cleanly(a_raw_worker):
    a_raw_worker.send(b"".join(encode(request_frame(1, messages.Stats())))[:-9])

    assert a_raw_worker.end() == 0


def damage(clean, rng):
    damaged = bytearray(clean)
    place = rng.randrange(len(damaged))
    kind = rng.randrange(3)
    if kind == 0:
        damaged[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del damaged[place : place + rng.randrange(1, 30)]
    else:
        damaged[place:place] = rng.randbytes(rng.randrange(1, 30))
    return bytes(damaged)


def test_the_worker_survives_mutated_frames_or_ends_with_a_sentence(
    a_volume, ask, server_in_this_process
):
    rng = random.Random(11)
    volume = messages.OpenVolume(a_volume.uid, a_volume.voxels, a_volume.affine)
    clean = [b"".join(encode(request_frame(9, one))) for one in (volume, ask(), messages.Stats())]
    behind = b"".join(encode(request_frame(1, messages.Greeting(""))))
    outcomes = []
    for _ in range(300):
        code, replies = server_in_this_process(damage(rng.choice(clean), rng) + behind)
        last = messages.parse_reply(replies[-1])

        assert code in (0, 2)
        if code == 2:
            assert isinstance(last, messages.Failed)
            assert replies[-1].request_id == 0
            assert last.message
        outcomes.append(code)

    assert {0, 2} == set(outcomes)


def test_a_worker_process_survives_mutated_frames_or_ends_with_a_sentence(raw_workers, a_volume):
    rng = random.Random(12)
    volume = messages.OpenVolume(a_volume.uid, a_volume.voxels, a_volume.affine)
    clean = b"".join(encode(request_frame(9, volume)))
    for _ in range(5):
        worker = raw_workers()
        worker.send(damage(clean, rng))

        assert worker.end() in (0, 2)


@pytest.mark.skipif(shutil.which("cat") is None, reason="needs the program cat")
def test_a_thousand_mutated_replies_never_hang_nor_crash_the_client(tmp_path):
    rng = random.Random(13)
    result = messages.StatsReport(1.0, 2.0, ("v",), 3.0, "tiny", "cpu", 1, 2, 9.5)
    clean = b"".join(
        b"".join(encode(reply_frame(number, one)))
        for number, one in (
            (0, messages.Hello("0", "3", 1)),
            (0, messages.Ready("tiny", "cpu", 1.0, ())),
            (1, messages.Progress(0.5, "half")),
            (1, result),
            (2, messages.ModelList(())),
        )
    )
    path = tmp_path / "replies"
    outcomes = []
    for _ in range(1_000):
        path.write_bytes(damage(clean, rng))
        client = WorkerClient(("cat", str(path)))
        outcomes += [outcome(one) for one in (client.stats(), client.models())]
        client.close()

    assert set(outcomes) <= {"result", "BrokenFrame", "WorkerDied", "WorkerFailure"}
    assert 100 < outcomes.count("result") < 1_900


def outcome(pending):
    """Kind of error that a request ended with, or "result"."""
    try:
        pending.wait(LIMIT_S)
    except ProtoSAMError as error:
        assert "was not answered within" not in error.message
        return error.kind
    return "result"
