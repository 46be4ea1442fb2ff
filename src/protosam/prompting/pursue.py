"""One segment in one target: from findings in slices to a mask of the volume.

Owns the choice of anchors, how findings travel through the volume (by the segmenter's own
clicks and waves), the retrieval among volumes by optimal transport, and the rule for what is not
there: a mask unlike the reference, measured by how unlike the reference's own slices are to each
other. Masks are (k, j, i); anchors are (slice, row, col).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from protosam.errors import Cancelled
from protosam.extents import Extent, three_ints
from protosam.geometry import ras_to_kji
from protosam.models.embeddings import Embedder
from protosam.models.planes import Planes
from protosam.models.segmenter import Segmenter, SegmentRequest
from protosam.models.sweep_input import slice_of
from protosam.prompting.align import Alignment
from protosam.prompting.cascade import UserClicks
from protosam.prompting.cloud import Cloud
from protosam.prompting.example import Lesson
from protosam.prompting.expect import SLICE_SET, Expectation, expectation, own_spread
from protosam.prompting.find import (
    Finding,
    Look,
    anchors_of,
    find_in_slice,
    likeness_of,
    rect_for,
)
from protosam.prompting.making import under
from protosam.prompting.methods import Method
from protosam.prompting.transport import NOTHING, Spread, at_most, transport_distance
from protosam.prompting.weights import MaskWeights
from protosam.prompts import Point, PromptSet

BoolArray = npt.NDArray[np.bool_]

ANCHORS = 5
"""Slices that are looked into for the object."""

TRAVELLERS = 1
"""Findings that are carried through the volume, each alone; the best is kept."""

MAPPED = 3
"""Slices that are clicked where the alignment alone says that the object lies."""

UNITED = 3
"""Findings that are carried through it together, as one more candidate."""

MARGIN_MM = 10.0
MARGIN_SHARE = 0.25
"""Nothing is kept further than this from the expected box: a length, and a share of its side."""

SIZE_WEIGHT = 0.25
"""What the square of the number of times that a volume is doubled or halved counts against it."""

UNLIKE = 4.0
"""Deviations of the reference's own slices above which a slice or an object is not the one: on
training pairs of three data sets (abdomen, head and neck, hippocampus) what had a Dice above 0.5
had medians from 1.0 to 2.8, what lay elsewhere from 1.4 to 20."""

DOUBLINGS = 2.2
"""Times that a volume may be doubled or halved against the reference's; on the same pairs right
objects were within 2.1 (a spleen), wrong ones up to 4.6."""

FALLS_BY_HALF = 3.0
"""Deviations that halve the confidence. It orders slices for review; it is no probability."""


@dataclass(frozen=True, eq=False)
class Pursuit:
    """What all segments of one target share."""

    thorough: Segmenter
    quick: Segmenter
    planes: Planes
    embedder: Embedder
    cloud: Cloud
    method: Method


@dataclass(frozen=True, eq=False)
class Found:
    """A mask of the volume and what speaks for it."""

    mask: BoolArray
    confidences: dict[int, float]
    distance: float
    prompts: PromptSet
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Follow:
    """How the work on one segment is followed and ended."""

    report: Callable[[float, str], None]
    should_stop: Callable[[], bool]
    on_slice: Callable[[int, BoolArray, float], None]
    """Slice, mask (rows, columns) of the whole slice, confidence 0..1."""


def pursue(
    pursuit: Pursuit,
    lesson: Lesson,
    alignments: Sequence[Alignment],
    user: PromptSet,
    follow: Follow,
) -> Found:
    """Find one segment; see `apply.apply_example` for the parameters."""
    report, should_stop, on_slice = follow.report, follow.should_stop, follow.on_slice
    cloud, method = pursuit.cloud, pursuit.method
    diagonal = float(np.linalg.norm(cloud.high_mm - cloud.low_mm))
    expected = expectation(lesson, alignments, diagonal_mm=diagonal, placed=method.placed)
    spread = own_spread(lesson, expected)
    report(0.0, "looking for it")
    shown: list[int] = []
    prompts = [_mapped_clicks(pursuit, expected, 1)]
    if method.points != "none":
        findings = _findings(pursuit, lesson, alignments, expected, user, should_stop)
        for one in findings:
            shown.append(one.index)
            on_slice(one.index, one.patch.on(pursuit.planes.whole) > 0, 0.5)
        prompts = _travellers(pursuit, findings, expected)
    if not prompts and (user.boxes or any(p.positive for p in user.points)):
        prompts = [PromptSet(axis=pursuit.planes.axis)]  # the user's clicks alone
    if not prompts:
        return _nothing(pursuit, user, "No slice of the image looks like the example.")
    allowed = _allowed(pursuit, expected, user) if method.placed else None
    joined = [_joined(one, user) for one in prompts]
    found = _best(pursuit, expected, joined, allowed, follow)
    found = _judged(pursuit, expected, spread, found, bool(user.ids))
    turned = np.moveaxis(found.mask, pursuit.planes.axis, 0)
    for index in sorted({*found.confidences, *shown}):  # what was shown too early goes again
        on_slice(index, turned[index], found.confidences.get(index, 0.0))
    return found


def _findings(
    pursuit: Pursuit,
    lesson: Lesson,
    alignments: Sequence[Alignment],
    expected: Expectation,
    user: PromptSet,
    should_stop: Callable[[], bool],
) -> list[Finding]:
    """Look into the anchors; nearest to the reference first."""
    planes, cloud, method = pursuit.planes, pursuit.cloud, pursuit.method
    weights = MaskWeights(lesson.samples[0].mask_weights) if method.weighted else None
    look = Look(pursuit.quick.model, planes, pursuit.embedder, cloud.scale, method, weights)
    likeness = likeness_of(expected, method, cloud)
    count = ANCHORS if len(method.counts) > 1 else 1
    anchors = anchors_of(likeness, expected, cloud, count)
    clicked = [planes.turn(p.point_kji) for p in user.points if p.positive]
    if clicked:  # who has clicked knows where it is
        anchors = [(slice_of(z, planes), (row, col)) for z, row, col in clicked][:count]
    sides = [s.closer.side_mm for s in lesson.samples if s.closer is not None]
    side_mm = None
    if method.placed and len(sides) == len(lesson.samples):
        side_mm = float(np.mean(sides))
        diagonal = float(np.linalg.norm(cloud.high_mm - cloud.low_mm))
        expected = expectation(
            lesson, alignments, diagonal_mm=diagonal, placed=method.placed, closer=True
        )
    findings = []
    for index, middle in anchors:
        if should_stop():
            raise Cancelled("The work was cancelled.", "Apply the example anew.")
        rect = rect_for(planes, middle, side_mm)
        one = find_in_slice(look, index, rect, expected, _clicks_in(planes, user, index))
        if one is not None:
            findings.append(one)
    return sorted(findings, key=lambda one: one.distance)


def _clicks_in(planes: Planes, user: PromptSet, index: int) -> UserClicks:
    placed = [(planes.turn(p.point_kji), p.positive) for p in user.points]
    here = [
        (place[1:], positive) for place, positive in placed if slice_of(place[0], planes) == index
    ]
    if not here:
        return UserClicks.none()
    return UserClicks(np.array([p for p, _ in here]), np.array([s for _, s in here]))


def _travellers(
    pursuit: Pursuit, findings: Sequence[Finding], expected: Expectation
) -> list[PromptSet]:
    """Clicks to carry through the volume: of the best findings each alone, and of several joined.

    Findings in several slices hold a long object better than one does, as long as all are right;
    the retrieval among volumes tells.
    """
    travellers = [_prompts_of(pursuit, [one]) for one in findings[:TRAVELLERS]]
    if len(findings[:UNITED]) > 1:
        travellers.append(_prompts_of(pursuit, findings[:UNITED]))
    if pursuit.method.placed and pursuit.method.points == "parts":
        travellers.append(_mapped_clicks(pursuit, expected, MAPPED))
    return travellers


def _prompts_of(pursuit: Pursuit, findings: Sequence[Finding]) -> PromptSet:
    """Clicks of findings as clicks in the volume."""
    planes = pursuit.planes
    clicks = [
        ((one.index, *place), bool(positive))
        for one in findings
        for place, positive in zip(one.points_rc, one.positive, strict=True)
    ]
    points = tuple(
        Point(planes.unturn_point(place), positive, f"example-{n}")
        for n, (place, positive) in enumerate(clicks, start=1)
    )
    return PromptSet(points=points, axis=planes.axis)


def _mapped_clicks(pursuit: Pursuit, expected: Expectation, count: int) -> PromptSet:
    """Click where the reference's own tokens lie in the target, in one slice or in several.

    In each slice it is the token nearest to the middle of those expected there, so that a click
    on a bent object lies on it.
    """
    planes, volume = pursuit.planes, pursuit.planes.volume
    last = np.array(volume.shape_kji) - 1
    places = np.array(
        [planes.turn(p) for p in np.clip(ras_to_kji(volume.affine, expected.at_mm), 0, last)]
    )
    shares = [0.5] if count == 1 else np.linspace(0, 1, count + 2)[1:-1]
    points = []
    for n, share in enumerate(shares, start=1):
        depth = np.abs(places[:, 0] - np.quantile(places[:, 0], share))
        there = places[depth <= max(0.5, float(depth.min()))]
        middle = (places if count == 1 else there).mean(axis=0)
        inner = there[np.linalg.norm(there - middle, axis=1).argmin()]
        points.append(Point(planes.unturn_point(inner), True, f"example-{n}"))
    return PromptSet(points=tuple(points), axis=planes.axis)


def _joined(found: PromptSet, user: PromptSet) -> PromptSet:
    """Join the user's prompts with those that were found."""
    taken = set(user.ids)
    points = (*user.points, *(p for p in found.points if p.id not in taken))
    return replace(found, points=points, boxes=user.boxes)


