"""`train-shift`, `train-auto` and `segment --auto`, as a user calls them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from protosam.cli.app import app
from protosam.learn.finished_cases import CaseChoice
from protosam.learn.train_shift import ShiftResult, weights_of
from protosam.models.add_ons import AddOnCard
from protosam.models.load import load_model
from protosam.prompting.auto import AutoPrompter, AutoShape, save_auto
from protosam.prompting.auto_levels import levels_of

AFFINE = np.diag([1.0, 1.0, 4.0, 1.0])


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def an_image(tmp_path: Path) -> Path:
    k, j, i = np.ogrid[:4, :40, :44]
    ball = (j - 20) ** 2 + (i - 22) ** 2 + 0 * k <= 100
    nib.save(nib.Nifti1Image(np.where(ball, 90, 5).astype(np.int16).T, AFFINE), tmp_path / "x.nii")
    return tmp_path / "x.nii"


def an_auto(path: Path, presence: float) -> Path:
    """Prompter of the built-in model that always says the same of presence."""
    model = load_model(device="cpu")
    stack = np.zeros((1, 3, 40, 44), dtype=np.float32)
    channels = levels_of(model, model.embed(stack, (1.0, 1.0))[0]).features.shape[1]
    torch.manual_seed(0)
    prompter = AutoPrompter(AutoShape(channels, 8)).requires_grad_(False)
    prompter.presence.weight.zero_()
    prompter.presence.bias.fill_(presence)
    card = AddOnCard("auto", model.name, weights_of(model), ("ball",), (), 0, {}, {})
    save_auto(prompter, card, path)
    return path


def test_an_object_that_is_not_there_becomes_an_empty_segment_with_a_note(
    tmp_path: Path, an_image: Path
) -> None:
    auto, out = an_auto(tmp_path / "ball.auto", -20.0), tmp_path / "o.nii.gz"
    code, text = run("segment", an_image, "-o", out, "--auto", auto, "--no-worker")
    assert code == 0, text
    assert "Nothing was suggested" in text
    assert np.asarray(nib.load(out).dataobj).sum() == 0


def test_suggested_clicks_are_shown_as_options_and_answered(tmp_path: Path, an_image: Path) -> None:
    auto, out = an_auto(tmp_path / "ball.auto", 20.0), tmp_path / "o.nii.gz"
    code, text = run("segment", an_image, "-o", out, "--auto", auto, "--scope", "slice",
                     "--no-worker")  # fmt: skip
    assert code == 0, text
    assert "clicks were suggested" in text and "--point" in text and ",+" in text
    assert out.exists()


def test_a_shift_given_as_auto_is_sent_where_it_belongs(tmp_path: Path, an_image: Path) -> None:
    path = tmp_path / "liver.shift"
    path.write_bytes(b"nothing")
    code, text = run("segment", an_image, "-o", tmp_path / "o.nii.gz", "--auto", path)
    assert code == 1 and "cannot be read" in text and "train-auto" in text


def test_without_prompts_and_without_auto_the_next_step_names_both(
    tmp_path: Path, an_image: Path
) -> None:
    code, text = run("segment", an_image, "-o", tmp_path / "o.nii.gz")
    assert code == 2 and "--point" in text and "--auto" in text


@pytest.mark.parametrize("helped", [True, False])
def test_train_shift_passes_its_options_on_and_tells_what_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helped: bool
) -> None:
    seen = {}

    def instead(choice, _model, out, settings, *, on_progress):
        seen.update(choice=choice, out=out, settings=settings)
        on_progress(1.0, "done")
        return ShiftResult(out if helped else None, 0.5, 0.6 if helped else 0.5, 12.0)

    monkeypatch.setattr("protosam.learn.train_shift.train_shift", instead)
    out = tmp_path / "l.shift"
    code, text = run("train-shift", tmp_path, "-o", out, "--labels", "liver, spleen",
                     "--cases", "a", "--limit", 3, "--steps", 7, "--seed", 2)  # fmt: skip
    assert code == (0 if helped else 1), text
    assert seen["choice"] == CaseChoice(tmp_path, ("liver", "spleen"), None, ("a",), 3)
    given = dataclasses.asdict(seen["settings"])
    assert (given["steps"], given["seed"], seen["out"]) == (7, 2, out)
    assert ("0.500 -> 0.600" if helped else "Nothing was written") in text


def test_train_auto_wants_one_label(tmp_path: Path) -> None:
    labels = np.zeros((4, 40, 44), dtype=np.uint8)
    labels[1:3, 10:20, 10:20], labels[1:3, 25:35, 25:35] = 1, 2
    for mark, voxels in (("img", labels.astype(np.int16)), ("lab", labels)):
        nib.save(nib.Nifti1Image(voxels.T, AFFINE), tmp_path / f"c_{mark}.nii.gz")
    code, text = run("train-auto", tmp_path, "-o", tmp_path / "x.auto", "--device", "cpu")
    assert code == 2 and "one label" in text and "--labels" in text


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    code, text = run("train-shift", tmp_path / "none", "-o", tmp_path / "x.shift")
    assert code == 2 and "no folder" in text
