"""Slices across an axis, rectangles in them, and the closer look."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protosam.geometry import Volume
from protosam.intensity import Window
from protosam.models.planes import ABSENT, MIN_FOCUS_PIXELS, Patch, Planes, Rect, focus

WINDOW = Window(0, 100)


def planes_of(shape=(5, 60, 80), axis=0, spacing_kji=(3.0, 1.0, 1.0)):
    k, j, i = spacing_kji
    voxels = np.arange(np.prod(shape), dtype=np.int32).reshape(shape) % 113
    return Planes(Volume(voxels, np.diag([i, j, k, 1.0])), axis, WINDOW)


@st.composite
def rects_in(draw, rows, cols):
    top = draw(st.integers(0, rows - 1))
    left = draw(st.integers(0, cols - 1))
    return Rect(top, draw(st.integers(top + 1, rows)), left, draw(st.integers(left + 1, cols)))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_voxel_is_found_again_in_its_slice(axis):
    planes = planes_of((5, 6, 7), axis)
    z, row, col = (int(v) for v in planes.turn((3, 4, 5)))
    pixel = planes.stack(z, planes.whole, 0)[0, row, col]
    assert pixel == pytest.approx(min(1.0, planes.volume.voxels[3, 4, 5] / 100))


@given(st.tuples(*[st.floats(-5, 100)] * 3), st.integers(0, 2))
def test_turning_a_point_there_and_back_changes_nothing(point, axis):
    planes = planes_of((5, 6, 7), axis)
    assert planes.unturn_point(planes.turn(point)) == point


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_block_of_slices_turns_back_into_the_volume(axis):
    planes = planes_of((5, 6, 7), axis)
    block = np.stack([planes.stack(z, planes.whole, 0)[0] for z in range(planes.depth)])
    expected = np.clip(planes.volume.voxels / 100, 0, 1)
    assert np.allclose(planes.unturn(block), expected)


def test_spacings_follow_the_axis():
    planes = planes_of((5, 6, 7), 1, spacing_kji=(3.0, 2.0, 0.5))
    assert planes.spacing_rc_mm == (3.0, 0.5)
    assert planes.step_mm == 2.0
    assert (planes.depth, planes.whole) == (6, Rect(0, 5, 0, 7))


def test_beyond_the_first_and_last_slice_these_are_repeated():
    planes = planes_of()
    first, last = planes.stack(0, planes.whole, 1), planes.stack(4, planes.whole, 1)
    assert np.array_equal(first[0], first[1])
    assert np.array_equal(last[1], last[2])
    assert not np.array_equal(first[1], first[2])


def test_a_stack_is_windowed_float32_and_cut_to_the_rectangle():
    planes = planes_of()
    rect = Rect(2, 9, 3, 11)
    stack = planes.stack(2, rect, 1)
    assert stack.dtype == np.float32
    assert stack.shape == (3, 7, 8)
    assert np.array_equal(stack, planes.stack(2, planes.whole, 1)[(slice(None), *rect.slices)])


def test_a_rectangle_holds_the_whole_area_of_its_pixels():
    rect = Rect(2, 4, 5, 7)
    assert rect.holds((1.5, 4.5))
    assert rect.holds((3.4, 6.4))
    assert not rect.holds((3.5, 6))
    assert not rect.holds((2, 4.4))


@given(rects_in(20, 30), rects_in(20, 30))
def test_two_rectangles_share_what_lies_in_both(one, other):
    masks = []
    for rect in (one, other):
        mask = np.zeros((20, 30), bool)
        mask[rect.slices] = True
        masks.append(mask)
    shared = one.intersection(other)
    mask = np.zeros((20, 30), bool)
    mask[shared.slices] = True
    assert np.array_equal(mask, masks[0] & masks[1])


@given(rects_in(20, 30), rects_in(20, 30), st.integers(0, 99))
def test_a_patch_keeps_its_logits_on_any_rectangle_and_is_absent_elsewhere(one, other, seed):
    logits = np.random.default_rng(seed).normal(size=one.shape).astype(np.float32)
    whole = Patch(one, logits).on(Rect(0, 20, 0, 30))
    expected = np.full((20, 30), ABSENT, np.float32)
    expected[one.slices] = logits
    assert np.array_equal(whole, expected)
    assert np.array_equal(Patch(one, logits).on(other), expected[other.slices])


def test_a_patch_knows_where_its_mask_lies():
    logits = np.full((10, 12), -1.0, np.float32)
    assert Patch(Rect(5, 15, 7, 19), logits).mask_rect is None
    logits[3:5, 4:9] = 2
    patch = Patch(Rect(5, 15, 7, 19), logits)
    assert patch.mask_rect == Rect(8, 10, 11, 16)
    assert patch.area == 10
    cropped = patch.cropped()
    assert cropped.rect == Rect(8, 10, 11, 16)
    assert np.array_equal(cropped.on(patch.rect) > 0, logits > 0)


def test_the_deepest_pixel_lies_in_the_middle_even_if_all_logits_are_alike():
    logits = np.full((20, 20), -1.0, np.float32)
    logits[2:9, 3:12] = 5
    assert Patch(Rect(100, 120, 200, 220), logits).deepest == (105, 206)
    logits[:] = -1
    logits[4, 7] = -0.5
    assert Patch(Rect(100, 120, 200, 220), logits).deepest == (104, 207)


@given(rects_in(60, 80), st.floats(1.0, 4.0), st.sampled_from([(1.0, 1.0), (0.5, 2.0)]))
def test_the_closer_look_holds_the_object_and_stays_in_the_slice(mask, zoom, spacing_rc):
    planes = planes_of(spacing_kji=(3.0, *spacing_rc))
    rect = focus(planes, mask, current=None, zoom=zoom)
    assert rect.intersection(planes.whole) == rect
    assert rect.intersection(mask) == mask or zoom < 1.2


def test_the_closer_look_is_a_square_in_mm():
    planes = planes_of((5, 400, 200), spacing_kji=(3.0, 0.5, 1.0))
    rect = focus(planes, Rect(180, 220, 90, 110), current=None)
    rows, cols = rect.shape
    assert rows * 0.5 == pytest.approx(cols * 1.0, abs=1.5)
    assert 40 <= cols <= 58  # twice the object's 20 mm, up to a rung of the ladder
    assert rows * 0.5 >= 20 * 2


def test_a_large_object_is_looked_at_in_the_whole_slice():
    planes = planes_of()
    assert focus(planes, Rect(5, 55, 5, 70), current=None) == planes.whole


def test_a_tiny_object_is_not_magnified_without_limit():
    planes = planes_of((5, 512, 512))
    rect = focus(planes, Rect(200, 202, 300, 302), current=None)
    assert min(rect.shape) >= MIN_FOCUS_PIXELS
    assert max(rect.shape) < 3 * MIN_FOCUS_PIXELS


def test_small_changes_of_the_object_keep_the_closer_look():
    planes = planes_of((5, 256, 256))
    first = focus(planes, Rect(100, 140, 100, 140), current=None)
    assert focus(planes, Rect(98, 141, 103, 144), current=first) == first
    moved = focus(planes, Rect(140, 180, 140, 180), current=first)
    assert moved != first
    shrunk = focus(planes, Rect(118, 122, 118, 122), current=first)
    assert max(shrunk.shape) < max(first.shape)
