"""Requests: what a host asks of the worker, one frozen dataclass for each verb.

Rules
-----
* `VERB` is the kind of its frame, `ANSWER` the one reply that ends it when all goes well; instead
  of it a `Failed` or a `Cancelled` may come. Every request gets exactly one of these three.
* A request carries all that its answer follows from, so that it can be repeated to a worker that
  was started anew. Only the voxels travel apart, once for each volume.
* Indices are (k, j, i), windows are in the volume's own units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from protosam.errors import InvalidInput
from protosam.extents import Extent, VoxelArray
from protosam.geometry import FloatArray, PointKJI
from protosam.intensity import Window
from protosam.mending import CleanUp
from protosam.prompts import PromptSet
from protosam.wire.proposals import ExampleApplied, ExampleMade, Proposed, ProposedSlices
from protosam.wire.replies import (
    CancelTaken,
    Goodbye,
    Hello,
    ModelList,
    ModelLoaded,
    Partial,
    Prewarmed,
    Reply,
    Result,
    StatsReport,
    VolumeClosed,
    VolumeOpened,
)
from protosam.wire.teaching import SegmentClicks, TaughtSegment

MAX_UID = 128
"""Longest identity of a volume, target or adapter in characters."""

MAX_PREWARM = 4096
"""Most slices that one prewarm may ask for."""

MAX_EXAMPLES = 64
"""Most examples that are applied at once."""


class Request:
    """What a host can ask; only its subclasses travel."""

    VERB: ClassVar[str]
    ANSWER: ClassVar[type[Reply]]

    def hears(self, reply: Reply) -> bool:  # noqa: ARG002 - subclasses look at it
        """Whether this reply may come before the answer, as a part of it."""
        return False


def _check_uid(uid: str, name: str) -> None:
    if not 0 < len(uid) <= MAX_UID:
        raise InvalidInput(
            f"The {name} is {len(uid)} characters long, wanted 1 to {MAX_UID}.",
            "Use the uid of the volume as `Volume.uid` gives it.",
        )


@dataclass(frozen=True)
class Greeting(Request):
    """Ask who is there; answered at once, even by a busy worker."""

    VERB: ClassVar[str] = "hello"
    ANSWER: ClassVar[type[Reply]] = Hello

    host_version: str
    """Version of the package at the host's end."""


@dataclass(frozen=True, eq=False)
class OpenVolume(Request):
    """Send a volume; requests name it by its uid from then on."""

    VERB: ClassVar[str] = "open_volume"
    ANSWER: ClassVar[type[Reply]] = VolumeOpened

    uid: str
    """Identity of the content, see `geometry.volume_uid`; trusted, not computed again."""
    voxels: VoxelArray
    """(K, J, I) integers or floats; booleans arrive as uint8."""
    affine: FloatArray
    """(4, 4) float64, (i, j, k, 1) to RAS mm."""

    def __post_init__(self) -> None:
        _check_uid(self.uid, "uid")


@dataclass(frozen=True)
class CloseVolume(Request):
    """Forget a volume; requests that came before still get their answers."""

    VERB: ClassVar[str] = "close_volume"
    ANSWER: ClassVar[type[Reply]] = VolumeClosed

    uid: str
    """Identity as it was opened; an unknown one is no error."""


@dataclass(frozen=True)
class AboutVolume(Request):
    """What is asked about an open volume; only its subclasses travel."""

    volume_uid: str
    """Which volume."""

    def __post_init__(self) -> None:
        _check_uid(self.volume_uid, "uid of the volume")


@dataclass(frozen=True)
class Predict(AboutVolume):
    """Segment one object of an open volume from all of its prompts.

    A newer one of the same `target` supersedes it, whether it waits or runs.
    """

    VERB: ClassVar[str] = "predict"
    ANSWER: ClassVar[type[Reply]] = Result

    prompts: PromptSet
    """All prompts of the object, each time."""
    target: str = ""
    """Identity of the segment at the host; empty = never supersedes nor is superseded."""
    generation: int = 0
    """Number that the host raises with each request of a target; comes back with the result."""
    window: Window | None = None
    """Intensities that become black and white; None lets the worker choose."""
    model: str = ""
    """Name or path of the model; empty = the one in memory, with its adapter."""
    adapter: str = ""
    """Folder of the adapter; empty = none, unless `model` is empty, too."""
    clean_up: CleanUp | None = None
    """How the mask is cleaned; None = the usual way."""
    editable: Extent | None = None
    """The only voxels that the host will write; None = all."""
    partial: bool = False
    """Whether `Partial` replies are wanted while the answer for a volume is made."""
    settled: tuple[str, ...] = ()
    """Ids of prompts whose answer the host shows already; no `Partial` tells of them."""

    def hears(self, reply: Reply) -> bool:
        """Whether this reply may come before the answer, as a part of it."""
        return self.partial and isinstance(reply, Partial)


