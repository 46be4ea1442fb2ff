"""The prototype bank: what belongs to an object, by the looks of slices whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protosam.errors import InvalidInput
from protosam.models.prototype_bank import SURE, PrototypeBank, bank_of
from protosam.models.token_grid import NeckTokens


def two_kinds(seed: int, count: int = 60, noise: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of an object and of its surroundings, which point in several directions each."""
    random = torch.Generator().manual_seed(seed)
    kinds = torch.randn(5, 16, generator=random)
    which = torch.randint(0, 5, (count,), generator=random)
    which[:5] = torch.arange(5)
    tokens = kinds[which] + noise * torch.randn(count, 16, generator=random) + 3.0
    return tokens, (which < 2).float()


def bank(tokens: torch.Tensor, share: torch.Tensor) -> PrototypeBank:
    made = bank_of(tokens, share)
    assert made is not None
    return made


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_tokens_of_the_object_belong_to_it_and_others_do_not(seed: int) -> None:
    tokens, share = two_kinds(seed)
    odds = bank(tokens, share).log_odds(tokens)

    assert (odds[share > 0.5].mean() > 0 > odds[share < 0.5].mean()).item()
    assert ((odds > 0) == (share > 0.5)).float().mean() > 0.9


def test_what_was_not_seen_is_told_apart_too() -> None:
    tokens, share = two_kinds(3, count=400)
    odds = bank(tokens[:100], share[:100]).log_odds(tokens[100:])

    assert ((odds > 0) == (share[100:] > 0.5)).float().mean() > 0.95


def test_the_same_tokens_make_the_same_bank_whatever_their_order() -> None:
    tokens, share = two_kinds(5)
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(1))
    one, again = bank(tokens, share), bank(tokens, share)
    other = bank(tokens[order], share[order])

    assert torch.equal(one.log_odds(tokens), again.log_odds(tokens))
    # Another order seeds the clusters elsewhere; who belongs to the object stays.
    agree = (one.log_odds(tokens) > 0) == (other.log_odds(tokens) > 0)
    assert agree.float().mean() > 0.95


def test_odds_stay_within_bounds() -> None:
    tokens, share = two_kinds(7, noise=0.0)
    odds = bank(tokens, share).log_odds(100 * tokens)

    assert odds.abs().max() <= SURE


def test_an_object_thinner_than_a_cell_is_represented_by_its_fullest_cells() -> None:
    tokens, share = two_kinds(9)
    odds = bank(tokens, 0.2 * share).log_odds(tokens)

    assert ((odds > 0) == (share > 0.5)).float().mean() > 0.9


@pytest.mark.parametrize("value", [0.0, 0.05, 1.0])
def test_an_answer_that_is_empty_or_fills_everything_makes_no_bank(value: float) -> None:
    tokens, share = two_kinds(11)

    assert bank_of(tokens, torch.full_like(share, value)) is None


def test_one_token_of_the_object_is_enough() -> None:
    tokens, share = two_kinds(13)
    first = int(torch.nonzero(share)[0])
    others = torch.nonzero(share == 0).flatten()
    kept = torch.cat([torch.tensor([first]), others])

    assert bank(tokens[kept], share[kept]).log_odds(tokens[first : first + 1]).item() > 0


def test_tokens_and_shares_that_do_not_belong_together_are_refused() -> None:
    tokens, share = two_kinds(15)
    with pytest.raises(InvalidInput, match="shares of shape"):
        bank_of(tokens, share[:-1])
    with pytest.raises(InvalidInput, match="bank of 16"):
        bank(tokens, share).log_odds(tokens[:, :8])


def test_a_grid_gives_each_cell_its_share_of_a_mask() -> None:
    grid = NeckTokens(torch.zeros(4, 4, 4), shape=(32, 24), inner=(32, 24), stride=8)
    mask = np.zeros((32, 24), dtype=bool)
    mask[:8, :4] = True
    share = grid.share(mask)

    assert share[0, 0].item() == pytest.approx(0.5)
    assert share.sum().item() == pytest.approx(0.5)
    assert grid.real.sum().item() == 12 and not grid.real[:, 3].any()


def test_what_is_spread_from_cells_lies_where_the_cells_lie() -> None:
    grid = NeckTokens(torch.zeros(4, 4, 4), shape=(64, 48), inner=(32, 24), stride=8)
    values = torch.zeros(4, 4)
    values[1, 2] = 1
    found = grid.spread(values)

    assert found.shape == (64, 48)
    row, col = np.unravel_index(int(found.argmax()), found.shape)
    # The cell's middle lies at (12, 20) of the frame, which is half the slice.
    assert abs(row - 23.5) <= 1 and abs(col - 39.5) <= 1
