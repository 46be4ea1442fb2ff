"""Optimal transport between sets of features."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from protosam.errors import InvalidInput
from protosam.prompting.transport import NOTHING, Spread, at_most, spread_of, transport_distance

SETS = npst.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(3)), elements=st.floats(-9, 9))


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


def test_zero_and_one_lie_four_from_two_and_three() -> None:
    assert transport_distance(column(0, 1), column(2, 3)) == pytest.approx(4.0)


def test_sets_of_other_sizes_are_compared_by_shares() -> None:
    # Half of {0} goes to 0 and half to 2: 0.5 * 0 + 0.5 * 4.
    assert transport_distance(column(0), column(0, 2)) == pytest.approx(2.0)


@settings(deadline=None, max_examples=40)
@given(SETS, SETS, st.randoms(use_true_random=False))
def test_the_order_of_the_points_does_not_matter(one, other, random) -> None:
    shuffled = one[random.sample(range(len(one)), len(one))]
    there = transport_distance(one, other)
    assert transport_distance(shuffled, other) == pytest.approx(there, abs=1e-7)
    assert transport_distance(other, one) == pytest.approx(there, abs=1e-7)


@settings(deadline=None, max_examples=40)
@given(SETS, npst.arrays(np.float64, 3, elements=st.floats(-5, 5)))
def test_a_shift_costs_its_squared_length(points, shift) -> None:
    moved = transport_distance(points, points + shift)
    assert moved == pytest.approx(float((shift**2).sum()), abs=1e-6)


def test_large_sets_are_thinned_alike_each_time_and_in_any_order() -> None:
    points = np.random.default_rng(0).normal(size=(900, 4))
    once, again = at_most(points, 50), at_most(points[::-1], 50)
    assert len(once) == 50
    assert np.array_equal(once, again)


def test_an_empty_set_is_further_than_any_other() -> None:
    assert transport_distance(np.zeros((0, 2)), np.zeros((3, 2))) == NOTHING


def test_sets_of_other_models_are_refused() -> None:
    with pytest.raises(InvalidInput, match="cannot be compared"):
        transport_distance(np.zeros((2, 3)), np.zeros((2, 4)))


def test_the_spread_of_one_part_comes_from_its_halves() -> None:
    points = np.random.default_rng(0).normal(size=(40, 3))
    spread = spread_of([points])
    assert spread.mean > 0
    assert spread.unlike(spread.mean) == 0
    assert spread_of([points[:1]]) == Spread(0.0, 0.0)


def test_what_is_far_from_the_parts_is_many_deviations_away() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(20, 3)) for _ in range(5)]
    spread = spread_of(parts)
    near = transport_distance(rng.normal(size=(20, 3)), np.concatenate(parts))
    far = transport_distance(rng.normal(5, 1, size=(20, 3)), np.concatenate(parts))
    assert spread.unlike(near) < 6 < spread.unlike(far)
