"""The click robot on shapes whose right clicks are known, and against scripted engines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protosam import clicks, robot
from protosam.errors import InvalidInput
from protosam.geometry import Volume
from protosam.prompts import PromptSet
from protosam.robot import Plane, Rules, Target

SPACING_MM = (3.0, 1.0, 0.5)
SHAPE = (14, 24, 40)


class ScriptedEngine:
    """Answers with the given masks, the last one again and again; keeps what it was asked."""

    name = "scripted"

    def __init__(self, *answers: np.ndarray) -> None:
        self.answers = list(answers)
        self.asked: list[PromptSet] = []
        self.begun: list[Plane | None] = []

    def settings(self) -> dict[str, str | float]:
        return {}

    def begin(self, volume: Volume, plane: Plane | None) -> None:
        self.begun.append(plane)

    def answer(self, prompts: PromptSet) -> np.ndarray:
        self.asked.append(prompts)
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


class ObedientEngine(ScriptedEngine):
    """Paints a ball of truth or of background round each click: every click mends something."""

    name = "obedient"

    def __init__(self, radius_mm: float) -> None:
        super().__init__()
        self.radius_mm = radius_mm

    def answer(self, prompts: PromptSet) -> np.ndarray:
        self.asked.append(prompts)
        mask = np.zeros(SHAPE, dtype=bool)
        grids = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
        for point in prompts.points:
            away = sum(
                ((grid - n) * mm) ** 2
                for grid, n, mm in zip(grids, point.point_kji, SPACING_MM, strict=True)
            )
            mask[away <= self.radius_mm**2] = point.positive
        return mask


def a_volume() -> Volume:
    voxels = np.random.default_rng(1).integers(0, 100, size=SHAPE).astype(np.int16)
    return Volume(voxels, np.diag([SPACING_MM[2], SPACING_MM[1], SPACING_MM[0], 1.0]))


def a_box(low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def a_target(truth: np.ndarray, plane: Plane | None = None) -> Target:
    return Target("case-1", 3, "box", a_volume(), truth, plane)


def test_the_first_click_is_the_deepest_voxel_of_the_largest_component() -> None:
    truth = a_box((1, 1, 1), (10, 20, 24)) | a_box((12, 21, 30), (13, 23, 36))
    # In mm the box is 27 x 19 x 11.5: its shortest side decides, its middle column is deepest.
    first = clicks.first_click(truth, SPACING_MM)
    assert first.positive
    assert first.place[2] == 12
    depth_mm = (12 - 0) * 0.5
    assert 3.0 * min(first.place[0] - 0, 10 - first.place[0]) >= depth_mm
    assert min(first.place[1] - 0, 20 - first.place[1]) >= depth_mm


def test_depth_is_measured_in_millimetres_not_in_voxels() -> None:
    thick = a_box((2, 10, 10), (11, 13, 13))  # 27 mm x 3 mm x 1.5 mm
    round_part = a_box((5, 4, 6), (8, 20, 34))  # 9 mm x 16 mm x 14 mm
    first = clicks.first_click(thick | round_part, SPACING_MM)
    assert first.place[0] == 6


def test_a_click_keeps_off_the_rim_of_the_image() -> None:
    truth = a_box((0, 0, 0), SHAPE)
    k, j, i = clicks.first_click(truth, SPACING_MM).place
    assert k > 0 and 0 < j < SHAPE[1] - 1 and 0 < i < SHAPE[2] - 1


def test_the_next_click_is_positive_where_the_object_is_missed() -> None:
    truth, found = a_box((2, 4, 4), (12, 20, 36)), a_box((2, 4, 4), (12, 20, 12))
    click = clicks.next_click(found, truth, SPACING_MM)
    assert click is not None and click.positive
    assert truth[click.place] and not found[click.place]


def test_the_next_click_is_negative_where_the_answer_has_too_much() -> None:
    truth, found = a_box((2, 4, 4), (12, 20, 12)), a_box((2, 4, 4), (12, 20, 36))
    click = clicks.next_click(found, truth, SPACING_MM)
    assert click is not None and not click.positive
    assert found[click.place] and not truth[click.place]


def test_missed_and_extra_voxels_do_not_join_into_one_error() -> None:
    truth, found = a_box((2, 4, 4), (12, 20, 12)), a_box((2, 4, 8), (12, 20, 18))
    # 4 columns are missed and 6 are extra, side by side: the extra part is the larger error.
    click = clicks.next_click(found, truth, SPACING_MM)
    assert click is not None and not click.positive


def test_without_an_error_there_is_no_next_click() -> None:
    truth = a_box((2, 4, 4), (12, 20, 12))
    assert clicks.next_click(truth.copy(), truth, SPACING_MM) is None


@given(st.integers(0, 2**32 - 1))
def test_a_click_always_lies_in_the_error_that_it_names(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, found = rng.random((5, 6, 7)) > 0.6, rng.random((5, 6, 7)) > 0.6
    click = clicks.next_click(found, truth, SPACING_MM)
    if click is None:
        assert np.array_equal(found, truth)
    else:
        assert truth[click.place] == click.positive
        assert found[click.place] != click.positive


def test_an_oracle_is_given_one_click_and_full_marks_for_all() -> None:
    truth = a_box((2, 4, 4), (12, 20, 12))
    oracle = ScriptedEngine(truth)
    score = robot.play(a_target(truth), oracle, Rules(clicks=4))
    assert len(oracle.asked) == score.played == 1
    assert score.dice == score.nsd_2mm == (1.0,) * 4
    assert score.hd95_mm == (0.0,) * 4
    assert score.seconds[1:] == (0.0,) * 3
    assert score.volume_ml == pytest.approx((10 * 16 * 8 * 1.5e-3,) * 2)


def test_corrections_drive_an_obedient_engine_towards_the_truth() -> None:
    truth = a_box((2, 3, 3), (12, 20, 37))
    engine = ObedientEngine(radius_mm=5.0)
    score = robot.play(a_target(truth), engine, Rules(clicks=24))
    assert score.dice[-1] > 0.85
    assert np.all(np.diff(score.dice) > -0.05)
    assert score.dice[0] < score.dice[5] < score.dice[-1]
    assert all(len(prompts.points) == n for n, prompts in enumerate(engine.asked, start=1))
    for point in engine.asked[-1].points:
        assert truth[point.voxel_kji] == point.positive


def test_an_engine_that_finds_nothing_scores_zero_and_the_worst_distance() -> None:
    truth = a_box((2, 4, 4), (12, 20, 12))
    score = robot.play(a_target(truth), ScriptedEngine(np.zeros(SHAPE, bool)), Rules(clicks=3))
    assert score.dice == score.nsd_2mm == (0.0,) * 3
    assert score.hd95_mm == pytest.approx((float(np.linalg.norm([42, 24, 20])),) * 3)
    assert score.volume_ml[1] == 0.0
    assert score.played == 3


def test_the_same_game_is_played_the_same_way_every_time() -> None:
    truth = a_box((2, 3, 3), (12, 20, 37))
    games = [ObedientEngine(radius_mm=5.0) for _ in range(2)]
    scores = [robot.play(a_target(truth), engine, Rules(6, box=True)) for engine in games]
    assert games[0].asked == games[1].asked
    assert replace(scores[0], seconds=()) == replace(scores[1], seconds=())


def test_a_box_is_within_a_tenth_of_each_side_and_fixed_by_the_seed() -> None:
    target = a_target(a_box((2, 4, 4), (12, 20, 36)))
    for seed in range(40):
        box = robot.jittered_box(target, seed)
        assert box == robot.jittered_box(target, seed)
        assert box.axis is None
        for n, (low, high) in enumerate(((2, 12), (4, 20), (4, 36))):
            side = high - low
            assert abs(box.low_kji[n] - (low - 0.5)) <= 0.1 * side
            assert abs(box.high_kji[n] - (high - 0.5)) <= 0.1 * side
    assert robot.jittered_box(target, 1) != robot.jittered_box(target, 2)
    assert robot.jittered_box(target, 1) != robot.jittered_box(replace(target, label=4), 1)


def test_a_box_stays_inside_of_the_volume() -> None:
    target = a_target(a_box((0, 0, 0), SHAPE))
    for seed in range(20):
        PromptSet(boxes=(robot.jittered_box(target, seed),)).check_inside(SHAPE)


def test_with_a_box_the_first_answer_has_the_box_and_one_click() -> None:
    truth = a_box((2, 4, 4), (12, 20, 12))
    engine = ScriptedEngine(truth)
    robot.play(a_target(truth), engine, Rules(clicks=2, box=True))
    assert len(engine.asked[0].boxes) == len(engine.asked[0].points) == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_played_and_scored_alone(axis: int) -> None:
    truth = a_box((2, 4, 4), (12, 20, 12))
    plane = robot.largest_slice(truth, axis)
    elsewhere = np.zeros(SHAPE, dtype=bool)
    plane.of(elsewhere)[...] = plane.of(truth)
    engine = ScriptedEngine(np.zeros(SHAPE, bool), elsewhere)
    score = robot.play(a_target(truth, plane), engine, Rules(clicks=3, box=True))
    assert score.dice == (0.0, 1.0, 1.0)
    assert engine.begun == [plane]
    for prompts in engine.asked:
        assert prompts.scope == "slice" and prompts.axis == axis
        assert all(point.voxel_kji[axis] == plane.index for point in prompts.points)
        assert prompts.boxes[0].axis == axis
        assert prompts.boxes[0].low_kji[axis] == plane.index


def test_the_largest_slice_is_the_first_of_the_largest_areas() -> None:
    truth = a_box((2, 4, 4), (5, 8, 8)) | a_box((7, 4, 4), (9, 9, 9))
    assert robot.largest_slice(truth, 0) == Plane(0, 7)


@pytest.mark.parametrize(
    ("spacing_mm", "axis"),
    [
        ((3.0, 1.2, 1.2), 0),
        ((2.0, 4.7, 4.7), 0),
        ((1.0, 5.0, 1.0), 1),
        ((1.0, 1.0, 1.0), 0),
        ((1.0, 2.0, 3.0), 2),
        ((1.0, 1.003, 5.0), 2),
    ],
)
def test_the_slices_lie_across_the_axis_that_leaves_square_pixels(
    spacing_mm: tuple[float, float, float], axis: int
) -> None:
    assert robot.slice_axis(spacing_mm) == axis


def test_what_cannot_be_played_is_refused() -> None:
    truth = a_box((2, 4, 4), (12, 20, 12))
    with pytest.raises(InvalidInput, match="clicks"):
        Rules(clicks=0)
    with pytest.raises(InvalidInput, match="empty"):
        robot.play(a_target(np.zeros(SHAPE, bool)), ScriptedEngine(truth), Rules())
    with pytest.raises(InvalidInput, match="grid"):
        robot.play(a_target(truth), ScriptedEngine(truth[:1]), Rules())
