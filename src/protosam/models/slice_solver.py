"""One slice at a time: from the prompts in it, or from its neighbour's answer, to a patch.

Owns how prompts are replayed to a backbone: clicks go in one by one in the order they were made,
each with the answer so far, because that is how backbones of this family are trained. A first
look at the whole slice finds the object; a second, closer look (`planes.focus`) draws it. A slice
that has its answer is mended by one more question: all of its clicks, with that answer as prior.
Where there is a decoder, it corrects the answer for each slice with prompts.
Coordinates are (slice, row, col) of `Planes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from protosam.models.answers import AnswerCache, AnswerKey, prompts_digest
from protosam.models.embeddings import Embedder, EmbeddingKey
from protosam.models.planes import Logits, Patch, Planes, Rect, focus
from protosam.models.slice_model import SliceAnswer, SliceModel, SlicePrompts
from protosam.models.slice_refiner import CorrectsSlices, SeenSlice
from protosam.models.token_grid import HasNeckTokens, NeckTokens

MAX_REPLAYED = 6
"""Clicks of one slice that are replayed one by one; older ones go in together at the start."""

MAX_SHOWN = 3
"""Other slices with prompts, the latest ones, that the decoder's prototype bank is made of."""


@dataclass(frozen=True, eq=False)
class SliceInput:
    """All prompts that lie in one slice.

    Attributes
    ----------
    points_rc : (n, 2) float
        Clicks in the order they were made.
    positive : (n,) bool
    box_rc : (4,) float or None
        First row, first column, last row, last column; inclusive.
    """

    points_rc: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    positive: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    box_rc: npt.NDArray[np.float64] | None = None

    @property
    def starts_object(self) -> bool:
        """Whether the prompts say where the object is, not only where it is not."""
        return self.box_rc is not None or bool(self.positive.any())

    def first(self, count: int) -> SliceInput:
        """Return what was known after the first `count` clicks; the box was there before."""
        return SliceInput(self.points_rc[:count], self.positive[:count], self.box_rc)

    def inside(self, rect: Rect) -> SliceInput:
        """Keep the clicks in a rectangle; all prompts in its own pixels."""
        kept = np.array([rect.holds(p) for p in self.points_rc], dtype=bool)
        offset = np.array([rect.top, rect.left])
        box = None if self.box_rc is None else self.box_rc - np.tile(offset, 2)
        return SliceInput(self.points_rc[kept] - offset, self.positive[kept], box)


@dataclass(frozen=True, eq=False)
class SolvedSlice:
    """The answer for one slice.

    Attributes
    ----------
    patch : Patch
        Logits in the rectangle that was looked at.
    score : float
        Estimated IoU.
    presence : float
        Estimated probability that the object is in this slice.
    """

    patch: Patch
    score: float
    presence: float


