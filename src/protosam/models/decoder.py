"""The Prototype-adaptive Decoder: a light network that sharpens the answer for one slice.

It sees the backbone's logits, the prototype bank's memberships, intensities and clicks, at four
scales, and returns what is to be added to the logits: nothing before training. It knows no
backbone's features, so it works on top of any of them. After ProtoSAM's decoder, which joins
cluster memberships with features at several scales; here as a residual U-Net (Ronneberger et al.
2015, doi 10.1007/978-3-319-24574-4_28) with a last layer that begins at zero.

Shapes are (b, c, row, col) on a grid of square pixels whose sides are multiples of `STRIDE`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

STRIDE = 8
"""Sides of the grid must be multiples of this."""

DECODER_CHANNELS = (
    "answer",
    "certainty",
    "membership",
    "intensity",
    "tone",
    "positive_near",
    "positive_far",
    "negative_near",
    "negative_far",
    "box",
    "pixel",
)
"""Input maps, in order: logits cut close to their zero and far from it, membership log odds,
windowed intensity, intensity against that of the answer's inside (all within -1..1), narrow and
wide Gaussians round the clicks of either sign, the inside of the box, and the logarithm of the
pixel's side in mm."""


@dataclass(frozen=True)
class DecoderSettings:
    """Widths of the decoder."""

    widths: tuple[int, int, int, int] = (8, 24, 48, 96)
    """Channels on the grid itself, at 1/2, 1/4 and 1/8 of it."""


class SliceDecoder(nn.Module):
    """Residual U-Net over the maps of one slice."""

    def __init__(self, settings: DecoderSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or DecoderSettings()
        fine, half, quarter, eighth = self.settings.widths
        self.stem = nn.Sequential(
            nn.Conv2d(len(DECODER_CHANNELS), fine, 3, padding=1, bias=False), _norm(fine), nn.ReLU()
        )
        self.to_half, self.to_quarter = _down(fine, half), _down(half, quarter)
        self.to_eighth = nn.Sequential(_down(quarter, eighth), _Block(eighth))
        self.up_quarter, self.up_half = _Up(eighth, quarter), _Up(quarter, half)
        self.up_fine = nn.ConvTranspose2d(half, fine, 2, stride=2)
        self.joined = nn.Sequential(nn.Conv2d(fine, fine, 3, padding=1), nn.ReLU())
        self.last = nn.Conv2d(fine, 1, 1)
        nn.init.zeros_(self.last.weight)
        if self.last.bias is not None:
            nn.init.zeros_(self.last.bias)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Find the correction.

        Parameters
        ----------
        maps : (b, len(DECODER_CHANNELS), row, col) float

        Returns
        -------
        (b, 1, row, col) float
            To be added to the answer's logits.
        """
        fine = self.stem(maps)  # (b, 8, row, col)
        half = self.to_half(fine)  # (b, 24, row/2, col/2)
        quarter = self.to_quarter(half)  # (b, 48, row/4, col/4)
        eighth = self.to_eighth(quarter)  # (b, 96, row/8, col/8)
        x = self.up_half(self.up_quarter(eighth, quarter), half)
        out: torch.Tensor = self.last(self.joined(self.up_fine(x) + fine))
        return out


class _Block(nn.Module):
    """Two 3x3 convolutions round a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            _norm(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            _norm(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = F.relu(x + self.body(x))
        return out


class _Up(nn.Module):
    """Double the resolution and take in what was seen there on the way down."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inner, outer, 2, stride=2)
        self.block = _Block(outer)

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.block(self.up(x) + seen)
        return out


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // 8), channels)


def _down(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 2, stride=2, bias=False), _norm(outer), nn.ReLU(), _Block(outer)
    )
