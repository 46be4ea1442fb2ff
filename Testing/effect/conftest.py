"""Slicer as the effect meets it: an application with views and editors, made of stand-ins."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import vtk

import protosam.errors
import protosam.scene

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODULE = ROOT / "ProtoSAMSegmentEditor" / "SegmentEditorProtoSAM"
EVENTS = vtk.vtkCommand


def load_by_path(name: str, path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stand_in = load_by_path("effect_stand_in", HERE / "stand_in.py")


class Node:
    """A MRML node with attributes and observers."""

    def __init__(self, name: str) -> None:
        self.name, self.attributes, self.observers = name, {}, {}
        self.selected: str | None = "Segment_1"
        self.segmentation: Any = self
        self.ids = ["Segment_1"]
        self.disabled = 0
        self.heard: list[str | None] = []

    def GetID(self) -> str:
        return f"vtkMRMLSliceNode{self.name}"

    def GetLayoutName(self) -> str:
        return self.name

    def GetAttribute(self, name: str) -> str | None:
        return self.attributes.get(name)

    def SetAttribute(self, name: str, value: str) -> None:
        self.attributes[name] = value

    def AddObserver(self, event: Any, call: Callable[..., Any]) -> int:
        tag = len(self.observers) + 1
        self.observers[tag] = (event, call)
        return tag

    def RemoveObserver(self, tag: int) -> None:
        del self.observers[tag]

    def invoke(self, wanted: Any) -> None:
        for event, call in list(self.observers.values()):
            if event == wanted:
                call(self, str(wanted))

    def GetSegmentationNode(self) -> Any:
        return self.segmentation

    def GetSegmentation(self) -> Any:
        return self

    def GetNumberOfSegments(self) -> int:
        return len(self.ids)

    def AddEmptySegment(self) -> str:
        self.ids.append(f"Segment_{len(self.ids) + 1}")
        return self.ids[-1]

    def GetSelectedSegmentID(self) -> str | None:
        return self.selected

    def SetSelectedSegmentID(self, segment_id: str | None) -> None:
        self.selected = segment_id
        if not self.disabled:
            self.heard.append(segment_id)
            self.invoke(EVENTS.ModifiedEvent)

    def GetDisableModifiedEvent(self) -> int:
        return self.disabled

    def SetDisableModifiedEvent(self, on: int) -> None:
        self.disabled = on


class RecordingLearning:
    """Stands for the scene package's learning desk and keeps what it was told."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.is_teaching = False
        self.patient_of: Callable[[Any], str] = lambda _node: ""

    def ask_patients(self, patient_of: Callable[[Any], str]) -> None:
        self.patient_of = patient_of

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*given: Any, **named: Any) -> bool:
            signature = inspect.signature(getattr(protosam.scene.LearningDesk, name))
            signature.bind(self, *given, **named)  # raises where the real one would
            self.calls.append((name, *given, *named.values()))
            return True

        return call


class RecordingController:
    """Stands for the scene package's controller and keeps what it was told."""

    made: ClassVar[list[RecordingController]] = []

    def __init__(self, *, client: Any, listener: Any, **_more: Any) -> None:
        from protosam.scene.status import Status

        self.client, self.listener, self.calls = client, listener, []
        self.learning = RecordingLearning()
        self.status = Status(worker="ready", hint="Click inside.", hint_key="first_click")
        self.under_mouse: str | None = None
        self.within = True
        self.drawn: tuple[Any, ...] = ()
        self.interval = 100
        RecordingController.made.append(self)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*given: Any, **named: Any) -> Any:
            self.calls.append((name, *given, *named.values()))
            return {"grab": self.under_mouse, "prompt_at": self.under_mouse}.get(name, True)

        return call

    def inside(self, _node: Any, _xy: Any) -> bool:
        return self.within

    def glyphs(self, _node: Any) -> tuple[Any, ...]:
        return self.drawn

    def wanted_interval_ms(self) -> int:
        return self.interval

    def volume_window(self) -> tuple[float, float]:
        return (-100.0, 300.0)

    def names(self) -> list[str]:
        quiet = ("drain", "refresh", "scrolled")
        return [one[0] for one in self.calls if one[0] not in quiet]

    def say(self, **changes: Any) -> None:
        self.status = dataclasses.replace(self.status, **changes)
        self.listener.status_changed(self.status)


class RecordingClient:
    made: ClassVar[list[RecordingClient]] = []

    def __init__(self, command: Any, *, env: Any, log_path: Any) -> None:
        self.command, self.env, self.log_path = command, env, log_path
        self.calls: list[str] = []
        self.busy = False
        RecordingClient.made.append(self)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_given, **_named: self.calls.append(name)

    def log_tail(self, _count: int) -> list[str]:
        return ["worker: loading torch"]


