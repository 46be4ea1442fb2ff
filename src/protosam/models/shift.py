"""Incremental Pattern Shifting: a decoder's own tokens, moved by what the image is like.

Owns the small network that turns an image embedding into offsets of the tokens that a mask decoder
brings along itself (score, presence, masks). Everything else of the model stays as it is. Knows
nothing of training, files or prompts. Speaks no coordinates.

Source: ProMISe, Wang et al. 2024, arXiv:2403.04164, whose module maps the pooled embedding through
256 -> 1024 -> 1024 with one GELU and moves the four mask tokens. Ours differs: the hidden layer is
narrow, because a handful of cases cannot fill 1.3 M weights; the score and presence tokens move as
well, because at one click they decide which mask is shown; and the last layer starts at zero, so
that the model is the base model, bit for bit, until something was learnt.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from protosam.errors import InvalidInput, WeightsRefused
from protosam.models.add_ons import AddOn, AddOnCard, read_add_on, write_add_on
from protosam.models.tiny import MAP_CHANNELS, NEGATIVE, POSITIVE

WIDTH_KEY = "width_"
"""Beginning of the entries of a card's settings that hold a shift's widths."""

WIDEST = 4096
"""Widths above this are refused, before memory is taken for them."""

EPSILON = 1e-4
"""Sum of weights below which nothing is pointed at."""


@dataclass(frozen=True)
class ShiftShape:
    """Widths of a `PatternShift`."""

    channels: int
    """Channels of the image embedding and of the tokens."""
    tokens: int
    """Own tokens of the decoder: 6 in the built-in model, 5 in SAM."""
    hidden: int = 32
    """Width of the hidden layer."""

    def __post_init__(self) -> None:
        if min(self.channels, self.tokens, self.hidden) < 1:
            raise InvalidInput(
                f"A shift needs at least one channel, token and hidden unit; got {self}.",
                "Give widths of 1 or more.",
            )


class PatternShift(nn.Module):
    """Offsets of a decoder's own tokens, from the pooled embedding of the image.

    Parameters
    ----------
    shape : ShiftShape
    """

    def __init__(self, shape: ShiftShape) -> None:
        super().__init__()
        self.shape = shape
        self.first = nn.Linear(2 * shape.channels, shape.hidden)
        self.last = nn.Linear(shape.hidden, shape.tokens * shape.channels)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self, embedding: torch.Tensor, pointed: torch.Tensor, clicks: int = 1
    ) -> torch.Tensor:
        """Offsets for ``b`` questions.

        Parameters
        ----------
        embedding : (b, channels, h, w)
            Output of the image encoder, of any float type.
        pointed : (b, h, w)
            Weights of what the prompts point at, 0 or more; all 0 where they point at nothing.
        clicks : int
            Clicks of either sign. The offsets get shorter with each after the first one: what
            the user says counts more than what other cases taught.

        Returns
        -------
        (b, tokens, channels) float32
            To be added to the decoder's own tokens, in the decoder's order.
        """
        with torch.autocast(embedding.device.type, enabled=False):
            image = embedding.float()
            pooled = image.mean(dim=(2, 3))  # (b, channels)
            total = pointed.sum(dim=(1, 2)).unsqueeze(1)  # (b, 1)
            here = torch.einsum("bchw,bhw->bc", image, pointed.float()) / total.clamp_min(EPSILON)
            seen = torch.cat([pooled, torch.where(total > EPSILON, here, pooled)], dim=1)
            moved: torch.Tensor = self.last(F.gelu(self.first(seen))) / max(1, clicks)
        return moved.view(len(embedding), self.shape.tokens, self.shape.channels)

    def check_fits(self, decoder: nn.Module) -> None:
        """Refuse a decoder whose own tokens are others in number or width.

        Raises
        ------
        WeightsRefused
            When they are; the message tells both.
        """
        weights = [
            weight
            for name, weight in decoder.named_parameters()
            if name in ("iou_token.weight", "presence_token.weight", "mask_tokens.weight")
        ]
        tokens, channels = sum(len(weight) for weight in weights), weights[0].shape[1]
        if (self.shape.tokens, self.shape.channels) != (tokens, channels):
            raise WeightsRefused(
                f"The shift moves {self.shape.tokens} tokens of {self.shape.channels} channels; "
                f"this model's decoder has {tokens} of {channels}.",
                "Train it anew for this model.",
            )

    def digest(self) -> str:
        """SHA-256 over names and values of the weights: part of a model's identity."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()


