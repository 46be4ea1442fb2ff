"""The 2-D decoder's training: what is collected, how it is varied, and that runs repeat."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from protosam.errors import InvalidInput
from protosam.geometry import Volume
from protosam.learn.decoder_cases import (
    CLICKS,
    PROCEDURAL,
    CaseName,
    DecoderCase,
    cases_to_play,
    held_out_cases,
    played_slices,
    read_case,
)
from protosam.learn.decoder_collection import CollectSettings, collect, load_cases, save_cases
from protosam.learn.decoder_samples import mirrored, sample_of, squared, turned, varied
from protosam.learn.train_decoder import (
    TrainDecoderSettings,
    gain_on,
    train_decoder,
)
from protosam.models.decoder import DECODER_CHANNELS, SliceDecoder
from protosam.models.decoder_maps import SliceEvidence, decoder_maps
from protosam.models.planes import Patch
from protosam.models.slice_model import SlicePrompts
from protosam.models.slice_refiner import SeenSlice

TINY = TrainDecoderSettings(
    steps=6, batch=2, sides=(16, 24), warmup_steps=1, log_every=3, checkpoint_every=2
)


def a_case(seed: int = 0, shape: tuple[int, int] = (26, 40)) -> DecoderCase:
    """An ellipse of which the answer has missed a part."""
    rng = np.random.default_rng(seed)
    rows, cols = np.indices(shape)
    centre = rng.uniform(0.4, 0.6, size=2) * shape
    radii = rng.uniform(0.2, 0.35, size=2) * shape
    truth = ((rows - centre[0]) / radii[0]) ** 2 + ((cols - centre[1]) / radii[1]) ** 2 <= 1
    answer = np.where(truth & (cols < centre[1] + 2), 2.0, -2.0).astype(np.float32)
    labels = truth.astype(np.uint8)
    labels[:4] = 2
    grey = np.clip(0.3 + 0.4 * truth + rng.normal(0, 0.03, size=shape), 0, 1).astype(np.float32)
    membership = np.where(truth, 1.5, -1.5).astype(np.float32)
    points = np.round(centre)[None]
    box = np.array([centre[0] - radii[0], centre[1] - radii[1], *(centre + radii)])
    return DecoderCase(
        SliceEvidence(answer, membership, grey, (1.5, 1.0)),
        SlicePrompts(points, np.array([True]), box),
        truth,
        labels,
        beyond=3,
    )


def same(one: DecoderCase, other: DecoderCase) -> bool:
    pairs = [
        (one.evidence.answer, other.evidence.answer),
        (one.evidence.membership, other.evidence.membership),
        (one.evidence.grey, other.evidence.grey),
        (one.truth, other.truth),
        (one.labels, other.labels),
        (one.prompts.points_rc, other.prompts.points_rc),
        (one.prompts.positive, other.prompts.positive),
        (one.prompts.box_rc, other.prompts.box_rc),
    ]
    return all(np.allclose(a, b) for a, b in pairs) and one.beyond == other.beyond


@pytest.fixture(scope="module")
def some_cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    for number in range(6):
        save_cases([a_case(number), a_case(100 + number)], folder / f"{number}.npz")
    return folder


@pytest.fixture
def a_ball() -> tuple[Volume, np.ndarray]:
    """A ball of label 7 in the dark; of different spacing along each axis."""
    k, j, i = np.ogrid[:20, :40, :44]
    ball = ((k - 10) / 6) ** 2 + ((j - 20) / 11) ** 2 + ((i - 22) / 12) ** 2 <= 1
    volume = Volume((100 * ball).astype(np.int16), np.diag([1.0, 1.1, 2.0, 1.0]))
    return volume, (7 * ball).astype(np.uint8)


# Collecting


def test_a_game_keeps_the_backbone_s_own_answer_and_all_clicks_so_far(region_model, a_ball) -> None:
    volume, labels = a_ball
    shown: list[SeenSlice] = []

    class Spoiler:
        """Takes the lower half away, so that there is always an error to click on."""

        def corrected(self, seen: SeenSlice) -> Patch:
            shown.append(seen)
            logits = seen.patch.logits.copy()
            logits[len(logits) // 2 :] = -8
            return Patch(seen.patch.rect, logits)

    rng = np.random.default_rng(0)
    games = list(played_slices(volume, labels, region_model(), rng, slices=4, refiner=Spoiler()))
    assert len(games) == 4
    for cases in games:
        assert [len(c.prompts.points_rc) for c in cases] == list(range(1, CLICKS + 1))
        for case in cases:
            assert case.evidence.answer.max() > 0
            assert set(np.unique(case.labels[case.truth])) == {7}
            assert any(case.evidence.answer is seen.patch.logits for seen in shown)


def test_a_perfect_answer_ends_the_game(region_model, a_ball) -> None:
    volume, labels = a_ball
    rng = np.random.default_rng(1)
    games = list(played_slices(volume, labels, region_model(), rng, slices=6))
    unboxed = [cases for cases in games if cases[0].prompts.box_rc is None]
    assert len(unboxed) >= 2
    for cases in unboxed:  # a jittered box can cut the ball
        assert len(cases) == 1
        assert np.array_equal(cases[0].evidence.answer > 0, cases[0].truth)


def test_a_volume_without_labels_gives_no_game(region_model, a_ball) -> None:
    volume, labels = a_ball
    rng = np.random.default_rng(0)
    assert list(played_slices(volume, 0 * labels, region_model(), rng, slices=3)) == []


@pytest.fixture
def a_split(tmp_path: Path) -> Path:
    split = {
        "train": {
            "btcv_abdomen_ct": [f"btcv_{n:02d}" for n in range(5)],
            "sunnybrook_2d": ["a", "b"],
            "acdc_cine_mri": ["x", "y", "z"],
        },
        "val": {"btcv_abdomen_ct": ["btcv_90"]},
    }
    (tmp_path / "split.json").write_text(json.dumps(split), "utf-8")
    return tmp_path


def test_kept_aside_and_unshippable_cases_are_never_drawn(a_split: Path) -> None:
    shares = {"btcv_abdomen_ct": 0.4, "sunnybrook_2d": 0.3, "acdc_cine_mri": 0.2, PROCEDURAL: 0.1}
    drawn = list(cases_to_play(a_split, shares, count=300, held_out=2, seed=1))
    named = {c.name for c in drawn if c.dataset != PROCEDURAL}
    assert named == {"btcv_00", "btcv_01", "btcv_02", "a", "b"}
    assert any(c.dataset == PROCEDURAL for c in drawn)
    held = held_out_cases(a_split, ["btcv_abdomen_ct", "sunnybrook_2d"], 2)
    assert {c.name for c in held} == {"btcv_03", "btcv_04"}
    assert drawn == list(cases_to_play(a_split, shares, count=300, held_out=2, seed=1))


def test_a_case_is_read_from_its_files_or_made(tmp_path: Path) -> None:
    volume, labels = read_case(CaseName(PROCEDURAL, "5"), None)
    assert volume.shape_kji == labels.shape
    assert labels.any()
    folder = tmp_path / "sunnybrook_2d"
    folder.mkdir()
    drawn = np.zeros((12, 14), dtype=np.uint8)
    drawn[3:7, 4:9] = 255
    for kind in ("img", "lab"):
        Image.fromarray(drawn).save(folder / f"one_{kind}.png")
    volume, labels = read_case(CaseName("sunnybrook_2d", "one"), tmp_path)
    assert volume.shape_kji == labels.shape == (1, 12, 14)
    assert np.array_equal(labels[0], drawn // 255)


def test_cases_come_back_from_a_file_with_the_same_masks(tmp_path: Path) -> None:
    wild = a_case(3)
    tiny = np.where(wild.truth, 1e-4, -1e-4).astype(np.float32)
    wild = dataclasses.replace(wild, evidence=dataclasses.replace(wild.evidence, answer=tiny))
    no_box = dataclasses.replace(
        a_case(4), prompts=dataclasses.replace(a_case(4).prompts, box_rc=None)
    )
    save_cases([wild, no_box], tmp_path / "x.npz")
    first, second = load_cases(tmp_path / "x.npz")
    assert np.array_equal(first.evidence.answer > 0, wild.truth)
    np.testing.assert_allclose(first.evidence.grey, wild.evidence.grey, atol=0.5 / 255)
    np.testing.assert_allclose(first.evidence.membership, wild.evidence.membership, atol=1 / 30)
    assert (second.prompts.box_rc, first.beyond) == (None, 3)


def test_a_collection_writes_a_file_for_each_slice_and_stops_when_told(
    region_model, tmp_path: Path
) -> None:
    plan = CollectSettings(visits=2, shares={PROCEDURAL: 1.0}, slices={PROCEDURAL: 1}, seed=4)
    count = collect(plan, region_model(), data=None, out=tmp_path)
    files = sorted(tmp_path.glob("*.npz"))
    assert len(files) == count >= 1
    assert all(1 <= len(load_cases(file)) <= CLICKS for file in files)
    stopped = tmp_path / "stopped"
    assert collect(plan, region_model(), data=None, out=stopped, should_stop=lambda _: True) == 0


def test_a_collection_without_a_number_of_slices_is_refused() -> None:
    with pytest.raises(InvalidInput, match="slices for all data sets"):
        CollectSettings(shares={"btcv_abdomen_ct": 1.0}, slices={PROCEDURAL: 2})
    with pytest.raises(InvalidInput, match="visits=0"):
        CollectSettings(visits=0)


# Varying


@pytest.mark.parametrize(
    "twice",
    [
        lambda c: mirrored(mirrored(c, 0), 0),
        lambda c: mirrored(mirrored(c, 1), 1),
        lambda c: turned(turned(c)),
    ],
)
def test_a_case_that_is_mirrored_or_turned_twice_is_itself(
    twice: Callable[[DecoderCase], DecoderCase],
) -> None:
    assert same(twice(a_case()), a_case())


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 50), st.sampled_from([0, 1]))
def test_the_maps_of_a_mirrored_case_are_the_mirrored_maps(seed: int, axis: int) -> None:
    case = a_case(seed, (24, 32))
    plain = decoder_maps(case.evidence, case.prompts)
    other = mirrored(case, axis)
    seen = decoder_maps(other.evidence, other.prompts)
    torch.testing.assert_close(torch.flip(plain, [2 + axis]), seen, atol=1e-5, rtol=0)


def test_the_maps_of_a_turned_case_are_the_turned_maps() -> None:
    case = a_case(0, (24, 32))
    plain = decoder_maps(case.evidence, case.prompts)
    other = turned(case)
    seen = decoder_maps(other.evidence, other.prompts)
    torch.testing.assert_close(plain.transpose(2, 3), seen, atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000))
def test_a_varied_case_keeps_its_object_and_its_clicks_on_it(seed: int) -> None:
    case = a_case(seed % 7)
    other = varied(case, np.random.default_rng(seed))
    assert other.truth.sum() == case.truth.sum()
    row, col = other.prompts.points_rc[0].astype(int)
    assert other.truth[row, col]
    low, high = other.prompts.box_rc[:2], other.prompts.box_rc[2:]
    assert (low <= high).all()
    for values in (other.evidence.answer, other.evidence.grey, other.evidence.membership):
        assert np.isfinite(values).all()
        assert values.dtype == np.float32
    assert 0 <= other.evidence.grey.min() <= other.evidence.grey.max() <= 1


def test_a_case_on_a_square_grid_is_filled_up_and_not_stretched() -> None:
    case = a_case(0, (20, 60))  # 30 mm by 60 mm
    square = squared(case)
    assert square.truth.shape == (40, 60)
    assert square.evidence.answer[20:].max() < 0
    assert np.array_equal(square.truth[:20], case.truth)
    sample = sample_of(case, 24)
    assert sample.maps.shape == (1, len(DECODER_CHANNELS), 24, 24)
    area = float(sample.truth.sum()) / 24**2
    assert area == pytest.approx(case.truth.sum() / (40 * 60), rel=0.02)


def test_a_further_click_lands_where_it_was_made() -> None:
    sample = sample_of(a_case(), 24).clicked((5, 17), positive=False)
    near = sample.maps[0, DECODER_CHANNELS.index("negative_near")].numpy()
    assert np.unravel_index(int(near.argmax()), near.shape) == (5, 17)
    assert len(sample.prompts.points_rc) == 2


# Training


def test_training_learns_what_all_answers_miss(some_cases: Path, tmp_path: Path) -> None:
    longer = dataclasses.replace(TINY, steps=42, batch=3, sides=(24,), learning_rate=5e-3)
    lines: list[dict[str, float]] = []
    decoder = train_decoder(longer, cases=some_cases, out=tmp_path, on_log=lines.append)
    gain = gain_on(decoder, [a_case(n) for n in range(200, 206)])
    assert gain.answers == 6
    assert gain.after > gain.before + 0.05
    assert [line["step"] for line in lines] == list(range(3, 43, 3))
    assert len((tmp_path / "log.jsonl").read_text("utf-8").splitlines()) == len(lines)


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(
    some_cases: Path, tmp_path: Path
) -> None:
    whole = train_decoder(TINY, cases=some_cases, out=tmp_path / "whole")
    train_decoder(TINY, cases=some_cases, out=tmp_path / "parts", until=lambda step: step >= 3)
    parts = train_decoder(TINY, cases=some_cases, out=tmp_path / "parts", resume=True)
    for (name, one), other in zip(
        whole.state_dict().items(), parts.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_the_untrained_decoder_gains_nothing() -> None:
    gain = gain_on(SliceDecoder().eval(), [a_case(n) for n in range(3)])
    assert gain.before == gain.after
    assert 0 < gain.before < 1


def test_what_lies_beyond_the_rectangle_counts_as_missed() -> None:
    case = dataclasses.replace(a_case(), beyond=1000)
    assert gain_on(SliceDecoder().eval(), [case]).before < 0.5


def test_a_run_is_not_begun_over_another_nor_resumed_from_nothing(
    some_cases: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        train_decoder(TINY, cases=some_cases, out=tmp_path, resume=True)
    train_decoder(TINY, cases=some_cases, out=tmp_path)
    with pytest.raises(InvalidInput, match="exists already"):
        train_decoder(TINY, cases=some_cases, out=tmp_path)


def test_a_folder_without_cases_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".half-written.npz").write_bytes(b"")
    with pytest.raises(InvalidInput, match="no collected cases"):
        train_decoder(TINY, cases=tmp_path, out=tmp_path / "run")
    with pytest.raises(InvalidInput, match="no cases"):
        gain_on(SliceDecoder(), [])


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"batch": 0}, {"sides": (20,)}, {"further_clicks": (0.5, 0.1)}]
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        TrainDecoderSettings(**wrong)  # type: ignore[arg-type]


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    recipe = TrainDecoderSettings(steps=100, warmup_steps=10)
    rates = [recipe.learning_rate_at(step) for step in range(101)]
    assert rates[0] < rates[5] < max(rates) <= recipe.learning_rate
    assert rates[100] == pytest.approx(0)
