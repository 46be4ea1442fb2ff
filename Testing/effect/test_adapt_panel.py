"""Learning in the effect: the folder of cases, a run with its curve and verdict, versions."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from xml.etree import ElementTree

import pytest

from protosam.scene import LearningStatus, LossPoint, RunStatus
from protosam.wire.messages import Adapted, AdapterInfo, CaseList, Standing

MODULE = Path(__file__).resolve().parents[2] / "ProtoSAMSegmentEditor" / "SegmentEditorProtoSAM"
UI = MODULE / "Resources" / "UI" / "ProtoSAMAdapt.ui"
FIVE = CaseList(5, 2, 4, ("liver",))
POINTS = (LossPoint(1, 0.9), LossPoint(2, 0.5), LossPoint(3, 0.4))


class Pixmap:
    """A QPixmap: a size, a picture that it was read from, and what was painted on it."""

    def __init__(self, width: int = 0, height: int = 0) -> None:
        self.size, self.lines, self.content = (width, height), [], b""

    def fill(self, colour: Any) -> None:
        self.filled = colour

    def loadFromData(self, content: bytes) -> bool:
        self.content, self.size = content, (400, 200)
        return content.startswith(b"\x89PNG")

    def width(self) -> int:
        return self.size[0]

    def scaledToWidth(self, width: int, _mode: Any) -> Pixmap:
        made = Pixmap(width, self.size[1] * width // self.size[0])
        made.content = self.content
        return made


class Painter:
    """A QPainter; Qt crashes if one is left open."""

    open: ClassVar[list[Painter]] = []

    def begin(self, pixmap: Pixmap) -> bool:
        self.pixmap = pixmap
        self.open.append(self)
        return True

    def setPen(self, pen: Any) -> None:
        self.pen = pen

    def drawLine(self, *ends: int) -> None:
        assert all(isinstance(one, int) for one in ends), "PythonQt finds no such overload"
        self.pixmap.lines.append((self.pen.colour, ends))

    def end(self) -> bool:
        self.open.remove(self)
        return True


class Pen:
    def __init__(self, colour: Any) -> None:
        self.colour = colour

    def setWidth(self, width: int) -> None:
        self.width = width


@pytest.fixture
def editor(app: Any) -> Any:
    qt = sys.modules["qt"]
    qt.QPixmap, qt.QPainter, qt.QPen, qt.QByteArray = Pixmap, Painter, Pen, bytes
    qt.QColor = lambda *given: given
    qt.Qt.SmoothTransformation = 1
    made = app.editor().choose()
    made.controller.say()
    made.controller.learning.calls.clear()
    yield made
    assert Painter.open == []


def ui(editor: Any) -> Any:
    return editor.session.adapt.panel.ui


def say(editor: Any, **learning: Any) -> None:
    now = editor.controller.status.learning
    editor.controller.say(learning=replace(now, **learning))


def asked(editor: Any) -> list[Any]:
    calls, editor.controller.learning.calls = editor.controller.learning.calls, []
    return calls


def type_name(editor: Any, name: str) -> None:
    ui(editor).nameEdit.setText(name)
    ui(editor).nameEdit.emit("textChanged(QString)", name)


def version(name: str = "liver", number: int = 1, **more: Any) -> AdapterInfo:
    given: dict[str, Any] = {
        "active": True,
        "accepted": True,
        "reason": "mean Dice rose",
        "validation": "not validated on another patient",
        "dice_before": 0.7,
        "dice_now": 0.8,
        **more,
    }
    return AdapterInfo(
        name=name,
        number=number,
        path=f"/adapters/{name}/{number}",
        tier="decoder",
        method="labelled",
        base="fake",
        labels=("liver",),
        cases=4,
        **given,
    )


def a_verdict(*pictures: bytes) -> Adapted:
    rows = (Standing("base", None, 0.6, 0.7, 4.0, None), Standing("new", 0.5, 0.7, 0.8, 3.0, 0.9))
    notes = ("1 < 2 cases.",)
    return Adapted(version(), rows, "2 objects of 2 cases", pictures, 61.0, notes)


# Cases.


def test_at_first_there_are_fields_and_nothing_to_stop_or_to_use(editor: Any) -> None:
    widgets = ui(editor)
    assert widgets.adaptButton.collapsed is True
    hidden = ("teachBar", "teachLeftLabel", "curveLabel", "verdictLabel", "versionList")
    hidden += ("picture1Label", "picture4Label", "adaptMessageLabel")
    assert [name for name in hidden if getattr(widgets, name).visible] == []
    names = [name for name in vars(widgets) if name.endswith("Button") and name != "adaptButton"]
    enabled = {name for name in names if getattr(widgets, name).enabled}
    assert enabled == {"casesFolderButton", "unlabelledButton"}
    assert widgets.casesLabel.text == "No folder of cases is chosen."
    tiers = [data for _text, data in widgets.tierCombo.items]
    assert tiers == ["", "shift", "decoder", "full"]


def test_the_first_case_asks_for_a_folder_which_is_remembered(app: Any, editor: Any) -> None:
    say(editor, can_save=True)
    app.file_name = ""
    ui(editor).saveCaseButton.click()
    assert asked(editor) == []  # the dialog was cancelled: nothing is saved anywhere
    app.file_name = "/cases"
    ui(editor).patientEdit.setText(" the third one ")
    ui(editor).saveCaseButton.click()
    assert asked(editor) == [("choose_folder", "/cases"), ("save_case", "the third one")]
    assert app.settings["ProtoSAM/CasesFolder"] == "/cases"
    assert ui(editor).patientEdit.text == ""


def test_what_is_saved_and_where_is_shown(editor: Any) -> None:
    say(editor, folder="/cases", cases=FIVE, can_save=True, patient_known=True)
    assert ui(editor).casesLabel.text == "5 cases of 4 patients, 2 held out"
    assert ui(editor).casesLabel.toolTip == "/cases"
    assert ui(editor).patientEdit.visible is False
    ui(editor).saveCaseButton.click()
    assert asked(editor) == [("save_case", "")]
    say(editor, saving=True, can_save=False)
    assert ui(editor).saveCaseButton.enabled is False
    say(editor, saving=False, message="Saved: liver.", next_step="It is case c0ffee in /cases.")
    assert ui(editor).adaptMessageLabel.text == "Saved: liver. It is case c0ffee in /cases."
    assert ui(editor).adaptMessageLabel.visible is True


def test_the_text_about_a_patient_goes_with_the_volume(editor: Any) -> None:
    editor.controller.say(volume_name="one")
    ui(editor).patientEdit.setText("the third one")
    editor.controller.say(hint="Click.")
    assert ui(editor).patientEdit.text == "the third one"
    editor.controller.say(volume_name="two")
    assert ui(editor).patientEdit.text == ""


def test_a_folder_that_is_refused_is_not_remembered(app: Any, editor: Any) -> None:
    app.file_name = "/file"
    editor.controller.learning.choose_folder = lambda _path: False
    ui(editor).casesFolderButton.click()
    assert "ProtoSAM/CasesFolder" not in app.settings


def test_a_folder_that_cannot_be_read_shows_that_its_cases_are_not_known(editor: Any) -> None:
    say(editor, folder="/cases", cases=None, message="/cases is damaged.")
    assert ui(editor).casesLabel.text == "Its cases are not known."
    assert ui(editor).teachButton.enabled is False


def test_dialogs_stay_closed_while_slicer_is_tested(app: Any, editor: Any) -> None:
    app.testing, app.file_name = True, "/cases"
    say(editor, can_save=True)
    for name in ("casesFolderButton", "saveCaseButton", "unlabelledButton"):
        getattr(ui(editor), name).click()
    assert asked(editor) == []
    assert editor.ui.messageLabel.text == "Dialogs stay closed while Slicer is tested."


def test_a_new_worker_is_told_the_folder_once_and_asked_for_adapters(app: Any, editor: Any) -> None:
    app.settings["ProtoSAM/CasesFolder"] = "/cases"
    other = app.editor().choose()
    other.controller.say()
    other.controller.say(hint="Click.")
    assert asked(other) == [("choose_folder", "/cases"), ("list_adapters",)]


def test_the_batch_module_keeps_its_corrected_cases_in_the_same_folder(editor: Any) -> None:
    desk = sys.modules["ProtoSAMSlicerLib.AdaptDesk"]
    batch = (MODULE.parent / "ProtoSAMBatch" / "ProtoSAMBatchLib" / "BatchSession.py").read_text()
    assert f'"{desk.SETTING}"' in batch


class Tree:
    """Slicer's subject hierarchy with one volume below a patient."""

    def __init__(self, patient: str) -> None:
        self.patient = patient

    def GetItemByDataNode(self, _node: Any) -> int:
        return 7 if self.patient else 0

    def GetAttributeFromItemAncestor(self, item: int, name: str, level: str) -> str:
        assert (item, name, level) == (7, "DICOM.PatientID", "Patient")
        return self.patient


