"""Who teaches and who judges: whole patients where there are enough, else a block of slices.

Owns the parting of cases. A case that is held out never teaches. Where too few patients are held
out to judge, some of those that could teach judge instead: one of three or four, two of five or
more, because one patient alone is often unlike all others. Cases are then never cut. Else each case
gives a block of its slices to the judges; it is cut out of the volume together with a
gap, so that what judges was not even seen beside what was learnt. Indices are slices along the
axis of work (`models.slice_axis`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from protosam.cases.roles import Role
from protosam.errors import InvalidInput
from protosam.extents import Extent
from protosam.geometry import Volume, affine_of_extent
from protosam.learn.finished_cases import FinishedCase
from protosam.learn.lessons import MIN_PIXELS
from protosam.models.slice_axis import choose_axis
from protosam.prompts import PromptSet

GAP = 1
"""Slices on either side of a held-out block that neither teach nor judge: a model looks so far."""

FEWEST_SLICES = 4
"""An object in fewer slices cannot give some of them away."""

PATIENTS_FOR = {1: 3, 2: 5}
"""From how many patients on so many of them judge, at least."""

OTHER_PATIENTS = "validated on other patients"
SAME_PATIENTS = "not validated on another patient"


@dataclass(frozen=True, eq=False)
class Judge:
    """Slices of a case that a new adapter is judged by.

    Attributes
    ----------
    case : FinishedCase
        Whole.
    first, stop : int
        The slices ``first <= index < stop``.
    sentinel : bool
        Whether the case alone can keep an adapter out.
    """

    case: FinishedCase
    first: int
    stop: int
    sentinel: bool = False


@dataclass(frozen=True, eq=False)
class Division:
    """What teaches and what judges."""

    taught: tuple[FinishedCase, ...]
    """Cases or parts of them."""
    judges: tuple[Judge, ...]
    validation: str
    """`OTHER_PATIENTS` or `SAME_PATIENTS`."""


def divide(
    cases: Sequence[FinishedCase],
    roles: Mapping[str, Role],
    patients: Mapping[str, str] | None = None,
) -> Division:
    """Part cases into those that teach and those that judge.

    Parameters
    ----------
    cases : sequence of FinishedCase
    roles : mapping
        Role of each case, by name.
    patients : mapping, optional
        Hash of the patient of each case, by name; each case is a patient of its own if None.

    Raises
    ------
    InvalidInput
        When there is nothing to judge by.
    """
    held = [case for case in cases if roles[case.name] == "held-out" and _slices(case).size]
    taught = [case for case in cases if roles[case.name] == "train"]
    moved = _called_to_judge(held, taught, {c.name: c.name for c in cases} | dict(patients or {}))
    held += [case for case in taught if case.name in moved]
    taught = [case for case in taught if case.name not in moved]
    if held and any(_slices(case).size for case in taught):
        return Division(tuple(taught), tuple(whole(case) for case in held), OTHER_PATIENTS)
    parted = [_parted(case) for case in cases]
    judges = tuple(judge for _, judge in parted if judge is not None)
    if not judges:
        raise InvalidInput(
            f"None of the {len(cases)} cases has an object in {FEWEST_SLICES} slices, so nothing "
            "is left to judge the adapter by.",
            "Give more cases, or cases of which more slices are finished.",
        )
    return Division(tuple(part for parts, _ in parted for part in parts), judges, SAME_PATIENTS)


def _called_to_judge(
    held: Sequence[FinishedCase], taught: Sequence[FinishedCase], patients: Mapping[str, str]
) -> set[str]:
    """Names of cases that judge in place of teaching; by the patient's hash, so always the same."""
    judging = {patients[case.name] for case in held}
    able = {patients[case.name] for case in taught if _slices(case).size} - judging
    total = len(judging | able)
    wanted = max((count for count, least in PATIENTS_FOR.items() if total >= least), default=0)
    called = sorted(able)[: max(0, wanted - len(judging))]
    return {case.name for case in taught if patients[case.name] in called}


def whole(case: FinishedCase, *, sentinel: bool = False) -> Judge:
    """Judge by all slices of a case."""
    return Judge(case, 0, case.image.shape_kji[choose_axis(PromptSet(), case.image)], sentinel)


def _parted(case: FinishedCase) -> tuple[list[FinishedCase], Judge | None]:
    """Cut a quarter of an object's slices, from its middle on, out of a case."""
    usable = _slices(case)
    if usable.size < FEWEST_SLICES:
        return [case], None
    begin = usable.size // 2
    block = usable[begin : begin + max(1, usable.size // 4)]
    judge = Judge(case, int(block[0]), int(block[-1]) + 1)
    depth = case.image.shape_kji[choose_axis(PromptSet(), case.image)]
    sides = [(0, judge.first - GAP), (judge.stop + GAP, depth)]
    return [_cut(case, *side) for side in sides if side[1] > side[0]], judge


def _slices(case: FinishedCase) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Slices in which an object that is wanted is large enough."""
    axis = choose_axis(PromptSet(), case.image)
    others = tuple(n for n in range(3) if n != axis)
    areas = [np.count_nonzero(case.labels.voxels == n, axis=others) for n in case.wanted]
    if not areas:
        return np.zeros(0, dtype=np.intp)
    return np.flatnonzero(np.max(areas, axis=0) >= MIN_PIXELS)


def _cut(case: FinishedCase, first: int, stop: int) -> FinishedCase:
    """Part of a case, in its place."""
    axis, shape = choose_axis(PromptSet(), case.image), case.image.shape_kji
    start, end = [0, 0, 0], list(shape)
    start[axis], end[axis] = first, stop
    extent = Extent((start[0], start[1], start[2]), (end[0], end[1], end[2]))

    def part(volume: Volume) -> Volume:
        return Volume(volume.voxels[extent.slices], affine_of_extent(volume.affine, extent))

    return dataclasses.replace(case, image=part(case.image), labels=part(case.labels))
