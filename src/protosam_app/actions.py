"""What buttons and keys ask for, by name.

Rules
-----
* A name from the page is looked up in `ACTIONS`; nothing else of the program can be called by it.
* Arguments come from the page and are checked here. An unknown name is an error with a sentence.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

from protosam.errors import InvalidInput
from protosam_app.app import App
from protosam_app.mouse import Tool
from protosam_app.pointer import TOOLS
from protosam_app.views import PLANES, SPACE

MOST_SMOOTHING_MM = 50
MOST_BODIES = 99
"""What the page offers at most, as Slicer's panel does."""

LAYERS = {"opacity": "SetOpacity2DFill", "outline": "SetOpacity2DOutline"}


def act(app: App, name: str, *arguments: Any) -> None:
    """Do what the page asks for.

    Parameters
    ----------
    app : App
    name : str
        A name of `ACTIONS`, or one with its argument: ``tool:box``.
    *arguments
        Further ones from the page.
    """
    action, _, given = name.partition(":")
    try:
        if action not in ACTIONS:
            raise InvalidInput(f"The page asked for {action!r}, which is not known.", "Reload it.")
        ACTIONS[action](app, *((given,) if given else ()), *arguments)
    except InvalidInput as error:
        app.tell(error)
    except (TypeError, ValueError) as error:
        app.tell(InvalidInput(f"The page asked wrongly for {action!r}: {error}", "Reload it."))
    app.controller.refresh()
    app.touch()


def _tool(app: App, tool: str) -> None:
    found: dict[str, Tool] = {one: one for one in TOOLS}
    if tool not in found:
        raise InvalidInput(f"There is no tool {tool!r}.", "Reload the page.")
    app.pointer.choose(found[tool])


def _scope(app: App, scope: str = "") -> None:
    other = "slice" if app.stage.setting("Scope") == "volume" else "volume"
    _setting(app, "Scope", scope or other, ("slice", "volume"))


