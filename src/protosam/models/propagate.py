"""From clicked slices to a volume: clicks in their order, and waves that carry them on.

Rules
-----
* Clicks are taken one after the other, in the order in which they were made. The one that says
  where the object is begins it: its slice is answered, and the answer is handed on from slice to
  slice in both directions until the object ends (`ends`) or the allowed range does.
* Each further click is a correction. In a slice that is answered already, the answer is mended,
  and what came of it is handed on in both directions as a wave, until it changes next to nothing
  (`AGREE`). In a slice that is not, a positive click begins anew, and its wave joins what is
  there (close to an answer it does not begin with something many times larger, `TOO_LARGE`); a
  negative one waits until there is an answer.
* The wave of a positive click only adds to what was answered before, that of a negative one only
  takes away. So no correction undoes what is right elsewhere.
* Where a negative click, or its wave, says that the object is not here, what was answered beyond
  is taken back too, unless a positive click, a box or an earlier mask holds it from further out.
* An earlier mask counts as answered from the beginning, and is never taken back.
* The answer follows from the list of prompts alone. `should_stop` is asked before every slice.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from protosam.errors import Cancelled
from protosam.models.planes import ABSENT, Patch
from protosam.models.slice_solver import SliceInput, SliceSolver, SolvedSlice

PRESENT = 0.5
"""A slice whose presence is estimated below this is beyond the object's end."""

MIN_AREA = 3
"""Pixels below which a propagated mask is beyond the object's end."""

AGREE = 0.9
"""A wave ends where the mask before and after it are alike to this degree (Dice)."""

NEAR = 6
"""Slices away up to which an answer tells how large the object is where another click begins."""

TOO_LARGE = 5.0
"""An area so many times that of the answer close by means another thing."""

OnSlice = Callable[[int], None]
OnSolved = Callable[[int, int, SolvedSlice | None], None]


@dataclass(frozen=True, eq=False)
class SweepInput:
    """What a propagation starts from.

    Attributes
    ----------
    given : slice -> SliceInput
        All prompts of each slice, in the order of its first one.
    order : sequence of int
        The slice of each click, in the order in which they were made.
    first, stop : int
        Allowed range of slices, half open.
    prior : slice -> Patch
        An earlier mask to be mended; empty where there is none.
    stride : int
        Look only at every so many slices, and at those with prompts.
    """

    given: Mapping[int, SliceInput]
    order: Sequence[int]
    first: int
    stop: int
    prior: Mapping[int, Patch]
    stride: int = 1

    def regular(self) -> list[int]:
        """Slices that are looked at even if nothing is asked in them, in order of their index."""
        phase = next(iter(self.given), self.first)
        return [z for z in range(self.first, self.stop) if (z - phase) % self.stride == 0]

    def turns(self) -> Iterator[tuple[int, SliceInput]]:
        """Slices with prompts, boxes before clicks, and what is known in each by then.

        A click into the slice of a box belongs to it: they are one turn.
        """
        made = Counter(self.order)
        for index, given in self.given.items():
            if given.box_rc is not None and not made[index]:
                yield index, given
        so_far: Counter[int] = Counter()
        for index in self.order:
            so_far[index] += 1
            yield index, self.given[index].first(so_far[index])


