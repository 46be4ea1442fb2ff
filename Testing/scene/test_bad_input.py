"""What cannot be clicked in: each a hint or one message, never an exception."""

from __future__ import annotations

import numpy as np
import pytest

from protosam.scene import Controller


def refused(desk, key):
    """A click, a box and the buttons do nothing but show the hint."""
    desk.settle()
    node = desk.scene.slice_node(np.eye(4))
    controller = desk.controller
    assert not controller.click(node, (100, 100))
    assert desk.status.hint_key == key
    assert not controller.box(node, (10, 10), (150, 150))
    assert not controller.click_world((0.0, 0.0, 0.0))
    assert controller.grab(node, (100, 100)) is None
    assert not controller.drag(node, (100, 100))
    done = [controller.drop(), controller.remove("p1"), controller.clear(), controller.seal()]
    done += [controller.rerun(), controller.cancel()]
    assert not any(done)
    assert controller.glyphs(node) == ()
    controller.scrolled(node)
    desk.settle()
    assert desk.status.hint_key == key
    assert not desk.status.can_click
    assert desk.status.hint
    assert desk.told.messages == []
    assert desk.client.asked == []
    return True


def test_nothing_attached(desk):
    desk.controller.detach()
    assert refused(desk, "detached")


def test_no_source_volume(desk):
    desk.scene.editor.SetAndObserveSourceVolumeNode(None)
    assert refused(desk, "no_volume")


def test_no_segmentation(desk):
    desk.scene.editor.SetAndObserveSegmentationNode(None)
    assert refused(desk, "no_segmentation")


def test_no_segment_selected(desk):
    desk.scene.editor.SetSelectedSegmentID(None)
    assert refused(desk, "no_segment")


def test_a_segmentation_without_segments(desk):
    desk.scene.segmentation.GetSegmentation().RemoveAllSegments()
    assert refused(desk, "no_segment")


def test_a_hidden_segment(desk):
    desk.scene.segmentation.GetDisplayNode().SetSegmentVisibility("a", False)
    assert refused(desk, "hidden")


def test_a_hidden_segmentation(desk):
    desk.scene.segmentation.GetDisplayNode().SetVisibility(False)
    assert refused(desk, "hidden")


def test_a_segment_that_is_marked_as_completed(desk):
    logic = desk.scene.mrml.vtkSlicerSegmentationsModuleLogic
    logic.SetSegmentStatus(desk.scene.segment("a"), logic.Completed)
    assert refused(desk, "completed")


def test_a_segmentation_of_surfaces(desk):
    desk.scene.segmentation.GetSegmentation().SetSourceRepresentationName("Closed surface")
    assert refused(desk, "bad_segmentation")


def other_volume(desk, kind, voxels=None, components=1):
    from vtkmodules.vtkCommonCore import VTK_SHORT
    from vtkmodules.vtkCommonDataModel import vtkImageData

    node = getattr(desk.scene.mrml, kind)()
    if voxels is not None:
        image = vtkImageData()
        image.SetDimensions(*voxels)
        image.AllocateScalars(VTK_SHORT, components)
        node.SetAndObserveImageData(image)
    desk.scene.scene.AddNode(node)
    desk.scene.editor.SetAndObserveSourceVolumeNode(node)
    return node


def test_a_label_map(desk):
    other_volume(desk, "vtkMRMLLabelMapVolumeNode", (5, 6, 7))
    assert refused(desk, "bad_volume")
    assert "label map" in desk.status.hint


def test_a_vector_volume(desk):
    other_volume(desk, "vtkMRMLVectorVolumeNode", (5, 6, 7), 3)
    assert refused(desk, "bad_volume")
    assert "3 values in each voxel" in desk.status.hint


def test_a_volume_without_voxels(desk):
    other_volume(desk, "vtkMRMLScalarVolumeNode")
    assert refused(desk, "bad_volume")
    assert "no voxels" in desk.status.hint


def test_a_volume_with_nan(desk):
    voxels = np.ones((4, 5, 6), np.float32)
    voxels[1, 2, 3] = np.nan
    desk.scene.editor.SetAndObserveSourceVolumeNode(desk.scene.add_volume(voxels, np.eye(4)))
    assert refused(desk, "bad_volume")
    assert "NaN" in desk.status.hint


def test_a_volume_with_a_spacing_of_zero(desk):
    node = desk.scene.add_volume(np.ones((4, 5, 6), np.int16), np.eye(4))
    transform = desk.scene.add_transform(np.diag([1.0, 1.0, 0.0, 1.0]))
    node.SetAndObserveTransformNodeID(transform.GetID())
    desk.scene.editor.SetAndObserveSourceVolumeNode(node)
    assert refused(desk, "bad_volume")


@pytest.mark.parametrize("which", ["volume", "segmentation"])
def test_a_transform_that_is_not_linear(desk, which):
    from vtkmodules.vtkCommonTransforms import vtkThinPlateSplineTransform

    transform = desk.scene.mrml.vtkMRMLTransformNode()
    transform.SetAndObserveTransformToParent(vtkThinPlateSplineTransform())
    desk.scene.scene.AddNode(transform)
    node = desk.volume if which == "volume" else desk.scene.segmentation
    node.SetAndObserveTransformNodeID(transform.GetID())
    assert refused(desk, "bad_volume" if which == "volume" else "bad_segmentation")
    assert "not linear" in desk.status.hint


def test_a_single_slice_can_be_clicked_in(desks):
    desk = desks(shape=(1, 20, 22))
    assert desk.click((0, 8, 9))
    assert desk.scene.mask("a")[0, 8, 9]
    assert desk.told.messages == []


def test_unsigned_and_floating_voxels_are_taken_as_they_are(desks):
    desk = desks()
    for kind in (np.uint8, np.int32, np.float32, np.float64):
        voxels = np.arange(5 * 6 * 7).reshape(5, 6, 7).astype(kind)
        desk.scene.editor.SetAndObserveSourceVolumeNode(desk.scene.add_volume(voxels, np.eye(4)))
        desk.settle()
        sent = list(desk.client.volumes.values())[-1]
        assert sent.voxels.dtype == kind
        np.testing.assert_array_equal(sent.voxels, voxels)


def test_an_editor_node_that_left_its_scene_detaches(desk):
    desk.scene.logic.SetSegmentEditorNode(None)
    desk.scene.scene.RemoveNode(desk.scene.editor)
    assert refused(desk, "detached")


def test_a_place_that_is_no_number_is_outside(desk):
    assert not desk.controller.click_world((float("nan"), 0.0, 0.0))
    assert desk.status.hint_key == "outside"


def test_a_view_that_was_never_laid_out_is_outside_or_refused(desk):
    node = desk.scene.mrml.vtkMRMLSliceNode()
    node.SetLayoutName("Fresh")
    desk.scene.scene.AddNode(node)
    controller: Controller = desk.controller
    assert controller.click(node, (3000, 4000)) is False
    assert desk.status.hint_key == "outside"
    assert controller.glyphs(node) == ()
