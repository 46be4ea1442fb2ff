"""Parts of an object, the places that are clicked for them, and the cascade."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from protosam.errors import InvalidInput, InvalidPrompt
from protosam.models.many_answers import predict_many, readings
from protosam.models.slice_model import SliceAnswer, SlicePrompts
from protosam.models.tiny import TinySAM, TinySettings
from protosam.models.tiny_predictor import TinySliceModel
from protosam.models.tokens import tokens_of
from protosam.prompting.cascade import UserClicks, cascade, tight_box, with_user
from protosam.prompting.parts import (
    best_places,
    clicks_of,
    parts_of,
    similarity,
    top_places,
    unit,
)
from protosam.prompting.weights import MaskWeights, fit_weights

SMALL = TinySettings(stem_widths=(12, 24, 24), trunk_dim=48, trunk_depth=1, trunk_heads=2)


@pytest.fixture(scope="module")
def a_model() -> TinySliceModel:
    torch.manual_seed(0)
    # In float32, so that two ways to one answer can be compared closely.
    device = torch.device("cpu")
    return TinySliceModel(TinySAM(SMALL), name="small", digest="d", device=device, bfloat16=False)


@pytest.fixture(scope="module")
def an_embedding(a_model: TinySliceModel):
    stack = np.random.default_rng(0).random((1, 3, 60, 90), dtype=np.float32)
    return a_model.embed(stack, (1.0, 1.0))[0]


def two_groups() -> np.ndarray:
    rng = np.random.default_rng(0)
    groups = (np.array([9.0, 0, 0]), 30), (np.array([0, 9.0, 0]), 10)
    return np.concatenate([rng.normal(m, 0.1, size=(n, 3)) for m, n in groups])


def test_parts_are_the_means_of_the_groups_largest_first() -> None:
    parts = parts_of(two_groups(), 2)
    assert np.allclose(parts, [[1, 0, 0], [0, 1, 0]], atol=0.02)


def test_one_part_is_the_mean_of_all() -> None:
    features = two_groups()
    assert np.allclose(parts_of(features, 1)[0], unit(features.mean(axis=0, keepdims=True))[0])


def test_parts_are_the_same_each_time_and_in_any_order() -> None:
    features = np.random.default_rng(1).normal(size=(60, 5))
    shuffled = np.random.default_rng(2).permutation(features)
    assert np.array_equal(parts_of(features, 3), parts_of(shuffled, 3))


def test_a_single_token_gives_one_part_however_many_are_wanted() -> None:
    assert parts_of(np.ones((1, 4)), 3).shape == (1, 4)
    assert parts_of(np.ones((5, 4)), 3).shape == (1, 4)


def test_an_object_without_tokens_has_no_parts() -> None:
    with pytest.raises(InvalidInput, match="0 features"):
        parts_of(np.zeros((0, 4)), 2)


def test_each_part_is_found_where_it_is_most_alike() -> None:
    parts = np.eye(3)[:2]
    features = np.array([[0, 0, 1.0], [0, 2, 0.1], [3, 0, 0.2], [1, 1, 0]])
    places = np.arange(4)[:, None] * 10.0
    assert best_places(similarity(parts, features), places, apart=1) == [2, 1]


def test_two_parts_at_one_place_become_two_places() -> None:
    scores = np.array([[1.0, 0.9, 0.1], [1.0, 0.8, 0.2]])
    places = np.array([[0.0], [1.0], [5.0]])
    assert best_places(scores, places, apart=2) == [0, 2]
    assert best_places(scores, places, apart=0.5) == [0, 1]


def test_padding_is_never_clicked() -> None:
    scores = np.array([[-np.inf, 0.1, -np.inf], [-np.inf, 0.3, -np.inf]])
    assert best_places(scores, np.arange(3)[:, None], apart=1) == [1]


def test_the_best_places_without_parts_lie_apart() -> None:
    score = np.array([0.9, 1.0, 0.8, 0.1])
    assert top_places(score, np.arange(4)[:, None], 2, apart=2) == [1, 3]


def test_a_negative_click_at_a_positive_place_is_dropped() -> None:
    clicks = clicks_of([3, 5], [5, 7])
    assert clicks.places.tolist() == [3, 5, 7]
    assert clicks.positive.tolist() == [True, True, False]


def clicks(*points: tuple[float, float, bool]) -> SlicePrompts:
    return SlicePrompts(
        np.array([p[:2] for p in points], dtype=float), np.array([p[2] for p in points])
    )


@dataclass
class CountingModel:
    """Answers with a disc round the first click, and remembers what it was asked."""

    calls: list[list[SlicePrompts]] = field(default_factory=list)

    def predict_many(self, _embedding, prompts) -> list[SliceAnswer]:
        self.calls.append(list(prompts))
        return [self.predict(None, one) for one in prompts]

    def predict(self, _embedding, prompts: SlicePrompts) -> SliceAnswer:
        rows, cols = np.indices((20, 30))
        row, col = prompts.points_rc[0]
        disc = 9 - (rows - row) ** 2 - (cols - col) ** 2
        return SliceAnswer(disc.astype(np.float32), 0.5, 1.0)


def test_all_candidates_cost_three_calls_of_points_then_logits_then_box() -> None:
    model = CountingModel()
    asked = [clicks((5, 5, True)), clicks((9, 20, True), (2, 2, False)), clicks((500, 500, True))]
    answers = cascade(model, None, asked)
    points, logits, boxed = model.calls
    assert [len(call) for call in model.calls] == [3, 3, 2]
    assert all(one.prior_logits is None and one.box_rc is None for one in points)
    assert all(one.prior_logits is not None and one.box_rc is None for one in logits)
    assert boxed[0].box_rc.tolist() == [3, 3, 7, 7]
    assert not (answers[2].logits > 0).any()  # an empty mask gets no box, and stays


def test_the_order_of_the_candidates_changes_no_answer(a_model, an_embedding) -> None:
    asked = [clicks((20, 30, True)), clicks((40, 50, True), (10, 80, False))]
    there, back = (cascade(a_model, an_embedding, c) for c in (asked, asked[::-1]))
    for one, other in zip(there, back[::-1], strict=True):
        assert np.allclose(one.logits, other.logits, atol=1e-3)


def test_many_answers_of_equal_length_equal_those_one_by_one(a_model, an_embedding) -> None:
    prior = np.full((60, 90), -4, dtype=np.float32)
    prior[20:40, 20:40] = 4
    asked = [
        clicks((20, 30, True), (5, 5, False)),
        replace(clicks((30, 30, True), (50, 80, False)), prior_logits=prior),
        SlicePrompts(box_rc=np.array([10, 10, 50, 60])),
    ]
    for one, prompts in zip(predict_many(a_model, an_embedding, asked), asked, strict=True):
        alone = a_model.predict(an_embedding, prompts)
        assert np.allclose(one.logits, alone.logits, atol=1e-3)
        assert one.presence == pytest.approx(alone.presence, abs=1e-3)


def test_a_candidate_without_clicks_is_refused(a_model, an_embedding) -> None:
    with pytest.raises(InvalidPrompt, match="no click"):
        predict_many(a_model, an_embedding, [SlicePrompts()])
    assert predict_many(a_model, an_embedding, []) == []


def test_tokens_lie_on_the_slice_and_the_padding_is_marked(a_model, an_embedding) -> None:
    grid = tokens_of(a_model, an_embedding)
    rows, cols = an_embedding.frame.outer
    assert grid.features.shape == (160, rows // 8, cols // 8)
    last = grid.centres_rc[grid.covered].max(axis=0)
    assert (last <= (59.5, 89.5)).all()
    assert np.allclose(grid.fractions(np.ones((60, 90)))[:2, :2], 1, atol=1e-5)
    assert grid.fractions(np.ones((60, 90))).sum() * np.prod(grid.cell_px) == pytest.approx(5400)


def test_what_lies_in_the_padding_moves_no_token_of_the_slice(a_model) -> None:
    stack = np.random.default_rng(0).random((1, 3, 61, 90), dtype=np.float32)
    grid = tokens_of(a_model, a_model.embed(stack, (1.0, 1.0))[0])
    assert grid.covered.sum() < grid.covered.size
    mask = np.zeros((61, 90), dtype=bool)
    mask[30:, 45:] = True
    assert grid.fractions(mask)[~grid.covered].max() < 0.5


def test_found_clicks_near_a_click_of_the_other_sign_go() -> None:
    user = UserClicks(np.array([[10.0, 10.0]]), np.array([False]))
    joined = with_user(clicks((11, 11, True), (30, 30, True)), user, near_px=5)
    assert joined.points_rc.tolist() == [[10, 10], [30, 30]]
    assert joined.positive.tolist() == [False, True]


def test_a_mask_that_crosses_a_click_of_the_user_does_not_obey() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:10, 5:10] = True
    obeyed = UserClicks(np.array([[6.0, 6.0], [15.0, 15.0]]), np.array([True, False]))
    crossed = UserClicks(np.array([[6.0, 6.0]]), np.array([False]))
    assert obeyed.obeyed_by(mask)
    assert not crossed.obeyed_by(mask)
    assert UserClicks.none().obeyed_by(mask)


def test_the_box_of_a_mask_is_tight_and_of_an_empty_one_none() -> None:
    mask = np.zeros((9, 9), dtype=bool)
    assert tight_box(mask) is None
    mask[2, 3] = mask[6, 4] = True
    assert tight_box(mask).tolist() == [2, 3, 6, 4]


def test_persam_f_learns_which_reading_is_meant() -> None:
    truth = np.zeros((20, 20), dtype=bool)
    truth[5:15, 5:15] = True
    right = np.where(truth, 3.0, -3.0).astype(np.float32)
    masks = [-right, right, np.full_like(right, -3)]
    mixed = fit_weights(masks, truth).mix(masks)
    assert np.array_equal(mixed > 0, truth)


def test_a_model_with_one_reading_needs_no_weights(a_model, an_embedding) -> None:
    one = np.ones((4, 4), dtype=np.float32)
    weights = fit_weights([one], one > 0)
    assert weights == MaskWeights((1.0,))
    assert np.array_equal(weights.mix([one]), one)
    assert len(readings(a_model, an_embedding, clicks((20, 30, True)))) == 3
