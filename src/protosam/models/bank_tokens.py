"""The prototype bank of answered slices, and its memberships on the pixels of a slice.

Owns the way from token grids and masks to a bank and back. Pixels are (row, col) of a slice. Knows
nothing of volumes and backbones.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

from protosam.models.prototype_bank import PrototypeBank, bank_of
from protosam.models.token_grid import NeckTokens


def bank_of_slices(
    shown: Iterable[tuple[NeckTokens, npt.NDArray[np.bool_]]],
) -> PrototypeBank | None:
    """Bank of slices with their answers (rows, cols); None where none can be made."""
    tables, shares = [], []
    for grid, mask in shown:
        real = grid.real.flatten()
        tables.append(grid.rows[real.to(grid.tokens.device)].float().cpu())
        shares.append(grid.share(mask).flatten()[real])
    return bank_of(torch.cat(tables), torch.cat(shares)) if tables else None


def memberships_on(bank: PrototypeBank, grid: NeckTokens) -> npt.NDArray[np.float32]:
    """Log odds of each pixel of a slice, (rows, cols)."""
    odds = bank.log_odds(grid.rows.float().cpu())
    return grid.spread(odds.reshape(grid.tokens.shape[1:]))
