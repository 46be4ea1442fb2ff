"""The tokens of an encoded slice, for those who compare images; and many answers in one call.

Owns what a token is: one vector of features for a square cell of the slice. A grid of tokens
begins at the slice's first pixel; how long a cell is follows from the backbone's frame, which
stays here. Tokens of the padding lie on no pixel and are marked. Coordinates are (row, col)
pixels of the image that was encoded, pixel centres at integers. Knows nothing of volumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from protosam.errors import InvalidInput, InvalidPrompt
from protosam.models.predictor import SamEmbedding, SamSliceModel
from protosam.models.prompt_maps import draw
from protosam.models.sam_images import to_image_grid
from protosam.models.slice_model import SliceAnswer, SliceEmbedding, SliceModel, SlicePrompts
from protosam.models.tiny_predictor import TinyEmbedding, TinySliceModel

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


@runtime_checkable
class AnswersMany(Protocol):
    """A slice model that can answer the prompts of several objects of one image at once."""

    def predict_many(
        self, embedding: SliceEmbedding, prompts: Sequence[SlicePrompts]
    ) -> list[SliceAnswer]:
        """Answers in the order of the prompts; see the function of this name."""
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


def predict_many(
    model: SliceModel, embedding: SliceEmbedding, prompts: Sequence[SlicePrompts]
) -> list[SliceAnswer]:
    """Answer the prompts of several objects of one image, in one call of the decoder.

    Single clicks are answered with mask 0, the one for several prompts, unlike in `predict`:
    candidates are compared with each other, and one reading for all keeps that fair. Prompts of
    fewer clicks are filled up with the networks' own "not a point". They know it from training,
    but it changes an answer a little: the same prompts alone give the same mask only nearly.

    Parameters
    ----------
    model : SliceModel
    embedding : SliceEmbedding
    prompts : sequence of SlicePrompts
        All with a box, or all without one, where the model is a SAM.

    Raises
    ------
    InvalidPrompt
        If one of them has nothing to go by.
    """
    for one in prompts:
        if one.count == 0 and one.prior_logits is None and one.neighbour_logits is None:
            raise InvalidPrompt("A candidate has no click, box or prior.", "Leave it out.")
    if not prompts:
        return []
    if isinstance(model, TinySliceModel) and isinstance(embedding, TinyEmbedding):
        return _tiny_many(model, embedding, prompts)
    if isinstance(model, SamSliceModel) and isinstance(embedding, SamEmbedding):
        return _sam_many(model, embedding, prompts)
    if isinstance(model, AnswersMany):
        return model.predict_many(embedding, prompts)
    return [model.predict(embedding, one) for one in prompts]


def readings(
    model: SliceModel, embedding: SliceEmbedding, prompts: SlicePrompts
) -> list[Float32Array]:
    """Return all masks that the model reads from one ambiguous prompt, as logits (H, W).

    Three for the models of this package, which have three masks for that; one for others.
    """
    if isinstance(model, TinySliceModel) and isinstance(embedding, TinyEmbedding):
        masks = _tiny_masks(model, embedding, [prompts])
        taken = embedding.frame.take(masks[0][0, 1:].cpu())
        return [one.numpy() for one in taken]
    if isinstance(model, SamSliceModel) and isinstance(embedding, SamEmbedding):
        framed = model.prompts_in_frame(prompts, embedding.frame)
        return [one.cpu().numpy() for one in model.decode(embedding, framed, multimask=True).logits]
    return [model.predict(embedding, prompts).logits]


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


@torch.inference_mode()
def _tiny_masks(
    model: TinySliceModel, own: TinyEmbedding, prompts: Sequence[SlicePrompts]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (n, 4, H/2, W/2), scores (n, 4) and presence (n,) of ``n`` objects."""
    framed = [model._framed(one, own) for one in prompts]
    tokens = draw(framed, *own.frame.outer).to(model.device)
    features = own.features.select(torch.zeros(len(framed), dtype=torch.long))
    with model._precision():
        masks = model.network.decode(features, tokens, own.frame.side)
    return masks.logits.float(), masks.iou.sigmoid(), masks.presence.sigmoid()


def _tiny_many(
    model: TinySliceModel, own: TinyEmbedding, prompts: Sequence[SlicePrompts]
) -> list[SliceAnswer]:
    logits, scores, presence = _tiny_masks(model, own, prompts)
    taken = own.frame.take(logits[:, 0].cpu()).numpy()
    return [
        SliceAnswer(taken[n], float(scores[n, 0]), float(presence[n])) for n in range(len(prompts))
    ]


@torch.inference_mode()
def _sam_many(
    model: SamSliceModel, own: SamEmbedding, prompts: Sequence[SlicePrompts]
) -> list[SliceAnswer]:
    network, features = model.network, own.features.to(model.device)
    framed = [model.prompts_in_frame(_with_a_point(one), own.frame) for one in prompts]
    longest = max(0 if f.points_xy is None else f.points_xy.shape[1] for f in framed)
    points = labels = None
    if longest:
        # Label -1 is the package's own "not a point"; it is how prompts of other lengths are met.
        points = torch.zeros((len(framed), longest, 2), device=model.device)
        labels = -torch.ones((len(framed), longest), dtype=torch.int32, device=model.device)
        for row, one in enumerate(framed):
            if one.points_xy is not None and one.labels is not None:
                points[row, : one.points_xy.shape[1]] = one.points_xy[0]
                labels[row, : one.labels.shape[1]] = one.labels[0]
    boxes = [f.box_xyxy for f in framed if f.box_xyxy is not None]
    priors = [f.mask_input for f in framed if f.mask_input is not None]
    if len(boxes) not in (0, len(framed)) or len(priors) not in (0, len(framed)):
        return [model.predict(own, one) for one in prompts]
    sparse, dense = network.prompt_encoder(
        points=None if points is None else (points, labels),
        boxes=torch.cat(boxes) if boxes else None,
        masks=torch.cat(priors) if priors else None,
    )
    low_res, scores = network.mask_decoder(
        image_embeddings=features,
        image_pe=network.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    logits = to_image_grid(low_res, own.frame, model.card)[:, 0].cpu().numpy()
    return [
        SliceAnswer(image, float(score.clamp(0, 1)), float((image > 0).any()))
        for image, score in zip(logits, scores[:, 0], strict=True)
    ]


def _with_a_point(prompts: SlicePrompts) -> SlicePrompts:
    """Leave out what a SAM does not read."""
    return replace(prompts, neighbour_logits=None)
