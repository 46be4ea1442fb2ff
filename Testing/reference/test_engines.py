"""The engines on a noisy ball: the classical ones find it, the project's own plays along."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from skimage.segmentation import random_walker

from protosam import engines, metrics, robot
from protosam.baselines import (
    BACKGROUND,
    OBJECT,
    GrowFromSeeds,
    RandomWalker,
    framed_seeds,
    paint_ball,
    working_shape,
)
from protosam.engines import ENGINES, EngineChoice, ProtoSamEngine, make_engine
from protosam.errors import InvalidInput, MissingExtra
from protosam.extents import Extent
from protosam.geometry import Volume
from protosam.intensity import Window, apply_window, auto_window
from protosam.models.segmenter import Segmentation, SegmentRequest
from protosam.prompts import Point, PromptSet
from protosam.robot import Engine, Plane, Rules, Target

SPACING_KJI_MM = (3.0, 1.5, 1.0)
SHAPE = (16, 32, 40)
CENTRE = (8, 15, 19)
CLASSICAL = ["grow-from-seeds", "random-walker"]


def a_ball(radius_mm: float) -> np.ndarray:
    grids = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    away = sum(
        ((grid - n) * mm) ** 2 for grid, n, mm in zip(grids, CENTRE, SPACING_KJI_MM, strict=True)
    )
    return np.asarray(away <= radius_mm**2)


def a_phantom(radius_mm: float = 12.0, dtype: type = np.int16) -> tuple[Volume, np.ndarray]:
    truth = a_ball(radius_mm)
    noise = np.random.default_rng(3).normal(scale=8.0, size=SHAPE)
    voxels = (100.0 * truth + noise).astype(dtype)
    return Volume(voxels, np.diag([*SPACING_KJI_MM[::-1], 1.0])), truth


def a_click(place: tuple[int, int, int], positive: bool = True, id: str = "a") -> Point:
    k, j, i = place
    return Point((float(k), float(j), float(i)), positive, id)


def an_engine(name: str) -> Engine:
    return make_engine(EngineChoice(engine=name))


@pytest.mark.parametrize("name", CLASSICAL)
def test_a_classical_engine_finds_a_ball_from_the_robots_clicks(name: str) -> None:
    volume, truth = a_phantom()
    score = robot.play(Target("ball", 1, "ball", volume, truth, None), an_engine(name), Rules(3))
    assert score.dice[0] > 0.75
    assert score.dice[-1] > 0.85


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_classical_engine_answers_in_the_slice_alone(name: str, axis: int) -> None:
    volume, truth = a_phantom()
    plane = Plane(axis, CENTRE[axis])
    engine = an_engine(name)
    engine.begin(volume, plane)
    found = engine.answer(PromptSet((a_click(CENTRE),), scope="slice", axis=axis))
    assert metrics.dice(plane.of(found), plane.of(truth)) > 0.75
    plane.of(found)[...] = False
    assert not found.any()


@pytest.mark.parametrize("name", CLASSICAL)
def test_an_image_of_one_slice_is_played_as_a_plane(name: str) -> None:
    volume, truth = a_phantom(radius_mm=6.0)
    flat = Volume(volume.voxels[CENTRE[0]][np.newaxis], volume.affine)
    engine = an_engine(name)
    engine.begin(flat, None)
    found = engine.answer(PromptSet((a_click((0, *CENTRE[1:])),), scope="slice"))
    assert found.shape == flat.shape_kji
    assert metrics.dice(found[0], truth[CENTRE[0]]) > 0.75


@pytest.mark.parametrize("name", CLASSICAL)
def test_a_negative_click_takes_voxels_away(name: str) -> None:
    volume, _ = a_phantom()
    engine = an_engine(name)
    engine.begin(volume, None)
    one = PromptSet((a_click(CENTRE),))
    away = (CENTRE[0], CENTRE[1], CENTRE[2] + 8)
    assert engine.answer(one)[away]
    assert not engine.answer(one.with_point(a_click(away, positive=False, id="b")))[away]


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64, np.int64])
def test_a_classical_engine_takes_every_type_of_voxel(name: str, dtype: type) -> None:
    volume, truth = a_phantom()
    lifted = Volume((volume.voxels.astype(float) + 60).clip(0).astype(dtype), volume.affine)
    engine = an_engine(name)
    engine.begin(lifted, None)
    assert metrics.dice(engine.answer(PromptSet((a_click(CENTRE),))), truth) > 0.75


@pytest.mark.parametrize("name", CLASSICAL)
def test_a_classical_engine_refuses_prompts_that_give_it_no_object(name: str) -> None:
    engine = an_engine(name)
    with pytest.raises(InvalidInput, match="no image"):
        engine.answer(PromptSet((a_click(CENTRE),)))
    engine.begin(a_phantom()[0], None)
    with pytest.raises(InvalidInput, match="positive click"):
        engine.answer(PromptSet((a_click(CENTRE, positive=False),)))


def test_a_quick_update_gives_nearly_what_all_clicks_at_once_would() -> None:
    volume, _ = a_phantom()
    one = PromptSet((a_click(CENTRE),))
    two = one.with_point(a_click((CENTRE[0], CENTRE[1], CENTRE[2] + 8), positive=False, id="b"))
    step_by_step, at_once = GrowFromSeeds(region_mm=1e6), GrowFromSeeds(region_mm=1e6)
    step_by_step.begin(volume, None)
    at_once.begin(volume, None)
    step_by_step.answer(one)
    assert metrics.dice(step_by_step.answer(two), at_once.answer(two)) > 0.95


def test_the_region_is_the_box_of_the_clicks_with_its_margin() -> None:
    volume, _ = a_phantom()
    flat = Volume(np.zeros_like(volume.voxels) + np.eye(SHAPE[1], SHAPE[2]), volume.affine)
    engine = GrowFromSeeds(radius_mm=2.0, region_mm=6.0)
    engine.begin(flat, None)
    k, j, i = np.nonzero(engine.answer(PromptSet((a_click(CENTRE),))))
    for places, centre, margin in ((k, CENTRE[0], 2), (j, CENTRE[1], 4), (i, CENTRE[2], 6)):
        assert np.abs(places - centre).max() < margin


def test_in_a_picture_the_margin_is_a_part_of_its_side() -> None:
    # Each step away from the click costs the same, so the object ends half way to the frame.
    j, i = np.ogrid[:100, :60]
    slope = np.maximum(np.abs(j - 50), np.abs(i - 30))[np.newaxis].astype(np.int16)
    for region_mm, margin in ((None, 20), (10.0, 10)):
        engine = GrowFromSeeds(radius_mm=0.0, region_mm=region_mm)
        engine.begin(Volume(slope, np.eye(4)), None)
        found = engine.answer(PromptSet((a_click((0, 50, 30)),), scope="slice"))
        assert abs(np.abs(np.nonzero(found)[1] - 50).max() - margin / 2) <= 1


def test_on_its_own_grid_our_random_walker_is_that_of_scikit_image() -> None:
    volume, _ = a_phantom()
    engine = RandomWalker(radius_mm=3.0, beta=130.0, region_mm=1e6)
    engine.begin(volume, None)
    found = engine.answer(PromptSet((a_click(CENTRE),)))
    seeds = framed_seeds(SHAPE)
    paint_ball(seeds, CENTRE, SPACING_KJI_MM, 3.0, positive=True)
    grey = apply_window(volume.voxels, auto_window(volume.voxels))
    theirs = random_walker(
        grey, seeds, beta=130, spacing=SPACING_KJI_MM, mode="cg_j", tol=1e-6, prob_tol=np.inf
    )
    assert metrics.dice(found, theirs == OBJECT) > 0.99


def test_a_large_region_is_walked_coarse_and_then_fine() -> None:
    volume, truth = a_phantom()
    engine = RandomWalker(max_voxels=4000)
    engine.begin(volume, None)
    assert metrics.dice(engine.answer(PromptSet((a_click(CENTRE),))), truth) > 0.75


def test_a_flat_image_is_answered_without_a_fault() -> None:
    voxels = np.zeros(SHAPE, dtype=np.int16)
    voxels[0, 0, 0] = 1
    for engine in (GrowFromSeeds(region_mm=8.0), RandomWalker(region_mm=8.0)):
        engine.begin(Volume(voxels, np.diag([*SPACING_KJI_MM[::-1], 1.0])), None)
        assert engine.answer(PromptSet((a_click(CENTRE),)))[CENTRE]


def test_a_ball_is_painted_in_millimetres_and_always_holds_its_voxel() -> None:
    seeds = framed_seeds(SHAPE)
    paint_ball(seeds, CENTRE, SPACING_KJI_MM, 3.0, positive=True)
    k, j, i = np.nonzero(seeds == OBJECT)
    assert [int(np.ptp(places)) for places in (k, j, i)] == [2, 4, 6]
    paint_ball(seeds, CENTRE, SPACING_KJI_MM, 0.0, positive=False)
    assert seeds[CENTRE] == BACKGROUND
    assert np.all(seeds[0] == BACKGROUND) and np.all(seeds[:, :, -1] == BACKGROUND)


def test_a_working_grid_is_cubic_and_no_finer_than_the_image() -> None:
    assert working_shape((10, 20, 30), (3.0, 1.0, 1.0), 6000) == (10, 20, 30)
    k, j, i = working_shape((100, 500, 400), (3.0, 1.0, 1.0), 64**3)
    assert k * j * i <= 64**3
    edges = (300 / k, 500 / j, 400 / i)
    assert max(edges) / min(edges) < 1.1


def test_an_engine_without_its_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "slicer", None)
    with pytest.raises(MissingExtra, match="slicer-core"):
        GrowFromSeeds()


def test_every_engine_says_what_it_played_with() -> None:
    assert set(ENGINES) == {"protosam", *CLASSICAL}
    assert an_engine("grow-from-seeds").settings()["radius_mm"] == 3.0
    assert an_engine("random-walker").settings()["max_voxels"] == 40**3


class RecordingSegmenter:
    """Stands in for the segmenter: answers with the clicked voxels, keeps what it was asked."""

    made: ClassVar[list[RecordingSegmenter]] = []

    def __init__(self, model: object, **correctors: object) -> None:
        self.correctors = correctors
        self.asked: list[SegmentRequest] = []
        self.made.append(self)

    def segment(self, volume: Volume, request: SegmentRequest) -> Segmentation:
        self.asked.append(request)
        extent = Extent(CENTRE, tuple(n + 1 for n in CENTRE))
        mask = np.ones((1, 1, 1), dtype=bool)
        return Segmentation(extent, mask, 0.9, {}, 0, 0.0, Window(0.0, 1.0))


@pytest.mark.parametrize(("keep_cache", "segmenters"), [(False, 3), (True, 1)])
def test_our_engine_starts_each_object_cold_unless_told_to_keep_its_cache(
    monkeypatch: pytest.MonkeyPatch, keep_cache: bool, segmenters: int
) -> None:
    monkeypatch.setattr(engines, "Segmenter", RecordingSegmenter)
    monkeypatch.setattr(RecordingSegmenter, "made", [])
    model = SimpleNamespace(name="a-model", digest="abc", device="cpu")
    engine = ProtoSamEngine(model, keep_cache=keep_cache)
    volume, _ = a_phantom()
    prompts = PromptSet((a_click(CENTRE),), scope="slice", axis=1)
    with pytest.raises(InvalidInput, match="no image"):
        engine.answer(prompts)
    for _ in range(2):
        engine.begin(volume, None)
        found = engine.answer(prompts)
    assert np.argwhere(found).tolist() == [list(CENTRE)] and found.shape == SHAPE
    assert len(RecordingSegmenter.made) == segmenters
    assert RecordingSegmenter.made[-1].asked[-1] == SegmentRequest(prompts)
    assert engine.settings()["model"] == "a-model"


def test_our_engine_is_made_with_the_chosen_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, dict[str, object]]] = []

    def load(name: object, **given: object) -> SimpleNamespace:
        asked.append((name, given))
        return SimpleNamespace(name="m", digest="d", device=torch.device("cpu"))

    monkeypatch.setattr(engines, "load_model", load)
    monkeypatch.setattr(engines, "Segmenter", RecordingSegmenter)
    engine = make_engine(EngineChoice(model="m", adapter="adapters/mine", device="cpu"))
    assert isinstance(engine, ProtoSamEngine)
    assert RecordingSegmenter.made[-1].correctors["refiner"] is not None
    assert RecordingSegmenter.made[-1].correctors["decoder"] is not None
    assert asked == [
        ("m", {"adapter": Path("adapters/mine"), "weights_dir": None, "device": "cpu"})
    ]
