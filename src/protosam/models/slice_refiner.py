"""The 2-D decoder at work: from a backbone's answer for a slice to a sharper one; its weights file.

Owns loading and saving of the decoder, and the way from an answered slice to its maps and back.
Coordinates are (row, col) of the slice. Knows nothing of backbones: any slice model's answers can
be refined.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from protosam.errors import ModelUnavailable, WeightsRefused
from protosam.models.cards import builtin_folder
from protosam.models.decoder import DecoderSettings, SliceDecoder
from protosam.models.decoder_maps import (
    SliceEvidence,
    decoder_maps,
    membership_of,
    resampled,
)
from protosam.models.planes import Logits, Patch
from protosam.models.precision import has_fast_bfloat16
from protosam.models.slice_model import SlicePrompts
from protosam.models.token_grid import NeckTokens

FAMILY = "slice-decoder"
"""Entry ``family`` of the weights file's header."""

BUILTIN_FILE = "protosam-decoder.safetensors"
"""Weights that come with the package; their card lies beside them."""

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
        with self._precision():
            change = self._decoder(
                maps.to(self.device, memory_format=torch.channels_last)
            )  # (1, 1, row, col)
        added = resampled(change.float().cpu(), seen.patch.rect.shape)[0, 0].numpy()
        logits: Logits = (seen.patch.logits + TRUST * added).astype(np.float32)
        return Patch(seen.patch.rect, logits)

    def _precision(self) -> AbstractContextManager[Any]:
        if not has_fast_bfloat16(self.device):
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def save_decoder(decoder: SliceDecoder, path: Path, facts: dict[str, str]) -> None:
    """Write a decoder as float16 safetensors with its settings in the header.

    Parameters
    ----------
    decoder : SliceDecoder
    path : path
    facts : dict of str
        Further header entries, such as steps and seed of the training.
    """
    tensors = {k: v.detach().half().contiguous() for k, v in decoder.state_dict().items()}
    metadata = {"family": FAMILY, "settings": json.dumps(asdict(decoder.settings)), **facts}
    save_file(tensors, path, metadata=metadata)


def builtin_slice_refiner(device: torch.device) -> SliceRefiner:
    """Load the decoder that comes with the package.

    Raises
    ------
    ModelUnavailable
        If the package lacks it.
    WeightsRefused
        If the file is not the one on its card.
    """
    path = builtin_folder() / BUILTIN_FILE
    card = path.with_suffix(".card.json")
    try:
        sha256 = str(json.loads(card.read_text("utf-8"))["sha256"])
    except (OSError, ValueError, KeyError) as error:
        raise ModelUnavailable(
            f"This installation lacks its 2-D decoder, or the card of it ({card}).",
            "Install the package again.",
        ) from error
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
    next_step = "Install the package again, or train the decoder anew."
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if sha256 is not None and digest != sha256:
            raise WeightsRefused(
                f"{path.name} has the digest {digest[:12]}...; wanted is {sha256[:12]}...",
                next_step,
            )
        decoder = _read(path, next_step)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as e:
        raise WeightsRefused(
            f"{path.name} does not hold the 2-D decoder: {str(e).splitlines()[0]}", next_step
        ) from e
    return SliceRefiner(decoder, digest=digest, device=device)


def _read(path: Path, next_step: str) -> SliceDecoder:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    if metadata.get("family") != FAMILY:
        raise WeightsRefused(f"{path.name} holds no 2-D decoder.", next_step)
    fine, half, quarter, eighth = (int(n) for n in json.loads(metadata["settings"])["widths"])
    decoder = SliceDecoder(DecoderSettings((fine, half, quarter, eighth)))
    decoder.load_state_dict(tensors)
    return decoder
