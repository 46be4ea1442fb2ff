"""Slices that teachers and students look at: labelled ones and those of the pool, alike.

Owns which slices of an object are taken, the one rectangle in which all of them are seen (the
closer look of work, `planes.focus`), and what is kept of each: windowed pixels, and features of the
frozen part. Coordinates are (row, col) of the rectangle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protosam.geometry import Volume
from protosam.intensity import auto_window
from protosam.learn.clicks import deep_point, jittered_box
from protosam.learn.fronts import Begun, Front
from protosam.models.planes import Patch, Planes, Rect, focus
from protosam.models.slice_axis import choose_axis
from protosam.models.slice_model import SlicePrompts
from protosam.prompting.reliable import ReliablePrompts
from protosam.prompts import PromptSet

BoolArray = npt.NDArray[np.bool_]
Float32Array = npt.NDArray[np.float32]

MIN_PIXELS = 12
"""Smallest area of an object in a slice that is asked for."""

BOXES = 0.25
"""Share of the questions that are a box; the others are a click."""


@dataclass(frozen=True, eq=False)
class SeenSlice:
    """One object in one slice.

    Attributes
    ----------
    group : int
        Which place of the pool, or which case.
    label : int
    stack : (c, H, W) float32
        Windowed, with its neighbours; 0..1.
    begun : Begun
        The same, taken through the frozen part.
    spacing_rc_mm : (float, float)
    mask : (H, W) bool
        The truth in a labelled slice, a guess in one of the pool.
    """

    group: int
    label: int
    stack: Float32Array
    begun: Begun
    spacing_rc_mm: tuple[float, float]
    mask: BoolArray

    @property
    def pixel_mm2(self) -> float:
        """Area of a pixel."""
        return self.spacing_rc_mm[0] * self.spacing_rc_mm[1]


@dataclass(frozen=True, eq=False)
class ObjectIn:
    """An object in a volume, true or guessed.

    Attributes
    ----------
    volume : Volume
    label : int
        Which object.
    mask : (K, J, I) bool
    """

    volume: Volume
    label: int
    mask: BoolArray


class SliceTaker:
    """Takes slices for one model.

    Parameters
    ----------
    front : Front
    context_slices : int
        Neighbours that the model wants on each side.
    """

    def __init__(self, front: Front, context_slices: int) -> None:
        self._front, self._context = front, context_slices

    def slices(self, found: ObjectIn, group: int, most: int) -> list[SeenSlice]:
        """Slices of an object all along it, in their order; at most so many."""
        axis = choose_axis(PromptSet(), found.volume)
        planes = Planes(found.volume, axis, auto_window(found.volume.voxels))
        mask = np.moveaxis(found.mask, axis, 0)
        held = np.flatnonzero(mask.sum(axis=(1, 2)) >= MIN_PIXELS)
        if held.size > most:
            held = held[np.linspace(0, held.size - 1, most).round().astype(int)]
        rect = _rect(planes, mask)
        return [self._slice(planes, rect, int(z), mask, (found.label, group)) for z in held]

    def _slice(
        self, planes: Planes, rect: Rect, index: int, mask: BoolArray, who: tuple[int, int]
    ) -> SeenSlice:
        label, group = who
        stack = planes.stack(index, rect, self._context)
        begun = self._front.begin(stack, planes.spacing_rc_mm)
        inside = np.asarray(mask[(index, *rect.slices)])
        return SeenSlice(group, label, stack, begun, planes.spacing_rc_mm, inside)


def _rect(planes: Planes, mask: BoolArray) -> Rect:
    """Rectangle to look at an object (slice, row, col) in."""
    logits = np.where(mask.any(axis=0), 1.0, -1.0).astype(np.float32)
    held = Patch(planes.whole, logits).mask_rect
    return planes.whole if held is None else focus(planes, held, current=None)


def core_clicks(prompts: ReliablePrompts) -> SlicePrompts:
    """Clicks in the sure inside and the sure outside."""
    return SlicePrompts(prompts.places, prompts.signs)


def core_box(prompts: ReliablePrompts) -> SlicePrompts:
    """Box round the sure inside."""
    return SlicePrompts(box_rc=np.concatenate([prompts.low, prompts.high]))


def question(mask: BoolArray, rng: np.random.Generator) -> SlicePrompts:
    """Ask for an object as a user begins: by a click in it, or a box round it."""
    # The draws work on a half grid and answer in pixels of a frame of twice its side.
    if rng.random() < BOXES:
        x0, y0, x1, y1 = ((v - 0.5) / 2 for v in jittered_box(mask, rng))
        return SlicePrompts(box_rc=np.array([y0, x0, y1, x1]))
    x, y = deep_point(mask, rng)
    return SlicePrompts(np.array([[(y - 0.5) / 2, (x - 0.5) / 2]]), np.array([True]))
