"""The built-in model as a slice model: its frame, its answers, its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from protosam.errors import InvalidInput, InvalidPrompt, WeightsRefused
from protosam.models.slice_model import SlicePrompts
from protosam.models.tiny import STRIDE, TinySAM, TinySettings
from protosam.models.tiny_predictor import (
    SIDE_RANGE,
    Frame,
    TinySliceModel,
    load_tiny,
    save_tiny,
)

CPU = torch.device("cpu")
SMALL = TinySettings(stem_widths=(12, 24, 24), trunk_dim=48, trunk_depth=1, trunk_heads=2)
SHAPES = st.tuples(st.integers(1, 700), st.integers(1, 700))
SPACINGS = st.tuples(st.floats(0.05, 20), st.floats(0.05, 20))


@pytest.fixture(scope="module")
def a_model() -> TinySliceModel:
    torch.manual_seed(0)
    return TinySliceModel(TinySAM(SMALL), name="small", digest="d", device=CPU)


def a_stack(height: int = 60, width: int = 90, count: int = 1) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, height, width), dtype=np.float32)


def a_click(row: float = 30, col: float = 40) -> SlicePrompts:
    return SlicePrompts(points_rc=np.array([[row, col]]), positive=np.array([True]))


def disc(shape: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float]):
    rows, cols = np.indices(shape)
    return ((rows - centre[0]) / radii[0]) ** 2 + ((cols - centre[1]) / radii[1]) ** 2 < 1


@given(SHAPES, SPACINGS)
def test_a_frame_holds_the_slice_and_fits_the_network(
    shape: tuple[int, int], spacing: tuple[float, float]
) -> None:
    frame = Frame.of(shape, spacing)
    assert SIDE_RANGE[0] <= max(frame.inner) <= SIDE_RANGE[1]
    for inner, outer in zip(frame.inner, frame.outer, strict=True):
        assert 1 <= inner <= outer < inner + STRIDE
        assert outer % STRIDE == 0
    assert frame.side == max(frame.outer)


@given(SHAPES, SPACINGS)
def test_pixels_of_the_frame_are_square_in_mm(
    shape: tuple[int, int], spacing: tuple[float, float]
) -> None:
    frame = Frame.of(shape, spacing)
    per_mm = [n / (s * d) for n, s, d in zip(frame.inner, shape, spacing, strict=True)]
    # Half a pixel of rounding on each side is all that they may differ by.
    slack = sum(0.5 / (s * d) for s, d in zip(shape, spacing, strict=True))
    assert min(frame.inner) == 1 or abs(per_mm[0] - per_mm[1]) <= slack * 1.001


@pytest.mark.parametrize(("side", "framed"), [(35, 128), (90, 180), (256, 256), (900, 256)])
def test_small_slices_are_magnified_and_large_ones_shrunk(side: int, framed: int) -> None:
    assert Frame.of((side, side // 2), (0.7, 0.7)).inner == (
        framed,
        round(framed / side * (side // 2)),
    )


@given(SHAPES, SPACINGS, st.data())
def test_a_click_on_a_voxel_lands_in_the_area_of_that_voxel(
    shape: tuple[int, int], spacing: tuple[float, float], data: st.DataObject
) -> None:
    frame = Frame.of(shape, spacing)
    row = data.draw(st.integers(0, shape[0] - 1))
    col = data.draw(st.integers(0, shape[1] - 1))
    x, y = (float(v) for v in frame.to_xy([(row, col)])[0])
    for found, index, inner, length in (
        (x, col, frame.inner[1], shape[1]),
        (y, row, frame.inner[0], shape[0]),
    ):
        size = inner / length  # frame pixels of one voxel; the frame begins at -0.5
        assert index * size - 1e-3 <= found + 0.5 <= (index + 1) * size + 1e-3
        assert found + 0.5 == pytest.approx((index + 0.5) * size, abs=1e-3)


def test_a_voxel_is_where_its_click_is_drawn() -> None:
    frame = Frame.of((40, 50), (1.0, 1.0))
    image = torch.zeros(1, 1, 40, 50)
    image[0, 0, 13, 31] = 1
    placed = frame.put(image)[0, 0]
    row, col = divmod(int(placed.argmax()), placed.shape[1])
    x, y = frame.to_xy([(13, 31)])[0]
    assert abs(x - col) <= 0.5 * frame.inner[1] / 50
    assert abs(y - row) <= 0.5 * frame.inner[0] / 40


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((256, 256), (1.0, 1.0)),
        ((512, 512), (0.7, 0.7)),
        ((64, 64), (1.0, 1.0)),
        ((30, 200), (5.0, 0.8)),
        ((200, 90), (0.6, 2.5)),
        ((35, 51), (1.0, 1.0)),
    ],
)
def test_a_mask_survives_the_way_into_the_frame_and_back(
    shape: tuple[int, int], spacing: tuple[float, float]
) -> None:
    mask = disc(shape, (shape[0] * 0.45, shape[1] * 0.55), (shape[0] * 0.3, shape[1] * 0.25))
    frame = Frame.of(shape, spacing)
    logits = torch.from_numpy(np.where(mask, 6.0, -6.0).astype(np.float32))[None, None]
    half = torch.nn.functional.avg_pool2d(frame.put(logits), 2)[:, 0]
    found = frame.take(half)[0].numpy() > 0
    assert found.shape == shape
    assert (found & mask).sum() / (found | mask).sum() > 0.95


def test_an_answer_is_on_the_grid_of_the_image(a_model: TinySliceModel) -> None:
    (embedding,) = a_model.embed(a_stack(), (1.0, 1.0))
    answer = a_model.predict(embedding, a_click())
    assert answer.logits.shape == (60, 90)
    assert answer.logits.dtype == np.float32
    assert np.isfinite(answer.logits).all()
    assert 0 <= answer.score <= 1
    assert 0 <= answer.presence <= 1


@pytest.mark.parametrize(
    "prompts",
    [
        SlicePrompts(box_rc=np.array([10.0, 20.0, 40.0, 60.0])),
        SlicePrompts(prior_logits=np.ones((60, 90), dtype=np.float32)),
        SlicePrompts(neighbour_logits=np.ones((60, 90), dtype=np.float32)),
    ],
    ids=["box", "prior", "neighbour"],
)
def test_a_box_or_a_prior_alone_is_enough(a_model: TinySliceModel, prompts: SlicePrompts) -> None:
    (embedding,) = a_model.embed(a_stack(), (1.0, 1.0))
    with_click = a_model.predict(embedding, a_click()).logits
    alone = a_model.predict(embedding, prompts).logits
    assert alone.shape == (60, 90)
    assert not np.array_equal(alone, with_click)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (700, 3)])
def test_the_thinnest_slices_have_an_answer(
    a_model: TinySliceModel, height: int, width: int
) -> None:
    (embedding,) = a_model.embed(a_stack(height, width), (1.0, 1.0))
    assert a_model.predict(embedding, a_click(0, 0)).logits.shape == (height, width)


def test_slices_of_a_batch_have_an_embedding_each(a_model: TinySliceModel) -> None:
    stacks = a_stack(count=3)
    together = a_model.embed(stacks, (1.0, 1.0))
    alone = a_model.embed(stacks[1:2], (1.0, 1.0))
    assert len(together) == 3
    assert together[0].nbytes == alone[0].nbytes > 0
    np.testing.assert_allclose(
        a_model.predict(together[1], a_click()).logits,
        a_model.predict(alone[0], a_click()).logits,
        atol=0.05,
    )


def test_a_packed_embedding_gives_the_same_answer(a_model: TinySliceModel) -> None:
    (embedding,) = a_model.embed(a_stack(), (1.0, 2.0))
    again = a_model.unpack(a_model.pack(embedding))
    np.testing.assert_array_equal(
        a_model.predict(again, a_click()).logits, a_model.predict(embedding, a_click()).logits
    )


def test_tensors_of_something_else_are_not_unpacked(a_model: TinySliceModel) -> None:
    with pytest.raises(InvalidInput, match="no embedding of small"):
        a_model.unpack({"features": torch.zeros(3)})


@pytest.mark.parametrize("shape", [(3, 20, 20), (1, 1, 20, 20), (1, 3, 0, 20)])
def test_images_of_another_shape_are_refused(
    a_model: TinySliceModel, shape: tuple[int, ...]
) -> None:
    with pytest.raises(InvalidInput, match="wants images of shape"):
        a_model.embed(np.zeros(shape, dtype=np.float32), (1.0, 1.0))


def test_no_prompt_at_all_is_refused(a_model: TinySliceModel) -> None:
    (embedding,) = a_model.embed(a_stack(), (1.0, 1.0))
    with pytest.raises(InvalidPrompt, match="no click, box or prior"):
        a_model.predict(embedding, SlicePrompts())


def test_an_embedding_of_another_type_is_refused(a_model: TinySliceModel) -> None:
    class Foreign:
        nbytes = 0

    with pytest.raises(InvalidInput, match="embedding of type Foreign"):
        a_model.predict(Foreign(), a_click())


def test_the_identity_tells_the_precision(a_model: TinySliceModel) -> None:
    assert a_model.digest in {"d-bf16", "d-fp32"}


def test_weights_survive_saving_and_loading(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = TinySAM(SMALL)
    save_tiny(network, tmp_path / "a.safetensors", {"steps": "7"})
    loaded = load_tiny(tmp_path / "a.safetensors", digest="e", device=CPU)
    assert loaded.network.settings == SMALL
    assert loaded.name == "a"
    for key, value in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[key], value.half().float()), key
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata()["family"] == "tiny"
        assert file.metadata()["steps"] == "7"


def test_saving_what_was_loaded_gives_the_same_file(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_tiny(TinySAM(SMALL), first, {"steps": "7"})
    save_tiny(load_tiny(first, digest="e", device=CPU).network, second, {"steps": "7"})
    before, after = load_file(first), load_file(second)
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


@pytest.mark.parametrize("damage", ["truncated", "no settings", "missing tensor", "not a file"])
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.safetensors"
    save_tiny(TinySAM(SMALL), path, {})
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "no settings":
        save_file(tensors, path, metadata={"family": "tiny"})
    elif damage == "missing tensor":
        tensors.popitem()
        save_file(tensors, path, metadata=metadata)
    else:
        path.unlink()
    with pytest.raises(WeightsRefused, match="does not hold the built-in network"):
        load_tiny(path, digest="e", device=CPU)
