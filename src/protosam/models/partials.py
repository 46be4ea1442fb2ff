"""Partial answers: what a sweep has answered so far, handed out while it goes on.

Rules
-----
* A partial answer speaks about some slices and about nothing else: what it does not draw in them
  is not there (yet). It holds what the model says in the first view, cut as the answer will be;
  further views, the random walk and the clean-up come with the answer, which replaces it.
* The first one goes out at once, the next ones at most every `EVERY_S`, so that neither the wire
  nor the host's scene is flooded.
* Nothing is handed out of prompts whose answer the host shows already (`settled`): it is finished,
  and better than the same slices of one view.
* Array order is (k, j, i) at the border and (slice, row, col) inside. The answer does not depend
  on anything here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from protosam.extents import Extent, bounding_extent
from protosam.models.planes import Planes
from protosam.models.propagate import SweepInput
from protosam.models.slice_solver import SolvedSlice
from protosam.models.views import View, field_of
from protosam.prompts import PromptSet

EVERY_S = 0.12
"""Shortest time between two partial answers of one request."""


@dataclass(frozen=True, eq=False)
class PartialAnswer:
    """What is known of some slices before the answer is there.

    Attributes
    ----------
    extent : Extent or None
        Bounding box of the mask in the volume; None if nothing is in these slices.
    mask : (k, j, i) bool
        The mask within `extent`; of no voxels when it is empty.
    axis : int
        Array axis across which the slices lie.
    slices : tuple of int
        The slices that it speaks about, ascending; the mask is empty in all others.
    """

    extent: Extent | None
    mask: npt.NDArray[np.bool_]
    axis: int
    slices: tuple[int, ...]


OnPartial = Callable[[PartialAnswer], None]


@dataclass(frozen=True, eq=False)
class PartialWish:
    """Who gets partial answers, and of what."""

    hand_out: OnPartial
    """Gets them, on the thread that makes the answer."""
    allowed: Extent
    """Voxels that the answer may have."""
    settled: Collection[str] = ()
    """Ids of the prompts whose answer the host shows already."""

    def stream(self, planes: Planes, prompts: PromptSet, start: SweepInput) -> PartialStream:
        """Make what a sweep tells of its slices."""
        quiet = settled_turns(prompts, start, self.settled)
        return PartialStream(planes, self.allowed, self.hand_out, quiet_turns=quiet)


class PartialStream:
    """Gathers the slices of one sweep and hands them out in groups.

    Parameters
    ----------
    planes : Planes
    allowed : Extent
        Voxels outside this box stay out.
    hand_out : (PartialAnswer) -> None
    quiet_turns : int
        Nothing is said of the first so many turns.
    clock : () -> float, optional
        Monotonic seconds.
    """

    def __init__(
        self,
        planes: Planes,
        allowed: Extent,
        hand_out: OnPartial,
        *,
        quiet_turns: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._planes, self._allowed, self._hand_out = planes, allowed, hand_out
        self._quiet_turns, self._clock = quiet_turns, clock
        self._waiting: dict[int, SolvedSlice | None] = {}
        self._next_s = float("-inf")

    def __call__(self, turn: int, index: int, solved: SolvedSlice | None) -> None:
        """Take in a slice that was answered in a turn; None = its answer was taken back."""
        if turn < self._quiet_turns:
            return
        self._waiting[index] = solved
        if self._clock() >= self._next_s:
            self.flush()

    def flush(self) -> None:
        """Hand out what is gathered, if there is anything."""
        if self._waiting:
            waiting, self._waiting = self._waiting, {}
            self._hand_out(_partial(self._planes, self._allowed, waiting))
            self._next_s = self._clock() + EVERY_S


def settled_turns(prompts: PromptSet, start: SweepInput, settled: Collection[str]) -> int:
    """Count the first turns of a sweep that need not be told of.

    Parameters
    ----------
    prompts : PromptSet
        What `start` was made of.
    start : SweepInput
    settled : ids
        Of prompts whose answer is shown already.
    """
    if any(box.id not in settled for box in prompts.boxes):
        return 0
    of_boxes = sum(
        one.box_rc is not None and not len(one.points_rc) for one in start.given.values()
    )
    for count, point in enumerate(prompts.points):
        if point.id not in settled:
            return of_boxes + count
    return of_boxes + len(prompts.points)


def _partial(
    planes: Planes, allowed: Extent, answers: Mapping[int, SolvedSlice | None]
) -> PartialAnswer:
    slices = tuple(sorted(answers))
    nothing = PartialAnswer(None, np.zeros((0, 0, 0), bool), planes.axis, slices)
    drawn = {
        z: replace(one, patch=one.patch.cropped())
        for z, one in answers.items()
        if one is not None and one.patch.area
    }
    if not drawn:
        return nothing
    field = field_of(planes, drawn, View(planes.axis))
    box = field.extent.intersection(allowed)
    mask = field.logits[box.relative_to(field.extent).slices] > 0
    tight = bounding_extent(mask) if mask.size else None
    if tight is None:
        return nothing
    return PartialAnswer(tight.moved(box.start_kji), mask[tight.slices], planes.axis, slices)