def test_whose_image_it_is_comes_from_dicom_or_from_nobody(editor: Any) -> None:
    slicer = sys.modules["slicer"]
    trees = SimpleNamespace(GetSubjectHierarchyNode=lambda _scene: Tree("DOE "))
    slicer.vtkMRMLSubjectHierarchyNode = trees
    node = SimpleNamespace(GetAttribute=lambda _name: "1.2.3 1.2.4")
    patient_of = editor.controller.learning.patient_of
    assert patient_of(node) == "DOE"
    trees.GetSubjectHierarchyNode = lambda _scene: Tree("")
    assert patient_of(node) == ""
    slicer.dicomDatabase = SimpleNamespace(
        isOpen=True,
        fileForInstance=lambda uid: f"/{uid}.dcm",
        fileValue=lambda path, tag: f"{tag} of {path}",
    )
    assert patient_of(node) == "0010,0020 of /1.2.3.dcm"
    slicer.dicomDatabase.fileForInstance = lambda _uid: ""
    assert patient_of(node) == ""
    slicer.dicomDatabase.isOpen = False
    assert patient_of(SimpleNamespace(GetAttribute=lambda _name: None)) == ""
    trees.GetSubjectHierarchyNode = lambda _scene: None
    assert patient_of(node) == ""


# A run.


