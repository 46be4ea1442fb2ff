"""What the controller does with clicks, drags, buttons and changes of the scene."""

from __future__ import annotations

import time

import numpy as np
import pytest

from protosam.errors import InvalidPrompt, WorkerDied
from protosam.mending import CleanUpReport, StepReport
from protosam.prompts import PromptSet
from protosam.scene import PARAMETERS, Controller
from protosam.scene.records import PROMPTS_TAG, TagRecord, tag_of
from protosam.scene.sessions import MAX_RECORDS


def axial(desk, k, size=200, fov_mm=40.0):
    """Slice node that shows slice k of the desk's volume, from its middle."""
    middle = (np.array(desk.voxels.shape) - 1) / 2
    middle[0] = k
    to_ras = np.eye(4)
    to_ras[:3, 3] = desk.ras(middle)
    return desk.scene.slice_node(to_ras, (size, size), (fov_mm, fov_mm))


def xy_of(node, ras):
    from vtkmodules.vtkCommonMath import vtkMatrix4x4

    to_xy = vtkMatrix4x4()
    vtkMatrix4x4.Invert(node.GetXYToRAS(), to_xy)
    return to_xy.MultiplyPoint((*ras, 1.0))[:2]


def tags(desk, segment="a"):
    names = ("Model", "Digest", "Adapter", "Version", "Prompts")
    found = {name: tag_of(desk.scene.segment(segment), f"ProtoSAM.{name}") for name in names}
    for name in ("Type", "Name"):
        found[name] = tag_of(desk.scene.segment(segment), f"DICOM.SegmentAlgorithm{name}")
    return found


def test_a_click_is_shown_at_once_and_written_when_the_answer_comes(desk, drawn):
    desk.client.holds = True
    assert desk.click((7, 8, 9))
    assert desk.status.busy
    assert desk.status.hint_key == "working"
    assert [row.answered for row in desk.status.prompts] == [False]
    assert not desk.scene.mask("a").any()

    desk.client.holds = False
    desk.settle()
    np.testing.assert_array_equal(
        desk.scene.mask("a"), drawn(desk.voxels.shape, desk.client.asked[-1].prompts)
    )
    assert not desk.status.busy
    assert desk.status.hint_key == "refine"
    assert desk.status.score == 0.9
    assert [row.answered for row in desk.status.prompts] == [True]
    assert desk.told.redraws >= 2


def test_the_tags_say_where_the_mask_comes_from_and_nothing_else(desk):
    desk.scene.editor.SetAttribute("ProtoSAM.Adapter", "liver-v2")
    desk.click((7, 8, 9))
    found = tags(desk)
    assert found["Model"] == "fake"
    assert found["Digest"] == "0123"
    assert found["Adapter"] == "liver-v2"
    assert found["Type"] == "SEMIAUTOMATIC"
    assert found["Name"] == "ProtoSAM fake"
    assert TagRecord.from_text(found["Prompts"]).prompts == desk.client.asked[-1].prompts
    assert "|" not in "".join(found.values())
    assert "image" not in "".join(found.values())

    desk.controller.clear()
    assert set(tags(desk).values()) == {""}


def test_clicks_that_come_before_an_answer_share_its_undo_step(desk):
    desk.client.holds = True
    desk.click((7, 8, 9))
    desk.click((7, 8, 12))
    desk.client.holds = False
    desk.settle()
    assert len(desk.status.prompts) == 2
    assert desk.controller.undo()
    assert desk.status.prompts == ()
    assert not desk.scene.mask("a").any()


def test_cancel_takes_back_what_has_no_answer(desk):
    desk.click((7, 8, 9))
    before = desk.scene.mask("a")
    desk.client.holds = True
    desk.click((7, 8, 12))
    assert desk.status.can_cancel
    assert desk.controller.cancel()
    desk.client.holds = False
    desk.settle()
    assert len(desk.status.prompts) == 1
    np.testing.assert_array_equal(desk.scene.mask("a"), before)
    assert not desk.controller.cancel()
    assert desk.told.messages == []


def test_undo_gives_up_what_runs_before_it_takes_back_an_answer(desk):
    desk.click((7, 8, 9))
    desk.client.holds = True
    desk.click((7, 8, 12))
    assert desk.controller.undo()
    assert len(desk.status.prompts) == 1
    assert desk.scene.mask("a").any()


