"""The engine of the real worker, with a segmenter that only looks at brightness."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch

from protosam.errors import Cancelled, InvalidPrompt, ModelUnavailable, OutOfMemory
from protosam.extents import Extent, bounding_extent
from protosam.geometry import Volume
from protosam.intensity import Window
from protosam.mending import CleanUpReport, StepReport
from protosam.models.partials import PartialAnswer
from protosam.models.segmenter import Segmentation
from protosam.prompts import Point, PromptSet
from protosam.wire.messages import LoadModel, Partial, Predict, Prewarm
from protosam.worker import service
from protosam.worker.service import ModelEngine, ModelSettings

REPORT = CleanUpReport((StepReport("holes", 5, 0),))
"""What every answer here says of its clean-up."""


class Key(NamedTuple):
    """What the cache must know of a key."""

    volume_uid: str
    index: int


class BrightModel:
    """Stands for the weights: a name and a digest."""

    def __init__(self, name, adapter):
        self.name, self.digest = name, f"{name}+{adapter}"
        self.device = torch.device("cpu")


class BrightSegmenter:
    """Everything brighter than the middle of the window belongs to the object."""

    failures: ClassVar[list[Exception]] = []

    def __init__(self, model, *, cache, refiner, decoder):
        self.model, self.cache = model, cache
        self.refiner, self.decoder = refiner, decoder

    def segment(self, volume, request, *, on_progress, should_stop, on_partial, settled):
        if self.failures:
            raise self.failures.pop()
        if not request.prompts.points:
            raise InvalidPrompt("There is no click.", "Click.")
        for step in range(5):
            if should_stop():
                raise Cancelled("stopped")
            on_progress(step / 5, "slices")
        mask = volume.voxels > (request.window.low + request.window.high) / 2
        extent = bounding_extent(mask)
        if on_partial is not None:
            on_partial(
                PartialAnswer(Extent((6, 9, 9), (7, 11, 11)), mask[6:7, 9:11, 9:11], 0, (6,))
            )
            on_partial(PartialAnswer(None, mask[:0, :0, :0], 0, (len(settled),)))
        return Segmentation(
            extent=extent,
            mask=mask[extent.slices] if extent else np.zeros((0, 0, 0), bool),
            score=0.9,
            slice_scores={6: 0.9},
            axis=0,
            elapsed_s=0.1,
            window=request.window,
            notes=("Memory ran out.",),
            clean_up=REPORT,
        )

    def prewarm(self, volume, axis, centre_kji, *, window, count, should_stop):
        if self.failures:
            raise self.failures.pop()
        for index in range(count):
            if should_stop():
                return index
            self.cache.put(Key(volume.uid, index), SimpleNamespace(nbytes=1000))
        return count

    def forget_volume(self, uid):
        self.cache.forget_volume(uid)


@pytest.fixture
def loads():
    """Every call of the stand-in for `load_model`."""
    return []


@pytest.fixture
def failures(monkeypatch):
    """Errors that come before the work succeeds."""
    monkeypatch.setattr(BrightSegmenter, "failures", [])
    return BrightSegmenter.failures


@pytest.fixture(autouse=True)
def bright(monkeypatch):
    monkeypatch.setattr(service, "Segmenter", BrightSegmenter)


@pytest.fixture
def engine(loads):
    def load(name, *, adapter, weights_dir, device):
        loads.append((name, adapter and str(adapter), device))
        if name == "missing":
            raise ModelUnavailable("There is no model 'missing'.", "Choose another one.")
        return BrightModel(name, adapter)

    return ModelEngine(ModelSettings("first"), lambda text: None, load)


@pytest.fixture
def a_ball():
    grid = np.indices((12, 20, 20)) - np.array([6, 10, 10])[:, None, None, None]
    ball = (grid**2).sum(axis=0) < 16
    return Volume((ball * 100).astype(np.int16), np.diag([1.0, 1.0, 2.0, 1.0]))


def predict(engine, volume, **fields):
    prompts = PromptSet(points=(Point((6, 10, 10), True, "a"),))
    request = Predict(volume.uid, prompts, window=Window(0, 100), **fields)
    return engine.predict(volume, request, lambda fraction, text: None, lambda: False, print)


def test_a_click_becomes_the_whole_ball(engine, a_ball):
    result = predict(engine, a_ball, target="Segment_1", generation=4)
    mask = np.zeros(a_ball.shape_kji, bool)
    mask[result.extent.slices] = result.mask()

    np.testing.assert_array_equal(mask, a_ball.voxels > 0)
    assert (result.target, result.generation) == ("Segment_1", 4)
    assert result.model == "first"
    assert result.timings_s["total"] > 0
    assert result.slice_scores == {6: 0.9}


def test_an_empty_answer_has_no_extent(engine, a_ball):
    prompts = PromptSet(points=(Point((0, 0, 0), True, "a"),))
    request = Predict(a_ball.uid, prompts, window=Window(150, 300))
    result = engine.predict(a_ball, request, lambda fraction, text: None, lambda: False, print)

    assert result.extent is None
    assert result.bits == b""


def test_progress_and_stopping_reach_the_model(engine, a_ball):
    told = []
    prompts = PromptSet(points=(Point((6, 10, 10), True, "a"),))
    request = Predict(a_ball.uid, prompts, window=Window(0, 100))
    with pytest.raises(Cancelled):
        engine.predict(
            a_ball,
            request,
            lambda fraction, text: told.append(fraction),
            lambda: len(told) > 2,
            print,
        )

    assert told


@pytest.mark.parametrize("wanted", [True, False])
def test_partial_answers_come_only_where_they_are_asked_for(engine, a_ball, wanted):
    handed = []
    prompts = PromptSet(points=(Point((6, 10, 10), True, "a"),))
    request = Predict(a_ball.uid, prompts, window=Window(0, 100), partial=wanted, settled=("a",))
    engine.predict(a_ball, request, print, lambda: False, handed.append)

    box = Extent((6, 9, 9), (7, 11, 11))
    expected = [Partial(0, (6,), box, b"\xf0"), Partial(0, (1,), None, b"")]
    assert handed == (expected if wanted else [])


def test_a_request_without_an_object_is_refused(engine, a_ball):
    with pytest.raises(InvalidPrompt):
        engine.predict(a_ball, Predict(a_ball.uid, PromptSet()), print, lambda: False, print)


def test_the_model_of_a_request_replaces_the_one_in_memory(engine, a_ball, loads):
    predict(engine, a_ball)
    predict(engine, a_ball, model="first")
    assert loads == [("first", None, "auto")]
    second = predict(engine, a_ball, model="second", adapter="liver")
    unnamed = predict(engine, a_ball)

    assert loads[1:] == [("second", "liver", "auto")]
    assert second.digest == unnamed.digest == "second+liver"
    assert engine.stats().model == "second"


def test_loading_a_model_says_what_was_loaded(engine):
    told = []
    loaded = engine.load(LoadModel("second", "liver"), lambda *step: told.append(step))

    assert (loaded.model, loaded.adapter, loaded.digest) == ("second", "liver", "second+liver")
    assert told == [(0.0, "Loading the model second.")]


def test_a_model_that_cannot_be_loaded_leaves_the_old_one(engine, a_ball):
    with pytest.raises(ModelUnavailable):
        engine.load(LoadModel("missing"), lambda *step: None)

    assert predict(engine, a_ball).model == "first"


def test_an_engine_without_weights_starts_and_says_so(loads):
    def load(name, **options):
        loads.append(name)
        if len(loads) == 1:
            raise ModelUnavailable("There are no weights.", "Import them.")
        return BrightModel(name, None)

    engine = ModelEngine(ModelSettings(), lambda text: None, load)
    assert engine.notes() == ("There are no weights. Import them.",)
    assert engine.stats().model == ""
    engine.forget("v")
    volume = Volume(np.array([[[0, 100]]], np.int16), np.eye(4))

    assert predict(engine, volume).model == "protosam-tiny"


def test_the_models_with_a_card_are_listed(engine):
    models = {one.name: one for one in engine.models()}

    assert models["protosam-tiny"].licence == "CC-BY-SA-4.0"
    assert not any(one.loaded for one in models.values())


def test_prewarming_fills_the_cache_and_closing_a_volume_empties_it(engine, a_ball):
    request = Prewarm(a_ball.uid, (6.0, 10.0, 10.0), axis=0, window=Window(0, 100), count=5)

    assert engine.prewarm(a_ball, request, lambda: False) == 5
    assert engine.stats().cache_bytes == 5000
    engine.forget(a_ball.uid)
    assert engine.stats().cache_bytes == 0
    assert engine.prewarm(a_ball, request, lambda: True) == 0


def test_what_was_given_up_for_memory_is_said_in_the_result(engine, a_ball):
    assert predict(engine, a_ball).notes == ("Memory ran out.",)


def test_what_the_clean_up_has_done_travels_with_the_answer(engine, a_ball):
    assert predict(engine, a_ball).clean_up == REPORT


def test_running_out_of_memory_for_good_is_a_sentence(engine, a_ball, failures):
    failures.append(OutOfMemory("There was not enough memory.", "Close other volumes."))
    with pytest.raises(OutOfMemory, match="not enough memory") as caught:
        predict(engine, a_ball)

    assert caught.value.next_step
    assert predict(engine, a_ball).extent is not None


def test_another_fault_of_torch_is_not_taken_for_memory(engine, a_ball, failures):
    failures.append(RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        predict(engine, a_ball)


def test_loading_no_name_keeps_the_model_in_memory(engine, loads):
    loaded = engine.load(LoadModel(""), lambda fraction, text: None)

    assert loaded.model == "first"
    assert [name for name, *_ in loads] == ["first"]


def test_a_named_adapter_means_its_version_in_use_at_each_request(engine, a_ball, loads, tmp_path):
    named = tmp_path / "heart"
    for version in (1, 2):
        (named / f"v00{version}").mkdir(parents=True)
    for version in (1, 1, 2):
        note = {"format": 1, "version": version, "before": []}
        (named / "active.json").write_text(json.dumps(note), encoding="utf-8")
        predict(engine, a_ball, model="first", adapter=str(named))
    used = [Path(adapter).name for _, adapter, _ in loads if adapter]
    assert used == ["v001", "v002"]  # loaded once each
