"""Examples over the wire: made, applied, cancelled, superseded, and clicks in between."""

from __future__ import annotations

import numpy as np
import pytest

from protosam.errors import Cancelled, InvalidInput, UnreadableFile, WorkerFailure
from protosam.extents import Extent, bounding_extent, pack_bits
from protosam.prompts import Point, PromptSet
from protosam.wire import messages

LIMIT_S = 20.0


def taught(name="liver"):
    return messages.TaughtSegment(name, "", (1, 0, 0), Extent((0, 0, 0), (1, 1, 3)), b"\xa0")


def make(volume, *names, **fields):
    return messages.MakeExample(volume.uid, tuple(taught(name) for name in names), **fields)


def apply(volume, names=b"liver|spleen", **fields):
    return messages.ApplyExample(volume.uid, (names,), **fields)


@pytest.fixture
def client(a_client, a_volume):
    a_client.open_volume(a_volume)
    return a_client


def test_an_example_is_made_and_its_proposals_come_one_by_one(client, a_volume):
    made = client.make_example(make(a_volume, "liver", "spleen")).wait(LIMIT_S)
    assert made.names == ("liver", "spleen")
    heard = []
    request = messages.ApplyExample(a_volume.uid, (made.example,), partial=True)
    done = client.apply_example(request, heard.append, on_proposed=heard.append).wait(LIMIT_S)
    client.drain()

    assert done.names == ("liver", "spleen")
    kinds = [getattr(one, "KIND", "done") for one in heard]
    assert kinds == [*["proposed_slices", "proposed"] * 2, "done"]


def test_slices_come_only_to_who_asks_for_them(client, a_volume):
    heard = []
    client.apply_example(apply(a_volume), on_proposed=heard.append).wait(LIMIT_S)
    assert [one.KIND for one in heard] == ["proposed", "proposed"]
    with pytest.raises(WorkerFailure, match="answered 'apply_example' with a 'proposed_slices'"):
        client.apply_example(apply(a_volume, model="lies")).wait(LIMIT_S)


def test_clicks_of_the_user_reach_the_engine(client, a_volume):
    prompts = PromptSet((Point((1, 2, 3), True, "p1"),))
    request = apply(a_volume, clicks=(messages.SegmentClicks("spleen", prompts),))
    heard = []
    client.apply_example(request, on_proposed=heard.append).wait(LIMIT_S)
    assert [one.prompts for one in heard] == [PromptSet(), prompts]


@pytest.mark.parametrize("kind", [make, apply])
def test_a_click_is_answered_while_examples_are_worked_on(client, a_volume, ask, until, kind):
    order = []
    names = ("liver",) if kind is make else (b"liver",)
    request = kind(a_volume, *names, model="slow:30")
    send = client.make_example if kind is make else client.apply_example
    reports = []
    pending = send(request, lambda one: order.append("example"), reports.append)
    until(client, lambda: len(reports) > 2)
    client.predict(ask(), lambda one: order.append("click")).wait(LIMIT_S)
    client.drain()
    assert order == ["click"]
    count = len(reports)
    until(client, lambda: len(reports) > count)  # and it goes on
    pending.cancel()
    with pytest.raises(Cancelled):
        pending.wait(LIMIT_S)


def test_a_click_that_fails_does_not_harm_the_application(client, a_volume, ask, until):
    reports, heard = [], []
    request = apply(a_volume, model="slow:0.6")
    pending = client.apply_example(request, None, reports.append, heard.append)
    until(client, lambda: reports)
    with pytest.raises(WorkerFailure):
        client.predict(ask("raise")).wait(LIMIT_S)
    assert pending.wait(LIMIT_S).names == ("liver", "spleen")
    assert len(heard) == 2


def test_what_waits_behind_another_model_is_not_answered_before_it(client, a_volume, ask, until):
    order, reports = [], []
    client.apply_example(
        apply(a_volume, model="slow:0.6"), lambda one: order.append("example"), reports.append
    )
    until(client, lambda: reports)
    client.load_model(messages.LoadModel("other"), lambda one: order.append("model"))
    client.predict(ask(), lambda one: order.append("click")).wait(LIMIT_S)
    client.drain()
    assert order == ["example", "model", "click"]