def test_the_editors_own_undo_gives_up_what_runs(desk):
    desk.click((7, 8, 9))
    desk.client.holds = True
    desk.click((7, 8, 12))
    desk.scene.logic.Undo()
    desk.client.holds = False
    desk.settle()
    assert desk.status.prompts == ()
    assert not desk.scene.mask("a").any()


def test_a_dead_worker_is_told_once_and_the_next_click_works(desk):
    desk.click((7, 8, 9))
    before = desk.scene.mask("a")
    desk.client.error = WorkerDied("The worker ended by itself.\nlast line", "Repeat the request.")
    desk.click((7, 8, 12))
    desk.scene.select("b")
    assert [one.level for one in desk.told.messages] == ["error"]
    assert desk.told.messages[0].details == "last line"
    desk.scene.select("a")
    desk.settle()
    assert desk.status.hint_key == "failed"
    assert len(desk.status.prompts) == 2
    np.testing.assert_array_equal(desk.scene.mask("a"), before)

    desk.client.error = None
    desk.click((10, 8, 9))
    assert [row.answered for row in desk.status.prompts] == [True] * 3
    assert len(desk.told.messages) == 1


def test_a_death_with_two_segments_in_flight_is_one_message(desk):
    desk.client.holds = True
    desk.click((7, 8, 9))
    desk.scene.select("b")
    desk.click((7, 8, 12))
    desk.client.error = WorkerDied("The worker ended by itself.", "Repeat the request.")
    desk.client.holds = False
    desk.settle()
    assert len(desk.told.messages) == 1


def test_a_prompt_that_the_worker_refuses_is_taken_back_with_a_message(desk):
    desk.click((7, 8, 9))
    desk.client.error = InvalidPrompt("That cannot be.", "Click elsewhere.")
    desk.click((7, 8, 12))
    assert len(desk.status.prompts) == 1
    assert [one.text for one in desk.told.messages] == ["That cannot be."]


def test_an_answer_is_written_to_its_own_segment_after_another_was_selected(desk):
    desk.client.holds = True
    desk.click((7, 8, 9))
    desk.scene.select("b")
    desk.settle()
    assert desk.status.prompts == ()
    desk.client.holds = False
    desk.settle()
    assert desk.scene.mask("a").any()
    assert not desk.scene.mask("b").any()
    desk.scene.select("a")
    desk.settle()
    assert len(desk.status.prompts) == 1


