"""How pictures of the views reach the browser, and how its mouse reaches the views.

Rules
-----
* trame-rca's area, scheduler and adapter do the work; here is only what they lack for this page.
* The size of a view is that of the browser window that last touched it, so that a place means the
  same in every window, whatever its size.
* Keys never go to VTK: Slicer's own key bindings would do things that the page does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trame_rca.rca import VtkRemoteControlledArea
from trame_rca.schedulers import RcaImageRenderScheduler
from trame_rca.utils import RcaViewAdapter
from trame_slicer.rca_view.rca_view_factory import RcaRenderStrategy, RcaWindow

from protosam_app.views import is_large_enough

FRAMES_PER_S = 25.0
QUALITY = 90
"""Of JPEG. One picture for each change: sending a coarse one first costs more than it saves on
one machine."""

MOST_PIXELS = 900_000
"""Of a view. On screens with twice the pixels a view is drawn coarser than that and enlarged."""


class _Window(RcaWindow):  # type: ignore[misc]
    """A render window whose events do not go through the page's state."""

    def __init__(self, render_window: Any) -> None:
        super().__init__(render_window, state={}, active_view_cursor="cursor")

    def process_interaction_event(self, event: dict[str, Any]) -> None:
        VtkRemoteControlledArea.process_interaction_event(self, event)


class Picture(RcaViewAdapter):  # type: ignore[misc]
    """One view as an area of the page.

    Parameters
    ----------
    name : str
        Of the area.
    view : AbstractView
        trame-slicer's.
    resized : callable
        Called after the view has a new size.
    """

    def __init__(self, name: str, view: Any, resized: Callable[[], None]) -> None:
        window = _Window(view.render_window())
        scheduler = RcaImageRenderScheduler(
            window,
            target_fps=FRAMES_PER_S,
            interactive_quality=QUALITY,
            still_quality=QUALITY,
            rca_encoder="jpeg",
        )
        super().__init__(window, name, scheduler=scheduler, do_schedule_render_on_interaction=False)
        self._resized = resized
        self.max_pixel_count = MOST_PIXELS
        view.set_scheduled_render(RcaRenderStrategy(scheduler))

    def update_size(self, origin: str, size: dict[str, Any]) -> None:
        """Take the size of the area in the browser; a hidden one keeps the view as it is."""
        if not is_large_enough(int(size.get("w", 0)), int(size.get("h", 0))):
            return
        super().update_size(origin, size)
        self._resized()

    def on_interaction(self, origin: str, event: dict[str, Any]) -> None:
        """Pass an event of the mouse on."""
        if str(event.get("type", "")).lower().startswith("key"):
            return
        known = self._current_size
        if known is not None and "w" in event:
            size = int(event["w"]), int(event["h"])
            if size != known[:2]:
                self.update_size(origin, {"w": size[0], "h": size[1], "p": known[2]})
        super().on_interaction(origin, event)
