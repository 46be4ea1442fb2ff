"""From collected answers to training samples of the 3-D head.

Owns the augmentations: views left out, answers made worse (leaks into a neighbouring label, parts
cut off, all logits shifted), memberships left out, other contrasts, mirrored and turned axes.
Every draw comes from the generator that is given. Array order is (k, j, i).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from protosam.extents import Extent, bounding_extent, three_ints
from protosam.learn.evidence import SCALE, Evidence, box_shape
from protosam.models.head_maps import (
    HOPEFUL,
    MARGIN,
    MARGIN_MM,
    HeadGrid,
    click_maps,
    resampled,
    size_map,
    with_margin,
)
from protosam.models.views import SURE

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class HeadSample:
    """One object as the head sees it.

    Attributes
    ----------
    seen : (1, 4, k, j, i) float32
        Answer, doubt, membership and intensity, as `head_maps` draws them.
    truth : (1, 1, k, j, i) float32
        Share of the object in each voxel of the grid.
    places : (n, 3) float
        Clicks in voxels of the grid.
    positive : (n,) bool
    grid : HeadGrid
    """

    seen: torch.Tensor
    truth: torch.Tensor
    places: npt.NDArray[np.float64]
    positive: npt.NDArray[np.bool_]
    grid: HeadGrid

    @property
    def answer(self) -> torch.Tensor:
        """Logits of the views' mean, (1, 1, k, j, i)."""
        return self.seen[:, :1] * SURE

    def maps(self) -> torch.Tensor:
        """Input of the head, (1, len(HEAD_CHANNELS), k, j, i)."""
        clicks = torch.from_numpy(click_maps(self.places, self.positive, self.grid))[None]
        return torch.cat([self.seen, clicks, size_map(self.grid)], dim=1)

    def with_click(self, place: tuple[int, ...], *, positive: bool) -> HeadSample:
        """Return the same object with one click more, at a voxel of the grid."""
        places = np.vstack([self.places, np.asarray(place, dtype=np.float64)])
        return replace(self, places=places, positive=np.append(self.positive, positive))


def plain_sample(answer: Evidence) -> HeadSample:
    """Draw an answer as it is at work."""
    return _sample(_shown(answer), answer, (MARGIN, MARGIN_MM), 1.0)


def varied_sample(answer: Evidence, rng: np.random.Generator) -> HeadSample:
    """Draw an answer varied at random."""
    shown = _varied(_shown(_fewer_views(answer, rng)), answer, rng)
    margins = (float(rng.uniform(0.15, 0.38)), float(rng.uniform(7, 14)))
    return turned(_sample(shown, answer, margins, float(rng.uniform(0.85, 1.2))), rng)


@dataclass(frozen=True, eq=False)
class _Shown:
    """Answer, doubt and membership in logits, picture in 0..1; (k, j, i) each."""

    answer: FloatArray
    doubt: FloatArray
    membership: FloatArray
    grey: FloatArray


def _shown(answer: Evidence) -> _Shown:
    views = answer.views.astype(np.float32) / SCALE
    weights = (answer.weights / answer.weights.sum()).astype(np.float32)[:, None, None, None]
    mean = (views * weights).sum(axis=0)
    doubt = np.sqrt((weights * (views - mean) ** 2).sum(axis=0)).astype(np.float32)
    member = answer.member.astype(np.float32) / SCALE
    return _Shown(mean, doubt, member, answer.grey.astype(np.float32) / np.float32(255))


def _fewer_views(answer: Evidence, rng: np.random.Generator) -> Evidence:
    count = len(answer.views)
    if count < 2 or rng.random() >= 0.35:
        return answer
    kept = rng.permutation(count)[: rng.integers(1, count)]
    return replace(answer, views=answer.views[kept], weights=answer.weights[kept])


def _varied(shown: _Shown, answer: Evidence, rng: np.random.Generator) -> _Shown:
    logits, fate = shown.answer, rng.random()
    if fate < 0.12:
        logits = _leaking(logits, answer, rng)
    elif fate < 0.24:
        logits = _cut(logits, rng)
    elif fate < 0.30:
        logits = np.clip(logits + np.float32(rng.normal(0, 1)), -SURE, SURE)
    membership = shown.membership * np.float32(rng.random() >= 0.15)
    return _Shown(logits, shown.doubt, membership, repainted(shown.grey, rng))