class SliceSolver:
    """Answers slices of one volume with one model.

    Parameters
    ----------
    model : SliceModel
    planes : Planes
    embedder : Embedder
    zoom : float
        Side of the closer look in lengths of the object.
    answers : AnswerCache, optional
        Where answers are kept; its own if not given.
    refiner : CorrectsSlices, optional
        Corrects the answers for slices with prompts.
    """

    def __init__(
        self,
        model: SliceModel,
        planes: Planes,
        embedder: Embedder,
        *,
        zoom: float = 2.0,
        answers: AnswerCache | None = None,
        refiner: CorrectsSlices | None = None,
    ) -> None:
        self._model, self._planes, self._embedder = model, planes, embedder
        self._zoom = zoom
        self._answers = AnswerCache() if answers is None else answers
        self._refiner = refiner
        self._shown: dict[int, Patch] = {}  # corrected answers for slices with prompts

    def start(self, index: int, given: SliceInput, prior: Patch | None = None) -> SolvedSlice:
        """Answer a slice from the prompts in it alone (and an earlier mask, if there is one)."""
        return self._corrected(index, given, self._begun(index, given, prior))

    def _begun(self, index: int, given: SliceInput, prior: Patch | None) -> SolvedSlice:
        whole = self._planes.whole
        solved = self._replay(index, whole, given, own=prior, neighbour=None)
        seen = solved.patch.mask_rect
        if seen is None:
            return solved
        rect = focus(self._planes, _with_prompts(seen, given, whole), current=None, zoom=self._zoom)
        if rect == whole:
            return solved
        return self._replay(index, rect, given, own=solved.patch, neighbour=None)

    def follow(
        self,
        index: int,
        given: SliceInput,
        neighbour: SolvedSlice,
        prior: Patch | None = None,
        *,
        ahead: Sequence[int] = (),
    ) -> SolvedSlice:
        """Answer a slice from its neighbour's answer and the prompts in it, if any.

        The slices `ahead` are those to be answered next; if this one has to be embedded, some of
        them are embedded in the same batch.
        """
        seen = neighbour.patch.mask_rect
        if seen is None:
            return self.start(index, given, prior)
        seen = _with_prompts(seen, given, self._planes.whole)
        rect = focus(self._planes, seen, current=neighbour.patch.rect, zoom=self._zoom)
        self._embedder.prefetch([index, *ahead], rect)
        solved = self._replay(index, rect, given, own=prior, neighbour=neighbour.patch)
        return self._corrected(index, given, solved)

    def mend(self, index: int, given: SliceInput, before: SolvedSlice) -> SolvedSlice:
        """Answer a slice anew that had the answer `before`, now that it has these prompts.

        It is one question, as in the rounds of correction that the backbones are trained with.
        """
        seen = before.patch.mask_rect
        if seen is None:
            return self.start(index, given)
        seen = _with_prompts(seen, given, self._planes.whole)
        rect = focus(self._planes, seen, current=before.patch.rect, zoom=self._zoom)
        local = given.inside(rect)
        question = SlicePrompts(
            local.points_rc, local.positive, local.box_rc, before.patch.on(rect), None
        )
        answer = self._ask(index, rect, question)
        solved = SolvedSlice(Patch(rect, answer.logits), answer.score, answer.presence)
        return self._corrected(index, given, solved)

    def tokens(self, index: int, rect: Rect) -> NeckTokens | None:
        """Neck tokens of a rectangle of a slice; None from a backbone that shows none."""
        if not isinstance(self._model, HasNeckTokens):
            return None
        return self._model.neck_tokens(self._embedder.get(index, rect))

    def _corrected(self, index: int, given: SliceInput, solved: SolvedSlice) -> SolvedSlice:
        """Have the answer for a slice with prompts corrected, where something can."""
        local = given.inside(solved.patch.rect)
        prompts = SlicePrompts(local.points_rc, local.positive, local.box_rc)
        # Where nothing was found and nothing asked for, there is nothing to correct.
        found = solved.patch.area > 0 or local.starts_object
        if self._refiner is None or prompts.count == 0 or not found:
            return solved
        patch = self._refiner.corrected(
            SeenSlice(
                patch=solved.patch,
                prompts=prompts,
                grey=self._planes.stack(index, solved.patch.rect, 0)[0],
                spacing_rc_mm=self._planes.spacing_rc_mm,
                shown=self._shown_to_refiner(index, solved.patch),
            )
        )
        self._shown.pop(index, None)  # the latest comes last
        self._shown[index] = patch
        return replace(solved, patch=patch)

    def _shown_to_refiner(
        self, index: int, own: Patch
    ) -> list[tuple[NeckTokens, npt.NDArray[np.bool_]]]:
        """Tokens and answers of this slice, then of the latest others with prompts."""
        others = [(z, patch) for z, patch in self._shown.items() if z != index]
        shown = []
        for z, patch in [(index, own), *others[-MAX_SHOWN:]]:
            grid = self.tokens(z, patch.rect)
            if grid is not None:
                shown.append((grid, patch.logits > 0))
        return shown

    def _replay(
        self,
        index: int,
        rect: Rect,
        given: SliceInput,
        *,
        own: Patch | None,
        neighbour: Patch | None,
    ) -> SolvedSlice:
        local = given.inside(rect)
        beside = None if neighbour is None else neighbour.on(rect)
        before = None if own is None else own.on(rect)
        answer: SliceAnswer | None = None
        for prompts in self._rounds(local, beside, has_prior=before is not None):
            answer = self._ask(index, rect, replace(prompts, prior_logits=before))
            before = answer.logits
        if answer is None:
            patch = Patch(rect, np.full(rect.shape, -8.0, dtype=np.float32))
            return SolvedSlice(patch, 0.0, 0.0)
        return SolvedSlice(Patch(rect, answer.logits), answer.score, answer.presence)

    def _ask(self, index: int, rect: Rect, prompts: SlicePrompts) -> SliceAnswer:
        if not self._model.reads_neighbours:
            prompts = _spelled_out(prompts)
        key = AnswerKey(self._embedding_key(index, rect), prompts_digest(prompts))
        answer = self._answers.get(key)
        if answer is None:
            answer = self._model.predict(self._embedder.get(index, rect), prompts)
            self._answers.put(key, answer)
        return answer

    def _embedding_key(self, index: int, rect: Rect) -> EmbeddingKey:
        planes, model = self._planes, self._model
        window = (planes.window.low, planes.window.high)
        uid, device = planes.volume.uid, model.device.type
        return EmbeddingKey(model.digest, device, uid, window, planes.axis, index, rect)

    def _rounds(
        self, local: SliceInput, beside: Logits | None, *, has_prior: bool
    ) -> list[SlicePrompts]:
        """List the questions to ask one after the other, each with one click more."""
        count = len(local.points_rc)
        first = 1 if local.box_rc is None and beside is None and not has_prior else 0
        if local.box_rc is not None and count and local.positive[0]:
            first = 1  # a box and a click in it belong together
        first = max(first, count - MAX_REPLAYED)
        asked = [
            SlicePrompts(local.points_rc[:n], local.positive[:n], local.box_rc, None, beside)
            for n in range(min(first, count), count + 1)
        ]
        # Negative clicks alone say nothing of where the object is.
        known = local.box_rc is not None or beside is not None or has_prior
        return [p for p in asked if known or p.positive.any()]


