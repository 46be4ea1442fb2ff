"""Messages: every request and reply to a frame and back, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from protosam.errors import BrokenFrame, Cancelled, GeometryError, InvalidInput, WorkerFailure
from protosam.extents import Extent, pack_bits
from protosam.intensity import Window
from protosam.mending import CleanUp, CleanUpReport, StepReport
from protosam.prompts import Box, Point, PriorMask, PromptSet
from protosam.wire import messages
from protosam.wire.fields import CODECS, LATER
from protosam.wire.frames import Frame, FrameDecoder, encode

MASK = np.random.default_rng(3).random((3, 4, 5)) > 0.5
PROMPTS = PromptSet(
    points=(Point((1.0, 2.5, 3.0), True, "a"), Point((0, 0, 0), False, "b")),
    boxes=(Box((0, 1, 1), (0, 3, 4), 0, "box"), Box((0, 0, 0), (2, 3, 4), None, "box 3-D")),
    prior=PriorMask(Extent((1, 1, 1), (4, 5, 6)), pack_bits(MASK), "prior"),
    scope="slice",
    axis=0,
)
RESULT = messages.Result(
    volume_uid="v",
    target="Segment_1",
    generation=4,
    extent=Extent((5, 6, 7), (8, 10, 12)),
    bits=pack_bits(MASK),
    score=0.75,
    slice_scores={5: 0.5, 6: 1.0},
    axis=0,
    window=Window(-160.0, 240.0),
    model="protosam-tiny",
    digest="abc",
    timings_s={"total": 1.5},
    notes=("Out of memory: used half of the resolution.",),
    clean_up=CleanUpReport((StepReport("islands", 0, 312), StepReport("smoothing", 40, 38))),
)
TAUGHT = (
    messages.TaughtSegment(
        "liver", "a~b~c~d~e~f~g", (1.0, 0.5, 0.0), Extent((5, 6, 7), (8, 10, 12)), pack_bits(MASK)
    ),
    messages.TaughtSegment("Größe", "", (0.0, 0.0, 1.0), Extent((0, 0, 0), (1, 1, 3)), b"\xa0"),
)
CLICKS = dataclasses.replace(PROMPTS, prior=None)
PROPOSED = messages.Proposed(
    name="liver",
    terminology="a~b~c~d~e~f~g",
    colour=(1.0, 0.5, 0.0),
    extent=Extent((5, 6, 7), (8, 10, 12)),
    bits=pack_bits(MASK),
    axis=0,
    confidences={5: 0.25, 6: 1.0, 7: 0.0},
    distance=0.5,
    notes=("Check it.",),
    prompts=CLICKS,
    window=Window(-160.0, 240.0),
    model="protosam-tiny",
    digest="abc",
    elapsed_s=1.5,
)
REQUESTS = [
    messages.Greeting("0.1.0"),
    messages.OpenVolume("v", np.arange(24, dtype="i2").reshape(2, 3, 4), np.eye(4)),
    messages.OpenVolume("v", np.ones((1, 2, 2), dtype="f4"), np.eye(4)),
    messages.CloseVolume("v"),
    messages.Predict("v", PromptSet()),
    messages.Predict(
        volume_uid="v",
        prompts=PROMPTS,
        target="Segment_1",
        generation=4,
        window=Window(-160, 240),
        model="sam_vit_b",
        adapter="liver",
        clean_up=CleanUp(
            remove_islands=False, closing_mm=2.0, opening_mm=0.5, smoothing_mm=1.5, bodies=2
        ),
        editable=Extent((0, 0, 0), (2, 3, 4)),
        partial=True,
        settled=("a", "box"),
    ),
    messages.Prewarm("v", (1.0, 2.0, 3.5)),
    messages.Prewarm("v", (1.0, 2.0, 3.5), axis=2, window=Window(0, 1), count=3, model="m"),
    messages.MakeExample("v", TAUGHT, model="sam_vit_b", adapter="liver"),
    messages.MakeExample("v", ()),
    messages.ApplyExample("v", (b"one", b"", b"three")),
    messages.ApplyExample(
        volume_uid="v",
        examples=(b"one",),
        clicks=(
            messages.SegmentClicks("liver", CLICKS),
            messages.SegmentClicks("spleen", PromptSet()),
        ),
        target="host",
        generation=3,
        model="sam_vit_b",
        adapter="liver",
        partial=True,
    ),
    messages.Cancel(17),
    messages.Models(),
    messages.LoadModel("sam_vit_b", "liver"),
    messages.Stats(),
    messages.Shutdown(),
    messages.SaveCase("v", "/cases", TAUGHT, (messages.SegmentClicks("liver", CLICKS),), "Mr A"),
    messages.SaveCase("v", "C:\\cases", (), (), "patient 1", "d1g3st", "2026-11-20"),
    messages.LookIntoCases("/cases"),
    messages.Adapt("/cases", "liver"),
    messages.Adapt(
        cases="/cases",
        name="liver",
        labels=("liver", "2"),
        tier="decoder",
        method="ema",
        unlabelled="/images",
        sentinels="/sentinels",
        adapters_dir="/adapters",
        model="sam_vit_b",
    ),
    messages.Adapters(),
    messages.Adapters("/adapters"),
    messages.ChangeAdapter("liver", "rollback"),
    messages.ChangeAdapter("liver", "activate", 3, "/adapters"),
]
VERSION = messages.AdapterInfo(
    name="liver",
    number=3,
    active=True,
    path="/adapters/liver/v003",
    tier="decoder",
    method="labelled",
    base="protosam-tiny",
    labels=("liver", "Größe"),
    cases=5,
    accepted=True,
    reason="mean Dice changed by +0.061",
    validation="validated on other patients",
    dice_before=0.61,
    dice_now=0.672,
)
DAMAGED = dataclasses.replace(VERSION, active=False, tier="", dice_before=None, dice_now=None)
STANDINGS = (
    messages.Standing("base", None, 0.5, 0.625, 12.5, None),
    messages.Standing("new", 0.25, 0.75, 0.875, 3.5, 0.5),
)
REPLIES = [
    messages.Hello("0.1.0", "3.12.1", 4711),
    messages.Ready("protosam-tiny", "cpu", 2.5, ("A note.",)),
    messages.Progress(0.5, "Slice 3 of 6"),
    messages.Partial(0, (5, 7), Extent((5, 6, 7), (8, 10, 12)), pack_bits(MASK)),
    messages.Partial(2, (0,), None, b""),
    messages.ProposedSlices(
        "liver", 0, {5: 0.5, 7: 0.25}, Extent((5, 6, 7), (8, 10, 12)), pack_bits(MASK)
    ),
    messages.ProposedSlices("liver", 2, {0: 1.0}, None, b""),
    PROPOSED,
    dataclasses.replace(PROPOSED, extent=None, bits=b"", confidences={}),
    messages.ExampleMade(b"content", ("liver", "Größe"), "tiny", "abc"),
    messages.ExampleApplied("v", "host", 3, ("liver",), "tiny", "abc", 2.5),
    messages.VolumeOpened("v", ("old",)),
    messages.VolumeClosed("v"),
    RESULT,
    dataclasses.replace(RESULT, extent=None, bits=b"", slice_scores={}),
    messages.Prewarmed(3, True),
    messages.CancelTaken(False),
    messages.ModelList((messages.ModelInfo("tiny", "tiny", "Apache-2.0", True, False),)),
    messages.ModelLoaded("tiny", "", "abc", "cuda:0"),
    messages.StatsReport(1.0, 2.0, ("v",), 3.0, "tiny", "cpu", 1, 2, 9.5),
    messages.Goodbye(),
    messages.Failed("InvalidPrompt", "It lies outside.", "Click inside."),
    messages.Cancelled("superseded"),
    messages.CaseSaved("0123456789abcdef", "held-out"),
    messages.CaseList(5, 1, 4, ("liver", "Größe")),
    messages.Taught(3, 200, 0.75, 61.5),
    messages.Adapted(VERSION, STANDINGS, "12 objects", (b"\x89PNG", b"", b"x"), 300.5, ("Hm.",)),
    messages.Adapted(DAMAGED, (), "", (), 0.0, ()),
    messages.AdapterList((VERSION, DAMAGED)),
    messages.AdapterList(()),
]


def through_bytes(frame):
    (found,) = FrameDecoder().feed(b"".join(bytes(part) for part in encode(frame)))
    return found


def same(first, second):
    for field in dataclasses.fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
        else:
            assert one == other
    return type(first) is type(second)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: one.VERB)
def test_a_request_comes_back_as_it_went(request_):
    found = messages.parse_request(through_bytes(messages.request_frame(9, request_)))

    assert same(request_, found)


@pytest.mark.parametrize("reply", REPLIES, ids=lambda one: one.KIND)
def test_a_reply_comes_back_as_it_went(reply):
    found = messages.parse_reply(through_bytes(messages.reply_frame(9, reply)))

    assert same(reply, found)


def test_the_examples_above_cover_every_verb_and_every_reply():
    assert {one.VERB for one in REQUESTS} == set(messages.REQUESTS)
    assert {one.KIND for one in REPLIES} == set(messages.REPLIES)
    for name, kind in messages.REQUESTS.items():
        assert name == kind.VERB
        assert kind.ANSWER.KIND in messages.REPLIES
    assert all(name == kind.KIND for name, kind in messages.REPLIES.items())


@pytest.mark.parametrize("kind", [*messages.REQUESTS.values(), *messages.REPLIES.values()])
def test_every_field_of_every_message_can_travel(kind):
    assert all(str(one.type) in CODECS for one in dataclasses.fields(kind))


def test_the_document_names_every_message_and_every_field():
    text = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text("utf-8")
    kinds = [*messages.REQUESTS.values(), *messages.REPLIES.values()]
    names = {*messages.REQUESTS, *messages.REPLIES}
    names |= {one.name for kind in kinds for one in dataclasses.fields(kind)}

    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
    assert f"Protocol version **{messages.PROTOCOL_VERSION}**" in text


def test_a_prior_mask_travels_as_an_array_and_not_inside_the_header():
    frame = messages.request_frame(1, messages.Predict("v", PROMPTS))

    assert list(frame.arrays) == ["prompts.prior"]
    assert "bits" not in repr(frame.body)


def test_booleans_travel_as_bytes():
    frame = messages.request_frame(1, messages.OpenVolume("v", MASK, np.eye(4)))
    found = messages.parse_request(through_bytes(frame))

    assert found.voxels.dtype == np.uint8
    np.testing.assert_array_equal(found.voxels, MASK)


def test_the_mask_of_a_result_is_unpacked_to_its_box():
    np.testing.assert_array_equal(RESULT.mask(), MASK)
    assert dataclasses.replace(RESULT, extent=None, bits=b"").mask().shape == (0, 0, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"bits": b"\0"},
        {"extent": None},
        {"extent": Extent((-1, 6, 7), (2, 10, 12))},
        {"extent": Extent((5, 6, 7), (1 << 40, 1 << 40, 1 << 40))},
        {"bits": b"", "extent": Extent((1, 1, 1), (1, 1, 1))},
    ],
)
def test_a_mask_that_does_not_fit_its_box_is_refused(changes):
    frame = messages.reply_frame(1, RESULT)
    body, arrays = dict(frame.body), dict(frame.arrays)
    if "bits" in changes:
        arrays["bits"] = np.frombuffer(changes["bits"], np.uint8)
    if "extent" in changes:
        box = changes["extent"]
        body["extent"] = box and {"start_kji": box.start_kji, "stop_kji": box.stop_kji}
        if box:
            body["extent"] = {key: list(value) for key, value in body["extent"].items()}
    with pytest.raises(WorkerFailure, match="does not fit"):
        messages.parse_reply(Frame(1, "result", body, arrays))


def test_an_unknown_verb_is_answered_with_the_known_ones():
    with pytest.raises(InvalidInput, match=r"'segmnt' is not known.*predict"):
        messages.parse_request(Frame(1, "segmnt"))


def test_an_unknown_kind_of_reply_is_a_failure_of_the_worker():
    with pytest.raises(WorkerFailure, match="unknown kind"):
        messages.parse_reply(Frame(1, "predict"))


PREDICT = messages.request_frame(1, messages.Predict("v", PROMPTS, window=Window(0, 1)))
CLEAN_UP = {"remove_islands": True, "fill_holes": False, "closing_mm": 2.0, "opening_mm": 0.5}
"""As it was before smoothing and bodies were thought of."""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("volume_uid", 5),
        ("volume_uid", ""),
        ("volume_uid", "v" * 129),
        ("generation", True),
        ("generation", 1.0),
        ("generation", None),
        ("window", {"low": 1}),
        ("window", {"low": "0", "high": 1}),
        ("window", {"low": 0, "high": 10**400}),
        ("window", {"low": 2, "high": 1}),
        ("window", {"low": 0, "high": 1, "unit": "HU"}),
        ("window", [0, 1]),
        ("editable", {"start_kji": [0, 0], "stop_kji": [1, 1, 1]}),
        ("editable", {"start_kji": [0, 0, 0.5], "stop_kji": [1, 1, 1]}),
        ("editable", {"start_kji": [3, 0, 0], "stop_kji": [1, 1, 1]}),
        ("clean_up", {"fill_holes": 1}),
        ("clean_up", {"fill_holes": True}),
        ("clean_up", {**CLEAN_UP, "bodies": 1.0}),
        ("clean_up", {**CLEAN_UP, "bodies": -1}),
        ("clean_up", {**CLEAN_UP, "smoothing_mm": 1e6}),
        ("clean_up", {**CLEAN_UP, "polish": True}),
        ("prompts", {}),
        ("prompts", {"set": {}, "prior": None}),
        ("prompts", {"set": None, "prior": None}),
        ("prompts", {**PREDICT.body["prompts"], "prior": {"id": 5, "extent": None}}),
        ("model", ["protosam-tiny"]),
        ("partial", 1),
        ("partial", None),
        ("settled", "a"),
        ("settled", [1]),
    ],
)
def test_a_field_of_another_type_or_value_is_refused_with_a_sentence(name, value):
    body = {**PREDICT.body, name: value}
    with pytest.raises(InvalidInput) as caught:
        messages.parse_request(Frame(1, "predict", body, PREDICT.arrays))

    assert caught.value.message


def test_a_clean_up_of_an_older_host_is_read_with_the_new_steps_off():
    frame = Frame(1, "predict", {**PREDICT.body, "clean_up": CLEAN_UP}, PREDICT.arrays)

    wanted = CleanUp(remove_islands=True, fill_holes=False, closing_mm=2.0, opening_mm=0.5)
    assert messages.parse_request(frame).clean_up == wanted


def test_a_request_of_an_older_host_asks_for_no_partial_answers():
    body = {n: value for n, value in PREDICT.body.items() if n not in ("partial", "settled")}

    found = messages.parse_request(Frame(1, "predict", body, PREDICT.arrays))
    assert (found.partial, found.settled) == (False, ())


PARTIAL = messages.reply_frame(
    1, messages.Partial(0, (5, 7), Extent((5, 6, 7), (8, 10, 12)), pack_bits(MASK))
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("axis", 3),
        ("axis", -1),
        ("axis", True),
        ("axis", None),
        ("slices", []),
        ("slices", [7, 5]),
        ("slices", [5, 5, 7]),
        ("slices", [-1, 7]),
        ("slices", [6, 7]),
        ("slices", [5, 6]),
        ("slices", [5, 7.0]),
        ("slices", "57"),
        ("slices", None),
        ("extent", None),
        ("extent", {"start_kji": [5, 6, 7], "stop_kji": [8, 10, 13]}),
        ("extent", {"start_kji": [5, 6, 7], "stop_kji": [5, 10, 12]}),
        ("extent", {"start_kji": [5, -6, 7], "stop_kji": [8, -2, 12]}),
        ("extent", {"start_kji": [5, 6, 7], "stop_kji": [1 << 40, 1 << 40, 1 << 40]}),
        ("colour", "red"),
    ],
)
def test_a_partial_answer_that_cannot_be_right_is_a_failure_of_the_worker(name, value):
    with pytest.raises(WorkerFailure):
        messages.parse_reply(Frame(1, "partial", {**PARTIAL.body, name: value}, PARTIAL.arrays))


@pytest.mark.parametrize("length", [0, 7, 9, 1000])
def test_a_partial_answer_of_another_length_is_refused(length):
    arrays = {"bits": np.zeros(length, np.uint8)}
    with pytest.raises(WorkerFailure, match="does not fit"):
        messages.parse_reply(Frame(1, "partial", PARTIAL.body, arrays))


def test_the_mask_of_a_partial_answer_is_unpacked_to_its_box():
    found = messages.parse_reply(PARTIAL)

    np.testing.assert_array_equal(found.mask(), MASK)
    assert messages.Partial(0, (5,), None, b"").mask().shape == (0, 0, 0)


def test_a_result_of_an_older_worker_is_read_without_a_report():
    frame = messages.reply_frame(1, RESULT)
    body = {name: value for name, value in frame.body.items() if name != "clean_up"}

    found = messages.parse_reply(Frame(1, frame.kind, body, frame.arrays))
    assert found == dataclasses.replace(RESULT, clean_up=CleanUpReport())


def test_a_report_travels_as_a_short_list():
    assert messages.reply_frame(1, RESULT).body["clean_up"] == [
        {"step": "islands", "added": 0, "removed": 312},
        {"step": "smoothing", "added": 40, "removed": 38},
    ]


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        ["islands"],
        [{"step": "islands", "added": 1}],
        [{"step": "islands", "added": -1, "removed": 0}],
        [{"step": "islands", "added": 1.5, "removed": 0}],
    ],
)
def test_a_report_of_another_form_is_refused(value):
    frame = messages.reply_frame(1, RESULT)
    with pytest.raises((InvalidInput, WorkerFailure)):
        messages.parse_reply(Frame(1, frame.kind, {**frame.body, "clean_up": value}, frame.arrays))


def test_only_fields_that_came_later_may_be_missing():
    for kind in (CleanUp, messages.Predict, messages.Result):
        known = {one.name for one in dataclasses.fields(kind)}
        assert LATER[kind.__name__] < known
    assert set(LATER) == {"CleanUp", "Predict", "Result"}


def test_a_missing_and_an_unknown_field_are_named():
    body = {**PREDICT.body, "colour": "red"}
    del body["generation"]
    with pytest.raises(InvalidInput, match=r"lacks the fields \['generation'\].*'colour'"):
        messages.parse_request(Frame(1, "predict", body, PREDICT.arrays))


def test_a_missing_and_an_unknown_array_are_named():
    opened = messages.request_frame(1, messages.OpenVolume("v", MASK, np.eye(4)))
    with pytest.raises(InvalidInput, match="'affine' is missing"):
        messages.parse_request(
            Frame(1, "open_volume", opened.body, {"voxels": opened.arrays["voxels"]})
        )
    with pytest.raises(InvalidInput, match=r"unknown arrays \['more'\]"):
        messages.parse_request(
            Frame(1, "open_volume", opened.body, {**opened.arrays, "more": np.zeros(1)})
        )


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("voxels", np.zeros((4, 4), "i2")),
        ("affine", np.eye(4, dtype="f4")),
        ("affine", np.zeros(16)),
    ],
)
def test_an_array_of_the_wrong_dtype_or_shape_is_refused(name, array):
    opened = messages.request_frame(1, messages.OpenVolume("v", MASK, np.eye(4)))
    with pytest.raises(InvalidInput, match=f"'{name}'.*wanted"):
        messages.parse_request(Frame(1, "open_volume", opened.body, {**opened.arrays, name: array}))


@pytest.mark.parametrize("scores", [{"a": 1.0}, {"-1": 1.0}, {"9" * 30: 1.0}, {"1": "x"}, [1.0]])
def test_slice_scores_are_numbers_by_index(scores):
    frame = messages.reply_frame(1, RESULT)
    with pytest.raises(WorkerFailure, match="slice_scores"):
        messages.parse_reply(
            Frame(1, "result", {**frame.body, "slice_scores": scores}, frame.arrays)
        )


@pytest.mark.parametrize("changes", [{"axis": 3}, {"count": 0}, {"count": 10**6}])
def test_a_prewarm_that_makes_no_sense_is_refused(changes):
    with pytest.raises(InvalidInput, match="Prewarming"):
        messages.Prewarm("v", (0.0, 0.0, 0.0), **changes)


APPLY = messages.request_frame(
    1, messages.ApplyExample("v", (b"one", b"two"), (messages.SegmentClicks("liver", CLICKS),))
)
MAKE = messages.request_frame(1, messages.MakeExample("v", TAUGHT))
BOX = {"start_kji": [0, 0, 0], "stop_kji": [1, 1, 3]}
ROW = {"name": "a", "terminology": "", "colour": [0, 0, 1], "extent": BOX}


@pytest.mark.parametrize(
    ("frame", "name", "value"),
    [
        (APPLY, "examples", [3, 4]),
        (APPLY, "examples", [7, -1]),
        (APPLY, "examples", [6.0]),
        (APPLY, "examples", None),
        (APPLY, "examples", []),
        (APPLY, "clicks", {"liver": {}}),
        (APPLY, "clicks", [{"name": "liver"}]),
        (APPLY, "clicks", [{"name": 1, "set": PromptSet().to_json()}]),
        (APPLY, "clicks", [{"name": "liver", "set": PROMPTS.to_json()}]),
        (APPLY, "partial", 0),
        (APPLY, "volume_uid", ""),
        (MAKE, "segments", [ROW]),
        (MAKE, "segments", [{**ROW, "extent": None}]),
        (MAKE, "segments", [{**ROW, "colour": [0, 1]}]),
        (MAKE, "segments", [{**ROW, "mask": 1}]),
        (MAKE, "segments", "liver"),
    ],
)
def test_an_example_request_that_cannot_be_right_is_refused(frame, name, value):
    with pytest.raises(InvalidInput) as caught:
        messages.parse_request(Frame(1, frame.kind, {**frame.body, name: value}, frame.arrays))

    assert caught.value.message


def test_masks_and_examples_travel_as_one_array_each_however_many_there_are():
    many = messages.MakeExample("v", TAUGHT * 100)
    assert list(messages.request_frame(1, many).arrays) == ["segments"]
    assert list(APPLY.arrays) == ["examples"]
    assert APPLY.body["examples"] == [3, 3]


@pytest.mark.parametrize("count", [0, 65])
def test_no_example_and_too_many_are_refused_with_the_next_step(count):
    with pytest.raises(InvalidInput, match=f"^{count} examples") as caught:
        messages.ApplyExample("v", (b"x",) * count)
    assert caught.value.next_step


def test_an_empty_segment_cannot_be_taught():
    with pytest.raises(InvalidInput, match="do not fit"):
        messages.TaughtSegment("a", "", (0, 0, 1), Extent((0, 0, 0), (0, 0, 0)), b"")


@pytest.mark.parametrize(
    "changes",
    [
        {"axis": 3},
        {"confidences": {"5": 1.5}},
        {"confidences": {"5": -0.1}},
        {"bits": b"\0"},
        {"distance": "far"},
        {"colour": [1, 2]},
    ],
)
def test_a_proposal_that_cannot_be_right_is_a_failure_of_the_worker(changes):
    frame = messages.reply_frame(1, PROPOSED)
    arrays = dict(frame.arrays)
    if "bits" in changes:
        arrays["bits"] = np.frombuffer(changes.pop("bits"), np.uint8)
    with pytest.raises(WorkerFailure):
        messages.parse_reply(Frame(1, "proposed", {**frame.body, **changes}, arrays))


def test_a_part_of_a_proposal_speaks_about_slices():
    with pytest.raises(InvalidInput, match="no slice"):
        messages.ProposedSlices("liver", 0, {}, None, b"")
    found = messages.ProposedSlices("liver", 0, {7: 0.5, 5: 1.0}, None, b"")
    assert found.slices == (5, 7)
    assert found.mask().shape == (0, 0, 0)
    np.testing.assert_array_equal(PROPOSED.mask(), MASK)


def test_requests_hear_what_they_have_asked_for_and_nothing_else():
    part = messages.Partial(2, (0,), None, b"")
    slices = messages.ProposedSlices("liver", 2, {0: 1.0}, None, b"")
    silent, loud = messages.Predict("v", PROMPTS), messages.Predict("v", PROMPTS, partial=True)
    assert [loud.hears(one) for one in (part, slices, PROPOSED)] == [True, False, False]
    assert not any(silent.hears(one) for one in (part, slices, PROPOSED))
    apply = messages.ApplyExample("v", (b"x",))
    assert [apply.hears(one) for one in (part, slices, PROPOSED)] == [False, False, True]
    assert dataclasses.replace(apply, partial=True).hears(slices)
    assert not messages.Stats().hears(PROPOSED)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: messages.SaveCase("v", "", TAUGHT, (), "a"), "No folder"),
        (lambda: messages.SaveCase("v", "/cases", TAUGHT, (), " "), "whose image"),
        (lambda: messages.SaveCase("v", "/cases", TAUGHT, (), "a", day="yesterday"), "no day"),
        (lambda: messages.LookIntoCases(""), "No folder"),
        (lambda: messages.Adapt("", "liver"), "No folder"),
        (lambda: messages.ChangeAdapter("liver", "improve"), "'improve'"),
    ],
)
def test_a_request_about_learning_that_cannot_be_right_is_refused(make, told):
    with pytest.raises(InvalidInput, match=told) as caught:
        make()
    assert caught.value.next_step


def test_only_a_run_that_teaches_hears_its_steps():
    step = messages.Taught(1, 2, 0.5, 1.0)
    assert messages.Adapt("/cases", "liver").hears(step)
    assert not messages.Adapt("/cases", "liver").hears(PROPOSED)
    assert not messages.LookIntoCases("/cases").hears(step)


def test_an_error_keeps_its_kind_and_sentences_over_the_wire():
    failed = messages.Failed.of(GeometryError("The affine is singular.", "Repair it."))
    error = messages.parse_reply(through_bytes(messages.reply_frame(3, failed))).exception()

    assert type(error) is GeometryError
    assert (error.message, error.next_step) == ("The affine is singular.", "Repair it.")
    assert isinstance(messages.Failed("NoSuchKind", "m", "").exception(), WorkerFailure)
    assert isinstance(messages.Cancelled("cancelled").exception(), Cancelled)


def test_a_score_that_is_not_a_number_does_not_travel():
    with pytest.raises(BrokenFrame, match="JSON"):
        encode(messages.reply_frame(1, dataclasses.replace(RESULT, score=float("nan"))))


def test_what_is_no_message_is_refused():
    with pytest.raises(InvalidInput, match="wanted a message"):
        messages.request_frame(1, messages.Request)
