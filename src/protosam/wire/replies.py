"""Replies: what the worker says, one frozen dataclass for each kind.

Rules
-----
* A reply carries the id of the request that it belongs to. Id 0 belongs to none: `Hello` (always
  first), `Progress` while the worker starts, `Ready` (once), and `Failed` when the connection
  itself has failed.
* Masks travel as a bounding box and packed bits.
* Indices are (k, j, i), windows are in the volume's own units, times in seconds.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import ClassVar

from protosam.errors import Cancelled as CancelledError
from protosam.errors import InvalidInput, ProtoSAMError, from_kind
from protosam.extents import BoolArray, Extent, unpack_bits
from protosam.intensity import Window
from protosam.mending import CleanUpReport
from protosam.wire.fields import ModelInfo

VOLUME_NOT_OPEN = "VolumeNotOpen"
"""Kind of the failure after which a host sends the volume again and repeats the request."""

SUPERSEDED = "superseded"
"""Reason of a `Cancelled` when a newer request of the same target took the place of this one."""

_VERSIONS_STEP = "Use a worker and a host of the same ProtoSAM version."


class Reply:
    """What the worker can say; only its subclasses travel."""

    KIND: ClassVar[str]


def check_bits(extent: Extent | None, bits: bytes) -> None:
    """Refuse bits that do not fill a box, or a box outside of any volume."""
    if extent is None:
        fits = not bits
    else:
        inside = not extent.is_empty and min(extent.start_kji) >= 0
        fits = inside and len(bits) == -(-math.prod(extent.shape_kji) // 8)
    if not fits:
        raise InvalidInput(
            f"A mask of {len(bits)} bytes does not fit into {extent}.", _VERSIONS_STEP
        )


@dataclass(frozen=True)
class Hello(Reply):
    """Who is there: the first frame of every worker, and the answer to a greeting."""

    KIND: ClassVar[str] = "hello"

    worker_version: str
    """Version of the package at the worker's end."""
    python: str
    """Version of its Python."""
    pid: int
    """Number of its process."""


@dataclass(frozen=True)
class Ready(Reply):
    """The worker has loaded what it needs; requests that waited are now worked on."""

    KIND: ClassVar[str] = "ready"

    model: str
    """Model in memory; empty if none could be loaded, `notes` says why."""
    device: str
    """Where it computes: cpu, cuda:0 ..."""
    start_s: float
    """From the worker's first line to now."""
    notes: tuple[str, ...]
    """Sentences for the user."""


@dataclass(frozen=True)
class Progress(Reply):
    """How far a request is."""

    KIND: ClassVar[str] = "progress"

    fraction: float
    """0 to 1."""
    text: str
    """What is being done."""


@dataclass(frozen=True)
class Partial(Reply):
    """Some slices of an answer that is still being made.

    It speaks about `slices` and nothing else: what it does not draw in them is not there so far.
    A later one, or the result, takes its place.
    """

    KIND: ClassVar[str] = "partial"

    axis: int
    """Array axis across which the slices lie."""
    slices: tuple[int, ...]
    """The slices that it speaks about, ascending."""
    extent: Extent | None
    """Bounding box of their mask in the volume; None = nothing is in them."""
    bits: bytes
    """The mask inside the box, packed by `extents.pack_bits`; b"" if it is empty."""

    def __post_init__(self) -> None:
        check_bits(self.extent, self.bits)
        ascending = all(a < b for a, b in itertools.pairwise(self.slices))
        fits = self.axis in (0, 1, 2) and bool(self.slices) and ascending and self.slices[0] >= 0
        if fits and self.extent is not None:
            first, stop = self.extent.start_kji[self.axis], self.extent.stop_kji[self.axis]
            fits = self.slices[0] <= first and stop <= self.slices[-1] + 1
        if not fits:
            raise InvalidInput(
                f"{len(self.slices)} slices across axis {self.axis!r:.20} do not fit to a mask in "
                f"{self.extent}.",
                _VERSIONS_STEP,
            )

    def mask(self) -> BoolArray:
        """Mask inside of `extent`.

        Returns
        -------
        (k, j, i) bool
            Of shape `extent.shape_kji`, or (0, 0, 0) if it is empty.
        """
        return unpack_bits(self.bits, self.extent.shape_kji if self.extent else (0, 0, 0))


@dataclass(frozen=True)
class VolumeOpened(Reply):
    """The volume can be named by its uid from now on."""

    KIND: ClassVar[str] = "volume_opened"

    uid: str
    """Which volume."""
    closed: tuple[str, ...]
    """Volumes that were forgotten to make room for it."""


@dataclass(frozen=True)
class VolumeClosed(Reply):
    """The volume is forgotten."""

    KIND: ClassVar[str] = "volume_closed"

    uid: str
    """Which volume."""


