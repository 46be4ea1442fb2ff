"""Automatic prompts: points regressed from the features of a frozen encoder.

Owns the network, its file, and what it says of one slice. Knows nothing of training or volumes.
Cells are (row, col) of the embedding's grid, centres at integers.

Source: the Auto-Prompting Module of ProMISe, Wang et al. 2024, arXiv:2403.04164: features of
several depths are fused, and coordinates of positive and negative points are regressed from them.
Ours differs: points are soft maxima of heat-maps, whose gradients are smooth, in place of a fully
connected layer; a presence output says where there is nothing to prompt; the positive heat-maps
share a rough mask, which can be supervised directly; and there are 3 + 3 points, not 8 + 8.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from protosam.errors import InvalidInput, WeightsRefused
from protosam.models.add_ons import AddOn, AddOnCard, read_add_on, write_add_on

WIDTH_KEY = "width_"
"""Beginning of the entries of a card's settings that hold the widths."""

WIDEST = 4096
"""Widths above this are refused, before memory is taken for them."""

DILATIONS = (1, 2, 4, 8)
"""Of the residual 3x3 convolutions: together they see 31 cells."""


@dataclass(frozen=True)
class AutoShape:
    """Widths of an `AutoPrompter`."""

    channels: int
    """Channels of `Levels.features`."""
    width: int = 48
    """Channels after the fusion."""
    positives: int = 3
    """Points on the object."""
    negatives: int = 3
    """Points beside it."""

    def __post_init__(self) -> None:
        if min(self.channels, self.width, self.positives) < 1 or self.negatives < 0:
            raise InvalidInput(
                f"An automatic prompter needs a channel and a positive point at least; got {self}.",
                "Give widths of 1 or more.",
            )


@dataclass(frozen=True, eq=False)
class Proposal:
    """What the network says of ``b`` slices.

    Attributes
    ----------
    points : (b, positives + negatives, 2) tensor
        Cells (row, col), first the positive ones.
    rough : (b, h, w) tensor
        Logits of a rough mask.
    presence : (b,) tensor
        Logit of the object being in the slice.
    """

    points: torch.Tensor
    rough: torch.Tensor
    presence: torch.Tensor


class AutoPrompter(nn.Module):
    """Fusion, heat-maps and presence.

    Parameters
    ----------
    shape : AutoShape
    """

    def __init__(self, shape: AutoShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.norm = nn.GroupNorm(1, shape.channels)
        self.fuse = nn.Conv2d(shape.channels, width, 1)
        self.context = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, width),
                nn.GELU(),
                nn.Conv2d(width, width, 3, padding=step, dilation=step),
            )
            for step in DILATIONS
        )
        self.heat = nn.Conv2d(width, shape.positives + shape.negatives, 1)
        self.rough = nn.Conv2d(width, 1, 1)
        self.presence = nn.Linear(2 * width + 1, 1)

    def forward(self, features: torch.Tensor, real: torch.Tensor) -> Proposal:
        """Propose points.

        Parameters
        ----------
        features : (b, channels, h, w)
            See `Levels`.
        real : (b, h, w) bool
            Cells that the slice fills; points do not leave them.
        """
        x = self.fuse(self.norm(features))  # (b, width, h, w)
        for layer in self.context:
            x = x + layer(x)
        rough = self.rough(x)[:, 0]  # (b, h, w)
        lean = torch.cat(
            [
                rough.unsqueeze(1).expand(-1, self.shape.positives, -1, -1),
                -rough.unsqueeze(1).expand(-1, self.shape.negatives, -1, -1),
            ],
            dim=1,
        )
        heat = (self.heat(x) + lean).masked_fill(~real.unsqueeze(1), float("-inf"))
        outside = rough.masked_fill(~real, -20.0)
        seen = self._seen(x, outside)
        return Proposal(soft_arg_max(heat), outside, self.presence(seen)[:, 0])

    def _seen(self, x: torch.Tensor, rough: torch.Tensor) -> torch.Tensor:
        """Gather what tells presence: features everywhere and under the rough mask, its height."""
        weight = torch.sigmoid(rough)
        under = torch.einsum("bchw,bhw->bc", x, weight) / (weight.sum(dim=(1, 2))[:, None] + 1)
        highest = rough.amax(dim=(1, 2))[:, None]
        return torch.cat([x.mean(dim=(2, 3)), under, torch.tanh(highest / 4)], dim=1)


def soft_arg_max(heat: torch.Tensor) -> torch.Tensor:
    """Centres of heat-maps: means of the cells' places under the soft maximum.

    Parameters
    ----------
    heat : (b, n, h, w)
        Logits; a cell at minus infinity counts for nothing.

    Returns
    -------
    (b, n, 2)
        Row and column.
    """
    rows, columns = heat.shape[-2:]
    weight = F.softmax(heat.flatten(2), dim=2).view_as(heat)
    row = torch.einsum("bnhw,h->bn", weight, torch.arange(rows).to(heat))
    column = torch.einsum("bnhw,w->bn", weight, torch.arange(columns).to(heat))
    return torch.stack([row, column], dim=2)


def save_auto(prompter: AutoPrompter, card: AddOnCard, path: Path) -> None:
    """Write a prompter with its card; see `add_ons.write_add_on`."""
    widths = {WIDTH_KEY + name: size for name, size in dataclasses.asdict(prompter.shape).items()}
    card = dataclasses.replace(card, settings={**card.settings, **widths})
    write_add_on(path, AddOn(card, dict(prompter.state_dict())))


def load_auto(path: Path, *, base_sha256: str) -> AutoPrompter:
    """Read a prompter.

    Parameters
    ----------
    path : Path
        Written by `save_auto`.
    base_sha256 : str
        Digest of the weights of the model whose features it will read.

    Raises
    ------
    WeightsRefused
        When the file is no prompter, is damaged, or was made for other weights.
    """
    add_on = read_add_on(path, "auto")
    add_on.card.check_base(base_sha256, path)
    names = [one.name for one in dataclasses.fields(AutoShape)]
    try:
        widths = {name: int(add_on.card.settings[WIDTH_KEY + name]) for name in names}
        if max(widths.values()) > WIDEST:
            raise ValueError(f"widths {widths}")
        prompter = AutoPrompter(AutoShape(**widths))
        prompter.load_state_dict(add_on.tensors)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsRefused(
            f"{path} does not hold automatic prompts: {str(error).splitlines()[0]}",
            "Train it again.",
        ) from error
    if not all(bool(t.isfinite().all()) for t in prompter.state_dict().values()):
        raise WeightsRefused(f"{path} holds values that are not finite.", "Train it again.")
    return prompter.eval().requires_grad_(False)
