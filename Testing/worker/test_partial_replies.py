"""Partial answers over the wire: asked for, in order, and silent once a request is over."""

from __future__ import annotations

import threading
import time
from io import FileIO

import numpy as np
import pytest

from protosam.errors import Cancelled, WorkerFailure
from protosam.extents import Extent, unpack_bits
from protosam.mending import CleanUp
from protosam.models.load import load_model
from protosam.models.segmenter import Segmenter, SegmentRequest
from protosam.prompts import Point, PromptSet
from protosam.wire import messages
from protosam.wire.frames import FrameDecoder
from protosam.wire.messages import parse_reply
from protosam.worker.outbox import Outbox

LIMIT_S = 20.0
PART = messages.Partial(0, (1,), Extent((1, 2, 3), (2, 3, 4)), b"\x80")


def test_partial_answers_arrive_before_the_answer_where_they_are_asked_for(a_client, a_volume, ask):
    a_client.open_volume(a_volume)
    told = []
    request = ask("parts:0.2", partial=True)
    pending = a_client.predict(request, on_done=told.append, on_partial=told.append)
    assert pending.wait(LIMIT_S).mask().any()
    a_client.drain()

    assert told[-1] is pending
    assert len(told) > 2
    assert set(told[:-1]) == {PART}


def test_who_does_not_ask_for_them_gets_none(a_client, a_volume, ask):
    a_client.open_volume(a_volume)
    told = []
    a_client.predict(ask("parts:0.1"), on_partial=told.append).wait(LIMIT_S)

    assert told == []


def test_a_worker_that_sends_them_unasked_is_given_up_with_a_sentence(a_client, a_volume, ask):
    a_client.open_volume(a_volume)
    with pytest.raises(WorkerFailure, match="answered 'predict' with a 'partial' reply"):
        a_client.predict(ask("lies")).wait(LIMIT_S)
    assert a_client.predict(ask()).wait(LIMIT_S).mask().any()  # by a new one


@pytest.mark.parametrize("how", ["cancel", "supersede"])
def test_nothing_comes_behind_the_end_of_a_request(raw_workers, a_volume, ask, how):
    worker = raw_workers()
    opened = messages.OpenVolume(a_volume.uid, a_volume.voxels, a_volume.affine)
    worker.ask(1, opened)
    for number in range(10, 40, 2):
        worker.ask(number, ask("parts:30", target="A", generation=number, partial=True))
        behind = messages.Cancel(number)
        if how == "supersede":
            behind = ask(target="A", generation=number + 1)
        heard = []
        while len(heard) < 2:
            request_id, reply = worker.next()
            heard += [reply] * (request_id == number and reply.KIND == "partial")
        worker.ask(number + 1, behind)
        last = worker.answer(number)
        assert last.KIND == "cancelled"
    worker.ask(99, messages.Stats())
    while (found := worker.next())[0] != 99:
        assert found[1].KIND not in ("partial", "progress"), found


def test_the_outbox_drops_what_is_unwanted_by_the_time_of_its_turn(tmp_path):
    path = tmp_path / "replies"
    stopped = threading.Event()
    with FileIO(str(path), "wb") as stream:
        outbox = Outbox(stream)
        outbox.send(1, PART, unless=stopped.is_set)
        stopped.set()
        outbox.send(1, messages.Cancelled("cancelled"))
        outbox.send(1, PART, unless=stopped.is_set)
    replies = [parse_reply(one) for one in FrameDecoder().feed(path.read_bytes())]

    assert replies == [PART, messages.Cancelled("cancelled")]
    assert outbox.served == 1


def test_a_request_that_was_cancelled_here_hears_no_more_of_them(a_client, a_volume, ask):
    a_client.open_volume(a_volume)
    told = []
    request = ask("parts:30", partial=True)
    pending = a_client.predict(request, on_partial=lambda one: told.append(pending.done))
    end = time.monotonic() + LIMIT_S
    while not told:
        assert time.monotonic() < end
        a_client.drain()
    pending.cancel()
    with pytest.raises(Cancelled):
        pending.wait(LIMIT_S)
    for _ in range(20):
        a_client.drain()
        time.sleep(0.005)

    assert not any(told)


# The worker that users get.


@pytest.mark.slow
def test_the_clicked_slice_comes_first_and_is_the_models_own_answer(real, phantom):
    place = phantom.clicks[0][0]
    uid, point = phantom.volume.uid, Point(place, True, "a")
    parts = []
    request = messages.Predict(uid, PromptSet((point,)), partial=True)
    pending = real.predict(request, on_partial=lambda one: parts.append((pending.done, one)))
    result = pending.wait(120)
    in_slice = PromptSet((point,), scope="slice", axis=result.axis)
    as_it_is = CleanUp(remove_islands=False, fill_holes=False)
    # Without the decoder, which corrects slices that are answered alone.
    plain = Segmenter(load_model("protosam-tiny", device="cpu"))
    alone = plain.segment(phantom.volume, SegmentRequest(in_slice, clean_up=as_it_is))
    own = alone.full_mask(phantom.volume.shape_kji)
    index = round(place[result.axis])

    assert parts
    assert not any(done for done, _ in parts)
    first = parts[0][1]
    assert (first.axis, first.slices) == (result.axis, (index,))
    np.testing.assert_array_equal(on_grid(first, own.shape), own)
    assert own.any()
    told = {z for _, one in parts for z in one.slices}
    assert len(told) > 10


def on_grid(answer, shape):
    whole = np.zeros(shape, bool)
    if answer.extent is not None:
        whole[answer.extent.slices] = unpack_bits(answer.bits, answer.extent.shape_kji)
    return whole
