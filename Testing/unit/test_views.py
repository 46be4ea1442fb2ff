"""Several views of one object and their mean."""

from __future__ import annotations

import numpy as np
import pytest

from protosam.extents import Extent
from protosam.geometry import Volume
from protosam.intensity import Window
from protosam.models.planes import Patch, Planes, Rect
from protosam.models.slice_solver import SolvedSlice
from protosam.models.views import (
    MAX_SLICES,
    MAX_STRIDE,
    SURE,
    Field,
    View,
    field_of,
    further_views,
    fused,
)


def volume_of(shape_kji: tuple[int, int, int], spacing_ijk: tuple[float, float, float]) -> Volume:
    voxels = np.zeros(shape_kji, dtype=np.float32)
    voxels[0, 0, 0] = 1
    return Volume(voxels, np.diag([*spacing_ijk, 1.0]), "a volume")


def solved(rect: Rect, logit: float) -> SolvedSlice:
    return SolvedSlice(Patch(rect, np.full(rect.shape, logit, dtype=np.float32)), 1.0, 1.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_field_lies_where_its_slices_lie(axis: int) -> None:
    planes = Planes(volume_of((9, 10, 11), (1, 1, 1)), axis, Window(0, 1))
    field = field_of(planes, {3: solved(Rect(2, 5, 1, 7), 2.0)}, View(axis))
    whole = np.zeros((9, 10, 11))
    whole[field.extent.slices] = field.logits
    expected = np.zeros((9, 10, 11))
    np.moveaxis(expected, axis, 0)[3, 2:5, 1:7] = 2.0

    np.testing.assert_array_equal(whole, expected)


def test_slices_left_out_by_a_stride_are_interpolated_and_wider_gaps_are_not() -> None:
    planes = Planes(volume_of((9, 10, 11), (1, 1, 1)), 0, Window(0, 1))
    rect = Rect(0, 2, 0, 2)
    slices = {1: solved(rect, 0.0), 3: solved(rect, 2.0), 7: solved(rect, 2.0)}
    field = field_of(planes, slices, View(0, stride=2))

    assert field.logits[:, 0, 0].tolist() == [0.0, 1.0, 2.0, -SURE, -SURE, -SURE, 2.0]


def test_no_view_outvotes_the_others_by_being_sure() -> None:
    planes = Planes(volume_of((9, 10, 11), (1, 1, 1)), 0, Window(0, 1))
    loud = field_of(planes, {2: solved(Rect(0, 2, 0, 2), 50.0)}, View(0))

    assert loud.logits.max() == SURE


def test_the_mean_follows_the_majority() -> None:
    one = Field(Extent((0, 0, 0), (1, 1, 2)), np.array([[[2.0, 2.0]]], dtype=np.float32))
    two = Field(Extent((0, 0, 1), (1, 1, 3)), np.array([[[2.0, 2.0]]], dtype=np.float32))
    three = Field(Extent((0, 0, 1), (1, 1, 2)), np.array([[[2.0]]], dtype=np.float32))
    whole = fused([one, two, three])

    assert whole.extent == Extent((0, 0, 0), (1, 1, 3))
    assert (whole.logits > 0).tolist() == [[[False, True, False]]]


def test_a_single_view_is_left_as_it_is() -> None:
    only = Field(Extent((0, 0, 0), (1, 1, 1)), np.ones((1, 1, 1), dtype=np.float32))

    assert fused([only]) is only


def test_cubic_voxels_are_looked_at_along_all_axes_at_nearly_full_weight() -> None:
    views = further_views(volume_of((60, 70, 80), (1, 1, 1)), 0, Extent((0, 0, 0), (20, 30, 30)))

    assert [(v.axis, v.stride) for v in views] == [(1, 1), (2, 1)]
    assert all(0.5 < v.weight < 1 for v in views)


def test_coarser_views_count_less() -> None:
    thick = volume_of((60, 70, 80), (1, 1, 3))
    views = further_views(thick, 0, Extent((0, 0, 0), (20, 30, 30)))

    assert {v.axis: round(v.weight, 2) for v in views} == {1: 0.3, 2: 0.3}


def test_pictures_across_few_or_very_thick_slices_are_not_looked_at() -> None:
    assert further_views(volume_of((10, 90, 90), (1, 1, 1)), 0, Extent((0, 0, 0), (9, 9, 9))) == []
    assert further_views(volume_of((60, 90, 90), (1, 1, 8)), 0, Extent((0, 0, 0), (9, 9, 9))) == []


def test_large_objects_are_looked_at_in_strides() -> None:
    big = volume_of((60, 400, 400), (1, 1, 1))
    found = Extent((0, 0, 0), (20, 3 * MAX_SLICES, 9 * MAX_SLICES - 40))
    views = further_views(big, 0, found)

    assert [v.stride for v in views] == [3, MAX_STRIDE]
