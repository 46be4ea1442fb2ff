"""Smoothing that keeps the volume."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

import protosam.smoothing
from protosam.errors import InvalidInput
from protosam.smoothing import MIN_VOXELS, smoothed

CORNERS = np.ones((3, 3, 3))
ISO = (1.0, 1.0, 1.0)
masks = hnp.arrays(
    np.bool_, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=12)
) | st.builds(
    # Noise alone hardly ever makes large bodies with a background around them.
    lambda seed, level: (
        ndimage.gaussian_filter(np.random.default_rng(seed).random((14,) * 3), 1.2) > level
    ),
    st.integers(0, 999),
    st.sampled_from([0.48, 0.5, 0.53, 0.55]),
)
sigmas = st.sampled_from([0.3, 0.7, 1.0, 2.0, 6.0])
spacings = st.tuples(*[st.sampled_from([0.5, 0.8, 1.0, 2.5])] * 3)


@pytest.fixture
def no_body_is_too_small(monkeypatch):
    monkeypatch.setattr(protosam.smoothing, "MIN_VOXELS", 1)


def ball(shape, centre, radius_mm, spacing=ISO) -> np.ndarray:
    away = [(np.arange(n) - c) * s for n, c, s in zip(shape, centre, spacing, strict=True)]
    return sum(x**2 for x in np.meshgrid(*away, indexing="ij")) <= radius_mm**2


def bodies(mask) -> int:
    return int(ndimage.label(mask, CORNERS)[1])


def neighbourhood(mask, sigma_mm, spacing) -> float:
    """Share of the neighbourhood in the mask, summed over the mask: the larger the smoother."""
    sigma = [sigma_mm / step for step in spacing]
    share = ndimage.gaussian_filter(mask.astype(float), sigma, mode="constant", truncate=6)
    return float(share[mask].sum())


@given(masks, sigmas, spacings)
def test_smoothing_keeps_the_volume_to_the_voxel(mask, sigma_mm, spacing):
    before = mask.copy()

    assert smoothed(mask, sigma_mm, spacing).sum() == mask.sum()
    np.testing.assert_array_equal(mask, before)


@given(masks, sigmas, spacings)
def test_bodies_may_part_but_never_merge(mask, sigma_mm, spacing):
    labels, count = ndimage.label(mask, CORNERS)
    after, found = ndimage.label(smoothed(mask, sigma_mm, spacing), CORNERS)

    assert found >= count
    for number in range(1, found + 1):
        assert len(set(labels[after == number]) - {0}) <= 1


@given(masks, sigmas, spacings)
def test_the_surface_never_gets_rougher(mask, sigma_mm, spacing):
    margin = [2 + int(6 * sigma_mm / step) for step in spacing]
    mask = np.pad(mask, [(n, n) for n in margin])
    if bodies(mask) != 1 or mask.sum() < MIN_VOXELS:
        return
    before = neighbourhood(mask, sigma_mm, spacing)
    after = neighbourhood(smoothed(mask, sigma_mm, spacing), sigma_mm, spacing)

    assert after >= before * (1 - 1e-3)


@given(
    masks,
    sigmas,
    spacings,
    st.lists(st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3), max_size=5),
)
def test_voxels_that_were_clicked_stay_on_their_side(mask, sigma_mm, spacing, places):
    clicks = [tuple(int(x * n) for x, n in zip(one, mask.shape, strict=True)) for one in places]
    inside = [voxel for voxel in clicks if mask[voxel]]
    outside = [voxel for voxel in clicks if not mask[voxel]]
    after = smoothed(mask, sigma_mm, spacing, inside_kji=inside, outside_kji=outside)

    assert after.sum() == mask.sum()
    assert all(after[voxel] for voxel in inside)
    assert not any(after[voxel] for voxel in outside)


@settings(max_examples=30)
@given(masks, st.sampled_from([0.7, 2.0]), spacings, st.integers(4, 7))
def test_a_crop_with_room_for_the_smoothing_gives_the_same_as_the_whole(
    mask, sigma_mm, spacing, wide
):
    narrow = [2 + int(np.ceil(sigma_mm / step)) for step in spacing]
    crop = smoothed(np.pad(mask, [(n, n) for n in narrow]), sigma_mm, spacing)
    whole = smoothed(np.pad(mask, [(n + wide, n + wide) for n in narrow]), sigma_mm, spacing)

    np.testing.assert_array_equal(np.pad(crop, wide), whole)


@pytest.mark.parametrize("spacing", [ISO, (2.5, 0.8, 0.8)])
def test_a_ball_stays_a_ball_in_millimetres(spacing):
    shape = tuple(int(40 / step) for step in spacing)
    mask = ball(shape, [n / 2 for n in shape], 12, spacing)

    moved = smoothed(mask, 2, spacing) ^ mask
    assert moved.sum() <= 0.01 * mask.sum()


def test_bumps_and_pits_narrower_than_the_smoothing_go():
    block = np.zeros((30, 30, 30), dtype=bool)
    block[5:25, 5:25, 5:25] = True
    rough = block.copy()
    rough[25:28, 14, 14] = True
    rough[14, 14, 5:8] = False
    after = smoothed(rough, 2, ISO)

    assert not after[26:28, 14, 14].any()
    assert after[14, 14, 5:8].all()


def test_across_thick_slices_nothing_is_smoothed_that_is_finer_than_they_are():
    mask = np.zeros((6, 20, 20), dtype=bool)
    mask[1:3, 4:16, 4:16] = mask[3:5, 6:14, 6:14] = True
    after = smoothed(mask, 2.0, (16.0, 1.0, 1.0))

    # The step from slice to slice stays where it is; within the slices the corners go.
    assert abs(int(after[2].sum()) - int(after[3].sum())) > 60
    assert not after[2, 4, 4]


def test_a_lesion_beside_an_organ_keeps_its_voxels():
    organ, lesion = ball((50, 50, 50), (20, 20, 20), 14), ball((50, 50, 50), (40, 40, 40), 2.2)
    after = smoothed(organ | lesion, 3, ISO)

    assert after[34:46, 34:46, 34:46].sum() == lesion.sum()


def test_two_bodies_side_by_side_do_not_grow_together():
    mask = np.zeros((20, 20, 21), dtype=bool)
    mask[4:16, 4:16, 2:10] = mask[4:16, 4:16, 11:19] = True

    assert bodies(smoothed(mask, 3, ISO)) == 2


def test_specks_stay_as_they_are():
    rng = np.random.default_rng(0)
    specks = rng.random((40, 40, 40)) < 0.01

    np.testing.assert_array_equal(smoothed(specks, 2, ISO), specks)


@pytest.mark.usefixtures("no_body_is_too_small")
@settings(max_examples=30)
@given(masks, sigmas, spacings)
def test_bodies_of_any_size_keep_their_volume_and_keep_apart(mask, sigma_mm, spacing):
    after = smoothed(mask, sigma_mm, spacing)

    assert after.sum() == mask.sum()
    assert bodies(after) >= bodies(mask)


def test_an_object_that_leaves_the_image_is_not_rounded_off_there():
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[:12, 4:16, 4:16] = True
    after = smoothed(mask, 2, ISO)

    np.testing.assert_array_equal(after[0], after[4])
    assert not after[11, 4, 4]


def test_a_2d_image_is_smoothed_in_2d():
    flat = np.zeros((1, 20, 20), dtype=bool)
    flat[0, 5:15, 5:15] = True
    after = smoothed(flat, 2, ISO)

    assert not after[0, 5, 5]
    assert after.sum() == 100


def test_smoothing_twice_smooths_more_so_once_is_not_enough_to_be_done():
    mask = np.zeros((30, 30, 30), dtype=bool)
    mask[5:25, 5:25, 5:25] = True
    once = smoothed(mask, 1.5, ISO)
    twice = smoothed(once, 1.5, ISO)

    assert (twice != once).any()
    assert neighbourhood(twice, 1.5, ISO) > neighbourhood(once, 1.5, ISO)


def test_near_a_click_the_surface_stays_and_far_from_it_not():
    mask = np.zeros((30, 30, 30), dtype=bool)
    mask[5:25, 5:25, 5:25] = True
    after = smoothed(mask, 1.5, ISO, inside_kji=[(5, 5, 5)])

    assert after[5:7, 5:7, 5:7].all()
    assert not after[24, 24, 24]
    assert after.sum() == mask.sum()


@pytest.mark.parametrize("sigma_mm", [0, 0.0])
def test_no_smoothing_changes_nothing(sigma_mm):
    mask = np.random.default_rng(1).random((9, 9, 9)) < 0.4

    np.testing.assert_array_equal(smoothed(mask, sigma_mm, ISO), mask)
    assert not smoothed(np.zeros((3, 4, 5), dtype=bool), 2, ISO).any()


@pytest.mark.parametrize("sigma_mm", [-1, np.nan, np.inf, "1"])
def test_a_smoothing_that_is_no_length_is_refused(sigma_mm):
    with pytest.raises(InvalidInput, match="sigma_mm"):
        smoothed(np.ones((2, 2, 2), dtype=bool), sigma_mm, ISO)


def test_a_smoothing_wider_than_the_image_costs_no_more_than_the_image():
    mask = ball((40, 40, 40), (20, 20, 20), 12)
    started = time.process_time()
    after = smoothed(mask, 100, (0.1, 0.1, 0.1))

    assert time.process_time() - started < 5
    assert after.sum() == mask.sum()
