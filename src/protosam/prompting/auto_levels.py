"""What automatic prompts are read from: features of several depths of an encoder, on one grid.

Owns the features' last touch: where in the slice a cell lies is told along with them. What a cell
is, and what is known of it, is the token grid's (`models.tokens`). Cells are (row, col) of that
grid, centres at integers; pixels are (row, col) of the slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from protosam.models.slice_model import SliceEmbedding, SliceModel
from protosam.models.tokens import TokenGrid, tokens_of


@dataclass(frozen=True, eq=False)
class Levels:
    """Features of one slice.

    Attributes
    ----------
    features : (1, c, h, w) float32 tensor
        All levels, and two channels that tell where in the slice a cell lies, from -1 to 1.
    real : (1, h, w) bool tensor
        Cells that the slice fills.
    grid : TokenGrid
        How the cells lie on the slice.
    """

    features: torch.Tensor
    real: torch.Tensor
    grid: TokenGrid

    def to_slice(self, cells_rc: torch.Tensor) -> npt.NDArray[np.float64]:
        """Take points (n, 2) from cells to pixels of the slice, none of them outside."""
        cells = cells_rc.detach().cpu().double().numpy()
        pixels = (cells + 0.5) * np.array(self.grid.cell_px) - 0.5
        inside: npt.NDArray[np.float64] = np.clip(pixels, 0, np.array(self.grid.shape) - 1.0)
        return inside

    def share(self, mask: npt.NDArray[np.bool_]) -> torch.Tensor:
        """Share of a mask (H, W) in each cell, (h, w) float32 in 0..1."""
        return torch.from_numpy(self.grid.fractions(mask)).clamp(0, 1).to(self.features.device)


def levels_of(model: SliceModel, embedding: SliceEmbedding) -> Levels:
    """Gather the features of a slice.

    Of the built-in model its embedding at 1/8 of the frame and its finer features; of SAM the
    output of the neck, which is all that an embedding keeps.

    Raises
    ------
    InvalidInput
        If model and embedding do not belong together, or are of no known family.
    """
    grid = tokens_of(model, embedding)
    place = 2 * (grid.centres_rc + 0.5) / np.array(grid.shape) - 1  # (h, w, 2)
    place = np.clip(place, -1.2, 1.2).transpose(2, 0, 1)
    features = np.concatenate([grid.features, place.astype(np.float32)])
    return Levels(
        torch.from_numpy(features)[None].to(model.device),
        torch.from_numpy(grid.covered)[None].to(model.device),
        grid,
    )