def _setting(app: App, name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidInput(f"{name} cannot be {value!r}.", f"Choose {' or '.join(allowed)}.")
    app.stage.set_setting(name, value)


def _model_window(app: App, value: str) -> None:
    _setting(app, "Window", value, ("automatic", "view"))
    app.controller.rerun()


def _smoothing(app: App, value: str) -> None:
    try:
        width_mm = round(float(value), 1)
    except ValueError:
        width_mm = math.nan
    if not 0 <= width_mm <= MOST_SMOOTHING_MM:
        raise InvalidInput(
            f"The smoothing cannot be {value!r:.20} mm wide.", f"Give 0 to {MOST_SMOOTHING_MM} mm."
        )
    _clean_up(app, "SmoothingMm", f"{width_mm:g}")


def _bodies(app: App, value: str) -> None:
    count = int(value) if str(value).isascii() and str(value).isdigit() else -1
    if not 0 <= count <= MOST_BODIES:
        raise InvalidInput(
            f"There cannot be {value!r:.20} bodies.", f"Give 0 (any number) to {MOST_BODIES}."
        )
    _clean_up(app, "Bodies", str(count))


def _clean_up(app: App, name: str, value: str) -> None:
    """Set a step of the clean-up, and have the segment follow it where it has points."""
    if app.stage.setting(name) != value:
        app.stage.set_setting(name, value)
        app.controller.rerun()


def _undo(app: App) -> None:
    locked = [row.id for row in app.segments.rows() if row.locked]
    app.controller.undo()
    _settle(app, locked)


def _redo(app: App) -> None:
    locked = [row.id for row in app.segments.rows() if row.locked]
    app.controller.redo()
    _settle(app, locked)


def _settle(app: App, locked: list[str]) -> None:
    """Keep locks, and have a segment selected; undo knows nothing of either."""
    for row in app.segments.rows():
        if row.locked != (row.id in locked):
            app.segments.toggle_locked(row.id)
    app.segments.keep_selected()


def _escape(app: App) -> None:
    if app.pointer.give_up() or app.controller.cancel() or app.controller.cancel_examples():
        return
    app.close_alert(0)


def _remove_last(app: App) -> None:
    if app.prompt_order:
        app.controller.remove(app.prompt_order[-1])


def _segment(app: App, segment_id: str) -> str:
    return segment_id or app.segments.selected


def _show(app: App, segment_id: str = "") -> None:
    app.segments.toggle_visible(_segment(app, segment_id))


def _lock(app: App, segment_id: str = "") -> None:
    app.segments.toggle_locked(_segment(app, segment_id))


def _slice(app: App, by: str) -> None:
    if app.pointer.active in PLANES and app.stage.volume is not None:
        app.views.step(app.pointer.active, int(by))


def _set_slice(app: App, name: str, index: float) -> None:
    if name in PLANES and app.stage.volume is not None:
        app.pointer.touched(name)
        app.views.set_slice(name, int(index))


def _enlarge(app: App, name: str = "") -> None:
    name = name or app.pointer.active
    if name in (*PLANES, SPACE):
        app.enlarged = "" if app.enlarged else name
        app.pointer.touched(name)


def _linked(app: App) -> None:
    app.pointer.linked = not app.pointer.linked
    app.pointer.redraw_all()


def _window(app: App, low: float, high: float) -> None:
    app.stage.set_window(float(low), float(high))


def _layer(app: App, name: str, value: float) -> None:
    if app.stage.segmentation is not None and name in LAYERS:
        display = app.stage.segmentation.GetDisplayNode()
        getattr(display, LAYERS[name])(min(max(float(value), 0.0), 1.0))


def _restart(app: App) -> None:
    app.client.restart()
    app.controller.worker_changed()


def _apply(app: App) -> None:
    chosen = app.shelf.chosen()
    if not chosen:
        raise InvalidInput("No example is chosen.", "Tick one, or load a .psexample file.")
    app.controller.apply_examples(chosen)


def _decide(app: App, segment_id: str, *, accept: bool) -> None:
    controller = app.controller
    decide = controller.accept_proposal if accept else controller.reject_proposal
    if decide(segment_id):
        app.segments.keep_selected()
        app.segments.select(app.segments.selected)  # for what is locked besides it


def _cases(app: App, path: str) -> None:
    app.folder_refused = not app.controller.learning.choose_folder(str(path))


def _check_folder(app: App) -> None:
    if app.folder_refused:
        raise InvalidInput("The folder that was typed last cannot be used.", "Give another one.")


def _save_case(app: App, patient: str) -> None:
    _check_folder(app)
    app.controller.learning.save_case(str(patient))


def _teach(app: App, name: str, tier: str, unlabelled: str) -> None:
    _check_folder(app)
    images = os.path.expanduser(str(unlabelled).strip())  # noqa: PTH111 - no home is no fault here
    app.controller.learning.start(str(name), tier=str(tier), unlabelled=images)


def _move(right: int, up: int) -> Callable[..., None]:
    def move(app: App, by: str = "1") -> None:
        app.pointer.move_key(right * int(by), up * int(by))

    return move


ACTIONS: dict[str, Callable[..., object]] = {
    "tool": _tool,
    "scope": _scope,
    "model_window": _model_window,
    "smoothing_mm": _smoothing,
    "bodies": _bodies,
    "undo": _undo,
    "redo": _redo,
    "escape": _escape,
    "cancel": lambda app: app.controller.cancel(),
    "clear": lambda app: app.controller.clear(),
    "keep": lambda app: app.controller.seal(),
    "remove": lambda app, prompt_id: app.controller.remove(str(prompt_id)),
    "remove_last": _remove_last,
    "add": lambda app: app.segments.add(),
    "select": lambda app, one: app.segments.select(str(one)),
    "next": lambda app: app.segments.step(1),
    "previous": lambda app: app.segments.step(-1),
    "rename": lambda app, one, name: app.segments.rename(str(one), str(name)),
    "colour": lambda app, one, colour: app.segments.colour(str(one), str(colour)),
    "show": _show,
    "lock": _lock,
    "delete": lambda app, one: app.segments.delete(str(one)),
    "keep_others": lambda app, keep: app.segments.set_keep_others(bool(keep)),
    "slice": _slice,
    "set_slice": _set_slice,
    "view": lambda app: app.pointer.next_view(),
    "enlarge": _enlarge,
    "fit": lambda app: app.views.fit_all(),
    "linked": _linked,
    "window": _window,
    "layer": _layer,
    "volume": lambda app, one: app.choose_volume(str(one)),
    "close_volume": lambda app: app.close_volume(),
    "model": lambda app, name: app.choose_model(str(name)),
    "restart": _restart,
    "close_alert": lambda app, one: app.close_alert(int(one)),
    "example_make": lambda app: app.use_as_example(),
    "example_apply": _apply,
    "example_cancel": lambda app: app.controller.cancel_examples(),
    "example_choose": lambda app, one, on: app.shelf.choose(int(one), bool(on)),
    "example_forget": lambda app, one: app.shelf.forget(int(one)),
    "proposal_select": lambda app, one: app.segments.select(str(one)),
    "proposal_accept": lambda app, one="": _decide(app, str(one), accept=True),
    "proposal_reject": lambda app, one="": _decide(app, str(one), accept=False),
    "doubtful": lambda app: app.go_to(app.controller.doubtful_place()),
    "strip": lambda app, one: app.go_to(app.controller.place_of_slice(int(one))),
    "adapt_folder": _cases,
    "adapt_look": lambda app: app.controller.learning.refresh(),
    "adapt_save": _save_case,
    "adapt_start": _teach,
    "adapt_stop": lambda app: app.controller.learning.cancel(),
    "adapt_use": lambda app, name: app.controller.learning.use(str(name) or None),
    "adapt_activate": lambda app, name, n: app.controller.learning.activate(str(name), int(n)),
    "adapt_back": lambda app, name: app.controller.learning.rollback(str(name)),
    "adapt_discard": lambda app, name, n: app.controller.learning.discard(str(name), int(n)),
    "press": lambda app, how="": app.pointer.press_key(opposite=how == "opposite"),
    "left": _move(-1, 0),
    "right": _move(1, 0),
    "up": _move(0, 1),
    "down": _move(0, -1),
}
"""Every action; `save` and `help` are the page's own."""
