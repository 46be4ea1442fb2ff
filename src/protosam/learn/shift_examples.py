"""Examples for teaching a shift: slices of finished cases, embedded once, with what is true there.

Owns which slices are taken and how they are looked at: as a whole and closer, by the same rule as
at work (`planes.focus`), and beside a neighbour of which the object is known. Knows nothing of
optimisers. Arrays are (row, col) of a slice's rectangle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from protosam.errors import InvalidInput
from protosam.geometry import Volume
from protosam.intensity import auto_window
from protosam.learn.finished_cases import FinishedCase, OnProgress
from protosam.learn.pupils import Pupil, pupil_of
from protosam.models.planes import Patch, Planes, Rect, focus
from protosam.models.slice_axis import choose_axis
from protosam.models.slice_model import SliceEmbedding, SliceModel
from protosam.prompts import PromptSet

BoolArray = npt.NDArray[np.bool_]

MIN_PIXELS = 12
"""Smallest area of an object in a slice that is taught; less is hardly a click wide."""


MIRRORS = ((), (1,), (0,), (0, 1))
"""Axes of a slice along which cases are mirrored, one after the other, while there are fewer than
half as many examples as wanted: five photographs are five examples, mirrored they are twenty."""


@dataclass(frozen=True, eq=False)
class View:
    """A rectangle of a slice, encoded, and the object in it.

    Attributes
    ----------
    embedding : SliceEmbedding
    rect : Rect
    truth : (rows, columns) bool
    target : (h, w) float32 tensor
        The truth on the decoder's grid, 0..1.
    """

    embedding: SliceEmbedding
    rect: Rect
    truth: BoolArray
    target: torch.Tensor


@dataclass(frozen=True, eq=False)
class Example:
    """One object in one slice.

    Attributes
    ----------
    case : str
    label : int
    whole, closer : View
        The same slice, as it is looked at first and afterwards.
    followed : View or None
        A slice beside it (perhaps past the object's end), in the rectangle of `closer`.
    look : (Patch, (n, 2) points) -> View or None
        View in which an answer with these clicks on the object would be looked at next; encoded
        when it is first asked for. None where nothing was found.
    """

    case: str
    label: int
    whole: View
    closer: View
    followed: View | None
    look: Callable[[Patch, npt.NDArray[np.float64]], View | None]


def examples_of(
    cases: Sequence[FinishedCase],
    model: SliceModel,
    *,
    count: int,
    seed: int,
    on_progress: OnProgress,
) -> list[Example]:
    """Choose and encode about `count` examples, spread evenly over cases and labels.

    Where the cases have few slices, mirrored copies are added, under the same case's name.

    Parameters
    ----------
    cases : sequence of FinishedCase
    model : SliceModel
    count : int
        No more than this many, but at least one of each label of each case.
    seed : int
    on_progress : (fraction 0..1, text) -> None

    Raises
    ------
    InvalidInput
        If no case has an object of `MIN_PIXELS` in any slice.
    """
    rng = np.random.default_rng([seed, 7])
    pairs = sum(bool((case.labels.voxels == n).any()) for case in cases for n in case.wanted)
    each = max(1, count // max(1, pairs))
    found: list[Example] = []
    for axes in MIRRORS:
        if axes and len(found) >= count // 2:
            break
        for number, case in enumerate(cases):
            on_progress(number / len(cases), f"encoding case {number + 1} of {len(cases)}")
            found += _Case(case, model, axes).examples(each, rng)
    if not found:
        raise InvalidInput(
            f"None of the {len(cases)} cases has an object of {MIN_PIXELS} pixels in a slice.",
            "Check the labels that were asked for, and the label maps.",
        )
    return found


@dataclass(frozen=True, eq=False)
class _Looks:
    """Views of one example so far."""

    index: int
    label: int
    views: dict[Rect, View]


class _Case:
    """One case while its examples are made; slices seen whole are encoded once."""

    def __init__(self, case: FinishedCase, model: SliceModel, mirrored: tuple[int, ...]) -> None:
        self._case, self._model = case, model
        self._pupil: Pupil = pupil_of(model)
        axis = choose_axis(PromptSet(), case.image)
        in_plane = [n for n in range(3) if n != axis]
        flipped = tuple(in_plane[n] for n in mirrored)
        image = Volume(np.flip(case.image.voxels, flipped), case.image.affine)
        self._planes = Planes(image, axis, auto_window(image.voxels))
        self._labels = np.moveaxis(np.flip(case.labels.voxels, flipped), axis, 0)
        self._whole: dict[int, SliceEmbedding] = {}

    def examples(self, each: int, rng: np.random.Generator) -> list[Example]:
        """Examples of all labels, `each` of every one."""
        chosen = [
            (label, index)
            for label in self._case.wanted
            for index in _slices(np.count_nonzero(self._labels == label, axis=(1, 2)), each, rng)
        ]
        return [self._example(label, index, rng) for label, index in chosen]

    def _example(self, label: int, index: int, rng: np.random.Generator) -> Example:
        planes, truth = self._planes, self._labels[index] == label
        seen = Patch(planes.whole, np.where(truth, 1.0, -1.0).astype(np.float32)).mask_rect
        rect = planes.whole if seen is None else focus(planes, seen, current=None)
        beside = index + int(rng.choice([-1, 1]))
        followed = None
        if self._model.reads_neighbours and 0 <= beside < planes.depth:
            followed = self._view(beside, rect, label)
        whole = self._view(index, planes.whole, label)
        closer = whole if rect == planes.whole else self._view(index, rect, label)
        look = partial(self._look, _Looks(index, label, {whole.rect: whole, closer.rect: closer}))
        return Example(self._case.name, label, whole, closer, followed, look)

    def _look(self, looks: _Looks, found: Patch, points_rc: npt.NDArray[np.float64]) -> View | None:
        seen, whole = found.mask_rect, self._planes.whole
        if seen is None:
            return None
        for row, col in np.round(points_rc).astype(int):
            seen = seen.union(Rect(int(row), int(row) + 1, int(col), int(col) + 1))
        current = None if found.rect == whole else found.rect
        rect = focus(self._planes, seen.intersection(whole), current=current)
        if rect not in looks.views:
            looks.views[rect] = self._view(looks.index, rect, looks.label)
        return looks.views[rect]

    def _view(self, index: int, rect: Rect, label: int) -> View:
        is_whole = rect == self._planes.whole
        embedding = self._whole.get(index) if is_whole else None
        if embedding is None:
            stack = self._planes.stack(index, rect, self._model.context_slices)
            made = self._model.embed(stack[None], self._planes.spacing_rc_mm)
            embedding = self._pupil.keep(made[0])
        if is_whole:
            self._whole[index] = embedding
        truth = np.asarray(self._labels[(index, *rect.slices)] == label)
        return View(embedding, rect, truth, self._pupil.target(embedding, truth))


def _slices(areas: npt.NDArray[np.int_], each: int, rng: np.random.Generator) -> list[int]:
    """Slices of an object: the largest, and others all along it, the first and last included."""
    usable = np.flatnonzero(areas >= MIN_PIXELS)
    if usable.size <= each:
        return [int(index) for index in usable]
    parts = np.array_split(usable, each)
    chosen = {int(rng.choice(part)) for part in parts[1:]}
    return sorted({int(areas.argmax()), *chosen})
