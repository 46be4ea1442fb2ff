"""A small host: Slicer's scene, segment editor logic and slice views, without the application."""

from __future__ import annotations

import time

import numpy as np
import pytest

from protosam.errors import Cancelled
from protosam.extents import bounding_extent, pack_bits
from protosam.geometry import Volume
from protosam.intensity import Window
from protosam.mending import CleanUpReport
from protosam.scene import Controller, LogicWriter
from protosam.wire.messages import (
    ApplyExample,
    ExampleApplied,
    ExampleMade,
    MakeExample,
    Prewarmed,
    Result,
    VolumeClosed,
    VolumeOpened,
)
from protosam.wire.patience import WorkerState
from protosam.wire.pending import Pending

LABELMAP = "Binary labelmap"


@pytest.fixture(scope="session")
def mrml():
    """Slicer's classes; not there on machines without slicer-core."""
    return pytest.importorskip("slicer")


def matrix(array):
    from vtkmodules.vtkCommonMath import vtkMatrix4x4

    made = vtkMatrix4x4()
    made.DeepCopy(np.asarray(array, float).ravel().tolist())
    return made


class Scene:
    """A MRML scene with one segment editor, as the application has it."""

    def __init__(self, mrml):
        self.mrml = mrml
        self.scene = mrml.vtkMRMLScene()
        self.app_logic = mrml.vtkMRMLApplicationLogic()
        self.app_logic.SetMRMLScene(self.scene)
        # It registers the segmentation's nodes, and the converters without which nothing is made.
        self.segmentations_logic = mrml.vtkSlicerSegmentationsModuleLogic()
        self.segmentations_logic.SetMRMLScene(self.scene)
        self.scene.RegisterNodeClass(mrml.vtkMRMLSegmentEditorNode())
        self.logic = mrml.vtkSlicerSegmentEditorLogic()
        self.logic.SetMRMLScene(self.scene)
        self.editor = mrml.vtkMRMLSegmentEditorNode()
        self.scene.AddNode(self.editor)
        self.logic.SetSegmentEditorNode(self.editor)
        self.logic.SetMaximumNumberOfUndoStates(10)
        self.segmentation = None

    def add_volume(self, voxels, affine, name="image"):
        """Scalar volume node; the affine may be sheared if it is given to the parent instead."""
        from vtkmodules.util.numpy_support import numpy_to_vtk
        from vtkmodules.vtkCommonDataModel import vtkImageData

        image = vtkImageData()
        image.SetDimensions(*voxels.shape[::-1])
        scalars = numpy_to_vtk(np.ascontiguousarray(voxels).ravel(), deep=1)
        scalars.SetName("ImageScalars")
        image.GetPointData().SetScalars(scalars)
        node = self.mrml.vtkMRMLScalarVolumeNode()
        node.SetName(name)
        node.SetIJKToRASMatrix(matrix(affine))
        node.SetAndObserveImageData(image)
        self.scene.AddNode(node)
        display, grey = (
            self.mrml.vtkMRMLScalarVolumeDisplayNode(),
            self.mrml.vtkMRMLColorTableNode(),
        )
        grey.SetTypeToGrey()
        self.scene.AddNode(grey)
        self.scene.AddNode(display)
        display.SetAndObserveColorNodeID(grey.GetID())
        display.SetAutoWindowLevel(0)
        display.SetWindowLevelMinMax(float(voxels.min()), float(voxels.max()) + 1)
        node.SetAndObserveDisplayNodeID(display.GetID())
        return node

    def add_transform(self, array):
        node = self.mrml.vtkMRMLLinearTransformNode()
        self.scene.AddNode(node)
        node.SetMatrixTransformToParent(matrix(array))
        return node

    def add_segmentation(self, volume_node, *names):
        """Segmentation on a volume's grid with empty segments, the first one selected."""
        node = self.mrml.vtkMRMLSegmentationNode()
        self.scene.AddNode(node)
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
        for n, name in enumerate(names):
            node.GetSegmentation().AddEmptySegment(name, name)
            node.GetSegmentation().GetSegment(name).SetColor(n % 2, 0.7, 0.2 * n)
        self.editor.SetAndObserveSegmentationNode(node)
        self.editor.SetAndObserveSourceVolumeNode(volume_node)
        self.segmentation = node
        if names:
            self.select(names[0])
        return node

    def select(self, segment_id):
        self.editor.SetSelectedSegmentID(segment_id)

    def segment(self, segment_id):
        return self.segmentation.GetSegmentation().GetSegment(segment_id)

    def mask(self, segment_id):
        """Voxels of a segment on the reference grid, whole."""
        converter = self.mrml.vtkSegmentationConverter
        whole = self.mrml.vtkOrientedImageData()
        name = converter.GetReferenceImageGeometryParameterName()
        text = self.segmentation.GetSegmentation().GetConversionParameter(name)
        converter.DeserializeImageGeometry(text, whole, False)
        first = whole.GetExtent()
        shape = [first[n + 1] - first[n] + 1 for n in (4, 2, 0)]
        out = np.zeros(shape, bool)
        segment = self.segment(segment_id)
        image = segment.GetRepresentation(LABELMAP)
        if image is None or min(image.GetDimensions()) < 1:
            return out
        bounds = image.GetExtent()
        index = tuple(slice(bounds[n] - first[n], bounds[n + 1] - first[n] + 1) for n in (4, 2, 0))
        out[index] = array_of(image) == segment.GetLabelValue()
        return out

    def paint(self, segment_id, mask, *, erase=False, undo=True):
        """What another effect does: a whole-grid labelmap through the logic."""
        from vtkmodules.util.numpy_support import numpy_to_vtk

        converter = self.mrml.vtkSegmentationConverter
        image = self.mrml.vtkOrientedImageData()
        name = converter.GetReferenceImageGeometryParameterName()
        text = self.segmentation.GetSegmentation().GetConversionParameter(name)
        converter.DeserializeImageGeometry(text, image, False)
        scalars = numpy_to_vtk(mask.ravel().astype(np.uint8), deep=1)
        scalars.SetName("ImageScalars")
        image.GetPointData().SetScalars(scalars)
        if undo:
            self.logic.SaveStateForUndo()
        logic = self.logic
        mode = logic.ModificationModeRemove if erase else logic.ModificationModeAdd
        logic.ModifySegmentByLabelmap(self.segmentation, segment_id, image, mode, True, False)

    def slice_node(self, to_ras, size=(200, 200), fov_mm=(200.0, 200.0)):
        """Slice node that shows the plane of a matrix's first two columns through its origin."""
        node = self.mrml.vtkMRMLSliceNode()
        node.SetLayoutName(f"View{self.scene.GetNumberOfNodes()}")
        node.SetName(node.GetLayoutName())
        self.scene.AddNode(node)
        node.SetDimensions(*size, 1)
        node.SetFieldOfView(*fov_mm, 1.0)
        node.GetSliceToRAS().DeepCopy(matrix(to_ras))
        node.UpdateMatrices()
        return node


