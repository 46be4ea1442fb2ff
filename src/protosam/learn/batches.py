"""Batches of training samples by step, drawn in place or by loader processes ahead of time.

What a step draws is a function of the seed, the process and the step alone, whoever draws it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from protosam.learn.clicks import pick
from protosam.learn.sampler import Sampler
from protosam.learn.settings import TrainBaseSettings
from protosam.learn.sources import load_sources

AHEAD = 4
"""Batches that each loader process holds ready."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one step of one process.

    Attributes
    ----------
    images : (b, 3, 3, S, S) float32
    targets : (b, m, 3, S/2, S/2) float32
    """

    images: torch.Tensor
    targets: torch.Tensor

    @property
    def side(self) -> int:
        """Frame side in pixels."""
        return int(self.images.shape[-1])


class Batches(Dataset[Batch]):
    """Batch of every step of one process.

    Parameters
    ----------
    cache : path
        Folder of the prepared volumes; opened when the first batch is drawn, so that this object
        can travel to another process.
    settings : TrainBaseSettings
    rank : int
        Number of the training process.
    """

    def __init__(self, cache: Path, settings: TrainBaseSettings, rank: int) -> None:
        self._cache, self._settings, self._rank = cache, settings, rank

    def __getitem__(self, step: int) -> Batch:
        """Draw the batch of a step; all processes have frames of one side in a step."""
        settings = self._settings
        shared = np.random.default_rng([settings.seed, 1, step])
        rng = np.random.default_rng([settings.seed, 2 + self._rank, step])
        side = int(pick(shared, settings.sides_at(step)))
        drawn = [self._sampler.draw(rng, side) for _ in range(settings.batch_at(side))]
        return Batch(
            torch.stack([s.images for s in drawn]), torch.stack([s.targets for s in drawn])
        )

    @cached_property
    def _sampler(self) -> Sampler:
        sources = load_sources(self._cache, self._settings)
        return Sampler(sources, self._settings.mix, self._settings.objects)

    def from_step(self, first: int) -> Iterator[Batch]:
        """Batches of all steps from `first`, drawn by loaders where the settings want them."""
        steps = range(first, self._settings.steps)
        if self._settings.loaders == 0:
            return (self[step] for step in steps)
        return iter(
            DataLoader(
                self,
                batch_size=None,
                sampler=steps,
                num_workers=self._settings.loaders,
                prefetch_factor=AHEAD,
                multiprocessing_context="spawn",
            )
        )
