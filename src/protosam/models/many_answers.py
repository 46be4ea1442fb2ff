"""Many answers for one image in one call of the decoder, and all readings of an ambiguous prompt.

For those who compare candidates. Coordinates are (row, col) pixels of the image that was encoded,
pixel centres at integers. Knows nothing of volumes, and nothing of what the candidates are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from protosam.errors import InvalidPrompt
from protosam.models.predictor import SamEmbedding, SamSliceModel
from protosam.models.prompt_maps import draw
from protosam.models.sam_images import to_image_grid
from protosam.models.sam_prompts import SamMasks
from protosam.models.slice_model import SliceAnswer, SliceEmbedding, SliceModel, SlicePrompts
from protosam.models.tiny_predictor import TinyEmbedding, TinySliceModel

Float32Array = npt.NDArray[np.float32]


@runtime_checkable
class AnswersMany(Protocol):
    """A slice model that can answer the prompts of several objects of one image at once."""

    def predict_many(
        self, embedding: SliceEmbedding, prompts: Sequence[SlicePrompts]
    ) -> list[SliceAnswer]:
        """Answers in the order of the prompts; see the function of this name."""
        ...


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
    framed = [model.prompts_in_frame(_as_sam_reads(one), own.frame) for one in prompts]
    if model.is_shifted:  # the shift reads each object's own clicks
        return [_only_mask(model.decode(own, one, multimask=False)) for one in framed]
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
        return [_only_mask(model.decode(own, one, multimask=False)) for one in framed]
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


def _as_sam_reads(prompts: SlicePrompts) -> SlicePrompts:
    """Leave out what a SAM does not read."""
    return replace(prompts, neighbour_logits=None)


def _only_mask(masks: SamMasks) -> SliceAnswer:
    image = masks.logits[0].cpu().numpy()
    return SliceAnswer(image, float(masks.scores[0].clamp(0, 1)), float((image > 0).any()))
