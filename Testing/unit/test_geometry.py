from __future__ import annotations

import itertools

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nibabel.affines import apply_affine, voxel_sizes
from scipy.spatial.transform import Rotation

from protosam.errors import GeometryError, InvalidInput, InvalidPrompt
from protosam.geometry import (
    Extent,
    Volume,
    affine_of_extent,
    anatomical_axis,
    checked_affine,
    flip_ras_lps,
    kji_to_ras,
    nearest_voxel,
    ras_to_kji,
    spacing_kji_mm,
    volume_uid,
)

SPACING_IJK_MM = (0.7, 1.3, 4.0)
ORIENTATIONS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
OBLIQUE = Rotation.from_euler("xyz", (11, -17, 23), degrees=True).as_matrix()
SHAPE_KJI = (5, 6, 7)


def affine_of(order, signs, turn) -> np.ndarray:
    """Index axis n runs along world axis order[n] in direction signs[n], then all is turned."""
    matrix = np.zeros((3, 3))
    for n in range(3):
        matrix[order[n], n] = signs[n] * SPACING_IJK_MM[n]
    affine = np.eye(4)
    affine[:3, :3] = turn @ matrix
    affine[:3, 3] = (12.5, -40.0, 7.25)
    return affine


angles = st.floats(-180, 180)
affines = st.builds(
    lambda orientation, xyz, spacing, origin: nibabel.affines.from_matvec(
        Rotation.from_euler("xyz", xyz, degrees=True).as_matrix()
        @ affine_of(*orientation, np.eye(3))[:3, :3]
        @ np.diag(spacing),
        origin,
    ),
    st.sampled_from(ORIENTATIONS),
    st.tuples(angles, angles, angles),
    st.tuples(*[st.floats(0.05, 20)] * 3),
    st.tuples(*[st.floats(-1000, 1000)] * 3),
)
points = hnp.arrays(
    np.float64, st.tuples(st.integers(0, 6), st.just(3)), elements=st.floats(-500, 500)
)


