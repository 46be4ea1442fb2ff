"""Teaching a shift: lessons like work, honest stopping, and the command's file."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from protosam.errors import InvalidInput
from protosam.geometry import Volume
from protosam.learn.finished_cases import CaseChoice, FinishedCase, read_cases
from protosam.learn.pupils import pupil_of
from protosam.learn.shift import (
    ClickedDice,
    ShiftSettings,
    clicked_dice,
    hold_out,
    teach_shift,
)
from protosam.learn.shift_examples import Example, examples_of
from protosam.learn.train_shift import train_shift
from protosam.models.add_ons import case_digest, read_add_on
from protosam.models.load import load_model
from protosam.models.shift import PatternShift, ShiftShape
from protosam.models.slice_model import SliceModel, SlicePrompts
from protosam.models.tiny import TinySAM, TinySettings
from protosam.models.tiny_predictor import TinySliceModel

CPU = torch.device("cpu")
SMALL = TinySettings(
    embed_dim=32, stem_widths=(12, 24, 24), trunk_dim=48, trunk_depth=1, trunk_heads=2
)
QUICK = ShiftSettings(steps=4, batch=2, hidden=4, examples=12, check_every=2)


def silent(_done: float, _text: str) -> None:
    """Take progress and say nothing."""


def a_case(name: str, seed: int = 0, empty: bool = False) -> FinishedCase:
    """Bright ball, slightly elsewhere for each seed, in noise."""
    rng = np.random.default_rng(seed)
    k, j, i = np.ogrid[:6, :40, :48]
    centre = 20 + seed % 3
    ball = ((k - 2.5) * 4) ** 2 + (j - centre) ** 2 + (i - 24) ** 2 <= 100
    image = np.where(ball, 100, 0) + rng.integers(0, 20, size=(6, 40, 48))
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    labels = (ball & (not empty)).astype(np.uint8)
    return FinishedCase(name, Volume(image.astype(np.int16), affine), Volume(labels, affine), (1,))


@pytest.fixture(scope="module")
def a_model() -> TinySliceModel:
    torch.manual_seed(0)
    return TinySliceModel(TinySAM(SMALL), name="small", digest="d", device=CPU, bfloat16=False)


@pytest.fixture(scope="module")
def some_examples(a_model: TinySliceModel) -> list[Example]:
    cases = [a_case(f"case {n}", n) for n in range(3)]
    return examples_of(cases, a_model, count=12, seed=0, on_progress=silent)


def test_a_lesson_answers_as_the_model_at_work(
    a_model: TinySliceModel, some_examples: list[Example]
) -> None:
    torch.manual_seed(1)
    shift = PatternShift(ShiftShape(32, 6, 4)).requires_grad_(False)
    torch.nn.init.normal_(shift.last.weight, std=0.3)
    view = some_examples[0].closer
    prior = np.where(view.truth, 3.0, -3.0).astype(np.float32)
    click = SlicePrompts(np.array([[12.0, 14.0]]), np.array([True]))
    mended = SlicePrompts(np.array([[12.0, 14.0]]), np.array([True]), None, prior)
    pupil = pupil_of(a_model)
    a_model.shift_by(shift)
    try:
        for prompts in (click, mended, SlicePrompts(neighbour_logits=prior)):
            reading = pupil.ask(view.embedding, prompts, shift)
            shown = pupil.on_slice(view.embedding, reading.shown)
            at_work = a_model.predict(view.embedding, prompts)
            np.testing.assert_allclose(shown, at_work.logits, atol=2e-4)
            assert reading.presence is not None
            told = float(torch.sigmoid(reading.presence))
            assert told == pytest.approx(at_work.presence, abs=1e-4)
    finally:
        a_model.shift_by(None)


def test_examples_are_looked_at_as_a_whole_and_closer(some_examples: list[Example]) -> None:
    for example in some_examples:
        assert example.whole.truth.any() and example.closer.truth.any()
        assert example.closer.truth.sum() == example.whole.truth.sum()
        assert example.closer.truth.size <= example.whole.truth.size
        assert example.whole.target.shape == example.whole.embedding.features.half.shape[2:]
    assert len({example.case for example in some_examples}) == 3


def test_gradients_reach_the_shift_and_nothing_else(
    a_model: TinySliceModel, some_examples: list[Example]
) -> None:
    pupil = pupil_of(a_model)
    shift = PatternShift(ShiftShape(32, 6, 4))
    view = some_examples[0].whole
    click = SlicePrompts(np.array([[20.0, 24.0]]), np.array([True]))
    pupil.loss(pupil.ask(view.embedding, click, shift), view.target).backward()
    assert shift.last.weight.grad is not None and shift.last.weight.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in a_model.network.parameters())


def test_steps_against_the_gradient_lower_the_loss(
    a_model: TinySliceModel, some_examples: list[Example]
) -> None:
    pupil = pupil_of(a_model)
    torch.manual_seed(0)
    shift = PatternShift(ShiftShape(32, 6, 8))
    optimiser = torch.optim.AdamW(shift.parameters(), lr=1e-2)
    view = some_examples[0].whole
    click = SlicePrompts(np.array([[20.0, 24.0]]), np.array([True]))
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        loss = pupil.loss(pupil.ask(view.embedding, click, shift), view.target)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_whole_cases_are_held_out_where_there_are_three(some_examples: list[Example]) -> None:
    taught, held = hold_out(some_examples, QUICK)
    assert len(taught) + len(held) == len(some_examples)
    assert {e.case for e in taught}.isdisjoint({e.case for e in held})
    assert held and taught


def test_one_slice_is_too_little_to_learn_and_to_stop_by(some_examples: list[Example]) -> None:
    with pytest.raises(InvalidInput, match="2 slices"):
        hold_out(some_examples[:1], QUICK)
    taught, held = hold_out(some_examples[:2], QUICK)
    assert (len(taught), len(held)) == (1, 1)


def test_the_same_seed_teaches_the_same_shift(
    a_model: TinySliceModel, some_examples: list[Example]
) -> None:
    first, second = (
        teach_shift(a_model, some_examples, QUICK, on_progress=silent) for _ in range(2)
    )
    assert first.shift.digest() == second.shift.digest()
    assert (first.before, first.after, first.step) == (second.before, second.after, second.step)


def test_what_does_not_help_leaves_a_shift_that_is_the_base(
    a_model: TinySliceModel, some_examples: list[Example]
) -> None:
    idle = ShiftSettings(steps=2, batch=1, hidden=4, learning_rate=1e-30, weight_decay=0.0)
    taught = teach_shift(a_model, some_examples, idle, on_progress=silent)
    assert taught.step == 0 and taught.before == taught.after
    assert float(taught.shift.last.weight.abs().sum() + taught.shift.last.bias.abs().sum()) == 0


def test_dice_of_one_click_is_that_of_the_base_without_a_shift(
    a_model: TinySliceModel, some_examples: list[Example]
) -> None:
    pupil = pupil_of(a_model)
    untrained = PatternShift(ShiftShape(32, 6, 4))
    base = clicked_dice(pupil, some_examples, None)
    assert clicked_dice(pupil, some_examples, untrained) == base
    assert 0 <= base.one <= 1 and 0 <= base.several <= 1


def test_a_better_first_click_that_spoils_later_ones_is_no_better() -> None:
    base = ClickedDice(0.5, 0.8)
    assert ClickedDice(0.6, 0.8).is_better_than(base, base)
    assert not ClickedDice(0.6, 0.7).is_better_than(base, base)
    assert not ClickedDice(0.5, 0.9).is_better_than(base, base)


def test_few_slices_are_mirrored_under_the_name_of_their_case(a_model: TinySliceModel) -> None:
    few = examples_of([a_case("x")], a_model, count=4, seed=0, on_progress=silent)
    more = examples_of([a_case("x")], a_model, count=20, seed=0, on_progress=silent)
    assert len(few) == 4 and len(more) > 6
    assert {example.case for example in more} == {"x"}
    rows = {tuple(np.flatnonzero(e.whole.truth.any(axis=1))) for e in more}
    assert len(rows) > len({tuple(np.flatnonzero(e.whole.truth.any(axis=1))) for e in few}) / 2


def test_labels_without_a_visible_object_are_refused(a_model: TinySliceModel) -> None:
    with pytest.raises(InvalidInput, match="Check the labels"):
        examples_of([a_case("x", empty=True)], a_model, count=4, seed=0, on_progress=silent)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"held_out": 1.0}, {"learning_rate": 0.0}, {"length_price": -1.0}]
)
def test_settings_that_cannot_be_trained_with_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        ShiftSettings(**wrong)


def test_a_stranger_cannot_be_taught() -> None:
    class Stranger:
        name = "stranger"

    stranger: SliceModel = Stranger()  # type: ignore[assignment]
    with pytest.raises(InvalidInput, match="stranger"):
        pupil_of(stranger)


def a_folder(folder: Path, count: int = 3) -> Path:
    for number in range(count):
        case = a_case("", number)
        for mark, volume in (("img", case.image), ("lab", case.labels)):
            image = nib.Nifti1Image(volume.voxels.T, volume.affine)
            nib.save(image, folder / f"patient{number}_{mark}.nii.gz")
    (folder / "labels.json").write_text('{"1": "ball", "2": "cube"}')
    return folder


def test_a_folder_of_cases_becomes_a_file_that_an_adapter_can_name(
    tmp_path: Path, a_model: TinySliceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A random network may find nothing that helps, and then nothing is written.
    scores = iter([ClickedDice(0.1, 0.5), ClickedDice(0.2, 0.5), ClickedDice(0.3, 0.5)])
    monkeypatch.setattr("protosam.learn.shift.clicked_dice", lambda *_: next(scores))
    out = tmp_path / "ball.shift"
    choice = CaseChoice(a_folder(tmp_path), ("ball",))
    result = train_shift(choice, a_model, out, QUICK, on_progress=silent)
    assert (result.path, result.before, result.after) == (out, 0.1, 0.3)
    card = read_add_on(out, "shift").card
    assert card.labels == ("ball",)
    assert card.cases == tuple(case_digest(f"patient{n}") for n in range(3))
    assert card.figures["held_out_dice_1_click_after"] == 0.3
    assert b"patient" not in out.read_bytes()


def test_a_shift_that_does_not_help_is_not_written(
    tmp_path: Path, a_model: TinySliceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protosam.learn.shift.clicked_dice", lambda *_: ClickedDice(0.5, 0.9))
    out = tmp_path / "ball.shift"
    choice = CaseChoice(a_folder(tmp_path))
    result = train_shift(choice, a_model, out, QUICK, on_progress=silent)
    assert result.path is None and not out.exists()


def test_cases_are_chosen_by_name_split_and_limit(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    assert len(read_cases(CaseChoice(folder, limit=2)).cases) == 2
    (one,) = read_cases(CaseChoice(folder, cases=("patient1",))).cases
    assert one.name == "patient1" and one.wanted == (1,)
    with pytest.raises(InvalidInput, match="label to learn"):
        read_cases(CaseChoice(folder, labels=("cube",)))
    with pytest.raises(InvalidInput, match="FILE:PART"):
        read_cases(CaseChoice(folder, split="nothing"))


def test_the_built_in_model_can_be_taught() -> None:
    pupil = pupil_of(load_model(device="cpu"))
    assert (pupil.channels, pupil.tokens) == (128, 6)
