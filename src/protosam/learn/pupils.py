"""Slice models as something to learn with: answers that keep their gradient, and their losses.

Owns the one difference between a model at work and a model in a lesson: the decoder runs in its
plain, differentiable form, all masks are read, and offsets of the decoder's own tokens come from
outside. Clicks, boxes and priors go through the models' own code, so that nothing is seen in a
lesson that is not seen at work. Coordinates are (row, col) pixels of the slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from protosam.errors import InvalidInput
from protosam.learn.losses import IOU_WEIGHT, PRESENCE_WEIGHT, hard_iou, mask_loss
from protosam.models.predictor import SamEmbedding, SamSliceModel
from protosam.models.prompt_maps import FramePrompts, discs, draw
from protosam.models.sam_images import to_image_grid
from protosam.models.sam_prompts import SamPrompts
from protosam.models.shift import PatternShift, clicks_in, pointed_in_maps
from protosam.models.slice_model import SliceEmbedding, SliceModel, SlicePrompts
from protosam.models.tiny import MAP_CHANNELS, Features, Tokens
from protosam.models.tiny_predictor import CELL, TinyEmbedding, TinySliceModel

Float32Array = npt.NDArray[np.float32]

TINY_TOKENS = ("iou_token.weight", "presence_token.weight", "mask_tokens.weight")
"""Own tokens of the built-in model's decoder, in its order."""

SAM_TOKENS = ("iou_token.weight", "mask_tokens.weight")
"""Own tokens of SAM's decoder, in its order."""

THERE = 0.5
"""Share of a cell from which an object counts as being in the slice."""


@dataclass(frozen=True, eq=False)
class Reading:
    """Everything that a decoder said to one question.

    Attributes
    ----------
    logits : (m, h, w) tensor
        Masks that may be shown, on the decoder's own grid.
    scores : (m,) tensor
        What the decoder thinks of each: a logit in the built-in model, an IoU in SAM.
    presence : tensor or None
        Logit of the object being there, of models that tell it.
    offsets : (tokens, channels) tensor or None
        How the decoder's own tokens were moved.
    """

    logits: torch.Tensor
    scores: torch.Tensor
    presence: torch.Tensor | None
    offsets: torch.Tensor | None

    @property
    def shown(self) -> torch.Tensor:
        """Logits (h, w) of the mask that a user would see, without gradient."""
        return self.logits.detach()[int(self.scores.argmax())]


class Pupil(Protocol):
    """A slice model in a lesson.

    Attributes
    ----------
    channels, tokens : int
        Channels of the embedding, own tokens of the decoder.
    """

    channels: int
    tokens: int

    def keep(self, embedding: SliceEmbedding) -> SliceEmbedding:
        """Copy of an embedding that gradients may flow past."""
        ...

    def target(self, embedding: SliceEmbedding, truth: npt.NDArray[np.bool_]) -> torch.Tensor:
        """Share of the object (h, w) in 0..1 in each cell of the decoder's grid."""
        ...

    def ask(
        self, embedding: SliceEmbedding, prompts: SlicePrompts, shift: PatternShift | None
    ) -> Reading:
        """Answer prompts; gradients reach `shift`."""
        ...

    def ask_at(
        self, embedding: SliceEmbedding, cells_rc: torch.Tensor, positive: npt.NDArray[np.bool_]
    ) -> Reading:
        """Answer clicks at cells (n, 2) of the embedding's grid; gradients reach the cells."""
        ...

    def loss(self, reading: Reading, target: torch.Tensor) -> torch.Tensor:
        """Loss of an answer: of its masks, its scores and its presence."""
        ...

    def on_slice(self, embedding: SliceEmbedding, logits: torch.Tensor) -> Float32Array:
        """Bring logits (h, w) of the decoder's grid to the slice's own grid (H, W)."""
        ...


def pupil_of(model: SliceModel) -> Pupil:
    """Lesson form of a loaded model.

    Raises
    ------
    InvalidInput
        If there is none for its family.
    """
    if isinstance(model, TinySliceModel):
        return TinyPupil(model)
    if isinstance(model, SamSliceModel):
        return SamPupil(model)
    raise InvalidInput(
        f"{model.name} cannot be taught by shifting ({type(model).__name__}).",
        "Choose the built-in model or one of the SAM family.",
    )


