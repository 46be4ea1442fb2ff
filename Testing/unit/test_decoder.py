"""The 2-D decoder: its shapes, its size, and that it changes nothing before it is trained."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protosam.models.decoder import DECODER_CHANNELS, STRIDE, DecoderSettings, SliceDecoder

SIDES = st.integers(1, 6).map(lambda n: n * STRIDE)


def maps_of(rows: int, cols: int, count: int = 1) -> torch.Tensor:
    random = torch.Generator().manual_seed(rows + cols)
    return torch.randn(count, len(DECODER_CHANNELS), rows, cols, generator=random)


def small_decoder() -> SliceDecoder:
    torch.manual_seed(0)
    return SliceDecoder(DecoderSettings((4, 8, 8, 8))).eval()


def with_a_last_layer(decoder: SliceDecoder) -> SliceDecoder:
    torch.nn.init.normal_(decoder.last.weight)
    return decoder


@settings(deadline=None, max_examples=15)
@given(SIDES, SIDES)
def test_an_untrained_decoder_corrects_nothing_on_any_grid(rows: int, cols: int) -> None:
    change = small_decoder()(maps_of(rows, cols))
    assert change.shape == (1, 1, rows, cols)
    assert torch.equal(change, torch.zeros_like(change))


def test_the_first_gradient_reaches_the_last_layer_alone_and_the_next_one_all() -> None:
    decoder = small_decoder()
    decoder(maps_of(16, 16)).mean().backward()
    assert decoder.last.weight.grad is not None
    assert float(decoder.last.weight.grad.abs().max()) > 0
    decoder = with_a_last_layer(small_decoder())
    decoder(maps_of(16, 16)).square().mean().backward()
    silent = [n for n, p in decoder.named_parameters() if not float(p.grad.abs().max()) > 0]
    assert silent == []


def test_every_input_map_can_change_the_correction() -> None:
    decoder = with_a_last_layer(small_decoder())
    maps = maps_of(16, 24).requires_grad_(True)
    decoder(maps).square().sum().backward()
    assert (maps.grad.abs().amax(dim=(0, 2, 3)) > 0).all()


def test_slices_of_a_batch_do_not_touch_each_other() -> None:
    decoder = with_a_last_layer(small_decoder())
    maps = maps_of(16, 16, count=3)
    together = decoder(maps)
    alone = torch.cat([decoder(one[None]) for one in maps])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_the_whole_grid_is_seen_from_every_pixel_of_it() -> None:
    """The coarsest scale and the norms carry what a click says to the far side."""
    decoder = with_a_last_layer(small_decoder())
    maps = maps_of(64, 64)
    moved = maps.clone()
    moved[0, DECODER_CHANNELS.index("positive_near"), :4, :4] += 3
    with torch.inference_mode():
        apart = (decoder(maps) - decoder(moved)).abs()[0, 0]
    assert float(apart[-8:, -8:].max()) > 0


def test_the_shipped_widths_fit_a_megabyte_and_a_half_in_half_precision() -> None:
    count = sum(p.numel() for p in SliceDecoder().parameters())
    assert 2 * count < 1.5e6


def test_a_grid_that_the_stride_does_not_divide_is_refused_by_the_network() -> None:
    with pytest.raises(RuntimeError):
        small_decoder()(maps_of(20, 16))
