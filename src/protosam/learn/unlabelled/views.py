"""Two disturbed views of one slice, which must be answered as the plain one is.

Owns the disturbances: of the picture (gamma, contrast, shading, blur, noise; none of them moves a
pixel, so a prompt means the same place in every view) and of the features (complementary channel
dropout, UniMatch V2, arXiv 2410.10777). And how features are taken out of an embedding and put
back. Arrays are (c, row, col).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from protosam.errors import InvalidInput
from protosam.models.predictor import SamEmbedding
from protosam.models.slice_model import SliceEmbedding
from protosam.models.tiny_predictor import TinyEmbedding

Float32Array = npt.NDArray[np.float32]

GAMMA = (0.7, 1.4)
CONTRAST = 0.2
"""Largest change of contrast and of brightness."""

SHADING = 0.2
"""Spread of a smooth field about 1, as of a coil in MR."""

BLUR_PX = (0.4, 1.2)
NOISE = (0.01, 0.08)
"""Standard deviation of the noise, where the window is 0..1."""

UNDROPPED = 0.5
"""Share of the pairs whose channels are all kept, as in UniMatch V2."""


def strongly_changed(stack: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Change a picture (c, H, W) in 0..1 as another scanner would; nothing moves."""
    image = stack ** float(rng.uniform(*GAMMA))
    image = (image - 0.5) * (1 + rng.uniform(-CONTRAST, CONTRAST)) + 0.5
    image = image + rng.uniform(-CONTRAST, CONTRAST) / 2
    image = image * _field(stack.shape[1:], rng)
    if rng.random() < 0.5:
        sigma = float(rng.uniform(*BLUR_PX))
        image = ndimage.gaussian_filter(image, (0, sigma, sigma))
    image = image + rng.uniform(*NOISE) * rng.standard_normal(stack.shape)
    return np.clip(image, 0, 1).astype(np.float32)


def dropped_pair(
    embedding: SliceEmbedding, rng: np.random.Generator
) -> tuple[SliceEmbedding, SliceEmbedding]:
    """Two views of an embedding, each with the channels that the other lacks, doubled.

    A share `UNDROPPED` of the pairs keeps all channels.
    """
    if rng.random() < UNDROPPED:
        return embedding, embedding
    features = features_of(embedding)
    kept = 2.0 * rng.integers(0, 2, size=features.shape[1])
    mask = torch.from_numpy(kept).to(features)[None, :, None, None]
    return with_features(embedding, features * mask), with_features(
        embedding, features * (2 - mask)
    )


def features_of(embedding: SliceEmbedding) -> torch.Tensor:
    """Features (1, c, h, w) of an embedding's coarsest grid.

    Raises
    ------
    InvalidInput
        When it is of no family that can be taught.
    """
    if isinstance(embedding, TinyEmbedding):
        return embedding.features.embedding
    if isinstance(embedding, SamEmbedding):
        return embedding.features
    raise InvalidInput(
        f"Features of a {type(embedding).__name__} cannot be disturbed.",
        "Choose the built-in model or one of the SAM family.",
    )


def with_features(embedding: SliceEmbedding, features: torch.Tensor) -> SliceEmbedding:
    """Put other features in the place of an embedding's own; the finer grids stay."""
    if isinstance(embedding, TinyEmbedding):
        changed = dataclasses.replace(embedding.features, embedding=features)
        return dataclasses.replace(embedding, features=changed)
    if isinstance(embedding, SamEmbedding):
        return dataclasses.replace(embedding, features=features)
    raise InvalidInput(
        f"Features cannot be put into a {type(embedding).__name__}.",
        "Choose the built-in model or one of the SAM family.",
    )


def _field(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Smooth field about 1, (H, W)."""
    coarse = rng.normal(0, SHADING, (3, 3))
    rows, cols = (np.linspace(0, 2, n) for n in shape)
    field = ndimage.map_coordinates(coarse, np.meshgrid(rows, cols, indexing="ij"), order=1)
    return np.asarray(1 + field)