class TinyPupil:
    """The built-in model in a lesson.

    Parameters
    ----------
    model : TinySliceModel
    """

    def __init__(self, model: TinySliceModel) -> None:
        self._model = model
        self.channels = model.network.settings.embed_dim
        self.tokens = 2 + int(model.network.mask_decoder.num_mask_tokens)

    def keep(self, embedding: SliceEmbedding) -> TinyEmbedding:
        """Copy of an embedding; see `Pupil.keep`."""
        own = _tiny(embedding)
        f = own.features
        kept = (t.detach().float().clone() for t in (f.embedding, f.quarter, f.half))
        return TinyEmbedding(Features(*kept), own.cost, own.frame)

    def target(self, embedding: SliceEmbedding, truth: npt.NDArray[np.bool_]) -> torch.Tensor:
        """Share of the object in each cell; see `Pupil.target`."""
        on_frame = _tiny(embedding).frame.put(_image(truth))
        return F.avg_pool2d(on_frame, 2)[0, 0].to(self._model.device)

    def ask(
        self, embedding: SliceEmbedding, prompts: SlicePrompts, shift: PatternShift | None
    ) -> Reading:
        """Answer prompts; see `Pupil.ask`."""
        own = _tiny(embedding)
        tokens, single = self._model.tokens_of(own, prompts)
        return self._read(own, tokens, shift, self.tokens - 2 if single else 1)

    def ask_at(
        self, embedding: SliceEmbedding, cells_rc: torch.Tensor, positive: npt.NDArray[np.bool_]
    ) -> Reading:
        """Answer clicks at cells; see `Pupil.ask_at`."""
        own = _tiny(embedding)
        points_xy = (cells_rc.flip(1) + 0.5) * CELL - 0.5  # (n, 2) pixels of the frame
        framed = FramePrompts(points_xy.detach().cpu().numpy(), positive, cost=own.cost)
        drawn = draw([framed], *own.frame.outer).to(self._model.device)
        signs = torch.from_numpy(positive).to(points_xy.device)[None]
        maps = list(drawn.maps.unbind(dim=1))
        shape = (maps[0].shape[1], maps[0].shape[2])
        for name, chosen in (("positive", signs), ("negative", ~signs)):
            maps[MAP_CHANNELS.index(name)] = discs(points_xy[None], chosen, shape)
        tokens = Tokens(points_xy[None], drawn.labels, torch.stack(maps, dim=1))
        return self._read(own, tokens, None, 1)

    def _read(
        self, own: TinyEmbedding, tokens: Tokens, shift: PatternShift | None, count: int
    ) -> Reading:
        network, side = self._model.network, own.frame.side
        sparse, dense = network.prompt_encoder(tokens, side)
        height, width = dense.shape[-2:]
        positions = network.prompt_encoder.dense_positions(height, width, side)
        offsets = None
        if shift is not None:
            pointed = pointed_in_maps(tokens.maps)
            offsets = shift(own.features.embedding, pointed, clicks_in(tokens.labels))[0]
        masks = functional_call(
            network.mask_decoder,
            _moved(network.mask_decoder, TINY_TOKENS, offsets),
            (own.features, positions, (sparse, dense, tokens.maps)),
        )
        return Reading(masks.logits[0, :count], masks.iou[0, :count], masks.presence[0], offsets)

    def loss(self, reading: Reading, target: torch.Tensor) -> torch.Tensor:
        """Loss of an answer; see `Pupil.loss`."""
        actual = hard_iou(reading.logits.detach(), target)
        scores = F.binary_cross_entropy_with_logits(reading.scores, actual)
        total = mask_loss(reading.logits, target).mean() + IOU_WEIGHT * scores
        if reading.presence is None:
            return total
        there = (target.amax() >= THERE).float()
        return total + PRESENCE_WEIGHT * F.binary_cross_entropy_with_logits(reading.presence, there)

    def on_slice(self, embedding: SliceEmbedding, logits: torch.Tensor) -> Float32Array:
        """Bring logits to the slice's own grid; see `Pupil.on_slice`."""
        taken: Float32Array = _tiny(embedding).frame.take(logits[None].cpu())[0].numpy()
        return taken