def array_of(image):
    from vtkmodules.util.numpy_support import vtk_to_numpy

    k, j, i = image.GetDimensions()[::-1]
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(k, j, i)


@pytest.fixture
def a_scene(mrml):
    """A scene with a segment editor."""
    made = Scene(mrml)
    yield made
    made.logic.SetSegmentEditorNode(None)
    made.scene.Clear(True)


class FakeClient:
    """Answers at the next drain, by a rule that follows from the prompts alone."""

    def __init__(self):
        self.state = WorkerState("stopped")
        self.volumes: dict[str, Volume] = {}
        self.asked = []
        self.waiting = []
        self.due = []
        self.holds = False
        self.error = None
        self.clean_up = CleanUpReport()
        self.taught = []
        self.applied = []
        self.closed = []
        self.ids = 0

    def soon(self, call):
        self.due.append(call)

    def give_up(self, request_id):
        for pending in [one for one in self.waiting if one.request_id == request_id]:
            self.waiting.remove(pending)
            pending.settle(Cancelled("The request was given up (cancelled)."))

    def clock(self):
        return time.monotonic()

    @property
    def busy(self):
        return bool(self.due or self.waiting)

    def drain(self, budget_s=0.01, wait_s=0.0):
        count = 0
        if not self.holds:
            waiting, self.waiting = self.waiting, []
            for pending in waiting:
                pending.settle(self.error or self.answer(pending.request))
        while self.due:
            self.due.pop(0)()
            count += 1
        return count

    def _ask(self, request, on_done=None, on_progress=None):
        self.ids += 1
        pending = Pending(self, request)
        pending.request_id = self.ids
        if on_done is not None:
            pending.when_done(on_done)
        if on_progress is not None:
            pending.on_progress(on_progress)
        return pending

    def open_volume(self, volume, on_done=None):
        self.volumes[volume.uid] = volume
        pending = self._ask(None, on_done)
        pending.settle(VolumeOpened(volume.uid, ()))
        return pending

    def close_volume(self, uid, on_done=None):
        self.volumes.pop(uid)
        self.closed.append(uid)
        pending = self._ask(None, on_done)
        pending.settle(VolumeClosed(uid))
        return pending

    def prewarm(self, request, on_done=None):
        pending = self._ask(request, on_done)
        pending.settle(Prewarmed(0, False))
        return pending

    def predict(self, request, on_done=None, on_progress=None, on_partial=None):
        pending = self._ask(request, on_done, on_progress)
        if on_partial is not None:
            pending.on_partial(on_partial)
        self.asked.append(request)
        self.waiting.append(pending)
        return pending

    def make_example(self, request, on_done=None, on_progress=None):
        pending = self._ask(request, on_done, on_progress)
        self.taught.append(request)
        self.waiting.append(pending)
        return pending

    def apply_example(self, request, on_done=None, on_progress=None, on_proposed=None):
        pending = self._ask(request, on_done, on_progress)
        if on_proposed is not None:
            pending.on_partial(on_proposed)
        self.applied.append(request)
        self.waiting.append(pending)
        return pending

    def answer(self, request):
        if isinstance(request, MakeExample):
            return ExampleMade(b"learnt", tuple(s.name for s in request.segments), "fake", "0123")
        if isinstance(request, ApplyExample):
            return ExampleApplied(
                request.volume_uid, request.target, request.generation, (), "fake", "0123", 0.1
            )
        mask = drawn_mask(self.volumes[request.volume_uid].shape_kji, request.prompts)
        extent = bounding_extent(mask)
        return Result(
            volume_uid=request.volume_uid,
            target=request.target,
            generation=request.generation,
            extent=extent,
            bits=b"" if extent is None else pack_bits(mask[extent.slices]),
            score=0.9,
            slice_scores={},
            axis=request.prompts.axis or 0,
            window=Window(0.0, 1.0),
            model="fake",
            digest="0123",
            timings_s={"total": 0.01},
            notes=(),
            clean_up=self.clean_up,
        )


