"""From prompts in the frame to the tokens and maps that the built-in network reads.

The one place where clicks, boxes and priors are drawn, used alike by training and by use, so
that the network never meets a map at work that it has not met in training. Coordinates are
(x, y) pixels of the frame, pixel centres at integers; maps live on the half grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from protosam.models.geodesic import closeness
from protosam.models.tiny import BOX_FIRST, BOX_LAST, NEGATIVE, PAD, POSITIVE, Tokens

DISC_SIGMA = 1.5
"""Standard deviation of a click's disc, in cells of the half grid."""

LOGIT_SCALE = 3.0
"""Prior logits are squashed as tanh(logit / LOGIT_SCALE)."""


@dataclass(frozen=True, eq=False)
class FramePrompts:
    """Prompts of one object in one frame.

    Attributes
    ----------
    points_xy : (n, 2) float
        Clicks in pixels of the frame.
    positive : (n,) bool
    box_xyxy : (4,) float or None
        First x, first y, last x, last y; inclusive.
    own, neighbour : (H/2, W/2) float32 tensor or None
        Prior logits of this slice and of a neighbouring one.
    cost : (H/4, W/4) float64 or None
        Edge cost of the image for the geodesic maps; None leaves these maps empty.
    """

    points_xy: npt.NDArray[np.floating]
    positive: npt.NDArray[np.bool_]
    box_xyxy: npt.NDArray[np.floating] | None = None
    own: torch.Tensor | None = None
    neighbour: torch.Tensor | None = None
    cost: npt.NDArray[np.float64] | None = field(default=None)

    @property
    def is_single_click(self) -> bool:
        """True when one click is all there is: an ambiguous prompt."""
        alone = self.box_xyxy is None and self.own is None and self.neighbour is None
        return alone and len(self.points_xy) == 1


def draw(prompts: Sequence[FramePrompts], height: int, width: int) -> Tokens:
    """Draw the prompts of ``n`` objects in frames of one size.

    Parameters
    ----------
    prompts : sequence of n FramePrompts
    height, width : int
        Size of the frame in pixels, multiples of 16.
    """
    coords, labels = _tokens(prompts)
    shape = (height // 2, width // 2)
    maps = torch.stack(
        [
            _prior_map([p.own for p in prompts], shape),
            _prior_map([p.neighbour for p in prompts], shape),
            discs(coords, labels == POSITIVE, shape),
            discs(coords, labels == NEGATIVE, shape),
            _boxes([p.box_xyxy for p in prompts], shape),
            _near(prompts, True, shape),
            _near(prompts, False, shape),
        ],
        dim=1,
    )
    return Tokens(coords, labels, maps)


def _tokens(prompts: Sequence[FramePrompts]) -> tuple[torch.Tensor, torch.Tensor]:
    """Point tokens padded to one length (at least one, as attention needs a key)."""
    counts = [len(p.points_xy) + 2 * (p.box_xyxy is not None) for p in prompts]
    length = max(1, *counts)
    coords = np.zeros((len(prompts), length, 2), dtype=np.float32)
    labels = np.full((len(prompts), length), PAD, dtype=np.int64)
    for row, p in enumerate(prompts):
        n = len(p.points_xy)
        coords[row, :n] = p.points_xy
        labels[row, :n] = np.where(p.positive, POSITIVE, NEGATIVE)
        if p.box_xyxy is not None:
            coords[row, n : n + 2] = np.reshape(p.box_xyxy, (2, 2))
            labels[row, n : n + 2] = (BOX_FIRST, BOX_LAST)
    return torch.from_numpy(coords), torch.from_numpy(labels)


def _prior_map(priors: Sequence[torch.Tensor | None], shape: tuple[int, int]) -> torch.Tensor:
    empty = torch.zeros(shape)
    rows = [empty if p is None else torch.tanh(p.float() / LOGIT_SCALE) for p in priors]
    return torch.stack(rows)


def discs(coords: torch.Tensor, chosen: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Gaussian discs, the maximum over the chosen points; (n, h, w)."""
    centres = (coords - 0.5) / 2  # frame pixel x lies at (x - 0.5) / 2 on the half grid
    dx = torch.arange(shape[1]) - centres[..., :1]  # (n, t, w)
    dy = torch.arange(shape[0]) - centres[..., 1:]  # (n, t, h)
    gauss_x = torch.exp(-0.5 * (dx / DISC_SIGMA) ** 2) * chosen.unsqueeze(-1)
    gauss_y = torch.exp(-0.5 * (dy / DISC_SIGMA) ** 2)
    return (gauss_y.unsqueeze(-1) * gauss_x.unsqueeze(-2)).amax(dim=1)


def _boxes(
    boxes: Sequence[npt.NDArray[np.floating] | None], shape: tuple[int, int]
) -> torch.Tensor:
    """Fill boxes, with fractional coverage at their borders; (n, h, w)."""
    out = torch.zeros((len(boxes), *shape))
    for row, box in enumerate(boxes):
        if box is not None:
            x0, y0, x1, y1 = ((float(v) - 0.5) / 2 for v in box)
            inside_x = _coverage(shape[1], x0, x1)
            inside_y = _coverage(shape[0], y0, y1)
            out[row] = inside_y.unsqueeze(1) * inside_x.unsqueeze(0)
    return out


def _coverage(length: int, first: float, last: float) -> torch.Tensor:
    cells = torch.arange(length)
    low = torch.clamp(cells + 0.5, max=last + 0.25)
    high = torch.clamp(cells - 0.5, min=first - 0.25)
    return torch.clamp(low - high, 0.0, 1.0)


def _near(prompts: Sequence[FramePrompts], positive: bool, shape: tuple[int, int]) -> torch.Tensor:
    """Geodesic closeness to the clicks of one sign; (n, h, w)."""
    coarse = torch.zeros((len(prompts), shape[0] // 2, shape[1] // 2))
    for row, p in enumerate(prompts):
        seeds = p.points_xy[p.positive == positive]
        if p.cost is not None and len(seeds) > 0:
            cells = (np.asarray(seeds)[:, ::-1] - 1.5) / 4  # (x, y) pixels to (row, col) cells
            coarse[row] = torch.from_numpy(closeness(p.cost, cells))
    return F.interpolate(
        coarse.unsqueeze(1), size=shape, mode="bilinear", align_corners=False
    ).squeeze(1)
