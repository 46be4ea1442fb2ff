"""Coming and going: clones, scene close, source volume, layout, another effect, Slicer's end."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import vtk

EVENTS = vtk.vtkCommand


@pytest.fixture
def editor(app: Any) -> Any:
    return app.editor().choose()


def recorded(app: Any) -> tuple[list[Any], list[Any]]:
    import sys

    conftest = sys.modules[type(app).__module__]
    return conftest.RecordingController.made, conftest.RecordingClient.made


def test_registering_and_cloning_start_nothing(app: Any) -> None:
    assert app.prototype.name == "ProtoSAM"
    assert app.prototype.requireSegments is False
    app.editor(), app.editor()
    controllers, clients = recorded(app)
    assert controllers == []
    assert clients == []
    assert timers() == []
    assert app.scene.observers == {}


def test_the_effect_has_an_icon_a_help_text_and_a_cursor(app: Any) -> None:
    effect = app.editor().effect.self()
    assert effect.icon().endswith("SegmentEditorEffect.png")
    assert "Ctrl" in effect.helpText()
    picture, *hot_spot = effect.createCursor(None)
    assert picture.endswith("Cursor-positive.png")
    assert hot_spot == [16, 16]


def test_defaults_are_set_before_there_is_a_panel(app: Any) -> None:
    node = app.editor().node
    assert node.attributes["ProtoSAM.Scope"] == "volume"
    assert node.attributes["ProtoSAM.ClosingMm"] == "0"


def test_activating_attaches_to_the_node_and_draws_into_every_slice_view(editor: Any) -> None:
    assert editor.controller.names() == ["attach"]
    assert editor.controller.calls[0][1] is editor.node
    assert [actors(view) for view in editor.app.slices.values()] == [3, 3]


def test_the_end_of_the_search_for_a_python_attaches_nothing_twice(editor: Any) -> None:
    for _turn in range(3):
        editor.app.tick()
    assert editor.controller.names() == ["attach"]


def test_leaving_takes_everything_back(editor: Any) -> None:
    editor.post(EVENTS.LeftButtonPressEvent, (5, 5), "shift")
    editor.leave()
    assert editor.controller.names() == ["attach", "detach"]
    assert [actors(view) for view in editor.app.slices.values()] == [0, 0]
    assert editor.node.observers == {}
    assert editor.click() == (False, False)


def test_leaving_twice_or_before_coming_does_no_harm(app: Any) -> None:
    editor = app.editor()
    editor.effect.self().deactivate()
    editor.choose()
    editor.effect.self().cleanup()
    editor.effect.self().deactivate()
    assert editor.controller.names()[:2] == ["attach", "detach"]


def test_coming_back_uses_the_same_controller(editor: Any) -> None:
    first = editor.controller
    editor.leave()
    editor.choose()
    assert editor.controller is first
    assert first.names() == ["attach", "detach", "attach"]


def test_all_clones_share_one_worker(app: Any) -> None:
    one, other = app.editor().choose(), app.editor().choose()
    controllers, clients = recorded(app)
    assert len(clients) == 1
    assert one.controller is not other.controller
    assert one.controller.client is other.controller.client
    assert len(controllers) == 2
    assert len(timers()) == 1


def test_every_active_clone_is_drained_by_the_timer_and_no_other(app: Any) -> None:
    one, other = app.editor().choose(), app.editor().choose()
    other.leave()
    other.controller.calls.clear()
    app.tick()
    assert ("drain", 0.005) in one.controller.calls
    assert other.controller.calls == []


def test_the_timer_runs_as_often_as_the_controller_wants(editor: Any) -> None:
    timer = timers()[0]
    editor.app.tick()
    editor.app.tick()
    assert timer.interval == 100
    editor.controller.interval = 5
    editor.app.tick()
    assert timer.interval == 5


def test_a_click_has_the_timer_look_at_once(editor: Any) -> None:
    editor.app.tick()
    editor.app.tick()
    editor.click()
    assert timers()[0].interval == 5


def test_moves_of_the_mouse_do_not_put_the_timer_off(editor: Any) -> None:
    timer, starts = timers()[0], []
    editor.click()
    start = timer.start
    timer.start = lambda milliseconds: starts.append(milliseconds) or start(milliseconds)
    editor.post(EVENTS.LeftButtonPressEvent, (5, 5), "shift")
    for step in range(20):
        editor.post(EVENTS.MouseMoveEvent, (5 + step, 9), "shift")
    assert starts == []
    assert timer.running is True


def test_the_timer_rests_once_no_effect_is_active(editor: Any) -> None:
    editor.leave()
    editor.app.tick()
    editor.app.tick()
    assert timers()[0].running is False


def test_what_the_worker_still_owes_is_fetched_after_the_effect_was_left(editor: Any) -> None:
    client = editor.session.client
    editor.leave()
    client.busy = True
    editor.app.tick()
    editor.app.tick()
    assert client.calls.count("drain") >= 1
    client.busy = False
    editor.app.tick()
    assert timers()[0].running is False


def test_changing_the_segment_reaches_the_controller(editor: Any) -> None:
    editor.controller.calls.clear()
    editor.node.SetSelectedSegmentID("Segment_2")
    assert ("refresh",) in editor.controller.calls


@pytest.mark.parametrize("call", ["sourceVolumeNodeChanged", "referenceGeometryChanged"])
def test_another_volume_or_grid_reaches_the_controller(editor: Any, call: str) -> None:
    editor.controller.calls.clear()
    getattr(editor.effect.self(), call)()
    assert ("refresh",) in editor.controller.calls


def test_scene_close_reaches_every_clone_also_those_not_active(app: Any) -> None:
    one, other = app.editor().choose(), app.editor().choose()
    other.leave()
    one.controller.say(busy=True, can_cancel=True)
    app.scene.invoke(app.scene.StartCloseEvent)
    assert one.controller.names()[-1] == "scene_closed"
    assert other.controller.names()[-1] == "scene_closed"
    one.leave()
    assert one.node.observers == {}


def test_while_the_scene_closes_nothing_is_asked_of_the_controller(editor: Any) -> None:
    editor.app.scene.IsClosing = lambda: True
    editor.controller.calls.clear()
    editor.node.invoke(EVENTS.ModifiedEvent)
    assert editor.controller.calls == []


def test_after_a_scene_close_the_effect_works_on_the_new_node(editor: Any) -> None:
    editor.app.scene.invoke(editor.app.scene.StartCloseEvent)
    editor.leave()
    editor.node = type(editor.node)("New")
    editor.effect.self().setMRMLDefaults()
    editor.choose()
    assert editor.controller.calls[-1][0] != "scene_closed"
    attached = [call for call in editor.controller.calls if call[0] == "attach"]
    assert attached[-1][1] is editor.node


def test_a_node_that_is_gone_is_survived(app: Any) -> None:
    editor = app.editor()
    editor.node = None
    editor.effect.self().activate()
    assert editor.controller is None
    editor.effect.self().deactivate()
    assert editor.effect.self().session.active is False


def test_a_layout_with_other_views_gets_the_prompts(editor: Any) -> None:
    red, green = editor.app.slices["Red"], editor.app.slices.pop("Green")
    renders = green.renders
    editor.effect.self().layoutChanged()
    assert [actors(red), actors(green)] == [3, 0]
    assert green.renders == renders
    assert editor.post(EVENTS.LeftButtonPressEvent, view=green) is False


def test_the_worker_ends_with_slicer(editor: Any) -> None:
    client = editor.session.client
    editor.app.application.emit("aboutToQuit()")
    assert client.calls.count("close") == 1
    assert editor.controller.names()[-1] == "detach"
    assert timers()[0].running is False
    editor.app.application.emit("aboutToQuit()")
    assert client.calls.count("close") == 1


def test_nothing_starts_again_while_slicer_ends(editor: Any) -> None:
    editor.app.application.emit("aboutToQuit()")
    late = editor.app.editor().choose()
    assert late.controller is None or late.controller.client.calls.count("close") == 1
    assert timers()[0].running is False


def test_an_effect_that_slicer_has_deleted_is_left_quietly(
    editor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = editor.controller
    monkeypatch.setattr(type(editor.effect), "__bool__", lambda _self: False, raising=False)
    editor.node.invoke(EVENTS.ModifiedEvent)
    editor.app.tick()
    assert controller.names() == ["attach", "detach"]
    assert editor.node.observers == {}


def test_the_shared_worker_keeps_no_clone_alive(app: Any) -> None:
    editor = app.editor().choose()
    editor.leave()
    known = weakref.ref(editor.session)
    controllers, _clients = recorded(app)
    controllers.clear()
    editor.effect.self().session = None
    editor.effect.editor = None
    del editor
    gc.collect()
    assert known() is None


def test_start_stop_and_log_of_the_worker(editor: Any) -> None:
    client = editor.session.client
    editor.controller.say(worker="ready", model="protosam-tiny", device="cpu", memory_mb=812.0)
    assert editor.ui.statusChip.text == "Ready · protosam-tiny · cpu · 812 MB"
    editor.ui.stopButton.click()
    assert client.calls[-1] == "shutdown"
    assert editor.controller.names()[-1] == "worker_changed"
    editor.controller.say(worker="stopped")
    assert editor.ui.stopButton.enabled is False
    editor.ui.startButton.click()
    assert client.calls[-1] == "restart"
    editor.ui.logButton.click()
    assert editor.ui.logView.visible is True
    assert "loading torch" in editor.ui.logView.plainText


def timers() -> list[Any]:
    import sys

    return sys.modules["qt"].QTimer.made


def actors(view: Any) -> int:
    return int(view.renderer.GetViewProps().GetNumberOfItems())
