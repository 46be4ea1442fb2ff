"""From clicked slices to a volume: sweeps both ways, an end rule, and merging.

Rules
-----
* The slice with the first prompt comes first. From every answered slice the answer is handed on
  to the next one in both directions, until the object ends (`ends`), the allowed range ends, or
  an answered slice is met. A slice with clicks takes them in when a sweep reaches it; one with
  positive clicks that no sweep reached begins its own sweeps.
* Slices with prompts are knots. Between two knots the sweep that came first is joined by one
  from the other knot, weighted by distance, so that a correction works in both directions.
* `should_stop` is asked before every slice.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from protosam.errors import Cancelled
from protosam.models.planes import ABSENT, Patch
from protosam.models.slice_solver import SliceInput, SliceSolver, SolvedSlice

PRESENT = 0.5
"""A slice whose presence is estimated below this is beyond the object's end."""

MIN_AREA = 3
"""Pixels below which a propagated mask is beyond the object's end."""

SAME = 0.97
"""A sweep over an earlier mask ends where it changes less than this (Dice)."""

OnSlice = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class SweepInput:
    """What a propagation starts from.

    Attributes
    ----------
    given : slice -> SliceInput
        The prompts, in the order of the first prompt of each slice.
    first, stop : int
        Allowed range of slices, half open.
    prior : slice -> Patch
        An earlier mask to be mended; empty where there is none.
    stride : int
        Look only at every so many slices, and at those with prompts.
    """

    given: Mapping[int, SliceInput]
    first: int
    stop: int
    prior: Mapping[int, Patch]
    stride: int = 1

    def visited(self) -> list[int]:
        """Slices that are looked at, in order of their index."""
        phase = next(iter(self.given), self.first)
        regular = {z for z in range(self.first, self.stop) if (z - phase) % self.stride == 0}
        return sorted(regular | {z for z in self.given if self.first <= z < self.stop})


class Propagation:
    """One answer for a volume.

    Parameters
    ----------
    solver : SliceSolver
    start : SweepInput
    should_stop : () -> bool
    on_slice : (number of slices answered so far) -> None
    """

    def __init__(
        self,
        solver: SliceSolver,
        start: SweepInput,
        *,
        should_stop: Callable[[], bool],
        on_slice: OnSlice,
    ) -> None:
        self._solver, self._start = solver, start
        self._visited = start.visited()
        self._should_stop, self._on_slice = should_stop, on_slice
        self._solved: dict[int, SolvedSlice] = {}
        self._answered = 0

    def clicked_slices(self) -> dict[int, SolvedSlice]:
        """Answer only the slices with prompts."""
        for index, given in self._start.given.items():
            self._keep(index, self._begin(index, given))
        return self._solved

    def whole_object(self) -> dict[int, SolvedSlice]:
        """Answer the clicked slices and sweep from them."""
        for index, given in self._start.given.items():
            if index in self._solved or not self._can_begin(index, given):
                continue
            self._keep(index, self._begin(index, given))
            for direction in (1, -1):
                self._sweep(index, direction)
        self._join_knots()
        return self._with_prior()

    def _can_begin(self, index: int, given: SliceInput) -> bool:
        """Whether the prompts of a slice say something of the object by themselves."""
        return given.starts_object or (len(given.points_rc) > 0 and index in self._start.prior)

    def _begin(self, index: int, given: SliceInput) -> SolvedSlice:
        self._check()
        return self._solver.start(index, given, self._start.prior.get(index))

    def _sweep(self, origin: int, direction: int) -> None:
        """Hand the answer on from `origin` until the object ends."""
        previous = self._solved[origin]
        for index in self._ahead(origin, direction):
            if index in self._solved:
                return
            solved = self._step(index, previous, direction)
            given = self._start.given.get(index)
            clicked = given is not None and given.starts_object
            if ends(solved) and not clicked:
                return
            self._keep(index, solved)
            if self._is_unchanged(index, solved) and not clicked:
                return
            previous = solved

    def _step(self, index: int, previous: SolvedSlice, direction: int) -> SolvedSlice:
        self._check()
        ahead = [z for z in self._ahead(index, direction) if z not in self._solved]
        given = self._start.given.get(index, SliceInput())
        prior = self._start.prior.get(index)
        return self._solver.follow(index, given, previous, prior, ahead=ahead)

    def _ahead(self, origin: int, direction: int) -> list[int]:
        if direction > 0:
            return self._visited[bisect_right(self._visited, origin) :]
        return self._visited[: bisect_left(self._visited, origin)][::-1]

    def _join_knots(self) -> None:
        """Between neighbouring knots, sweep from the one that the first sweep did not come from."""
        knots = sorted(z for z in self._start.given if z in self._solved)
        order = {z: n for n, z in enumerate(self._solved)}  # as they were answered
        for low, high in itertools.pairwise(knots):
            between = [z for z in self._visited if low < z < high]
            if not between or any(z not in self._solved for z in between):
                continue
            late, early = (high, low) if order[low] < order[high] else (low, high)
            direction = 1 if early > late else -1
            previous = self._solved[late]
            for index in between[::direction]:
                answer = self._step(index, previous, direction)
                weight = abs(index - early) / (high - low)
                self._keep(index, blend(self._solved[index], answer, weight))
                previous = answer

    def _is_unchanged(self, index: int, solved: SolvedSlice) -> bool:
        prior = self._start.prior.get(index)
        if prior is None:
            return False
        before, now = prior.on(solved.patch.rect) > 0, solved.patch.logits > 0
        total = before.sum() + now.sum()
        return bool(total) and 2 * int((before & now).sum()) / int(total) >= SAME

    def _with_prior(self) -> dict[int, SolvedSlice]:
        """Add the earlier mask where nothing was answered anew."""
        for index in self._start.prior:
            if index not in self._solved:
                patch = self._start.prior[index].cropped()
                self._solved[index] = SolvedSlice(patch, 1.0, 1.0)
        return self._solved

    def _keep(self, index: int, solved: SolvedSlice) -> None:
        self._solved[index] = solved
        self._answered += 1
        self._on_slice(self._answered)

    def _check(self) -> None:
        if self._should_stop():
            raise Cancelled("The segmentation was cancelled.", "Click again to start anew.")


def ends(solved: SolvedSlice) -> bool:
    """Whether a propagated answer says that the object has ended before this slice."""
    return solved.presence < PRESENT or solved.patch.area < MIN_AREA


def blend(one: SolvedSlice, other: SolvedSlice, weight: float) -> SolvedSlice:
    """Weighted mean of two answers for one slice; `weight` is that of the second.

    An answer that says "not here" counts with surely negative logits.
    """
    rect = one.patch.rect.union(other.patch.rect)
    first, second = (
        np.full(rect.shape, ABSENT, np.float32) if ends(s) else s.patch.on(rect).clip(-8, 8)
        for s in (one, other)
    )
    mixed = (1 - weight) * first + weight * second
    return SolvedSlice(
        Patch(rect, mixed.astype(np.float32)),
        (1 - weight) * one.score + weight * other.score,
        (1 - weight) * one.presence + weight * other.presence,
    )
