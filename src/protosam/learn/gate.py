"""The gate: a new adapter is let in only if it is no worse than what is there.

Owns the verdict. Base, current and new model have played the same slices (`gate_play`); a few whole
objects of other patients have been played, too, and are told but do not decide: one object of one
patient swings by more than an adapter changes. The gate never chooses settings and never stops a
training: it says yes or no, once. Distances are in mm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from protosam.learn.gate_boards import Board
from protosam.learn.gate_play import CLICKS, Marks
from protosam.models.add_ons import case_digest
from protosam.robot import Target

Contender = Literal["base", "current", "new"]
CONTENDERS: tuple[Contender, ...] = ("base", "current", "new")

MEAN_DROP = 0.005
"""Largest fall of the mean Dice that is let pass."""

SENTINEL_DROP = 0.01
"""Largest fall of a sentinel's Dice that is let pass."""

ELSEWHERE_DROP = 0.05
"""Largest fall of the mean Dice, against the bare model, on objects that nobody taught. An adapter
is switched on for its own labels; what is looked for here is one that no longer obeys clicks."""


@dataclass(frozen=True)
class Row:
    """One board and everyone's marks on it."""

    case: str
    """Digest of the case's name."""
    label: str
    slice_index: int
    sentinel: bool
    marks: dict[Contender, Marks]
    elsewhere: bool = False

    def drop(self, before: Contender = "current") -> float:
        """How much the new model is worse than one before."""
        return self.marks[before].mean - self.marks["new"].mean


@dataclass(frozen=True)
class Whole:
    """One whole object, and everyone's Dice after one click."""

    case: str
    """Digest of the case's name."""
    label: str
    dice: dict[Contender, float]


