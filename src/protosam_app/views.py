"""The four views: three planes of the volume, and the segments' surfaces in space.

Rules
-----
* They are trame-slicer's views on Slicer's own slice and view nodes, rendered off screen; how
  pictures reach a page is not known here.
* XY is the slice node's: device pixels, origin at the bottom left. Points of the world are RAS mm.
* The three planes meet in one point, the cursor. Keys move it, clicks move the planes to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from trame_slicer.views import SliceView, ThreeDView, ViewProps
from vtkmodules.vtkCommonCore import vtkCommand

from protosam.extents import FloatArray
from protosam.scene import matrix_of
from protosam_app.stage import Node, Stage

PLANES = ("axial", "sagittal", "coronal")
"""Names of the slice views."""

SPACE = "space"
"""Name of the 3-D view."""

COLOURS = {"axial": "#F34A33", "sagittal": "#EFD64D", "coronal": "#6DAD4A"}
"""Slicer's colours of the three planes."""

_LAYOUT_NAMES = {"axial": "Red", "sagittal": "Yellow", "coronal": "Green"}
_LETTERS = (("R", "L"), ("A", "P"), ("S", "I"))
_SMALLEST_PX = 40


@dataclass(frozen=True)
class Plane:
    """What is written over a slice view."""

    top: str = ""
    """Where the patient's side lies: R, L, A, P, S or I."""
    bottom: str = ""
    """See `top`."""
    left: str = ""
    """See `top`."""
    right: str = ""
    """See `top`."""
    index: int = 0
    """Slice that is shown, from 0."""
    count: int = 0
    """Number of slices; 0 without a volume."""
    oblique: bool = False
    """Whether the plane is tilted against the patient."""


