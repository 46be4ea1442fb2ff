"""Partial answers: how they are grouped, what they say, and that they say no more than that."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protosam.errors import Cancelled
from protosam.extents import Extent
from protosam.geometry import Volume
from protosam.intensity import Window
from protosam.models.partials import EVERY_S, PartialStream, settled_turns
from protosam.models.planes import Patch, Planes, Rect
from protosam.models.propagate import SweepInput
from protosam.models.segmenter import Segmenter, SegmentRequest
from protosam.models.slice_solver import SliceInput, SolvedSlice
from protosam.models.sweep_input import sweep_input
from protosam.prompts import Box, Point, PromptSet

SHAPE = (9, 10, 11)


def solved(mask, rect):
    logits = np.where(mask[rect.slices], 3.0, -3.0).astype(np.float32)
    return SolvedSlice(Patch(rect, logits), 0.8, 1.0)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def stream(axis=0, allowed=None, **options):
    planes = Planes(Volume(np.zeros(SHAPE, np.int16), np.eye(4)), axis, Window(0, 1))
    handed, clock = [], Clock()
    whole = Extent.of_shape(SHAPE)
    one = PartialStream(planes, allowed or whole, handed.append, clock=clock, **options)
    return one, handed, clock, planes


@given(
    axis=st.integers(0, 2),
    seed=st.integers(0, 1000),
    slices=st.sets(st.integers(0, 8), min_size=1),
    allowed=st.tuples(*(st.tuples(st.integers(0, 5), st.integers(0, 4)) for _ in range(3))),
)
def test_a_partial_answer_is_the_mask_of_its_slices_in_the_allowed_box(axis, seed, slices, allowed):
    truth = np.random.default_rng(seed).random(SHAPE) > 0.9
    start, size = zip(*allowed, strict=True)
    box = Extent(start, tuple(a + n for a, n in zip(start, size, strict=True)))
    one, handed, clock, planes = stream(axis, box)
    clock.now, one._next_s = 0.0, 1.0  # gather all of them
    across = np.moveaxis(truth, axis, 0)
    for z in slices:
        one(0, z, solved(across[z], planes.whole))
    one.flush()
    expected = np.zeros(SHAPE, bool)
    expected[box.slices] = truth[box.slices]
    others = [z for z in range(SHAPE[axis]) if z not in slices]
    np.moveaxis(expected, axis, 0)[others] = False
    (partial,) = handed
    found = np.zeros(SHAPE, bool)
    if partial.extent is not None:
        found[partial.extent.slices] = partial.mask
        assert partial.mask.any()
    np.testing.assert_array_equal(found, expected)
    assert partial.slices == tuple(sorted(slices))
    assert partial.axis == axis


def test_the_first_slice_goes_out_at_once_and_the_next_ones_in_groups():
    one, handed, clock, planes = stream()
    full = solved(np.ones(SHAPE[1:], bool), planes.whole)
    for step, z in enumerate((4, 5, 6, 7, 3, 2)):
        clock.now = step * 0.4 * EVERY_S
        one(0, z, full)
    assert [partial.slices for partial in handed] == [(4,), (5, 6, 7)]
    one.flush()
    one.flush()
    assert [partial.slices for partial in handed] == [(4,), (5, 6, 7), (2, 3)]


def test_a_slice_that_was_taken_back_is_spoken_of_and_empty():
    one, handed, _, planes = stream()
    one(0, 4, solved(np.ones(SHAPE[1:], bool), planes.whole))
    one(1, 4, None)
    one.flush()
    assert handed[1].slices == (4,)
    assert handed[1].extent is None
    assert handed[1].mask.size == 0


def test_quiet_turns_say_nothing():
    one, handed, _, planes = stream(quiet_turns=1)
    full = solved(np.ones(SHAPE[1:], bool), Rect(0, 3, 0, 3))
    one(0, 4, full)
    one.flush()
    assert handed == []
    one(1, 6, full)
    assert [partial.slices for partial in handed] == [(6,)]
    assert planes.depth == SHAPE[0]


def point(name, z, positive=True):
    return Point((z, 5, 5), positive, name)


@pytest.mark.parametrize(
    ("points", "settled", "turns"),
    [
        (["a"], [], 0),
        (["a"], ["a"], 1),
        (["a", "b"], ["a"], 1),
        (["a", "b"], ["b"], 0),
        (["a", "b", "c"], ["a", "c"], 1),
        (["a", "b"], ["x", "a", "b"], 2),
    ],
)
def test_only_the_first_clicks_that_are_all_settled_are_left_out(points, settled, turns):
    prompts = PromptSet(tuple(point(name, z) for z, name in enumerate(points)))
    planes = stream()[3]
    assert settled_turns(prompts, sweep_input(planes, prompts), settled) == turns


def test_a_box_is_a_turn_of_its_own_unless_a_click_lies_in_its_slice():
    planes = stream()[3]
    box = Box((3, 1, 1), (5, 8, 8), None, "box")
    beside = PromptSet((point("a", 8),), (box,))
    within = PromptSet((point("a", 4),), (box,))
    for prompts, settled, turns in [
        (beside, ["box"], 1),
        (beside, ["box", "a"], 2),
        (beside, ["a"], 0),
        (within, ["box"], 0),
        (within, ["box", "a"], 1),
    ]:
        assert settled_turns(prompts, sweep_input(planes, prompts), settled) == turns


def test_no_prompts_are_no_turns():
    assert settled_turns(PromptSet(), SweepInput({4: SliceInput()}, (), 0, 9, {}), ["a"]) == 0


# With a model, from a request to its partial answers.


def partials_of(segmenter, volume, prompts, settled=(), **options):
    handed = []
    request = SegmentRequest(prompts, **options)
    answer = segmenter.segment(volume, request, on_partial=handed.append, settled=settled)
    return handed, answer


def together(partials, shape):
    """What a host shows after all of them."""
    shown = np.zeros(shape, bool)
    for one in partials:
        index = [slice(None)] * 3
        index[one.axis] = list(one.slices)
        shown[tuple(index)] = False
        if one.extent is not None:
            shown[one.extent.slices] |= one.mask
    return shown


MIDDLE = (14, 30, 34)


def test_the_clicked_slice_comes_first_and_is_that_slices_own_answer(region_model, an_ellipsoid):
    prompts = PromptSet((Point(MIDDLE, True, "a"),))
    handed, answer = partials_of(Segmenter(region_model()), an_ellipsoid, prompts)
    alone = PromptSet((Point(MIDDLE, True, "a"),), scope="slice", axis=0)
    own = Segmenter(region_model()).segment(an_ellipsoid, SegmentRequest(alone))
    assert handed[0].slices == (14,)
    assert handed[0].extent == own.extent
    np.testing.assert_array_equal(handed[0].mask, own.mask)
    shown = together(handed, an_ellipsoid.shape_kji)
    np.testing.assert_array_equal(shown, an_ellipsoid.voxels > 0)
    np.testing.assert_array_equal(answer.full_mask(shown.shape), shown)


def test_the_answer_is_the_same_with_and_without_partial_answers(region_model, a_tube):
    prompts = PromptSet((Point((20, 24, 38), True, "a"), Point((8, 24, 26), True, "b")))
    _, one = partials_of(Segmenter(region_model()), a_tube, prompts)
    other = Segmenter(region_model()).segment(a_tube, SegmentRequest(prompts))
    np.testing.assert_array_equal(
        one.full_mask(a_tube.shape_kji), other.full_mask(a_tube.shape_kji)
    )


def test_nothing_outside_of_the_editable_box_or_of_a_drawn_box_is_handed_out(
    region_model, an_ellipsoid
):
    editable = Extent((10, 0, 0), (20, 60, 34))
    box = Box((0, 20, 0), (29, 32, 69), None, "box")
    prompts = PromptSet((Point(MIDDLE, True, "a"),), (box,))
    handed, _ = partials_of(Segmenter(region_model()), an_ellipsoid, prompts, editable=editable)
    shown = together(handed, an_ellipsoid.shape_kji)
    outside = np.ones_like(shown)
    outside[editable.slices] = False
    assert shown.any()
    assert not shown[outside].any()
    assert not shown[:, 36:].any()


def test_of_a_second_click_only_its_own_wave_is_handed_out(region_model, a_tube):
    segmenter = Segmenter(region_model())
    first, second = Point((20, 24, 38), True, "a"), Point((8, 26, 26), False, "b")
    segmenter.segment(a_tube, SegmentRequest(PromptSet((first,))))
    both = PromptSet((first, second))
    handed, _ = partials_of(segmenter, a_tube, both, settled=("a",))
    everything, _ = partials_of(segmenter, a_tube, both)
    assert handed[0].slices == (8,)
    assert everything[0].slices == (20,)
    told = set(itertools.chain.from_iterable(one.slices for one in handed))
    assert 20 not in told


def test_a_slice_request_has_no_partial_answers(region_model, an_ellipsoid):
    prompts = PromptSet((Point(MIDDLE, True, "a"),), scope="slice", axis=0)
    assert partials_of(Segmenter(region_model()), an_ellipsoid, prompts)[0] == []


def test_further_views_hand_nothing_out(region_model, an_ellipsoid):
    handed, _ = partials_of(
        Segmenter(region_model()), an_ellipsoid, PromptSet((Point(MIDDLE, True, "a"),))
    )
    assert {one.axis for one in handed} == {0}


def test_a_request_that_was_cancelled_hands_nothing_more_out(region_model, an_ellipsoid):
    handed = []
    request = SegmentRequest(PromptSet((Point(MIDDLE, True, "a"),)))
    with pytest.raises(Cancelled):
        Segmenter(region_model()).segment(
            an_ellipsoid, request, on_partial=handed.append, should_stop=lambda: bool(handed)
        )
    assert [one.slices for one in handed] == [(14,)]
