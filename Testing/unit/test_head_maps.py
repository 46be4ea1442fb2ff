"""The 3-D head's grid, its input, and its correction of an answer."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protosam.errors import WeightsRefused
from protosam.extents import Extent
from protosam.geometry import Volume
from protosam.intensity import Window
from protosam.models.head_maps import (
    LONGEST,
    HeadGrid,
    box_of,
    evidence_in,
    head_maps,
    resampled,
)
from protosam.models.refiner import Refiner, load_refiner, save_head
from protosam.models.views import SURE, Field, fused
from protosam.models.volume_head import HEAD_CHANNELS, STRIDE, HeadSettings, VolumeHead
from protosam.prompts import Point

WINDOW = Window(0.0, 1.0)
CPU = torch.device("cpu")


def a_volume(shape: tuple[int, int, int] = (20, 40, 40)) -> Volume:
    voxels = np.random.default_rng(0).random(shape).astype(np.float32)
    return Volume(voxels, np.diag([1.0, 1.0, 2.5, 1.0]), "noise")


def an_answer(extent: Extent, logit: float = 2.0, weight: float = 1.0) -> Field:
    return Field(extent, np.full(extent.shape_kji, logit, dtype=np.float32), weight)


def a_click(*place: float, positive: bool = True) -> Point:
    k, j, i = place
    return Point((k, j, i), positive, f"click-{place}")


def small_head(seed: int = 0) -> VolumeHead:
    torch.manual_seed(seed)
    return VolumeHead(HeadSettings((4, 8, 8, 8)))


def trained_head(seed: int = 0) -> VolumeHead:
    """As if it had been trained: its last layer is not zero."""
    head = small_head(seed)
    torch.nn.init.normal_(head.last[-1].weight)
    return head


sides = st.integers(1, 300)
spacings = st.floats(0.2, 8.0)


@given(shape=st.tuples(sides, sides, sides), spacing=st.tuples(spacings, spacings, spacings))
def test_a_grid_has_sides_that_the_head_can_halve_and_nearly_cubic_voxels(shape, spacing) -> None:
    grid = HeadGrid.over(Extent((3, 4, 5), (3 + shape[0], 4 + shape[1], 5 + shape[2])), spacing)

    assert all(n % STRIDE == 0 and STRIDE <= n <= LONGEST for n in grid.shape)
    long = [mm for mm, n in zip(grid.voxel_kji_mm, grid.shape, strict=True) if n > 2 * STRIDE]
    assert not long or max(long) / min(long) < 1.6


@given(place=st.tuples(*[st.floats(0, 1)] * 3))
def test_a_click_keeps_its_place_in_the_box(place) -> None:
    extent = Extent((2, 7, 11), (18, 47, 31))
    grid = HeadGrid.over(extent, (2.5, 1.0, 1.0))
    inside = np.array(place) * np.array(extent.shape_kji) - 0.5
    placed = grid.place(inside + np.array(extent.start_kji))
    back = (placed + 0.5) / np.array(grid.shape)

    np.testing.assert_allclose(back, place, atol=1e-9)


def test_the_box_holds_the_answer_and_the_clicks_with_room() -> None:
    volume, click = a_volume(), a_click(3, 36, 36)
    box = box_of(volume, an_answer(Extent((8, 10, 10), (12, 20, 20))), [click])

    assert box is not None
    assert box.start_kji == (0, 0, 0) and box.stop_kji == (16, 40, 40)


def test_where_nothing_may_belong_to_the_object_and_nothing_was_clicked_there_is_no_box() -> None:
    assert box_of(a_volume(), an_answer(Extent((8, 10, 10), (12, 20, 20)), -SURE), []) is None


def test_the_maps_show_what_is_known_where_it_lies() -> None:
    volume = a_volume()
    extent = Extent((4, 8, 8), (12, 24, 24))
    one, other = an_answer(extent, SURE), an_answer(extent, -SURE)
    box = Extent((0, 0, 0), volume.shape_kji)
    evidence = evidence_in(box, volume, [one, other], an_answer(extent, 1.0), WINDOW)
    grid = HeadGrid.over(box, volume.spacing_kji_mm)
    clicks = [a_click(8, 16, 16), a_click(2, 30, 30, positive=False)]
    maps = dict(zip(HEAD_CHANNELS, head_maps(evidence, grid, clicks)[0].numpy(), strict=True))

    middle = tuple(np.round(grid.place((8, 15, 15))).astype(int))
    corner = (0, 0, 0)
    assert maps["answer"][middle] == pytest.approx(0) and maps["answer"][corner] == -1
    assert maps["doubt"][middle] == pytest.approx(1) and maps["doubt"][corner] == 0
    assert maps["membership"][middle] == pytest.approx(1 / SURE)
    assert maps["membership"][corner] == 0
    for name, click in (("positive_near", clicks[0]), ("negative_far", clicks[1])):
        peak = np.unravel_index(int(maps[name].argmax()), grid.shape)
        assert np.abs(np.array(peak) - grid.place(click.point_kji)).max() <= 1
    assert (maps["positive_far"] >= maps["positive_near"]).all()
    assert (maps["voxel"] == np.float32(math.log(np.mean(grid.voxel_kji_mm)))).all()


def test_maps_brought_to_another_grid_keep_their_mean() -> None:
    maps = torch.rand(1, 2, 12, 30, 16)

    for shape in ((8, 16, 24), (24, 64, 8), (12, 30, 16)):
        out = resampled(maps, shape)
        assert tuple(out.shape[2:]) == shape
        assert out.mean().item() == pytest.approx(maps.mean().item(), abs=0.03)
    assert torch.equal(resampled(maps, (12, 30, 16)), maps)


def test_an_untrained_head_leaves_the_answer_as_it_is_bit_for_bit() -> None:
    volume, extent = a_volume(), Extent((4, 8, 8), (12, 24, 24))
    random = np.random.default_rng(1)
    logits = random.uniform(-SURE, SURE, extent.shape_kji).astype(np.float32)
    views = [Field(extent, logits), Field(extent, logits[::-1].copy(), 0.7)]
    refiner = Refiner(small_head(), digest="untrained", device=CPU)
    refined = refiner.refined(volume, views, None, [a_click(8, 16, 16)], WINDOW)

    np.testing.assert_array_equal(refined.on(extent), fused(views).logits)
    beyond = refined.logits.copy()
    beyond[extent.relative_to(refined.extent).slices] = -SURE
    assert (beyond == -SURE).all()


def test_a_trained_head_changes_the_answer_and_repeats_itself() -> None:
    volume, extent = a_volume(), Extent((4, 8, 8), (12, 24, 24))
    refiner = Refiner(trained_head(), digest="x", device=CPU)
    views, click = [an_answer(extent)], a_click(8, 16, 16)
    one = refiner.refined(volume, views, None, [click], WINDOW)
    other = refiner.refined(volume, views, None, [click], WINDOW)

    assert not np.array_equal(one.on(extent), views[0].logits)
    np.testing.assert_array_equal(one.logits, other.logits)
    assert np.abs(one.logits).max() <= SURE


@settings(max_examples=10, deadline=None)
@given(offset=st.tuples(*[st.integers(0, 6)] * 3))
def test_the_correction_moves_with_the_object(offset) -> None:
    shape = np.array((28, 46, 46))
    inner = np.random.default_rng(2).random((16, 32, 32)).astype(np.float32)
    refiner = Refiner(trained_head(), digest="x", device=CPU)

    def answered(start: tuple[int, ...]) -> np.ndarray:
        voxels = np.zeros(shape, dtype=np.float32)
        place = tuple(slice(a, a + n) for a, n in zip(start, inner.shape, strict=True))
        voxels[place] = inner
        volume = Volume(voxels, np.eye(4), "moved")
        middle = np.add(start, (8, 16, 16))
        extent = Extent(tuple(int(n) for n in middle - 2), tuple(int(n) for n in middle + 2))
        click = a_click(*(float(n) for n in middle))
        return refiner.refined(volume, [an_answer(extent)], None, [click], WINDOW).on(extent)

    start = (6, 7, 7)
    moved = tuple(int(a + b) for a, b in zip(start, np.array(offset) - 3, strict=True))
    # The margin reaches into what lies round the picture, which is dark on all sides.
    if all(a >= 10 - 8 for a in moved):
        one, other = answered(start), answered(moved)
        assert one.shape == other.shape


def test_a_head_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    head = trained_head().half().float()
    path = tmp_path / "head.safetensors"
    save_head(head, path, {"steps": "3"})
    volume, extent = a_volume(), Extent((4, 8, 8), (12, 24, 24))
    views, click = [an_answer(extent)], a_click(8, 16, 16)
    loaded = load_refiner(path, sha256=None, device=CPU)
    kept = Refiner(head, digest="x", device=CPU)

    np.testing.assert_array_equal(
        loaded.refined(volume, views, None, [click], WINDOW).logits,
        kept.refined(volume, views, None, [click], WINDOW).logits,
    )


def test_files_that_are_no_head_are_refused_with_the_next_step(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    with pytest.raises(WeightsRefused, match="does not hold the 3-D head"):
        load_refiner(path, sha256=None, device=CPU)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(WeightsRefused, match="train-head"):
        load_refiner(path, sha256=None, device=CPU)
    save_head(small_head(), path, {})
    with pytest.raises(WeightsRefused, match="digest"):
        load_refiner(path, sha256="0" * 64, device=CPU)
    save_head(small_head(), path, {"family": "something else"})
    with pytest.raises(WeightsRefused, match="no 3-D head"):
        load_refiner(path, sha256=None, device=CPU)
    save_head(small_head(), path, {"settings": json.dumps({"widths": [4, 8, 8, 16]})})
    with pytest.raises(WeightsRefused):
        load_refiner(path, sha256=None, device=CPU)
