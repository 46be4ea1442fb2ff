"""Geodesic closeness: near within a region, far across its edge."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from protosam.models.geodesic import STEP_COST, closeness, edge_cost

SEEDS = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 15)), min_size=1, max_size=4)


def a_cost(seed: int = 0) -> np.ndarray:
    return edge_cost(np.random.default_rng(seed).random((12, 16)).astype(np.float32))


def two_halves() -> np.ndarray:
    """Dark columns 0-15, bright columns 16-31."""
    image = np.zeros((32, 32), dtype=np.float32)
    image[:, 16:] = 1
    return image


def test_a_flat_image_costs_one_step_everywhere() -> None:
    np.testing.assert_allclose(edge_cost(np.full((8, 8), 0.5, dtype=np.float32)), STEP_COST)


def test_an_edge_costs_more_than_a_flat_region() -> None:
    cost = edge_cost(two_halves())
    assert cost[:, 15:17].min() > 5 * cost[:, :12].max()


@given(st.integers(0, 50), SEEDS)
@settings(max_examples=40)
def test_closeness_is_one_at_the_seeds_and_between_zero_and_one_elsewhere(
    image: int, seeds: list[tuple[int, int]]
) -> None:
    near = closeness(a_cost(image), np.array(seeds))
    assert near.dtype == np.float32
    assert near.shape == (12, 16)
    assert all(near[seed] == 1 for seed in seeds)
    assert near.min() >= 0
    assert near.max() == 1


def test_closeness_falls_across_an_edge_more_than_inside_a_flat_region() -> None:
    near = closeness(edge_cost(two_halves()), np.array([[16, 10]]))
    inside, across = near[16, 1], near[16, 19]  # nine cells from the seed both
    assert inside > 0.5
    assert across < 0.3 * inside


def test_closeness_falls_with_distance_in_a_flat_region() -> None:
    near = closeness(edge_cost(np.zeros((16, 16), dtype=np.float32)), np.array([[8, 0]]))
    assert (np.diff(near[8]) < 0).all()


@given(st.integers(0, 50), SEEDS, SEEDS)
@settings(max_examples=25)
def test_closeness_to_two_groups_is_the_closeness_to_the_nearer_one(
    image: int, some: list[tuple[int, int]], others: list[tuple[int, int]]
) -> None:
    cost = a_cost(image)
    apart = np.maximum(closeness(cost, np.array(some)), closeness(cost, np.array(others)))
    np.testing.assert_allclose(closeness(cost, np.array(some + others)), apart, atol=1e-6)


@given(st.integers(0, 50), st.tuples(st.integers(0, 11), st.integers(0, 15)))
@settings(max_examples=25)
def test_there_and_back_are_equally_far(image: int, other: tuple[int, int]) -> None:
    cost, seed = a_cost(image), (4, 5)
    there = closeness(cost, np.array([seed]))[other]
    back = closeness(cost, np.array([other]))[seed]
    np.testing.assert_allclose(there, back, atol=1e-6)


def test_without_seeds_nothing_is_close() -> None:
    near = closeness(a_cost(), np.zeros((0, 2)))
    assert near.shape == (12, 16)
    assert not near.any()


def test_seeds_outside_are_moved_to_the_border() -> None:
    near = closeness(a_cost(), np.array([[-3.0, 4.0], [99.0, 99.0]]))
    assert near[0, 4] == 1
    assert near[11, 15] == 1
