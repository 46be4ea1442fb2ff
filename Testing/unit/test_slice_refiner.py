"""The 2-D decoder at work: its maps, its place after a backbone's answers, its file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from protosam.errors import ModelUnavailable, WeightsRefused
from protosam.geometry import Volume
from protosam.intensity import Window
from protosam.models import corrector_file, slice_refiner
from protosam.models.decoder import DECODER_CHANNELS, STRIDE, DecoderSettings, SliceDecoder
from protosam.models.decoder_maps import (
    LONGEST,
    SliceEvidence,
    SliceGrid,
    decoder_maps,
    membership_of,
    resampled,
)
from protosam.models.embeddings import Embedder, EmbeddingCache
from protosam.models.planes import Patch, Planes, Rect
from protosam.models.slice_model import SlicePrompts
from protosam.models.slice_refiner import (
    SeenSlice,
    SliceRefiner,
    builtin_slice_refiner,
    load_slice_refiner,
    save_decoder,
)
from protosam.models.slice_solver import MAX_SHOWN, SliceInput, SliceSolver
from protosam.models.tiny import TinySAM, TinySettings
from protosam.models.tiny_predictor import TinySliceModel
from protosam.models.token_grid import NeckTokens

CPU = torch.device("cpu")
SMALL = TinySettings(stem_widths=(12, 24, 24), trunk_dim=48, trunk_depth=1, trunk_heads=2)
SHAPES = st.tuples(st.integers(1, 300), st.integers(1, 300))
SPACINGS = st.tuples(st.floats(0.2, 6), st.floats(0.2, 6))


def a_decoder(*, trained: bool) -> SliceDecoder:
    torch.manual_seed(1)
    decoder = SliceDecoder(DecoderSettings((4, 8, 8, 8)))
    if trained:
        torch.nn.init.normal_(decoder.last.weight)
    return decoder


def a_refiner(*, trained: bool = True) -> SliceRefiner:
    return SliceRefiner(a_decoder(trained=trained), digest="d", device=CPU)


def noise(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def evidence_of(
    shape: tuple[int, int] = (40, 56), spacing: tuple[float, float] = (1.0, 1.0)
) -> SliceEvidence:
    return SliceEvidence(8 * noise(shape) - 4, 4 * noise(shape, 1) - 2, noise(shape, 2), spacing)


def clicks(*places: tuple[float, float], negative: int = 0) -> SlicePrompts:
    """Clicks of which the last `negative` ones are negative."""
    positive = np.arange(len(places)) < len(places) - negative
    return SlicePrompts(np.array(places, dtype=float).reshape(-1, 2), positive)


def channel(maps: torch.Tensor, name: str) -> np.ndarray:
    return maps[0, DECODER_CHANNELS.index(name)].numpy()


def planes_of(shape: tuple[int, int, int] = (5, 48, 60)) -> Planes:
    """A bright disc of radius 9 round (24, 30) in every slice, and some noise."""
    j, i = np.ogrid[: shape[1], : shape[2]]
    disc = (j - 24) ** 2 + (i - 30) ** 2 <= 81
    voxels = 0.6 * disc + 0.2 * np.random.default_rng(0).random(shape)
    return Planes(Volume(voxels.astype(np.float32), np.eye(4), "disc"), 0, Window(0, 1))


@pytest.fixture(scope="module")
def a_model() -> TinySliceModel:
    torch.manual_seed(0)
    return TinySliceModel(TinySAM(SMALL), name="small", digest="d", device=CPU)


class Listener:
    """Keeps what it is shown and adds a constant."""

    def __init__(self, added: float = 0.0) -> None:
        self.added = added
        self.seen: list[SeenSlice] = []

    def corrected(self, seen: SeenSlice) -> Patch:
        self.seen.append(seen)
        return Patch(seen.patch.rect, seen.patch.logits + np.float32(self.added))


def solver_of(model, planes: Planes, refiner=None) -> SliceSolver:
    return SliceSolver(model, planes, Embedder(model, planes, EmbeddingCache()), refiner=refiner)


def given_clicks(*places: tuple[float, float], negative: int = 0) -> SliceInput:
    prompts = clicks(*places, negative=negative)
    return SliceInput(prompts.points_rc, prompts.positive)


# The maps


@given(SHAPES, SPACINGS)
def test_a_grid_fits_the_network_and_is_nearly_square_in_mm(
    shape: tuple[int, int], spacing: tuple[float, float]
) -> None:
    grid = SliceGrid.over(shape, spacing)
    assert all(n % STRIDE == 0 and STRIDE <= n <= LONGEST for n in grid.shape)
    sides_mm = np.multiply(shape, spacing)
    pixel = sides_mm.max() / max(grid.shape)
    rows, cols = grid.shape
    for side, count in zip(sides_mm, (rows, cols), strict=True):
        assert count * pixel <= side + 2 * STRIDE * pixel


@given(SHAPES, SPACINGS)
def test_the_corners_of_a_rectangle_are_the_corners_of_its_grid(
    shape: tuple[int, int], spacing: tuple[float, float]
) -> None:
    grid = SliceGrid.over(shape, spacing)
    corners = grid.place([[-0.5, -0.5], [shape[0] - 0.5, shape[1] - 0.5]])
    np.testing.assert_allclose(corners[0], [-0.5, -0.5], atol=1e-9)
    np.testing.assert_allclose(corners[1], np.subtract(grid.shape, 0.5), atol=1e-6)


def test_the_maps_are_finite_bounded_and_as_many_as_the_network_wants() -> None:
    wild = replace(evidence_of(), answer=np.full((40, 56), 1e4, dtype=np.float32))
    maps = decoder_maps(wild, clicks((3, 4), (30, 50), negative=1))
    assert maps.shape[1] == len(DECODER_CHANNELS)
    assert torch.isfinite(maps).all()
    assert float(maps[:, : DECODER_CHANNELS.index("pixel")].abs().max()) <= 1


@settings(deadline=None, max_examples=25)
@given(st.floats(0, 39), st.floats(0, 55), st.booleans())
def test_a_click_is_drawn_where_it_was_made_and_on_its_side_only(
    row: float, col: float, positive: bool
) -> None:
    maps = decoder_maps(evidence_of(), clicks((row, col), negative=0 if positive else 1))
    sign, other = ("positive", "negative") if positive else ("negative", "positive")
    near = channel(maps, f"{sign}_near")
    peak = np.unravel_index(int(near.argmax()), near.shape)
    placed = SliceGrid.over((40, 56), (1.0, 1.0)).place([row, col])
    assert np.abs(np.subtract(peak, placed)).max() <= 0.5 + 1e-6
    assert (channel(maps, f"{sign}_far") >= near - 1e-6).all()
    assert not channel(maps, f"{other}_near").any()


def test_a_click_is_as_wide_in_mm_whatever_the_pixels() -> None:
    """Rows are twice as thick: half as many of them are as bright."""
    maps = decoder_maps(evidence_of((30, 60), (2.0, 1.0)), clicks((15, 30)))
    near = channel(maps, "positive_near") > 0.5
    grid = SliceGrid.over((30, 60), (2.0, 1.0))
    seen = (near.any(axis=1).sum(), near.any(axis=0).sum())
    high, wide = (n * mm for n, mm in zip(seen, grid.pixel_rc_mm, strict=True))
    assert high == pytest.approx(wide, abs=2 * max(grid.pixel_rc_mm))


def test_a_box_is_drawn_to_its_outer_edges_and_no_box_is_dark() -> None:
    boxed = SlicePrompts(box_rc=np.array([10.0, 20.0, 19.0, 39.0]))
    area = float(channel(decoder_maps(evidence_of((48, 48)), boxed), "box").sum())
    grid = SliceGrid.over((48, 48), (1.0, 1.0))
    assert area == pytest.approx(10 * 20 * np.prod(grid.shape) / 48**2, rel=1e-5)
    assert not channel(decoder_maps(evidence_of(), clicks((1, 1))), "box").any()


def test_the_tone_does_not_change_when_the_intensities_are_scaled_and_shifted() -> None:
    evidence = evidence_of()
    other = replace(evidence, grey=(0.5 * evidence.grey + 0.2).astype(np.float32))
    tones = [channel(decoder_maps(e, clicks((1, 1))), "tone") for e in (evidence, other)]
    np.testing.assert_allclose(tones[0], tones[1], atol=1e-4)


def test_an_empty_answer_has_no_tone() -> None:
    empty = replace(evidence_of(), answer=np.full((40, 56), -8, dtype=np.float32))
    assert not channel(decoder_maps(empty, clicks((1, 1))), "tone").any()


def test_resampling_keeps_a_constant_and_averages_what_shrinks() -> None:
    flat = torch.full((1, 1, 17, 90), 3.0)
    assert torch.allclose(resampled(flat, (96, 24)), torch.tensor(3.0))
    ramp = torch.arange(8.0).repeat(4, 1)[None, None]
    assert resampled(ramp, (4, 4))[0, 0, 0].tolist() == [0.5, 2.5, 4.5, 6.5]


# The bank


def tokens_of(mask: np.ndarray, seed: int = 0) -> NeckTokens:
    """A token for each pixel: one direction inside, another outside, and some noise."""
    random = np.random.default_rng(seed)
    kinds = np.where(mask[None], np.eye(8)[0][:, None, None], np.eye(8)[1][:, None, None])
    tokens = torch.from_numpy((kinds + 0.05 * random.normal(size=kinds.shape)).astype(np.float32))
    return NeckTokens(tokens, mask.shape, mask.shape, 1)


def test_the_bank_tells_the_object_by_its_looks_where_the_answer_missed_half_of_it() -> None:
    truth = np.zeros((16, 16), dtype=bool)
    truth[4:12, 4:12] = True
    answer = truth.copy()
    answer[:, 9:] = False
    answer[4:12, 9:12] = False
    odds = membership_of([(tokens_of(truth), answer)], truth.shape)
    assert odds[answer].min() > 0 > odds[~truth].max()
    other = truth[:, ::-1] & np.roll(truth, 1, axis=1)
    helped = membership_of([(tokens_of(truth), answer), (tokens_of(other, 1), other)], truth.shape)
    assert helped[truth & ~answer].mean() > odds[truth & ~answer].mean()


def test_without_tokens_or_without_an_object_nothing_is_known() -> None:
    empty = np.zeros((16, 16), dtype=bool)
    assert not membership_of([], (5, 7)).any()
    assert membership_of([], (5, 7)).shape == (5, 7)
    assert not membership_of([(tokens_of(empty), empty)], (16, 16)).any()


# After a backbone


def test_an_untrained_decoder_leaves_a_backbone_s_answers_bit_for_bit(a_model) -> None:
    planes = planes_of()
    plain, refined = (
        solver_of(a_model, planes),
        solver_of(a_model, planes, a_refiner(trained=False)),
    )
    given = given_clicks((24, 30), (20, 33), (3, 3), negative=1)
    pairs = [(plain.start(2, given), refined.start(2, given))]
    pairs.append(tuple(s.mend(2, given, pairs[0][0]) for s in (plain, refined)))
    pairs.append(tuple(s.follow(3, given, pairs[0][0]) for s in (plain, refined)))
    for bare, corrected in pairs:
        assert corrected.patch.rect == bare.patch.rect
        assert corrected.patch.logits.tobytes() == bare.patch.logits.tobytes()
        assert (corrected.score, corrected.presence) == (bare.score, bare.presence)


def test_a_trained_decoder_changes_the_answer_the_same_way_each_time(a_model) -> None:
    planes, given = planes_of(), given_clicks((24, 30))
    bare = solver_of(a_model, planes).start(2, given).patch.logits
    found = [solver_of(a_model, planes, a_refiner()).start(2, given).patch.logits for _ in range(2)]
    assert np.abs(found[0] - bare).max() > 0
    assert found[0].tobytes() == found[1].tobytes()


def test_only_slices_with_prompts_are_corrected(region_model) -> None:
    listener, planes = Listener(), planes_of()
    solver = solver_of(region_model(), planes, listener)
    first = solver.start(2, given_clicks((24, 30)))
    solver.follow(3, SliceInput(), first)
    assert len(listener.seen) == 1
    solver.follow(3, given_clicks((24, 31)), first)
    solver.mend(2, given_clicks((24, 30), (22, 30)), first)
    assert [len(seen.prompts.points_rc) for seen in listener.seen] == [1, 1, 2]


def test_a_correction_is_what_the_next_question_starts_from(region_model) -> None:
    model, planes = region_model(), planes_of()
    solver = solver_of(model, planes, Listener(added=0.25))
    first = solver.start(2, given_clicks((24, 30)))
    solver.mend(2, given_clicks((24, 30), (22, 30)), first)
    assert set(np.unique(np.abs(model.asked[-1].prior_logits) % 1)) <= {0.25, 0.75}


def test_what_is_shown_lies_in_the_patch(region_model) -> None:
    listener, planes = Listener(), planes_of((5, 128, 140))
    solved = solver_of(region_model(), planes, listener).start(2, given_clicks((24, 30)))
    seen, rect = listener.seen[0], solved.patch.rect
    assert rect != planes.whole
    np.testing.assert_array_equal(seen.prompts.points_rc, [[24 - rect.top, 30 - rect.left]])
    np.testing.assert_array_equal(seen.grey, planes.stack(2, rect, 0)[0])
    assert seen.shown == []  # the stand-in has no tokens


def test_the_bank_gets_this_slice_first_and_then_the_latest_others(a_model) -> None:
    listener, planes = Listener(added=-50.0), planes_of((8, 48, 60))
    solver = solver_of(a_model, planes, listener)
    for index in range(6):
        solver.start(index, given_clicks((24, 30)))
    solver.start(5, given_clicks((24, 30)))
    counts = [len(seen.shown) for seen in listener.seen]
    assert counts == [min(1 + n, 1 + MAX_SHOWN) for n in range(6)] + [1 + MAX_SHOWN]
    own, *others = listener.seen[-1].shown
    assert own[1].any()  # the backbone's answer, not the corrected one of last time
    assert not any(mask.any() for _, mask in others)  # the corrected ones


def test_negative_clicks_alone_are_not_made_an_object(a_model) -> None:
    listener = Listener()
    solved = solver_of(a_model, planes_of(), listener).start(2, given_clicks((24, 30), negative=1))
    assert listener.seen == []
    assert solved.patch.area == 0


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 150), st.integers(1, 150))
def test_a_patch_of_any_shape_keeps_its_rectangle(rows: int, cols: int) -> None:
    rect = Rect(3, 3 + rows, 5, 5 + cols)
    seen = SeenSlice(
        Patch(rect, 8 * noise(rect.shape) - 4), clicks((0, 0)), noise(rect.shape), (0.7, 3.0)
    )
    corrected = a_refiner().corrected(seen)
    assert corrected.rect == rect
    assert corrected.logits.shape == rect.shape
    assert corrected.logits.dtype == np.float32
    assert np.isfinite(corrected.logits).all()


# The file


@pytest.fixture
def a_file(tmp_path: Path) -> Path:
    path = tmp_path / "decoder.safetensors"
    save_decoder(a_decoder(trained=True).half().float(), path, {"steps": "3"})
    return path


def test_a_saved_decoder_answers_as_before(a_file: Path) -> None:
    seen = SeenSlice(
        Patch(Rect(0, 40, 0, 40), noise((40, 40))), clicks((20, 20)), noise((40, 40)), (1.0, 1.0)
    )
    kept = SliceRefiner(a_decoder(trained=True).half().float(), digest="", device=CPU)
    read = load_slice_refiner(a_file, sha256=None, device=CPU)
    np.testing.assert_array_equal(kept.corrected(seen).logits, read.corrected(seen).logits)
    assert len(read.digest) == 64
    assert load_slice_refiner(a_file, sha256=read.digest, device=CPU).digest == read.digest


def test_a_file_with_another_digest_is_refused(a_file: Path) -> None:
    with pytest.raises(WeightsRefused, match=r"has the digest .* wanted is 00000"):
        load_slice_refiner(a_file, sha256="0" * 64, device=CPU)


@pytest.mark.parametrize("damage", ["cut", "missing", "other family", "no settings", "layer gone"])
def test_a_damaged_file_is_refused_with_the_next_step(a_file: Path, damage: str) -> None:
    tensors = load_file(a_file)
    header = {"family": slice_refiner.FAMILY, "settings": json.dumps({"widths": [4, 8, 8, 8]})}
    if damage == "cut":
        a_file.write_bytes(a_file.read_bytes()[:500])
    elif damage == "missing":
        a_file.unlink()
    elif damage == "other family":
        save_file(tensors, a_file, metadata=header | {"family": "volume-head"})
    elif damage == "no settings":
        save_file(tensors, a_file, metadata={"family": slice_refiner.FAMILY})
    else:
        del tensors["last.weight"]
        save_file(tensors, a_file, metadata=header)
    with pytest.raises(WeightsRefused) as refused:
        load_slice_refiner(a_file, sha256=None, device=CPU)
    assert "Install the package again" in str(refused.value)


def test_a_package_without_the_decoder_says_so(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corrector_file, "builtin_folder", lambda: tmp_path)
    with pytest.raises(ModelUnavailable, match="lacks its 2-D decoder"):
        builtin_slice_refiner(CPU)
