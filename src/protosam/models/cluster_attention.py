"""Attention between the means of token clusters, as a gated branch of an encoder block.

Owns ProtoSAM's Token Prototype Encoder as an addition to Segment Anything's block, not in its
place:

    x <- x + Attn(LN x) + gate * ClusterAttn(LN x),    gate = 0 before training,

so that an untrained branch changes no bit of the answer. Tokens are softly assigned to prototypes,
the means of the clusters attend to each other through the block's own ``qkv`` and ``proj`` (with
the adapters that lie there), and go back to the tokens by the same assignment. Means are taken over
the neighbouring slices too, so that 64 vectors a slice carry context across slices.

Knows nothing of images, files or which blocks are changed (`cluster_branches.py`). Tokens are
(b, h, w, c): images, rows and columns of the encoder's grid, without windows. Deviations from the
released code: directions are seen from the centre of all tokens and the temperature is low, so
that assignments separate (`away_from` has the figures); prototypes move in training alone; means
have no place, hence no relative positions; ``proj`` comes before the way back, which is the same
sum because the memberships of a token sum to 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import torch
from segment_anything.modeling.image_encoder import (
    Attention,
    Block,
    window_partition,
    window_unpartition,
)
from torch import nn
from torch.nn import functional as F

from protosam.errors import InvalidInput
from protosam.models.moving_prototypes import MOMENTUM, Prototypes
from protosam.models.prototypes import ROUNDING, TEMPERATURE, away_from, memberships

TEMPERATURE_RANGE = (0.01, 1.0)
"""A learned temperature is held within; below, the softmax is a choice and has no gradient."""

MOST_PROTOTYPES = 4096
"""As many as SAM has tokens; a file that asks for more is not believed."""


@dataclass(frozen=True)
class BranchSettings:
    """What a cluster branch is like."""

    prototypes: int = 64
    """Prototypes of each block (ProtoSAM's K)."""
    temperature: float = TEMPERATURE
    """Of the soft assignment, at the start; it is learned as a logarithm."""
    reach: int = 3
    """How many slices further a slice counts as a neighbour."""
    momentum: float = MOMENTUM
    """Largest momentum of the prototypes."""

    def __post_init__(self) -> None:
        low, high = TEMPERATURE_RANGE
        if not 1 <= self.prototypes <= MOST_PROTOTYPES or self.reach < 0:
            raise InvalidInput(
                f"A cluster branch was asked for with {self.prototypes} prototypes and a reach of "
                f"{self.reach} slices; wanted are 1 to {MOST_PROTOTYPES} and at least 0."
            )
        if not low <= self.temperature <= high or not 0 <= self.momentum < 1:
            raise InvalidInput(
                f"A cluster branch was asked for with temperature {self.temperature} and momentum "
                f"{self.momentum}; wanted are {low} to {high} and 0 to below 1."
            )


@dataclass(frozen=True)
class SliceStack:
    """Which slices the images of a batch are.

    Attributes
    ----------
    numbers : tuple of int
        Number of each slice in its volume.
    volumes : tuple of int
        Which volume each belongs to; slices of two volumes are never neighbours.
    """

    numbers: tuple[int, ...]
    volumes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.numbers) != len(self.volumes):
            raise InvalidInput(
                f"{len(self.numbers)} slice numbers came with {len(self.volumes)} volumes; wanted "
                "is one of each for every image of the batch."
            )

    def neighbours(self, reach: int, device: torch.device) -> torch.Tensor:
        """Matrix (b, b) float32: 1 where two images are at most `reach` slices apart, else 0."""
        numbers = torch.tensor(self.numbers, device=device)
        volumes = torch.tensor(self.volumes, device=device)
        near = (numbers[:, None] - numbers[None]).abs() <= reach
        return (near & (volumes[:, None] == volumes[None])).float()


_STACK: ContextVar[SliceStack | None] = ContextVar("slices of the batch", default=None)