class Propagation:
    """One answer for a volume.

    Parameters
    ----------
    solver : SliceSolver
    start : SweepInput
    should_stop : () -> bool
    on_slice : (number of slices answered so far) -> None
    on_solved : (number of the turn, slice, its answer) -> None, optional
        Told of each answer as it comes, and of None where one is taken back.
    """

    def __init__(
        self,
        solver: SliceSolver,
        start: SweepInput,
        *,
        should_stop: Callable[[], bool],
        on_slice: OnSlice,
        on_solved: OnSolved | None = None,
    ) -> None:
        self._solver, self._start = solver, start
        self._visited = start.regular()
        self._should_stop, self._on_slice = should_stop, on_slice
        self._on_solved = on_solved or (lambda _turn, _index, _solved: None)
        self._turn = 0
        self._known: dict[int, SliceInput] = {}  # prompts of the turns taken so far
        self._solved: dict[int, SolvedSlice] = {}
        self._answered = 0

    def clicked_slices(self) -> dict[int, SolvedSlice]:
        """Answer only the slices with prompts."""
        for index, given in self._start.given.items():
            self._check()
            self._keep(index, self._solver.start(index, given, self._start.prior.get(index)))
        return self._solved

    def whole_object(self) -> dict[int, SolvedSlice]:
        """Take the prompts in their order, and carry each of them on."""
        for index, patch in self._start.prior.items():
            self._solved[index] = SolvedSlice(patch.cropped(), 1.0, 1.0)
        waiting: list[int] = []
        for turn, (index, known) in enumerate(self._start.turns()):
            self._turn = turn
            self._learn(index, known)
            due = dict.fromkeys([index, *waiting])
            waiting = [z for z in due if not self._take_turn(z)]
        return self._solved

    def _learn(self, index: int, known: SliceInput) -> None:
        """Take a prompt in; from now on its slice is looked at."""
        self._known[index] = known
        if index not in self._visited and self._start.first <= index < self._start.stop:
            insort(self._visited, index)

    def _take_turn(self, index: int) -> bool:
        """Answer a slice that has got a prompt, and hand on what came of it.

        Returns
        -------
        bool
            False if it has to wait: there is no answer for the slice, and its clicks only say
            where the object is not.
        """
        known = self._known[index]
        before = self._solved.get(index) or self._filled_in(index)
        if before is None and not known.starts_object:
            return False
        self._check()
        adds = bool(known.positive[-1]) if len(known.positive) else True
        if before is None:
            answer = self._begin_in(index, known)
        else:
            answer = self._solver.mend(index, known, before)
        gone = ends(answer) and not known.starts_object
        self._keep(index, emptied(answer) if gone else answer)
        for direction in (1, -1):
            if gone:
                self._take_back(self._ahead(index, direction))
            else:
                self._hand_on(index, direction, adds=adds)
        return True

    def _begin_in(self, index: int, known: SliceInput) -> SolvedSlice:
        """Answer a slice that a prompt begins anew.

        A click alone leaves open how large a thing it means. Where that comes out many times
        larger than what is answered close by, it is asked again as a continuation of that.
        """
        answer = self._solver.start(index, known)
        reach = NEAR * self._start.stride
        beside = [z for z in self._solved if abs(z - index) <= reach and not ends(self._solved[z])]
        if known.box_rc is not None or not beside:
            return answer
        nearest = self._solved[min(beside, key=lambda z: abs(z - index))]
        if answer.patch.area <= TOO_LARGE * nearest.patch.area:
            return answer
        return self._solver.follow(index, known, nearest)

    def _filled_in(self, index: int) -> SolvedSlice | None:
        """Answer a slice that a stride has left out; None unless both its neighbours are known."""
        beside = [*self._ahead(index, -1)[:1], *self._ahead(index, 1)[:1]]
        if len(beside) < 2 or any(z not in self._solved for z in beside):
            return None
        self._check()
        nearest = min(beside, key=lambda z: abs(z - index))
        return self._solver.follow(index, SliceInput(), self._solved[nearest])

    def _hand_on(self, origin: int, direction: int, *, adds: bool) -> None:
        """Carry the answer of a slice on until it changes nothing or the object ends."""
        previous = self._solved[origin]
        ahead = self._ahead(origin, direction)
        for place, index in enumerate(ahead):
            before = self._solved.get(index)
            if before is None and not adds:
                return
            answer = self._follow(index, previous, ahead[place + 1 :])
            left = answer if before is None else merged(before, answer, adds=adds)
            if ends(answer) or ends(left):
                if not adds:
                    self._take_back(ahead[place:])
                return
            self._keep(index, left)
            if before is not None and dice(before, left) >= AGREE:
                return
            previous = answer  # not what is left: that holds more than this click says

    def _follow(self, index: int, previous: SolvedSlice, ahead: Sequence[int]) -> SolvedSlice:
        self._check()
        known = self._known.get(index, SliceInput())
        prior = self._start.prior.get(index)
        fresh = [z for z in ahead if z not in self._solved]
        return self._solver.follow(index, known, previous, prior, ahead=fresh)

    def _take_back(self, ahead: Sequence[int]) -> None:
        """Forget the answers next to where the object has ended, unless they are held."""
        loose = []
        for index in ahead:
            if index not in self._solved:
                break
            if self._starts(index) or index in self._start.prior:
                return
            loose.append(index)
        for index in loose:
            del self._solved[index]
            self._on_solved(self._turn, index, None)

    def _starts(self, index: int) -> bool:
        """Whether a prompt so far says that the object is in this slice."""
        return index in self._known and self._known[index].starts_object

    def _ahead(self, origin: int, direction: int) -> list[int]:
        if direction > 0:
            return self._visited[bisect_right(self._visited, origin) :]
        return self._visited[: bisect_left(self._visited, origin)][::-1]

    def _keep(self, index: int, solved: SolvedSlice) -> None:
        self._solved[index] = solved
        self._answered += 1
        self._on_slice(self._answered)
        self._on_solved(self._turn, index, solved)

    def _check(self) -> None:
        if self._should_stop():
            raise Cancelled("The segmentation was cancelled.", "Click again to start anew.")


def ends(solved: SolvedSlice) -> bool:
    """Whether a propagated answer says that the object has ended before this slice."""
    return solved.presence < PRESENT or solved.patch.area < MIN_AREA


def merged(before: SolvedSlice, answer: SolvedSlice, *, adds: bool) -> SolvedSlice:
    """Return what a correction leaves: both masks if it adds, else what they have in common."""
    rect = before.patch.rect.union(answer.patch.rect)
    combine = np.maximum if adds else np.minimum
    logits = combine(before.patch.on(rect), answer.patch.on(rect))
    return replace(answer, patch=Patch(rect, logits))


def emptied(solved: SolvedSlice) -> SolvedSlice:
    """Return the same answer without a mask: what is left of one that says "not here"."""
    patch = Patch(solved.patch.rect, np.full_like(solved.patch.logits, ABSENT))
    return replace(solved, patch=patch)


def dice(one: SolvedSlice, other: SolvedSlice) -> float:
    """Likeness of two answers for one slice, 0..1; two empty ones are alike."""
    rect = one.patch.rect.union(other.patch.rect)
    first, second = one.patch.on(rect) > 0, other.patch.on(rect) > 0
    total = one.patch.area + other.patch.area
    return 2 * int((first & second).sum()) / total if total else 1.0
