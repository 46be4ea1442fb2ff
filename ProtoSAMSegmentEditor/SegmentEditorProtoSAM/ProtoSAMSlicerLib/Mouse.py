"""What a mouse and a key mean in a slice view.

Rules
-----
* Knows VTK's event numbers and the controller, no widgets. xy = VTK's event position: device
  pixels, origin at the bottom left, which is the slice node's XY.
* Takes only what it uses: the left button, alone, with Ctrl or with Shift; moves while it is down;
  Delete, Backspace and Escape. All else goes on to Slicer: right and middle button, wheel, and
  moves without a button, with which Shift moves the crosshair.
* A press that was taken has its release taken, too. The second click of a double click is
  swallowed, because Slicer would blow the view up to the whole window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import vtk

CLICK_PX = 4.0
"""A hand moves a little between press and release; beyond this it is a drag."""

GRAB_PX = 8.0
"""How near the mouse must be to a glyph to take hold of it."""

Tool = Literal["positive", "negative", "box"]
Kind = Literal["click", "box", "grab", "double"]


class View(Protocol):
    """A slice view, as far as the mouse needs it."""

    sliceNode: Any
    """vtkMRMLSliceNode."""
    viewId: str
    """Its node's id."""


class Host(Protocol):
    """Where the outcome goes."""

    controller: Any
    """The scene package's controller; None while there is none."""

    def placePoint(self, view: View, xy: tuple[int, int], positive: bool) -> None:
        """Place a point."""

    def placeBox(self, view: View, xy_a: tuple[int, int], xy_b: tuple[int, int]) -> None:
        """Place a box."""

    def showBand(self, view: View | None, corners: tuple[tuple[int, int], ...]) -> None:
        """Show the box that is being dragged; no corners = none."""

    def promptGrabbed(self, prompt_id: str) -> None:
        """Select the prompt that was taken hold of."""

    def draggedInVain(self) -> None:
        """Explain that the drag that has ended means nothing."""

    def hover(self, view: View, xy: tuple[int, int], tool: Tool) -> None:
        """Show with the cursor what a click would do."""


@dataclass
class Gesture:
    """The left button is down."""

    kind: Kind
    viewId: str
    start: tuple[int, int]
    positive: bool = True
    moved: bool = False


class Mouse:
    """Turns the events of slice views into prompts.

    Parameters
    ----------
    host : Host
        Where the outcome goes.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.tool: Tool = "positive"
        self.gesture: Gesture | None = None

    @property
    def dragging(self) -> bool:
        """Whether something is being dragged that could be given up."""
        return self.gesture is not None and self.gesture.kind in ("box", "grab")

    def handle(self, interactor, eventId: int, view: View) -> bool:
        """Handle one event; returns whether it was taken."""
        xy = tuple(interactor.GetEventPosition())
        if eventId == vtk.vtkCommand.MouseMoveEvent:
            return self._move(interactor, xy, view)
        if eventId == vtk.vtkCommand.LeftButtonPressEvent:
            return self._press(interactor, xy, view)
        if eventId == vtk.vtkCommand.LeftButtonDoubleClickEvent:
            self.cancel()
            self.gesture = Gesture("double", view.viewId, xy)
            return True
        if eventId == vtk.vtkCommand.LeftButtonReleaseEvent:
            return self._release(xy, view)
        if eventId == vtk.vtkCommand.KeyPressEvent:
            return self._key(interactor.GetKeySym(), xy, view)
        return False

    def cancel(self) -> bool:
        """Give up the drag that is going on; returns whether there was one."""
        gesture, self.gesture = self.gesture, None
        if gesture is None:
            return False
        if gesture.kind == "grab" and self._host.controller is not None:
            self._host.controller.drop(keep=False)
        self._host.showBand(None, ())
        return True

    def _press(self, interactor, xy: tuple[int, int], view: View) -> bool:
        shift, ctrl = bool(interactor.GetShiftKey()), bool(interactor.GetControlKey())
        if interactor.GetAltKey() or (shift and ctrl):
            return False
        self.cancel()
        controller = self._host.controller
        if not shift and not ctrl and controller is not None:
            grabbed = controller.grab(view.sliceNode, xy, GRAB_PX)
            if grabbed is not None:
                self.gesture = Gesture("grab", view.viewId, xy)
                self._host.promptGrabbed(grabbed)
                return True
        box = shift or (self.tool == "box" and not ctrl)
        positive = not ctrl and self.tool != "negative"
        self.gesture = Gesture("box" if box else "click", view.viewId, xy, positive)
        return True

    def _move(self, interactor, xy: tuple[int, int], view: View) -> bool:
        gesture = self.gesture
        if gesture is None or gesture.viewId != view.viewId:
            self._host.hover(view, xy, self._meant(interactor))
            return False
        if math.dist(gesture.start, xy) >= CLICK_PX:
            gesture.moved = True
        if gesture.kind == "box":
            self._host.showBand(view, (gesture.start, xy))
        elif gesture.kind == "grab" and gesture.moved and self._host.controller is not None:
            self._host.controller.drag(view.sliceNode, xy)
        return True

    def _release(self, xy: tuple[int, int], view: View) -> bool:
        gesture, self.gesture = self.gesture, None
        if gesture is None:
            return False
        self._host.showBand(None, ())
        moved = gesture.moved or math.dist(gesture.start, xy) >= CLICK_PX
        if gesture.kind == "grab":
            if self._host.controller is not None:
                self._host.controller.drop()
        elif gesture.kind == "box":
            self._host.placeBox(view, gesture.start, xy)
        elif gesture.kind == "click" and moved:
            self._host.draggedInVain()
        elif gesture.kind == "click":
            self._host.placePoint(view, gesture.start, gesture.positive)
        return True

    def _key(self, name: str, xy: tuple[int, int], view: View) -> bool:
        controller = self._host.controller
        if controller is None:
            return False
        if name in ("Delete", "BackSpace"):
            prompt = controller.prompt_at(view.sliceNode, xy, GRAB_PX)
            return prompt is not None and bool(controller.remove(prompt))
        if name == "Escape":
            return self.cancel() or bool(controller.status.can_cancel and controller.cancel())
        return False

    def _meant(self, interactor) -> Tool:
        if interactor.GetShiftKey():
            return "box"
        return "negative" if interactor.GetControlKey() else self.tool