class Views:
    """Three slice views and one 3-D view of a scene.

    Parameters
    ----------
    stage : Stage
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        scene, logic = stage.scene, stage.slicer.app_logic
        self._fitted: dict[str, tuple[float, float]] = {}
        self.planes: dict[str, Any] = {
            name: SliceView(scene=scene, app_logic=logic, name=_LAYOUT_NAMES[name])
            for name in PLANES
        }
        self.space = ThreeDView(scene=scene, app_logic=logic, name="ThreeD")
        for name, view in self.planes.items():
            view.render_window().SetMultiSamples(0)
            properties = ViewProps(
                label=name[0].upper(), orientation=name.capitalize(), color=COLOURS[name]
            )
            view.set_view_properties(properties)
        self.space.set_view_properties(
            ViewProps(label="3D", background_color=("#0d0f11", "#181c20"), box_visible=False)
        )
        node = self.space.get_view_node()
        node.SetOrientationMarkerType(node.OrientationMarkerTypeCube)
        node.SetOrientationMarkerSize(node.OrientationMarkerSizeSmall)
        self.space.render_window().SetMultiSamples(4)

    @property
    def all(self) -> dict[str, Any]:
        """Every view by its name."""
        return {**self.planes, SPACE: self.space}

    def node(self, name: str) -> Node:
        """Slice node of a plane."""
        return self.planes[name].get_view_node()

    def on_moved(self, call: Callable[[str], None]) -> None:
        """Have something called with the name of each plane that moves or is resized."""
        for name in PLANES:
            self.node(name).AddObserver(vtkCommand.ModifiedEvent, lambda *_, name=name: call(name))

    def show_volume(self, node: Node) -> None:
        """Show a volume in all planes, from its middle; None empties them."""
        self._fitted.clear()
        for view in self.planes.values():
            view.set_background_volume_id(None if node is None else node.GetID())
            view.reset_view()
        self.space.fit_view_to_content()

    def resized(self, name: str) -> None:
        """Fit a plane to its new size, unless the user has zoomed in it."""
        view = self.all[name]
        if name == SPACE:
            view.schedule_render()
        elif not self._is_zoomed(name):
            self.fit(name)

    def fit(self, name: str) -> None:
        """Show the whole slice, or all surfaces."""
        view = self.all[name]
        if name == SPACE:
            view.fit_view_to_content()
            camera = view.get_camera_node().GetCamera()
            camera.Azimuth(25)
            camera.Elevation(15)
            camera.OrthogonalizeViewUp()
            self.frame_space()
        else:
            offset = view.get_slice_value()
            view.fit_view_to_content()
            view.set_slice_value(offset)
            self._fitted[name] = self._field_of(name)
        view.schedule_render()

    def frame_space(self) -> None:
        """Show all surfaces from where they are seen now."""
        with self.space.trigger_modified_once():
            self.space.reset_focal_point()
            self.space.reset_camera()
        self.space.schedule_render()

    def fit_all(self) -> None:
        """Fit every view."""
        for name in self.all:
            self.fit(name)

    def plane(self, name: str) -> Plane:
        """Read what is written over a plane."""
        if self._stage.volume is None:
            return Plane()
        to_ras = matrix_of(self.node(name).GetSliceToRAS())
        across, up, normal = to_ras[:3, 0], to_ras[:3, 1], to_ras[:3, 2]
        low, step, count = self._slices(name)
        index = round((self.planes[name].get_slice_value() - low) / step)
        return Plane(
            top=_letter(up),
            bottom=_letter(-up),
            left=_letter(-across),
            right=_letter(across),
            index=min(max(index, 0), count - 1),
            count=count,
            oblique=bool(np.abs(normal).max() < 0.999),
        )

    def set_slice(self, name: str, index: int) -> None:
        """Show a slice by its number."""
        low, step, count = self._slices(name)
        self.planes[name].set_slice_value(low + step * min(max(index, 0), count - 1))

    def step(self, name: str, by: int) -> None:
        """Go some slices on."""
        self.set_slice(name, self.plane(name).index + by)

    def cursor(self) -> FloatArray:
        """(3,) point in RAS mm in which the three planes meet."""
        matrices = [matrix_of(self.node(name).GetSliceToRAS()) for name in PLANES]
        normals = np.array([one[:3, 2] for one in matrices])
        offsets = np.array([one[:3, 2] @ one[:3, 3] for one in matrices])
        point: FloatArray = np.linalg.lstsq(normals, offsets, rcond=None)[0]
        return point

    def centre_on(self, point_ras_mm: FloatArray, *, but: str = "") -> None:
        """Move the planes through a point; one of them may be left as it is."""
        for name in PLANES:
            if name != but:
                to_ras = matrix_of(self.node(name).GetSliceToRAS())
                distance = float((point_ras_mm - to_ras[:3, 3]) @ to_ras[:3, 2])
                low, step, _ = self._slices(name)
                offset = self.planes[name].get_slice_value() + distance
                self.set_slice(name, round((offset - low) / step))

    def move_cursor(self, name: str, right: int, up: int) -> None:
        """Move the cursor by voxels within a plane, as it is seen there."""
        to_ras = matrix_of(self.node(name).GetSliceToRAS())
        for along, by in ((0, right), (1, up)):
            if by:
                other = max(
                    (one for one in PLANES if one != name),
                    key=lambda one: abs(self._normal(one) @ to_ras[:3, along]),
                )
                sign = 1 if self._normal(other) @ to_ras[:3, along] > 0 else -1
                self.step(other, sign * by)

    def xy_of(self, name: str, point_ras_mm: FloatArray) -> tuple[float, float]:
        """Where a point is drawn in a plane."""
        to_xy = np.linalg.pinv(matrix_of(self.node(name).GetXYToRAS()))
        x, y = (to_xy @ (*point_ras_mm, 1.0))[:2].tolist()
        return x, y

    def ras_of(self, name: str, xy: tuple[float, float]) -> FloatArray:
        """(3,) point of the world at a place of a plane."""
        point: FloatArray = matrix_of(self.node(name).GetXYToRAS()) @ (xy[0], xy[1], 0.0, 1.0)
        return point[:3]

    def render(self) -> None:
        """Have every view drawn anew."""
        for view in self.all.values():
            view.schedule_render()

    def close(self) -> None:
        """Let go of the windows."""
        for view in self.all.values():
            view.finalize()

    def _normal(self, name: str) -> FloatArray:
        return matrix_of(self.node(name).GetSliceToRAS())[:3, 2]

    def _slices(self, name: str) -> tuple[float, float, int]:
        """Offset of the first slice, distance between slices, and their number."""
        view = self.planes[name]
        low, high = view.get_slice_range()
        step = float(view.get_slice_step()) or 1.0
        return low, step, max(round((high - low) / step) + 1, 1)

    def _field_of(self, name: str) -> tuple[float, float]:
        """Millimetres per pixel, and middle across: what zooming and panning change."""
        node = self.node(name)
        field, size = node.GetFieldOfView(), node.GetDimensions()
        return field[0] / max(size[0], 1), float(np.linalg.norm(node.GetXYZOrigin()[:2]))

    def _is_zoomed(self, name: str) -> bool:
        fitted = self._fitted.get(name)
        return fitted is not None and not np.allclose(fitted, self._field_of(name), rtol=1e-3)


def is_large_enough(width: int, height: int) -> bool:
    """Whether a view of this size is seen at all; hidden ones shrink to nothing."""
    return width >= _SMALLEST_PX and height >= _SMALLEST_PX


def _letter(direction: FloatArray) -> str:
    axis = int(np.abs(direction).argmax())
    return _LETTERS[axis][0 if direction[axis] > 0 else 1]