def test_a_run_begins_with_a_name_and_what_was_chosen(app: Any, editor: Any) -> None:
    say(editor, folder="/cases", cases=FIVE, can_start=True)
    assert ui(editor).teachButton.enabled is False
    type_name(editor, " ")
    assert ui(editor).teachButton.enabled is False
    type_name(editor, " liver ")
    ui(editor).tierCombo.setCurrentIndex(1)
    app.file_name = "/more"
    ui(editor).unlabelledButton.click()
    assert ui(editor).unlabelledEdit.text == "/more"
    ui(editor).teachButton.click()
    assert asked(editor) == [("start", "liver", "shift", "/more")]


def test_a_run_shows_its_bar_the_time_left_and_a_curve_and_can_be_stopped(editor: Any) -> None:
    type_name(editor, "liver")
    run = RunStatus("running", "liver", 0.25, "Teaching.", 150.0, 3, 10, POINTS)
    say(editor, run=run)
    widgets = ui(editor)
    assert (widgets.teachBar.visible, widgets.teachBar.value) == (True, 25)
    assert widgets.teachBar.format == "Teaching."
    assert widgets.teachLeftLabel.text == "about 2 min left"
    off = ("nameEdit", "tierCombo", "unlabelledEdit", "unlabelledButton", "teachButton")
    assert [name for name in off if getattr(widgets, name).enabled] == []
    drawn = widgets.curveLabel.pixmap
    assert len(drawn.lines) == 1 + len(POINTS) - 1
    heights = [ends[1] for _colour, ends in drawn.lines[1:]]
    assert heights == sorted(heights)  # a loss that falls goes down, and y counts downwards

    say(editor, run=replace(run, fraction=0.5, seconds_left=42.4))
    assert widgets.teachLeftLabel.text == "about 42 s left"
    assert widgets.curveLabel.pixmap is drawn  # nothing new to draw
    widgets.stopTeachingButton.click()
    assert asked(editor) == [("cancel",)]
    say(editor, run=replace(run, phase="stopping", seconds_left=None))
    assert widgets.stopTeachingButton.enabled is False
    assert widgets.teachLeftLabel.visible is False
    say(editor, run=replace(run, phase="idle"), can_start=True)
    assert widgets.teachBar.visible is False
    assert widgets.teachButton.enabled is True


