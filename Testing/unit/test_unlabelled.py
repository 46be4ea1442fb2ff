"""Images without labels: who may teach, that no label is at hand, and when it is stopped."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from protosam.errors import Cancelled, InvalidInput
from protosam.geometry import Volume
from protosam.learn.adapt_order import AdaptOrder
from protosam.learn.finished_cases import FinishedCase
from protosam.learn.fronts import front_of
from protosam.learn.lessons import lessons_of
from protosam.learn.recipe import Checkpoint, teach, with_adapter
from protosam.learn.recipe_settings import RecipeSettings
from protosam.learn.unlabelled.alarms import WINDOW, Signs, alarm_of, disagreement
from protosam.learn.unlabelled.assemble import material_at, term_of
from protosam.learn.unlabelled.enhance import FeatureEnhancement
from protosam.learn.unlabelled.methods import METHODS, check_images
from protosam.learn.unlabelled.pool import Known, PoolImage, image_files, patients_of, read_pool
from protosam.learn.unlabelled.ramps import gaussian_ramp, linear_ramp, teacher_decay
from protosam.learn.unlabelled.seen import ObjectIn, core_box, core_clicks
from protosam.learn.unlabelled.teacher import Answer, values_in
from protosam.learn.unlabelled.term import Material, PoolTerm, TermSettings, signs_of
from protosam.learn.unlabelled.views import dropped_pair, features_of, strongly_changed
from protosam.learn.unlabelled.ways import EmaWay, Seen, Target, confident_loss
from protosam.models.lora import lora_parameters
from protosam.models.tiny import TinySAM, TinySettings
from protosam.models.tiny_predictor import TinySliceModel
from protosam.prompting.continuity import best_window, share_of_bodies, steady_slices
from protosam.prompting.reliable import farthest_places, reliable_prompts

CPU = torch.device("cpu")
SMALL = TinySettings(
    embed_dim=32, stem_widths=(12, 24, 24), trunk_dim=48, trunk_depth=2, trunk_heads=2
)
RUN = RecipeSettings(
    rear_blocks=1, rank=2, steps=4, batch=1, examples=2, checkpoint_every=1, learning_rate=1e-2
)
EAGER = TermSettings(begin=0.0, batch=1, refreshes=2)
ADAPTER_METHODS = [name for name, m in METHODS.items() if m.needs_images and m.leaves == "adapter"]


def silent(_done: float, _text: str) -> None:
    """Take progress and say nothing."""


def a_ball(seed: int = 0) -> tuple[Volume, np.ndarray]:
    """Bright ball, slightly elsewhere for each seed, in noise."""
    rng = np.random.default_rng(seed)
    k, j, i = np.ogrid[:6, :40, :48]
    ball = ((k - 2.5) * 4) ** 2 + (j - 20 - seed % 3) ** 2 + (i - 24) ** 2 <= 100
    image = np.where(ball, 100, 0) + rng.integers(0, 20, size=ball.shape)
    return Volume(image.astype(np.int16), np.diag([1.0, 1.0, 4.0, 1.0])), ball


def a_case(seed: int = 0) -> FinishedCase:
    volume, ball = a_ball(seed)
    return FinishedCase(f"case {seed}", volume, Volume(ball.astype(np.uint8), volume.affine), (1,))


@pytest.fixture
def a_model() -> TinySliceModel:
    torch.manual_seed(0)
    return TinySliceModel(TinySAM(SMALL), name="small", digest="d", device=CPU, bfloat16=False)


def some_material(model: TinySliceModel) -> Material:
    places = [ObjectIn(volume, 1, ball) for volume, ball in [a_ball(4)]]
    return material_at(model, front_of(model, RUN.blocks), [a_case(0)], places)


def a_term(model: TinySliceModel, method: str, settings: TermSettings = EAGER) -> PoolTerm:
    """Term on a model with an adapter."""
    material = some_material(model)
    with_adapter(model, RUN)
    return term_of(method, model, material, RUN, settings)


def average_of(model: TinySliceModel) -> list[torch.Tensor]:
    return [p.detach().clone() for p in lora_parameters(model.network)]


def sure(term: PoolTerm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a teacher that was never taught be sure of what was guessed."""

    def answers(pool: Any, beliefs: Any, average: Any) -> list[Answer]:
        tokens = {id(s): t for s, t in term._teacher.tokens(pool, average)}
        return [
            Answer(n, seen, (0.98 * seen.mask + 0.01).astype(np.float32), 0.9, tokens.get(id(seen)))
            for n, seen in enumerate(pool)
        ]

    monkeypatch.setattr(term._teacher, "answers", answers)


