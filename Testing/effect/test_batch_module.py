"""The batch module in a stand-in of the application: wiring, database, editor, and a whole batch.

The desk behind it is the real one, and so are its commands and processes.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "ProtoSAMSegmentEditor" / "ProtoSAMBatch"
BATCH_TESTS = ROOT / "Testing" / "batch"
LIMIT_S = 90.0


class Database:
    """Slicer's DICOM database, of folders that are one series each."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self.isOpen = True
        self.folders = folders
        self.inserted: list[str] = []

    def patients(self) -> tuple[str, ...]:
        return ("1",)

    def studiesForPatient(self, _patient: str) -> tuple[str, ...]:
        return ("1.2",)

    def seriesForStudy(self, _study: str) -> tuple[str, ...]:
        return tuple(self.folders)

    def filesForSeries(self, uid: str) -> tuple[str, ...]:
        return tuple(str(path) for path in sorted(self.folders[uid].iterdir()))

    def nameForPatient(self, _patient: str) -> str:
        return "Mustermann^Erika"

    def descriptionForStudy(self, _study: str) -> str:
        return "Abdomen"

    def descriptionForSeries(self, uid: str) -> str:
        return f"venous {self.folders[uid].name}"

    def fieldForSeries(self, field: str, uid: str) -> str:
        assert field == "Modality"
        return "SEG" if self.folders[uid].name == "seg" else "CT"

    def insert(self, path: str) -> None:
        self.inserted.append(path)


class Labelmap:
    def __init__(self) -> None:
        self.stamp = 1

    def GetMTime(self) -> int:
        return self.stamp


class LoadedNode:
    """A volume or a segmentation of one segment."""

    def __init__(self, id: str, path: str) -> None:
        self.id, self.path, self.labelmap, self.geometry = id, path, Labelmap(), None

    def GetID(self) -> str:
        return self.id

    def SetReferenceImageGeometryParameterFromVolumeNode(self, node: Any) -> None:
        self.geometry = node

    def GetSegmentation(self) -> LoadedNode:
        return self

    def GetNumberOfSegments(self) -> int:
        return 1

    def GetNthSegmentID(self, _number: int) -> str:
        return "liver"

    def GetNthSegment(self, _number: int) -> LoadedNode:
        return self

    def GetRepresentation(self, name: str) -> Labelmap | None:
        return self.labelmap if name == "Binary labelmap" else None


class Editing:
    """What the module does with the scene, the Segment Editor and files."""

    def __init__(self, slicer: Any) -> None:
        self.nodes: dict[str, LoadedNode] = {}
        self.shown: dict[str, Any] = {}
        editor = types.SimpleNamespace(
            setSegmentationNode=lambda node: self.shown.update(segmentation=node),
            setSourceVolumeNode=lambda node: self.shown.update(volume=node),
        )
        widget = types.SimpleNamespace(self=lambda: types.SimpleNamespace(editor=editor))
        slicer.modules = types.SimpleNamespace(
            segmenteditor=types.SimpleNamespace(widgetRepresentation=lambda: widget)
        )
        slicer.util.loadVolume = self._load
        slicer.util.loadSegmentation = self._load
        slicer.util.saveNode = self._save
        slicer.util.selectModule = lambda name: self.shown.update(module=name)
        slicer.mrmlScene.GetNodeByID = self.nodes.get
        slicer.mrmlScene.RemoveNode = lambda node: self.nodes.pop(node.id)

    def _load(self, path: str, properties: dict[str, Any]) -> LoadedNode:
        node = LoadedNode(f"{Path(path).name} {len(self.nodes)}", path)
        node.content = Path(path).read_bytes()
        node.name = properties["name"]
        self.nodes[node.id] = node
        return node

    def _save(self, node: LoadedNode, path: str) -> bool:
        Path(path).write_bytes(node.content)
        return True


@pytest.fixture
def studies(tmp_path: Path) -> dict[str, Path]:
    """Two CT series of one study."""
    write = load_phantoms()
    ids = write.Ids.new()
    found = {}
    for n in range(2):
        one = ids.other_series()
        layout = write.Layout(origin=(-31.5, 12.25, 40.0 + 5 * n))
        write.write_series(tmp_path / "study" / f"s{n}", layout, one)
        found[one.series] = tmp_path / "study" / f"s{n}"
    return found


def load_phantoms() -> Any:
    sys.path.insert(0, str(ROOT / "Testing" / "dicom"))
    try:
        return importlib.import_module("phantom_series")
    finally:
        sys.path.pop(0)


