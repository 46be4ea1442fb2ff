"""One slice: how prompts are replayed to a model, and the closer look."""

from __future__ import annotations

import numpy as np
import pytest

from protosam.geometry import Volume
from protosam.intensity import Window
from protosam.models.embeddings import Embedder, EmbeddingCache
from protosam.models.planes import Patch, Planes
from protosam.models.slice_solver import MAX_REPLAYED, SliceInput, SliceSolver, SolvedSlice


@pytest.fixture
def a_disc():
    """Bright disc of radius 12 round (60, 70) in all 8 slices of 128 x 128 pixels."""
    j, i = np.ogrid[:128, :128]
    disc = (j - 60) ** 2 + (i - 70) ** 2 <= 144
    voxels = np.repeat(np.where(disc, 100, 0)[None], 8, axis=0).astype(np.int16)
    return Planes(Volume(voxels, np.eye(4)), 0, Window(0, 100))


def solver_of(model, planes):
    return SliceSolver(model, planes, Embedder(model, planes, EmbeddingCache()))


def given_clicks(*places, negative=()):
    points = np.array([*places, *negative], dtype=float).reshape(-1, 2)
    positive = np.array([True] * len(places) + [False] * len(negative), dtype=bool)
    return SliceInput(points, positive)


def mask_of(planes, solved):
    return solved.patch.on(planes.whole) > 0


def truth_of(planes):
    return planes.volume.voxels[0] > 0


def test_a_click_is_answered_in_a_closer_look(region_model, a_disc):
    model = region_model()
    solved = solver_of(model, a_disc).start(3, given_clicks((60, 70)))
    assert np.array_equal(mask_of(a_disc, solved), truth_of(a_disc))
    assert max(solved.patch.rect.shape) < 80
    assert [image.shape for image in model.images] == [(128, 128), solved.patch.rect.shape]


def test_the_closer_look_starts_from_the_first_one(region_model, a_disc):
    model = region_model()
    solver_of(model, a_disc).start(3, given_clicks((60, 70)))
    first, *closer = model.asked
    assert first.prior_logits is None
    assert {one.prior_logits.shape for one in closer} == {model.images[1].shape}


def test_clicks_are_replayed_one_by_one_in_their_order(region_model, a_disc):
    model = region_model()
    solver_of(model, a_disc).start(3, given_clicks((60, 70), (55, 66), (64, 75)))
    whole = model.asked[:3]
    assert [len(one.points_rc) for one in whole] == [1, 2, 3]
    assert whole[2].points_rc.tolist() == [[60, 70], [55, 66], [64, 75]]
    assert [one.prior_logits is None for one in whole] == [True, False, False]


def test_many_clicks_are_not_all_replayed(region_model, a_disc):
    model = region_model()
    places = [(55 + n, 70) for n in range(MAX_REPLAYED + 5)]
    solver_of(model, a_disc).start(3, given_clicks(*places))
    whole = model.asked[: MAX_REPLAYED + 1]
    assert [len(one.points_rc) for one in whole] == list(range(5, MAX_REPLAYED + 6))
    assert whole[0].points_rc[0].tolist() == [55, 70]


def test_negative_clicks_alone_find_nothing_and_ask_nothing(region_model, a_disc):
    model = region_model()
    solved = solver_of(model, a_disc).start(3, given_clicks(negative=[(60, 70)]))
    assert solved.patch.area == 0
    assert (solved.score, solved.presence) == (0.0, 0.0)
    assert model.asked == []


def test_a_negative_click_before_the_positive_one_waits_for_it(region_model, a_disc):
    model = region_model()
    given = SliceInput(np.array([[60.0, 80.0], [60.0, 70.0]]), np.array([False, True]))
    solved = solver_of(model, a_disc).start(3, given)
    assert all(one.positive.any() or one.prior_logits is not None for one in model.asked)
    assert len(model.asked[0].points_rc) == 2
    assert not mask_of(a_disc, solved)[60, 80]
    assert mask_of(a_disc, solved)[60, 70]


def test_a_click_far_away_does_not_enter_the_closer_look(region_model, a_disc):
    model = region_model()
    given = given_clicks((60, 70), negative=[(5, 5)])
    solved = solver_of(model, a_disc).start(3, given)
    assert len(model.asked[-1].points_rc) == 1
    assert np.array_equal(mask_of(a_disc, solved), truth_of(a_disc))


def test_a_box_and_the_click_in_it_go_in_together(region_model, a_disc):
    model = region_model()
    given = SliceInput(
        np.array([[60.0, 70.0]]), np.array([True]), np.array([47.0, 57.0, 73.0, 83.0])
    )
    solver_of(model, a_disc).start(3, given)
    assert [len(one.points_rc) for one in model.asked] == [1, 1]
    assert model.asked[0].box_rc.tolist() == [47, 57, 73, 83]


