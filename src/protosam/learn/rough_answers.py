"""Rough answers made of the truth: as a model might have answered, without playing it.

Playing an object takes seconds, this takes hundredths, so that the 3-D head sees many more objects
than were played. Each view is the truth with a wavering boundary, an error that grows from slice
to slice away from the first click as it does in a sweep, ends that are missed or overrun, and
leaks into what lies beside it. Every draw comes from the generator that is given. Array order is
(k, j, i).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from protosam.clicks import Click, bounding_slices, first_click, next_click
from protosam.extents import BoolArray, Extent, three_ints
from protosam.intensity import apply_window, auto_window
from protosam.labelled import LabelledCase
from protosam.learn.head_samples import HeadSample, repainted, turned
from protosam.models.head_maps import HeadGrid, resampled, with_margin
from protosam.models.lru import LruStore
from protosam.models.views import SURE

FloatArray = npt.NDArray[np.float32]

MOST_CLICKS = 5
"""Clicks of one answer."""

KEPT_BYTES = 1_500_000_000
"""Cases that are kept in memory."""

LEAK_CHANCE, CUT_CHANCE = 0.35, 0.35
"""Chances of a view to leak into a neighbouring label, and to miss or overrun an end."""


@dataclass(frozen=True, eq=False)
class LabelledGrey:
    """A case in memory.

    Attributes
    ----------
    grey : (K, J, I) uint8
        Windowed picture.
    labels : (K, J, I) uint8
    spacing : (float, float, float)
        In mm.
    """

    grey: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    spacing: tuple[float, float, float]

    @property
    def nbytes(self) -> int:
        """Bytes that it occupies."""
        return self.grey.nbytes + self.labels.nbytes


class RoughSource:
    """Draws objects of labelled cases, which it reads when they are wanted.

    Parameters
    ----------
    cases : sequence of LabelledCase
        Training cases alone; not empty.
    shares : sequence of float, optional
        How often each case is drawn; all alike if not given.
    """

    def __init__(
        self, cases: Sequence[LabelledCase], shares: Sequence[float] | None = None
    ) -> None:
        self._cases = list(cases)
        weights = np.ones(len(cases)) if shares is None else np.asarray(shares, dtype=float)
        self._shares = weights / weights.sum()
        self._read: LruStore[int, LabelledGrey] = LruStore(KEPT_BYTES, lambda case: case.nbytes)

    def draw(self, rng: np.random.Generator) -> HeadSample:
        """Make up an answer for one of the objects."""
        number = int(rng.choice(len(self._cases), p=self._shares))
        case = self._read.get(number)
        if case is None:
            case = _grey_of(self._cases[number])
            self._read.put(number, case)
        present = [int(n) for n in np.flatnonzero(np.bincount(case.labels.ravel()))[1:]]
        return rough_sample(case, int(rng.choice(present)), rng)


def _grey_of(case: LabelledCase) -> LabelledGrey:
    image, labels = case.read()
    shown = apply_window(image.voxels, auto_window(image.voxels))
    grey = np.round(shown * 255).astype(np.uint8)
    return LabelledGrey(grey, labels.voxels.astype(np.uint8), image.spacing_kji_mm)


def rough_sample(case: LabelledGrey, label: int, rng: np.random.Generator) -> HeadSample:
    """Make up what a model might have answered for an object, and the clicks so far.

    All is drawn on the head's own grid. Nothing is known of the bank's memberships.

    Parameters
    ----------
    case : LabelledGrey
    label : int
        Present in the case.
    rng : numpy Generator
    """
    box = _box(case, label, rng)
    grid = HeadGrid.over(box, case.spacing)
    labels = _nearest(case.labels[box.slices], grid.shape)
    share = torch.from_numpy((case.labels[box.slices] == label).astype(np.float32))[None, None]
    truth = resampled(share, grid.shape)
    wanted = _not_empty(truth.numpy()[0, 0])
    spacing = grid.voxel_kji_mm
    first = first_click(wanted, spacing)
    views = [_view(labels, wanted, first.place, spacing, rng) for _ in range(rng.integers(1, 4))]
    mean, doubt = _mean_and_deviation(np.stack(views), np.array([1.0, 0.9, 0.6][: len(views)]))
    places, positive = _clicks(mean > 0, wanted, first, spacing, int(rng.integers(MOST_CLICKS)))
    grey = torch.from_numpy(case.grey[box.slices].astype(np.float32) / 255)[None, None]
    shown = repainted(resampled(grey, grid.shape).numpy()[0, 0], rng)
    maps = [mean / SURE, doubt / SURE, np.zeros_like(mean), 2 * shown - 1]
    seen = torch.from_numpy(np.stack(maps).astype(np.float32))[None]
    return turned(HeadSample(seen, truth, places, positive, grid), rng)


def _box(case: LabelledGrey, label: int, rng: np.random.Generator) -> Extent:
    """Box of the object with about the room that the head gives to an answer."""
    spans = bounding_slices(case.labels == label)
    start = three_ints([s.start for s in spans], "start")
    stop = three_ints([s.stop for s in spans], "stop")
    margins = (float(rng.uniform(0.2, 0.7)), float(rng.uniform(8, 20)))
    return with_margin(Extent(start, stop), case.spacing, margins).clip(case.grey.shape)


def _nearest(labels: npt.NDArray[np.uint8], shape: Sequence[int]) -> npt.NDArray[np.uint8]:
    places = [
        ((np.arange(n) + 0.5) * have / n).astype(int)
        for n, have in zip(shape, labels.shape, strict=True)
    ]
    return labels[np.ix_(*places)]


def _not_empty(share: FloatArray) -> BoolArray:
    """Mask of a share; of its fullest voxel, where an object fills none of them by half."""
    return np.asarray(share >= min(0.5, float(share.max())))


def _mean_and_deviation(
    views: FloatArray, weights: npt.NDArray[np.float64]
) -> tuple[FloatArray, FloatArray]:
    parts = (weights / weights.sum())[:, None, None, None]
    mean = (views * parts).sum(axis=0)
    deviation = np.sqrt((parts * (views - mean) ** 2).sum(axis=0))
    return mean.astype(np.float32), deviation.astype(np.float32)


def _clicks(
    found: BoolArray, truth: BoolArray, first: Click, spacing: Sequence[float], further: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """First click and some of those that follow; the answer round each of them is then right."""
    places, positive = [first.place], [True]
    for _ in range(further):
        click = next_click(found, truth, spacing)
        if click is None:
            break
        places.append(click.place)
        positive.append(click.positive)
        found = _mended(found, truth, click.place, spacing)
    return np.array(places, dtype=np.float64), np.array(positive, dtype=bool)


def _view(
    labels: npt.NDArray[np.uint8],
    truth: BoolArray,
    origin: Sequence[int],
    spacing: Sequence[float],
    rng: np.random.Generator,
) -> FloatArray:
    """One view's logits."""
    wanted = truth
    if rng.random() < LEAK_CHANCE:
        wanted = wanted | _leak(labels, truth, rng)
    depth_mm = _signed_depth_mm(wanted, spacing)
    size_mm = max(float(depth_mm.max()), 1.0)
    axis = int(rng.integers(3))
    wavering = _smooth_noise(truth.shape, rng) * float(rng.uniform(0.1, 0.6)) * size_mm
    drift = _drift(truth.shape[axis], origin[axis], rng) * size_mm
    along = np.moveaxis(depth_mm + wavering, axis, 0)
    along += drift[:, None, None]
    if rng.random() < CUT_CHANCE:
        _end_elsewhere(along, np.moveaxis(truth, axis, 0), origin[axis], rng)
    steepness = float(rng.uniform(0.8, 4)) / size_mm
    logits = np.moveaxis(along, 0, axis) * steepness * SURE + rng.normal(0, 0.5)
    return np.clip(logits, -SURE, SURE).astype(np.float32)


