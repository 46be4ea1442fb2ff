"""The engine of the real worker: verbs to the methods of `models`.

Rules
-----
* One model is in memory, with at most one adapter; asking for another one replaces it.
* The model that was asked for at the start may be missing: the worker starts all the same, says so
  in its notes, and looks again when somebody asks for it.
* What to do when memory runs out is `models.memory_ladder`'s; its sentences are the notes of the
  result.
* What examples, cases and adapters need is imported when they are first asked for.
* Only this module of the worker, `examples` and `learning` reach torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import torch

from protosam.errors import MissingExtra, ModelUnavailable, OutOfMemory
from protosam.extents import pack_bits
from protosam.geometry import Volume
from protosam.mending import CleanUp
from protosam.models.add_ons import find_add_on
from protosam.models.disk_cache import DiskStore, default_folder
from protosam.models.embeddings import EmbeddingCache
from protosam.models.load import DEFAULT_MODEL, load_model
from protosam.models.memory_ladder import memory_errors
from protosam.models.partials import PartialAnswer
from protosam.models.refiner import builtin_refiner
from protosam.models.segmenter import Segmentation, Segmenter, SegmentRequest
from protosam.models.slice_model import SliceModel
from protosam.models.slice_refiner import builtin_slice_refiner
from protosam.models.weights import list_weights
from protosam.wire.messages import (
    Adapt,
    ApplyExample,
    ExampleApplied,
    ExampleMade,
    LoadModel,
    MakeExample,
    ModelInfo,
    ModelLoaded,
    Partial,
    Predict,
    Prewarm,
    Result,
)
from protosam.worker.engine import (
    Course,
    EngineStats,
    Follow,
    Keeping,
    Kept,
    OnPartial,
    OnProgress,
    OnProposed,
    ShouldStop,
)
from protosam.worker.teaching import OwnProcess, Teaching
from protosam.worker.teaching_plan import TeachingPlan

LOADING = "loading what examples need"
"""What is told before the first of them."""

LoadsModel = Callable[..., SliceModel]


@dataclass(frozen=True)
class _Choice:
    """Which model answers, and where."""

    model: str
    adapter: str
    device: str


@dataclass(frozen=True)
class ModelSettings:
    """What the worker was started with."""

    model: str = DEFAULT_MODEL
    """Name or path of the model to load at the start."""
    device: str = "auto"
    """Where to compute, as `models.load.choose_device` understands it."""
    weights_dir: Path | None = None
    """Folder that is searched first for weights."""
    recipe: Mapping[str, int | float] = field(default_factory=dict)
    """Changes to the usual `learn.recipe_settings.RecipeSettings` of runs that teach."""


class ModelEngine:
    """The models, and the embeddings that they have made.

    Parameters
    ----------
    settings : ModelSettings
        What to load first, and where.
    tell : callable
        Gets what is being done while it starts.
    load : callable
        `models.load.load_model`, or a stand-in for it.
    """

    def __init__(
        self,
        settings: ModelSettings,
        tell: Callable[[str], None],
        load: LoadsModel = load_model,
    ) -> None:
        self._settings = settings
        self._load_model = load
        self._cache = EmbeddingCache(disk=DiskStore(default_folder()))
        self._segmenter: Segmenter | None = None
        self._choice = _Choice(settings.model or DEFAULT_MODEL, "", settings.device)
        self._notes: tuple[str, ...] = ()
        tell(f"Loading the model {self._choice.model}.")
        try:
            with memory_errors():
                self._use(self._choice)
        except (ModelUnavailable, OutOfMemory) as error:
            self._notes = (str(error),)

    def notes(self) -> tuple[str, ...]:
        """Sentences for the user about the start."""
        return self._notes

    def stats(self) -> EngineStats:
        """Sizes, from any thread and at any time."""
        segmenter = self._segmenter
        if segmenter is None:
            return EngineStats("", "", self._cache.nbytes)
        model = segmenter.model
        return EngineStats(model.name, str(model.device), self._cache.nbytes)

    def models(self) -> tuple[ModelInfo, ...]:
        """Every model that has a card."""
        loaded = self.stats().model
        return tuple(
            ModelInfo(
                name=status.card.name,
                family=status.card.family,
                licence=status.card.licence,
                available=status.path is not None,
                loaded=status.card.name == loaded,
            )
            for status in list_weights(self._settings.weights_dir)
        )

    def load(self, request: LoadModel, on_progress: OnProgress) -> ModelLoaded:
        """Load a model in place of the one in memory."""
        choice = self._chosen(request.model, request.adapter)
        on_progress(0.0, f"Loading the model {choice.model}.")
        with memory_errors():
            model = self._use(choice).model
        return ModelLoaded(model.name, request.adapter, model.digest, str(model.device))

    def predict(
        self,
        volume: Volume,
        request: Predict,
        on_progress: OnProgress,
        should_stop: ShouldStop,
        on_partial: OnPartial,
    ) -> Result:
        """Segment one object; `errors.Cancelled` if it was stopped."""
        question = SegmentRequest(
            prompts=request.prompts,
            window=request.window,
            clean_up=request.clean_up or CleanUp(),
            editable=request.editable,
        )
        segmenter = self._use(self._chosen(request.model, request.adapter))
        answer = segmenter.segment(
            volume,
            question,
            on_progress=on_progress,
            should_stop=should_stop,
            on_partial=(lambda one: on_partial(_partial_reply(one))) if request.partial else None,
            settled=request.settled,
        )
        return self._result(volume, request, answer)

    def prewarm(self, volume: Volume, request: Prewarm, should_stop: ShouldStop) -> int:
        """Embed slices until stopped; return how many."""
        return self._use(self._chosen(request.model, request.adapter)).prewarm(
            volume,
            request.axis,
            request.centre_kji,
            window=request.window,
            count=request.count,
            should_stop=should_stop,
        )

    def make_example(
        self,
        volume: Volume,
        request: MakeExample,
        on_progress: OnProgress,
        should_stop: ShouldStop,
    ) -> ExampleMade:
        """Learn finished segments; `errors.Cancelled` if it was stopped."""
        segmenter = self._use(self._chosen(request.model, request.adapter))
        on_progress(0.0, LOADING)
        follow = Follow(on_progress, should_stop)
        made: ExampleMade = _examples().make(segmenter, volume, request, follow)
        return made

    def apply_example(
        self,
        volume: Volume,
        request: ApplyExample,
        on_progress: OnProgress,
        should_stop: ShouldStop,
        on_proposed: OnProposed,
    ) -> ExampleApplied:
        """Propose the segments of examples; `errors.Cancelled` if it was stopped."""
        segmenter = self._use(self._chosen(request.model, request.adapter))
        on_progress(0.0, LOADING)
        follow = Follow(on_progress, should_stop, on_proposed)
        done: ExampleApplied = _examples().apply(segmenter, volume, request, follow)
        return done

    def forget(self, uid: str) -> None:
        """Drop what is kept of a volume."""
        if self._segmenter is not None:
            self._segmenter.forget_volume(uid)

    def keep(self, request: Keeping, volume: Volume | None) -> Kept:
        """Save or look up cases and adapters."""
        done: Kept = _keeping().answer(request, volume)
        return done

    def course(self, request: Adapt) -> Course:
        """Prepare a run that teaches, in a process of its own with a thread less than this one."""
        plan = TeachingPlan(
            request,
            request.model or self._choice.model,
            self._choice.device,
            self._settings.weights_dir,
            max(1, torch.get_num_threads() - 1),
            self._settings.recipe,
        )
        return OwnProcess(Teaching(plan))

    def _chosen(self, model: str, adapter: str) -> _Choice:
        """Choice of a request: no name means the model in memory, with its adapter.

        A named adapter means its version in use, which may be another than at the last request.
        """
        adapter = str(find_add_on(Path(adapter), ("shift",))) if adapter else ""
        if not model:
            return replace(self._choice, adapter=adapter or self._choice.adapter)
        if (model, adapter) == (self._choice.model, self._choice.adapter):
            return self._choice
        return _Choice(model, adapter, self._settings.device)

    def _use(self, choice: _Choice) -> Segmenter:
        """Segmenter of a choice, loaded now if it is not the one in memory."""
        if self._segmenter is None or choice != self._choice:
            model = self._load_model(
                choice.model,
                adapter=Path(choice.adapter) if choice.adapter else None,
                weights_dir=self._settings.weights_dir,
                device=choice.device,
            )
            self._segmenter = Segmenter(
                model,
                cache=self._cache,
                refiner=builtin_refiner(model.device),
                decoder=builtin_slice_refiner(model.device),
            )
            self._choice = choice
        return self._segmenter

    def _result(self, volume: Volume, request: Predict, answer: Segmentation) -> Result:
        model = self._use(self._choice).model
        return Result(
            volume_uid=volume.uid,
            target=request.target,
            generation=request.generation,
            extent=answer.extent,
            bits=b"" if answer.extent is None else pack_bits(answer.mask),
            score=answer.score,
            slice_scores=answer.slice_scores,
            axis=answer.axis,
            window=answer.window,
            model=model.name,
            digest=model.digest,
            timings_s={"total": answer.elapsed_s},
            notes=answer.notes,
            clean_up=answer.clean_up,
        )


def _examples() -> ModuleType:
    """Import what is needed for examples.

    Late, because its libraries take 1 to 5 s to import and are needed for nothing else: a worker
    whose Python lacks them still answers clicks.
    """
    try:
        from protosam.worker import examples  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"Examples need the library {error.name}, which the worker's Python lacks.",
            "Install POT, scikit-learn and SimpleITK there, then try again.",
        ) from error
    return examples


def _keeping() -> ModuleType:
    """Import what is needed for cases and adapters; late, for the same reasons, 0.5 s."""
    try:
        from protosam.worker import keeping  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"Cases need the library {error.name}, which the worker's Python lacks.",
            "Install nibabel, SimpleITK and pydicom there, then try again.",
        ) from error
    return keeping


def _partial_reply(answer: PartialAnswer) -> Partial:
    bits = b"" if answer.extent is None else pack_bits(answer.mask)
    return Partial(answer.axis, answer.slices, answer.extent, bits)
