"""What decides an adapter, apart from cases and model, and what a machine can afford of it.

Owns the values and their bounds; what each does is `learn.recipe`'s. Speaks no coordinates.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch

from protosam.errors import InvalidInput
from protosam.models.lora_places import Part
from protosam.models.slice_model import SliceModel

Tier = Literal["shift", "decoder", "full"]
"""How much of a model learns; see `learn.recipe`."""

STEPS, FEW_STEPS = 600, 200
"""Optimiser steps, and of models that need seconds for each."""


@dataclass(frozen=True)
class RecipeSettings:
    """What decides an adapter, apart from cases and model."""

    tier: Tier = "decoder"
    rear_blocks: int = 3
    """Blocks that learn in the tier ``decoder``."""
    parts: tuple[Part, ...] = ("attention", "mlp", "neck", "decoder")
    """Where adapters go; the encoder's blocks are chosen by the tier."""
    rank: int = 8
    """Of the adapters."""
    alpha: float = 16.0
    """Their update is scaled by ``alpha / rank``."""
    steps: int | None = None
    """Optimiser steps; None = as many as is usual for the model, see `for_model`."""
    batch: int = 4
    """Questions in each step, one after the other: memory is that of one."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW; it rises over the first tenth and falls along a cosine."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    average: float = 0.95
    """Decay of the moving average of the adapter, which is what is kept."""
    strength: float = 0.7
    """Share of what was learnt that is kept. On training cases of the heart the whole cost organs
    that nobody taught 0.043 Dice at one click and this share 0.009, with the same gain."""
    examples: int = 192
    """Slices that are learnt from, over all cases and labels; half of them or more are variants."""
    replayed: int = 32
    """Slices of procedural shapes that are practised on beside them; 0 = none."""
    checkpoint_every: int = 20
    """Steps between checkpoints."""
    seed: int = 0
    """Decides initial weights, slices, questions and clicks."""

    def __post_init__(self) -> None:
        counts = (self.rear_blocks, self.rank, self.planned, self.batch, self.examples)
        if min(*counts, self.checkpoint_every) < 1 or min(self.seed, self.replayed) < 0:
            raise InvalidInput(
                f"An adapter cannot be taught with these settings: {self}.",
                "Counts are 1 or more, the seed and what is replayed 0 or more.",
            )
        rates = (self.alpha, self.learning_rate, self.clip_norm)
        if not all(math.isfinite(r) and r > 0 for r in rates) or self.weight_decay < 0:
            raise InvalidInput(f"An adapter cannot be taught with these rates: {self}.")
        if not (0 <= self.average < 1 and 0 < self.strength <= 1):
            raise InvalidInput(
                f"The average's decay is {self.average}, wanted 0 to below 1; the strength is "
                f"{self.strength}, wanted above 0 to 1."
            )

    @property
    def planned(self) -> int:
        """Number of steps."""
        return STEPS if self.steps is None else self.steps

    @property
    def blocks(self) -> int | None:
        """How many of the last blocks learn; None for all."""
        return None if self.tier == "full" else self.rear_blocks

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step: linear rise, then a cosine to nothing."""
        rise = max(1, self.planned // 10)
        rising = min(1.0, (step + 1) / rise)
        falling = 0.5 * (1 + math.cos(math.pi * step / self.planned))
        return self.learning_rate * rising * falling


def for_model(settings: RecipeSettings, model: SliceModel) -> RecipeSettings:
    """Fill in the model's usual number of steps, where none was given.

    Models that do not read neighbours are of the SAM family: on a CPU a step takes them seconds.
    """
    if settings.steps is not None:
        return settings
    slow = not model.reads_neighbours and model.device.type == "cpu"
    return dataclasses.replace(settings, steps=FEW_STEPS if slow else STEPS)


def choose_tier(device: torch.device) -> Tier:
    """Tier that a machine can afford: the whole encoder on a GPU, its last blocks on a CPU."""
    return "full" if device.type == "cuda" else "decoder"