@dataclass(frozen=True)
class Prewarm(AboutVolume):
    """Embed slices that are likely to be clicked next; makes way for everything else.

    A newer one of the same volume supersedes it.
    """

    VERB: ClassVar[str] = "prewarm"
    ANSWER: ClassVar[type[Reply]] = Prewarmed

    centre_kji: PointKJI
    """Continuous index; the nearest slices come first."""
    axis: int | None = None
    """Array axis across which the slices lie; None = the volume's best."""
    window: Window | None = None
    """As the predictions will have it."""
    count: int = 8
    """How many slices at most, 1 to `MAX_PREWARM`."""
    model: str = ""
    """Name or path of the model; empty = the one in memory, with its adapter."""
    adapter: str = ""
    """Folder of the adapter; empty = none, unless `model` is empty, too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.axis not in (None, 0, 1, 2) or not 0 < self.count <= MAX_PREWARM:
            raise InvalidInput(
                f"Prewarming {self.count} slices across axis {self.axis} is not possible, wanted "
                f"1 to {MAX_PREWARM} slices across axis 0 (k), 1 (j), 2 (i) or None.",
                "Ask for fewer slices.",
            )


@dataclass(frozen=True)
class MakeExample(AboutVolume):
    """Learn finished segments of an open volume, to propose them in others."""

    VERB: ClassVar[str] = "make_example"
    ANSWER: ClassVar[type[Reply]] = ExampleMade

    segments: tuple[TaughtSegment, ...]
    """What is finished; all of it is learnt."""
    model: str = ""
    """Name or path of the model; empty = the one in memory, with its adapter."""
    adapter: str = ""
    """Folder of the adapter; empty = none, unless `model` is empty, too."""


@dataclass(frozen=True)
class ApplyExample(AboutVolume):
    """Propose the segments of examples in an open volume; clicks are answered meanwhile.

    A newer one of the same `target` supersedes it, whether it waits or runs.
    """

    VERB: ClassVar[str] = "apply_example"
    ANSWER: ClassVar[type[Reply]] = ExampleApplied

    examples: tuple[bytes, ...]
    """Contents of `.psexample` files, 1 to `MAX_EXAMPLES`; they are joined."""
    clicks: tuple[SegmentClicks, ...] = ()
    """What the user has clicked already; it always wins. Names that no example has are ignored."""
    target: str = ""
    """Who asks, at the host; empty = never supersedes nor is superseded."""
    generation: int = 0
    """Number that the host raises with each request of a target; comes back with the answer."""
    model: str = ""
    """Name or path of the model; empty = the one in memory, with its adapter."""
    adapter: str = ""
    """Folder of the adapter; empty = none, unless `model` is empty, too."""
    partial: bool = False
    """Whether `ProposedSlices` are wanted; `Proposed` comes in any case."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < len(self.examples) <= MAX_EXAMPLES:
            raise InvalidInput(
                f"{len(self.examples)} examples were given, wanted 1 to {MAX_EXAMPLES}.",
                "Choose fewer, or join them in one file with `protosam example make --merge`.",
            )

    def hears(self, reply: Reply) -> bool:
        """Whether this reply may come before the answer, as a part of it."""
        return isinstance(reply, Proposed) or (self.partial and isinstance(reply, ProposedSlices))


@dataclass(frozen=True)
class Cancel(Request):
    """Give up another request, which is then answered by `Cancelled`."""

    VERB: ClassVar[str] = "cancel"
    ANSWER: ClassVar[type[Reply]] = CancelTaken

    cancels: int
    """Id of that request."""


@dataclass(frozen=True)
class Models(Request):
    """Ask which models there are."""

    VERB: ClassVar[str] = "models"
    ANSWER: ClassVar[type[Reply]] = ModelList


@dataclass(frozen=True)
class LoadModel(Request):
    """Load a model, and an adapter on top of it, in place of the one in memory."""

    VERB: ClassVar[str] = "load_model"
    ANSWER: ClassVar[type[Reply]] = ModelLoaded

    model: str
    """Name, or path of a file or folder with weights."""
    adapter: str = ""
    """Folder of the adapter; empty = none."""


@dataclass(frozen=True)
class Stats(Request):
    """Ask for memory and counts; answered at once, even by a busy worker."""

    VERB: ClassVar[str] = "stats"
    ANSWER: ClassVar[type[Reply]] = StatsReport


@dataclass(frozen=True)
class Shutdown(Request):
    """End the worker: what waits or runs is cancelled, then it says goodbye and exits with 0."""

    VERB: ClassVar[str] = "shutdown"
    ANSWER: ClassVar[type[Reply]] = Goodbye


REQUESTS: dict[str, type[Request]] = {
    "hello": Greeting,
    "open_volume": OpenVolume,
    "close_volume": CloseVolume,
    "predict": Predict,
    "prewarm": Prewarm,
    "make_example": MakeExample,
    "apply_example": ApplyExample,
    "cancel": Cancel,
    "models": Models,
    "load_model": LoadModel,
    "stats": Stats,
    "shutdown": Shutdown,
}
"""Verbs but those about learning, which are `learning.LEARNING_REQUESTS`."""
