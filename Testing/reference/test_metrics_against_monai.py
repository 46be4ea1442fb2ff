"""Our metrics and those of MONAI agree, on blobs of every kind, in two and three axes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import ndimage

from protosam import metrics

with warnings.catch_warnings():
    # MONAI warns of its own deprecated arguments while it is imported and called.
    warnings.simplefilter("ignore")
    from monai.metrics import (
        compute_dice,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

BOARDS = [
    ((14, 30, 26), (3.0, 1.2, 1.2)),
    ((30, 14, 26), (1.0, 1.0, 1.0)),
    ((40, 37), (0.7, 1.3)),
]


def a_blob(shape: tuple[int, ...], seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, 2.5)
    return smooth > np.quantile(smooth, 0.75)


@pytest.mark.parametrize(("shape", "spacing_mm"), BOARDS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore::FutureWarning:monai")
def test_dice_surface_dice_and_hausdorff_equal_those_of_monai(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], seed: int
) -> None:
    truth = a_blob(shape, seed)
    found = np.roll(truth, 2, axis=1) | a_blob(shape, seed + 100)
    theirs = {"include_background": True}
    pair = [torch.from_numpy(mask)[None, None] for mask in (found, truth)]
    dice = compute_dice(pair[0].float(), pair[1].float(), **theirs)
    assert metrics.dice(found, truth) == pytest.approx(float(dice), abs=1e-6)
    for tolerance_mm in (1.0, 2.0):
        nsd = compute_surface_dice(*pair, [tolerance_mm], spacing=list(spacing_mm), **theirs)
        assert metrics.nsd(found, truth, spacing_mm, tolerance_mm) == pytest.approx(
            float(nsd), abs=1e-6
        )
    hd95 = compute_hausdorff_distance(*pair, percentile=95, spacing=list(spacing_mm), **theirs)
    assert metrics.hd95_mm(found, truth, spacing_mm) == pytest.approx(float(hd95), rel=1e-5)
