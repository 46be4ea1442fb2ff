"""The gate: a new adapter is let in only if it is no worse than what is there.

Owns the test and the verdict. Base, current and new model answer the same questions in the same
slices, as at work (`Segmenter`), by the click robot's rules: with no click (the object of the slice
beside is known, which models that read neighbours can follow), with one and with three. The gate
never chooses settings and never stops a training: it says yes or no, once. Indices are (k, j, i),
distances in mm.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from protosam import metrics, robot
from protosam.errors import InvalidInput
from protosam.extents import BoolArray
from protosam.geometry import Volume
from protosam.intensity import auto_window
from protosam.learn.division import Judge
from protosam.learn.lessons import MIN_PIXELS, SURE
from protosam.models.add_ons import case_digest
from protosam.models.planes import Planes
from protosam.models.segmenter import Segmenter, SegmentRequest
from protosam.models.slice_axis import choose_axis
from protosam.models.slice_model import SliceModel, SlicePrompts
from protosam.models.slice_refiner import builtin_slice_refiner
from protosam.prompts import PromptSet
from protosam.robot import Plane, Rules, Target

Contender = Literal["base", "current", "new"]
CONTENDERS: tuple[Contender, ...] = ("base", "current", "new")

MEAN_DROP = 0.005
"""Largest fall of the mean Dice that is let pass."""

SENTINEL_DROP = 0.01
"""Largest fall of a sentinel's Dice that is let pass."""

ELSEWHERE_DROP = 0.05
"""Largest fall of the mean Dice, against the bare model, on objects that nobody taught. An adapter
is switched on for its own labels; what is looked for here is one that no longer obeys clicks."""

SLICES_EACH = 3
"""Slices of each object that are played: the middles of as many parts of it."""

CLICKS = (0, 1, 3)
"""Numbers of clicks after which an answer is measured."""


@dataclass(frozen=True, eq=False)
class Board:
    """One object in one slice that all contenders play."""

    target: Target
    sentinel: bool
    elsewhere: bool = False
    """Whether it is of an object that nobody taught."""


@dataclass(frozen=True)
class Marks:
    """How one contender did on one board."""

    dice: tuple[float | None, float, float]
    """After `CLICKS`; None without a click for models that do not read neighbours."""
    hd95_mm: float
    """95th-percentile Hausdorff distance after the last click."""

    @property
    def mean(self) -> float:
        """Mean Dice over the numbers of clicks, by which the gate judges."""
        return float(np.mean([d for d in self.dice if d is not None]))


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
class GateReport:
    """What was measured and what follows from it."""

    rows: tuple[Row, ...]
    accepted: bool
    reason: str
    """In words."""
    validation: str
    """Whether other patients judged."""

    @property
    def own(self) -> tuple[Row, ...]:
        """Rows of what was taught."""
        return tuple(row for row in self.rows if not row.elsewhere)

    def elsewhere(self, who: Contender) -> float | None:
        """Mean Dice on objects that nobody taught; None if none was played."""
        marks = [row.marks[who].mean for row in self.rows if row.elsewhere]
        return round(float(np.mean(marks)), 4) if marks else None

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
        lines.append(
            f"{checked['objects']} objects of {checked['cases']} cases, {self.validation}."
        )
        if checked["elsewhere"]:
            base, new = self.elsewhere("base"), self.elsewhere("new")
            lines.append(
                f"Other organs, that nobody taught: Dice {base:.3f} before, {new:.3f} now."
            )
        return "\n".join(lines)

    def _checked(self) -> dict[str, int]:
        """How much was played."""
        return {
            "objects": len(self.own),
            "cases": len({row.case for row in self.own}),
            "sentinel_cases": len({row.case for row in self.own if row.sentinel}),
            "elsewhere": len(self.rows) - len(self.own),
        }


def boards_of(
    judges: Sequence[Judge], names: Mapping[int, str], *, elsewhere: bool = False
) -> list[Board]:
    """Choose what is played.

    Parameters
    ----------
    judges : sequence of Judge
    names : mapping
        Name of each label.
    elsewhere : bool, optional
        Whether these are objects that nobody taught.

    Raises
    ------
    InvalidInput
        When no judge has an object of `MIN_PIXELS` in a slice.
    """
    boards = [
        dataclasses.replace(board, elsewhere=elsewhere)
        for judge in judges
        for board in _boards(judge, names)
    ]
    if not boards:
        raise InvalidInput(
            f"None of the {len(judges)} cases to judge by has an object of {MIN_PIXELS} pixels.",
            "Check --labels and the label maps.",
        )
    return boards


