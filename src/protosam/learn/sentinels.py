"""Who watches over an adapter beside the cases that judge it.

Owns three kinds: cases that judged the version in use, cases that the user names, and a phantom
with organs that nobody taught, which is always there and needs no patient. Voxels are (k, j, i).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

from protosam.cases.layouts import find_cases
from protosam.learn.division import Judge, whole
from protosam.learn.finished_cases import FinishedCase
from protosam.learn.found_cases import finished, renumbered
from protosam.learn.gate_boards import Board, boards_of
from protosam.models.add_ons import case_digest
from protosam.phantom import make_phantom


def watchful(judges: Sequence[Judge], known: Collection[str]) -> list[Judge]:
    """Make sentinels of the judges whose cases judged the version in use.

    Parameters
    ----------
    judges : sequence of Judge
    known : collection of str
        Digests of the cases that judged it.
    """
    return [
        dataclasses.replace(one, sentinel=case_digest(one.case.name) in known) for one in judges
    ]


def named_sentinels(folder: Path | None, names: dict[int, str]) -> list[Judge]:
    """Read the cases of a folder that must not get worse.

    Parameters
    ----------
    folder : Path or None
        With the same names of labels; None for none.
    names : dict
        Name of each label that is taught, by its number there.

    Raises
    ------
    ProtoSAMError
        What reading the folder raises.
    """
    if folder is None:
        return []
    found = find_cases(folder)
    by_name = {name: n for n, name in names.items()}
    cases = finished(found, tuple(names.values()))
    return [whole(renumbered(case, found, by_name), sentinel=True) for case in cases]


def elsewhere_boards() -> list[Board]:
    """Objects that nobody taught: the organs of the built-in phantom, a slice of each."""
    phantom = make_phantom()
    case = FinishedCase("phantom", phantom.volume, phantom.labels, tuple(phantom.names))
    boards = boards_of([whole(case)], phantom.names, elsewhere=True)
    by_organ = {label: [b for b in boards if b.target.label == label] for label in phantom.names}
    return [found[len(found) // 2] for found in by_organ.values() if found]
