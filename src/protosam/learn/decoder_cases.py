"""Evidence to train the 2-D decoder on: single slices played by the click robot.

A frozen backbone answers, and what the decoder would see of each answer is kept beside the truth.
Slices, objects and axes are drawn at random from training cases; some clicks fall elsewhere than
where the evaluation's robot puts them. A decoder that is there already corrects the answers, so
that the next click falls where it leaves errors; what is kept is the backbone's own answer.
Coordinates are (row, col) of the rectangle that was looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from protosam.clicks import Click, first_click, next_click
from protosam.extents import BoolArray
from protosam.geometry import Volume
from protosam.intensity import auto_window
from protosam.labelled import LabelledCase
from protosam.learn.shapes import procedural_volume
from protosam.learn.sources import SHIPPABLE, training_cases
from protosam.models.decoder_maps import SliceEvidence
from protosam.models.embeddings import Embedder, EmbeddingCache
from protosam.models.planes import Patch, Planes, Rect
from protosam.models.slice_model import SliceModel, SlicePrompts
from protosam.models.slice_refiner import CorrectsSlices, SeenSlice
from protosam.models.slice_solver import SliceInput, SliceSolver
from protosam.models.views import MAX_ANISOTROPY, MIN_SIDE
from protosam.volume_io import read_labelmap, read_volume

PROCEDURAL = "procedural"
"""Name of the source of procedural shapes."""

CLICKS = 5
"""Clicks that are played in each slice."""

MIN_PIXELS = 12
"""Area of an object in a slice, at least."""

OFF_TARGET = 0.2
"""Share of the clicks that fall anywhere in the error instead of at its deepest pixel."""

BOXED, BESIDE = 0.2, 0.25
"""Shares of the slices that begin with a box, and of those whose neighbour is answered first."""

OWN_AXIS = 0.6
"""Share of the slices across the axis of the thickest slices; the others lie across any axis."""


@dataclass(frozen=True, eq=False)
class DecoderCase:
    """One answer of a backbone, and what was meant.

    Attributes
    ----------
    evidence : SliceEvidence
        With the answer before any correction.
    prompts : SlicePrompts
        In pixels of the rectangle; without priors.
    truth : (rows, cols) bool
    labels : (rows, cols) uint8
        All labels of the rectangle, that of the object too.
    beyond : int
        Pixels of the object outside of the rectangle.
    """

    evidence: SliceEvidence
    prompts: SlicePrompts
    truth: BoolArray
    labels: npt.NDArray[np.uint8]
    beyond: int


@dataclass(frozen=True)
class CaseName:
    """A training case: of a data set, or the seed of a procedural volume."""

    dataset: str
    name: str


def cases_to_play(
    data: Path | None, shares: dict[str, float], *, count: int, held_out: int, seed: int
) -> Iterator[CaseName]:
    """Draw cases at random, each data set by its share.

    Parameters
    ----------
    data : path or None
        Folder of the data sets, with split.json; None plays procedural shapes alone.
    shares : data set -> share
        Of `sources.SHIPPABLE`, and `PROCEDURAL`; data sets without training cases are left out.
    count : int
        Cases to draw.
    held_out : int
        The last training cases of each 3-D data set, which are never drawn.
    seed : int
    """
    rng = np.random.default_rng([seed, 40])
    known = {PROCEDURAL: ["shapes"]}
    if data is not None:
        known |= {
            name: training_cases(data, name, held_out) for name in shares if name in SHIPPABLE
        }
    names = [name for name in shares if known.get(name)]
    weights = np.array([shares[name] for name in names])
    for _ in range(count):
        dataset = names[int(rng.choice(len(names), p=weights / weights.sum()))]
        case = known[dataset][int(rng.integers(len(known[dataset])))]
        yield CaseName(dataset, str(rng.integers(2**31)) if dataset == PROCEDURAL else case)


def held_out_cases(data: Path, datasets: Sequence[str], held_out: int) -> list[CaseName]:
    """Return the training cases that are kept aside, for choosing settings."""
    return [
        CaseName(name, case)
        for name in datasets
        if not name.endswith("_2d")
        for case in training_cases(data, name, 0)[-held_out:]
    ]


def read_case(case: CaseName, data: Path | None) -> tuple[Volume, npt.NDArray[np.uint8]]:
    """Read a case, or make it: its image, and its labels (K, J, I)."""
    if case.dataset == PROCEDURAL or data is None:
        painted = procedural_volume(int(case.name))
        return Volume(painted.image, np.eye(4)), painted.labels
    ending = "png" if case.dataset.endswith("_2d") else "nii.gz"
    stem = data / case.dataset / case.name
    files = LabelledCase(
        case.name,
        stem.with_name(f"{case.name}_img.{ending}"),
        stem.with_name(f"{case.name}_lab.{ending}"),
    )
    labels = read_labelmap(files.labels).voxels
    if ending == "png":
        labels = labels > 0
    return read_volume(files.image), labels.astype(np.uint8)


def played_slices(
    volume: Volume,
    labels: npt.NDArray[np.uint8],
    model: SliceModel,
    rng: np.random.Generator,
    *,
    slices: int,
    refiner: CorrectsSlices | None = None,
) -> Iterator[list[DecoderCase]]:
    """Play random objects in random slices of a volume.

    Parameters
    ----------
    volume : Volume
    labels : (K, J, I) uint8
        0 is background.
    model : SliceModel
        Frozen.
    rng : Generator
    slices : int
        Slices to draw; those without a large enough object are passed over.
    refiner : CorrectsSlices, optional
        Corrects the answers that clicks are made from.

    Yields
    ------
    list of DecoderCase
        One for each click in a slice.
    """
    window, cache = auto_window(volume.voxels), EmbeddingCache()
    values = [int(n) for n in np.unique(labels) if n]
    for _ in range(slices if values else 0):
        planes = Planes(volume, _axis(volume, rng), window)
        label = values[int(rng.integers(len(values)))]
        turned = np.moveaxis(labels, planes.axis, 0)
        areas = np.count_nonzero(turned == label, axis=(1, 2))
        fit = np.flatnonzero(areas >= MIN_PIXELS)
        if len(fit) == 0:
            continue
        recorder = _Recorder(refiner)
        solver = SliceSolver(model, planes, Embedder(model, planes, cache), refiner=recorder)
        game = _Game(solver, recorder, turned, label, planes.spacing_rc_mm)
        yield game.play(int(fit[int(rng.integers(len(fit)))]), rng)


class _Recorder:
    """Keeps what a refiner is shown, and hands it on to one where there is one."""

    def __init__(self, inner: CorrectsSlices | None) -> None:
        self._inner = inner
        self._last: SeenSlice | None = None

    def take(self) -> SeenSlice | None:
        """Give what was shown since the last call, the latest; None if nothing was."""
        last, self._last = self._last, None
        return last

    def corrected(self, seen: SeenSlice) -> Patch:
        self._last = seen
        return seen.patch if self._inner is None else self._inner.corrected(seen)


@dataclass(frozen=True, eq=False)
class _Game:
    """One object in the slices of one axis."""

    solver: SliceSolver
    recorder: _Recorder
    labels: npt.NDArray[np.uint8]
    label: int
    spacing_rc_mm: tuple[float, float]

    def play(self, index: int, rng: np.random.Generator) -> list[DecoderCase]:
        """Click in one slice, and keep each answer."""
        if rng.random() < BESIDE:
            self._answer_beside(index, rng)
        truth = self.labels[index] == self.label
        given = SliceInput(box_rc=_jittered_box(truth, rng) if rng.random() < BOXED else None)
        click: Click | None = self._first(truth, rng)
        cases: list[DecoderCase] = []
        while click is not None and len(cases) < CLICKS:
            given = SliceInput(
                np.vstack([given.points_rc, np.asarray(click.place, dtype=float)]),
                np.append(given.positive, click.positive),
                given.box_rc,
            )
            self.recorder.take()
            patch = self.solver.start(index, given).patch
            seen = self.recorder.take()
            if seen is not None:
                cases.append(self._case(seen, index))
            found = patch.on(_whole(truth)) > 0
            click = self._next(found, truth, rng)
        return cases

    def _answer_beside(self, index: int, rng: np.random.Generator) -> None:
        """Answer a slice close by first: it will be shown to the bank."""
        beside = index + int(rng.integers(1, 5)) * int(rng.choice([-1, 1]))
        if not 0 <= beside < len(self.labels):
            return
        truth = self.labels[beside] == self.label
        if np.count_nonzero(truth) >= MIN_PIXELS:
            place = np.asarray(first_click(truth, self.spacing_rc_mm).place, dtype=float)
            self.solver.start(beside, SliceInput(place[None], np.array([True])))

    def _first(self, truth: BoolArray, rng: np.random.Generator) -> Click:
        if rng.random() < OFF_TARGET:
            return Click(_anywhere(truth, rng), positive=True)
        return first_click(truth, self.spacing_rc_mm)

    def _next(self, found: BoolArray, truth: BoolArray, rng: np.random.Generator) -> Click | None:
        click = next_click(found, truth, self.spacing_rc_mm)
        if click is None or rng.random() >= OFF_TARGET:
            return click
        wrong = truth & ~found if click.positive else found & ~truth
        return Click(_anywhere(wrong, rng), click.positive)

    def _case(self, seen: SeenSlice, index: int) -> DecoderCase:
        labels = self.labels[index]
        inside = labels[seen.patch.rect.slices]
        truth = inside == self.label
        beyond = int(np.count_nonzero(labels == self.label) - np.count_nonzero(truth))
        return DecoderCase(seen.evidence, seen.prompts, truth, inside, beyond)


def _axis(volume: Volume, rng: np.random.Generator) -> int:
    """Axis across which to look; only such as make a picture worth looking at."""
    spacing = volume.spacing_kji_mm
    across = next(a for a in range(3) if spacing[a] >= 0.999 * max(spacing))
    if 1 in volume.shape_kji:
        return volume.shape_kji.index(1)
    axis = across if rng.random() < OWN_AXIS else int(rng.integers(3))
    in_plane = [spacing[a] for a in range(3) if a != axis]
    sides = [volume.shape_kji[a] for a in range(3) if a != axis]
    fit = max(in_plane) / min(in_plane) <= MAX_ANISOTROPY and min(sides) >= MIN_SIDE
    return axis if fit else across


def _whole(truth: BoolArray) -> Rect:
    return Rect(0, truth.shape[0], 0, truth.shape[1])


def _anywhere(mask: BoolArray, rng: np.random.Generator) -> tuple[int, ...]:
    """Choose a pixel of a mask's largest component; deeper ones more often."""
    labels, count = ndimage.label(mask)
    largest = 1 + int(np.bincount(labels.ravel())[1:].argmax()) if count > 1 else 1
    depth = ndimage.distance_transform_edt(np.pad(labels == largest, 1))[1:-1, 1:-1]
    chosen = int(rng.choice(depth.size, p=depth.ravel() / depth.sum()))
    return tuple(int(n) for n in np.unravel_index(chosen, depth.shape))


def _jittered_box(truth: BoolArray, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Box round a mask, each side moved by up to a tenth of its length."""
    rows, cols = np.flatnonzero(truth.any(axis=1)), np.flatnonzero(truth.any(axis=0))
    sides = np.array([rows[-1] - rows[0] + 1, cols[-1] - cols[0] + 1] * 2)
    box = np.array([rows[0], cols[0], rows[-1], cols[-1]], dtype=float)
    moved: npt.NDArray[np.float64] = box + rng.uniform(-0.1, 0.1, size=4) * sides
    return np.clip(moved, 0, np.array(truth.shape * 2) - 1)
