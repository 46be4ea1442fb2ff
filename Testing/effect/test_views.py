"""Glyphs and picking, as VTK holds them."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import vtk

PICK = """
import sys, types
sys.path.insert(0, {folder!r})
for name in ("qt", "slicer"):
    sys.modules[name] = types.ModuleType(name)
import vtk
from ProtoSAMSlicerLib.ViewPipelines import pickSurface
sphere = vtk.vtkSphereSource()
sphere.SetRadius(10)
mapper = vtk.vtkPolyDataMapper()
mapper.SetInputConnection(sphere.GetOutputPort())
actor = vtk.vtkActor()
actor.SetMapper(mapper)
renderer = vtk.vtkRenderer()
renderer.AddActor(actor)
window = vtk.vtkRenderWindow()
window.SetOffScreenRendering(1)
window.SetSize(200, 200)
window.AddRenderer(renderer)
camera = renderer.GetActiveCamera()
camera.SetPosition(0, 0, 100)
renderer.ResetCamera()
window.Render()
(x, y, z), inward = pickSurface(renderer, (100, 100))
assert abs(x) < 1 and abs(y) < 1 and 9 < z < 10.1, (x, y, z)
assert abs(inward[2] + 1) < 0.01, inward
camera.ParallelProjectionOn()
_place, inward = pickSurface(renderer, (100, 100))
assert abs(inward[2] + 1) < 0.01, inward
assert pickSurface(renderer, (2, 2)) is None
print("picked")
"""


@pytest.fixture
def pipelines(app: Any) -> Any:
    app.editor()
    return importlib.import_module("ProtoSAMSlicerLib.ViewPipelines")


def glyph(**changes: Any) -> Any:
    values = {
        "kind": "point",
        "positive": True,
        "corners_xy": ((50.0, 40.0),),
        "opacity": 1.0,
        "answered": True,
        "grabbed": False,
        **changes,
    }
    return SimpleNamespace(**values)


def drawn(pipelines: Any, one: Any, scale: float = 1.0) -> tuple[vtk.vtkPolyData, vtk.vtkPolyData]:
    """Lines and filled polygons of a glyph."""
    shapes = pipelines.Shapes()
    pipelines.draw_glyph(shapes, one, scale)
    assert shapes.halos.poly_data(filled=False).GetNumberOfLines() == (
        shapes.lines.poly_data(filled=False).GetNumberOfLines()
    )
    return shapes.lines.poly_data(filled=False), shapes.fills.poly_data(filled=True)


def colours(data: vtk.vtkPolyData) -> list[tuple[int, ...]]:
    scalars = data.GetCellData().GetScalars()
    return [tuple(map(int, scalars.GetTuple(i))) for i in range(scalars.GetNumberOfTuples())]


def test_a_positive_point_is_a_disc_with_a_plus_where_it_lies(pipelines: Any) -> None:
    lines, fills = drawn(pipelines, glyph())
    assert (lines.GetNumberOfLines(), fills.GetNumberOfPolys()) == (3, 1)
    x0, x1, y0, y1, _z0, _z1 = fills.GetBounds()
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((50, 40))
    assert x1 - x0 == pytest.approx(2 * pipelines.RADIUS_PX)
    assert colours(fills) == [(*pipelines.POSITIVE, 255)]


def test_a_negative_point_has_a_minus_and_another_colour(pipelines: Any) -> None:
    lines, fills = drawn(pipelines, glyph(positive=False))
    assert lines.GetNumberOfLines() == 2
    assert colours(fills) == [(*pipelines.NEGATIVE, 255)]


def test_a_point_that_waits_for_its_answer_is_hollow(pipelines: Any) -> None:
    assert drawn(pipelines, glyph(answered=False))[1].GetNumberOfPolys() == 0


def test_a_point_beside_the_slice_is_dimmed(pipelines: Any) -> None:
    lines, fills = drawn(pipelines, glyph(opacity=0.4))
    assert {one[3] for one in colours(lines) + colours(fills)} == {102}


def test_a_box_is_the_polygon_that_it_cuts_out_of_the_view(pipelines: Any) -> None:
    corners = ((10.0, 10.0), (60.0, 15.0), (58.0, 44.0), (9.0, 40.0))
    lines, fills = drawn(pipelines, glyph(kind="box", corners_xy=corners))
    assert (lines.GetNumberOfLines(), fills.GetNumberOfPolys()) == (1, 4)
    assert lines.GetCell(0).GetNumberOfPoints() == 5


def test_what_is_grabbed_stands_out(pipelines: Any) -> None:
    assert (*pipelines.GRABBED, 255) in colours(drawn(pipelines, glyph(grabbed=True))[0])


def test_glyphs_grow_with_the_pixels_of_the_screen(pipelines: Any) -> None:
    small, large = drawn(pipelines, glyph())[1], drawn(pipelines, glyph(), 2.0)[1]
    assert large.GetLength() == pytest.approx(2 * small.GetLength())


def test_the_prompts_of_the_controller_are_drawn_and_redrawn(app: Any) -> None:
    editor = app.editor().choose()
    editor.controller.drawn = (glyph(), glyph(positive=False))
    editor.session.prompts_changed()
    for view in app.slices.values():
        mapper = view.renderer.GetActors2D().GetItemAsObject(1).GetMapper()
        assert mapper.GetInput().GetNumberOfPolys() == 2
    editor.controller.drawn = ()
    editor.session.prompts_changed()
    assert mapper.GetInput().GetNumberOfPolys() == 0


def test_a_surface_is_picked_in_a_rendered_view() -> None:
    folder = str(
        importlib.import_module("pathlib").Path(__file__).resolve().parents[2]
        / "ProtoSAMSegmentEditor"
        / "SegmentEditorProtoSAM"
    )
    environment = {**os.environ, "VTK_DEFAULT_OPENGL_WINDOW": "vtkEGLRenderWindow"}
    command = [sys.executable, "-c", PICK.format(folder=folder)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode < 0 or "Failed to initialize OpenGL" in done.stderr:
        pytest.skip("nothing can be rendered here")
    assert done.returncode == 0, done.stderr
    assert "picked" in done.stdout
