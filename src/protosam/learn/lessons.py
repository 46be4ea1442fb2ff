"""Lessons for an adapter: slices of finished cases, half encoded, and questions as at work.

Owns which slices are taken, how they are looked at (as a whole and closer, by the rule of work,
`planes.focus`; beside a neighbour of which the object is known), how they are varied (the kept work
of the front cannot be, so that variants are encoded beside it) and what is asked: a click, a box,
the same click looked at closer with the first answer as prior, a correction where the answer is
wrong, a neighbour without a click whose slice beside is known, and an answer carried from slice to
slice with its errors, as a whole object is found. Answers before the last one are given without
gradient, as in SAM's training (Kirillov et al. 2023, appendix A). Coordinates are (row, col) of a
look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from protosam.clicks import next_click
from protosam.errors import InvalidInput
from protosam.geometry import Volume
from protosam.intensity import Window, auto_window
from protosam.learn.clicks import deep_point, jittered_box, pick
from protosam.learn.finished_cases import FinishedCase, OnProgress
from protosam.learn.fronts import Begun, Front
from protosam.learn.pupils import Pupil
from protosam.models.planes import Patch, Planes, Rect, focus
from protosam.models.slice_axis import choose_axis
from protosam.models.slice_model import SliceEmbedding, SliceModel, SlicePrompts
from protosam.prompts import PromptSet

BoolArray = npt.NDArray[np.bool_]
Float32Array = npt.NDArray[np.float32]

QUESTIONS = {
    "click": 0.25,
    "box": 0.1,
    "closer": 0.15,
    "corrected": 0.2,
    "followed": 0.1,
    "carried": 0.2,
}
"""Distribution of the questions."""

CARRIED = 2
"""How many slices an answer is carried on in a lesson, at most: each one costs an encoding."""

SURE = 6.0
"""Logit of what is told of a neighbouring slice whose object is known."""

MIN_PIXELS = 12
"""Smallest area of an object in a slice that is taught; less is hardly a click wide."""


WINDOW_SHIFT = 0.15
"""Largest shift of either end of the window in a variant, in widths of the window."""

FRAME_SHIFT = 0.25
"""Largest shift of each side of the object's rectangle in a variant, in sides: a first answer that
a closer look follows is not the truth either."""


@dataclass(frozen=True)
class Variant:
    """How a case is shown; as it is by default."""

    mirrored: tuple[int, ...] = ()
    """Axes of (slices, rows, columns) along which it is mirrored."""
    window_shifts: tuple[float, float] = (0.0, 0.0)
    """Of the window's low and high end, in its widths."""
    frame_shift: float = 0.0
    """Largest shift of the object's rectangle, in its sides."""

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Variant:
        """Return a variant by chance."""
        mirrored = tuple(axis for axis in (1, 2) if rng.random() < 0.5)
        low, high = rng.uniform(-WINDOW_SHIFT, WINDOW_SHIFT, size=2)
        return cls(mirrored, (float(low), float(high)), FRAME_SHIFT)


