"""The 2-D decoder at work: from a backbone's answer for a slice to a sharper one; its weights file.

Owns loading and saving of the decoder, and the way from an answered slice to its maps and back.
Coordinates are (row, col) of the slice. Knows nothing of backbones: any slice model's answers can
be refined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from protosam.models.corrector_file import (
    CorrectorKind,
    builtin_corrector,
    read_corrector,
    write_corrector,
)
from protosam.models.decoder import DecoderSettings, SliceDecoder
from protosam.models.decoder_maps import (
    SliceEvidence,
    decoder_maps,
    membership_of,
    resampled,
)
from protosam.models.planes import Logits, Patch
from protosam.models.precision import fast_precision
from protosam.models.slice_model import SlicePrompts
from protosam.models.token_grid import NeckTokens

FAMILY = "slice-decoder"
"""Entry ``family`` of the weights file's header."""

BUILTIN_FILE = "protosam-decoder.safetensors"
"""Weights that come with the package; their card lies beside them."""

KIND = CorrectorKind(
    family=FAMILY,
    name="2-D decoder",
    builtin_file=BUILTIN_FILE,
    next_step="Install the package again, or train the decoder anew.",
)
"""How its weights file is told from others."""

TRUST = 0.5
"""Share of the correction that is added. On slices of training cases kept aside, after five clicks:
none 0.880 / 0.843 / 0.810 (abdomen, hippocampus, head and neck), half 0.895 / 0.899 / 0.845, all
0.904 / 0.909 / 0.839. Half costs less where an object is unlike those that it was trained on."""


@dataclass(frozen=True, eq=False)
class SeenSlice:
    """A slice that a backbone has answered, and what is known beside that answer.

    Attributes
    ----------
    patch : Patch
        The backbone's answer.
    prompts : SlicePrompts
        Clicks and box in pixels of the patch; priors are not looked at.
    grey : (rows, cols) float32
        Windowed intensities of the patch, 0..1.
    spacing_rc_mm : (float, float)
    shown : sequence of (NeckTokens, (rows, cols) bool)
        Tokens and answers that the bank is made of: first of this very patch, then of other
        slices with prompts; empty from a backbone that shows no tokens.
    """

    patch: Patch
    prompts: SlicePrompts
    grey: Logits
    spacing_rc_mm: tuple[float, float]
    shown: Sequence[tuple[NeckTokens, npt.NDArray[np.bool_]]] = ()

    @property
    def evidence(self) -> SliceEvidence:
        """What the decoder goes by, with the bank's memberships."""
        return SliceEvidence(
            answer=self.patch.logits,
            membership=membership_of(self.shown, self.patch.rect.shape),
            grey=self.grey,
            spacing_rc_mm=self.spacing_rc_mm,
        )


class CorrectsSlices(Protocol):
    """What may correct the answer for a slice with prompts."""

    def corrected(self, seen: SeenSlice) -> Patch:
        """Return the corrected answer, in the rectangle of the given one."""
        ...


class SliceRefiner:
    """Corrects answers for slices with a trained decoder.

    Parameters
    ----------
    decoder : SliceDecoder
        With its weights; moved to `device`.
    digest : str
        Identity of the weights.
    device : torch.device
    """

    def __init__(self, decoder: SliceDecoder, *, digest: str, device: torch.device) -> None:
        self._decoder = decoder.eval().requires_grad_(False)
        self.digest = digest
        self.to(device)

    def to(self, device: torch.device) -> None:
        """Move the decoder."""
        self._decoder.to(device).to(memory_format=torch.channels_last)
        self.device = device

    @torch.inference_mode()
    def corrected(self, seen: SeenSlice) -> Patch:
        """Add the decoder's correction to an answer.

        Returns
        -------
        Patch
            In the rectangle of the answer; the very same logits from a decoder whose last layer
            is zero.
        """
        maps = decoder_maps(seen.evidence, seen.prompts)
        with fast_precision(self.device):
            change = self._decoder(
                maps.to(self.device, memory_format=torch.channels_last)
            )  # (1, 1, row, col)
        added = resampled(change.float().cpu(), seen.patch.rect.shape)[0, 0].numpy()
        logits: Logits = (seen.patch.logits + TRUST * added).astype(np.float32)
        return Patch(seen.patch.rect, logits)


def save_decoder(decoder: SliceDecoder, path: Path, facts: dict[str, str]) -> None:
    """Write a decoder as float16 safetensors with its settings in the header.

    Parameters
    ----------
    decoder : SliceDecoder
    path : path
    facts : dict of str
        Further header entries, such as steps and seed of the training.
    """
    write_corrector(KIND, decoder, decoder.settings.widths, path, facts)


def builtin_slice_refiner(device: torch.device) -> SliceRefiner:
    """Load the decoder that comes with the package.

    Raises
    ------
    ModelUnavailable
        If the package lacks it.
    WeightsRefused
        If the file is not the one on its card.
    """
    path, sha256 = builtin_corrector(KIND)
    return load_slice_refiner(path, sha256=sha256, device=device)


def load_slice_refiner(path: Path, *, sha256: str | None, device: torch.device) -> SliceRefiner:
    """Load a decoder from a safetensors file.

    Parameters
    ----------
    path : path
        Written by `save_decoder`.
    sha256 : str or None
        What the file's digest must be; not checked if None.
    device : torch.device

    Raises
    ------
    WeightsRefused
        If the file is another one, damaged, or does not fit the decoder.
    """
    decoder, digest = read_corrector(
        KIND, path, sha256, lambda widths: SliceDecoder(DecoderSettings(widths))
    )
    return SliceRefiner(decoder, digest=digest, device=device)
