"""The main job: a volume and its prompts in, a 3-D mask out.

Owns the choice of the slice axis, the translation of prompts to slices, and the order of the
work. The answer follows from the request alone; caches only make it faster. Array order is
(k, j, i) at the border and (slice, row, col) inside.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from protosam.errors import InvalidInput
from protosam.extents import Extent
from protosam.geometry import Volume
from protosam.intensity import Window, auto_window
from protosam.mending import CleanUp, CleanUpReport
from protosam.models.answers import AnswerCache
from protosam.models.bank_maps import membership_field
from protosam.models.embeddings import Embedder, EmbeddingCache
from protosam.models.finish import finished
from protosam.models.memory_ladder import MemoryLadder
from protosam.models.partials import OnPartial, PartialWish
from protosam.models.planes import Planes
from protosam.models.propagate import Propagation, SweepInput, ends
from protosam.models.random_walk import WALK_FROM, walked
from protosam.models.refiner import Refines
from protosam.models.slice_axis import choose_axis
from protosam.models.slice_model import SliceModel
from protosam.models.slice_refiner import CorrectsSlices
from protosam.models.slice_solver import SliceInput, SliceSolver, SolvedSlice
from protosam.models.stages import Stages
from protosam.models.sweep_input import (
    box_in_slice,
    editable_part,
    refuse_without_object,
    slice_of,
    sweep_input,
)
from protosam.models.views import Field, View, field_of, further_views, fused
from protosam.prompts import Point, PromptSet

OnProgress = Callable[[float, str], None]


@dataclass(frozen=True)
class SegmentRequest:
    """One question; see `Segmenter.segment`."""

    prompts: PromptSet
    """Everything the user has asked for so far."""
    window: Window | None = None
    """Intensities to look at; None chooses by `auto_window`."""
    clean_up: CleanUp = field(default_factory=CleanUp)
    """Morphology after the model."""
    editable: Extent | None = None
    """Voxels outside this box stay out of the answer."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """One answer.

    Attributes
    ----------
    extent : Extent or None
        Bounding box of the mask in the volume; None when the mask is empty.
    mask : (k, j, i) bool
        The mask within `extent`; of no voxels when it is empty.
    score : float
        Estimated IoU in the prompted slices, 0..1.
    slice_scores : slice -> float
        Estimated IoU in every answered slice across `axis`.
    axis : int
        Array axis across which the slices lie.
    elapsed_s : float
    window : Window
        The window that was used.
    notes : tuple of str
        What had to be given up because memory ran out, as sentences.
    clean_up : CleanUpReport
    """

    extent: Extent | None
    mask: npt.NDArray[np.bool_]
    score: float
    slice_scores: dict[int, float]
    axis: int
    elapsed_s: float
    window: Window
    notes: tuple[str, ...] = ()
    clean_up: CleanUpReport = field(default_factory=CleanUpReport)

    def full_mask(self, shape_kji: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Put the mask on the whole grid (K, J, I)."""
        out = np.zeros(tuple(shape_kji), dtype=bool)
        if self.extent is not None:
            out[self.extent.slices] = self.mask
        return out


@dataclass(frozen=True, eq=False)
class _Job:
    """What all views of one request share."""

    volume: Volume
    prompts: PromptSet
    window: Window
    should_stop: Callable[[], bool]
    report: OnProgress
    partials: PartialWish | None = None


@dataclass(frozen=True, eq=False)
class _Look:
    """The answer of one view."""

    field: Field
    membership: Field | None
    score: float
    slice_scores: dict[int, float]
    can_be_checked: bool