class Opened:
    """The module's panel, opened."""

    def __init__(self, app: Any, module: Any, database: Database, editing: Editing) -> None:
        self.app, self.database, self.editing = app, database, editing
        widget = module.ProtoSAMBatchWidget()
        widget.layout = types.SimpleNamespace(addWidget=lambda one: None)
        widget.setup()
        widget.enter()
        self.widget, self.session = widget, widget.session
        self.ui = self.session.panel.ui

    def until(self, condition: Any) -> None:
        end = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < end, self.message
            self.app.tick()
            time.sleep(0.01)

    @property
    def message(self) -> str:
        return str(self.ui.messageLabel.text)

    def press(self, name: str) -> None:
        getattr(self.ui, f"{name}Button").click()


@pytest.fixture
def opened(app: Any, studies: dict[str, Path], tmp_path, monkeypatch) -> Iterator[Opened]:
    """The panel on a database of two series; batches run by the cheap way."""
    conftest = sys.modules[type(app).__module__]
    tables = conftest.load_by_path("table_stand_in", Path(__file__).with_name("table_stand_in.py"))
    table = tables.table_of(conftest.stand_in.Thing)
    monkeypatch.setitem(conftest.stand_in.KINDS, "QTableWidget", table)
    slicer, qt = sys.modules["slicer"], sys.modules["qt"]
    qt.QTableWidgetItem = tables.Item
    slicer.dicomDatabase = Database(studies)
    base = sys.modules["slicer.ScriptedLoadableModule"]
    base.ScriptedLoadableModuleWidget = type(
        "ScriptedLoadableModuleWidget", (), {"setup": lambda self: None}
    )
    program = tmp_path / "python"
    script = BATCH_TESTS / "desk_program.py"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    program.chmod(0o755)
    core = importlib.import_module("ProtoSAMSlicerLib.Core")
    parts = core.load()
    scene = importlib.import_module("protosam.scene")
    monkeypatch.setattr(
        core, "load", lambda: core.Core(parts.folder, scene, parts.client, parts.errors)
    )
    setup = importlib.import_module("ProtoSAMSlicerLib.PythonSetup")
    candidate = setup.Candidate(str(program), "settings")
    monkeypatch.setattr(setup, "candidates", lambda _checkout: [candidate])
    slicer.util.startupEnvironment = lambda: dict(os.environ)
    path = list(sys.path)
    module = conftest.load_by_path("ProtoSAMBatch", MODULE / "ProtoSAMBatch.py")
    one = Opened(app, module, slicer.dicomDatabase, Editing(slicer))
    yield one
    one.widget.cleanup()
    for name in [one for one in sys.modules if one.partition(".")[0] == "ProtoSAMBatchLib"]:
        del sys.modules[name]
    sys.path[:] = path


def fill(opened: Opened, tmp_path: Path) -> None:
    opened.ui.wayEdit.setText(str(tmp_path / "liver.psexample"))
    opened.ui.outEdit.setText(str(tmp_path / "out"))
    opened.session.changed()


@pytest.mark.slow
def test_series_are_chosen_segmented_opened_accepted_and_corrected(opened, tmp_path):
    ui = opened.ui
    assert [row[:4] for row in ui.seriesTable.texts()] == [
        ["Mustermann^Erika", "Abdomen", f"venous s{n}", "CT"] for n in range(2)
    ]
    fill(opened, tmp_path)
    ui.seriesTable.choose(0, 1)
    opened.press("start")
    assert not ui.startButton.enabled and ui.cancelButton.enabled
    opened.until(lambda: "Finished" in opened.message)
    assert [row[1] for row in ui.reviewTable.texts()] == ["done", "done"]
    assert all(row[0].startswith("venous s") for row in ui.reviewTable.texts())

    ui.reviewTable.choose(0)
    assert not ui.correctButton.enabled
    opened.press("open")
    opened.until(lambda: opened.editing.shown)
    shown = opened.editing.shown
    assert shown["module"] == "SegmentEditor"
    assert shown["segmentation"].geometry is shown["volume"]
    assert shown["volume"].name.startswith("venous s")

    opened.press("accept")
    opened.until(lambda: "Accepted" in opened.message)
    assert [Path(path).name for path in opened.database.inserted] == ["segmentation.dcm"]
    opened.until(lambda: ui.reviewTable.texts()[0][4] == "accepted")
    assert not ui.acceptButton.enabled

    opened.app.file_name = str(tmp_path / "cases")
    opened.press("correct")
    opened.until(lambda: "Saved as corrected case" in opened.message)
    assert (tmp_path / "cases" / "manifest.json").is_file()
    written = [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".json", ".csv")]
    assert written
    assert not any("Mustermann" in path.read_text() for path in written)