def test_masks_of_an_answer_are_those_of_its_own_segment(desk):
    mrml = desk.scene.mrml
    desk.click((7, 8, 9))
    desk.scene.editor.SetMaskMode(mrml.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
    desk.client.holds = True
    desk.click((7, 8, 12), False)
    before = desk.scene.mask("a")
    desk.scene.select("b")
    desk.client.holds = False
    desk.settle()
    assert 0 < desk.scene.mask("a").sum() < before.sum()


def test_where_slicer_has_to_mask_an_answer_waits_until_its_segment_is_selected_again(desks):
    desk = desks(shape=(14, 16, 18))
    # Intensities have to be interpolated on another grid, which is left to Slicer.
    other = desk.scene.add_volume(np.zeros((30, 30, 30), np.int16), np.diag([0.6, 0.6, 0.6, 1]))
    desk.scene.segmentation.SetReferenceImageGeometryParameterFromVolumeNode(other)
    desk.scene.editor.SetSourceVolumeIntensityMask(True)
    desk.scene.editor.SetSourceVolumeIntensityMaskRange(-5, 200)
    desk.client.holds = True
    desk.click((7, 8, 9))
    desk.scene.select("b")
    desk.client.holds = False
    desk.settle()
    assert not desk.scene.mask("a").any()
    assert [one.level for one in desk.told.messages] == ["warning"]
    desk.scene.select("a")
    desk.settle()
    assert [row.answered for row in desk.status.prompts] == [False]
    assert desk.controller.rerun()
    desk.settle()
    assert desk.scene.mask("a").any()
    before = desk.scene.mask("a")
    desk.click((7, 8, 11), False)
    assert 0 < desk.scene.mask("a").sum() < before.sum()


@pytest.mark.parametrize("gone", ["segment", "segmentation", "volume", "other volume"])
def test_an_answer_whose_place_is_gone_is_dropped_without_a_word(desk, gone):
    desk.client.holds = True
    desk.click((7, 8, 9))
    scene = desk.scene.scene
    segmentation = desk.scene.segmentation
    if gone == "segment":
        segmentation.GetSegmentation().RemoveSegment("a")
    elif gone == "segmentation":
        scene.RemoveNode(segmentation)
    elif gone == "volume":
        scene.RemoveNode(desk.volume)
    else:
        other = desk.scene.add_volume(desk.voxels.copy(), desk.affine)
        desk.scene.editor.SetAndObserveSourceVolumeNode(other)
    desk.client.holds = False
    desk.settle()
    assert desk.told.messages == []
    assert not desk.status.busy
    if gone == "other volume":
        assert not desk.scene.mask("a").any()
    if gone == "volume":
        assert len(desk.client.closed) == 1


def test_an_answer_on_its_way_while_the_segmentation_is_removed_is_dropped(desk):
    desk.client.holds = True
    desk.click((7, 8, 9))
    desk.scene.scene.RemoveNode(desk.scene.segmentation)
    desk.client.holds = False
    desk.client.drain()
    assert desk.told.messages == []


def test_closing_the_scene_lets_go_of_everything(desk):
    desk.client.holds = True
    desk.click((7, 8, 9))
    desk.controller.scene_closed()
    desk.scene.scene.Clear(False)
    desk.client.holds = False
    desk.settle()
    assert desk.status.hint_key == "detached"
    assert desk.client.volumes == {}
    assert desk.told.messages == []
    assert desk.controller.wanted_interval_ms() == 500


def test_leaving_the_effect_gives_up_what_runs_and_keeps_the_prompts(desk):
    desk.click((7, 8, 9))
    desk.client.holds = True
    desk.click((7, 8, 12))
    desk.controller.detach()
    desk.client.holds = False
    desk.settle()
    assert not desk.controller.click_world(desk.ras((7, 8, 9)))
    assert desk.status.hint_key == "detached"
    desk.controller.attach(desk.scene.editor, desk.writer)
    assert len(desk.status.prompts) == 1


def test_a_click_outside_and_a_first_click_that_takes_away_are_hints(desk):
    assert not desk.click((30, 8, 9))
    assert desk.status.hint_key == "outside"
    assert not desk.click((7, 8, 9), False)
    assert desk.status.hint_key == "negative_first"
    assert desk.click((7, 8, 9))
    assert desk.status.hint_key == "refine"
    assert desk.told.messages == []
    assert desk.client.asked[-1].prompts.ids == desk.client.asked[0].prompts.ids


def test_points_outside_of_the_object_alone_leave_nothing(desk):
    desk.click((7, 8, 9))
    desk.click((7, 8, 12), False)
    desk.controller.remove(desk.status.prompts[0].id)
    assert desk.status.hint_key == "needs_object"
    assert not desk.scene.mask("a").any()
    assert len(desk.client.asked) == 2


def test_a_dragged_prompt_moves_its_glyph_first_and_its_mask_when_it_is_dropped(desk):
    node = axial(desk, 7)
    desk.click((7, 8, 9))
    start, end = xy_of(node, desk.ras((7, 8, 9))), xy_of(node, desk.ras((7, 8, 12)))
    (glyph,) = desk.controller.glyphs(node)
    np.testing.assert_allclose(glyph.corners_xy[0], start, atol=1e-6)
    assert desk.controller.prompt_at(node, (start[0] + 5, start[1])) == glyph.id
    assert desk.controller.prompt_at(node, (start[0] + 15, start[1])) is None

    assert desk.controller.grab(node, start) == glyph.id
    before = desk.scene.mask("a")
    assert desk.controller.drag(node, end)
    assert not desk.controller.drag(node, (-1000, 0))
    (glyph,) = desk.controller.glyphs(node)
    assert glyph.grabbed
    np.testing.assert_allclose(glyph.corners_xy[0], end, atol=1e-6)
    np.testing.assert_array_equal(desk.scene.mask("a"), before)
    assert desk.controller.drop()
    desk.settle()
    assert desk.scene.mask("a")[7, 8, 14]
    assert len(desk.status.prompts) == 1
    assert desk.controller.undo()
    np.testing.assert_array_equal(desk.scene.mask("a"), before)


def test_a_drag_that_is_given_up_or_goes_nowhere_asks_nothing(desk):
    node = axial(desk, 7)
    desk.click((7, 8, 9))
    start, end = xy_of(node, desk.ras((7, 8, 9))), xy_of(node, desk.ras((7, 8, 12)))
    desk.controller.grab(node, start)
    assert not desk.controller.drop()
    desk.controller.grab(node, start)
    desk.controller.drag(node, end)
    assert not desk.controller.drop(keep=False)
    assert len(desk.client.asked) == 1
    (glyph,) = desk.controller.glyphs(node)
    np.testing.assert_allclose(glyph.corners_xy[0], start, atol=1e-6)


def test_a_box_is_drawn_in_a_slice_and_its_corners_can_be_dragged(desk):
    node = axial(desk, 6)
    low, high = xy_of(node, desk.ras((6, 3, 4))), xy_of(node, desk.ras((6, 9, 11)))
    assert desk.controller.box(node, high, low)
    desk.settle()
    (box,) = desk.client.asked[-1].prompts.boxes
    np.testing.assert_allclose(box.low_kji, (6, 3, 4), atol=1e-6)
    np.testing.assert_allclose(box.high_kji, (6, 9, 11), atol=1e-6)
    assert box.axis == 0
    assert desk.scene.mask("a").sum() == 7 * 8

    (glyph,) = desk.controller.glyphs(node)
    assert glyph.kind == "box"
    assert len(glyph.corners_xy) == 4
    assert desk.controller.grab(node, high) == box.id
    assert desk.controller.drag(node, xy_of(node, desk.ras((6, 7, 7))))
    assert desk.controller.drop()
    desk.settle()
    (box,) = desk.client.asked[-1].prompts.boxes
    np.testing.assert_allclose((box.low_kji, box.high_kji), ((6, 3, 4), (6, 7, 7)), atol=1e-6)


def test_a_box_without_area_or_off_the_image_is_a_hint(desk):
    node = axial(desk, 6)
    place = xy_of(node, desk.ras((6, 3, 4)))
    assert not desk.controller.box(node, place, place)
    assert desk.status.hint_key == "small_box"
    assert not desk.controller.box(node, (-500, -500), (-300, -300))
    assert not desk.controller.box(axial(desk, 40), place, (place[0] + 50, place[1] + 50))
    assert desk.client.asked == []


def test_glyphs_fade_away_from_their_slice(desk):
    desk.click((7, 8, 9))
    seen = {k: desk.controller.glyphs(axial(desk, k)) for k in (7, 8, 9, 10, 11)}
    opacities = [seen[k][0].opacity for k in (7, 8, 9, 10)]
    assert opacities[0] == 1.0
    assert sorted(opacities, reverse=True) == opacities
    assert opacities[3] == pytest.approx(0.25)
    assert seen[11] == ()
    assert [seen[k][0].on_slice for k in (7, 8)] == [True, False]


def test_in_slice_scope_only_clicked_slices_are_filled_and_a_change_of_scope_keeps_the_mask(desk):
    desk.click((7, 8, 9))
    volume_mask = desk.scene.mask("a")
    desk.scene.editor.SetAttribute("ProtoSAM.Scope", "slice")
    node = axial(desk, 8)
    assert desk.controller.click(node, xy_of(node, desk.ras((8, 8, 12))))
    desk.settle()
    request = desk.client.asked[-1]
    assert request.prompts.scope == "slice"
    assert request.prompts.axis == 0
    assert len(request.prompts.points) == 1
    after = desk.scene.mask("a")
    np.testing.assert_array_equal(np.delete(after, 8, 0), np.delete(volume_mask, 8, 0))
    assert after[8, 8, 12]
    assert not after[8, 8, 6]
    desk.controller.remove(desk.status.prompts[0].id)
    np.testing.assert_array_equal(desk.scene.mask("a"), volume_mask)


def test_a_click_in_another_direction_begins_a_new_list_in_slice_scope(desk):
    desk.scene.editor.SetAttribute("ProtoSAM.Scope", "slice")
    node = axial(desk, 7)
    desk.controller.click(node, xy_of(node, desk.ras((7, 8, 9))))
    desk.settle()
    to_ras = np.eye(4)
    to_ras[:3, :3] = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0]])  # coronal: columns x, z, y
    to_ras[:3, 3] = desk.ras((7, 8, 9))
    coronal = desk.scene.slice_node(to_ras, (200, 200), (40.0, 40.0))
    assert desk.controller.click(coronal, (100, 100))
    desk.settle()
    assert desk.client.asked[-1].prompts.axis == 1
    assert len(desk.status.prompts) == 1
    mask = desk.scene.mask("a")
    assert mask[7, 8, 9]
    assert mask[7, 6, 9]
    assert mask[9, 8, 9]
    assert not mask[9, 9, 9]