def targets_everywhere(term: PoolTerm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every slice teach everything, whatever a network that was never taught thinks."""

    def targets(seen: Seen) -> list[Target]:
        return [
            Target(one.number, one.seen.mask, np.ones_like(one.seen.mask)) for one in seen.answers
        ]

    monkeypatch.setattr(term._way, "targets", targets)


# Terms of the loss


@pytest.mark.parametrize("method", ADAPTER_METHODS)
def test_every_term_gives_the_adapter_a_gradient_and_nothing_else(
    a_model: TinySliceModel, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    term = a_term(a_model, method)
    sure(term, monkeypatch)
    targets_everywhere(term, monkeypatch)
    loss = term.loss(0, average_of(a_model))
    assert loss is not None and term.alarm is None
    loss.backward()
    second = {n: p for n, p in a_model.network.named_parameters() if ".lora_B" in n}
    pulled = [n for n, p in second.items() if p.grad is not None and float(p.grad.abs().sum()) > 0]
    assert any("image_encoder" in name for name in pulled)
    others = [p for n, p in a_model.network.named_parameters() if ".lora_" not in n]
    assert all(p.grad is None for p in others)


def test_the_joined_features_of_sss_learn_too(
    a_model: TinySliceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    term = a_term(a_model, "sss")
    sure(term, monkeypatch)
    targets_everywhere(term, monkeypatch)
    before = [p.detach().clone() for p in term._way.enhancement.parameters()]  # type: ignore[attr-defined]
    for step in range(2):
        loss = term.loss(step, average_of(a_model))
        assert loss is not None
        loss.backward()
    after = list(term._way.enhancement.parameters())  # type: ignore[attr-defined]
    assert any(not torch.equal(b, a) for b, a in zip(before, after, strict=True))


def test_feature_enhancement_begins_as_a_mixture_of_the_two_views() -> None:
    one, other = torch.randn(2, 1, 8, 5, 6)
    network = FeatureEnhancement(8)
    alike = torch.cosine_similarity(one.mean((2, 3)), other.mean((2, 3)))
    weight = torch.sigmoid(alike)
    wanted = weight * one + (1 - weight) * other + (1 - alike) * (other - one)
    torch.testing.assert_close(network(one, other), wanted)
    torch.testing.assert_close(network(one, one), one)
    assert 0.268 < float(weight) < 0.732


def test_the_prototypes_of_protosam_let_only_agreeing_pixels_teach(
    a_model: TinySliceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    term = a_term(a_model, "protosam")
    sure(term, monkeypatch)
    teacher, material = term._teacher, term._material
    average = average_of(a_model)
    answers = teacher.answers(material.pool, term._beliefs, average)
    labelled = teacher.tokens(material.labelled, average)
    targets = term._way.targets(Seen(answers, labelled, material.areas_mm2, 0.5))
    assert targets
    for target in targets:
        edge = target.mask ^ np.roll(target.mask, 1, axis=0)
        assert not target.weight[edge].any()
    assert 0 < np.mean([t.weight.mean() for t in targets]) < 1


def test_little_confidence_is_little_pull() -> None:
    logits = torch.zeros(1, 10, 10)
    target = torch.zeros(10, 10)
    target[3:7, 3:7] = 1
    weight = torch.zeros(10, 10)
    assert confident_loss(logits, target, weight).item() == 0
    weight[:5] = 1
    half = confident_loss(logits, target, weight)
    assert 0 < half < confident_loss(logits, target, torch.ones(10, 10))


def test_the_term_waits_rises_and_is_made_anew_a_few_times(a_model: TinySliceModel) -> None:
    term = a_term(a_model, "ema", TermSettings(begin=0.3, rise=0.5, refreshes=2))
    assert term.first_step == 2 and term.refresh_steps == [2, 3]
    assert term.loss(0, average_of(a_model)) is None
    assert [term.weight_at(step) for step in range(4)] == [0, 0, 0.5, 0.5]


# What goes on in a run


def run(model: TinySliceModel, folder: Path, method: str, stop_after: int | None = None) -> list:
    """Teach, with a term that always has something to teach; the adapter's values."""
    front = front_of(model, RUN.blocks)
    lessons = lessons_of([a_case(0)], model, front, count=2, seed=0, on_progress=silent)
    patch = pytest.MonkeyPatch()
    try:
        term = a_term(model, method)
        sure(term, patch)
        targets_everywhere(term, patch)
        seen: list = []
        teach(
            model,
            lessons,
            RUN,
            checkpoint=Checkpoint(folder / "state.pt", method),
            on_step=seen.append,
            should_stop=lambda: stop_after is not None and len(seen) >= stop_after,
            term=term,
        )
        return average_of(model)
    finally:
        patch.undo()


@pytest.mark.parametrize("method", ["ema", "sss"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, method: str) -> None:
    def fresh() -> TinySliceModel:
        torch.manual_seed(0)
        return TinySliceModel(TinySAM(SMALL), name="small", digest="d", device=CPU, bfloat16=False)

    (tmp_path / "once").mkdir()
    (tmp_path / "twice").mkdir()
    straight = run(fresh(), tmp_path / "once", method)
    with pytest.raises(Cancelled):
        run(fresh(), tmp_path / "twice", method, stop_after=3)
    resumed = run(fresh(), tmp_path / "twice", method)
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))


