"""Sweeps: their order, where they end, how they are joined, and that they can be stopped."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from protosam.errors import Cancelled
from protosam.models.planes import ABSENT, Patch, Rect
from protosam.models.propagate import (
    MIN_AREA,
    Propagation,
    SweepInput,
    blend,
    ends,
)
from protosam.models.slice_solver import SliceInput, SolvedSlice

WHOLE = Rect(0, 10, 0, 10)
CLICK = SliceInput(np.array([[5.0, 5.0]]), np.array([True]))
NEGATIVE = SliceInput(np.array([[5.0, 5.0]]), np.array([False]))


def solved(level=4.0, presence=1.0, score=0.8, area=16):
    logits = np.full((10, 10), -4.0, np.float32)
    logits.reshape(-1)[:area] = level
    return SolvedSlice(Patch(WHOLE, logits), score, presence)


@dataclass
class ScriptedSolver:
    """Says what it is told to say, and remembers what it was asked."""

    answers: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)

    def start(self, index, given, prior=None):
        self.asked.append(("start", index))
        return self.answers.get(index, solved())

    def follow(self, index, given, neighbour, prior=None, *, ahead=()):
        self.asked.append(("follow", index))
        self.ahead = list(ahead)
        return self.answers.get(index, solved())


def run(solver, given, *, first=0, stop=12, prior=None, should_stop=lambda: False, told=None):
    return Propagation(
        solver,
        SweepInput(given, first, stop, prior or {}),
        should_stop=should_stop,
        on_slice=(told if told is not None else []).append,
    )


def test_the_clicked_slice_comes_first_then_both_directions():
    solver = ScriptedSolver({3: solved(presence=0.1), 8: solved(presence=0.1)})
    found = run(solver, {5: CLICK}).whole_object()
    assert solver.asked == [
        ("start", 5),
        *[("follow", z) for z in (6, 7, 8)],
        *[("follow", z) for z in (4, 3)],
    ]
    assert sorted(found) == [4, 5, 6, 7]


def test_sweeps_stay_in_the_allowed_range():
    found = run(ScriptedSolver(), {5: CLICK}, first=3, stop=9).whole_object()
    assert sorted(found) == [3, 4, 5, 6, 7, 8]


def test_the_clicked_slices_alone_are_answered_on_demand():
    solver = ScriptedSolver()
    found = run(solver, {5: CLICK, 9: CLICK}).clicked_slices()
    assert solver.asked == [("start", 5), ("start", 9)]
    assert sorted(found) == [5, 9]


def test_an_object_ends_where_it_is_absent_or_too_small():
    assert ends(solved(presence=0.4))
    assert ends(solved(area=MIN_AREA - 1))
    assert not ends(solved(area=MIN_AREA))


def test_a_clicked_slice_is_kept_even_if_the_model_sees_nothing_there():
    solver = ScriptedSolver({8: solved(presence=0.1)})
    found = run(solver, {5: CLICK, 8: CLICK}).whole_object()
    assert 8 in found
    assert 9 in found  # the sweep goes on behind it


def test_a_sweep_does_not_ask_again_what_another_has_answered():
    solver = ScriptedSolver({7: solved(presence=0.1)})
    run(solver, {5: CLICK, 9: CLICK}).whole_object()
    assert ("start", 9) in solver.asked
    assert len(solver.asked) == len(set(solver.asked)) + 1  # 7: once from each side


def test_a_slice_with_negative_clicks_alone_begins_no_sweep():
    solver = ScriptedSolver()
    run(solver, {9: NEGATIVE, 5: CLICK}).whole_object()
    assert solver.asked[0] == ("start", 5)
    assert solver.asked.count(("start", 9)) == 0


@pytest.mark.parametrize("given", [{4: CLICK, 8: NEGATIVE}, {8: NEGATIVE, 4: CLICK}])
def test_between_two_knots_a_second_sweep_comes_from_the_later_one(given):
    solver = ScriptedSolver()
    run(solver, given).whole_object()
    assert solver.asked[-3:] == [("follow", 7), ("follow", 6), ("follow", 5)]


def test_joined_slices_are_weighted_by_their_distance():
    class Changing(ScriptedSolver):
        def follow(self, index, given, neighbour, prior=None, *, ahead=()):
            again = ("follow", index) in self.asked
            super().follow(index, given, neighbour, prior, ahead=ahead)
            return solved(level=-4.0 if again else 4.0, area=100)

    found = run(Changing(), {4: CLICK, 8: CLICK}).whole_object()
    assert [float(found[z].patch.logits[0, 0]) for z in (5, 6, 7)] == [1.0, -2.0, -5.0]


def test_a_blend_counts_an_absent_object_as_surely_outside():
    mixed = blend(solved(), solved(presence=0.0), 0.5)
    assert mixed.patch.logits[0, 0] == (4 + ABSENT) / 2
    assert mixed.presence == 0.5
    assert mixed.score == pytest.approx(0.8)


def test_a_blend_covers_both_rectangles():
    left = SolvedSlice(Patch(Rect(0, 4, 0, 4), np.full((4, 4), 2, np.float32)), 1.0, 1.0)
    right = SolvedSlice(Patch(Rect(0, 4, 2, 6), np.full((4, 4), 6, np.float32)), 0.5, 1.0)
    mixed = blend(left, right, 0.25)
    assert mixed.patch.rect == Rect(0, 4, 0, 6)
    assert mixed.patch.logits[0].tolist() == [-0.5, -0.5, 3.0, 3.0, -4.5, -4.5]


def test_a_sweep_over_an_earlier_mask_ends_where_nothing_changes():
    prior = {z: solved().patch for z in range(12)}
    changed = solved(area=40)
    solver = ScriptedSolver({5: changed, 6: changed})
    found = run(solver, {5: CLICK}, prior=prior).whole_object()
    assert solver.asked == [("start", 5), ("follow", 6), ("follow", 7), ("follow", 4)]
    assert sorted(found) == list(range(12))
    assert found[6].patch.area == 40
    assert found[8].patch.area == 16


def test_negative_clicks_begin_a_sweep_in_an_earlier_mask():
    prior = {z: solved().patch for z in range(12)}
    solver = ScriptedSolver()
    run(solver, {5: NEGATIVE}, prior=prior).whole_object()
    assert solver.asked[0] == ("start", 5)


def test_the_slices_ahead_are_those_of_the_direction_that_nobody_has_answered():
    solver = ScriptedSolver({3: solved(presence=0.1)})
    run(solver, {5: CLICK}).whole_object()
    assert solver.ahead == [2, 1, 0]


def test_stopping_is_asked_before_every_slice():
    asked = []

    def should_stop():
        asked.append(None)
        return len(asked) == 4

    solver = ScriptedSolver()
    with pytest.raises(Cancelled):
        run(solver, {5: CLICK}, should_stop=should_stop).whole_object()
    assert len(solver.asked) == 3


def test_every_answered_slice_is_reported():
    told = []
    run(ScriptedSolver(), {5: CLICK}, told=told).whole_object()
    assert told == list(range(1, 13))
