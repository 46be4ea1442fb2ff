"""The application without a browser: events of real views offscreen, values for the page."""

from __future__ import annotations

import numpy as np
import pytest

from protosam.errors import InvalidInput, WorkerDied
from protosam.extents import bounding_extent, pack_bits
from protosam.intensity import Window
from protosam.scene import PARAMETERS
from protosam.wire.messages import (
    AdapterList,
    ModelInfo,
    ModelList,
    ModelLoaded,
    Prewarmed,
    Result,
    VolumeClosed,
    VolumeOpened,
)
from protosam.wire.patience import WorkerState
from protosam.wire.pending import Pending


class FakeClient:
    """Answers each request at the next drain: a ball of five voxels round every positive point."""

    def __init__(self):
        self.state = WorkerState("ready")
        self.volumes, self.due, self.asked = {}, [], []
        self.error = None
        self.ids = 0

    busy = False

    def soon(self, call):
        self.due.append(call)

    def give_up(self, request_id):
        self.due.append(lambda: None)

    def clock(self):
        return 0.0

    def drain(self, budget_s=0.01, wait_s=0.0):
        due, self.due = self.due, []
        for call in due:
            call()
        return len(due)

    def pending(self, answer, on_done=None):
        self.ids += 1
        made = Pending(self, None)
        made.request_id = self.ids
        if on_done is not None:
            made.when_done(on_done)
        self.due.append(lambda: made.settle(answer()))
        return made

    def open_volume(self, volume, on_done=None):
        self.volumes[volume.uid] = volume
        return self.pending(lambda: VolumeOpened(volume.uid, ()), on_done)

    def close_volume(self, uid, on_done=None):
        self.volumes.pop(uid, None)
        return self.pending(lambda: VolumeClosed(uid), on_done)

    def prewarm(self, request, on_done=None):
        return self.pending(lambda: Prewarmed(0, False), on_done)

    def adapters(self, request, on_done=None):
        return self.pending(lambda: AdapterList(()), on_done)

    def stats(self, on_done=None):
        return self.pending(lambda: WorkerDied("no stats"), on_done)

    def models(self, on_done=None):
        listed = ModelInfo("protosam-tiny", "tiny", "Apache-2.0", True, True)
        return self.pending(lambda: ModelList((listed,)), on_done)

    def load_model(self, request, on_done=None, on_progress=None):
        refused = WorkerDied(f"There is no {request.model}.", "Choose another.")
        answer = ModelLoaded if request.model == "protosam-tiny" else None
        return self.pending(lambda: refused if answer is None else None, on_done)

    def predict(self, request, on_done=None, on_progress=None, on_partial=None):
        self.asked.append(request)
        return self.pending(lambda: self.error or self.answer(request), on_done)

    def answer(self, request):
        if request.volume_uid not in self.volumes:
            return WorkerDied("That volume was closed.")
        shape = self.volumes[request.volume_uid].shape_kji
        grid = np.ogrid[tuple(slice(0, n) for n in shape)]
        mask = np.zeros(shape, bool)
        for point in request.prompts.points:
            far = sum((g - x) ** 2 for g, x in zip(grid, point.point_kji, strict=True))
            mask |= (far <= 25) & point.positive
        extent = bounding_extent(mask)
        bits = b"" if extent is None else pack_bits(mask[extent.slices])
        return Result(
            volume_uid=request.volume_uid,
            target=request.target,
            generation=request.generation,
            extent=extent,
            bits=bits,
            score=0.9,
            slice_scores={},
            axis=0,
            window=Window(0.0, 1.0),
            model="fake",
            digest="0",
            timings_s={"total": 0.01},
            notes=(),
        )

    def close(self):
        self.state = WorkerState("closed")

    def restart(self):
        self.state = WorkerState("starting")


