"""Examples in a real scene: what is learnt, what is proposed, and what becomes of proposals."""

from __future__ import annotations

import numpy as np
import pytest

from protosam.errors import WorkerDied
from protosam.extents import bounding_extent, pack_bits
from protosam.intensity import Window
from protosam.prompts import Point, PromptSet
from protosam.scene.records import tag_of
from protosam.wire.messages import Proposed, ProposedSlices

SHAPE = (14, 16, 18)
CODE = (
    "Segmentation category and type - 3D Slicer General Anatomy list"
    "~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^"
    "~Anatomic codes - DICOM master list~^^~^^"
)


def block(k, j, i, size=4):
    mask = np.zeros(SHAPE, bool)
    mask[k : k + size, j : j + size, i : i + size] = True
    return mask


LIVER, SPLEEN = block(3, 3, 3), block(6, 9, 9)


def proposed(name, mask, sure=None, *, clicks=(), notes=()):
    """What the worker proposes for a segment; one click is found in the middle of it."""
    extent = bounding_extent(mask)
    held = np.flatnonzero(mask.any(axis=(1, 2)))
    middle = () if extent is None else tuple(np.argwhere(mask).mean(axis=0).tolist())
    found = (Point(middle, True, "example-1"),) if middle else ()
    return Proposed(
        name=name,
        terminology=CODE,
        colour=(0.9, 0.4, 0.2),
        extent=extent,
        bits=b"" if extent is None else pack_bits(mask[extent.slices]),
        axis=0,
        confidences=sure or {int(z): 0.8 for z in held},
        distance=0.5,
        notes=tuple(notes),
        prompts=PromptSet((*clicks, *found), axis=0),
        window=Window(0.0, 100.0),
        model="fake",
        digest="0123",
        elapsed_s=0.2,
    )


def sliced(name, mask, slices, sure=0.5):
    kept = np.zeros_like(mask)
    kept[list(slices)] = mask[list(slices)]
    extent = bounding_extent(kept)
    bits = b"" if extent is None else pack_bits(kept[extent.slices])
    return ProposedSlices(name, 0, dict.fromkeys(slices, sure), extent, bits)


class Applying:
    """A desk whose application of an example is under way."""

    def __init__(self, desk):
        self.desk = desk
        desk.client.holds = True
        assert desk.controller.apply_examples([b"an example"])
        self.pending = desk.client.waiting[-1]

    def say(self, *parts):
        for part in parts:
            self.pending.hand_out(part)
        self.desk.settle()

    def end(self, error=None):
        if error is not None:
            self.desk.client.error = error
        self.desk.client.holds = False
        self.desk.settle()


def proposes(desk, *parts):
    work = Applying(desk)
    work.say(*parts)
    work.end()
    return work


def named(desk, name):
    segmentation = desk.scene.segmentation.GetSegmentation()
    return segmentation.GetSegmentIdBySegmentName(name)


def mask_of(desk, name):
    return desk.scene.mask(named(desk, name))


def names(desk):
    segmentation = desk.scene.segmentation.GetSegmentation()
    return [
        segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())
    ]


def texts(desk):
    return [message.text for message in desk.told.messages]


@pytest.fixture
def bare(desks):
    """A desk without segments."""
    return desks(segments=())


# Use as example.


def test_visible_segments_with_masks_are_learnt_with_name_colour_and_code(desk):
    desk.scene.paint("a", LIVER)
    desk.scene.segment("a").SetTag("TerminologyEntry", CODE)
    made = []
    assert desk.controller.make_example(made.append)
    assert desk.status.examples.phase == "making"
    desk.settle()

    (taught,) = desk.client.taught[0].segments
    assert (taught.name, taught.terminology) == ("a", CODE)
    assert taught.colour == pytest.approx(desk.scene.segment("a").GetColor())
    whole = np.zeros(SHAPE, bool)
    whole[taught.extent.slices] = taught.mask()
    np.testing.assert_array_equal(whole, LIVER)
    assert [(one.content, one.names) for one in made] == [(b"learnt", ("a",))]
    assert desk.status.examples.phase == ""


def test_hidden_segments_and_open_proposals_are_not_learnt(desk):
    desk.scene.paint("a", LIVER)
    desk.scene.paint("b", SPLEEN)
    desk.scene.segmentation.GetDisplayNode().SetSegmentVisibility("b", False)
    proposes(desk, proposed("kidney", block(9, 1, 1)))
    assert desk.controller.make_example(lambda one: None)
    assert [one.name for one in desk.client.taught[-1].segments] == ["a"]

    desk.settle()
    desk.controller.accept_proposal(named(desk, "kidney"))
    assert desk.controller.make_example(lambda one: None)
    assert [one.name for one in desk.client.taught[-1].segments] == ["a", "kidney"]


