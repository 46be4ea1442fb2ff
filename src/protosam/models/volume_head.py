"""The 3-D head: a light network that corrects the answer of the sweeps in all three directions.

Sweeps answer slice by slice. This head sees the whole object at once: the averaged answer, where
the views disagree, the prototype bank's memberships, clicks in mm and intensities. It knows no
backbone's features, so it works on top of any of them. What it returns is added to the logits, and
is zero before training. After the idea of ProtoSAM's decoder, which fuses cluster memberships with
features at several scales; here as a residual 3-D U-Net (Çiçek et al. 2016, arXiv:1606.06650).

Shapes are (b, c, k, j, i) on a grid of cubic voxels whose sides are multiples of `STRIDE`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

STRIDE = 8
"""Sides of the grid must be multiples of this."""

HEAD_CHANNELS = (
    "answer",
    "doubt",
    "membership",
    "intensity",
    "positive_near",
    "positive_far",
    "negative_near",
    "negative_far",
    "voxel",
)
"""Input maps, in order: averaged logits, spread of the views, membership logits (all three within
-1..1), windowed intensity within -1..1, narrow and wide Gaussians round the clicks of either sign,
and the logarithm of the voxel's side."""


@dataclass(frozen=True)
class HeadSettings:
    """Widths of the head."""

    widths: tuple[int, int, int, int] = (8, 24, 48, 96)
    """Channels on the grid itself, at 1/2, 1/4 and 1/8 of it."""


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // 8), channels)


class _Block(nn.Module):
    """Two 3x3x3 convolutions round a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(channels, channels, 3, padding=1, bias=False),
            _norm(channels),
            nn.GELU(),
            nn.Conv3d(channels, channels, 3, padding=1, bias=False),
            _norm(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = F.gelu(x + self.body(x))
        return out


def _down(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inner, outer, 2, stride=2, bias=False), _norm(outer), nn.GELU(), _Block(outer)
    )


class _Up(nn.Module):
    """Double the resolution and take in what was seen there on the way down."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(inner, outer, 2, stride=2)
        self.block = _Block(outer)

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.block(self.up(x) + seen)
        return out


class VolumeHead(nn.Module):
    """Residual 3-D network over maps of one object.

    Parameters
    ----------
    settings : HeadSettings, optional
    """

    def __init__(self, settings: HeadSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or HeadSettings()
        fine, half, quarter, eighth = self.settings.widths
        self.stem = nn.Sequential(
            nn.Conv3d(len(HEAD_CHANNELS), fine, 3, padding=1, bias=False), _norm(fine), nn.GELU()
        )
        self.to_half, self.to_quarter = _down(fine, half), _down(half, quarter)
        self.to_eighth = nn.Sequential(_down(quarter, eighth), _Block(eighth))
        self.up_quarter, self.up_half = _Up(eighth, quarter), _Up(quarter, half)
        self.up_fine = nn.ConvTranspose3d(half, fine, 2, stride=2)
        final = nn.Conv3d(fine, 1, 1)
        self.last = nn.Sequential(nn.Conv3d(2 * fine, fine, 3, padding=1), nn.GELU(), final)
        nn.init.zeros_(final.weight)
        if final.bias is not None:
            nn.init.zeros_(final.bias)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Find the correction.

        Parameters
        ----------
        maps : (b, len(HEAD_CHANNELS), k, j, i) float

        Returns
        -------
        (b, 1, k, j, i) float
            To be added to the answer's logits.
        """
        fine = self.stem(maps)  # (b, 8, k, j, i)
        half = self.to_half(fine)  # (b, 24, k/2, j/2, i/2)
        quarter = self.to_quarter(half)  # (b, 48, k/4, ...)
        eighth = self.to_eighth(quarter)  # (b, 96, k/8, ...)
        x = self.up_half(self.up_quarter(eighth, quarter), half)
        seen = torch.cat([self.up_fine(x), fine], dim=1)
        out: torch.Tensor = self.last(seen)
        return out
