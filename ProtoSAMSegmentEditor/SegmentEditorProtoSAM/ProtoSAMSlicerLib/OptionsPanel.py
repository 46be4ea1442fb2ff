"""The effect's options: widgets on one side, status and parameters on the other.

Rules
-----
* Decides nothing: it shows what it is told and hands on what was pressed.
* Looks come from the `.ui` file; here are texts that change. All texts can be translated.
* Widgets are filled with their signals blocked, so that showing a value never sets it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import qt
import slicer

from ProtoSAMSlicerLib import Core, Names
from ProtoSAMSlicerLib.Translation import tr as _

CHIP_COLOURS = {"ready": "#2e7d32", "starting": "#b26a00", "refused": "#b3261e"}

COMBOS = {"modelCombo": "Model", "adapterCombo": "Adapter", "windowCombo": "Window"}
SPINS = {
    "windowLowSpin": "WindowLow",
    "windowHighSpin": "WindowHigh",
    "closingSpin": "ClosingMm",
    "openingSpin": "OpeningMm",
    "smoothingSpin": "SmoothingMm",
}
COUNTS = {"bodiesSpin": "Bodies"}
CHECKS = {"removeIslandsCheck": "RemoveIslands", "fillHolesCheck": "FillHoles"}
TOOLS = {"positiveButton": "positive", "negativeButton": "negative", "boxButton": "box"}
ACTIONS = (
    "startButton",
    "stopButton",
    "cancelButton",
    "clearButton",
    "sealButton",
    "updateButton",
    "choosePythonButton",
    "installButton",
    "searchAgainButton",
    "addModelButton",
    "addAdapterButton",
)
"""Buttons; each calls `Session.pressed` with its name without "Button"."""


class Session(Protocol):
    """Who is told what was pressed."""

    def pressed(self, action: str) -> None:
        """Do what a button of `ACTIONS` is for."""

    def toolChosen(self, tool: str) -> None:
        """Give the left button another meaning."""

    def parameterChosen(self, name: str, value: str) -> None:
        """Set a parameter."""

    def removePressed(self, prompt_id: str) -> None:
        """Remove a prompt of the list."""

    def logText(self) -> str:
        """Return what the log shows."""


@contextmanager
def quiet(widget: Any):
    """Block a widget's signals for the moment."""
    blocked = widget.blockSignals(True)
    try:
        yield widget
    finally:
        widget.blockSignals(blocked)


