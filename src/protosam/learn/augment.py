"""Random changes of intensity for training; geometry is the sampler's.

Each is mild and independent, and the same for all slices of a sample, as a scanner would do it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F


def vary_intensities(
    images: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator
) -> torch.Tensor:
    """Vary window, contrast, shading, noise and sharpness.

    Parameters
    ----------
    images : (s, 3, S, S) float32
        0..1 is the automatic window; values outside are still there.
    labels : (s, S, S) float32
        Label values, for organ-wise changes of contrast.

    Returns
    -------
    (s, 3, S, S) float32 in 0..1
    """
    if rng.random() < 0.15:
        images = _repaint(images, labels, rng)
    low = rng.uniform(-0.12, 0.2) if rng.random() < 0.6 else 0.0
    high = 1 + (rng.uniform(-0.35, 0.2) if rng.random() < 0.6 else 0.0)
    images = ((images - low) / (high - low)).clamp(0, 1)
    if rng.random() < 0.35:
        images = images ** float(np.exp(rng.normal(0, 0.3)))
    if rng.random() < 0.12:
        images = 1 - images
    if rng.random() < 0.2:
        images = images * _field(rng, images.shape[-1], 3, 0.25)
    if rng.random() < 0.15:
        images = _blur(images, float(rng.uniform(0.4, 1.4)))
    return _noise(images, rng).clamp(0, 1)


def _repaint(images: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Move the mean intensity of every label by its own amount."""
    offsets = torch.from_numpy(rng.normal(0, 0.12, size=256).astype(np.float32))
    offsets[0] = 0
    shift = offsets[labels.long().clamp(0, 255)].unsqueeze(1)
    return images + F.avg_pool2d(shift, 3, stride=1, padding=1)


def _field(rng: np.random.Generator, side: int, cells: int, strength: float) -> torch.Tensor:
    """Smooth multiplicative field about 1; (1, 1, side, side)."""
    coarse = torch.from_numpy(rng.normal(0, strength, (1, 1, cells, cells)).astype(np.float32))
    return 1 + F.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=True)


def _blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    offsets = torch.arange(-3, 4, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    flat = images.reshape(-1, 1, *images.shape[-2:])
    flat = F.conv2d(F.pad(flat, (3, 3, 0, 0), mode="replicate"), kernel.view(1, 1, 1, 7))
    flat = F.conv2d(F.pad(flat, (0, 0, 3, 3), mode="replicate"), kernel.view(1, 1, 7, 1))
    return flat.reshape(images.shape)


def _noise(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Gaussian noise, or speckle as in ultrasound, at a random grain."""
    kind = rng.random()
    if kind > 0.42:
        return images
    side = images.shape[-1]
    grain = int(rng.integers(1, 4))
    shape = (*images.shape[:2], -(-side // grain), -(-side // grain))
    noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    noise = F.interpolate(noise, size=(side, side), mode="bilinear", align_corners=False)
    if kind > 0.12:
        return images + float(rng.uniform(0.01, 0.09)) * noise
    return images * (1 + float(rng.uniform(0.1, 0.45)) * noise)