class Segmenter:
    """Segments volumes with one model.

    Parameters
    ----------
    model : SliceModel
    cache : EmbeddingCache, optional
        Shared by several segmenters if given.
    refiner : Refines, optional
        Corrects answers for volumes in 3-D.
    decoder : CorrectsSlices, optional
        Corrects slices that are answered alone.
    stages : Stages, optional
        What may follow the first sweep; all if not given.
    """

    def __init__(
        self,
        model: SliceModel,
        *,
        cache: EmbeddingCache | None = None,
        refiner: Refines | None = None,
        decoder: CorrectsSlices | None = None,
        stages: Stages | None = None,
    ) -> None:
        self.model = model
        self._stages = stages or Stages()
        # Both were trained on answers of a model that follows objects, and on no others.
        self.refiner = refiner if model.reads_neighbours else None
        self._decoder = decoder if model.reads_neighbours and self._stages.decoder else None
        # Others were not trained to follow an object, and embed a slice in seconds.
        self.further_views = self._stages.further_views and model.reads_neighbours
        self.cache = EmbeddingCache() if cache is None else cache
        self._answers = AnswerCache()
        self._windows: dict[str, Window] = {}
        self._ladder = MemoryLadder(model, self._drop_caches)

    def segment(
        self,
        volume: Volume,
        request: SegmentRequest,
        *,
        on_progress: OnProgress | None = None,
        should_stop: Callable[[], bool] | None = None,
        on_partial: OnPartial | None = None,
        settled: Collection[str] = (),
    ) -> Segmentation:
        """Answer a request.

        Parameters
        ----------
        volume : Volume
        request : SegmentRequest
        on_progress : (fraction 0..1, text) -> None, optional
        should_stop : () -> bool, optional
            Asked before every slice.
        on_partial : (PartialAnswer) -> None, optional
            Gets the slices of an answer for a volume as they come, see `partials`.
        settled : ids, optional
            Prompts whose answer is shown already; `on_partial` gets nothing of them.

        Raises
        ------
        InvalidPrompt
            If there is no prompt that says where the object is, or one lies outside.
        Cancelled
            If `should_stop` said so.
        OutOfMemory
            If there is too little even for one slice at a time on the CPU.
        """
        begun = time.monotonic()
        request.prompts.check_inside(volume.shape_kji)
        refuse_without_object(request.prompts)
        report = on_progress or (lambda _fraction, _text: None)
        notes: list[str] = []

        def tell(note: str) -> None:
            notes.append(note)
            report(0.0, note)

        wish = None
        if on_partial is not None and request.prompts.scope == "volume":
            wish = PartialWish(
                on_partial,
                editable_part(request.prompts, volume.shape_kji, request.editable),
                settled,
            )
        stop = should_stop or (lambda: False)
        answer = self._ladder.run(lambda: self._answer(volume, request, report, stop, wish), tell)
        report(1.0, "done")
        return replace(answer, elapsed_s=time.monotonic() - begun, notes=tuple(notes))

    def prewarm(
        self,
        volume: Volume,
        axis: int | None,
        centre_kji: Sequence[float],
        *,
        window: Window | None,
        count: int,
        should_stop: Callable[[], bool],
    ) -> int:
        """Embed slices round a place, nearest first, until told to stop.

        Returns
        -------
        int
            Number of slices embedded anew.
        """
        chosen = choose_axis(PromptSet(), volume) if axis is None else axis
        planes = Planes(volume, chosen, self._window(volume, window))
        centre = slice_of(planes.turn(centre_kji)[0], planes)
        near = sorted(range(planes.depth), key=lambda z: (abs(z - centre), z))[:count]

        def embed() -> int:
            embedder = self._embedder(planes)
            made = 0
            for index in near:
                if should_stop():
                    break
                if not embedder.has(index, planes.whole):
                    embedder.get(index, planes.whole)
                    made += 1
            return made

        return self._ladder.run(embed, lambda _note: None)

    def forget_volume(self, uid: str) -> None:
        """Drop what is cached of a volume that was closed."""
        self.cache.forget_volume(uid)
        self._answers.forget_volume(uid)
        self._windows.pop(uid, None)

    def _answer(
        self,
        volume: Volume,
        request: SegmentRequest,
        report: OnProgress,
        should_stop: Callable[[], bool],
        wish: PartialWish | None,
    ) -> Segmentation:
        """Answer a request, but for the time that it took."""
        window = self._window(volume, request.window)
        axis = choose_axis(request.prompts, volume)
        job = _Job(volume, request.prompts, window, should_stop, report)
        checked = self.further_views and request.prompts.scope == "volume"
        share = (0.0, 0.4 if checked else 0.95)
        first = self._look(replace(job, partials=wish), View(axis), share, bank=self._reads_bank)
        fields = [first.field]
        if checked and first.can_be_checked:
            views = further_views(volume, axis, first.field.extent)
            ends_at = np.linspace(0.4, 0.95, len(views) + 1)
            shares = itertools.pairwise(float(end) for end in ends_at)
            fields += [
                self._look(job, view, share).field
                for view, share in zip(views, shares, strict=True)
            ]
        done = finished(
            volume,
            self._settled(job, fields, first, axis),
            request.prompts,
            settings=request.clean_up,
            editable=request.editable,
            axis=axis,
        )
        return Segmentation(
            extent=done.extent,
            mask=done.mask,
            score=first.score,
            slice_scores=first.slice_scores,
            axis=axis,
            elapsed_s=0.0,
            window=window,
            clean_up=done.report,
        )

    def _settled(self, job: _Job, fields: Sequence[Field], first: _Look, axis: int) -> Field:
        """Make one answer of the views': the mean, the head's correction, the random walk."""
        if job.prompts.scope != "volume" or not first.can_be_checked:
            return fused(fields)
        points, head = job.prompts.points, self.refiner if self._stages.head else None
        if head is None:
            whole = fused(fields)
        else:
            whole = head.refined(job.volume, fields, first.membership, points, job.window)
        if self._stages.walk and (len(points) >= WALK_FROM or head is None):
            whole = walked(job.volume, whole, points, window=job.window, axis=axis)
        return whole

    def _look(
        self, job: _Job, view: View, share: tuple[float, float], *, bank: bool = False
    ) -> _Look:
        """Answer the prompts in the slices across one axis; `share` is its part of the progress.

        With `bank`, the looks of the prompted slices are read in all others too.
        """
        planes = Planes(job.volume, view.axis, job.window)
        solver = self._solver(planes, alone=job.prompts.scope == "slice")
        prompts = self._in_one_axis(job.volume, job.prompts, planes)
        start = sweep_input(planes, prompts, view.stride)
        total, (low, high) = max(1, len(start.regular())), share
        wish = job.partials
        partials = None if wish is None else wish.stream(planes, prompts, start)
        run = Propagation(
            solver,
            start,
            should_stop=job.should_stop,
            on_slice=lambda n: job.report(low + (high - low) * min(1.0, n / total), f"{n} slices"),
            on_solved=partials,
        )
        solved = run.clicked_slices() if prompts.scope == "slice" else run.whole_object()
        if partials is not None:
            partials.flush()
        shown = {
            z: s for z, s in solved.items() if z in start.given or z in start.prior or not ends(s)
        }
        if not shown:
            raise InvalidInput("No slice was answered.", "Click on the object first.")
        return _Look(
            field=field_of(planes, shown, view),
            membership=membership_field(solver, planes, shown, start.given, view) if bank else None,
            score=_prompted_score(solved, start),
            slice_scores={z: s.score for z, s in sorted(solved.items())},
            can_be_checked=not start.prior,
        )

    @property
    def _reads_bank(self) -> bool:
        return self.refiner is not None and self._stages.head and self._stages.bank

    def _solver(self, planes: Planes, *, alone: bool = False) -> SliceSolver:
        """Make what answers slices; the decoder corrects those that are answered `alone`."""
        embedder, decoder = self._embedder(planes), self._decoder if alone else None
        return SliceSolver(self.model, planes, embedder, answers=self._answers, refiner=decoder)

    def _drop_caches(self) -> None:
        self.cache.clear()
        self._answers.clear()

    def _embedder(self, planes: Planes) -> Embedder:
        return Embedder(self.model, planes, self.cache, one_at_a_time=self._ladder.one_at_a_time)

    def _in_one_axis(self, volume: Volume, prompts: PromptSet, planes: Planes) -> PromptSet:
        """Replace boxes drawn in slices of another axis by the deepest point found in them."""
        for box in prompts.boxes:
            if box.axis is None or box.axis == planes.axis:
                continue
            across = Planes(volume, box.axis, planes.window)
            solver = self._solver(across)
            index = slice_of(across.turn(box.low_kji)[0], across)
            answer = solver.start(index, SliceInput(box_rc=box_in_slice(across, box))).patch
            place = across.unturn_point((index, *answer.deepest))
            point = Point(place, True, f"{box.id}-inside")
            prompts = prompts.without(box.id).with_point(point)
        return prompts

    def _window(self, volume: Volume, given: Window | None) -> Window:
        if given is not None:
            return given
        if volume.uid not in self._windows:
            self._windows[volume.uid] = auto_window(volume.voxels)
        return self._windows[volume.uid]


def _prompted_score(solved: dict[int, SolvedSlice], start: SweepInput) -> float:
    scores = [
        solved[z].score
        for z, given in start.given.items()
        if z in solved and (given.starts_object or solved[z].patch.area)
    ]
    return float(np.mean(scores)) if scores else 0.0
