"""The engines that the click robot compares, by name.

Owns the choice of an engine and the one that runs this project's own models in this
process. Masks are on the volume's whole grid, (K, J, I); prompts are (k, j, i).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from protosam.baselines import GrowFromSeeds, RandomWalker
from protosam.errors import InvalidInput
from protosam.extents import BoolArray
from protosam.geometry import Volume
from protosam.mending import CleanUp
from protosam.models.load import DEFAULT_MODEL, load_model
from protosam.models.refiner import Refiner, builtin_refiner
from protosam.models.segmenter import Segmenter, SegmentRequest
from protosam.models.slice_model import SliceModel
from protosam.models.slice_refiner import SliceRefiner, builtin_slice_refiner
from protosam.models.stages import Stages
from protosam.prompts import PromptSet
from protosam.robot import Engine, Plane

STAGES = {
    "views": "further_views",
    "bank": "bank",
    "head": "head",
    "walk": "walk",
    "decoder": "decoder",
    "clean-up": "clean_up",
}
"""What can be left out of the engine ``protosam``, by the names that ``--without`` takes."""

_NO_CLEAN_UP = CleanUp(remove_islands=False, fill_holes=False)


@dataclass(frozen=True)
class EngineChoice:
    """Which engine plays, and with which model."""

    engine: str = "protosam"
    """Key of `ENGINES`."""
    model: str = DEFAULT_MODEL
    """Name, folder or file of the model; for the engine ``protosam`` only."""
    adapter: str | None = None
    """Folder of a LoRA adapter, if any."""
    weights_dir: Path | None = None
    """Folder searched first for weights."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1`` ..."""
    keep_cache: bool = False
    """Keep embeddings from one object of a case to the next. Faster with a large encoder, but
    then the time of the first click is not that of a user's first click."""
    without: frozenset[str] = frozenset()
    """Stages of the engine ``protosam`` that are left out, keys of `STAGES`: what they are worth
    is what is lost without them."""
    region_mm: float | None = None
    """Margin of the classical engines' working region in mm; their own where None. As large
    as the image, the frame lies on its faces."""

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise InvalidInput(
                f"There is no engine {self.engine!r}.", f"Give one of {', '.join(ENGINES)}."
            )
        unknown = sorted(self.without - set(STAGES))
        if unknown:
            raise InvalidInput(
                f"There is no stage {unknown[0]!r} to leave out.",
                f"Give one of {', '.join(STAGES)}.",
            )


class ProtoSamEngine:
    """The project's own segmenter with one loaded model, as the worker runs it.

    Parameters
    ----------
    model : SliceModel
        Loaded, on its device.
    refiner : Refiner, optional
        Corrects answers for volumes; on the model's device.
    decoder : SliceRefiner, optional
        Corrects slices that are answered alone; on the model's device.
    without : frozenset of str, optional
        Stages that are left out, see `EngineChoice`.
    keep_cache : bool, optional
        Keep embeddings between objects, see `EngineChoice`.
    """

    name = "protosam"

    def __init__(
        self,
        model: SliceModel,
        *,
        refiner: Refiner | None = None,
        decoder: SliceRefiner | None = None,
        without: frozenset[str] = frozenset(),
        keep_cache: bool = False,
    ) -> None:
        self._model, self._refiner, self._decoder = model, refiner, decoder
        self._without = without
        self._keep_cache = keep_cache
        self._clean_up = _NO_CLEAN_UP if "clean-up" in without else CleanUp()
        self._segmenter = self._fresh()
        self._volume: Volume | None = None

    def settings(self) -> dict[str, str | float]:
        """Return what the report says of the engine."""
        return {
            "model": self._model.name,
            "digest": self._model.digest,
            "device": str(self._model.device),
            "head": "none" if self._refiner is None else self._refiner.digest,
            "decoder": "none" if self._decoder is None else self._decoder.digest,
            "without": " ".join(sorted(self._without)),
            "keep_cache": self._keep_cache,
        }

    def begin(self, volume: Volume, plane: Plane | None) -> None:  # noqa: ARG002 - see answer
        """Take a new object, with nothing embedded unless the cache is kept."""
        self._volume = volume
        if not self._keep_cache:
            self._segmenter = self._fresh()

    def answer(self, prompts: PromptSet) -> BoolArray:
        """Return the object that the prompts mean, (K, J, I) bool.

        The prompts say by themselves whether one slice or the volume is wanted; the model
        may look at the neighbours of a slice that is played alone.

        Raises
        ------
        InvalidInput
            There is no image, or the prompts cannot be obeyed.
        """
        if self._volume is None:
            raise InvalidInput("The engine has no image yet.", "Call begin before answer.")
        found = self._segmenter.segment(
            self._volume, SegmentRequest(prompts, clean_up=self._clean_up)
        )
        return found.full_mask(self._volume.shape_kji)

    def _fresh(self) -> Segmenter:
        left_out = {STAGES[name]: False for name in self._without if name != "clean-up"}
        return Segmenter(
            self._model, refiner=self._refiner, decoder=self._decoder, stages=Stages(**left_out)
        )


def make_engine(choice: EngineChoice) -> Engine:
    """Return the engine, with its model loaded.

    Raises
    ------
    MissingExtra
        A library of the engine is not installed.
    ModelUnavailable
        The model cannot be loaded.
    """
    return ENGINES[choice.engine](choice)


def _protosam(choice: EngineChoice) -> Engine:
    adapter = None if choice.adapter is None else Path(choice.adapter)
    model = load_model(
        choice.model, adapter=adapter, weights_dir=choice.weights_dir, device=choice.device
    )
    return ProtoSamEngine(
        model,
        refiner=builtin_refiner(model.device),
        decoder=builtin_slice_refiner(model.device),
        without=choice.without,
        keep_cache=choice.keep_cache,
    )


ENGINES: dict[str, Callable[[EngineChoice], Engine]] = {
    "protosam": _protosam,
    "grow-from-seeds": lambda choice: GrowFromSeeds(region_mm=choice.region_mm),
    "random-walker": lambda choice: RandomWalker(region_mm=choice.region_mm),
}
"""Makers of the engines, by the name that ``--engine`` takes."""
