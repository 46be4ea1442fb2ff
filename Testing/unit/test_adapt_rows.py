"""The script that measures Adapt: which cases teach, and when a row need not be computed again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def script(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("adapt")


def a_row(folder: Path, cases: int, steps: int) -> Path:
    played = {"slices": {"dice_1": 0.6}, "volumes": {"dice_1": 0.5}}
    row = {"cases": cases, "settings": {"steps": steps}, "before": played, "after": played}
    path = folder / f"heart_{cases:02d}_cases_seed_0.json"
    path.write_text(json.dumps(row), "utf-8")
    return path


def test_one_case_of_each_patient_is_drawn_before_a_second_one(script: ModuleType) -> None:
    cases = [f"patient{n:03d}_frame{frame}" for n in range(4) for frame in ("01", "12")]
    for seed in range(5):
        drawn = script.drawn(cases, seed, 5)
        assert len({script.patient_of(case) for case in drawn[:4]}) == 4
        assert drawn[:2] == script.drawn(cases, seed, 2)  # fewer cases are the first of more
    assert len(script.drawn(cases[:2], 0, 5)) == 2


def test_cases_that_have_taught_already_need_not_teach_again(
    script: ModuleType, tmp_path: Path
) -> None:
    rows = [a_row(tmp_path, 1, 600), a_row(tmp_path, 2, 600)]
    found = script.of_same_cases(rows, 2, 600)
    assert found["cases"] == 2
    assert found["after"] == {"slices": {"dice_1": 0.6}, "volumes": None}


@pytest.mark.parametrize(("count", "steps"), [(3, 600), (2, 200)])
def test_a_row_of_other_cases_or_steps_is_not_taken(
    script: ModuleType, tmp_path: Path, count: int, steps: int
) -> None:
    assert script.of_same_cases([a_row(tmp_path, 2, 600)], count, steps) is None