def test_nothing_to_learn_is_said_with_the_next_step(desk):
    assert not desk.status.examples.can_make
    assert not desk.controller.make_example(lambda one: None)
    assert texts(desk) == ["There is no finished segment to learn from."]
    assert desk.told.messages[0].next_step
    assert desk.client.taught == []


def test_a_code_that_cannot_be_stored_is_left_out(desk):
    desk.scene.paint("a", LIVER)
    desk.scene.segment("a").SetTag("TerminologyEntry", "liver")
    desk.controller.make_example(lambda one: None)
    assert desk.client.taught[0].segments[0].terminology == ""


# Apply example.


def test_several_segments_are_proposed_in_one_go_and_one_undo_takes_all_of_them_back(bare):
    work = Applying(bare)
    work.say(proposed("liver", LIVER))
    assert names(bare) == ["liver"]  # before the rest is there
    assert bare.status.examples.phase == "applying"
    work.say(proposed("spleen", SPLEEN))
    work.end()

    np.testing.assert_array_equal(mask_of(bare, "liver"), LIVER)
    np.testing.assert_array_equal(mask_of(bare, "spleen"), SPLEEN)
    segment = bare.scene.segment(named(bare, "liver"))
    assert segment.GetColor() == pytest.approx((0.9, 0.4, 0.2))
    assert tag_of(segment, "TerminologyEntry") == CODE
    assert "Proposed: liver, spleen." in texts(bare)
    assert bare.controller.undo()
    assert names(bare) == []
    assert bare.status.examples.rows == ()
    assert bare.controller.redo()
    bare.settle()
    np.testing.assert_array_equal(mask_of(bare, "spleen"), SPLEEN)
    assert {row.name for row in bare.status.examples.rows} == {"liver", "spleen"}


def test_slices_are_drawn_as_they_come_and_the_segment_is_written_at_the_end(bare):
    work = Applying(bare)
    work.say(sliced("liver", LIVER, [4]), sliced("liver", LIVER, [5, 6]))
    assert names(bare) == ["liver"]
    assert not mask_of(bare, "liver").any()
    overlays = bare.scene.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    assert overlays == 2
    work.say(proposed("liver", LIVER))
    assert bare.scene.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
    np.testing.assert_array_equal(mask_of(bare, "liver"), LIVER)
    work.end()


def test_the_next_click_corrects_the_proposal_from_its_own_prompts(bare, drawn):
    proposes(bare, proposed("liver", LIVER))
    bare.scene.select(named(bare, "liver"))
    bare.settle()
    assert [row.id for row in bare.status.prompts] == ["example-1"]
    bare.click((10, 3, 3))

    asked = bare.client.asked[-1].prompts
    assert asked.ids == ("example-1", "p1")
    assert asked.axis is None
    np.testing.assert_array_equal(mask_of(bare, "liver"), drawn(SHAPE, asked))
    assert bare.status.examples.selected.decision == "corrected"
    assert bare.controller.undo()
    np.testing.assert_array_equal(mask_of(bare, "liver"), LIVER)
    assert bare.status.examples.selected.decision == "proposed"


def test_clicks_of_the_user_are_sent_along_and_kept(desk):
    desk.scene.segment("a").SetName("liver")
    desk.click((4, 4, 4))
    work = Applying(desk)
    (clicks,) = desk.client.applied[-1].clicks
    assert clicks.name == "liver"
    assert [one.point_kji for one in clicks.prompts.points] == [(4, 4, 4)]
    work.say(proposed("liver", LIVER, clicks=clicks.prompts.points))
    work.end()

    assert names(desk) == ["liver", "b"]
    np.testing.assert_array_equal(desk.scene.mask("a"), LIVER)
    assert {row.id for row in desk.status.prompts} == {"p1", "example-1"}


def test_what_somebody_has_painted_stays_and_the_proposal_gets_a_segment_of_its_own(desk):
    desk.scene.segment("a").SetName("liver")
    painted = block(2, 2, 2, 5)
    desk.scene.paint("a", painted)
    proposes(desk, proposed("liver", LIVER), proposed("spleen", SPLEEN))

    np.testing.assert_array_equal(desk.scene.mask("a"), painted)
    assert "liver (proposal)" in names(desk)
    # Where both claim a voxel the finished segment keeps it.
    np.testing.assert_array_equal(mask_of(desk, "liver (proposal)"), LIVER & ~painted)
    np.testing.assert_array_equal(mask_of(desk, "spleen"), SPLEEN)


