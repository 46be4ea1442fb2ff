"""Automatic prompts: where the points go, when there are none, and how they are taught."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protosam.errors import InvalidInput, WeightsRefused
from protosam.geometry import Volume
from protosam.learn.auto_training import (
    AutoSettings,
    Lesson,
    lessons_of,
    measure,
    signed_depth,
    teach_auto,
)
from protosam.learn.finished_cases import FinishedCase
from protosam.learn.pupils import pupil_of
from protosam.models.add_ons import AddOnCard
from protosam.models.tiny import TinySAM, TinySettings
from protosam.models.tiny_predictor import TinySliceModel
from protosam.prompting.auto import (
    AutoPrompter,
    AutoShape,
    Proposal,
    load_auto,
    save_auto,
    soft_arg_max,
)
from protosam.prompting.propose import Look, longest_run, suggest, voted

CPU = torch.device("cpu")
SMALL = TinySettings(
    embed_dim=32, stem_widths=(12, 24, 24), trunk_dim=48, trunk_depth=1, trunk_heads=2
)
QUICK = AutoSettings(steps=4, batch=2, width=12, slices=6, check_every=2)
CARD = AddOnCard("auto", "small", "ab" * 32, ("ball",), (), 0, {}, {})


def silent(_done: float, _text: str) -> None:
    """Take progress and say nothing."""


def a_case(name: str, shift: int = 0) -> FinishedCase:
    """Bright ball in slices 3 to 7 of 10."""
    rng = np.random.default_rng(shift)
    k, j, i = np.ogrid[:10, :40, :48]
    ball = ((k - 5) * 4) ** 2 + (j - 18 - shift) ** 2 + (i - 24) ** 2 <= 110
    image = np.where(ball, 100, 0) + rng.integers(0, 20, size=(10, 40, 48))
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    image_volume = Volume(image.astype(np.int16), affine)
    return FinishedCase(name, image_volume, Volume(ball.astype(np.uint8), affine), (1,))


@pytest.fixture(scope="module")
def a_model() -> TinySliceModel:
    torch.manual_seed(0)
    return TinySliceModel(TinySAM(SMALL), name="small", digest="d", device=CPU, bfloat16=False)


@pytest.fixture(scope="module")
def lessons(a_model: TinySliceModel) -> list[Lesson]:
    cases = [a_case(f"case {n}", n) for n in range(3)]
    return lessons_of(cases, a_model, QUICK, silent)


class Fixed(AutoPrompter):
    """A prompter that sees a bright place: what it says follows from the image by rule."""

    def __init__(self, channels: int, present: list[float]) -> None:
        super().__init__(AutoShape(channels, 4, positives=2, negatives=1))
        self._present = iter(present)

    def forward(self, features: torch.Tensor, real: torch.Tensor) -> Proposal:
        rough = torch.full(real.shape, -6.0)
        rough[:, 3:6, 3:6] = 6.0
        points = torch.tensor([[[4.0, 4.0], [9.0, 9.0], [8.0, 8.0]]])
        return Proposal(points, rough, torch.tensor([next(self._present)]))


def a_fixed(present: list[float]) -> Fixed:
    return Fixed(8, present)


def test_an_object_that_is_nowhere_gets_no_click_and_a_sentence(a_model: TinySliceModel) -> None:
    found = suggest(a_case("x").image, a_model, a_fixed([-5.0] * 10))
    assert found.prompts.is_empty
    assert "Nothing was suggested" in found.note and "Click on it yourself" in found.note


def test_clicks_lie_in_the_run_of_slices_that_have_the_object(a_model: TinySliceModel) -> None:
    present = [-5.0] * 3 + [5.0] * 6 + [-5.0]
    found = suggest(a_case("x").image, a_model, a_fixed(present))
    slices = {point.point_kji[0] for point in found.prompts.points}
    assert len(slices) == 3 and slices <= set(range(3, 9))
    assert found.prompts.points[0].positive
    assert len({point.id for point in found.prompts.points}) == len(found.prompts.points)


def test_in_one_slice_only_one_slice_is_clicked(a_model: TinySliceModel) -> None:
    found = suggest(a_case("x").image, a_model, a_fixed([5.0] * 10), Look(scope="slice"))
    assert len({point.point_kji[0] for point in found.prompts.points}) == 1
    assert found.prompts.scope == "slice"


def test_a_positive_point_off_the_rough_mask_is_dropped(a_model: TinySliceModel) -> None:
    found = suggest(a_case("x").image, a_model, a_fixed([5.0] * 10), Look(scope="slice"))
    assert [point.positive for point in found.prompts.points] == [True, False]


def test_points_across_another_axis_lie_in_the_volume(a_model: TinySliceModel) -> None:
    volume = a_case("x").image
    found = suggest(volume, a_model, a_fixed([5.0] * 48), Look(axis=2))
    found.prompts.check_inside(volume.shape_kji)
    assert found.prompts.axis == 2


def test_one_slice_against_its_neighbours_is_outvoted() -> None:
    presence = np.array([0.0, 0, 0, 0, 1, 0, 0, 0, 0])
    assert (voted(presence) < 0.5).all()
    gap = np.array([1.0, 1, 1, 0, 1, 1, 1])
    assert (voted(gap) > 0.5).all()


def test_of_two_runs_the_surer_one_is_kept() -> None:
    weight = np.array([0.6, 0.6, 0.6, 0.0, 0.99, 0.99])
    assert longest_run(weight >= 0.5, weight) == (4, 5)
    assert longest_run(np.zeros(3, dtype=bool), np.zeros(3)) is None


@given(st.integers(0, 6), st.integers(0, 8))
@settings(max_examples=20, deadline=None)
def test_a_sharp_heat_map_is_read_at_its_peak(row: int, column: int) -> None:
    heat = torch.zeros(1, 1, 7, 9)
    heat[0, 0, row, column] = 50.0
    torch.testing.assert_close(soft_arg_max(heat)[0, 0], torch.tensor([row, column]).float())


def test_points_do_not_leave_the_slice() -> None:
    torch.manual_seed(0)
    prompter = AutoPrompter(AutoShape(8, 12))
    real = torch.zeros(1, 8, 8, dtype=torch.bool)
    real[:, :3, :4] = True
    points = prompter(torch.randn(1, 8, 8, 8), real).points[0]
    assert (points[:, 0] <= 2).all() and (points[:, 1] <= 3).all()


def test_signed_depth_is_positive_inside_and_even_for_one_cell() -> None:
    share = torch.zeros(7, 7)
    share[2:5, 2:5] = 1.0
    depth = signed_depth(share)
    assert float(depth[3, 3]) == 1.5 and float(depth[2, 3]) == 0.5
    assert float(depth[1, 3]) == -0.5 and float(depth[0, 3]) == -1.5
    sliver = torch.zeros(7, 7)
    sliver[3, 3] = 0.1
    assert float(signed_depth(sliver)[3, 3]) == 0.5
    assert (signed_depth(torch.zeros(7, 7)) < -10).all()


def test_gradients_through_the_frozen_decoder_reach_the_points(
    a_model: TinySliceModel, lessons: list[Lesson]
) -> None:
    pupil = pupil_of(a_model)
    lesson = next(one for one in lessons if one.present)
    assert lesson.embedding is not None and lesson.target is not None
    cells = torch.tensor([[6.3, 7.1], [2.2, 3.4]], requires_grad=True)
    reading = pupil.ask_at(lesson.embedding, cells, np.array([True, False]))
    pupil.loss(reading, lesson.target).backward()
    assert cells.grad is not None and bool((cells.grad.abs() > 0).all())


def test_slices_with_and_without_the_object_are_taught(lessons: list[Lesson]) -> None:
    assert {lesson.present for lesson in lessons} == {True, False}
    assert all((lesson.share.sum() > 0) == lesson.present for lesson in lessons)


def test_teaching_is_the_same_for_the_same_seed(
    a_model: TinySliceModel, lessons: list[Lesson]
) -> None:
    first, second = (teach_auto(a_model, lessons, QUICK, silent) for _ in range(2))
    assert first[1] == second[1]
    for one, other in zip(first[0].parameters(), second[0].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_ball_is_found_after_a_little_teaching(
    a_model: TinySliceModel, lessons: list[Lesson]
) -> None:
    prompter, _ = teach_auto(
        a_model, lessons, dataclasses.replace(QUICK, steps=60, batch=4, check_every=20), silent
    )
    figures = measure(prompter, lessons)
    assert figures.points_right > 0.8
    assert figures.presence_right > 0.8


def test_a_saved_prompter_proposes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    prompter = AutoPrompter(AutoShape(8, 12)).requires_grad_(False)
    save_auto(prompter, CARD, tmp_path / "ball.auto")
    back = load_auto(tmp_path / "ball.auto", base_sha256="ab" * 32)
    features, real = torch.randn(1, 8, 6, 6), torch.ones(1, 6, 6, dtype=torch.bool)
    torch.testing.assert_close(back(features, real).points, prompter(features, real).points)
    with pytest.raises(WeightsRefused, match="--model small"):
        load_auto(tmp_path / "ball.auto", base_sha256="cd" * 32)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"decode_from": 0.0}, {"weight_decay": -1.0}])
def test_settings_that_cannot_be_taught_with_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        AutoSettings(**wrong)


def test_labels_that_are_nowhere_are_refused(a_model: TinySliceModel) -> None:
    case = dataclasses.replace(a_case("x"), wanted=(7,))
    with pytest.raises(InvalidInput, match="Check the labels"):
        lessons_of([case], a_model, QUICK, silent)
