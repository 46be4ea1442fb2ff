"""Memberships over a volume: the prototype bank of one view, read in every answered slice.

The bank is built from the slices with prompts, whose answers the user has seen and mended, and is
read in all others. Nothing is kept: the same prompts give the same bank. Coordinates are
(slice, row, col) of `Planes`; the field that comes out is (k, j, i).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from protosam.models.bank_tokens import bank_of_slices, memberships_on
from protosam.models.planes import Patch, Planes
from protosam.models.prototype_bank import PrototypeBank
from protosam.models.slice_solver import SliceSolver, SolvedSlice
from protosam.models.views import Field, View, field_of


def membership_field(
    solver: SliceSolver,
    planes: Planes,
    solved: Mapping[int, SolvedSlice],
    prompted: Iterable[int],
    view: View,
) -> Field:
    """Log odds of belonging to the object, by the looks of the prompted slices.

    Parameters
    ----------
    solver : SliceSolver
    planes : Planes
    solved : slice -> SolvedSlice
        Answers of this view; not empty.
    prompted : iterable of int
        Slices whose answers make the bank.
    view : View

    Returns
    -------
    Field
        In the box of the answers; 0 everywhere where no bank can be made, or the backbone shows no
        tokens.
    """
    bank = _bank(solver, solved, prompted)
    maps = {z: _membership(solver, bank, z, answer) for z, answer in solved.items()}
    return field_of(planes, maps, view)


def _bank(
    solver: SliceSolver, solved: Mapping[int, SolvedSlice], prompted: Iterable[int]
) -> PrototypeBank | None:
    shown = []
    for index in prompted:
        if index not in solved:
            continue
        patch = solved[index].patch
        grid = solver.tokens(index, patch.rect)
        if grid is None:
            return None
        shown.append((grid, patch.logits > 0))
    return bank_of_slices(shown)


def _membership(
    solver: SliceSolver, bank: PrototypeBank | None, index: int, answer: SolvedSlice
) -> SolvedSlice:
    """Membership logits in place of the answer's own, in the same rectangle."""
    rect = answer.patch.rect
    grid = None if bank is None else solver.tokens(index, rect)
    if bank is None or grid is None:
        return replace(answer, patch=Patch(rect, np.zeros(rect.shape, dtype=np.float32)))
    return replace(answer, patch=Patch(rect, memberships_on(bank, grid)))