@dataclass(frozen=True, eq=False)
class Look:
    """A rectangle of a slice, taken through the frozen part, and the object in it."""

    begun: Begun
    rect: Rect
    truth: BoolArray
    """(rows, columns)."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """One object in one slice."""

    whole: Look
    closer: Look
    """The same slice, as it is looked at after the first answer."""
    onward: tuple[Look, ...]
    """The next slices on one side (perhaps past the object's end), in the rectangle of `closer`."""


def lessons_of(
    cases: Sequence[FinishedCase],
    model: SliceModel,
    front: Front,
    *,
    count: int,
    seed: int,
    on_progress: OnProgress,
) -> list[Lesson]:
    """Choose about `count` slices, spread evenly over cases and labels, and encode their front.

    Half of them are shown as they are; the others, and all that is lacking where the cases have few
    slices, are variants.

    Raises
    ------
    InvalidInput
        When no case has an object of `MIN_PIXELS` in any slice.
    """
    rng = np.random.default_rng([seed, 21])
    pairs = sum(bool((case.labels.voxels == n).any()) for case in cases for n in case.wanted)
    each = max(1, count // (2 * max(1, pairs)))
    found: list[Lesson] = []
    while len(found) < count:
        begun = len(found)
        for number, case in enumerate(cases):
            done = (begun + number / len(cases) * min(each * pairs, count - begun)) / count
            on_progress(done, f"encoding part {number + 1} of {len(cases)}")
            variant = Variant.drawn(rng) if begun else Variant()
            found += _Lecturer(case, model, front, variant).lessons(each, rng)
        if len(found) == begun:
            raise InvalidInput(
                f"None of the {len(cases)} cases has an object of {MIN_PIXELS} pixels in a slice.",
                "Check the labels that were asked for, and the label maps.",
            )
    return found[:count]


class _Lecturer:
    """One case while its lessons are made."""

    def __init__(
        self, case: FinishedCase, model: SliceModel, front: Front, variant: Variant
    ) -> None:
        self._wanted, self._model, self._front = case.wanted, model, front
        self._variant = variant
        axis = choose_axis(PromptSet(), case.image)
        in_order = (axis, *(n for n in range(3) if n != axis))
        flipped = tuple(in_order[n] for n in variant.mirrored)
        image = Volume(np.flip(case.image.voxels, flipped), case.image.affine)
        self._planes = Planes(image, axis, shifted_window(auto_window(image.voxels), variant))
        self._labels = np.moveaxis(np.flip(case.labels.voxels, flipped), axis, 0)

    def lessons(self, each: int, rng: np.random.Generator) -> list[Lesson]:
        """`each` lessons of every label."""
        chosen = [
            (label, index)
            for label in self._wanted
            for index in spread(slice_areas(self._labels == label), each, rng)
        ]
        return [self._lesson(label, index, rng) for label, index in chosen]

    def _lesson(self, label: int, index: int, rng: np.random.Generator) -> Lesson:
        planes, truth = self._planes, self._labels[index] == label
        seen = Patch(planes.whole, _known(truth)).mask_rect
        if seen is None:
            rect = planes.whole
        else:
            moved = moved_frame(seen, self._variant.frame_shift, rng).intersection(planes.whole)
            rect = focus(planes, moved, current=None)
        whole = self._look(index, planes.whole, label)
        closer = whole if rect == planes.whole else self._look(index, rect, label)
        onward = tuple(self._look(n, rect, label) for n in self._onward(index, rng))
        return Lesson(whole, closer, onward)

    def _onward(self, index: int, rng: np.random.Generator) -> list[int]:
        """Slices that come next, on a side drawn by chance; none for models that follow nothing."""
        if not self._model.reads_neighbours:
            return []
        side = int(rng.choice([-1, 1]))
        next_ones = (index + side * n for n in range(1, CARRIED + 1))
        return [n for n in next_ones if 0 <= n < self._planes.depth]

    def _look(self, index: int, rect: Rect, label: int) -> Look:
        stack = self._planes.stack(index, rect, self._model.context_slices)
        begun = self._front.begin(stack, self._planes.spacing_rc_mm)
        return Look(begun, rect, np.asarray(self._labels[(index, *rect.slices)] == label))


class Asker:
    """Asks questions of lessons and tells how badly they were answered.

    Parameters
    ----------
    pupil : Pupil
        Of the model that learns.
    front : Front
        Of the same model.
    """

    def __init__(self, pupil: Pupil, front: Front) -> None:
        self._pupil, self._front = pupil, front

    def loss(
        self, lesson: Lesson, rng: np.random.Generator, kind: str | None = None
    ) -> torch.Tensor:
        """Loss of one question, of a kind of `QUESTIONS` or drawn from them."""
        chosen = str(pick(rng, QUESTIONS)) if kind is None else kind
        if chosen == "followed" and lesson.onward:
            return self._judged_beside(lesson.onward[0], _known(lesson.closer.truth))
        prompts = _opening(lesson.whole.truth, rng, box=chosen == "box")
        look = lesson.whole
        if chosen in ("closer", "corrected", "carried") and lesson.closer is not lesson.whole:
            found = self._found(look, prompts)
            prompts = _moved(prompts, Patch(look.rect, found), lesson.closer.rect)
            look = lesson.closer
        if chosen == "carried" and lesson.onward:
            return self._carried(lesson, prompts, int(rng.integers(len(lesson.onward))))
        embedding = self._front.finish(look.begun)
        if chosen == "corrected":
            prompts = self._corrected(look, embedding, prompts, int(rng.integers(1, 3)))
        return self._judged(look, embedding, prompts)

    def _carried(self, lesson: Lesson, prompts: SlicePrompts, last: int) -> torch.Tensor:
        """Carry the answer to a click over some slices; the last one is judged."""
        found = self._found(lesson.closer, prompts)
        for look in lesson.onward[:last]:
            found = self._found(look, SlicePrompts(neighbour_logits=found))
        return self._judged_beside(lesson.onward[last], found)

    def _judged_beside(self, look: Look, beside: Float32Array) -> torch.Tensor:
        """Loss of a slice without a click, whose neighbour's answer (H, W) is told."""
        prompts = SlicePrompts(neighbour_logits=beside)
        return self._judged(look, self._front.finish(look.begun), prompts)

    @torch.no_grad()
    def _found(self, look: Look, prompts: SlicePrompts) -> Float32Array:
        return self._answer(self._front.finish(look.begun), prompts)

    def _corrected(
        self, look: Look, embedding: SliceEmbedding, prompts: SlicePrompts, clicks: int
    ) -> SlicePrompts:
        """Click where the answer is wrong, so many times; not where nothing is."""
        for _ in range(clicks):
            found = self._answer(embedding, prompts)
            click = next_click(found > 0, look.truth, (1.0, 1.0))
            if click is None:
                break
            points = np.concatenate([prompts.points_rc, [click.place]])
            positive = np.append(prompts.positive, click.positive)
            prompts = SlicePrompts(points, positive, prompts.box_rc, found)
        return prompts

    def _judged(self, look: Look, embedding: SliceEmbedding, prompts: SlicePrompts) -> torch.Tensor:
        reading = self._pupil.ask(embedding, prompts, None)
        return self._pupil.loss(reading, self._pupil.target(embedding, look.truth))

    @torch.no_grad()
    def _answer(self, embedding: SliceEmbedding, prompts: SlicePrompts) -> Float32Array:
        reading = self._pupil.ask(embedding, prompts, None)
        return self._pupil.on_slice(embedding, reading.shown)


def slice_areas(mask: BoolArray) -> npt.NDArray[np.int_]:
    """Pixels of a mask (slices, rows, columns) in each slice."""
    return np.asarray(np.count_nonzero(mask, axis=(1, 2)))


def spread(areas: npt.NDArray[np.int_], each: int, rng: np.random.Generator) -> list[int]:
    """Slices of an object: the largest, and others all along it."""
    usable = np.flatnonzero(areas >= MIN_PIXELS)
    if usable.size <= each:
        return [int(index) for index in usable]
    drawn = {int(rng.choice(part)) for part in np.array_split(usable, each)[1:]}
    return sorted({int(areas.argmax()), *drawn})


def _opening(truth: BoolArray, rng: np.random.Generator, *, box: bool) -> SlicePrompts:
    """First prompt: a click deep in the object, or a box round it."""
    # The draws work on a half grid and answer in pixels of a frame of twice its side.
    if box:
        x0, y0, x1, y1 = ((v - 0.5) / 2 for v in jittered_box(truth, rng))
        return SlicePrompts(box_rc=np.array([y0, x0, y1, x1]))
    x, y = deep_point(truth, rng)
    return SlicePrompts(np.array([[(y - 0.5) / 2, (x - 0.5) / 2]]), np.array([True]))


def _moved(prompts: SlicePrompts, found: Patch, rect: Rect) -> SlicePrompts:
    """Ask what was asked in the whole slice again in a rectangle, with its answer as prior."""
    points = prompts.points_rc - np.array([rect.top, rect.left])
    return SlicePrompts(points, prompts.positive, None, found.on(rect))


def moved_frame(seen: Rect, share: float, rng: np.random.Generator) -> Rect:
    """Move each side of a rectangle by up to a share of its length, outwards more than inwards."""
    rows, columns = seen.shape
    by = rng.uniform(-share, 2 * share, size=4) * (rows, rows, columns, columns)
    top, bottom, left, right = (round(float(v)) for v in by)
    return Rect(seen.top - top, seen.bottom + bottom, seen.left - left, seen.right + right)


def shifted_window(window: Window, variant: Variant) -> Window:
    """Window that a variant is shown at."""
    low, high = ((window.high - window.low) * shift for shift in variant.window_shifts)
    return Window(window.low + low, window.high + high)


def _known(truth: BoolArray) -> Float32Array:
    return np.where(truth, SURE, -SURE).astype(np.float32)