def test_seal_keeps_the_mask_and_forgets_the_prompts_in_one_undo_step(desk):
    desk.click((7, 8, 9))
    before = desk.scene.mask("a")
    assert desk.controller.seal()
    assert desk.status.prompts == ()
    assert desk.status.hint_key == "sealed"
    desk.click((7, 8, 14))
    assert desk.scene.mask("a")[before].all()
    desk.controller.clear()
    np.testing.assert_array_equal(desk.scene.mask("a"), before)
    for _ in range(3):
        assert desk.controller.undo()
    assert len(desk.status.prompts) == 1
    np.testing.assert_array_equal(desk.scene.mask("a"), before)


def test_prompts_come_back_with_a_saved_scene_and_go_on_as_if_nothing_had_happened(desks, tmp_path):
    desk = desks(segments=("a",))
    desk.click((7, 8, 9))
    desk.click((7, 8, 12))
    mrml = desk.scene.mrml
    storage = mrml.vtkMRMLSegmentationStorageNode()
    desk.scene.scene.AddNode(storage)
    storage.SetFileName(str(tmp_path / "a.seg.nrrd"))
    assert storage.WriteData(desk.scene.segmentation) == 1

    other = desks(segments=())
    node, storage = mrml.vtkMRMLSegmentationNode(), mrml.vtkMRMLSegmentationStorageNode()
    other.scene.scene.AddNode(node)
    other.scene.scene.AddNode(storage)
    storage.SetFileName(str(tmp_path / "a.seg.nrrd"))
    assert storage.ReadData(node) == 1
    node.CreateDefaultDisplayNodes()
    other.scene.segmentation = node
    other.scene.editor.SetAndObserveSegmentationNode(node)
    other.scene.select(node.GetSegmentation().GetNthSegmentID(0))
    other.settle()
    assert other.prompts() == desk.prompts()
    segment = node.GetSegmentation().GetNthSegmentID(0)
    last = other.status.prompts[-1].id
    for one in (desk, other):
        one.controller.remove(last)
        one.settle()
    # The file holds the crop of the mask only, so the grids begin at different voxels.
    assert other.scene.mask(segment).sum() == desk.scene.mask("a").sum() == 123


