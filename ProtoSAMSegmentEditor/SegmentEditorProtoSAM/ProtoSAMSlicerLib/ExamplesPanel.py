"""The part of the effect's options about examples: its widgets, and what they show.

Rules
-----
* Decides nothing: it shows what it is told and hands on what was pressed, as `OptionsPanel` does.
* The strip is a slider whose groove has a colour for each slice. A widget that paints itself would
  need Qt's virtual functions, which not every PythonQt hands to Python.
* Widgets are filled with their signals blocked, so that showing a value never sets it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import slicer

from ProtoSAMSlicerLib import Core
from ProtoSAMSlicerLib.OptionsPanel import quiet
from ProtoSAMSlicerLib.Translation import tr as _

ACTIONS = (
    "useButton",
    "applyButton",
    "exampleCancelButton",
    "folderButton",
    "doubtfulButton",
    "acceptButton",
    "rejectButton",
)
"""Buttons; each calls `Desk.pressed` with its name without "Button"."""

CHECKED_COLOUR = "#4a7fd4"
LEVELS = ((0.5, "#d9362b"), (1.0, "#f08c2e"), (1.5, "#d6bf3d"), (float("inf"), "#2e9e57"))
"""Colours of confidences below so many times the doubtful limit."""

GROOVE = (
    "QSlider::groove:horizontal {{ height: 14px; border-radius: 3px; background: "
    "qlineargradient(x1:0, y1:0, x2:1, y2:0, {stops}); }} "
    "QSlider::handle:horizontal {{ width: 5px; margin: -3px 0; background: palette(text); }}"
)


class Desk(Protocol):
    """Who is told what was pressed."""

    def pressed(self, action: str) -> None:
        """Do what a button of `ACTIONS` is for."""

    def sliceChosen(self, index: int) -> None:
        """Show a slice of the strip."""

    def proposalChosen(self, segment_id: str) -> None:
        """Select a proposal."""


class ExamplesPanel:
    """The widgets about examples.

    Parameters
    ----------
    desk : Desk
        Who is told what was pressed.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        path = Core.module_folder() / "Resources" / "UI" / "ProtoSAMExamples.ui"
        self.widget = slicer.util.loadUI(path.as_posix())
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self._slices: tuple[Any, ...] = ()
        self._segment_ids: list[str] = []
        for name in ACTIONS:
            getattr(self.ui, name).connect("clicked()", _calling(desk, name[: -len("Button")]))
        self.ui.stripSlider.connect("valueChanged(int)", self._stripMoved)
        self.ui.proposalList.connect("currentRowChanged(int)", self._rowChanged)
        self.showFiles([])

    def chosenFiles(self) -> list[str]:
        """Paths of the examples that are chosen: one, or all of the folder."""
        text = str(self.ui.exampleCombo.itemData(self.ui.exampleCombo.currentIndex) or "")
        return text.split("\n") if text else []

    def showFiles(self, paths: Sequence[str], chosen: str = "") -> None:
        """Offer example files; several can be applied together."""
        combo = self.ui.exampleCombo
        with quiet(combo):
            while combo.count:
                combo.removeItem(combo.count - 1)
            for path in paths:
                combo.addItem(path.replace("\\", "/").rpartition("/")[2], path)
            if len(paths) > 1:
                text = _("All {count} of this folder")
                combo.addItem(text.format(count=len(paths)), "\n".join(paths))
            if not paths:
                combo.addItem(_("No example in the folder"), "")
            combo.setCurrentIndex(max(combo.findData(chosen), 0))

    def show(self, examples: Any) -> None:
        """Show everything that the controller says about examples."""
        ui, busy = self.ui, bool(examples.phase)
        ui.useButton.setEnabled(examples.can_make and not busy)
        ui.applyButton.setEnabled(examples.can_apply and not busy and bool(self.chosenFiles()))
        ui.exampleBar.setVisible(busy)
        ui.exampleCancelButton.setVisible(busy)
        if busy:
            ui.exampleBar.setValue(round(100 * examples.progress))
            ui.exampleBar.setFormat(examples.progress_text or "%p%")
        self._showRows(examples)
        self._showStrip(examples)

    def showSlice(self, index: int) -> None:
        """Mark a slice of the strip as the one that is looked at."""
        places = [one.index for one in self._slices]
        if index not in places:
            return
        with quiet(self.ui.stripSlider) as slider:
            slider.setValue(places.index(index))
        self._showText(places.index(index))

    def _showRows(self, examples: Any) -> None:
        ids = [row.segment_id for row in examples.rows]
        with quiet(self.ui.proposalList) as widget:
            widget.clear()
            for row in examples.rows:
                widget.addItem(_rowText(row))
            chosen = "" if examples.selected is None else examples.selected.segment_id
            widget.setCurrentRow(ids.index(chosen) if chosen in ids else -1)
        self._segment_ids = ids
        self.ui.proposalList.setVisible(bool(ids))
        is_open = examples.selected is not None and examples.selected.decision != "accepted"
        self.ui.acceptButton.setEnabled(is_open)
        self.ui.rejectButton.setEnabled(is_open)

    def _showStrip(self, examples: Any) -> None:
        ui, strip = self.ui, tuple(examples.strip)
        for widget in (ui.stripSlider, ui.stripLabel):
            widget.setVisible(bool(strip))
        ui.doubtfulButton.setEnabled(bool(strip))
        if strip == self._slices:
            return
        known = [one.index for one in self._slices]
        self._slices = strip
        with quiet(ui.stripSlider) as slider:
            slider.setMaximum(max(len(strip) - 1, 0))
            slider.setStyleSheet(GROOVE.format(stops=stops(strip)) if strip else "")
            if known != [one.index for one in strip]:
                slider.setValue(0)
        self._showText(ui.stripSlider.value)

    def _showText(self, place: int) -> None:
        text = ""
        if 0 <= place < len(self._slices):
            one = self._slices[place]
            text = (
                _("Slice {number}: checked")
                if one.checked
                else _("Slice {number}: confidence {confidence:.2f}")
            )
            text = text.format(number=one.index + 1, confidence=one.confidence)
        self.ui.stripLabel.setText(text)

    def _stripMoved(self, place: int) -> None:
        if 0 <= place < len(self._slices):
            self._showText(place)
            self._desk.sliceChosen(self._slices[place].index)

    def _rowChanged(self, row: int) -> None:
        if 0 <= row < len(self._segment_ids):
            self._desk.proposalChosen(self._segment_ids[row])


