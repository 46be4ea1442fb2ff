"""What replies about learning hold: versions of adapters, and how they did.

Values only; how they travel is `fields`'. Figures are Dice scores 0 to 1 and millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """How one of base, current and new version did, over what was taught."""

    who: str
    """``base``, ``current`` or ``new``."""
    dice_0: float | None
    """Mean Dice without a click; None for models that do not read neighbours."""
    dice_1: float
    """After one click."""
    dice_3: float
    """After three."""
    hd95_mm: float
    """Mean 95th-percentile Hausdorff distance after three clicks."""
    elsewhere: float | None
    """Mean Dice on objects that nobody taught; None if none was played."""


@dataclass(frozen=True)
class AdapterInfo:
    """One version of an adapter."""

    name: str
    """Of the adapter."""
    number: int
    """Of the version."""
    active: bool
    """Whether the adapter's name means this version."""
    path: str
    """What a request's `adapter` takes for this very version."""
    tier: str
    """How it was taught: ``shift``, ``decoder``, ``full`` or ``specialist``."""
    method: str
    """How images without labels were used."""
    base: str
    """Name of the model that it goes with."""
    labels: tuple[str, ...]
    """What was taught."""
    cases: int
    """How many cases it learnt from."""
    accepted: bool
    """Whether the gate let it in."""
    reason: str
    """Why, or why not, in words."""
    validation: str
    """Whether other patients judged, in words."""
    dice_before: float | None
    """Mean Dice of the version before, after one click; None where that was not played."""
    dice_now: float | None
    """Mean Dice of this version, after one click."""
