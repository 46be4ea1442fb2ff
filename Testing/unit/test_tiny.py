"""The built-in network: shapes, positions, and what it shares with Segment Anything."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from segment_anything.modeling import PromptEncoder

from protosam.models.prompt_maps import FramePrompts, draw
from protosam.models.tiny import (
    BOX_FIRST,
    BOX_LAST,
    MAP_CHANNELS,
    NEGATIVE,
    PAD,
    POSITIVE,
    Masks,
    TinySAM,
    TinySettings,
    Tokens,
    choose_mask,
)


@pytest.fixture(scope="module")
def a_network() -> TinySAM:
    torch.manual_seed(0)
    return TinySAM().eval().requires_grad_(False)


def images(count: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.rand(count, 3, height, width, generator=generator)


def clicks(height: int, width: int) -> Tokens:
    one = FramePrompts(np.array([[20.0, 9.0]]), np.array([True]))
    two = FramePrompts(np.array([[5.0, 30.0], [40.0, 2.0]]), np.array([True, False]))
    return draw([one, two], height, width)


def points_only(coords: torch.Tensor, labels: torch.Tensor) -> Tokens:
    return Tokens(coords, labels, torch.zeros(len(coords), len(MAP_CHANNELS), 8, 8))


def same_prompt_encoder(network: TinySAM, side: int) -> PromptEncoder:
    """Segment Anything's own prompt encoder with the weights that both have."""
    theirs = PromptEncoder(
        network.settings.embed_dim, (side // 8, side // 8), (side, side), mask_in_chans=32
    )
    ours = network.prompt_encoder.state_dict()
    shared = {k: v for k, v in ours.items() if not k.startswith("mask_downscaling.0")}
    missing = theirs.load_state_dict(shared, strict=False).missing_keys
    assert all(k.startswith(("mask_downscaling.0", "no_mask_embed")) for k in missing)
    return theirs.requires_grad_(False)


@pytest.mark.parametrize(("height", "width"), [(96, 96), (128, 128), (256, 256), (64, 160)])
def test_every_frame_size_gives_the_shapes_of_the_docstrings(
    a_network: TinySAM, height: int, width: int
) -> None:
    features = a_network.encode(images(1, height, width))
    assert features.embedding.shape == (1, 128, height // 8, width // 8)
    assert features.quarter.shape == (1, 32, height // 4, width // 4)
    assert features.half.shape == (1, 16, height // 2, width // 2)
    both = features.select(torch.tensor([0, 0]))
    masks = a_network.decode(both, clicks(height, width), max(height, width))
    assert masks.logits.shape == (2, 4, height // 2, width // 2)
    assert masks.iou.shape == (2, 4)
    assert masks.presence.shape == (2,)
    assert all(torch.isfinite(t).all() for t in (masks.logits, masks.iou, masks.presence))


def test_images_of_a_batch_do_not_see_each_other(a_network: TinySAM) -> None:
    batch = images(3, 96, 96)
    together, alone = a_network.encode(batch), a_network.encode(batch[1:2])
    torch.testing.assert_close(together.embedding[1:2], alone.embedding, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.half[1:2], alone.half, atol=1e-4, rtol=1e-4)


def test_objects_of_a_batch_do_not_see_each_other(a_network: TinySAM) -> None:
    features = a_network.encode(images(1, 64, 64))
    first = FramePrompts(np.array([[20.0, 9.0]]), np.array([True]))
    second = FramePrompts(np.array([[50.0, 40.0]]), np.array([False]))
    pair = draw([first, second], 64, 64)
    together = a_network.decode(features.select(torch.tensor([0, 0])), pair, 64)
    alone = a_network.decode(features, draw([first], 64, 64), 64)
    torch.testing.assert_close(together.logits[:1], alone.logits, atol=1e-4, rtol=1e-4)


def test_selecting_repeats_and_reorders_images(a_network: TinySAM) -> None:
    features = a_network.encode(images(2, 32, 32))
    chosen = features.select(torch.tensor([1, 1, 0]))
    assert torch.equal(chosen.quarter[0], features.quarter[1])
    assert torch.equal(chosen.quarter[1], features.quarter[1])
    assert torch.equal(chosen.embedding[2], features.embedding[0])


@pytest.mark.parametrize("side", [96, 256])
def test_positions_of_the_square_are_those_of_segment_anything(
    a_network: TinySAM, side: int
) -> None:
    theirs = same_prompt_encoder(a_network, side).get_dense_pe()
    ours = a_network.prompt_encoder.dense_positions(side // 8, side // 8, side)
    torch.testing.assert_close(ours, theirs)


def test_positions_of_a_cropped_frame_are_those_of_the_square(a_network: TinySAM) -> None:
    square = a_network.prompt_encoder.dense_positions(32, 32, 256)
    cropped = a_network.prompt_encoder.dense_positions(12, 32, 256)
    assert torch.equal(cropped, square[:, :, :12])


def test_point_tokens_are_those_of_segment_anything(a_network: TinySAM) -> None:
    coords = torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(1)) * 127
    labels = torch.tensor([[POSITIVE, NEGATIVE, POSITIVE, NEGATIVE, POSITIVE]] * 3)
    theirs, _ = same_prompt_encoder(a_network, 128)((coords, labels), None, None)
    # Theirs ends with a padding point where there is no box; ours pads where lengths differ.
    padded = torch.cat([coords, torch.zeros(3, 1, 2)], dim=1)
    padded_labels = torch.cat([labels, torch.full((3, 1), PAD)], dim=1)
    ours, _ = a_network.prompt_encoder(points_only(padded, padded_labels), 128)
    torch.testing.assert_close(ours, theirs)


def test_box_tokens_are_those_of_segment_anything(a_network: TinySAM) -> None:
    boxes = torch.tensor([[3.0, 5.0, 60.0, 90.0], [0.0, 0.0, 127.0, 127.0]])
    theirs, _ = same_prompt_encoder(a_network, 128)(None, boxes, None)
    labels = torch.tensor([[BOX_FIRST, BOX_LAST]] * 2)
    ours, _ = a_network.prompt_encoder(points_only(boxes.reshape(2, 2, 2), labels), 128)
    torch.testing.assert_close(ours, theirs)


def test_the_attention_layers_have_the_names_that_adapters_look_for(a_network: TinySAM) -> None:
    names = [n for n, m in a_network.named_modules() if isinstance(m, torch.nn.Linear)]
    found = [n for n in names if re.fullmatch(r"image_encoder\.blocks\.\d+\.attn\.(qkv|proj)", n)]
    assert len(found) == 2 * TinySettings().trunk_depth


def test_the_network_stays_small(a_network: TinySAM) -> None:
    assert sum(p.numel() for p in a_network.parameters()) < 5_000_000


def test_other_widths_and_depths_can_be_chosen() -> None:
    settings = TinySettings(stem_widths=(12, 24, 24), trunk_dim=48, trunk_depth=1, trunk_heads=2)
    network = TinySAM(settings).eval()
    masks = network.decode(network.encode(images(2, 64, 64)), clicks(64, 64), 64)
    assert masks.logits.shape == (2, 4, 32, 32)


def test_a_single_click_gets_the_mask_with_the_best_score_and_others_mask_zero() -> None:
    iou = torch.tensor([[1.0, 2.0, 9.0, 3.0], [1.0, 2.0, 9.0, 3.0], [0.0, 5.0, 1.0, 1.0]])
    masks = Masks(torch.zeros(3, 4, 2, 2), iou, torch.zeros(3))
    assert choose_mask(masks, torch.tensor([True, False, True])).tolist() == [2, 0, 1]
