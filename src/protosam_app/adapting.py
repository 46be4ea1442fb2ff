"""What the page shows about learning: cases, a run with its curve, a verdict, versions of adapters.

Rules
-----
* Reading only, from the controller's status; what is done is `protosam.scene`'s learning desk's.
* Names are those of `adapt_panel`'s templates. No patient's key is among the values: it goes to the
  desk and comes back from nowhere. Folders are shown to the user of this machine alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from protosam.scene.learning_status import LearningStatus, LossPoint, RunStatus, standing_cells
from protosam.wire.messages import Adapted, AdapterInfo, CaseList
from protosam_app.page_state import Values

CURVE_SIZE = (100.0, 40.0)
"""Width and height of the curve in its own units; the page stretches it."""

MEAN_OF = 10
"""Points that a point of the smooth curve is the mean of; single steps jump about."""

CONTENDERS = {"base": "Base", "current": "Before", "new": "Now"}
"""Rows of the table."""

TABLE_CELLS = 4
"""Figures in a row: Dice at 0, 1 and 3 clicks, and HD95."""


def adapt_values(now: LearningStatus, *, refused: bool) -> Values:
    """Everything that the panel shows.

    Parameters
    ----------
    now : LearningStatus
    refused : bool
        Whether the folder that was typed last cannot be one. Another one is chosen then, into which
        nothing must go by mistake.
    """
    run = now.run
    return {
        "adapt_short": _short(now),
        "adapt_folder": now.folder,
        "adapt_cases": "" if now.cases is None or refused else cases_text(now.cases),
        "adapt_patient_known": now.patient_known,
        "adapt_can_save": now.can_save and not refused,
        "adapt_saving": now.saving,
        "adapt_can_start": now.can_start and not refused,
        "adapt_phase": run.phase if run.is_on else "",
        "adapt_progress": round(100 * run.fraction),
        "adapt_text": _run_text(run),
        "adapt_left": "" if run.seconds_left is None else left_text(run.seconds_left),
        "adapt_curve": curve_of(run),
        "adapt_level": now.level,
        "adapt_note": _note(now),
        "adapt_verdict": None if now.verdict is None else verdict_values(now.verdict),
        "adapt_versions": [_version(one, now.adapter) for one in reversed(now.adapters)],
        "adapt_used": now.adapter,
        "adapt_offer": now.adapter or now.offered or next(iter(reversed(now.names)), ""),
    }


def cases_text(found: CaseList) -> str:
    """How many cases a folder holds, in words."""
    if not found.cases:
        return "No cases yet"
    cases, patients = _many(found.cases, "case"), _many(found.patients, "patient")
    return f"{cases} of {patients}, {found.held_out} held out"


def left_text(seconds: float) -> str:
    """Time left in words, no finer than it can be known."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s left"
    return f"{round(seconds / 60)} min left"


def curve_of(run: RunStatus) -> Values:
    """Losses as points of a polyline, from the first to the last step that there will be."""
    losses = run.losses
    if len(losses) < 2:
        return {"points": "", "means": "", "first": "", "last": "", "steps": "", "text": ""}
    means = _means(losses)
    first, last = f"{means[min(MEAN_OF, len(means)) - 1].loss:.2f}", f"{means[-1].loss:.2f}"
    steps = f"step {run.step} of {run.steps}"
    place = _Frame(losses, run.steps)
    return {
        "points": place.points(losses),
        "means": place.points(means),
        "first": first,
        "last": last,
        "steps": steps,
        "text": f"Loss at {steps}: {last}, at first {first}",
    }


def verdict_values(verdict: Adapted) -> Values:
    """Values of a verdict: yes or no and why, the table, who judged, addresses of pictures."""
    version = verdict.version
    title = "Accepted" if version.accepted else "Not accepted"
    return {
        "accepted": version.accepted,
        "title": f"{title}: {version.name}, version {version.number}",
        "reason": _sentence(version.reason),
        "rows": [
            {
                "who": one.who,
                "name": CONTENDERS.get(one.who, one.who),
                "figures": standing_cells(one)[:TABLE_CELLS],
            }
            for one in verdict.standings
        ],
        "checked": _sentence(", ".join(filter(None, (verdict.checked, version.validation)))),
        "notes": [*_elsewhere(verdict), *verdict.notes],
        "pictures": [
            {"address": f"judged/{n}", "text": f"Object {n}: truth, answer before, answer now"}
            for n in range(1, len(verdict.pictures) + 1)
        ],
    }


def _elsewhere(verdict: Adapted) -> list[str]:
    dice = {one.who: one.elsewhere for one in verdict.standings}
    base, new = dice.get("base"), dice.get("new")
    if base is None or new is None:
        return []
    return [f"Other organs, that nobody taught: Dice {base:.3f} alone, {new:.3f} now."]


def _version(one: AdapterInfo, used: str) -> Values:
    before, now = (_figure(dice) for dice in (one.dice_before, one.dice_now))
    verdict = "Accepted" if one.accepted else "Not accepted"
    taught = f"Taught by {_many(one.cases, 'case')}, {one.tier}: {', '.join(one.labels)}."
    parts = (
        taught if one.tier else "",  # nothing is known of a damaged one but what is wrong
        f"{verdict}: {_sentence(one.reason)}" if one.reason else f"{verdict}.",
        _sentence(one.validation),
    )
    return {
        "key": f"{one.name}/{one.number}",
        "name": one.name,
        "number": one.number,
        "active": one.active,
        "accepted": one.accepted,
        "used": one.active and one.name == used,
        "title": f"{one.name}, version {one.number}",
        "short": f"{one.name} {one.number}",
        "figures": f"{before} → {now}" if before and now else now,
        "text": " ".join(part for part in parts if part),
    }


def _short(now: LearningStatus) -> str:
    """Text in the head, seen while the section is closed, too."""
    if now.run.is_on:
        return f"Teaching, {round(100 * now.run.fraction)} %"
    return f"using {now.adapter}" if now.adapter else ""


def _run_text(run: RunStatus) -> str:
    if run.phase == "running" and run.seconds_left is not None:
        return f"Step {run.step} of {run.steps}"
    return run.text


def _note(now: LearningStatus) -> str:
    """Message of the last action, without what the verdict beside it says."""
    reason = "" if now.verdict is None else now.verdict.version.reason
    message = "" if reason and reason in now.message else now.message
    return " ".join(filter(None, (message, now.next_step)))


class _Frame:
    """Where losses stand in the curve: from the first to the last step, the highest on top."""

    def __init__(self, losses: Sequence[LossPoint], steps: int) -> None:
        self._most = max(one.loss for one in losses)
        self._range = (self._most - min(one.loss for one in losses)) or 1.0
        self._last = max(steps - 1, 1)

    def points(self, losses: Sequence[LossPoint]) -> str:
        """Points of a polyline."""
        width, height = CURVE_SIZE
        return " ".join(
            f"{width * (one.step - 1) / self._last:.1f},"
            f"{height * (self._most - one.loss) / self._range:.1f}"
            for one in losses
        )


def _means(losses: Sequence[LossPoint]) -> list[LossPoint]:
    """Average each point with those before it."""
    near = (losses[max(0, n - MEAN_OF + 1) : n + 1] for n in range(len(losses)))
    return [LossPoint(some[-1].step, sum(one.loss for one in some) / len(some)) for some in near]


def _figure(dice: float | None) -> str:
    return "" if dice is None else f"{dice:.3f}"


def _many(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def _sentence(text: str) -> str:
    """Make a sentence of a part of one."""
    return "" if not text else text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")
