"""Specialists: small networks taught beside the frozen model, their file, their gate, their use."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from protosam.batch.finding import Case
from protosam.batch.ways import Recipe
from protosam.cli.app import app
from protosam.errors import Cancelled, InvalidInput, WeightsRefused
from protosam.geometry import Volume
from protosam.learn.adapt_order import AdaptOrder, Watch
from protosam.learn.adapter_cards import AdapterCard
from protosam.learn.adapters import AdapterStore
from protosam.learn.division import Judge
from protosam.learn.finished_cases import FinishedCase
from protosam.learn.gated_run import adapt
from protosam.learn.recipe import Checkpoint
from protosam.learn.recipe_settings import RecipeSettings
from protosam.learn.unlabelled.generalists import core_points, generalists_of
from protosam.learn.unlabelled.mean_teacher import (
    PRESETS,
    MeanTeacherSettings,
    certain_teacher_loss,
    mean_entropy,
    model_loss,
    supervised_loss,
    teacher_loss,
)
from protosam.learn.unlabelled.opinions import confidence, joined, single, variance
from protosam.learn.unlabelled.ramps import teacher_decay
from protosam.learn.unlabelled.scans import (
    Patch3D,
    card_for,
    classes_of,
    cut,
    labelled_scan,
    pool_scan,
)
from protosam.learn.unlabelled.specialist_gate import FoundRow, objection
from protosam.learn.unlabelled.specialist_names import find_specialist
from protosam.learn.unlabelled.specialists import (
    Material3D,
    SpecialistRunner,
    teach_specialist,
)
from protosam.models.specialist import (
    NETWORKS,
    Specialist,
    build_networks,
    load_specialist,
    resized_to,
    save_specialist,
)
from protosam.models.specialist_card import (
    FILE,
    NETWORK_NAMES,
    SpecialistCard,
    read_specialist_card,
)
from protosam.models.tiny import TinySAM, TinySettings
from protosam.models.tiny_predictor import save_tiny

CPU = torch.device("cpu")
SMALL = TinySettings(
    embed_dim=32, stem_widths=(12, 24, 24), trunk_dim=48, trunk_depth=2, trunk_heads=2
)
QUICK = MeanTeacherSettings(
    steps=4, consistency=0.5, assistance=0.5, begin=0.25, refreshes=1, checkpoint_every=1, passes=2
)
SHAPE = (12, 20, 24)


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that take a blink."""

    def tiny(classes: int) -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Conv3d(1, 4, 3, padding=1),
            torch.nn.InstanceNorm3d(4),
            torch.nn.ReLU(),
            torch.nn.Conv3d(4, classes, 3, padding=1),
        )

    monkeypatch.setitem(NETWORKS, "unet", tiny)


def a_ball(seed: int = 0) -> tuple[Volume, np.ndarray]:
    rng = np.random.default_rng(seed)
    k, j, i = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    ball = ((k - 6) * 2) ** 2 + (j - 10 - seed % 2) ** 2 + (i - 12) ** 2 <= 36
    image = np.where(ball, 100, 0) + rng.integers(0, 20, size=SHAPE)
    return Volume(image.astype(np.int16), np.diag([1.0, 1.0, 2.0, 1.0])), ball


def a_case(seed: int = 0, labels: tuple[int, ...] = (1,)) -> FinishedCase:
    volume, ball = a_ball(seed)
    return FinishedCase(f"c{seed}", volume, Volume(ball.astype(np.uint8), volume.affine), labels)


class Oracle:
    """A generalist that knows the ball of every image."""

    def __init__(self) -> None:
        self.asked: list[np.ndarray] = []

    def opinions(self, volume: Volume, probability: np.ndarray) -> list[np.ndarray]:
        self.asked.append(probability)
        bright = (np.asarray(volume.voxels) > 60).astype(np.float32)
        return [bright, np.where(bright > 0, 0.9, 0.1).astype(np.float32)]


