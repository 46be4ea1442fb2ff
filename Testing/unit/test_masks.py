from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.spatial.distance import cdist

import protosam.morphology
from protosam.errors import InvalidInput, InvalidPrompt
from protosam.masks import (
    CleanUp,
    clean_up,
    closed,
    dilated,
    eroded,
    filled,
    largest_component,
    opened,
)
from protosam.prompts import Point

masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7))
radii = st.sampled_from([0.0, 0.5, 0.8, 1.0, 1.7, 2.0, 3.3])
spacings = st.tuples(*[st.sampled_from([0.5, 0.8, 1.0, 2.5])] * 3)
ISO = (1.0, 1.0, 1.0)


def distance_mm(shape, mask, spacing) -> np.ndarray:
    """Distance of each voxel to the nearest one of the mask, by comparing all pairs."""
    places = np.argwhere(np.ones(shape)) * spacing
    if not mask.any():
        return np.full(shape, np.inf)
    return cdist(places, np.argwhere(mask) * spacing).min(axis=1).reshape(shape)


def reached(radius_mm) -> float:
    return radius_mm * (1 + 1e-6)


@given(masks, radii, spacings)
def test_growing_takes_every_voxel_within_the_radius(mask, radius_mm, spacing):
    expected = distance_mm(mask.shape, mask, spacing) <= reached(radius_mm)

    np.testing.assert_array_equal(dilated(mask, radius_mm, spacing), expected)


@given(masks, radii, spacings)
def test_shrinking_keeps_every_voxel_beyond_the_radius_from_background(mask, radius_mm, spacing):
    expected = distance_mm(mask.shape, ~mask, spacing) > reached(radius_mm)

    np.testing.assert_array_equal(eroded(mask, radius_mm, spacing), expected & mask)


@given(masks, radii, spacings)
def test_offsets_and_distance_transform_give_the_same(mask, radius_mm, spacing):
    results = []
    for limit in (0, 10**9):
        with mock.patch.object(protosam.morphology, "MAX_OFFSETS", limit):
            results.append([f(mask, radius_mm, spacing) for f in (dilated, eroded)])

    np.testing.assert_array_equal(*results)


@given(masks, radii, spacings)
def test_closing_is_done_with_room_beyond_the_edge(mask, radius_mm, spacing):
    reach = [int(radius_mm / step) + 1 for step in spacing]
    margin = [(0, 0) if size == 1 else (n, n) for n, size in zip(reach, mask.shape, strict=True)]
    wide = np.pad(mask, margin)
    shut = eroded(dilated(wide, radius_mm, spacing), radius_mm, spacing)

    np.testing.assert_array_equal(np.pad(closed(mask, radius_mm, spacing), margin), shut)


@given(masks, radii, spacings)
def test_erosion_and_opening_lie_in_the_mask_and_the_mask_in_closing_and_dilation(
    mask, radius_mm, spacing
):
    smaller, thinner = eroded(mask, radius_mm, spacing), opened(mask, radius_mm, spacing)
    shut, larger = closed(mask, radius_mm, spacing), dilated(mask, radius_mm, spacing)

    assert not (smaller & ~thinner).any()
    assert not (thinner & ~mask).any()
    assert not (mask & ~shut).any()
    assert not (shut & ~larger).any()


@given(masks, radii, spacings)
def test_opening_and_closing_twice_is_the_same_as_once(mask, radius_mm, spacing):
    thinner, shut = opened(mask, radius_mm, spacing), closed(mask, radius_mm, spacing)

    np.testing.assert_array_equal(opened(thinner, radius_mm, spacing), thinner)
    np.testing.assert_array_equal(closed(shut, radius_mm, spacing), shut)


def test_an_object_is_not_eroded_from_the_edge_of_the_array():
    mask = np.zeros((5, 5, 5), dtype=bool)
    mask[:3] = True

    np.testing.assert_array_equal(np.flatnonzero(eroded(mask, 1, ISO)[:, 2, 2]), [0, 1])


def test_closing_does_not_bridge_to_the_edge_of_the_array():
    mask = np.zeros((5, 9, 9), dtype=bool)
    mask[1:4, 1:6, 1:6] = True

    np.testing.assert_array_equal(closed(mask, 1, ISO), mask)


def test_a_mask_that_fills_the_array_is_neither_eroded_nor_measured_to_a_place_that_is_not_there():
    mask = np.ones((3, 4, 5), dtype=bool)

    assert eroded(mask, 100, ISO).all()
    assert dilated(mask, 1, ISO).all()


