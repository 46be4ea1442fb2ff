"""The encoder's and the decoder's own arithmetic against that of the segment_anything package."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from segment_anything.modeling.image_encoder import add_decomposed_rel_pos, get_rel_pos

from protosam.errors import InvalidInput
from protosam.models import attention
from protosam.models.attention import biased_attention, encode
from protosam.models.cards import MODEL_CARDS
from protosam.models.half_resolution import halve
from protosam.models.lora import inject_lora, lora_parameters
from protosam.models.predictor import SamSliceModel
from protosam.models.sam_decoder import IMAGES_KEPT, SamDecoder
from protosam.models.slice_model import SlicePrompts

CPU = torch.device("cpu")


def a_sam(side: int = 256, window: int = 7, blocks: int = 3) -> Sam:
    """Narrow, but with windows that do not fit the grid, and weights everywhere."""
    torch.manual_seed(3)
    tokens = side // 16
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=128)
    network = Sam(
        ImageEncoderViT(
            img_size=side,
            depth=blocks,
            embed_dim=48,
            num_heads=3,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=window,
            global_attn_indexes=(1,),
        ),
        PromptEncoder(256, (tokens, tokens), (side, side), mask_in_chans=16),
        MaskDecoder(transformer_dim=256, transformer=transformer),
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return network.eval().requires_grad_(False)


def images(side: int = 256, count: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(5))


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize(("side", "window"), [(256, 7), (256, 16), (224, 14), (64, 14)])
def test_the_embedding_equals_that_of_the_package(side: int, window: int) -> None:
    encoder = a_sam(side, window).image_encoder

    assert relative_error(encode(encoder, images(side)), encoder(images(side))) < 1e-5


def test_several_images_are_encoded_as_each_alone() -> None:
    encoder = a_sam().image_encoder
    batch = images(count=3)

    torch.testing.assert_close(encode(encoder, batch)[1:2], encode(encoder, batch[1:2]))


def test_bfloat16_stays_within_two_hundredths() -> None:
    encoder = a_sam().image_encoder
    exact = encoder(images())

    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = encode(encoder, images()).float()

    assert 0 < relative_error(rough, exact) < 2e-2


@pytest.mark.parametrize("at_once", [1, 300, 1 << 22])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_the_same_in_parts_of_any_size(
    monkeypatch: pytest.MonkeyPatch, at_once: int, dtype: torch.dtype
) -> None:
    q, k, v, biases, expected = a_biased_problem()
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", at_once)

    found = biased_attention(
        q.to(dtype), k.to(dtype), v.to(dtype), tuple(b.to(dtype) for b in biases), 0.25
    )

    assert relative_error(found.float(), expected) < (1e-5 if dtype == torch.float32 else 2e-2)


def test_longer_vectors_carry_the_bias_exactly() -> None:
    q, k, v, biases, expected = a_biased_problem()

    found = attention._through_longer_vectors(q, k, v, biases, 0.25)

    assert relative_error(found, expected) < 1e-5


def a_biased_problem() -> tuple[torch.Tensor, ...]:
    """Six heads on a grid of 5 x 9 and what the package makes of them."""
    torch.manual_seed(0)
    height, width, d = 5, 9, 16
    q, k, v = (torch.randn(6, height * width, d) for _ in range(3))
    by_row, by_column = torch.randn(2 * height - 1, d), torch.randn(2 * width - 1, d)
    scores = add_decomposed_rel_pos(
        0.25 * q @ k.transpose(1, 2), q, by_row, by_column, (height, width), (height, width)
    )
    grid = q.view(6, height, width, d)
    row = torch.einsum("bhwc,hkc->bhwk", grid, get_rel_pos(height, height, by_row))
    column = torch.einsum("bhwc,wkc->bhwk", grid, get_rel_pos(width, width, by_column))
    biases = row.flatten(1, 2), column.flatten(1, 2)
    return q, k, v, biases, scores.softmax(-1) @ v


def test_adapters_are_used_where_they_lie() -> None:
    network = a_sam()
    plain = encode(network.image_encoder, images())
    inject_lora(network, rank=2, alpha=4.0)
    with torch.no_grad():
        untrained = encode(network.image_encoder, images())
    for parameter in lora_parameters(network):
        torch.nn.init.normal_(parameter, std=0.1)

    with torch.no_grad():
        tuned = encode(network.image_encoder, images())
        expected = network.image_encoder(images())

    assert torch.equal(untrained, plain)
    assert relative_error(tuned, plain) > 1e-3
    assert relative_error(tuned, expected) < 1e-5


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("clicks", [1, 2, 25])
@pytest.mark.parametrize("with_mask", [False, True])
def test_decoded_masks_equal_those_of_the_package(
    multimask: bool, clicks: int, with_mask: bool
) -> None:
    network = a_sam()
    torch.manual_seed(1)
    features = torch.randn(1, 256, 16, 16)
    points = (torch.rand(1, clicks, 2) * 256, torch.ones(1, clicks, dtype=torch.int32))
    mask = torch.randn(1, 1, 64, 64) if with_mask else None
    sparse, dense = network.prompt_encoder(points=points, boxes=None, masks=mask)
    expected = network.mask_decoder(
        image_embeddings=features,
        image_pe=network.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
    )
    decoder = SamDecoder(network)

    for _ in range(2):  # the second time from what was kept of the image
        found = decoder.decode(features, sparse, dense if with_mask else None, multimask=multimask)

        assert (found[0] - expected[0]).abs().max() < 1e-5 * expected[0].std()
        torch.testing.assert_close(found[1], expected[1])


def test_what_is_kept_of_images_never_answers_for_another() -> None:
    network = a_sam()
    decoder = SamDecoder(network)
    sparse = torch.randn(1, 2, 256)
    seen = [torch.randn(1, 256, 16, 16) for _ in range(IMAGES_KEPT + 2)]

    first = [decoder.decode(f, sparse, None, multimask=False)[0] for f in seen]
    again = [decoder.decode(f, sparse, None, multimask=False)[0] for f in reversed(seen)]

    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again), strict=True))
    assert not torch.equal(first[0], first[1])
    assert len(decoder._kept) == IMAGES_KEPT


def test_a_halved_network_sees_the_same_image_in_a_quarter_of_the_tokens() -> None:
    whole, half = a_sam(), halve(copy.deepcopy(a_sam()))
    models = [
        SamSliceModel(n, MODEL_CARDS["sam_vit_b"], name="n", weights_sha256="0", device=CPU)
        for n in (whole, half)
    ]
    image = np.random.default_rng(0).random((1, 1, 90, 60), dtype=np.float32)
    prompts = SlicePrompts(np.array([[30.0, 20.0]]), np.array([True]))

    embeddings = [m.embed(image, (1.0, 1.0))[0] for m in models]
    answers = [m.predict(e, prompts) for m, e in zip(models, embeddings, strict=True)]

    assert [tuple(e.features.shape[2:]) for e in embeddings] == [(16, 16), (8, 8)]
    assert [a.logits.shape for a in answers] == [(90, 60), (90, 60)]
    assert models[0].digest != models[1].digest
    torch.testing.assert_close(
        encode(half.image_encoder, images(128)), half.image_encoder(images(128))
    )


def test_positions_of_a_halved_network_are_those_of_places_twice_as_far() -> None:
    network = a_sam()
    encoder = network.image_encoder
    with torch.no_grad():
        encoder.pos_embed.copy_(torch.linspace(0, 1, 16).view(1, 16, 1, 1).expand(1, 16, 16, 48))
        encoder.blocks[1].attn.rel_pos_h.copy_(torch.linspace(-1, 1, 31)[:, None].expand(31, 16))

    halve(network)

    middle = torch.linspace(0, 1, 16).view(8, 2).mean(dim=1)
    torch.testing.assert_close(encoder.pos_embed[0, 1:-1, 3, 0], middle[1:-1], atol=5e-3, rtol=0)
    distances = encoder.blocks[1].attn.rel_pos_h[:, 0]
    assert distances.shape == (15,)
    torch.testing.assert_close(distances, -distances.flip(0), atol=1e-6, rtol=0)
    assert encoder.blocks[0].attn.rel_pos_h.shape == (13, 16)


def test_an_odd_number_of_tokens_is_not_halved() -> None:
    with pytest.raises(InvalidInput, match="cannot be halved"):
        halve(a_sam(240))
