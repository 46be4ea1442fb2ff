"""The effect event by event: what is taken, what goes on to Slicer, and what comes of it."""

from __future__ import annotations

from typing import Any

import pytest
import vtk

EVENTS = vtk.vtkCommand


@pytest.fixture
def editor(app: Any) -> Any:
    return app.editor().choose()


def test_a_left_click_places_a_positive_point_where_the_button_went_down(editor: Any) -> None:
    assert editor.click((120, 60)) == (True, True)
    red = editor.app.slices["Red"].node
    assert ("click", red, (120, 60), True) in editor.controller.calls


def test_ctrl_and_left_click_places_a_negative_point(editor: Any) -> None:
    assert editor.click((10, 20), "ctrl") == (True, True)
    assert ("click", editor.app.slices["Red"].node, (10, 20), False) in editor.controller.calls


def test_a_hand_that_shakes_by_three_pixels_still_clicks(editor: Any) -> None:
    editor.post(EVENTS.LeftButtonPressEvent, (50, 50))
    editor.post(EVENTS.MouseMoveEvent, (52, 51))
    editor.post(EVENTS.LeftButtonReleaseEvent, (52, 52))
    assert ("click", editor.app.slices["Red"].node, (50, 50), True) in editor.controller.calls


def test_a_longer_drag_places_nothing_and_says_so(editor: Any) -> None:
    editor.drag((50, 50), (80, 50))
    assert "click" not in editor.controller.names()
    assert "drag" in editor.ui.hintLabel.text


def test_shift_and_drag_gives_a_box_and_shows_it_meanwhile(editor: Any) -> None:
    red = editor.app.slices["Red"]
    editor.post(EVENTS.LeftButtonPressEvent, (20, 30), "shift")
    renders = red.renders
    editor.post(EVENTS.MouseMoveEvent, (90, 70), "shift")
    assert red.renders > renders
    assert lines_in(red) == 1
    editor.post(EVENTS.LeftButtonReleaseEvent, (90, 70), "shift")
    assert ("box", red.node, (20, 30), (90, 70)) in editor.controller.calls
    assert lines_in(red) == 0


@pytest.mark.parametrize(
    "event",
    [
        EVENTS.RightButtonPressEvent,
        EVENTS.RightButtonReleaseEvent,
        EVENTS.MiddleButtonPressEvent,
        EVENTS.MiddleButtonReleaseEvent,
        EVENTS.MouseWheelForwardEvent,
        EVENTS.MouseWheelBackwardEvent,
        EVENTS.EnterEvent,
        EVENTS.LeaveEvent,
        EVENTS.KeyReleaseEvent,
    ],
)
def test_what_is_slicers_stays_slicers(editor: Any, event: int) -> None:
    assert editor.post(event) is False
    assert editor.controller.names() == ["attach"]


def test_moving_with_shift_leaves_the_crosshair_alone(editor: Any) -> None:
    assert editor.post(EVENTS.MouseMoveEvent, (30, 30), "shift") is False


@pytest.mark.parametrize("keys", ["alt", "shift ctrl"])
def test_other_combinations_of_keys_are_not_taken(editor: Any, keys: str) -> None:
    assert editor.click((30, 30), keys) == (False, False)


def test_a_release_without_a_press_is_not_taken(editor: Any) -> None:
    assert editor.post(EVENTS.LeftButtonReleaseEvent) is False


def test_the_second_half_of_a_double_click_is_swallowed(editor: Any) -> None:
    editor.click((60, 60))
    assert editor.post(EVENTS.LeftButtonDoubleClickEvent, (60, 60)) is True
    assert editor.post(EVENTS.LeftButtonReleaseEvent, (60, 60)) is True
    assert editor.controller.names().count("click") == 1


def test_in_window_level_mode_all_events_go_on_to_slicer(editor: Any) -> None:
    editor.app.mode = 5
    assert editor.click() == (False, False)
    editor.effect.self().interactionNodeModified(None)
    editor.app.mode = 1
    assert editor.click() == (True, True)


