"""Masks land on the right voxels of the segmentation, whatever grid it has."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from protosam.extents import Extent
from protosam.geometry import kji_to_ras, ras_to_kji
from protosam.scene.grids import GridMap, upright
from protosam.scene.records import Patch

SHEAR = np.array([[1, 0.3, 0, 4], [0, 1, -0.2, 2], [0.1, 0, 1, -3], [0, 0, 0, 1.0]])
TURN = np.eye(4)
TURN[:3, :3] = Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix()
TURN[:3, 3] = (10, -4, 6)


def nearest(mask, source_to_world, target_to_world, shape):
    """The slow way: each voxel of the target asks its own place."""
    index = np.argwhere(np.ones(shape, bool))
    there = ras_to_kji(source_to_world, kji_to_ras(target_to_world, index))
    there = np.floor(there + 0.5).astype(int)
    inside = ((there >= 0) & (there < mask.shape)).all(axis=1)
    out = np.zeros(shape, bool)
    out[tuple(index[inside].T)] = mask[tuple(there[inside].T)]
    return out


@pytest.mark.parametrize("parent", [np.eye(4), SHEAR, TURN], ids=["none", "shear", "turn"])
@pytest.mark.parametrize("zoom", [1, 2], ids=["same", "oversampled"])
@pytest.mark.parametrize("moved", [False, True], ids=["still", "moved segmentation"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)], ids=["ijk", "kij"])
def test_an_answer_is_drawn_where_it_lies_in_the_world(desks, drawn, parent, zoom, moved, order):
    desk = desks(segments=())
    scene, mrml = desk.scene, desk.scene.mrml
    own = np.diag([1.0, 1.3, 2.0, 1.0])
    volume = scene.add_volume(desk.voxels, own)
    volume.SetAndObserveTransformNodeID(scene.add_transform(parent).GetID())
    # The segmentation's grid: other axes, other steps, another beginning, a transform of its own.
    sides = np.array(desk.voxels.shape[::-1])[list(order)] * zoom
    grid = (own @ np.diag([1 / zoom, 1 / zoom, 1 / zoom, 1.0]))[:, [*order, 3]]
    if zoom > 1:
        grid[:3, 3] += (own @ [-0.25, -0.25, -0.25, 0])[:3]
    segmentation = scene.add_segmentation(volume, "a")
    over = SHEAR if moved else np.eye(4)
    if moved:
        segmentation.SetAndObserveTransformNodeID(scene.add_transform(over).GetID())
    image, to_world = mrml.vtkOrientedImageData(), np.linalg.inv(over) @ parent @ grid
    image.SetImageToWorldMatrix(vtk_matrix(to_world))
    image.SetExtent(3, 2 + int(sides[0]), -2, int(sides[1]) - 3, 0, int(sides[2]) - 1)
    converter = mrml.vtkSegmentationConverter
    segmentation.GetSegmentation().SetConversionParameter(
        converter.GetReferenceImageGeometryParameterName(),
        converter.SerializeImageGeometry(image),
    )
    desk.controller.refresh()
    place = (6, 8, 9)
    ras = kji_to_ras(parent @ own, place)
    assert desk.controller.click_world(ras)
    desk.settle()
    (point,) = desk.client.asked[-1].prompts.points
    np.testing.assert_allclose(point.point_kji, place, atol=1e-9)

    answer = drawn(desk.voxels.shape, desk.client.asked[-1].prompts)
    first = np.eye(4)
    first[:3, 3] = (3, -2, 0)
    shape = tuple(int(n) for n in sides[::-1])
    expected = nearest(answer, parent @ own, over @ to_world @ first, shape)
    np.testing.assert_array_equal(scene.mask("a"), expected)
    assert expected.any()
    assert desk.told.messages == []


def vtk_matrix(array):
    from vtkmodules.vtkCommonMath import vtkMatrix4x4

    made = vtkMatrix4x4()
    made.DeepCopy(array.ravel().tolist())
    return made


@pytest.mark.parametrize(
    "mode", ["EditAllowedInsideSingleSegment", "EditAllowedOutsideAllSegments"]
)
def test_masks_hold_on_another_grid_too(desks, mode):
    desk = desks()
    mrml, segmentation = desk.scene.mrml, desk.scene.segmentation
    converter = mrml.vtkSegmentationConverter
    image = mrml.vtkOrientedImageData()
    half = np.diag([0.5, 0.5, 0.5, 1.0])
    half[:3, 3] = -0.25
    image.SetImageToWorldMatrix(vtk_matrix(desk.affine @ half))
    image.SetExtent(0, 35, 0, 31, 0, 27)
    segmentation.GetSegmentation().SetConversionParameter(
        converter.GetReferenceImageGeometryParameterName(),
        converter.SerializeImageGeometry(image),
    )
    block = np.zeros((28, 32, 36), bool)
    block[8:20, 10:22, 19:30] = True
    desk.scene.paint("b", block, undo=False)
    desk.scene.editor.SetMaskMode(getattr(mrml.vtkMRMLSegmentationNode, mode))
    desk.scene.editor.SetMaskSegmentID("b")
    desk.scene.editor.SetSourceVolumeIntensityMask(True)
    desk.scene.editor.SetSourceVolumeIntensityMaskRange(10, 90)
    desk.click((7, 8, 9))
    mask = desk.scene.mask("a")
    assert mask.any()
    assert not mask[~block if "Inside" in mode else block].any()


@settings(max_examples=40, deadline=None)
@given(
    mask=arrays(bool, (3, 4, 5)),
    start=st.tuples(*(st.integers(0, 3) for _ in range(3))),
    numbers=st.lists(st.floats(-0.4, 0.4), min_size=12, max_size=12),
)
def test_the_box_of_a_mask_holds_every_voxel_that_it_reaches(mask, start, numbers):
    source = np.diag([1.0, 1.2, 2.0, 1.0])
    target = np.diag([1.1, 0.9, 1.4, 1.0])
    target[:3] += np.array(numbers).reshape(3, 4)
    whole = np.zeros((8, 9, 10), bool)
    extent = Extent(start, tuple(a + n for a, n in zip(start, mask.shape, strict=True)))
    whole[extent.slices] = mask
    grids = GridMap(source, whole.shape, target, (9, 10, 11))
    box = grids.extent(extent)
    found = np.zeros((9, 10, 11), bool)
    if not box.is_empty:
        found[box.slices] = grids.sample(mask, extent, box)
    np.testing.assert_array_equal(found, nearest(whole, source, target, (9, 10, 11)))


@given(mask=arrays(bool, (3, 4, 5)), start=st.tuples(*(st.integers(0, 3) for _ in range(3))))
def test_a_patch_gives_back_the_mask_that_it_was_made_of(mask, start):
    box = Extent(start, tuple(a + n for a, n in zip(start, mask.shape, strict=True)))
    patch = Patch.of(mask, box)
    np.testing.assert_array_equal(patch.crop(box), mask)
    assert patch.count == mask.sum()
    assert patch.is_empty == (not mask.any())


def test_the_upright_grid_keeps_spacing_and_axes_of_a_sheared_one():
    for order, signs in itertools.product(
        itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)
    ):
        affine = np.eye(4)
        affine[:3, :3] = (np.eye(3)[:, order] * signs) @ np.diag([0.7, 1.1, 3.0])
        sheared = SHEAR @ affine
        straight = upright(sheared)
        np.testing.assert_allclose(
            np.linalg.norm(straight[:3, :3], axis=0), np.linalg.norm(sheared[:3, :3], axis=0)
        )
        directions = straight[:3, :3] / np.linalg.norm(straight[:3, :3], axis=0)
        np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-12)
        assert (
            np.abs(directions).argmax(axis=0).tolist()
            == np.abs(affine[:3, :3]).argmax(axis=0).tolist()
        )