class OptionsPanel:
    """The widgets below the effect's button.

    Parameters
    ----------
    session : Session
        Who is told what was pressed.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        path = Core.module_folder() / "Resources" / "UI" / "ProtoSAMOptions.ui"
        self.widget = slicer.util.loadUI(path.as_posix())
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self._prompt_ids: list[str] = []
        self._fillChoices()
        self._connect()
        self.showSetup("")
        self.showMessage("", "")
        self._showProgress(None)

    def _fillChoices(self) -> None:
        ui = self.ui
        for value, text in (
            ("automatic", _("Automatic")),
            ("view", _("As in the views")),
            ("values", _("These values")),
        ):
            ui.windowCombo.addItem(text, value)
        ui.modelCombo.addItem(_("The one in memory"), "")
        ui.adapterCombo.addItem(_("None"), "")

    def _connect(self) -> None:
        ui, session = self.ui, self._session
        for name in ACTIONS:
            getattr(ui, name).connect(
                "clicked()", _calling(session.pressed, name[: -len("Button")])
            )
        for name, tool in TOOLS.items():
            getattr(ui, name).connect("clicked()", _calling(session.toolChosen, tool))
        for name, parameter in COMBOS.items():
            self._connectValue(name, "currentIndexChanged(int)", parameter, self._data)
        for name, parameter in SPINS.items():
            self._connectValue(name, "valueChanged(double)", parameter, repr)
        for name, parameter in COUNTS.items():
            self._connectValue(name, "valueChanged(int)", parameter, str)
        for name, parameter in CHECKS.items():
            self._connectValue(name, "toggled(bool)", parameter, lambda on: "1" if on else "0")
        for name, value in (("scopeVolumeButton", "volume"), ("scopeSliceButton", "slice")):
            getattr(ui, name).connect(
                "clicked()", _calling(session.parameterChosen, "Scope", value)
            )
        ui.removeButton.connect("clicked()", self._removePressed)
        ui.logButton.connect("toggled(bool)", self._showLog)
        ui.promptList.connect("currentRowChanged(int)", self._rowChanged)
        # Only while the list has the keyboard; elsewhere Delete is not ours.
        delete = qt.QShortcut(qt.QKeySequence("Del"), ui.promptList)
        delete.setContext(qt.Qt.WidgetShortcut)
        delete.connect("activated()", self._removePressed)

    def _connectValue(
        self, name: str, signal: str, parameter: str, text: Callable[..., str]
    ) -> None:
        widget = getattr(self.ui, name)

        def changed(value: Any) -> None:
            chosen = text(widget, value) if signal.startswith("currentIndex") else text(value)
            self._session.parameterChosen(parameter, chosen)

        widget.connect(signal, changed)

    @staticmethod
    def _data(combo: Any, index: int) -> str:
        return str(combo.itemData(index) or "")

    # Parameters

    def showParameters(self, read: Callable[[str], str]) -> None:
        """Show the parameters as they stand on the node."""
        ui = self.ui
        for name, parameter in COMBOS.items():
            self._select(getattr(ui, name), read(parameter))
        span = abs(_number(read("WindowHigh"), 1.0) - _number(read("WindowLow"), 0.0))
        for name, parameter in SPINS.items():
            with quiet(getattr(ui, name)) as spin:
                if name.startswith("window"):
                    _fit(spin, span)
                spin.setValue(_number(read(parameter), spin.value))
        for name, parameter in COUNTS.items():
            with quiet(getattr(ui, name)) as spin:
                spin.setValue(round(_number(read(parameter), spin.value)))
        for name, parameter in CHECKS.items():
            with quiet(getattr(ui, name)) as check:
                check.setChecked(read(parameter) != "0")
        scope = read("Scope")
        ui.scopeSliceButton.setChecked(scope == "slice")
        ui.scopeVolumeButton.setChecked(scope != "slice")
        values = read("Window") == "values"
        ui.windowLowSpin.setEnabled(values)
        ui.windowHighSpin.setEnabled(values)

    def showModels(self, models: Sequence[Any]) -> None:
        """Offer the worker's models, and the weights files that the user has added."""
        names = [one.name for one in models]
        names += [name for name in Names.known(Names.MODELS) if name not in names]
        self.showChoices("modelCombo", names, {one.name for one in models if not one.available})

    def showChoices(self, combo_name: str, names: list[str], unavailable: set[str]) -> None:
        """Offer these names in the combo box of models or adapters, after its first entry."""
        combo = getattr(self.ui, combo_name)
        with quiet(combo):
            chosen = str(combo.itemData(combo.currentIndex) or "")
            while combo.count > 1:
                combo.removeItem(combo.count - 1)
            for name in names:
                text = _("{name} (not on this machine)") if name in unavailable else "{name}"
                combo.addItem(text.format(name=name), name)
        self._select(combo, chosen)

    @staticmethod
    def _select(combo: Any, value: str) -> None:
        with quiet(combo):
            if combo.findData(value) < 0:
                combo.addItem(value, value)
            combo.setCurrentIndex(combo.findData(value))

    def showTool(self, tool: str) -> None:
        """Show which tool the left button has."""
        for name, one in TOOLS.items():
            getattr(self.ui, name).setChecked(one == tool)

    # Status

    def showStatus(self, status: Any) -> None:
        """Show everything that the controller says."""
        ui = self.ui
        self._showChip(status)
        ui.hintLabel.setText(status.hint)
        self._showProgress(status)
        ui.clearButton.setEnabled(status.can_clear)
        ui.sealButton.setEnabled(status.can_clear)
        ui.updateButton.setEnabled(status.can_clear and not status.busy)
        ui.scoreLabel.setText(self._answerText(status))
        ui.cleanUpLabel.setText(self._cleanUpText(status))
        ui.cleanUpLabel.setVisible(bool(status.clean_up))
        if ui.logButton.checked:
            self._showLog(True)

    def showPrompts(self, rows: tuple[Any, ...]) -> None:
        """List the prompts."""
        selected = self.selectedPrompt()
        self._prompt_ids = [row.id for row in rows]
        with quiet(self.ui.promptList) as widget:
            widget.clear()
            for row in rows:
                widget.addItem(row.text if row.answered else _("{text} …").format(text=row.text))
        self.selectPrompt(selected)

    def selectedPrompt(self) -> str:
        """Id of the prompt that is selected in the list, or an empty text."""
        row = self.ui.promptList.currentRow
        return self._prompt_ids[row] if 0 <= row < len(self._prompt_ids) else ""

    def selectPrompt(self, prompt_id: str) -> None:
        """Select a prompt in the list, if it is there."""
        known = prompt_id in self._prompt_ids
        row = self._prompt_ids.index(prompt_id) if known else -1
        with quiet(self.ui.promptList) as widget:
            widget.setCurrentRow(row)
        self._rowChanged(row)

    def showHint(self, text: str) -> None:
        """Show a hint of this side, until the controller says another."""
        self.ui.hintLabel.setText(text)

    def showMessage(self, text: str, details: str) -> None:
        """Show a message; an empty one takes the last one away."""
        self.ui.messageLabel.setText(text)
        self.ui.messageLabel.setToolTip(details)
        self.ui.messageLabel.setVisible(bool(text))

    def showSetup(self, text: str, *, can_install: bool = False) -> None:
        """Show what is wrong with the Pythons, and the buttons for it; empty text = nothing."""
        self.ui.setupLabel.setText(text)
        self.ui.setupFrame.setVisible(bool(text))
        self.ui.installButton.setEnabled(can_install)

    def showNoWorker(self, text: str) -> None:
        """Show a chip without a worker."""
        self.ui.statusChip.setText(text)
        self.ui.statusChip.setToolTip("")
        self.ui.statusChip.setStyleSheet("")
        self.ui.startButton.setEnabled(False)
        self.ui.stopButton.setEnabled(False)

    def _showChip(self, status: Any) -> None:
        parts = [_workerText(status.worker), status.model, status.device]
        if status.memory_mb is not None:
            parts.append(_("{memory:.0f} MB").format(memory=status.memory_mb))
        ui = self.ui
        ui.statusChip.setText(" · ".join(part for part in parts if part))
        ui.statusChip.setToolTip(status.worker_text)
        colour = CHIP_COLOURS.get(status.worker)
        ui.statusChip.setStyleSheet(f"color: {colour};" if colour else "")
        runs = status.worker in ("starting", "ready")
        ui.startButton.setEnabled(not runs)
        ui.stopButton.setEnabled(runs)

    def _showProgress(self, status: Any) -> None:
        ui = self.ui
        busy = status is not None and status.busy
        ui.progressBar.setVisible(busy)
        ui.cancelButton.setVisible(busy or (status is not None and status.can_cancel))
        if busy:
            # A bar from 0 to 0 is Qt's way to say that nobody knows how long.
            ui.progressBar.setRange(0, 0 if status.progress is None else 100)
            ui.progressBar.setValue(round(100 * (status.progress or 0.0)))
            ui.progressBar.setFormat(status.progress_text or "%p%")

    @staticmethod
    def _answerText(status: Any) -> str:
        parts = []
        if status.score is not None:
            parts.append(_("Estimated quality {score:.2f}").format(score=status.score))
        if status.elapsed_s is not None:
            parts.append(_("{seconds:.1f} s").format(seconds=status.elapsed_s))
        if status.window is not None:
            low, high = status.window
            parts.append(_("window {low:g} to {high:g}").format(low=low, high=high))
        return " · ".join([*parts, *status.notes])

    @staticmethod
    def _cleanUpText(status: Any) -> str:
        text = _("Cleaned up: {changes}")
        return text.format(changes=status.clean_up) if status.clean_up else ""

    def _showLog(self, on: bool) -> None:
        self.ui.logView.setVisible(on)
        if on:
            self.ui.logView.setPlainText(self._session.logText())

    def _removePressed(self) -> None:
        selected = self.selectedPrompt()
        if selected:
            self._session.removePressed(selected)

    def _rowChanged(self, row: int) -> None:
        self.ui.removeButton.setEnabled(row >= 0)


def _workerText(state: str) -> str:
    texts = {
        "stopped": _("Stopped"),
        "starting": _("Starting"),
        "ready": _("Ready"),
        "refused": _("Cannot start"),
        "closed": _("Ended"),
    }
    return texts[state]


def _calling(function: Callable[..., None], *arguments: str) -> Callable[..., None]:
    def call(*_event: object) -> None:
        function(*arguments)

    return call


def _fit(spin: Any, span: float) -> None:
    """Have a spin box step and round as suits intensities that span this much."""
    power = math.floor(math.log10(span)) if span > 0 else 0
    spin.setDecimals(min(max(3 - power, 1), 6))
    spin.setSingleStep(10.0 ** (power - 1))


def _number(text: str, default: float) -> float:
    try:
        number = float(text)
    except ValueError:
        return default
    return number if math.isfinite(number) else default
