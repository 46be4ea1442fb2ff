"""The main job with a model that finds what is as bright as the clicked place."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from protosam.errors import Cancelled, InvalidInput, InvalidPrompt, OutOfMemory
from protosam.extents import Extent
from protosam.geometry import Volume
from protosam.intensity import Window
from protosam.masks import CleanUp, clean_up
from protosam.metrics import dice
from protosam.models.refiner import Refiner
from protosam.models.segmenter import Segmenter, SegmentRequest
from protosam.models.slice_axis import choose_axis
from protosam.models.stages import Stages
from protosam.models.tiny import TinySAM
from protosam.models.tiny_predictor import TinySliceModel
from protosam.models.views import SURE, fused
from protosam.models.volume_head import VolumeHead
from protosam.prompts import Box, Point, PriorMask, PromptSet

ELLIPSOID_MIDDLE = (14, 30, 34)


def truth_of(volume):
    return volume.voxels > 0


def clicks(*places, negative=(), **others):
    points = [Point(place, True, f"p{n}") for n, place in enumerate(places)]
    points += [Point(place, False, f"n{n}") for n, place in enumerate(negative)]
    return PromptSet(tuple(points), **others)


def in_tube(k):
    """Voxel in the middle of the tube."""
    return k, 24, 18 + k


def mask_of(segmenter, volume, prompts, **others):
    return segmenter.segment(volume, SegmentRequest(prompts, **others)).full_mask(volume.shape_kji)


@pytest.fixture(params=[True, False], ids=["reads neighbours", "knows no neighbours"])
def a_segmenter(request, region_model):
    return Segmenter(region_model(reads_neighbours=request.param))


def test_a_slice_request_answers_only_the_clicked_slices(a_segmenter, an_ellipsoid):
    prompts = clicks(ELLIPSOID_MIDDLE, (10, 30, 34), scope="slice", axis=0)
    answer = a_segmenter.segment(an_ellipsoid, SegmentRequest(prompts))
    expected = np.zeros_like(truth_of(an_ellipsoid))
    expected[[10, 14]] = truth_of(an_ellipsoid)[[10, 14]]
    assert np.array_equal(answer.full_mask(an_ellipsoid.shape_kji), expected)
    assert sorted(answer.slice_scores) == [10, 14]


def test_a_slice_with_negative_clicks_alone_stays_empty(a_segmenter, an_ellipsoid):
    prompts = clicks(ELLIPSOID_MIDDLE, negative=[(16, 30, 34)], scope="slice", axis=0)
    answer = a_segmenter.segment(an_ellipsoid, SegmentRequest(prompts))
    mask = answer.full_mask(an_ellipsoid.shape_kji)
    assert not mask[16].any()
    assert np.array_equal(mask[14], truth_of(an_ellipsoid)[14])
    assert answer.score == pytest.approx(0.9)


@pytest.mark.parametrize("slice_index", [7, 14, 22])
def test_one_click_fills_an_ellipsoid_to_both_ends_and_stops(
    a_segmenter, an_ellipsoid, slice_index
):
    answer = a_segmenter.segment(an_ellipsoid, SegmentRequest(clicks((slice_index, 30, 34))))
    truth = truth_of(an_ellipsoid)
    assert np.array_equal(answer.full_mask(truth.shape), truth)
    assert sorted(answer.slice_scores) == list(range(5, 24))


def test_one_click_fills_an_oblique_tube_to_both_ends(a_segmenter, a_tube):
    mask = mask_of(a_segmenter, a_tube, clicks(in_tube(20)))
    assert np.array_equal(mask, truth_of(a_tube))


def test_slices_beyond_the_object_are_hardly_looked_at(region_model, an_ellipsoid):
    model = region_model(batch_size=1)
    segmenter = Segmenter(model, stages=Stages(further_views=False))
    mask_of(segmenter, an_ellipsoid, clicks(ELLIPSOID_MIDDLE))
    # 19 slices of the object, one beyond each end, and the first look at the clicked slice.
    assert model.embedded <= 19 + 2 + 1


def test_several_clicked_slices_are_merged(a_segmenter, two_balls):
    both = mask_of(a_segmenter, two_balls, clicks((9, 20, 20), (26, 20, 20)))
    assert np.array_equal(both, truth_of(two_balls))
    one = mask_of(a_segmenter, two_balls, clicks((9, 20, 20)))
    assert one[:18].any()
    assert not one[18:].any()


def test_clicks_at_both_ends_agree_in_between(a_segmenter, a_tube):
    mask = mask_of(a_segmenter, a_tube, clicks(in_tube(5), in_tube(24), in_tube(14)))
    assert np.array_equal(mask, truth_of(a_tube))


@pytest.mark.parametrize("order", ["positive first", "negative first"])
def test_a_negative_click_counts_in_the_slices_up_to_the_next_click(region_model, a_tube, order):
    segmenter = Segmenter(region_model(reach=1.0))
    before = mask_of(segmenter, a_tube, clicks(in_tube(8)))
    points = [Point(in_tube(8), True, "p"), Point(in_tube(14), False, "n")]
    points = points if order == "positive first" else points[::-1]
    after = mask_of(segmenter, a_tube, PromptSet(tuple(points)))
    assert before[in_tube(14)]
    assert not after[in_tube(14)]
    assert before[in_tube(13)]
    assert not after[in_tube(13)]
    assert np.array_equal(after[8], before[8])


@pytest.mark.parametrize(
    ("held", "kept"),
    [((), range(4, 14)), ((20,), [*range(4, 14), *range(15, 26)])],
    ids=["nothing holds it", "held by a click further out"],
)
def test_what_a_negative_click_cuts_off_does_not_come_back_from_beyond(
    region_model, a_tube, held, kept
):
    segmenter = Segmenter(region_model(radius=30.0), stages=Stages(further_views=False))
    prompts = clicks(in_tube(8), *(in_tube(k) for k in held), negative=[in_tube(14)])
    mask = mask_of(segmenter, a_tube, prompts)
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == list(kept)
    away = [k for k in kept if abs(k - 14) > 2]  # a click also acts a few millimetres round it
    assert dice(mask[away], truth_of(a_tube)[away]) > 0.97


def test_a_correction_in_one_slice_reaches_the_slices_beside_it(region_model, a_tube):
    segmenter = Segmenter(region_model(reach=1.0), stages=Stages(further_views=False))
    edge = (14, 24, 37)
    before = mask_of(segmenter, a_tube, clicks(in_tube(8)))
    after = mask_of(segmenter, a_tube, clicks(in_tube(8), negative=[edge]))
    assert before[12:17, 24, 36].all()
    assert not after[edge]
    changed = np.flatnonzero((before & ~after).any(axis=(1, 2)))
    assert set(changed) > {14}
    assert not (after & ~before).any()


def test_a_negative_click_beyond_the_object_takes_only_its_voxel(a_segmenter, an_ellipsoid):
    outside = (28, 30, 34)
    mask = mask_of(a_segmenter, an_ellipsoid, clicks(ELLIPSOID_MIDDLE, negative=[outside]))
    assert np.array_equal(mask, truth_of(an_ellipsoid))


def test_a_negative_click_in_the_clicked_slice_counts(a_segmenter, an_ellipsoid):
    edge = (14, 30, 45)
    mask = mask_of(a_segmenter, an_ellipsoid, clicks(ELLIPSOID_MIDDLE, negative=[edge]))
    assert truth_of(an_ellipsoid)[edge]
    assert not mask[edge]
    assert mask[ELLIPSOID_MIDDLE]


@pytest.mark.wall_clock
def test_cancelling_between_slices_is_quick_and_leaves_the_caches_usable(
    region_model, an_ellipsoid
):
    model = region_model(batch_size=1)
    segmenter = Segmenter(model)
    asked = []

    def stop_at_the_sixth_slice():
        asked.append(len(model.asked))
        return len(asked) > 5

    request = SegmentRequest(clicks(ELLIPSOID_MIDDLE))
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        segmenter.segment(an_ellipsoid, request, should_stop=stop_at_the_sixth_slice)
    assert time.monotonic() - begun < 0.5
    assert len(asked) == 6
    assert len(model.asked) == asked[-1]  # nothing was asked of the model after that

    made = model.embedded
    again = segmenter.segment(an_ellipsoid, request)
    fresh_model = region_model(batch_size=1)
    fresh = Segmenter(fresh_model).segment(an_ellipsoid, request)
    assert np.array_equal(again.mask, fresh.mask)
    assert model.embedded == fresh_model.embedded
    assert made > 0


def test_nothing_is_answered_outside_of_the_editable_extent(a_segmenter, an_ellipsoid):
    editable = Extent((3, 20, 30), (17, 33, 100))
    mask = mask_of(a_segmenter, an_ellipsoid, clicks(ELLIPSOID_MIDDLE), editable=editable)
    expected = np.zeros_like(mask)
    inside = editable.clip(mask.shape).slices
    expected[inside] = truth_of(an_ellipsoid)[inside]
    assert np.array_equal(mask, expected)


def test_an_editable_extent_without_the_object_gives_an_empty_answer(a_segmenter, an_ellipsoid):
    request = SegmentRequest(clicks(ELLIPSOID_MIDDLE), editable=Extent((0, 0, 0), (2, 2, 2)))
    answer = a_segmenter.segment(an_ellipsoid, request)
    assert answer.extent is None
    assert answer.mask.size == 0
    assert not answer.full_mask(an_ellipsoid.shape_kji).any()


def test_a_box_alone_finds_the_object_in_it(a_segmenter, an_ellipsoid):
    box = Box((5, 18, 18), (23, 42, 50), None, "box")
    mask = mask_of(a_segmenter, an_ellipsoid, PromptSet(boxes=(box,)))
    assert np.array_equal(mask, truth_of(an_ellipsoid))


def test_a_box_limits_the_answer_but_for_a_margin(a_segmenter, a_tube):
    box = Box((10, 14, 20), (19, 34, 46), None, "box")
    mask = mask_of(a_segmenter, a_tube, clicks(in_tube(14), boxes=(box,)))
    found = np.flatnonzero(mask.any(axis=(1, 2)))
    assert 8 <= found[0] <= 10
    assert 19 <= found[-1] <= 21
    assert np.array_equal(mask[11:19], truth_of(a_tube)[11:19])


def test_a_positive_click_beyond_the_box_is_obeyed(a_segmenter, a_tube):
    box = Box((10, 14, 20), (19, 34, 46), None, "box")
    beyond = in_tube(24)
    mask = mask_of(a_segmenter, a_tube, clicks(in_tube(14), beyond, boxes=(box,)))
    assert mask[beyond]
    assert mask[in_tube(14)]


def test_boxes_with_nothing_in_common_are_refused_with_a_sentence(a_segmenter, a_tube):
    apart = (Box((4, 2, 2), (8, 9, 9), None, "a"), Box((20, 2, 2), (24, 9, 9), None, "b"))
    with pytest.raises(InvalidPrompt, match="nothing in common"):
        mask_of(a_segmenter, a_tube, PromptSet(boxes=apart))
    beside = (Box((14, 2, 2), (14, 9, 9), 0, "a"), Box((14, 20, 20), (14, 30, 30), 0, "b"))
    with pytest.raises(InvalidPrompt, match="nothing in common"):
        mask_of(a_segmenter, a_tube, PromptSet(boxes=beside))


def test_two_boxes_in_one_slice_hold_the_object_both(region_model, an_ellipsoid):
    boxes = (
        Box((14, 10, 10), (14, 33, 60), 0, "upper"),
        Box((14, 27, 10), (14, 55, 60), 0, "lower"),
    )
    prompts = PromptSet(boxes=boxes, scope="slice")
    mask = mask_of(Segmenter(region_model()), an_ellipsoid, prompts)
    expected = np.zeros_like(mask)
    expected[14, 27:34] = truth_of(an_ellipsoid)[14, 27:34]
    assert np.array_equal(mask, expected)


def test_a_box_in_a_slice_starts_the_object_there(a_segmenter, an_ellipsoid):
    box = Box((14, 17, 17), (14, 43, 51), 0, "box")
    mask = mask_of(a_segmenter, an_ellipsoid, PromptSet(boxes=(box,)))
    assert np.array_equal(mask, truth_of(an_ellipsoid))


def test_a_box_in_a_slice_of_another_axis_becomes_a_click(a_segmenter, an_ellipsoid):
    box = Box((4, 30, 17), (24, 30, 51), 1, "box")
    answer = a_segmenter.segment(an_ellipsoid, SegmentRequest(PromptSet(boxes=(box,), axis=0)))
    assert answer.axis == 0
    assert np.array_equal(answer.full_mask(an_ellipsoid.shape_kji), truth_of(an_ellipsoid))


def test_an_earlier_mask_is_mended_near_the_click_and_kept_elsewhere(a_segmenter, a_tube):
    truth = truth_of(a_tube)
    earlier = truth.copy()
    earlier[7:9, :24] = False
    earlier[20:22, :24] = False
    prompts = clicks((20, 20, 38), prior=PriorMask.from_mask(earlier, "earlier"))
    mask = mask_of(a_segmenter, a_tube, prompts)
    assert np.array_equal(mask[15:], truth[15:])
    assert np.array_equal(mask[:15], earlier[:15])


def test_a_negative_click_alone_mends_an_earlier_mask(a_segmenter, a_tube):
    truth = truth_of(a_tube)
    leaked = truth.copy()
    leaked[10:13, 24:28, 34:52] = True
    prompts = clicks(negative=[(11, 25, 45)], prior=PriorMask.from_mask(leaked, "earlier"))
    mask = mask_of(a_segmenter, a_tube, prompts)
    assert np.array_equal(mask, truth)


def test_an_earlier_mask_alone_comes_back_as_it_was(a_segmenter, a_tube):
    earlier = truth_of(a_tube).copy()
    earlier[7:9, :24] = False
    mask = mask_of(a_segmenter, a_tube, PromptSet(prior=PriorMask.from_mask(earlier, "earlier")))
    assert np.array_equal(mask, earlier)


def test_only_the_clicked_slice_of_an_earlier_mask_is_answered_in_slice_scope(a_segmenter, a_tube):
    earlier = truth_of(a_tube).copy()
    earlier[:, :24] = False
    prompts = clicks(
        (20, 20, 38), prior=PriorMask.from_mask(earlier, "earlier"), scope="slice", axis=0
    )
    mask = mask_of(a_segmenter, a_tube, prompts)
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [20]
    assert np.array_equal(mask[20], truth_of(a_tube)[20])


def test_the_same_request_has_the_same_answer_with_cold_and_warm_caches(region_model, a_tube):
    prompts = clicks(in_tube(8), in_tube(22), negative=[(14, 24, 27)])
    warm = Segmenter(region_model())
    warm.prewarm(a_tube, None, (14, 0, 0), window=None, count=9, should_stop=lambda: False)
    mask_of(warm, a_tube, clicks((20, 24, 36)))  # another question in between
    first, second = (mask_of(warm, a_tube, prompts) for _ in range(2))
    cold = mask_of(Segmenter(region_model()), a_tube, prompts)
    assert np.array_equal(first, second)
    assert np.array_equal(first, cold)


def test_the_built_in_network_answers_the_same_with_cold_and_warm_caches(a_tube):
    torch.manual_seed(3)
    cpu = torch.device("cpu")
    network = TinySAM()
    prompts = clicks(in_tube(8), in_tube(12))
    window = Window(0, 100)

    def a_model():
        return TinySliceModel(network, name="tiny", digest="tiny", device=cpu)

    warm = Segmenter(a_model())
    warm.prewarm(a_tube, 0, (9, 0, 0), window=window, count=5, should_stop=lambda: False)
    first = mask_of(warm, a_tube, prompts, window=window)
    cold = mask_of(Segmenter(a_model()), a_tube, prompts, window=window)
    assert np.array_equal(first, cold)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_all_axes_give_the_same_answer_for_a_turned_volume(a_segmenter, a_tube, axis):
    prompts = clicks(in_tube(8), negative=[(14, 24, 36)])
    expected = mask_of(a_segmenter, a_tube, prompts)
    spacing = list(a_tube.spacing_kji_mm[1:])
    spacing.insert(axis, a_tube.spacing_kji_mm[0])
    turned = Volume(np.moveaxis(a_tube.voxels, 0, axis), np.diag([*spacing[::-1], 1.0]))

    def turn(point):
        rest = list(point.point_kji[1:])
        rest.insert(axis, point.point_kji[0])
        return Point(tuple(rest), point.positive, point.id)

    answer = a_segmenter.segment(
        turned, SegmentRequest(PromptSet(tuple(turn(p) for p in prompts.points)))
    )
    assert answer.axis == axis  # the thickest slices lie across it
    assert np.array_equal(answer.full_mask(turned.shape_kji), np.moveaxis(expected, 0, axis))


def test_an_oblique_grid_does_not_matter(a_segmenter, a_tube):
    angle = np.radians(33)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ a_tube.affine[:3, :3] @ np.diag([-1, 1, -1])
    affine[:3, 3] = (-40, 31, 900)
    oblique = Volume(a_tube.voxels, affine)
    mask = mask_of(a_segmenter, oblique, clicks(in_tube(8)))
    assert np.array_equal(mask, mask_of(a_segmenter, a_tube, clicks(in_tube(8))))


def test_prewarming_embeds_the_nearest_slices_first_and_stops_when_told(region_model):
    ramp = np.arange(20, dtype=np.float32)[:, None, None] * np.ones((1, 40, 40), np.float32)
    volume = Volume(ramp, np.eye(4))
    model = region_model()
    segmenter = Segmenter(model)
    window = Window(0, 19)

    def prewarm(count, should_stop=lambda: False):
        return segmenter.prewarm(
            volume, 0, (7.2, 3, 3), window=window, count=count, should_stop=should_stop
        )

    assert prewarm(count=100, should_stop=lambda: len(model.images) == 5) == 5
    assert [round(float(image[0, 0]) * 19) for image in model.images] == [7, 6, 8, 5, 9]
    assert prewarm(count=5) == 0
    assert prewarm(count=100) == 15


def test_a_prewarmed_slice_is_not_embedded_again(region_model, an_ellipsoid):
    model = region_model()
    segmenter = Segmenter(model)
    segmenter.prewarm(
        an_ellipsoid, 0, ELLIPSOID_MIDDLE, window=None, count=1, should_stop=lambda: False
    )
    whole = [image for image in model.images if image.shape == (60, 70)]
    mask_of(segmenter, an_ellipsoid, clicks(ELLIPSOID_MIDDLE, scope="slice"))
    assert [image.shape for image in model.images].count((60, 70)) == len(whole) == 1


def test_a_closed_volume_is_forgotten(region_model, an_ellipsoid):
    model = region_model()
    segmenter = Segmenter(model)
    mask_of(segmenter, an_ellipsoid, clicks(ELLIPSOID_MIDDLE, scope="slice"))
    made = model.embedded
    segmenter.forget_volume(an_ellipsoid.uid)
    assert len(segmenter.cache) == 0
    mask_of(segmenter, an_ellipsoid, clicks(ELLIPSOID_MIDDLE, scope="slice"))
    assert model.embedded == 2 * made


def test_another_window_is_another_question(region_model, an_ellipsoid):
    segmenter = Segmenter(region_model())
    prompts = clicks(ELLIPSOID_MIDDLE, scope="slice", axis=0)
    given = segmenter.segment(an_ellipsoid, SegmentRequest(prompts, window=Window(0, 100)))
    blind = segmenter.segment(an_ellipsoid, SegmentRequest(prompts, window=Window(200, 300)))
    assert given.window == Window(0, 100)
    assert np.array_equal(given.mask, truth_of(an_ellipsoid)[given.extent.slices])
    assert np.count_nonzero(blind.mask) == 1  # the clicked voxel alone: all is black


def test_an_image_of_one_slice_is_answered_across_that_slice(a_segmenter, an_ellipsoid):
    for spacing in ((1.0, 1.0, 1.0), (0.5, 5.0, 5.0)):
        k, j, i = spacing
        image = Volume(an_ellipsoid.voxels[14:15], np.diag([i, j, k, 1.0]))
        answer = a_segmenter.segment(image, SegmentRequest(clicks((0, 30, 34))))
        assert answer.axis == 0
        assert np.array_equal(answer.full_mask(image.shape_kji), truth_of(image))


def test_the_slice_axis_follows_the_user_then_the_box_then_the_thickest_slices(an_ellipsoid):
    box = Box((4, 30, 17), (24, 30, 51), 1, "box")
    assert choose_axis(PromptSet(boxes=(box,), axis=2), an_ellipsoid) == 2
    assert choose_axis(PromptSet(boxes=(box,)), an_ellipsoid) == 1
    assert choose_axis(PromptSet(), an_ellipsoid) == 0


def test_a_constant_volume_is_refused_with_a_sentence(a_segmenter):
    volume = Volume(np.full((4, 9, 9), 7.0), np.eye(4))
    with pytest.raises(InvalidInput, match="nothing to segment"):
        mask_of(a_segmenter, volume, clicks((2, 4, 4)))


def test_a_prompt_outside_of_the_image_is_refused_with_a_sentence(a_segmenter, an_ellipsoid):
    with pytest.raises(InvalidPrompt, match="outside of the image"):
        mask_of(a_segmenter, an_ellipsoid, clicks((30, 4, 4)))


@pytest.mark.parametrize("prompts", [clicks(), clicks(negative=[(14, 30, 34)])])
def test_prompts_that_say_nothing_of_the_object_are_refused(a_segmenter, an_ellipsoid, prompts):
    with pytest.raises(InvalidPrompt, match="where the object is"):
        mask_of(a_segmenter, an_ellipsoid, prompts)


def test_a_click_into_the_dark_gives_at_least_its_voxel(region_model, an_ellipsoid):
    mask = mask_of(Segmenter(region_model()), an_ellipsoid, clicks((14, 2, 2)))
    assert np.argwhere(mask).tolist() == [[14, 2, 2]]


def test_the_clean_up_reaches_beyond_the_answer_as_on_the_whole_volume(a_segmenter, two_balls):
    settings = CleanUp(closing_mm=6)
    mask = mask_of(a_segmenter, two_balls, clicks((9, 20, 20), (26, 20, 20)), clean_up=settings)
    assert mask[16:20, 20, 20].all()  # the gap between the balls is closed


def test_smoothing_in_the_crop_of_an_answer_is_that_on_the_whole_volume(a_segmenter, an_ellipsoid):
    prompts = clicks(ELLIPSOID_MIDDLE)
    usual = mask_of(a_segmenter, an_ellipsoid, prompts)
    wish = CleanUp(smoothing_mm=4)
    whole = clean_up(usual, prompts.points, an_ellipsoid.spacing_kji_mm, wish)

    smooth = mask_of(a_segmenter, an_ellipsoid, prompts, clean_up=wish)
    np.testing.assert_array_equal(smooth, whole)
    assert (whole != usual).any()


def test_an_answer_says_what_the_clean_up_has_done(a_segmenter, an_ellipsoid):
    wish = CleanUp(smoothing_mm=4, bodies=1)
    request = SegmentRequest(clicks(ELLIPSOID_MIDDLE), clean_up=wish)
    answer = a_segmenter.segment(an_ellipsoid, request)
    steps = [one.step for one in answer.clean_up.steps]

    assert steps == ["clicks", "islands", "holes", "smoothing", "bodies", "holes"]
    smoothing = answer.clean_up.steps[3]
    assert smoothing.added == smoothing.removed > 0


def test_progress_goes_from_nothing_to_done(a_segmenter, an_ellipsoid):
    told = []
    a_segmenter.segment(
        an_ellipsoid,
        SegmentRequest(clicks(ELLIPSOID_MIDDLE)),
        on_progress=lambda fraction, text: told.append((fraction, text)),
    )
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert told[-1] == (1.0, "done")
    assert len(told) > 19


def test_running_out_of_memory_once_is_told_and_the_answer_still_comes(region_model, an_ellipsoid):
    model = region_model(fail_while=lambda _model, count: count > 1)
    told = []
    answer = Segmenter(model).segment(
        an_ellipsoid,
        SegmentRequest(clicks(ELLIPSOID_MIDDLE)),
        on_progress=lambda _fraction, text: told.append(text),
    )
    assert np.array_equal(answer.full_mask(an_ellipsoid.shape_kji), truth_of(an_ellipsoid))
    assert set(model.batches) == {1}
    assert len(answer.notes) == 1
    assert "dropped" in answer.notes[0]
    assert answer.notes[0] in told


def test_a_model_too_large_for_the_graphics_card_answers_on_the_processor(
    region_model, an_ellipsoid
):
    model = region_model(
        device=torch.device("cuda"), fail_while=lambda m, _count: m.device.type == "cuda"
    )
    segmenter = Segmenter(model)
    answer = segmenter.segment(an_ellipsoid, SegmentRequest(clicks(ELLIPSOID_MIDDLE)))
    assert np.array_equal(answer.full_mask(an_ellipsoid.shape_kji), truth_of(an_ellipsoid))
    assert model.device.type == "cpu"
    assert len(answer.notes) == 2
    assert "processor" in answer.notes[1]
    again = segmenter.segment(an_ellipsoid, SegmentRequest(clicks(ELLIPSOID_MIDDLE)))
    assert again.notes == ()


def test_too_little_memory_for_anything_is_a_sentence(region_model, an_ellipsoid):
    segmenter = Segmenter(region_model(fail_while=lambda _model, _count: True))
    with pytest.raises(OutOfMemory, match="not enough memory"):
        segmenter.segment(an_ellipsoid, SegmentRequest(clicks(ELLIPSOID_MIDDLE)))


def test_prewarming_goes_on_with_less_memory(region_model, an_ellipsoid):
    model = region_model(fail_times=1)
    made = Segmenter(model).prewarm(
        an_ellipsoid, None, ELLIPSOID_MIDDLE, window=None, count=3, should_stop=lambda: False
    )
    assert made == 3


class Shrinking:
    """A refiner that leaves only what lies in the lower half of the box."""

    def __init__(self):
        self.memberships = []

    def refined(self, volume, views, membership, points, window):
        self.memberships.append(membership)
        whole = fused(views)
        whole.logits[: len(whole.logits) // 2] = -SURE
        return whole


def test_an_answer_for_a_volume_passes_through_the_head(region_model, an_ellipsoid):
    plain = mask_of(Segmenter(region_model()), an_ellipsoid, clicks(ELLIPSOID_MIDDLE))
    head = Shrinking()
    headed = mask_of(
        Segmenter(region_model(), refiner=head), an_ellipsoid, clicks(ELLIPSOID_MIDDLE)
    )

    assert 0 < headed.sum() < 0.7 * plain.sum() and not (headed & ~plain).any()
    assert len(head.memberships) == 1


def test_a_head_that_was_not_trained_changes_no_voxel(region_model, an_ellipsoid):
    untrained = Refiner(VolumeHead(), digest="untrained", device=torch.device("cpu"))
    stages = Stages(walk=False)
    plain = Segmenter(region_model(), stages=stages)
    headed = Segmenter(region_model(), refiner=untrained, stages=stages)

    for prompts in (clicks(ELLIPSOID_MIDDLE), clicks(ELLIPSOID_MIDDLE, (14, 20, 18))):
        np.testing.assert_array_equal(
            mask_of(plain, an_ellipsoid, prompts), mask_of(headed, an_ellipsoid, prompts)
        )


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"reads_neighbours": False}, "it follows no objects"),
        ({}, "the stage is left out"),
    ],
)
def test_where_it_does_not_belong_the_head_is_not_asked(region_model, an_ellipsoid, options, why):
    head = Shrinking()
    stages = Stages(head=bool(options))
    segmenter = Segmenter(region_model(**options), refiner=head, stages=stages)
    mask_of(segmenter, an_ellipsoid, clicks(ELLIPSOID_MIDDLE))

    assert not head.memberships, why


def test_a_slice_alone_is_no_matter_for_the_head(region_model, an_ellipsoid):
    head = Shrinking()
    point = Point(ELLIPSOID_MIDDLE, True, "a")
    Segmenter(region_model(), refiner=head).segment(
        an_ellipsoid, SegmentRequest(PromptSet((point,), scope="slice", axis=0))
    )

    assert not head.memberships
