"""The volumes that the worker has in memory, and which goes when there are too many.

It is safe to use from several threads. It knows sizes and uids only.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from protosam.geometry import Volume

VOLUMES_BYTES = 2 << 30
"""Voxels kept at most, one volume apart: a 512 x 512 x 600 int16 takes 0.3 GB, and the worker with
everything else must stay below 4 GB."""


class VolumeStore:
    """Open volumes; the ones that were not used for longest make room.

    Parameters
    ----------
    limit_bytes : int
        Voxels kept at most. A volume that is larger alone is kept alone.
    """

    def __init__(self, limit_bytes: int = VOLUMES_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._volumes: OrderedDict[str, Volume] = OrderedDict()

    def add(self, volume: Volume) -> tuple[str, ...]:
        """Keep a volume; return the uids of those that had to go."""
        with self._lock:
            self._volumes[volume.uid] = volume
            self._volumes.move_to_end(volume.uid)
            gone = []
            while self._bytes() > self._limit_bytes and len(self._volumes) > 1:
                gone.append(self._volumes.popitem(last=False)[0])
            return tuple(gone)

    def get(self, uid: str) -> Volume | None:
        """Look a volume up, and count that as a use of it."""
        with self._lock:
            volume = self._volumes.get(uid)
            if volume is not None:
                self._volumes.move_to_end(uid)
            return volume

    def remove(self, uid: str) -> None:
        """Forget a volume, if it is there."""
        with self._lock:
            self._volumes.pop(uid, None)

    def uids(self) -> tuple[str, ...]:
        """Uids, the one used last at the end."""
        with self._lock:
            return tuple(self._volumes)

    def nbytes(self) -> int:
        """Bytes of all voxels."""
        with self._lock:
            return self._bytes()

    def _bytes(self) -> int:
        return sum(int(one.voxels.nbytes) for one in self._volumes.values())
