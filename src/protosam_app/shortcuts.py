"""Every key of the page: what it does, and what the help sheet says about it.

Owns one table; the page's script gets it as data, the help sheet shows it. Keys are named as
browsers name them (`KeyboardEvent.key`), with "Ctrl+" and "Shift+" before them; letters are small.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shortcut:
    """One action and its keys."""

    action: str
    """Name in `actions.ACTIONS`."""
    keys: tuple[str, ...]
    """Each of them does it."""
    shown: str
    """How the help sheet writes them."""
    text: str
    """What it does."""


GROUPS: dict[str, tuple[Shortcut, ...]] = {
    "Tools": (
        Shortcut("tool:inside", ("1",), "1", "Point on the object"),
        Shortcut("tool:outside", ("2",), "2", "Point beside the object"),
        Shortcut("tool:box", ("3",), "3", "Box round the object"),
        Shortcut("tool:window", ("4",), "4", "Window and level, by dragging"),
        Shortcut("scope", ("v",), "V", "Whole object, or this slice only"),
    ),
    "Segment": (
        Shortcut("undo", ("Ctrl+z",), "Ctrl+Z", "Undo: mask and point"),
        Shortcut("redo", ("Ctrl+y", "Ctrl+Shift+z"), "Ctrl+Y", "Redo"),
        Shortcut("escape", ("Escape",), "Esc", "Cancel what runs"),
        Shortcut("remove_last", ("Delete", "Backspace"), "Del", "Take the last point back"),
        Shortcut("keep", ("k",), "K", "Keep the mask, begin a new list of points"),
        Shortcut("add", ("n",), "N", "New segment"),
        Shortcut("previous", ("[",), "[", "Previous segment"),
        Shortcut("next", ("]",), "]", "Next segment"),
        Shortcut("doubtful", ("d",), "D", "Most doubtful slice of a proposal"),
        Shortcut("show", ("h",), "H", "Show or hide the segment"),
        Shortcut("lock", ("l",), "L", "Lock or unlock the segment"),
        Shortcut("save", ("Ctrl+s",), "Ctrl+S", "Save the segments"),
    ),
    "Views": (
        Shortcut("slice:1", ("PageUp", "."), "PgUp .", "Next slice"),
        Shortcut("slice:-1", ("PageDown", ","), "PgDn ,", "Previous slice"),
        Shortcut("view", ("t",), "T", "Next view"),
        Shortcut("enlarge", ("f",), "F", "Enlarge the view, or show all"),
        Shortcut("fit", ("0",), "0", "Fit all views"),
        Shortcut("linked", ("x",), "X", "Crosshair on or off"),
        Shortcut("help", ("?",), "?", "This sheet"),
    ),
    "Without a mouse": (
        Shortcut("left", ("ArrowLeft",), "← → ↑ ↓", "Move the crosshair in the view"),
        Shortcut("right", ("ArrowRight",), "", ""),
        Shortcut("up", ("ArrowUp",), "", ""),
        Shortcut("down", ("ArrowDown",), "", ""),
        Shortcut("left:10", ("Shift+ArrowLeft",), "Shift+← …", "by ten voxels"),
        Shortcut("right:10", ("Shift+ArrowRight",), "", ""),
        Shortcut("up:10", ("Shift+ArrowUp",), "", ""),
        Shortcut("down:10", ("Shift+ArrowDown",), "", ""),
        Shortcut("press", ("Enter",), "Enter", "Use the tool at the crosshair"),
        Shortcut("press:opposite", ("Shift+Enter",), "Shift+Enter", "The opposite point there"),
    ),
}

MOUSE: tuple[tuple[str, str], ...] = (
    ("Click", "Point with the chosen tool"),
    ("Ctrl+click", "The opposite point"),
    ("Shift+drag", "Box"),
    ("Drag a point", "Move it; the mask follows"),
    ("Wheel", "Slices"),
    ("Right drag", "Zoom"),
    ("Middle drag", "Move the picture"),
)
"""What the mouse does in a slice view."""


def actions_by_key() -> dict[str, str]:
    """Name of the action of each key."""
    every = (one for group in GROUPS.values() for one in group)
    return {key: one.action for one in every for key in one.keys}


def sheet() -> list[dict[str, object]]:
    """Help sheet: groups with rows of keys and texts."""
    groups: list[dict[str, object]] = [
        {"title": "Mouse", "rows": [{"keys": keys, "text": text} for keys, text in MOUSE]}
    ]
    for title, shortcuts in GROUPS.items():
        rows = [{"keys": one.shown, "text": one.text} for one in shortcuts if one.shown]
        groups.append({"title": title, "rows": rows})
    return groups