@dataclass(frozen=True)
class GateReport:
    """What was measured and what follows from it."""

    rows: tuple[Row, ...]
    accepted: bool
    reason: str
    """In words."""
    validation: str
    """Whether other patients judged."""
    wholes: tuple[Whole, ...] = ()
    """Told beside the table; they do not decide."""

    @property
    def own(self) -> tuple[Row, ...]:
        """Rows of what was taught."""
        return tuple(row for row in self.rows if not row.elsewhere)

    def elsewhere(self, who: Contender) -> float | None:
        """Mean Dice on objects that nobody taught; None if none was played."""
        marks = [row.marks[who].mean for row in self.rows if row.elsewhere]
        return round(float(np.mean(marks)), 4) if marks else None

    def whole(self, who: Contender) -> float | None:
        """Mean Dice of whole objects after one click; None if none was played."""
        dice = [one.dice[who] for one in self.wholes]
        return round(float(np.mean(dice)), 4) if dice else None

    def about_wholes(self) -> str:
        """Sentence about the whole objects; empty if none was played."""
        before, now = self.whole("current"), self.whole("new")
        if before is None or now is None:
            return ""
        return f"{_counted(self.wholes)}, one click: Dice {before:.3f} before, {now:.3f} now."

    def mean(self, who: Contender) -> dict[str, float | None]:
        """Means over what was taught, by the names of the table's columns."""
        marks = [row.marks[who] for row in self.own]
        means: dict[str, float | None] = {}
        for place, clicks in enumerate(CLICKS):
            known = [d for d in (m.dice[place] for m in marks) if d is not None]
            means[f"dice_{clicks}"] = round(float(np.mean(known)), 4) if known else None
        means["hd95_mm"] = round(float(np.mean([m.hd95_mm for m in marks])), 2)
        return means

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain lists, dicts and numbers; cases are digests."""
        return {
            "accepted": self.accepted,
            "reason": self.reason,
            "validation": self.validation,
            "allowed_drop": {
                "mean": MEAN_DROP,
                "sentinel": SENTINEL_DROP,
                "elsewhere": ELSEWHERE_DROP,
            },
            "checked": self._checked(),
            "mean": {who: self.mean(who) for who in CONTENDERS},
            "elsewhere": {who: self.elsewhere(who) for who in CONTENDERS},
            "whole": {who: self.whole(who) for who in CONTENDERS},
            "wholes": [_whole_to_json(one) for one in self.wholes],
            "rows": [_row_to_json(row) for row in self.rows],
        }

    def to_text(self) -> str:
        """Return the table of means and the verdict, for a screen."""
        lines = ["model     Dice at 0   1 click   3 clicks   HD95 mm"]
        for who in CONTENDERS:
            zero, one, three, far = self.mean(who).values()
            told = "   -  " if zero is None else f"{zero:6.3f}"
            lines.append(f"{who:8}  {told:>9} {one:9.3f} {three:10.3f} {far:9.2f}")
        lines.append(f"{'Accepted' if self.accepted else 'Rejected'}: {self.reason}")
        checked = self._checked()
        lines.append(f"{self.about_checked()}, {self.validation}.")
        if checked["elsewhere"]:
            base, new = self.elsewhere("base"), self.elsewhere("new")
            lines.append(
                f"Other organs, that nobody taught: Dice {base:.3f} before, {new:.3f} now."
            )
        if self.wholes:
            lines.append(self.about_wholes())
        return "\n".join(lines)

    def about_checked(self) -> str:
        """Say what was played of what was taught."""
        checked = self._checked()
        cases = f"{checked['cases']} case{'s' if checked['cases'] > 1 else ''}"
        return f"{checked['objects']} objects in slices of {cases}"

    def _checked(self) -> dict[str, int]:
        """How much was played."""
        return {
            "objects": len(self.own),
            "cases": len({row.case for row in self.own}),
            "sentinel_cases": len({row.case for row in self.own if row.sentinel}),
            "elsewhere": len(self.rows) - len(self.own),
        }


def judge(
    boards: Sequence[Board],
    marks: dict[Contender, list[Marks]],
    validation: str,
    wholes: Sequence[Whole] = (),
) -> GateReport:
    """Say whether the new model may take the place of the current one.

    Parameters
    ----------
    boards : sequence of Board
    marks : dict
        Of every contender, in the boards' order.
    validation : str
        `division.OTHER_PATIENTS` or `division.SAME_PATIENTS`.
    wholes : sequence of Whole, optional
        What is told beside.
    """
    rows = tuple(
        Row(
            case_digest(board.target.case),
            board.target.name,
            0 if board.target.plane is None else board.target.plane.index,
            board.sentinel,
            {who: marks[who][number] for who in CONTENDERS},
            board.elsewhere,
        )
        for number, board in enumerate(boards)
    )
    objection = _objection(rows)
    reason = _approval(rows, wholes) if objection is None else objection
    return GateReport(rows, objection is None, reason, validation, tuple(wholes))


def wholes_of(targets: Sequence[Target], dice: dict[Contender, list[float]]) -> tuple[Whole, ...]:
    """Put everyone's Dice of whole objects together.

    Parameters
    ----------
    targets : sequence of Target
    dice : dict
        Of every contender, in the targets' order.
    """
    return tuple(
        Whole(case_digest(one.case), one.name, {who: dice[who][number] for who in CONTENDERS})
        for number, one in enumerate(targets)
    )


def _approval(rows: Sequence[Row], wholes: Sequence[Whole]) -> str:
    """Why the new model is let in, and what it costs."""
    change = -float(np.mean([row.drop() for row in rows if not row.elsewhere]))
    lost = float(np.mean([w.dice["current"] - w.dice["new"] for w in wholes])) if wholes else 0.0
    told = f", but {_counted(wholes)} lost {lost:.3f} after one click"
    but = told if lost > MEAN_DROP else ""
    return f"mean Dice changed by {change:+.3f}{but}"


def _counted(wholes: Sequence[Whole]) -> str:
    return f"{len(wholes)} whole object{'s' if len(wholes) > 1 else ''}"


def _objection(rows: Sequence[Row]) -> str | None:
    """Why the new model is kept out; None if it is let in."""
    drop = float(np.mean([row.drop() for row in rows if not row.elsewhere]))
    # Turned round, so that what is not a number is kept out too.
    if not drop <= MEAN_DROP:
        return f"mean Dice fell by {drop:.3f}, and {MEAN_DROP} is allowed; the old one stays"
    for case in sorted({row.case for row in rows if row.sentinel}):
        fallen = float(np.mean([r.drop() for r in rows if r.sentinel and r.case == case]))
        if not fallen <= SENTINEL_DROP:
            return (
                f"Dice of the sentinel {case} fell by {fallen:.3f}, and {SENTINEL_DROP} is "
                "allowed; the old one stays"
            )
    lost = [row.drop("base") for row in rows if row.elsewhere]
    if lost and not float(np.mean(lost)) <= ELSEWHERE_DROP:
        return (
            f"Dice on other organs fell by {float(np.mean(lost)):.3f}, and {ELSEWHERE_DROP} is "
            "allowed; the old one stays"
        )
    return None


def _row_to_json(row: Row) -> dict[str, Any]:
    def plain(marks: Marks) -> dict[str, Any]:
        dice = [None if d is None else round(d, 4) for d in marks.dice]
        far = None if math.isinf(marks.hd95_mm) else round(marks.hd95_mm, 2)
        return {"dice": dice, "hd95_mm": far}

    return {
        "case": row.case,
        "label": row.label,
        "slice": row.slice_index,
        "sentinel": row.sentinel,
        "elsewhere": row.elsewhere,
        **{who: plain(marks) for who, marks in row.marks.items()},
    }


def _whole_to_json(one: Whole) -> dict[str, Any]:
    dice = {who: round(one.dice[who], 4) for who in CONTENDERS}
    return {"case": one.case, "label": one.label, "dice": dice}
