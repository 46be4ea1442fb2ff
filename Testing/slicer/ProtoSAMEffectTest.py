"""The effect in the real application: real views, real events, a real worker, the built-in model.

Run it with::

    Slicer --no-splash --testing \
        --additional-module-paths <checkout>/ProtoSAMSegmentEditor/SegmentEditorProtoSAM \
        --python-script <checkout>/Testing/slicer/run_in_slicer.py

It needs a display (xvfb-run gives one) and a Python with the worker's libraries: the checkout's
own `.venv`, the one named by PROTOSAM_PYTHON, or Slicer's.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest
from vtk.util.numpy_support import vtk_to_numpy

LIMIT_S = 120.0
"""A worker that starts on a busy machine without a GPU, and its first answer."""

SHAPE_KJI = (40, 80, 80)
CENTRE_KJI = (20, 40, 34)
RADIUS_VOXELS = 11


class ProtoSAMEffectTest(ScriptedLoadableModuleTest):
    """One method for each promise; each starts from an empty scene."""

    def runTest(self) -> None:
        """Run all tests; the first that fails raises."""
        names = [name for name in dir(self) if name.startswith("test_")]
        for name in [*sorted(names), "lastTheWorkerEndsWithSlicer"]:
            logging.info("ProtoSAM: %s", name)
            self.setUp()
            getattr(self, name)()
        logging.info("ProtoSAM: %d tests passed", len(names) + 1)

    def setUp(self) -> None:
        """Make a scene with a bright ball in a dark volume, and choose the effect."""
        slicer.mrmlScene.Clear(0)
        self.widget = None
        self.waitFor(lambda: "ProtoSAM" in self.registered(), "the effect is registered")
        self.volume = self.makeVolume()
        self.openEditor()

    # Tests

    def test_a_click_grows_the_segment_round_it_and_undo_takes_it_back(self) -> None:
        """Click, answer, undo."""
        self.click(CENTRE_KJI)
        self.expectMask(lambda mask: mask[CENTRE_KJI])
        self.assertGreater(self.overlap(), 0.6)
        self.editor.undo()
        self.expectMask(lambda mask: not mask.any())
        self.waitFor(lambda: not self.session.controller.status.prompts, "the prompt is gone, too")

    def test_every_slice_view_takes_clicks_where_they_are(self) -> None:
        """Axial, sagittal, coronal, and a view turned by 30 degrees."""
        for name in ("Red", "Yellow", "Green"):
            self.click(CENTRE_KJI, view=name)
            self.expectMask(lambda mask: mask[CENTRE_KJI])
            self.session.pressed("clear")
            self.expectMask(lambda mask: not mask.any())
        turn = vtk.vtkTransform()
        node = self.sliceNode("Red")
        turn.SetMatrix(node.GetSliceToRAS())
        turn.RotateX(30)
        node.GetSliceToRAS().DeepCopy(turn.GetMatrix())
        node.UpdateMatrices()
        node.JumpSlice(*self.ras(CENTRE_KJI))
        self.click(CENTRE_KJI)
        self.expectMask(lambda mask: mask[CENTRE_KJI])
        node.SetOrientation("Axial")

    def test_a_transformed_volume_is_clicked_where_it_is_seen(self) -> None:
        """A parent transform with a shift and a turn."""
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        moved = vtk.vtkTransform()
        moved.Translate(15, -8, 4)
        moved.RotateZ(20)
        transform.SetMatrixTransformToParent(moved.GetMatrix())
        self.volume.SetAndObserveTransformNodeID(transform.GetID())
        self.segmentation.SetAndObserveTransformNodeID(transform.GetID())
        self.sliceNode("Red").JumpSlice(*self.ras(CENTRE_KJI))
        self.click(CENTRE_KJI)
        self.expectMask(lambda mask: mask[CENTRE_KJI])

    def test_ctrl_click_takes_away_and_shift_drag_makes_a_box(self) -> None:
        """The other two gestures."""
        low, high = (20, 27, 21), (20, 53, 47)
        self.drag(self.xy(low), self.xy(high), shift=True)
        self.expectMask(lambda mask: mask[CENTRE_KJI])
        outside = (20, 40, 60)
        self.click(outside, ctrl=True)
        self.waitFor(lambda: not self.session.controller.status.busy, "the second answer")
        kinds = [(one.kind, one.positive) for one in self.session.controller.status.prompts]
        self.assertEqual(sorted(kinds), [("box", True), ("point", False)])
        self.assertFalse(self.mask()[outside])

    def test_the_intensity_range_and_other_segments_are_obeyed(self) -> None:
        """Masking: not one voxel outside the range, not one of a protected segment."""
        other = self.segmentation.GetSegmentation().AddEmptySegment("other", "other")
        taken = np.zeros(SHAPE_KJI, np.uint8)
        taken[:, :, : CENTRE_KJI[2]] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(
            taken, self.segmentation, other, self.volume
        )
        self.node.SetSelectedSegmentID(self.segment_id)
        self.node.SetOverwriteMode(self.node.OverwriteNone)
        self.node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
        self.node.SetSourceVolumeIntensityMaskRange(60, 400)
        self.node.SetSourceVolumeIntensityMask(True)
        self.click((CENTRE_KJI[0], CENTRE_KJI[1], CENTRE_KJI[2] + 5))
        self.expectMask(lambda mask: mask.any())
        mask = self.mask()
        self.assertGreaterEqual(slicer.util.arrayFromVolume(self.volume)[mask].min(), 60)
        self.assertFalse(mask[:, :, : CENTRE_KJI[2]].any())
        self.assertTrue((self.mask(other) == taken.astype(bool)).all())

    def test_the_first_click_adds_a_segment_where_there_is_none(self) -> None:
        """An empty segmentation; one undo takes the segment and its mask back."""
        self.segmentation.GetSegmentation().RemoveAllSegments()
        slicer.app.processEvents()
        self.editor.setActiveEffectByName("ProtoSAM")
        self.click(CENTRE_KJI)
        segmentation = self.segmentation.GetSegmentation()
        self.assertEqual(segmentation.GetNumberOfSegments(), 1)
        self.segment_id = segmentation.GetNthSegmentID(0)
        self.expectMask(lambda mask: mask[CENTRE_KJI])
        self.editor.undo()
        self.assertEqual(segmentation.GetNumberOfSegments(), 0)

    def test_what_is_not_ours_stays_slicers(self) -> None:
        """The wheel scrolls, and a double click does not blow the view up."""
        before = self.sliceNode("Red").GetSliceOffset()
        layout = slicer.app.layoutManager().layout
        interactor = self.interactor("Red")
        interactor.SetEventInformation(*self.xy(CENTRE_KJI), 0, 0, "\0", 0, None)
        interactor.EnterEvent()
        interactor.MouseWheelForwardEvent()
        self.assertNotEqual(self.sliceNode("Red").GetSliceOffset(), before)
        interactor.InvokeEvent(vtk.vtkCommand.LeftButtonDoubleClickEvent)
        interactor.LeftButtonReleaseEvent()
        self.assertEqual(slicer.app.layoutManager().layout, layout)

    def test_a_killed_worker_costs_a_message_and_nothing_else(self) -> None:
        """Prompts and segment stay; the next click starts a new worker."""
        self.click(CENTRE_KJI)
        self.expectMask(lambda mask: mask[CENTRE_KJI])
        before = self.mask()
        os.kill(self.workerPid(), signal.SIGKILL)
        self.waitFor(lambda: self.session.controller.status.worker != "ready", "its end is seen")
        self.assertTrue((self.mask() == before).all())
        self.assertEqual(len(self.session.controller.status.prompts), 1)
        self.click((20, 40, 62), ctrl=True)
        self.waitFor(lambda: self.answered() == 2, "the next click is answered")

    def test_closing_the_scene_while_an_answer_is_awaited_leaves_no_trace(self) -> None:
        """The answer is dropped, and the next scene works."""
        self.click(CENTRE_KJI)
        slicer.mrmlScene.Clear(0)
        for _turn in range(50):
            slicer.app.processEvents()
            time.sleep(0.01)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)
        self.volume = self.makeVolume()
        self.openEditor()
        self.click(CENTRE_KJI)
        self.expectMask(lambda mask: mask[CENTRE_KJI])

    def test_a_volume_that_cannot_be_used_gives_a_hint(self) -> None:
        """A volume of one slice or of colours: no exception, nothing written."""
        colours = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colours")
        slicer.util.updateVolumeFromArray(colours, np.zeros((4, 5, 6, 3), np.uint8))
        self.node.SetAndObserveSourceVolumeNode(colours)
        slicer.app.processEvents()
        self.click(CENTRE_KJI)
        self.assertFalse(self.session.controller.status.busy)
        self.assertTrue(self.session.panel.ui.hintLabel.text)

    def test_slicer_stays_awake_while_the_worker_works(self) -> None:
        """No call of ours holds the main thread for more than 50 ms during an answer."""
        self.click(CENTRE_KJI)
        self.expectMask(lambda mask: mask[CENTRE_KJI])
        session, drain, held = self.session, self.session.drain, []

        def timed() -> int:
            start = time.perf_counter()
            wanted = drain()
            held.append(time.perf_counter() - start)
            return wanted

        session.drain = timed
        self.click((20, 44, 36))
        self.waitFor(lambda: self.answered() == 2, "the answer")
        session.drain = drain
        logging.info("ProtoSAM: longest call %.0f ms of %d", 1000 * max(held), len(held))
        self.assertLess(max(held), 0.05)

    def lastTheWorkerEndsWithSlicer(self) -> None:
        """Nothing is left in the list of processes; comes last, because it ends the worker."""
        self.click(CENTRE_KJI)
        self.expectMask(lambda mask: mask[CENTRE_KJI])
        pid = self.workerPid()
        process = importlib.import_module("ProtoSAMSlicerLib.WorkerProcess")
        process._REGISTRY.worker.close()
        self.waitFor(lambda: not running(pid), "the worker has ended")

    # Means

    @property
    def session(self) -> Any:
        """Python's side of the effect in the editor."""
        return self.editor.effectByName("ProtoSAM").self().session

    def registered(self) -> list[str]:
        """Names of the effects that a new editor widget has."""
        if self.widget is None:
            self.widget = slicer.qMRMLSegmentEditorWidget()
            self.widget.setMRMLScene(slicer.mrmlScene)
        self.widget.updateEffectList()
        return list(self.widget.availableEffectNames())

    def makeVolume(self) -> Any:
        """A ball of 200 in a dark of 20, with noise, on a grid of 1 x 1 x 2 mm."""
        grid = np.indices(SHAPE_KJI)
        away = sum((grid[axis] - CENTRE_KJI[axis]) ** 2 for axis in range(3))
        voxels = np.where(away < RADIUS_VOXELS**2, 200, 20)
        voxels = (voxels + np.random.default_rng(1).normal(0, 6, SHAPE_KJI)).astype(np.int16)
        volume = slicer.util.addVolumeFromArray(voxels)
        volume.SetSpacing(1.0, 1.0, 2.0)
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        return volume

    def openEditor(self) -> None:
        """Open an editor on a new segmentation with one segment, and choose the effect."""
        self.segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        self.segmentation.CreateDefaultDisplayNodes()
        self.segmentation.SetReferenceImageGeometryParameterFromVolumeNode(self.volume)
        self.segment_id = self.segmentation.GetSegmentation().AddEmptySegment()
        self.node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
        self.editor = slicer.qMRMLSegmentEditorWidget()
        self.editor.setMRMLScene(slicer.mrmlScene)
        self.editor.setMRMLSegmentEditorNode(self.node)
        self.editor.setSegmentationNode(self.segmentation)
        self.editor.setSourceVolumeNode(self.volume)
        self.editor.setMaximumNumberOfUndoStates(10)
        self.node.SetSelectedSegmentID(self.segment_id)
        self.editor.setActiveEffectByName("ProtoSAM")
        self.assertIsNotNone(self.editor.activeEffect())
        for name in ("Red", "Yellow", "Green"):
            self.sliceNode(name).JumpSlice(*self.ras(CENTRE_KJI))
        slicer.app.processEvents()
        self.waitFor(lambda: self.session.controller is not None, "a Python for the worker")

    def waitFor(self, condition: Callable[[], Any], what: str) -> None:
        """Let the application run until this holds."""
        end = time.monotonic() + LIMIT_S
        while not condition():
            slicer.app.processEvents()
            time.sleep(0.002)
            self.assertLess(time.monotonic(), end, f"waited in vain: {what}")

    def expectMask(self, holds: Callable[[np.ndarray], Any]) -> None:
        """Expect the segment's mask to become like this, with nothing awaited."""
        self.waitFor(
            lambda: holds(self.mask()) and not self.session.controller.status.busy, "the mask"
        )

    def mask(self, segment_id: str = "") -> np.ndarray:
        """Mask of a segment on the grid of the volume; the one that is worked on by default."""
        out = np.zeros(SHAPE_KJI, bool)
        segment = self.segmentation.GetSegmentation().GetSegment(segment_id or self.segment_id)
        image = None if segment is None else segment.GetRepresentation("Binary labelmap")
        if image is not None and min(image.GetDimensions()) > 0:
            i0, i1, j0, j1, k0, k1 = image.GetExtent()
            labels = vtk_to_numpy(image.GetPointData().GetScalars())
            labels = labels.reshape(k1 - k0 + 1, j1 - j0 + 1, i1 - i0 + 1)
            out[k0 : k1 + 1, j0 : j1 + 1, i0 : i1 + 1] = labels == segment.GetLabelValue()
        return out

    def overlap(self) -> float:
        """Dice of the mask with the ball."""
        ball, mask = slicer.util.arrayFromVolume(self.volume) > 110, self.mask()
        return 2 * (ball & mask).sum() / (ball.sum() + mask.sum())

    def answered(self) -> int:
        """How many prompts the mask follows from."""
        return sum(one.answered for one in self.session.controller.status.prompts)

    def workerPid(self) -> int:
        """Number of the worker's process."""
        return self.session.client.state.hello.pid

    def ras(self, kji: tuple[int, int, int]) -> list[float]:
        """World millimetres of a voxel."""
        matrix, point = vtk.vtkMatrix4x4(), (kji[2], kji[1], kji[0], 1.0)
        self.volume.GetIJKToRASMatrix(matrix)
        world = [0.0, 0.0, 0.0]
        local = matrix.MultiplyPoint(point)[:3]
        transform = vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
            self.volume.GetParentTransformNode(), None, transform
        )
        transform.TransformPoint(local, world)
        return world

    def xy(self, kji: tuple[int, int, int], view: str = "Red") -> tuple[int, int]:
        """Where a voxel lies in a slice view."""
        inverse = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.sliceNode(view).GetXYToRAS(), inverse)
        x, y, _z, _w = inverse.MultiplyPoint((*self.ras(kji), 1.0))
        return round(x), round(y)

    def click(self, kji: tuple[int, int, int], *, view: str = "Red", ctrl: bool = False) -> None:
        """Click on a voxel."""
        interactor = self.interactor(view)
        interactor.SetEventInformation(*self.xy(kji, view), int(ctrl), 0, "\0", 0, None)
        interactor.LeftButtonPressEvent()
        interactor.LeftButtonReleaseEvent()

    def drag(self, start: tuple[int, int], end: tuple[int, int], *, shift: bool) -> None:
        """Drag in the red view."""
        interactor = self.interactor("Red")
        interactor.SetEventInformation(*start, 0, int(shift), "\0", 0, None)
        interactor.LeftButtonPressEvent()
        interactor.SetEventInformation(*end, 0, int(shift), "\0", 0, None)
        interactor.MouseMoveEvent()
        interactor.LeftButtonReleaseEvent()

    @staticmethod
    def sliceNode(view: str) -> Any:
        """Node of a slice view."""
        return slicer.app.layoutManager().sliceWidget(view).mrmlSliceNode()

    @staticmethod
    def interactor(view: str) -> Any:
        """Interactor of a slice view."""
        widget = slicer.app.layoutManager().sliceWidget(view)
        return widget.sliceView().interactorStyle().GetInteractor()


def running(pid: int) -> bool:
    """Whether a process is alive; one that is only not yet collected by its parent is not."""
    stat = f"/proc/{pid}/stat"
    if os.path.exists("/proc"):  # noqa: PTH110 (a mount point, not a path of ours)
        try:
            with open(stat, encoding="utf-8") as file:  # noqa: PTH123 (likewise)
                return file.read().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