def _leak(labels: npt.NDArray[np.uint8], truth: BoolArray, rng: np.random.Generator) -> BoolArray:
    """Part of a neighbouring label near the object; else a shifted copy of itself."""
    near = ndimage.binary_dilation(truth, iterations=int(rng.integers(2, 8)))
    others = [n for n in np.unique(labels[near]) if n != 0 and not (truth & (labels == n)).any()]
    if others and rng.random() < 0.7:
        other = labels == rng.choice(others)
        return np.asarray(other & near if rng.random() < 0.5 else other)
    shift = [int(n) for n in rng.integers(-6, 7, size=3)]
    return np.asarray(ndimage.shift(truth.astype(np.uint8), shift, order=0) > 0)


def _signed_depth_mm(mask: BoolArray, spacing: Sequence[float]) -> FloatArray:
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing)
    depth: FloatArray = (inside - outside).astype(np.float32)
    return depth


def _smooth_noise(shape: Sequence[int], rng: np.random.Generator) -> FloatArray:
    """Noise of deviation 1 that changes over a few voxels to a few tens of them."""
    coarse = [max(2, round(n / float(rng.uniform(4, 16)))) for n in shape]
    noise = rng.normal(size=coarse)
    zoom = [n / c for n, c in zip(shape, coarse, strict=True)]
    fine = ndimage.zoom(noise, zoom, order=1, grid_mode=True, mode="nearest")
    return np.asarray(fine, dtype=np.float32)


def _drift(count: int, origin: int, rng: np.random.Generator) -> FloatArray:
    """Error of each slice, which wanders away from zero with the distance from the first click."""
    steps = rng.normal(rng.normal(0, 0.03), 0.08, size=count)
    steps[origin] = 0
    forward = np.cumsum(steps[origin:])
    backward = np.cumsum(steps[: origin + 1][::-1])[::-1]
    return np.concatenate([backward[:-1], forward]).astype(np.float32)


def _end_elsewhere(
    along: FloatArray, truth: BoolArray, origin: int, rng: np.random.Generator
) -> None:
    """Lose the object before its end, or go on beyond it with the last slice's shape."""
    filled = np.flatnonzero(truth.any(axis=(1, 2)))
    first, last = int(filled[0]), int(filled[-1])
    low = int(rng.integers(first, min(origin, last) + 1))
    high = int(rng.integers(max(origin, first), last + 1))
    if rng.random() < 0.6:
        along[:low], along[high + 1 :] = -SURE * 10, -SURE * 10
    else:
        beyond = min(len(along), last + 1 + int(rng.integers(1, 10)))
        along[last + 1 : beyond] = along[high]


def _mended(
    found: BoolArray, truth: BoolArray, place: Sequence[int], spacing: Sequence[float]
) -> BoolArray:
    """Put right what lies round a click, so that the next one goes elsewhere."""
    grids = np.ogrid[tuple(slice(0, n) for n in truth.shape)]
    squares = [((g - p) * mm) ** 2 for g, p, mm in zip(grids, place, spacing, strict=True)]
    wrong = found != truth
    reach = max(6.0, 2 * float(ndimage.distance_transform_edt(wrong, sampling=spacing).max()))
    near = squares[0] + squares[1] + squares[2] <= reach**2
    return np.where(near, truth, found)
