"""Whole objects at the gate: chosen of other patients, told of, and not decisive."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from protosam.errors import Cancelled
from protosam.geometry import Volume
from protosam.learn.adapt_order import AdaptOrder, Watch
from protosam.learn.division import OTHER_PATIENTS, SAME_PATIENTS, whole
from protosam.learn.finished_cases import FinishedCase
from protosam.learn.gate import Contender, GateReport, judge, wholes_of
from protosam.learn.gate_boards import MOST_WHOLE, boards_of, whole_objects
from protosam.learn.gate_play import Marks, measure_wholes
from protosam.learn.gated_run import adapt
from protosam.learn.judging import games_of
from protosam.learn.recipe_settings import RecipeSettings
from protosam.models.load import load_model
from protosam.models.tiny import TinySAM, TinySettings
from protosam.models.tiny_predictor import TinySliceModel, save_tiny
from protosam.worker.learning import adapted_of

SMALL = TinySettings(
    embed_dim=32, stem_widths=(12, 24, 24), trunk_dim=48, trunk_depth=2, trunk_heads=2
)
QUICK = RecipeSettings(rear_blocks=1, rank=2, steps=2, batch=1, examples=4, replayed=0)


def a_case(name: str) -> FinishedCase:
    """Bright ball in noise."""
    k, j, i = np.ogrid[:6, :40, :48]
    ball = ((k - 2.5) * 4) ** 2 + (j - 20) ** 2 + (i - 24) ** 2 <= 100
    image = np.where(ball, 100, 0) + np.random.default_rng(0).integers(0, 20, size=ball.shape)
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    labels = Volume(ball.astype(np.uint8), affine)
    return FinishedCase(name, Volume(image.astype(np.int16), affine), labels, (1,))


def a_report(now: float, *, slices: float = 0.9) -> GateReport:
    """Whole objects were at 0.6 before, slices at 0.8."""
    dice: dict[Contender, list[float]] = {"base": [0.5], "current": [0.6], "new": [now]}
    wholes = wholes_of(whole_objects([whole(a_case("Doe"))], {1: "ball"}), dice)
    boards = boards_of([whole(a_case("Doe"))], {1: "ball"})[:1]
    given: dict[Contender, list[Marks]] = {
        who: [Marks((d, d, d), 1.0)] for who, d in zip(dice, (0.7, 0.8, slices), strict=True)
    }
    return judge(boards, given, OTHER_PATIENTS, wholes)


def two_labels(name: str) -> FinishedCase:
    """A ball whose lower half is another label, and a third label that is nowhere."""
    case = a_case(name)
    voxels = case.labels.voxels * np.where(np.arange(40) < 20, 1, 2)[None, :, None]
    return FinishedCase(name, case.image, Volume(voxels, case.labels.affine), (1, 2, 3))


def a_small_model() -> TinySliceModel:
    torch.manual_seed(0)
    return TinySliceModel(TinySAM(SMALL), name="small", digest="d", device=torch.device("cpu"))


def an_order(folder: Path) -> AdaptOrder:
    """Three patients for an untaught small model: one of them judges."""
    cases = folder / "cases"
    cases.mkdir()
    torch.manual_seed(0)
    save_tiny(TinySAM(SMALL), folder / "small.safetensors", {})
    for number in range(3):
        case = a_case("")
        for mark, volume in (("img", case.image), ("lab", case.labels)):
            image = nib.Nifti1Image(volume.voxels.T, volume.affine)
            nib.save(image, cases / f"patient{number}_{mark}.nii.gz")
    (cases / "labels.json").write_text('{"1": "ball"}')
    return AdaptOrder(
        cases=cases,
        name="ball",
        tier="decoder",
        adapters_dir=folder / "adapters",
        model=str(folder / "small.safetensors"),
        device="cpu",
        settings=QUICK,
    )


def test_whole_objects_that_lost_are_told_with_the_reason_and_do_not_decide() -> None:
    report = a_report(0.45)
    assert report.accepted
    assert report.reason == (
        "mean Dice changed by +0.100, but 1 whole object lost 0.150 after one click"
    )
    told = "1 whole object, one click: Dice 0.600 before, 0.450 now."
    assert report.about_wholes() == told and told in report.to_text()
    entries = report.to_json()
    assert entries["whole"] == {"base": 0.5, "current": 0.6, "new": 0.45}
    assert entries["wholes"][0]["label"] == "ball" and "Doe" not in json.dumps(entries)


@pytest.mark.parametrize("now", [0.9, 0.6, 0.596])
def test_nothing_is_said_against_it_where_they_lost_no_more_than_is_allowed(now: float) -> None:
    assert "whole" not in a_report(now).reason


def test_whole_objects_let_nothing_in_that_slices_keep_out() -> None:
    report = a_report(0.99, slices=0.5)
    assert not report.accepted and "the old one stays" in report.reason


def test_cases_take_turns_and_labels_that_are_nowhere_are_left_out() -> None:
    judges = [whole(two_labels(name)) for name in ("a", "b", "c")]
    found = whole_objects(judges, {1: "upper", 2: "lower"})
    assert [(one.case, one.name) for one in found] == [
        ("a", "upper"),
        ("b", "upper"),
        ("c", "upper"),
        ("a", "lower"),
    ]
    assert len(found) == MOST_WHOLE and all(one.plane is None for one in found)


def test_nobody_judges_by_whole_objects_of_patients_who_taught() -> None:
    judges, model = [whole(a_case("a"))], a_small_model()
    assert not games_of(judges, {1: "ball"}, SAME_PATIENTS, model).wholes
    assert len(games_of(judges, {1: "ball"}, OTHER_PATIENTS, model).wholes) == 1


def test_models_that_need_minutes_for_a_whole_object_play_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TinySliceModel, "reads_neighbours", False)
    games = games_of([whole(a_case("a"))], {1: "ball"}, OTHER_PATIENTS, a_small_model())
    assert games.boards and not games.wholes


def test_the_built_in_model_finds_a_whole_ball_by_one_click() -> None:
    model = load_model("protosam-tiny", device="cpu")
    seen: list[int] = []
    targets = whole_objects([whole(a_case("a")), whole(a_case("b"))], {1: "ball"})
    dice = measure_wholes(model, targets, on_target=seen.append)
    assert seen == [0, 1] and min(dice) > 0.7


def test_a_run_tells_of_whole_objects_of_who_was_held_out(tmp_path: Path) -> None:
    result = adapt(an_order(tmp_path), Watch(lambda _done, _text: None))
    entries = result.version.card.gate
    assert result.report.validation == OTHER_PATIENTS  # type: ignore[attr-defined]
    assert entries["whole"]["new"] is not None and entries["wholes"][0]["case"]
    assert adapted_of(result).notes[0].startswith("1 whole object, one click: Dice")


def test_a_run_can_be_stopped_before_a_whole_object(tmp_path: Path) -> None:
    # Eight slices and one whole object, of two models: the last slice begins at 0.972.
    last: list[float] = [0.0]

    def follow(done: float, text: str) -> None:
        last[0] = done if "gate: new" in text else last[0]

    with pytest.raises(Cancelled, match="Stopped at the gate"):
        adapt(an_order(tmp_path), Watch(follow, should_stop=lambda: last[0] > 0.97))
    assert not (tmp_path / "adapters" / "ball" / "active.json").exists()
