"""Neck tokens of one slice, and how they lie on its pixels.

What a backbone knows of a slice besides its masks: one vector for each cell of a coarse grid. The
prototype bank reads them. Owns the way between pixels and cells; knows nothing of backbones,
prompts and volumes. Pixels are (row, col) of the slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from protosam.models.slice_model import SliceEmbedding


@dataclass(frozen=True, eq=False)
class NeckTokens:
    """Tokens of one slice.

    Attributes
    ----------
    tokens : (c, h, w) float tensor
        As the image encoder's neck gave them, on its device.
    shape : (int, int)
        Rows and columns of the slice.
    inner : (int, int)
        Rows and columns of the encoder's frame that the slice fills, from the top left corner;
        what lies beyond is padding.
    stride : int
        Pixels of the frame along a side of a token's cell.
    """

    tokens: torch.Tensor
    shape: tuple[int, int]
    inner: tuple[int, int]
    stride: int

    @property
    def rows(self) -> torch.Tensor:
        """All tokens as a table (h * w, c), row after row; padding too."""
        return self.tokens.flatten(1).T

    @property
    def real(self) -> torch.Tensor:
        """(h, w) bool: cells of which the slice fills at least half."""
        return self.share(np.ones(self.shape, dtype=bool)) >= 0.5

    def share(self, mask: npt.NDArray[np.bool_]) -> torch.Tensor:
        """Share of a mask (H, W) in each cell, (h, w) float32 within 0..1; 0 in padding."""
        image = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32))[None, None]
        inner = F.interpolate(
            image, size=self.inner, mode="bilinear", align_corners=False, antialias=True
        )
        rows, cols = (self.stride * n for n in self.tokens.shape[1:])
        padded = F.pad(inner, (0, cols - self.inner[1], 0, rows - self.inner[0]))
        return F.avg_pool2d(padded, self.stride)[0, 0].clamp(0, 1)

    def spread(self, values: torch.Tensor) -> npt.NDArray[np.float32]:
        """Bring one number a cell (h, w) to the slice's pixels, (H, W) float32, bilinearly."""
        size = [self.stride * n for n in self.tokens.shape[1:]]
        grid = values.float().cpu()[None, None]
        frame = F.interpolate(grid, size=size, mode="bilinear", align_corners=False)
        inner = frame[:, :, : self.inner[0], : self.inner[1]]
        if self.inner != self.shape:
            inner = F.interpolate(
                inner, size=self.shape, mode="bilinear", align_corners=False, antialias=True
            )
        found: npt.NDArray[np.float32] = inner[0, 0].numpy()
        return found


@runtime_checkable
class HasNeckTokens(Protocol):
    """A slice model whose embeddings can be read as tokens."""

    def neck_tokens(self, embedding: SliceEmbedding) -> NeckTokens:
        """Tokens of an embedding of this very model."""
        ...