def some_material(settings: MeanTeacherSettings, oracle: Any = None) -> Material3D:
    card = card_for([a_case(0), a_case(1)], {1: "ball"}, settings.networks)
    return Material3D(
        card,
        [labelled_scan(a_case(n), [1], card) for n in range(2)],
        [pool_scan(a_ball(n)[0], card) for n in (2, 3)],
        [oracle or Oracle()],
    )


def a_runner(folder: Path, settings: MeanTeacherSettings = QUICK) -> SpecialistRunner:
    return SpecialistRunner(
        some_material(settings), settings, Checkpoint(folder / "state.pt", "one"), CPU
    )


def values(nets: list[torch.nn.Module]) -> list[torch.Tensor]:
    return [p.detach().clone() for net in nets for p in net.parameters()]


# Losses


@pytest.mark.parametrize("plus", [False, True])
def test_every_active_term_gives_the_student_a_gradient(tmp_path: Path, plus: bool) -> None:
    run = a_runner(tmp_path, dataclasses.replace(QUICK, plus=plus))
    with torch.no_grad():
        for parameter in run.students[0].parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    target = torch.zeros(1, 2, *run._material.card.patch)
    target[:, 1] = 1
    rng = np.random.default_rng(0)
    batch = dataclasses.replace(
        run._batch(rng), target=target, weight=torch.ones(1, 1, *run._material.card.patch)
    )
    parts = run.loss_parts(batch)
    assert set(parts) == {"labels 0", "teacher 0", "model 0"}
    for name, part in parts.items():
        run.students[0].zero_grad()
        part.backward(retain_graph=True)
        pull = sum(
            float(p.grad.abs().sum()) for p in run.students[0].parameters() if p.grad is not None
        )
        assert pull > 1e-8, name
    assert all(p.grad is None for p in run.teachers[0].parameters())


def test_every_network_that_a_card_may_name_can_be_built() -> None:
    assert tuple(NETWORKS) == NETWORK_NAMES


def test_the_models_term_is_not_divided_by_itself() -> None:
    said = torch.full((1, 2, 3, 3, 3), 0.5, requires_grad=True)
    target, weight = torch.zeros(1, 2, 3, 3, 3), torch.ones(1, 1, 3, 3, 3)
    near = model_loss(said * 0.1, target, weight)
    far = model_loss(said, target, weight)
    assert far.item() == pytest.approx(100 * near.item())
    nothing = model_loss(said, target, 0 * weight)
    assert nothing.item() == 0


def test_certain_voxels_teach_and_uncertain_ones_do_not() -> None:
    student = torch.full((1, 2, 1, 1, 2), 0.5, requires_grad=True)
    teacher = torch.tensor([0.9, 0.1]).reshape(1, 2, 1, 1, 1).expand(1, 2, 1, 1, 2)
    uncertainty = torch.tensor([0.1, 0.69]).reshape(1, 1, 1, 2)
    certain_teacher_loss(student, teacher, uncertainty, 0.0).backward()
    assert student.grad is not None
    assert student.grad[..., 0].abs().sum() > 0 and student.grad[..., 1].abs().sum() == 0
    at_the_end = certain_teacher_loss(student.detach(), teacher, uncertainty, 1.0)
    assert at_the_end.item() == pytest.approx(0.16, rel=1e-3)
    assert float(mean_entropy(torch.full((1, 2, 1), 0.5))) == pytest.approx(math.log(2))


def test_losses_are_lowest_where_the_answer_is_right() -> None:
    objects = torch.zeros(1, 4, 4, 4)
    objects[0, 1:3, 1:3, 1:3] = 1
    classes = classes_of(objects)[None]
    right = 20 * (classes - 0.5)
    assert supervised_loss(right, classes) < 0.01 < supervised_loss(-right, classes)
    assert teacher_loss(classes, classes).item() == 0