@pytest.fixture(scope="module")
def made(gl):
    """One application for all tests of this module: views are slow to make."""
    from protosam_app.app import App
    from protosam_app.uploads import Inbox

    inbox, told = Inbox(), []
    app = App(FakeClient(), told.append, inbox)
    app.told = told
    for view in app.views.all.values():
        view.update_size(400, 300)
        view.interactor().InvokeEvent("WindowResizeEvent")
    yield app
    app.close()
    inbox.close()


@pytest.fixture
def app(made, a_volume_of):
    while made.stage.volume is not None:
        made.close_volume()
    made.close_alert(0)
    made.client.error = None
    made.pointer.choose("inside")
    made.pointer.linked = True
    for name, value in PARAMETERS.items():
        made.stage.set_setting(name, value)
    made.segments.set_keep_others(False)
    made.show(a_volume_of((24, 40, 48), name="One"))
    settle(made)
    return made


@pytest.fixture
def a_volume_of():
    from protosam.geometry import Volume
    from protosam_app.opening import shown

    def make(shape, name="Volume"):
        voxels = np.random.default_rng(1).integers(0, 200, shape).astype(np.int16)
        affine = np.diag([-1.5, -1.5, 3.0, 1.0])
        return shown(Volume(voxels, affine), name)

    return make


def settle(app, times=4):
    for _ in range(times):
        app.tick()
        app._followed_s = 0.0  # surfaces at once
        app._quiet_since_s = 0.0


def press(app, view, xy, *, control=False, shift=False, to=None):
    interactor = app.views.planes[view].interactor()
    for place, event in (
        (xy, "LeftButtonPress"),
        (to, "MouseMove"),
        (to or xy, "LeftButtonRelease"),
    ):
        if place is not None:
            x, y = (round(n) for n in place)
            interactor.SetEventInformation(x, y, int(control), int(shift))
            interactor.InvokeEvent(f"{event}Event")


def values(app):
    return app.values()


def test_a_click_in_a_view_becomes_a_point_there_and_the_segment_is_drawn(app):
    press(app, "axial", (200, 150))
    assert values(app)["busy"]
    settle(app)
    shown = values(app)
    assert [one["positive"] for one in shown["prompts"]] == [True]
    assert shown["segments"][0]["ml"] != "empty"
    assert shown["surface_count"] == 1
    assert shown["can_undo"]


def test_control_and_the_outside_tool_make_the_opposite_point(app):
    press(app, "axial", (200, 150))
    press(app, "axial", (230, 150), control=True)
    app.pointer.choose("outside")
    press(app, "axial", (180, 170))
    press(app, "axial", (210, 130), control=True)
    signs = [one["positive"] for one in values(app)["prompts"]]
    assert signs == [True, False, False, True]


def test_a_shifted_drag_is_a_box_and_a_plain_drag_is_nothing(app):
    press(app, "axial", (150, 120), to=(260, 200))
    assert values(app)["prompts"] == []
    press(app, "axial", (150, 120), to=(260, 200), shift=True)
    assert [one["kind"] for one in values(app)["prompts"]] == ["box"]


def test_a_click_makes_a_segment_if_there_is_none(app):
    app.segments.delete(app.segments.selected)
    settle(app)
    assert values(app)["segments"] == []
    press(app, "axial", (200, 150))
    settle(app)
    assert len(values(app)["segments"]) == 1
    assert values(app)["prompts"] != []


def test_a_click_moves_the_other_planes_to_it(app):
    before = {name: app.views.plane(name).index for name in app.views.planes}
    press(app, "axial", (140, 90))
    after = {name: app.views.plane(name).index for name in app.views.planes}
    assert after["axial"] == before["axial"]
    assert after["sagittal"] != before["sagittal"]
    assert after["coronal"] != before["coronal"]


def test_letters_say_where_the_patients_sides_are(app):
    axial, sagittal = app.views.plane("axial"), app.views.plane("sagittal")
    assert (axial.left, axial.right, axial.top, axial.bottom) == ("R", "L", "A", "P")
    assert (sagittal.top, sagittal.bottom) == ("S", "I")
    assert [app.views.plane(name).count for name in ("axial", "coronal", "sagittal")] == [
        24,
        40,
        48,
    ]


