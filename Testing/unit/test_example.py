"""Examples: what they hold, what they propose, and their files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from protosam.errors import Cancelled, InvalidInput, InvalidPrompt, UnreadableFile
from protosam.geometry import Volume, ras_to_kji
from protosam.intensity import Window
from protosam.metrics import dice
from protosam.models.embeddings import Embedder, EmbeddingCache
from protosam.models.planes import Planes
from protosam.models.slice_model import SliceEmbedding
from protosam.models.tokens import TokenGrid
from protosam.prompting import example_file
from protosam.prompting.align import Landmarks, align
from protosam.prompting.apply import Hooks, PartialSlice, Wish, apply_example
from protosam.prompting.cloud import Cloud, Scale, describe
from protosam.prompting.example import Example, merged
from protosam.prompting.example_file import load_example, save_example
from protosam.prompting.making import make_example
from protosam.prompting.methods import METHODS, method_named
from protosam.prompts import Point, PromptSet
from protosam.seg_nrrd import Segment

SHAPE = (16, 64, 72)
CELL = 4


class WithTokens:
    """A stand-in for a model, with plain statistics of 4 x 4 pixels as tokens."""

    def __init__(self, inner: object, digest: str = "tokens-1") -> None:
        self._inner = inner
        self.digest = digest
        self.name = "plain"

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def tokens(self, embedding: SliceEmbedding) -> TokenGrid:
        image = embedding.image
        blank = TokenGrid(
            np.zeros((1, *(-(-n // CELL) for n in image.shape))), image.shape, (CELL,) * 2
        )
        rows, cols = np.indices(image.shape)
        channels = [image, image**2, image * rows / 64, image * cols / 72]
        features = np.stack([blank.fractions(c) for c in channels])
        return TokenGrid(features, image.shape, (float(CELL), float(CELL)))


@pytest.fixture
def a_model(region_model: Callable) -> WithTokens:
    return WithTokens(region_model())


def ball(middle: tuple[float, float, float], radius: float) -> np.ndarray:
    k, j, i = np.indices(SHAPE)
    squared = (2 * (k - middle[0])) ** 2 + (j - middle[1]) ** 2 + (i - middle[2]) ** 2
    return squared <= radius**2


def a_patient(shift: int = 0, *, organ: bool = True) -> tuple[Volume, np.ndarray]:
    """A body that grows brighter to the right, an organ, and a distractor of its brightness."""
    _k, j, i = np.indices(SHAPE)
    body = ((j - 32) / 30) ** 2 + ((i - 36) / 34) ** 2 <= 1
    voxels = np.where(body, 20 + i * 0.4, 0)
    truth = ball((8, 24 + shift, 24 + shift), 8)
    if organ:
        voxels[truth] = 100
    voxels[ball((8, 46, 54), 5)] = 100
    voxels += np.random.default_rng(shift).normal(0, 1, SHAPE) * body
    return Volume(voxels.astype(np.float32), np.diag([1.0, 1.0, 2.0, 1.0])), truth & organ


def an_example(model: WithTokens, names: tuple[str, ...] = ("organ",)) -> Example:
    volume, truth = a_patient()
    masks = {"organ": truth, "distractor": ball((8, 46, 54), 5)}
    return make_example(model, volume, [Segment(name, masks[name]) for name in names])


def test_the_next_case_is_segmented_without_a_click(a_model: WithTokens) -> None:
    target, truth = a_patient(3)
    (proposal,) = apply_example(a_model, target, an_example(a_model))
    assert dice(proposal.full_mask(SHAPE), truth) > 0.8
    assert proposal.confidence > 0.3
    assert set(proposal.confidences) <= set(range(SHAPE[0]))
    assert all(point.id.startswith("example-") for point in proposal.prompts.points)


def test_the_same_question_has_the_same_answer(a_model: WithTokens) -> None:
    target, _ = a_patient(3)
    example = an_example(a_model)
    one, other = (apply_example(a_model, target, example)[0] for _ in range(2))
    assert np.array_equal(one.mask, other.mask)
    assert one.confidences == other.confidences


def test_no_token_of_the_edge_can_be_clicked_beyond_the_last_pixel(a_model: WithTokens) -> None:
    volume = Volume(a_patient()[0].voxels[:4, :62], np.eye(4))  # the last token is half covered
    planes = Planes(volume, 0, Window(0, 100))
    cloud = describe(a_model, planes, Embedder(a_model, planes, EmbeddingCache()))
    assert cloud.place.max(axis=0).tolist() == [3, 61, 69.5]
    assert np.allclose(ras_to_kji(volume.affine, cloud.at_mm), cloud.place)


def test_several_segments_are_proposed_in_one_go_each_in_its_place(a_model: WithTokens) -> None:
    target, truth = a_patient(2)
    organ, distractor = apply_example(a_model, target, an_example(a_model, ("organ", "distractor")))
    assert dice(organ.full_mask(SHAPE), truth) > 0.8
    assert dice(distractor.full_mask(SHAPE), ball((8, 46, 54), 5)) > 0.7


def test_slices_and_progress_come_while_it_works(a_model: WithTokens) -> None:
    seen: list[PartialSlice] = []
    fractions: list[float] = []
    hooks = Hooks(on_progress=lambda f, _text: fractions.append(f), on_slice=seen.append)
    (proposal,) = apply_example(a_model, a_patient(3)[0], an_example(a_model), hooks=hooks)
    last = {one.index: one for one in seen}
    assert fractions[-1] == 1.0
    assert fractions == sorted(fractions)
    whole = proposal.full_mask(SHAPE)
    for index, confidence in proposal.confidences.items():
        assert np.array_equal(last[index].mask, whole[index])
        assert last[index].confidence == confidence
    assert all(np.array_equal(one.mask, whole[index]) for index, one in last.items())


def test_the_work_ends_when_it_is_no_longer_wanted(a_model: WithTokens) -> None:
    example = an_example(a_model)
    for asked in (1, 8, 20):
        count = iter(range(1000))
        hooks = Hooks(should_stop=lambda count=count, asked=asked: next(count) >= asked)
        with pytest.raises(Cancelled):
            apply_example(a_model, a_patient(3)[0], example, hooks=hooks)


def test_a_target_without_the_object_stays_empty_and_says_so(a_model: WithTokens) -> None:
    target, _ = a_patient(3, organ=False)
    (proposal,) = apply_example(a_model, target, an_example(a_model))
    assert proposal.extent is None
    assert proposal.confidence == 0
    assert "empty" in proposal.notes[-1]


def test_an_image_of_another_kind_is_warned_of(a_model: WithTokens) -> None:
    example = an_example(a_model)
    volume, _ = a_patient(3)
    strange = Volume((200 - volume.voxels) ** 2, volume.affine)
    assert "unlike" in apply_example(a_model, strange, example)[0].notes[0]
    assert not any("modality" in n for n in apply_example(a_model, volume, example)[0].notes)


def test_clicks_of_the_user_always_win(a_model: WithTokens) -> None:
    target, truth = a_patient(3)
    user = PromptSet(points=(Point((8, 46, 54), True, "mine"), Point((8, 27, 27), False, "not")))
    wish = Wish(user={"organ": user})
    (proposal,) = apply_example(a_model, target, an_example(a_model), wish=wish)
    mask = proposal.full_mask(SHAPE)
    assert mask[8, 46, 54]
    assert not mask[8, 27, 27]
    assert {"mine", "not"} <= set(proposal.prompts.ids)
    assert truth[8, 27, 27]


def test_a_click_outside_of_the_target_is_refused_before_any_work(a_model: WithTokens) -> None:
    wish = Wish(user={"organ": PromptSet(points=(Point((99, 0, 0), True, "far"),))})
    with pytest.raises(InvalidPrompt):
        apply_example(a_model, a_patient()[0], an_example(a_model), wish=wish)


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_answers_and_obeys_no_chance(a_model: WithTokens, name: str) -> None:
    target, _ = a_patient(2)
    example = an_example(a_model)
    wish = Wish(method_named(name))
    one, other = (apply_example(a_model, target, example, wish=wish)[0] for _ in range(2))
    assert np.array_equal(one.mask, other.mask)


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidInput, match="persam-f"):
        method_named("magic")


def test_features_of_another_model_are_refused(a_model: WithTokens, region_model: Callable) -> None:
    other = WithTokens(region_model(), digest="tokens-2")
    with pytest.raises(InvalidInput, match="make the example anew"):
        apply_example(other, a_patient()[0], an_example(a_model))


def test_a_model_without_tokens_is_refused(region_model: Callable) -> None:
    volume, truth = a_patient()
    with pytest.raises(InvalidInput, match="no tokens"):
        make_example(region_model(), volume, [Segment("organ", truth)])


def test_an_empty_reference_is_refused_with_the_next_step(a_model: WithTokens) -> None:
    volume, truth = a_patient()
    with pytest.raises(InvalidInput, match="Finish it first"):
        make_example(a_model, volume, [Segment("organ", truth & False)])
    with pytest.raises(InvalidInput, match="no segment"):
        make_example(a_model, volume, [])
    with pytest.raises(InvalidInput, match="its own name"):
        make_example(a_model, volume, [Segment("organ", truth)] * 2)
    with pytest.raises(InvalidInput, match="this very image"):
        make_example(a_model, volume, [Segment("organ", truth[1:])])


def test_an_object_of_one_voxel_can_be_learnt_and_looked_for(a_model: WithTokens) -> None:
    volume, _ = a_patient()
    speck = np.zeros(SHAPE, dtype=bool)
    speck[8, 24, 24] = True
    example = make_example(a_model, volume, [Segment("speck", speck)])
    sample = example.lessons[0].samples[0]
    assert len(sample.features) >= 1
    assert sample.closer is not None
    (proposal,) = apply_example(a_model, a_patient(2)[0], example)
    assert proposal.name == "speck"


def test_several_cases_are_joined_by_the_names_of_their_segments(a_model: WithTokens) -> None:
    volume, truth = a_patient(2)
    second = make_example(a_model, volume, [Segment("organ", truth)])
    both = merged([an_example(a_model, ("organ", "distractor")), second])
    assert [(lesson.name, len(lesson.samples)) for lesson in both.lessons] == [
        ("organ", 2),
        ("distractor", 1),
    ]
    assert [s.case for s in both.lessons[0].samples] == [0, 1]
    target, wanted = a_patient(4)
    assert dice(apply_example(a_model, target, both)[0].full_mask(SHAPE), wanted) > 0.8


def test_examples_of_different_models_are_not_joined(a_model: WithTokens) -> None:
    example = an_example(a_model)
    with pytest.raises(InvalidInput, match="same model"):
        merged([example, replace(example, model_digest="other")])
    with pytest.raises(InvalidInput, match="No example"):
        merged([])


def test_a_shifted_body_is_found_again() -> None:
    rng = np.random.default_rng(0)
    at_mm = rng.uniform(0, 200, (1500, 3))
    features = np.column_stack([np.sin(at_mm / s) for s in (15, 25, 40)]).astype(np.float32)
    scale = Scale(np.zeros(9, np.float32), np.ones(9, np.float32))
    low, high = at_mm.min(axis=0), at_mm.max(axis=0)
    body = np.ones(len(at_mm), dtype=bool)
    there = Cloud(features, at_mm, at_mm, body, scale, low, high, {})
    shift = np.array([12.0, -7, 20])
    # The other image shows 30 mm less of the body at one end, so that boxes mislead.
    kept = at_mm[:, 2] > 30
    moved = at_mm[kept] + shift
    target = Cloud(
        features[kept], moved, moved, body[kept], scale, moved.min(axis=0), moved.max(axis=0), {}
    )
    found = align(Landmarks.of(there), target)
    inner = at_mm[(np.abs(at_mm - 110) < 50).all(axis=1)]
    off = np.linalg.norm(found.to_target(inner) - (inner + shift), axis=1)
    assert np.median(off) < 6


def test_an_example_comes_back_from_its_file_and_proposes_the_same(
    a_model: WithTokens, tmp_path: Path
) -> None:
    example, target = an_example(a_model, ("organ", "distractor")), a_patient(3)[0]
    save_example(example, tmp_path / "a.psexample")
    again = load_example(tmp_path / "a.psexample")
    save_example(again, tmp_path / "b.psexample")
    assert (tmp_path / "a.psexample").read_bytes() == (tmp_path / "b.psexample").read_bytes()
    for one, other in zip(
        apply_example(a_model, target, example), apply_example(a_model, target, again), strict=True
    ):
        assert one.name == other.name
        assert dice(one.full_mask(SHAPE), other.full_mask(SHAPE)) > 0.95


def test_the_file_holds_features_and_codes_but_no_image(
    a_model: WithTokens, tmp_path: Path
) -> None:
    path = tmp_path / "organ.psexample"
    save_example(an_example(a_model), path)
    with safe_open(path, "np") as file:
        header = json.loads(file.metadata()["example"])
        shapes = {key: file.get_tensor(key).shape for key in file.keys()}  # noqa: SIM118
    assert set(header) == {
        "format",
        "version",
        "model",
        "model_digest",
        "cases",
        "lessons",
        "tensors_digest",
    }
    assert set(header["lessons"][0]) == {"name", "terminology", "colour", "samples"}
    assert set(header["cases"][0]) == {"low_mm", "high_mm", "spacing_kji_mm"}
    assert all(len(shape) < 3 for shape in shapes.values())


def saved(a_model: WithTokens, folder: Path) -> Path:
    path = folder / "organ.psexample"
    save_example(an_example(a_model), path)
    return path


def rewritten(path: Path, change: Callable[[dict, dict], None]) -> Path:
    """Change header and tensors of a file, with a digest that is right again."""
    tensors = load_file(path)
    with safe_open(path, "np") as file:
        header = json.loads(file.metadata()["example"])
    change(header, tensors)
    header["tensors_digest"] = example_file._digest(tensors)
    save_file(tensors, path, metadata={"example": json.dumps(header)})
    return path


def test_a_file_that_was_changed_is_refused(a_model: WithTokens, tmp_path: Path) -> None:
    path = saved(a_model, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    with pytest.raises(UnreadableFile, match="not those that were written"):
        load_example(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableFile, match="not a whole example"):
        load_example(path)


def test_a_file_of_another_version_is_refused(a_model: WithTokens, tmp_path: Path) -> None:
    path = rewritten(saved(a_model, tmp_path), lambda header, _: header.update(version=99))
    with pytest.raises(UnreadableFile, match="version 99"):
        load_example(path)


def test_a_huge_or_missing_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.psexample"
    with path.open("wb") as file:
        file.truncate(example_file.MAX_BYTES + 1)
    with pytest.raises(UnreadableFile, match="MB"):
        load_example(path)
    with pytest.raises(UnreadableFile, match="no file"):
        load_example(tmp_path / "none.psexample")
    with pytest.raises(InvalidInput, match=r"\.psexample"):
        example_file.check_ending(tmp_path / "x.zip")


HOSTILE = [
    lambda h, _: h.update(cases=[]),
    lambda h, _: h.update(lessons="many"),
    lambda h, _: h["lessons"][0].update(samples=[]),
    lambda h, _: h["lessons"][0]["samples"][0].update(case=7),
    lambda h, _: h["lessons"][0]["samples"][0].update(mask_shape=[10**6] * 3),
    lambda h, _: h["lessons"][0]["samples"][0].update(mask_affine=[[1, 2]]),
    lambda h, _: h["cases"][0].update(spacing_kji_mm=[0, 1, 1]),
    lambda h, _: h.update(model=None),
    lambda _, t: t.pop("lesson0.sample0.features"),
    lambda _, t: t.update({"lesson0.sample0.features": np.full((2, 2), np.nan, np.float16)}),
    lambda _, t: t.update({"case0.landmarks": np.zeros((0, 6), np.float16)}),
    lambda _, t: t.update({"lesson0.sample0.at_mm": np.zeros((1, 3), np.float32)}),
]


@pytest.mark.parametrize("change", HOSTILE)
def test_a_file_with_wrong_entries_is_refused(
    a_model: WithTokens, tmp_path: Path, change: Callable
) -> None:
    path = rewritten(saved(a_model, tmp_path), change)
    with pytest.raises(UnreadableFile, match="Make the example anew"):
        load_example(path)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_bytes_end_in_a_sentence(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "damaged.psexample"
    path.write_bytes(data.draw(st.binary(max_size=300)))
    with pytest.raises(UnreadableFile):
        load_example(path)
