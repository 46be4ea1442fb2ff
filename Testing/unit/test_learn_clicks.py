"""Simulated prompts of the training: on the object, where the answer is wrong, imperfect."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from protosam.learn.clicks import corrective_click, deep_point, jittered_box, pick, spoiled

MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))
SEEDS = st.integers(0, 2**31)


def square(side: int = 32, low: int = 8, high: int = 24) -> np.ndarray:
    mask = np.zeros((side, side), dtype=bool)
    mask[low:high, low:high] = True
    return mask


def cell(point_xy: tuple[float, float]) -> tuple[int, int]:
    """Cell (row, col) of the half grid that holds a point of the frame."""
    return int((point_xy[1] + 0.5) // 2), int((point_xy[0] + 0.5) // 2)


@given(MASKS, SEEDS)
def test_a_deep_point_lies_in_the_largest_component(mask: np.ndarray, seed: int) -> None:
    assume(mask.any())
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())[1:]
    hit = labels[cell(deep_point(mask, np.random.default_rng(seed)))]
    assert hit > 0
    assert sizes[hit - 1] == sizes.max()


def test_most_deep_points_are_at_the_centre() -> None:
    mask = np.zeros((33, 33), dtype=bool)
    mask[6:27, 6:27] = True
    cells = [cell(deep_point(mask, np.random.default_rng(seed))) for seed in range(200)]
    central = np.mean([c == (16, 16) for c in cells])
    assert 0.5 < central < 0.75
    assert len(set(cells)) > 40


@given(MASKS, SEEDS)
def test_a_right_answer_needs_no_correction(mask: np.ndarray, seed: int) -> None:
    assert corrective_click(mask, mask.copy(), np.random.default_rng(seed)) is None


@given(MASKS, SEEDS, st.data())
def test_a_correction_has_the_sign_of_the_error_under_it(
    wanted: np.ndarray, seed: int, data: st.DataObject
) -> None:
    found = data.draw(hnp.arrays(bool, wanted.shape))
    assume((found != wanted).any())
    click = corrective_click(found, wanted, np.random.default_rng(seed))
    assert click is not None
    point, positive = click
    assert wanted[cell(point)] == positive
    assert found[cell(point)] != positive


def test_the_largest_error_is_corrected_first() -> None:
    wanted, found = square(), square()
    found[8:24, 20:24] = False  # 64 cells missed
    found[0:4, 0:4] = True  # 16 cells too many
    point, positive = corrective_click(found, wanted, np.random.default_rng(0))
    assert positive
    assert 20 <= cell(point)[1] < 24


@given(SEEDS)
def test_a_box_is_off_by_a_tenth_of_its_sides_at_most(seed: int) -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:10, 5:25] = True  # rows 8..19 and columns 10..49 of the frame
    box = jittered_box(mask, np.random.default_rng(seed))
    assert (np.abs(box - [10, 8, 49, 19]) <= np.array([3.9, 1.1, 3.9, 1.1]) + 1e-9).all()
    assert box[0] < box[2]
    assert box[1] < box[3]


def test_a_box_of_one_cell_is_its_two_pixels() -> None:
    mask = np.zeros((8, 8), dtype=bool)
    mask[3, 5] = True
    box = jittered_box(mask, np.random.default_rng(0))
    np.testing.assert_allclose(box, [10, 6, 11, 7], atol=0.1)


@pytest.mark.parametrize("mask", [square(), np.zeros((16, 24), dtype=bool), np.eye(16, dtype=bool)])
def test_a_spoiled_answer_is_finite_and_bounded(mask: np.ndarray) -> None:
    for seed in range(20):
        logits = spoiled(mask, np.random.default_rng(seed))
        assert logits.shape == mask.shape
        assert logits.dtype == np.float32
        assert np.isfinite(logits).all()
        assert np.abs(logits).max() <= 8


def test_a_spoiled_answer_is_wrong_but_not_far_off() -> None:
    mask = square()
    ious = []
    for seed in range(60):
        found = spoiled(mask, np.random.default_rng(seed)) > 0
        ious.append((found & mask).sum() / max(1, (found | mask).sum()))
    assert 0.5 < np.mean(ious) < 0.95
    assert max(ious) < 1


def test_keys_are_picked_by_their_shares() -> None:
    rng = np.random.default_rng(0)
    drawn = [pick(rng, {"a": 3, "b": 1, "never": 0}) for _ in range(2000)]
    assert drawn.count("a") / 2000 == pytest.approx(0.75, abs=0.04)
    assert "never" not in drawn


def test_the_same_seed_gives_the_same_prompts() -> None:
    def play(seed: int) -> list[object]:
        rng = np.random.default_rng(seed)
        mask = square()
        return [
            deep_point(mask, rng),
            corrective_click(~mask, mask, rng),
            jittered_box(mask, rng).tolist(),
            spoiled(mask, rng).tolist(),
            pick(rng, {1: 0.5, 2: 0.5}),
        ]

    assert play(4) == play(4)
    assert play(4) != play(5)
