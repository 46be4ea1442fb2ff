"""The 3-D head at work: from the views' answers to a better one, with the head's weights file.

Owns loading and saving of the head, and the way from fields to its grid and back. Array order is
(k, j, i). Knows nothing of backbones: any slice model's answers can be refined.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from protosam.geometry import Volume
from protosam.intensity import Window
from protosam.models.corrector_file import (
    CorrectorKind,
    builtin_corrector,
    read_corrector,
    write_corrector,
)
from protosam.models.head_maps import HeadGrid, box_of, evidence_in, head_maps, resampled
from protosam.models.precision import fast_precision
from protosam.models.views import SURE, Field, fused
from protosam.models.volume_head import HeadSettings, VolumeHead
from protosam.prompts import Point

BUILTIN_FILE = "protosam-head.safetensors"
"""The head that comes with the package."""

TRUST = 0.6
"""Share of the correction that is added: on training cases kept aside the whole of it undid, after
five clicks, a part of what clicks had put right."""

KIND = CorrectorKind(
    family="volume-head",
    name="3-D head",
    builtin_file=BUILTIN_FILE,
    next_step="Install the package again, or train the head with `protosam train-head`.",
)
"""How its weights file is told from others."""


class Refines(Protocol):
    """What makes one answer of the views'."""

    def refined(
        self,
        volume: Volume,
        views: Sequence[Field],
        membership: Field | None,
        points: Sequence[Point],
        window: Window,
    ) -> Field:
        """Answer over a box of the volume; see `Refiner.refined`."""
        ...


class Refiner:
    """Corrects answers for volumes with a trained head.

    Parameters
    ----------
    head : VolumeHead
        With its weights; moved to `device`.
    digest : str
        Identity of the weights.
    device : torch.device
    """

    def __init__(self, head: VolumeHead, *, digest: str, device: torch.device) -> None:
        self._head = head.eval().requires_grad_(False)
        self.digest = digest
        self.to(device)

    def to(self, device: torch.device) -> None:
        """Move the head."""
        self._head.to(device)
        self.device = device

    @torch.inference_mode()
    def refined(
        self,
        volume: Volume,
        views: Sequence[Field],
        membership: Field | None,
        points: Sequence[Point],
        window: Window,
    ) -> Field:
        """Answer with the head's correction added.

        Parameters
        ----------
        volume : Volume
        views : sequence of Field
            Answers across each axis; at least one.
        membership : Field or None
            Log odds of the prototype bank; None where there is none.
        points : sequence of Point
        window : Window

        Returns
        -------
        Field
            Over the answer and the head's box; the views' mean where they hold nothing hopeful.
        """
        whole = fused(views)
        box = box_of(volume, whole, points)
        if box is None:
            return whole
        grid = HeadGrid.over(box, volume.spacing_kji_mm)
        evidence = evidence_in(box, volume, views, membership, window)
        maps = head_maps(evidence, grid, points).to(self.device)
        with fast_precision(self.device):
            correction = self._head(maps)
        change = resampled(correction.float().cpu(), box.shape_kji)[0, 0].numpy()
        extent = whole.extent.union(box)
        logits = whole.on(extent)
        logits[box.relative_to(extent).slices] += np.float32(TRUST) * change
        return Field(extent, logits.clip(-SURE, SURE), whole.weight)


def save_head(head: VolumeHead, path: Path, facts: dict[str, str]) -> None:
    """Write a head as float16 safetensors with its settings in the header.

    Parameters
    ----------
    head : VolumeHead
    path : path
    facts : dict of str
        Further header entries, such as steps and seed of the training.
    """
    write_corrector(KIND, head, head.settings.widths, path, facts)


def builtin_refiner(device: torch.device) -> Refiner:
    """Load the head that comes with the package.

    Raises
    ------
    ModelUnavailable
        If the package lacks it.
    WeightsRefused
        If the file is not the one on its card.
    """
    path, sha256 = builtin_corrector(KIND)
    return load_refiner(path, sha256=sha256, device=device)


def load_refiner(path: Path, *, sha256: str | None, device: torch.device) -> Refiner:
    """Load a head from a safetensors file.

    Parameters
    ----------
    path : path
        Written by `save_head`.
    sha256 : str or None
        What the file's digest must be; not checked if None.
    device : torch.device

    Raises
    ------
    WeightsRefused
        If the file is another one, damaged, or does not fit the head.
    """
    head, digest = read_corrector(KIND, path, sha256, lambda w: VolumeHead(HeadSettings(w)))
    return Refiner(head, digest=digest, device=device)