def test_a_loaded_mask_that_was_changed_by_hand_is_only_added_to(desks):
    desk = desks()
    desk.click((7, 8, 9))
    extra = np.zeros(desk.voxels.shape, bool)
    extra[1, 1, 1] = True
    desk.scene.paint("a", extra)
    before = desk.scene.mask("a")
    fresh = Controller(desk.scene.mrml, desk.client, desk.told)
    fresh.attach(desk.scene.editor, desk.writer)
    fresh.drain()
    assert fresh.status.hint_key == "not_ours"
    fresh.remove(fresh.status.prompts[0].id)
    np.testing.assert_array_equal(desk.scene.mask("a"), before)


@pytest.mark.parametrize("text", ["{", "[]", '{"version":9}', "null", '{"version":1,"set":{}}'])
def test_a_tag_that_cannot_be_read_is_told_once_and_clicking_goes_on(desk, text):
    desk.scene.segment("a").SetTag(PROMPTS_TAG, text)
    desk.settle()
    assert [one.level for one in desk.told.messages] == ["warning"]
    assert desk.status.prompts == ()
    assert desk.click((7, 8, 9))
    assert len(desk.told.messages) == 1


def test_prompts_of_another_volume_are_not_shown_and_a_click_starts_anew(desk):
    desk.click((7, 8, 9))
    before = desk.scene.mask("a")
    shifted = desk.affine.copy()
    shifted[0, 3] = 2.0
    other = desk.scene.add_volume(desk.voxels, shifted, "other")
    desk.scene.editor.SetAndObserveSourceVolumeNode(other)
    desk.settle()
    assert desk.status.hint_key == "other_volume"
    assert desk.controller.glyphs(axial(desk, 7)) == ()
    assert not desk.controller.rerun()
    assert desk.click((7, 8, 14))
    after = desk.scene.mask("a")
    assert after[before].all()
    assert len(desk.status.prompts) == 1
    assert after[7, 8, 14]
    assert desk.controller.undo()
    assert desk.status.hint_key == "other_volume"


