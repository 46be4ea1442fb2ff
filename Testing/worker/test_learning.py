"""Learning over the wire: cases are kept, runs teach beside the clicks, adapters are chosen."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from protosam.cases.saved import CaseFolder
from protosam.errors import (
    Cancelled,
    GeometryError,
    InvalidInput,
    StorageFailure,
    UnreadableFile,
    WorkerDied,
    WorkerFailure,
)
from protosam.extents import Extent, bounding_extent, pack_bits
from protosam.geometry import Volume
from protosam.learn.adapter_cards import CARD
from protosam.learn.adapters import AdapterStore
from protosam.models.tiny import TinySAM, TinySettings
from protosam.models.tiny_predictor import save_tiny
from protosam.prompts import Point, PromptSet
from protosam.wire import messages
from protosam.wire.client import WorkerClient
from protosam.wire.frames import FrameDecoder, encode
from protosam.worker import teaching
from protosam.worker.guests import Guest, GuestOutbox
from protosam.worker.jobs import SHUTDOWN, Job, JobQueue
from protosam.worker.learning import order_of
from protosam.worker.teaching_plan import TeachingPlan
from protosam.worker.turns import Turns

LIMIT_S = 20.0
LONG_S = 300.0
"""For a real run. It takes 10 s alone on one core, and gives way to whatever else is going on."""

SLOW = "slow:60"
SPLEEN = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical "
    "Structure~SCT^78961009^Spleen~^^~Anatomic codes - DICOM master list~^^~^^"
)
KIDNEY = SPLEEN.replace("78961009^Spleen~^^", "64033007^Kidney~SCT^24028007^Right")
posix = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")


class Run:
    """A run that teaches, and what was heard of it."""

    def __init__(self, client, name, **fields):
        self.steps, self.reports = [], []
        self.pending = client.adapt(
            messages.Adapt(**{"cases": "somewhere", "name": name, **fields}),
            None,
            self.reports.append,
            self.steps.append,
        )

    @property
    def process(self):
        """The process that teaches, once it has said who it is."""
        found = [re.match(r"pid (\d+), nice (\d+)", one.text) for one in self.reports]
        pids = [int(one[1]) for one in found if one]
        return psutil.Process(pids[0]) if pids else None


@pytest.fixture
def begun(a_client, until):
    """A run that goes on for a minute, and its process."""
    run = Run(a_client, SLOW)
    until(a_client, lambda: run.process and run.steps)
    return run, run.process


def gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def segment(name, mask, terminology=""):
    box = bounding_extent(mask)
    return messages.TaughtSegment(
        name, terminology, (1.0, 0.0, 0.0), box, pack_bits(mask[box.slices])
    )


def blocks(volume, *starts):
    """A mask for each corner: 2 voxels along each axis from there."""
    masks = []
    for start in starts:
        mask = np.zeros(volume.shape_kji, dtype=bool)
        mask[tuple(slice(n, n + 2) for n in start)] = True
        masks.append(mask)
    return masks


def test_steps_and_the_answer_of_a_run_come_to_the_host(a_client):
    run = Run(a_client, "slow:0.5")
    adapted = run.pending.wait(LIMIT_S)
    assert (adapted.version.name, adapted.pictures) == ("slow:0.5", (b"\x89PNG", b""))
    assert run.reports[0].text == teaching.STARTING
    numbers = [one.step for one in run.steps]
    assert numbers == sorted(set(numbers)) and numbers[-1] == run.steps[-1].steps == 25


def test_a_thousand_quick_steps_do_not_flood_the_host_and_the_last_one_comes(a_client):
    run = Run(a_client, "burst")
    run.pending.wait(LIMIT_S)
    assert len(run.steps) < 100
    assert (run.steps[0].step, run.steps[-1].step) == (1, 1000)


@posix
def test_a_run_gives_way_to_everything_else(begun):
    assert begun[1].nice() >= teaching.NICE


def test_everything_else_is_answered_while_a_run_goes_on(a_client, begun, a_volume, ask, tmp_path):
    run, _ = begun
    a_client.open_volume(a_volume)
    assert a_client.predict(ask("print")).wait(LIMIT_S).mask().any()
    a_client.prewarm(messages.Prewarm(a_volume.uid, (1, 2, 3), count=1)).wait(LIMIT_S)
    assert a_client.adapters(messages.Adapters(str(tmp_path))).wait(LIMIT_S).adapters == ()
    assert a_client.stats().wait(LIMIT_S).waiting == 1
    assert not run.pending.done


def test_a_second_run_is_refused_at_once_and_the_first_goes_on(a_client, begun, until):
    run, _ = begun
    with pytest.raises(WorkerFailure, match=r"teaches an adapter already.*stop it"):
        Run(a_client, "slow:0.1").pending.wait(LIMIT_S)
    count = len(run.steps)
    until(a_client, lambda: len(run.steps) > count)


def test_cancel_is_answered_at_once_ends_the_process_and_makes_room(a_client, begun, until):
    run, process = begun
    run.pending.cancel()
    with pytest.raises(Cancelled):
        run.pending.wait(LIMIT_S)
    count = len(run.steps)
    until(a_client, lambda: gone(process))
    second = Run(a_client, "slow:0.1")
    assert second.pending.wait(LIMIT_S).version.name == "slow:0.1"
    assert len(run.steps) == count


def test_what_does_not_stop_is_ended_and_the_next_run_waits_for_that(a_client, until):
    run = Run(a_client, "stuck:600")
    until(a_client, lambda: run.process)
    process = run.process
    run.pending.cancel()
    second = Run(a_client, "slow:0.1")
    until(a_client, lambda: second.process, teaching.GRACE_S + LIMIT_S)
    assert gone(process)
    second.pending.wait(LIMIT_S)


def test_a_run_can_be_cancelled_before_its_process_has_begun(a_client):
    run = Run(a_client, SLOW)
    run.pending.cancel()
    with pytest.raises(Cancelled):
        run.pending.wait(LIMIT_S)
    Run(a_client, "slow:0.1").pending.wait(LIMIT_S)


@pytest.mark.parametrize(("command", "how"), [("crash", "ended with code 3"), ("kill", "signal 9")])
def test_the_death_of_a_run_is_a_sentence_and_the_worker_lives(a_client, until, command, how):
    if command == "kill" and not hasattr(signal, "SIGKILL"):
        pytest.skip("no SIGKILL here")
    run = Run(a_client, command if command == "crash" else SLOW)
    if command == "kill":
        until(a_client, lambda: run.process)
        run.process.kill()
    with pytest.raises(WorkerFailure, match=f"{how}.*goes on from its last checkpoint"):
        run.pending.wait(LIMIT_S)
    Run(a_client, "slow:0.1").pending.wait(LIMIT_S)


def test_faults_of_a_run_are_sentences_of_their_kind(a_client):
    with pytest.raises(InvalidInput, match=r"no case\. Save one"):
        Run(a_client, "refuse").pending.wait(LIMIT_S)
    with pytest.raises(WorkerFailure, match=r"'adapt' failed.*KeyError") as caught:
        Run(a_client, "raise").pending.wait(LIMIT_S)
    assert "secret detail" not in str(caught.value)
    with pytest.raises(InvalidInput, match="no such course"):
        Run(a_client, "no-course").pending.wait(LIMIT_S)


def test_nothing_that_a_run_prints_reaches_the_wire(a_client, until):
    Run(a_client, "print").pending.wait(LIMIT_S)
    wanted = {"from Python", "from C", "from the descriptor", "from a child ''"}
    until(a_client, lambda: wanted <= set(a_client.log_tail(200)))
    assert a_client.models().wait(LIMIT_S).models


@posix
def test_a_run_does_not_outlive_a_worker_that_is_killed(a_client, begun, until):
    run, process = begun
    os.kill(a_client.state.hello.pid, signal.SIGKILL)
    with pytest.raises(WorkerDied):
        run.pending.wait(LIMIT_S)
    until(a_client, lambda: gone(process))


@pytest.mark.parametrize("end", ["stream", "shutdown"])
def test_the_end_of_the_worker_ends_a_run(a_raw_worker, until, end):
    a_raw_worker.ask(1, messages.Adapt("somewhere", SLOW))
    process = None
    while process is None:
        number, reply = a_raw_worker.next()
        told = re.match(r"pid (\d+)", getattr(reply, "text", ""))
        process = psutil.Process(int(told[1])) if number == 1 and told else None
    if end == "shutdown":
        a_raw_worker.ask(2, messages.Shutdown())
        assert a_raw_worker.answer(1).reason == SHUTDOWN
        a_raw_worker.answer(2)
    assert a_raw_worker.end() == 0
    process.wait(LIMIT_S)
    assert not process.is_running()


def test_a_run_may_be_asked_for_before_the_worker_is_ready(clients):
    assert Run(clients("late"), "slow:0.1").pending.wait(LIMIT_S).version.number == 1


def test_what_runs_beside_the_device_is_a_job_like_others_to_whoever_drops_it():
    jobs = JobQueue()
    first, second = (Job(n, messages.Adapt("somewhere", "liver")) for n in (1, 2))
    for job in (first, second):
        assert jobs.put(job) == []
        assert jobs.next() is job
        jobs.go_beside(job)
    assert jobs.teaches and len(jobs) == 2
    jobs.await_beside(first)  # it is its turn
    assert jobs.cancel(1) == [first] and first.stopped.is_set()
    assert jobs.teaches and jobs.cancel(1) == []
    assert jobs.finish(first) is False
    jobs.await_beside(second)
    assert jobs.close() == [second] and second.reason == SHUTDOWN
    assert jobs.finish(second) is False and not jobs.teaches and len(jobs) == 0


def test_a_case_is_kept_with_its_clicks_and_codes_and_no_name(a_client, a_volume, tmp_path):
    named = Volume(a_volume.voxels, a_volume.affine, "Smith, John")
    a_client.open_volume(named)
    first, second, third = blocks(named, (1, 2, 3), (5, 6, 7), (1, 8, 9))
    clicks = PromptSet((Point((1, 2, 3), True, "p1"),))
    request = messages.SaveCase(
        named.uid,
        str(tmp_path / "cases"),
        (
            segment("spleen", first, SPLEEN),
            segment("lesion", second, "nonsense~"),
            segment("kidney", third, KIDNEY),
        ),
        (messages.SegmentClicks("spleen", clicks), messages.SegmentClicks("other", clicks)),
        patient="Smith",
        model_digest="d1g3st",
        day="2026-11-20",
    )
    saved = a_client.save_case(request).wait(LIMIT_S)
    folder = CaseFolder(tmp_path / "cases")
    case = folder.read(saved.id)
    assert folder.case(saved.id).role == saved.role
    assert [one.name for one in case.segments] == ["spleen", "lesion", "kidney"]
    np.testing.assert_array_equal(case.segments[0].mask, first)
    np.testing.assert_array_equal(case.image.voxels, a_volume.voxels)
    assert [one.prompts for one in case.segments] == [clicks, *[PromptSet()] * 2]
    codes = [one and one.meaning for kept in case.segments for one in (kept.code, kept.side)]
    assert codes == ["Spleen", None, None, None, "Kidney", "Right"]
    assert (case.model_digest, str(case.day)) == ("d1g3st", "2026-11-20")
    texts = [path.read_text() for path in (tmp_path / "cases").rglob("*.json")]
    assert len(texts) == 2 and not any("Smith" in text for text in texts)

    held = a_client.look_into_cases(messages.LookIntoCases(str(tmp_path / "cases"))).wait(LIMIT_S)
    assert (held.cases, held.patients, held.labels) == (1, 1, ("spleen", "lesion", "kidney"))
    assert held.held_out == (saved.role == "held-out")


def test_cases_that_cannot_be_kept_are_sentences_and_leave_nothing(a_client, a_volume, tmp_path):
    a_client.open_volume(a_volume)
    first, over = blocks(a_volume, (1, 2, 3), (2, 3, 4))
    outside = messages.TaughtSegment("far", "", (1, 0, 0), Extent((0, 0, 0), (99, 1, 1)), b"x" * 13)
    (tmp_path / "a file").write_text("x")

    def save(*segments, folder="cases"):
        request = messages.SaveCase(a_volume.uid, str(tmp_path / folder), segments, (), "p")
        return a_client.save_case(request).wait(LIMIT_S)

    for segments, kind, told in (
        ((segment("a", first), segment("b", over)), InvalidInput, "shares 1 voxels"),
        ((segment("a", first), segment("a", over)), InvalidInput, "occur twice"),
        ((outside,), GeometryError, "outside of the volume"),
        ((), InvalidInput, "0 segments"),
    ):
        with pytest.raises(kind, match=told):
            save(*segments)
    with pytest.raises(InvalidInput, match="holds something else"):
        save(segment("a", first), folder="a file")
    with pytest.raises(StorageFailure):
        save(segment("a", first), folder="a file/cases")
    with pytest.raises(InvalidInput, match="no case yet"):
        a_client.look_into_cases(messages.LookIntoCases(str(tmp_path / "cases"))).wait(LIMIT_S)
    assert not save(segment("a", first)).again
    assert save(segment("a", first)).again
    with pytest.raises(InvalidInput):
        a_client.look_into_cases(messages.LookIntoCases(str(tmp_path / "no"))).wait(LIMIT_S)
    (tmp_path / "cases" / "manifest.json").write_text("{")
    with pytest.raises(UnreadableFile, match="damaged"):
        save(segment("a", first))


def test_a_case_of_a_volume_that_was_forgotten_is_saved_all_the_same(clients, a_volume, tmp_path):
    client = clients()
    client.open_volume(a_volume).wait(LIMIT_S)
    client.restart()
    (mask,) = blocks(a_volume, (1, 2, 3))
    request = messages.SaveCase(a_volume.uid, str(tmp_path / "c"), (segment("a", mask),), (), "p")
    assert client.save_case(request).wait(LIMIT_S).id


def write_base(path):
    torch.manual_seed(0)
    small = TinySettings(
        embed_dim=32, stem_widths=(12, 24, 24), trunk_dim=48, trunk_depth=2, trunk_heads=2
    )
    save_tiny(TinySAM(small), path, {})
    return path


def a_ball(seed):
    """Bright ball in noise, slightly elsewhere for each seed, and its mask."""
    rng = np.random.default_rng(seed)
    k, j, i = np.ogrid[:6, :40, :48]
    ball = ((k - 2.5) * 4) ** 2 + (j - 20 - seed) ** 2 + (i - 24) ** 2 <= 100
    voxels = np.where(ball, 100, 0) + rng.integers(0, 20, size=(6, 40, 48))
    return Volume(voxels.astype(np.int16), np.diag([1.0, 1.0, 4.0, 1.0])), ball


class Workplace:
    """A real worker with a small network, and what it works on."""

    def __init__(self, folder, steps):
        self.folder = folder
        self.balls = [a_ball(seed) for seed in range(2)]
        script = Path(__file__).with_name("learning_worker.py")
        base = write_base(folder / "small.safetensors")
        self.client = WorkerClient([sys.executable, str(script), str(base), str(steps)])

    def save(self):
        for number, (volume, mask) in enumerate(self.balls):
            self.client.open_volume(volume)
            segments = (segment("ball", mask),)
            request = messages.SaveCase(volume.uid, self["cases"], segments, (), f"p{number}")
            self.client.save_case(request).wait(LONG_S)

    def __getitem__(self, name):
        return str(self.folder / name)

    def teach(self, **fields):
        fields = {"cases": self["cases"], "tier": "decoder", **fields}
        return Run(self.client, "ball", adapters_dir=self["adapters"], **fields)

    def ask(self, adapter):
        volume = self.balls[0][0]
        self.client.open_volume(volume)
        prompts = PromptSet(points=(Point((2, 20, 24), True, "a"),), scope="slice", axis=0)
        request = messages.Predict(volume.uid, prompts, adapter=adapter)
        return self.client.predict(request).wait(LONG_S)

    def change(self, action, number=0):
        request = messages.ChangeAdapter("ball", action, number, self["adapters"])
        return self.client.change_adapter(request).wait(LONG_S).adapters


@pytest.fixture
def workplaces(tmp_path):
    made = []

    def make(steps):
        made.append(Workplace(tmp_path, steps))
        return made[-1]

    yield make
    for one in made:
        one.client.close()


def test_a_real_run_teaches_a_version_that_the_next_click_uses(workplaces):
    at = workplaces(steps=2)
    at.save()
    plain = at.ask("").digest
    adapted = at.teach().pending.wait(LONG_S)
    (version,) = at.client.adapters(messages.Adapters(at["adapters"])).wait(LONG_S).adapters
    assert adapted.version == version and version.active == version.accepted
    assert (version.tier, version.method, version.labels) == ("decoder", "labelled", ("ball",))
    assert [one.who for one in adapted.standings] == ["base", "current", "new"]
    assert version.dice_now == adapted.standings[2].dice_1
    assert adapted.checked.endswith("that nobody taught") and adapted.seconds > 0
    pictures = AdapterStore(Path(at["adapters"])).version("ball", 1).pictures
    assert adapted.pictures == tuple(path.read_bytes() for path in pictures) != ()

    if not version.active:
        at.change("activate", 1)
    used = at.ask(at["adapters/ball"]).digest
    assert used != plain and at.ask(version.path).digest == used
    with pytest.raises(InvalidInput, match="is active"):
        at.change("discard", 1)
    assert [one.active for one in at.change("rollback")] == [False]
    with pytest.raises(InvalidInput, match="no version in use"):
        at.ask(at["adapters/ball"])
    assert [one.active for one in at.change("activate", 1)] == [True]
    assert at.ask(at["adapters/ball"]).digest == used
    at.change("rollback")
    assert at.change("discard", 1) == ()


@posix
def test_a_run_whose_worker_was_killed_goes_on_where_it_was(workplaces, until):
    at = workplaces(steps=100_000)
    at.save()
    first = at.teach()
    until(at.client, lambda: first.steps and first.steps[-1].step > 10, LONG_S)
    at.client.hello().wait(LONG_S)
    os.kill(at.client.state.hello.pid, signal.SIGKILL)
    with pytest.raises(WorkerDied):
        first.pending.wait(LIMIT_S)
    assert AdapterStore(Path(at["adapters"])).names() == ()

    second = at.teach()
    until(at.client, lambda: second.steps or second.pending.done, LONG_S)
    assert second.steps[0].step >= first.steps[-1].step
    second.pending.cancel()
    with pytest.raises(Cancelled):
        second.pending.wait(LIMIT_S)


class Wire:
    """Takes what a worker writes."""

    def __init__(self):
        self.data = b""

    def write(self, data):
        self.data += bytes(data)
        return len(data)


@pytest.mark.parametrize(
    "request_",
    [
        messages.SaveCase("v", "/cases", (), (), "p"),
        messages.LookIntoCases("/cases"),
        messages.Adapt("/cases", "liver"),
        messages.Adapters(),
        messages.ChangeAdapter("liver", "rollback"),
    ],
    ids=lambda one: one.VERB,
)
def test_a_worker_that_others_share_refuses_folders_with_the_next_step(request_):
    wire, turns = Wire(), Turns()
    guest = Guest(GuestOutbox(wire, 1), turns, started_s=0.0, open_bytes=1 << 20, model="")
    asked_for = b"".join(bytes(part) for part in encode(messages.request_frame(7, request_)))
    (frame,) = FrameDecoder().feed(asked_for)
    guest.hear(frame)
    (answer,) = FrameDecoder().feed(wire.data)
    failed = messages.parse_reply(answer)
    assert (answer.request_id, failed.error) == (7, "InvalidInput")
    assert "on its own machine" in failed.message and "of your own machine" in failed.next_step
    assert len(guest.jobs) == 0


def asked(**fields):
    request = messages.Adapt(**{"cases": "cases", "name": "liver", **fields})
    return TeachingPlan(request, "tiny", "cpu", Path("weights"), 1, {"steps": 5})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"name": "../x"}, "cannot be an adapter's name"),
        ({"tier": "large"}, "no tier 'large'"),
        ({"method": "magic"}, "no method 'magic'"),
        ({"method": "ema"}, "none were given"),
        ({"tier": "shift", "unlabelled": "images"}, "labels alone"),
    ],
)
def test_orders_that_cannot_be_carried_out_are_refused(wrong, told):
    with pytest.raises(InvalidInput, match=told) as caught:
        order_of(asked(**wrong))
    assert caught.value.next_step


def test_a_request_becomes_the_order_that_the_command_line_would_give():
    order = order_of(asked(labels=("liver",), tier="full", sentinels="s", adapters_dir="a"))
    folders = (order.cases, order.sentinels, order.adapters_dir, order.weights_dir)
    assert folders == tuple(map(Path, ("cases", "s", "a", "weights")))
    assert (order.labels, order.tier, order.model) == (("liver",), "full", "tiny")
    assert order.settings.steps == 5 and order.unlabelled is None
    plain, beside = order_of(asked()), order_of(asked(unlabelled="images"))
    assert (plain.method, plain.tier, beside.method) == ("labelled", None, "ema")


def test_one_damaged_adapter_hides_no_other(a_client, tmp_path):
    for name in ("good", "odd", "torn", "unsure"):
        place = tmp_path / name / "v001"
        place.mkdir(parents=True)
        card = {
            **dict.fromkeys(("tier", "base_name", "base_sha256"), "x"),
            "labels": ["ball"],
            "cases": ["a"],
            "held_out": [],
            "settings": {},
            "figures": {},
            "seed": 0,
            "format": 1,
            "gate": {"accepted": True, "mean": {"new": 0.5}},
        }
        text = {"odd": json.dumps({**card, "labels": 5}), "torn": "{"}.get(name, json.dumps(card))
        (place / CARD).write_text(text)
        note = '{"format": 1, "version": 1, "before": []}' if name != "unsure" else "?"
        (tmp_path / name / "active.json").write_text(note)
    found = a_client.adapters(messages.Adapters(str(tmp_path))).wait(LIMIT_S).adapters
    assert [one.name for one in found] == ["good", "odd", "torn", "unsure"]
    assert [one.accepted for one in found] == [True, False, False, False]
    assert [one.active for one in found] == [True, True, True, False]
    assert all(one.reason for one in found[1:]) and found[0].dice_now is None
    with pytest.raises(InvalidInput, match="no adapter 'liver'"):
        a_client.change_adapter(messages.ChangeAdapter("liver", "rollback", 0, str(tmp_path))).wait(
            LIMIT_S
        )


def test_a_run_that_is_stopped_at_the_gate_keeps_what_it_has_learnt(workplaces, until):
    at = workplaces(steps=2)
    at.save()
    run = at.teach()
    until(at.client, lambda: any(one.text.startswith("gate") for one in run.reports), LONG_S)
    run.pending.cancel()
    with pytest.raises(Cancelled):
        run.pending.wait(LONG_S)
    assert [one.step for one in run.steps] == [1, 2]
    assert at.client.adapters(messages.Adapters(at["adapters"])).wait(LONG_S).adapters == ()

    again = at.teach()
    assert again.pending.wait(LONG_S).version.number == 1
    assert again.steps == []  # nothing was learnt twice
