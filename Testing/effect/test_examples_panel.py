"""Examples in the effect: files in a folder, buttons, the strip, and the review."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from protosam.scene.review import ExamplesStatus, ReviewRow, StripSlice

UI = (
    Path(__file__).resolve().parents[2]
    / "ProtoSAMSegmentEditor/SegmentEditorProtoSAM/Resources/UI/ProtoSAMExamples.ui"
)
STRIP = (
    StripSlice(4, 0.9, False),
    StripSlice(5, 0.1, False),
    StripSlice(6, 0.12, False),
    StripSlice(7, 0.3, True),
)
LIVER = ReviewRow("Segment_1", "liver", "proposed", 0.4, 2)
SPLEEN = ReviewRow("Segment_2", "spleen", "corrected", 0.8, 0)


@pytest.fixture
def editor(app: Any) -> Any:
    made = app.editor().choose()
    made.controller.say(examples=ExamplesStatus(can_make=True, can_apply=True))
    return made


@pytest.fixture
def folder(app: Any, editor: Any, tmp_path: Path) -> Path:
    """A folder with two examples, chosen by the user."""
    chosen = tmp_path / "examples"
    chosen.mkdir()
    for name in ("liver.psexample", "spleen.PSEXAMPLE", "notes.txt"):
        (chosen / name).write_bytes(name.encode())
    app.file_name = str(chosen)
    ui(editor).folderButton.click()
    return chosen


def ui(editor: Any) -> Any:
    return editor.session.examples.panel.ui


def reviewing(editor: Any, *rows: ReviewRow, **more: Any) -> None:
    chosen = rows[0] if rows else None
    editor.controller.say(
        examples=ExamplesStatus(
            can_make=True, can_apply=True, rows=rows, selected=chosen, strip=STRIP, **more
        )
    )


def called(editor: Any, name: str) -> list[Any]:
    return [one[1:] for one in editor.controller.calls if one[0] == name]


def messages(editor: Any) -> str:
    return str(editor.ui.messageLabel.text)


def test_nothing_is_shown_at_first_but_the_buttons(editor: Any) -> None:
    widgets = ui(editor)
    assert widgets.examplesButton.collapsed is True
    hidden = (widgets.exampleBar, widgets.exampleCancelButton, widgets.proposalList)
    assert [one.visible for one in hidden] == [False] * 3
    assert widgets.stripSlider.visible is False
    assert widgets.applyButton.enabled is False  # there is no example yet
    assert widgets.useButton.enabled is True
    assert widgets.exampleCombo.items == [("No example in the folder", "")]


def test_the_examples_of_the_folder_are_offered_one_by_one_and_together(
    editor: Any, folder: Path
) -> None:
    names = [text for text, _ in ui(editor).exampleCombo.items]
    assert names == ["liver.psexample", "spleen.PSEXAMPLE", "All 2 of this folder"]
    assert ui(editor).applyButton.enabled is True
    ui(editor).applyButton.click()
    assert called(editor, "apply_examples") == [([b"liver.psexample"],)]
    ui(editor).exampleCombo.setCurrentIndex(2)
    ui(editor).applyButton.click()
    assert called(editor, "apply_examples")[1] == ([b"liver.psexample", b"spleen.PSEXAMPLE"],)


def test_an_example_that_has_gone_is_told_and_the_list_is_renewed(
    editor: Any, folder: Path
) -> None:
    (folder / "liver.psexample").unlink()
    ui(editor).applyButton.click()
    assert called(editor, "apply_examples") == []
    assert "liver.psexample cannot be read" in messages(editor)
    assert [text for text, _ in ui(editor).exampleCombo.items] == ["spleen.PSEXAMPLE"]


def test_what_is_learnt_is_kept_under_the_names_of_its_segments(editor: Any, folder: Path) -> None:
    ui(editor).useButton.click()
    ((made,),) = called(editor, "make_example")
    made(SimpleNamespace(content=b"first", names=("liver", "left/kidney|Mr. X")))
    made(SimpleNamespace(content=b"second", names=("liver", "left/kidney|Mr. X")))
    names = sorted(one.name for one in folder.iterdir())
    assert "liver-left_kidney_Mr_X.psexample" in names
    assert (folder / "liver-left_kidney_Mr_X-2.psexample").read_bytes() == b"second"
    assert not [one for one in names if one.endswith(".part")]
    assert "liver-left_kidney_Mr_X-2.psexample" in messages(editor)
    assert editor.session.examples.panel.chosenFiles() == [
        str(folder / "liver-left_kidney_Mr_X-2.psexample")
    ]


def test_the_folder_is_asked_for_once_and_stands_in_slicers_settings(
    app: Any, editor: Any, tmp_path: Path
) -> None:
    app.file_name = ""
    ui(editor).useButton.click()
    assert called(editor, "make_example") == []  # the dialog was closed
    app.file_name = str(tmp_path)
    ui(editor).useButton.click()
    assert len(called(editor, "make_example")) == 1
    assert app.settings["ProtoSAM/ExampleFolder"] == str(tmp_path)
    assert not [value for value in editor.node.attributes.values() if str(tmp_path) in value]


def test_a_folder_that_has_gone_is_told(app: Any, editor: Any, folder: Path) -> None:
    ui(editor).useButton.click()
    ((made,),) = called(editor, "make_example")
    app.settings["ProtoSAM/ExampleFolder"] = str(folder / "gone")
    made(SimpleNamespace(content=b"x", names=("liver",)))
    assert "its folder is gone" in messages(editor)


def test_no_dialog_opens_while_slicer_is_tested(app: Any, editor: Any) -> None:
    app.testing = True
    ui(editor).folderButton.click()
    assert "Dialogs stay closed" in messages(editor)


def test_progress_and_cancel_are_there_while_something_runs(editor: Any, folder: Path) -> None:
    running = ExamplesStatus(
        phase="applying", progress=0.4, progress_text="liver: 3 slices", can_apply=True
    )
    editor.controller.say(examples=running)
    widgets = ui(editor)
    assert (widgets.exampleBar.visible, widgets.exampleBar.value) == (True, 40)
    assert widgets.exampleBar.format == "liver: 3 slices"
    assert widgets.applyButton.enabled is False
    widgets.exampleCancelButton.click()
    assert called(editor, "cancel_examples") == [()]
    editor.controller.say(examples=ExamplesStatus(can_apply=True))
    assert widgets.exampleBar.visible is False
    assert widgets.applyButton.enabled is True


def test_proposals_are_listed_and_choosing_one_selects_its_segment(editor: Any) -> None:
    reviewing(editor, LIVER, SPLEEN)
    rows = ui(editor).proposalList
    assert rows.rows == ["liver: 2 doubtful slices", "spleen: corrected, 0 doubtful slices"]
    assert rows.currentRow == 0
    rows.setCurrentRow(1)
    assert editor.node.selected == "Segment_2"


def test_showing_proposals_selects_nothing(editor: Any) -> None:
    editor.node.heard.clear()
    reviewing(editor, LIVER, SPLEEN)
    reviewing(editor, SPLEEN, LIVER)
    assert editor.node.heard == []
    assert called(editor, "place_of_slice") == []


def test_the_strip_has_a_band_for_each_colour_and_moving_it_shows_the_slice(
    app: Any, editor: Any
) -> None:
    reviewing(editor, LIVER)
    slider = ui(editor).stripSlider
    assert (slider.visible, slider.maximum) == (True, 3)
    stops = re.findall(r"stop:([\d.]+) (#\w+)", slider.styleSheet)
    places = [float(place) for place, _ in stops]
    assert places == sorted(places)
    assert [colour for _, colour in stops][::2] == ["#2e9e57", "#d9362b", "#4a7fd4"]
    assert [round(one, 2) for one in places[::2]] == [0.0, 0.25, 0.75]

    place = np.array([1.0, 2.0, 3.0])
    editor.controller.place_of_slice = lambda index: place * index
    editor.controller.strip_index = lambda _place: 5
    slider.setValue(1)
    ((scene, *ras, mode),) = app.jumps
    assert (scene, ras, mode) == (app.scene, [5.0, 10.0, 15.0], 0)
    assert ui(editor).stripLabel.text == "Slice 6: confidence 0.10"
    slider.setValue(3)
    editor.controller.strip_index = lambda _place: 7
    assert ui(editor).stripLabel.text in ("Slice 8: checked", "Slice 6: confidence 0.10")


def test_the_most_doubtful_slice_is_shown_and_marked_on_the_strip(app: Any, editor: Any) -> None:
    reviewing(editor, LIVER)
    editor.controller.doubtful_place = lambda: np.array([1.0, 2.0, 3.0])
    editor.controller.strip_index = lambda _place: 6
    ui(editor).doubtfulButton.click()
    assert len(app.jumps) == 1
    assert ui(editor).stripSlider.value == 2
    assert ui(editor).stripLabel.text == "Slice 7: confidence 0.12"
    editor.controller.doubtful_place = lambda: None
    ui(editor).doubtfulButton.click()
    assert len(app.jumps) == 1


def test_proposals_are_accepted_and_rejected_while_they_are_open(editor: Any) -> None:
    widgets = ui(editor)
    assert (widgets.acceptButton.enabled, widgets.rejectButton.enabled) == (False, False)
    reviewing(editor, LIVER)
    widgets.acceptButton.click()
    widgets.rejectButton.click()
    assert called(editor, "accept_proposal") == [()]
    assert called(editor, "reject_proposal") == [()]
    done = ReviewRow("Segment_1", "liver", "accepted", 0.4, 2)
    editor.controller.say(examples=ExamplesStatus(selected=done, strip=STRIP))
    assert widgets.acceptButton.enabled is False
    assert widgets.doubtfulButton.enabled is True  # it can still be looked at


def test_each_control_has_a_tool_tip_and_a_name_and_none_is_named_twice() -> None:
    nodes = list(ElementTree.parse(UI).iter("widget"))
    names = [one.attrib["name"] for one in nodes]
    assert len(names) == len(set(names))
    kinds = {"QPushButton", "QToolButton", "QComboBox", "QListWidget", "QSlider"}
    for node in nodes:
        if node.attrib["class"] in kinds:
            given = {one.attrib["name"] for one in node.findall("property")}
            assert {"toolTip", "accessibleName"} <= given, node.attrib["name"]
