"""A way that needs no model: what is brighter than a value, and what a name tells it to do.

It is imported by the processes that the tests start, so it lies in a module of its own.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

import numpy as np

from protosam.batch.finding import Case, FoundSegment
from protosam.dicom.write import Algorithm
from protosam.errors import InvalidInput, ModelUnavailable
from protosam.seg_nrrd import Segment


@dataclass(frozen=True)
class CheapWay:
    """Finds the brighter half of each volume as a liver.

    `deadly`: series (UIDs or file names) that kill their process; `slow`: that take 600 s; `large`:
    that take 1.5 GiB; `wrong`: that raise what nobody expects.
    """

    deadly: tuple[str, ...] = ()
    slow: tuple[str, ...] = ()
    large: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    structure: str = "liver"
    pause_s: float = 0.0
    is_missing: bool = False
    wants_references: bool = False

    def open(self) -> CheapFinder:
        if self.is_missing:
            raise ModelUnavailable("There is no such model.", "Choose another.")
        return CheapFinder(self)


class CheapFinder:
    algorithm = Algorithm("cheap", "1", "c0" * 32, kind="AUTOMATIC")

    def __init__(self, way: CheapWay) -> None:
        self.way = way

    def find(self, case: Case) -> list[FoundSegment]:
        def is_in(names: tuple[str, ...]) -> bool:
            return bool(set(names) & set(case.names))

        time.sleep(self.way.pause_s)
        if is_in(self.way.deadly):
            os.kill(os.getpid(), signal.SIGKILL)
        if is_in(self.way.slow):
            time.sleep(600)
        if is_in(self.way.large):
            held = np.ones(1536 * 2**20, np.uint8)
            time.sleep(600)
            del held
        if is_in(self.way.wrong):
            raise ZeroDivisionError("Mustermann^Erika")
        voxels = case.volume.voxels
        if float(voxels.max()) <= 0:
            raise InvalidInput("The image shows nothing.", "Choose another.")
        mask = voxels > np.median(voxels)
        slices = {k: float(mask[k].mean()) for k in range(len(mask))}
        confidence = float(np.mean(list(slices.values())))
        return [FoundSegment(Segment(self.way.structure, mask), confidence, slices)]