def test_the_model_helps_early_and_the_teacher_late() -> None:
    settings = MeanTeacherSettings(steps=100)
    early, late = settings.weights_at(0), settings.weights_at(99)
    assert early[0] < 0.001 < late[0] and late[1] < 0.001 < early[1]
    assert early[1] == pytest.approx(0.05) and settings.refresh_steps == [20, 60]
    assert PRESETS["semisam-plus"].plus and not PRESETS["semisam"].plus


# Opinions


def test_the_confidence_falls_where_opinions_differ() -> None:
    spread = torch.linspace(0, 0.25, 6)
    weights = confidence(spread)
    assert weights[0] == 1 and bool((weights[1:] < weights[:-1]).all())
    assert float(weights[-1]) == pytest.approx(math.exp(-2))


def test_opinions_are_joined_by_trust_and_weighed_by_agreement() -> None:
    believed = torch.zeros(2, 2, 2)
    believed[0] = 1.0
    agreeing, other = believed.clone(), 1 - believed
    target, weight = joined([agreeing, other], believed)
    assert bool((target[0] > 0.9).all()) and bool((target[1] < 0.1).all())
    alone, surely = joined([agreeing, agreeing], believed)
    assert torch.equal(alone > 0.5, believed > 0.5) and bool((surely > weight).all())
    unasked = agreeing.clone()
    unasked[1] = math.nan
    _, part = joined([unasked], believed)
    assert bool((part[0] > 0).all()) and bool((part[1] == 0).all())
    hard, asked = single(unasked)
    assert set(hard.unique().tolist()) <= {0.0, 1.0} and asked[1].sum() == 0
    with pytest.raises(InvalidInput, match="no opinion"):
        joined([], believed)


def test_variance_passes_over_what_was_not_asked() -> None:
    stack = torch.tensor([[0.0, math.nan], [1.0, 0.5]])
    torch.testing.assert_close(variance(stack), torch.tensor([0.25, 0.0]))


def test_generalists_are_prompted_inside_by_positive_and_outside_by_negative_clicks() -> None:
    _, ball = a_ball()
    probability = np.where(ball, 0.98, 0.01).astype(np.float32)
    prompts = core_points(probability)
    assert prompts is not None
    signs = [point.positive for point in prompts.points]
    assert any(signs) and not all(signs)
    for point in prompts.points:
        assert ball[tuple(int(n) for n in point.point_kji)] == point.positive
    assert core_points(np.full(SHAPE, 0.5, np.float32)) is None


@pytest.mark.parametrize("name", ["slices", "volume"])
def test_each_generalist_finds_what_it_was_prompted_for(name: str, region_model: Any) -> None:
    volume, ball = a_ball()
    probability = np.where(ball, 0.98, 0.01).astype(np.float32)
    opinions = generalists_of((name,), region_model())[0].opinions(volume, probability)
    assert opinions
    for opinion in opinions:
        asked = np.isfinite(opinion)
        assert (opinion[asked] > 0.5).sum() >= 0.8 * ball.sum()
        assert not (opinion[~ball & asked] > 0.5).any()
    nothing = np.zeros(SHAPE, np.float32)
    assert generalists_of((name,), region_model())[0].opinions(volume, nothing) == []


def test_generalists_that_do_not_exist_are_refused(region_model: Any) -> None:
    with pytest.raises(InvalidInput, match="slices, volume"):
        generalists_of(("magic",), region_model())


# The training


def test_the_teacher_follows_by_the_formula(tmp_path: Path) -> None:
    run = a_runner(tmp_path)
    for step in range(3):
        before = values(run.teachers)
        run.take_step()
        decay = teacher_decay(step, QUICK.decay)
        for old, now, student in zip(
            before, values(run.teachers), values(run.students), strict=True
        ):
            torch.testing.assert_close(now, decay * old + (1 - decay) * student)


