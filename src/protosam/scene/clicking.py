"""New prompts: clicks and boxes in views, and in which list they go.

Rules
-----
* One list of prompts has one scope, and within the scope "slice" one axis: what does not fit begins
  a new list, and the mask that the old one gave stays.
* A place goes from the view to the world to a continuous voxel index; outside of the volume there
  is a hint, never a guess.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protosam.extents import FloatArray
from protosam.prompts import Point, PromptSet
from protosam.scene.attached import Attached
from protosam.scene.glyphs import dragged_box
from protosam.scene.grids import Node
from protosam.scene.sessions import Session
from protosam.scene.slice_views import ViewPlane, is_light_box, xy_to_ras
from protosam.scene.source import Source


class Clicking(Attached):
    """The part of a controller that makes prompts; see `Controller`."""

    def click(self, slice_node: Node, xy: Sequence[float], positive: bool = True) -> bool:
        """Place a point; False if there is none, and the hint says why."""
        if is_light_box(slice_node):
            return self._hinted("light_box")
        axis = None
        session, source = self._ready()
        if source is not None and self._place.settings.scope == "slice":
            axis = ViewPlane.of(slice_node).axis_of(source.to_world)
        return self._click(session, source, xy_to_ras(slice_node, xy), positive, axis)

    def click_world(
        self,
        ras_mm: Sequence[float],
        positive: bool = True,
        inward: Sequence[float] | None = None,
    ) -> bool:
        """Place a point at a place of the world, half a voxel along `inward` (RAS) if given."""
        session, source = self._ready()
        point = np.asarray(ras_mm, dtype=np.float64)
        if source is not None and inward is not None:
            direction = np.asarray(inward, dtype=np.float64)
            linear = np.linalg.inv(source.to_world[:3, :3])
            point = point + 0.5 * direction / max(float(np.linalg.norm(linear @ direction)), 1e-9)
        axis = 0 if self._place.settings.scope == "slice" else None
        return self._click(session, source, point, positive, axis)

    def box(self, slice_node: Node, xy_a: Sequence[float], xy_b: Sequence[float]) -> bool:
        """Place a box between two corners in a view; False if there is none."""
        session, source = self._ready()
        if session is None or source is None:
            return False
        if is_light_box(slice_node):
            return self._hinted("light_box")
        box = dragged_box(slice_node, source, xy_a, xy_b, session.next_id())
        if box is None:
            return self._hinted("small_box")
        self._begin_list(
            session, source, box.axis if self._place.settings.scope == "slice" else None
        )
        session.wanted = session.wanted.with_box(box)
        return self._ask(session)

    def inside(self, slice_node: Node, xy: Sequence[float]) -> bool:
        """Whether a place in a view lies in the volume."""
        source = self._place.selection.source
        if source is None or is_light_box(slice_node):
            return False
        return source.holds(source.kji_of(xy_to_ras(slice_node, xy)))

    def _click(
        self,
        session: Session | None,
        source: Source | None,
        point_ras_mm: FloatArray,
        positive: bool,
        axis: int | None,
    ) -> bool:
        if session is None or source is None:
            return False
        place = source.kji_of(point_ras_mm)
        if not np.isfinite(place).all() or not source.holds(place):
            return self._hinted("outside")
        starts_anew = self._starts_list(session, source, axis)
        if not positive and (starts_anew or session.wanted.is_empty):
            return self._hinted("negative_first")
        self._begin_list(session, source, axis)
        point = Point(place, bool(positive), session.next_id())
        session.wanted = session.wanted.with_point(point)
        return self._ask(session)

    def _starts_list(self, session: Session, source: Source, axis: int | None) -> bool:
        """Whether a new prompt begins a new list."""
        wanted, settings = session.wanted, self._place.settings
        if session.is_elsewhere(source):
            return True
        if wanted.is_empty:
            return False
        return wanted.scope != settings.scope or wanted.axis != axis

    def _begin_list(self, session: Session, source: Source, axis: int | None) -> None:
        """Seal the list that a new prompt does not fit into, if it does not."""
        if self._starts_list(session, source, axis):
            session.seal(keep=not session.is_elsewhere(source))
        if session.wanted.is_empty:
            session.wanted = PromptSet(scope=self._place.settings.scope, axis=axis)
            session.grid = source.grid
