"""The random walk that settles the answers for small objects."""

from __future__ import annotations

import numpy as np
import pytest

from protosam.extents import Extent
from protosam.geometry import Volume
from protosam.intensity import Window
from protosam.models.random_walk import MAX_VOXELS, walked
from protosam.models.views import SURE, Field
from protosam.prompts import Point

WINDOW = Window(0.0, 1.0)


def a_volume(voxels: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 1)) -> Volume:
    return Volume(voxels, np.diag([*spacing[::-1], 1.0]), "a volume")


def a_ball(side: int = 20, radius: float = 6) -> np.ndarray:
    k, j, i = np.ogrid[:side, :side, :side]
    middle = side / 2
    return (k - middle) ** 2 + (j - middle) ** 2 + (i - middle) ** 2 < radius**2


def field_of(mask: np.ndarray) -> Field:
    extent = Extent((0, 0, 0), mask.shape)
    return Field(extent, np.where(mask, SURE, -SURE).astype(np.float32))


def mask_of(field: Field, shape: tuple[int, int, int]) -> np.ndarray:
    whole = np.zeros(shape, dtype=bool)
    whole[field.extent.slices] = field.logits > 0
    return whole


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & other) / (one.sum() + other.sum())


def test_an_answer_that_fits_the_image_stays() -> None:
    ball = a_ball()
    found = walked(a_volume(ball * 0.6 + 0.2), field_of(ball), [], window=WINDOW, axis=0)
    assert dice(mask_of(found, ball.shape), ball) > 0.97


def test_a_slice_that_disagrees_with_its_neighbours_is_mended() -> None:
    ball = a_ball()
    gap = ball.copy()
    gap[10] = False
    found = walked(a_volume(ball * 0.6 + 0.2), field_of(gap), [], window=WINDOW, axis=0)
    assert dice(mask_of(found, ball.shape)[10], ball[10]) > 0.9


@pytest.mark.parametrize("positive", [True, False])
def test_a_click_decides_its_place_and_acts_on_the_slices_beside_it(positive: bool) -> None:
    grey = np.full((20, 20, 20), 0.5)
    unsure = Field(Extent((0, 0, 0), grey.shape), np.full(grey.shape, 0.01, np.float32))
    click = Point((10.0, 10.0, 10.0), positive, "a")
    found = mask_of(walked(a_volume(grey), unsure, [click], window=WINDOW, axis=0), grey.shape)
    for k in range(6, 15):
        assert bool(found[k, 10, 10]) is positive


def test_a_click_decides_its_voxel_however_thick_the_slices_are() -> None:
    grey = np.full((9, 20, 20), 0.5)
    logits = np.full((2, 4, 4), -SURE, np.float32)
    logits[0] = SURE
    beside = Field(Extent((5, 8, 8), (7, 12, 12)), logits)
    click = Point((4.0, 9.0, 9.0), True, "a")
    found = walked(a_volume(grey, (8.0, 5.0, 5.0)), beside, [click], window=WINDOW, axis=0)
    assert mask_of(found, grey.shape)[4, 9, 9]


def test_a_click_beside_the_answer_is_in_the_box() -> None:
    ball = a_ball(30, 5)
    extent = Extent((10, 10, 10), (20, 20, 20))
    field = Field(extent, np.where(ball[extent.slices], SURE, -SURE).astype(np.float32))
    click = Point((25.0, 15.0, 15.0), True, "a")
    found = mask_of(walked(a_volume(ball * 0.5), field, [click], window=WINDOW, axis=0), ball.shape)
    assert found[25, 15, 15]


def test_an_image_without_any_step_is_solved_too() -> None:
    ball = a_ball()
    click = Point((10.0, 10.0, 10.0), True, "a")
    found = walked(a_volume(np.zeros(ball.shape)), field_of(ball), [click], window=WINDOW, axis=0)
    mask = mask_of(found, ball.shape)
    assert mask[10, 10, 10]
    assert not (mask & ~ball).any()


def test_a_single_slice_is_solved_too() -> None:
    disc = a_ball()[10:11]
    found = walked(a_volume(disc * 0.6 + 0.2), field_of(disc), [], window=WINDOW, axis=0)
    assert dice(mask_of(found, disc.shape), disc) > 0.95


def test_large_boxes_are_left_as_they_are() -> None:
    side = int(MAX_VOXELS ** (1 / 3)) + 2
    ball = a_ball(side, side / 3)
    field = field_of(ball)
    assert walked(a_volume(ball * 0.5), field, [], window=WINDOW, axis=0) is field


def test_an_empty_answer_stays_empty() -> None:
    nothing = field_of(np.zeros((8, 8, 8), bool))
    assert walked(a_volume(np.zeros((8, 8, 8))), nothing, [], window=WINDOW, axis=0) is nothing
