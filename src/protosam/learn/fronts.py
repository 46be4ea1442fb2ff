"""An image encoder cut in two: a frozen front whose work is kept, and a rear that learns.

Owns where the cut lies in each family. What the front makes of an image does not change while
adapters in the rear learn, so it is computed once; the rear is computed in every lesson, with
gradients. Together they give what the encoder gives. In float32. Coordinates are those of
`models.slice_model`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from protosam.errors import InvalidInput
from protosam.models.geodesic import edge_cost
from protosam.models.predictor import SamEmbedding, SamSliceModel
from protosam.models.sam_images import to_square
from protosam.models.slice_model import SliceEmbedding, SliceModel
from protosam.models.tiny import Features
from protosam.models.tiny_predictor import Frame, TinyEmbedding, TinySliceModel

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Begun:
    """What the front has made of one image.

    Attributes
    ----------
    parts : tuple of (1, c, h, w) float16 tensors
        In main memory; half the room, and 1e-3 of a feature's spread at most is lost.
    place : tuple
        What else an embedding of the family holds: where the image lies in its frame.
    """

    parts: tuple[torch.Tensor, ...]
    place: tuple[Any, ...]


class Front(Protocol):
    """Front and rear of a model's encoder.

    Attributes
    ----------
    rear : tuple of int
        Numbers of the encoder's blocks that belong to the rear.
    """

    rear: tuple[int, ...]

    def begin(self, stack: Float32Array, spacing_rc_mm: tuple[float, float]) -> Begun:
        """Take an image (c, H, W) in 0..1 through the frozen part."""
        ...

    def finish(self, begun: Begun) -> SliceEmbedding:
        """Take it through the rest; gradients reach what learns there."""
        ...


def front_of(model: SliceModel, rear_blocks: int | None) -> Front:
    """Cut a model's encoder before its last blocks.

    Parameters
    ----------
    model : SliceModel
        In float32.
    rear_blocks : int or None
        How many of the last blocks learn; all of them if None.

    Raises
    ------
    InvalidInput
        When the model's family has no such cut, or fewer blocks.
    """
    if isinstance(model, TinySliceModel):
        return TinyFront(model, rear_blocks)
    if isinstance(model, SamSliceModel):
        return SamFront(model, rear_blocks)
    raise InvalidInput(
        f"{model.name} cannot be adapted ({type(model).__name__}).",
        "Choose the built-in model or one of the SAM family.",
    )


class TinyFront:
    """Front and rear of the built-in encoder; its convolutions always belong to the front."""

    def __init__(self, model: TinySliceModel, rear_blocks: int | None) -> None:
        self._encoder, self._device = model.network.image_encoder, model.device
        self.rear = _rear(len(self._encoder.blocks), rear_blocks)

    @torch.no_grad()
    def begin(self, stack: Float32Array, spacing_rc_mm: tuple[float, float]) -> Begun:
        """Take an image through the frozen part; see `Front.begin`."""
        frame = Frame.of((stack.shape[1], stack.shape[2]), spacing_rc_mm)
        images = frame.put(torch.from_numpy(np.ascontiguousarray(stack))[None])
        cost = edge_cost(F.avg_pool2d(images[:, 1:2], 4)[0, 0].numpy())
        encoder = self._encoder
        half = encoder.stem(images.to(self._device) * 2 - 1)  # (1, 24, H/2, W/2)
        quarter = encoder.stage_quarter(half)  # (1, 48, H/4, W/4)
        eighth = encoder.stage_eighth(quarter)  # (1, 96, H/8, W/8)
        x = self._blocks(encoder.to_trunk(eighth), range(self.rear[0]))  # (1, 192, H/16, W/16)
        beside = encoder.lateral(eighth), encoder.to_quarter(quarter), encoder.to_half(half)
        return Begun(_kept(x, *beside), (cost, frame))

    def finish(self, begun: Begun) -> TinyEmbedding:
        """Take it through the rest; see `Front.finish`."""
        x, lateral, quarter, half = _taken(begun, self._device)
        encoder = self._encoder
        x = self._blocks(x, self.rear)
        x = encoder.from_trunk(encoder.trunk_norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return TinyEmbedding(Features(encoder.neck(x + lateral), quarter, half), *begun.place)

    def _blocks(self, x: torch.Tensor, numbers: range | tuple[int, ...]) -> torch.Tensor:
        for number in numbers:
            x = x + self._encoder.positions[number](x)
            block = self._encoder.blocks[number]
            x = block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x


class SamFront:
    """Front and rear of SAM's encoder; the patches always belong to the front."""

    def __init__(self, model: SamSliceModel, rear_blocks: int | None) -> None:
        self._model, self._encoder = model, model.network.image_encoder
        self.rear = _rear(len(self._encoder.blocks), rear_blocks)

    @torch.no_grad()
    def begin(self, stack: Float32Array, spacing_rc_mm: tuple[float, float]) -> Begun:  # noqa: ARG002
        """Take an image through the frozen part; see `Front.begin`."""
        square, frame = to_square(stack[0], self._model.network, self._model.card)
        x = self._encoder.patch_embed(square)  # (1, h, w, c)
        if self._encoder.pos_embed is not None:
            x = x + self._encoder.pos_embed
        for number in range(self.rear[0]):
            x = self._encoder.blocks[number](x)
        return Begun(_kept(x), (frame,))

    def finish(self, begun: Begun) -> SamEmbedding:
        """Take it through the rest; see `Front.finish`."""
        (x,) = _taken(begun, self._model.device)
        for number in self.rear:
            x = self._encoder.blocks[number](x)
        return SamEmbedding(self._encoder.neck(x.permute(0, 3, 1, 2)), *begun.place)


def _rear(depth: int, wanted: int | None) -> tuple[int, ...]:
    count = depth if wanted is None else wanted
    if not 1 <= count <= depth:
        raise InvalidInput(
            f"{count} blocks of the encoder were to learn; it has {depth}.",
            f"Give 1 to {depth}.",
        )
    return tuple(range(depth - count, depth))


def _kept(*parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(part.detach().half().cpu() for part in parts)


def _taken(begun: Begun, device: torch.device) -> list[torch.Tensor]:
    return [part.to(device).float() for part in begun.parts]
