"""The gate: who judges, what is let in, and that the old adapter stays whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from protosam.cases.roles import Role
from protosam.cli.app import app
from protosam.errors import Cancelled, InvalidInput, WeightsRefused
from protosam.geometry import Volume
from protosam.learn.adapt_order import AdaptOrder, Watch
from protosam.learn.adapters import AdapterStore
from protosam.learn.division import OTHER_PATIENTS, SAME_PATIENTS, divide, whole
from protosam.learn.finished_cases import FinishedCase
from protosam.learn.fronts import front_of
from protosam.learn.gate import Contender, judge
from protosam.learn.gate_boards import Board, boards_of
from protosam.learn.gate_play import Marks, measure
from protosam.learn.gated_run import adapt
from protosam.learn.lessons import lessons_of
from protosam.learn.recipe import Checkpoint, RecipeProgress, teach, with_adapter
from protosam.learn.recipe_settings import RecipeSettings
from protosam.learn.shift import ShiftSettings
from protosam.models.adapter_folder import SHIFT_FILE
from protosam.models.load import load_model
from protosam.models.tiny import TinySAM, TinySettings
from protosam.models.tiny_predictor import TinySliceModel, save_tiny
from protosam.robot import Plane, Target

CPU = torch.device("cpu")
SMALL = TinySettings(
    embed_dim=32, stem_widths=(12, 24, 24), trunk_dim=48, trunk_depth=2, trunk_heads=2
)
QUICK = RecipeSettings(
    rear_blocks=1,
    rank=2,
    steps=4,
    batch=1,
    examples=4,
    replayed=0,
    checkpoint_every=1,
    learning_rate=1e-2,
)


def silent(_done: float, _text: str) -> None:
    """Take progress and say nothing."""


def a_case(name: str, seed: int = 0) -> FinishedCase:
    """Bright ball, slightly elsewhere for each seed, in noise."""
    rng = np.random.default_rng(seed)
    k, j, i = np.ogrid[:6, :40, :48]
    ball = ((k - 2.5) * 4) ** 2 + (j - 20 - seed % 3) ** 2 + (i - 24) ** 2 <= 100
    image = np.where(ball, 100, 0) + rng.integers(0, 20, size=(6, 40, 48))
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    image_volume = Volume(image.astype(np.int16), affine)
    return FinishedCase(name, image_volume, Volume(ball.astype(np.uint8), affine), (1,))


def a_board(name: str = "a", sentinel: bool = False, elsewhere: bool = False) -> Board:
    case = a_case(name)
    truth = case.labels.voxels == 1
    return Board(Target(name, 1, "ball", case.image, truth, Plane(0, 2)), sentinel, elsewhere)


def marks(*dice: float) -> list[Marks]:
    return [Marks((d, d, d), 1.0) for d in dice]


def verdict(boards: list[Board], current: list[Marks], new: list[Marks]) -> tuple[bool, str]:
    given: dict[Contender, list[Marks]] = {"base": current, "current": current, "new": new}
    report = judge(boards, given, OTHER_PATIENTS)
    return report.accepted, report.reason


@pytest.mark.parametrize(
    ("new", "accepted"), [(0.9, True), (0.8, True), (0.796, True), (0.794, False), (0.0, False)]
)
def test_a_mean_that_falls_by_more_than_is_allowed_is_kept_out(new: float, accepted: bool) -> None:
    boards = [a_board("a"), a_board("b")]
    assert verdict(boards, marks(0.8, 0.8), marks(new, new))[0] is accepted


def test_one_sentinel_can_keep_an_adapter_out_and_another_case_cannot() -> None:
    current, new = marks(0.8, 0.8), marks(0.95, 0.78)
    assert verdict([a_board("a"), a_board("b")], current, new)[0]
    accepted, reason = verdict([a_board("a"), a_board("b", sentinel=True)], current, new)
    assert not accepted and "sentinel" in reason and "the old one stays" in reason
    slightly = marks(0.95, 0.792)
    assert verdict([a_board("a"), a_board("b", sentinel=True)], current, slightly)[0]


@pytest.mark.parametrize(("new", "accepted"), [(0.95, True), (0.86, True), (0.84, False)])
def test_an_adapter_that_no_longer_obeys_clicks_elsewhere_is_kept_out(
    new: float, accepted: bool
) -> None:
    boards = [a_board("a"), a_board("phantom", elsewhere=True)]
    found, reason = verdict(boards, marks(0.5, 0.9), marks(0.9, new))
    assert found is accepted and ("other organs" in reason) is not accepted


def test_other_organs_are_told_and_do_not_hide_what_was_lost() -> None:
    boards = [a_board("a"), *(a_board("phantom", elsewhere=True) for _ in range(9))]
    report = judge(
        boards,
        {"base": marks(*[0.8] * 10), "current": marks(*[0.8] * 10), "new": marks(0.7, *[0.9] * 9)},
        OTHER_PATIENTS,
    )
    assert not report.accepted and report.mean("new")["dice_1"] == 0.7
    assert report.elsewhere("new") == 0.9 and "0.800 before, 0.900 now" in report.to_text()
    checked = report.to_json()["checked"]
    assert checked == {"objects": 1, "cases": 1, "sentinel_cases": 0, "elsewhere": 9}


def test_a_phantom_always_watches(a_workplace: Path) -> None:
    result = adapt(an_order(a_workplace), Watch(silent))
    entries = result.version.card.gate
    assert entries["checked"]["elsewhere"] == 5 and entries["elsewhere"]["new"] is not None


def test_what_is_not_a_number_is_kept_out() -> None:
    boards = [a_board("a"), a_board("phantom", elsewhere=True)]
    assert not verdict(boards, marks(0.8, 0.8), marks(0.9, float("nan")))[0]
    assert not verdict([a_board()], marks(0.8), marks(float("nan")))[0]


def test_the_report_has_means_of_all_three_and_no_name_of_a_case() -> None:
    given: dict[Contender, list[Marks]] = {
        "base": [Marks((None, 0.5, 0.6), 3.0)],
        "current": [Marks((None, 0.7, 0.8), 2.0)],
        "new": [Marks((None, 0.8, 0.9), 1.0)],
    }
    report = judge([a_board("Doe John")], given, SAME_PATIENTS)
    text, entries = report.to_text(), json.dumps(report.to_json())
    assert "Doe" not in text + entries and SAME_PATIENTS in text and SAME_PATIENTS in entries
    assert report.mean("new") == {"dice_0": None, "dice_1": 0.8, "dice_3": 0.9, "hd95_mm": 1.0}
    assert "+0.100" in report.reason


def test_whole_patients_judge_where_there_are_two_sides() -> None:
    cases = [a_case("a", 0), a_case("b", 1)]
    roles: dict[str, Role] = {"a": "train", "b": "held-out"}
    division = divide(cases, roles)
    assert [case.name for case in division.taught] == ["a"]
    assert [one.case.name for one in division.judges] == ["b"]
    assert division.validation == OTHER_PATIENTS


def test_one_case_gives_a_block_of_its_slices_and_a_gap_away() -> None:
    case = a_case("a")
    division = divide([case], {"a": "train"})
    (one,) = division.judges
    assert division.validation == SAME_PATIENTS and one.first < one.stop
    depth = sum(part.image.shape_kji[0] for part in division.taught)
    assert depth == 6 - (one.stop - one.first) - 2
    for part in division.taught:
        start = round((part.image.affine[2, 3] - case.image.affine[2, 3]) / 4.0)
        seen = range(start, start + part.image.shape_kji[0])
        assert not set(seen) & set(range(one.first - 1, one.stop + 1))
        np.testing.assert_array_equal(
            part.labels.voxels, case.labels.voxels[seen.start : seen.stop]
        )
    assert all(b.target.plane.index in range(one.first, one.stop) for b in boards_of([one], {}))


def test_too_few_slices_to_judge_by_are_told() -> None:
    case = a_case("a")
    flat = FinishedCase(
        "a",
        Volume(case.image.voxels[:3], case.image.affine),
        Volume(case.labels.voxels[:3], case.image.affine),
        (1,),
    )
    with pytest.raises(InvalidInput, match="nothing is left to judge"):
        divide([flat], {"a": "train"})


def test_an_adapter_taught_shuffled_labels_is_kept_out(tmp_path: Path) -> None:
    model = load_model("protosam-tiny", device="cpu")
    right = a_case("right", 1)
    voxels = np.random.default_rng(0).permutation(right.labels.voxels.reshape(-1))
    labels = Volume(voxels.reshape(right.labels.shape_kji), right.image.affine)
    wrong = FinishedCase("wrong", right.image, labels, (1,))
    boards = boards_of([whole(right)], {1: "ball"})[:2]
    before = measure(model, boards, on_board=lambda _number: None)
    poison = RecipeSettings(tier="full", steps=12, batch=2, learning_rate=2e-2, average=0.5)
    lessons = lessons_of([wrong], model, front_of(model, None), count=4, seed=0, on_progress=silent)
    with_adapter(model, poison)
    checkpoint = Checkpoint(tmp_path / "state.pt", "poison")
    teach(
        model,
        lessons,
        poison,
        checkpoint=checkpoint,
        on_step=lambda _progress: None,
        should_stop=lambda: False,
    )
    after = measure(model, boards, on_board=lambda _number: None)
    given: dict[Contender, list[Marks]] = {"base": before, "current": before, "new": after}
    report = judge(boards, given, OTHER_PATIENTS)
    assert np.mean([one.mean for one in before]) > 0.5
    assert not report.accepted and "the old one stays" in report.reason


def write_cases(folder: Path, count: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        case = a_case("", number)
        for mark, volume in (("img", case.image), ("lab", case.labels)):
            image = nib.Nifti1Image(volume.voxels.T, volume.affine)
            nib.save(image, folder / f"patient{number}_{mark}.nii.gz")
    (folder / "labels.json").write_text('{"1": "ball", "2": "cube"}')
    return folder


def write_base(path: Path, seed: int = 0) -> str:
    torch.manual_seed(seed)
    save_tiny(TinySAM(SMALL), path, {})
    return str(path)


def an_order(folder: Path, **changes: object) -> AdaptOrder:
    entries: dict[str, object] = {
        "cases": folder / "cases",
        "name": "ball",
        "labels": ("ball",),
        "tier": "decoder",
        "adapters_dir": folder / "adapters",
        "model": str(folder / "small.safetensors"),
        "device": "cpu",
        "settings": QUICK,
    }
    return AdaptOrder(**{**entries, **changes})  # type: ignore[arg-type]


@pytest.fixture
def a_workplace(tmp_path: Path) -> Path:
    write_base(tmp_path / "small.safetensors")
    write_cases(tmp_path / "cases")
    return tmp_path


@pytest.mark.parametrize("tier", ["decoder", "full"])
def test_one_case_becomes_a_version_that_the_model_loads(a_workplace: Path, tier: str) -> None:
    result = adapt(an_order(a_workplace, tier=tier), Watch(silent))
    assert result.version.active is result.report.accepted
    assert result.report.validation == SAME_PATIENTS and result.tier == tier
    card = result.version.card
    assert card.labels == ("ball",) and card.gate["accepted"] is result.report.accepted
    assert "patient0" not in json.dumps(vars(card), default=list)
    order = an_order(a_workplace)
    model = load_model(order.model, adapter=result.version.path, device="cpu")
    assert model.digest != load_model(order.model, device="cpu").digest
    other = write_base(a_workplace / "other.safetensors", seed=1)
    with pytest.raises(WeightsRefused, match="was made for"):
        load_model(other, adapter=result.version.path, device="cpu")


def test_a_shift_goes_through_the_same_gate(
    a_workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ShiftSettings(steps=2, batch=1, hidden=4, examples=4, check_every=1)
    monkeypatch.setattr("protosam.learn.gated_run.ShiftSettings", lambda seed: few)
    write_cases(a_workplace / "cases", count=2)
    steps: list[RecipeProgress] = []
    result = adapt(an_order(a_workplace, tier="shift"), Watch(silent, steps.append))
    assert [(one.step, one.steps) for one in steps] == [(1, 2), (2, 2)]
    assert all(one.loss > 0 for one in steps) and steps[-1].seconds_left == 0
    assert result.tier == "shift" and result.version.path.name == SHIFT_FILE
    assert result.version.active is result.report.accepted
    order = an_order(a_workplace)
    assert load_model(order.model, adapter=result.version.path, device="cpu").digest


def test_cases_that_judged_the_active_version_are_sentinels_of_the_next(a_workplace: Path) -> None:
    first = adapt(an_order(a_workplace), Watch(silent))
    AdapterStore(a_workplace / "adapters").activate("ball", first.version.number)
    other = write_base(a_workplace / "other.safetensors", seed=1)
    with pytest.raises(WeightsRefused, match="another name"):
        adapt(an_order(a_workplace, model=other), Watch(silent))
    second = adapt(an_order(a_workplace), Watch(silent))
    assert not any(row.sentinel for row in first.report.rows)
    assert all(row.sentinel for row in second.report.own)
    assert second.report.to_json()["checked"]["sentinel_cases"] == 1
    assert second.version.number == 2


def test_a_run_that_was_cancelled_goes_on_and_leaves_the_old_version_active(
    a_workplace: Path,
) -> None:
    seen: list[int] = []

    def on_step(now: RecipeProgress) -> None:
        seen.append(now.step)

    with pytest.raises(Cancelled):
        adapt(an_order(a_workplace), Watch(silent, on_step, lambda: len(seen) >= 2))
    assert AdapterStore(a_workplace / "adapters").names() == ()
    adapt(an_order(a_workplace), Watch(silent, on_step))
    assert seen == [1, 2, 3, 4]


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_gate import an_order, silent
from protosam.learn.adapt_order import Watch
from protosam.learn.gated_run import adapt
import time

def on_step(now):
    if now.step == 3:
        print("at step 3", flush=True)
        time.sleep(600)

adapt(an_order(Path(sys.argv[1])), Watch(silent, on_step))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_run_that_was_killed_goes_on_and_leaves_the_old_version_active(
    a_workplace: Path,
) -> None:
    first = adapt(an_order(a_workplace), Watch(silent))
    store = AdapterStore(a_workplace / "adapters")
    store.activate("ball", first.version.number)
    command = [sys.executable, "-c", KILLED, str(a_workplace), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"at step 3\n"
        with pytest.raises(InvalidInput, match="another run"):
            adapt(an_order(a_workplace), Watch(silent))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert store.version("ball").number == 1
    steps: list[int] = []
    second = adapt(an_order(a_workplace), Watch(silent, lambda now: steps.append(now.step)))
    assert steps == [3, 4]  # the checkpoint of step 2 was the last one
    assert second.version.number == 2


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"method": "magic"}, "Give one of: labelled"),
        ({"unlabelled": Path("x")}, "labelled cases alone"),
        ({"name": "../x"}, "cannot be an adapter's name"),
    ],
)
def test_orders_that_cannot_be_carried_out_are_refused(
    tmp_path: Path, wrong: dict[str, object], told: str
) -> None:
    with pytest.raises(InvalidInput, match=told):
        an_order(tmp_path, **wrong)


def test_an_empty_label_or_no_case_is_told(a_workplace: Path) -> None:
    with pytest.raises(InvalidInput, match="No case has a voxel of cube"):
        adapt(an_order(a_workplace, labels=("ball", "cube")), Watch(silent))
    with pytest.raises(InvalidInput, match="no label 'liver'"):
        adapt(an_order(a_workplace, labels=("liver",)), Watch(silent))
    (a_workplace / "none").mkdir()
    with pytest.raises(InvalidInput, match="no image"):
        adapt(an_order(a_workplace, cases=a_workplace / "none"), Watch(silent))


def test_the_smaller_tier_is_tried_where_memory_is_short(
    a_workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = front_of

    def short(model: TinySliceModel, rear: int | None) -> object:
        if rear is None:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(model, rear)

    monkeypatch.setattr("protosam.learn.gated_run.front_of", short)
    result = adapt(an_order(a_workplace, tier="full"), Watch(silent))
    assert result.tier == "decoder" and "does not fit into memory" in result.notes[0]


def test_the_command_writes_a_report_and_says_what_is_active(a_workplace: Path) -> None:
    arguments = ["adapt", str(a_workplace / "cases"), "--name", "ball", "--labels", "ball"]
    arguments += ["--steps", "2", "--examples", "2", "--device", "cpu", "--tier", "decoder"]
    arguments += ["--model", str(a_workplace / "deep.safetensors")]
    arguments += ["--adapters-dir", str(a_workplace / "adapters")]
    arguments += ["--json", str(a_workplace / "report.json")]
    torch.manual_seed(0)
    deep = TinySettings(
        embed_dim=32, stem_widths=(12, 24, 24), trunk_dim=48, trunk_depth=3, trunk_heads=2
    )
    save_tiny(TinySAM(deep), a_workplace / "deep.safetensors", {})
    done = CliRunner().invoke(app, arguments)
    report = json.loads((a_workplace / "report.json").read_text())
    assert done.exit_code == (0 if report["active"] else 1)
    assert "Version 1 of ball" in done.output and SAME_PATIENTS in done.output
    assert set(report["card"]["gate"]["mean"]) == {"base", "current", "new"}
    assert report["card"]["settings"]["steps"] == 2


def test_a_model_reads_no_neighbours_has_no_mark_without_a_click() -> None:
    torch.manual_seed(0)
    model = TinySliceModel(TinySAM(SMALL), name="small", digest="d", device=CPU)
    board = a_board()
    (with_it,) = measure(model, [board], on_board=lambda _number: None)
    assert with_it.dice[0] is not None
    model.reads_neighbours = False  # type: ignore[misc]
    (without,) = measure(model, [board], on_board=lambda _number: None)
    assert without.dice[0] is None and 0 <= without.mean <= 1