def _allowed(pursuit: Pursuit, expected: Expectation, user: PromptSet) -> Extent | None:
    """Box that nothing is kept outside of; none where the user has clicked beyond it."""
    volume = pursuit.planes.volume
    low, high = expected.at_mm.min(axis=0), expected.at_mm.max(axis=0)
    margin = MARGIN_MM + expected.unsure_mm + MARGIN_SHARE * (high - low)
    corners = np.stack(np.meshgrid(*zip(low - margin, high + margin, strict=True)), axis=-1)
    kji = ras_to_kji(volume.affine, corners.reshape(-1, 3))
    start = three_ints(np.floor(kji.min(axis=0)).astype(int), "start")
    stop = three_ints(np.ceil(kji.max(axis=0)).astype(int) + 1, "stop")
    box = Extent(start, stop).clip(volume.shape_kji)
    beyond = user.boxes or any(p.positive and not box.holds(p.voxel_kji) for p in user.points)
    return None if beyond else box


def _best(
    pursuit: Pursuit,
    expected: Expectation,
    prompts: Sequence[PromptSet],
    allowed: Extent | None,
    follow: Follow,
) -> Found:
    """Carry each candidate through the volume; keep that nearest to the reference."""
    volume = pursuit.planes.volume
    scored: list[tuple[float, int]] = []
    for n, one in enumerate(prompts if len(prompts) > 1 else ()):
        follow.report(0.1 + 0.4 * n / len(prompts), "comparing candidates")
        answer = pursuit.quick.segment(
            volume, SegmentRequest(one, editable=allowed), should_stop=follow.should_stop
        )
        mask = answer.full_mask(volume.shape_kji)
        unlike = distance_from(pursuit, expected, mask)
        scored.append((unlike + _missized(pursuit, expected, mask), n))
    chosen = prompts[min(scored)[1]] if scored else prompts[0]
    answer = pursuit.thorough.segment(
        volume,
        SegmentRequest(chosen, editable=allowed),
        should_stop=follow.should_stop,
        on_progress=lambda done, text: follow.report(0.5 + 0.5 * done, text),
    )
    mask = answer.full_mask(volume.shape_kji)
    return Found(mask, {}, distance_from(pursuit, expected, mask), chosen)


