"""Rounds of prompting: first prompts, corrections, and what the next slice is told."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from protosam.learn.rounds import Played, Table, chosen_logits, play
from protosam.models.tiny import Masks, TinySAM, TinySettings

SIDE, SAMPLES, OBJECTS = 32, 2, 3
SMALL = TinySettings(stem_widths=(12, 24, 24), trunk_dim=48, trunk_depth=1, trunk_heads=2)


@pytest.fixture(scope="module")
def a_network() -> TinySAM:
    torch.manual_seed(0)
    return TinySAM(SMALL)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(SAMPLES, 3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def targets() -> torch.Tensor:
    """Squares in slice A; in B and C they have moved, and the last one has ended."""
    masks = torch.zeros(SAMPLES, OBJECTS, 3, SIDE // 2, SIDE // 2)
    for index in range(OBJECTS):
        masks[:, index, 0, 2 : 8 + index, 3:10] = 1
        masks[:, index, 1, 3 : 9 + index, 4:11] = 1
        masks[:, index, 2, 4 : 9 + index, 5:11] = 1
    masks[:, -1, 1:] = 0
    return masks


def a_table(
    network: TinySAM,
    images: torch.Tensor,
    targets: torch.Tensor,
    seed: int = 0,
    slice_index: int = 0,
) -> Table:
    features = network.encode(images[:, slice_index])
    rng = np.random.default_rng(seed)
    return Table(network, features, images[:, slice_index], targets[:, :, slice_index], rng)


def test_every_object_begins_with_a_prompt_and_clicks_lie_on_it(
    a_network: TinySAM, images: torch.Tensor, targets: torch.Tensor
) -> None:
    for seed in range(10):
        table = a_table(a_network, images, targets, seed)
        table.start()
        for prompts, wanted in zip(table.prompts, table.wanted, strict=True):
            given = (prompts.box_xyxy is not None) + (prompts.own is not None)
            assert given + len(prompts.points_xy) > 0
            for x, y in prompts.points_xy:
                assert wanted[int((y + 0.5) // 2), int((x + 0.5) // 2)]


def test_a_correction_adds_one_click_where_the_answer_is_wrong_and_keeps_the_answer(
    a_network: TinySAM, images: torch.Tensor, targets: torch.Tensor
) -> None:
    table = a_table(a_network, images, targets)
    table.start()
    before = [len(p.points_xy) for p in table.prompts]
    answers = (table.targets * 2 - 1) * 5
    answers[0] = -5.0  # the whole of the first object is missed
    table.correct(answers)
    after = [len(p.points_xy) for p in table.prompts]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 0, 0, 0, 0, 0]
    assert bool(table.prompts[0].positive[-1])
    assert all(torch.equal(p.own, answers[n]) for n, p in enumerate(table.prompts))


def test_the_next_slice_is_told_of_its_neighbour(
    a_network: TinySAM, images: torch.Tensor, targets: torch.Tensor
) -> None:
    table = a_table(a_network, images, targets, slice_index=1)
    table.start_from(torch.zeros(SAMPLES * OBJECTS, 16, 16), targets[:, :, 0].flatten(0, 1))
    assert all(p.neighbour is not None and p.own is None for p in table.prompts)
    assert all(not len(table.prompts[n].points_xy) for n in (2, 5))  # these have ended


def test_a_propagation_that_has_lost_its_object_is_told_the_truth(
    a_network: TinySAM, images: torch.Tensor, targets: torch.Tensor
) -> None:
    table = a_table(a_network, images, targets, slice_index=2)
    truth = targets[:, :, 1].flatten(0, 1)
    table.start_from(torch.full((SAMPLES * OBJECTS, 16, 16), -9.0), truth)
    for prompts, wanted in zip(table.prompts, truth, strict=True):
        told = bool((prompts.neighbour > 0).any())
        assert told or not bool((wanted >= 0.5).any())


def test_chosen_logits_are_those_that_would_be_shown() -> None:
    logits = torch.arange(8.0).reshape(2, 4, 1, 1).requires_grad_()
    iou = torch.tensor([[0.0, 1.0, 5.0, 2.0], [9.0, 1.0, 5.0, 2.0]])
    chosen = chosen_logits(Masks(logits, iou, torch.zeros(2)), torch.tensor([True, False]))
    assert chosen.flatten().tolist() == [2, 4]
    assert not chosen.requires_grad


def played(network: TinySAM, images: torch.Tensor, targets: torch.Tensor, seed: int) -> Played:
    return play(network, images, targets, np.random.default_rng(seed), nullcontext)


def test_a_batch_repeats_by_seed(
    a_network: TinySAM, images: torch.Tensor, targets: torch.Tensor
) -> None:
    first, again = (played(a_network, images, targets, 3) for _ in range(2))
    assert torch.equal(first.clicked.total, again.clicked.total)
    assert torch.equal(first.propagated.total, again.propagated.total)
    assert torch.equal(first.handed_on.total, again.handed_on.total)
    assert torch.equal(first.total, again.total)
    assert 0 <= first.iou_clicked <= 1
    assert 0 <= first.iou_propagated <= 1
    assert 0 <= first.iou_handed_on <= 1


def test_gradients_reach_the_encoder_the_prompts_and_the_decoder(
    a_network: TinySAM, images: torch.Tensor, targets: torch.Tensor
) -> None:
    a_network.zero_grad()
    result = played(a_network, images, targets, 5)
    result.total.backward()
    for part in (a_network.image_encoder, a_network.prompt_encoder, a_network.mask_decoder):
        norms = [p.grad.norm() for p in part.parameters() if p.grad is not None]
        assert norms
        assert torch.isfinite(torch.stack(norms)).all()
        assert float(max(norms)) > 0