def test_the_teacher_is_an_average_of_adapter_tensors_alone_and_is_taken_out_again(
    a_model: TinySliceModel,
) -> None:
    term = a_term(a_model, "ema")
    whole = {n: p.detach().clone() for n, p in a_model.network.named_parameters()}
    parameters = lora_parameters(a_model.network)
    with values_in(parameters, [torch.ones_like(p) for p in parameters]):
        assert all(bool((p.detach() == 1).all()) for p in parameters)
        others = [n for n, p in a_model.network.named_parameters() if ".lora_" not in n]
        assert all(torch.equal(whole[n], a_model.network.get_parameter(n)) for n in others)
    assert all(torch.equal(whole[n], p) for n, p in a_model.network.named_parameters())
    assert len(average_of(a_model)) == len(term._teacher._parameters)


def test_pseudo_labels_come_from_the_average_and_not_from_the_student(
    a_model: TinySliceModel,
) -> None:
    term = a_term(a_model, "ema")
    pool, beliefs = term._material.pool, term._beliefs
    average = average_of(a_model)
    before = term._teacher.answers(pool, beliefs, average)
    with torch.no_grad():
        for parameter in lora_parameters(a_model.network):
            parameter.add_(0.5)
    after = term._teacher.answers(pool, beliefs, average)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.probability, other.probability)


# Prompts


