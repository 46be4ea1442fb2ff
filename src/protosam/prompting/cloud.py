"""All tokens of a volume with their places: what an example is made of and is looked for in.

Owns the description of a token (features of the model, brightness and its unevenness, each
standardised within the image itself) and its place in RAS mm. Padding is left out. Slices are
those across the axis that the segmenter works along; of long volumes every so many is taken.
Knows nothing of objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from protosam.errors import Cancelled
from protosam.geometry import kji_to_ras
from protosam.models.embeddings import Embedder
from protosam.models.planes import Planes, Rect
from protosam.models.slice_model import SliceModel
from protosam.models.tokens import TokenGrid, tokens_of

FloatArray = npt.NDArray[np.floating]
Float32Array = npt.NDArray[np.float32]

MAX_SLICES = 100
"""Slices of a volume that are described; of longer ones every 2nd, 3rd and so on."""

BRIGHTNESS_WEIGHT = 3.0
"""What brightness and unevenness count, in channels of features."""

BODY = 0.1
"""Brightness (0..1 of the window) above which a token belongs to the body, not to the air."""

MIN_BODY = 0.05
"""Share of bright tokens below which an image has no air to speak of, and all of it is body."""


@dataclass(frozen=True, eq=False)
class Scale:
    """What features are standardised by: (d,) mean and deviation over an image's body."""

    mean: Float32Array
    deviation: Float32Array

    @classmethod
    def of(cls, features: FloatArray) -> Scale:
        """Scale of an image's own raw features (n, d)."""
        mean, deviation = features.mean(axis=0), features.std(axis=0)
        return cls(mean.astype(np.float32), np.maximum(deviation, 1e-3).astype(np.float32))

    def apply(self, features: FloatArray) -> Float32Array:
        """Standardise; brightness, in the last two channels, counts more."""
        scaled = ((features - self.mean) / self.deviation).astype(np.float32)
        scaled[:, -2:] *= BRIGHTNESS_WEIGHT
        return scaled


@dataclass(frozen=True, eq=False)
class SliceTokens:
    """The tokens of one rectangle of a slice, without the padding.

    Attributes
    ----------
    raw : (n, d) float32
        Not standardised.
    place_rc : (n, 2) float
        Centres in the slice, (row, col) of the slice.
    at_mm : (n, 3) float
        Centres, RAS mm.
    grid : TokenGrid
        Of the rectangle.
    rect : Rect
    """

    raw: Float32Array
    place_rc: npt.NDArray[np.float64]
    at_mm: npt.NDArray[np.float64]
    grid: TokenGrid
    rect: Rect

    def fractions(self, image: npt.NDArray[Any]) -> Float32Array:
        """Share of each token (n,) that lies in a mask of the whole slice (H, W)."""
        return self.of_patch(image[self.rect.slices])

    def of_patch(self, patch: npt.NDArray[Any]) -> Float32Array:
        """Share of each token (n,) that lies in a mask of the rectangle."""
        inside: Float32Array = self.grid.fractions(patch)[self.grid.covered]
        return inside


@dataclass(frozen=True, eq=False)
class Cloud:
    """The tokens of a volume.

    Attributes
    ----------
    features : (n, d) float32
        Standardised.
    at_mm : (n, 3) float
        RAS mm.
    place : (n, 3) float
        (slice, row, col) of the planes.
    body : (n,) bool
    scale : Scale
    low_mm, high_mm : (3,) float
        Box of the body along R, A, S, without its outermost hundredth.
    slices : slice index -> SliceTokens
    token_mm3 : float
        Volume that a token stands for, with the slices that were left out.
    """

    features: Float32Array
    at_mm: npt.NDArray[np.float64]
    place: npt.NDArray[np.float64]
    body: npt.NDArray[np.bool_]
    scale: Scale
    low_mm: npt.NDArray[np.float64]
    high_mm: npt.NDArray[np.float64]
    slices: dict[int, SliceTokens]
    token_mm3: float = 1.0

    def rows_of(self, index: int) -> npt.NDArray[np.int64]:
        """Rows that belong to a slice."""
        return np.flatnonzero(self.place[:, 0] == index)


def describe_slice(
    model: SliceModel, planes: Planes, embedder: Embedder, index: int, rect: Rect
) -> SliceTokens:
    """Encode a rectangle of a slice and describe its tokens."""
    grid = tokens_of(model, embedder.get(index, rect))
    covered = grid.covered
    image = planes.stack(index, rect, 0)[0]
    mean = grid.fractions(image)
    uneven = np.sqrt(np.maximum(grid.fractions(image**2) - mean**2, 0))
    raw = np.concatenate([grid.features, mean[None], uneven[None]])[:, covered].T
    # The middle of a token at the edge can lie beyond the last pixel, where nobody may click.
    inside = np.clip(grid.centres_rc[covered], 0, np.array(rect.shape) - 1)
    place_rc = inside + np.array([rect.top, rect.left])
    return SliceTokens(
        raw.astype(np.float32), place_rc, places_mm(planes, index, place_rc), grid, rect
    )


def places_mm(planes: Planes, index: int, place_rc: FloatArray) -> npt.NDArray[np.float64]:
    """Places (n, 2) of a slice in RAS mm (n, 3)."""
    kji = np.insert(np.asarray(place_rc, dtype=np.float64)[:, :2], planes.axis, index, axis=1)
    world: npt.NDArray[np.float64] = kji_to_ras(planes.volume.affine, kji)
    return world


def describe(
    model: SliceModel,
    planes: Planes,
    embedder: Embedder,
    *,
    indices: Sequence[int] = (),
    on_progress: Callable[[float], None] = lambda _fraction: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Cloud:
    """Describe a volume.

    Parameters
    ----------
    model : SliceModel
    planes : Planes
    embedder : Embedder
        Of `planes`, with the same model.
    indices : sequence of int
        Slices that must be among those described.
    on_progress : (fraction 0..1) -> None
    should_stop : () -> bool
        Asked before every slice.

    Raises
    ------
    Cancelled
        If `should_stop` said so.
    """
    stride = -(-planes.depth // MAX_SLICES)
    chosen = sorted({*range(stride // 2, planes.depth, stride), *indices})
    slices: dict[int, SliceTokens] = {}
    for n, index in enumerate(chosen):
        if should_stop():
            raise Cancelled("The work was cancelled.", "Start it anew.")
        embedder.prefetch(chosen[n:], planes.whole)
        slices[index] = describe_slice(model, planes, embedder, index, planes.whole)
        on_progress((n + 1) / len(chosen))
    cells = next(iter(slices.values())).grid.cell_px
    sides = [n * step for n, step in zip(cells, planes.spacing_rc_mm, strict=True)]
    return _joined(slices, sides[0] * sides[1] * planes.step_mm * stride)


def _joined(slices: dict[int, SliceTokens], token_mm3: float) -> Cloud:
    raw = np.concatenate([s.raw for s in slices.values()])
    at_mm = np.concatenate([s.at_mm for s in slices.values()])
    place = np.concatenate([np.insert(s.place_rc, 0, z, axis=1) for z, s in slices.items()])
    body = raw[:, -2] > BODY
    if body.mean() < MIN_BODY:
        body = np.ones(len(raw), dtype=bool)
    scale = Scale.of(raw[body])
    low, high = np.percentile(at_mm[body], (1, 99), axis=0)
    return Cloud(scale.apply(raw), at_mm, place, body, scale, low, high, slices, token_mm3)