def test_an_empty_mask_stays_empty():
    empty = np.zeros((3, 4, 5), dtype=bool)

    for change in (dilated, eroded, opened, closed):
        assert not change(empty, 2, ISO).any()
    assert not filled(empty).any()
    assert not largest_component(empty).any()


def test_a_radius_is_in_millimetres_along_every_axis():
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[4, 4, 4] = True
    grown = dilated(mask, 3.0, (3.0, 1.5, 1.0))

    assert [np.flatnonzero(grown.any(axis=a)).size for a in ((1, 2), (0, 2), (0, 1))] == [3, 5, 7]


@pytest.mark.parametrize("radius", [-1, np.nan, np.inf, "2", True])
def test_a_radius_that_is_no_length_is_refused(radius):
    with pytest.raises(InvalidInput, match="radius_mm"):
        dilated(np.ones((2, 2, 2), dtype=bool), radius, ISO)
    with pytest.raises(InvalidInput, match="closing_mm"):
        CleanUp(closing_mm=radius)


@given(masks)
def test_filling_equals_scipy_inside_of_a_background_frame(mask):
    framed = np.pad(mask, 1)

    np.testing.assert_array_equal(filled(framed), ndimage.binary_fill_holes(framed))


@given(masks)
def test_filling_adds_only_and_is_done_once(mask):
    once = filled(mask)

    assert not (mask & ~once).any()
    np.testing.assert_array_equal(filled(once), once)


def test_a_cavity_that_is_open_to_the_edge_of_the_array_is_not_a_hole():
    mask = np.ones((5, 5, 5), dtype=bool)
    mask[:3, 2, 2] = False

    np.testing.assert_array_equal(filled(mask), mask)


def test_holes_of_a_2d_image_are_filled_in_2d():
    mask = np.ones((1, 5, 5), dtype=bool)
    mask[0, 2, 2] = False

    assert filled(mask).all()


def test_the_largest_component_hangs_together_over_corners():
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 0] = True

    assert np.argwhere(largest_component(mask)).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_the_given_mask_is_left_alone():
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[1:3, 1:3, 1:3] = True
    before = mask.copy()
    clean_up(mask, [point((0, 0, 0))], ISO, CleanUp(closing_mm=2, opening_mm=1))

    np.testing.assert_array_equal(mask, before)


def point(place, positive=True) -> Point:
    return Point(place, positive, f"{place}{positive}")


def two_blocks() -> np.ndarray:
    mask = np.zeros((8, 8, 12), dtype=bool)
    mask[1:4, 1:4, 1:4] = True
    mask[1:7, 1:7, 6:11] = True
    return mask


def test_islands_without_a_positive_click_go():
    cleaned = clean_up(two_blocks(), [point((2, 2, 2))], ISO, CleanUp())

    assert np.argwhere(cleaned).max(axis=0).tolist() == [3, 3, 3]


def test_every_clicked_component_stays():
    clicks = [point((2, 2, 2)), point((2, 2, 8))]

    np.testing.assert_array_equal(clean_up(two_blocks(), clicks, ISO, CleanUp()), two_blocks())


@pytest.mark.parametrize("clicks", [[], [point((7, 7, 0), positive=False)]])
def test_the_largest_component_stays_where_no_component_is_clicked(clicks):
    cleaned = clean_up(two_blocks(), clicks, ISO, CleanUp())

    assert cleaned.sum() == 6 * 6 * 5


def test_a_click_that_the_model_did_not_follow_does_not_cost_the_answer():
    cleaned = clean_up(two_blocks(), [point((7, 7, 0))], ISO, CleanUp())

    assert cleaned[7, 7, 0]
    assert cleaned.sum() == 6 * 6 * 5 + 1


def test_islands_stay_when_that_is_switched_off():
    cleaned = clean_up(two_blocks(), [point((2, 2, 2))], ISO, CleanUp(remove_islands=False))

    np.testing.assert_array_equal(cleaned, two_blocks())


def hollow() -> np.ndarray:
    mask = np.zeros((7, 7, 7), dtype=bool)
    mask[1:6, 1:6, 1:6] = True
    mask[3, 3, 3] = False
    return mask