def test_the_tool_buttons_change_what_the_left_button_means(editor: Any) -> None:
    editor.ui.negativeButton.click()
    editor.click((11, 12))
    editor.ui.boxButton.click()
    editor.drag((10, 10), (40, 50))
    red = editor.app.slices["Red"].node
    assert ("click", red, (11, 12), False) in editor.controller.calls
    assert ("box", red, (10, 10), (40, 50)) in editor.controller.calls
    checked = [editor.ui.positiveButton, editor.ui.negativeButton, editor.ui.boxButton]
    assert [one.checked for one in checked] == [False, False, True]


def test_pressing_the_tool_that_is_chosen_keeps_it_chosen(editor: Any) -> None:
    editor.ui.positiveButton.click()
    assert editor.ui.positiveButton.checked


def test_the_cursor_says_what_a_click_would_do(editor: Any) -> None:
    red = editor.app.slices["Red"]
    editor.post(EVENTS.MouseMoveEvent, (30, 30))
    editor.post(EVENTS.MouseMoveEvent, (31, 30))
    editor.post(EVENTS.MouseMoveEvent, (32, 30), "ctrl")
    editor.post(EVENTS.MouseMoveEvent, (33, 30), "shift")
    editor.controller.within = False
    editor.post(EVENTS.MouseMoveEvent, (34, 30))
    names = [str(one[0]).rpartition("Cursor-")[2] for one in red.cursors]
    assert names == ["positive.png", "negative.png", "box.png", "forbidden"]


def test_a_prompt_is_grabbed_dragged_and_dropped(editor: Any) -> None:
    editor.controller.under_mouse = "p1"
    editor.drag((50, 50), (70, 60))
    assert editor.controller.names() == ["attach", "grab", "drag", "drop"]


def test_pressing_on_a_prompt_without_moving_it_only_selects_it(editor: Any) -> None:
    show_prompts(editor, "p1", "p2")
    editor.controller.under_mouse = "p2"
    editor.click()
    assert editor.controller.names() == ["attach", "grab", "drop"]
    assert editor.session.panel.selectedPrompt() == "p2"


def test_ctrl_click_near_a_prompt_does_not_grab_it(editor: Any) -> None:
    editor.controller.under_mouse = "p1"
    editor.click((50, 50), "ctrl")
    assert editor.controller.names() == ["attach", "click"]


@pytest.mark.parametrize("key", ["Delete", "BackSpace"])
def test_delete_removes_the_prompt_under_the_mouse(editor: Any, key: str) -> None:
    assert editor.post(EVENTS.KeyPressEvent, sym=key) is False
    editor.controller.under_mouse = "p7"
    assert editor.post(EVENTS.KeyPressEvent, sym=key) is True
    assert ("remove", "p7") in editor.controller.calls


def test_other_keys_go_on_to_slicer(editor: Any) -> None:
    assert editor.post(EVENTS.KeyPressEvent, sym="z") is False


def test_escape_gives_up_a_drag_and_leaves_the_effect_alone(editor: Any) -> None:
    escape = editor.app.escape
    editor.post(EVENTS.LeftButtonPressEvent, (20, 30), "shift")
    assert escape.enabled is False
    ours(editor).emit("activated()")
    assert editor.post(EVENTS.LeftButtonReleaseEvent, (90, 70), "shift") is False
    assert "box" not in editor.controller.names()
    assert escape.enabled is True
    assert ours(editor) is None


def test_escape_cancels_what_runs_and_is_slicers_again_afterwards(editor: Any) -> None:
    editor.controller.say(can_cancel=True, busy=True)
    ours(editor).emit("activated()")
    assert "cancel" in editor.controller.names()
    editor.controller.say(can_cancel=False, busy=False)
    assert editor.app.escape.enabled is True


