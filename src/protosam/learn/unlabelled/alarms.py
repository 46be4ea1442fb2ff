"""When learning from one's own answers runs away: the signs, and what they say.

Owns the limits. A strategy that sees an alarm takes its term out of the training for good and goes
on with labels alone. Knows nothing of tensors and networks: it judges numbers. Shares are of the
pixels or voxels that were looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FOREGROUND_RATIO = (0.25, 4.0)
"""Foreground of what is taught, as a multiple of that of the labels."""

UNSURE = 0.6 * math.log(2)
"""Largest mean entropy of the teacher, in nats; ln 2 is knowing nothing."""

FEWEST = 0.05
"""Smallest share of pixels that may teach."""

AGREEMENT = 0.5
"""Smallest Dice of teacher and student over `WINDOW` steps."""

WINDOW = 25
"""Steps over which teacher and student are compared."""


@dataclass(frozen=True)
class Signs:
    """What is seen when pseudo-labels are made anew."""

    foreground: float
    """Share of the object in what was answered."""
    labelled: float
    """The same of the labels."""
    entropy: float
    """Mean over what was answered, in nats."""
    teaching: float
    """Share of the pixels that may teach."""
    teaching_inside: float
    """Share of the pixels that may teach the object."""
    teaching_outside: float
    """Share of the pixels that may teach its absence."""
    slices: int = 1
    """How many teach; where none does, nothing can go wrong by it."""


def alarm_of(signs: Signs) -> str | None:
    """Say what is wrong; None if nothing is."""
    low, high = FOREGROUND_RATIO
    ratio = signs.foreground / signs.labelled if signs.labelled > 0 else math.inf
    if not low <= ratio <= high:
        return (
            f"the object takes {signs.foreground:.3f} of what was answered and {signs.labelled:.3f}"
            f" of the labels, {ratio:.2f} times as much"
        )
    if not signs.entropy <= UNSURE:
        return f"the teacher's mean entropy is {signs.entropy:.2f} nats, and {UNSURE:.2f} is most"
    if signs.slices == 0:
        return None
    if signs.teaching < FEWEST:
        return f"only {signs.teaching:.1%} of the pixels are sure enough to teach"
    if signs.teaching_inside == 0 or signs.teaching_outside == 0:
        missing = "object" if signs.teaching_inside == 0 else "background"
        return f"no pixel is surely {missing}"
    return None


def disagreement(dice: list[float]) -> str | None:
    """Say what is wrong between teacher and student; None if nothing is.

    Parameters
    ----------
    dice : list of float
        Of the two, step by step; only the last `WINDOW` count, and fewer than that never alarm.
    """
    if len(dice) < WINDOW:
        return None
    mean = sum(dice[-WINDOW:]) / WINDOW
    if mean >= AGREEMENT:
        return None
    return f"teacher and student have agreed to a Dice of {mean:.2f} only, and {AGREEMENT} is least"
