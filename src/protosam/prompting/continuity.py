"""One body over neighbouring slices: a judge of masks that nobody has seen, and a maker of prompts.

Owns the windows of PCSW (SSS, arXiv 2506.08949, section on prompt generation; code of
``models/pcsw.py`` at a01f346): a window of slices is good where its foreground is one body. What
differs from the code: windows are a third to a half of the slices that the object has, not of the
scan; foreground hangs together over corners too (26 neighbours), as everywhere in this package;
all windows are scored and the best is taken, not the first that passes. Beside it, whether an
object changes from slice to slice as objects do.

Arrays are (slice, row, col). Knows nothing of models and files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from protosam.errors import InvalidInput

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.floating]

CONTINUOUS = 0.8
"""Share of the foreground that the expected bodies must have (SSS: tau)."""

SPECK = 0.005
"""Bodies of a smaller share of the foreground are not counted as bodies or as foreground."""

AREA_CHANGE = 0.5
"""Largest change of area between neighbouring slices, as a part of the larger."""

CENTRE_SHIFT = 0.2
"""Largest move of the middle between neighbouring slices, in lengths of the object."""

WINDOW_LENGTHS = 4
"""How many lengths of windows are tried, between the shortest and the longest."""

_CORNERS = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Window:
    """Slices ``first <= z < stop`` in which an object is of one piece."""

    first: int
    stop: int
    continuity: float
    """Share of its largest bodies."""
    score: float
    """Continuity times mean confidence times evenness of the areas, 0..1."""


def share_of_bodies(mask: BoolArray, bodies: int = 1) -> float:
    """Share of a mask that its largest bodies have.

    Parameters
    ----------
    mask : (S, H, W) bool
    bodies : int
        How many bodies are expected: two for a pair of organs.

    Returns
    -------
    float
        0..1; 0 for an empty mask.

    Raises
    ------
    InvalidInput
        When no body is expected, or the mask has other axes.
    """
    if bodies < 1 or mask.ndim != 3:
        raise InvalidInput(
            f"{bodies} bodies were expected in a mask of {mask.ndim} axes.",
            "Give 1 or more, and a mask of three axes.",
        )
    labels, count = ndimage.label(mask, _CORNERS)
    if count == 0:
        return 0.0
    sizes = np.sort(np.bincount(labels.ravel())[1:])[::-1]
    counted = sizes[sizes >= SPECK * sizes.sum()]
    return float(counted[:bodies].sum() / counted.sum())


def best_window(probability: FloatArray, bodies: int = 1) -> Window | None:
    """Window in which an object is most likely seen right.

    Parameters
    ----------
    probability : (S, H, W) float
        Of the object, 0..1.
    bodies : int

    Returns
    -------
    Window or None
        None where no window is continuous.
    """
    mask = probability > 0.5
    held = np.flatnonzero(mask.any(axis=(1, 2)))
    if held.size == 0:
        return None
    first, stop = int(held[0]), int(held[-1]) + 1
    found = [
        window
        for length in _lengths(stop - first)
        for start in range(first, stop - length + 1)
        if (window := _window(probability, mask, start, start + length, bodies)) is not None
    ]
    return max(found, key=lambda window: window.score, default=None)


def steady_slices(mask: BoolArray) -> BoolArray:
    """Slices in which an object is as one expects from the slices beside them.

    Parameters
    ----------
    mask : (S, H, W) bool

    Returns
    -------
    (S,) bool
        True where, towards each neighbour that has the object, the area changes by at most
        `AREA_CHANGE` and the middle moves by at most `CENTRE_SHIFT` of the object's length in
        the slice. A slice without the object is steady unless it lies between two that have it.
    """
    areas = mask.sum(axis=(1, 2)).astype(np.float64)
    steady = np.ones(len(mask), dtype=bool)
    for z in range(len(mask) - 1):
        if areas[z] and areas[z + 1] and not _alike(mask[z], mask[z + 1], areas[z : z + 2]):
            steady[z] = steady[z + 1] = False
    held = areas > 0
    steady[1:-1] &= held[1:-1] | ~(held[:-2] & held[2:])
    return steady


def _lengths(span: int) -> list[int]:
    shortest, longest = max(2, span // 3), max(3, span // 2)
    tried = np.linspace(shortest, longest, WINDOW_LENGTHS).round().astype(int)
    return sorted({min(span, int(n)) for n in tried})


def _window(
    probability: FloatArray, mask: BoolArray, first: int, stop: int, bodies: int
) -> Window | None:
    part = mask[first:stop]
    areas = part.sum(axis=(1, 2)).astype(np.float64)
    if not areas.all():
        return None
    continuity = share_of_bodies(part, bodies)
    if continuity < CONTINUOUS:
        return None
    sure = float(probability[first:stop][part].mean())
    low, high = np.minimum(areas[1:], areas[:-1]), np.maximum(areas[1:], areas[:-1])
    even = float((low / high).mean()) if len(areas) > 1 else 1.0
    return Window(first, stop, continuity, continuity * sure * even)


def _alike(one: BoolArray, other: BoolArray, areas: npt.NDArray[np.float64]) -> bool:
    if abs(areas[0] - areas[1]) > AREA_CHANGE * areas.max():
        return False
    places, others = np.argwhere(one), np.argwhere(other)
    moved = float(np.linalg.norm(places.mean(axis=0) - others.mean(axis=0)))
    length = max(float(np.ptp(p, axis=0).max()) + 1 for p in (places, others))
    return moved <= CENTRE_SHIFT * length