class Editor:
    """A segment editor widget: makes a clone of the effect and calls it in Slicer's order."""

    def __init__(self, app: App) -> None:
        self.app, self.node, self.active = app, Node("Editor"), None
        self.effect = app.prototype.self().clone()
        self.effect.editor = self
        self.effect.self().setMRMLDefaults()
        self.effect.self().setupOptionsFrame()
        self.effect.self().referenceGeometryChanged()
        self.effect.self().sourceVolumeNodeChanged()

    @property
    def session(self) -> Any:
        return self.effect.self().session

    @property
    def ui(self) -> Any:
        return self.session.panel.ui

    @property
    def controller(self) -> Any:
        return self.session.controller

    def choose(self) -> Editor:
        self.effect.self().updateGUIFromMRML()
        self.effect.self().activate()
        self.active = self.effect
        return self

    def leave(self) -> None:
        if self.active is not None:
            self.effect.self().deactivate()
            self.active = None

    def post(self, event: int, xy: tuple[int, int] = (100, 80), keys: str = "", sym: str = "",
             view: Any = None) -> bool:  # fmt: skip
        view = view or self.app.slices["Red"]
        view.interactor.SetEventInformation(
            *xy, int("ctrl" in keys), int("shift" in keys), "\0", 0, sym or None
        )
        view.interactor.SetAltKey(int("alt" in keys))
        taken = self.effect.self().processInteractionEvents(view.interactor, event, view)
        assert type(taken) is bool, "Slicer prints a warning for anything but a bool"
        return taken

    def click(self, xy: tuple[int, int] = (100, 80), keys: str = "") -> tuple[bool, bool]:
        press = self.post(EVENTS.LeftButtonPressEvent, xy, keys)
        return press, self.post(EVENTS.LeftButtonReleaseEvent, xy, keys)

    def drag(self, start: tuple[int, int], end: tuple[int, int], keys: str = "") -> None:
        assert self.post(EVENTS.LeftButtonPressEvent, start, keys)
        assert self.post(EVENTS.MouseMoveEvent, end, keys)
        assert self.post(EVENTS.LeftButtonReleaseEvent, end, keys)


class App:
    """The application: views, settings, main window, and the modules `qt` and `slicer`."""

    def __init__(self, folder: Path) -> None:
        self.slices = {
            name: stand_in.View("qMRMLSliceWidget", Node(name)) for name in ("Red", "Green")
        }
        self.view3D = stand_in.View("qMRMLThreeDWidget", Node("3D"))
        self.settings: dict[str, Any] = {}
        self.window = stand_in.Thing("QMainWindow")
        self.escape = stand_in.Thing("QShortcut", "escape", self.window, effectIndex=0)
        self.testing, self.mode = False, 1
        self.status_bar: list[str] = []
        self.jumps: list[Any] = []
        self.asked: list[str] = []
        self.answer = True
        self.file_name = ""
        self.prototype: Any = None
        self.folder = folder
        self.scene = Node("Scene")
        self.scene.StartCloseEvent = "StartClose"
        self.scene.IsClosing = lambda: False
        self.application = self._application()

    def _application(self) -> Any:
        app = stand_in.Thing("qSlicerApplication", temporaryPath=str(self.folder),
                             slicerHome=str(self.folder / "home"))  # fmt: skip
        layout = types.SimpleNamespace(
            sliceViewNames=lambda: tuple(self.slices), sliceWidget=self.slices.get
        )
        interaction = types.SimpleNamespace(GetCurrentInteractionMode=lambda: self.mode)
        logic = types.SimpleNamespace(GetInteractionNode=lambda: interaction)
        settings = types.SimpleNamespace(
            value=self.settings.get, setValue=self.settings.__setitem__
        )
        app.layoutManager = lambda: layout
        app.applicationLogic = lambda: logic
        app.userSettings = lambda: settings
        app.testingEnabled = lambda: self.testing
        return app

    def modules(self) -> dict[str, types.ModuleType]:
        def module(name: str, **names: Any) -> types.ModuleType:
            made = types.ModuleType(name)
            made.__dict__.update(names)
            return made

        util = types.SimpleNamespace(
            loadUI=stand_in.load_ui,
            childWidgetVariables=stand_in.child_variables,
            mainWindow=lambda: self.window,
            showStatusMessage=lambda text, _ms: self.status_bar.append(text),
            startupEnvironment=lambda: {"PATH": "/usr/bin", "HOME": str(self.folder)},
            confirmOkCancelDisplay=lambda text, **_n: self.asked.append(text) or self.answer,
        )
        modes = types.SimpleNamespace(ModificationModeAdd=1, ModificationModeRemove=2)
        slicer = module(
            "slicer", app=self.application, util=util, mrmlScene=self.scene, __path__=[],
            qSlicerSegmentEditorAbstractEffect=modes,
            vtkMRMLInteractionNode=types.SimpleNamespace(ViewTransform=1),
            vtkMRMLSliceNode=types.SimpleNamespace(
                CenteredJumpSlice=0, JumpAllSlices=lambda *given: self.jumps.append(given)
            ),
        )  # fmt: skip
        base = type("ScriptedLoadableModule", (), {"__init__": _keep_parent})
        effect_base = type("AbstractScriptedSegmentEditorEffect", (), {
            "__init__": lambda self, adaptor: setattr(self, "scriptedEffect", adaptor),
            "register": lambda effect: setattr(self, "prototype", effect.scriptedEffect),
        })  # fmt: skip
        dialog = types.SimpleNamespace(
            getOpenFileName=lambda *_given: self.file_name,
            getExistingDirectory=lambda *_given: self.file_name,
        )
        qt = module(
            "qt", QTimer=stand_in.Timer, QFileDialog=dialog, QKeySequence=str,
            QShortcut=lambda _keys, window: stand_in.Thing("QShortcut", "ours", window),
            QIcon=str, QPixmap=str, QCursor=lambda *given: given,
            Qt=types.SimpleNamespace(ForbiddenCursor="forbidden", WidgetShortcut=0),
        )  # fmt: skip
        return {
            "qt": qt,
            "slicer": slicer,
            "slicer.ScriptedLoadableModule": module("x", ScriptedLoadableModule=base),
            "SegmentEditorEffects": module("y", AbstractScriptedSegmentEditorEffect=effect_base),
            "qSlicerSegmentationsEditorEffectsPythonQt": module(
                "z", qSlicerSegmentEditorScriptedEffect=stand_in.ScriptedEffect
            ),
        }

    def start(self) -> None:
        """Load the module as Slicer does, and finish starting up."""
        module = load_by_path("SegmentEditorProtoSAM", MODULE / "SegmentEditorProtoSAM.py")
        module.SegmentEditorProtoSAM(types.SimpleNamespace())
        self.application.emit("startupCompleted()")

    def editor(self) -> Editor:
        return Editor(self)

    def tick(self) -> None:
        for timer in stand_in.Timer.made:
            timer.fire()


