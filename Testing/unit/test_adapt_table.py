"""The script that turns rows of the Adapt benchmark into Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

MACHINE = {"cpu": "a CPU", "cores": 2, "memory_gb": 8, "torch": "2"}


@pytest.fixture
def script(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("adapt_table")


def a_row(seed: int, after: float, *, accepted: bool = True, is_new: bool = True) -> dict[str, Any]:
    def figures(one: float) -> dict[str, Any]:
        slices = {"dice_0": 0.5, "dice_1": one, "dice_3": 0.9}
        return {"slices": slices, "others": slices, "volumes": None}

    return {
        "set": "heart",
        "is_new": is_new,
        "asked": 5,
        "cases": 5,
        "patients": 5,
        "seed": seed,
        "accepted": accepted,
        "wall_seconds": 100.0,
        "cpu_seconds": 90.0,
        "before": figures(0.6),
        "after": figures(after),
        "machine": MACHINE,
    }


def test_gains_are_means_over_seeds_and_what_was_kept_out_is_no_gain_to_the_user(
    script: ModuleType, tmp_path: Path
) -> None:
    rows = [a_row(0, 0.7), a_row(1, 0.8), a_row(2, 0.3, accepted=False)]
    for row in rows:
        (tmp_path / f"heart_05_cases_seed_{row['seed']}.json").write_text(json.dumps(row))
    read = script.read(tmp_path)
    assert "+0.000 on average over 1 sets" in script.summary(read)
    assert "(+0.100 where" in script.summary(read)
    table = script.slices(read)
    assert "| 0.600 0.600 |" in table and "2 of 3" in table
    assert "+0.100, +0.200, -0.300" in table and "| 0.700 |" in table


def test_sets_that_the_model_knows_do_not_count_as_new(script: ModuleType) -> None:
    assert script.summary([a_row(0, 0.9, is_new=False)]) == ""


def test_rows_without_whole_objects_make_an_empty_table(script: ModuleType) -> None:
    assert script.volumes([a_row(0, 0.7)]).count("\n") == 1
