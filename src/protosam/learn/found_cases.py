"""Cases of any layout, read as the trainings want them.

Owns which labels are meant, and the numbers that they have where cases come from two folders.
Voxels are (k, j, i).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from protosam.cases.layouts import CasesFound
from protosam.errors import InvalidInput
from protosam.learn.finished_cases import FinishedCase


def finished(found: CasesFound, labels: tuple[str, ...]) -> list[FinishedCase]:
    """Read the cases that were found, with the labels to learn.

    Raises
    ------
    InvalidInput
        When a label is unknown or empty in all cases.
    ProtoSAMError
        What reading the files raises.
    """
    wanted = found.data.labels_named(labels)
    cases = []
    for case in found.data.cases:
        image, truth = case.read()
        there = {int(n) for n in np.unique(truth.voxels) if n > 0}
        kept = there if wanted is None else there & wanted
        cases.append(FinishedCase(case.name, image, truth, tuple(sorted(kept))))
    learnt = {n for case in cases for n in case.wanted}
    empty = sorted(found.data.label_name(n) for n in (wanted or learnt) - learnt)
    if not learnt or empty:
        raise InvalidInput(
            f"No case has a voxel of {', '.join(empty) or 'any label'}.",
            "Check the labels that were asked for, and the label maps.",
        )
    return cases


def renumbered(case: FinishedCase, found: CasesFound, by_name: dict[str, int]) -> FinishedCase:
    """Case of another folder with this one's numbers of labels."""
    from_to = {n: by_name[found.data.label_name(n)] for n in case.wanted}
    table = np.zeros(int(case.labels.voxels.max()) + 1, dtype=np.int32)
    for old, new in from_to.items():
        table[old] = new
    voxels = table[case.labels.voxels.astype(np.int64)]
    labels = dataclasses.replace(case.labels, voxels=voxels, uid="")
    return dataclasses.replace(case, labels=labels, wanted=tuple(sorted(from_to.values())))