def test_a_curve_fills_its_picture_whatever_its_losses_are(editor: Any) -> None:
    drawings = sys.modules["ProtoSAMSlicerLib.Drawings"]
    places = drawings.placesOf(POINTS, 3)
    margin, right = drawings.MARGIN_PX, drawings.WIDTH_PX - drawings.MARGIN_PX
    assert (places[0], places[-1][0]) == ((margin, margin), right)
    for points in (POINTS, (LossPoint(5, 2.0), LossPoint(9, 2.0)), (LossPoint(1, -1e9),) * 2):
        for steps in (0, 1, 3, 100):
            for x, y in drawings.placesOf(points, steps):
                assert margin <= x <= right
                assert margin <= y <= drawings.HEIGHT_PX - margin


def test_a_verdict_is_a_table_with_pictures_of_before_and_now(editor: Any) -> None:
    png = b"\x89PNG and so on"
    say(editor, run=RunStatus("done", "liver", 1.0), verdict=a_verdict(png, b"damaged", png))
    widgets = ui(editor)
    text = widgets.verdictLabel.text
    rows = [re.findall(r"<td>(.*?)&nbsp;</td>", row) for row in text.split("<tr>")[1:]]
    assert rows[0][1:] == ["0 clicks", "1 click", "3 clicks", "HD95 mm", "elsewhere"]
    assert rows[1] == ["Base", "-", "0.600", "0.700", "4.0", "-"]
    assert rows[2] == ["Now", "0.500", "0.700", "0.800", "3.0", "0.900"]
    said = "Mean Dice rose; not validated on another patient. Judged by 2 objects of 2 cases."
    assert text.endswith(f"</table>{said} 1 &lt; 2 cases.")
    shown = [getattr(widgets, f"picture{n}Label").visible for n in (1, 2, 3, 4)]
    assert shown == [True, False, True, False]
    assert widgets.picture1Label.pixmap.size == (180, 90)
    say(editor, verdict=replace(a_verdict(), standings=(), checked=""))
    assert "<table>" not in widgets.verdictLabel.text  # a specialist has other figures
    assert "<td>" not in widgets.verdictLabel.text
    say(editor, verdict=None)
    assert widgets.verdictLabel.visible is widgets.picture1Label.visible is False


def test_a_run_is_heard_while_another_effect_is_chosen_but_seldom(app: Any, editor: Any) -> None:
    process = importlib.import_module("ProtoSAMSlicerLib.WorkerProcess")
    worker = process._REGISTRY.worker
    editor.session.client.busy = True
    editor.leave()
    worker.wake()
    worker._tick()
    assert worker._timer.interval == process.BUSY_MS
    editor.controller.learning.is_teaching = True
    worker._tick()
    assert worker._timer.interval == process.TEACHING_MS
    assert editor.session.client.calls.count("drain") == 2


# Versions.


def test_versions_are_listed_and_what_each_allows_can_be_pressed(editor: Any) -> None:
    old = version(number=1, active=False, dice_now=None)
    bad = version("heart", 1, active=False, accepted=False, reason="mean Dice fell")
    say(editor, adapters=(bad, old, version(number=2)), adapter="", offered="liver")
    widgets = ui(editor)
    assert widgets.versionList.rows == [
        "heart 1: not accepted, decoder, Dice 0.70, now 0.80",
        "liver 1: decoder",
        "liver 2: active, decoder, Dice 0.70, now 0.80",
    ]
    assert widgets.versionList.currentRow == 2

    def usable() -> list[str]:
        names = ("useAdapter", "useNone", "activate", "rollBack", "discard")
        return [name for name in names if getattr(widgets, f"{name}Button").enabled]

    assert usable() == ["useAdapter", "rollBack"]
    assert widgets.versionLabel.text == "Mean Dice rose; not validated on another patient."
    widgets.versionList.setCurrentRow(0)
    assert usable() == ["activate", "discard"]
    assert widgets.versionLabel.text.startswith("Mean Dice fell;")
    widgets.versionList.setCurrentRow(1)
    assert usable() == ["useAdapter", "activate", "rollBack", "discard"]


def test_what_is_pressed_goes_for_the_selected_version(app: Any, editor: Any) -> None:
    say(editor, adapters=(version(number=1, active=False), version(number=2)), adapter="")
    widgets = ui(editor)
    widgets.versionList.setCurrentRow(0)
    for name in ("useAdapter", "activate", "rollBack"):
        getattr(widgets, f"{name}Button").click()
    app.answer = False
    widgets.discardButton.click()
    assert asked(editor) == [("use", "liver"), ("activate", "liver", 1), ("rollback", "liver")]
    assert app.asked == ["Delete version 1 of liver? This cannot be undone."]
    app.answer = True
    widgets.discardButton.click()
    assert asked(editor) == [("discard", "liver", 1)]
    say(editor, adapter="liver", version=2)
    assert widgets.versionList.rows[1].startswith("liver 2: active, answers clicks")
    widgets.useNoneButton.click()
    assert asked(editor) == [("use", None)]


