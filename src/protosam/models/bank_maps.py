"""Memberships over a volume: the prototype bank of one view, read in every answered slice.

The bank is built from the slices with prompts, whose answers the user has seen and mended, and is
read in all others. Nothing is kept: the same prompts give the same bank. Coordinates are
(slice, row, col) of `Planes`; the field that comes out is (k, j, i).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch

from protosam.models.planes import Patch, Planes
from protosam.models.prototype_bank import PrototypeBank, bank_of
from protosam.models.slice_solver import SliceSolver, SolvedSlice
from protosam.models.token_grid import NeckTokens
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
    tables, shares = [], []
    for index in prompted:
        if index not in solved:
            continue
        patch = solved[index].patch
        grid = solver.tokens(index, patch.rect)
        if grid is None:
            return None
        real = grid.real.flatten()
        tables.append(grid.rows[real.to(grid.tokens.device)].cpu())
        shares.append(grid.share(patch.logits > 0).flatten()[real])
    return bank_of(torch.cat(tables), torch.cat(shares)) if tables else None


def _membership(
    solver: SliceSolver, bank: PrototypeBank | None, index: int, answer: SolvedSlice
) -> SolvedSlice:
    """Membership logits in place of the answer's own, in the same rectangle."""
    rect = answer.patch.rect
    grid = None if bank is None else solver.tokens(index, rect)
    if bank is None or grid is None:
        return replace(answer, patch=Patch(rect, np.zeros(rect.shape, dtype=np.float32)))
    return replace(answer, patch=Patch(rect, grid.spread(_log_odds(bank, grid))))


def _log_odds(bank: PrototypeBank, grid: NeckTokens) -> torch.Tensor:
    """Log odds of each cell, (h, w)."""
    return bank.log_odds(grid.rows.cpu()).reshape(grid.tokens.shape[1:])