def measure(
    model: SliceModel,
    boards: Sequence[Board],
    *,
    on_board: Callable[[int], None],
    on_first: Callable[[int, BoolArray], None] | None = None,
) -> list[Marks]:
    """Let a model play all boards.

    Parameters
    ----------
    model : SliceModel
    boards : sequence of Board
    on_board : (number) -> None
        Called before each; may raise `Cancelled`.
    on_first : (number, mask) -> None, optional
        Gets the answer after one click, of the slice that is played.
    """
    player = _Player(model)
    marks = []
    for number, board in enumerate(boards):
        on_board(number)
        marks.append(player.play(board.target))
        if on_first is not None and player.first is not None:
            on_first(number, board.target.board(player.first).copy())
    return marks


def judge(
    boards: Sequence[Board], marks: dict[Contender, list[Marks]], validation: str
) -> GateReport:
    """Say whether the new model may take the place of the current one.

    Parameters
    ----------
    boards : sequence of Board
    marks : dict
        Of every contender, in the boards' order.
    validation : str
        `division.OTHER_PATIENTS` or `division.SAME_PATIENTS`.
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
    reason = _objection(rows)
    accepted = reason is None
    change = -float(np.mean([row.drop() for row in rows if not row.elsewhere]))
    return GateReport(rows, accepted, reason or f"mean Dice changed by {change:+.3f}", validation)


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


class _Player:
    """A model at work, in the slices of the boards."""

    name = "adapted"

    def __init__(self, model: SliceModel) -> None:
        self._model = model
        # With the decoder that comes with the package, because a user's answers have passed it too.
        self._segmenter = Segmenter(model, decoder=builtin_slice_refiner(model.device))
        self._volume: Volume | None = None
        self.first: BoolArray | None = None
        """Answer after one click to the object that was played last, (K, J, I)."""

    def settings(self) -> dict[str, str | float]:
        """Return what a report says of the engine; see `robot.Engine`."""
        return {"model": self._model.name, "digest": self._model.digest}

    def begin(self, volume: Volume, plane: Plane | None) -> None:  # noqa: ARG002 - see answer
        """Take a new object; see `robot.Engine`."""
        self._volume, self.first = volume, None

    def answer(self, prompts: PromptSet) -> BoolArray:
        """Return the object that the prompts mean; see `robot.Engine`."""
        if self._volume is None:
            raise InvalidInput("The player has no image yet.", "Call begin before answer.")
        found = self._segmenter.segment(self._volume, SegmentRequest(prompts))
        mask = found.full_mask(self._volume.shape_kji)
        self.first = mask if self.first is None else self.first
        return mask

    def play(self, target: Target) -> Marks:
        """Play one board."""
        score = robot.play(target, self, Rules(clicks=CLICKS[-1]))
        one, three = score.dice[CLICKS[1] - 1], score.dice[CLICKS[2] - 1]
        return Marks((self._unclicked(target), one, three), score.hd95_mm[-1])

    def _unclicked(self, target: Target) -> float | None:
        """Dice when only the object in the slice beside is known."""
        if not self._model.reads_neighbours or target.plane is None:
            return None
        axis, index = target.plane.axis, target.plane.index
        beside = _beside(np.moveaxis(target.truth, axis, 0), index)
        if beside is None:
            return None
        planes = Planes(target.volume, axis, auto_window(target.volume.voxels))
        stack = planes.stack(index, planes.whole, self._model.context_slices)
        embedding = self._model.embed(stack[None], planes.spacing_rc_mm)[0]
        known = np.where(beside, SURE, -SURE).astype(np.float32)
        found = self._model.predict(embedding, SlicePrompts(neighbour_logits=known))
        return metrics.dice(found.logits > 0, target.board(target.truth))


def _beside(truth: BoolArray, index: int) -> BoolArray | None:
    """Object in the slice below, else above, of (slices, rows, columns); None if in neither."""
    for near in (index - 1, index + 1):
        if 0 <= near < len(truth) and truth[near].any():
            return np.asarray(truth[near])
    return None


def _boards(judge: Judge, names: Mapping[int, str]) -> list[Board]:
    case = judge.case
    axis = choose_axis(PromptSet(), case.image)
    others = tuple(n for n in range(3) if n != axis)
    boards = []
    for label in case.wanted:
        truth = np.asarray(case.labels.voxels == label, dtype=np.bool_)
        areas = np.count_nonzero(truth, axis=others)
        areas[: judge.first] = 0
        areas[judge.stop :] = 0
        for index in _middles(np.flatnonzero(areas >= MIN_PIXELS)):
            name = names.get(label, f"label {label}")
            plane = Plane(axis, index)
            target = Target(case.name, label, name, case.image, truth, plane)
            boards.append(Board(target, judge.sentinel))
    return boards


def _middles(usable: np.ndarray[Any, np.dtype[np.intp]]) -> list[int]:
    parts = np.array_split(usable, min(SLICES_EACH, usable.size)) if usable.size else []
    return [int(part[part.size // 2]) for part in parts]


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
