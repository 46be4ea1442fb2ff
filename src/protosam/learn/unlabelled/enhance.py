"""Discriminative feature enhancement: the features of two views, joined by how alike they are.

Owns DFE of SSS (arXiv 2506.08949, section 4.2; code of ``models/dfe.py`` at a01f346): s is the
cosine of the two views' mean features, w = sigmoid(s), and

    F = w MLP(G1) + (1 - w) MLP(G2) + (1 - s) (G2 - G1),  G = conv3x3(F_view).

What differs: conv and MLP are added to what they are given and begin at zero, because the decoder
behind them is frozen and reads nothing but its own encoder's features; and the finest two grids
of the built-in model are mixed with w alone. Used in training only: the adapter that is kept does
not need it. Shapes are (1, c, h, w).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn
from torch.nn import functional as F

from protosam.learn.unlabelled.views import features_of, with_features
from protosam.models.slice_model import SliceEmbedding
from protosam.models.tiny_predictor import TinyEmbedding


class FeatureEnhancement(nn.Module):
    """Joins two views of one slice.

    Parameters
    ----------
    channels : int
        Of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        wide = 2 * channels
        last = nn.Conv2d(channels, channels, 1)
        self.mlp = nn.Sequential(
            *_layer(channels, wide), *_layer(wide, wide), *_layer(wide, channels), last
        )
        for parameter in (*self.conv.parameters(), *last.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Join the features of two views."""
        first, second = one + self.conv(one), other + self.conv(other)
        alike = likeness(first, second)
        weight = torch.sigmoid(alike)
        joined = weight * self._told(first) + (1 - weight) * self._told(second)
        out: torch.Tensor = joined + (1 - alike) * (second - first)
        return out

    def _told(self, features: torch.Tensor) -> torch.Tensor:
        told: torch.Tensor = features + self.mlp(features)
        return told


def likeness(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Cosine of two views' mean features, (1, 1, 1, 1)."""
    return F.cosine_similarity(one.mean(dim=(2, 3)), other.mean(dim=(2, 3)))[:, None, None, None]


def enhanced(
    network: FeatureEnhancement, one: SliceEmbedding, other: SliceEmbedding
) -> SliceEmbedding:
    """Embedding of two views together, in the place of the first."""
    joined = with_features(one, network(features_of(one), features_of(other)))
    if not isinstance(joined, TinyEmbedding) or not isinstance(other, TinyEmbedding):
        return joined
    weight = torch.sigmoid(likeness(features_of(one), features_of(other)))
    mine, theirs = joined.features, other.features
    mixed = dataclasses.replace(
        mine,
        quarter=weight * mine.quarter + (1 - weight) * theirs.quarter,
        half=weight * mine.half + (1 - weight) * theirs.half,
    )
    return dataclasses.replace(joined, features=mixed)


def _layer(inner: int, outer: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inner, outer, 1), nn.GroupNorm(1, outer), nn.ReLU()
