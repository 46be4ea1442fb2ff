from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protosam.errors import InvalidInput
from protosam.extents import Extent, bounding_extent, pack_bits, unpack_bits

indices = st.tuples(*[st.integers(-5, 9)] * 3)
extents = st.builds(
    lambda start, size: Extent(start, tuple(a + n for a, n in zip(start, size, strict=True))),
    indices,
    st.tuples(*[st.integers(0, 6)] * 3),
)
masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7))


def voxels_of(extent: Extent) -> set[tuple[int, ...]]:
    ranges = (range(a, b) for a, b in zip(extent.start_kji, extent.stop_kji, strict=True))
    grid = np.stack(np.meshgrid(*map(list, ranges), indexing="ij"), axis=-1)
    return set(map(tuple, grid.reshape(-1, 3).tolist()))


@given(extents, extents)
def test_an_intersection_holds_the_voxels_of_both(one, other):
    assert voxels_of(one.intersection(other)) == voxels_of(one) & voxels_of(other)


@given(extents, extents)
def test_a_union_is_the_smallest_box_around_both(one, other):
    both = voxels_of(one) | voxels_of(other)
    union = one.union(other)

    assert both <= voxels_of(union)
    if both:
        assert union.start_kji == tuple(np.min(list(both), axis=0))
        assert union.stop_kji == tuple(np.max(list(both), axis=0) + 1)


@given(extents, st.tuples(*[st.integers(1, 8)] * 3))
def test_a_clipped_extent_holds_the_voxels_inside_of_the_array(extent, shape):
    inside = {
        v for v in voxels_of(extent) if all(0 <= n < m for n, m in zip(v, shape, strict=True))
    }

    assert voxels_of(extent.clip(shape)) == inside
    assert extent.clip(shape).is_empty == (not inside)
    assert np.zeros(shape)[extent.clip(shape).slices].size == len(inside)


@given(extents, indices)
def test_an_extent_holds_exactly_its_voxels(extent, index):
    assert extent.holds(index) == (index in voxels_of(extent))


def test_a_margin_is_added_on_both_sides_of_each_axis():
    assert Extent((2, 3, 4), (5, 6, 7)).pad((1, 0, 2)) == Extent((1, 3, 2), (6, 6, 9))
    assert Extent((2, 3, 4), (5, 6, 7)).pad(1).shape_kji == (5, 5, 5)


def test_an_extent_that_ends_before_it_starts_is_refused():
    with pytest.raises(InvalidInput, match="ends before it starts"):
        Extent((0, 4, 0), (5, 3, 5))


@pytest.mark.parametrize("start", [(0, 0), (0.5, 0, 0), "abc", None, (0, 0, 0, 0)])
def test_an_extent_of_other_than_three_whole_numbers_is_refused(start):
    with pytest.raises(InvalidInput, match="three whole numbers"):
        Extent(start, (5, 5, 5))


def test_an_extent_outside_of_an_array_is_not_used_as_an_index():
    with pytest.raises(InvalidInput, match="outside of the array"):
        _ = Extent((-1, 0, 0), (5, 5, 5)).slices


def test_an_extent_takes_numpy_integers_and_compares_by_value():
    assert Extent(np.array([1, 2, 3]), np.array([4, 5, 6])) == Extent((1, 2, 3), (4, 5, 6))
    assert Extent.of_shape((2, 3, 4)) == Extent((0, 0, 0), (2, 3, 4))


@given(masks)
def test_the_bounding_extent_is_tight(mask):
    extent = bounding_extent(mask)
    if extent is None:
        assert not mask.any()
    else:
        found = np.argwhere(mask)
        assert extent.start_kji == tuple(found.min(axis=0))
        assert extent.stop_kji == tuple(found.max(axis=0) + 1)


@given(masks)
def test_unpacking_undoes_packing(mask):
    bits = pack_bits(mask)
    back = unpack_bits(bits, mask.shape)

    assert len(bits) == -(-mask.size // 8)
    np.testing.assert_array_equal(back, mask)
    assert back.flags.writeable
    assert pack_bits(back) == bits


def test_bits_lie_in_c_order_with_the_first_voxel_highest():
    mask = np.zeros((1, 2, 5), dtype=bool)
    mask[0, 0, 1] = mask[0, 1, 4] = True

    assert pack_bits(mask) == bytes([0b01000000, 0b01000000])


def test_packing_takes_a_crop_that_is_not_contiguous():
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[1, 2, 2] = True
    crop = mask[1:3, 1:3, 1:3]

    np.testing.assert_array_equal(unpack_bits(pack_bits(crop), crop.shape), crop)


@pytest.mark.parametrize(
    ("bits", "reason"),
    [(b"", "takes 2 bytes, 0 were given"), (b"123", "3 were given"), (b"\x00\x01", "not 0")],
)
def test_bits_that_do_not_fit_the_shape_are_refused(bits, reason):
    with pytest.raises(InvalidInput, match=reason):
        unpack_bits(bits, (1, 2, 5))