def test_cancel_ends_an_application_and_nothing_comes_behind_it(client, a_volume, until):
    reports, heard = [], []
    pending = client.apply_example(
        apply(a_volume, model="slow:30", partial=True), None, reports.append, heard.append
    )
    until(client, lambda: reports)
    pending.cancel()
    with pytest.raises(Cancelled):
        pending.wait(LIMIT_S)
    count = len(reports)
    client.stats().wait(LIMIT_S)
    client.models().wait(LIMIT_S)
    assert (len(reports), heard) == (count, [])


def test_a_newer_application_of_a_target_supersedes_an_older_one(client, a_volume, until):
    reports = []
    first = client.apply_example(
        apply(a_volume, target="host", generation=1, model="slow:30"), None, reports.append
    )
    other = client.apply_example(apply(a_volume, target="another host", generation=1))
    until(client, lambda: reports)
    second = client.apply_example(apply(a_volume, target="host", generation=2))
    assert second.wait(LIMIT_S).generation == 2
    assert other.wait(LIMIT_S).target == "another host"
    with pytest.raises(Cancelled, match="superseded"):
        first.wait(LIMIT_S)
    late = client.apply_example(apply(a_volume, target="host", generation=1))
    assert late.wait(LIMIT_S).generation == 1  # nothing newer waits or runs any more


def test_a_click_of_the_same_name_supersedes_no_application(client, a_volume, ask, until):
    reports = []
    request = apply(a_volume, target="A", generation=1, model="slow:0.4")
    pending = client.apply_example(request, None, reports.append)
    until(client, lambda: reports)
    client.predict(ask(target="A", generation=2)).wait(LIMIT_S)
    assert pending.wait(LIMIT_S).target == "A"


def test_a_volume_that_was_forgotten_is_sent_again(clients, a_volume):
    client = clients()
    client.open_volume(a_volume).wait(LIMIT_S)
    client.restart()
    assert client.apply_example(apply(a_volume)).wait(LIMIT_S).volume_uid == a_volume.uid


def test_a_volume_that_was_never_given_is_refused(a_client, a_volume):
    with pytest.raises(InvalidInput, match="was not given"):
        a_client.make_example(make(a_volume, "liver")).wait(LIMIT_S)


# The worker that users get.


@pytest.mark.slow
def test_a_phantom_is_proposed_from_itself_and_a_click_is_answered_meanwhile(real, phantom):
    uid, truth = phantom.volume.uid, phantom.truth
    extent = bounding_extent(truth)
    segment = messages.TaughtSegment("body", "", (1, 0, 0), extent, pack_bits(truth[extent.slices]))
    made = real.make_example(messages.MakeExample(uid, (segment,))).wait(120)
    order, heard = [], []
    request = messages.ApplyExample(uid, (made.example,), partial=True)
    pending = real.apply_example(request, lambda one: order.append("example"), None, heard.append)
    point = Point(phantom.clicks[0][0], True, "p1")
    click = messages.Predict(uid, PromptSet((point,), scope="slice", axis=0))
    real.predict(click, lambda one: order.append("click"))
    done = pending.wait(120)
    real.drain()

    assert order == ["click", "example"]
    assert done.names == ("body",)
    found = heard[-1]
    assert found.KIND == "proposed"
    mask = np.zeros(truth.shape, bool)
    mask[found.extent.slices] = found.mask()
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.5
    assert found.confidences
    assert all(0 <= one <= 1 for one in found.confidences.values())


@pytest.mark.slow
def test_rubbish_and_nothing_to_learn_are_refused_with_a_sentence(real, phantom):
    uid = phantom.volume.uid
    with pytest.raises(UnreadableFile, match=r"example-1\.psexample is not a whole example"):
        real.apply_example(messages.ApplyExample(uid, (b"rubbish",))).wait(60)
    with pytest.raises(InvalidInput, match="no segment"):
        real.make_example(messages.MakeExample(uid, ())).wait(60)
    far = messages.TaughtSegment("x", "", (1, 0, 0), Extent((999, 0, 0), (1000, 1, 3)), b"\xa0")
    with pytest.raises(InvalidInput, match="outside of the volume"):
        real.make_example(messages.MakeExample(uid, (far,))).wait(60)
