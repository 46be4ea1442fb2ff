"""What is drawn over a slice: clicks, boxes, the box that is being dragged, the cursor's lines.

Rules
-----
* Places are device pixels of the view, origin at the bottom left.
* Everything is one small polygon mesh with a colour for each cell, made anew when something moves.
* Green with a plus belongs to the object, red with a minus does not: told apart without colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from vtkmodules.vtkCommonCore import vtkPoints, vtkUnsignedCharArray
from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData
from vtkmodules.vtkRenderingCore import vtkActor2D, vtkPolyDataMapper2D

from protosam.scene import Glyph

Colour = tuple[int, int, int]
PointXY = tuple[float, float]

INSIDE: Colour = (63, 207, 120)
OUTSIDE: Colour = (255, 92, 92)
BOX: Colour = (79, 195, 207)
BAND: Colour = (255, 214, 102)
DARK: Colour = (12, 14, 16)
LIGHT: Colour = (255, 255, 255)
RADIUS_PX = 7.0
CURSOR_GAP_PX = 14.0
CURSOR_OPACITY = 0.4


class Marks:
    """The drawing over one view.

    Parameters
    ----------
    renderer : vtkRenderer
        Of the layer above the image.
    """

    def __init__(self, renderer: Any) -> None:
        self._mapper = vtkPolyDataMapper2D()
        self._mapper.SetScalarModeToUseCellData()
        self._mapper.SetColorModeToDirectScalars()
        self._mapper.SetInputData(_Mesh().data())
        actor = vtkActor2D()
        actor.SetMapper(self._mapper)
        actor.GetProperty().SetLineWidth(1.6)
        actor.GetProperty().SetDisplayLocationToForeground()
        renderer.AddViewProp(actor)

    def draw(
        self,
        glyphs: Iterable[Glyph],
        *,
        band: tuple[PointXY, PointXY] | None = None,
        cursor: tuple[PointXY, Colour, Colour] | None = None,
        size: tuple[int, int] = (0, 0),
    ) -> None:
        """Draw anew.

        Parameters
        ----------
        glyphs : iterable of Glyph
            Prompts.
        band : two places, optional
            Corners of the box that is being dragged.
        cursor : place and two colours, optional
            Where the planes meet, and the colours of its upright and its level line.
        size : two ints
            Of the view.
        """
        mesh = _Mesh()
        if cursor is not None:
            _draw_cursor(mesh, *cursor, size)
        for glyph in sorted(glyphs, key=lambda one: one.kind):
            (_draw_point if glyph.kind == "point" else _draw_box)(mesh, glyph)
        if band is not None:
            mesh.line(_corners(*band), BAND, 1.0, closed=True)
        self._mapper.SetInputData(mesh.data())


class _Mesh:
    """Lines and polygons with a colour each; VTK draws lines before polygons, so both are kept."""

    def __init__(self) -> None:
        self._points, self._lines, self._polygons = vtkPoints(), vtkCellArray(), vtkCellArray()
        self._line_colours: list[tuple[int, ...]] = []
        self._polygon_colours: list[tuple[int, ...]] = []

    def line(
        self, places: Sequence[PointXY], colour: Colour, opacity: float, *, closed: bool = False
    ) -> None:
        """Add a line through places."""
        ids = self._add(places)
        ids = [*ids, ids[0]] if closed else ids
        self._lines.InsertNextCell(len(ids), ids)
        self._line_colours.append((*colour, round(255 * opacity)))

    def polygon(self, places: Sequence[PointXY], colour: Colour, opacity: float) -> None:
        """Add a filled convex polygon."""
        ids = self._add(places)
        self._polygons.InsertNextCell(len(ids), ids)
        self._polygon_colours.append((*colour, round(255 * opacity)))

    def disc(self, centre: PointXY, radius: float, colour: Colour, opacity: float) -> None:
        """Add a filled circle."""
        self.polygon(_circle(centre, radius), colour, opacity)

    def ring(self, centre: PointXY, radius: float, colour: Colour, opacity: float) -> None:
        """Add a circle of 2 pixels; made of quads, because lines lie under polygons."""
        outer, inner = _circle(centre, radius), _circle(centre, radius - 2)
        count = len(outer)
        for n in range(count):
            m = (n + 1) % count
            self.polygon([outer[n], outer[m], inner[m], inner[n]], colour, opacity)

    def bar(self, centre: PointXY, half: PointXY, colour: Colour, opacity: float) -> None:
        """Add a filled rectangle by its half sides."""
        (x, y), (w, h) = centre, half
        corners = [(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)]
        self.polygon(corners, colour, opacity)

    def data(self) -> vtkPolyData:
        """Return all of it, for the mapper."""
        data, colours = vtkPolyData(), vtkUnsignedCharArray()
        colours.SetNumberOfComponents(4)
        for colour in (*self._line_colours, *self._polygon_colours):
            colours.InsertNextTuple4(*colour)
        data.SetPoints(self._points)
        data.SetLines(self._lines)
        data.SetPolys(self._polygons)
        data.GetCellData().SetScalars(colours)
        return data

    def _add(self, places: Sequence[PointXY]) -> list[int]:
        return [self._points.InsertNextPoint(x, y, 0.0) for x, y in places]


def _draw_point(mesh: _Mesh, glyph: Glyph) -> None:
    centre, colour = glyph.corners_xy[0], INSIDE if glyph.positive else OUTSIDE
    radius, opacity = RADIUS_PX + 2 * glyph.grabbed, glyph.opacity
    mesh.disc(centre, radius + 1.5, DARK, 0.85 * opacity)
    if glyph.answered:
        mesh.disc(centre, radius, colour, opacity)
        sign = LIGHT
    else:
        mesh.ring(centre, radius, colour, opacity)
        sign = colour
    mesh.bar(centre, (radius * 0.55, 1.0), sign, opacity)
    if glyph.positive:
        mesh.bar(centre, (1.0, radius * 0.55), sign, opacity)


def _draw_box(mesh: _Mesh, glyph: Glyph) -> None:
    if len(glyph.corners_xy) < 2:
        return
    opacity = glyph.opacity * (1.0 if glyph.answered else 0.6)
    mesh.line(glyph.corners_xy, BOX, opacity, closed=True)
    for corner in glyph.corners_xy:
        mesh.bar(corner, (3.0 + glyph.grabbed, 3.0 + glyph.grabbed), BOX, opacity)


def _draw_cursor(
    mesh: _Mesh, place: PointXY, upright: Colour, level: Colour, size: tuple[int, int]
) -> None:
    (x, y), (width, height), gap = place, size, CURSOR_GAP_PX
    for ends in (((x, 0.0), (x, y - gap)), ((x, y + gap), (x, float(height)))):
        if ends[0][1] < ends[1][1]:
            mesh.line(ends, upright, CURSOR_OPACITY)
    for ends in (((0.0, y), (x - gap, y)), ((x + gap, y), (float(width), y))):
        if ends[0][0] < ends[1][0]:
            mesh.line(ends, level, CURSOR_OPACITY)


def _circle(centre: PointXY, radius: float, count: int = 24) -> list[PointXY]:
    turns = (2 * math.pi * n / count for n in range(count))
    return [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in turns]


def _corners(a: PointXY, b: PointXY) -> list[PointXY]:
    return [a, (b[0], a[1]), b, (a[0], b[1])]
