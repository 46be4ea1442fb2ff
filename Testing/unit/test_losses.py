"""Losses of the training: zero when right, and which of the four masks they teach."""

from __future__ import annotations

import pytest
import torch

from protosam.learn.losses import (
    ALL_READINGS_WEIGHT,
    BCE_WEIGHT,
    hard_iou,
    mask_loss,
    prompt_loss,
)
from protosam.models.tiny import Masks


def square(low: int = 4, high: int = 12, side: int = 16) -> torch.Tensor:
    mask = torch.zeros(side, side)
    mask[low:high, low:high] = 1
    return mask


def logits_of(mask: torch.Tensor, strength: float = 30) -> torch.Tensor:
    return (mask * 2 - 1) * strength


def answers(masks: list[torch.Tensor], *, right: bool = True) -> Masks:
    logits = torch.stack([logits_of(m, 3.0) for m in masks]).unsqueeze(0).requires_grad_()
    iou = torch.full((1, 4), 2.0 if right else -2.0, requires_grad=True)
    return Masks(logits, iou, torch.tensor([3.0], requires_grad=True))


def test_perfect_logits_cost_nothing() -> None:
    target = square()
    assert float(mask_loss(logits_of(target), target)) == pytest.approx(0, abs=1e-4)


def test_a_wrong_mask_costs_more_the_worse_it_is() -> None:
    target = square()
    costs = [float(mask_loss(logits_of(square(4 + s, 12 + s), 3.0), target)) for s in (0, 1, 3)]
    assert costs == sorted(costs)
    assert costs[0] < 0.2 < costs[2]


def test_an_empty_target_has_no_dice_term() -> None:
    logits, target = torch.zeros(16, 16), torch.zeros(16, 16)
    expected = BCE_WEIGHT * torch.log(torch.tensor(2.0))
    torch.testing.assert_close(mask_loss(logits, target), expected)


def test_a_target_without_a_half_covered_cell_counts_as_empty() -> None:
    faint = torch.full((16, 16), 0.25)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(torch.zeros(16, 16), faint)
    torch.testing.assert_close(mask_loss(torch.zeros(16, 16), faint), BCE_WEIGHT * bce)


def test_losses_of_several_masks_are_those_of_each() -> None:
    logits = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    target = torch.stack([square(1, 5, 8), square(2, 7, 8), torch.zeros(8, 8)])
    together = mask_loss(logits, target.unsqueeze(1))
    assert together.shape == (3, 4)
    torch.testing.assert_close(together[1, 2], mask_loss(logits[1, 2], target[1]))


def test_the_hard_iou_counts_cells() -> None:
    target = square(0, 8)
    assert float(hard_iou(logits_of(square(0, 8)), target)) == 1
    assert float(hard_iou(logits_of(square(8, 16)), target)) == 0
    shifted = torch.zeros(16, 16)
    shifted[0:8, 4:12] = 1
    assert float(hard_iou(logits_of(shifted), target)) == pytest.approx(32 / 96)


def test_two_empty_masks_agree() -> None:
    assert float(hard_iou(torch.full((4, 4), -1.0), torch.zeros(4, 4))) == 1
    assert float(hard_iou(torch.full((4, 4), 1.0), torch.zeros(4, 4))) == 0


def test_a_single_click_teaches_the_best_reading_most() -> None:
    target = square()
    masks = answers([square(0, 4), square(3, 13), square(8, 16), square(0, 5)])
    prompt_loss(masks, target[None], torch.tensor([True])).total.backward()
    strength = masks.logits.grad[0].abs().sum(dim=(1, 2))
    assert strength[1] > 5 * strength[2:].max()  # mask 1 is nearest to the target
    assert (strength > 0).all()


def test_several_prompts_teach_the_shape_of_mask_zero_alone() -> None:
    masks = answers([square(3, 13), square(), square(), square()])
    prompt_loss(masks, square()[None], torch.tensor([False])).total.backward()
    strength = masks.logits.grad[0].abs().sum(dim=(1, 2))
    assert strength[0] > 0
    assert strength[1:].tolist() == [0, 0, 0]


def test_the_loss_of_a_single_click_follows_its_best_reading() -> None:
    def loss(readings: list[torch.Tensor]) -> float:
        masks = answers([square(3, 13), *readings])
        return prompt_loss(masks, square()[None], torch.tensor([True])).mask

    far, farther = square(0, 4), square(8, 16)
    assert loss([far, square(), farther]) == pytest.approx(loss([square(), farther, far]))
    gain = loss([far, far, far]) - loss([far, square(), far])
    change_of_another = abs(loss([far, square(), far]) - loss([far, square(), farther]))
    assert change_of_another <= ALL_READINGS_WEIGHT < gain


def test_a_right_score_costs_less_than_a_wrong_one() -> None:
    shapes = [square()] * 4
    right = prompt_loss(answers(shapes), square()[None], torch.tensor([False]))
    wrong = prompt_loss(answers(shapes, right=False), square()[None], torch.tensor([False]))
    assert right.iou < wrong.iou
    assert right.mask == wrong.mask


def test_presence_is_taught_by_whether_the_object_is_there() -> None:
    masks = answers([square()] * 4)
    there = prompt_loss(masks, square()[None], torch.tensor([False]))
    gone = prompt_loss(masks, torch.zeros(1, 16, 16), torch.tensor([False]))
    assert there.presence < 0.1
    assert gone.presence > 1
