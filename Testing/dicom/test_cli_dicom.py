"""`protosam dicom list`: a table for people, JSON for programs, no patient in either."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from phantom_series import Ids, Layout, write_series
from typer.testing import CliRunner

from protosam.cli.dicom import app


def study(folder: Path) -> Path:
    ids = Ids.new()
    write_series(folder / "a", ids=ids)
    tilted = Layout(tilt_mm=2.5 * np.tan(np.radians(12)))

    def change(n: int, dataset) -> None:
        dataset.SeriesNumber = 6

    write_series(folder / "b", tilted, ids.other_series(), change=change)
    (folder / "notes.txt").write_text("no")
    return folder


def test_the_table_says_what_is_taken_and_why_not(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["list", str(study(tmp_path))])
    assert done.exit_code == 0
    text = " ".join(done.stdout.split())
    assert "taken" in text
    assert "tilted by 12.0 degrees" in text
    assert "notes.txt: It is not a DICOM file." in text
    assert "SECRET" not in text
    assert "Phantom" not in text


def test_json_holds_the_same(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["list", str(study(tmp_path)), "--json"])
    found = json.loads(done.stdout)
    assert [row["taken"] for row in found["series"]] == [True, False]
    assert found["series"][1]["can_be_straightened"]
    assert found["files_left_out"][0]["name"] == "notes.txt"
    assert "SECRET" not in done.stdout


def test_a_place_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["list", str(tmp_path / "nowhere")])
    assert done.exit_code == 2
    assert "nowhere" in done.output
    assert "Traceback" not in done.output
