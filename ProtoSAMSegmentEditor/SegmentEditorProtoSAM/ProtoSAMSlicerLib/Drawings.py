"""Pictures for labels: a curve, and pictures that came as PNG.

A widget that paints itself would need Qt's virtual functions, which not every PythonQt hands to
Python; so lines are drawn into a pixmap, and a label shows it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import qt

WIDTH_PX, HEIGHT_PX, MARGIN_PX = 320, 72, 3
LINE, AXIS = "#4a7fd4", "#808080"
LINE_PX = 2


def curve(points: Sequence[Any], steps: int) -> Any:
    """Draw losses by their steps.

    Parameters
    ----------
    points : sequence of LossPoint
        By step; at least two.
    steps : int
        How many there will be: the width of the curve.
    """
    pixmap = qt.QPixmap(WIDTH_PX, HEIGHT_PX)
    pixmap.fill(qt.QColor(0, 0, 0, 0))
    painter = qt.QPainter()
    painter.begin(pixmap)
    try:
        pen = qt.QPen(qt.QColor(AXIS))
        painter.setPen(pen)
        bottom = HEIGHT_PX - MARGIN_PX
        painter.drawLine(MARGIN_PX, bottom, WIDTH_PX - MARGIN_PX, bottom)
        pen = qt.QPen(qt.QColor(LINE))
        pen.setWidth(LINE_PX)
        painter.setPen(pen)
        places = placesOf(points, steps)
        for (x, y), (next_x, next_y) in itertools.pairwise(places):
            painter.drawLine(x, y, next_x, next_y)
    finally:
        # A pixmap must not go while something paints on it.
        painter.end()
    return pixmap


def placesOf(points: Sequence[Any], steps: int) -> list[tuple[int, int]]:
    """Pixels (x, y) of points: the first step at the left, the least loss at the bottom."""
    losses = [one.loss for one in points]
    low, span = min(losses), (max(losses) - min(losses)) or 1.0
    most = max(steps, points[-1].step, 2)
    inner_x, inner_y = WIDTH_PX - 2 * MARGIN_PX, HEIGHT_PX - 3 * MARGIN_PX
    return [
        (
            MARGIN_PX + round(inner_x * (one.step - 1) / (most - 1)),
            MARGIN_PX + round(inner_y * (1 - (one.loss - low) / span)),
        )
        for one in points
    ]


def picture(png: bytes, width_px: int) -> Any:
    """Read a PNG; None if it is none. Wide ones are made to fit."""
    pixmap = qt.QPixmap()
    if not pixmap.loadFromData(qt.QByteArray(png)):
        return None
    if pixmap.width() > width_px:
        return pixmap.scaledToWidth(width_px, qt.Qt.SmoothTransformation)
    return pixmap