def test_a_segment_of_another_volume_is_left_alone(desk):
    desk.scene.segment("a").SetName("liver")
    desk.click((4, 4, 4))
    before = desk.scene.mask("a")
    other = desk.scene.add_volume(desk.voxels, np.diag([1, 1, 1.5, 1]), "follow-up")
    desk.scene.editor.SetAndObserveSourceVolumeNode(other)
    desk.settle()
    proposes(desk, proposed("liver", LIVER))
    assert desk.client.applied[-1].clicks == ()
    assert not (before & ~desk.scene.mask("a")).any()
    assert "liver (proposal)" in names(desk)


def test_a_completed_segment_is_left_alone(desk):
    desk.scene.segment("a").SetName("liver")
    desk.click((4, 4, 4))
    before = desk.scene.mask("a")
    desk.scene.segment("a").SetTag("Segmentation.Status", "completed")
    proposes(desk, proposed("liver", LIVER))
    np.testing.assert_array_equal(desk.scene.mask("a"), before)
    assert "liver (proposal)" in names(desk)


def test_an_object_that_was_not_found_leaves_no_segment_but_a_note(bare):
    nothing = proposed("spleen", np.zeros(SHAPE, bool), {}, notes=["Nothing looks like it."])
    proposes(bare, proposed("liver", LIVER), nothing)
    assert names(bare) == ["liver"]
    assert "spleen: Nothing looks like it." in texts(bare)


def test_a_segment_that_the_user_goes_on_with_gets_no_proposal(desk):
    desk.scene.segment("a").SetName("liver")
    desk.settle()
    work = Applying(desk)
    assert desk.click((10, 10, 10), settle=False)
    click = desk.client.waiting[-1]
    desk.client.waiting.remove(click)
    click.settle(desk.client.answer(click.request))
    desk.settle()
    after = desk.scene.mask("a")
    assert after.any()
    work.say(sliced("liver", LIVER, [4]), proposed("liver", LIVER))
    work.end()
    np.testing.assert_array_equal(desk.scene.mask("a"), after)
    assert any("changed meanwhile" in text for text in texts(desk))


def test_cancel_keeps_what_is_proposed_and_takes_the_rest_away(bare):
    work = Applying(bare)
    work.say(proposed("liver", LIVER), sliced("spleen", SPLEEN, [7]))
    assert names(bare) == ["liver", "spleen"]
    assert bare.controller.cancel_examples()
    bare.settle()
    assert names(bare) == ["liver"]
    assert bare.client.waiting == []
    assert bare.status.examples.phase == ""
    assert bare.scene.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
    work.say(proposed("spleen", SPLEEN))  # too late
    assert names(bare) == ["liver"]
    assert bare.told.messages == []


def test_a_newer_application_takes_the_place_of_the_older_one(bare):
    first = Applying(bare)
    second = Applying(bare)
    one, other = bare.client.applied
    assert one.target == other.target
    assert other.generation > one.generation
    first.say(proposed("liver", LIVER))
    assert names(bare) == []
    second.say(proposed("spleen", SPLEEN))
    assert names(bare) == ["spleen"]


def test_another_volume_ends_the_application(bare):
    work = Applying(bare)
    other = bare.scene.add_volume(bare.voxels + 1, np.eye(4), "other")
    bare.scene.editor.SetAndObserveSourceVolumeNode(other)
    bare.settle()
    assert bare.status.examples.phase == ""
    work.say(proposed("liver", LIVER))
    assert names(bare) == []


def test_a_dead_worker_is_told_once_and_what_was_proposed_stays(bare):
    work = Applying(bare)
    work.say(proposed("liver", LIVER), sliced("spleen", SPLEEN, [7]))
    work.end(WorkerDied("The worker ended by itself.", "Repeat the request."))
    assert names(bare) == ["liver"]
    assert texts(bare) == ["The worker ended by itself."]


def test_an_undo_in_between_takes_back_what_was_there_and_the_rest_still_comes(bare):
    work = Applying(bare)
    work.say(proposed("liver", LIVER))
    bare.controller.undo()
    bare.settle()
    work.say(proposed("spleen", SPLEEN))
    work.end()
    assert names(bare) == ["spleen"]
    np.testing.assert_array_equal(mask_of(bare, "spleen"), SPLEEN)
    assert bare.controller.undo()
    assert names(bare) == []