@given(st.integers(0, 10_000))
def test_positive_clicks_lie_in_the_sure_inside_and_negative_ones_in_the_sure_outside(
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    row, col, radius = rng.uniform(12, 28), rng.uniform(12, 28), rng.uniform(4, 9)
    rows, cols = np.ogrid[:40, :40]
    distance = np.sqrt((rows - row) ** 2 + (cols - col) ** 2)
    probability = 1 / (1 + np.exp(2 * (distance - radius)))
    prompts = reliable_prompts(probability)
    assert prompts is not None and len(prompts.negative)
    assert all(probability[tuple(place)] >= 0.9 for place in prompts.positive)
    assert all(probability[tuple(place)] <= 0.05 for place in prompts.negative)
    clicks = core_clicks(prompts)
    for place, positive in zip(clicks.points_rc, clicks.positive, strict=True):
        assert (probability[tuple(np.round(place).astype(int))] > 0.5) == positive
    box = core_box(prompts).box_rc
    assert box is not None and box[0] <= prompts.positive[:, 0].min() <= box[2]


def test_where_nothing_is_sure_nothing_is_clicked() -> None:
    assert reliable_prompts(np.full((9, 9), 0.6)) is None
    assert reliable_prompts(np.zeros((4, 5, 6))) is None
    assert len(farthest_places(np.zeros((3, 3), dtype=bool), 3)) == 0


def test_places_are_the_deepest_then_the_farthest() -> None:
    mask = np.zeros((9, 20), dtype=bool)
    mask[2:7, 2:18] = True
    places = farthest_places(mask, 3)
    assert places[0][0] == 4 and all(mask[tuple(p)] for p in places)
    assert np.linalg.norm(places[0] - places[1]) > 10
    assert len({tuple(p) for p in places}) == 3


# Continuity


def a_tube(slices: int = 12) -> np.ndarray:
    mask = np.zeros((slices, 20, 20), dtype=bool)
    mask[1:-1, 8:13, 8:13] = True
    return mask


def test_bodies_hang_together_over_corners_and_specks_are_none() -> None:
    two = np.zeros((3, 8, 8), dtype=bool)
    two[:, 1:3, 1:3] = two[:, 3:5, 3:5] = True
    assert share_of_bodies(two) == 1
    two[:, 3:5, 3:5] = False
    two[:, 5:7, 5:7] = True
    assert share_of_bodies(two) == 0.5 and share_of_bodies(two, 2) == 1
    assert share_of_bodies(np.zeros((3, 4, 4), dtype=bool)) == 0
    tube = a_tube(40)
    tube[5, 0, 0] = True
    assert share_of_bodies(tube) == 1
    with pytest.raises(InvalidInput, match="bodies"):
        share_of_bodies(two, 0)


def test_the_best_window_is_a_third_to_a_half_of_the_object_and_avoids_what_is_broken() -> None:
    probability = 0.95 * a_tube(14).astype(np.float32)
    probability[1:5, 0:6, 0:6] = 0.9  # a second body beside the first
    window = best_window(probability)
    assert window is not None and window.first >= 5 and window.continuity == 1
    assert 12 // 3 <= window.stop - window.first <= 12 // 2
    assert best_window(np.zeros((5, 6, 6))) is None
    single = np.zeros((5, 6, 6))
    single[2, 1:4, 1:4] = 1.0
    found = best_window(single)
    assert found is not None and (found.first, found.stop) == (2, 3)


def test_slices_that_jump_are_not_steady() -> None:
    tube = a_tube()
    assert steady_slices(tube).all()
    jump = tube.copy()
    jump[6] = np.roll(tube[6], 5, axis=0)
    assert list(np.flatnonzero(~steady_slices(jump))) == [5, 6, 7]
    hole = tube.copy()
    hole[6] = False
    assert list(np.flatnonzero(~steady_slices(hole))) == [6]
    swollen = tube.copy()
    swollen[6] = True
    assert not steady_slices(swollen)[6]


# Which slices teach


def answers_of(masks: np.ndarray, agreement: float, group: int, material: Material) -> list[Answer]:
    like = material.pool[0]
    seen = [type(like)(group, 1, like.stack, like.begun, (1.0, 1.0), mask) for mask in masks]
    return [
        Answer(
            group * 100 + n, one, np.where(one.mask, 0.97, 0.02).astype(np.float32), agreement, None
        )
        for n, one in enumerate(seen)
    ]


def test_the_default_keeps_the_half_that_agrees_most_of_objects_that_can_be(
    a_model: TinySliceModel,
) -> None:
    material = some_material(a_model)
    tube = a_tube()
    broken = tube.copy()
    broken[::2, 0:5, 0:5] = tube[::2, 8:13, 8:13]
    tiny = np.zeros_like(tube)
    tiny[3:9, 9:11, 9:11] = True
    answers = [
        *answers_of(tube, 0.9, 0, material),
        *answers_of(tube, 0.6, 1, material),
        *answers_of(broken, 1.0, 2, material),
        *answers_of(tiny, 1.0, 3, material),
    ]
    targets = EmaWay().targets(Seen(answers, (), {1: (25.0, 25.0)}, 0.0))
    assert len(targets) == 10 and {t.number // 100 for t in targets} == {0}
    assert all(t.weight.all() for t in targets)


def test_pixels_between_sure_and_sure_do_not_teach(a_model: TinySliceModel) -> None:
    material = some_material(a_model)
    one = answers_of(a_tube(), 0.9, 0, material)
    for answer in one:
        answer.probability[8, 8:13] = 0.8
    targets = EmaWay().targets(Seen(one, (), {1: (25.0, 25.0)}, 0.0))
    assert targets and not any(t.weight[8, 8:13].any() for t in targets)


# Alarms

WELL = Signs(0.2, 0.2, 0.1, 0.9, 0.2, 0.7)


def test_nothing_is_said_while_all_is_well() -> None:
    assert alarm_of(WELL) is None
    assert alarm_of(Signs(**{**vars(WELL), "slices": 0, "teaching": 0.0})) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"foreground": 0.9}, "times as much"),
        ({"foreground": 0.01}, "times as much"),
        ({"entropy": 0.6}, "entropy"),
        ({"entropy": math.nan}, "entropy"),
        ({"teaching": 0.01}, "sure enough"),
        ({"teaching_inside": 0.0}, "surely object"),
        ({"teaching_outside": 0.0}, "surely background"),
    ],
)
def test_each_sign_of_a_collapse_is_told(change: dict[str, float], said: str) -> None:
    alarm = alarm_of(Signs(**{**vars(WELL), **change}))
    assert alarm is not None and said in alarm


