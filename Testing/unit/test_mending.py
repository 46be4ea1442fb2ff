"""Settings and reports of the clean-up."""

from __future__ import annotations

import numpy as np
import pytest

from protosam.errors import InvalidInput
from protosam.mending import MAX_LENGTH_MM, STEPS, CleanUp, CleanUpReport, StepReport

EVERYTHING = CleanUp(closing_mm=1, opening_mm=1, smoothing_mm=1, bodies=2)


@pytest.mark.parametrize("name", ["fill_holes", "remove_islands"])
@pytest.mark.parametrize("value", [1, None, "yes"])
def test_a_switch_of_the_clean_up_is_true_or_false(name, value):
    with pytest.raises(InvalidInput, match=name):
        CleanUp(**{name: value})


@pytest.mark.parametrize("name", ["closing_mm", "opening_mm", "smoothing_mm"])
@pytest.mark.parametrize("value", [-1, np.nan, np.inf, "2", True, None, 1.01 * MAX_LENGTH_MM])
def test_a_length_of_the_clean_up_is_a_length_that_can_be_worked_with(name, value):
    with pytest.raises(InvalidInput, match=name):
        CleanUp(**{name: value})


@pytest.mark.parametrize("value", [-1, 1.0, True, None, "2"])
def test_a_number_of_bodies_is_a_whole_number_from_zero(value):
    with pytest.raises(InvalidInput, match="bodies"):
        CleanUp(bodies=value)


def test_every_step_can_be_switched_off_but_the_clicks():
    off = CleanUp(remove_islands=False, fill_holes=False)

    assert off.steps == ("clicks",)
    assert CleanUp().steps == ("clicks", "islands", "holes")
    assert set(EVERYTHING.steps) == set(STEPS)


def test_steps_come_in_the_order_that_lets_each_see_what_the_others_left():
    assert EVERYTHING.steps == (
        "clicks",
        "opening",
        "islands",
        "closing",
        "holes",
        "smoothing",
        "bodies",
        "holes",
    )


def test_the_reach_is_that_of_the_farthest_step_that_can_add_voxels():
    assert CleanUp().reach_mm == 0
    assert CleanUp(opening_mm=5).reach_mm == 0
    assert CleanUp(closing_mm=2, smoothing_mm=3).reach_mm == 3


def test_a_report_in_words_names_what_each_step_has_changed():
    report = CleanUpReport(
        (
            StepReport("clicks", 0, 0),
            StepReport("islands", 0, 312),
            StepReport("smoothing", 40, 38),
            StepReport("holes", 7, 0),
        )
    )

    assert report.in_words() == "islands -312, smoothing +40/-38, holes +7 voxels"
    assert CleanUpReport().in_words() == CleanUpReport(report.steps[:1]).in_words() == ""


def test_a_report_speaks_the_language_of_the_host_and_keeps_names_that_it_does_not_know():
    german = {"islands": "Inseln", "{changes} voxels": "{changes} Voxel"}
    report = CleanUpReport((StepReport("islands", 0, 3), StepReport("polish", 1, 0)))

    words = report.in_words(lambda text: german.get(text, text))
    assert words == "Inseln -3, polish +1 Voxel"


def test_a_report_of_less_than_no_voxels_is_refused():
    with pytest.raises(InvalidInput, match="islands"):
        StepReport("islands", 0, -1)