@pytest.mark.parametrize("turn", [np.eye(3), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_a_click_at_a_known_world_point_lands_in_its_voxel(order, signs, turn):
    affine = affine_of(order, signs, turn)
    rng = np.random.default_rng(0)
    for k, j, i in itertools.product((0, 2, 4), (0, 3, 5), (0, 3, 6)):
        offset = rng.uniform(-0.49, 0.49, 3)
        world = affine[:3, 3] + sum(
            affine[:3, n] * (index + offset[n]) for n, index in enumerate((i, j, k))
        )

        assert nearest_voxel(affine, world, SHAPE_KJI) == (k, j, i)


@given(affines, points)
def test_world_to_index_undoes_index_to_world(affine, points_kji):
    back = ras_to_kji(affine, kji_to_ras(affine, points_kji))

    assert back.shape == points_kji.shape
    np.testing.assert_allclose(back, points_kji, atol=1e-6)


@given(affines, points)
def test_index_to_world_equals_nibabel(affine, points_kji):
    expected = apply_affine(affine, points_kji[:, ::-1])

    np.testing.assert_allclose(kji_to_ras(affine, points_kji), expected, atol=1e-8)


@given(affines)
def test_spacing_equals_nibabel_in_array_order(affine):
    np.testing.assert_allclose(spacing_kji_mm(affine), voxel_sizes(affine)[::-1])


def test_points_without_three_coordinates_are_refused():
    with pytest.raises(InvalidInput, match="three coordinates"):
        kji_to_ras(np.eye(4), [[1.0, 2.0]])


@pytest.mark.parametrize(
    "point_kji", [(-0.51, 0, 0), (0, 5.51, 0), (0, 0, 6.6), (1e9, 0, 0), (0, -1, 0)]
)
def test_a_click_outside_of_the_image_is_refused_with_its_place_and_the_shape(point_kji):
    affine = affine_of((1, 2, 0), (1, -1, 1), OBLIQUE)
    with pytest.raises(InvalidPrompt, match=r"outside of the image.*\(5, 6, 7\)"):
        nearest_voxel(affine, kji_to_ras(affine, point_kji), SHAPE_KJI)


@pytest.mark.parametrize("point", [(np.nan, 0, 0), (0, np.inf, 0)])
def test_a_click_that_is_not_finite_is_refused(point):
    with pytest.raises(InvalidPrompt, match="three finite numbers"):
        nearest_voxel(np.eye(4), point, SHAPE_KJI)


@pytest.mark.parametrize("turn", [np.eye(3), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_the_three_array_axes_get_the_names_of_the_nearest_patient_axes(order, signs, turn):
    names = ("sagittal", "coronal", "axial")
    affine = affine_of(order, signs, turn)

    assert [anatomical_axis(affine, axis) for axis in range(3)] == [
        names[order[2 - axis]] for axis in range(3)
    ]


def test_axes_turned_by_45_degrees_still_get_three_different_names():
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (45, 45, 45), degrees=True).as_matrix()

    assert {anatomical_axis(affine, axis) for axis in range(3)} == {"sagittal", "coronal", "axial"}


def test_an_array_axis_that_does_not_exist_is_refused():
    with pytest.raises(InvalidInput, match="no array axis 3"):
        anatomical_axis(np.eye(4), 3)


def sheared(degrees: float) -> np.ndarray:
    affine = np.eye(4)
    affine[1, 2] = np.tan(np.radians(degrees))
    return affine


@pytest.mark.parametrize(
    ("affine", "reason"),
    [
        (np.eye(3), r"shape \(3, 3\)"),
        (np.diag([1, np.nan, 1, 1]), "NaN"),
        (np.diag([1, np.inf, 1, 1]), "infinite"),
        (np.diag([1, 1, 1, 2]), "last row"),
        (np.diag([1.0, 0, 1, 1]), "singular: the spacing along j is 0 mm"),
        (np.diag([1.0, 1, 1e-9, 1]), "singular: the spacing along k is 1e-09 mm"),
        ([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]], "singular: two of its axes"),
        (sheared(18.5), "18.5 degrees away from right angles"),
        ("no affine", "not an array of numbers"),
    ],
)
def test_an_affine_that_cannot_be_trusted_is_refused_with_its_numbers(affine, reason):
    with pytest.raises(GeometryError, match=reason) as caught:
        checked_affine(affine)

    assert caught.value.next_step


def test_a_shear_within_the_rounding_of_headers_is_accepted():
    np.testing.assert_array_equal(checked_affine(sheared(0.5)), sheared(0.5))


@given(affines)
def test_every_rectangular_grid_is_accepted(affine):
    np.testing.assert_array_equal(checked_affine(affine), affine)


@given(affines)
def test_flipping_between_ras_and_lps_twice_changes_nothing(affine):
    np.testing.assert_array_equal(flip_ras_lps(flip_ras_lps(affine)), affine)
    np.testing.assert_array_equal(flip_ras_lps(affine)[:2], -affine[:2])


@given(affines)
def test_a_crop_lies_where_it_lay_in_the_whole(affine):
    extent = Extent((2, 3, 4), (5, 6, 7))
    inside = np.array([[1.0, 2.0, 0.0]])

    np.testing.assert_allclose(
        kji_to_ras(affine_of_extent(affine, extent), inside),
        kji_to_ras(affine, inside + extent.start_kji),
        atol=1e-9,
    )


def test_a_volume_knows_its_shape_and_spacing(a_volume):
    assert a_volume.shape_kji == (9, 12, 14)
    np.testing.assert_allclose(a_volume.spacing_kji_mm, (2.5, 1.1, 0.8))


@pytest.mark.parametrize(
    ("voxels", "reason"),
    [
        (np.zeros((4, 4)), "2 axes"),
        (np.zeros((2, 4, 4, 3)), r"4 axes \(2, 4, 4, 3\)"),
        (np.zeros((0, 4, 4)), "no voxel"),
        (np.zeros((2, 2, 2), dtype=complex), "complex128"),
        (np.zeros((2, 2, 2), dtype=object), "object"),
        (np.zeros((2, 2, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]), "wanted an array"),
        ([[[1.0]]], "list"),
        (np.array([[[0, np.nan, np.inf, -np.inf, 1]]]), "3 of 5 voxels are NaN or infinite"),
    ],
)
def test_voxels_that_are_no_scalar_volume_are_refused(voxels, reason):
    with pytest.raises(InvalidInput, match=reason) as caught:
        Volume(voxels, np.eye(4))

    assert caught.value.next_step


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i8", "f2", "f4", "f8", ">i2", ">f4"])
def test_every_plain_real_dtype_is_accepted_in_native_byte_order(dtype):
    voxels = np.arange(24).reshape(2, 3, 4).astype(dtype)
    volume = Volume(voxels, np.eye(4))

    np.testing.assert_array_equal(volume.voxels, voxels)
    assert volume.voxels.dtype.isnative


def test_one_slice_and_constant_volumes_are_legal():
    assert Volume(np.full((1, 5, 4), 3.0), np.eye(4)).shape_kji == (1, 5, 4)


def test_the_voxels_of_a_volume_cannot_be_written_but_are_not_copied():
    voxels = np.zeros((2, 3, 4), dtype=np.int16)
    volume = Volume(voxels, np.eye(4))

    assert np.shares_memory(volume.voxels, voxels)
    with pytest.raises(ValueError, match="read-only"):
        volume.voxels[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        volume.affine[0, 0] = 2


def test_a_given_uid_is_kept_and_a_missing_one_is_the_digest_of_the_content(a_volume):
    assert Volume(a_volume.voxels, a_volume.affine, "mine").uid == "mine"
    assert a_volume.uid == volume_uid(a_volume.voxels, a_volume.affine)
    assert len(a_volume.uid) == 32


def test_the_uid_does_not_depend_on_memory_layout_or_byte_order(a_volume):
    uid = volume_uid(a_volume.voxels, a_volume.affine)

    assert volume_uid(np.asfortranarray(a_volume.voxels), a_volume.affine) == uid
    assert volume_uid(a_volume.voxels.astype(">i2"), a_volume.affine) == uid
    assert volume_uid(a_volume.voxels, flip_ras_lps(flip_ras_lps(a_volume.affine))) == uid


def test_the_uid_changes_with_any_voxel_place_shape_or_type(a_volume):
    changed = a_volume.voxels.copy()
    changed[3, 4, 5] += 1
    moved = a_volume.affine.copy()
    moved[0, 3] += 1e-9
    flat = a_volume.voxels.reshape(1, 9 * 12, 14)
    contents = [
        (a_volume.voxels, a_volume.affine),
        (changed, a_volume.affine),
        (a_volume.voxels, moved),
        (flat, a_volume.affine),
        (a_volume.voxels.view(np.uint16), a_volume.affine),
    ]

    assert len({volume_uid(*content) for content in contents}) == len(contents)