def test_a_hole_is_filled_but_not_one_with_a_negative_click():
    assert clean_up(hollow(), [], ISO, CleanUp())[3, 3, 3]
    assert not clean_up(hollow(), [], ISO, CleanUp(fill_holes=False))[3, 3, 3]
    assert not clean_up(hollow(), [point((3, 3, 3), positive=False)], ISO, CleanUp())[3, 3, 3]


def test_a_negative_click_inside_of_the_answer_is_obeyed():
    mask = np.ones((5, 5, 5), dtype=bool)
    cleaned = clean_up(mask, [point((2, 2, 2), positive=False)], ISO, CleanUp(closing_mm=3))

    assert not cleaned[2, 2, 2]
    assert cleaned.sum() == 124


def test_opening_cuts_a_leak_off_and_the_leak_is_dropped():
    mask = np.zeros((9, 9, 20), dtype=bool)
    mask[2:7, 2:7, 1:6] = True
    mask[4, 4, 6:13] = True
    mask[2:7, 2:7, 13:18] = True
    cleaned = clean_up(mask, [point((4, 4, 3))], ISO, CleanUp(opening_mm=1))

    assert cleaned[4, 4, 3]
    assert not cleaned[:, :, 8:].any()


def test_opening_leaves_a_thin_part_that_is_clicked():
    mask = np.zeros((9, 9, 20), dtype=bool)
    mask[2:7, 2:7, 1:6] = True
    mask[4, 4, 6:18] = True
    clicks = [point((4, 4, 3)), point((4, 4, 15))]
    cleaned = clean_up(mask, clicks, ISO, CleanUp(opening_mm=1))

    assert cleaned[4, 4, 6:18].all()


def test_closing_shuts_a_gap_but_not_over_a_negative_click():
    mask = np.zeros((7, 7, 11), dtype=bool)
    mask[1:6, 1:6, 1:5] = mask[1:6, 1:6, 6:10] = True
    clicks = [point((3, 3, 3)), point((3, 3, 8))]
    settings = CleanUp(closing_mm=2)

    assert clean_up(mask, clicks, ISO, settings)[3, 3, 5]
    refused = clean_up(mask, [*clicks, point((3, 3, 5), positive=False)], ISO, settings)
    np.testing.assert_array_equal(refused, mask)


def test_closing_reaches_beyond_the_bounding_box_without_being_cut_off():
    mask = np.zeros((12, 12, 12), dtype=bool)
    mask[5, 5, 4] = mask[5, 5, 7] = True
    settings = CleanUp(remove_islands=False, closing_mm=2)

    np.testing.assert_array_equal(clean_up(mask, [], ISO, settings), closed(mask, 2, ISO))


def test_of_two_clicks_into_one_voxel_the_later_one_counts():
    mask = np.zeros((3, 3, 3), dtype=bool)
    clicks = [Point((1, 1, 1), True, "a"), Point((1.2, 1, 1), False, "b")]

    assert not clean_up(mask, clicks, ISO, CleanUp()).any()
    assert clean_up(mask, clicks[::-1], ISO, CleanUp())[1, 1, 1]


def test_a_click_outside_of_the_mask_is_refused():
    with pytest.raises(InvalidPrompt, match="outside of the mask"):
        clean_up(np.zeros((2, 2, 2), dtype=bool), [point((2, 0, 0))], ISO, CleanUp())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_in_one_slice_holes_islands_and_closing_are_two_dimensional(axis):
    flat = np.zeros((9, 9), dtype=bool)
    flat[1:6, 1:6] = True
    flat[3, 3] = False
    flat[8, 8] = True
    mask = np.zeros((5, 9, 9), dtype=bool)
    mask[2] = flat
    click = np.insert([2, 2], axis, 2).tolist()
    cleaned = clean_up(
        np.moveaxis(mask, 0, axis), [point(tuple(click))], ISO, CleanUp(closing_mm=1), axis=axis
    )
    cleaned = np.moveaxis(cleaned, axis, 0)

    assert cleaned[2, 1:6, 1:6].all()
    assert cleaned.sum() == 25


def test_in_slices_each_slice_keeps_its_own_largest_component():
    mask = np.zeros((3, 6, 6), dtype=bool)
    mask[0, 1:3, 1:3] = mask[2, 3:6, 3:6] = True
    mask[2, 0, 0] = True
    cleaned = clean_up(mask, [point((0, 1, 1))], ISO, CleanUp(), axis=0)

    assert cleaned[0].sum() == 4
    assert cleaned[2].sum() == 9
