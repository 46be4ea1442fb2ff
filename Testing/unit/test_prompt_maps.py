"""Clicks, boxes and priors as the built-in network reads them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from protosam.models.geodesic import edge_cost
from protosam.models.prompt_maps import LOGIT_SCALE, FramePrompts, draw
from protosam.models.tiny import (
    BOX_FIRST,
    BOX_LAST,
    MAP_CHANNELS,
    NEGATIVE,
    PAD,
    POSITIVE,
    Tokens,
)

HEIGHT, WIDTH = 48, 64


def prompts(
    points: list[tuple[float, float]] | None = None,
    positive: list[bool] | None = None,
    **others: object,
) -> FramePrompts:
    xy = np.array(points or [], dtype=np.float32).reshape(-1, 2)
    signs = np.array([True] * len(xy) if positive is None else positive, dtype=bool)
    return FramePrompts(xy, signs, **others)  # type: ignore[arg-type]


def channel(tokens: Tokens, name: str) -> torch.Tensor:
    return tokens.maps[:, MAP_CHANNELS.index(name)]


def test_the_maps_lie_on_the_half_grid_in_their_order() -> None:
    tokens = draw([prompts([(3, 4)]), prompts([(5, 6)])], HEIGHT, WIDTH)
    assert tokens.maps.shape == (2, 7, HEIGHT // 2, WIDTH // 2)
    assert tokens.maps.dtype == torch.float32


@given(st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1))
def test_a_disc_is_highest_at_the_half_grid_cell_of_its_click(x: int, y: int) -> None:
    disc = channel(draw([prompts([(x, y)])], HEIGHT, WIDTH), "positive")[0]
    row, col = divmod(int(disc.argmax()), WIDTH // 2)
    assert (row, col) == (y // 2, x // 2)
    assert 0.9 < float(disc.max()) <= 1


def test_discs_keep_the_sign_of_their_click() -> None:
    tokens = draw([prompts([(10, 10), (40, 30)], [True, False])], HEIGHT, WIDTH)
    positive, negative = channel(tokens, "positive")[0], channel(tokens, "negative")[0]
    assert min(positive[5, 5], negative[15, 20]) > 0.9
    assert max(positive[15, 20], negative[5, 5]) < 1e-3


def test_a_second_click_does_not_dim_the_first() -> None:
    one = channel(draw([prompts([(10, 10)])], HEIGHT, WIDTH), "positive")
    two = channel(draw([prompts([(10, 10), (13, 10)])], HEIGHT, WIDTH), "positive")
    assert (two >= one).all()
    assert float(two.max()) <= 1


@given(
    st.tuples(st.integers(0, WIDTH - 1), st.integers(0, WIDTH - 1)).map(sorted),
    st.tuples(st.integers(0, HEIGHT - 1), st.integers(0, HEIGHT - 1)).map(sorted),
)
def test_a_box_covers_what_its_pixels_cover_of_each_cell(xs: list[int], ys: list[int]) -> None:
    filled = torch.zeros(HEIGHT, WIDTH)
    filled[ys[0] : ys[1] + 1, xs[0] : xs[1] + 1] = 1
    box = np.array([xs[0], ys[0], xs[1], ys[1]], dtype=float)
    drawn = channel(draw([prompts(box_xyxy=box)], HEIGHT, WIDTH), "box")[0]
    torch.testing.assert_close(drawn, F.avg_pool2d(filled[None], 2)[0])


def test_a_box_that_leaves_the_frame_ends_at_its_border() -> None:
    box = np.array([-9.0, -9.0, 200.0, 200.0])
    drawn = channel(draw([prompts(box_xyxy=box)], HEIGHT, WIDTH), "box")[0]
    assert (drawn == 1).all()


@pytest.mark.parametrize("name", ["own", "neighbour"])
def test_priors_are_squashed_and_keep_their_sign(name: str) -> None:
    logits = torch.linspace(-20, 20, HEIGHT * WIDTH // 4).reshape(HEIGHT // 2, WIDTH // 2)
    drawn = channel(draw([prompts(**{name: logits})], HEIGHT, WIDTH), name)[0]
    torch.testing.assert_close(drawn, torch.tanh(logits / LOGIT_SCALE))
    assert float(drawn.abs().max()) <= 1


def test_what_is_not_given_is_an_empty_map() -> None:
    maps = draw([prompts([(10, 10)])], HEIGHT, WIDTH).maps[0]
    for name in set(MAP_CHANNELS) - {"positive"}:
        assert not maps[MAP_CHANNELS.index(name)].any(), name


def test_geodesic_maps_are_high_round_their_clicks_and_low_beyond_an_edge() -> None:
    image = np.zeros((HEIGHT // 4, WIDTH // 4), dtype=np.float32)
    image[:, 8:] = 1
    given_prompts = prompts([(10, 20), (50, 20)], [True, False], cost=edge_cost(image))
    tokens = draw([given_prompts], HEIGHT, WIDTH)
    positive, negative = channel(tokens, "near_positive")[0], channel(tokens, "near_negative")[0]
    assert positive[10, 5] > 0.9
    assert negative[10, 25] > 0.9
    assert positive[10, 25] < 0.3
    assert negative[10, 5] < 0.3


def test_tokens_are_padded_to_the_longest_object() -> None:
    box = np.array([2.0, 3.0, 20.0, 30.0])
    tokens = draw(
        [
            prompts([(1, 2)]),
            prompts([(5, 6), (7, 8)], [False, True], box_xyxy=box),
            prompts(own=torch.zeros(HEIGHT // 2, WIDTH // 2)),
        ],
        HEIGHT,
        WIDTH,
    )
    assert tokens.labels.tolist() == [
        [POSITIVE, PAD, PAD, PAD],
        [NEGATIVE, POSITIVE, BOX_FIRST, BOX_LAST],
        [PAD, PAD, PAD, PAD],
    ]
    assert tokens.coords_xy[1].tolist() == [[5, 6], [7, 8], [2, 3], [20, 30]]


def test_an_object_without_clicks_still_has_a_token() -> None:
    tokens = draw([prompts(own=torch.zeros(HEIGHT // 2, WIDTH // 2))], HEIGHT, WIDTH)
    assert tokens.labels.tolist() == [[PAD]]


def test_padding_draws_no_disc() -> None:
    tokens = draw([prompts([(40, 40)]), prompts([(1, 1), (2, 2)])], HEIGHT, WIDTH)
    assert float(channel(tokens, "positive")[0, 0, 0]) < 1e-3


def test_only_one_click_and_nothing_else_is_ambiguous() -> None:
    prior = torch.zeros(HEIGHT // 2, WIDTH // 2)
    assert prompts([(1, 1)]).is_single_click
    assert prompts([(1, 1)], cost=np.ones((12, 16))).is_single_click
    assert not prompts([(1, 1), (2, 2)]).is_single_click
    assert not prompts([(1, 1)], box_xyxy=np.array([0, 0, 5, 5])).is_single_click
    assert not prompts([(1, 1)], own=prior).is_single_click
    assert not prompts([(1, 1)], neighbour=prior).is_single_click
    assert not prompts().is_single_click
