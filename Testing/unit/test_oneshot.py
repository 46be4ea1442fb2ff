"""The one-shot protocol, and the commands that make, apply and measure examples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from typer.testing import CliRunner

from protosam.cli.app import app
from protosam.cli.example import MethodName
from protosam.errors import GeometryError, InvalidInput
from protosam.models.tiny import TinySAM, TinySettings
from protosam.models.tiny_predictor import save_tiny
from protosam.prompting.finished import read_segments
from protosam.prompting.methods import METHODS
from protosam.prompting.oneshot_protocol import (
    OneShotReport,
    OneShotScore,
    OneShotSettings,
    pairs_of,
)
from protosam.seg_nrrd import Segment, read_segmentation, write_segmentation
from protosam.volume_io import read_volume

SMALL = TinySettings(stem_widths=(12, 24, 24), trunk_dim=48, trunk_depth=1, trunk_heads=2)
NAMES = [f"case{n}" for n in range(6)]


def write(path: Path, voxels: np.ndarray) -> Path:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((1.0, 1.0, 2.0))
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def a_folder(tmp_path: Path) -> Path:
    """Three small cases with two labels; the last case lacks the second."""
    for n in range(3):
        rng = np.random.default_rng(n)
        labels = np.zeros((6, 40, 48), dtype=np.uint8)
        labels[1:5, 8 + n : 20, 8:20] = 1
        if n < 2:
            labels[2:4, 26:36, 30:40] = 2
        image = 40 + 60 * (labels > 0) + rng.normal(0, 3, labels.shape)
        write(tmp_path / f"c{n}_img.nii.gz", image.astype(np.float32))
        write(tmp_path / f"c{n}_lab.nii.gz", labels)
    (tmp_path / "labels.json").write_text('{"1": "liver", "2": "spleen"}', encoding="utf-8")
    return tmp_path


@pytest.fixture
def small_weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "small.safetensors"
    save_tiny(TinySAM(SMALL), path, {})
    return path


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


def test_every_case_is_reference_for_all_others() -> None:
    pairs = pairs_of(NAMES, OneShotSettings())
    assert len(pairs) == len(set(pairs)) == 30
    assert all(a != b for a, b in pairs)


def test_drawn_pairs_are_the_same_each_time_and_differ_by_the_seed() -> None:
    drawn = [pairs_of(NAMES, OneShotSettings(references=2, targets=3, seed=s)) for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 6
    assert len({reference for reference, _ in drawn[0]}) == 2


def test_a_single_case_has_no_target() -> None:
    with pytest.raises(InvalidInput, match="more cases"):
        pairs_of(["alone"], OneShotSettings())
    with pytest.raises(InvalidInput, match="1 or more"):
        pairs_of(NAMES, OneShotSettings(references=0))


def a_score(reference: str, dice: float | None, **facts: object) -> OneShotScore:
    known = {"present": dice is not None, "empty_slices": 10, "kept_empty": 9}
    return OneShotScore(
        reference, "t", 1, "liver", dice, confidence=0.5, seconds=1.0, **{**known, **facts}
    )


def test_the_report_gives_the_mean_the_spread_over_references_and_the_empty_slices() -> None:
    scores = (
        a_score("a", 0.8),
        a_score("a", 0.6),
        a_score("b", 0.5),
        a_score("b", None, kept_empty=10),
    )
    mean = OneShotReport({}, {}, scores).to_json()["mean"]
    assert mean["dice"] == pytest.approx(1.9 / 3, abs=1e-4)
    assert mean["dice_spread"] == pytest.approx(0.1)  # of 0.7 and 0.5
    assert mean["kept_empty"] == pytest.approx(37 / 40)
    assert (mean["absent_objects"], mean["absent_kept_empty"]) == (1, 1)


def test_the_commands_name_every_method_there_is() -> None:
    assert {name.value for name in MethodName} == set(METHODS)


def test_the_protocol_is_played_from_the_command_line(a_folder: Path, small_weights: Path) -> None:
    out = a_folder / "report.json"
    words = ("--protocol", "oneshot", "--method", "persam", "--data", a_folder, "--json", out)
    code, text = run("evaluate", *words, "--model", small_weights, "--references", 2)
    assert code == 0, text
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["protocol"]["method"]["name"] == "persam"
    assert report["protocol"]["pairs"] == 4
    assert set(report["per_label"]) <= {"liver", "spleen"}
    assert all(row["dice"] is None for row in report["cases"] if not row["present"])


def test_an_example_is_made_and_applied_from_the_command_line(
    a_folder: Path, small_weights: Path
) -> None:
    example, out = a_folder / "both.psexample", a_folder / "found.seg.nrrd"
    model = ("--model", small_weights)
    reference = (a_folder / "c0_img.nii.gz", a_folder / "c0_lab.nii.gz")
    code, text = run("example", "make", *reference, "-o", example, *model)
    assert code == 0, text
    code, text = run("example", "apply", example, a_folder / "c1_img.nii.gz", "-o", out, *model)
    assert code == 0, text
    found = read_segmentation(out)
    assert [segment.name for segment in found.segments] == ["label 1", "label 2"]
    assert found.shape_kji == (6, 40, 48)


def test_images_are_segmented_from_one_case_on_the_command_line(
    a_folder: Path, small_weights: Path
) -> None:
    reference = (a_folder / "c0_img.nii.gz", a_folder / "c0_lab.nii.gz")
    targets = [a_folder / f"c{n}_img.nii.gz" for n in (1, 2)]
    out = a_folder / "out"
    words = (*reference, *targets, "-o", out, "--method", "persam", "--model", small_weights)
    code, text = run("oneshot", *words)
    assert code == 0, text
    assert sorted(path.name for path in out.iterdir()) == ["c1_img.seg.nrrd", "c2_img.seg.nrrd"]


def test_targets_of_one_name_are_refused_before_any_work(a_folder: Path) -> None:
    image, labels = a_folder / "c0_img.nii.gz", a_folder / "c0_lab.nii.gz"
    code, text = run("oneshot", image, labels, image, image, "-o", a_folder / "out")
    assert code == 2
    assert "Rename them" in text


def test_a_wrong_output_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    code, text = run("example", "make", "none.nii.gz", "none.nii.gz", "-o", tmp_path / "x.zip")
    assert code == 2
    assert ".psexample" in text
    code, text = run("example", "apply", "a.psexample", "b.nii.gz", "-o", tmp_path / "x.nii.gz")
    assert code == 2
    assert ".seg.nrrd" in text
    code, text = run("example", "apply", "a.psexample", "-o", tmp_path / "x.seg.nrrd")
    assert code == 2
    assert "wanted are an example and an image" in text


def test_a_segmentation_of_a_part_of_the_image_is_placed_in_it(a_folder: Path) -> None:
    volume = read_volume(a_folder / "c0_img.nii.gz")
    truth = read_volume(a_folder / "c0_lab.nii.gz").voxels == 1
    path = a_folder / "whole.seg.nrrd"
    write_segmentation(path, [Segment("liver", truth)], volume)
    (whole,) = read_segments(path, volume)
    assert np.array_equal(whole.mask, truth)
    (named,) = read_segments(path, volume, name="Leber")
    assert named.name == "Leber"
    image = sitk.ReadImage(str(a_folder / "c0_lab.nii.gz"))
    sitk.WriteImage(image[4:30, 5:25, 1:6], str(a_folder / "part.nii.gz"))
    (part,) = read_segments(a_folder / "part.nii.gz", volume)
    assert np.array_equal(part.mask, truth)


def test_a_segmentation_of_another_grid_is_refused(a_folder: Path) -> None:
    volume = read_volume(a_folder / "c0_img.nii.gz")
    other = sitk.ReadImage(str(a_folder / "c0_lab.nii.gz"))
    other.SetOrigin((0.4, 0.0, 0.0))
    sitk.WriteImage(other, str(a_folder / "off.nii.gz"))
    with pytest.raises(GeometryError, match="this very image"):
        read_segments(a_folder / "off.nii.gz", volume)
    with pytest.raises(InvalidInput, match="one name was given"):
        read_segments(a_folder / "c0_lab.nii.gz", volume, name="liver")
