"""Laws of the metrics: identity, symmetry, empty masks, shifted boxes of known distance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protosam import metrics
from protosam.errors import InvalidInput

SPACING_MM = (3.0, 1.5, 0.5)
MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6))


def a_box(low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros((12, 20, 24), dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


@given(MASKS)
def test_a_mask_agrees_with_itself_perfectly(mask: np.ndarray) -> None:
    assert metrics.dice(mask, mask) == 1.0
    assert metrics.nsd(mask, mask, SPACING_MM) == 1.0
    assert metrics.hd95_mm(mask, mask, SPACING_MM) == 0.0


@given(MASKS, st.integers(0, 2**32 - 1))
def test_every_metric_is_symmetric_and_in_its_range(mask: np.ndarray, seed: int) -> None:
    other = np.random.default_rng(seed).random(mask.shape) > 0.5
    diagonal_mm = float(np.linalg.norm(np.asarray(mask.shape) * SPACING_MM))
    there, back = metrics.dice(mask, other), metrics.dice(other, mask)
    assert there == back and 0 <= there <= 1
    there, back = (metrics.nsd(*pair, SPACING_MM) for pair in ((mask, other), (other, mask)))
    assert math.isclose(there, back) and 0 <= there <= 1
    there, back = (metrics.hd95_mm(*pair, SPACING_MM) for pair in ((mask, other), (other, mask)))
    assert math.isclose(there, back) and 0 <= there <= diagonal_mm


def test_an_empty_answer_scores_nothing_and_the_diagonal_of_the_volume() -> None:
    truth = a_box((2, 3, 4), (6, 9, 12))
    empty = np.zeros_like(truth)
    for found, wanted in ((empty, truth), (truth, empty)):
        assert metrics.dice(found, wanted) == 0.0
        assert metrics.nsd(found, wanted, SPACING_MM) == 0.0
        assert metrics.hd95_mm(found, wanted, SPACING_MM) == pytest.approx(
            math.sqrt(36**2 + 30**2 + 12**2)
        )


def test_two_empty_masks_agree() -> None:
    empty = np.zeros((4, 5, 6), dtype=bool)
    assert metrics.dice(empty, empty) == 1.0
    assert metrics.nsd(empty, empty, SPACING_MM) == 1.0
    assert metrics.hd95_mm(empty, empty, SPACING_MM) == 0.0


@pytest.mark.parametrize(("axis", "step_mm"), [(0, 3.0), (1, 1.5), (2, 0.5)])
def test_a_box_shifted_along_one_axis_is_as_far_as_the_spacing_says(
    axis: int, step_mm: float
) -> None:
    low, high = [2, 3, 4], [8, 15, 20]
    truth = a_box((2, 3, 4), (8, 15, 20))
    low[axis] += 2
    high[axis] += 2
    found = a_box(tuple(low), tuple(high))
    assert metrics.hd95_mm(found, truth, SPACING_MM) == pytest.approx(2 * step_mm)
    expected = 2 * np.count_nonzero(found & truth) / (found.sum() + truth.sum())
    assert metrics.dice(found, truth) == pytest.approx(expected)


def test_the_tolerance_of_the_surface_dice_is_in_millimetres() -> None:
    truth, found = a_box((2, 3, 4), (8, 15, 20)), a_box((2, 3, 7), (8, 15, 23))
    assert metrics.nsd(found, truth, SPACING_MM, tolerance_mm=1.5) == 1.0
    assert metrics.nsd(found, truth, SPACING_MM, tolerance_mm=1.4) < 1.0
    assert metrics.nsd(found, truth, (3.0, 1.5, 5.0), tolerance_mm=2.0) < 0.9


def test_a_single_slice_is_measured_as_a_plane() -> None:
    plane = np.zeros((20, 24), dtype=bool)
    plane[4:14, 5:19] = True
    shifted = np.roll(plane, 3, axis=1)
    flat = metrics.hd95_mm(shifted, plane, (1.5, 0.5))
    assert metrics.hd95_mm(shifted[None], plane[None], SPACING_MM) == flat == pytest.approx(1.5)
    assert metrics.nsd(shifted[None], plane[None], SPACING_MM, 0.4) == metrics.nsd(
        shifted, plane, (1.5, 0.5), 0.4
    )


def test_a_volume_is_counted_in_millilitres() -> None:
    assert metrics.volume_ml(a_box((0, 0, 0), (10, 10, 10)), (2.0, 1.0, 0.5)) == pytest.approx(1.0)


def test_the_area_under_clicks_is_a_trapezoid_that_reads_as_a_score() -> None:
    assert metrics.area_under_clicks([0.4, 0.8, 1.0]) == pytest.approx((0.6 + 0.9) / 2)
    assert metrics.area_under_clicks([0.7] * 5) == pytest.approx(0.7)
    assert metrics.area_under_clicks([0.3]) == 0.3


def test_what_cannot_be_measured_is_refused() -> None:
    mask = np.ones((2, 3, 4), dtype=bool)
    with pytest.raises(InvalidInput, match="shape"):
        metrics.dice(mask, mask[:1])
    with pytest.raises(InvalidInput, match="shape"):
        metrics.nsd(mask[:1], mask, SPACING_MM)
    with pytest.raises(InvalidInput, match="spacing"):
        metrics.hd95_mm(mask, mask, (1.0, 0.0, 1.0))
    with pytest.raises(InvalidInput, match="spacing"):
        metrics.hd95_mm(mask, mask, (1.0, 1.0))
    with pytest.raises(InvalidInput, match="no score"):
        metrics.area_under_clicks([])