@dataclass(frozen=True)
class Result(Reply):
    """The mask of one object."""

    KIND: ClassVar[str] = "result"

    volume_uid: str
    """From the request."""
    target: str
    """From the request."""
    generation: int
    """From the request."""
    extent: Extent | None
    """Bounding box of the mask in the volume; None = the mask is empty."""
    bits: bytes
    """The mask inside the box, packed by `extents.pack_bits`; b"" if it is empty."""
    score: float
    """Estimated quality, 0 to 1."""
    slice_scores: dict[int, float]
    """Estimated quality of each slice across `axis`, by its index."""
    axis: int
    """Array axis along which the slices were worked through."""
    window: Window
    """Window that was used."""
    model: str
    """Model that answered."""
    digest: str
    """Identity of its weights and adapter."""
    timings_s: dict[str, float]
    """Seconds by step; "total" is always there."""
    notes: tuple[str, ...]
    """Sentences for the user, of a step down after running out of memory for example."""
    clean_up: CleanUpReport = field(default_factory=CleanUpReport)
    """What each step of the clean-up has done; empty from a worker that does not say so."""

    def __post_init__(self) -> None:
        check_bits(self.extent, self.bits)

    def mask(self) -> BoolArray:
        """Mask inside of `extent`.

        Returns
        -------
        (k, j, i) bool
            Of shape `extent.shape_kji`, or (0, 0, 0) if the mask is empty.
        """
        return unpack_bits(self.bits, self.extent.shape_kji if self.extent else (0, 0, 0))


@dataclass(frozen=True)
class Prewarmed(Reply):
    """Slices are embedded."""

    KIND: ClassVar[str] = "prewarmed"

    slices: int
    """How many were embedded now."""
    yielded: bool
    """Whether it stopped early to make way for another request."""


@dataclass(frozen=True)
class CancelTaken(Reply):
    """The cancel request has been seen."""

    KIND: ClassVar[str] = "cancel_taken"

    found: bool
    """Whether that request was still waiting or running."""


@dataclass(frozen=True)
class ModelList(Reply):
    """The models that the worker knows."""

    KIND: ClassVar[str] = "model_list"

    models: tuple[ModelInfo, ...]
    """In the order of their cards."""


@dataclass(frozen=True)
class ModelLoaded(Reply):
    """A model is in memory."""

    KIND: ClassVar[str] = "model_loaded"

    model: str
    """Its name."""
    adapter: str
    """Name of the adapter on top of it; empty = none."""
    digest: str
    """Identity of its weights and adapter."""
    device: str
    """Where it computes."""


@dataclass(frozen=True)
class StatsReport(Reply):
    """Memory and counts of the worker."""

    KIND: ClassVar[str] = "stats_report"

    memory_mb: float
    """Resident memory of the process, in 10^6 bytes."""
    cache_mb: float
    """Embeddings in memory, in 10^6 bytes."""
    volumes: tuple[str, ...]
    """Uids of the open volumes."""
    volumes_mb: float
    """Their voxels, in 10^6 bytes."""
    model: str
    """Model in memory; empty = none yet."""
    device: str
    """Where it computes; empty = not ready yet."""
    waiting: int
    """Requests that wait or run."""
    served: int
    """Requests answered since the start, whatever the answer."""
    uptime_s: float
    """Since the worker's first line."""


@dataclass(frozen=True)
class Goodbye(Reply):
    """The last frame of a worker that was asked to end."""

    KIND: ClassVar[str] = "goodbye"


@dataclass(frozen=True)
class Failed(Reply):
    """The request could not be answered; the worker goes on."""

    KIND: ClassVar[str] = "failed"

    error: str
    """Name of a class of `protosam.errors`, or `VOLUME_NOT_OPEN`."""
    message: str
    """What was given and what was wanted."""
    next_step: str
    """What the user can do."""

    @classmethod
    def of(cls, error: ProtoSAMError) -> Failed:
        """Failure that carries an error of this package."""
        return cls(error.kind, error.message, error.next_step)

    def exception(self) -> ProtoSAMError:
        """Rebuild the error that it carries."""
        return from_kind(self.error, self.message, self.next_step)


@dataclass(frozen=True)
class Cancelled(Reply):
    """The request was given up: nothing more will be said of it.

    It comes at once; the device may need until the end of its step (one slice) before it turns to
    the next request.
    """

    KIND: ClassVar[str] = "cancelled"

    reason: str
    """One of "cancelled", "superseded", "shutdown"."""

    def exception(self) -> ProtoSAMError:
        """Make the error that says so."""
        return CancelledError(f"The request was given up ({self.reason}).")


REPLIES: dict[str, type[Reply]] = {
    "hello": Hello,
    "ready": Ready,
    "progress": Progress,
    "partial": Partial,
    "volume_opened": VolumeOpened,
    "volume_closed": VolumeClosed,
    "result": Result,
    "prewarmed": Prewarmed,
    "cancel_taken": CancelTaken,
    "model_list": ModelList,
    "model_loaded": ModelLoaded,
    "stats_report": StatsReport,
    "goodbye": Goodbye,
    "failed": Failed,
    "cancelled": Cancelled,
}
"""Every kind of reply."""
