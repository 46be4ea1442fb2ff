"""Intensities: from scanner units to the range 0..1 that the models see.

Owns the window (two numbers in the volume's own units) and how one is chosen when the user has
not set any. Knows nothing of geometry beyond array shapes. All functions are pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from protosam.errors import InvalidInput

MAX_SAMPLES = 200_000
"""Voxels looked at when a window is chosen; more changes the percentiles by less than 0.5 %."""

CT_AIR_HU = -850.0
"""A volume with voxels below this (air), and with tissue round zero, is CT in HU."""

CT_LOWEST_HU = -3100.0
"""Padding of known scanners goes down to -3024; anything lower is not HU."""

MIN_PLATEAU = 0.02
"""The lowest value is background when at least this share of the voxels has it."""

CT_SOFT_TISSUE = (-160.0, 240.0)
"""Window in HU for CT when none is given: width 400, level 40, as radiology uses for abdomen."""

PERCENTILES = (0.5, 99.5)
"""Percentiles of the non-background voxels that become black and white elsewhere."""


SPREAD = 5.0
"""The window reaches at most so many widths of the densest half of the voxels from its centre
(nearly 7 standard deviations of a normal distribution), so that few very bright or dark voxels
(bone and air in CT that is not in HU) do not take the contrast from everything else."""


@dataclass(frozen=True)
class Window:
    """Intensities that become black (`low`) and white (`high`), in the volume's own units."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise InvalidInput(
                f"A window needs two finite numbers; got {self.low} and {self.high}.",
                "Give the window as LOW,HIGH in the volume's own units.",
            )
        if self.high <= self.low:
            raise InvalidInput(
                f"A window's high end must be above its low end; got {self.low}..{self.high}.",
                "Swap the two numbers or choose 'automatic'.",
            )


def auto_window(voxels: npt.NDArray[Any]) -> Window:
    """Choose a window from the intensities.

    CT in Hounsfield units is recognised by its air and gets a soft-tissue window. Everything
    else gets the 0.5 and 99.5 percentiles of what is not background, where background is the
    most frequent lowest value (a masked or padded volume's zero). The window is drawn in where
    few voxels lie far from all others (`SPREAD`).

    Parameters
    ----------
    voxels : (K, J, I) array of real numbers
        Intensities in scanner units.

    Raises
    ------
    InvalidInput
        If all voxels have one value: there is nothing to see in such an image.
    """
    step = max(1, round(voxels.size / MAX_SAMPLES))
    sample = np.asarray(voxels).reshape(-1)[::step].astype(np.float64)
    lowest, highest = float(sample.min()), float(sample.max())
    if highest <= lowest:
        lowest, highest = float(voxels.min()), float(voxels.max())
    if highest <= lowest:
        raise InvalidInput(
            f"Every voxel of the volume is {lowest:g}: there is nothing to segment.",
            "Check that the right volume was loaded.",
        )
    if _is_ct_in_hu(sample):
        return Window(*CT_SOFT_TISSUE)
    foreground = sample[sample > lowest]
    if foreground.size > (1 - MIN_PLATEAU) * sample.size or foreground.size < 16:
        foreground = sample
    low, high = (float(v) for v in np.percentile(foreground, PERCENTILES))
    centre, width = _densest_half(foreground)
    low, high = max(low, centre - SPREAD * width), min(high, centre + SPREAD * width)
    return Window(low, high) if high > low else Window(lowest, highest)


def apply_window(voxels: npt.NDArray[Any], window: Window) -> npt.NDArray[np.float32]:
    """Map intensities linearly to 0..1, clipping outside the window.

    Parameters
    ----------
    voxels : array of real numbers, any shape
        Intensities in the units of `window`.

    Returns
    -------
    array of float32, same shape
        0 at `window.low` and below, 1 at `window.high` and above.
    """
    scaled: npt.NDArray[np.float32] = np.subtract(voxels, window.low, dtype=np.float32)
    scaled *= np.float32(1.0 / (window.high - window.low))
    np.clip(scaled, 0.0, 1.0, out=scaled)
    return scaled


def _densest_half(sample: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Centre and width of the shortest interval that holds half of the values.

    It is the "shorth" of Andrews et al. 1972 (Robust Estimates of Location), which unlike the
    quartiles does not move while up to half of the values are elsewhere.
    """
    ordered = np.sort(sample)
    half = ordered.size // 2
    widths = ordered[half:] - ordered[: ordered.size - half]
    start = int(widths.argmin())
    low, high = float(ordered[start]), float(ordered[start + half])
    return (low + high) / 2, high - low


def _is_ct_in_hu(sample: npt.NDArray[np.float64]) -> bool:
    """Tell CT in HU by its air plateau below -850 and by tissue around 0..100."""
    if sample.min() < CT_LOWEST_HU or sample.max() < 150:
        return False
    air = np.mean(sample < CT_AIR_HU)
    tissue = np.mean((sample > -150) & (sample < 150))
    return bool(air > 0.01 and tissue > 0.03)