def test_every_slice_can_be_shown_by_its_number_and_ends_are_kept(app):
    for index in (0, 7, 23):
        app.views.set_slice("axial", index)
        assert app.views.plane("axial").index == index
    app.views.set_slice("axial", 99)
    assert app.views.plane("axial").index == 23


def test_the_cursor_moves_as_it_is_seen(app):
    x, y = app.views.xy_of("axial", app.views.cursor())
    app.views.move_cursor("axial", 3, 2)
    moved_x, moved_y = app.views.xy_of("axial", app.views.cursor())
    assert moved_x > x
    assert moved_y > y


def test_window_tool_changes_the_display_and_not_the_segment(app):
    before = app.stage.display()
    app.pointer.choose("window")
    press(app, "axial", (200, 150), to=(260, 150))
    after = app.stage.display()
    assert after.high - after.low > before.high - before.low
    assert values(app)["prompts"] == []


def test_the_clean_up_is_set_as_slicers_panel_does_and_asked_for(app):
    from protosam_app.actions import act

    press(app, "axial", (200, 150))
    settle(app)
    asked = len(app.client.asked)
    act(app, "smoothing_mm", "2.5")
    act(app, "bodies", "2")
    settle(app)
    clean_up = app.client.asked[-1].clean_up
    assert (clean_up.smoothing_mm, clean_up.bodies) == (2.5, 2)
    assert (values(app)["smoothing_mm"], values(app)["bodies"]) == (2.5, 2)
    assert len(app.client.asked) == asked + 2
    act(app, "bodies", "2")  # as it is
    settle(app)
    assert len(app.client.asked) == asked + 2


@pytest.mark.parametrize("value", ["", "-0.1", "50.1", "nan", "inf", "1e999", "wide", None, [], {}])
def test_a_smoothing_that_cannot_be_is_told(app, value):
    from protosam_app.actions import act

    act(app, "smoothing_mm", value)
    assert values(app)["smoothing_mm"] == 0
    assert len(values(app)["alerts"]) == 1


@pytest.mark.parametrize("value", ["", "-1", "100", "1.5", "\u0664", "many", None, True, [2]])
def test_a_number_of_bodies_that_cannot_be_is_told(app, value):
    from protosam_app.actions import act

    act(app, "bodies", value)
    assert values(app)["bodies"] == 0
    assert len(values(app)["alerts"]) == 1


def test_unknown_actions_and_wrong_arguments_are_told_and_harm_nothing(app):
    from protosam_app.actions import act

    act(app, "__class__")
    act(app, "tool:hammer")
    act(app, "set_slice", "axial", "many")
    act(app, "colour", app.segments.selected, "red")
    assert len(values(app)["alerts"]) == 4
    assert all(one["level"] == "error" for one in values(app)["alerts"])


def test_every_key_has_an_action_and_no_key_two():
    from protosam_app.actions import ACTIONS
    from protosam_app.shortcuts import GROUPS, actions_by_key

    every = [one for group in GROUPS.values() for one in group]
    keys = [key for one in every for key in one.keys]
    assert len(keys) == len(set(keys))
    asked = {action.partition(":")[0] for action in actions_by_key().values()}
    assert asked - set(ACTIONS) == {"help", "save"}


def test_nothing_is_done_again_while_nothing_changes(app, monkeypatch):
    press(app, "axial", (200, 150))
    settle(app, 8)
    made, drawn = [], []
    monkeypatch.setattr(app.surfaces, "show", lambda *_: made.append(1))
    for view in app.views.all.values():
        monkeypatch.setattr(view, "schedule_render", lambda *_: drawn.append(1))
    settle(app, 8)
    assert made == []
    assert drawn == []


