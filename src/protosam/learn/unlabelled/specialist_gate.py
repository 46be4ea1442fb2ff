"""Whether a new specialist may take the place of the current one.

Owns the test: both find the objects of the cases that judge, without a click, and Dice is compared
over the slices that judge. The rule is the adapters' (`learn.gate`): not worse on average by more
than 0.005, and on no sentinel by more than 0.01. The first of a name has nothing to be compared
with, and must find the objects at all. Masks are (k, j, i).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from protosam import metrics
from protosam.learn.division import Judge
from protosam.learn.gate import MEAN_DROP, SENTINEL_DROP
from protosam.models.add_ons import case_digest
from protosam.models.slice_axis import choose_axis
from protosam.models.specialist import Specialist
from protosam.prompts import PromptSet

FIRST_DICE = 0.5
"""Mean Dice from which a first specialist is let in: below, finding by hand is quicker."""


@dataclass(frozen=True)
class FoundRow:
    """One object of one case."""

    case: str
    """Digest of the case's name."""
    label: str
    sentinel: bool
    new: float
    """Dice."""
    current: float | None
    """None where there is no current specialist."""


@dataclass(frozen=True)
class SpecialistReport:
    """What was measured and what follows from it."""

    rows: tuple[FoundRow, ...]
    accepted: bool
    reason: str
    validation: str

    def mean(self, who: str) -> float | None:
        """Mean Dice of ``new`` or ``current``."""
        known = [d for row in self.rows if (d := getattr(row, who)) is not None]
        return round(float(np.mean(known)), 4) if known else None

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain lists, dicts and numbers; cases are digests."""
        return {
            "accepted": self.accepted,
            "reason": self.reason,
            "validation": self.validation,
            "allowed_drop": {"mean": MEAN_DROP, "sentinel": SENTINEL_DROP, "first": FIRST_DICE},
            "mean": {who: self.mean(who) for who in ("current", "new")},
            "rows": [vars(row) for row in self.rows],
        }

    def to_text(self) -> str:
        """Return the table of means and the verdict, for a screen."""
        lines = ["specialist   Dice without a click"]
        for who in ("current", "new"):
            mean = self.mean(who)
            lines.append(f"{who:10}   {'-' if mean is None else f'{mean:.3f}'}")
        lines.append(f"{'Accepted' if self.accepted else 'Rejected'}: {self.reason}")
        lines.append(f"{len(self.rows)} objects, {self.validation}.")
        return "\n".join(lines)


def judge_specialist(
    new: Specialist,
    current: Specialist | None,
    judges: Sequence[Judge],
    validation: str,
    *,
    names: dict[int, str],
    on_judge: Callable[[int], None],
) -> SpecialistReport:
    """Let both find what the judges know.

    Parameters
    ----------
    new : Specialist
    current : Specialist or None
    judges : sequence of Judge
    validation : str
        `division.OTHER_PATIENTS` or `division.SAME_PATIENTS`.
    names : dict
        Name of each label.
    on_judge : (number) -> None
        Called before each case; may raise `Cancelled`.
    """
    rows: list[FoundRow] = []
    for number, one in enumerate(judges):
        on_judge(number)
        found = found_dice(new, one, names)
        before = None if current is None else found_dice(current, one, names)
        digest = case_digest(one.case.name)
        rows += [
            FoundRow(digest, name, one.sentinel, d, None if before is None else before[name])
            for name, d in found.items()
        ]
    reason = objection(rows)
    return SpecialistReport(tuple(rows), reason is None, reason or _praise(rows), validation)


def found_dice(specialist: Specialist, judge: Judge, names: dict[int, str]) -> dict[str, float]:
    """Dice of each object of a judge, over the slices that judge; 0 for what it does not know."""
    case = judge.case
    axis = choose_axis(PromptSet(), case.image)
    found = {one.name: np.moveaxis(one.mask, axis, 0) for one in specialist.find(case.image)}
    truth = np.moveaxis(case.labels.voxels, axis, 0)[judge.first : judge.stop]
    nothing = np.zeros(truth.shape, dtype=bool)
    dice: dict[str, float] = {}
    for label in case.wanted:
        mask = found[names[label]][judge.first : judge.stop] if names[label] in found else nothing
        dice[names[label]] = round(metrics.dice(mask, truth == label), 4)
    return dice


def objection(rows: Sequence[FoundRow]) -> str | None:
    """Why the new specialist is kept out; None if it is let in."""
    mean = float(np.mean([row.new for row in rows]))
    compared = [row for row in rows if row.current is not None]
    if not compared:
        # Turned round, so that what is not a number is kept out too.
        if mean >= FIRST_DICE:
            return None
        return f"mean Dice is {mean:.3f}, and a first specialist needs {FIRST_DICE}"
    drop = float(np.mean([_drop(row) for row in compared]))
    if not drop <= MEAN_DROP:
        return f"mean Dice fell by {drop:.3f}, and {MEAN_DROP} is allowed; the old one stays"
    for case in sorted({row.case for row in compared if row.sentinel}):
        fallen = float(np.mean([_drop(r) for r in compared if r.sentinel and r.case == case]))
        if not fallen <= SENTINEL_DROP:
            return (
                f"Dice of the sentinel {case} fell by {fallen:.3f}, and {SENTINEL_DROP} is "
                "allowed; the old one stays"
            )
    return None


def _drop(row: FoundRow) -> float:
    return 0.0 if row.current is None else row.current - row.new


def _praise(rows: Sequence[FoundRow]) -> str:
    if rows[0].current is None:
        return f"the first of its name, mean Dice {np.mean([row.new for row in rows]):.3f}"
    return f"mean Dice changed by {-float(np.mean([_drop(row) for row in rows])):+.3f}"