def _spelled_out(prompts: SlicePrompts) -> SlicePrompts:
    """Tell a model that knows no neighbours about one: as prior, box and deepest point."""
    beside = prompts.neighbour_logits
    if beside is None or not (beside > 0).any():
        return replace(prompts, neighbour_logits=None)
    patch = Patch(Rect(0, beside.shape[0], 0, beside.shape[1]), beside)
    rect = patch.mask_rect
    if rect is None:
        return replace(prompts, neighbour_logits=None)
    box = np.array([rect.top - 1, rect.left - 1, rect.bottom, rect.right], dtype=float)
    return replace(
        prompts,
        points_rc=np.concatenate([prompts.points_rc, [patch.deepest]]),
        positive=np.append(prompts.positive, True),
        box_rc=prompts.box_rc if prompts.box_rc is not None else box,
        prior_logits=prompts.prior_logits if prompts.prior_logits is not None else beside,
        neighbour_logits=None,
    )


def _with_prompts(seen: Rect, given: SliceInput, whole: Rect) -> Rect:
    """Smallest rectangle with the object, the positive clicks and the box; cut to the slice."""
    corners = [np.array([seen.top, seen.left]), np.array([seen.bottom - 1, seen.right - 1])]
    corners += list(given.points_rc[given.positive])
    if given.box_rc is not None:
        corners += [given.box_rc[:2], given.box_rc[2:]]
    low = np.floor(np.min(corners, axis=0)).astype(int)
    high = np.ceil(np.max(corners, axis=0)).astype(int) + 1
    return Rect(int(low[0]), int(high[0]), int(low[1]), int(high[1])).intersection(whole)
