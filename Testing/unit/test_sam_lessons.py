"""A model of the SAM family learns: its encoder in two parts, its lessons, its adapter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    TwoWayTransformer,
)
from segment_anything.modeling import Sam as SamNetwork

from protosam.geometry import Volume
from protosam.learn.finished_cases import FinishedCase
from protosam.learn.fronts import front_of
from protosam.learn.lessons import QUESTIONS, Asker, Lesson, lessons_of
from protosam.learn.pupils import pupil_of
from protosam.learn.recipe import Checkpoint, teach, with_adapter, without_adapter
from protosam.learn.recipe_settings import RecipeSettings
from protosam.models.cards import card_named
from protosam.models.lora import load_adapter, lora_parameters, save_adapter
from protosam.models.predictor import SamSliceModel
from protosam.models.slice_model import SlicePrompts

CPU = torch.device("cpu")
QUICK = RecipeSettings(
    rear_blocks=1, rank=2, steps=3, batch=2, examples=4, checkpoint_every=2, learning_rate=1e-2
)
CLICK = SlicePrompts(np.array([[20.0, 24.0]]), np.array([True]))


def a_network() -> SamNetwork:
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=64,
        patch_size=16,
        embed_dim=16,
        depth=3,
        num_heads=2,
        out_chans=32,
        window_size=3,
        global_attn_indexes=(2,),
        use_rel_pos=True,
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=32, num_heads=4)
    return SamNetwork(
        encoder,
        PromptEncoder(32, (4, 4), (64, 64), 16),
        MaskDecoder(transformer_dim=32, transformer=transformer),
    )


def modelled(network: SamNetwork) -> SamSliceModel:
    card = card_named("sam_vit_b")
    return SamSliceModel(network, card, name="sam", weights_sha256="s", device=CPU)


@pytest.fixture
def a_model() -> SamSliceModel:
    return modelled(a_network())


def an_image() -> np.ndarray:
    return np.random.default_rng(0).random((1, 40, 48), dtype=np.float32)


def answer(model: SamSliceModel) -> np.ndarray:
    (embedding,) = model.embed(an_image()[None], (1.0, 1.0))
    return model.predict(embedding, CLICK).logits


def learners_answer(model: SamSliceModel) -> np.ndarray:
    """As in a lesson: what is at work has prepared its decoder before the adapter came."""
    front, pupil = front_of(model, QUICK.blocks), pupil_of(model)
    with torch.no_grad():
        embedding = front.finish(front.begin(an_image(), (1.0, 1.0)))
        return pupil.on_slice(embedding, pupil.ask(embedding, CLICK, None).shown)


def some_lessons(model: SamSliceModel) -> list[Lesson]:
    k, j, i = np.ogrid[:6, :40, :48]
    ball = ((k - 2.5) * 4) ** 2 + (j - 20) ** 2 + (i - 24) ** 2 <= 100
    image = np.where(ball, 100, 0) + np.random.default_rng(1).integers(0, 20, size=ball.shape)
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    volume, labels = (Volume(x, affine) for x in (image.astype(np.int16), ball.astype(np.uint8)))
    case = FinishedCase("case", volume, labels, (1,))
    front = front_of(model, QUICK.blocks)
    return lessons_of([case], model, front, count=4, seed=0, on_progress=lambda *_: None)


@pytest.mark.parametrize("rear", [1, 2, None])
def test_front_and_rear_give_what_the_encoder_gives(a_model: SamSliceModel, rear: int | None):
    front = front_of(a_model, rear)
    with torch.no_grad():
        split = front.finish(front.begin(an_image(), (1.0, 1.0)))
    (whole,) = a_model.embed(an_image()[None], (1.0, 1.0))
    torch.testing.assert_close(split.features, whole.features.float(), atol=2e-2, rtol=2e-2)
    assert split.frame == whole.frame


@pytest.mark.parametrize("kind", list(QUESTIONS))
def test_every_question_reaches_the_last_block_the_neck_and_the_decoder(
    a_model: SamSliceModel, kind: str
):
    lessons = some_lessons(a_model)
    with_adapter(a_model, QUICK)
    asker = Asker(pupil_of(a_model), front_of(a_model, QUICK.blocks))
    for parameter in lora_parameters(a_model.network):  # as the recipe does
        parameter.requires_grad_(True)
    asker.loss(lessons[0], np.random.default_rng(0), kind).backward()
    moved = {
        name.split(".lora_")[0]
        for name, p in a_model.network.named_parameters()
        if ".lora_B" in name and p.grad is not None and bool(p.grad.abs().sum() > 0)
    }
    for place in ("image_encoder.blocks.2.attn", "image_encoder.neck", "mask_decoder"):
        assert any(place in name for name in moved), place
    assert not any("blocks.0" in name or "blocks.1" in name for name in moved)


def test_it_learns_answers_alike_after_loading_and_is_the_same_without(
    a_model: SamSliceModel, tmp_path: Path
):
    before = answer(a_model)
    lessons = some_lessons(a_model)
    assert all(lesson.onward == () for lesson in lessons)  # SAM follows no neighbours
    with_adapter(a_model, QUICK)
    np.testing.assert_allclose(learners_answer(a_model), before, atol=2e-3)
    taught = teach(
        a_model,
        lessons,
        QUICK,
        checkpoint=Checkpoint(tmp_path / "state.pt", "one run"),
        on_step=lambda _: None,
        should_stop=lambda: False,
    )
    assert len(taught.losses) == QUICK.steps
    assert any(bool(p.abs().sum() > 0) for p in lora_parameters(a_model.network))
    now = learners_answer(a_model)
    assert np.abs(now - before).max() > 0.02
    save_adapter(a_model.network, tmp_path / "adapter", base_sha256="s")
    without_adapter(a_model)
    np.testing.assert_array_equal(answer(a_model), before)
    network = a_network()
    load_adapter(network, tmp_path / "adapter", base_sha256="s")
    np.testing.assert_allclose(answer(modelled(network)), now, atol=2e-3)