@contextmanager
def neighbouring(numbers: Sequence[int], volumes: Sequence[int] | None = None) -> Iterator[None]:
    """Tell the branches of any encoder called within which slices its batch holds.

    Outside of it, and in other threads, every image is alone. A slice at the end of the batch has
    fewer neighbours than the volume has: include `BranchSettings.reach` slices on both sides of
    those whose embedding is wanted, where it must not depend on the batch.

    Parameters
    ----------
    numbers : sequence of int
        Slice number of each image.
    volumes : sequence of int, optional
        Volume of each image; one and the same if None.
    """
    owner = (0,) * len(numbers) if volumes is None else tuple(volumes)
    token = _STACK.set(SliceStack(tuple(numbers), owner))
    try:
        yield
    finally:
        _STACK.reset(token)


class ClusterAttention(nn.Module):
    """Soft assignment, attention among cluster means, and the way back.

    Parameters
    ----------
    channels : int
        Of the tokens.
    settings : BranchSettings, optional
    seed : int
        Of the prototypes, which are random directions until `place` puts them into data.

    Attributes
    ----------
    gate : () parameter
        The factor of the branch, 0 before training.
    log_temperature : () parameter
    directions : (k, channels) buffer
        The prototypes, of length 1.
    centre : (channels,) buffer
        What unit tokens are seen from; zero until `place` is given another.
    usage : (k,) buffer
    updates : () int64 buffer
        See `Prototypes`.
    """

    directions: torch.Tensor
    centre: torch.Tensor
    usage: torch.Tensor
    updates: torch.Tensor

    def __init__(
        self, channels: int, settings: BranchSettings | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.settings = settings or BranchSettings()
        self.gate = nn.Parameter(torch.zeros(()))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(self.settings.temperature)))
        random = torch.Generator().manual_seed(seed)
        found = torch.randn(self.settings.prototypes, channels, generator=random)
        start = Prototypes.at(found)
        self.register_buffer("directions", start.directions)
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("usage", start.usage)
        self.register_buffer("updates", torch.tensor(0))

    @property
    def temperature(self) -> torch.Tensor:
        """Temperature of the assignment, () within `TEMPERATURE_RANGE`."""
        low, high = TEMPERATURE_RANGE
        return self.log_temperature.clamp(math.log(low), math.log(high)).exp()

    @property
    def prototypes(self) -> Prototypes:
        """The prototypes as a value."""
        return Prototypes(self.directions.float(), self.usage.float(), int(self.updates))

    def place(self, prototypes: Prototypes, centre: torch.Tensor | None = None) -> None:
        """Take over prototypes, and the centre (channels,) that they are seen from if it is new.

        Raises
        ------
        InvalidInput
            When they are of another number or width.
        """
        if prototypes.directions.shape != self.directions.shape:
            raise InvalidInput(
                f"Prototypes of shape {tuple(prototypes.directions.shape)} were given to a branch "
                f"that has {tuple(self.directions.shape)}."
            )
        # New tensors rather than new values: what waits for its gradient keeps the old ones.
        self.directions = prototypes.directions.to(self.directions)
        self.usage = prototypes.usage.to(self.usage)
        self.updates = torch.full_like(self.updates, prototypes.updates)
        if centre is not None:
            self.centre = centre.to(self.centre).reshape(self.centre.shape)

    def update(self, tokens: torch.Tensor) -> None:
        """Move the prototypes towards tokens (n, channels), such as those of an accepted mask."""
        seen = away_from(tokens.detach(), self.centre)
        self.place(self.prototypes.updated(seen, momentum=self.settings.momentum))

    def forward(self, tokens: torch.Tensor, attention: Attention) -> torch.Tensor:
        """Compute the branch, without its gate.

        In training mode the prototypes move afterwards; in evaluation mode they never do.

        Parameters
        ----------
        tokens : (b, h, w, channels) tensor
            What the block's own attention sees: after its first norm, not cut into windows.
        attention : Attention
            The block's own; its ``qkv`` and ``proj`` may carry adapters.

        Returns
        -------
        (b, h, w, channels) float32

        Raises
        ------
        InvalidInput
            Within `neighbouring` for another number of images.
        """
        flat = tokens.flatten(1, 2)  # (b, h w, c)
        seen = away_from(flat, self.centre)
        belonging = memberships(seen, self.directions, self.temperature)  # (b, h w, k)
        means = self._means(flat, belonging).to(tokens.dtype)  # (b, k, c)
        mixed = _attend(means, attention)
        if self.training:
            self.update(flat.flatten(0, 1))
        with torch.autocast(tokens.device.type, enabled=False):
            out = belonging @ mixed.float()  # (b, h w, c)
        return out.view_as(tokens)

    def _means(self, flat: torch.Tensor, belonging: torch.Tensor) -> torch.Tensor:
        """Means of the clusters over each image and its neighbours."""
        with torch.autocast(flat.device.type, enabled=False):
            sums = belonging.transpose(1, 2) @ flat.float()  # (b, k, c)
            weights = belonging.sum(dim=1)  # (b, k)
            stack = _STACK.get()
            if stack is not None:
                if len(stack.numbers) != len(flat):
                    raise InvalidInput(
                        f"The encoder got {len(flat)} images within `neighbouring` for "
                        f"{len(stack.numbers)} slices.",
                        "Give one slice number for every image of the batch.",
                    )
                near = stack.neighbours(self.settings.reach, flat.device)  # (b, b)
                sums = torch.einsum("ij,jkc->ikc", near, sums)
                weights = near @ weights
            return sums / (weights.unsqueeze(-1) + ROUNDING)


