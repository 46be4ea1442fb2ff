"""The module at work: panel, database, editor and the core's desk, and the timer between them.

Rules
-----
* Nothing here waits, and the event loop is never entered; the desk is looked after from a timer.
* The batch runs in the Python that the effect's worker uses, found in the same way.
* Dialogs open only when a button was pressed, and never while Slicer tests itself.
* It ends with Slicer: a batch at work is asked to stop, and the next start goes on with it.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import qt
import slicer
from ProtoSAMSlicerLib import Core, PythonSetup
from ProtoSAMSlicerLib.Translation import tr as _

from ProtoSAMBatchLib import Database
from ProtoSAMBatchLib.BatchPanel import BatchPanel
from ProtoSAMBatchLib.Editor import ReviewedResult

TICK_MS = 200
"""Between two looks at a batch; its manifest is a small file."""

OUT_SETTING, CASES_SETTING = "ProtoSAM/BatchFolder", "ProtoSAM/CasesFolder"
"""Keys in Slicer's settings."""

SEPARATOR = ";"
"""Between several files in one field."""


class BatchSession:
    """One panel of the module, and all that stands behind it."""

    def __init__(self) -> None:
        self.desk: Any = None
        self._core: Core.Core | None = None
        self._folder: Path | None = None
        self._series: list[Database.DatabaseSeries] = []
        self._shown: list[Any] = []
        self._result = ReviewedResult()
        self._closed = False
        self._timer = qt.QTimer()
        self._timer.connect("timeout()", self._tick)
        self.panel = BatchPanel(self)
        self.panel.setText("outEdit", str(slicer.app.userSettings().value(OUT_SETTING) or ""))
        self.panel.showMessage("")
        slicer.app.connect("aboutToQuit()", self.close)
        self.changed()

    def entered(self) -> None:
        """List what there is, now that the module is shown."""
        if not self._series:
            self.doRefresh()

    def close(self) -> None:
        """Slicer or the widget ends: so does everything here."""
        if self._closed:
            return
        self._closed = True
        self._timer.stop()
        slicer.app.disconnect("aboutToQuit()", self.close)
        if self.desk is not None:
            self.desk.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    # What was pressed

    def pressed(self, action: str) -> None:
        """Do what a button is for; what goes wrong becomes a sentence."""
        self.panel.showMessage("")
        try:
            getattr(self, f"do{action.capitalize()}")()
        except self._expected() as error:
            self._tell(error)
        self.changed()

    def changed(self) -> None:
        """Show what can be done now."""
        panel = self.panel
        panel.showSource()
        row = self._chosen()
        is_done = row is not None and row.status == "done"
        running = self.desk is not None and self.desk.is_running
        loaded = is_done and row.key == self._result.key
        done_before = is_done and bool(row.verdict)
        panel.enable(
            start=not running and bool(panel.text("outEdit")),
            show=not running and bool(panel.text("outEdit")),
            cancel=running,
            open=is_done,
            accept=is_done and not done_before,
            correct=loaded,
        )

    def doRefresh(self) -> None:
        """List the series of the database."""
        self._series = [one for one in Database.all_series() if one.files]
        shown = self._images()
        self.panel.showSeries(
            [
                (one.patient, one.study, one.series, one.modality, str(len(one.files)))
                for one in shown
            ]
        )
        if not Database.is_open():
            self.panel.showMessage(_("No DICOM database is open. Open one in the DICOM module."))

    def doFolder(self) -> None:
        """Choose a folder of images."""
        self._choose("folderEdit", qt.QFileDialog.getExistingDirectory, _("Folder of images"))

    def doOut(self) -> None:
        """Choose the folder for the results."""
        self._choose("outEdit", qt.QFileDialog.getExistingDirectory, _("Folder for the results"))

    def doWay(self) -> None:
        """Choose what to look for."""
        self._choose("wayEdit", qt.QFileDialog.getOpenFileName, _("Example or automatic prompts"))

    def doStart(self) -> None:
        """Begin a batch, or go on with it."""
        desk = self._ready()
        if desk is None:
            return
        wish = self._wish()
        if desk.is_running:
            return
        desk.start(wish)
        slicer.app.userSettings().setValue(OUT_SETTING, self.panel.text("outEdit"))
        self._wake()

    def doShow(self) -> None:
        """Show the results of a batch of before, without computing anything."""
        desk, out = self._ready(), Path(self.panel.text("outEdit"))
        if desk is None or desk.is_running:
            return
        desk.look_at(out, self._folderOfImages())
        if self.panel.source() == "database":
            uids = {row.series_uid for row in desk.rows}
            chosen = [one for one in self._series if one.uid in uids]
            desk.look_at(out, Database.files_of(chosen, self._series))
        if not desk.rows:
            self.panel.showMessage(_("There is no batch in this folder."))

    def doCancel(self) -> None:
        """Stop the batch."""
        if self.desk is not None:
            self.desk.cancel()
            self.panel.showMessage(_("Stopping. What is finished stays; Start goes on."))

    def doOpen(self) -> None:
        """Have a result loaded into the Segment Editor."""
        desk, row = self._ready(), self._chosen()
        if desk is None or row is None or row.status != "done":
            return
        if self._result.is_changed and not self._confirmed(
            _("The result that is open was changed and not saved. Open another one?")
        ):
            return
        desk.open_result(row)
        self._wake()

    def doAccept(self) -> None:
        """Take a result for right."""
        desk, row = self._ready(), self._chosen()
        if desk is not None and row is not None:
            desk.accept(row)
            self._wake()

    def doCorrect(self) -> None:
        """Keep the open result as a corrected case."""
        desk, row = self._ready(), self._chosen()
        cases = self._cases()
        if desk is None or row is None or self._folder is None or not cases:
            return
        path = self._folder / "corrected.seg.nrrd"
        if row.key != self._result.key or not self._result.save(path):
            self.panel.showMessage(_("The segmentation could not be saved. Open the result again."))
            return
        desk.correct(row, path, Path(cases))
        self._wake()

    # What the desk tells

    def rows_changed(self) -> None:
        """Show rows and progress."""
        chosen = self.panel.chosenResult()
        key = self._shown[chosen].key if 0 <= chosen < len(self._shown) else ""
        self._shown = list(self.desk.rows) if self.desk is not None else []
        keys = [row.key for row in self._shown]
        self.panel.showResults(
            [self._cells(row) for row in self._shown], keys.index(key) if key in keys else -1
        )
        self._showProgress()

    def batch_ended(self, error: Exception | None) -> None:
        """Say how a batch has ended."""
        self._showProgress()
        if error is not None:
            self._tell(error)
        elif any(row.is_open for row in self._shown):
            self.panel.showMessage(_("Stopped. Start goes on where it stopped."))
        else:
            self.panel.showMessage(_("Finished. The doubtful results stand on top."))

    def opened(self, row: Any, image: Path, segmentation: Path) -> None:
        """Load a result into the Segment Editor."""
        self._result.load(row.key, self._name(row), image, segmentation)

    def accepted(self, _row: Any, files: tuple[Path, ...]) -> None:
        """Put an accepted result into the database."""
        if not Database.is_open():
            self.panel.showMessage(
                _("Accepted. No DICOM database is open, so it stays in its folder."), str(files[0])
            )
            return
        Database.insert(files)
        self.panel.showMessage(_("Accepted; the DICOM database has it."))

    def corrected(self, _row: Any, case: str) -> None:
        """Say that a case was kept."""
        self.panel.showMessage(_("Saved as corrected case {case}.").format(case=case))

    def failed(self, error: Exception) -> None:
        """Say what went wrong with a result."""
        self._tell(error)

    # Parts

    def _tick(self) -> None:
        if self.desk is None:
            return
        self.desk.poll()
        self.changed()
        self._showProgress()
        if not (self.desk.is_running or self.desk.is_busy):
            self._timer.stop()

    def _wake(self) -> None:
        if not self._timer.isActive():
            self._timer.start(TICK_MS)

    def _ready(self) -> Any:
        """Return the desk, made with the first use; None if no Python can run it."""
        if self.desk is None:
            self._core = self._core or Core.load()
            found = PythonSetup.candidates(Core.checkout_folder())
            python = next((one for one in found if one.looks_complete()), None)
            if python is None:
                self.panel.showMessage(
                    _("No Python with ProtoSAM's libraries was found."),
                    _("Choose one in the Segment Editor's effect ProtoSAM."),
                )
                return None
            folder = tempfile.mkdtemp(prefix="ProtoSAM-batch-", dir=slicer.app.temporaryPath)
            self._folder = Path(folder)
            scene = self._core.scene
            interpreter = scene.Interpreter(python.python, python.environment(self._core.folder))
            self.desk = scene.BatchDesk(interpreter, self._folder, self)
        return self.desk

    def _wish(self) -> Any:
        panel = self.panel
        source = self._folderOfImages()
        if panel.source() == "database":
            shown = self._images()
            chosen = [shown[row] for row in panel.chosenSeries()]
            source = Database.files_of(chosen, self._series)
        files = [one.strip() for one in panel.text("wayEdit").split(SEPARATOR) if one.strip()]
        way = panel.way()
        return self._core.scene.BatchWish(
            source,
            Path(panel.text("outEdit")),
            examples=tuple(Path(one) for one in files) if way == "example" else (),
            autos=tuple(files) if way == "auto" else (),
            from_seg=way == "from-seg",
            adapter=panel.text("adapterEdit"),
            workers=panel.workers(),
            retry_failed=panel.retriesFailed(),
        )

    def _folderOfImages(self) -> Any:
        """Path that the user has given; an empty tuple without one."""
        path = self.panel.text("folderEdit")
        return Path(path) if path else ()

    def _images(self) -> list[Database.DatabaseSeries]:
        return [one for one in self._series if one.modality in Database.IMAGES]

    def _chosen(self) -> Any:
        row = self.panel.chosenResult()
        return self._shown[row] if 0 <= row < len(self._shown) else None

    def _cells(self, row: Any) -> tuple[str, ...]:
        found = ", ".join(f"{one.name} {one.volume_ml:.1f} ml" for one in row.structures)
        sure = f"{row.confidence:.2f}" if row.status == "done" else ""
        return (self._name(row), row.status, sure, found or row.reason, row.verdict)

    def _name(self, row: Any) -> str:
        """Name of a row: what the database calls its series, else the end of its UID."""
        known = next((one for one in self._series if one.uid == row.series_uid), None)
        name = known.series if known is not None and known.series else f"…{row.series_uid[-10:]}"
        return f"{name} {row.part}".strip()

    def _showProgress(self) -> None:
        self.panel.showProgress(None if self.desk is None else self.desk.progress)

    def _choose(self, field: str, ask: Any, title: str) -> None:
        if slicer.app.testingEnabled():
            self.panel.showMessage(_("Dialogs stay closed while Slicer is tested."))
            return
        path = ask(None, title, self.panel.text(field).split(SEPARATOR)[0])
        if path:
            self.panel.setText(field, str(path))

    def _cases(self) -> str:
        """Folder of corrected cases, asked for once."""
        settings = slicer.app.userSettings()
        path = str(settings.value(CASES_SETTING) or "")
        if not path and not slicer.app.testingEnabled():
            title = _("Folder for corrected cases")
            path = str(qt.QFileDialog.getExistingDirectory(None, title) or "")
            if path:
                settings.setValue(CASES_SETTING, path)
        return path

    def _confirmed(self, question: str) -> bool:
        if slicer.app.testingEnabled():
            return True
        return bool(slicer.util.confirmOkCancelDisplay(question, windowTitle="ProtoSAM"))

    def _expected(self) -> tuple[type[Exception], ...]:
        """Errors that have a sentence for the user; the core's are known once it is loaded."""
        core = () if self._core is None else (self._core.errors.ProtoSAMError,)
        return (Core.CoreUnavailable, OSError, *core)

    def _tell(self, error: Exception) -> None:
        self.panel.showMessage(
            getattr(error, "message", str(error)), getattr(error, "next_step", "")
        )