def _tokens_under(pursuit: Pursuit, mask: BoolArray) -> npt.NDArray[np.bool_]:
    """Tokens of the cloud (n,) under a mask of the volume."""
    turned = np.moveaxis(mask, pursuit.planes.axis, 0)
    share = [s.fractions(turned[z]) for z, s in pursuit.cloud.slices.items()]
    return under(np.concatenate(share))


def distance_from(pursuit: Pursuit, expected: Expectation, mask: BoolArray) -> float:
    """Transport distance of a mask (K, J, I) from the reference."""
    held = _tokens_under(pursuit, mask)
    cloud = pursuit.cloud
    if not held.any():
        return NOTHING
    found = expected.points_of(cloud.features[held], cloud.at_mm[held])
    return transport_distance(expected.own_points, found)


def _missized(pursuit: Pursuit, expected: Expectation, mask: BoolArray) -> float:
    """Weigh a mask's volume against the reference's, in units of the distance; 0 if not placed."""
    voxels = int(np.count_nonzero(mask))
    if not pursuit.method.placed or not voxels:
        return 0.0
    return SIZE_WEIGHT * _doublings(pursuit, expected, voxels) ** 2


def _doublings(pursuit: Pursuit, expected: Expectation, voxels: int) -> float:
    """How often the reference's volume must be doubled to get that of so many voxels."""
    held_mm3 = voxels * float(np.prod(pursuit.planes.volume.spacing_kji_mm))
    return float(np.log2(held_mm3 / expected.volume_mm3))


