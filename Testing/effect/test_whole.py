"""The effect on the real scene package, Slicer's own scene classes and a real worker.

Only the application round them is a stand-in: what a click does is followed from the event in the
view to the voxels of the segment, the undo stack and the list of processes.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import vtk

pytestmark = pytest.mark.slow

LIMIT_S = 120.0
SHAPE_KJI = (24, 48, 48)
CENTRE_KJI = (12, 24, 22)
HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def mrml() -> Any:
    """Slicer's own classes, loaded before the stand-in takes the name."""
    return pytest.importorskip("slicer")


@pytest.fixture
def editor(mrml: Any, bare_app: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An active effect on a bright ball, with one empty segment, and the worker of this Python."""
    monkeypatch.setenv("PROTOSAM_PYTHON", sys.executable)
    conftest = sys.modules[type(bare_app).__module__]
    host = conftest.load_by_path("effect_scene_host", HERE.parent / "scene" / "conftest.py")
    scene = host.Scene(mrml)
    volume = scene.add_volume(a_ball(), np.diag([1.0, 1.0, 2.0, 1.0]))
    scene.add_segmentation(volume, "one")
    slicer = sys.modules["slicer"]
    slicer.__dict__["__getattr__"] = lambda name: getattr(mrml, name)
    slicer.mrmlScene = scene.scene
    slicer.util.startupEnvironment = lambda: dict(os.environ)
    for number, view in enumerate(bare_app.slices.values()):
        plane = np.eye(4)[:, [0, 1, 2, 3]] if number == 0 else np.eye(4)[:, [0, 2, 1, 3]]
        plane[:3, 3] = ras(CENTRE_KJI)
        view.node = scene.slice_node(plane)
        view.node.SetLayoutName(list(bare_app.slices)[number])
    made = bare_app.editor()
    made.node, made.scene = scene.editor, scene
    adapt(made.effect, scene.logic)
    made.effect.self().setMRMLDefaults()
    yield made.choose()
    made.leave()
    process = importlib.import_module("ProtoSAMSlicerLib.WorkerProcess")
    process._REGISTRY.worker.close()
    scene.logic.SetSegmentEditorNode(None)
    scene.scene.Clear(True)


def adapt(effect: Any, logic: Any) -> None:
    """Give the adaptor the modifier and the undo that the application has."""

    def modify(labelmap: Any, mode: int) -> None:
        node = effect.parameterSetNode()
        change(node.GetSegmentationNode(), node.GetSelectedSegmentID(), labelmap, mode)

    def change(segmentation: Any, segment_id: str, labelmap: Any, mode: int) -> None:
        logic.ModifySegmentByLabelmap(segmentation, segment_id, labelmap, mode, True, False)

    effect.modifySelectedSegmentByLabelmap = modify
    effect.modifySegmentByLabelmap = change
    effect.saveStateForUndo = logic.SaveStateForUndo


def a_ball() -> np.ndarray:
    grid = np.indices(SHAPE_KJI)
    away = sum((grid[axis] - CENTRE_KJI[axis]) ** 2 for axis in range(3))
    noise = np.random.default_rng(3).normal(0, 5, SHAPE_KJI)
    return (np.where(away < 9**2, 200, 20) + noise).astype(np.int16)


def ras(kji: tuple[int, int, int]) -> list[float]:
    return [float(kji[2]), float(kji[1]), 2.0 * kji[0]]


def xy(editor: Any, kji: tuple[int, int, int], view: str = "Red") -> tuple[int, int]:
    inverse = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(editor.app.slices[view].node.GetXYToRAS(), inverse)
    x, y, _z, _w = inverse.MultiplyPoint((*ras(kji), 1.0))
    return round(x), round(y)


def wait(editor: Any, holds: Callable[[], Any]) -> None:
    end = time.monotonic() + LIMIT_S
    while not holds():
        editor.app.tick()
        time.sleep(0.001)
        assert time.monotonic() < end, "waited in vain"


def answered(editor: Any, count: int) -> bool:
    prompts = editor.controller.status.prompts
    return len(prompts) == count and all(one.answered for one in prompts)


def test_clicks_grow_the_object_and_undo_takes_back_mask_and_prompt(
    editor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert editor.click(xy(editor, CENTRE_KJI)) == (True, True)
    wait(editor, lambda: answered(editor, 1))
    first = editor.scene.mask("one")
    ball = a_ball() > 110
    assert first[CENTRE_KJI]
    assert 2 * (first & ball).sum() / (first.sum() + ball.sum()) > 0.6
    assert editor.ui.promptList.rows[0].startswith("Inside")
    assert "protosam-tiny" in editor.ui.statusChip.text

    outside = (12, 24, 40)
    editor.click(xy(editor, outside), "ctrl")
    wait(editor, lambda: answered(editor, 2))
    assert not editor.scene.mask("one")[outside]

    editor.scene.logic.Undo()
    wait(editor, lambda: answered(editor, 1))
    assert (editor.scene.mask("one") == first).all()
    editor.scene.logic.Undo()
    wait(editor, lambda: answered(editor, 0))
    assert not editor.scene.mask("one").any()
    editor.scene.logic.Redo()
    wait(editor, lambda: answered(editor, 1))
    assert (editor.scene.mask("one") == first).all()

    tags = editor.scene.segment("one")
    name = vtk.reference("")
    assert tags.GetTag("DICOM.SegmentAlgorithmType", name)
    assert name == "SEMIAUTOMATIC"
    assert [one for one in caplog.records if one.levelname in ("ERROR", "CRITICAL")] == []


def test_a_box_in_another_view_and_the_first_segment_by_itself(editor: Any) -> None:
    editor.scene.segmentation.GetSegmentation().RemoveAllSegments()
    editor.scene.select(None)
    view = editor.app.slices["Green"]
    low, high = xy(editor, (3, 24, 13), "Green"), xy(editor, (21, 24, 31), "Green")
    for event, place in (
        (vtk.vtkCommand.LeftButtonPressEvent, low),
        (vtk.vtkCommand.MouseMoveEvent, high),
        (vtk.vtkCommand.LeftButtonReleaseEvent, high),
    ):
        assert editor.post(event, place, "shift", view=view)
    segmentation = editor.scene.segmentation.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == 1
    wait(editor, lambda: answered(editor, 1))
    assert editor.scene.mask(segmentation.GetNthSegmentID(0))[CENTRE_KJI]
    editor.scene.logic.Undo()
    assert segmentation.GetNumberOfSegments() == 0


def test_a_killed_worker_costs_a_message_and_the_next_click_works(editor: Any) -> None:
    editor.click(xy(editor, CENTRE_KJI))
    wait(editor, lambda: answered(editor, 1))
    before = editor.scene.mask("one")
    client = editor.session.client
    os.kill(client.state.hello.pid, signal.SIGKILL)
    editor.click(xy(editor, (12, 24, 40)), "ctrl")
    wait(editor, lambda: editor.app.status_bar)
    assert (editor.scene.mask("one") == before).all()
    assert len(editor.controller.status.prompts) >= 1
    editor.click(xy(editor, (12, 40, 22)), "ctrl")
    wait(editor, lambda: all(one.answered for one in editor.controller.status.prompts))
    assert editor.scene.mask("one")[CENTRE_KJI]


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_scene_close_with_a_request_in_flight_and_then_slicers_end(editor: Any) -> None:
    editor.click(xy(editor, CENTRE_KJI))
    wait(editor, lambda: editor.session.client.state.hello is not None)
    pid = editor.session.client.state.hello.pid
    editor.scene.scene.Clear(False)
    editor.leave()
    for _turn in range(20):
        editor.app.tick()
    assert psutil.pid_exists(pid)
    editor.app.application.emit("aboutToQuit()")
    end = time.monotonic() + 20
    while runs(pid):
        time.sleep(0.02)
        assert time.monotonic() < end, "the worker has outlived Slicer"


def test_a_drag_of_a_prompt_moves_it_and_its_answer(editor: Any) -> None:
    editor.click(xy(editor, (12, 24, 40)))
    wait(editor, lambda: answered(editor, 1))
    editor.drag(xy(editor, (12, 24, 40)), xy(editor, CENTRE_KJI))
    wait(editor, lambda: answered(editor, 1) and editor.scene.mask("one")[CENTRE_KJI])
    assert len(editor.controller.status.prompts) == 1
    editor.post(vtk.vtkCommand.KeyPressEvent, xy(editor, CENTRE_KJI), sym="Delete")
    wait(editor, lambda: answered(editor, 0))
    assert not editor.scene.mask("one").any()