def test_teacher_and_student_that_part_are_told_after_some_steps() -> None:
    assert disagreement([0.1] * (WINDOW - 1)) is None
    assert disagreement([0.9] * WINDOW) is None
    assert "agreed" in str(disagreement([0.9] * 5 + [0.2] * WINDOW))


def test_a_teacher_that_sees_the_object_everywhere_is_stopped_for_good(
    a_model: TinySliceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    term = a_term(a_model, "ema")

    def everywhere(pool: Any, beliefs: Any, average: Any) -> list[Answer]:
        return [Answer(n, s, np.full(s.mask.shape, 0.99, np.float32), 1.0, None)
                for n, s in enumerate(pool)]  # fmt: skip

    monkeypatch.setattr(term._teacher, "answers", everywhere)
    average = average_of(a_model)
    assert term.loss(0, average) is None
    assert term.alarm is not None and term.report()["alarm"] == term.alarm
    monkeypatch.undo()
    assert all(term.loss(step, average) is None for step in range(1, 4))


def test_the_foreground_of_what_was_never_answered_is_not_counted(a_model: TinySliceModel) -> None:
    material = some_material(a_model)
    one = answers_of(a_tube(), 0.9, 0, material)
    silent_one = Answer(99, one[0].seen, np.zeros((20, 20), np.float32), 0.0, None)
    assert signs_of([*one, silent_one], [], 0.1) == signs_of(one, [], 0.1)


# Ramps


def test_the_teachers_weight_is_that_of_the_formula() -> None:
    assert [teacher_decay(t, 0.99) for t in (0, 1, 3)] == [0, 0.5, 0.75]
    assert teacher_decay(98, 0.99) == pytest.approx(1 - 1 / 99)
    assert teacher_decay(5000, 0.99) == 0.99
    with pytest.raises(InvalidInput):
        teacher_decay(-1, 0.99)


@given(st.floats(0, 1), st.floats(0, 1))
def test_ramps_rise_from_nearly_nothing_to_one(done: float, later: float) -> None:
    first, second = sorted((done, later))
    assert gaussian_ramp(first) <= gaussian_ramp(second) <= gaussian_ramp(1) == 1
    assert linear_ramp(first, 0.3) <= linear_ramp(second, 0.3) <= 1
    assert gaussian_ramp(0) == pytest.approx(math.exp(-5)) and linear_ramp(0, 0.3) == 0


# Views


def test_changed_pictures_move_no_pixel_and_stay_in_range() -> None:
    stack = np.zeros((3, 24, 30), dtype=np.float32)
    stack[:, 8:16, 10:20] = 0.8
    for seed in range(10):
        changed = strongly_changed(stack, np.random.default_rng(seed))
        assert changed.shape == stack.shape and changed.dtype == np.float32
        assert changed.min() >= 0 and changed.max() <= 1
        inside, outside = changed[1, 10:14, 12:18].mean(), changed[1, 0:5, 0:5].mean()
        assert inside > outside + 0.1


def test_dropped_channels_are_kept_by_the_other_view(a_model: TinySliceModel) -> None:
    stack = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
    embedding = a_model.embed(stack, (1.0, 1.0))[0]
    whole = features_of(embedding)
    dropped = 0
    for seed in range(12):
        one, other = dropped_pair(embedding, np.random.default_rng(seed))
        torch.testing.assert_close(features_of(one) + features_of(other), 2 * whole)
        dropped += not torch.equal(features_of(one), whole)
    assert 0 < dropped < 12


# The pool


def save_image(path: Path, seed: int) -> None:
    volume, _ = a_ball(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(volume.voxels).T, np.diag([-1, -1, 4, 1.0])), path)


