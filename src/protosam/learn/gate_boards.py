"""What the gate plays: slices of what was taught, and a few whole objects.

Owns the choice. Indices are (k, j, i).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

import numpy as np

from protosam.errors import InvalidInput
from protosam.learn.division import Judge
from protosam.learn.finished_cases import FinishedCase
from protosam.learn.lessons import MIN_PIXELS
from protosam.models.slice_axis import choose_axis
from protosam.prompts import PromptSet
from protosam.robot import Plane, Target

SLICES_EACH = 3
"""Slices of each object that are played: the middles of as many parts of it."""

MOST_WHOLE = 4
"""Whole objects that are played, at most: each one costs seconds for each contender."""


@dataclass(frozen=True, eq=False)
class Board:
    """One object in one slice that all contenders play."""

    target: Target
    sentinel: bool
    elsewhere: bool = False
    """Whether it is of an object that nobody taught."""


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
            "Check the labels that were asked for, and the label maps.",
        )
    return boards


def whole_objects(judges: Sequence[Judge], names: Mapping[int, str]) -> list[Target]:
    """Choose at most `MOST_WHOLE` whole objects, of as many cases as there are.

    Parameters
    ----------
    judges : sequence of Judge
        Of cases that taught nothing.
    names : mapping
        Name of each label.
    """
    each = [_objects(judge.case, names) for judge in judges]
    in_turn = (one for turn in zip_longest(*each) for one in turn if one is not None)
    return list(islice(in_turn, MOST_WHOLE))


def _objects(case: FinishedCase, names: Mapping[int, str]) -> Iterator[Target]:
    """Objects of a case, one by one: each has a mask as large as the image."""
    for label in case.wanted:
        target = _target(case, label, names)
        if target.truth.any():
            yield target


def _target(case: FinishedCase, label: int, names: Mapping[int, str]) -> Target:
    truth = np.asarray(case.labels.voxels == label, dtype=np.bool_)
    return Target(case.name, label, names.get(label, f"label {label}"), case.image, truth, None)


def _boards(judge: Judge, names: Mapping[int, str]) -> list[Board]:
    case = judge.case
    axis = choose_axis(PromptSet(), case.image)
    others = tuple(n for n in range(3) if n != axis)
    boards = []
    for label in case.wanted:
        target = _target(case, label, names)
        areas = np.count_nonzero(target.truth, axis=others)
        areas[: judge.first] = 0
        areas[judge.stop :] = 0
        for index in _middles(np.flatnonzero(areas >= MIN_PIXELS)):
            at = dataclasses.replace(target, plane=Plane(axis, index))
            boards.append(Board(at, judge.sentinel))
    return boards


def _middles(usable: np.ndarray[Any, np.dtype[np.intp]]) -> list[int]:
    parts = np.array_split(usable, min(SLICES_EACH, usable.size)) if usable.size else []
    return [int(part[part.size // 2]) for part in parts]
