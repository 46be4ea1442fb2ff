"""The recipe: an encoder in two parts, lessons with a gradient, and a base that stays as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from protosam.errors import Cancelled, InvalidInput, WeightsRefused
from protosam.geometry import Volume
from protosam.intensity import Window
from protosam.learn.finished_cases import FinishedCase
from protosam.learn.fronts import front_of
from protosam.learn.lessons import (
    CARRIED,
    FRAME_SHIFT,
    QUESTIONS,
    WINDOW_SHIFT,
    Asker,
    Lesson,
    Variant,
    lessons_of,
    moved_frame,
    shifted_window,
)
from protosam.learn.losses import BCE_WEIGHT, hard_iou, mask_loss
from protosam.learn.pupils import pupil_of
from protosam.learn.recipe import (
    Checkpoint,
    RecipeProgress,
    Taught,
    teach,
    with_adapter,
    without_adapter,
)
from protosam.learn.recipe_settings import (
    FEW_STEPS,
    STEPS,
    RecipeSettings,
    choose_tier,
    for_model,
)
from protosam.learn.replay import replayed_cases
from protosam.models.lora import load_adapter, lora_parameters, merge_lora, save_adapter
from protosam.models.lora_places import part_of
from protosam.models.planes import Rect
from protosam.models.slice_model import SlicePrompts
from protosam.models.tiny import TinySAM, TinySettings
from protosam.models.tiny_predictor import TinySliceModel

CPU = torch.device("cpu")
SMALL = TinySettings(
    embed_dim=32, stem_widths=(12, 24, 24), trunk_dim=48, trunk_depth=2, trunk_heads=2
)
QUICK = RecipeSettings(
    rear_blocks=1, rank=2, steps=4, batch=2, examples=4, checkpoint_every=2, learning_rate=1e-2
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


@pytest.fixture
def a_model() -> TinySliceModel:
    torch.manual_seed(0)
    return TinySliceModel(TinySAM(SMALL), name="small", digest="d", device=CPU, bfloat16=False)


def some_lessons(model: TinySliceModel, settings: RecipeSettings = QUICK) -> list[Lesson]:
    cases = [a_case(f"case {n}", n) for n in range(2)]
    front = front_of(model, settings.blocks)
    return lessons_of(cases, model, front, count=4, seed=0, on_progress=silent)


def weights_digest(model: TinySliceModel) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.network.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def taught(
    model: TinySliceModel,
    folder: Path,
    settings: RecipeSettings = QUICK,
    stop_after: int | None = None,
) -> Taught:
    seen: list[RecipeProgress] = []
    lessons = some_lessons(model, settings)
    with_adapter(model, settings)

    def enough() -> bool:
        return stop_after is not None and len(seen) >= stop_after

    return teach(
        model,
        lessons,
        settings,
        checkpoint=Checkpoint(folder / "state.pt", "one run"),
        on_step=seen.append,
        should_stop=enough,
    )


def adapter_of(model: TinySliceModel) -> list[torch.Tensor]:
    return [p.detach().clone() for p in lora_parameters(model.network)]


@pytest.mark.parametrize("rear", [1, 2, None])
def test_front_and_rear_give_what_the_encoder_gives(
    a_model: TinySliceModel, rear: int | None
) -> None:
    stack = np.random.default_rng(0).random((3, 40, 56), dtype=np.float32)
    front = front_of(a_model, rear)
    with torch.no_grad():
        split = front.finish(front.begin(stack, (1.0, 1.0)))
    whole = a_model.embed(stack[None], (1.0, 1.0))[0]
    for name in ("embedding", "quarter", "half"):
        one, other = getattr(split.features, name), getattr(whole.features, name)
        torch.testing.assert_close(one, other.clone(), atol=5e-3, rtol=5e-3)
    assert split.frame == whole.frame
    np.testing.assert_allclose(split.cost, whole.cost)


def test_blocks_that_do_not_exist_are_refused(a_model: TinySliceModel) -> None:
    with pytest.raises(InvalidInput, match="it has 2"):
        front_of(a_model, 3)


@pytest.mark.parametrize("kind", list(QUESTIONS))
@pytest.mark.parametrize("tier", ["decoder", "full"])
def test_every_question_gives_every_learning_block_a_gradient_and_nothing_else(
    a_model: TinySliceModel, kind: str, tier: str
) -> None:
    settings = RecipeSettings(tier=tier, rear_blocks=1, rank=2)  # type: ignore[arg-type]
    lessons = [one for one in some_lessons(a_model, settings) if len(one.onward) == CARRIED]
    with_adapter(a_model, settings)
    asker = Asker(pupil_of(a_model), front_of(a_model, settings.blocks))
    asker.loss(lessons[0], np.random.default_rng(0), kind).backward()
    # The first factor has no gradient while the second is zero.
    second = [(name, p) for name, p in a_model.network.named_parameters() if ".lora_B" in name]
    blocks = {name.split(".")[2] for name, _ in second if ".blocks." in name}
    assert blocks == ({"1"} if tier == "decoder" else {"0", "1"})
    assert {part_of(name.partition(".lora_")[0]) for name, _ in second} == set(settings.parts)
    # One mask is read where a single click is not all there is, so the others' layers rest; and
    # where two keys of a softmax are alike, neither of their weights matters.
    resting = [name for name, p in second if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert all("output_hypernetworks_mlps" in name for name in resting), resting
    assert kind != "click" or not resting
    others = [p for name, p in a_model.network.named_parameters() if ".lora_" not in name]
    assert all(p.grad is None for p in others)


@pytest.mark.parametrize("term", ["overlap", "cross-entropy", "score", "presence"])
def test_every_term_of_the_loss_reaches_the_adapter(a_model: TinySliceModel, term: str) -> None:
    lesson = some_lessons(a_model)[0]
    with_adapter(a_model, QUICK)
    pupil, front = pupil_of(a_model), front_of(a_model, QUICK.blocks)
    embedding = front.finish(lesson.whole.begun)
    target = pupil.target(embedding, lesson.whole.truth)
    row, column = np.argwhere(lesson.whole.truth).mean(axis=0)
    asked = SlicePrompts(np.array([[row, column]]), np.array([True]))
    reading = pupil.ask(embedding, asked, None)
    assert reading.presence is not None
    # Losses of answers that differ in what the term looks at alone.
    found = reading.logits
    loss = {
        "overlap": mask_loss(found, target).mean()
        - BCE_WEIGHT * functional.binary_cross_entropy_with_logits(found, target.expand_as(found)),
        "cross-entropy": mask_loss(found, torch.zeros_like(target)).mean(),  # has no overlap
        "score": functional.binary_cross_entropy_with_logits(
            reading.scores, hard_iou(found.detach(), target)
        ),
        "presence": functional.binary_cross_entropy_with_logits(reading.presence, torch.ones(())),
    }[term]
    loss.backward()
    gradients = [p.grad for p in lora_parameters(a_model.network) if p.grad is not None]
    assert sum(float(g.abs().sum()) for g in gradients) > 0


def test_few_slices_are_shown_in_variants_and_many_as_they_are(a_model: TinySliceModel) -> None:
    case, front = a_case("a"), front_of(a_model, 1)
    varied = lessons_of([case], a_model, front, count=12, seed=0, on_progress=silent)
    as_it_is = [(slice_ == 1).tobytes() for slice_ in case.labels.voxels]
    shown = [one.whole.truth.tobytes() in as_it_is for one in varied]
    assert len(varied) == 12 and all(shown[:4]) and not all(shown)
    for one in varied:
        assert one.closer.truth.any()
        assert one.closer.truth.sum() <= one.whole.truth.sum()


@pytest.mark.parametrize("count", [4, 7, 12, 30])
def test_progress_of_encoding_never_goes_back(a_model: TinySliceModel, count: int) -> None:
    told: list[float] = []
    lessons_of(
        [a_case("a"), a_case("b", 1)],
        a_model,
        front_of(a_model, 1),
        count=count,
        seed=0,
        on_progress=lambda done, _: told.append(done),
    )
    assert told == sorted(told) and told[0] >= 0 and told[-1] < 1


@given(
    low=st.floats(-WINDOW_SHIFT, WINDOW_SHIFT),
    high=st.floats(-WINDOW_SHIFT, WINDOW_SHIFT),
    seed=st.integers(0, 9),
)
def test_a_variant_keeps_the_window_open_and_the_object_in_its_frame(
    low: float, high: float, seed: int
) -> None:
    window = shifted_window(Window(-160.0, 240.0), Variant((), (low, high)))
    assert window.high - window.low >= (1 - 2 * WINDOW_SHIFT) * 400.0 - 1e-6
    rng = np.random.default_rng(seed)
    seen = Rect(*(int(v) for v in (10, 10 + rng.integers(1, 30), 5, 5 + rng.integers(1, 30))))
    moved = moved_frame(seen, FRAME_SHIFT, rng)
    assert moved.top < moved.bottom and moved.left < moved.right
    assert 0 not in moved.intersection(seen).shape


def test_what_is_practised_beside_the_cases_is_the_same_for_a_seed_and_no_patients() -> None:
    first, again, other = replayed_cases(0), replayed_cases(0), replayed_cases(1)
    assert [case.image.uid for case in first] == [case.image.uid for case in again]
    assert not {case.image.uid for case in first} & {case.image.uid for case in other}
    for case in first:
        assert case.wanted and all((case.labels.voxels == n).any() for n in case.wanted)


def test_an_answer_is_carried_on_with_its_errors(
    a_model: TinySliceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lesson = next(one for one in some_lessons(a_model) if len(one.onward) == CARRIED)
    with_adapter(a_model, QUICK)
    pupil = pupil_of(a_model)
    asked, answers = [], []
    ask, on_slice = pupil.ask, pupil.on_slice
    monkeypatch.setattr(pupil, "ask", lambda e, p, s: (asked.append(p), ask(e, p, s))[1])
    monkeypatch.setattr(
        pupil, "on_slice", lambda e, x: (answers.append(on_slice(e, x)), answers[-1])[1]
    )
    asker, lengths = Asker(pupil, front_of(a_model, 1)), set()
    for seed in range(8):
        asked.clear()
        answers.clear()
        asker.loss(lesson, np.random.default_rng(seed), "carried").backward()
        told = [one.neighbour_logits for one in asked if one.neighbour_logits is not None]
        lengths.add(len(told))
        for beside, answer in zip(told, answers[-len(told) :], strict=True):
            assert beside is answer  # what was answered in the slice before, not the truth
        assert asked[-1].count == 0
    assert lengths == {1, 2}


def test_positive_clicks_lie_on_the_object(
    a_model: TinySliceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lessons = some_lessons(a_model)
    with_adapter(a_model, QUICK)
    pupil = pupil_of(a_model)
    asker = Asker(pupil, front_of(a_model, 1))
    asked: list = []
    ask = pupil.ask
    monkeypatch.setattr(pupil, "ask", lambda e, p, s: (asked.append((e, p)), ask(e, p, s))[1])
    for number in range(12):
        asked.clear()
        lesson = lessons[number % len(lessons)]
        asker.loss(lesson, np.random.default_rng(number), "corrected")
        _, last = asked[-1]
        for (row, col), positive in zip(last.points_rc, last.positive, strict=True):
            assert lesson.closer.truth[round(row), round(col)] == positive


def test_the_base_is_the_same_bit_for_bit_afterwards(
    a_model: TinySliceModel, tmp_path: Path
) -> None:
    before = weights_digest(a_model)
    stack = np.random.default_rng(0).random((3, 32, 32), dtype=np.float32)
    answer = a_model.embed(stack[None], (1.0, 1.0))[0].features.embedding.clone()
    taught(a_model, tmp_path)
    changed = a_model.embed(stack[None], (1.0, 1.0))[0].features.embedding.clone()
    assert not torch.equal(answer, changed)
    without_adapter(a_model)
    assert weights_digest(a_model) == before
    assert torch.equal(answer, a_model.embed(stack[None], (1.0, 1.0))[0].features.embedding)


def test_an_untaught_adapter_changes_no_answer(a_model: TinySliceModel) -> None:
    stack = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
    before = a_model.embed(stack, (1.0, 1.0))[0].features.embedding.clone()
    with_adapter(a_model, QUICK)
    assert torch.equal(before, a_model.embed(stack, (1.0, 1.0))[0].features.embedding)


def test_the_average_is_of_the_adapter_alone_and_is_what_is_kept(
    a_model: TinySliceModel, tmp_path: Path
) -> None:
    taught(a_model, tmp_path, RecipeSettings(**{**vars(QUICK), "strength": 1.0}))
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    kept = adapter_of(a_model)
    assert len(state["average"]) == len(kept) == len(state["adapter"])
    assert all(torch.equal(a, k) for a, k in zip(state["average"], kept, strict=True))
    assert any(not torch.equal(a, k) for a, k in zip(state["adapter"], kept, strict=True))


def test_a_part_of_the_update_is_kept(a_model: TinySliceModel, tmp_path: Path) -> None:
    def update(strength: float) -> list[torch.Tensor]:
        (tmp_path / str(strength)).mkdir()
        settings = RecipeSettings(**{**vars(QUICK), "strength": strength})
        before = {name: value.clone() for name, value in a_model.network.state_dict().items()}
        taught(a_model, tmp_path / str(strength), settings)
        merged = merge_lora(a_model.network).requires_grad_(False).state_dict()
        moved = [merged[name] - value for name, value in before.items()]
        a_model.network.load_state_dict(before)
        return moved

    whole, part = update(1.0), update(0.5)
    assert any(bool(x.abs().max() > 1e-4) for x in whole)
    for x, y in zip(whole, part, strict=True):
        torch.testing.assert_close(y, x / 2, atol=1e-6, rtol=1e-4)


def test_the_same_seed_teaches_the_same_adapter(a_model: TinySliceModel, tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        settings = RecipeSettings(**{**vars(QUICK), "seed": seed})
        taught(a_model, tmp_path / name, settings)
        found.append(adapter_of(a_model))
        without_adapter(a_model)
    first, second, third = found
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    assert any(not torch.equal(x, y) for x, y in zip(first, third, strict=True))


@pytest.mark.parametrize("stop_after", [0, 1, 3])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    a_model: TinySliceModel, tmp_path: Path, stop_after: int
) -> None:
    (tmp_path / "once").mkdir()
    (tmp_path / "twice").mkdir()
    straight = taught(a_model, tmp_path / "once")
    wanted = adapter_of(a_model)
    without_adapter(a_model)
    with pytest.raises(Cancelled, match=f"step {stop_after} of 4"):
        taught(a_model, tmp_path / "twice", stop_after=stop_after)
    without_adapter(a_model)
    resumed = taught(a_model, tmp_path / "twice")
    assert resumed.losses == straight.losses
    assert all(torch.equal(x, y) for x, y in zip(wanted, adapter_of(a_model), strict=True))


def test_a_checkpoint_of_another_run_is_left_aside(a_model: TinySliceModel, tmp_path: Path) -> None:
    first = taught(a_model, tmp_path)
    without_adapter(a_model)
    torch.save(
        {**torch.load(tmp_path / "state.pt", weights_only=True), "fingerprint": "another"},
        tmp_path / "state.pt",
    )
    assert taught(a_model, tmp_path).losses == first.losses


def test_a_damaged_checkpoint_is_told(a_model: TinySliceModel, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"half of it")
    with pytest.raises(InvalidInput, match="Delete it"):
        taught(a_model, tmp_path)


def test_an_adapter_is_refused_on_another_base(a_model: TinySliceModel, tmp_path: Path) -> None:
    taught(a_model, tmp_path)
    save_adapter(a_model.network, tmp_path / "lv", base_sha256="d")
    wanted = adapter_of(a_model)
    without_adapter(a_model)
    with pytest.raises(WeightsRefused, match="was made for weights"):
        load_adapter(a_model.network, tmp_path / "lv", base_sha256="another")
    load_adapter(a_model.network, tmp_path / "lv", base_sha256="d", trainable=True)
    assert all(torch.equal(x, y) for x, y in zip(wanted, adapter_of(a_model), strict=True))


def test_the_loss_falls_on_what_is_taught(a_model: TinySliceModel, tmp_path: Path) -> None:
    settings = RecipeSettings(tier="full", rank=4, steps=24, batch=2, learning_rate=1e-2)
    losses = taught(a_model, tmp_path, settings).losses
    assert np.mean(losses[-6:]) < np.mean(losses[:6])


def test_a_loss_that_is_no_number_ends_the_run(
    a_model: TinySliceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing: Callable[..., torch.Tensor] = lambda *_: (  # noqa: E731
        sum(p.sum() for p in lora_parameters(a_model.network)) * float("nan")
    )
    monkeypatch.setattr(Asker, "loss", nothing)
    with pytest.raises(InvalidInput, match="lost its way"):
        taught(a_model, tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"strength": 0.0},
        {"strength": 1.5},
        {"rank": 0},
        {"average": 1.0},
        {"learning_rate": float("nan")},
        {"seed": -1},
    ],
)
def test_settings_that_cannot_be_taught_with_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        RecipeSettings(**wrong)  # type: ignore[arg-type]


def test_a_model_that_is_slow_here_takes_fewer_steps_where_none_are_asked_for(
    a_model: TinySliceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, asked = RecipeSettings(), RecipeSettings(steps=7)
    assert usual.planned == for_model(usual, a_model).steps == STEPS
    assert for_model(asked, a_model).steps == asked.planned == 7
    monkeypatch.setattr(TinySliceModel, "reads_neighbours", False)  # as of the SAM family
    assert for_model(usual, a_model).steps == FEW_STEPS
    assert for_model(asked, a_model).steps == 7


def test_the_machine_chooses_how_much_learns() -> None:
    assert choose_tier(CPU) == "decoder"
    assert choose_tier(torch.device("cuda")) == "full"
