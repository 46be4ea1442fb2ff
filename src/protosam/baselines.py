"""What the user has today, played by the same clicks: two classical engines to compare with.

`GrowFromSeeds` is Slicer's own effect of that name, run by the class that does its work
(``vtkImageGrowCutSegment`` of the package slicer-core), on the volume's own grid.
`RandomWalker` is scikit-image's, on a working grid that keeps an answer to seconds.

Both need background seeds, and one positive click gives none. So a *frame* is seeded as
background: the faces of the *working region*, the box of all clicks grown by a margin on
each side and cut to the image. A click is painted as a ball, as a brush would; a later click
paints over an earlier one. Brush, margin and the method's own parameter were chosen on
training cases (``benchmarks/README.md``), once for all data.

Arrays are boards of two axes (one slice) or three, (k, j, i) order; radii are in mm. Knows
nothing of models, torch or true masks.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.segmentation import random_walker
from skimage.transform import resize

from protosam.errors import InvalidInput, MissingExtra
from protosam.extents import BoolArray
from protosam.geometry import Volume
from protosam.intensity import apply_window, auto_window
from protosam.prompts import Point, PromptSet
from protosam.robot import Plane

SeedArray = npt.NDArray[np.uint8]
Slices = tuple[slice, ...]

OBJECT = 1
"""Seed value of positive clicks."""

BACKGROUND = 2
"""Seed value of negative clicks and of the frame."""

PICTURE_MARGIN = 0.2
"""Margin of the region in an image of one slice, as a part of its longer side: the millimetres
of a picture say nothing."""

SOLVER_TOLERANCE = 1e-4
"""Relative residual of the random walker's solver: masks at 1e-3, 1e-4 and 1e-6 differ by less
than 0.002 Dice, for solving times of 1 : 1.3 : 3."""


@dataclass(frozen=True, eq=False)
class _Board:
    """What an engine works on: the volume, or one slice of it, and the way back."""

    volume: Volume
    plane: Plane | None

    @property
    def voxels(self) -> npt.NDArray[Any]:
        return self.volume.voxels if self.plane is None else self.plane.of(self.volume.voxels)

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        return self._without_axis(self.volume.spacing_kji_mm)

    def place(self, point: Point) -> tuple[int, ...]:
        return tuple(int(n) for n in self._without_axis(point.voxel_kji))

    def whole(self, mask: BoolArray, region: Slices) -> BoolArray:
        """Return the (K, J, I) mask of which `region` of the board holds `mask`."""
        whole = np.zeros(self.volume.shape_kji, dtype=np.bool_)
        board = whole if self.plane is None else self.plane.of(whole)
        board[region] = mask
        return whole

    def _without_axis(self, values: Sequence[float]) -> tuple[float, ...]:
        axis = None if self.plane is None else self.plane.axis
        return tuple(v for n, v in enumerate(values) if n != axis)


class _SeededEngine:
    """What both engines share: the board, the region, the painted clicks."""

    default_region_mm = 0.0

    def __init__(self, radius_mm: float, region_mm: float | None) -> None:
        self._radius_mm = radius_mm
        self._region_mm = region_mm
        self._board: _Board | None = None

    def settings(self) -> dict[str, str | float]:
        """Return what the report says of the engine."""
        if self._region_mm is not None:
            return {"radius_mm": self._radius_mm, "region_mm": self._region_mm}
        return {
            "radius_mm": self._radius_mm,
            "region_mm": self.default_region_mm,
            "picture_margin": PICTURE_MARGIN,
        }

    def begin(self, volume: Volume, plane: Plane | None) -> None:
        """Take a new object, forgetting the last one."""
        if plane is None and 1 in volume.shape_kji:
            plane = Plane(volume.shape_kji.index(1), 0)
        self._board = _Board(volume, plane)

    def _playing(self, prompts: PromptSet) -> _Board:
        if self._board is None:
            raise InvalidInput("The engine has no image yet.", "Call begin before answer.")
        if not any(point.positive for point in prompts.points):
            raise InvalidInput(
                "A classical engine needs a positive click to start from; it was given none.",
                "Click inside the object.",
            )
        return self._board

    def _region(self, board: _Board, prompts: PromptSet) -> Slices:
        """Return the box of all clicks grown by the margin, cut to the board."""
        places = np.asarray([board.place(point) for point in prompts.points])
        spacing_mm = np.asarray(board.spacing_mm)
        margin_mm = self.default_region_mm if self._region_mm is None else self._region_mm
        if self._region_mm is None and 1 in board.volume.shape_kji:
            margin_mm = PICTURE_MARGIN * float(np.max(board.voxels.shape * spacing_mm))
        grow = np.ceil(margin_mm / spacing_mm).astype(int)
        low = np.maximum(places.min(axis=0) - grow, 0)
        high = np.minimum(places.max(axis=0) + grow + 1, board.voxels.shape)
        return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


class GrowFromSeeds(_SeededEngine):
    """Slicer's *Grow from seeds*: each voxel goes to the seed of the cheapest path.

    A path costs the sum of its intensity steps, plus ``locality`` for each mm. As in the
    effect, intensities are the volume's own, and the filter is kept between clicks, so that
    a further click is a quick update (L. Zhu et al., IMIC 2014).

    Parameters
    ----------
    radius_mm : float
        Brush radius.
    locality : float
        *Seed locality* of the effect's panel, 0 there unless changed.
    region_mm : float, optional
        Margin of the working region round the clicks; None takes `default_region_mm`, and
        `PICTURE_MARGIN` in an image of one slice.

    Raises
    ------
    MissingExtra
        slicer-core is not installed.
    """

    name = "grow-from-seeds"
    default_region_mm = 40.0

    def __init__(
        self, *, radius_mm: float = 3.0, locality: float = 0.0, region_mm: float | None = None
    ) -> None:
        super().__init__(radius_mm, region_mm)
        self._locality = locality
        self._slicer = _optional("slicer", "slicer-core")
        self._vtk = _optional("vtk", "vtk")
        self._support = _optional("vtk.util.numpy_support", "vtk")
        self._grower: Any = None
        self._grown: Slices = ()

    def settings(self) -> dict[str, str | float]:
        """Return what the report says of the engine."""
        return {**super().settings(), "locality": self._locality}

    def begin(self, volume: Volume, plane: Plane | None) -> None:
        """Take a new object, forgetting the last one."""
        super().begin(volume, plane)
        self._grower = None

    def answer(self, prompts: PromptSet) -> BoolArray:
        """Return the object that the clicks mean, (K, J, I) bool.

        Raises
        ------
        InvalidInput
            There is no positive click, or no image.
        """
        board = self._playing(prompts)
        region = self._region(board, prompts)
        shape = tuple(s.stop - s.start for s in region)
        seeds = framed_seeds(shape)
        for point in prompts.points:
            place = tuple(n - s.start for n, s in zip(board.place(point), region, strict=True))
            paint_ball(seeds, place, board.spacing_mm, self._radius_mm, point.positive)
        if self._grower is None or region != self._grown:
            self._grower = self._new_grower(board, region)
            self._grown = region
        self._grower.SetSeedLabelVolume(self._image(np.pad(_solid(seeds), 1), board))
        self._grower.Update()
        scalars = self._grower.GetOutput().GetPointData().GetScalars()
        padded = tuple(n + 2 for n in _solid(seeds).shape)
        labels = self._support.vtk_to_numpy(scalars).reshape(padded)[1:-1, 1:-1, 1:-1]
        return board.whole((labels == OBJECT).reshape(shape), region)

    def _new_grower(self, board: _Board, region: Slices) -> Any:
        grower = self._slicer.vtkImageGrowCutSegment()
        grower.SetDistancePenalty(self._locality)
        crop = _solid(board.voxels[region])
        if crop.dtype == np.bool_ or crop.dtype.itemsize == 8:
            crop = crop.astype(np.float32)
        # The filter lets nothing grow out of the outermost voxels, so they are a copy.
        grower.SetIntensityVolume(self._image(np.pad(crop, 1, mode="edge"), board))
        return grower

    def _image(self, voxels: npt.NDArray[Any], board: _Board) -> Any:
        image = self._vtk.vtkImageData()
        image.SetDimensions(*voxels.shape[::-1])
        spacing = (1.0,) * (3 - len(board.spacing_mm)) + board.spacing_mm
        image.SetSpacing(*spacing[::-1])
        scalars = self._support.numpy_to_vtk(np.ascontiguousarray(voxels).ravel(), deep=1)
        image.GetPointData().SetScalars(scalars)
        return image


class RandomWalker(_SeededEngine):
    """scikit-image's random walker, coarse in the region and then fine round the answer.

    A walk is likelier to cross a small intensity step; a voxel goes to the seed that a walk
    from it reaches first (L. Grady, https://doi.org/10.1109/TPAMI.2006.233). The linear
    system is solved on a working grid of at most `max_voxels`; the probability is brought
    back linearly. Unless the first grid was already the volume's own, a second solution
    follows in the box of the first answer, with a quarter of its side as margin.

    Parameters
    ----------
    radius_mm : float
        Brush radius.
    beta : float
        How much an intensity step hinders the walk. scikit-image's own 130 leaves little more
        than the brush mark after one click in a volume.
    region_mm : float, optional
        Margin of the working region round the clicks; None takes `default_region_mm`, and
        `PICTURE_MARGIN` in an image of one slice.
    max_voxels : int
        Size of the working grid.
    """

    name = "random-walker"
    default_region_mm = 60.0

    def __init__(
        self,
        *,
        radius_mm: float = 4.0,
        beta: float = 10_000.0,
        region_mm: float | None = None,
        max_voxels: int = 40**3,
    ) -> None:
        super().__init__(radius_mm, region_mm)
        self._beta = beta
        self._max_voxels = max_voxels

    def settings(self) -> dict[str, str | float]:
        """Return what the report says of the engine."""
        return {**super().settings(), "beta": self._beta, "max_voxels": self._max_voxels}

    def answer(self, prompts: PromptSet) -> BoolArray:
        """Return the object that the clicks mean, (K, J, I) bool.

        Raises
        ------
        InvalidInput
            There is no positive click, or no image.
        """
        board = self._playing(prompts)
        region = self._region(board, prompts)
        mask = self._walked(board, region, prompts)
        if mask.size <= self._max_voxels or not mask.any():
            return board.whole(mask, region)
        region = _grown_box(mask, region, board.voxels.shape)
        return board.whole(self._walked(board, region, prompts), region)

    def _walked(self, board: _Board, region: Slices, prompts: PromptSet) -> BoolArray:
        """Return the answer in a region of the board, on the board's own grid."""
        crop = board.voxels[region]
        shape = working_shape(crop.shape, board.spacing_mm, self._max_voxels)
        factor = np.asarray(shape) / np.asarray(crop.shape)
        spacing_mm = np.asarray(board.spacing_mm) / factor
        grey = apply_window(crop, auto_window(board.volume.voxels))
        if shape != crop.shape:
            grey = _resized(grey, shape)
        seeds = framed_seeds(shape)
        starts = np.asarray([s.start for s in region])
        for point in prompts.points:
            inside = (np.asarray(board.place(point)) - starts + 0.5) * factor - 0.5
            place = tuple(int(n) for n in np.clip(np.round(inside), 0, np.asarray(shape) - 1))
            paint_ball(seeds, place, tuple(spacing_mm), self._radius_mm, point.positive)
        if not (seeds == OBJECT).any() or not (seeds == BACKGROUND).any():
            return np.full(crop.shape, bool((seeds == OBJECT).any()))
        # A flat region has no steps at all; scikit-image divides by its deviation.
        if float(grey.std()) == 0.0:
            grey = np.zeros_like(grey) + np.float32(1e-3) * (seeds == OBJECT)
        probability = random_walker(
            grey,
            seeds,
            beta=self._beta,
            mode="cg_j",
            tol=SOLVER_TOLERANCE,
            prob_tol=np.inf,
            return_full_prob=True,
            spacing=spacing_mm / spacing_mm.min(),
        )[OBJECT - 1]
        if shape != crop.shape:
            probability = _resized(probability, crop.shape)
        return np.asarray(probability > 0.5, dtype=np.bool_)


def framed_seeds(shape: Sequence[int]) -> SeedArray:
    """Return seeds of which the faces are background and the inside is undecided.

    Faces across an axis of fewer than three voxels stay undecided, or nothing would be left.
    """
    seeds = np.zeros(tuple(shape), dtype=np.uint8)
    for axis, length in enumerate(seeds.shape):
        if length >= 3:
            faces = np.moveaxis(seeds, axis, 0)
            faces[0] = faces[-1] = BACKGROUND
    return seeds


def paint_ball(
    seeds: SeedArray,
    place: Sequence[int],
    spacing_mm: Sequence[float],
    radius_mm: float,
    positive: bool,
) -> None:
    """Paint a click into the seeds: every voxel whose centre is within the radius.

    The clicked voxel is painted however small the radius; what lies outside is left out.
    """
    grids = np.ogrid[tuple(slice(0, n) for n in seeds.shape)]
    distance_2 = sum(
        ((grid - n) * mm) ** 2 for grid, n, mm in zip(grids, place, spacing_mm, strict=True)
    )
    value = OBJECT if positive else BACKGROUND
    seeds[np.asarray(distance_2) <= radius_mm**2] = value
    seeds[tuple(place)] = value


def working_shape(
    shape: Sequence[int], spacing_mm: Sequence[float], max_voxels: int
) -> tuple[int, ...]:
    """Return the finest grid of about cubic voxels over the same box within `max_voxels`.

    No axis gets finer than it is. The shape itself comes back where it is small enough.
    """
    sides_mm = np.asarray(shape) * np.asarray(spacing_mm)
    edge_mm = float(min(spacing_mm))
    while True:
        coarse = np.minimum(np.ceil(sides_mm / edge_mm), shape).astype(int)
        if np.prod(coarse, dtype=float) <= max_voxels or np.all(coarse == 1):
            return tuple(int(n) for n in coarse)
        edge_mm *= 1.02


def _resized(grey: npt.NDArray[Any], shape: Sequence[int]) -> npt.NDArray[Any]:
    """Return linear samples on another grid over the same box, smoothed where it is coarser."""
    resized: npt.NDArray[Any] = resize(
        grey, tuple(shape), order=1, mode="edge", anti_aliasing=np.prod(shape) < grey.size
    )
    return resized


def _grown_box(mask: BoolArray, region: Slices, shape: Sequence[int]) -> Slices:
    """Return the box of a mask on the board, a quarter of its side (3 or more) wider."""
    grown: list[slice] = []
    places = np.argwhere(mask)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    for first, last, outer, length in zip(low, high, region, shape, strict=True):
        margin = max(3, round((last - first) / 4))
        start, stop = outer.start + int(first) - margin, outer.start + int(last) + margin
        grown.append(slice(max(0, start), min(length, stop)))
    return tuple(grown)


def _solid(board: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a board as an array of three axes."""
    return board[np.newaxis] if board.ndim == 2 else board


def _optional(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"The engine 'grow-from-seeds' needs the package {package}, which is not installed.",
            f"Install it with: pip install {package}",
        ) from error
