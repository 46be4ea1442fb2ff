"""One clone of the effect in use: mouse, views, panel and controller, put together.

Rules
-----
* Thin: events go to the controller, what the controller says goes to the widgets.
* The panel is made with the options frame; everything else when the effect is activated for the
  first time, because every editor widget of the application has a clone of its own.
* Main thread only; nothing waits. What concerns the worker is `SharedWorker`'s, what concerns a
  missing Python is `SetupDesk`'s.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import slicer
import vtk

from ProtoSAMSlicerLib import Core, Names, Parameters, WorkerProcess
from ProtoSAMSlicerLib.AdaptDesk import AdaptDesk
from ProtoSAMSlicerLib.EscapeKey import EscapeKey
from ProtoSAMSlicerLib.ExamplesDesk import ExamplesDesk
from ProtoSAMSlicerLib.Mouse import CLICK_PX, Mouse
from ProtoSAMSlicerLib.OptionsPanel import OptionsPanel
from ProtoSAMSlicerLib.SegmentWriter import SegmentWriter
from ProtoSAMSlicerLib.SetupDesk import SetupDesk
from ProtoSAMSlicerLib.Translation import tr as _
from ProtoSAMSlicerLib.ViewPipelines import SliceView, Views, pickSurface

STATUS_BAR_MS = 8000


class EditorSession:
    """What a clone of the effect does.

    Parameters
    ----------
    scriptedEffect : qSlicerSegmentEditorScriptedEffect
        Slicer's side of the effect.
    """

    def __init__(self, scriptedEffect: Any) -> None:
        self._effect = scriptedEffect
        self.controller: Any = None
        self.active = False
        self._has_widgets = True
        self._core: Core.Core | None = None
        self._shared: WorkerProcess.SharedWorker | None = None
        self.client: Any = None
        self._writer: SegmentWriter | None = None
        self._views = Views(scriptedEffect)
        self._mouse = Mouse(self)
        self._setup = SetupDesk(self)
        self._escape = EscapeKey(self.escape)
        self._press_3d: tuple[str, tuple[int, int]] | None = None
        self._observed: tuple[Any, int] | None = None
        self._listed_for: Any = None
        self.panel = OptionsPanel(self)
        self.panel.showTool(self._mouse.tool)
        self.examples = ExamplesDesk(self, scriptedEffect)
        self.adapt = AdaptDesk(self)
        for panel in (self.panel, self.examples.panel, self.adapt.panel):
            scriptedEffect.addOptionsWidget(panel.widget)

    # Coming and going

    def activate(self) -> None:
        """Begin: the effect has been chosen."""
        self.active = True
        self.panel.showMessage("", "")
        try:
            self._core = Core.load()
        except Core.CoreUnavailable as error:
            self.panel.showNoWorker(_("Not available"))
            self.panel.showHint(str(error))
            return
        self._views.build()
        self._observe(self._effect.parameterSetNode())
        self._shared = WorkerProcess.sharedWorker(self._core)
        self._shared.join(self)
        self._takeClient()
        self._attach()

    def deactivate(self) -> None:
        """Another effect has been chosen, or the editor is left; may be called at any time."""
        self.active = False
        self._mouse.cancel()
        self._escape.disable()
        self._observe(None)
        self._views.remove()
        if self._writer is not None:
            self._writer.forgetAdded()
        if self.controller is not None:
            self.controller.detach()
        if self._shared is not None:
            self._shared.leave(self)

    def workerChanged(self) -> None:
        """Take note of another client, or of news about the Pythons."""
        if self.active and self._takeClient():
            self._attach()

    def _takeClient(self) -> bool:
        """Take the shared client, if there is one; returns whether it is another one."""
        changed = self._shared.client is not self.client
        if changed:
            if self.controller is not None:
                self.controller.detach()
            self.controller, self.client = None, self._shared.client
        self._setup.show(self._shared)
        return changed

    def _attach(self) -> None:
        if self.client is None or self._effect.parameterSetNode() is None:
            return
        if self.controller is None:
            self.controller = self._core.scene.Controller(
                mrml=slicer,
                client=self.client,
                listener=self,
                translate=_,
                model_path=lambda name: Names.path_of(Names.MODELS, name),
                adapter_path=lambda name: Names.path_of(Names.ADAPTERS, name),
            )
            self._writer = SegmentWriter(self._effect, self._core)
        self.controller.attach(self._effect.parameterSetNode(), self._writer)
        self.showParameters()
        self.examples.listFiles()
        self.status_changed(self.controller.status)
        self.prompts_changed()
        self._shared.wake()

    def sceneClosed(self) -> None:
        """Let go of the scene, which is about to be emptied."""
        if self._gone():
            return
        self._mouse.cancel()
        self._observe(None)
        if self.controller is not None:
            self.controller.scene_closed()

    def applicationCloses(self) -> None:
        """End with Slicer."""
        if not self._gone():
            self.deactivate()

    def drain(self) -> int:
        """Handle what has arrived; returns the wanted milliseconds to the next call."""
        if self._gone():
            return WorkerProcess.REST_MS
        self._setup.poll()
        if self.controller is None:
            return WorkerProcess.REST_MS
        self.controller.drain(wait_s=0.005)
        return self.controller.wanted_interval_ms()

    def refresh(self, *_event: object) -> None:
        """Have the controller look at the scene."""
        if self._gone() or not self.active or self.controller is None:
            return
        if not slicer.mrmlScene.IsClosing():
            self.controller.refresh()
            self.wake()

    def layoutChanged(self) -> None:
        """Draw into the views of another layout."""
        if self.active and self._core is not None:
            self._mouse.cancel()
            self._views.build()
            self.prompts_changed()

    # Events of views

    def handleEvent(self, interactor: Any, eventId: int, viewWidget: Any) -> bool:
        """Handle an event of a view; returns whether it was taken."""
        if not self.active or self._core is None or not self._viewMode():
            return False
        if viewWidget.className() != "qMRMLSliceWidget":
            return self._handle3D(interactor, eventId, viewWidget)
        view = self._views.of(viewWidget)
        taken = view is not None and self._mouse.handle(interactor, eventId, view)
        if taken:
            self._escape.enable(self._escapable())
            self.wake()
        return taken

    def viewChanged(self, viewWidget: Any) -> None:
        """Follow a slice view that was scrolled, panned or zoomed."""
        if not self.active or viewWidget.className() != "qMRMLSliceWidget":
            return
        view = self._views.of(viewWidget)
        if view is not None and self.controller is not None:
            self._views.draw(self.controller, view)
            # A worker that was stopped stays stopped until there is a click.
            if self.controller.status.worker == "ready":
                self.controller.scrolled(view.sliceNode)

    def placePoint(self, view: SliceView, xy: tuple[int, int], positive: bool) -> None:
        """Place a point; the first one in an empty segmentation adds a segment."""
        if self.controller is None:
            self._setup.remind()
            return
        self._segmentFor(self.controller.inside(view.sliceNode, xy) and positive)
        self.controller.click(view.sliceNode, xy, positive)

    def placeBox(self, view: SliceView, xy_a: tuple[int, int], xy_b: tuple[int, int]) -> None:
        """Place a box."""
        if self.controller is None:
            self._setup.remind()
            return
        drawn = abs(xy_a[0] - xy_b[0]) >= CLICK_PX and abs(xy_a[1] - xy_b[1]) >= CLICK_PX
        self._segmentFor(drawn and self.controller.inside(view.sliceNode, xy_a))
        self.controller.box(view.sliceNode, xy_a, xy_b)

    def showBand(self, view: SliceView | None, corners: tuple[tuple[int, int], ...]) -> None:
        """Show the box that is being dragged."""
        if self._views.setBand(view, corners):
            self._views.draw(self.controller, view)

    def promptGrabbed(self, prompt_id: str) -> None:
        """Select the prompt that was taken hold of."""
        self.panel.selectPrompt(prompt_id)

    def draggedInVain(self) -> None:
        """Explain that the drag that has ended means nothing."""
        self.panel.showHint(
            _("That was a drag: click without moving the mouse, or drag with Shift for a box.")
        )

    def hover(self, view: SliceView, xy: tuple[int, int], tool: str) -> None:
        """Show with the cursor what a click would do."""
        outside = self.controller is not None and not self.controller.inside(view.sliceNode, xy)
        view.showCursor("outside" if outside else tool)

    def escape(self) -> None:
        """Escape was pressed while there is something to give up."""
        if not self._mouse.cancel() and self.controller is not None:
            self.controller.cancel()
        self._escape.enable(self._escapable())

    def _handle3D(self, interactor: Any, eventId: int, viewWidget: Any) -> bool:
        # Nothing is taken here: dragging turns the view, and a click does nothing else.
        xy = tuple(interactor.GetEventPosition())
        name = viewWidget.mrmlViewNode().GetID()
        if eventId == vtk.vtkCommand.LeftButtonPressEvent:
            keys = interactor.GetShiftKey() or interactor.GetControlKey() or interactor.GetAltKey()
            self._press_3d = None if keys else (name, xy)
        elif eventId == vtk.vtkCommand.LeftButtonReleaseEvent:
            press, self._press_3d = self._press_3d, None
            still = press is not None and press[0] == name and math.dist(press[1], xy) < CLICK_PX
            if still and self.controller is not None:
                self._pick(self._effect.renderer(viewWidget), xy)
        return False

    def _pick(self, renderer: Any, xy: tuple[int, int]) -> None:
        found = None if renderer is None else pickSurface(renderer, xy)
        if found is not None:
            place, inward = found
            self._segmentFor(True)
            self.controller.click_world(place, positive=True, inward=inward)
            self.wake()

    def _segmentFor(self, wanted: bool) -> None:
        """Add a segment if that is all that is missing for a prompt."""
        if not wanted:
            return
        self.controller.refresh()
        if self.controller.status.hint_key != "no_segment":
            return
        segmentation = self._effect.parameterSetNode().GetSegmentationNode().GetSegmentation()
        if segmentation.GetNumberOfSegments() == 0:
            self._writer.addSegment()
            self.controller.refresh()

    def _viewMode(self) -> bool:
        # Window/level and placing markups are mouse modes of Slicer's own.
        node = slicer.app.applicationLogic().GetInteractionNode()
        mode = slicer.vtkMRMLInteractionNode.ViewTransform
        return node is None or node.GetCurrentInteractionMode() == mode

    # What the controller says

    def status_changed(self, status: Any) -> None:
        """Show a status."""
        if not self._has_widgets:
            return
        self.panel.showStatus(status)
        self.examples.show(status)
        self.adapt.show(status)
        self._escape.enable(self._escapable())
        if status.worker == "ready" and self._listed_for is not self.client:
            self._listed_for = self.client
            self.client.models(on_done=self._modelsListed)

    def prompts_changed(self) -> None:
        """Draw and list the prompts anew."""
        if not self._has_widgets:
            return
        self._views.draw(self.controller)
        self.panel.showPrompts(() if self.controller is None else self.controller.status.prompts)

    def message(self, message: Any) -> None:
        """Tell the user, once, in the panel, the status bar and the log; never in a dialog."""
        if not self._has_widgets:
            return
        text = f"{message.text} {message.next_step}".strip()
        self.panel.showMessage(text, message.details)
        slicer.util.showStatusMessage(text, STATUS_BAR_MS)
        logging.log(logging.WARNING if message.level != "info" else logging.INFO, text)

    def _modelsListed(self, pending: Any) -> None:
        if pending.error is None:
            self.panel.showModels(pending.result().models)

    # What was pressed

    def pressed(self, action: str) -> None:
        """Do what a button of the panel is for."""
        if self._shared is None:
            return
        if action in ("start", "stop"):
            if action == "start":
                self._shared.restart()
            else:
                self._shared.stop()
            if self.controller is not None:
                self.controller.worker_changed()
        elif action in SetupDesk.ACTIONS:
            self._setup.pressed(action, self._shared)
        elif self.controller is not None:
            # Each button has the name of what the controller does, but for this one.
            getattr(self.controller, "rerun" if action == "update" else action)()
        self.wake()

    def removePressed(self, prompt_id: str) -> None:
        """Remove a prompt of the list."""
        if self.controller is not None:
            self.controller.remove(prompt_id)
            self.wake()

    def toolChosen(self, tool: str) -> None:
        """Give the left button another meaning."""
        self._mouse.tool = tool
        self.panel.showTool(tool)
        self._views.showCursor(tool)

    def parameterChosen(self, name: str, value: str) -> None:
        """Set a parameter on the node; from there the controller reads it."""
        Parameters.choose(self._effect, self.controller, name, value)
        self.refresh()

    def showParameters(self) -> None:
        """Show the parameters as they stand on the node."""
        if self._core is None or self._effect.parameterSetNode() is None:
            return
        self.panel.showChoices("adapterCombo", self.adapt.names(), set())
        self.panel.showParameters(lambda name: Parameters.read(self._effect, name))

    def logText(self) -> str:
        """Return what the log shows."""
        if self._shared is None or self.client is None:
            return _("No worker has been started.")
        lines = self.client.log_tail(200)
        return "\n".join([*lines, "", _("All of it: {path}").format(path=self._shared.logPath)])

    def cursorFor(self) -> str:
        """Which cursor a view gets when the effect is activated."""
        return self._mouse.tool

    def _escapable(self) -> bool:
        running = self.controller is not None and self.controller.status.can_cancel
        return self.active and (self._mouse.dragging or running)

    def _gone(self) -> bool:
        """Whether Slicer has deleted the effect; before 5.10 it does so without a word."""
        # PythonQt's wrapper of a deleted object counts as false.
        if self._effect:
            return False
        if self._has_widgets:
            self._has_widgets = False
            self.deactivate()
        return True

    def _observe(self, node: Any) -> None:
        if self._observed is not None:
            observed, tag = self._observed
            observed.RemoveObserver(tag)
            self._observed = None
        if node is not None:
            tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, self.refresh)
            self._observed = (node, tag)

    def wake(self) -> None:
        """Have the worker heard soon."""
        if self._shared is not None:
            self._shared.wake()