def _attend(means: torch.Tensor, attention: Attention) -> torch.Tensor:
    """Attention of the block among cluster means, (b, k, c) to the same."""
    qkv = attention.qkv(means).unflatten(-1, (3, attention.num_heads, -1))  # (b, k, 3, heads, d)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (b, heads, k, d) each
    mixed = F.scaled_dot_product_attention(q, k, v, scale=attention.scale)
    return cast(torch.Tensor, attention.proj(mixed.transpose(1, 2).flatten(2)))


class _GatedSum(torch.autograd.Function):
    """x + gate * branch that is x itself, to the bit, while the gate is 0.

    The plain sum would turn -0.0 into 0.0, and an infinite branch into no number. The gradient of
    the gate is the plain one, so that it can open.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, gate: torch.Tensor, branch: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(gate, branch)
        return torch.where(gate == 0, x, x + (gate * branch).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        gate, branch = ctx.saved_tensors
        (grad,) = grads
        return grad, (grad * branch).sum().to(gate.dtype), (grad * gate).to(branch.dtype)


class ClusterBlock(Block):
    """A block of Segment Anything's encoder with a cluster branch beside its attention.

    It holds the block's own modules under their own names, so that weights, adapters and their
    files fit as before, and the branch as ``clusters``.

    Parameters
    ----------
    block : Block
        Its modules are shared, not copied.
    clusters : ClusterAttention
    """

    def __init__(self, block: Block, clusters: ClusterAttention) -> None:
        nn.Module.__init__(self)
        self.norm1, self.attn = block.norm1, block.attn
        self.norm2, self.mlp = block.norm2, block.mlp
        self.window_size = block.window_size
        self.clusters = clusters
        # In a tuple, so that its weights are not listed twice.
        self._plain = (block,)
        self.train(block.training)

    @property
    def plain(self) -> Block:
        """The block without its branch."""
        return self._plain[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (b, h, w, c) to the same shape."""
        normed = self.norm1(x)
        x = self.joined(x + self._attended(normed), normed)
        out: torch.Tensor = x + self.mlp(self.norm2(x))
        return out

    def joined(self, x: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
        """Add the gated branch of `normed` to what the attention left, (b, h, w, c) both."""
        branch = self.clusters(normed, self.attn)
        return cast(torch.Tensor, _GatedSum.apply(x, self.clusters.gate, branch))

    def _attended(self, normed: torch.Tensor) -> torch.Tensor:
        """Attention as in `Block`, in windows or over all tokens."""
        if self.window_size == 0:
            return cast(torch.Tensor, self.attn(normed))
        windows, padded = window_partition(normed, self.window_size)
        size = (normed.shape[1], normed.shape[2])
        mixed = window_unpartition(self.attn(windows), self.window_size, padded, size)
        return cast(torch.Tensor, mixed)