def _keep_parent(self: Any, parent: Any) -> None:
    self.parent = parent


def _ours(name: str) -> bool:
    return name.partition(".")[0] in ("ProtoSAMSlicerLib", "SegmentEditorProtoSAMEffect")


@pytest.fixture
def bare_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """The application with the module loaded; the core and the Pythons are real."""
    for made in (stand_in.Timer.made, RecordingController.made, RecordingClient.made):
        made.clear()
    before, path = {name for name in sys.modules if _ours(name)}, list(sys.path)
    assert not before
    app = App(tmp_path)
    for name, module in app.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    app.start()
    yield app
    process = sys.modules.get("ProtoSAMSlicerLib.WorkerProcess")
    if process is not None and process._REGISTRY.worker is not None:
        process._REGISTRY.worker.close()
    for name in [one for one in sys.modules if _ours(one)]:
        del sys.modules[name]
    sys.path[:] = path


@pytest.fixture
def app(bare_app: App, monkeypatch: pytest.MonkeyPatch) -> App:
    """The application with a recording controller and client, and a Python that is there."""
    core = importlib.import_module("ProtoSAMSlicerLib.Core")
    setup = importlib.import_module("ProtoSAMSlicerLib.PythonSetup")
    parts = core.Core(
        folder=ROOT / "src",
        scene=types.SimpleNamespace(
            Controller=RecordingController,
            PARAMETERS=parameters(),
            SURE=0.5,
            about_version=protosam.scene.about_version,
            standing_cells=protosam.scene.standing_cells,
        ),
        client=types.SimpleNamespace(WorkerClient=RecordingClient),
        errors=protosam.errors,
    )
    found = setup.Candidate(sys.executable, "checkout")
    monkeypatch.setattr(core, "load", lambda: parts)
    monkeypatch.setattr(setup, "candidates", lambda _checkout: [found])
    monkeypatch.setattr(setup.Candidate, "looks_complete", lambda _self: True)
    monkeypatch.setattr(setup.Check, "__init__", lambda *_given: None)
    monkeypatch.setattr(setup.Check, "poll", lambda _self: setup.Finding(found))
    monkeypatch.setattr(setup.Check, "stop", lambda _self: None)
    return bare_app


def parameters() -> dict[str, str]:
    from protosam.scene.settings import PARAMETERS

    return PARAMETERS