def taught(folder: Path, stop_after: int | None = None, seed: int = 0) -> list[torch.Tensor]:
    settings = dataclasses.replace(QUICK, seed=seed)
    seen: list = []
    specialist, report = teach_specialist(
        some_material(settings),
        settings,
        checkpoint=Checkpoint(folder / "state.pt", "one"),
        on_step=seen.append,
        should_stop=lambda: stop_after is not None and len(seen) >= stop_after,
        device=CPU,
    )
    assert report["steps"] == 4
    return values(specialist.networks)


def test_the_same_seed_teaches_the_same_and_a_stopped_run_goes_on_as_if_it_had_not_been(
    tmp_path: Path,
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    straight = taught(tmp_path / "a")
    with pytest.raises(Cancelled, match="step 2 of 4"):
        taught(tmp_path / "b", stop_after=2)
    resumed, other = taught(tmp_path / "b"), taught(tmp_path / "c", seed=1)
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))
    assert any(not torch.equal(a, c) for a, c in zip(straight, other, strict=True))
    (tmp_path / "b" / "state.pt").write_bytes(b"half of it")
    with pytest.raises(InvalidInput, match="Delete it"):
        taught(tmp_path / "b")


def say(run: SpecialistRunner, inside: np.ndarray | float) -> None:
    """Let the teachers say the same of every image."""

    class Always(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            bright = (images > 1).float() if isinstance(inside, np.ndarray) else images * 0 + inside
            return torch.cat([-20 * (bright - 0.5), 20 * (bright - 0.5)], dim=1)

    run.teachers = [Always()]


def test_the_model_is_asked_by_what_the_network_says_and_never_in_every_step(
    tmp_path: Path,
) -> None:
    oracle = Oracle()
    run = SpecialistRunner(
        some_material(QUICK, oracle), QUICK, Checkpoint(tmp_path / "s.pt", "one"), CPU
    )
    say(run, np.ones(1))
    run._refresh()
    assert run.alarm is None and len(oracle.asked) == 2
    assert all(told is not None for told in run._assistance)
    for told in run._assistance:
        assert told is not None and 0.02 < float(told.target.float().mean()) < 0.5
    for _ in range(3):
        run._batch(np.random.default_rng(0))
    assert len(oracle.asked) == 2


def test_a_collapse_takes_the_images_without_labels_out_for_good(tmp_path: Path) -> None:
    run = a_runner(tmp_path)
    say(run, np.ones(1))
    run._refresh()
    assert run.alarm is None
    say(run, 1.0)
    run._refresh()
    assert "times as much" in str(run.alarm)
    batch = run._batch(np.random.default_rng(0))
    assert len(batch.images) == 1 and batch.target is None


def test_too_little_to_learn_from_is_refused(tmp_path: Path) -> None:
    whole = some_material(QUICK)
    bare = dataclasses.replace(whole, pool=())
    with pytest.raises(InvalidInput, match="at least one of each"):
        SpecialistRunner(bare, QUICK, Checkpoint(tmp_path / "s.pt", "one"), CPU)
    alone = dataclasses.replace(QUICK, consistency=0.0, assistance=0.0)
    run = SpecialistRunner(bare, alone, Checkpoint(tmp_path / "s.pt", "one"), CPU)
    assert math.isfinite(run.take_step())
    for wrong in ({"steps": 0}, {"decay": 1.0}, {"consistency": math.nan}, {"networks": ()}):
        with pytest.raises(InvalidInput):
            MeanTeacherSettings(**wrong)  # type: ignore[arg-type]


# Scans


def test_a_patch_that_is_not_turned_is_a_crop() -> None:
    maps = torch.arange(6 * 7 * 8, dtype=torch.float32).reshape(1, 6, 7, 8)
    patch = Patch3D(np.array([2.5, 3.0, 3.5]), np.eye(3))
    taken = cut(maps, patch, (4, 5, 6), beyond="zeros")
    torch.testing.assert_close(taken, maps[:, 1:5, 1:6, 1:7], rtol=1e-4, atol=1e-3)
    far = Patch3D(np.array([50.0, 50.0, 50.0]), np.eye(3))
    assert cut(maps, far, (4, 4, 4), beyond="zeros").sum() == 0


def test_the_grid_holds_the_object_and_is_no_finer_than_the_images() -> None:
    card = card_for([a_case(0)], {1: "ball"}, ("unet",))
    assert card.spacing_mm == (2.0, 1.0, 1.0) and all(side % 16 == 0 for side in card.patch)
    _, ball = a_ball()
    scan = labelled_scan(a_case(0), [1], card)
    assert tuple(scan.image.shape[1:]) == SHAPE and int(scan.objects.sum()) == ball.sum()
    assert abs(float(scan.image.mean())) < 1e-4


def test_maps_come_back_to_their_grid() -> None:
    _, ball = a_ball()
    maps = torch.from_numpy(ball.astype(np.float32))[None]
    there = resized_to(maps, (6, 10, 12))
    back = resized_to(there, SHAPE)[0].numpy() > 0.5
    assert 2 * (back & ball).sum() / (back.sum() + ball.sum()) > 0.8
    assert float(there.mean()) == pytest.approx(float(maps.mean()), rel=1e-3)


# The file


def a_specialist(labels: tuple[str, ...] = ("ball",)) -> Specialist:
    """One that finds what is bright."""
    card = SpecialistCard(labels, ("unet",), (2.0, 1.0, 1.0), (16, 32, 32))
    torch.manual_seed(0)
    nets = build_networks(card)
    first, last = nets[0][0], nets[0][3]  # type: ignore[index]
    with torch.no_grad():
        for layer in (first, last):
            layer.weight.zero_()
            layer.bias.zero_()
        first.weight[0, 0, 1, 1, 1] = 1.0
        last.weight[1, 0, 1, 1, 1] = 10.0
        last.bias[1] = -10.0
    return Specialist(card, nets, CPU)


def test_a_specialist_finds_its_object_and_comes_back_from_its_file(tmp_path: Path) -> None:
    volume, ball = a_ball()
    found = a_specialist().find(volume)
    assert [one.name for one in found] == ["ball"]
    assert 2 * (found[0].mask & ball).sum() / (found[0].mask.sum() + ball.sum()) > 0.9
    assert 0.5 < found[0].confidence <= 1 and set(found[0].slices) <= set(range(SHAPE[0]))
    save_specialist(a_specialist(), tmp_path / FILE)
    again = load_specialist(tmp_path / FILE, CPU)
    assert again.card == a_specialist().card == read_specialist_card(tmp_path / FILE)
    np.testing.assert_array_equal(again.find(volume)[0].mask, found[0].mask)


def test_files_that_are_no_specialist_are_refused_with_the_next_step(tmp_path: Path) -> None:
    save_tiny(TinySAM(SMALL), tmp_path / "x.safetensors", {})
    with pytest.raises(WeightsRefused, match="no specialist"):
        load_specialist(tmp_path / "x.safetensors", CPU)
    (tmp_path / FILE).write_bytes(b"half of it")
    with pytest.raises(WeightsRefused):
        load_specialist(tmp_path / FILE, CPU)
    with pytest.raises(WeightsRefused):
        read_specialist_card(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "wrong",
    [{"networks": ("magic",)}, {"labels": ()}, {"patch": (15, 16, 16)}, {"spacing_mm": (0, 1, 1)}],
)
def test_cards_that_cannot_be_built_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        dataclasses.replace(a_specialist().card, **wrong)


# The gate


def a_row(new: float, current: float | None, sentinel: bool = False) -> FoundRow:
    return FoundRow("x", "ball", sentinel, new, current)


def test_a_first_specialist_has_to_find_its_object() -> None:
    assert objection([a_row(0.6, None)]) is None
    assert "0.5" in str(objection([a_row(0.4, None)]))
    assert objection([a_row(math.nan, None)]) is not None


def test_a_worse_specialist_and_one_that_fails_a_sentinel_are_kept_out() -> None:
    assert objection([a_row(0.6, 0.6), a_row(0.7, 0.6)]) is None
    assert "fell by" in str(objection([a_row(0.5, 0.6)]))
    better = [a_row(0.9, 0.6), dataclasses.replace(a_row(0.5, 0.6, sentinel=True), case="y")]
    assert "sentinel y" in str(objection(better))


# The whole way


def save_pair(folder: Path, name: str, seed: int, *, labelled: bool) -> None:
    volume, ball = a_ball(seed)
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1, -1, 2, 1.0])
    nib.save(nib.Nifti1Image(np.asarray(volume.voxels).T, affine), folder / f"{name}_img.nii.gz")
    if labelled:
        image = nib.Nifti1Image(ball.astype(np.uint8).T, affine)
        nib.save(image, folder / f"{name}_lab.nii.gz")


