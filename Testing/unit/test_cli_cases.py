"""`protosam cases`, as a user calls it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from protosam.cli.app import app


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def a_folder(tmp_path: Path) -> Path:
    """Corrected cases of two patients, imported from pairs of files."""
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for number in range(2):
        image = np.full((8, 7, 6), number, dtype=np.int16)
        truth = np.zeros((8, 7, 6), dtype=np.uint8)
        truth[2:5, 2:5, 2:5] = 1
        for mark, voxels in (("img", image), ("lab", truth)):
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), pairs / f"patient{number}_{mark}.nii.gz")
    (pairs / "labels.json").write_text('{"1": "ball"}')
    code, told = run("cases", "import", pairs, tmp_path / "cases")
    assert code == 0 and "Saved 2 cases" in told and "0 had been there" in told
    return tmp_path / "cases"


def names(folder: Path) -> list[str]:
    return list(json.loads((folder / "manifest.json").read_text("utf-8"))["cases"])


def test_cases_are_listed_by_their_names_and_roles(a_folder: Path) -> None:
    code, told = run("cases", "list", a_folder)
    assert code == 0 and all(name in told for name in names(a_folder))
    assert ("train" in told or "held-out" in told) and told.count("ball") == 2
    (a_folder / names(a_folder)[0] / "case.json").write_text("{")
    code, told = run("cases", "list", a_folder)
    assert code != 0 and "Remove the case" in told


def test_a_case_that_was_removed_is_gone_for_good_and_the_other_stays(a_folder: Path) -> None:
    gone, kept = names(a_folder)
    code, told = run("cases", "remove", a_folder, gone)
    assert (code, told) == (0, f"Removed: {gone}")
    assert names(a_folder) == [kept] and not (a_folder / gone).exists()
    code, told = run("cases", "remove", a_folder, gone)
    assert code != 0 and f"There is no saved case '{gone}'" in told
    assert names(a_folder) == [kept] and (a_folder / kept / "image.nii.gz").is_file()


def test_nothing_is_removed_from_a_folder_that_is_none_of_corrected_cases(tmp_path: Path) -> None:
    code, told = run("cases", "remove", tmp_path, "x")
    assert code != 0 and "manifest.json cannot be read" in told


def test_a_pickled_split_becomes_json(tmp_path: Path) -> None:
    (tmp_path / "split.pkl").write_bytes(pickle.dumps([{"train": ["a"], "val": ["b"]}]))
    code, told = run("cases", "convert-split", tmp_path / "split.pkl", tmp_path / "split.json")
    assert code == 0 and "split.json" in told
    assert json.loads((tmp_path / "split.json").read_text("utf-8"))[0]["train"] == ["a"]
