"""Examples in the worker: finished segments to the bytes of a file, and such bytes to proposals.

Rules
-----
* The science is `protosam.prompting`'s; here are only the wire's forms of it.
* It is imported when the first example is asked for: it brings POT, scikit-learn and SimpleITK.
* Files go through a private folder that is gone at once: `example_file` checks what it reads, and
  knows paths only. What it reads came over the wire and is not trusted.
* Slices of a proposal are told in groups, and not those of one that is ready anyway.
* Indices are (k, j, i).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from protosam.errors import GeometryError, StorageFailure
from protosam.extents import BoolArray, Extent, bounding_extent, pack_bits
from protosam.geometry import Volume
from protosam.intensity import Window, auto_window
from protosam.models.memory_ladder import memory_errors
from protosam.models.segmenter import Segmenter
from protosam.models.slice_model import SliceModel
from protosam.prompting.apply import Hooks, PartialSlice, Proposal, Wish, apply_example
from protosam.prompting.example import Example, merged
from protosam.prompting.example_file import ENDING, load_example, save_example
from protosam.prompting.making import make_example
from protosam.seg_nrrd import DEFAULT_TERMINOLOGY, Segment
from protosam.wire.messages import (
    ApplyExample,
    ExampleApplied,
    ExampleMade,
    MakeExample,
    Proposed,
    ProposedSlices,
    TaughtSegment,
)
from protosam.worker.engine import Follow

TELL_EVERY_S = 0.12
"""Shortest time between two groups of slices."""

Made = TypeVar("Made")


def make(segmenter: Segmenter, volume: Volume, request: MakeExample, follow: Follow) -> ExampleMade:
    """Learn finished segments.

    Raises
    ------
    InvalidInput
        There is no segment, or two have one name.
    GeometryError
        A segment lies outside of the volume.
    Cancelled
        `should_stop` said so.
    """
    model = segmenter.model
    segments = [_segment(one, volume) for one in request.segments]
    with memory_errors():
        example = make_example(
            model,
            volume,
            segments,
            on_progress=follow.on_progress,
            should_stop=follow.should_stop,
            cache=segmenter.cache,
        )
    names = tuple(one.name for one in example.lessons)
    return ExampleMade(_content(example), names, model.name, model.digest)


def apply(
    segmenter: Segmenter, volume: Volume, request: ApplyExample, follow: Follow
) -> ExampleApplied:
    """Propose the segments of examples, telling each as soon as it is made.

    Raises
    ------
    UnreadableFile
        An example is damaged, or none at all.
    InvalidInput
        An example holds another model's features.
    InvalidPrompt
        A click lies outside of the volume.
    Cancelled
        `should_stop` said so.
    """
    started_s = time.monotonic()
    model = segmenter.model
    example = merged(_examples(request.examples))
    names = tuple(one.name for one in example.lessons)
    user = {one.name: one.prompts for one in request.clicks if one.name in names}
    teller = _Teller(follow, model, volume, wants_slices=request.partial)
    hooks = Hooks(teller.progress, teller.slice, teller.proposal, follow.should_stop)
    wish = Wish(user=user, refiner=segmenter.refiner)
    with memory_errors():
        apply_example(model, volume, example, wish=wish, hooks=hooks, cache=segmenter.cache)
    return ExampleApplied(
        volume_uid=volume.uid,
        target=request.target,
        generation=request.generation,
        names=names,
        model=model.name,
        digest=model.digest,
        elapsed_s=time.monotonic() - started_s,
    )


class _Teller:
    """Turns what an application says into replies, slices in groups."""

    def __init__(
        self, follow: Follow, model: SliceModel, volume: Volume, *, wants_slices: bool
    ) -> None:
        self._follow, self._model, self._volume = follow, model, volume
        self._wants_slices = wants_slices
        self._waiting: list[PartialSlice] = []
        self._next_s = 0.0

    def progress(self, fraction: float, text: str) -> None:
        """Tell how far it is, and the slices that wait."""
        self._follow.on_progress(fraction, text)
        if self._waiting and time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + TELL_EVERY_S
            waiting, self._waiting = self._waiting, []
            self._follow.on_proposed(_slices_reply(waiting, self._volume.shape_kji))

    def slice(self, one: PartialSlice) -> None:
        """Keep a slice until it is time to tell; there is one segment at a time."""
        if self._wants_slices:
            self._waiting.append(one)

    def proposal(self, one: Proposal) -> None:
        """Tell a proposal; its slices are in it."""
        self._waiting.clear()
        window = auto_window(self._volume.voxels)  # as the proposal was made
        self._follow.on_proposed(_proposal_reply(one, self._model, window))


def _slices_reply(slices: Sequence[PartialSlice], shape: tuple[int, int, int]) -> ProposedSlices:
    last = {one.index: one for one in slices}  # a later one of the same slice replaces it
    name, axis = slices[0].name, slices[0].axis
    first, stop = min(last), max(last) + 1
    cut = list(shape)
    cut[axis] = stop - first
    mask = np.zeros(cut, dtype=bool)
    turned = np.moveaxis(mask, axis, 0)
    for index, one in last.items():
        turned[index - first] = one.mask
    box = bounding_extent(mask)
    offset = [first if n == axis else 0 for n in range(3)]
    return ProposedSlices(
        name=name,
        axis=axis,
        confidences={index: one.confidence for index, one in last.items()},
        extent=None if box is None else box.moved(offset),
        bits=b"" if box is None else pack_bits(mask[box.slices]),
    )


def _proposal_reply(one: Proposal, model: SliceModel, window: Window) -> Proposed:
    return Proposed(
        name=one.name,
        terminology=one.terminology,
        colour=one.colour,
        extent=one.extent,
        bits=b"" if one.extent is None else pack_bits(one.mask),
        axis=one.axis,
        confidences=one.confidences,
        distance=one.distance,
        notes=one.notes,
        prompts=one.prompts,
        window=window,
        model=model.name,
        digest=model.digest,
        elapsed_s=one.elapsed_s,
    )


def _segment(one: TaughtSegment, volume: Volume) -> Segment:
    whole = Extent.of_shape(volume.shape_kji)
    if whole.union(one.extent) != whole:
        raise GeometryError(
            f"The segment {one.name!r} lies at {one.extent}, outside of the volume's "
            f"{volume.shape_kji} voxels.",
            "Give the segmentation of this very volume.",
        )
    mask: BoolArray = np.zeros(volume.shape_kji, dtype=bool)
    mask[one.extent.slices] = one.mask()
    return Segment(one.name, mask, one.colour, terminology=one.terminology or DEFAULT_TERMINOLOGY)


def _content(example: Example) -> bytes:
    return _in_private(lambda folder: _saved(example, folder / f"made{ENDING}"))


def _saved(example: Example, path: Path) -> bytes:
    save_example(example, path)
    return path.read_bytes()


def _examples(contents: Sequence[bytes]) -> list[Example]:
    def load(folder: Path) -> list[Example]:
        return [_loaded(n, content, folder) for n, content in enumerate(contents, 1)]

    return _in_private(load)


def _loaded(number: int, content: bytes, folder: Path) -> Example:
    path = folder / f"example-{number}{ENDING}"
    path.write_bytes(content)
    return load_example(path)


def _in_private(work: Callable[[Path], Made]) -> Made:
    """Do something with files in a folder that only this user can read, and remove it."""
    try:
        with tempfile.TemporaryDirectory(prefix="protosam-") as folder:
            return work(Path(folder))
    except OSError as error:
        raise StorageFailure(
            f"The example cannot be kept for the moment: {error.strerror or error}.",
            "Free some space for temporary files.",
        ) from error
