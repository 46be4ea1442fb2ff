"""The click robot: plays one object from nothing against an engine and scores every answer.

Owns the rules of the game: what is played, the jittered box before it, what is measured after
each click (where a click goes is in `clicks`). The robot is the only part of the project that
looks at a true mask while prompts are made.

Knows nothing of files, models or torch. Voxels are (k, j, i); distances are in mm along the
axes of the grid. A *board* is what is played on and scored: the whole volume (three axes)
or one slice of it (two axes); an engine always sees the volume and answers on its grid.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from protosam import metrics
from protosam.clicks import Click, bounding_slices, first_click, next_click
from protosam.errors import InvalidInput
from protosam.extents import BoolArray, IndexKJI
from protosam.geometry import PointKJI, Volume
from protosam.prompts import Box, Point, PromptSet

BOX_JITTER = 0.1
"""Largest shift of a face of the box, as a part of the object's side along that axis."""

SAME_SPACING = 0.01
"""Two spacings that differ by less than this part of the larger one count as equal."""


@dataclass(frozen=True)
class Plane:
    """One slice of a volume: where the game is played alone."""

    axis: int
    """Array axis across which the slice lies: 0, 1, 2 for k, j, i."""
    index: int
    """Slice number along that axis."""

    def of(self, voxels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the slice of a (K, J, I) array, as a view with two axes."""
        return voxels[(slice(None),) * self.axis + (self.index,)]


class Engine(Protocol):
    """What is compared: anything that turns a volume and prompts into a mask.

    Attributes
    ----------
    name : str
        As in ``--engine``.
    """

    name: str

    def settings(self) -> dict[str, str | float]:
        """Return what a report says of the engine: its model or parameters."""
        ...

    def begin(self, volume: Volume, plane: Plane | None) -> None:
        """Take a new object, forgetting the last one.

        Parameters
        ----------
        volume : Volume
        plane : Plane or None
            The slice that is played alone; None when the whole volume is.
        """
        ...

    def answer(self, prompts: PromptSet) -> BoolArray:
        """Return the object that the prompts mean, (K, J, I) bool.

        Each call carries all prompts so far. With a plane only its slice is looked at.
        """
        ...


@dataclass(frozen=True)
class Rules:
    """How an object is played."""

    clicks: int = 5
    """Clicks for each object, at least 1."""
    box: bool = False
    """Whether a jittered box comes before the first click."""
    seed: int = 0
    """Seed of the jitter; the clicks have no chance in them."""

    def __post_init__(self) -> None:
        if self.clicks < 1:
            raise InvalidInput(
                f"The robot was told to play {self.clicks} clicks.", "Give --clicks 1 or more."
            )


@dataclass(frozen=True, eq=False)
class Target:
    """One object: a label of a case, in the whole volume or in one slice."""

    case: str
    """Name of the case in its dataset."""
    label: int
    """Value of the label."""
    name: str
    """Name of the label."""
    volume: Volume
    """The image."""
    truth: BoolArray
    """(K, J, I) bool, the true mask; not empty on the board."""
    plane: Plane | None
    """The slice that is played alone; None for the whole volume."""

    def board(self, mask: BoolArray) -> BoolArray:
        """Return the part of a (K, J, I) mask that is played and scored."""
        return mask if self.plane is None else self.plane.of(mask)

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Spacing along each axis of the board."""
        axis = None if self.plane is None else self.plane.axis
        return tuple(s for n, s in enumerate(self.volume.spacing_kji_mm) if n != axis)

    def voxel_kji(self, place: Sequence[int]) -> IndexKJI:
        """Return the voxel of the volume at a place on the board."""
        index = list(place)
        if self.plane is not None:
            index.insert(self.plane.axis, self.plane.index)
        k, j, i = index
        return k, j, i


@dataclass(frozen=True)
class Score:
    """What one object cost and gave; the sequences hold one figure for each click."""

    case: str
    """Name of the case."""
    label: int
    """Value of the label."""
    name: str
    """Name of the label."""
    dice: tuple[float, ...]
    """0..1."""
    nsd_2mm: tuple[float, ...]
    """Normalised surface Dice at 2 mm, 0..1."""
    hd95_mm: tuple[float, ...]
    """95th-percentile Hausdorff distance; the board's diagonal for an empty answer."""
    seconds: tuple[float, ...]
    """Wall time of each answer; 0 for clicks that were not needed."""
    volume_ml: tuple[float, float]
    """True volume, and the found one after the last click."""
    played: int
    """Clicks that were played before the answer was perfect, or all."""

    @property
    def dsc_auc(self) -> float:
        """Area under Dice over clicks, scaled to read as a Dice."""
        return metrics.area_under_clicks(self.dice)

    def to_json(self) -> dict[str, Any]:
        """Return the row of the report's ``cases``."""
        return {
            "case": self.case,
            "label": self.label,
            "name": self.name,
            "dice": [round(x, 4) for x in self.dice],
            "nsd_2mm": [round(x, 4) for x in self.nsd_2mm],
            "hd95_mm": [round(x, 2) for x in self.hd95_mm],
            "seconds": [round(x, 3) for x in self.seconds],
            "volume_ml": [round(x, 3) for x in self.volume_ml],
        }


def play(target: Target, engine: Engine, rules: Rules) -> Score:
    """Play one object and measure every answer.

    The first click goes to the deepest voxel of the object, each next one to the deepest
    voxel of the largest error. When an answer has no error left, the remaining clicks are
    not played: their scores repeat the last one and their time is 0.

    Raises
    ------
    InvalidInput
        The true mask is empty on the board, or the engine answers on another grid.
    """
    truth = target.board(target.truth)
    surface = metrics.TrueSurface(truth, target.spacing_mm)
    click: Click | None = first_click(truth, target.spacing_mm)
    prompts = _opening(target, rules)
    engine.begin(target.volume, target.plane)
    measured: list[_Measured] = []
    found = np.zeros_like(truth)
    for number in range(1, rules.clicks + 1):
        if click is None:
            break
        prompts = prompts.with_point(_point(target, click, f"click-{number}"))
        started = time.perf_counter()
        answer = engine.answer(prompts)
        elapsed_s = time.perf_counter() - started
        found = _on_board(target, answer)
        distances = surface.distances(found)
        measured.append(
            _Measured(metrics.dice(found, truth), distances.nsd(), distances.hd95_mm(), elapsed_s)
        )
        if number < rules.clicks:
            click = next_click(found, truth, target.spacing_mm)
    return _score(target, rules, measured, _volumes_ml(target, truth, found))


def jittered_box(target: Target, seed: int) -> Box:
    """Return the box of the object, each face shifted by up to 10 % of its side.

    The side is that of the object along the face's normal, from outer face to outer face of
    its voxels; the box stays inside the volume. In a plane it is a 2-D box of that slice.
    The same seed, case and label always give the same box.
    """
    truth = target.board(target.truth)
    rng = np.random.default_rng([seed, zlib.crc32(target.case.encode()), target.label])
    low: list[float] = []
    high: list[float] = []
    for span, length in zip(bounding_slices(truth), truth.shape, strict=True):
        side = span.stop - span.start
        shift = rng.uniform(-BOX_JITTER, BOX_JITTER, size=2) * side
        low.append(max(-0.5, span.start - 0.5 + shift[0]))
        high.append(min(length - 0.5, span.stop - 0.5 + shift[1]))
    axis = None if target.plane is None else target.plane.axis
    return Box(_corner(target, low), _corner(target, high), axis, "box")


def slice_axis(spacing_kji_mm: Sequence[float]) -> int:
    """Return the array axis across which the slices of an acquisition lie.

    The axis whose spacing differs from that of the two others where these are equal (the
    pixels are square): slices are usually thicker than pixels, but may be thinner. Else the
    axis of the largest spacing, and axis 0 where no spacing is larger.
    """
    for axis in range(3):
        across = spacing_kji_mm[axis]
        one, two = (s for n, s in enumerate(spacing_kji_mm) if n != axis)
        if _alike(one, two) and not _alike(across, one):
            return axis
    largest = max(spacing_kji_mm)
    thick = [axis for axis, s in enumerate(spacing_kji_mm) if _alike(s, largest)]
    return thick[0] if len(thick) == 1 else 0


def largest_slice(truth: BoolArray, axis: int) -> Plane:
    """Return the slice across `axis` with the largest area, the first of equals."""
    others = tuple(n for n in range(3) if n != axis)
    return Plane(axis, int(np.count_nonzero(truth, axis=others).argmax()))


@dataclass(frozen=True)
class _Measured:
    """One answer."""

    dice: float
    nsd: float
    hd95_mm: float
    elapsed_s: float


def _score(
    target: Target, rules: Rules, measured: list[_Measured], volumes_ml: tuple[float, float]
) -> Score:
    spared = rules.clicks - len(measured)
    repeated = [*measured, *[measured[-1]] * spared]
    return Score(
        case=target.case,
        label=target.label,
        name=target.name,
        dice=tuple(m.dice for m in repeated),
        nsd_2mm=tuple(m.nsd for m in repeated),
        hd95_mm=tuple(m.hd95_mm for m in repeated),
        seconds=(*(m.elapsed_s for m in measured), *[0.0] * spared),
        volume_ml=volumes_ml,
        played=len(measured),
    )


def _point(target: Target, click: Click, id: str) -> Point:
    k, j, i = target.voxel_kji(click.place)
    return Point((float(k), float(j), float(i)), click.positive, id)


def _opening(target: Target, rules: Rules) -> PromptSet:
    boxes = (jittered_box(target, rules.seed),) if rules.box else ()
    if target.plane is None:
        return PromptSet(boxes=boxes, scope="volume")
    return PromptSet(boxes=boxes, scope="slice", axis=target.plane.axis)


def _corner(target: Target, place: Sequence[float]) -> PointKJI:
    corner = list(place)
    if target.plane is not None:
        corner.insert(target.plane.axis, float(target.plane.index))
    k, j, i = corner
    return k, j, i


def _on_board(target: Target, answer: BoolArray) -> BoolArray:
    if answer.shape != target.truth.shape:
        raise InvalidInput(
            f"The engine answered on a grid of {answer.shape} voxels, the image has "
            f"{target.truth.shape}.",
            "Let the engine answer on the grid of the image.",
        )
    return target.board(answer)


def _volumes_ml(target: Target, truth: BoolArray, found: BoolArray) -> tuple[float, float]:
    spacing = target.volume.spacing_kji_mm
    return metrics.volume_ml(truth, spacing), metrics.volume_ml(found, spacing)


def _alike(one: float, two: float) -> bool:
    return math.isclose(one, two, rel_tol=SAME_SPACING)
