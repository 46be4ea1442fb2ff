"""From a run to the files that ship: weights, data sheet, digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from protosam.errors import InvalidInput, ModelUnavailable, WeightsRefused
from protosam.learn.export import MODEL, SHEET_FILE, LogTotals, export_base, read_log
from protosam.learn.settings import TrainBaseSettings
from protosam.models.cards import builtin_folder, read_cards
from protosam.models.tiny import TinySAM
from protosam.models.tiny_predictor import load_tiny

SETTINGS = TrainBaseSettings(
    steps=50, decay_steps=10, seed=8, mix={"hippocampus_msd": 1.0, "procedural": 3.0, "absent": 1.0}
)


def a_line(step: int, samples: float, seconds: float) -> str:
    return json.dumps({"step": step, "samples": samples, "seconds_per_step": seconds}) + "\n"


def write_volume(folder: Path) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "image.npy", np.zeros((2, 20, 20), dtype=np.float16))
    np.save(folder / "labels.npy", np.ones((2, 20, 20), dtype=np.uint8))
    facts = {"spacing_kji_mm": [1, 1, 1], "objects": {"1": [[0, 2], [0, 20], [0, 20]]}}
    (folder / "facts.json").write_text(json.dumps(facts))


def save_checkpoint(run: Path, average: dict[str, torch.Tensor], step: int = 40) -> None:
    state = {"model": TinySAM().state_dict(), "average": average, "optimiser": {}, "step": step}
    torch.save(state, run / "checkpoint.pt")


@pytest.fixture
def an_average() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return TinySAM().state_dict()


@pytest.fixture
def a_run(tmp_path: Path, an_average: dict[str, torch.Tensor]) -> Path:
    """What a run of 40 steps leaves behind, stopped after 60 and resumed from 30 once."""
    run = tmp_path / "run"
    for name in ("hippocampus_msd/a", "hippocampus_msd/b", "procedural/0000"):
        write_volume(run / "volumes" / name)
    (run / "settings.json").write_text(SETTINGS.to_json())
    lines = [(20, 6, 1.0), (40, 2, 9.0), (60, 2, 1.0), (40, 4, 2.0), (60, 4, 1.0)]
    (run / "log.jsonl").write_text("".join(a_line(*line) for line in lines))
    save_checkpoint(run, an_average)
    return run


@pytest.fixture
def a_target(tmp_path: Path) -> Path:
    target = tmp_path / "model_weights"
    target.mkdir()
    cards = json.loads((builtin_folder() / "cards.json").read_text("utf-8"))
    for entry in cards["models"]:
        if entry["name"] == MODEL:
            entry.update(sha256=None, size_bytes=None)
    (target / "cards.json").write_text(json.dumps(cards))
    return target


def sheet_in(target: Path) -> dict[str, object]:
    return json.loads((target / SHEET_FILE).read_text("utf-8"))


def test_the_weights_are_the_moving_average_and_load_as_the_model(
    a_run: Path, a_target: Path, an_average: dict[str, torch.Tensor]
) -> None:
    exported = export_base(a_run, a_target)
    assert exported.weights == a_target / "protosam-tiny.safetensors"
    model = load_tiny(exported.weights, digest=exported.sha256, device=torch.device("cpu"))
    found = model.network.state_dict()
    assert all(torch.equal(found[k], v.half().float()) for k, v in an_average.items())


def test_the_header_of_the_weights_tells_where_they_come_from(a_run: Path, a_target: Path) -> None:
    exported = export_base(a_run, a_target)
    with safe_open(exported.weights, framework="pt") as file:
        header = file.metadata()
    assert (header["family"], header["steps"], header["seed"]) == ("tiny", "40", "8")
    assert header["settings_sha256"] == hashlib.sha256(SETTINGS.to_json().encode()).hexdigest()


def test_the_same_run_gives_the_same_bytes(a_run: Path, a_target: Path) -> None:
    first = export_base(a_run, a_target)
    written = first.weights.read_bytes()
    assert export_base(a_run, a_target) == first
    assert first.weights.read_bytes() == written


def test_only_the_digest_and_size_of_the_model_change_on_the_cards(
    a_run: Path, a_target: Path
) -> None:
    before = read_cards(a_target / "cards.json")
    exported = export_base(a_run, a_target)
    after = read_cards(a_target / "cards.json")
    content = exported.weights.read_bytes()
    assert after[MODEL].sha256 == exported.sha256 == hashlib.sha256(content).hexdigest()
    assert after[MODEL].size_bytes == exported.size_bytes == len(content)
    assert list(after) == list(before)
    assert all(after[name] == before[name] for name in before if name != MODEL)


def test_the_data_sheet_tells_data_training_machine_and_figures(
    a_run: Path, a_target: Path
) -> None:
    machine, figures = {"cpu": "abacus", "cores": 2}, {"dsc_final": 0.9}
    exported = export_base(a_run, a_target, figures=figures, machine=machine)
    sheet = sheet_in(a_target)
    assert exported.sheet == a_target / SHEET_FILE
    assert sheet["sha256"] == exported.sha256
    assert sheet["data"] == [
        {"name": "hippocampus_msd", "licence": "CC BY-SA 4.0", "cases": 2, "share": 0.25},
        {
            "name": "procedural",
            "licence": "none needed: drawn by this package",
            "cases": 1,
            "share": 0.75,
        },
    ]
    training = sheet["training"]
    assert (training["steps"], training["steps_planned"], training["seed"]) == (40, 50, 8)
    assert TrainBaseSettings.from_json(json.dumps(training["settings"])) == SETTINGS
    assert sheet["machine"] == machine
    assert sheet["figures"] == figures


def test_steps_taken_twice_count_once_and_steps_after_the_checkpoint_not_at_all(
    a_run: Path, a_target: Path
) -> None:
    export_base(a_run, a_target)
    assert sheet_in(a_target)["training"]["logged"] == {
        "steps": 40,
        "samples": 20 * 6 + 20 * 4,
        "objects": 3 * 200,
        "seconds": 60.0,
    }


def test_a_run_too_short_for_a_log_has_counted_nothing(tmp_path: Path) -> None:
    assert read_log(tmp_path / "log.jsonl", 3, until=10) == LogTotals(0, 0, 0, 0.0)


def test_a_torn_line_of_the_log_is_named(a_run: Path, a_target: Path) -> None:
    with (a_run / "log.jsonl").open("a") as log:
        log.write('{"step": 8')
    with pytest.raises(InvalidInput, match="Line 6 of"):
        export_base(a_run, a_target)


@pytest.mark.parametrize("missing", ["checkpoint.pt", "settings.json"])
def test_a_folder_that_is_no_run_is_refused(a_run: Path, a_target: Path, missing: str) -> None:
    (a_run / missing).unlink()
    with pytest.raises(InvalidInput, match=f"{missing} does not exist"):
        export_base(a_run, a_target)
    assert [p.name for p in a_target.iterdir()] == ["cards.json"]


@pytest.mark.parametrize("damage", ["garbage", "truncated", "no average", "another network"])
def test_a_damaged_checkpoint_is_refused(
    a_run: Path, a_target: Path, an_average: dict[str, torch.Tensor], damage: str
) -> None:
    path = a_run / "checkpoint.pt"
    if damage == "garbage":
        path.write_bytes(b"not a checkpoint")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-5000])
    elif damage == "no average":
        torch.save({"step": 3}, path)
    else:
        an_average.popitem()
        save_checkpoint(a_run, an_average)
    with pytest.raises(WeightsRefused, match="no checkpoint of the built-in model"):
        export_base(a_run, a_target)
    assert [p.name for p in a_target.iterdir()] == ["cards.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_weights_that_float16_cannot_hold_are_refused(
    a_run: Path, a_target: Path, an_average: dict[str, torch.Tensor], value: float
) -> None:
    an_average["image_encoder.from_trunk.bias"][0] = value
    save_checkpoint(a_run, an_average)
    with pytest.raises(WeightsRefused, match=r"first in image_encoder\.from_trunk\.bias"):
        export_base(a_run, a_target)


def test_weights_from_data_that_may_not_be_shipped_are_refused(a_run: Path, a_target: Path) -> None:
    write_volume(a_run / "volumes" / "private_ct" / "a")
    settings = TrainBaseSettings(steps=50, decay_steps=0, mix={"private_ct": 1.0})
    (a_run / "settings.json").write_text(settings.to_json())
    with pytest.raises(InvalidInput, match="private_ct is not among the data sets"):
        export_base(a_run, a_target)
    assert [p.name for p in a_target.iterdir()] == ["cards.json"]


def test_a_target_without_cards_is_refused(a_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelUnavailable, match=r"cards\.json"):
        export_base(a_run, tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []
