"""Slices in the order of their positions, and whether they make a grid.

Rules
-----
* Order comes from positions along the normal, never from file names or instance numbers.
* A grid is right-angled and even: every slice lies within `POSITION_TOLERANCE_MM` of its place on
  the straight line from the first to the last. Anything else is an error with the numbers.
* It knows frames and geometry: no files, no tags. All positions are LPS mm; only `Stack.affine`
  speaks RAS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protosam.dicom.frames import Frame
from protosam.errors import GeometryError
from protosam.extents import FloatArray
from protosam.geometry import MAX_AXIS_COSINE, checked_affine, flip_ras_lps

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference of two direction cosines within one series."""

POSITION_TOLERANCE_MM = 0.1
"""How far a slice may lie from its place on an even grid: headers round to 0.1 mm at worst."""

SAME_PLACE_MM = 1e-3
"""Positions nearer than this are the same."""

MULTIPLE_TOLERANCE = 0.15
"""A step within this of twice, three times ... the usual one means that slices are missing."""

_EXPORT = "Export the complete series again, or choose another one."
_STRAIGHTEN = "Let it be resampled to right angles (straighten), or choose another series."


class CrookedStack(GeometryError):
    """Slices that are complete but tilted or uneven; `straighten.py` can resample them."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices of one orientation and size in the order of their positions."""

    frames: tuple[Frame, ...]
    """Along the normal, which is right-handed with rows and columns."""
    depths_mm: FloatArray
    """(n,) positions along the normal, growing."""
    shifts_mm: FloatArray
    """(n, 2) positions along a row and down a column, from the first slice."""

    @property
    def tilt_degrees(self) -> float:
        """Angle between the line of the slices and their normal; 0 for one slice."""
        if len(self.frames) == 1:
            return 0.0
        run = float(self.depths_mm[-1] - self.depths_mm[0])
        return float(np.degrees(np.arctan2(np.linalg.norm(self.shifts_mm[-1]), run)))

    @property
    def step_mm(self) -> float:
        """Mean distance of slices along the normal; the thickness of a single one."""
        if len(self.frames) == 1:
            return self.frames[0].thickness_mm
        return float((self.depths_mm[-1] - self.depths_mm[0]) / (len(self.frames) - 1))

    @property
    def affine(self) -> FloatArray:
        """(4, 4), (i, j, k, 1) -> RAS mm; true for stacks that passed `check_even`."""
        first, last = self.frames[0], self.frames[-1]
        lps = np.eye(4)
        lps[:3, 0] = first.axes_lps[0] * first.spacing_mm[1]
        lps[:3, 1] = first.axes_lps[1] * first.spacing_mm[0]
        lps[:3, 2] = first.normal_lps * self.step_mm
        if len(self.frames) > 1:
            way = last.position_lps_mm - first.position_lps_mm
            lps[:3, 2] = way / (len(self.frames) - 1)
        lps[:3, 3] = first.position_lps_mm
        return checked_affine(flip_ras_lps(lps))


def stack_of(frames: Sequence[Frame]) -> Stack:
    """Put slices in order.

    Parameters
    ----------
    frames : sequence of Frame
        At least one, in any order.

    Raises
    ------
    GeometryError
        Orientations or sizes that differ, or several slices at one place.
    """
    _refuse_mixture(frames)
    first = frames[0]
    normal = first.normal_lps
    ordered = sorted(frames, key=lambda one: float(one.position_lps_mm @ normal))
    moves = np.array([one.position_lps_mm - ordered[0].position_lps_mm for one in ordered])
    depths = moves @ normal
    crowded = int((np.diff(depths) < SAME_PLACE_MM).sum())
    if crowded:
        raise GeometryError(
            f"{crowded} of {len(frames)} slices lie where another one lies, and no tag of their "
            "headers (echo, time, b-value ...) tells them apart.",
            "Export echoes, phases or reconstructions as separate series.",
        )
    return Stack(tuple(ordered), depths, moves @ first.axes_lps.T)


def check_even(stack: Stack) -> None:
    """Refuse a stack whose slices do not form a right-angled, even grid.

    Raises
    ------
    GeometryError
        Slices are missing.
    CrookedStack
        A tilted gantry or a spacing that changes.
    """
    if len(stack.frames) == 1:
        return
    steps = np.diff(stack.depths_mm)
    even = np.linspace(0, stack.depths_mm[-1], len(stack.frames))
    uneven = float(np.abs(stack.depths_mm - even).max()) > POSITION_TOLERANCE_MM
    if uneven:
        _refuse_missing(stack, steps)
    reasons = [*_tilt(stack)]
    if uneven:
        reasons.append(
            f"the slices lie between {steps.min():.2f} and {steps.max():.2f} mm apart, "
            f"mostly {float(np.median(steps)):.2f} mm"
        )
    if reasons:
        text = "; ".join(reasons)
        raise CrookedStack(f"{text[0].upper()}{text[1:]}.", _STRAIGHTEN)


def _tilt(stack: Stack) -> list[str]:
    """Whether the slices move sideways, as one reason or none."""
    part = np.linspace(0, 1, len(stack.frames))[:, None] * stack.shifts_mm[-1]
    wander = float(np.linalg.norm(stack.shifts_mm - part, axis=1).max())
    if np.sin(np.radians(stack.tilt_degrees)) > MAX_AXIS_COSINE:
        return [
            f"the gantry was tilted by {stack.tilt_degrees:.1f} degrees: each slice is shifted "
            f"sideways, {float(np.linalg.norm(stack.shifts_mm[-1])):.1f} mm in all"
        ]
    if wander > POSITION_TOLERANCE_MM:
        return [f"the slices are shifted sideways against each other by up to {wander:.2f} mm"]
    return []


def _refuse_missing(stack: Stack, steps: FloatArray) -> None:
    usual = float(np.median(steps))
    ratio = steps / usual
    whole = np.abs(ratio - ratio.round()) < MULTIPLE_TOLERANCE
    gaps = np.flatnonzero(whole & (ratio.round() > 1))
    # Missing slices leave gaps of whole steps; where the rest is uneven, too, nothing is certain,
    # and a gap of two steps or more is no ground for interpolation either.
    if gaps.size == 0 and ratio.max() < 2:
        return
    places = gaps if gaps.size else np.array([int(ratio.argmax())])
    count = int((ratio[places].round() - 1).sum())
    shown = ", ".join(f"{stack.depths_mm[n]:.1f}" for n in places[:3])
    raise GeometryError(
        f"{count} slices are missing: the usual step is {usual:.2f} mm, and there are gaps of "
        f"{float(steps[places].max()):.2f} mm, {shown} mm from the first of "
        f"{len(stack.frames)} slices.",
        _EXPORT,
    )


def _refuse_mixture(frames: Sequence[Frame]) -> None:
    first = frames[0]
    kinds: list[FloatArray] = []
    for one in frames:
        if not any(np.abs(one.axes_lps - axes).max() <= ORIENTATION_TOLERANCE for axes in kinds):
            kinds.append(one.axes_lps)
        same_spacing = np.allclose(one.spacing_mm, first.spacing_mm, rtol=1e-3)
        if one.shape != first.shape or not same_spacing:
            raise GeometryError(
                f"The slices differ in size: {first.shape} and {one.shape} pixels of "
                f"{first.spacing_mm} and {one.spacing_mm} mm.",
                "Export them as separate series.",
            )
    if len(kinds) > 1:
        raise GeometryError(
            f"The {len(frames)} slices lie in {len(kinds)} orientations.",
            "Export the planes as separate series.",
        )