def _leaking(logits: FloatArray, answer: Evidence, rng: np.random.Generator) -> FloatArray:
    """Let the answer run over into another labelled thing in the box."""
    others = [n for n in np.unique(answer.labels) if n not in (0, answer.label)]
    if not others:
        return logits
    strength = np.float32(rng.uniform(0.5, 3))
    return np.where(answer.labels == rng.choice(others), np.maximum(logits, strength), logits)


def _cut(logits: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Lose what lies to one side of a plane through the answer."""
    found = bounding_extent(logits > 0)
    if found is None:
        return logits
    axis = int(rng.integers(3))
    place = int(rng.integers(found.start_kji[axis], found.stop_kji[axis]))
    out = logits.copy()
    along = np.moveaxis(out, axis, 0)
    along[slice(place) if rng.random() < 0.5 else slice(place, None)] = -SURE
    return out


def repainted(grey: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Other contrasts of a picture (k, j, i) in 0..1, sometimes inverted."""
    if rng.random() >= 0.6:
        return grey
    out: FloatArray = grey ** np.float32(rng.uniform(0.6, 1.6))
    if rng.random() < 0.25:
        out = 1 - out
    scale, shift = np.float32(rng.uniform(0.7, 1.3)), np.float32(rng.uniform(-0.15, 0.15))
    painted: FloatArray = np.clip((out - 0.5) * scale + 0.5 + shift, 0, 1)
    return painted


def _sample(
    shown: _Shown, answer: Evidence, margins: tuple[float, float], scale: float
) -> HeadSample:
    """Crop as at work, and bring all to the head's grid; `scale` stretches the millimetres."""
    spacing = answer.spacing * scale
    box = _box(shown.answer, answer, margins)
    grid = HeadGrid.over(box, [float(s) for s in spacing])
    maps = [shown.answer / SURE, shown.doubt / SURE, shown.membership / SURE, 2 * shown.grey - 1]
    seen = np.stack([m[box.slices] for m in maps]).astype(np.float32)
    truth = (answer.labels[box.slices] == answer.label).astype(np.float32)
    return HeadSample(
        seen=resampled(torch.from_numpy(seen)[None], grid.shape),
        truth=resampled(torch.from_numpy(truth)[None, None], grid.shape),
        places=np.array([grid.place(p) for p in answer.points]).reshape(-1, 3),
        positive=answer.positive,
        grid=grid,
    )


def _box(logits: FloatArray, answer: Evidence, margins: tuple[float, float]) -> Extent:
    places = np.round(answer.points).astype(int)
    hopeful = bounding_extent(logits > HOPEFUL)
    if hopeful is not None:
        places = np.vstack([places, hopeful.start_kji, np.subtract(hopeful.stop_kji, 1)])
    low, high = places.min(axis=0), places.max(axis=0) + 1
    box = Extent(three_ints(low, "start"), three_ints(high, "stop"))
    spacing = [float(s) for s in answer.spacing]
    return with_margin(box, spacing, margins).intersection(box_shape(answer))


def turned(sample: HeadSample, rng: np.random.Generator) -> HeadSample:
    """Mirror and exchange the axes of a sample."""
    seen, truth, places, grid = sample.seen, sample.truth, sample.places.copy(), sample.grid
    for axis in range(3):
        if rng.random() < 0.5:
            seen, truth = seen.flip(2 + axis), truth.flip(2 + axis)
            places[:, axis] = grid.shape[axis] - 1 - places[:, axis]
    k, j, i = (int(a) for a in rng.permutation(3))
    order = (0, 1, 2 + k, 2 + j, 2 + i)
    turned = HeadGrid(
        Extent(
            three_ints([grid.extent.start_kji[a] for a in (k, j, i)], "start"),
            three_ints([grid.extent.stop_kji[a] for a in (k, j, i)], "stop"),
        ),
        (grid.spacing_kji_mm[k], grid.spacing_kji_mm[j], grid.spacing_kji_mm[i]),
        (grid.shape[k], grid.shape[j], grid.shape[i]),
    )
    return replace(
        sample,
        seen=seen.permute(order).contiguous(),
        truth=truth.permute(order).contiguous(),
        places=places[:, [k, j, i]],
        grid=turned,
    )
