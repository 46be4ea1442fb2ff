"""The worker as its host sees it: answers, cancels, deaths, and the clean wire."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from protosam.errors import (
    Cancelled,
    GeometryError,
    InvalidInput,
    InvalidPrompt,
    ModelUnavailable,
    OutOfMemory,
    WorkerDied,
    WorkerFailure,
)
from protosam.geometry import Volume
from protosam.masks import CleanUp
from protosam.prompts import Point, PromptSet
from protosam.wire import messages
from protosam.wire.client import WorkerClient
from protosam.wire.frames import Frame, encode

LIMIT_S = 20.0


def running(client, pending):
    """Wait until the device works on this request."""
    seen = []
    pending.on_progress(seen.append)
    end = time.monotonic() + LIMIT_S
    while not seen:
        assert time.monotonic() < end, "it does not run"
        client.drain()
        time.sleep(0.002)


def test_a_click_is_answered_with_a_mask(a_client, a_volume, ask):
    a_client.open_volume(a_volume)
    request = ask(target="Segment_1", generation=3, clean_up=CleanUp(closing_mm=1))
    result = a_client.predict(request).wait(LIMIT_S)

    assert (result.target, result.generation, result.volume_uid) == ("Segment_1", 3, a_volume.uid)
    assert np.argwhere(result.mask()).tolist() == [[1, 2, 3]]
    assert result.extent.shape_kji == a_volume.shape_kji


def test_the_worker_says_hello_first_and_then_that_it_is_ready(clients, until):
    states = []
    client = clients(on_state=states.append)
    client.start()
    until(client, lambda: client.state.phase == "ready")

    assert [one.phase for one in states] == ["starting"] * 3 + ["ready"]
    assert states[1].hello.pid == client.state.hello.pid
    assert states[2].text == "Loading nothing."
    assert client.state.ready.model == "fake"
    assert client.state.text == "This is a fake."


def test_hello_comes_before_the_engine_is_built(clients, until):
    client = clients("late")
    until_hello = until(client, lambda: client.hello().done or client.state.hello)
    client.models().wait(LIMIT_S)

    assert until_hello < client.state.ready.start_s


def test_requests_are_taken_while_the_engine_is_built(clients, a_volume, ask):
    client = clients("late")
    client.open_volume(a_volume)
    pending = client.predict(ask())
    assert client.stats().wait(LIMIT_S).model == ""

    assert pending.wait(LIMIT_S).mask().sum() == 1


def test_nothing_is_called_unless_the_host_drains(a_client, a_volume, ask):
    called = []
    a_client.open_volume(a_volume, on_done=called.append)
    pending = a_client.predict(ask(), on_done=called.append)
    time.sleep(0.5)

    assert called == []
    assert not pending.done
    assert a_client.busy
    while not pending.done:
        a_client.drain()
    a_client.drain()
    assert [one.request.VERB for one in called] == ["open_volume", "predict"]
    assert not a_client.busy


def test_draining_can_wait_for_the_first_thing_that_arrives(a_client, a_volume, ask):
    a_client.open_volume(a_volume).wait(LIMIT_S)
    assert a_client.drain(wait_s=5.0) == 0  # not busy: there is nothing to wait for
    pending = a_client.predict(ask("stuck:0.3"))

    assert a_client.drain(wait_s=0.01) == 0
    assert a_client.drain(wait_s=LIMIT_S) == 1
    assert pending.done


@pytest.mark.wall_clock
def test_calls_return_at_once_even_with_a_large_volume(a_client, ask):
    volume = Volume(np.zeros((200, 512, 512), np.int16), np.eye(4))
    started = time.perf_counter()
    opened = a_client.open_volume(volume)
    elapsed = time.perf_counter() - started

    assert elapsed < 0.25
    assert opened.wait(LIMIT_S).uid == volume.uid


def test_a_callback_that_fails_takes_no_other_with_it(a_client, until):
    done = []
    pending = [a_client.stats(on_done=lambda one: 1 / 0), a_client.stats(on_done=done.append)]
    with pytest.raises(ZeroDivisionError):
        until(a_client, lambda: False)
    until(a_client, lambda: done)

    assert done == pending[1:]


def test_a_callback_that_comes_late_is_still_called(a_client):
    pending = a_client.stats()
    pending.wait(LIMIT_S)
    called = []
    pending.when_done(called.append)
    assert called == []
    a_client.drain()

    assert called == [pending]


def test_an_answer_that_is_not_there_is_not_given(a_client):
    pending = a_client.stats()
    with pytest.raises(WorkerFailure, match="not answered yet"):
        pending.result()
    with pytest.raises(WorkerFailure, match="within 0 s"):
        pending.wait(0)


def test_progress_is_told_while_a_request_runs(a_client, a_volume, ask):
    a_client.open_volume(a_volume)
    told = []
    pending = a_client.predict(ask("slow:0.4"), on_progress=told.append)
    pending.wait(LIMIT_S)

    assert len(told) > 2
    assert all(0 <= one.fraction <= 1 and one.text.startswith("Step") for one in told)
    assert [one.fraction for one in told] == sorted(one.fraction for one in told)


@pytest.mark.wall_clock
def test_a_running_request_is_cancelled_within_half_a_second(a_client, a_volume, ask):
    a_client.open_volume(a_volume)
    pending = a_client.predict(ask("slow:30"))
    running(a_client, pending)
    started = time.monotonic()

    assert pending.cancel()
    with pytest.raises(Cancelled):
        pending.wait(LIMIT_S)
    assert time.monotonic() - started < 0.5
    assert pending.was_cancelled
    assert not pending.cancel()
    assert a_client.predict(ask()).wait(LIMIT_S).mask().any()


@pytest.mark.wall_clock
def test_a_cancel_is_answered_at_once_even_in_the_middle_of_a_long_step(a_client, a_volume, ask):
    a_client.open_volume(a_volume)
    outcomes = []
    asked = time.monotonic()
    pending = a_client.predict(ask("stuck:1.5"), on_done=outcomes.append)
    a_client.stats().wait(LIMIT_S)
    pending.cancel()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        pending.wait(LIMIT_S)

    assert time.monotonic() - started < 0.5
    assert a_client.predict(ask()).wait(LIMIT_S).mask().any()
    assert time.monotonic() - asked > 1.5  # the step itself could not be broken off
    assert outcomes == [pending]


def test_a_waiting_request_is_cancelled_while_another_one_runs(a_client, a_volume, ask):
    a_client.open_volume(a_volume)
    first, second = a_client.predict(ask("slow:30")), a_client.predict(ask("slow:30"))
    running(a_client, first)
    second.cancel()
    with pytest.raises(Cancelled):
        second.wait(LIMIT_S)

    assert not first.done
    first.cancel()
    with pytest.raises(Cancelled):
        first.wait(LIMIT_S)


def test_cancelling_a_request_that_is_over_is_answered(a_raw_worker):
    a_raw_worker.ask(5, messages.Cancel(4))

    assert a_raw_worker.answer(5) == messages.CancelTaken(found=False)


def test_a_newer_click_on_a_segment_supersedes_older_ones(a_client, a_volume, ask):
    a_client.open_volume(a_volume)
    first = a_client.predict(ask("slow:30", target="A", generation=1))
    running(a_client, first)
    other = a_client.predict(ask("slow:0.1", target="B", generation=1))
    second = a_client.predict(ask("slow:30", target="A", generation=2))
    third = a_client.predict(ask(target="A", generation=3))

    assert third.wait(LIMIT_S).generation == 3
    for outdated in (first, second):
        with pytest.raises(Cancelled, match="superseded"):
            outdated.wait(LIMIT_S)
    assert other.wait(LIMIT_S).target == "B"


def test_an_older_generation_does_not_supersede_a_newer_one(a_client, a_volume, ask):
    a_client.open_volume(a_volume)
    newer = a_client.predict(ask("slow:0.3", target="A", generation=5))
    older = a_client.predict(ask(target="A", generation=4))

    with pytest.raises(Cancelled, match="superseded"):
        older.wait(LIMIT_S)
    assert newer.wait(LIMIT_S).generation == 5


def test_predictions_without_a_target_leave_each_other_alone(a_client, a_volume, ask):
    a_client.open_volume(a_volume)
    both = [a_client.predict(ask("slow:0.1")), a_client.predict(ask("slow:0.1"))]

    assert all(one.wait(LIMIT_S).mask().any() for one in both)


@pytest.mark.wall_clock
def test_prewarming_makes_way_for_a_click(a_client, a_volume, ask):
    a_client.open_volume(a_volume)
    warm = a_client.prewarm(messages.Prewarm(a_volume.uid, (1, 2, 3), count=4000))
    time.sleep(0.1)
    started = time.monotonic()
    a_client.predict(ask()).wait(LIMIT_S)

    assert time.monotonic() - started < 1.0
    assert warm.wait(LIMIT_S).yielded
    assert warm.result().slices < 4000


def test_prewarming_waits_for_everything_else(a_client, a_volume, ask):
    a_client.open_volume(a_volume)
    order = []
    busy = a_client.predict(ask("slow:0.2"), on_done=order.append)
    warm = a_client.prewarm(messages.Prewarm(a_volume.uid, (1, 2, 3), count=2), order.append)
    click = a_client.predict(ask(), on_done=order.append)
    warm.wait(LIMIT_S)
    a_client.drain()

    assert order == [busy, click, warm]
    assert warm.result() == messages.Prewarmed(2, yielded=False)


def test_a_newer_prewarm_supersedes_the_older_one_and_can_be_cancelled(a_client, a_volume):
    a_client.open_volume(a_volume)
    first = a_client.prewarm(messages.Prewarm(a_volume.uid, (1, 2, 3), count=4000))
    second = a_client.prewarm(messages.Prewarm(a_volume.uid, (1, 2, 3), count=4000))
    with pytest.raises(Cancelled, match="superseded"):
        first.wait(LIMIT_S)
    second.cancel()
    with pytest.raises(Cancelled, match="cancelled"):
        second.wait(LIMIT_S)


def kill(client):
    os.kill(client.state.hello.pid, signal.SIGKILL)


@pytest.mark.wall_clock
def test_a_worker_killed_in_the_middle_is_one_failure_within_a_second(
    a_client, a_volume, ask, until
):
    a_client.open_volume(a_volume)
    outcomes = []
    pending = a_client.predict(ask("slow:30"), on_done=outcomes.append)
    running(a_client, pending)
    kill(a_client)
    elapsed = until(a_client, lambda: outcomes)
    time.sleep(0.2)
    a_client.drain()

    assert elapsed < 1.0
    assert outcomes == [pending]
    with pytest.raises(WorkerDied, match=r"exit code -9, SIGKILL") as caught:
        pending.result()
    assert "Repeat the request" in caught.value.next_step
    assert a_client.state.phase == "stopped"
    # The next request starts a new worker, and its volume goes with it.
    assert a_client.predict(ask()).wait(LIMIT_S).mask().any()


def test_all_that_was_pending_fails_when_the_worker_dies(a_client, a_volume, ask):
    a_client.open_volume(a_volume)
    pending = [a_client.predict(ask("crash")), a_client.models(), a_client.predict(ask())]
    for one in pending:
        with pytest.raises(WorkerDied, match=r"exit code 3(.|\n)*crashing now"):
            one.wait(LIMIT_S)


def test_a_worker_killed_at_random_moments_loses_nothing(a_client, a_volume, ask, until):
    a_client.open_volume(a_volume)
    rng = random.Random(4)
    for _ in range(8):
        pending = a_client.predict(ask("slow:0.2"))
        end = time.monotonic() + rng.random() * 0.6
        while time.monotonic() < end:
            a_client.drain()
            time.sleep(0.005)
        killed = a_client.state.hello is not None
        if killed:
            kill(a_client)
        try:
            pending.wait(LIMIT_S)
        except WorkerDied as error:
            assert "exit code -9" in error.message
        if killed:  # the answer may have come first, and the death is yet to be noticed
            until(a_client, lambda: a_client.state.hello is None)

    assert a_client.predict(ask()).wait(LIMIT_S).mask().any()


def test_prints_from_python_c_and_children_land_in_the_log_and_not_on_the_wire(
    clients, a_volume, ask, tmp_path
):
    client = clients(log_path=tmp_path / "logs" / "worker.log")
    client.open_volume(a_volume)
    for _ in range(3):
        assert client.predict(ask("print")).wait(LIMIT_S).mask().any()
    lines = client.log_tail()

    for line in ("from Python", "from C", "from the descriptor", "from a child ''"):
        assert lines.count(line) == 3, lines
    client.shutdown().wait(LIMIT_S)
    assert "from C\n" in (tmp_path / "logs" / "worker.log").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="needs exec of POSIX")
def test_a_worker_without_an_error_stream_keeps_its_wire_clean(clients, a_volume, ask):
    fake = str(Path(__file__).with_name("fake_worker.py"))
    program = f"import os, sys; os.close(2); os.execv(sys.executable, [sys.executable, {fake!r}])"
    client = clients(program=program)
    client.open_volume(a_volume)

    assert client.predict(ask("print")).wait(LIMIT_S).mask().any()
    assert client.log_tail() == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal of POSIX")
def test_a_person_who_types_the_command_is_told_what_it_is_for():
    ours, theirs = os.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "protosam.worker"],
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    os.close(ours)
    os.close(theirs)

    assert done.returncode == 2
    assert "protosam segment" in done.stderr
    assert done.stdout == ""


def test_an_unknown_option_of_the_worker_is_in_the_message():
    words = r"exit code 2(.|\n)*unrecognized arguments: --colour"
    command = (sys.executable, "-m", "protosam.worker", "--colour", "red")
    with WorkerClient(command) as client, pytest.raises(WorkerDied, match=words):
        client.stats().wait(LIMIT_S)


def test_a_log_that_cannot_be_written_is_said_and_hurts_nothing(clients, tmp_path):
    (tmp_path / "file").write_text("")
    client = clients(log_path=tmp_path / "file" / "worker.log")
    client.stats().wait(LIMIT_S)

    assert any("cannot be opened" in line for line in client.log_tail())


def test_a_log_that_has_grown_large_is_put_aside(clients, tmp_path):
    path = tmp_path / "worker.log"
    path.write_bytes(b"x" * (5 << 20))
    clients(log_path=path).stats().wait(LIMIT_S)

    assert path.stat().st_size < 1 << 20
    assert path.with_name("worker.log.old").stat().st_size == 5 << 20


def test_closing_stdin_ends_an_idle_worker(a_raw_worker):
    a_raw_worker.ask(1, messages.Models())
    a_raw_worker.answer(1)

    assert a_raw_worker.end() == 0


@pytest.mark.parametrize(("command", "limit_s"), [("slow:60", 1.0), ("stuck:60", 3.0)])
@pytest.mark.wall_clock
def test_closing_stdin_ends_a_working_worker(a_raw_worker, a_volume, ask, command, limit_s):
    a_raw_worker.ask(1, messages.OpenVolume(a_volume.uid, a_volume.voxels, a_volume.affine))
    a_raw_worker.ask(2, ask(command))
    a_raw_worker.ask(3, messages.Stats())
    a_raw_worker.answer(3)
    time.sleep(0.2)
    started = time.monotonic()

    assert a_raw_worker.end() == 0
    assert time.monotonic() - started < limit_s


def test_the_worker_ends_with_its_host(clients, a_volume, ask):
    a_client = clients()
    a_client.open_volume(a_volume)
    running(a_client, a_client.predict(ask("slow:60")))
    process = psutil.Process(a_client.state.hello.pid)
    a_client.close()

    assert process.wait(LIMIT_S) in (0, None)


def test_a_closed_client_says_so(a_client, a_volume, ask):
    a_client.open_volume(a_volume)
    pending = a_client.predict(ask("slow:60"))
    a_client.close()
    for one in (pending, a_client.predict(ask()), a_client.stats(), a_client.open_volume(a_volume)):
        with pytest.raises(WorkerFailure, match="closed"):
            one.wait(LIMIT_S)
    a_client.drain()

    assert a_client.state.phase == "closed"


def test_a_shut_down_worker_says_goodbye_and_the_next_request_starts_another(
    a_client, a_volume, ask
):
    a_client.open_volume(a_volume)
    pid = a_client.state.hello.pid
    pending = a_client.predict(ask("slow:60"))
    running(a_client, pending)

    assert a_client.shutdown().wait(LIMIT_S) == messages.Goodbye()
    with pytest.raises(Cancelled, match="shutdown"):
        pending.wait(LIMIT_S)
    assert a_client.predict(ask()).wait(LIMIT_S).mask().any()
    assert a_client.state.hello.pid != pid


def test_a_host_can_start_the_worker_again_at_any_time(a_client, a_volume, ask):
    a_client.open_volume(a_volume)
    pending = a_client.predict(ask("stuck:60"))
    a_client.restart()
    with pytest.raises(WorkerDied, match="start a new one"):
        pending.wait(LIMIT_S)

    assert a_client.predict(ask()).wait(LIMIT_S).mask().any()


def test_a_volume_that_the_worker_has_forgotten_is_sent_again(a_client, a_volume, ask):
    a_client.open_volume(a_volume).wait(LIMIT_S)
    a_client._ask(messages.CloseVolume(a_volume.uid)).wait(LIMIT_S)
    both = [a_client.predict(ask()), a_client.predict(ask())]

    assert all(one.wait(LIMIT_S).mask().any() for one in both)
    assert a_client.stats().wait(LIMIT_S).volumes == (a_volume.uid,)


def test_an_outdated_click_on_a_forgotten_volume_is_not_repeated(a_client, a_volume, ask):
    a_client.open_volume(a_volume).wait(LIMIT_S)
    a_client._ask(messages.CloseVolume(a_volume.uid)).wait(LIMIT_S)
    older = a_client.predict(ask(target="A", generation=1))
    newer = a_client.predict(ask(target="A", generation=2))

    assert newer.wait(LIMIT_S).generation == 2
    with pytest.raises(Cancelled, match="superseded"):
        older.wait(LIMIT_S)


def test_a_volume_is_sent_once(a_client, a_volume):
    first = a_client.open_volume(a_volume)

    assert a_client.open_volume(a_volume) is first
    first.wait(LIMIT_S)
    assert a_client.open_volume(a_volume) is first


def test_a_closed_volume_is_unknown_to_both_ends(a_client, a_volume, ask):
    closed = []
    a_client.open_volume(a_volume).wait(LIMIT_S)
    a_client.close_volume(a_volume.uid, on_done=closed.append).wait(LIMIT_S)
    with pytest.raises(InvalidInput, match="was not given to this client"):
        a_client.predict(ask()).wait(LIMIT_S)
    assert a_client.stats().wait(LIMIT_S).volumes == ()
    again = a_client.close_volume(a_volume.uid)

    assert again.wait(LIMIT_S) == messages.VolumeClosed(a_volume.uid)
    assert len(closed) == 1


def test_closing_a_volume_does_not_take_it_from_a_click_that_came_before(a_client, a_volume, ask):
    a_client.open_volume(a_volume)
    busy, waits = a_client.predict(ask("slow:0.2")), a_client.predict(ask())
    a_client.close_volume(a_volume.uid)

    assert busy.wait(LIMIT_S).mask().any()
    assert waits.wait(LIMIT_S).mask().any()


@pytest.mark.wall_clock
def test_stats_and_hello_are_answered_while_the_device_is_busy(a_client, a_volume, ask):
    a_client.open_volume(a_volume)
    pending = a_client.predict(ask("stuck:2"))
    started = time.monotonic()
    stats, hello = a_client.stats(), a_client.hello()

    assert stats.wait(LIMIT_S).waiting == 1
    assert hello.wait(LIMIT_S).pid == a_client.state.hello.pid
    assert time.monotonic() - started < 1.0
    assert not pending.done
    report = stats.result()
    assert report.model == "fake"
    assert report.cache_mb == 1.0
    assert 10 < report.memory_mb < 1000
    assert report.volumes_mb == a_volume.voxels.nbytes / 1e6


def test_models_are_listed_and_loaded(a_client):
    told = []
    listed = a_client.models().wait(LIMIT_S)
    request = messages.LoadModel("fake", "liver")
    loaded = a_client.load_model(request, on_progress=told.append).wait(LIMIT_S)

    assert [one.name for one in listed.models] == ["fake"]
    assert (loaded.model, loaded.adapter) == ("fake", "liver")
    assert [one.text for one in told] == ["Loading"]
    with pytest.raises(ModelUnavailable, match="There is no model 'missing'"):
        a_client.load_model(messages.LoadModel("missing")).wait(LIMIT_S)


@pytest.mark.parametrize(
    ("command", "kind", "words"),
    [
        ("raise", WorkerFailure, r"'predict' failed in the worker \(KeyError\)"),
        ("memory", OutOfMemory, "not enough memory"),
        ("nan", WorkerFailure, "cannot be written as JSON"),
    ],
)
def test_a_fault_of_the_engine_is_a_sentence_and_the_worker_goes_on(
    a_client, a_volume, ask, command, kind, words
):
    a_client.open_volume(a_volume)
    with pytest.raises(kind, match=words) as caught:
        a_client.predict(ask(command)).wait(LIMIT_S)

    assert "secret detail" not in str(caught.value)
    assert a_client.predict(ask()).wait(LIMIT_S).mask().any()


def test_the_traceback_of_a_fault_is_in_the_log(a_client, a_volume, ask, until):
    a_client.open_volume(a_volume)
    with pytest.raises(WorkerFailure):
        a_client.predict(ask("raise")).wait(LIMIT_S)
    until(a_client, lambda: any("secret detail" in line for line in a_client.log_tail()))

    assert any("Traceback" in line for line in a_client.log_tail())


def test_a_prompt_outside_of_the_volume_is_refused(a_client, a_volume):
    a_client.open_volume(a_volume)
    prompts = PromptSet(points=(Point((1, 2, 900), True, "a"),))
    with pytest.raises(InvalidPrompt, match="outside"):
        a_client.predict(messages.Predict(a_volume.uid, prompts)).wait(LIMIT_S)


def test_a_volume_with_a_singular_affine_is_refused_by_the_worker_too(a_raw_worker):
    a_raw_worker.ask(
        1, messages.OpenVolume("v", np.zeros((1, 2, 2), "i2"), np.diag([0.0, 1, 1, 1]))
    )
    failed = a_raw_worker.answer(1)

    assert isinstance(failed.exception(), GeometryError)
    assert "singular" in failed.message


def test_an_unknown_verb_gets_a_sentence_and_the_connection_survives(a_raw_worker):
    a_raw_worker.send(b"".join(encode(Frame(1, "segmnt"))))
    failed = a_raw_worker.answer(1)
    a_raw_worker.ask(2, messages.Stats())

    assert "'segmnt' is not known" in failed.message
    assert a_raw_worker.answer(2).waiting == 0


def test_another_protocol_version_gets_a_sentence_and_the_connection_survives(a_raw_worker):
    a_raw_worker.send(b"".join(encode(Frame(1, "stats"), version=2)))
    failed = a_raw_worker.answer(1)
    a_raw_worker.ask(2, messages.Stats())

    assert failed.error == "ProtocolMismatch"
    assert "protocol version 2" in failed.message
    assert a_raw_worker.answer(2).waiting == 0


def test_a_volume_larger_than_the_store_pushes_the_others_out(a_volume, monkeypatch):
    from protosam.worker.volumes import VolumeStore

    store = VolumeStore(limit_bytes=2 * a_volume.voxels.nbytes)
    volumes = [Volume(a_volume.voxels, a_volume.affine, uid) for uid in "abc"]

    assert store.add(volumes[0]) == store.add(volumes[1]) == ()
    assert store.get("a") is volumes[0]
    assert store.add(volumes[2]) == ("b",)
    assert store.uids() == ("a", "c")
    huge = Volume(np.zeros((50, 50, 50)), np.eye(4), "huge")
    assert store.add(huge) == ("a", "c")
    assert store.nbytes() == huge.voxels.nbytes


@pytest.mark.slow
def test_a_large_volume_opens_in_under_three_seconds(a_client):
    voxels = np.zeros((600, 512, 512), np.int16)
    voxels[:] = np.arange(512, dtype=np.int16)
    worker = psutil.Process(a_client.state.hello.pid)
    started = cpu_seconds(worker)
    volume = Volume(voxels, np.diag([0.7, 0.7, 1.0, 1.0]))
    a_client.open_volume(volume).wait(60)
    elapsed = cpu_seconds(worker) - started
    memory_mb = a_client.stats().wait(LIMIT_S).memory_mb

    assert elapsed < 3.0
    assert memory_mb < voxels.nbytes / 1e6 + 200


def cpu_seconds(worker):
    """Time of the processor at both ends: what the clock would show on an idle machine, at most."""
    used = worker.cpu_times()
    return time.process_time() + used.user + used.system
