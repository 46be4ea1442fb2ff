"""One object in one slice, clicked as at work: the whole slice first, then closer, then corrected.

Owns the order of the questions and the rectangles they are asked in; both follow
`models.slice_solver`, with the model's own answers deciding where to look closer. Points are
(row, col) pixels of the whole slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from protosam import metrics
from protosam.clicks import next_click
from protosam.learn.pupils import Pupil
from protosam.learn.shift_examples import Example, View
from protosam.models.planes import Patch
from protosam.models.shift import PatternShift
from protosam.models.slice_model import SlicePrompts


@dataclass(frozen=True, eq=False)
class Question:
    """Prompts in a view, in its own pixels."""

    view: View
    prompts: SlicePrompts


class ClickGame:
    """Clicks on one example, one after the other.

    Parameters
    ----------
    example : Example
    point_rc : (2,) float array
        First click, on the object.
    pupil : Pupil
    shift : PatternShift or None
        None for the base model.

    Attributes
    ----------
    question : Question
        What is asked now.
    """

    def __init__(
        self,
        example: Example,
        point_rc: npt.NDArray[np.float64],
        pupil: Pupil,
        shift: PatternShift | None,
    ) -> None:
        self._example, self._pupil, self._shift = example, pupil, shift
        self._points, self._positive = point_rc[None], np.array([True])
        self._found: Patch | None = None
        self.question = Question(example.whole, SlicePrompts(self._points, self._positive))

    @torch.no_grad()
    def answer(self) -> None:
        """Let the model answer the question."""
        view = self.question.view
        reading = self._pupil.ask(view.embedding, self.question.prompts, self._shift)
        self._found = Patch(view.rect, self._pupil.on_slice(view.embedding, reading.shown))

    def look_closer(self) -> bool:
        """Ask the same, closer to what was found; False where there is no closer view."""
        view = self._view()
        if view is None or view.rect == self._example.whole.rect:
            return False
        self._ask_in(view)
        return True

    def correct(self) -> bool:
        """Click where the answer is most wrong, and ask again; False where nothing is wrong."""
        click = next_click(self._mask(), self._example.whole.truth, (1.0, 1.0))
        if click is None:
            return False
        self._points = np.concatenate([self._points, [click.place]])
        self._positive = np.append(self._positive, click.positive)
        self._ask_in(self._view() or self._example.whole)
        return True

    def dice(self) -> float:
        """Dice of the answer in the whole slice."""
        return metrics.dice(self._mask(), self._example.whole.truth)

    def _view(self) -> View | None:
        if self._found is None:
            return None
        return self._example.look(self._found, self._points[self._positive])

    def _mask(self) -> npt.NDArray[np.bool_]:
        truth = self._example.whole.truth
        if self._found is None:
            return np.zeros_like(truth)
        return np.asarray(self._found.on(self._example.whole.rect) > 0)

    def _ask_in(self, view: View) -> None:
        kept = np.array([view.rect.holds(point) for point in self._points], dtype=bool)
        points = self._points[kept] - np.array([view.rect.top, view.rect.left])
        prior = None if self._found is None else self._found.on(view.rect)
        self.question = Question(view, SlicePrompts(points, self._positive[kept], None, prior))
