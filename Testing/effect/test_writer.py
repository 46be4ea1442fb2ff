"""Writing through the effect: which call, which mode, which segment, how many undo states."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from protosam.errors import InvalidInput


@pytest.fixture
def editor(app: Any) -> Any:
    return app.editor().choose()


@pytest.fixture
def writer(editor: Any) -> Any:
    return editor.session._writer


def test_an_answer_for_the_selected_segment_goes_through_the_effects_own_modifier(
    editor: Any, writer: Any
) -> None:
    writer.save_state()
    writer.add(editor.node, "Segment_1", "crop", [0, 1, 0, 1, 0, 1])
    writer.remove(editor.node, "Segment_1", "other crop", [0, 1, 0, 1, 0, 1])
    assert editor.effect.log == [
        "save",
        (1, "Segment_1", "crop"),
        (2, "Segment_1", "other crop"),
    ]


def test_an_answer_for_another_segment_is_written_without_the_widgets_noticing(
    editor: Any, writer: Any
) -> None:
    writer.add(editor.node, "Segment_7", "crop", [0, 1, 0, 1, 0, 1])
    assert editor.effect.log == [(1, "Segment_7", "crop")]
    assert editor.node.selected == "Segment_1"
    assert editor.node.heard == []
    assert editor.node.disabled == 0


def test_an_answer_for_another_segmentation_is_refused(editor: Any, writer: Any) -> None:
    with pytest.raises(InvalidInput, match="another segmentation"):
        writer.add(type(editor.node)("Other"), "Segment_1", "crop", [0, 1, 0, 1, 0, 1])
    assert editor.effect.log == []


def test_an_answer_after_the_node_is_gone_is_refused(editor: Any, writer: Any) -> None:
    node, editor.node = editor.node, None
    with pytest.raises(InvalidInput):
        writer.remove(node, "Segment_1", "crop", [0, 1, 0, 1, 0, 1])


def test_an_added_segment_and_its_first_answer_are_one_undo_step(editor: Any, writer: Any) -> None:
    added = writer.addSegment()
    writer.save_state()
    assert editor.node.selected == added
    assert editor.effect.log == ["save"]
    writer.save_state()
    assert editor.effect.log == ["save", "save"]


def test_an_added_segment_that_was_left_alone_for_another_effect_is_its_own_step(
    editor: Any, writer: Any
) -> None:
    writer.addSegment()
    editor.leave()
    editor.choose()
    writer.save_state()
    assert editor.effect.log == ["save", "save"]


def test_undo_and_redo_are_the_editors_own(app: Any) -> None:
    module = importlib.import_module("ProtoSAMSlicerLib.SegmentWriter")
    core = importlib.import_module("ProtoSAMSlicerLib.Core").load()
    writer = module.SegmentWriter(app.editor().effect, core)
    assert (writer.undo(), writer.redo()) == (False, False)
