"""The report of an evaluation: its keys, its means, what is played and what is refused."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import nibabel
import numpy as np
import pytest

from protosam import evaluate as evaluation
from protosam.engines import EngineChoice, ProtoSamEngine
from protosam.errors import InvalidInput, StorageFailure
from protosam.evaluate import EvaluateReport, EvaluateSettings, evaluate
from protosam.geometry import Volume
from protosam.prompts import PromptSet
from protosam.robot import Plane

SPACING_IJK_MM = (1.0, 1.0, 3.0)


class BallEngine:
    """Answers with a ball round the first click, of a radius that grows with each click."""

    name = "ball"

    def __init__(self) -> None:
        self.volume: Volume | None = None
        self.planes: list[Plane | None] = []

    def settings(self) -> dict[str, str | float]:
        return {"kind": "ball"}

    def begin(self, volume: Volume, plane: Plane | None) -> None:
        self.volume = volume
        self.planes.append(plane)

    def answer(self, prompts: PromptSet) -> np.ndarray:
        if self.volume is None:
            raise InvalidInput("The engine has no image yet.")
        shape, spacing = self.volume.shape_kji, self.volume.spacing_kji_mm
        place = prompts.points[0].point_kji
        grids = np.ogrid[tuple(slice(0, n) for n in shape)]
        away = sum(
            ((grid - n) * mm) ** 2 for grid, n, mm in zip(grids, place, spacing, strict=True)
        )
        return np.asarray(away <= (2.0 + len(prompts.points)) ** 2)


@pytest.fixture
def a_dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "balls"
    folder.mkdir()
    affine = np.diag([*SPACING_IJK_MM, 1.0])
    i, j, k = np.ogrid[:30, :28, :12]
    for number, case in enumerate(("one", "two")):
        labels = np.zeros((30, 28, 12), dtype=np.uint8)
        labels[(i - 14) ** 2 + (j - 13) ** 2 + ((k - 5) * 3.0) ** 2 <= (7 + number) ** 2] = 1
        if number == 0:
            labels[(i - 25) ** 2 + (j - 24) ** 2 + ((k - 2) * 3.0) ** 2 <= 9] = 4
        nibabel.save(nibabel.Nifti1Image(labels * 50, affine), folder / f"{case}_img.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, affine), folder / f"{case}_lab.nii.gz")
    (folder / "labels.json").write_text('{"1": "ball"}', encoding="utf-8")
    return folder


def test_the_report_has_the_keys_of_the_protocol_and_no_others(a_dataset: Path) -> None:
    report = evaluate(EvaluateSettings(a_dataset, clicks=3), engine=BallEngine()).to_json()
    assert list(report) == ["protocol", "machine", "cases", "mean", "per_label"]
    assert [(row["case"], row["label"], row["name"]) for row in report["cases"]] == [
        ("one", 1, "ball"),
        ("one", 4, "label 4"),
        ("two", 1, "ball"),
    ]
    for row in report["cases"]:
        assert list(row) == [
            *("case", "label", "name", "dice", "nsd_2mm", "hd95_mm", "seconds", "volume_ml")
        ]
        lists = [row[key] for key in ("dice", "nsd_2mm", "hd95_mm", "seconds")]
        assert [len(one) for one in lists] == [3] * 4
        assert len(row["volume_ml"]) == 2
    means = ["dice", "dsc_auc", "dsc_final", "nsd_final", "seconds_first", "seconds_next"]
    assert list(report["mean"]) == means
    assert list(report["per_label"]) == ["ball", "label 4"]
    assert all(list(one) == ["objects", *means] for one in report["per_label"].values())
    assert report["per_label"]["ball"]["objects"] == 2
    assert list(report["machine"]) == [
        *("cpu", "cores", "memory_gb", "platform", "python", "torch")
    ]
    assert json.loads(json.dumps(report)) == report


def test_means_count_each_object_once(a_dataset: Path) -> None:
    report = evaluate(EvaluateSettings(a_dataset, clicks=2), engine=BallEngine()).to_json()
    dice = np.asarray([row["dice"] for row in report["cases"]])
    assert report["mean"]["dice"] == pytest.approx(dice.mean(axis=0), abs=1e-4)
    assert report["mean"]["dsc_final"] == pytest.approx(dice[:, -1].mean(), abs=1e-4)
    assert report["mean"]["dsc_auc"] == pytest.approx(dice.mean(), abs=1e-4)


def test_one_click_alone_has_an_area_and_no_next_click(a_dataset: Path) -> None:
    mean = evaluate(EvaluateSettings(a_dataset, clicks=1), engine=BallEngine()).to_json()["mean"]
    assert mean["dsc_auc"] == mean["dsc_final"] == mean["dice"][0]
    assert mean["seconds_next"] is None


def test_in_slice_scope_each_label_is_played_in_its_largest_slice(a_dataset: Path) -> None:
    engine = BallEngine()
    evaluate(EvaluateSettings(a_dataset, scope="slice", clicks=1), engine=engine)
    assert engine.planes == [Plane(0, 5), Plane(0, 2), Plane(0, 5)]


def test_labels_cases_and_limits_narrow_what_is_played(a_dataset: Path) -> None:
    def played(**narrowed: object) -> list[tuple[str, int]]:
        settings = EvaluateSettings(a_dataset, clicks=1, **narrowed)  # type: ignore[arg-type]
        scores = evaluate(settings, engine=BallEngine()).scores
        return [(score.case, score.label) for score in scores]

    assert played(labels=("ball",)) == [("one", 1), ("two", 1)]
    assert played(labels=("4",)) == [("one", 4)]
    assert played(cases=("two",)) == [("two", 1)]
    assert played(limit=1) == [("one", 1), ("one", 4)]


def test_a_split_narrows_what_is_played_and_is_named_in_the_report(
    a_dataset: Path, tmp_path: Path
) -> None:
    split = tmp_path / "split.json"
    split.write_text('{"validation": {"balls": ["two"]}}', encoding="utf-8")
    settings = EvaluateSettings(a_dataset, clicks=1, split=f"{split}:validation")
    report = evaluate(settings, engine=BallEngine()).to_json()
    assert [row["case"] for row in report["cases"]] == ["two"]
    assert report["protocol"]["part"] == "validation"
    with pytest.raises(InvalidInput, match="not in the part"):
        evaluate(
            EvaluateSettings(a_dataset, split=f"{split}:validation", cases=("one",)),
            engine=BallEngine(),
        )
    with pytest.raises(InvalidInput, match="FILE:PART"):
        evaluate(EvaluateSettings(a_dataset, split="validation"), engine=BallEngine())


def test_the_report_names_neither_paths_nor_the_machine(a_dataset: Path) -> None:
    report = json.dumps(evaluate(EvaluateSettings(a_dataset), engine=BallEngine()).to_json())
    assert str(a_dataset.parent) not in report
    assert platform.node() == "" or f'"{platform.node()}"' not in report


def test_progress_and_the_report_so_far_come_while_playing(a_dataset: Path) -> None:
    seen: list[tuple[float, str]] = []
    reports: list[EvaluateReport] = []
    evaluate(
        EvaluateSettings(a_dataset, clicks=1),
        on_progress=lambda fraction, text: seen.append((fraction, text)),
        on_case=reports.append,
        engine=BallEngine(),
    )
    assert seen == [(0.0, "one: ball"), (0.25, "one: label 4"), (0.5, "two: ball"), (1.0, "done")]
    assert [len(report.scores) for report in reports] == [2, 3]


def test_the_file_holds_the_report(a_dataset: Path, tmp_path: Path) -> None:
    report = evaluate(EvaluateSettings(a_dataset, clicks=2), engine=BallEngine())
    report.write(tmp_path / "out.json")
    text = (tmp_path / "out.json").read_text(encoding="utf-8")
    assert json.loads(text) == report.to_json()
    with pytest.raises(StorageFailure):
        report.write(tmp_path / "absent" / "out.json")


def test_a_dataset_without_the_wanted_label_is_refused(a_dataset: Path) -> None:
    with pytest.raises(InvalidInput, match="label to play"):
        evaluate(EvaluateSettings(a_dataset, labels=("9",)), engine=BallEngine())


def test_an_unknown_engine_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="grow-from-seeds"):
        EngineChoice(engine="magic")


def test_this_machine_is_described_by_its_hardware_and_versions() -> None:
    machine = evaluation.this_machine()
    assert machine.cpu and machine.cores >= 1
    assert machine.python == platform.python_version()
    assert machine.torch[0].isdigit()


def test_a_stage_that_does_not_exist_cannot_be_left_out():
    with pytest.raises(InvalidInput, match="no stage 'magic'"):
        EngineChoice(without=frozenset({"magic"}))


def test_the_report_says_which_stages_were_left_out(region_model):
    engine = ProtoSamEngine(region_model(), without=frozenset({"walk", "clean-up"}))

    assert engine.settings()["without"] == "clean-up walk"
    assert engine.settings()["head"] == engine.settings()["decoder"] == "none"
