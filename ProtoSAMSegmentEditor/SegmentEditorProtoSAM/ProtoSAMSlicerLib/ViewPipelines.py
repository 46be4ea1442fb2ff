"""Prompts drawn into the slice views, and the mouse cursor that says what a click would do.

Rules
-----
* One pipeline of VTK actors for each view; it holds the renderer, never a widget that may be gone.
* What is drawn, and where, comes from the controller: corners in the view's XY, dimmed away from
  the slice, hollow while the answer is awaited. Nothing is computed here but shapes in pixels.
* Actors are taken out when the effect is left, when the layout changes and when Slicer ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import qt
import slicer
import vtk

from ProtoSAMSlicerLib import Core

POSITIVE = (80, 220, 100)
NEGATIVE = (240, 80, 70)
BOX = (80, 200, 250)
GRABBED = (255, 220, 60)
INK = (255, 255, 255)
HALO = (0, 0, 0)

RADIUS_PX = 6.0
"""Of a point, on a screen whose pixels are not doubled."""

SIDES = 24
CURSOR_HOT_PX = 16

Colour = tuple[int, int, int]
Corner = tuple[float, float]


class Shapes:
    """Lines and filled polygons with a colour each.

    VTK draws the polygons of a 2-D poly data over its lines. Signs belong on top of discs, so each
    kind has a poly data of its own; the third is a dark halo under the lines.
    """

    def __init__(self) -> None:
        self.halos, self.fills, self.lines = Layer(), Layer(), Layer()

    def line(self, corners: Iterable[Corner], colour: Colour, opacity: float) -> None:
        """Add a line through these corners."""
        corners = tuple(corners)
        self.halos.add(corners, HALO, 0.5 * opacity)
        self.lines.add(corners, colour, opacity)

    def fill(self, corners: Iterable[Corner], colour: Colour, opacity: float) -> None:
        """Add a filled polygon."""
        self.fills.add(corners, colour, opacity)


class Layer:
    """Cells of one kind with a colour each."""

    def __init__(self) -> None:
        self._points, self._cells = vtk.vtkPoints(), vtk.vtkCellArray()
        self._colours = vtk.vtkUnsignedCharArray()
        self._colours.SetNumberOfComponents(4)

    def add(self, corners: Iterable[Corner], colour: Colour, opacity: float) -> None:
        """Add a cell."""
        ids = [self._points.InsertNextPoint(x, y, 0.0) for x, y in corners]
        self._cells.InsertNextCell(len(ids))
        for one in ids:
            self._cells.InsertCellPoint(one)
        self._colours.InsertNextTuple4(*colour, round(255 * opacity))

    def poly_data(self, *, filled: bool) -> vtk.vtkPolyData:
        """Return all of it, as polygons or as lines."""
        data = vtk.vtkPolyData()
        data.SetPoints(self._points)
        if filled:
            data.SetPolys(self._cells)
        else:
            data.SetLines(self._cells)
        data.GetCellData().SetScalars(self._colours)
        return data


def circle(centre: Corner, radius: float) -> list[Corner]:
    """Corners of a circle, the first one not repeated."""
    steps = (2 * math.pi * step / SIDES for step in range(SIDES))
    return [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in steps]


def draw_glyph(shapes: Shapes, glyph: Any, scale: float) -> None:
    """Add one prompt to the shapes.

    Parameters
    ----------
    shapes : Shapes
        Gets it.
    glyph : protosam.scene.Glyph
        The prompt in this view.
    scale : float
        Device pixels for one pixel of the screen.
    """
    if glyph.kind == "box":
        colour = GRABBED if glyph.grabbed else BOX
        outline = [*glyph.corners_xy, glyph.corners_xy[0]]
        shapes.line(outline, colour, glyph.opacity)
        if glyph.answered:
            for x, y in glyph.corners_xy:
                shapes.fill(circle((x, y), 0.5 * RADIUS_PX * scale), colour, glyph.opacity)
        return
    (x, y), radius = glyph.corners_xy[0], RADIUS_PX * scale
    colour = POSITIVE if glyph.positive else NEGATIVE
    ring = circle((x, y), radius)
    if glyph.answered:
        shapes.fill(ring, colour, glyph.opacity)
    ink = GRABBED if glyph.grabbed else (INK if glyph.answered else colour)
    shapes.line([*ring, ring[0]], ink, glyph.opacity)
    arm = 0.55 * radius
    shapes.line([(x - arm, y), (x + arm, y)], ink, glyph.opacity)
    if glyph.positive:
        shapes.line([(x, y - arm), (x, y + arm)], ink, glyph.opacity)


class GlyphActors:
    """The actors in one renderer.

    Parameters
    ----------
    renderer : vtkRenderer
        Of the slice view.
    """

    def __init__(self, renderer: vtk.vtkRenderer) -> None:
        self._renderer = renderer
        self._actors = []
        for width in (4.0, 1.0, 2.0):
            mapper = vtk.vtkPolyDataMapper2D()
            mapper.SetInputData(vtk.vtkPolyData())
            actor = vtk.vtkActor2D()
            actor.SetMapper(mapper)
            actor.GetProperty().SetLineWidth(width)
            actor.PickableOff()
            self._actors.append(actor)
            renderer.AddViewProp(actor)

    def show(self, shapes: Shapes) -> None:
        """Draw these instead of what was there."""
        drawn = (
            shapes.halos.poly_data(filled=False),
            shapes.fills.poly_data(filled=True),
            shapes.lines.poly_data(filled=False),
        )
        for number, data in enumerate(drawn):
            self._actors[number].GetMapper().SetInputData(data)

    def remove(self) -> None:
        """Take the actors out of the view."""
        for actor in self._actors:
            self._renderer.RemoveViewProp(actor)


class SliceView:
    """One slice view while the effect is active.

    Parameters
    ----------
    widget : qMRMLSliceWidget
        The view.
    renderer : vtkRenderer
        Its renderer.
    """

    def __init__(self, widget: Any, renderer: vtk.vtkRenderer) -> None:
        self.sliceNode = widget.mrmlSliceNode()
        self.viewId = self.sliceNode.GetID()
        self._view = widget.sliceView()
        self._renderer = renderer
        self._glyphs = GlyphActors(renderer)
        self._cursor = ""

    def draw(self, glyphs: Iterable[Any], band: tuple[tuple[int, int], ...] = ()) -> None:
        """Draw prompts, and the box that is being dragged if two corners of one are given."""
        shapes = Shapes()
        scale = self._scale()
        for glyph in glyphs:
            draw_glyph(shapes, glyph, scale)
        if band:
            (x0, y0), (x1, y1) = band
            shapes.line([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)], BOX, 1.0)
        self._glyphs.show(shapes)
        self._view.scheduleRender()

    def showCursor(self, kind: str) -> None:
        """Show this cursor over the view, until another one is asked for."""
        if kind != self._cursor:
            self._cursor = kind
            shape = cursor(kind)
            self._view.setViewCursor(shape)
            self._view.setDefaultViewCursor(shape)

    def remove(self) -> None:
        """Take everything out of the view."""
        self._glyphs.remove()

    def render(self) -> None:
        """Have the view drawn anew."""
        self._view.scheduleRender()

    def _scale(self) -> float:
        window, height = self._renderer.GetRenderWindow(), self._view.height
        if window is None or height <= 0:
            return 1.0
        return max(1.0, window.GetSize()[1] / height)


def cursor(kind: str) -> Any:
    """Return the cursor "positive", "negative" or "box"; anything else is "no entry"."""
    picture = Core.module_folder() / "Resources" / "Icons" / f"Cursor-{kind}.png"
    if not picture.is_file():
        return qt.QCursor(qt.Qt.ForbiddenCursor)
    return qt.QCursor(qt.QPixmap(str(picture)), CURSOR_HOT_PX, CURSOR_HOT_PX)


class Views:
    """All slice views in which the segmentation is shown.

    Parameters
    ----------
    scriptedEffect : qSlicerSegmentEditorScriptedEffect
        The effect; knows the renderers.
    """

    def __init__(self, scriptedEffect: Any) -> None:
        self._effect = scriptedEffect
        self._views: dict[str, SliceView] = {}
        self._band: tuple[str, tuple[tuple[int, int], ...]] = ("", ())

    def build(self) -> None:
        """Take in the views of the layout, in place of those of an earlier one."""
        self.remove()
        manager = slicer.app.layoutManager()
        for name in manager.sliceViewNames() if manager is not None else ():
            widget = manager.sliceWidget(name)
            renderer = self._effect.renderer(widget)
            if renderer is not None and self._effect.segmentationDisplayableInView(
                widget.mrmlSliceNode()
            ):
                view = SliceView(widget, renderer)
                self._views[view.viewId] = view

    def remove(self) -> None:
        """Take everything out of all views."""
        views, self._views = self._views, {}
        self._band = ("", ())
        manager = slicer.app.layoutManager()
        for view in views.values():
            view.remove()
            # A view that is no longer in any layout may have lost its widget.
            name = view.sliceNode.GetLayoutName()
            if manager is not None and manager.sliceWidget(name) is not None:
                view.render()

    def of(self, widget: Any) -> SliceView | None:
        """View of a slice widget; None if it is not one of ours."""
        node = widget.mrmlSliceNode()
        return None if node is None else self._views.get(node.GetID())

    def draw(self, controller: Any, only: SliceView | None = None) -> None:
        """Draw the prompts into all views, or into one."""
        for view in (only,) if only is not None else self._views.values():
            glyphs = () if controller is None else controller.glyphs(view.sliceNode)
            band = self._band[1] if self._band[0] == view.viewId else ()
            view.draw(glyphs, band)

    def setBand(self, view: SliceView | None, corners: tuple[tuple[int, int], ...]) -> bool:
        """Remember the box that is being dragged; returns whether that is a change."""
        band = ("", ()) if view is None else (view.viewId, corners)
        changed = band != self._band
        self._band = band
        return changed

    def showCursor(self, kind: str) -> None:
        """Show this cursor over all views."""
        for view in self._views.values():
            view.showCursor(kind)


def pickSurface(renderer: vtk.vtkRenderer, xy: tuple[int, int]) -> tuple[Any, Any] | None:
    """Find the place on a visible surface under the mouse in a 3-D view.

    Parameters
    ----------
    renderer : vtkRenderer
        Of the view.
    xy : pair of int
        VTK's event position.

    Returns
    -------
    tuple or None
        RAS millimetres, and the unit RAS direction away from the viewer; None where there is none.
    """
    picker = vtk.vtkCellPicker()
    picker.SetTolerance(0.005)
    if not picker.Pick(xy[0], xy[1], 0, renderer):
        return None
    camera = renderer.GetActiveCamera()
    eye = camera.GetPosition()
    points = picker.GetPickedPositions()
    hits = [points.GetPoint(index) for index in range(points.GetNumberOfPoints())]
    if not hits:
        return None
    place = min(hits, key=lambda one: math.dist(one, eye))
    if camera.GetParallelProjection():
        return place, tuple(camera.GetDirectionOfProjection())
    away = math.dist(place, eye)
    if away == 0:
        return None
    return place, tuple((place[axis] - eye[axis]) / away for axis in range(3))
