"""Simulated prompts for training: what a user would click next.

Works on the half grid of one frame; points come out as (x, y) pixels of the frame. The evaluation
robot is another program on purpose: it plays in millimetres on the volume.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

DEEPEST_SHARE = 0.6
"""Share of the clicks that go to the deepest point; the others fall anywhere, deeper more often."""

BoolMask = npt.NDArray[np.bool_]


def deep_point(mask: BoolMask, rng: np.random.Generator) -> tuple[float, float]:
    """Choose a point in the largest component of a mask.

    Parameters
    ----------
    mask : (h, w) bool
        Not empty; half grid.

    Returns
    -------
    (x, y) in pixels of the frame
    """
    labels, count = ndimage.label(mask)
    if count > 1:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        largest = int(sizes.argmax())
    else:
        largest = 1
    rows, cols = ndimage.find_objects(labels)[largest - 1]
    component = np.pad(labels[rows, cols] == largest, 1)
    depth = ndimage.distance_transform_edt(component)
    if rng.random() < DEEPEST_SHARE:
        flat = int(depth.argmax())
    else:
        weights = depth.ravel() / depth.sum()
        flat = int(rng.choice(depth.size, p=weights))
    row, col = divmod(flat, depth.shape[1])
    jitter = rng.uniform(-0.25, 0.25, size=2)
    x = 2 * (cols.start + col - 1 + jitter[0]) + 0.5
    y = 2 * (rows.start + row - 1 + jitter[1]) + 0.5
    return float(x), float(y)


def corrective_click(
    found: BoolMask, wanted: BoolMask, rng: np.random.Generator
) -> tuple[tuple[float, float], bool] | None:
    """Click where the answer is most wrong.

    Parameters
    ----------
    found, wanted : (h, w) bool
        Answer and truth on the half grid.

    Returns
    -------
    ((x, y), positive) or None
        None when nothing is wrong.
    """
    missed, extra = wanted & ~found, found & ~wanted
    if not missed.any() and not extra.any():
        return None
    positive = _largest(missed) >= _largest(extra)
    return deep_point(missed if positive else extra, rng), positive


def _largest(mask: BoolMask) -> int:
    labels, count = ndimage.label(mask)
    return int(np.bincount(labels.ravel())[1:].max()) if count else 0


def jittered_box(wanted: BoolMask, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Box round a mask, each side moved by up to a tenth of its length.

    Returns
    -------
    (4,) float64
        First x, first y, last x, last y in pixels of the frame.
    """
    rows, cols = np.flatnonzero(wanted.any(axis=1)), np.flatnonzero(wanted.any(axis=0))
    box = 2.0 * np.array([cols[0], rows[0], cols[-1], rows[-1]]) + np.array([0, 0, 1, 1])
    sides = np.array([box[2] - box[0], box[3] - box[1]] * 2)
    return np.asarray(box + rng.uniform(-0.1, 0.1, size=4) * sides)


def spoiled(wanted: BoolMask, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Logits of an imperfect earlier answer: shifted, grown or shrunk, soft or hard.

    Parameters
    ----------
    wanted : (h, w) bool

    Returns
    -------
    (h, w) float32
    """
    distance = ndimage.distance_transform_edt(np.pad(wanted, 1))[1:-1, 1:-1]
    outside = ndimage.distance_transform_edt(np.pad(~wanted, 1, constant_values=True))[1:-1, 1:-1]
    signed = distance - outside
    scale = max(1.0, float(distance.max()))
    noise = ndimage.zoom(rng.normal(size=(5, 5)), np.array(wanted.shape) / 5, order=1)
    signed = signed + rng.normal(0, 0.15) * scale + 0.25 * scale * noise
    signed = ndimage.shift(signed, rng.normal(0, 0.12 * scale, size=2), order=1, mode="nearest")
    sharpness = rng.uniform(0.5, 4.0)
    return np.asarray(np.clip(signed * sharpness, -8, 8), dtype=np.float32)


def pick(rng: np.random.Generator, shares: dict[Any, float]) -> Any:
    """Draw a key with the probability of its share."""
    keys = list(shares)
    weights = np.array([shares[k] for k in keys], dtype=float)
    return keys[int(rng.choice(len(keys), p=weights / weights.sum()))]
