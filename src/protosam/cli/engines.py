"""Two ways to the same answer: through the worker, as every host does it, or in this process.

Owns the waiting that a script may do and a window may not. Knows the client and the segmenter,
nothing of files or of text. Masks are cropped to their extent, indices are (k, j, i).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from protosam.cli.options import BUILT_IN_MODEL
from protosam.errors import Cancelled
from protosam.extents import BoolArray, Extent, IndexKJI
from protosam.geometry import Volume
from protosam.intensity import Window
from protosam.mending import CleanUp, CleanUpReport
from protosam.prompts import PromptSet
from protosam.wire.client import ServerAddress, WorkerClient
from protosam.wire.messages import LoadModel, Predict, Progress, Result

GIVE_UP_S = 3.0
"""How long an interrupted request may take to be given up before the worker is left to end."""

OnProgress = Callable[[float, str], None]


@dataclass(frozen=True)
class Job:
    """What to segment in an open volume, and how."""

    prompts: PromptSet
    """All prompts of the object."""
    window: Window | None = None
    """Intensities that become black and white; None = chosen from the image."""
    clean_up: CleanUp = field(default_factory=CleanUp)
    """How the mask is cleaned."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What came back."""

    extent: Extent | None
    """Bounding box of the mask in the volume; None = the mask is empty."""
    crop: BoolArray
    """The mask inside of `extent`."""
    score: float
    """Estimated quality, 0 to 1."""
    window: Window
    """Window that was used."""
    model: str
    """Model that answered."""
    notes: tuple[str, ...]
    """Sentences for the user."""
    elapsed_s: float
    """From asking to having the mask, seen from here."""
    clean_up: CleanUpReport = field(default_factory=CleanUpReport)
    """What each step of the clean-up has done."""

    def mask(self, shape_kji: IndexKJI) -> BoolArray:
        """Mask on the whole grid of the volume, (K, J, I) bool."""
        whole = np.zeros(shape_kji, dtype=bool)
        if self.extent is not None:
            whole[self.extent.slices] = self.crop
        return whole


class Engine(Protocol):
    """Opens volumes and answers jobs; a context manager that frees what it holds."""

    def __enter__(self) -> Engine:
        """Begin to hold a model."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the model go."""
        ...

    def start(self) -> float:
        """Get the model ready; returns the seconds that it took."""
        ...

    def open(self, volume: Volume) -> float:
        """Make a volume known; returns the seconds that it took."""
        ...

    def segment(self, volume: Volume, job: Job, on_progress: OnProgress) -> Answer:
        """Answer a job in a volume that was opened."""
        ...


@dataclass(frozen=True)
class Choice:
    """Which model answers, and where."""

    model: str = BUILT_IN_MODEL
    """Name of a model, or path of a weights file."""
    adapter: str = ""
    """Name or folder of an adapter; empty = none."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    weights_dir: Path | None = None
    """Folder that is searched first for weights."""
    server: ServerAddress | None = None
    """A worker that listens; it has a device and a folder of weights of its own."""


class WorkerEngine:
    """The worker behind its client: a process of its own, or one that listens."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        if choice.server is not None:
            self._client = WorkerClient(choice.server)
            return
        command = [sys.executable, "-m", "protosam.worker", "--device", choice.device]
        if choice.weights_dir is not None:
            command += ["--weights-dir", str(choice.weights_dir.absolute())]
        self._client = WorkerClient([*command, "--model", choice.model])

    def __enter__(self) -> WorkerEngine:
        """Begin to hold a worker; it starts with the first question."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let the worker end."""
        self._client.close()

    def start(self) -> float:
        """Start the worker and load the model; returns seconds."""
        begin = time.perf_counter()
        load = LoadModel(self._choice.model, self._choice.adapter)
        self._client.load_model(load).wait(math.inf)
        return time.perf_counter() - begin

    def open(self, volume: Volume) -> float:
        """Send a volume; returns seconds."""
        begin = time.perf_counter()
        self._client.open_volume(volume).wait(math.inf)
        return time.perf_counter() - begin

    def segment(self, volume: Volume, job: Job, on_progress: OnProgress) -> Answer:
        """Ask the worker and wait; an interrupt from the keyboard cancels the request."""
        request = Predict(
            volume.uid,
            job.prompts,
            window=job.window,
            model=self._choice.model,
            adapter=self._choice.adapter,
            clean_up=job.clean_up,
        )

        def show(progress: Progress) -> None:
            on_progress(progress.fraction, progress.text)

        begin = time.perf_counter()
        pending = self._client.predict(request, on_progress=show)
        try:
            result: Result = pending.wait(math.inf)
        except KeyboardInterrupt:
            pending.cancel()
            pending.wait(GIVE_UP_S)
            raise Cancelled("The request was answered while it was being cancelled.") from None
        return Answer(
            extent=result.extent,
            crop=result.mask(),
            score=result.score,
            window=result.window,
            model=result.model,
            notes=result.notes,
            elapsed_s=time.perf_counter() - begin,
            clean_up=result.clean_up,
        )


class InProcessEngine:
    """The segmenter in this very process: for measuring and for looking into faults."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice

    def __enter__(self) -> InProcessEngine:
        """Begin to hold a model; it is loaded by `start`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held that the end of the process would not free."""

    def start(self) -> float:
        """Load the model; returns seconds."""
        begin = time.perf_counter()
        from protosam.models.load import load_model
        from protosam.models.refiner import builtin_refiner
        from protosam.models.segmenter import Segmenter
        from protosam.models.slice_refiner import builtin_slice_refiner

        choice = self._choice
        model = load_model(
            choice.model,
            adapter=Path(choice.adapter) if choice.adapter else None,
            weights_dir=choice.weights_dir,
            device=choice.device,
        )
        self._name = model.name
        self._segmenter = Segmenter(
            model,
            refiner=builtin_refiner(model.device),
            decoder=builtin_slice_refiner(model.device),
        )
        return time.perf_counter() - begin

    def open(self, volume: Volume) -> float:  # noqa: ARG002 - as every engine has it
        """Nothing needs to be sent."""
        return 0.0

    def segment(self, volume: Volume, job: Job, on_progress: OnProgress) -> Answer:
        """Compute the answer here."""
        from protosam.models.segmenter import SegmentRequest

        begin = time.perf_counter()
        request = SegmentRequest(job.prompts, job.window, job.clean_up, None)
        found = self._segmenter.segment(volume, request, on_progress=on_progress)
        return Answer(
            extent=found.extent,
            crop=found.mask,
            score=found.score,
            window=found.window,
            model=self._name,
            notes=(),
            elapsed_s=time.perf_counter() - begin,
            clean_up=found.clean_up,
        )