@pytest.fixture
def a_workplace(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_tiny(TinySAM(SMALL), tmp_path / "small.safetensors", {})
    for n in range(2):
        save_pair(tmp_path / "cases", f"patient{n}", n, labelled=True)
        save_pair(tmp_path / "pool", f"other{n}", n + 5, labelled=False)
        (tmp_path / "pool" / f"other{n}_lab.nii.gz").write_bytes(b"not to be looked at")
    (tmp_path / "cases" / "labels.json").write_text(json.dumps({"1": "ball"}))
    return tmp_path


def an_order(folder: Path, method: str = "semisam") -> AdaptOrder:
    return AdaptOrder(
        cases=folder / "cases",
        name="ball",
        method=method,
        unlabelled=folder / "pool",
        adapters_dir=folder / "adapters",
        model=str(folder / "small.safetensors"),
        device="cpu",
        settings=RecipeSettings(rear_blocks=1, rank=2, steps=4, batch=1),
    )


@pytest.mark.parametrize("method", ["semisam", "semisam-plus"])
def test_cases_and_images_become_a_specialist_that_has_versions(
    a_workplace: Path, method: str
) -> None:
    told: list[str] = []
    result = adapt(an_order(a_workplace, method), Watch(lambda _done, text: told.append(text)))
    assert result.tier == "specialist" and result.version.card.method == method
    assert (result.version.folder / FILE).is_file()
    assert result.version.active is result.report.accepted
    assert (
        any("step 4 of 4" in text for text in told) and "without a click" in result.report.to_text()
    )
    card = json.dumps(vars(result.version.card), default=list)
    assert "patient0" not in card and "other0" not in card
    assert "alarm" in result.version.card.settings["unlabelled"]
    found = load_specialist(find_specialist(f"specialist:{result.version.folder}"), CPU)
    assert found.card.labels == ("ball",)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ema"])
def test_cases_and_images_become_an_adapter(a_workplace: Path, method: str) -> None:
    guess = a_ball(5)[1]
    patch = pytest.MonkeyPatch()
    # A network that was never taught finds nothing; the guess is that of a useful one.
    patch.setattr(
        "protosam.learn.unlabelled.places.apply_example",
        lambda _model, volume, _example: [Guess(guess)],
    )
    try:
        result = adapt(an_order(a_workplace, method), Watch(lambda _done, _text: None))
    finally:
        patch.undo()
    told = result.version.card.settings["unlabelled"]
    assert result.version.card.method == method and told["slices"] > 0
    assert bool(told["alarm"]) == any("left out" in note for note in result.notes)


@dataclasses.dataclass
class Guess:
    """A proposal."""

    mask: np.ndarray
    name: str = "1"

    def full_mask(self, _shape: Any) -> np.ndarray:
        return self.mask


def stored(folder: Path) -> Path:
    save_specialist(a_specialist(), folder / FILE)
    return folder / FILE


def test_the_command_segments_with_a_specialist_and_takes_no_prompts(
    tmp_path: Path, a_workplace: Path
) -> None:
    path, image = stored(tmp_path), a_workplace / "pool" / "other0_img.nii.gz"
    order = ["segment", str(image), "-o", str(tmp_path / "o.nii.gz"), "--model",
             f"specialist:{path}", "--device", "cpu"]  # fmt: skip
    shown = CliRunner().invoke(app, order)
    assert shown.exit_code == 0 and "ball" in shown.output
    assert np.asarray(nib.load(tmp_path / "o.nii.gz").dataobj).sum() > 100
    for arguments, said in (
        ([*order, "--point", "1,2,3,+"], "without --point"),
        ([*order[:5], "specialist:none", *order[6:]], "no active specialist"),
    ):
        refused = CliRunner().invoke(app, arguments)
        assert refused.exit_code != 0 and said in " ".join(refused.output.split())


def test_a_specialist_is_looked_up_by_name_in_the_folder_of_adapters(
    tmp_path: Path, a_workplace: Path
) -> None:
    image, folder = a_workplace / "pool" / "other0_img.nii.gz", tmp_path / "adapters"
    card = AdapterCard("specialist", "small", "0" * 64, ("ball",), ("a",), ("b",), 0, {}, {}, {})
    AdapterStore(folder).add(
        "atrium", card, lambda new: save_specialist(a_specialist(), new / FILE), activate=True
    )
    order = ["segment", str(image), "-o", str(tmp_path / "o.nii.gz"), "--device", "cpu",
             "--model", "specialist:atrium", "--adapters-dir"]  # fmt: skip
    shown = CliRunner().invoke(app, [*order, str(folder)])
    assert shown.exit_code == 0, shown.output
    empty = tmp_path / "empty"
    empty.mkdir()
    refused = CliRunner().invoke(app, [*order, str(empty)])
    assert refused.exit_code != 0 and "no active specialist" in " ".join(refused.output.split())


def test_a_specialist_is_a_way_of_a_batch(tmp_path: Path) -> None:
    recipe = Recipe(model=f"specialist:{stored(tmp_path)}", device="cpu")
    assert [name for name, _ in recipe.known_structures()] == ["ball"]
    finder = recipe.open()
    volume, ball = a_ball()
    found = finder.find(Case(volume))
    assert finder.algorithm.kind == "AUTOMATIC" and len(finder.algorithm.model_digest) == 64
    assert (found[0].segment.mask & ball).sum() > 0.8 * ball.sum() and found[0].slices
    assert Recipe(model=str(tmp_path / FILE), device="cpu").open().find(Case(volume))
    with pytest.raises(InvalidInput, match="alone"):
        Recipe(model=f"specialist:{tmp_path / FILE}", from_seg=True)
    with pytest.raises(InvalidInput, match="finds kidney"):
        Recipe(model=f"specialist:{tmp_path / FILE}", structures=("kidney",)).known_structures()


def test_a_specialist_has_neither_tiers_nor_examples(tmp_path: Path) -> None:
    for wrong in ({"tier": "decoder"}, {"settings": RecipeSettings(examples=5)}):
        with pytest.raises(InvalidInput, match="neither tiers nor"):
            AdaptOrder(tmp_path, "a", method="semisam", unlabelled=tmp_path, **wrong)  # type: ignore[arg-type]


def test_an_adapters_name_is_not_taken_for_a_specialist(a_workplace: Path) -> None:
    with pytest.raises(InvalidInput, match="no active specialist"):
        find_specialist("specialist:ball", a_workplace / "adapters")


def test_judges_count_only_their_own_slices() -> None:
    from protosam.learn.unlabelled.specialist_gate import found_dice

    case = a_case(0)
    whole = found_dice(a_specialist(), Judge(case, 0, SHAPE[0]), {1: "ball"})
    outside = found_dice(a_specialist(), Judge(case, 0, 1), {1: "ball"})
    unknown = found_dice(a_specialist(("else",)), Judge(case, 0, SHAPE[0]), {1: "ball"})
    assert whole["ball"] > 0.9 and outside["ball"] == 1 and unknown["ball"] == 0
