"""Incremental Pattern Shifting: exactly the base at the start, its file, and where it reaches."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    TwoWayTransformer,
)
from segment_anything.modeling import Sam as SamNetwork

from protosam.errors import InvalidInput, StorageFailure, WeightsRefused
from protosam.learn.pupils import pupil_of
from protosam.models.add_ons import (
    AddOn,
    AddOnCard,
    case_digest,
    find_add_on,
    names_folder,
    place_for,
    read_add_on,
    write_add_on,
)
from protosam.models.cards import card_named
from protosam.models.load import load_model
from protosam.models.predictor import SamSliceModel
from protosam.models.shift import (
    PatternShift,
    ShiftShape,
    load_shift,
    pointed_by_clicks,
    pointed_in_maps,
    save_shift,
)
from protosam.models.slice_model import SliceModel, SlicePrompts
from protosam.models.tiny import MAP_CHANNELS, TinySAM, TinySettings
from protosam.models.tiny_predictor import TinySliceModel, save_tiny
from protosam.models.weights import file_digest

CPU = torch.device("cpu")
SMALL = TinySettings(
    embed_dim=32, stem_widths=(12, 24, 24), trunk_dim=48, trunk_depth=1, trunk_heads=2
)
CLICK = SlicePrompts(np.array([[30.0, 40.0]]), np.array([True]))
BOX = SlicePrompts(box_rc=np.array([10.0, 12.0, 40.0, 50.0]))


def a_card(**changes: object) -> AddOnCard:
    card = AddOnCard("shift", "base", "ab" * 32, ("liver",), (case_digest("one"),), 0, {}, {})
    return dataclasses.replace(card, **changes)


def a_tiny() -> TinySliceModel:
    torch.manual_seed(0)
    return TinySliceModel(TinySAM(SMALL), name="small", digest="d", device=CPU)


def a_sam() -> SamSliceModel:
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=64, patch_size=16, embed_dim=16, depth=1, num_heads=2, out_chans=32
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=32, num_heads=4)
    network = SamNetwork(
        encoder,
        PromptEncoder(32, (4, 4), (64, 64), 16),
        MaskDecoder(transformer_dim=32, transformer=transformer),
    )
    card = card_named("sam_vit_b")
    return SamSliceModel(network, card, name="sam", weights_sha256="s", device=CPU)


MODELS = {"tiny": (a_tiny, 3, 6), "sam": (a_sam, 1, 5)}


def a_shift(tokens: int, *, trained: bool) -> PatternShift:
    torch.manual_seed(1)
    shift = PatternShift(ShiftShape(32, tokens, 8)).requires_grad_(False)
    if trained:
        torch.nn.init.normal_(shift.last.weight, std=0.5)
    return shift


def answers(model: SliceModel, channels: int) -> list[np.ndarray]:
    stack = np.random.default_rng(0).random((1, channels, 60, 90), dtype=np.float32)
    (embedding,) = model.embed(stack, (1.0, 1.0))
    return [model.predict(embedding, prompts).logits for prompts in (CLICK, BOX)]


@pytest.mark.parametrize("family", MODELS)
def test_an_untrained_shift_changes_no_bit_of_an_answer(family: str) -> None:
    make, channels, tokens = MODELS[family]
    model = make()
    before = answers(model, channels)
    model.shift_by(a_shift(tokens, trained=False))
    for one, other in zip(before, answers(model, channels), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("family", MODELS)
def test_a_shift_that_is_switched_off_leaves_the_base_bit_for_bit(family: str) -> None:
    make, channels, tokens = MODELS[family]
    model = make()
    before, digest = answers(model, channels), model.digest
    model.shift_by(a_shift(tokens, trained=True))
    shifted = answers(model, channels)
    assert all((one != other).any() for one, other in zip(before, shifted, strict=True))
    assert model.digest != digest
    model.shift_by(None)
    assert model.digest == digest
    for one, other in zip(before, answers(model, channels), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("family", MODELS)
def test_two_shifts_give_a_model_two_identities(family: str) -> None:
    make, _, tokens = MODELS[family]
    model = make()
    digests = set()
    for trained in (False, True):
        model.shift_by(a_shift(tokens, trained=trained))
        digests.add(model.digest)
    assert len(digests) == 2


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_offsets_have_the_decoders_shape_and_see_only_what_is_pointed_at(
    images: int, height: int, width: int
) -> None:
    shift = a_shift(6, trained=True)
    embedding = torch.randn(images, 32, height, width)
    nothing = torch.zeros(images, height, width)
    offsets = shift(embedding, nothing)
    assert offsets.shape == (images, 6, 32)
    # Pointing everywhere is pointing nowhere.
    torch.testing.assert_close(shift(embedding, nothing + 1), offsets)


def test_what_is_pointed_at_changes_the_offsets() -> None:
    shift = a_shift(6, trained=True)
    embedding = torch.randn(1, 32, 4, 4)
    here, there = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    here[0, 0, 0] = there[0, 3, 3] = 1.0
    assert (shift(embedding, here) - shift(embedding, there)).abs().max() > 1e-3


def test_each_further_click_shortens_the_offsets() -> None:
    shift = a_shift(6, trained=True)
    embedding, pointed = torch.randn(1, 32, 4, 4), torch.ones(1, 4, 4)
    one, none, three = (shift(embedding, pointed, clicks) for clicks in (1, 0, 3))
    torch.testing.assert_close(one, none)
    torch.testing.assert_close(three * 3, one)


def test_clicks_on_the_object_are_pointed_at_before_all_else() -> None:
    maps = torch.zeros(1, len(MAP_CHANNELS), 16, 16)
    maps[0, MAP_CHANNELS.index("own"), 12:] = 1.0
    maps[0, MAP_CHANNELS.index("neighbour"), :, 12:] = 1.0
    assert pointed_in_maps(maps)[0].nonzero()[:, 1].unique().tolist() == [3]
    maps[0, MAP_CHANNELS.index("positive"), 5, 6] = 1.0
    assert pointed_in_maps(maps)[0].nonzero().tolist() == [[1, 1]]


def test_the_bell_of_a_click_stands_on_its_cell() -> None:
    pointed = pointed_by_clicks(torch.tensor([[40.0, 8.0]]), (4, 4), 16.0)
    assert int(pointed[0].argmax()) == 0 * 4 + 2
    assert pointed_by_clicks(torch.zeros(0, 2), (4, 4), 16.0).abs().sum() == 0


def test_a_saved_shift_comes_back_with_its_card(tmp_path: Path) -> None:
    path = tmp_path / "liver.shift"
    shift = a_shift(6, trained=True)
    save_shift(shift, a_card(figures={"dice": 0.9}), path)
    back = load_shift(path, base_sha256="ab" * 32)
    assert back.digest() == shift.digest()
    card = read_add_on(path, "shift").card
    assert (card.labels, card.figures["dice"], card.kind) == (("liver",), 0.9, "shift")
    assert b"one" not in json.dumps(dataclasses.asdict(card)).encode()


def test_a_shift_for_other_weights_is_refused_and_names_its_own(tmp_path: Path) -> None:
    path = tmp_path / "liver.shift"
    save_shift(a_shift(6, trained=True), a_card(), path)
    with pytest.raises(WeightsRefused, match=r"made for base .*--model base"):
        load_shift(path, base_sha256="cd" * 32)


def test_a_file_of_another_kind_is_refused_and_sent_where_it_belongs(tmp_path: Path) -> None:
    path = tmp_path / "liver.auto"
    write_add_on(path, AddOn(a_card(kind="auto"), {"a": torch.zeros(1)}))
    with pytest.raises(WeightsRefused, match="--auto"):
        load_shift(path, base_sha256="ab" * 32)


HEADERS = {
    "no card": None,
    "no json": "{",
    "a list": "[]",
    "unknown entries": '{"kind": "shift", "surprise": 1}',
    "unknown kind": json.dumps(dataclasses.asdict(a_card()) | {"kind": "magic"}),
    "settings of another form": json.dumps(dataclasses.asdict(a_card()) | {"settings": 3}),
    "a later format": json.dumps(dataclasses.asdict(a_card()) | {"format": 99}),
    "labels of another form": json.dumps(dataclasses.asdict(a_card()) | {"labels": 5}),
    "no widths": json.dumps(dataclasses.asdict(a_card())),
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_a_card_that_cannot_be_trusted_is_refused(tmp_path: Path, header: str | None) -> None:
    path = tmp_path / "x.shift"
    metadata = {} if header is None else {"protosam_add_on": header}
    save_file({"a": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(WeightsRefused):
        load_shift(path, base_sha256="ab" * 32)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8 + b"{}"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.shift"
    path.write_bytes(content)
    with pytest.raises(WeightsRefused, match="cannot be read"):
        load_shift(path, base_sha256="ab" * 32)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    shift = a_shift(6, trained=True)
    shift.last.bias[0] = float("nan")
    save_shift(shift, a_card(), tmp_path / "x.shift")
    with pytest.raises(WeightsRefused, match="finite"):
        load_shift(tmp_path / "x.shift", base_sha256="ab" * 32)


def test_widths_without_end_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    settings_ = {"width_channels": 32, "width_tokens": 6, "width_hidden": 10**12}
    write_add_on(tmp_path / "x.shift", AddOn(a_card(settings=settings_), {"a": torch.zeros(1)}))
    with pytest.raises(WeightsRefused, match="widths"):
        load_shift(tmp_path / "x.shift", base_sha256="ab" * 32)


def test_a_shift_needs_widths() -> None:
    with pytest.raises(InvalidInput, match="at least one"):
        ShiftShape(0, 6)


def test_a_lesson_of_sam_answers_as_the_model_at_work() -> None:
    model, shift = a_sam(), a_shift(5, trained=True)
    pupil = pupil_of(model)
    stack = np.random.default_rng(0).random((1, 1, 60, 90), dtype=np.float32)
    embedding = pupil.keep(model.embed(stack, (1.0, 1.0))[0])
    prior = np.where(np.indices((60, 90))[0] < 30, 4.0, -4.0).astype(np.float32)
    mended = dataclasses.replace(CLICK, prior_logits=prior)
    model.shift_by(shift)
    for prompts in (CLICK, BOX, mended):
        reading = pupil.ask(embedding, prompts, shift)
        shown = pupil.on_slice(embedding, reading.shown)
        np.testing.assert_allclose(shown, model.predict(embedding, prompts).logits, atol=1e-4)


def test_in_a_lesson_of_sam_gradients_reach_the_shift_and_the_cells() -> None:
    model, shift = a_sam(), PatternShift(ShiftShape(32, 5, 4))
    pupil = pupil_of(model)
    stack = np.random.default_rng(0).random((1, 1, 60, 90), dtype=np.float32)
    embedding = pupil.keep(model.embed(stack, (1.0, 1.0))[0])
    target = pupil.target(embedding, np.indices((60, 90))[1] < 40)
    pupil.loss(pupil.ask(embedding, CLICK, shift), target).backward()
    assert shift.last.bias.grad is not None and bool(shift.last.bias.grad.any())
    cells = torch.tensor([[1.2, 1.3]], requires_grad=True)
    pupil.loss(pupil.ask_at(embedding, cells, np.array([True])), target).backward()
    assert cells.grad is not None and bool(cells.grad.any())


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "mine.safetensors"
    save_tiny(TinySAM(SMALL), path, {})
    return path


def test_a_shift_is_loaded_where_an_adapter_is_named(weights: Path) -> None:
    shift = a_shift(6, trained=True)
    path = weights.with_name("liver.shift")
    save_shift(shift, a_card(base_sha256=file_digest(weights)), path)
    plain, shifted = load_model(weights), load_model(weights, adapter=path)
    assert shifted.digest == f"{plain.digest}-{shift.digest()}"
    assert (answers(plain, 3)[0] != answers(shifted, 3)[0]).any()


def test_a_shift_of_another_width_is_refused(weights: Path) -> None:
    path = weights.with_name("liver.shift")
    save_shift(a_shift(5, trained=True), a_card(base_sha256=file_digest(weights)), path)
    with pytest.raises(WeightsRefused, match="5"):
        load_model(weights, adapter=path)


def test_a_name_is_looked_up_in_the_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert find_add_on(Path("liver")) == Path("liver")
    target = place_for(Path("liver"), "shift")
    assert target.parent == names_folder() and tmp_path in target.parents
    save_shift(a_shift(6, trained=True), a_card(), target)
    assert find_add_on(Path("liver")) == target
    assert place_for(tmp_path / "x.shift", "shift") == tmp_path / "x.shift"
    with pytest.raises(StorageFailure, match="make its folder"):
        place_for(tmp_path / "none" / "x.shift", "shift")
