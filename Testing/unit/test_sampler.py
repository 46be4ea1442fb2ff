"""Training samples: three slices in one frame, the object in the first, all by seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from protosam.learn.augment import vary_intensities
from protosam.learn.sampler import MIN_PIXELS, Sample, Sampler
from protosam.learn.shapes import procedural_volume
from protosam.learn.sources import Source

SIDE, OBJECTS = 64, 3


def source_of(image: np.ndarray, labels: np.ndarray, spacing: tuple[float, float, float]) -> Source:
    boxes = ndimage.find_objects(labels)
    objects = {
        value: tuple((s.start, s.stop) for s in box)
        for value, box in enumerate(boxes, start=1)
        if box is not None and np.count_nonzero(labels[box] == value) >= 20
    }
    return Source(image.astype(np.float16), labels, spacing, objects)


def a_ball(radius: float = 9) -> Source:
    """A bright ball in 40 thick slices of 60 x 50 pixels."""
    k, j, i = np.ogrid[:40, :60, :50]
    inside = ((k - 20) * 2.5) ** 2 + (j - 30) ** 2 + (i - 24) ** 2 < (2 * radius) ** 2
    return source_of(inside * 0.8 + 0.1, inside.astype(np.uint8), (2.5, 1.0, 1.0))


@pytest.fixture(scope="module")
def shapes() -> Sampler:
    painted = procedural_volume(3)
    source = source_of(painted.image, painted.labels, (1.0, 1.0, 1.0))
    return Sampler({"procedural": [source]}, {"procedural": 1.0, "absent": 2.0}, OBJECTS)


@pytest.fixture(scope="module")
def samples(shapes: Sampler) -> list[Sample]:
    return [shapes.draw(np.random.default_rng(seed), SIDE) for seed in range(60)]


def test_the_same_seed_gives_the_same_sample(shapes: Sampler, samples: list[Sample]) -> None:
    again = shapes.draw(np.random.default_rng(4), SIDE)
    assert torch.equal(again.images, samples[4].images)
    assert torch.equal(again.targets, samples[4].targets)


def test_other_seeds_give_other_samples(samples: list[Sample]) -> None:
    assert not torch.equal(samples[0].images, samples[1].images)


def test_images_are_three_slices_between_their_neighbours_in_zero_to_one(
    samples: list[Sample],
) -> None:
    for sample in samples:
        assert sample.images.shape == (3, 3, SIDE, SIDE)
        assert sample.images.dtype == torch.float32
        assert torch.isfinite(sample.images).all()
        assert 0 <= float(sample.images.min()) <= float(sample.images.max()) <= 1


def test_targets_are_soft_masks_on_the_half_grid(samples: list[Sample]) -> None:
    for sample in samples:
        assert sample.targets.shape == (OBJECTS, 3, SIDE // 2, SIDE // 2)
        assert set(torch.unique(sample.targets).tolist()) <= {0, 0.25, 0.5, 0.75, 1}


def test_every_object_is_in_slice_a(samples: list[Sample]) -> None:
    for sample in samples:
        assert (4 * sample.targets[:, 0].sum(dim=(1, 2)) >= MIN_PIXELS).all()
        assert (sample.targets[:, 0].amax(dim=(1, 2)) >= 0.5).all()


def test_an_object_may_have_ended_in_slice_b() -> None:
    sampler = Sampler({"ball": [a_ball()]}, {"ball": 1.0}, 1)
    drawn = [sampler.draw(np.random.default_rng(seed), SIDE) for seed in range(60)]
    gone = [not (sample.targets[0, 1] >= 0.5).any() for sample in drawn]
    assert 0 < sum(gone) < 30


def test_a_single_image_is_its_own_neighbour_moved_a_little() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((1, 80, 80), dtype=np.uint8)
    labels[0, 20:60, 25:55] = 1
    flat = source_of(0.5 * labels + 0.1 * rng.random(labels.shape), labels, (1.0, 1.0, 1.0))
    sampler = Sampler({"flat": [flat]}, {"flat": 1.0}, 1)
    overlaps = []
    for seed in range(20):
        sample = sampler.draw(np.random.default_rng(seed), SIDE)
        a, b, _ = sample.targets[0] >= 0.5
        overlaps.append(float((a & b).sum() / (a | b).sum()))
    assert 0.6 < np.mean(overlaps) < 0.99


def test_targets_follow_the_image() -> None:
    # The ball is brighter than what is round it, and slice and labels have one warp.
    sampler = Sampler({"ball": [a_ball(12)]}, {"ball": 1.0}, 1)
    differences = []
    for seed in range(20):
        sample = sampler.draw(np.random.default_rng(seed), SIDE)
        target = sample.targets[0, 0]
        image = torch.nn.functional.avg_pool2d(sample.images[0, 1:2], 2)[0]
        if (target == 1).any() and (target == 0).any():
            inside, outside = image[target == 1].mean(), image[target == 0].mean()
            differences.append(abs(float(inside - outside)))
    assert len(differences) > 10
    assert np.median(differences) > 0.3


def test_frames_may_have_any_side(shapes: Sampler) -> None:
    sample = shapes.draw(np.random.default_rng(0), 96)
    assert sample.images.shape == (3, 3, 96, 96)
    assert sample.targets.shape == (OBJECTS, 3, 48, 48)


def test_a_source_without_a_share_is_never_drawn() -> None:
    ball = a_ball()
    undrawable = Source(ball.image, ball.labels, ball.spacing_kji_mm, {})
    found = {"undrawable": [undrawable], "ball": [ball]}
    sampler = Sampler(found, {"undrawable": 0.0, "ball": 1.0}, 1)
    for seed in range(10):
        assert sampler.draw(np.random.default_rng(seed), 32).targets.shape == (1, 3, 16, 16)
    with pytest.raises(ValueError, match="cannot be empty"):
        Sampler(found, {"undrawable": 1.0, "ball": 0.0}, 1).draw(np.random.default_rng(0), 32)


def test_varied_intensities_stay_in_range_and_repeat_by_seed() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 40, 40, generator=generator) * 3 - 1
    labels = torch.randint(0, 4, (2, 40, 40), generator=generator).float()
    results = []
    for seed in range(60):
        varied = vary_intensities(images, labels, np.random.default_rng(seed))
        assert varied.shape == images.shape
        assert 0 <= float(varied.min()) <= float(varied.max()) <= 1
        results.append(varied)
    again = vary_intensities(images, labels, np.random.default_rng(11))
    assert torch.equal(again, results[11])
    assert not torch.equal(results[0], results[1])
