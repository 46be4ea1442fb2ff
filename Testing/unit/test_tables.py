"""The script that turns reports into Markdown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def tables(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("tables")


def a_report(engine: str, dice: list[float], **settings: Any) -> dict[str, Any]:
    mean = {
        "dice": dice,
        "dsc_auc": 0.5,
        "dsc_final": dice[-1],
        "nsd_final": 0.4,
        "seconds_first": 1.25,
        "seconds_next": None,
    }
    return {
        "protocol": {
            "engine": engine,
            "engine_settings": settings,
            "adapter": None,
            "dataset": "abdomen",
            "cases": 1,
            "objects": 2,
            "scope": "volume",
            "box": False,
        },
        "machine": {
            "cpu": "a cpu",
            "cores": 2,
            "memory_gb": 8.0,
            "platform": "Linux",
            "python": "3.11",
            "torch": "2",
        },
        "cases": [],
        "mean": mean,
        "per_label": {"liver": {"objects": 2, **mean}},
    }


def test_reports_become_rows_and_labels_become_columns_of_engines(
    tables: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reports = [
        a_report("random-walker", [0.25, 0.75], region_mm=1000.0),
        a_report("protosam", [0.5], model="protosam-tiny", head="1986", without=""),
    ]
    paths = [tmp_path / f"{n}.json" for n in range(2)]
    for path, report in zip(paths, reports, strict=True):
        path.write_text(json.dumps(report), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["tables.py", *map(str, paths), "--labels", "--title", "T"])
    tables.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "## T"
    assert sum("Measured on a cpu, 2 cores" in line for line in lines) == 1
    rows = [line for line in lines if line.startswith("| abdomen")]
    assert rows == [
        "| abdomen | volume | protosam-tiny | 1 | 2 | 0.500 |  | **0.500** | 0.400 | 1.25 |  |",
        "| abdomen | volume | random-walker, whole image | 1 | 2 | 0.250 | 0.750 | **0.500** "
        "| 0.400 | 1.25 |  |",
    ]
    assert "| label | objects | protosam-tiny | random-walker, whole image |" in lines
    assert "| liver | 2 | 0.500 / 0.500 | 0.250 / 0.750 |" in lines


def test_a_row_says_what_was_left_out(tables: ModuleType) -> None:
    plain = a_report("protosam", [0.5], model="protosam-tiny")
    partly = a_report("protosam", [0.5], model="protosam-tiny", head="1986", without="bank head")

    assert tables.label_of(plain) == "protosam-tiny, plain"
    assert tables.label_of(partly) == "protosam-tiny, without bank head"
