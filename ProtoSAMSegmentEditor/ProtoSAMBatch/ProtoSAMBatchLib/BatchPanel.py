"""The module's widgets: fields on one side, rows and progress on the other.

Rules
-----
* Decides nothing: it shows what it is told and hands on what was pressed.
* Looks come from the `.ui` file; here are texts that change. All texts can be translated.
* Tables are filled with their signals blocked; a row is known by its place.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import qt
import slicer
from ProtoSAMSlicerLib.Translation import tr as _

UI_FILE = Path(__file__).resolve().parent.parent / "Resources" / "UI" / "ProtoSAMBatch.ui"

BUTTONS = (
    "refreshButton",
    "folderButton",
    "outButton",
    "wayButton",
    "startButton",
    "showButton",
    "cancelButton",
    "openButton",
    "acceptButton",
    "correctButton",
)
"""Each calls `Session.pressed` with its name without "Button"."""

WAYS = ("example", "auto", "from-seg")
SOURCES = ("database", "folder")


class Session(Protocol):
    """Who is told what was pressed."""

    def pressed(self, action: str) -> None:
        """Do what a button is for."""

    def changed(self) -> None:
        """Take note that a field is another now."""


class BatchPanel:
    """The widgets of the module.

    Parameters
    ----------
    session : Session
        Who is told what was pressed.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.widget = slicer.util.loadUI(UI_FILE.as_posix())
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self._fill()
        self._connect()

    def _fill(self) -> None:
        ui = self.ui
        for value, text in zip(SOURCES, (_("DICOM database"), _("Folder or file")), strict=True):
            ui.sourceCombo.addItem(text, value)
        ways = (_("Finished cases"), _("Automatic prompts"), _("Segmentations of the study"))
        for value, text in zip(WAYS, ways, strict=True):
            ui.wayCombo.addItem(text, value)
        _columns(
            ui.seriesTable,
            [_("Patient"), _("Study"), _("Series"), _("Modality"), _("Files")],
        )
        _columns(
            ui.reviewTable,
            [_("Series"), _("Status"), _("Sure"), _("Found"), _("Verdict")],
        )
        self.showProgress(None)

    def _connect(self) -> None:
        ui, session = self.ui, self._session
        for name in BUTTONS:
            getattr(ui, name).connect("clicked()", _pressing(session, name[: -len("Button")]))
        for name in ("sourceCombo", "wayCombo"):
            getattr(ui, name).connect("currentIndexChanged(int)", self._changed)
        for name in ("folderEdit", "outEdit", "wayEdit"):
            getattr(ui, name).connect("textChanged(QString)", self._changed)
        ui.seriesTable.connect("itemSelectionChanged()", self._changed)
        ui.reviewTable.connect("itemSelectionChanged()", self._changed)
        ui.reviewTable.connect("cellDoubleClicked(int,int)", self._doubleClicked)

    def _changed(self, *_given: object) -> None:
        self._session.changed()

    def _doubleClicked(self, *_given: object) -> None:
        self._session.pressed("open")

    # What the user has chosen

    def source(self) -> str:
        """One of `SOURCES`."""
        return str(self.ui.sourceCombo.itemData(self.ui.sourceCombo.currentIndex) or SOURCES[0])

    def way(self) -> str:
        """One of `WAYS`."""
        return str(self.ui.wayCombo.itemData(self.ui.wayCombo.currentIndex) or WAYS[0])

    def text(self, name: str) -> str:
        """Text of a field."""
        return str(getattr(self.ui, name).text).strip()

    def setText(self, name: str, text: str) -> None:
        """Fill a field."""
        getattr(self.ui, name).setText(text)

    def workers(self) -> int:
        """How many processes are wanted."""
        return int(self.ui.workersSpin.value)

    def retriesFailed(self) -> bool:
        """Whether series that failed are to be tried again."""
        return bool(self.ui.retryCheck.checked)

    def chosenSeries(self) -> list[int]:
        """Rows of the table of series that are selected."""
        return _selected(self.ui.seriesTable)

    def chosenResult(self) -> int:
        """Row of the table of results that is selected; -1 = none."""
        rows = _selected(self.ui.reviewTable)
        return rows[0] if rows else -1

    # What is shown

    def showSeries(self, rows: list[tuple[str, ...]]) -> None:
        """List the series of the database."""
        _show(self.ui.seriesTable, rows)

    def showResults(self, rows: list[tuple[str, ...]], keep: int) -> None:
        """List the results; `keep` is the row that stays selected, -1 = none."""
        _show(self.ui.reviewTable, rows)
        if keep >= 0:
            self.ui.reviewTable.selectRow(keep)

    def showProgress(self, progress: Any) -> None:
        """Show how far the batch is; None = nothing is known of one."""
        ui = self.ui
        running = progress is not None and progress.running
        total = 0 if progress is None else progress.total
        ui.progressBar.setVisible(running)
        ui.progressBar.setMaximum(total)
        ui.progressBar.setValue(0 if progress is None else progress.finished)
        ui.progressLabel.setText("" if progress is None else self._words(progress))

    @staticmethod
    def _words(progress: Any) -> str:
        if not progress.total:
            return _("Looking for series.") if progress.running else ""
        text = _("{finished} of {total} series").format(
            finished=progress.finished, total=progress.total
        )
        if progress.left_s is None:
            return text
        minutes = max(1, round(progress.left_s / 60))
        return _("{text}, about {minutes} min left").format(text=text, minutes=minutes)

    def showMessage(self, text: str, details: str = "") -> None:
        """Show a sentence, and what more there is to it in the tool tip."""
        self.ui.messageLabel.setText(text)
        self.ui.messageLabel.setToolTip(details)
        self.ui.messageLabel.setVisible(bool(text))

    def showSource(self) -> None:
        """Show the fields of the chosen kind of source and way."""
        ui, from_database = self.ui, self.source() == "database"
        ui.seriesTable.setVisible(from_database)
        ui.refreshButton.setVisible(from_database)
        ui.folderEdit.setVisible(not from_database)
        ui.folderButton.setVisible(not from_database)
        needs_file = self.way() != "from-seg"
        ui.wayEdit.setEnabled(needs_file)
        ui.wayButton.setEnabled(needs_file)

    def enable(self, **can: bool) -> None:
        """Make buttons usable: start=True and so on."""
        for name, on in can.items():
            getattr(self.ui, f"{name}Button").setEnabled(on)


def _pressing(session: Session, action: str) -> Callable[..., None]:
    """Slot for a button; PythonQt may hand arguments of the signal on."""

    def slot(*_given: object) -> None:
        session.pressed(action)

    return slot


def _columns(table: Any, names: list[str]) -> None:
    table.setColumnCount(len(names))
    table.setHorizontalHeaderLabels(names)


def _show(table: Any, rows: list[tuple[str, ...]]) -> None:
    blocked = table.blockSignals(True)
    try:
        table.clearSelection()
        table.setRowCount(len(rows))
        for number, row in enumerate(rows):
            for column, text in enumerate(row):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(text)
                table.setItem(number, column, item)
    finally:
        table.blockSignals(blocked)


def _selected(table: Any) -> list[int]:
    rows = {index.row() for index in table.selectionModel().selectedRows()}
    return sorted(rows)