def test_a_failed_answer_is_told_once_and_the_next_click_works(app):
    app.client.error = WorkerDied("The worker ended.", "Click again.")
    press(app, "axial", (200, 150))
    settle(app)
    assert [one["text"] for one in values(app)["alerts"]] == ["The worker ended."]
    app.client.error = None
    press(app, "axial", (210, 150))
    settle(app)
    assert values(app)["has_mask"]


def test_a_model_that_cannot_be_loaded_is_not_chosen(app):
    app.choose_model("sam_vit_h")
    assert app.stage.setting("Model") == "sam_vit_h"
    settle(app)
    assert app.stage.setting("Model") == ""
    assert "no sam_vit_h" in values(app)["alerts"][0]["text"]


def test_each_volume_has_its_own_segments(app, a_volume_of):
    press(app, "axial", (200, 150))
    settle(app)
    first = values(app)["volume_id"]
    app.show(a_volume_of((10, 30, 30), name="One"))
    settle(app)
    shown = values(app)
    assert [one["name"] for one in shown["volumes"]] == ["One", "One (2)"]
    assert [one["ml"] for one in shown["segments"]] == ["empty"]
    assert shown["surface_count"] == 0
    app.choose_volume(first)
    settle(app)
    assert values(app)["segments"][0]["ml"] != "empty"
    assert len(values(app)["prompts"]) == 1
    app.close_volume()
    assert [one["name"] for one in values(app)["volumes"]] == ["One (2)"]


def test_without_a_volume_nothing_fails(app):
    from protosam_app.actions import ACTIONS, act

    app.close_volume()
    given = {
        "remove": ["x"],
        "select": ["x"],
        "rename": ["x", "y"],
        "colour": ["x", "#ffffff"],
        "delete": ["x"],
        "keep_others": [True],
        "slice": ["1"],
        "set_slice": ["axial", 1],
        "window": [0, 1],
        "layer": ["opacity", 0.5],
        "volume": [""],
        "close_alert": [0],
        "tool": ["box"],
        "model_window": ["view"],
        "model": ["protosam-tiny"],
    }
    for name in ACTIONS:
        act(app, name, *given.get(name, []))
    settle(app)
    assert values(app)["volumes"] == []
    assert values(app)["hint_key"] == "no_volume"
    app.enlarged = ""


def test_a_file_that_cannot_be_read_is_told(app, tmp_path, run_async):
    (tmp_path / "x.nrrd").write_bytes(b"NRRD0004\n")
    assert not run_async(app.open(tmp_path / "x.nrrd"))
    assert values(app)["opening"] == ""
    assert values(app)["alerts"][0]["level"] == "error"


def test_colours_are_checked():
    from protosam_app.segments import hex_of, rgb_of

    assert hex_of(rgb_of("#4fc3a1")) == "#4fc3a1"
    for wrong in ("red", "#12345", "#12345g", ""):
        with pytest.raises(InvalidInput):
            rgb_of(wrong)


def test_a_surface_lies_on_its_mask_however_coarse_it_is():
    from protosam.extents import Extent
    from protosam_app.surfaces import Shape, surface_of

    affine = np.diag([-0.7, -0.7, 2.0, 1.0])
    affine[:3, 3] = (40.0, 30.0, -20.0)
    mask = np.zeros((40, 200, 230), bool)
    mask[5:30, 20:180, 30:200] = True
    surface = surface_of(Shape(Extent.of_shape(mask.shape), mask, affine))
    low, high = np.array(surface.GetBounds())[::2], np.array(surface.GetBounds())[1::2]
    corners = np.array([[29.5, 19.5, 4.5], [199.5, 179.5, 29.5]]) @ affine[:3, :3].T + affine[:3, 3]
    assert np.allclose(low, corners.min(axis=0), atol=2.0)
    assert np.allclose(high, corners.max(axis=0), atol=2.0)
    assert 0 < surface.GetNumberOfPoints() < 80_000