def _judged(
    pursuit: Pursuit, expected: Expectation, spread: Spread, found: Found, trusted: bool
) -> Found:
    """Give each slice its confidence, and take away what is not the object."""
    turned = np.moveaxis(found.mask, pursuit.planes.axis, 0)
    held = np.flatnonzero(turned.any(axis=(1, 2)))
    if not held.size:
        return _nothing(pursuit, found.prompts, "The model found nothing at the likely places.")
    described = np.array(sorted(pursuit.cloud.slices))
    nearest = {int(z): int(described[np.abs(described - z).argmin()]) for z in held}
    scale = np.sqrt(expected.features.shape[1])
    own = at_most(expected.features, SLICE_SET) / scale
    unlike = {
        z: _unlike(pursuit, expected, (own, spread), s, turned[z]) for z, s in nearest.items()
    }
    if pursuit.method.may_be_absent and not trusted:
        if float(np.median(list(unlike.values()))) > UNLIKE:
            return _nothing(pursuit, found.prompts, "What was found is unlike the example.")
        doublings = _doublings(pursuit, expected, int(np.count_nonzero(turned)))
        if pursuit.method.placed and abs(doublings) > DOUBLINGS:
            times = f"{2**doublings:.2g} times the example's volume"
            return _nothing(pursuit, found.prompts, f"What was found has {times}.")
        gone = _ends_unlike(unlike)
        mask = turned.copy()
        mask[gone] = False
        found = replace(found, mask=np.moveaxis(mask, 0, pursuit.planes.axis))
        unlike = {z: u for z, u in unlike.items() if z not in gone}
    sure = {z: float(0.5 ** (u / FALLS_BY_HALF)) for z, u in unlike.items()}
    return replace(found, confidences=sure)


def _unlike(
    pursuit: Pursuit,
    expected: Expectation,
    reference: tuple[npt.NDArray[np.floating], Spread],
    described: int,
    mask: BoolArray,
) -> float:
    """Deviations of a slice's features from the reference's, and of its place if that counts."""
    own, spread = reference
    seen = pursuit.cloud.slices[described]
    held = under(seen.fractions(mask))
    if not held.any():
        return UNLIKE
    found = pursuit.cloud.scale.apply(seen.raw[held]) / np.sqrt(own.shape[1])
    distance = transport_distance(own, found, limit=SLICE_SET)
    misplaced = float(np.sqrt(-2 * expected.log_place(seen.at_mm[held]).mean()))
    return spread.unlike(distance) + misplaced


def _ends_unlike(unlike: dict[int, float]) -> list[int]:
    """Slices from either end on that are unlike the reference, as long as two in a row are."""
    gone: list[int] = []
    for order in (sorted(unlike), sorted(unlike, reverse=True)):
        for place, z in enumerate(order):
            after = order[place + 1 : place + 2]
            if unlike[z] <= UNLIKE or any(unlike[a] <= UNLIKE for a in after):
                break
            gone.append(z)
    return gone


def _nothing(pursuit: Pursuit, prompts: PromptSet, note: str) -> Found:
    empty = np.zeros(pursuit.planes.volume.shape_kji, dtype=bool)
    return Found(empty, {}, NOTHING, prompts, (f"{note} The proposal is empty.",))