def test_no_label_of_the_pool_is_opened(tmp_path: Path) -> None:
    for n in range(3):
        save_image(tmp_path / f"smith{n}_img.nii.gz", n)
        (tmp_path / f"smith{n}_lab.nii.gz").write_bytes(b"whoever reads this has looked at a label")
    images, notes = read_pool(image_files(tmp_path), Known())
    assert len(images) == 3 and notes == []
    assert set(PoolImage.__dataclass_fields__) == {"digest", "volume"}
    assert "smith" not in repr([image.digest for image in images])


def test_plain_folders_are_taken_without_what_is_named_as_a_label_map(tmp_path: Path) -> None:
    save_image(tmp_path / "one.nii.gz", 0)
    save_image(tmp_path / "one_seg.nii.gz", 1)
    assert [p.name for p in image_files(tmp_path)] == ["one.nii.gz"]
    save_image(tmp_path / "imagesUn" / "x_0000.nii.gz", 2)
    assert [p.name for p in image_files(tmp_path)] == ["x_0000.nii.gz"]
    assert len(image_files(tmp_path, most=1)) == 1


def test_those_who_judge_or_teach_are_left_out_of_the_pool_and_it_is_said(tmp_path: Path) -> None:
    for n in range(3):
        save_image(tmp_path / f"p{n}_img.nii.gz", n)
    files = image_files(tmp_path)
    everyone, _ = read_pool(files, Known())
    known = Known(frozenset({everyone[0].volume.uid}), patients_of(["p1"]))
    images, notes = read_pool(files, known)
    assert [i.volume.uid for i in images] == [everyone[2].volume.uid]
    assert "2 images were left out" in notes[0]
    with pytest.raises(InvalidInput, match="other patients"):
        read_pool(files, Known(patients=patients_of(["p0", "p1", "p2"])))


def test_a_pool_without_images_is_refused_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no folder"):
        image_files(tmp_path / "none")
    with pytest.raises(InvalidInput, match="folder of images"):
        image_files(tmp_path)


# Methods


def test_methods_that_need_images_and_those_that_do_not_say_so() -> None:
    for name, method in METHODS.items():
        check_images(name, given=method.needs_images)
        with pytest.raises(InvalidInput, match="their folder"):
            check_images(name, given=not method.needs_images)
    with pytest.raises(InvalidInput, match="Give one of: labelled, ema"):
        check_images("magic", given=True)


def test_a_shift_cannot_learn_from_images_without_labels(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="tier 'shift'"):
        AdaptOrder(tmp_path, "a", tier="shift", method="ema", unlabelled=tmp_path)


@pytest.mark.parametrize("wrong", [{"begin": 1.0}, {"rise": 0.0}, {"refreshes": 0}, {"weight": -1}])
def test_terms_that_cannot_be_made_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        TermSettings(**wrong)  # type: ignore[arg-type]


def test_a_term_without_slices_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not enough"):
        Material((), ())