def drawn_mask(shape, prompts, radius=3):
    """Balls of a radius at positive points, boxes, less smaller balls at negative points."""
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    mask = np.zeros(shape, bool)

    def ball(point, reach):
        squares = sum((g - x) ** 2 for g, x in zip(grid, point.point_kji, strict=True))
        return squares <= reach**2

    for point in prompts.points:
        if point.positive:
            mask |= ball(point, radius)
    for box in prompts.boxes:
        low = np.floor(np.array(box.low_kji) + 0.5).astype(int)
        high = np.floor(np.array(box.high_kji) + 0.5).astype(int)
        mask[tuple(slice(max(a, 0), b + 1) for a, b in zip(low, high, strict=True))] = True
    for point in prompts.points:
        if not point.positive:
            mask &= ~ball(point, radius - 1)
    if prompts.scope == "slice":
        kept = np.zeros(shape, bool)
        for place in [p.point_kji for p in prompts.points] + [b.low_kji for b in prompts.boxes]:
            index = [slice(None)] * 3
            index[prompts.axis] = int(np.floor(place[prompts.axis] + 0.5))
            kept[tuple(index)] = True
        mask &= kept
    return mask


class Told:
    """A listener that keeps what it is told."""

    def __init__(self):
        self.statuses, self.messages, self.redraws = [], [], 0

    def status_changed(self, status):
        self.statuses.append(status)

    def prompts_changed(self):
        self.redraws += 1

    def message(self, message):
        self.messages.append(message)


class Desk:
    """A scene, a fake client and a controller that is attached, with a small volume."""

    def __init__(self, scene, shape=(14, 16, 18), segments=("a", "b"), voxels=None):
        self.scene = scene
        rng = np.random.default_rng(3)
        self.affine = np.eye(4)
        self.voxels = rng.integers(0, 100, shape).astype(np.int16) if voxels is None else voxels
        self.volume = scene.add_volume(self.voxels, self.affine)
        scene.add_segmentation(self.volume, *segments)
        self.client, self.told = FakeClient(), Told()
        self.controller = Controller(scene.mrml, self.client, self.told)
        self.writer = LogicWriter(scene.logic)
        self.controller.attach(scene.editor, self.writer)

    @property
    def status(self):
        return self.controller.status

    def ras(self, kji):
        return (self.affine @ (*kji[::-1], 1.0))[:3]

    def click(self, kji, positive=True, *, settle=True):
        taken = self.controller.click_world(self.ras(kji), positive)
        if settle:
            self.settle()
        return taken

    def settle(self):
        for _ in range(3):
            self.controller.drain()

    def masks(self):
        segmentation = self.scene.segmentation.GetSegmentation()
        ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
        return {one: self.scene.mask(one) for one in ids}

    def prompts(self):
        return tuple((row.kind, row.positive, row.text) for row in self.status.prompts)


@pytest.fixture
def desk(a_scene):
    """A controller at work on a small volume with the segments "a" and "b"."""
    return Desk(a_scene)


