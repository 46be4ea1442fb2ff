"""What a panel about learning shows: cases, adapters, a run and its verdict.

Rules
-----
* Values only; a new status is made whenever something has changed, and an old one never changes.
* Texts are English sentences that go through the host's translation before their names and numbers
  are put in. No patient's key is in any of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from protosam.wire.messages import Adapted, AdapterInfo, CaseList, Standing, Taught

Phase: TypeAlias = Literal["idle", "running", "stopping", "done"]

MOST_POINTS = 200
"""Points that a curve has at most."""

LEARNING_TEXTS: dict[str, str] = {
    "no_folder": "No folder of corrected cases is chosen.",
    "choose_folder": "Choose one; it stays on this machine.",
    "new_folder": "The folder is begun with the first case that you save.",
    "relative_folder": "{folder} is no whole path.",
    "missing_folder": "There is no folder {folder}, nor one to make it in.",
    "unknown_folder": "{folder} cannot be looked at: {why}.",
    "no_such_folder": "Choose a folder that is there.",
    "not_folder": "{folder} is a file, wanted a folder.",
    "not_ready": "There is no volume with a segmentation to save.",
    "open_first": "Choose a source volume and a segmentation.",
    "answer_awaited": "An answer is still awaited.",
    "wait_first": "Wait for it or cancel it, then save.",
    "nothing_to_save": "There is no finished segment to save.",
    "finish_first": "Show a segment with a mask; accept or reject proposals first.",
    "no_patient": "Nothing tells whose image this is, so it cannot be told who judges.",
    "give_patient": "Give any text that is the same for all images of this patient.",
    "still_saving": "The last case is still being saved.",
    "saved": "Saved: {names}.",
    "saved_again": "Saved again: {names}. What this image had under other names stays.",
    "saved_where": "{role} It is case {id} in {folder}.",
    "saved_train": "This patient's cases teach.",
    "saved_held-out": "This patient's cases judge new versions and teach nothing.",
    "left_out": "Left out, because hidden, empty or not accepted yet: {names}.",
    "no_name": "The adapter has no name.",
    "give_name": "Give one of letters, digits, dots and dashes.",
    "one_run": "{name} is being taught already.",
    "wait_or_stop": "Wait for it, or stop it.",
    "starting": "Starting.",
    "stopping": "Stopping. What is learnt so far is kept.",
    "stopped": "Stopped; the adapter in use is as before.",
    "goes_on": "Teach again with the same name and cases: it goes on where it was.",
    "worker_died": "The worker ended while {name} was being taught.",
    "accepted": "{name}, version {number}, is accepted: {reason}.",
    "rejected": "{name}, version {number}, is not accepted: {reason}.",
    "use_it": "Use it, and clicks are answered with it.",
    "used_now": "It is in use: clicks from now on are answered with it.",
    "kept_old": "What was in use before stays.",
    "in_use": "Clicks from now on are answered with {name}, version {number}.",
    "not_in_use": "Clicks from now on are answered without an adapter.",
    "masks_stay": "Masks that are there stay as they are; ask again for one to see the difference.",
    "no_version": "{name} has no version in use.",
    "activate_first": "Activate one of its versions first.",
    "other_name": "The name {name} stands for an adapter that was added by its folder.",
    "rename": "Teach under another name.",
    "no_editor": "Nothing is being edited, so there is nothing to use an adapter for.",
    "activated": "{name} now means version {number}.",
    "rolled_back": "{name} now means version {number}, as before.",
    "rolled_off": "No version of {name} is in use any more.",
    "stop_using": "Use another adapter or none, or activate another version.",
    "discarded": "Version {number} of {name} is deleted.",
}
"""Texts by their keys."""


@dataclass(frozen=True)
class LossPoint:
    """One point of the curve."""

    step: float
    """From 1; the middle of several steps where they are many."""
    loss: float
    """Their mean."""


class Curve:
    """Losses of a run, as few points as a curve needs: many steps share one."""

    def __init__(self) -> None:
        self._points: list[LossPoint] = []
        self._taken: list[LossPoint] = []
        self._share = 1

    def add(self, taught: Taught) -> None:
        """Take a step in."""
        self._taken.append(LossPoint(float(taught.step), taught.loss))
        if len(self._taken) < self._share:
            return
        self._points.append(_mean(self._taken))
        self._taken = []
        if len(self._points) > MOST_POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=False)
            # An odd one at the end waits for its neighbour.
            odd = self._points[-1:] if len(self._points) % 2 else []
            self._points = [_mean(list(pair)) for pair in pairs]
            self._taken = odd * self._share
            self._share *= 2

    def points(self) -> tuple[LossPoint, ...]:
        """At most `MOST_POINTS`, by step."""
        return tuple(self._points)


def _mean(points: list[LossPoint]) -> LossPoint:
    count = len(points)
    return LossPoint(sum(one.step for one in points) / count, sum(p.loss for p in points) / count)


@dataclass(frozen=True)
class RunStatus:
    """A run that teaches."""

    phase: Phase = "idle"
    """``idle`` also after it was stopped or has failed; ``done`` once its gate has judged."""
    name: str = ""
    """Of the adapter."""
    fraction: float = 0.0
    """0 to 1."""
    text: str = ""
    """What is being done."""
    seconds_left: float | None = None
    """Until the last step; None before the first one, and while the gate judges."""
    step: int = 0
    """The last one that was done; 0 = none yet."""
    steps: int = 0
    """How many there will be; 0 = not known yet."""
    losses: tuple[LossPoint, ...] = ()
    """For a curve."""

    @property
    def is_on(self) -> bool:
        """Whether something runs."""
        return self.phase in ("running", "stopping")


@dataclass(frozen=True)
class LearningStatus:
    """Everything that a panel shows about learning."""

    folder: str = ""
    """Folder of cases; empty = none is chosen."""
    cases: CaseList | None = None
    """What it holds; None = not known."""
    patient_known: bool = False
    """Whether the host can tell whose image is open; else the user has to give a text."""
    can_save: bool = False
    """Whether there is something to save; a folder is needed besides."""
    saving: bool = False
    """Whether a case is being saved."""
    adapters: tuple[AdapterInfo, ...] = ()
    """All versions, by name, the oldest first."""
    adapter: str = ""
    """Name of the adapter that predictions carry; empty = none."""
    version: int | None = None
    """Its version in use; None = not known of it."""
    offered: str = ""
    """Name of an adapter that was just accepted and is not in use."""
    can_start: bool = False
    """Whether a run could begin, given a name."""
    run: RunStatus = field(default_factory=RunStatus)
    """The run of now, or the last one."""
    verdict: Adapted | None = None
    """What came of the last run: `version` has the reason and `validation`, `standings` the table,
    `pictures` PNG files."""
    level: Literal["info", "warning", "error"] = "info"
    """How much the message matters."""
    message: str = ""
    """What came of the last action."""
    next_step: str = ""
    """What the user can do."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of adapters with a version in use."""
        return tuple(dict.fromkeys(one.name for one in self.adapters if one.active))


def standing_cells(standing: Standing) -> tuple[str, ...]:
    """Figures of a row of the table: Dice at 0, 1 and 3 clicks, HD95 in mm, Dice elsewhere."""
    dice = (standing.dice_0, standing.dice_1, standing.dice_3)
    *shown, elsewhere = (
        "-" if one is None else f"{one:.3f}" for one in (*dice, standing.elsewhere)
    )
    return (*shown, f"{standing.hd95_mm:.1f}", elsewhere)


def about_version(version: AdapterInfo) -> str:
    """Sentence of the gate about a version: why it was let in or not, and who judged."""
    parts = [part.strip().rstrip(".") for part in (version.reason, version.validation)]
    text = "; ".join(part for part in parts if part)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
