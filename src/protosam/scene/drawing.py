"""From an answer of the worker to the patch that is drawn: which voxels, on which grid.

Rules
-----
* Answers lie on the volume's grid, patches on the segmentation's reference grid.
* Values in, values out: nothing of a scene is read or changed here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from protosam.extents import BoolArray, Extent
from protosam.prompts import PromptSet
from protosam.scene.grids import GridMap, ReferenceGrid
from protosam.scene.preview import slabs
from protosam.scene.records import Patch, Record
from protosam.scene.sessions import Job
from protosam.scene.source import Source
from protosam.wire.messages import Result


def on_grid(record: Record, grid: ReferenceGrid) -> Record:
    """Record for this reference grid; of another one only the prompts are worth anything."""
    if record.reference_grid in ("", grid.digest):
        return record
    return Record(record.prompts, record.revision, record.source_grid)


def grid_map(source: Source, grid: ReferenceGrid) -> GridMap:
    """Nearest voxels of a volume for those of a segmentation."""
    return GridMap(source.to_world, source.volume.shape_kji, grid.to_world, grid.shape_kji)


def drawing(job: Job, start: Record, grids: GridMap, result: Result | None) -> tuple[Patch, Patch]:
    """Put an answer on the reference grid; tell it from the sealed part that it leaves alone."""
    drawn = Patch()
    if result is not None and result.extent is not None:
        box = grids.extent(result.extent)
        if grids.is_identity and box == result.extent:
            drawn = Patch(box, result.bits)
        else:
            drawn = Patch.of(grids.sample(result.mask(), result.extent, box), box)
    if result is None or job.prompts.scope == "volume" or start.sealed.is_empty:
        return drawn, start.sealed
    box, stays = start.sealed.extent, start.sealed.mask()
    for slab in _answered_slices(job.prompts, result.axis, job.source):
        everything: BoolArray = np.broadcast_to(np.True_, slab.shape_kji)
        stays &= ~grids.sample(everything, slab, box)
    return drawn, Patch.of(stays, box)


def _answered_slices(prompts: PromptSet, axis: int, source: Source) -> list[Extent]:
    """Slices of the volume that hold prompts."""
    places: list[Any] = [point.point_kji for point in prompts.points]
    places += [box.low_kji for box in prompts.boxes]
    indices = sorted({int(np.floor(place[axis] + 0.5)) for place in places})
    return slabs(indices, axis, Extent.of_shape(source.volume.shape_kji))


def hint_of(record: Record, drawn: Patch) -> str:
    """Key of what to tell the user after an answer was written."""
    if drawn.is_empty:
        return "empty_answer"
    return "masked" if record.ours.is_empty else "refine"
