"""Prompts as they appear in a slice view, and boxes as they are drawn there.

Rules
-----
* Places on the screen are the slice node's XY; prompts are continuous voxel indices (k, j, i).
* A prompt lies on a slice within half a voxel of it; up to `NEAR_VOXELS` away it is shown dimmed.
* A box that is dragged in a view lies in one slice of the nearest array axis. In an oblique view it
  is the smallest such box that holds the four corners of what was dragged, in the middle slice.
* Pure functions: nothing is kept, nothing of the scene is changed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from protosam.extents import FloatArray, PointKJI
from protosam.geometry import kji_to_ras
from protosam.prompts import Box, PromptSet
from protosam.scene.grids import Node
from protosam.scene.slice_views import PointXY, ViewPlane, xy_to_ras
from protosam.scene.source import Source

NEAR_VOXELS = 3.0
"""Farthest distance from a slice at which a prompt is still shown."""

DIMMEST = 0.25
"""Opacity at that distance."""

MIN_BOX_VOXELS = 1.0
"""A dragged box with a shorter side is taken for a slip of the hand."""


@dataclass(frozen=True)
class Glyph:
    """One prompt in one view."""

    id: str
    """Of the prompt."""
    kind: Literal["point", "box"]
    """What to draw."""
    positive: bool
    """Whether it says what belongs to the object."""
    corners_xy: tuple[PointXY, ...]
    """The point, or the four corners of the box in order."""
    on_slice: bool
    """Whether it lies on the slice that the view shows."""
    opacity: float
    """1 on the slice, less near it."""
    answered: bool
    """Whether the mask follows from it already."""
    grabbed: bool
    """Whether it is being dragged."""


def glyphs_in(
    slice_node: Node,
    source: Source,
    prompts: PromptSet,
    *,
    unanswered: Collection[str],
    grabbed: str | None,
) -> tuple[Glyph, ...]:
    """Prompts that lie on a view's slice or near it.

    Parameters
    ----------
    slice_node : vtkMRMLSliceNode
    source : Source
        The volume that the prompts belong to.
    prompts : PromptSet
    unanswered : collection of str
        Ids whose answer is awaited.
    grabbed : str or None
        Id of the prompt that is being dragged.
    """
    plane = ViewPlane.of(slice_node)
    step_mm = plane.step_mm(source.to_world)
    found = []
    for id, kind, positive, corners_kji in _shapes(prompts, plane, source):
        corners = kji_to_ras(source.to_world, corners_kji)
        away = abs(plane.distance_mm(corners.mean(axis=0))) / step_mm
        if away > NEAR_VOXELS:
            continue
        on_slice = away <= 0.5 + 1e-6
        found.append(
            Glyph(
                id=id,
                kind=kind,
                positive=positive,
                corners_xy=tuple(plane.xy_of(corner) for corner in corners),
                on_slice=on_slice,
                opacity=1.0 if on_slice else _dimmed(away),
                answered=id not in unanswered,
                grabbed=id == grabbed,
            )
        )
    return tuple(found)


_Shape = tuple[str, Literal["point", "box"], bool, FloatArray]


def _shapes(prompts: PromptSet, plane: ViewPlane, source: Source) -> list[_Shape]:
    points: list[_Shape] = [
        (p.id, "point", p.positive, np.array([p.point_kji])) for p in prompts.points
    ]
    boxes: list[_Shape] = []
    for box in prompts.boxes:
        axis = plane.axis_of(source.to_world) if box.axis is None else box.axis
        boxes.append((box.id, "box", True, box_corners(box, axis)))
    return points + boxes


def _dimmed(away_voxels: float) -> float:
    part = (away_voxels - 0.5) / (NEAR_VOXELS - 0.5)
    return 0.6 + (DIMMEST - 0.6) * min(1.0, max(0.0, part))


def box_corners(box: Box, axis: int) -> FloatArray:
    """(4, 3) corners (k, j, i) of a box in the slice through its middle, in drawing order."""
    low, high = np.array(box.low_kji), np.array(box.high_kji)
    first, second = (n for n in range(3) if n != axis)
    corners = np.tile((low + high) / 2, (4, 1))
    corners[:, first] = (low[first], low[first], high[first], high[first])
    corners[:, second] = (low[second], high[second], high[second], low[second])
    return corners


def nearest_glyph(
    glyphs: Sequence[Glyph], xy: Sequence[float], radius_px: float
) -> tuple[str, int] | None:
    """Prompt on the slice whose point or corner is nearest to a place, and which corner it is.

    Parameters
    ----------
    glyphs : sequence of Glyph
    xy : 2 floats
        Device pixels.
    radius_px : float
        How far away it may be.
    """
    near = [
        (math.dist(corner, xy[:2]), glyph.id, n)
        for glyph in glyphs
        if glyph.on_slice
        for n, corner in enumerate(glyph.corners_xy)
    ]
    near = [one for one in near if one[0] <= radius_px]
    if not near:
        return None
    _, id, corner = min(near)
    return id, corner


def dragged_box(
    slice_node: Node, source: Source, xy_a: Sequence[float], xy_b: Sequence[float], id: str
) -> Box | None:
    """Box in one slice from a rectangle that was dragged in a view, cut to the volume.

    Returns
    -------
    Box or None
        None if it has no area, or lies outside of the volume.
    """
    plane = ViewPlane.of(slice_node)
    places = [xy_a, (xy_a[0], xy_b[1]), xy_b, (xy_b[0], xy_a[1])]
    corners = np.array([source.kji_of(xy_to_ras(slice_node, place)) for place in places])
    axis = plane.axis_of(source.to_world)
    limit = np.array(source.volume.shape_kji) - 0.5
    low, high = corners.min(axis=0), corners.max(axis=0)
    middle = (low[axis] + high[axis]) / 2
    low, high = np.clip(low, -0.5, limit), np.clip(high, -0.5, limit)
    sides = np.delete(high - low, axis)
    if sides.min() < MIN_BOX_VOXELS or not -0.5 <= middle < limit[axis]:
        return None
    low[axis] = high[axis] = middle
    return Box(_point(low), _point(high), axis, id)


def box_with_corner(box: Box, corner: int, place_kji: PointKJI, axis: int) -> Box | None:
    """Box with one of its `box_corners` elsewhere in its slice; None if it would have no area."""
    corners = box_corners(box, axis)
    other, low, high = corners[(corner + 2) % 4], np.array(box.low_kji), np.array(box.high_kji)
    for n in range(3):
        if n != axis:
            low[n], high[n] = sorted((other[n], place_kji[n]))
            if high[n] - low[n] < MIN_BOX_VOXELS:
                return None
    return replace(box, corner_a_kji=_point(low), corner_b_kji=_point(high))


def _point(values: FloatArray) -> PointKJI:
    k, j, i = values.tolist()
    return k, j, i