class SamPupil:
    """A model of the segment-anything family in a lesson.

    Parameters
    ----------
    model : SamSliceModel
    """

    def __init__(self, model: SamSliceModel) -> None:
        self._model = model
        model.network.requires_grad_(False)
        self.channels = int(model.network.prompt_encoder.embed_dim)
        self.tokens = 1 + int(model.network.mask_decoder.num_mask_tokens)

    def keep(self, embedding: SliceEmbedding) -> SamEmbedding:
        """Copy of an embedding; see `Pupil.keep`."""
        own = _sam(embedding)
        return SamEmbedding(own.features.detach().float().clone(), own.frame)

    def target(self, embedding: SliceEmbedding, truth: npt.NDArray[np.bool_]) -> torch.Tensor:
        """Share of the object in each cell; see `Pupil.target`."""
        frame, size = _sam(embedding).frame, self._model.network.prompt_encoder.mask_input_size
        image = F.interpolate(_image(truth), frame.input_size, mode="bilinear", antialias=True)
        rows, columns = frame.input_size
        square = F.pad(image, (0, frame.side - columns, 0, frame.side - rows))
        return F.adaptive_avg_pool2d(square, size)[0, 0].to(self._model.device)

    def ask(
        self, embedding: SliceEmbedding, prompts: SlicePrompts, shift: PatternShift | None
    ) -> Reading:
        """Answer prompts; see `Pupil.ask`."""
        own = _sam(embedding)
        given = self._model.prompts_in_frame(prompts, own.frame)
        return self._read(own, given, shift, self._model.reads_as_ambiguous(prompts))

    def ask_at(
        self, embedding: SliceEmbedding, cells_rc: torch.Tensor, positive: npt.NDArray[np.bool_]
    ) -> Reading:
        """Answer clicks at cells; see `Pupil.ask_at`."""
        own = _sam(embedding)
        cell = own.frame.side / own.features.shape[-1]
        points_xy = (cells_rc.flip(1) + 0.5) * cell - 0.5
        labels = torch.as_tensor(positive, dtype=torch.int32, device=points_xy.device)
        return self._read(own, SamPrompts(points_xy[None], labels[None], None, None), None, False)

    def _read(
        self, own: SamEmbedding, given: SamPrompts, shift: PatternShift | None, ambiguous: bool
    ) -> Reading:
        network = self._model.network
        points = None if given.points_xy is None else (given.points_xy, given.labels)
        sparse, dense = network.prompt_encoder(points, given.box_xyxy, given.mask_input)
        asked = {
            "image_embeddings": own.features,
            "image_pe": network.prompt_encoder.get_dense_pe(),
            "sparse_prompt_embeddings": sparse,
            "dense_prompt_embeddings": dense,
            "multimask_output": ambiguous,
        }
        offsets = None
        if shift is not None:
            rows, columns = own.features.shape[-2:]
            pointed = given.pointed((rows, columns), own.frame.side).to(own.features.device)
            offsets = shift(own.features, pointed, given.clicks)[0]
        moved = _moved(network.mask_decoder, SAM_TOKENS, offsets)
        logits, scores = functional_call(network.mask_decoder, moved, (), asked)
        return Reading(logits[0], scores[0], None, offsets)

    def loss(self, reading: Reading, target: torch.Tensor) -> torch.Tensor:
        """Loss of an answer; see `Pupil.loss`."""
        actual = hard_iou(reading.logits.detach(), target)
        return mask_loss(reading.logits, target).mean() + F.mse_loss(reading.scores, actual)

    def on_slice(self, embedding: SliceEmbedding, logits: torch.Tensor) -> Float32Array:
        """Bring logits to the slice's own grid; see `Pupil.on_slice`."""
        image = to_image_grid(logits[None, None], _sam(embedding).frame, self._model.card)
        taken: Float32Array = image[0, 0].cpu().numpy()
        return taken


def _moved(
    decoder: nn.Module, names: tuple[str, ...], offsets: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """Weights of the decoder's own tokens with their offsets, by name; none without offsets."""
    if offsets is None:
        return {}
    weights = [decoder.get_parameter(name) for name in names]
    parts = torch.split(offsets, [len(weight) for weight in weights])
    return {name: w + o for name, w, o in zip(names, weights, parts, strict=True)}


def _image(truth: npt.NDArray[np.bool_]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(truth, dtype=np.float32))[None, None]


def _tiny(embedding: Any) -> TinyEmbedding:
    if isinstance(embedding, TinyEmbedding):
        return embedding
    raise _stranger(embedding)


def _sam(embedding: Any) -> SamEmbedding:
    if isinstance(embedding, SamEmbedding):
        return embedding
    raise _stranger(embedding)


def _stranger(embedding: Any) -> InvalidInput:
    return InvalidInput(
        f"An embedding of type {type(embedding).__name__} was given to another model's lesson.",
        "Encode the slice with the model that learns.",
    )
