"""An example applied to another image: proposals without a click.

Owns the way from an example and a volume to one proposal for each segment: describe the volume,
align the cases, find anchors and masks in single slices, carry the best of them through the
volume, keep the one nearest to the reference, and say for each slice how sure that is. Knows
nothing of windows, files or threads; hosts give `on_progress`, `on_slice` and `should_stop`.
Masks are (k, j, i); anchors are (slice, row, col).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from protosam.errors import Cancelled
from protosam.extents import Extent, bounding_extent
from protosam.geometry import Volume
from protosam.intensity import auto_window
from protosam.models.embeddings import Embedder, EmbeddingCache
from protosam.models.planes import Planes
from protosam.models.refiner import Refines
from protosam.models.segmenter import Segmenter
from protosam.models.slice_axis import choose_axis
from protosam.models.slice_model import SliceModel
from protosam.models.stages import Stages
from protosam.prompting.align import Alignment, align, box_alignment
from protosam.prompting.cloud import describe
from protosam.prompting.example import Example, Lesson
from protosam.prompting.methods import METHODS, Method
from protosam.prompting.modality import likeness_note
from protosam.prompting.pursue import Follow, Pursuit, pursue
from protosam.prompts import PromptSet

OnProgress = Callable[[float, str], None]

QUICK = Stages(further_views=False, walk=False)
"""What candidates are compared by; the one that is kept is answered in full."""

DESCRIBING = 0.3
"""Share of the progress until the volume is described."""


@dataclass(frozen=True, eq=False)
class PartialSlice:
    """A slice of a proposal that is on its way; a later one of the same slice replaces it."""

    name: str
    """Of the segment."""
    axis: int
    """Array axis across which the slice lies."""
    index: int
    mask: npt.NDArray[np.bool_]
    """(rows, columns) of the whole slice."""
    confidence: float
    """0..1, see `Proposal.confidences`."""


@dataclass(frozen=True, eq=False)
class Proposal:
    """What an example proposes for one segment.

    Attributes
    ----------
    name, terminology, colour
        Of the segment, as the example has them.
    extent : Extent or None
        Bounding box of the mask; None where the object was not found.
    mask : (k, j, i) bool
        Within `extent`.
    axis : int
        Array axis across which the slices lie.
    confidences : slice -> float
        1 where a slice is as like the reference as its own slices are to each other, towards 0
        where it is not. Sort by it to look at the doubtful ones first.
    distance : float
        Of the whole from the reference, by optimal transport.
    notes : tuple of str
        What the user should know, as sentences.
    prompts : PromptSet
        The clicks that were found (ids begin with ``example-``) with those of the user; editing
        can go on from them.
    elapsed_s : float
    """

    name: str
    terminology: str
    colour: tuple[float, float, float]
    extent: Extent | None
    mask: npt.NDArray[np.bool_]
    axis: int
    confidences: dict[int, float]
    distance: float
    notes: tuple[str, ...]
    prompts: PromptSet
    elapsed_s: float

    @property
    def confidence(self) -> float:
        """Mean over the slices; 0 where nothing was found."""
        return float(np.mean(list(self.confidences.values()))) if self.confidences else 0.0

    def full_mask(self, shape_kji: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
        """Put the mask on the whole grid (K, J, I)."""
        out = np.zeros(shape_kji, dtype=bool)
        if self.extent is not None:
            out[self.extent.slices] = self.mask
        return out


@dataclass(frozen=True)
class Wish:
    """How an example is applied."""

    method: Method = METHODS["p2sam"]
    """One of `methods.METHODS`."""
    user: Mapping[str, PromptSet] = field(default_factory=dict)
    """What the user has clicked for a segment already, by its name; it always wins."""
    refiner: Refines | None = None
    """The 3-D head, which corrects what is proposed as it corrects answers to clicks."""


@dataclass(frozen=True)
class Hooks:
    """How a host follows the work and ends it."""

    on_progress: OnProgress = field(default=lambda _fraction, _text: None)
    on_slice: Callable[[PartialSlice], None] = field(default=lambda _partial: None)
    on_proposal: Callable[[Proposal], None] = field(default=lambda _proposal: None)
    should_stop: Callable[[], bool] = field(default=lambda: False)


def apply_example(
    model: SliceModel,
    volume: Volume,
    example: Example,
    *,
    wish: Wish | None = None,
    hooks: Hooks | None = None,
    cache: EmbeddingCache | None = None,
) -> tuple[Proposal, ...]:
    """Propose the segments of an example in another image.

    Parameters
    ----------
    model : SliceModel
        The one that the example was made with.
    volume : Volume
    example : Example
    wish : Wish, optional
        Method and the user's own clicks.
    hooks : Hooks, optional
    cache : EmbeddingCache, optional
        Where embeddings are looked up and kept.

    Returns
    -------
    tuple of Proposal
        One for each segment, in the order of the example.

    Raises
    ------
    InvalidInput
        If the example holds another model's features, or the volume shows nothing.
    InvalidPrompt
        If a click of the user lies outside of the volume.
    Cancelled
        If `should_stop` said so.
    """
    example.check_model(model)
    asked = wish or Wish()
    method, user = asked.method, asked.user
    for prompts in user.values():
        prompts.check_inside(volume.shape_kji)
    own = hooks or Hooks()
    planes = Planes(volume, choose_axis(PromptSet(), volume), auto_window(volume.voxels))
    kept = EmbeddingCache() if cache is None else cache
    embedder = Embedder(model, planes, kept)
    cloud = describe(
        model,
        planes,
        embedder,
        on_progress=lambda done: own.on_progress(DESCRIBING * done, "describing the image"),
        should_stop=own.should_stop,
    )
    maker = box_alignment if method.points == "none" else align
    alignments = [maker(case.landmarks, cloud) for case in example.cases]
    pursuit = Pursuit(
        Segmenter(model, cache=kept, refiner=asked.refiner),
        Segmenter(model, cache=kept, stages=QUICK),
        planes,
        embedder,
        cloud,
        method,
    )
    note = likeness_note(example, cloud)
    proposals = []
    for n, lesson in enumerate(example.lessons):
        if own.should_stop():
            raise Cancelled("The work was cancelled.", "Apply the example anew.")
        share = (1 - DESCRIBING) / len(example.lessons)
        stage = _stage(own, lesson, DESCRIBING + n * share, share)
        proposal = _propose(pursuit, lesson, alignments, user.get(lesson.name), stage)
        proposal = replace(proposal, notes=(*note, *proposal.notes))
        proposals.append(proposal)
        own.on_proposal(proposal)
    own.on_progress(1.0, "done")
    return tuple(proposals)


def _stage(hooks: Hooks, lesson: Lesson, start: float, share: float) -> Hooks:
    """Hooks whose progress is a part of the whole."""
    return replace(
        hooks,
        on_progress=lambda done, text: hooks.on_progress(
            start + share * done, f"{lesson.name}: {text}"
        ),
    )


def _propose(
    pursuit: Pursuit,
    lesson: Lesson,
    alignments: list[Alignment],
    user: PromptSet | None,
    hooks: Hooks,
) -> Proposal:
    begun = time.monotonic()
    axis = pursuit.planes.axis

    def show(index: int, mask: npt.NDArray[np.bool_], confidence: float) -> None:
        hooks.on_slice(PartialSlice(lesson.name, axis, index, mask, confidence))

    found = pursue(
        pursuit,
        lesson,
        alignments,
        user or PromptSet(),
        Follow(hooks.on_progress, hooks.should_stop, show),
    )
    box = bounding_extent(found.mask)
    return Proposal(
        name=lesson.name,
        terminology=lesson.terminology,
        colour=lesson.colour,
        extent=box,
        mask=np.zeros((0, 0, 0), dtype=bool) if box is None else found.mask[box.slices].copy(),
        axis=axis,
        confidences=found.confidences,
        distance=found.distance,
        notes=found.notes,
        prompts=found.prompts,
        elapsed_s=time.monotonic() - begun,
    )