def save_shift(shift: PatternShift, card: AddOnCard, path: Path) -> None:
    """Write a shift with its card; see `add_ons.write_add_on`.

    Parameters
    ----------
    shift : PatternShift
    card : AddOnCard
        Its settings get the widths of the shift.
    path : Path
    """
    widths = {WIDTH_KEY + name: size for name, size in dataclasses.asdict(shift.shape).items()}
    card = dataclasses.replace(card, settings={**card.settings, **widths})
    write_add_on(path, AddOn(card, dict(shift.state_dict())))


def load_shift(path: Path, *, base_sha256: str) -> PatternShift:
    """Read a shift.

    Parameters
    ----------
    path : Path
        Written by `save_shift`.
    base_sha256 : str
        Digest of the weights that it will be put on.

    Raises
    ------
    WeightsRefused
        When the file is no shift, is damaged, or was made for other weights.
    """
    add_on = read_add_on(path, "shift")
    add_on.card.check_base(base_sha256, path)
    names = [one.name for one in dataclasses.fields(ShiftShape)]
    try:
        widths = {name: int(add_on.card.settings[WIDTH_KEY + name]) for name in names}
        if max(widths.values()) > WIDEST:
            raise ValueError(f"widths {widths}")
        shift = PatternShift(ShiftShape(**widths))
        shift.load_state_dict(add_on.tensors)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsRefused(
            f"{path} does not hold a shift: {str(error).splitlines()[0]}", "Train it again."
        ) from error
    if not all(bool(t.isfinite().all()) for t in shift.state_dict().values()):
        raise WeightsRefused(f"{path} holds values that are not finite.", "Train it again.")
    return shift.eval().requires_grad_(False)


def pointed_in_maps(maps: torch.Tensor) -> torch.Tensor:
    """Cells that prompts of the built-in model point at.

    Clicks on the object count alone where there are any, else the box, else what is known of the
    neighbouring slice, else the answer so far.

    Parameters
    ----------
    maps : (n, 7, H/2, W/2)
        Of `prompt_maps.draw`.

    Returns
    -------
    (n, H/8, W/8)
    """
    cells = F.avg_pool2d(maps.float().clamp_min(0), 4)
    names = ("positive", "box", "neighbour", "own")
    pointed = cells[:, MAP_CHANNELS.index(names[0])]
    for name in names[1:]:
        nothing = pointed.sum(dim=(1, 2), keepdim=True) <= EPSILON
        pointed = torch.where(nothing, cells[:, MAP_CHANNELS.index(name)], pointed)
    return pointed


def clicks_in(labels: torch.Tensor) -> int:
    """Count the clicks of either sign among labels of point tokens; corners of boxes are none."""
    return int(((labels == POSITIVE) | (labels == NEGATIVE)).sum())


def pointed_by_clicks(points_xy: torch.Tensor, grid: tuple[int, int], cell: float) -> torch.Tensor:
    """Cells that clicks point at.

    Parameters
    ----------
    points_xy : (n, 2)
        Clicks on the object, in pixels of the square.
    grid : (int, int)
        Rows and columns of the embedding.
    cell : float
        Pixels of the square along a cell's side.

    Returns
    -------
    (1, rows, columns) float32
        A bell one cell wide about each click; 0 without clicks.
    """
    x, y = (points_xy / cell - 0.5).unbind(dim=1)  # in cells, centres at integers
    rows, columns = (torch.arange(size, device=points_xy.device) for size in grid)
    bell_x = torch.exp(-0.5 * (columns - x[:, None]) ** 2)  # (n, columns)
    bell_y = torch.exp(-0.5 * (rows - y[:, None]) ** 2)
    return torch.einsum("nr,nc->rc", bell_y, bell_x).unsqueeze(0)