def test_masking_is_obeyed(desk):
    editor = desk.scene.editor
    desk.scene.paint("b", block(3, 3, 3, 2))
    editor.SetMaskMode(desk.scene.mrml.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment)
    editor.SetMaskSegmentID("b")
    editor.SetOverwriteMode(editor.OverwriteNone)
    proposes(desk, proposed("liver", LIVER))
    np.testing.assert_array_equal(mask_of(desk, "liver"), block(3, 3, 3, 2))


def test_no_example_is_refused_with_a_sentence(desk):
    assert not desk.controller.apply_examples([])
    assert "0 examples" in texts(desk)[0]


# The review.


SURE = {3: 0.9, 4: 0.2, 5: 0.3, 6: 0.7}


@pytest.fixture
def reviewed(bare):
    """A desk with two proposals, the doubtful one selected."""
    proposes(bare, proposed("spleen", SPLEEN), proposed("liver", LIVER, SURE))
    bare.scene.select(named(bare, "liver"))
    bare.settle()
    return bare


def test_the_strip_shows_each_slice_and_rows_come_most_doubtful_first(reviewed):
    examples = reviewed.status.examples
    assert {one.index: one.confidence for one in examples.strip} == SURE
    assert [row.name for row in examples.rows] == ["liver", "spleen"]
    assert examples.rows[0].doubtful == 2
    assert examples.selected == examples.rows[0]


def test_doubtful_places_lie_in_the_segment_and_come_one_after_the_other(reviewed):
    first = reviewed.controller.doubtful_place()
    i, j, k = np.round(first).astype(int)
    assert k == 4
    assert LIVER[k, j, i]
    assert reviewed.controller.strip_index(first) == 4
    np.testing.assert_array_equal(reviewed.controller.doubtful_place(), first)  # the only place
    assert reviewed.controller.place_of_slice(6)[2] == 6
    assert reviewed.controller.place_of_slice(10**6)[2] == SHAPE[0] - 1


def test_a_slice_with_a_click_is_checked_and_the_next_place_is_another_one(reviewed):
    reviewed.click((4, 4, 4))
    strip = {one.index: one.checked for one in reviewed.status.examples.strip}
    assert strip == {3: False, 4: True, 5: False, 6: False}
    assert reviewed.controller.doubtful_place()[2] == 5


def test_accepting_leaves_the_mask_and_goes_on_with_the_next_proposal(reviewed):
    liver = named(reviewed, "liver")
    assert reviewed.controller.accept_proposal()
    np.testing.assert_array_equal(mask_of(reviewed, "liver"), LIVER)
    assert [row.name for row in reviewed.status.examples.rows] == ["spleen"]
    assert reviewed.status.segment_name == "spleen"
    reviewed.scene.select(liver)
    reviewed.settle()
    assert reviewed.status.examples.selected.decision == "accepted"
    proposes(reviewed, proposed("liver", block(2, 2, 2)))
    np.testing.assert_array_equal(mask_of(reviewed, "liver"), LIVER)  # it is decided


def test_rejecting_takes_the_segment_away_as_one_undo_step(reviewed):
    assert reviewed.controller.reject_proposal()
    assert names(reviewed) == ["spleen"]
    assert reviewed.status.segment_name == "spleen"
    assert reviewed.controller.undo()
    np.testing.assert_array_equal(mask_of(reviewed, "liver"), LIVER)
    assert {row.name for row in reviewed.status.examples.rows} == {"liver", "spleen"}


def test_rejecting_gives_back_what_it_took_from_another_proposal(bare):
    over = block(5, 8, 8)
    proposes(bare, proposed("spleen", SPLEEN), proposed("liver", over))
    assert not (mask_of(bare, "spleen") & over).any()
    bare.controller.reject_proposal(named(bare, "liver"))
    np.testing.assert_array_equal(mask_of(bare, "spleen"), SPLEEN)


def test_rejecting_keeps_the_clicks_of_the_user_with_their_own_answer(desk, drawn):
    desk.scene.segment("a").SetName("liver")
    desk.click((4, 4, 4))
    own = desk.client.asked[-1].prompts
    work = Applying(desk)
    points = desk.client.applied[-1].clicks[0].prompts.points
    work.say(proposed("liver", LIVER, clicks=points))
    work.end()
    assert desk.controller.reject_proposal()
    desk.settle()
    np.testing.assert_array_equal(desk.scene.mask("a"), drawn(SHAPE, own))
    assert desk.status.examples.rows == ()
    assert desk.controller.undo()
    np.testing.assert_array_equal(desk.scene.mask("a"), LIVER)
    assert [row.name for row in desk.status.examples.rows] == ["liver"]


