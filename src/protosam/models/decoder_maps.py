"""What the 2-D decoder sees: answer, memberships, intensities and prompts of a slice on one grid.

Owns the grid of square pixels over the rectangle that was looked at, and the way there and back.
Coordinates are (row, col) in pixels of that rectangle; lengths are in mm. Knows nothing of
networks, volumes and backbones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from protosam.models.bank_tokens import bank_of_slices, memberships_on
from protosam.models.decoder import STRIDE
from protosam.models.prototype_bank import SURE
from protosam.models.slice_model import SlicePrompts
from protosam.models.token_grid import NeckTokens

LONGEST, SHORTEST = 96, 48
"""Pixels of the grid's longer side, at most and at least."""

FAR_SURE = 16.0
"""Logits are cut to this either way in the map of certainty, to `SURE` in that of the answer."""

NEAR_MM = 2.5
"""Width (sigma) of the narrow Gaussian round a click; at least 1.5 pixels of the grid."""

FAR_SHARE = 0.12
"""Width of the wide Gaussian, as a share of the grid's longer side."""

LEAST_SPREAD = 0.04
"""Standard deviation of the windowed intensities in an object, at least."""

FloatGrid = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SliceGrid:
    """A rectangle of a slice, and how many pixels the decoder sees along its sides.

    Attributes
    ----------
    inner : (int, int)
        Rows and columns of the rectangle in the slice's own pixels.
    spacing_rc_mm : (float, float)
        Of the slice.
    shape : (int, int)
        Multiples of `STRIDE`, at most `LONGEST`.
    """

    inner: tuple[int, int]
    spacing_rc_mm: tuple[float, float]
    shape: tuple[int, int]

    @classmethod
    def over(cls, inner: tuple[int, int], spacing_rc_mm: tuple[float, float]) -> SliceGrid:
        """Grid over a rectangle: pixels as square as the stride allows."""
        sides = [n * mm for n, mm in zip(inner, spacing_rc_mm, strict=True)]
        finest = min(*spacing_rc_mm, max(sides) / SHORTEST)
        pixel_mm = max(max(sides) / LONGEST, finest)
        rows, cols = (STRIDE * max(1, math.ceil(s / pixel_mm / STRIDE - 1e-6)) for s in sides)
        return cls(inner, spacing_rc_mm, (min(LONGEST, rows), min(LONGEST, cols)))

    @property
    def pixel_rc_mm(self) -> tuple[float, float]:
        """Height and width of a pixel of the grid."""
        (rows, cols), (high, wide) = self.inner, self.spacing_rc_mm
        return rows * high / self.shape[0], cols * wide / self.shape[1]

    def place(self, point_rc: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Take (..., 2) points of the rectangle to the grid."""
        scale = np.divide(self.shape, self.inner)
        placed: npt.NDArray[np.float64] = (np.asarray(point_rc, float) + 0.5) * scale - 0.5
        return placed


@dataclass(frozen=True, eq=False)
class SliceEvidence:
    """What is known of the rectangle of a slice, on its own pixels.

    Attributes
    ----------
    answer : (rows, cols) float32
        The backbone's logits.
    membership : (rows, cols) float32
        Log odds of the prototype bank; 0 where nothing is known.
    grey : (rows, cols) float32
        Windowed intensities, 0..1.
    spacing_rc_mm : (float, float)
    """

    answer: FloatGrid
    membership: FloatGrid
    grey: FloatGrid
    spacing_rc_mm: tuple[float, float]

    @property
    def grid(self) -> SliceGrid:
        """The decoder's grid over this rectangle."""
        rows, cols = self.answer.shape
        return SliceGrid.over((rows, cols), self.spacing_rc_mm)


def membership_of(
    shown: Sequence[tuple[NeckTokens, npt.NDArray[np.bool_]]], shape: tuple[int, int]
) -> FloatGrid:
    """Log odds of each pixel by the looks of the slices that are answered already.

    Parameters
    ----------
    shown : sequence of (NeckTokens, (rows, cols) bool)
        Tokens and answers: first of the slice itself, then of other slices with prompts.
    shape : (int, int)
        Rows and columns of the slice itself.

    Returns
    -------
    (rows, cols) float32
        0 everywhere where no bank can be made, or the backbone shows no tokens.
    """
    bank = bank_of_slices(shown)
    return np.zeros(shape, dtype=np.float32) if bank is None else memberships_on(bank, shown[0][0])


def decoder_maps(evidence: SliceEvidence, prompts: SlicePrompts) -> torch.Tensor:
    """Draw the decoder's input.

    Parameters
    ----------
    evidence : SliceEvidence
    prompts : SlicePrompts
        In pixels of the rectangle.

    Returns
    -------
    (1, len(DECODER_CHANNELS), row, col) float32
        On `evidence.grid`.
    """
    seen = seen_maps(evidence, evidence.grid)
    return torch.cat([seen, prompt_maps(prompts, evidence.grid)[None]], dim=1)


def seen_maps(evidence: SliceEvidence, grid: SliceGrid) -> torch.Tensor:
    """Draw the maps that do not depend on the prompts, (1, 5, row, col) float32."""
    e = evidence
    shown = np.stack(
        [
            np.clip(e.answer, -SURE, SURE) / SURE,
            np.clip(e.answer, -FAR_SURE, FAR_SURE) / FAR_SURE,
            e.membership / SURE,
            2 * e.grey - 1,
            _tone(e.answer, e.grey),
        ]
    )
    return resampled(torch.from_numpy(shown.astype(np.float32))[None], grid.shape)


def prompt_maps(prompts: SlicePrompts, grid: SliceGrid) -> torch.Tensor:
    """Draw clicks, box and the size of the pixels, (6, row, col) float32."""
    clicks = click_maps(grid.place(prompts.points_rc), prompts.positive, grid)
    box = np.zeros(grid.shape, dtype=np.float32)
    if prompts.box_rc is not None:
        low = grid.place(np.asarray(prompts.box_rc[:2]) - 0.5)
        high = grid.place(np.asarray(prompts.box_rc[2:]) + 0.5)
        rows, cols = (
            np.clip(np.minimum(b, n + 0.5) - np.maximum(a, n - 0.5), 0, 1)
            for a, b, n in zip(low, high, map(np.arange, grid.shape), strict=True)
        )
        box = np.outer(rows, cols).astype(np.float32)
    size = np.full(grid.shape, math.log(float(np.mean(grid.pixel_rc_mm))), dtype=np.float32)
    return torch.from_numpy(np.concatenate([clicks, box[None], size[None]]))


def click_maps(
    places: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_], grid: SliceGrid
) -> FloatGrid:
    """Gaussians round clicks: the largest one counts where they overlap.

    Parameters
    ----------
    places : (n, 2) float
        In pixels of the grid.
    positive : (n,) bool
    grid : SliceGrid

    Returns
    -------
    (4, row, col) float32
        Positive narrow, positive wide, negative narrow, negative wide.
    """
    steps = np.asarray(grid.pixel_rc_mm)
    near = max(NEAR_MM, 1.5 * float(steps.max()))
    widths = (near, max(near, FAR_SHARE * float(max(grid.shape * steps))))
    out = np.zeros((4, *grid.shape), dtype=np.float32)
    for place, is_positive in zip(places, positive, strict=True):
        along = [
            ((np.arange(n) - p) * mm) ** 2
            for n, p, mm in zip(grid.shape, place, steps, strict=True)
        ]
        for number, width in enumerate(widths):
            rows, cols = (np.exp(-squares / (2 * width**2)) for squares in along)
            channel = out[number if is_positive else 2 + number]
            np.maximum(channel, np.outer(rows, cols).astype(np.float32), out=channel)
    return out


def resampled(maps: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Bring maps (b, c, row, col) to another number of pixels over the same rectangle.

    Sides that shrink are averaged, sides that grow are interpolated.
    """
    smaller = [min(a, b) for a, b in zip(maps.shape[2:], shape, strict=True)]
    out = F.adaptive_avg_pool2d(maps, (smaller[0], smaller[1]))
    if list(shape) != smaller:
        out = F.interpolate(out, size=list(shape), mode="bilinear", align_corners=False)
    return out


def _tone(answer: FloatGrid, grey: FloatGrid) -> FloatGrid:
    """Intensity against the mean of the answer's inside, in thrice its standard deviation.

    Within -1..1; 0 everywhere where the answer is empty.
    """
    inside = grey[answer > 0]
    if inside.size == 0:
        return np.zeros_like(grey)
    spread = 3 * max(float(inside.std()), LEAST_SPREAD)
    return np.asarray(np.clip((grey - inside.mean()) / spread, -1, 1), dtype=np.float32)
