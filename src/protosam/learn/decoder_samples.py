"""Training samples of the 2-D decoder: collected cases, varied and drawn on the decoder's grid.

Owns the augmentation: mirror images, other intensities, other sizes in mm, and answers that are
worse than the backbone's were (weakened, cut off, leaking into a neighbour), so that the decoder
learns to mend them too. Coordinates are (row, col). Knows nothing of networks but their input.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from protosam.extents import BoolArray
from protosam.learn.decoder_cases import DecoderCase
from protosam.models.decoder_maps import (
    FloatGrid,
    SliceEvidence,
    SliceGrid,
    prompt_maps,
    resampled,
    seen_maps,
)
from protosam.models.planes import ABSENT
from protosam.models.slice_model import SlicePrompts

LEAK, CUT, WEAKEN = 0.1, 0.1, 0.1
"""Shares of the answers that are spoiled in each way; at most one for each."""

FORGET = 0.2
"""Share of the samples whose memberships are unknown."""

RETINT = 0.6
"""Share of the samples whose intensities are varied."""

INVERT = 0.2
"""Share of those that are inverted."""


@dataclass(frozen=True, eq=False)
class DecoderSample:
    """What one step learns from.

    Attributes
    ----------
    seen : (1, 5, row, col) float32
        Maps that do not depend on the prompts.
    answer : (1, 1, row, col) float32
        The backbone's logits.
    truth : (1, 1, row, col) float32
        Share of the object in each pixel.
    prompts : SlicePrompts
        In pixels of the rectangle.
    grid : SliceGrid
    """

    seen: torch.Tensor
    answer: torch.Tensor
    truth: torch.Tensor
    prompts: SlicePrompts
    grid: SliceGrid

    @property
    def maps(self) -> torch.Tensor:
        """The decoder's input, (1, len(DECODER_CHANNELS), row, col)."""
        return torch.cat([self.seen, prompt_maps(self.prompts, self.grid)[None]], dim=1)

    def clicked(self, place: npt.ArrayLike, *, positive: bool) -> DecoderSample:
        """Add a click at a pixel (row, col) of the grid."""
        scale = np.divide(self.grid.inner, self.grid.shape)
        point = (np.asarray(place, dtype=float) + 0.5) * scale - 0.5
        prompts = replace(
            self.prompts,
            points_rc=np.vstack([self.prompts.points_rc, point]),
            positive=np.append(self.prompts.positive, positive),
        )
        return replace(self, prompts=prompts)


def sample_of(case: DecoderCase, side: int | None = None) -> DecoderSample:
    """Draw a case: on the grid that it has at work, or on a square one of a given side.

    Parameters
    ----------
    case : DecoderCase
    side : int, optional
        Of the grid in pixels; a case that is no square is filled up with darkness.
    """
    if side is not None:
        case = squared(case)
    e = case.evidence
    grid = e.grid if side is None else replace(e.grid, shape=(side, side))
    truth = torch.from_numpy(case.truth.astype(np.float32))[None, None]
    return DecoderSample(
        seen=seen_maps(e, grid),
        answer=resampled(torch.from_numpy(e.answer)[None, None], grid.shape),
        truth=resampled(truth, grid.shape),
        prompts=case.prompts,
        grid=grid,
    )


def squared(case: DecoderCase) -> DecoderCase:
    """Fill up a case below or on its right, so that it is a square in mm but for a pixel."""
    e = case.evidence
    sides_mm = np.multiply(case.truth.shape, e.spacing_rc_mm)
    wanted = np.round(sides_mm.max() / np.asarray(e.spacing_rc_mm)).astype(int)
    more = [(0, int(n)) for n in np.maximum(wanted - case.truth.shape, 0)]
    evidence = replace(
        e,
        answer=np.pad(e.answer, more, constant_values=ABSENT),
        membership=np.pad(e.membership, more),
        grey=np.pad(e.grey, more),
    )
    return replace(
        case,
        evidence=evidence,
        truth=np.pad(case.truth, more),
        labels=np.pad(case.labels, more),
    )


