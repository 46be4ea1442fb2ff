"""The tokens of an encoded slice, for those who compare images.

Owns what a token is: one vector of features for a square cell of the slice. A grid of tokens
begins at the slice's first pixel; how long a cell is follows from the backbone's frame, which
stays here. Tokens of the padding lie on no pixel and are marked. Coordinates are (row, col)
pixels of the image that was encoded, pixel centres at integers. Knows nothing of volumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from protosam.errors import InvalidInput
from protosam.models.predictor import SamEmbedding
from protosam.models.slice_model import SliceEmbedding, SliceModel
from protosam.models.tiny_predictor import TinyEmbedding

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

TINY_STRIDE, SAM_STRIDE = 8, 16
"""Frame pixels along a token's side."""

MOSTLY = 0.5
"""Share of a token that must lie on the slice, or in a mask, to belong to it."""


@dataclass(frozen=True, eq=False)
class TokenGrid:
    """The tokens of one image.

    Attributes
    ----------
    features : (c, h, w) float32
        Of every token, the padding's too.
    shape : (int, int)
        Rows and columns of the image in its own pixels.
    cell_px : (float, float)
        Rows and columns of the image that a token covers.
    """

    features: Float32Array
    shape: tuple[int, int]
    cell_px: tuple[float, float]

    @property
    def covered(self) -> BoolArray:
        """(h, w) bool: tokens that lie on the image for the most part; the rest is padding."""
        on_image: BoolArray = self.fractions(np.ones(self.shape, dtype=np.float32)) >= MOSTLY
        return on_image

    @property
    def centres_rc(self) -> npt.NDArray[np.float64]:
        """(h, w, 2) centres of the tokens as (row, col) of the image."""
        lines = [
            (np.arange(n) + 0.5) * cell - 0.5
            for n, cell in zip(self.features.shape[1:], self.cell_px, strict=True)
        ]
        return np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1)

    def fractions(self, image: npt.NDArray[Any]) -> Float32Array:
        """Sum an image over each token, in areas of a token.

        Parameters
        ----------
        image : (H, W) number or bool
            On the grid of the image that was encoded.

        Returns
        -------
        (h, w) float32
            For a mask the share of the token that lies in it.
        """
        if image.shape != self.shape:
            raise InvalidInput(f"A mask of {image.shape} was given for a slice of {self.shape}.")
        down, across = (
            _overlaps(count, length, cell)
            for count, length, cell in zip(
                self.features.shape[1:], self.shape, self.cell_px, strict=True
            )
        )
        pooled: Float32Array = (down @ image.astype(np.float32) @ across.T).astype(np.float32)
        return pooled


@runtime_checkable
class HasTokens(Protocol):
    """A slice model that knows a way of its own to its tokens."""

    def tokens(self, embedding: SliceEmbedding) -> TokenGrid:
        """Tokens of an embedding that the model has made."""
        ...


def tokens_of(model: SliceModel, embedding: SliceEmbedding) -> TokenGrid:
    """Tokens of an encoded slice.

    Parameters
    ----------
    model : SliceModel
    embedding : SliceEmbedding
        Made by `model`.

    Returns
    -------
    TokenGrid
        Of the built-in model 160 channels: its embedding at 1/8 of the frame and its finer
        features averaged to the same cells; of the segment-anything family the 256 of its neck.

    Raises
    ------
    InvalidInput
        If the model offers no tokens.
    """
    if isinstance(embedding, TinyEmbedding):
        features, frame = embedding.features, embedding.frame
        both = (features.embedding.float(), F.avg_pool2d(features.quarter.float(), 2))
        return TokenGrid(
            torch.cat(both, dim=1)[0].cpu().numpy(), frame.shape, _cell(frame, TINY_STRIDE)
        )
    if isinstance(embedding, SamEmbedding):
        seen = embedding.frame
        rows, cols = (
            SAM_STRIDE * n / m for n, m in zip(seen.original_size, seen.input_size, strict=True)
        )
        return TokenGrid(
            embedding.features[0].float().cpu().numpy(), seen.original_size, (rows, cols)
        )
    if isinstance(model, HasTokens):
        return model.tokens(embedding)
    raise InvalidInput(
        f"The model {model.name} offers no tokens, and examples are compared by them.",
        "Use the built-in model or one of the segment-anything family.",
    )


def _cell(frame: Any, stride: int) -> tuple[float, float]:
    rows, cols = (stride * n / m for n, m in zip(frame.shape, frame.inner, strict=True))
    return rows, cols


def _overlaps(count: int, length: int, cell: float) -> Float32Array:
    """(count, length) share of each cell that each pixel covers; pixel p is [p, p + 1)."""
    low = np.arange(count)[:, None] * cell
    pixel = np.arange(length)[None]
    shared = np.minimum(low + cell, pixel + 1) - np.maximum(low, pixel)
    shares: Float32Array = (np.clip(shared, 0, None) / cell).astype(np.float32)
    return shares
