"""Training of the 3-D head: collected and made-up answers, samples, the run, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from protosam.cli.app import app
from protosam.errors import InvalidInput, UnreadableFile
from protosam.geometry import Volume
from protosam.labelled import read_dataset
from protosam.learn.collecting import CollectSettings, collect
from protosam.learn.evidence import Evidence, play_object, read_evidence, write_evidence
from protosam.learn.export_head import export_head
from protosam.learn.head_samples import plain_sample, varied_sample
from protosam.learn.rough_answers import LabelledGrey, RoughSource, rough_sample
from protosam.learn.train_head import HeadTraining, compare, dice_of, head_loss, train_head
from protosam.models.refiner import load_refiner
from protosam.models.volume_head import HEAD_CHANNELS, VolumeHead


def two_things() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A bright ball, a less bright box beside it, and their labels; voxels of 1 x 1 x 2 mm."""
    k, j, i = np.indices((16, 30, 32))
    ball = (2 * (k - 8)) ** 2 + (j - 14) ** 2 + (i - 10) ** 2 < 8**2
    box = (abs(k - 8) < 3) & (abs(j - 14) < 6) & (abs(i - 24) < 4)
    voxels = 100.0 * ball + 70.0 * box + np.random.default_rng(0).normal(0, 3, ball.shape)
    labels = ball + 2 * box
    return voxels.astype(np.float32), labels.astype(np.uint8), np.diag([1.0, 1.0, 2.0, 1.0])


@pytest.fixture
def a_dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "phantoms"
    folder.mkdir()
    voxels, labels, affine = two_things()
    for name, data in (("img", voxels), ("lab", labels)):
        turned = np.transpose(data, (2, 1, 0))
        nib.save(nib.Nifti1Image(turned, affine), folder / f"one_{name}.nii.gz")
    return folder


@pytest.fixture
def played(region_model) -> list[Evidence]:
    voxels, labels, affine = two_things()
    # The ball alone is found at first: the box is darker than half of the brightest.
    return play_object(region_model(), Volume(voxels, affine, "two"), labels, 1, clicks=3)


def a_grey() -> LabelledGrey:
    voxels, labels, _ = two_things()
    return LabelledGrey(np.clip(2 * voxels, 0, 255).astype(np.uint8), labels, (2.0, 1.0, 1.0))


def test_what_was_played_holds_the_clicks_the_picture_and_the_truth(played) -> None:
    answer = played[0]
    place = tuple(int(n) for n in answer.points[0])

    assert answer.positive.tolist() == [True]
    assert answer.labels[place] == 1 and answer.grey[place] > 150
    assert (answer.labels == 1).sum() == (two_things()[1] == 1).sum()
    assert len(answer.views) == len(answer.weights) >= 1
    sample = plain_sample(answer)
    assert dice_of(sample.answer, sample.truth) > 0.8


def test_answers_are_read_back_as_they_were_written(played, tmp_path: Path) -> None:
    write_evidence(tmp_path / "one.npz", played)
    again = read_evidence(tmp_path / "one.npz")

    assert len(again) == len(played)
    for one, other in zip(played, again, strict=True):
        for name in Evidence.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", b"PK\x05\x06" + bytes(18)])
def test_a_file_without_answers_is_refused_with_the_next_step(content, tmp_path: Path) -> None:
    path = tmp_path / "one.npz"
    path.write_bytes(content)

    with pytest.raises(UnreadableFile, match="Collect"):
        read_evidence(path)


def test_varied_samples_keep_clicks_on_their_side_of_the_truth(played) -> None:
    for seed in range(12):
        sample = varied_sample(played[0], np.random.default_rng(seed))
        place = tuple(np.clip(np.round(sample.places[0]).astype(int), 0, None))
        assert sample.seen.shape[2:] == sample.truth.shape[2:] == sample.grid.shape
        assert sample.truth[0, 0][place] > 0.5
        assert sample.maps().shape[1] == len(HEAD_CHANNELS)


def test_the_same_seed_makes_the_same_sample(played) -> None:
    one, other = (varied_sample(played[0], np.random.default_rng(7)) for _ in range(2))

    assert torch.equal(one.maps(), other.maps()) and torch.equal(one.truth, other.truth)


def test_made_up_answers_are_wrong_by_more_or_less_and_their_clicks_are_right() -> None:
    scores = []
    for seed in range(20):
        sample = rough_sample(a_grey(), 1 + seed % 2, np.random.default_rng(seed))
        scores.append(dice_of(sample.answer, sample.truth))
        truth = sample.truth[0, 0].numpy()
        for place, positive in zip(sample.places, sample.positive, strict=True):
            share = truth[tuple(np.round(place).astype(int))]
            assert share >= 0.5 if positive else share < 0.5

    assert min(scores) < 0.75 < max(scores) and float(np.std(scores)) > 0.05


