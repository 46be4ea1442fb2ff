"""The mouse in a slice view: presses, moves and releases into clicks, boxes, drags and windows.

Rules
-----
* It knows VTK's events of one view and what they mean, never what follows from them.
* The left button is ours; wheel, middle and right button stay Slicer's (scroll, pan, zoom).
* A press that is moved by less than `CLICK_PX` is a click.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

PointXY = tuple[float, float]
Tool = Literal["inside", "outside", "box", "window"]

CLICK_PX = 4
"""Farther than this between press and release is a drag."""

PRIORITY = 10.0
"""Above Slicer's own observers, which would take the press for windowing."""


class Hand(Protocol):
    """What the mouse acts upon."""

    @property
    def tool(self) -> Tool:
        """The tool that is chosen."""

    def touched(self, name: str) -> None:
        """Hear that a view was pressed in; it is the active one now."""

    def hovered(self, name: str, xy: PointXY | None) -> None:
        """Hear that the mouse is at a place of a view, or has left it (None)."""

    def clicked(self, name: str, xy: PointXY, positive: bool) -> None:
        """Take a click with a point tool."""

    def boxed(self, name: str, xy_a: PointXY, xy_b: PointXY) -> None:
        """Take a box."""

    def banded(self, name: str, band: tuple[PointXY, PointXY] | None) -> None:
        """Show a box that is being dragged, or none any more (None)."""

    def grabbed(self, name: str, xy: PointXY) -> bool:
        """Take hold of the prompt at a place, if there is one."""

    def dragged(self, name: str, xy: PointXY) -> None:
        """Move the prompt that is held."""

    def dropped(self) -> None:
        """Let go of the prompt that is held."""

    def windowed(self, change: PointXY | None) -> None:
        """Change window and level by parts of the view since the press; None begins."""


class Mouse:
    """Left button and moves of one slice view.

    Parameters
    ----------
    name : str
        Of the view.
    interactor : vtkRenderWindowInteractor
    hand : Hand
    """

    def __init__(self, name: str, interactor: Any, hand: Hand) -> None:
        self._name, self._interactor, self._hand = name, interactor, hand
        self._start: PointXY | None = None
        self._doing: Literal["", "click", "box", "prompt", "window"] = ""
        self._positive = True
        self._tags: dict[str, int] = {}
        for event, call in (
            ("LeftButtonPressEvent", self._press),
            ("MouseMoveEvent", self._move),
            ("LeftButtonReleaseEvent", self._release),
            ("LeaveEvent", self._leave),
        ):
            self._tags[event] = interactor.AddObserver(event, call, PRIORITY)

    def let_go(self) -> None:
        """Forget what is being done."""
        self._start, self._doing = None, ""
        self._hand.banded(self._name, None)

    def _press(self, *_: object) -> None:
        self._take("LeftButtonPressEvent")
        hand, xy = self._hand, self._place()
        tool = hand.tool
        self._start = xy
        hand.touched(self._name)
        if tool == "window":
            self._doing = "window"
            hand.windowed(None)
        elif self._interactor.GetShiftKey():
            self._doing = "box"
        elif hand.grabbed(self._name, xy):
            self._doing = "prompt"
        elif tool == "box":
            self._doing = "box"
        else:
            self._doing = "click"
            self._positive = (tool == "inside") != bool(self._interactor.GetControlKey())

    def _move(self, *_: object) -> None:
        xy = self._place()
        self._hand.hovered(self._name, xy)
        if self._start is None:
            return
        self._take("MouseMoveEvent")
        if self._doing == "box" and self._has_moved(xy):
            self._hand.banded(self._name, (self._start, xy))
        elif self._doing == "prompt":
            self._hand.dragged(self._name, xy)
        elif self._doing == "window":
            width, height = self._interactor.GetRenderWindow().GetSize()
            x, y = (xy[n] - self._start[n] for n in (0, 1))
            self._hand.windowed((x / max(width, 1), y / max(height, 1)))

    def _release(self, *_: object) -> None:
        start, doing, xy = self._start, self._doing, self._place()
        if start is None:
            return
        self._take("LeftButtonReleaseEvent")
        self.let_go()
        if doing == "prompt":
            self._hand.dropped()
        elif doing == "click" and not _is_far(start, xy):
            self._hand.clicked(self._name, xy, self._positive)
        elif doing == "box":
            self._hand.boxed(self._name, start, xy)

    def _leave(self, *_: object) -> None:
        self._hand.hovered(self._name, None)

    def _has_moved(self, xy: PointXY) -> bool:
        return self._start is not None and _is_far(self._start, xy)

    def _place(self) -> PointXY:
        x, y = self._interactor.GetEventPosition()
        return float(x), float(y)

    def _take(self, event: str) -> None:
        """Keep the event from everybody else."""
        self._interactor.GetCommand(self._tags[event]).SetAbortFlag(1)


def _is_far(a: PointXY, b: PointXY) -> bool:
    return max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= CLICK_PX