@pytest.mark.slow
def test_results_of_before_are_shown_without_a_batch(opened, tmp_path):
    fill(opened, tmp_path)
    opened.press("show")
    assert opened.message == "There is no batch in this folder."
    opened.ui.seriesTable.choose(1)
    opened.press("start")
    opened.until(lambda: "Finished" in opened.message)
    opened.session.desk.rows = ()
    opened.press("show")
    assert len(opened.ui.reviewTable.texts()) == 1
    opened.ui.reviewTable.choose(0)
    opened.ui.reviewTable.emit("cellDoubleClicked(int,int)", 0, 0)
    opened.until(lambda: opened.editing.shown)
    assert not opened.session._result.is_changed


def test_what_is_missing_is_a_sentence_and_nothing_is_started(opened, tmp_path):
    assert not opened.ui.startButton.enabled
    opened.ui.outEdit.setText(str(tmp_path / "out"))
    opened.session.changed()
    opened.press("start")
    assert opened.message == "Nothing says what to look for."
    opened.ui.wayEdit.setText("a.psexample")
    opened.press("start")
    assert opened.message == "No series is chosen."
    assert not opened.session.desk.is_running
    assert not (tmp_path / "out").exists()


def test_a_result_with_unsaved_changes_is_not_replaced_without_asking(opened, tmp_path):
    session = opened.session
    path = tmp_path / "a.nrrd"
    path.write_text("a")
    session._result.load("k", "name", path, path)
    assert not session._result.is_changed
    opened.editing.shown["segmentation"].labelmap.stamp += 1
    assert session._result.is_changed
    row = types.SimpleNamespace(
        key="k", status="done", verdict="", series_uid="1.2", part="", structures=(), reason="",
        confidence=0.5, is_open=False,
    )  # fmt: skip
    desk = session._ready()
    asked = []
    desk.rows = (row,)
    desk.open_result = asked.append
    session.rows_changed()
    opened.ui.reviewTable.choose(0)
    opened.app.answer = False
    opened.press("open")
    assert opened.app.asked and not asked
    opened.app.answer = True
    opened.press("open")
    assert asked == [row]


def test_a_database_that_is_closed_is_told(opened):
    opened.database.isOpen = False
    opened.press("refresh")
    assert "No DICOM database is open" in opened.message
    assert opened.ui.seriesTable.texts() == []


def test_segmentations_of_a_study_go_with_its_images(opened, studies, tmp_path):
    folder = tmp_path / "seg"
    folder.mkdir()
    (folder / "seg.dcm").write_text("seg")
    opened.database.folders["1.9"] = folder
    opened.press("refresh")
    assert len(opened.ui.seriesTable.texts()) == 2
    known = opened.session._series
    database = sys.modules["ProtoSAMBatchLib.Database"]
    files = database.files_of([known[0]], known)
    assert folder / "seg.dcm" in files
    assert not any(path.parent.name == "s1" for path in files)


def test_no_python_is_a_sentence(opened, tmp_path, monkeypatch):
    setup = sys.modules["ProtoSAMSlicerLib.PythonSetup"]
    monkeypatch.setattr(setup, "candidates", lambda _checkout: [])
    fill(opened, tmp_path)
    opened.press("start")
    assert opened.message == "No Python with ProtoSAM's libraries was found."


def test_the_fields_follow_source_and_way(opened):
    ui = opened.ui
    assert ui.seriesTable.visible and not ui.folderEdit.visible
    ui.sourceCombo.setCurrentIndex(1)
    assert ui.folderEdit.visible and not ui.seriesTable.visible
    ui.wayCombo.setCurrentIndex(2)
    assert not ui.wayEdit.enabled


def test_dialogs_fill_the_fields_and_stay_closed_while_slicer_is_tested(opened, tmp_path):
    opened.app.file_name = str(tmp_path)
    opened.press("out")
    assert opened.ui.outEdit.text == str(tmp_path)
    opened.app.testing = True
    opened.app.file_name = "elsewhere"
    opened.press("way")
    assert opened.ui.wayEdit.text == ""


def test_the_end_of_slicer_ends_the_batch_and_its_folder(opened, tmp_path, monkeypatch):
    monkeypatch.setenv("DESK_PAUSE_S", "30")
    sys.modules["slicer"].util.startupEnvironment = lambda: dict(os.environ)
    fill(opened, tmp_path)
    opened.ui.seriesTable.choose(0)
    opened.press("start")
    process = opened.session.desk._batch._process
    folder = opened.session._folder
    opened.app.application.emit("aboutToQuit()")
    assert not folder.exists()
    process.wait(LIMIT_S)
    opened.widget.cleanup()  # a second end is harmless
    assert process.returncode != 0