def test_escape_is_given_back_when_the_effect_is_left_while_something_runs(editor: Any) -> None:
    editor.controller.say(can_cancel=True, busy=True)
    editor.leave()
    assert editor.app.escape.enabled is True
    assert ours(editor) is None


def test_a_shortcut_that_the_editor_has_removed_meanwhile_is_not_woken(editor: Any) -> None:
    editor.controller.say(can_cancel=True)
    editor.app.escape.setParent(None)
    editor.controller.say(can_cancel=False)
    assert editor.app.escape.enabled is False


def test_scrolling_a_view_draws_its_prompts_anew_and_warms_the_slices_there(editor: Any) -> None:
    green = editor.app.slices["Green"]
    renders = green.renders
    editor.effect.self().processViewNodeEvents(green.node, EVENTS.ModifiedEvent, green)
    assert green.renders == renders + 1
    assert ("scrolled", green.node) in editor.controller.calls


def test_scrolling_does_not_start_a_worker_that_was_stopped(editor: Any) -> None:
    green = editor.app.slices["Green"]
    editor.controller.say(worker="stopped")
    editor.effect.self().processViewNodeEvents(green.node, EVENTS.ModifiedEvent, green)
    assert "scrolled" not in [call[0] for call in editor.controller.calls]


def test_a_click_in_the_3d_view_turns_nothing_off_and_picks_nothing_where_nothing_is(
    editor: Any,
) -> None:
    view = editor.app.view3D
    assert editor.post(EVENTS.LeftButtonPressEvent, view=view) is False
    assert editor.post(EVENTS.LeftButtonReleaseEvent, view=view) is False
    assert "click_world" not in editor.controller.names()


def test_a_click_on_a_surface_in_the_3d_view_is_a_positive_point_there(
    editor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = __import__("ProtoSAMSlicerLib.EditorSession", fromlist=["EditorSession"])
    found = ((1.0, 2.0, 3.0), (0.0, 0.0, 1.0))
    monkeypatch.setattr(module, "pickSurface", lambda _renderer, _xy: found)
    view = editor.app.view3D
    editor.post(EVENTS.LeftButtonPressEvent, (40, 40), view=view)
    editor.post(EVENTS.MouseMoveEvent, (140, 40), view=view)
    editor.post(EVENTS.LeftButtonReleaseEvent, (140, 40), view=view)
    assert "click_world" not in editor.controller.names()
    editor.post(EVENTS.LeftButtonPressEvent, (40, 40), view=view)
    editor.post(EVENTS.LeftButtonReleaseEvent, (41, 40), view=view)
    assert ("click_world", found[0], True, found[1]) in editor.controller.calls


def test_the_first_click_in_an_empty_segmentation_adds_a_segment(editor: Any) -> None:
    editor.node.ids, editor.node.selected = [], None
    editor.controller.say(hint_key="no_segment")
    editor.controller.within = False
    editor.click()
    assert editor.node.ids == []
    editor.controller.within = True
    editor.click((5, 5), "ctrl")
    assert editor.node.ids == []
    editor.click()
    assert editor.node.ids == ["Segment_1"]
    assert editor.node.selected == "Segment_1"
    assert editor.effect.log == ["save"]


def test_no_segment_is_added_beside_others(editor: Any) -> None:
    editor.node.selected = None
    editor.controller.say(hint_key="no_segment")
    editor.click()
    assert editor.node.ids == ["Segment_1"]


def show_prompts(editor: Any, *ids: str) -> None:
    from protosam.scene.status import PromptRow

    rows = tuple(PromptRow(one, "point", True, f"Inside, {one}", True) for one in ids)
    editor.controller.say(prompts=rows)
    editor.session.prompts_changed()


def ours(editor: Any) -> Any:
    found = [one for one in editor.app.window.children() if one.name == "ours"]
    return found[0] if found else None


def lines_in(view: Any) -> int:
    actors = view.renderer.GetActors2D()
    return int(actors.GetLastActor2D().GetMapper().GetInput().GetNumberOfLines())