def test_a_changed_image_is_sent_again_under_another_identity(desk):
    first = desk.client.volumes.copy()
    desk.volume.GetImageData().GetPointData().GetScalars().SetTuple1(0, 77)
    desk.volume.GetImageData().GetPointData().GetScalars().Modified()
    desk.settle()
    assert len(desk.client.volumes) == 1
    assert desk.client.volumes.keys() != first.keys()
    assert desk.click((7, 8, 9))
    assert desk.client.asked[-1].volume_uid in desk.client.volumes


def test_moving_the_volume_sends_nothing_and_clicks_follow_it(desk):
    first = set(desk.client.volumes)
    moved = np.eye(4)
    moved[:3, 3] = (5, -3, 2)
    transform = desk.scene.add_transform(moved)
    desk.volume.SetAndObserveTransformNodeID(transform.GetID())
    desk.scene.segmentation.SetAndObserveTransformNodeID(transform.GetID())
    assert desk.controller.click_world(desk.ras((7, 8, 9)) + moved[:3, 3])
    desk.settle()
    np.testing.assert_allclose(desk.client.asked[-1].prompts.points[0].point_kji, (7, 8, 9))
    assert set(desk.client.volumes) == first
    assert desk.scene.mask("a")[7, 8, 9]


def test_the_settings_travel_with_the_request(desk):
    assert set(PARAMETERS) >= {"Scope", "Model", "Window"}
    for name, value in {
        "Model": "tiny",
        "Window": "values",
        "WindowLow": "-50",
        "WindowHigh": "150.5",
        "FillHoles": "0",
        "OpeningMm": "1.5",
        "SmoothingMm": "2.5",
        "Bodies": "2",
    }.items():
        desk.scene.editor.SetAttribute(f"ProtoSAM.{name}", value)
    desk.click((7, 8, 9))
    request = desk.client.asked[-1]
    assert request.model == "tiny"
    assert (request.window.low, request.window.high) == (-50.0, 150.5)
    assert not request.clean_up.fill_holes
    assert request.clean_up.opening_mm == 1.5
    assert (request.clean_up.smoothing_mm, request.clean_up.bodies) == (2.5, 2)
    desk.scene.editor.SetAttribute("ProtoSAM.Window", "view")
    desk.click((7, 8, 12))
    window = desk.client.asked[-1].window
    assert (window.low, window.high) == desk.controller.volume_window()


def test_settings_that_cannot_be_read_are_told_once(desk):
    desk.scene.editor.SetAttribute("ProtoSAM.Scope", "everywhere")
    desk.scene.editor.SetAttribute("ProtoSAM.ClosingMm", "nan")
    desk.settle()
    assert len(desk.told.messages) == 1
    assert "Scope, ClosingMm" in desk.told.messages[0].text
    assert desk.click((7, 8, 9))
    assert desk.client.asked[-1].clean_up is None


@pytest.mark.parametrize(
    ("name", "text"),
    [("SmoothingMm", "-1"), ("SmoothingMm", "101"), ("Bodies", "1.5"), ("Bodies", "-1")],
)
def test_a_clean_up_that_cannot_be_is_told_and_left_out(desk, name, text):
    desk.scene.editor.SetAttribute(f"ProtoSAM.{name}", text)
    desk.settle()
    assert name in desk.told.messages[0].text
    assert desk.click((7, 8, 9))
    assert desk.client.asked[-1].clean_up is None


def test_what_the_clean_up_has_changed_is_told_with_the_answer(desk):
    assert desk.controller.status.clean_up == ""
    desk.client.clean_up = CleanUpReport(
        (StepReport("islands", 0, 312), StepReport("smoothing", 40, 38))
    )
    desk.click((7, 8, 9))
    desk.settle()
    assert desk.controller.status.clean_up == "islands -312, smoothing +40/-38 voxels"