def test_a_segment_without_a_proposal_cannot_be_decided_on(desk):
    desk.click((4, 4, 4))
    assert not desk.controller.accept_proposal()
    assert not desk.controller.reject_proposal()
    assert desk.controller.doubtful_place() is None
    assert desk.controller.place_of_slice(3) is None
    assert desk.controller.strip_index(np.zeros(3)) is None
    assert desk.scene.mask("a").any()


def test_keeping_the_mask_accepts_it(reviewed):
    assert reviewed.controller.seal()
    np.testing.assert_array_equal(mask_of(reviewed, "liver"), LIVER)
    assert reviewed.status.examples.selected.decision == "accepted"


def test_removing_all_points_ends_the_review(reviewed):
    reviewed.controller.clear()
    assert [row.name for row in reviewed.status.examples.rows] == ["spleen"]
    assert reviewed.status.examples.strip == ()


def test_a_segmentation_on_another_grid_is_learnt_and_proposed_voxel_for_voxel(desk):
    transform = desk.scene.add_transform(
        [[1, 0, 0, 30.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )
    desk.volume.SetAndObserveTransformNodeID(transform.GetID())
    desk.scene.segmentation.SetAndObserveTransformNodeID(transform.GetID())
    desk.scene.paint("a", LIVER)
    desk.settle()
    desk.controller.make_example(lambda one: None)
    taught = desk.client.taught[0].segments[0]
    assert taught.extent == bounding_extent(LIVER)
    desk.settle()
    proposes(desk, proposed("spleen", SPLEEN))
    np.testing.assert_array_equal(mask_of(desk, "spleen"), SPLEEN)
    desk.scene.select(named(desk, "spleen"))
    assert desk.controller.doubtful_place()[0] > 30


# Bad input.


def test_a_segmentation_that_cannot_be_written_on_is_refused_with_a_sentence(desk):
    converter = desk.scene.mrml.vtkSegmentationConverter
    name = converter.GetReferenceImageGeometryParameterName()
    desk.scene.paint("a", LIVER)
    desk.scene.segmentation.GetSegmentation().SetConversionParameter(name, "rubbish")
    desk.settle()
    assert not desk.controller.apply_examples([b"x"])
    assert not desk.controller.make_example(lambda one: None)
    assert len(texts(desk)) == 2
    assert all("grid" in text for text in texts(desk))
    assert desk.client.applied == desk.client.taught == []


def test_a_segmentation_of_surfaces_is_refused_with_a_sentence(desk):
    segmentation = desk.scene.segmentation.GetSegmentation()
    desk.scene.paint("a", LIVER)
    segmentation.CreateRepresentation("Closed surface")
    segmentation.SetSourceRepresentationName("Closed surface")
    desk.settle()
    assert not desk.status.examples.can_apply
    assert not desk.controller.apply_examples([b"x"])
    assert "not made of label maps" in texts(desk)[0]


def test_without_a_volume_nothing_is_asked(bare):
    bare.scene.editor.SetAndObserveSourceVolumeNode(None)
    bare.settle()
    examples = bare.status.examples
    assert (examples.can_make, examples.can_apply) == (False, False)
    assert not bare.controller.apply_examples([b"x"])
    assert not bare.controller.make_example(lambda one: None)
    assert bare.client.applied == []


def test_a_proposal_outside_of_the_volume_is_told_and_leaves_nothing_behind(bare):
    far = proposed("liver", LIVER)
    slices = ProposedSlices(
        "liver",
        0,
        dict.fromkeys(range(20, 24), 0.5),
        bounding_extent(LIVER).moved((17, 0, 0)),
        far.bits,
    )
    work = Applying(bare)
    work.say(slices)
    work.end()
    assert names(bare) == []
    assert any("outside" in text for text in texts(bare))


def test_the_scene_may_close_in_the_middle(bare):
    work = Applying(bare)
    work.say(proposed("liver", LIVER), sliced("spleen", SPLEEN, [7]))
    bare.controller.scene_closed()
    assert bare.status.examples.phase == ""
    work.say(proposed("spleen", SPLEEN))
    assert names(bare) == ["liver"]
