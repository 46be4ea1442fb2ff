"""Escape gives up what runs or is being dragged; without either it is Slicer's again.

Rules
-----
* The Segment Editor binds Escape to "no effect" on the main window. Two shortcuts for one key in
  one window cancel each other out in Qt, so the editor's sleeps while ours is awake.
* It is woken again on every way out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer


class EscapeKey:
    """Our shortcut on Escape.

    Parameters
    ----------
    pressed : callable
        Called when it was pressed while it was enabled.
    """

    def __init__(self, pressed: Callable[[], None]) -> None:
        self._pressed = pressed
        self._shortcut: Any = None
        self._sleeping: list[Any] = []

    def enable(self, on: bool) -> None:
        """Take Escape, or give it back."""
        if not on:
            self.disable()
        elif self._shortcut is None:
            window = slicer.util.mainWindow()
            if window is None:
                return
            self._sleeping = [one for one in window.children() if _is_editors(one)]
            for one in self._sleeping:
                one.setProperty("enabled", False)
            self._shortcut = qt.QShortcut(qt.QKeySequence("Esc"), window)
            self._shortcut.connect("activated()", self._pressed)

    def disable(self) -> None:
        """Give Escape back; may be called at any time."""
        shortcut, self._shortcut = self._shortcut, None
        if shortcut is None:
            return
        # It may be pressed right now, so Qt is to delete it later; without its parent, Python would
        # delete it here.
        shortcut.setProperty("enabled", False)
        shortcut.disconnect("activated()", self._pressed)
        shortcut.deleteLater()
        sleeping, self._sleeping = self._sleeping, []
        window = slicer.util.mainWindow()
        # The editor removes its shortcuts when its module is left: only those still there wake.
        present = [] if window is None else window.children()
        for one in sleeping:
            if one in present:
                one.setProperty("enabled", True)


def _is_editors(child: Any) -> bool:
    # The editor marks its shortcuts with the number of the effect that they choose; 0 is none.
    return child.className() == "QShortcut" and child.property("effectIndex") == 0
