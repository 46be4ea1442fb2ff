"""What to mend in a mask, and what was mended: settings and reports.

Rules
-----
* Values only, and light to import: `masks` does the work, messages carry these, panels show them.
* Lengths are in mm, amounts in voxels. A step is off while its setting is False or 0.
* The order of the steps is that of `CleanUp.steps` and is not to be chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from protosam.errors import InvalidInput

STEPS: dict[str, str] = {
    "clicks": "clicks",
    "opening": "opening",
    "islands": "islands",
    "closing": "closing",
    "holes": "holes",
    "smoothing": "smoothing",
    "bodies": "bodies",
}
"""Every step of the clean-up, with the word that a panel has for it."""

MAX_LENGTH_MM = 100.0
"""Longest radius of a step. A slip of the keyboard must not ask for terabytes."""


@dataclass(frozen=True)
class CleanUp:
    """What to mend in an answer before the user sees it."""

    remove_islands: bool = True
    """Keep only the bodies that hold a positive click (the largest one, if none does), and as many
    of the largest others as `bodies` asks for."""
    fill_holes: bool = True
    """Fill enclosed background that holds no negative click."""
    closing_mm: float = 0.0
    """Radius in mm of the closing (fills gaps narrower than twice this); 0 = none."""
    opening_mm: float = 0.0
    """Radius in mm of the opening (removes parts thinner than twice this); 0 = none."""
    smoothing_mm: float = 0.0
    """Standard deviation in mm of the smoothing, which keeps the volume; 0 = none."""
    bodies: int = 0
    """At most this many bodies: those with most positive clicks, then the largest. A body with a
    positive click stays, even where more are clicked than this. 0 = any number."""

    def __post_init__(self) -> None:
        for name in ("remove_islands", "fill_holes"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidInput(
                    f"The clean-up setting {name} is {getattr(self, name)!r}, "
                    "wanted true or false.",
                    "Switch it on or off.",
                )
        for name in ("closing_mm", "opening_mm", "smoothing_mm"):
            length_mm = checked_mm(getattr(self, name), name)
            if length_mm > MAX_LENGTH_MM:
                raise InvalidInput(
                    f"{name} is {length_mm:g} mm, wanted at most {MAX_LENGTH_MM:g} mm.",
                    "Give a shorter length.",
                )
            object.__setattr__(self, name, length_mm)
        if type(self.bodies) is not int or self.bodies < 0:
            raise InvalidInput(
                f"The clean-up setting bodies is {self.bodies!r}, wanted a whole number from 0.",
                "Give the number of bodies that the object has, or 0 for any number.",
            )

    @property
    def reach_mm(self) -> float:
        """How far beyond the mask and the clicks a step may look or grow."""
        return max(self.closing_mm, self.smoothing_mm)

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the steps that are on, in their order; "clicks" always is.

        The opening comes before the islands, so that a leak that hangs on a thin neck is cut off
        and then dropped; the holes come after the closing, which may shut some. The smoothing comes
        after all that changes the volume, which it keeps; it may part a body, so bodies are counted
        after it, and it may shut a pit, so holes are then looked for once more.
        """
        order = (
            ("clicks", True),
            ("opening", self.opening_mm > 0),
            ("islands", self.remove_islands),
            ("closing", self.closing_mm > 0),
            ("holes", self.fill_holes),
            ("smoothing", self.smoothing_mm > 0),
            ("bodies", self.bodies > 0),
            ("holes", self.fill_holes and self.smoothing_mm > 0),
        )
        return tuple(name for name, is_on in order if is_on)


@dataclass(frozen=True)
class StepReport:
    """What one step of a clean-up has done."""

    step: str
    """Its name in `STEPS`."""
    added: int
    """Voxels that it put into the mask."""
    removed: int
    """Voxels that it took out."""

    def __post_init__(self) -> None:
        if self.added < 0 or self.removed < 0:
            raise InvalidInput(
                f"The step {self.step!r} says that it added {self.added} and removed "
                f"{self.removed} voxels, wanted amounts from 0.",
                "Use a worker and a host of the same ProtoSAM version.",
            )


@dataclass(frozen=True)
class CleanUpReport:
    """What a clean-up has done."""

    steps: tuple[StepReport, ...] = ()
    """Every step that was on, in its order, also where it changed nothing."""

    def in_words(self, translate: Callable[[str], str] = str) -> str:
        """One line such as "islands -312, smoothing +40/-38 voxels"; empty if nothing changed.

        Parameters
        ----------
        translate : callable
            From an English word or pattern to the user's language.
        """
        parts = []
        for one in self.steps:
            amounts = [f"+{one.added}"] * (one.added > 0) + [f"-{one.removed}"] * (one.removed > 0)
            if amounts:
                parts.append(f"{translate(STEPS.get(one.step, one.step))} {'/'.join(amounts)}")
        return translate("{changes} voxels").format(changes=", ".join(parts)) if parts else ""


def checked_mm(length_mm: object, name: str) -> float:
    """Length as a float, if it is a finite number that is not negative.

    Raises
    ------
    InvalidInput
        It is something else; `name` says in the message which one it is.
    """
    if isinstance(length_mm, bool) or not isinstance(length_mm, (int, float)):
        raise InvalidInput(f"{name} is {length_mm!r}, wanted a number.", "Give a length in mm.")
    if not math.isfinite(length_mm) or length_mm < 0:
        raise InvalidInput(
            f"{name} is {length_mm}, wanted a finite length that is not negative.",
            "Give a length in mm.",
        )
    return float(length_mm)