@pytest.fixture
def desks(mrml):
    """Makes desks, each with a scene of its own."""
    made = []

    def make(**options):
        scene = Scene(mrml)
        made.append(scene)
        return Desk(scene, **options)

    yield make
    for scene in made:
        scene.logic.SetSegmentEditorNode(None)
        scene.scene.Clear(True)


@pytest.fixture(scope="session")
def drawn():
    """The rule of the fake client: (shape, prompts) -> mask."""
    return drawn_mask


@pytest.fixture(scope="session")
def gl(mrml, opengl):
    """Skips where Slicer's views cannot be rendered."""


@pytest.fixture
def listener():
    """Keeps what it is told."""
    return Told()


class View:
    """A slice view that is really rendered, offscreen, with a real interactor."""

    def __init__(self, scene, volume_node, to_ras, *, size=400, fov_mm=320.0):
        import vtkmodules.vtkInteractionStyle
        import vtkmodules.vtkRenderingOpenGL2
        from vtkmodules.vtkRenderingCore import (
            vtkActor2D,
            vtkImageMapper,
            vtkRenderer,
            vtkRenderWindow,
        )
        from vtkmodules.vtkRenderingUI import vtkGenericRenderWindowInteractor

        mrml = scene.mrml
        self.scene = scene
        self.window, self.renderer = vtkRenderWindow(), vtkRenderer()
        self.window.SetOffScreenRendering(1)
        self.window.SetSize(size, size)
        self.window.AddRenderer(self.renderer)
        self.interactor = vtkGenericRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.interactor.SetInteractorStyle(vtkmodules.vtkInteractionStyle.vtkInteractorStyleUser())
        self.interactor.Initialize()

        self.logic = mrml.vtkMRMLSliceLogic()
        self.logic.SetMRMLScene(scene.scene)
        self.node = self.logic.AddSliceNode(f"View{scene.scene.GetNumberOfNodes()}")
        self.logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume_node.GetID())
        self.node.SetDimensions(size, size, 1)
        self.node.SetFieldOfView(fov_mm, fov_mm, 1.0)
        self.node.GetSliceToRAS().DeepCopy(matrix(to_ras))
        self.node.UpdateMatrices()

        mapper, actor = vtkImageMapper(), vtkActor2D()
        mapper.SetInputConnection(self.logic.GetImageDataConnection())
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        actor.SetMapper(mapper)
        self.renderer.AddViewProp(actor)

        factory = mrml.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(scene.app_logic)
        name = "vtkMRMLSegmentationsDisplayableManager2D"
        if not factory.IsDisplayableManagerRegistered(name):
            factory.RegisterDisplayableManager(name)
        self.managers = factory.InstantiateDisplayableManagers(self.renderer)
        self.managers.SetMRMLDisplayableNode(self.node)

    def press(self, xy, event="LeftButtonPressEvent", *, control=False):
        self.interactor.SetEventInformation(int(xy[0]), int(xy[1]), int(control), 0)
        self.interactor.InvokeEvent(event)

    def pixel(self, ras):
        """Nearest whole pixel of a place of the world."""
        from vtkmodules.vtkCommonMath import vtkMatrix4x4

        to_xy = vtkMatrix4x4()
        vtkMatrix4x4.Invert(self.node.GetXYToRAS(), to_xy)
        return tuple(round(x) for x in to_xy.MultiplyPoint((*ras, 1.0))[:2])

    def picture(self, glyphs=()):
        """(rows, columns, 3) what is seen, with a mark for each prompt."""
        from vtkmodules.util.numpy_support import vtk_to_numpy
        from vtkmodules.vtkRenderingCore import vtkWindowToImageFilter

        self.window.Render()
        grabber = vtkWindowToImageFilter()
        grabber.SetInput(self.window)
        grabber.ReadFrontBufferOff()
        grabber.Update()
        image = grabber.GetOutput()
        columns, rows, _ = image.GetDimensions()
        seen = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1).copy()
        for glyph in glyphs:
            colour = (0, 255, 0) if glyph.positive else (255, 0, 0)
            for x, y in glyph.corners_xy:
                seen[max(0, round(y) - 3) : round(y) + 4, max(0, round(x) - 3) : round(x) + 4] = (
                    colour
                )
        return seen[::-1, :, :3]


@pytest.fixture
def views(gl, a_scene):
    """Makes rendered views of a scene's volume."""
    made = []

    def make(volume_node, to_ras, **options):
        made.append(View(a_scene, volume_node, to_ras, **options))
        return made[-1]

    yield make
    for view in made:
        view.managers.SetMRMLDisplayableNode(None)
        view.logic.SetMRMLScene(None)
        view.window.Finalize()
