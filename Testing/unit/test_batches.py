"""Batches of a step: the same whoever draws them, of one side in all processes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from protosam.learn.batches import Batches
from protosam.learn.settings import TrainBaseSettings
from protosam.learn.sources import prepare

SETTINGS = TrainBaseSettings(
    steps=5,
    decay_steps=0,
    processes=1,
    batch=1,
    objects=1,
    stages=((1.0, {"64": 0.5, "96": 0.5}),),
    procedural_volumes=1,
    mix={"procedural": 1.0},
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes")
    prepare(None, folder, SETTINGS, lambda _done, _total: None)
    return folder


def test_processes_draw_other_samples_in_frames_of_the_same_side(cache: Path) -> None:
    one, other = Batches(cache, SETTINGS, 0), Batches(cache, SETTINGS, 1)
    sides = set()
    for step in range(SETTINGS.steps):
        first, second = one[step], other[step]
        assert first.side == second.side
        assert len(first.images) == len(first.targets) == SETTINGS.batch_at(first.side)
        assert not torch.equal(first.images, second.images)
        sides.add(first.side)
    assert sides == {64, 96}


@pytest.mark.slow
def test_loaders_draw_what_the_process_itself_would_draw(cache: Path) -> None:
    ahead = dataclasses.replace(SETTINGS, loaders=2)
    here = list(Batches(cache, SETTINGS, 0).from_step(2))
    loaded = list(Batches(cache, ahead, 0).from_step(2))
    assert len(here) == len(loaded) == SETTINGS.steps - 2
    for a, b in zip(here, loaded, strict=True):
        # A loader has one thread and this process may have more, so sums may round differently.
        torch.testing.assert_close(a.images, b.images, rtol=0, atol=1e-5)
        torch.testing.assert_close(a.targets, b.targets, rtol=0, atol=1e-5)
