"""The controller: what clicks, drags, buttons and changes of the scene do, for every host.

Rules
-----
* The host calls it with slice nodes and places in them, drains it from its own timer, and is told
  through its `Listener`. It knows no widgets and no timers.
* `attached` keeps step with the scene, `clicking` makes prompts; here is what happens to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from protosam.prompts import Box, Point
from protosam.scene.desk import view_window
from protosam.scene.glyphs import Glyph, box_with_corner, glyphs_in, nearest_glyph
from protosam.scene.grids import Node
from protosam.scene.proposing import Proposing
from protosam.scene.slice_views import ViewPlane, is_light_box, xy_to_ras


class Controller(Proposing):
    """Prompts, worker and scene of one segment editor.

    Parameters
    ----------
    mrml : namespace
        Slicer's VTK classes: the module `slicer`.
    client : WorkerClient
        May be shared by several controllers.
    listener : Listener
    translate : callable, optional
        From an English sentence to the user's language.
    model_path, adapter_path : callable, optional
        From a name in the settings to what the worker is asked for.

    Attributes
    ----------
    status : Status
        What the listener was last told.
    learning : LearningDesk
        Cases, adapters and runs that teach; see there.
    """

    _drag: tuple[str, int, Point | Box] | None = None

    def glyphs(self, slice_node: Node) -> tuple[Glyph, ...]:
        """Prompts to draw in a view."""
        session, source = self._editing.session(), self._place.selection.source
        if session is None or source is None or is_light_box(slice_node):
            return ()
        if session.is_elsewhere(source):
            return ()
        grabbed = None if self._drag is None else self._drag[0]
        unanswered = session.unanswered
        return glyphs_in(slice_node, source, session.wanted, unanswered=unanswered, grabbed=grabbed)

    def prompt_at(
        self, slice_node: Node, xy: Sequence[float], radius_px: float = 8.0
    ) -> str | None:
        """Id of the prompt on this slice that is drawn at a place."""
        found = nearest_glyph(self.glyphs(slice_node), xy, radius_px)
        return None if found is None else found[0]

    def grab(self, slice_node: Node, xy: Sequence[float], radius_px: float = 8.0) -> str | None:
        """Take hold of the prompt at a place; its id, or None if there is none."""
        session, source = self._ready()
        if session is None or source is None:
            return None
        found = nearest_glyph(self.glyphs(slice_node), xy, radius_px)
        if found is None:
            return None
        id, corner = found
        prompts: tuple[Point | Box, ...] = (*session.wanted.points, *session.wanted.boxes)
        self._drag = id, corner, next(one for one in prompts if one.id == id)
        self._editing.prompts_changed = True
        self._publish()
        return id

    def drag(self, slice_node: Node, xy: Sequence[float]) -> bool:
        """Move the prompt that is held; False if it cannot go there."""
        session, source = self._editing.session(), self._place.selection.source
        if self._drag is None or session is None or source is None:
            return False
        id, corner, original = self._drag
        if id not in session.wanted.ids:
            self._drag = None
            return False
        place = source.kji_of(xy_to_ras(slice_node, xy))
        if not source.holds(place):
            return False
        if isinstance(original, Point):
            session.wanted = session.wanted.with_point(replace(original, point_kji=place))
        else:
            plane_axis = ViewPlane.of(slice_node).axis_of(source.to_world)
            axis = plane_axis if original.axis is None else original.axis
            moved = box_with_corner(original, corner, place, axis)
            if moved is None:
                return False
            session.wanted = session.wanted.with_box(moved)
        self._editing.prompts_changed = True
        self._publish()
        return True

    def drop(self, keep: bool = True) -> bool:
        """Let go of the prompt; True if a new answer is asked for because it was moved."""
        session, drag = self._editing.session(), self._drag
        self._drag = None
        if drag is None or session is None or drag[0] not in session.wanted.ids:
            return False
        original = drag[2]
        if not keep:
            session.wanted = (
                session.wanted.with_point(original)
                if isinstance(original, Point)
                else session.wanted.with_box(original)
            )
        self._editing.prompts_changed = True
        if original in (*session.wanted.points, *session.wanted.boxes):
            self._publish()
            return False
        return self._ask(session)

    def remove(self, prompt_id: str) -> bool:
        """Take one prompt away; the mask follows from those that are left."""
        session, source = self._ready()
        if session is None or source is None or prompt_id not in session.wanted.ids:
            return False
        session.wanted = session.wanted.without(prompt_id)
        return self._ask(session)

    def clear(self) -> bool:
        """Take all prompts away, with what they have written."""
        session, source = self._ready()
        if session is None or source is None or session.wanted.is_empty:
            return False
        self._editing.clear(session)
        self._publish()
        return True

    def seal(self) -> bool:
        """Keep the mask and begin a new list of prompts."""
        session, _ = self._ready()
        if session is None or session.wanted.is_empty:
            return False
        self._editing.seal(session)
        self._reviewing.accept(self._place.selection.segment_id)  # to keep is to accept
        self._publish()
        return True

    def rerun(self) -> bool:
        """Ask again, with the settings of now."""
        session, source = self._ready()
        if session is None or source is None or session.wanted.is_empty:
            return False
        if session.is_elsewhere(source):
            return self._hinted("other_volume")
        return self._ask(session)

    def cancel(self) -> bool:
        """Give up what runs, and the prompts that have no answer."""
        self._drag = None
        session = self._editing.session()
        if session is None or not session.take_back():
            return False
        session.hint = ""
        self._editing.prompts_changed = True
        self._publish()
        return True

    def undo(self) -> bool:
        """Take the last action back: a prompt without an answer, else the last answer."""
        if self.cancel():
            return True
        writer = self._place.writer
        done = writer is not None and writer.undo()
        self.refresh()
        return done

    def redo(self) -> bool:
        """Do again what was undone."""
        writer = self._place.writer
        done = writer is not None and writer.redo()
        self.refresh()
        return done

    def scrolled(self, slice_node: Node) -> None:
        """Have the slices round a view's middle made ready for clicks."""
        source = self._place.selection.source
        if source is None or self._is_busy() or is_light_box(slice_node):
            return
        size = slice_node.GetDimensions()
        centre = source.kji_of(xy_to_ras(slice_node, (size[0] / 2, size[1] / 2)))
        if source.holds(centre):
            self._prewarm(source, centre)

    def volume_window(self) -> tuple[float, float] | None:
        """Window (low, high) that the source volume is shown with, in its units."""
        return view_window(self._place.selection.volume_node)
