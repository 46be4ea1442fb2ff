"""A batch as a program of its own, so that tests can kill it: SOURCE OUT WORKERS PAUSE_S."""

from __future__ import annotations

import sys
from pathlib import Path

from cheap_way import CheapWay

from protosam.batch.lanes import LanePool, row_after
from protosam.batch.manifest import Manifest
from protosam.batch.queue import Ended, Hooks, run_queue
from protosam.batch.sources import inventory
from protosam.batch.work import Order, SeriesWork, clear_working
from protosam.dicom.sources import files_of


class Here:
    """A pool that computes in this process, for what does not depend on who computes."""

    def __init__(self, work) -> None:
        self.work, self.waiting = work, []

    def expect(self, tasks: int) -> None:
        """Nothing is to be made ready."""

    @property
    def has_room(self) -> bool:
        return not self.waiting

    def start(self, task) -> None:
        self.waiting.append(task)

    def ended(self, wait_s: float) -> list[Ended]:
        return [Ended(row_after(self.work, self.waiting.pop()))]

    def stop(self) -> None:
        self.waiting = []


def go(source: Path, out: Path, pool=None, hooks: Hooks | None = None, **options) -> bool:
    """All series of a folder by the cheap way; True if it went through."""
    way = options.pop("way", CheapWay())
    order = Order(out, way, patient_key=b"k" * 32, **options)
    with Manifest(out, "cheap") as manifest:
        clear_working(out)
        with files_of(source) as files:
            found = inventory(files)
            manifest.enrol(found.refused)
            work = SeriesWork(order)
            chosen = pool(work) if pool else LanePool(work)
            return run_queue(manifest, found.tasks, chosen, hooks)


if __name__ == "__main__":
    source, out, workers, pause_s = sys.argv[1:]
    count = int(workers)
    go(
        Path(source),
        Path(out),
        lambda work: LanePool(work, count),
        way=CheapWay(pause_s=float(pause_s)),
    )
