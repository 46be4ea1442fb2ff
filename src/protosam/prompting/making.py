"""How an example is made of a finished case.

Owns which tokens are kept, the closer look at small objects, and what is refused. Knows nothing
of files and targets. Masks are (k, j, i), and (slice, row, col) once they are turned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from protosam.errors import InvalidInput
from protosam.extents import bounding_extent
from protosam.geometry import Volume, affine_of_extent, kji_to_ras
from protosam.intensity import auto_window
from protosam.models.embeddings import Embedder, EmbeddingCache
from protosam.models.many_answers import readings
from protosam.models.planes import Planes, Rect
from protosam.models.slice_axis import choose_axis
from protosam.models.slice_model import SliceModel, SlicePrompts
from protosam.models.tokens import MOSTLY
from protosam.prompting.align import Landmarks
from protosam.prompting.cloud import Cloud, Float32Array, Scale, describe, describe_slice
from protosam.prompting.example import Case, Closer, Example, Lesson, Places, Sample
from protosam.prompting.parts import similarity, unit
from protosam.prompting.weights import fit_weights
from protosam.prompts import PromptSet
from protosam.seg_nrrd import Segment

TOKEN_LIMIT = 2000
"""Tokens under a mask that are kept of one case."""

BESIDE_LIMIT = 500
"""Tokens beside a mask that are kept of one case."""

BESIDE_MM = 60.0
"""Half of them lie within this distance of the object, half anywhere."""

FEW_TOKENS = 4
"""An object with fewer tokens in its largest slice is described by a closer look as well."""

CLOSER_SIDE = 3.0
"""Side of the closer look in lengths of the object."""

CLOSER_SLICES = 5
"""Slices that are looked at more closely."""

MIN_CLOSER_PX = 32
"""Shortest side of a closer look, in pixels."""


def make_example(
    model: SliceModel,
    volume: Volume,
    segments: Sequence[Segment],
    *,
    on_progress: Callable[[float, str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    cache: EmbeddingCache | None = None,
) -> Example:
    """Make an example of a finished case.

    Parameters
    ----------
    model : SliceModel
    volume : Volume
    segments : sequence of Segment
        Masks on the grid of `volume`; all of them are learnt.
    on_progress : (fraction 0..1, text) -> None, optional
    should_stop : () -> bool, optional
    cache : EmbeddingCache, optional
        Where embeddings are looked up and kept.

    Raises
    ------
    InvalidInput
        If there is no segment, one is empty or of another shape, or two have one name.
    Cancelled
        If `should_stop` said so.
    """
    _check(segments, volume)
    report = on_progress or (lambda _fraction, _text: None)
    planes = Planes(volume, choose_axis(PromptSet(), volume), auto_window(volume.voxels))
    embedder = Embedder(model, planes, cache or EmbeddingCache())
    masks = [np.moveaxis(segment.mask, planes.axis, 0) for segment in segments]
    largest = [int(m.sum(axis=(1, 2)).argmax()) for m in masks]
    cloud = describe(
        model,
        planes,
        embedder,
        indices=largest,
        on_progress=lambda done: report(done, "describing the case"),
        should_stop=should_stop or (lambda: False),
    )
    tools = model, planes, embedder
    lessons = []
    for segment, mask in zip(segments, masks, strict=True):
        sample = _sample(cloud, mask, segment, volume)
        sample = _looked_closer(sample, tools, mask, cloud.scale)
        sample = replace(sample, mask_weights=_weights(sample, tools, cloud, mask))
        lessons.append(Lesson(segment.name, segment.terminology, segment.colour, (sample,)))
    case = Case(Landmarks.of(cloud), cloud.scale, volume.spacing_kji_mm)
    return Example(model.name, model.digest, (case,), tuple(lessons))


def under(fractions: Float32Array) -> npt.NDArray[np.bool_]:
    """Tokens (n,) that belong to a mask: those mostly in it, else those with most of it."""
    held: npt.NDArray[np.bool_] = fractions >= MOSTLY
    if not held.any() and fractions.max(initial=0) > 0:
        held = fractions >= 0.5 * fractions.max()
    return held


def _check(segments: Sequence[Segment], volume: Volume) -> None:
    if not segments:
        raise InvalidInput("There is no segment to learn.", "Give a finished segmentation.")
    names = [segment.name for segment in segments]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidInput(f"Several segments are named {twice[0]!r}.", "Give each its own name.")
    for segment in segments:
        if segment.mask.shape != volume.shape_kji:
            raise InvalidInput(
                f"The segment {segment.name!r} has {segment.mask.shape} voxels (k, j, i), the "
                f"image {volume.shape_kji}.",
                "Give the segmentation of this very image.",
            )
        if not segment.mask.any():
            raise InvalidInput(
                f"The segment {segment.name!r} is empty; there is nothing to learn from it.",
                "Finish it first, or leave it out.",
            )


def _sample(cloud: Cloud, mask: npt.NDArray[np.bool_], segment: Segment, volume: Volume) -> Sample:
    share = np.concatenate([s.fractions(mask[z]) for z, s in cloud.slices.items()])
    held = np.flatnonzero(under(share))
    if not held.size:  # it lies in the last pixels, which no token covers for the most part
        held = _nearest_token(cloud, segment, volume)
    chosen = _drawn(held, TOKEN_LIMIT)
    beside = _beside(cloud, np.flatnonzero(share < 0.05), cloud.at_mm[held])
    box = bounding_extent(segment.mask)
    if box is None:
        raise InvalidInput(f"The segment {segment.name!r} is empty.", "Leave it out.")
    return Sample(
        case=0,
        features=cloud.features[chosen],
        at_mm=cloud.at_mm[chosen],
        slice_index=cloud.place[chosen, 0].astype(np.int64),
        beside=cloud.features[beside],
        beside_mm=cloud.at_mm[beside],
        mask=np.array(segment.mask[box.slices]),
        mask_affine=affine_of_extent(volume.affine, box),
    )


def _nearest_token(cloud: Cloud, segment: Segment, volume: Volume) -> npt.NDArray[np.int64]:
    middle = kji_to_ras(volume.affine, np.argwhere(segment.mask).mean(axis=0))
    return np.array([np.linalg.norm(cloud.at_mm - middle, axis=1).argmin()])


def _looked_closer(
    sample: Sample,
    tools: tuple[SliceModel, Planes, Embedder],
    mask: npt.NDArray[np.bool_],
    scale: Scale,
) -> Sample:
    """Add a closer look if the object has few tokens in each of its slices."""
    _, counts = np.unique(sample.slice_index, return_counts=True)
    if counts.max() >= FEW_TOKENS:
        return sample
    side_mm = _closer_mm(tools[1], mask)
    under_it, at_mm, beside_it = [], [], []
    held = np.flatnonzero(mask.any(axis=(1, 2)))
    for z in np.unique(held[np.linspace(0, len(held) - 1, CLOSER_SLICES).astype(int)]):
        middle = np.argwhere(mask[z]).mean(axis=0)
        rect = square(tools[1], (float(middle[0]), float(middle[1])), side_mm)
        seen = describe_slice(*tools, int(z), rect)
        share, features = seen.fractions(mask[z]), scale.apply(seen.raw)
        under_it.append(features[under(share)])
        at_mm.append(seen.at_mm[under(share)])
        beside_it.append(features[share < 0.05])
    if not sum(map(len, under_it)):
        return sample
    beside = np.concatenate(beside_it)
    chosen = _drawn(np.arange(len(beside)), BESIDE_LIMIT)
    return replace(
        sample,
        closer=Closer(side_mm, np.concatenate(under_it), np.concatenate(at_mm), beside[chosen]),
    )


def square(planes: Planes, middle_rc: tuple[float, float], side_mm: float) -> Rect:
    """Rectangle of a slice, square in mm, moved to lie within the slice as far as it can."""
    edges = []
    spacing, whole = planes.spacing_rc_mm, planes.whole
    for centre, step, length in zip(middle_rc, spacing, whole.shape, strict=True):
        side = min(length, max(1, round(side_mm / step)))
        first = min(max(0, round(centre - side / 2)), length - side)
        edges += [first, first + side]
    return Rect(*edges)


def _weights(
    sample: Sample,
    tools: tuple[SliceModel, Planes, Embedder],
    cloud: Cloud,
    mask: npt.NDArray[np.bool_],
) -> tuple[float, ...]:
    """Fit the weights of PerSAM-F in the slice of largest area."""
    model, planes, embedder = tools
    index = int(mask.sum(axis=(1, 2)).argmax())
    rows = cloud.rows_of(index)
    mean = unit(sample.features.mean(axis=0, keepdims=True))
    best = rows[int(similarity(mean, cloud.features[rows])[0].argmax())]
    click = SlicePrompts(cloud.place[best : best + 1, 1:], np.array([True]))
    masks = readings(model, embedder.get(index, planes.whole), click)
    return fit_weights(masks, mask[index]).values


def _closer_mm(planes: Planes, mask: npt.NDArray[np.bool_]) -> float:
    """Side in mm of a closer look at a small object."""
    sides = [np.ptp(np.flatnonzero(mask.any(axis=(0, 2 - a)))) + 1 for a in range(2)]
    spacing = planes.spacing_rc_mm
    longest = max(float(n) * step for n, step in zip(sides, spacing, strict=True))
    return max(CLOSER_SIDE * longest, MIN_CLOSER_PX * min(spacing))


def _beside(cloud: Cloud, rows: npt.NDArray[np.int64], held_mm: Places) -> npt.NDArray[np.int64]:
    middle = held_mm.mean(axis=0)
    half_mm = np.ptp(held_mm, axis=0) / 2 + BESIDE_MM
    near = rows[(np.abs(cloud.at_mm[rows] - middle) < half_mm).all(axis=1)]
    both = [_drawn(near, BESIDE_LIMIT // 2), _drawn(rows, BESIDE_LIMIT // 2)]
    return np.unique(np.concatenate(both))


def _drawn(rows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    if len(rows) <= count:
        return rows
    kept = np.random.default_rng(0).choice(rows, count, replace=False)
    return np.sort(kept)
