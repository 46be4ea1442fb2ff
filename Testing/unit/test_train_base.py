"""The recipe of the built-in model: what a run writes, and that a stopped run goes on as before."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from protosam.errors import InvalidInput
from protosam.learn.settings import TrainBaseSettings
from protosam.learn.train_base import TrainingProgress, train_base

# Six processes import torch one after the other here; a busy machine takes minutes for that.
pytestmark = pytest.mark.timeout(900)

SETTINGS = TrainBaseSettings(
    steps=4,
    decay_steps=0,
    seed=3,
    processes=2,
    batch=1,
    objects=1,
    stages=((1.0, {"112": 1.0}),),
    warmup_steps=2,
    procedural_volumes=2,
    mix={"procedural": 1.0},
    checkpoint_every=1000,
    log_every=2,
)


def checkpoint_of(run: Path) -> dict[str, object]:
    return torch.load(run / "checkpoint.pt", weights_only=True)


@pytest.fixture(scope="module")
def progress() -> list[TrainingProgress]:
    return []


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory, progress: list[TrainingProgress]) -> Path:
    """An uninterrupted run of two processes."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    found = train_base(SETTINGS, data=None, out=out, on_progress=progress.append)
    assert found == out / "checkpoint.pt"
    return out


@pytest.mark.slow
def test_a_run_writes_these_files_and_no_others(a_run: Path) -> None:
    written = {p.relative_to(a_run).as_posix() for p in a_run.rglob("*") if p.is_file()}
    assert written == {
        "checkpoint.pt",
        "log.jsonl",
        "settings.json",
        *(
            f"volumes/procedural/{case}/{name}"
            for case in ("0000", "0001")
            for name in ("facts.json", "image.npy", "labels.npy")
        ),
    }
    assert TrainBaseSettings.from_json((a_run / "settings.json").read_text()) == SETTINGS


@pytest.mark.slow
def test_the_log_has_one_object_a_line(a_run: Path) -> None:
    first, line = (json.loads(text) for text in (a_run / "log.jsonl").read_text().splitlines())
    assert first.keys() == line.keys()
    assert (first["step"], line["step"]) == (2, 4)
    assert line["side"] == 112
    assert line["samples"] == 2  # one for each process
    assert line["seconds_per_step"] > 0
    for name in ("iou_clicked", "iou_propagated", "iou_handed_on"):
        assert 0 <= line[name] <= 1
    for name in ("mask_clicked", "mask_propagated", "score", "presence", "norm"):
        assert line[name] > 0


@pytest.mark.slow
def test_the_preparation_is_reported(a_run: Path, progress: list[TrainingProgress]) -> None:
    prepared = [(p.done, p.total) for p in progress if p.stage == "prepare"]
    assert prepared == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.slow
def test_a_checkpoint_holds_weights_their_average_and_the_optimiser(a_run: Path) -> None:
    state = checkpoint_of(a_run)
    assert set(state) == {"model", "average", "optimiser", "step"}
    assert state["step"] == SETTINGS.steps
    model, average = state["model"], state["average"]
    assert model.keys() == average.keys()
    assert all(torch.isfinite(value).all() for value in model.values())
    assert any(not torch.equal(model[key], average[key]) for key in model)


@pytest.mark.slow
def test_a_run_that_was_stopped_and_resumed_has_the_same_weights(
    a_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    shutil.copytree(a_run / "volumes", out / "volumes")
    early = dataclasses.replace(SETTINGS, steps=2)
    train_base(early, data=None, out=out)
    assert checkpoint_of(out)["step"] == 2
    resumed = TrainBaseSettings.from_json((out / "settings.json").read_text())
    train_base(dataclasses.replace(resumed, steps=SETTINGS.steps), data=None, out=out, resume=True)
    whole, again = checkpoint_of(a_run), checkpoint_of(out)
    assert again["step"] == whole["step"]
    for part in ("model", "average"):
        for key, value in whole[part].items():
            torch.testing.assert_close(again[part][key], value, rtol=0, atol=1e-6, msg=key)


def test_a_run_that_is_there_is_not_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"of another run")
    with pytest.raises(InvalidInput, match="exists already"):
        train_base(SETTINGS, data=None, out=tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"of another run"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_run_that_is_not_there_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        train_base(SETTINGS, data=None, out=tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no CUDA device") as caught:
        train_base(dataclasses.replace(SETTINGS, device="cuda"), data=None, out=tmp_path / "run")
    assert "--device cpu" in caught.value.next_step
    assert not (tmp_path / "run").exists()