def test_the_selected_version_stays_selected_when_the_list_is_renewed(editor: Any) -> None:
    two = (version(number=1, active=False), version(number=2))
    say(editor, adapters=two)
    ui(editor).versionList.setCurrentRow(0)
    say(editor, adapters=(version("heart"), *two))
    assert ui(editor).versionList.currentRow == 1
    say(editor, adapters=(version("heart"), two[1]))
    assert ui(editor).versionList.currentRow == 1
    say(editor, adapters=())
    assert ui(editor).versionList.visible is False
    assert ui(editor).discardButton.enabled is False


def test_adapters_that_were_taught_are_offered_among_the_options(editor: Any) -> None:
    say(editor, adapters=(version(), version("heart", active=False)))
    names = [data for _text, data in editor.ui.adapterCombo.items]
    assert names == ["", "liver"]
    # The scene package sets the parameter on the node; the combo box follows.
    editor.effect.setParameter("Adapter", "liver")
    say(editor, adapter="liver", version=1)
    combo = editor.ui.adapterCombo
    assert combo.itemData(combo.currentIndex) == "liver"


def test_without_a_worker_a_button_says_so(bare_app: Any) -> None:
    made = bare_app.editor()
    made.session.adapt.panel.ui.casesFolderButton.click()
    assert "There is no worker yet" in made.ui.messageLabel.text


def test_a_status_that_says_nothing_new_touches_no_widget(editor: Any) -> None:
    say(editor, adapters=(version(),), verdict=a_verdict(b"\x89PNG"))
    widgets = ui(editor)
    before = widgets.picture1Label.pixmap
    widgets.versionList.rows = ["as it was"]
    editor.controller.say(hint="Click.")
    say(editor, message="Something.")
    assert widgets.picture1Label.pixmap is before
    assert widgets.versionList.rows == ["as it was"]


# The file of the widgets.


def nodes() -> dict[str, ElementTree.Element]:
    return {one.attrib["name"]: one for one in ElementTree.parse(UI).iter("widget")}


def test_each_control_has_a_tool_tip_and_a_name_and_none_is_named_twice() -> None:
    names = [one.attrib["name"] for one in ElementTree.parse(UI).iter("widget")]
    assert len(names) == len(set(names))
    kinds = {"QPushButton", "QToolButton", "QComboBox", "QListWidget", "QLineEdit"}
    for name, node in nodes().items():
        if node.attrib["class"] in kinds:
            given = {one.attrib["name"] for one in node.findall("property")}
            assert {"toolTip", "accessibleName"} <= given, name


def test_each_widget_that_is_used_exists_and_each_button_does_something(editor: Any) -> None:
    text = (MODULE / "ProtoSAMSlicerLib" / "AdaptPanel.py").read_text("utf-8")
    used = set(re.findall(r"\bui\.(\w+)\.", text))
    used |= set(re.findall(r'"(\w+(?:Button|Edit|Combo|Label))"', text))
    assert used - set(nodes()) == set()
    panel = sys.modules["ProtoSAMSlicerLib.AdaptPanel"]
    desk = sys.modules["ProtoSAMSlicerLib.AdaptDesk"].AdaptDesk
    buttons = {name for name in nodes() if name.endswith("Button")} - {"adaptButton"}
    assert set(panel.ACTIONS) == buttons
    for name in panel.ACTIONS:
        action = name[: -len("Button")]
        assert action == "unlabelled" or hasattr(desk, f"do{action[0].upper()}{action[1:]}")


def test_no_path_and_no_patient_goes_into_the_scene(app: Any, editor: Any) -> None:
    app.file_name = "/secret/cases"
    say(editor, can_save=True)
    ui(editor).patientEdit.setText("DOE-1234")
    ui(editor).saveCaseButton.click()
    say(editor, folder="/secret/cases", message="Saved.", adapters=(version(),))
    texts = f"{editor.node.attributes} {app.status_bar} {LearningStatus()}"
    assert "secret" not in texts
    assert "DOE-1234" not in f"{texts} {app.settings}"
