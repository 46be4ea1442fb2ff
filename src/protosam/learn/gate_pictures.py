"""Pictures of what an adapter has changed: the answers before and now, beside the truth.

Owns which objects are shown and how. What the gate has answered is kept, so that no model is asked
again. Objects are of cases that judge and of what was taught: the one that gained most, the one
that lost most, and some in between. Lines: the truth white, the answer before orange, the answer
now blue, each after one click. A picture shows a patient's image and belongs into the user's own
folder alone; nothing that names a patient or a file is written into it. Indices are (k, j, i).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from protosam.extents import BoolArray, bounding_extent
from protosam.intensity import auto_window
from protosam.learn.adapter_cards import PICTURES
from protosam.learn.gate import Contender, GateReport
from protosam.learn.gate_boards import Board
from protosam.plane_pictures import draw_outline, draw_slice, finish_plane, planes_of
from protosam.robot import Plane, Target
from protosam.storage import atomic_path

MOST = 4
"""Pictures of a version."""

TRUTH, BEFORE, NOW = "#ffffff", "#e69f00", "#56b4e9"
"""Colours of the lines; white, orange and blue are told apart by everybody."""

SIDE_INCH, DOTS_PER_INCH = 3.0, 100
MARGIN = 0.6
"""Of the picture's half width, beyond the lines, as a part of their own extent."""

FEWEST_PIXELS = 24
"""Least half width of a picture in pixels, so that a small object is seen in its place."""


class FirstAnswers:
    """What each contender answered after one click, board by board."""

    def __init__(self) -> None:
        self._masks: dict[tuple[Contender, int], BoolArray] = {}

    def of(self, who: Contender) -> Callable[[int, BoolArray], None]:
        """Return what keeps the answers of a contender."""

        def keep(number: int, mask: BoolArray) -> None:
            self._masks[who, number] = mask

        return keep

    def pair(self, number: int) -> tuple[BoolArray, BoolArray] | None:
        """Masks before and now, each of the board's slice; None where one of them is missing."""
        current = self._masks.get(("current", number), self._masks.get(("base", number)))
        new = self._masks.get(("new", number))
        return None if current is None or new is None else (current, new)


def draw_pictures(
    folder: Path, boards: Sequence[Board], report: GateReport, answers: FirstAnswers
) -> tuple[Path, ...]:
    """Write a PNG of each chosen object into a folder.

    Parameters
    ----------
    folder : Path
        Of the new version.
    boards : sequence of Board
        In the order of the report's rows.
    report : GateReport
    answers : FirstAnswers

    Returns
    -------
    tuple of Path
        The one that gained most first.

    Raises
    ------
    StorageFailure
        When one cannot be written.
    """
    written: list[Path] = []
    for number in chosen(report):
        pair, target = answers.pair(number), boards[number].target
        if pair is not None and target.plane is not None:
            path = folder / PICTURES.replace("*", str(len(written) + 1))
            _draw(path, target, target.plane, pair)
            written.append(path)
    return tuple(written)


def chosen(report: GateReport) -> tuple[int, ...]:
    """Numbers of the rows to show, by how much one click gained: the most, the least, in between.

    Parameters
    ----------
    report : GateReport
    """
    own = [number for number, row in enumerate(report.rows) if not row.elsewhere]

    def gain(number: int) -> float:
        marks = report.rows[number].marks
        return marks["new"].dice[1] - marks["current"].dice[1]

    ranked = sorted(own, key=gain, reverse=True)
    places = np.linspace(0, len(ranked) - 1, min(MOST, len(ranked))).round().astype(int)
    return tuple(ranked[place] for place in places)


def _draw(path: Path, target: Target, at: Plane, pair: tuple[BoolArray, BoolArray]) -> None:
    axis, index = at.axis, at.index
    shape = list(target.volume.shape_kji)
    shape[axis] = 1  # of all planes the one across this axis alone
    figure, planes = planes_of(tuple(shape), SIDE_INCH, SIDE_INCH + 0.2)
    window, masks = auto_window(target.volume.voxels), (target.board(target.truth), *pair)
    for _, plane in planes:
        draw_slice(plane, target.volume, window, axis=axis, index=index)
        for mask, colour in zip(masks, (TRUTH, BEFORE, NOW), strict=True):
            draw_outline(plane, mask, colour)
        _look_closer(plane, np.logical_or.reduce(masks), target.spacing_mm)
        finish_plane(plane, target.volume, axis=axis, index=index, font_points=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, facecolor="black", format="png")


def _look_closer(plane: Axes, shown: BoolArray, spacing_mm: Sequence[float]) -> None:
    """Cut a square in mm around what is shown out of the slice, as far as the slice goes."""
    box = bounding_extent(shown[None])
    if box is None:
        return
    starts, stops = box.start_kji[1:], box.stop_kji[1:]
    half_mm = max(
        max((stop - start) * (1 + MARGIN), 2 * FEWEST_PIXELS) * step / 2
        for start, stop, step in zip(starts, stops, spacing_mm, strict=True)
    )
    (top, bottom), (left, right) = (
        (max(-0.5, middle - half_mm / step), min(size - 0.5, middle + half_mm / step))
        for middle, step, size in zip(
            ((start + stop - 1) / 2 for start, stop in zip(starts, stops, strict=True)),
            spacing_mm,
            shown.shape,
            strict=True,
        )
    )
    plane.set_ylim(bottom, top)
    plane.set_xlim(left, right)
