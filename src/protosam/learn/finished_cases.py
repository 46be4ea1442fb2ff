"""Finished cases to learn from: images with label maps, read as the trainings want them.

Owns which cases and labels are meant. The naming rule of the files is `protosam.labelled`'s. Voxels
are (k, j, i).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protosam.errors import InvalidInput
from protosam.geometry import Volume
from protosam.labelled import LabelledData, cases_of_split, read_dataset

OnProgress = Callable[[float, str], None]
"""Gets a fraction from 0 to 1 and what is being done."""


@dataclass(frozen=True)
class CaseChoice:
    """Which cases and labels a training was asked for."""

    folder: Path
    """Folder of a dataset, see `labelled`."""
    labels: tuple[str, ...] = ()
    """Names or numbers; all where empty."""
    split: str | None = None
    """``FILE:PART``: only the cases of that part of a split file."""
    cases: tuple[str, ...] = ()
    """Only these cases."""
    limit: int | None = None
    """The first so many."""


@dataclass(frozen=True, eq=False)
class FinishedCase:
    """A case to learn from.

    Attributes
    ----------
    name : str
    image, labels : Volume
        On one grid.
    wanted : tuple of int
        Labels to learn; the case need not have all of them.
    """

    name: str
    image: Volume
    labels: Volume
    wanted: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class FinishedCases:
    """What a choice has found.

    Attributes
    ----------
    cases : tuple of FinishedCase
    labels : tuple of str
        Names of the labels that are learnt.
    """

    cases: tuple[FinishedCase, ...]
    labels: tuple[str, ...]


def read_cases(choice: CaseChoice) -> FinishedCases:
    """Read all cases of a choice into memory.

    Raises
    ------
    InvalidInput
        Nothing is left to learn from, or the choice does not fit the folder.
    ProtoSAMError
        What reading the files raises.
    """
    data = _chosen(choice)
    wanted = data.labels_named(choice.labels)
    cases: list[FinishedCase] = []
    for case in data.cases:
        image, labels = case.read()
        there = {int(n) for n in np.unique(labels.voxels) if n > 0}
        kept = there if wanted is None else set(wanted)
        cases.append(FinishedCase(case.name, image, labels, tuple(sorted(kept))))
    numbers = sorted({n for case in cases for n in case.wanted})
    if not any((case.labels.voxels == n).any() for case in cases for n in case.wanted):
        raise InvalidInput(
            f"None of the {len(cases)} cases of {data.name} has a label to learn.",
            "Check the labels that were asked for, and the label maps.",
        )
    return FinishedCases(tuple(cases), tuple(data.label_name(n) for n in numbers))


def _chosen(choice: CaseChoice) -> LabelledData:
    data = read_dataset(choice.folder)
    wanted = choice.cases
    if choice.split is not None:
        path, colon, part = choice.split.rpartition(":")
        if not colon or not path or not part:
            raise InvalidInput(
                f"--split {choice.split} names no part of the file.",
                "Give it as FILE:PART, for instance split.json:train.",
            )
        members = cases_of_split(Path(path), part, data.name)
        if strangers := sorted(set(wanted) - set(members)):
            raise InvalidInput(
                f"The cases {', '.join(strangers)} are not in the part {part!r} of {data.name}.",
                "Leave --split or --cases out, or name cases of that part.",
            )
        wanted = wanted or members
    return data.chosen(wanted, choice.limit)
