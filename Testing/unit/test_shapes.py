"""Procedural volumes: the same by seed, different by seed, with labels to learn from."""

from __future__ import annotations

import numpy as np
import pytest

from protosam.learn.shapes import SIDE, Painted, procedural_volume, smooth_noise


@pytest.fixture(scope="module")
def some_volumes() -> list[Painted]:
    return [procedural_volume(seed) for seed in range(3)]


def test_the_same_seed_gives_the_same_volume(some_volumes: list[Painted]) -> None:
    again = procedural_volume(1)
    assert np.array_equal(again.image, some_volumes[1].image)
    assert np.array_equal(again.labels, some_volumes[1].labels)


def test_other_seeds_give_other_volumes(some_volumes: list[Painted]) -> None:
    assert not np.array_equal(some_volumes[0].labels, some_volumes[1].labels)
    assert not np.array_equal(some_volumes[1].image, some_volumes[2].image)


def test_volumes_have_labels_and_background(some_volumes: list[Painted]) -> None:
    for volume in some_volumes:
        assert volume.labels.shape == volume.image.shape == (SIDE, SIDE, SIDE)
        assert volume.labels.dtype == np.uint8
        assert volume.image.dtype == np.float32
        values, counts = np.unique(volume.labels, return_counts=True)
        assert values[0] == 0
        assert np.count_nonzero(counts[1:] >= 60) >= 2


def test_intensities_are_finite_and_tell_labels_apart(some_volumes: list[Painted]) -> None:
    for volume in some_volumes:
        assert np.isfinite(volume.image).all()
        assert -1 < volume.image.mean() < 2
        means = [volume.image[volume.labels == v].mean() for v in np.unique(volume.labels)]
        assert np.std(means) > 0.03


def test_noise_has_unit_variance() -> None:
    noise = smooth_noise(np.random.default_rng(0), 6)
    assert noise.shape == (SIDE, SIDE, SIDE)
    assert float(noise.std()) == pytest.approx(1, abs=1e-3)
