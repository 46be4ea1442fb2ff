"""Several views of one object: the answers of sweeps across different axes, put together.

A sweep across one axis loses its way where the object ends or touches a like neighbour, and does
so at another place for each axis; where the views disagree, the majority is right more often than
any of them. Owns which further axes are worth their time, and the mean of their logits. Array
order is (k, j, i).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protosam.extents import Extent, three_ints
from protosam.geometry import Volume
from protosam.models.planes import Planes
from protosam.models.slice_solver import SolvedSlice

SURE = 4.0
"""Logits are cut to this before they are averaged, so that no view outvotes the others."""

FURTHER_WEIGHT = 0.9
"""Weight of a further view of cubic voxels; the first view has weight 1."""

MAX_SLICES = 32
"""Slices that a further view looks at; larger objects are looked at in every 2nd to 4th slice. With
48, large organs of cases kept aside came out no better (area under Dice 0.792, here 0.799)."""

MAX_STRIDE = 4
"""Largest step; the built-in model was trained with neighbours up to four slices away."""

MIN_SIDE = 24
"""Voxels that the shorter side of a further view's slices must have."""

MAX_ANISOTROPY = 4.0
"""Slices thicker than this many pixels make a picture across them too coarse to read."""


@dataclass(frozen=True, eq=False)
class Field:
    """Logits in a box of the volume; outside, the object is surely absent.

    Attributes
    ----------
    extent : Extent
    logits : (k, j, i) float32
        Within `SURE` either way.
    weight : float
        What this view counts.
    """

    extent: Extent
    logits: npt.NDArray[np.float32]
    weight: float = 1.0

    def on(self, extent: Extent, beyond: float = -SURE) -> npt.NDArray[np.float32]:
        """Logits (k, j, i) in another box; `beyond` where this one has none."""
        out = np.full(extent.shape_kji, beyond, dtype=np.float32)
        shared = self.extent.intersection(extent)
        if 0 not in shared.shape_kji:
            out[shared.relative_to(extent).slices] = self.logits[
                shared.relative_to(self.extent).slices
            ]
        return out


@dataclass(frozen=True)
class View:
    """An axis to sweep across, looking at every `stride`-th slice, and what its answer counts."""

    axis: int
    stride: int = 1
    weight: float = 1.0


def field_of(planes: Planes, solved: Mapping[int, SolvedSlice], view: View) -> Field:
    """Put answered slices together; slices left out by a stride are interpolated.

    Parameters
    ----------
    planes : Planes
    solved : slice -> SolvedSlice
        Not empty.
    view : View
        Gaps up to its stride are bridged.
    """
    rects = [s.patch.rect for s in solved.values()]
    rect = rects[0]
    for other in rects[1:]:
        rect = rect.union(other)
    first, last = min(solved), max(solved)
    block = np.full((last - first + 1, *rect.shape), -SURE, dtype=np.float32)
    for z, s in solved.items():
        block[z - first] = s.patch.on(rect).clip(-SURE, SURE)
    for low, high in itertools.pairwise(sorted(solved)):
        if 1 < high - low <= view.stride:
            for z in range(low + 1, high):
                weight = (z - low) / (high - low)
                mixed = (1 - weight) * block[low - first] + weight * block[high - first]
                block[z - first] = mixed
    order = np.argsort((planes.axis, *(a for a in range(3) if a != planes.axis)))
    start = np.array([first, rect.top, rect.left])[order]
    stop = np.array([last + 1, rect.bottom, rect.right])[order]
    extent = Extent(three_ints(start, "start"), three_ints(stop, "stop"))
    return Field(extent, planes.unturn(block), view.weight)


def further_views(volume: Volume, axis: int, found: Extent) -> list[View]:
    """Choose the axes besides `axis` that are worth a sweep.

    Parameters
    ----------
    volume : Volume
    axis : int
        Array axis of the first view.
    found : Extent
        Where the first view has found the object.
    """
    spacing = volume.spacing_kji_mm
    views = []
    for other in range(3):
        sides = [a for a in range(3) if a != other]
        pixels = [volume.shape_kji[a] for a in sides]
        coarse = max(spacing[a] for a in sides) / min(spacing[a] for a in sides)
        if other == axis or min(pixels) < MIN_SIDE or coarse > MAX_ANISOTROPY:
            continue
        stride = -(-found.shape_kji[other] // MAX_SLICES)
        weight = FURTHER_WEIGHT / coarse  # what it can tell falls with its resolution
        views.append(View(other, min(MAX_STRIDE, max(1, stride)), weight))
    return views


def fused(fields: Sequence[Field]) -> Field:
    """Weighted mean of several views."""
    if len(fields) == 1:
        return fields[0]
    extent = fields[0].extent
    for field in fields[1:]:
        extent = extent.union(field.extent)
    total = np.zeros(extent.shape_kji, dtype=np.float32)
    for field in fields:
        total += field.weight * field.on(extent)
    return Field(extent, total / sum(field.weight for field in fields))
