"""Answers that are still being made, shown ahead of their end.

Rules
-----
* A preview is a drawing (`overlay`), never a change of the segment: an earlier answer stays where
  it is, and the drawing says what comes and what goes in the slices that are answered so far.
* It shows what `writing` would do with these slices: voxels that were erased by hand stay away,
  those of closed lists of prompts stay, the editable area and the intensity range are obeyed. Other
  segments are not touched, so whatever the overwrite mode protects is.
* Where `masking` cannot tell the editable voxels nothing is shown; the answer itself comes later.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from protosam.errors import InvalidInput
from protosam.extents import BoolArray, Extent
from protosam.scene.grids import GridMap
from protosam.scene.masking import Masks
from protosam.scene.overlay import Overlay
from protosam.scene.records import Record
from protosam.wire.messages import Partial


class Preview:
    """What is shown of one answer before it is there.

    Parameters
    ----------
    masks : Masks
        Say which segment it is, and where it may be changed.
    grids : GridMap
        From the volume to the segmentation's grid.
    source_shape_kji : 3 ints
        Size of the volume.
    start : Record
        What the answer builds upon, on that grid.
    """

    def __init__(
        self, masks: Masks, grids: GridMap, source_shape_kji: Sequence[int], start: Record
    ) -> None:
        self._masks, self._grids, self._start = masks, grids, start
        self._source = Extent.of_shape(source_shape_kji)
        self._overlay: Overlay | None = None
        self._is_over = masks.are_on and not masks.are_known

    def show(self, partial: Partial) -> None:
        """Draw the slices of a partial answer in place of what was drawn of them before.

        Raises
        ------
        InvalidInput
            Its mask cannot be unpacked, or lies outside of the volume.
        """
        if self._is_over:
            return
        if partial.extent is not None and self._source.union(partial.extent) != self._source:
            raise InvalidInput(
                f"A partial answer at {partial.extent} lies outside of {self._source.shape_kji}.",
                "Start the worker again.",
            )
        mask = partial.mask()
        if self._overlay is None:
            masks = self._masks
            self._overlay = Overlay(
                masks.mrml, masks.segmentation_node, masks.segment_id, masks.layers.grid
            )
        reach = self._start.ours.extent.union(self._overlay.extent)
        if partial.extent is not None:
            reach = reach.union(self._grids.extent(partial.extent))
        for slab in slabs(partial.slices, partial.axis, self._source):
            box = self._grids.extent(slab).intersection(reach)
            if box.is_empty:
                continue
            everything: BoolArray = np.broadcast_to(np.True_, slab.shape_kji)
            region = self._grids.sample(everything, slab, box)
            drawn = np.zeros(box.shape_kji, dtype=np.bool_)
            if partial.extent is not None:
                drawn = self._grids.sample(mask, partial.extent, box)
            self._paint(self._overlay, box, region, drawn)
        self._overlay.shown()

    def follow(self) -> None:
        """Keep step with the segment's colour and visibility."""
        if self._overlay is not None:
            self._overlay.follow()

    def withdraw(self) -> None:
        """Show nothing from now on."""
        self._is_over = True
        if self._overlay is not None:
            self._overlay.remove()
            self._overlay = None

    def _paint(self, overlay: Overlay, box: Extent, region: BoolArray, drawn: BoolArray) -> None:
        """Tell what is coming and going in a box; compare `writing.Canvas.draw`."""
        start, masks = self._start, self._masks
        now, ours = masks.layers.segment(masks.segment_id, box), start.ours.crop(box)
        barred = start.barred.crop(box) | (ours & ~now)
        wanted = (drawn | start.sealed.crop(box)) & ~barred
        going, coming = ours & now & ~wanted, wanted & ~now
        if masks.are_on:
            going &= masks.editable(box, start.taken)
            coming &= masks.editable(box, {})
        overlay.paint(box, region, coming, going)


def slabs(slices: Sequence[int], axis: int, whole: Extent) -> list[Extent]:
    """Boxes of the slices across an axis that lie in a volume, neighbours in one.

    Parameters
    ----------
    slices : ints
        Ascending.
    axis : int
    whole : Extent
        The volume.
    """
    found = []
    inside = [z for z in slices if whole.start_kji[axis] <= z < whole.stop_kji[axis]]
    for _, run in itertools.groupby(enumerate(inside), key=lambda pair: pair[1] - pair[0]):
        indices = [index for _, index in run]
        start, stop = list(whole.start_kji), list(whole.stop_kji)
        start[axis], stop[axis] = indices[0], indices[-1] + 1
        found.append(Extent((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])))
    return found