def varied(case: DecoderCase, rng: np.random.Generator) -> DecoderCase:
    """Vary a case."""
    e = case.evidence
    membership = np.zeros_like(e.membership) if rng.random() < FORGET else e.membership
    high, wide = e.spacing_rc_mm
    scale = float(rng.uniform(0.8, 1.25))
    changed = SliceEvidence(
        answer=_spoiled(case, rng),
        membership=membership,
        grey=_retinted(e.grey, rng) if rng.random() < RETINT else e.grey,
        spacing_rc_mm=(high * scale, wide * scale),
    )
    case = replace(case, evidence=changed)
    for axis in (0, 1):
        if rng.random() < 0.5:
            case = mirrored(case, axis)
    return turned(case) if rng.random() < 0.5 else case


def mirrored(case: DecoderCase, axis: int) -> DecoderCase:
    """Mirror a case along rows (0) or columns (1)."""
    p, last = case.prompts, case.truth.shape[axis] - 1
    points = p.points_rc.copy()
    points[:, axis] = last - points[:, axis]
    box = None if p.box_rc is None else p.box_rc.copy()
    if box is not None:
        box[[axis, 2 + axis]] = last - box[[2 + axis, axis]]
    e = case.evidence
    evidence = replace(
        e,
        answer=np.flip(e.answer, axis).copy(),
        membership=np.flip(e.membership, axis).copy(),
        grey=np.flip(e.grey, axis).copy(),
    )
    return replace(
        case,
        evidence=evidence,
        prompts=replace(p, points_rc=points, box_rc=box),
        truth=np.flip(case.truth, axis).copy(),
        labels=np.flip(case.labels, axis).copy(),
    )


def turned(case: DecoderCase) -> DecoderCase:
    """Exchange rows and columns of a case."""
    e, p = case.evidence, case.prompts
    evidence = SliceEvidence(
        answer=e.answer.T.copy(),
        membership=e.membership.T.copy(),
        grey=e.grey.T.copy(),
        spacing_rc_mm=e.spacing_rc_mm[::-1],
    )
    box = None if p.box_rc is None else p.box_rc[[1, 0, 3, 2]]
    return replace(
        case,
        evidence=evidence,
        prompts=replace(p, points_rc=p.points_rc[:, ::-1].copy(), box_rc=box),
        truth=case.truth.T.copy(),
        labels=case.labels.T.copy(),
    )


def _spoiled(case: DecoderCase, rng: np.random.Generator) -> FloatGrid:
    """Return the answer, or one that is worse."""
    answer, chance = case.evidence.answer, rng.random()
    if chance < LEAK:
        return _leaking(case, rng)
    if chance < LEAK + CUT:
        return _cut(answer, rng)
    if chance < LEAK + CUT + WEAKEN:
        weaker = answer * rng.uniform(0.3, 1.0) + rng.normal(0, 0.8)
        return np.asarray(weaker, dtype=np.float32)
    return answer


def _leaking(case: DecoderCase, rng: np.random.Generator) -> FloatGrid:
    """Let the answer run into another label."""
    answer = case.evidence.answer
    others = [n for n in np.unique(case.labels[~case.truth]) if n]
    if not others:
        return answer
    into: BoolArray = case.labels == others[int(rng.integers(len(others)))]
    leaking = np.where(into & ~case.truth, np.maximum(answer, rng.uniform(0.5, 3)), answer)
    return leaking.astype(np.float32)


def _cut(answer: FloatGrid, rng: np.random.Generator) -> FloatGrid:
    """Cut off what lies beyond a straight line through the answer."""
    rows, cols = np.nonzero(answer > 0)
    if len(rows) == 0:
        return answer
    through = int(rng.integers(len(rows)))
    angle = rng.uniform(0, 2 * np.pi)
    down, right = np.indices(answer.shape)
    beyond = (down - rows[through]) * np.sin(angle) + (right - cols[through]) * np.cos(angle) > 0
    return np.where(beyond, np.minimum(answer, -3.0), answer).astype(np.float32)


def _retinted(grey: FloatGrid, rng: np.random.Generator) -> FloatGrid:
    """Vary gamma, contrast and brightness, invert some, and add a little noise to some."""
    out = grey ** float(np.exp(rng.normal(0, 0.35)))
    if rng.random() < INVERT:
        out = 1 - out
    out = (out - 0.5) * rng.uniform(0.6, 1.3) + 0.5 + rng.uniform(-0.15, 0.15)
    if rng.random() < 0.3:
        out = out + rng.normal(0, rng.uniform(0.01, 0.06), size=out.shape)
    return np.clip(out, 0, 1).astype(np.float32)
