"""Fixtures of the worker's tests: real processes, every wait with a limit."""

from __future__ import annotations

import importlib.util
import os
import queue
import subprocess
import sys
import threading
import time
from io import FileIO
from pathlib import Path

import pytest

from protosam.models.cards import card_named
from protosam.models.weights import locate_weights
from protosam.phantom import make_phantom
from protosam.prompts import Point, PromptSet
from protosam.wire.client import WorkerClient
from protosam.wire.frames import FrameDecoder, RefusedFrame, encode
from protosam.wire.messages import INTERIM, Predict, parse_reply, request_frame
from protosam.worker import server

FAKE = Path(__file__).with_name("fake_worker.py")
LIMIT_S = 20.0
"""More than anything here takes on a busy machine; a hang is a failure, not a long test."""


class RawWorker:
    """The fake worker with its pipes bare, for bytes that no client would send."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, str(FAKE), *arguments],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.replies = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        decoder = FrameDecoder()
        while count := self.process.stdout.readinto(decoder.buffer()):
            frame = decoder.filled(count)
            if frame is not None:
                self.replies.put(frame)
        self.replies.put(None)

    def send(self, data):
        try:
            self.process.stdin.write(data)
        except BrokenPipeError:
            return False
        return True

    def ask(self, request_id, request):
        for part in encode(request_frame(request_id, request)):
            self.send(part)

    def next(self):
        """Next (request id, reply); None at the end of the stream."""
        frame = self.replies.get(timeout=LIMIT_S)
        assert not isinstance(frame, RefusedFrame), frame
        return frame and (frame.request_id, parse_reply(frame))

    def answer(self, request_id):
        """The reply that ends this request; of 0, the failure of the connection."""
        while (found := self.next()) is not None:
            number, reply = found
            ends = reply.KIND == "failed" if number == 0 else reply.KIND not in INTERIM
            if number == request_id and ends:
                return reply
        raise AssertionError(f"the worker ended without an answer to {request_id}")

    def end(self):
        """Close its stdin; return its exit code."""
        self.process.stdin.close()
        return self.process.wait(LIMIT_S)

    def close(self):
        self.process.kill()
        self.process.wait(LIMIT_S)
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def raw_workers():
    """Makes workers with bare pipes, and ends them."""
    made = []

    def make(*arguments):
        made.append(RawWorker(*arguments))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


@pytest.fixture
def a_raw_worker(raw_workers):
    return raw_workers()


@pytest.fixture(scope="session")
def fake_engine():
    """The class of the fake engine."""
    spec = importlib.util.spec_from_file_location("fake_worker", FAKE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there for their module
    spec.loader.exec_module(module)
    return module.FakeEngine


@pytest.fixture
def server_in_this_process(fake_engine, monkeypatch):
    """Serves one stream of bytes without a process; gives the exit code and the reply frames."""
    monkeypatch.setattr(server, "GRACE_S", 0.0)

    def serve(data):
        host_in, wire_out = os.pipe()
        wire_in, host_out = os.pipe()
        left = queue.SimpleQueue()
        with (
            FileIO(host_in, "rb") as replies,
            FileIO(host_out, "wb") as requests,
            FileIO(wire_in, "rb") as hears,
            FileIO(wire_out, "wb") as says,
        ):
            one = server.Server(hears, says, started_s=time.monotonic(), leave=left.put)
            one.start()
            requests.write(data)
            requests.close()
            code = one.serve(lambda tell: fake_engine())
            left.get(timeout=LIMIT_S)
            says.close()
            decoder, frames = FrameDecoder(), []
            while piece := replies.read(1 << 16):
                frames += decoder.feed(piece)
        return code, frames

    return serve


@pytest.fixture
def clients(tmp_path):
    """Makes clients, of the fake worker or of any program, and closes them."""
    made = []

    def make(*arguments, program=None, **options):
        script = FAKE
        if program is not None:
            script = tmp_path / f"program_{len(made)}.py"
            script.write_text(program)
        client = WorkerClient([sys.executable, str(script), *arguments], **options)
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


@pytest.fixture
def a_client(clients):
    """A client of a fake worker that is ready."""
    client = clients()
    client.models().wait(LIMIT_S)
    return client


@pytest.fixture
def ask(a_volume):
    """Makes predictions on `a_volume`; `model` is a command to the fake engine."""

    def make(model="", **fields):
        prompts = PromptSet(points=(Point((1, 2, 3), True, "a"),))
        return Predict(a_volume.uid, prompts, model=model, **fields)

    return make


def drain_until(client, condition, limit_s=LIMIT_S):
    """Do what a host's timer does until something is so; return how long that took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit_s, "it took too long"
        client.drain()
        time.sleep(0.002)
    return time.monotonic() - started


@pytest.fixture
def until():
    return drain_until


@pytest.fixture(scope="module")
def phantom():
    return make_phantom()


@pytest.fixture(scope="module")
def real(phantom):
    """Client of the worker that users get, with the phantom open."""
    if locate_weights(card_named("protosam-tiny")) is None:
        pytest.skip("no weights of protosam-tiny")
    with WorkerClient() as one:
        one.open_volume(phantom.volume)
        one.models().wait(120)
        yield one
