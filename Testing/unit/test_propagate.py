"""Waves: their order, where they end, what they override and take back, and stopping them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from protosam.errors import Cancelled
from protosam.models.planes import Patch, Rect
from protosam.models.propagate import MIN_AREA, Propagation, SweepInput, dice, ends
from protosam.models.slice_solver import SliceInput, SolvedSlice

WHOLE = Rect(0, 10, 0, 10)
CLICK = SliceInput(np.array([[5.0, 5.0]]), np.array([True]))
NEGATIVE = SliceInput(np.array([[5.0, 5.0]]), np.array([False]))
BOX = SliceInput(box_rc=np.array([2.0, 2.0, 7.0, 7.0]))


def solved(level=4.0, presence=1.0, score=0.8, area=16):
    logits = np.full((10, 10), -4.0, np.float32)
    logits.reshape(-1)[:area] = level
    return SolvedSlice(Patch(WHOLE, logits), score, presence)


GONE = solved(presence=0.1)
SMALL, LARGE = solved(area=9), solved(area=25)


@dataclass
class ScriptedSolver:
    """Says what it is told to say, and remembers what it was asked.

    `answers`: for a slice, whatever is asked there; `corrected`: once one slice was mended.
    """

    answers: dict = field(default_factory=dict)
    corrected: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)

    def start(self, index, given, prior=None):
        return self._answer("start", index)

    def mend(self, index, given, before):
        return self._answer("mend", index)

    def follow(self, index, given, neighbour, prior=None, *, ahead=()):
        self.ahead = list(ahead)
        return self._answer("follow", index)

    def _answer(self, how, index):
        self.asked.append((how, index))
        if any(how == "mend" for how, _ in self.asked) and index in self.corrected:
            return self.corrected[index]
        return self.answers.get(index, solved())


def follows(*indices):
    return [("follow", z) for z in indices]


def run(solver, given, *, order=None, first=0, stop=12, prior=None, stride=1, **others):
    if order is None:
        order = [z for z, one in given.items() for _ in one.points_rc]
    others = {"should_stop": lambda: False, "on_slice": lambda _count: None} | others
    return Propagation(solver, SweepInput(given, order, first, stop, prior or {}, stride), **others)


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


def test_an_answered_slice_is_mended_and_the_wave_goes_on_until_it_agrees():
    mended = dict.fromkeys((6, 7, 8, 9), LARGE)
    solver = ScriptedSolver(corrected=mended)
    found = run(solver, {4: CLICK, 8: CLICK}).whole_object()
    begin = solver.asked.index(("mend", 8))
    assert solver.asked[begin:] == [("mend", 8), *follows(9, 10), *follows(7, 6, 5)]
    assert [z for z in found if found[z].patch.area == LARGE.patch.area] == [6, 7, 8, 9]


def test_a_wave_that_changes_nothing_asks_one_slice_on_each_side():
    solver = ScriptedSolver()
    run(solver, {4: CLICK, 8: CLICK}).whole_object()
    assert solver.asked[-3:] == [("mend", 8), *follows(9, 7)]


def test_clicks_are_taken_in_their_order_across_slices():
    twice = SliceInput(np.array([[5.0, 5.0], [6.0, 6.0]]), np.array([True, False]))
    solver = ScriptedSolver()
    run(solver, {4: twice, 8: CLICK}, order=[4, 8, 4]).whole_object()
    own = [one for one in solver.asked if one[0] != "follow"]
    assert own == [("start", 4), ("mend", 8), ("mend", 4)]


def test_a_box_is_taken_before_clicks_elsewhere_and_with_the_clicks_in_its_slice():
    solver = ScriptedSolver()
    run(solver, {6: BOX, 4: CLICK}).whole_object()
    assert solver.asked[0] == ("start", 6)
    assert ("mend", 4) in solver.asked
    both = SliceInput(CLICK.points_rc, CLICK.positive, BOX.box_rc)
    solver = ScriptedSolver()
    run(solver, {6: both}).whole_object()
    assert [one for one in solver.asked if one[1] == 6] == [("start", 6)]


def test_a_click_beyond_the_end_begins_anew_and_its_wave_joins_what_is_there():
    solver = ScriptedSolver({7: GONE})
    found = run(solver, {5: CLICK, 9: CLICK}).whole_object()
    assert ("start", 9) in solver.asked
    assert solver.asked.count(("follow", 7)) == 2  # once from each side
    assert sorted(found) == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11]


@pytest.mark.parametrize("given", [{4: CLICK, 8: NEGATIVE}, {8: NEGATIVE, 4: CLICK}])
def test_a_negative_click_travels_outward_whenever_it_was_made(given):
    solver = ScriptedSolver(corrected=dict.fromkeys((6, 7, 8, 9), SMALL))
    found = run(solver, given).whole_object()
    assert solver.asked[0] == ("start", 4)
    assert sorted(z for z in found if found[z].patch.area == SMALL.patch.area) == [6, 7, 8, 9]


@pytest.mark.parametrize(
    ("click", "one", "other"), [(CLICK, LARGE, SMALL), (NEGATIVE, SMALL, LARGE)]
)
def test_a_wave_of_a_positive_click_only_adds_and_of_a_negative_one_only_takes_away(
    click, one, other
):
    answers = {6: one, 7: other, 8: one, 9: other}
    found = run(ScriptedSolver(corrected=answers), {4: CLICK, 8: click}).whole_object()
    areas = [found[z].patch.area for z in (7, 8, 9)]
    assert areas == [16, one.patch.area, 16]


def test_a_wave_of_a_positive_click_takes_nothing_back_where_it_ends():
    solver = ScriptedSolver(corrected={7: LARGE, 8: LARGE, 9: GONE})
    found = run(solver, {4: CLICK, 7: CLICK}).whole_object()
    assert sorted(found) == list(range(12))
    assert found[9].patch.area == 16


def test_a_negative_click_where_nothing_was_answered_asks_nothing():
    solver = ScriptedSolver({7: GONE})
    found = run(solver, {5: CLICK, 9: NEGATIVE}).whole_object()
    assert all(index <= 7 for _, index in solver.asked)
    assert 9 not in found


def test_what_lies_beyond_a_cut_goes_with_it():
    solver = ScriptedSolver(corrected={8: GONE})
    found = run(solver, {4: CLICK, 8: NEGATIVE}).whole_object()
    assert sorted(z for z in found if found[z].patch.area) == list(range(8))
    assert found[8].patch.area == 0
    assert solver.asked[-1] == ("mend", 8)


def test_what_lies_beyond_the_end_of_a_wave_goes_with_it():
    solver = ScriptedSolver(corrected={7: SMALL, 8: SMALL, 9: GONE})
    found = run(solver, {4: CLICK, 7: NEGATIVE}).whole_object()
    assert sorted(found) == list(range(9))


def test_a_positive_click_further_out_holds_what_lies_before_it():
    solver = ScriptedSolver(corrected={7: GONE})
    found = run(solver, {4: CLICK, 10: CLICK, 7: NEGATIVE}).whole_object()
    assert sorted(z for z in found if found[z].patch.area) == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11]


def test_a_prompt_taken_away_leaves_no_trace():
    def found(given):
        answers = dict.fromkeys((6, 7, 8), LARGE)
        return run(ScriptedSolver(corrected=answers), given).whole_object()

    once, again = found({4: CLICK}), found({4: CLICK})
    other = found({4: CLICK, 7: CLICK})
    assert {z: one.patch.area for z, one in once.items()} == {
        z: one.patch.area for z, one in again.items()
    }
    assert other[7].patch.area != once[7].patch.area


@pytest.mark.parametrize("click", [CLICK, NEGATIVE])
def test_a_slice_between_the_steps_of_a_stride_is_looked_at_from_its_click_on(click):
    solver = ScriptedSolver()
    found = run(solver, {4: CLICK, 7: click}, stride=2).whole_object()
    begin = solver.asked.index(("follow", 7))
    assert solver.asked[begin:] == [("follow", 7), ("mend", 7), *follows(8, 6)]
    assert sorted(found) == [0, 2, 4, 6, 7, 8, 10]


def test_a_wave_of_a_negative_click_goes_nowhere_new():
    solver = ScriptedSolver({9: GONE})
    found = run(solver, {5: CLICK, 8: NEGATIVE}).whole_object()
    assert solver.asked.count(("follow", 9)) == 1
    assert sorted(found) == list(range(9))


def test_a_wave_over_an_earlier_mask_ends_where_nothing_changes():
    prior = dict.fromkeys(range(12), solved().patch)
    solver = ScriptedSolver({5: LARGE, 6: LARGE})
    found = run(solver, {5: CLICK}, prior=prior).whole_object()
    assert solver.asked == [("mend", 5), *follows(6, 7), *follows(4)]
    assert sorted(found) == list(range(12))
    assert found[6].patch.area == LARGE.patch.area
    assert found[8].patch.area == 16


def test_an_earlier_mask_is_never_taken_back():
    prior = dict.fromkeys(range(12), SMALL.patch)
    solver = ScriptedSolver({5: GONE})
    found = run(solver, {5: NEGATIVE}, prior=prior).whole_object()
    assert solver.asked == [("mend", 5)]
    assert sorted(z for z in found if found[z].patch.area) == [z for z in range(12) if z != 5]


def test_the_slices_ahead_are_those_of_the_direction_that_nobody_has_answered():
    solver = ScriptedSolver({3: GONE})
    run(solver, {5: CLICK}).whole_object()
    assert solver.ahead == [2, 1, 0]


@pytest.mark.parametrize("allowed", [1, 3, 13, 14])
def test_stopping_is_asked_before_every_slice(allowed):
    asked = []

    def should_stop():
        asked.append(None)
        return len(asked) > allowed

    solver = ScriptedSolver(corrected=dict.fromkeys(range(12), LARGE))
    with pytest.raises(Cancelled):
        run(solver, {5: CLICK, 8: CLICK}, should_stop=should_stop).whole_object()
    assert len(solver.asked) == allowed


def test_every_answered_slice_is_reported():
    told = []
    run(ScriptedSolver(), {5: CLICK}, on_slice=told.append).whole_object()
    assert told == list(range(1, 13))


def test_likeness_is_that_of_the_masks_wherever_their_rectangles_lie():
    left = SolvedSlice(Patch(Rect(0, 4, 0, 4), np.full((4, 4), 2, np.float32)), 1.0, 1.0)
    right = SolvedSlice(Patch(Rect(0, 4, 2, 6), np.full((4, 4), 6, np.float32)), 0.5, 1.0)
    empty = SolvedSlice(Patch(WHOLE, np.full((10, 10), -2, np.float32)), 0.5, 1.0)
    assert dice(left, left) == 1.0
    assert dice(left, right) == 0.5
    assert dice(left, empty) == 0.0
    assert dice(empty, empty) == 1.0


def told_by(solver, given, **options):
    told = []
    run(
        solver,
        given,
        on_solved=lambda turn, z, one: told.append((turn, z, one and one.patch.area)),
        **options,
    ).whole_object()
    return told


def test_each_answer_is_told_as_it_comes_with_its_turn():
    told = told_by(ScriptedSolver({3: GONE, 7: GONE}), {5: CLICK, 9: CLICK})
    assert told[:3] == [(0, 5, 16), (0, 6, 16), (0, 4, 16)]
    assert told[3:] == [(1, z, 16) for z in (9, 10, 11, 8)]


def test_a_mended_slice_and_its_wave_are_told_again():
    solver = ScriptedSolver(corrected=dict.fromkeys((6, 7, 8, 9), LARGE))
    told = told_by(solver, {4: CLICK, 8: CLICK})
    assert [one for one in told if one[0] == 1] == [
        (1, z, 16 if z in (5, 10) else 25) for z in (8, 9, 10, 7, 6, 5)
    ]


def test_what_is_taken_back_is_told_as_gone():
    solver = ScriptedSolver(corrected={8: GONE})
    told = told_by(solver, {4: CLICK, 8: NEGATIVE})
    assert (1, 8, 0) in told
    assert [z for turn, z, area in told if turn == 1 and area is None] == [9, 10, 11]