def test_a_wrong_window_is_told_and_left_to_the_worker(desk):
    desk.scene.editor.SetAttribute("ProtoSAM.Window", "values")
    desk.scene.editor.SetAttribute("ProtoSAM.WindowLow", "5")
    desk.click((7, 8, 9))
    assert desk.client.asked[-1].window is None
    assert "window" in desk.told.messages[-1].text


def test_a_click_on_a_surface_goes_half_a_voxel_inwards(desk):
    assert desk.controller.click_world(desk.ras((7, 8, 9)), inward=(0.0, 0.0, 2.0))
    desk.settle()
    np.testing.assert_allclose(desk.client.asked[-1].prompts.points[0].point_kji, (7.5, 8, 9))


@pytest.mark.parametrize(("rows", "columns"), [(2, 1), (1, 3)])
def test_a_view_of_several_slices_is_refused_with_a_hint(desk, rows, columns):
    class LightBox:
        """A slice node of Slicer 5.8, where a view can show several slices."""

        def __init__(self, node):
            self.node = node

        def __getattr__(self, name):
            return getattr(self.node, name)

        def GetLayoutGridRows(self):
            return rows

        def GetLayoutGridColumns(self):
            return columns

    node = LightBox(axial(desk, 7))
    assert not desk.controller.click(node, (50, 50))
    assert desk.status.hint_key == "light_box"
    assert not desk.controller.inside(node, (50, 50))


def test_scrolling_asks_for_the_slices_round_the_views_middle(desk, monkeypatch):
    asked = []
    monkeypatch.setattr(desk.client, "prewarm", asked.append)
    time.sleep(0.35)  # the pause between two of these requests
    desk.controller.scrolled(axial(desk, 11))
    desk.controller.scrolled(axial(desk, 12))
    (request,) = asked
    assert request.centre_kji[0] == pytest.approx(11)


def test_masks_that_let_nothing_through_are_a_hint(desk):
    desk.scene.editor.SetSourceVolumeIntensityMask(True)
    desk.scene.editor.SetSourceVolumeIntensityMaskRange(5000, 6000)
    desk.click((7, 8, 9))
    assert desk.status.hint_key == "masked"
    assert not desk.scene.mask("a").any()


def test_undo_states_beyond_what_is_remembered_are_followed_by_their_tags(desk):
    for n in range(3):
        desk.click((7, 8, 6 + n))
    states = desk.scene.mask("a"), desk.prompts()
    session = desk.controller._editing.session()
    session._records.clear()
    desk.click((7, 8, 12))
    assert MAX_RECORDS > 10
    assert desk.controller.undo()
    assert desk.prompts() == states[1]
    np.testing.assert_array_equal(desk.scene.mask("a"), states[0])
    desk.click((7, 8, 9), False)
    assert not desk.scene.mask("a")[7, 8, 9]


def test_nothing_is_asked_twice_for_the_same_prompts(desk):
    desk.click((7, 8, 9))
    for _ in range(5):
        desk.controller.refresh()
        desk.settle()
    assert len(desk.client.asked) == 1
    assert isinstance(desk.client.asked[0].prompts, PromptSet)
    statuses = len(desk.told.statuses)
    desk.settle()
    assert len(desk.told.statuses) == statuses


def test_a_host_may_refresh_at_every_event_of_the_segmentation(desk):
    segmentation = desk.scene.segmentation.GetSegmentation()
    segmentation.AddObserver("AnyEvent", lambda *_: desk.controller.refresh())
    desk.scene.segmentation.AddObserver("AnyEvent", lambda *_: desk.controller.refresh())
    states = []
    for place in ((7, 8, 9), (7, 8, 12), (7, 8, 6)):
        desk.click(place)
        states.append((desk.scene.mask("a"), desk.prompts()))
    for mask, prompts in states[1::-1]:
        desk.scene.logic.Undo()
        assert desk.prompts() == prompts
        np.testing.assert_array_equal(desk.scene.mask("a"), mask)
    desk.controller.remove(desk.status.prompts[0].id)
    assert not desk.scene.mask("a").any()
    assert desk.told.messages == []


def test_a_host_may_drain_while_it_shows_a_message(desk):
    shown = []

    def show(message):
        shown.append(message)
        desk.controller.drain()

    desk.told.message = show
    desk.client.error = WorkerDied("The worker ended by itself.", "Repeat the request.")
    desk.click((7, 8, 9))
    assert len(shown) == 1