def stops(strip: Sequence[Any]) -> str:
    """Return the stops of a gradient with a colour for each slice, neighbours of one in a band."""
    colours = [colourOf(one) for one in strip]
    edges = [n for n in range(1, len(colours)) if colours[n] != colours[n - 1]]
    found = []
    for begin, end in zip([0, *edges], [*edges, len(colours)], strict=True):
        colour = colours[begin]
        found.append(f"stop:{begin / len(colours):.5f} {colour}")
        found.append(f"stop:{max(end / len(colours) - 1e-5, 0.0):.5f} {colour}")
    return ", ".join(found)


def colourOf(one: Any) -> str:
    """Colour of a slice of the strip."""
    if one.checked:
        return CHECKED_COLOUR
    sure = Core.load().scene.SURE
    return next(colour for limit, colour in LEVELS if one.confidence < limit * sure)


def _rowText(row: Any) -> str:
    texts = {
        "proposed": _("{name}: {doubtful} doubtful slices"),
        "corrected": _("{name}: corrected, {doubtful} doubtful slices"),
        "accepted": _("{name}: accepted"),
    }
    return texts[row.decision].format(name=row.name, doubtful=row.doubtful)


def _calling(desk: Desk, action: str) -> Callable[..., None]:
    return lambda *_event: desk.pressed(action)
