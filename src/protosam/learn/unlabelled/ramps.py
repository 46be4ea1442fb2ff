"""How strongly unlabelled terms pull, and how slowly a teacher follows, over a training.

Owns the formulas. ``done`` is the part of a training that is over, 0..1. Speaks no coordinates.
"""

from __future__ import annotations

import math

from protosam.errors import InvalidInput


def gaussian_ramp(done: float) -> float:
    """Rise from 0.007 to 1: exp(-5 (1 - done)^2) (Laine and Aila 2017, arXiv:1610.02242)."""
    return math.exp(-5 * (1 - min(1.0, max(0.0, done))) ** 2)


def linear_ramp(done: float, over: float) -> float:
    """Rise from 0 to 1 over the first part ``over`` of a training, then 1 (UniMatch V2)."""
    return min(1.0, max(0.0, done) / over)


def teacher_decay(step: int, most: float) -> float:
    """Weight of the teacher's own past after a step: min(1 - 1 / (t + 1), most).

    A young teacher is nearly the student's mean so far (Tarvainen and Valpola 2017,
    arXiv:1703.01780).

    Parameters
    ----------
    step : int
        Steps that were taken before this one, from 0.
    most : float

    Raises
    ------
    InvalidInput
        When the step is below 0 or `most` not from 0 to below 1.
    """
    if step < 0 or not 0 <= most < 1:
        raise InvalidInput(f"There is no decay for step {step} and {most}.", "Give 0 to below 1.")
    return min(1 - 1 / (step + 1), most)
