"""The panel: what it shows of the status, and what becomes of what is pressed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def editor(app: Any) -> Any:
    return app.editor().choose()


def test_nothing_but_the_essentials_is_open_at_first(editor: Any) -> None:
    ui = editor.ui
    hidden = (ui.setupFrame, ui.messageLabel, ui.progressBar, ui.cancelButton, ui.logView)
    assert [one.visible for one in hidden] == [False] * 5
    assert ui.advancedButton.collapsed is True


def test_the_hint_says_what_to_do_next(editor: Any) -> None:
    editor.controller.say(hint="Click what is missing.")
    assert editor.ui.hintLabel.text == "Click what is missing."


def test_progress_and_cancel_are_there_while_something_runs(editor: Any) -> None:
    ui = editor.ui
    editor.controller.say(busy=True, can_cancel=True, progress=0.4, progress_text="Slice 12")
    assert ui.progressBar.visible is True
    assert ui.progressBar.value == 40
    assert ui.progressBar.format == "Slice 12"
    ui.cancelButton.click()
    assert editor.controller.names()[-1] == "cancel"
    editor.controller.say(busy=False, can_cancel=False)
    assert ui.progressBar.visible is False
    assert ui.cancelButton.visible is False


def test_progress_without_a_number_is_a_moving_bar(editor: Any) -> None:
    editor.controller.say(busy=True, progress=None)
    assert editor.ui.progressBar.range == (0, 0)


def test_prompts_are_listed_and_the_selected_one_can_be_removed(editor: Any) -> None:
    rows = (row("p1", True), row("p2", False))
    editor.controller.say(prompts=rows, can_clear=True)
    editor.session.prompts_changed()
    assert editor.ui.promptList.rows == ["Inside p1", "Inside p2 …"]
    assert editor.ui.removeButton.enabled is False
    editor.ui.promptList.setCurrentRow(1)
    editor.ui.removeButton.click()
    assert ("remove", "p2") in editor.controller.calls


def test_delete_removes_the_selected_prompt_while_the_list_has_the_keyboard(editor: Any) -> None:
    (delete,) = editor.ui.promptList.children()
    assert delete.context == 0
    delete.emit("activated()")
    assert "remove" not in editor.controller.names()
    editor.controller.say(prompts=(row("p1", True),))
    editor.session.prompts_changed()
    editor.ui.promptList.setCurrentRow(0)
    delete.emit("activated()")
    assert ("remove", "p1") in editor.controller.calls


def test_a_selection_in_the_list_survives_new_prompts(editor: Any) -> None:
    editor.controller.say(prompts=(row("p1", True), row("p2", True)))
    editor.session.prompts_changed()
    editor.ui.promptList.setCurrentRow(1)
    editor.controller.say(prompts=(row("p2", True), row("p3", True)))
    editor.session.prompts_changed()
    assert editor.session.panel.selectedPrompt() == "p2"
    editor.controller.say(prompts=())
    editor.session.prompts_changed()
    assert editor.ui.removeButton.enabled is False


@pytest.mark.parametrize(
    ("button", "call"),
    [("clearButton", "clear"), ("sealButton", "seal"), ("updateButton", "rerun")],
)
def test_buttons_reach_the_controller(editor: Any, button: str, call: str) -> None:
    assert getattr(editor.ui, button).enabled is False
    editor.controller.say(can_clear=True)
    getattr(editor.ui, button).click()
    assert editor.controller.names()[-1] == call


@pytest.mark.parametrize(
    ("widget", "set_it", "name", "value"),
    [
        ("closingSpin", lambda one: one.setValue(1.5), "ClosingMm", "1.5"),
        ("openingSpin", lambda one: one.setValue(2.0), "OpeningMm", "2.0"),
        ("smoothingSpin", lambda one: one.setValue(0.5), "SmoothingMm", "0.5"),
        ("bodiesSpin", lambda one: one.setValue(2), "Bodies", "2"),
        ("fillHolesCheck", lambda one: one.setChecked(False), "FillHoles", "0"),
        ("removeIslandsCheck", lambda one: one.setChecked(False), "RemoveIslands", "0"),
        ("windowCombo", lambda one: one.setCurrentIndex(1), "Window", "view"),
        ("scopeSliceButton", lambda one: one.click(), "Scope", "slice"),
    ],
)
def test_settings_go_to_the_node_and_then_to_the_controller(
    editor: Any, widget: str, set_it: Any, name: str, value: str
) -> None:
    editor.controller.calls.clear()
    set_it(getattr(editor.ui, widget))
    assert editor.node.attributes[f"ProtoSAM.{name}"] == value
    assert ("refresh",) in editor.controller.calls


def test_what_stands_on_the_node_is_shown_and_not_set_again(editor: Any) -> None:
    node = editor.node
    changed = {"Scope": "slice", "ClosingMm": "3.5", "FillHoles": "0", "Model": "sam_vit_b"}
    changed |= {"SmoothingMm": "1.5", "Bodies": "3"}
    for name, value in changed.items():
        node.attributes[f"ProtoSAM.{name}"] = value
    editor.effect.self().updateGUIFromMRML()
    ui = editor.ui
    assert ui.scopeSliceButton.checked is True
    assert (ui.closingSpin.value, ui.smoothingSpin.value, ui.bodiesSpin.value) == (3.5, 1.5, 3)
    assert ui.fillHolesCheck.checked is False
    assert ui.modelCombo.itemData(ui.modelCombo.currentIndex) == "sam_vit_b"
    assert {name: node.attributes[f"ProtoSAM.{name}"] for name in changed} == changed


def test_a_number_that_cannot_be_read_leaves_the_widget_as_it_is(editor: Any) -> None:
    editor.node.attributes["ProtoSAM.ClosingMm"] = "wide"
    editor.node.attributes["ProtoSAM.Bodies"] = "many"
    editor.effect.self().updateGUIFromMRML()
    assert (editor.ui.closingSpin.value, editor.ui.bodiesSpin.value) == (0.0, 0)


def test_choosing_own_values_starts_from_the_window_that_is_seen(editor: Any) -> None:
    ui = editor.ui
    assert ui.windowLowSpin.enabled is False
    ui.windowCombo.setCurrentIndex(2)
    assert (ui.windowLowSpin.value, ui.windowHighSpin.value) == (-100.0, 300.0)
    assert ui.windowLowSpin.enabled is True


@pytest.mark.parametrize(
    ("high", "decimals", "step"), [("0.8", 4, 0.01), ("400", 1, 10.0), ("nan", 3, 0.1)]
)
def test_the_window_is_set_in_steps_that_suit_the_intensities(
    editor: Any, high: str, decimals: int, step: float
) -> None:
    editor.node.attributes["ProtoSAM.WindowHigh"] = high
    editor.effect.self().updateGUIFromMRML()
    spin = editor.ui.windowHighSpin
    assert (spin.decimals, spin.singleStep) == (decimals, pytest.approx(step))


def test_models_are_listed_once_the_worker_is_ready(editor: Any) -> None:
    models = (
        SimpleNamespace(name="protosam-tiny", available=True),
        SimpleNamespace(name="sam_vit_h", available=False),
    )
    listed = SimpleNamespace(models=models)
    editor.session._modelsListed(SimpleNamespace(error=None, result=lambda: listed))
    texts = [text for text, _data in editor.ui.modelCombo.items]
    assert texts[1:] == ["protosam-tiny", "sam_vit_h (not on this machine)"]
    editor.session._modelsListed(SimpleNamespace(error=ValueError("gone")))
    assert editor.ui.modelCombo.count == 3
    assert editor.session.client.calls.count("models") == 1


def test_the_last_answer_is_described(editor: Any) -> None:
    editor.controller.say(
        score=0.913, elapsed_s=0.42, window=(-160.0, 240.0), notes=("On the CPU.",)
    )
    text = editor.ui.scoreLabel.text
    assert text == "Estimated quality 0.91 · 0.4 s · window -160 to 240 · On the CPU."


def test_what_the_clean_up_has_changed_is_one_line_and_no_line_if_it_is_nothing(
    editor: Any,
) -> None:
    label = editor.ui.cleanUpLabel
    assert label.visible is False
    editor.controller.say(clean_up="islands -312, smoothing +40/-38 voxels")
    assert label.visible is True
    assert label.text == "Cleaned up: islands -312, smoothing +40/-38 voxels"
    editor.controller.say(clean_up="")
    assert (label.visible, label.text) == (False, "")


@pytest.mark.parametrize("level", ["info", "warning", "error"])
def test_a_message_is_shown_once_and_opens_no_dialog(editor: Any, level: str) -> None:
    editor.session.message(
        SimpleNamespace(
            level=level, text="The worker ended.", next_step="Click again.", details="x"
        )
    )
    assert editor.ui.messageLabel.text == "The worker ended. Click again."
    assert editor.ui.messageLabel.toolTip == "x"
    assert editor.app.status_bar == ["The worker ended. Click again."]
    assert editor.app.asked == []


def test_an_adapter_of_the_users_own_is_known_by_name_alone_in_the_scene(
    editor: Any, tmp_path: Any
) -> None:
    folder = tmp_path / "prostate-v2"
    folder.mkdir()
    editor.app.file_name = str(folder)
    editor.ui.addAdapterButton.click()
    assert editor.node.attributes["ProtoSAM.Adapter"] == "prostate-v2"
    names = __import__("ProtoSAMSlicerLib.Names", fromlist=["Names"])
    assert names.path_of(names.ADAPTERS, "prostate-v2") == str(folder)
    assert names.path_of(names.ADAPTERS, "unknown") == "unknown"
    assert str(tmp_path) not in " ".join(editor.node.attributes.values())
    combo = editor.ui.adapterCombo
    assert combo.itemData(combo.currentIndex) == "prostate-v2"


def test_settings_that_cannot_be_read_count_as_empty(editor: Any) -> None:
    names = __import__("ProtoSAMSlicerLib.Names", fromlist=["Names"])
    editor.app.settings[names.MODELS] = "[1, 2"
    editor.app.settings[names.ADAPTERS] = "[1, 2]"
    assert names.known(names.MODELS) == {}
    assert names.known(names.ADAPTERS) == {}


def row(prompt_id: str, answered: bool) -> Any:
    from protosam.scene.status import PromptRow

    return PromptRow(prompt_id, "point", True, f"Inside {prompt_id}", answered)
