"""Many answers of a SAM in one call, its tokens, and its readings, on a small random network."""

from __future__ import annotations

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

from protosam.models.cards import card_named
from protosam.models.many_answers import predict_many, readings
from protosam.models.predictor import SamSliceModel
from protosam.models.shift import PatternShift, ShiftShape
from protosam.models.slice_model import SlicePrompts
from protosam.models.tokens import tokens_of

SHAPE = (40, 64)


@pytest.fixture
def a_sam() -> SamSliceModel:
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=64, patch_size=16, embed_dim=16, depth=1, num_heads=2, out_chans=32
    )
    network = SamNetwork(
        encoder,
        PromptEncoder(32, (4, 4), (64, 64), 16),
        MaskDecoder(
            transformer_dim=32,
            transformer=TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=32, num_heads=4),
        ),
    )
    card, cpu = card_named("sam_vit_b"), torch.device("cpu")
    return SamSliceModel(network, card, name="sam", weights_sha256="s", device=cpu)


@pytest.fixture
def an_embedding(a_sam: SamSliceModel):
    stack = np.random.default_rng(0).random((1, 1, *SHAPE), dtype=np.float32)
    return a_sam.embed(stack, (1.0, 1.0))[0]


def clicks(*points: tuple[float, float, bool]) -> SlicePrompts:
    return SlicePrompts(
        np.array([p[:2] for p in points], dtype=float), np.array([p[2] for p in points])
    )


def one_mask(model: SamSliceModel, embedding, prompts: SlicePrompts) -> np.ndarray:
    framed = model.prompts_in_frame(prompts, embedding.frame)
    return model.decode(embedding, framed, multimask=False).logits[0].cpu().numpy()


def test_many_answers_of_a_sam_equal_those_one_by_one(a_sam, an_embedding) -> None:
    asked = [
        clicks((20, 30, True), (5, 5, False)),
        clicks((30, 30, True), (10, 60, False)),
    ]
    for one, prompts in zip(predict_many(a_sam, an_embedding, asked), asked, strict=True):
        assert np.allclose(one.logits, one_mask(a_sam, an_embedding, prompts), atol=1e-4)
        assert one.logits.shape == SHAPE


def test_a_sam_reads_candidates_of_unequal_lengths_and_with_priors(a_sam, an_embedding) -> None:
    asked = [clicks((20, 30, True)), clicks((20, 30, True), (5, 5, False), (9, 9, False))]
    assert len(predict_many(a_sam, an_embedding, asked)) == 2
    prior = np.full(SHAPE, -4, dtype=np.float32)
    mixed = [asked[0], SlicePrompts(asked[0].points_rc, asked[0].positive, prior_logits=prior)]
    for one, prompts in zip(predict_many(a_sam, an_embedding, mixed), mixed, strict=True):
        assert np.allclose(one.logits, one_mask(a_sam, an_embedding, prompts), atol=1e-4)


def test_candidates_see_the_shift_of_a_sam(a_sam, an_embedding) -> None:
    asked = [clicks((20, 30, True)), clicks((30, 10, True), (5, 5, False))]
    before = predict_many(a_sam, an_embedding, asked)
    torch.manual_seed(1)
    shift = PatternShift(ShiftShape(32, 5, 8)).requires_grad_(False)
    torch.nn.init.normal_(shift.last.weight, std=0.5)
    a_sam.shift_by(shift)
    for one, old, prompts in zip(
        predict_many(a_sam, an_embedding, asked), before, asked, strict=True
    ):
        assert not np.allclose(one.logits, old.logits, atol=1e-3)
        assert np.allclose(one.logits, one_mask(a_sam, an_embedding, prompts), atol=1e-5)


def test_an_ambiguous_prompt_of_a_sam_has_three_readings(a_sam, an_embedding) -> None:
    masks = readings(a_sam, an_embedding, clicks((20, 30, True)))
    assert [one.shape for one in masks] == [SHAPE] * 3


def test_the_tokens_of_a_sam_cover_the_slice_and_no_padding(a_sam, an_embedding) -> None:
    grid = tokens_of(a_sam, an_embedding)
    assert grid.features.shape == (32, 4, 4)
    # 40 rows of 64 fill two and a half rows of tokens; half a token belongs to the slice.
    assert grid.covered.sum(axis=0).tolist() == [3, 3, 3, 3]
    assert grid.fractions(np.ones(SHAPE))[:2].tolist() == [[1.0] * 4] * 2
