"""What the user has set, as it stands on the segment editor node.

Rules
-----
* The truth is the node's attributes, `ProtoSAM.<name>`, as Slicer keeps the parameters of an
  effect; they are saved with the scene. Here they are only read.
* Names only: no paths, no addresses, no secrets.
* A value that cannot be read counts as its default, and is reported by its name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from protosam.mending import MAX_LENGTH_MM, CleanUp
from protosam.prompts import Scope
from protosam.scene.grids import Node

PREFIX = "ProtoSAM."
"""Before each attribute's name: the name of the effect."""

WindowMode: TypeAlias = Literal["automatic", "view", "values"]

PARAMETERS: dict[str, str] = {
    "Scope": "volume",
    "Model": "",
    "Adapter": "",
    "Window": "automatic",
    "WindowLow": "0",
    "WindowHigh": "1",
    "RemoveIslands": "1",
    "FillHoles": "1",
    "ClosingMm": "0",
    "OpeningMm": "0",
    "SmoothingMm": "0",
    "Bodies": "0",
}
"""Every parameter with its default, for the host's `setMRMLDefaults`."""

_CHOICES = {"Scope": ("volume", "slice"), "Window": ("automatic", "view", "values")}
_SWITCHES = ("RemoveIslands", "FillHoles")
_NUMBERS = ("WindowLow", "WindowHigh")
_LENGTHS = ("ClosingMm", "OpeningMm", "SmoothingMm")


@dataclass(frozen=True)
class Settings:
    """The parameters, read."""

    scope: Scope = "volume"
    """Whether clicks are answered in the volume or in their slices."""
    model: str = ""
    """Name of the model; empty = the one in memory."""
    adapter: str = ""
    """Name of the adapter; empty = none."""
    window: WindowMode = "automatic"
    """Where the window of the model comes from."""
    window_low: float = 0.0
    """In the volume's units; used with "values"."""
    window_high: float = 1.0
    """In the volume's units; used with "values"."""
    clean_up: CleanUp = field(default_factory=CleanUp)
    """What is mended in the answers."""

    @classmethod
    def read(cls, editor_node: Node) -> tuple[Settings, tuple[str, ...]]:
        """Read a node's settings; return them and the names of those that cannot be read."""
        texts = {
            name: editor_node.GetAttribute(PREFIX + name) or default
            for name, default in PARAMETERS.items()
        }
        bad = tuple(name for name, text in texts.items() if not _is_readable(name, text))
        texts |= {name: PARAMETERS[name] for name in bad}
        scope: Scope = "slice" if texts["Scope"] == "slice" else "volume"
        window: WindowMode = "automatic"
        if texts["Window"] in ("view", "values"):
            window = "view" if texts["Window"] == "view" else "values"
        settings = cls(
            scope=scope,
            model=texts["Model"],
            adapter=texts["Adapter"],
            window=window,
            window_low=float(texts["WindowLow"]),
            window_high=float(texts["WindowHigh"]),
            clean_up=CleanUp(
                remove_islands=texts["RemoveIslands"] == "1",
                fill_holes=texts["FillHoles"] == "1",
                closing_mm=float(texts["ClosingMm"]),
                opening_mm=float(texts["OpeningMm"]),
                smoothing_mm=float(texts["SmoothingMm"]),
                bodies=int(texts["Bodies"]),
            ),
        )
        return settings, bad


def _is_readable(name: str, text: str) -> bool:
    if name in _CHOICES:
        return text in _CHOICES[name]
    if name in _SWITCHES:
        return text in ("0", "1")
    if name == "Bodies":
        return text.isascii() and text.isdigit() and len(text) < 10
    if name in _NUMBERS + _LENGTHS:
        try:
            number = float(text)
        except ValueError:
            return False
        return math.isfinite(number) and (name in _NUMBERS or 0 <= number <= MAX_LENGTH_MM)
    return True
