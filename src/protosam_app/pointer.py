"""What the mouse and the keys do in the slice views, and what is drawn over them.

Rules
-----
* Places become prompts in the controller and nowhere else; here is only which tool does what.
* Colours of intensities change with the window tool; the segment changes with the others.
* It is told of moves of the planes and draws the marks of that view anew.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from protosam.scene import Controller, matrix_of
from protosam_app.marks import Colour, Marks
from protosam_app.mouse import Mouse, PointXY, Tool
from protosam_app.segments import Segments
from protosam_app.stage import Stage
from protosam_app.views import COLOURS, PLANES, SPACE, Views

TOOLS: tuple[Tool, ...] = ("inside", "outside", "box", "window")


class Pointer:
    """Hand of the three slice views, see `mouse.Hand`.

    Parameters
    ----------
    stage : Stage
    views : Views
    segments : Segments
    controller : Controller
    changed : callable
        Called when something that the page shows may have changed.
    """

    def __init__(
        self,
        stage: Stage,
        views: Views,
        segments: Segments,
        controller: Controller,
        changed: Callable[[], None],
    ) -> None:
        self._stage, self._views, self._segments = stage, views, segments
        self._controller, self._changed = controller, changed
        self._tool: Tool = "inside"
        self.active = "axial"
        self.linked = True
        self.readout = ""
        self._bands: dict[str, tuple[PointXY, PointXY]] = {}
        self._window_start: tuple[float, float] | None = None
        self._corner: PointXY | None = None
        self._marks = {name: Marks(view.renderers()[-1]) for name, view in views.planes.items()}
        self._mice = [Mouse(name, view.interactor(), self) for name, view in views.planes.items()]
        views.on_moved(self._plane_moved)

    @property
    def tool(self) -> Tool:
        """The tool that is chosen."""
        return self._tool

    def choose(self, tool: Tool) -> None:
        """Choose a tool."""
        if tool in TOOLS:
            self._tool = tool
            self._corner = None
            self._changed()

    def touched(self, name: str) -> None:
        """Make a view the active one."""
        if self.active != name:
            self.active = name
            self._changed()

    def next_view(self) -> None:
        """Make the next plane the active one."""
        names = PLANES
        here = names.index(self.active) if self.active in names else -1
        self.touched(names[(here + 1) % len(names)])

    def hovered(self, name: str, xy: PointXY | None) -> None:
        """Say what lies under the mouse."""
        text = "" if xy is None else self._describe(name, xy)
        if text != self.readout:
            self.readout = text
            self._changed()

    def clicked(self, name: str, xy: PointXY, positive: bool) -> None:
        """Place a point, in a new segment if there is none."""
        self._have_segment()
        taken = self._controller.click(self._views.node(name), xy, positive)
        if taken and self.linked:
            self._views.centre_on(self._views.ras_of(name, xy), but=name)
        self._changed()

    def boxed(self, name: str, xy_a: PointXY, xy_b: PointXY) -> None:
        """Place a box."""
        self._have_segment()
        taken = self._controller.box(self._views.node(name), xy_a, xy_b)
        if taken and self.linked:
            middle = ((xy_a[0] + xy_b[0]) / 2, (xy_a[1] + xy_b[1]) / 2)
            self._views.centre_on(self._views.ras_of(name, middle), but=name)
        self._changed()

    def banded(self, name: str, band: tuple[PointXY, PointXY] | None) -> None:
        """Show the box that is being dragged."""
        if self._bands.get(name) == band:
            return
        self._bands.pop(name, None)
        if band is not None:
            self._bands[name] = band
        self.redraw(name)

    def grabbed(self, name: str, xy: PointXY) -> bool:
        """Take hold of the prompt at a place."""
        return self._controller.grab(self._views.node(name), xy) is not None

    def dragged(self, name: str, xy: PointXY) -> None:
        """Move the prompt that is held."""
        self._controller.drag(self._views.node(name), xy)

    def dropped(self) -> None:
        """Let go of the prompt that is held; a new answer follows if it was moved."""
        self._controller.drop()
        self._changed()

    def windowed(self, change: PointXY | None) -> None:
        """Change window (to the right: less contrast) and level (up: brighter)."""
        display = self._stage.display()
        if display is None:
            return
        if change is None or self._window_start is None:
            self._window_start = display.low, display.high
            return
        low, high = self._window_start
        width, middle = high - low, (low + high) / 2
        width *= float(np.exp(np.clip(2.0 * change[0], -4, 4)))
        middle -= change[1] * (high - low)
        self._stage.set_window(middle - width / 2, middle + width / 2)
        self._changed()

    def give_up(self) -> bool:
        """Forget a drag or a first corner; whether there was one."""
        had = bool(self._bands) or self._corner is not None
        self._corner = None
        self._controller.drop(keep=False)
        for mouse in self._mice:
            mouse.let_go()
        return had

    def press_key(self, *, opposite: bool = False) -> None:
        """Do at the cursor of the active view what a click with the tool would do there."""
        name = self.active
        if name == SPACE or self._stage.volume is None:
            return
        xy = self._views.xy_of(name, self._views.cursor())
        if self._tool == "box":
            if self._corner is None:
                self._corner = xy
                self.banded(name, (xy, xy))
            else:
                corner, self._corner = self._corner, None
                self.banded(name, None)
                self.boxed(name, corner, xy)
        elif self._tool != "window":
            self.clicked(name, xy, (self._tool == "inside") != opposite)

    def move_key(self, right: int, up: int) -> None:
        """Move the cursor in the active view."""
        if self.active == SPACE or self._stage.volume is None:
            return
        self._views.move_cursor(self.active, right, up)
        if self._corner is not None:
            here = self._views.xy_of(self.active, self._views.cursor())
            self.banded(self.active, (self._corner, here))

    def redraw(self, name: str) -> None:
        """Draw the marks of a view anew."""
        node, cursor = self._views.node(name), None
        if self.linked and self._stage.volume is not None:
            cursor = self._cursor_in(name)
        width, height = node.GetDimensions()[:2]
        self._marks[name].draw(
            self._controller.glyphs(node),
            band=self._bands.get(name),
            cursor=cursor,
            size=(width, height),
        )
        self._views.planes[name].schedule_render()

    def redraw_all(self) -> None:
        """Draw the marks of all views anew."""
        for name in PLANES:
            self.redraw(name)

    def _plane_moved(self, name: str) -> None:
        if name == self.active:
            self._controller.scrolled(self._views.node(name))
        for one in PLANES if self.linked else (name,):
            self.redraw(one)
        self._changed()

    def _have_segment(self) -> None:
        if self._stage.volume is not None and not self._segments.selected:
            self._segments.add()

    def _cursor_in(self, name: str) -> tuple[PointXY, Colour, Colour]:
        """Where the other planes cut this one: place, colours of the upright and level lines."""
        across = matrix_of(self._views.node(name).GetSliceToRAS())[:3, 0]
        others = [one for one in PLANES if one != name]
        others.sort(
            key=lambda one: -abs(matrix_of(self._views.node(one).GetSliceToRAS())[:3, 2] @ across)
        )
        place = self._views.xy_of(name, self._views.cursor())
        return place, _bytes(COLOURS[others[0]]), _bytes(COLOURS[others[1]])

    def _describe(self, name: str, xy: PointXY) -> str:
        volume = self._stage.volume
        if volume is None:
            return ""
        ras = self._views.ras_of(name, xy)
        to_ras = vtkMatrix4x4()
        volume.GetIJKToRASMatrix(to_ras)
        matrix = np.linalg.inv(matrix_of(to_ras))
        i, j, k = (round(x) for x in (matrix @ (*ras, 1.0))[:3].tolist())
        size = volume.GetImageData().GetDimensions()
        if not all(0 <= x < n for x, n in zip((i, j, k), size, strict=True)):
            return ""
        value = volume.GetImageData().GetScalarComponentAsDouble(i, j, k, 0)
        places = " ".join(
            f"{letters[0] if mm >= 0 else letters[1]} {abs(mm):.1f}"
            for mm, letters in zip(ras.tolist(), ("RL", "AP", "SI"), strict=True)
        )
        return f"value {value:g}  ·  voxel {k}, {j}, {i}  ·  {places} mm"


def _bytes(colour: str) -> Colour:
    red, green, blue = (int(colour[n : n + 2], 16) for n in (1, 3, 5))
    return red, green, blue
