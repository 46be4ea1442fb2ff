"""The object in single slices of a target: where to look, what to click, which mask to keep.

Owns P2SAM's loop for a slice: clicks for each number of parts, the cascade, and the choice among
the masks by optimal transport (arXiv 2403.05433, steps 3 to 7). Slices to look at (anchors) are
those where the volume's tokens look most like the object. Coordinates are (slice, row, col) of
the planes. Clicks of the user always win. Knows nothing of whole volumes' masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protosam.models.embeddings import Embedder
from protosam.models.planes import Patch, Planes, Rect
from protosam.models.slice_model import SliceModel, SlicePrompts
from protosam.prompting.cascade import UserClicks, cascade, with_user
from protosam.prompting.cloud import Cloud, Float32Array, Scale, SliceTokens, describe_slice
from protosam.prompting.expect import Expectation
from protosam.prompting.making import square, under
from protosam.prompting.methods import Method
from protosam.prompting.parts import best_places, clicks_of, similarity, unit
from protosam.prompting.transport import NOTHING, transport_distance
from protosam.prompting.weights import MaskWeights, weighted_answer

APART_CELLS = 1.5
"""Two clicks lie at least so many tokens apart."""

OUTSIDE = -4.0
"""Logarithm of the expected place's density below which a place is surely beside the object."""


@dataclass(frozen=True, eq=False)
class Look:
    """The tools to look into one target with."""

    model: SliceModel
    planes: Planes
    embedder: Embedder
    scale: Scale
    method: Method
    weights: MaskWeights | None = None


@dataclass(frozen=True, eq=False)
class Finding:
    """A mask in one slice, and what it came from.

    Attributes
    ----------
    index : int
        The slice.
    patch : Patch
    points_rc : (n, 2) float
        Clicks that were found, (row, col) of the slice.
    positive : (n,) bool
    distance : float
        From the reference, by optimal transport.
    """

    index: int
    patch: Patch
    points_rc: npt.NDArray[np.float64]
    positive: npt.NDArray[np.bool_]
    distance: float


def likeness_of(expected: Expectation, method: Method, cloud: Cloud) -> npt.NDArray[np.float64]:
    """How much each token of a target (n,) looks like the object, the best of its parts."""
    count = max(method.counts) if method.points == "parts" else 1
    parts = expected.parts(count)
    best: npt.NDArray[np.float64] = expected.scores(parts, cloud.features, cloud.at_mm).max(axis=0)
    return best


def anchors_of(
    likeness: npt.NDArray[np.float64], expected: Expectation, cloud: Cloud, count: int
) -> list[tuple[int, tuple[float, float]]]:
    """Slices to look at, and the middle (row, col) of what is like the object in each.

    As many of the best tokens as the object should have are taken; the first slice is that with
    most of their weight, the others lie at quarters of their range.
    """
    slices = np.unique(cloud.place[:, 0])
    size = int(np.clip(expected.volume_mm3 / cloud.token_mm3, 3, 4000))
    top = np.argsort(-likeness, kind="stable")[:size]
    weight = np.exp(likeness[top] - likeness[top].max())
    z = cloud.place[top, 0]
    sums = np.array([weight[z == s].sum() for s in slices])
    chosen = [int(slices[sums.argmax()])]
    for share in np.linspace(0, 1, count + 1)[1:-1]:
        at = float(np.quantile(z, share))
        near = int(slices[np.abs(slices - at).argmin()])
        if near not in chosen and (z == near).any():
            chosen.append(near)
    anchors = []
    for index in chosen[:count]:
        rows = z == index
        middle = np.average(cloud.place[top[rows], 1:], axis=0, weights=weight[rows])
        anchors.append((index, (float(middle[0]), float(middle[1]))))
    return anchors


