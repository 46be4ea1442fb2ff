"""From the prompts of a volume to the prompts in its slices.

Owns which slice a prompt belongs to and which slices may be answered. Coordinates are (k, j, i) on
the way in and (slice, row, col) on the way out. Knows nothing of models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from protosam.errors import InvalidPrompt
from protosam.extents import Extent, three_ints
from protosam.models.planes import Patch, Planes
from protosam.models.propagate import SweepInput
from protosam.models.slice_solver import SliceInput
from protosam.prompts import Box, Point, PromptSet

BOX_MARGIN = 0.1
"""A drawn 3-D box may cut the object by this share of its side; nothing is kept beyond."""

PRIOR_LOGIT = 4.0
"""Confidence with which an earlier mask enters."""


def refuse_without_object(prompts: PromptSet) -> None:
    """Refuse prompts that do not say where the object is.

    Raises
    ------
    InvalidPrompt
        If there is no positive click, box or earlier mask.
    """
    if prompts.prior is None and not prompts.boxes and not any(p.positive for p in prompts.points):
        raise InvalidPrompt(
            "There is no positive click, box or earlier mask: nothing says where the object is.",
            "Click on the object first.",
        )


class PriorSlices(Mapping[int, Patch]):
    """The slices of an earlier mask that hold some of it; made when asked for.

    Parameters
    ----------
    planes : Planes
    mask : (K, J, I) bool
    """

    def __init__(self, planes: Planes, mask: npt.NDArray[np.bool_]) -> None:
        self._whole = planes.whole
        self._mask = np.moveaxis(mask, planes.axis, 0)
        held = self._mask.any(axis=(1, 2))
        self._indices = [int(z) for z in np.flatnonzero(held)]

    def __getitem__(self, index: int) -> Patch:
        if index not in self._indices:
            raise KeyError(index)
        logits = np.where(self._mask[index], PRIOR_LOGIT, -PRIOR_LOGIT)
        return Patch(self._whole, logits.astype(np.float32))

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)


def sweep_input(planes: Planes, prompts: PromptSet, stride: int = 1) -> SweepInput:
    """Sort the prompts into slices and find the range that may be answered.

    Parameters
    ----------
    planes : Planes
    prompts : PromptSet
        Its 2-D boxes lie across the axis of `planes`.
    stride : int
        Look at every so many slices.

    Raises
    ------
    InvalidPrompt
        If two boxes have nothing in common.
    """
    given: dict[int, SliceInput] = {}
    order: list[int] = []
    first, stop = 0, planes.depth
    for box in prompts.boxes:
        low, high = _box_range(planes, box)
        first, stop = max(first, low), min(stop, high)
        index = _box_slice(planes, box, prompts.points)
        old = given.get(index, SliceInput()).box_rc
        given[index] = SliceInput(box_rc=_shared_box(old, box_in_slice(planes, box)))
    if first >= stop:
        raise _no_shared_box()
    for point in prompts.points:
        z, row, col = planes.turn(point.point_kji)
        index = slice_of(z, planes)
        order.append(index)
        old_input = given.get(index, SliceInput())
        given[index] = replace(
            old_input,
            points_rc=np.concatenate([old_input.points_rc, [[row, col]]]),
            positive=np.append(old_input.positive, point.positive),
        )
        if point.positive:  # who clicks beyond a box means it
            first, stop = min(first, index), max(stop, index + 1)
    prior: Mapping[int, Patch] = {}
    if prompts.prior is not None:
        prior = PriorSlices(planes, prompts.prior.to_mask(planes.volume.shape_kji))
        given = given or {z: SliceInput() for z in prior}
    return SweepInput(given, tuple(order), first, stop, prior, stride)


def allowed_extent(prompts: PromptSet, shape_kji: Sequence[int]) -> Extent:
    """Voxels that the 3-D boxes allow, with a margin, and those of positive clicks beyond."""
    extent = Extent.of_shape(shape_kji)
    for box in prompts.boxes:
        if box.axis is None:
            extent = extent.intersection(_grown(box))
    for point in prompts.points:
        if point.positive:
            extent = extent.union(voxel_extent(point))
    return extent


def editable_part(prompts: PromptSet, shape_kji: Sequence[int], editable: Extent | None) -> Extent:
    """Voxels that an answer may have: within the boxes, and within the editable box if given."""
    allowed = allowed_extent(prompts, shape_kji)
    return allowed if editable is None else allowed.intersection(editable)


def voxel_extent(point: Point) -> Extent:
    """Extent of the one voxel that a click lies in."""
    k, j, i = point.voxel_kji
    return Extent((k, j, i), (k + 1, j + 1, i + 1))


def slice_of(position: float, planes: Planes) -> int:
    """Index of the slice that a position along the axis lies in."""
    return min(max(math.floor(position + 0.5), 0), planes.depth - 1)


def box_in_slice(planes: Planes, box: Box) -> npt.NDArray[np.float64]:
    """First row, first column, last row, last column of a box."""
    _, top, left = planes.turn(box.low_kji)
    _, bottom, right = planes.turn(box.high_kji)
    return np.array([top, left, bottom, right])


def _box_range(planes: Planes, box: Box) -> tuple[int, int]:
    """Slices that a box allows: all for one drawn in a slice, else its own with a margin."""
    if box.axis is not None:
        return 0, planes.depth
    low, high = planes.turn(box.low_kji)[0], planes.turn(box.high_kji)[0]
    margin = BOX_MARGIN * (high - low)
    return slice_of(low - margin, planes), slice_of(high + margin, planes) + 1


def _box_slice(planes: Planes, box: Box, points: Sequence[Point]) -> int:
    """Slice in which a box is asked: a clicked one within it, else its middle."""
    low, high = planes.turn(box.low_kji)[0], planes.turn(box.high_kji)[0]
    clicked = [planes.turn(p.point_kji)[0] for p in points if p.positive]
    inside = [z for z in clicked if low - 0.5 <= z <= high + 0.5]
    return slice_of(inside[0] if inside else (low + high) / 2, planes)


def _shared_box(
    one: npt.NDArray[np.float64] | None, other: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Cut two boxes of one slice to what they have in common: the object lies in both."""
    if one is None:
        return other
    shared = np.concatenate([np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])])
    if (shared[2:] <= shared[:2]).any():
        raise _no_shared_box()
    return shared


def _no_shared_box() -> InvalidPrompt:
    return InvalidPrompt(
        "The boxes have nothing in common; the object lies within each of them.",
        "Remove one of them.",
    )


def _grown(box: Box) -> Extent:
    low, high = np.array(box.low_kji), np.array(box.high_kji)
    margin = BOX_MARGIN * (high - low) + 1
    start, stop = np.floor(low - margin).astype(int), np.ceil(high + margin).astype(int) + 1
    return Extent(three_ints(start, "start"), three_ints(stop, "stop"))