def test_an_object_of_one_voxel_can_be_made_up_too() -> None:
    case = a_grey()
    labels = np.zeros_like(case.labels)
    labels[8, 14, 10] = 1
    sample = rough_sample(
        LabelledGrey(case.grey, labels, case.spacing), 1, np.random.default_rng(1)
    )

    assert sample.truth.max() > 0


def test_the_loss_is_least_for_the_truth() -> None:
    truth = torch.zeros(1, 1, 8, 8, 8)
    truth[..., 2:6, 2:6, 2:6] = 1
    right, wrong = 8 * (2 * truth - 1), -8 * (2 * truth - 1)

    assert head_loss(right, truth) < 0.01 < head_loss(torch.zeros_like(truth), truth)
    assert head_loss(torch.zeros_like(truth), truth) < head_loss(wrong, truth)


def test_a_short_training_improves_answers_and_resumes_where_it_stopped(
    played, tmp_path: Path
) -> None:
    write_evidence(tmp_path / "one.npz", played)
    settings = HeadTraining(
        steps=24, objects=1, warmup_steps=4, ema_decay=0.5, checkpoint_every=12, log_every=6
    )

    def trained(out: str, steps: int = 24) -> VolumeHead:
        short = HeadTraining(**{**vars(settings), "steps": steps})
        return train_head(short, answers=[tmp_path / "one.npz"], out=tmp_path / out)

    head = trained("whole")
    lines = [json.loads(x) for x in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [6, 12, 18, 24]
    assert lines[-1]["loss"] < lines[0]["loss"]

    state = torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 24
    again = trained("whole")  # nothing is left to do
    for one, other in zip(head.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    before, after = compare(head, played)[0]
    assert 0 <= before <= 1 and 0 <= after <= 1


def test_a_run_that_was_stopped_takes_the_same_steps(played, tmp_path: Path, monkeypatch) -> None:
    from protosam.learn import train_head as module

    write_evidence(tmp_path / "one.npz", played)
    settings = HeadTraining(steps=4, objects=1, checkpoint_every=2, log_every=100)
    whole = train_head(settings, answers=[tmp_path / "one.npz"], out=tmp_path / "a")

    steps = module._Trainer.train_step

    def stopped(self) -> None:
        if self.step == 2:
            raise KeyboardInterrupt
        steps(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module._Trainer, "train_step", stopped)
        train_head(settings, answers=[tmp_path / "one.npz"], out=tmp_path / "b")
    resumed = train_head(settings, answers=[tmp_path / "one.npz"], out=tmp_path / "b")

    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_training_without_answers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no collected answers"):
        train_head(HeadTraining(), answers=[], out=tmp_path)


def test_objects_are_collected_once_and_small_ones_left_out(
    a_dataset, region_model, tmp_path: Path
) -> None:
    data = read_dataset(a_dataset)
    model = region_model()
    files = collect(model, [data], tmp_path / "answers", CollectSettings(clicks=2))
    looked_at = model.embedded
    again = collect(model, [data], tmp_path / "answers", CollectSettings(clicks=2))

    assert sorted(files) == sorted(again) and len(files) == 2
    assert model.embedded == looked_at
    assert all(len(read_evidence(path)) >= 1 for path in files)


def test_a_rough_source_draws_every_label(a_dataset) -> None:
    source = RoughSource(read_dataset(a_dataset).cases)
    sizes = {
        round(float(source.draw(np.random.default_rng(seed)).truth.mean()), 3) for seed in range(6)
    }

    assert len(sizes) > 1


def test_a_head_is_exported_with_the_digest_of_its_file(tmp_path: Path) -> None:
    path = export_head(VolumeHead(), tmp_path, {"base": "region", "objects": 3})
    card = json.loads(path.with_suffix(".card.json").read_text())

    assert card["base"] == "region" and card["objects"] == 3
    assert card["size_bytes"] == path.stat().st_size
    assert load_refiner(path, sha256=card["sha256"], device=torch.device("cpu")).digest


def test_the_command_collects_trains_and_writes(a_dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["train-head", str(a_dataset), "--out", str(out), "--steps", "2", "--objects", "1"]
    result = CliRunner().invoke(app, arguments)

    assert result.exit_code == 0, result.output
    card = json.loads((out / "protosam-head.card.json").read_text())
    assert card["base"] == "protosam-tiny" and card["training"]["steps"] == 2
    assert card["data"] == [{"name": "phantoms", "cases": 1}]