def test_a_slice_follows_its_neighbour(region_model, a_disc):
    model = region_model()
    solver = solver_of(model, a_disc)
    first = solver.start(3, given_clicks((60, 70)))
    second = solver.follow(4, SliceInput(), first)
    assert np.array_equal(mask_of(a_disc, second), truth_of(a_disc))
    assert second.patch.rect == first.patch.rect
    assert model.asked[-1].neighbour_logits is not None
    assert model.asked[-1].count == 0


def test_a_neighbour_is_spelled_out_to_a_model_that_reads_none(region_model, a_disc):
    model = region_model(reads_neighbours=False)
    solver = solver_of(model, a_disc)
    first = solver.start(3, given_clicks((60, 70)))
    second = solver.follow(4, SliceInput(), first)
    asked, rect = model.asked[-1], second.patch.rect
    assert asked.neighbour_logits is None
    assert (asked.prior_logits > 0).sum() == first.patch.area
    assert asked.points_rc.tolist() == [[60 - rect.top, 70 - rect.left]]
    assert asked.positive.tolist() == [True]
    top, left, bottom, right = asked.box_rc
    assert (top + rect.top, bottom + rect.top) == (47, 73)
    assert (left + rect.left, right + rect.left) == (57, 83)
    assert np.array_equal(mask_of(a_disc, second), truth_of(a_disc))


def test_an_empty_neighbour_starts_the_slice_anew(region_model, a_disc):
    model = region_model()
    solver = solver_of(model, a_disc)
    empty = SolvedSlice(Patch(a_disc.whole, np.full((128, 128), -8, np.float32)), 0.0, 0.0)
    assert solver.follow(4, SliceInput(), empty).patch.area == 0
    found = solver.follow(4, given_clicks((60, 70)), empty)
    assert np.array_equal(mask_of(a_disc, found), truth_of(a_disc))


def test_the_slices_ahead_are_embedded_in_the_same_batch(region_model, a_disc):
    model = region_model(batch_size=3)
    solver = solver_of(model, a_disc)
    previous = solver.start(1, given_clicks((60, 70)))
    model.batches.clear()
    for index in range(2, 8):
        previous = solver.follow(index, SliceInput(), previous, ahead=range(index + 1, 8))
    assert model.batches == [3, 3]


def test_an_earlier_mask_is_the_first_guess(region_model, a_disc):
    model = region_model()
    prior = Patch(a_disc.whole, np.where(truth_of(a_disc), 4, -4).astype(np.float32))
    solved = solver_of(model, a_disc).start(3, SliceInput(), prior)
    assert np.array_equal(model.asked[0].prior_logits, prior.logits)
    assert np.array_equal(mask_of(a_disc, solved), truth_of(a_disc))


def test_a_slice_is_mended_by_one_question_with_its_last_answer_as_prior(region_model, a_disc):
    model = region_model()
    solver = solver_of(model, a_disc)
    before = solver.start(3, given_clicks((60, 70)))
    model.asked.clear()
    after = solver.mend(3, given_clicks((60, 70), negative=[(60, 80)]), before)
    (asked,) = model.asked
    assert np.array_equal(asked.prior_logits, before.patch.logits)
    assert asked.neighbour_logits is None
    assert asked.positive.tolist() == [True, False]
    assert after.patch.rect == before.patch.rect
    assert mask_of(a_disc, before)[60, 80]
    assert not mask_of(a_disc, after)[60, 80]


def test_mending_looks_wider_for_a_positive_click_beyond_the_last_look(region_model, a_disc):
    model = region_model()
    solver = solver_of(model, a_disc)
    before = solver.start(3, given_clicks((60, 70)))
    far = (10, 10)
    after = solver.mend(3, given_clicks((60, 70), far), before)
    assert not before.patch.rect.holds(far)
    assert after.patch.rect.holds(far)


def test_an_empty_answer_is_not_mended_but_begun_anew(region_model, a_disc):
    model = region_model()
    solver = solver_of(model, a_disc)
    empty = SolvedSlice(Patch(a_disc.whole, np.full((128, 128), -8, np.float32)), 0.0, 0.0)
    after = solver.mend(3, given_clicks((60, 70)), empty)
    assert model.asked[0].prior_logits is None
    assert np.array_equal(mask_of(a_disc, after), truth_of(a_disc))


def test_what_was_known_at_an_earlier_click_holds_the_box_and_the_clicks_until_then():
    box = np.array([1.0, 1.0, 5.0, 5.0])
    given = SliceInput(np.array([[2.0, 2.0], [3.0, 3.0]]), np.array([True, False]), box)
    early = given.first(1)
    assert early.points_rc.tolist() == [[2, 2]]
    assert early.positive.tolist() == [True]
    assert early.box_rc is box
