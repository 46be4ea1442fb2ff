"""Draw the pictures of docs/slicer-guide.md: Slicer's own slice views of the phantom, offscreen.

    .venv/bin/python scripts/slicer_pictures.py docs/images

The scene and its views are those of the tests (Testing/scene/conftest.py), the prompts are drawn by
the effect's own code, the masks come from a real worker with the built-in model. The panel's
pictures are not made here: they need Qt.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

import numpy as np
import slicer as mrml
from PIL import Image

from protosam.geometry import kji_to_ras
from protosam.phantom import make_phantom
from protosam.scene import Controller, LogicWriter
from protosam.wire.client import WorkerClient

ROOT = Path(__file__).resolve().parent.parent
SIDE, FIELD_MM = 420, 330.0
ORIENTATIONS = {
    "axial": [[-1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "coronal": [[-1, 0, 0], [0, 0, 1], [0, 1, 0]],
    "sagittal": [[0, 0, 1], [-1, 0, 0], [0, 1, 0]],
}
INSIDE, OUTSIDE, KIDNEY = (15, 93, 119), (15, 86, 93), (15, 93, 56)
"""Voxels of the phantom, (k, j, i): in the left kidney, in the aorta, in the right kidney."""


def tests_of_the_scene() -> Any:
    """Import the module with the offscreen views."""
    path = ROOT / "Testing" / "scene" / "conftest.py"
    spec = importlib.util.spec_from_file_location("scene_host", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def effect_drawing() -> Any:
    """Import the effect's drawing code, which needs neither Qt nor the application for this."""
    folder = ROOT / "ProtoSAMSegmentEditor" / "SegmentEditorProtoSAM"
    sys.path.insert(0, str(folder))
    sys.modules.setdefault("qt", types.ModuleType("qt"))
    return importlib.import_module("ProtoSAMSlicerLib.ViewPipelines")


def settle(controller: Controller) -> None:
    """Drain until the answer is there."""
    while controller.status.busy:
        controller.drain()
        time.sleep(0.005)


def picture(view: Any, controller: Controller, drawing: Any) -> np.ndarray:
    """Return what the view shows, with the prompts."""
    shapes, actors = drawing.Shapes(), drawing.GlyphActors(view.renderer)
    for glyph in controller.glyphs(view.node):
        drawing.draw_glyph(shapes, glyph, 1.3)
    actors.show(shapes)
    seen = view.picture()
    actors.remove()
    return seen


def beside(pictures: list[np.ndarray]) -> Image.Image:
    """Pictures in a row with a gap between them."""
    gap = np.full((SIDE, 6, 3), 40, np.uint8)
    parts = [part for one in pictures for part in (one, gap)][:-1]
    return Image.fromarray(np.ascontiguousarray(np.concatenate(parts, axis=1)))


def main(folder: Path) -> None:
    """Write the pictures into `folder`."""
    host, drawing, phantom = tests_of_the_scene(), effect_drawing(), make_phantom()
    folder.mkdir(parents=True, exist_ok=True)
    scene = host.Scene(mrml)
    volume = scene.add_volume(phantom.volume.voxels, phantom.volume.affine)
    volume.GetDisplayNode().SetWindowLevelMinMax(-160, 240)
    scene.add_segmentation(volume, "left kidney", "right kidney")
    place = kji_to_ras(phantom.volume.affine, np.array([INSIDE]))[0]
    middle = np.array([phantom.volume.shape_kji]) / 2
    centre = kji_to_ras(phantom.volume.affine, middle)[0]
    outside = kji_to_ras(phantom.volume.affine, np.array([OUTSIDE]))[0]
    views = {}
    for name, axes in ORIENTATIONS.items():
        to_ras = np.eye(4)
        to_ras[:3, :3] = axes
        normal = to_ras[:3, 2]
        to_ras[:3, 3] = centre + normal * (normal @ (place - centre))
        views[name] = host.View(scene, volume, to_ras, size=SIDE, fov_mm=FIELD_MM)
    with WorkerClient() as client:
        controller = Controller(mrml, client, host.Told())
        controller.attach(scene.editor, LogicWriter(scene.logic))
        scene.select("left kidney")
        axial = views["axial"]
        controller.click(axial.node, axial.pixel(place))
        settle(controller)
        controller.click(axial.node, axial.pixel(outside), positive=False)
        settle(controller)
        beside([picture(v, controller, drawing) for v in views.values()]).save(
            folder / "slicer-clicks.png"
        )
        scene.select("right kidney")
        controller.refresh()
        x, y = axial.pixel(kji_to_ras(phantom.volume.affine, np.array([KIDNEY]))[0])
        controller.box(axial.node, (x - 45, y - 45), (x + 45, y + 45))
        awaited = picture(axial, controller, drawing)
        settle(controller)
        beside([awaited, picture(axial, controller, drawing)]).save(folder / "slicer-box.png")
        controller.scene_closed()
    for view in views.values():
        view.managers.SetMRMLDisplayableNode(None)
        view.logic.SetMRMLScene(None)
        view.window.Finalize()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