def find_in_slice(
    look: Look, index: int, rect: Rect, expected: Expectation, user: UserClicks
) -> Finding | None:
    """Look for the object in a rectangle of one slice.

    Parameters
    ----------
    look : Look
    index : int
    rect : Rect
    expected : Expectation
        Of features seen at the rectangle's scale.
    user : UserClicks
        In (row, col) of the slice.

    Returns
    -------
    Finding or None
        The candidate nearest to the reference; None where none can be asked or obeys the user.
    """
    seen = describe_slice(look.model, look.planes, look.embedder, index, rect)
    features = look.scale.apply(seen.raw)
    inside = np.array([rect.holds(p) for p in user.points_rc], dtype=bool)
    own = UserClicks(
        np.asarray(user.points_rc, dtype=np.float64).reshape(-1, 2)[inside] - (rect.top, rect.left),
        user.positive[inside],
    )
    near_px = 2 * max(seen.grid.cell_px)
    asked = [
        with_user(found, own, near_px=near_px)
        for found in candidates(look.method, expected, seen, features)
    ]
    asked = [one for one in asked if one.positive.any()]
    if not asked:
        return None
    embedding = look.embedder.get(index, rect)
    if look.weights is not None:
        answers = [weighted_answer(look.model, embedding, one, look.weights) for one in asked]
    else:
        answers = cascade(look.model, embedding, asked)
    found = None
    for prompts, answer in zip(asked, answers, strict=True):
        mask = answer.logits > 0
        if not own.obeyed_by(mask):
            continue
        distance = distance_of(expected, seen, features, mask)
        if found is None or distance < found.distance:
            first = len(own.points_rc)  # the user's clicks come first, and are the user's own
            places = prompts.points_rc[first:] + np.array([rect.top, rect.left])
            patch = Patch(rect, answer.logits)
            found = Finding(index, patch, places, prompts.positive[first:], distance)
    return found


def candidates(
    method: Method, expected: Expectation, seen: SliceTokens, features: Float32Array
) -> list[SlicePrompts]:
    """Clicks in a rectangle, for each number of parts, in pixels of the rectangle."""
    places = seen.place_rc - (seen.rect.top, seen.rect.left)
    apart = APART_CELLS * min(seen.grid.cell_px)
    where = expected.log_place(seen.at_mm)
    where = where - where.max(initial=-np.inf)  # of this slice: its own best place is not beside
    negative = _beside(method, expected, features, where)
    chosen: list[SlicePrompts] = []
    for count in method.counts:
        scores = _positive_scores(method, expected, features, seen.at_mm, count)
        positive = best_places(scores, places, apart=apart)
        against = best_places(negative, places, apart=2 * apart, taken=positive)
        clicks = clicks_of(positive, against)
        chosen.append(SlicePrompts(places[clicks.places], clicks.positive))
    return chosen


def distance_of(
    expected: Expectation,
    seen: SliceTokens,
    features: Float32Array,
    mask: npt.NDArray[np.bool_],
) -> float:
    """Transport distance of a mask (H, W of the rectangle) from the reference."""
    held = under(seen.of_patch(mask))
    if not held.any():
        return NOTHING
    found = expected.points_of(features[held], seen.at_mm[held])
    return transport_distance(expected.own_points, found)


def rect_for(planes: Planes, middle_rc: tuple[float, float], side_mm: float | None) -> Rect:
    """Rectangle to look into: the whole slice, or a square round the object."""
    return planes.whole if side_mm is None else square(planes, middle_rc, side_mm)


def _positive_scores(
    method: Method,
    expected: Expectation,
    features: Float32Array,
    at_mm: npt.NDArray[np.float64],
    count: int,
) -> npt.NDArray[np.float64]:
    if method.points == "parts":
        return expected.scores(expected.parts(count), features, at_mm)
    mean = unit(expected.features.mean(axis=0, keepdims=True))
    return np.repeat(expected.scores(mean, features, at_mm), count, axis=0)


def _beside(
    method: Method,
    expected: Expectation,
    features: Float32Array,
    where: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """How much each place looks like each part of what is beside the object; (p, n).

    PerSAM takes the place least like the object instead. Where the place counts, a negative
    click lies outside of it, and there where it looks most like the object.
    """
    if method.background == 0:
        return np.zeros((0, len(features)))
    mean = unit(expected.features.mean(axis=0, keepdims=True))
    like = similarity(mean, features).astype(np.float64)
    if method.points != "parts":
        return np.repeat(-like, method.background, axis=0)
    if method.placed:
        hard = np.where((where < OUTSIDE) & (where > 4 * OUTSIDE), like, -np.inf)
        return np.repeat(hard, method.background, axis=0)
    if not len(expected.beside):
        return np.zeros((0, len(features)))
    return similarity(expected.beside_parts(method.background), features).astype(np.float64)
