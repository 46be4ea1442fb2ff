"""The part of the effect's options about learning: its widgets, and what they show.

Rules
-----
* Decides nothing: it shows what it is told and hands on what was pressed, as `OptionsPanel` does.
* Widgets are filled with their signals blocked, and only where something has changed: a run says
  something several times a second.
* What a user types stays here until a button is pressed; a patient's text goes with its volume.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any, Protocol

import slicer

from ProtoSAMSlicerLib import Core, Drawings
from ProtoSAMSlicerLib.OptionsPanel import quiet
from ProtoSAMSlicerLib.Translation import tr as _

ACTIONS = (
    "casesFolderButton",
    "saveCaseButton",
    "unlabelledButton",
    "teachButton",
    "stopTeachingButton",
    "useAdapterButton",
    "useNoneButton",
    "activateButton",
    "rollBackButton",
    "discardButton",
)
"""Buttons; each calls `Desk.pressed` with its name without "Button"."""

PICTURES = ("picture1Label", "picture2Label", "picture3Label", "picture4Label")
PICTURE_PX = 180


class Desk(Protocol):
    """Who is told what was pressed."""

    def pressed(self, action: str) -> None:
        """Do what a button of `ACTIONS` is for."""


class AdaptPanel:
    """The widgets about learning.

    Parameters
    ----------
    desk : Desk
        Who is told what was pressed.
    """

    def __init__(self, desk: Desk) -> None:
        path = Core.module_folder() / "Resources" / "UI" / "ProtoSAMAdapt.ui"
        self.widget = slicer.util.loadUI(path.as_posix())
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self._shown: Any = None
        self._volume = ""
        for name in ACTIONS:
            getattr(self.ui, name).connect("clicked()", _calling(desk, name[: -len("Button")]))
        for value, text in (
            ("", _("Automatic")),
            ("shift", _("Shift (seconds)")),
            ("decoder", _("Decoder (minutes)")),
            ("full", _("Full (needs a GPU)")),
        ):
            self.ui.tierCombo.addItem(text, value)
        self.ui.versionList.connect("currentRowChanged(int)", self._rowChanged)
        self.ui.nameEdit.connect("textChanged(QString)", self._typed)
        self.ui.casesLabel.setText(_("No folder of cases is chosen."))

    # What the user has typed and chosen

    def text(self, name: str) -> str:
        """Text of a field."""
        return str(getattr(self.ui, name).text).strip()

    def setText(self, name: str, text: str) -> None:
        """Fill a field."""
        getattr(self.ui, name).setText(text)

    def tier(self) -> str:
        """How much is to learn; empty = the machine chooses."""
        return str(self.ui.tierCombo.itemData(self.ui.tierCombo.currentIndex) or "")

    def version(self) -> Any:
        """Version that is selected in the list, or None."""
        row = self.ui.versionList.currentRow
        adapters = () if self._shown is None else self._shown.adapters
        return adapters[row] if 0 <= row < len(adapters) else None

    # What is shown

    def show(self, learning: Any, volume: str) -> None:
        """Show everything that the controller says about learning.

        Parameters
        ----------
        learning : LearningStatus
        volume : str
            Name of the volume; with another one the text about the patient goes.
        """
        if volume != self._volume:
            self._volume = volume
            self.setText("patientEdit", "")
        before, self._shown = self._shown, learning
        if learning == before:
            return
        self._showCases(learning)
        self._showRun(learning.run, None if before is None else before.run)
        if before is None or learning.verdict is not before.verdict:
            self._showVerdict(learning.verdict)
        if before is None or (learning.adapters, learning.adapter) != (
            before.adapters,
            before.adapter,
        ):
            self._showVersions(learning, () if before is None else before.adapters)
        self._enable(learning)
        text = f"{learning.message} {learning.next_step}".strip()
        self.ui.adaptMessageLabel.setText(text)
        self.ui.adaptMessageLabel.setVisible(bool(text))

    def _showCases(self, learning: Any) -> None:
        ui, cases = self.ui, learning.cases
        if not learning.folder:
            text = _("No folder of cases is chosen.")
        elif cases is None:
            text = _("Its cases are not known.")
        else:
            text = _("{cases} cases of {patients} patients, {held_out} held out").format(
                cases=cases.cases, patients=cases.patients, held_out=cases.held_out
            )
        ui.casesLabel.setText(text)
        ui.casesLabel.setToolTip(learning.folder)
        ui.patientEdit.setVisible(not learning.patient_known)

    def _showRun(self, run: Any, before: Any) -> None:
        ui = self.ui
        ui.teachBar.setVisible(run.is_on)
        ui.teachLeftLabel.setVisible(run.is_on and run.seconds_left is not None)
        if run.is_on:
            ui.teachBar.setValue(round(100 * run.fraction))
            ui.teachBar.setFormat(run.text or "%p%")
        if run.seconds_left is not None:
            ui.teachLeftLabel.setText(leftText(run.seconds_left))
        has_curve = len(run.losses) > 1
        ui.curveLabel.setVisible(has_curve)
        if has_curve and (before is None or run.losses != before.losses):
            ui.curveLabel.setPixmap(Drawings.curve(run.losses, run.steps))

    def _showVerdict(self, verdict: Any) -> None:
        ui = self.ui
        ui.verdictLabel.setVisible(verdict is not None)
        ui.verdictLabel.setText("" if verdict is None else verdictHtml(verdict))
        pictures = () if verdict is None else verdict.pictures
        for n, name in enumerate(PICTURES):
            found = Drawings.picture(pictures[n], PICTURE_PX) if n < len(pictures) else None
            label = getattr(ui, name)
            label.setVisible(found is not None)
            if found is not None:
                label.setPixmap(found)

    def _showVersions(self, learning: Any, before: Any) -> None:
        row = self.ui.versionList.currentRow
        chosen = (before[row].name, before[row].number) if 0 <= row < len(before) else None
        keys = [(one.name, one.number) for one in learning.adapters]
        with quiet(self.ui.versionList) as widget:
            widget.clear()
            for one in learning.adapters:
                widget.addItem(versionText(one, learning.adapter))
            widget.setCurrentRow(keys.index(chosen) if chosen in keys else len(keys) - 1)
        self.ui.versionList.setVisible(bool(keys))
        self.ui.versionLabel.setVisible(bool(keys))

    def _enable(self, learning: Any) -> None:
        ui, chosen, run = self.ui, self.version(), learning.run
        ui.saveCaseButton.setEnabled(learning.can_save)
        ui.teachButton.setEnabled(learning.can_start and bool(self.text("nameEdit")))
        ui.stopTeachingButton.setEnabled(run.phase == "running")
        for name in ("nameEdit", "tierCombo", "unlabelledEdit", "unlabelledButton"):
            getattr(ui, name).setEnabled(not run.is_on)
        usable = chosen is not None and chosen.name in learning.names
        ui.useAdapterButton.setEnabled(usable and chosen.name != learning.adapter)
        ui.useNoneButton.setEnabled(bool(learning.adapter))
        ui.activateButton.setEnabled(chosen is not None and not chosen.active)
        ui.rollBackButton.setEnabled(usable)
        ui.discardButton.setEnabled(chosen is not None and not chosen.active)
        about = Core.load().scene.about_version
        ui.versionLabel.setText("" if chosen is None else about(chosen))

    def _rowChanged(self, _row: int) -> None:
        if self._shown is not None:
            self._enable(self._shown)

    def _typed(self, _text: str) -> None:
        if self._shown is not None:
            self._enable(self._shown)


def leftText(seconds: float) -> str:
    """Return a time left in words."""
    if seconds < 90:
        return _("about {seconds:.0f} s left").format(seconds=seconds)
    return _("about {minutes} min left").format(minutes=max(1, round(seconds / 60)))


def versionText(one: Any, used: str) -> str:
    """Row of the list of versions."""
    texts = []
    if one.active:
        texts.append(_("active, answers clicks") if one.name == used else _("active"))
    elif not one.accepted:
        texts.append(_("not accepted"))
    texts.append(one.tier)
    if one.dice_before is not None and one.dice_now is not None:
        text = _("Dice {before:.2f}, now {now:.2f}")
        texts.append(text.format(before=one.dice_before, now=one.dice_now))
    name = _("{name} {number}").format(name=one.name, number=one.number)
    return ": ".join((name, ", ".join(text for text in texts if text)))


def verdictHtml(verdict: Any) -> str:
    """Verdict of the gate as rich text: why, a table, and how much it rests on."""
    scene = Core.load().scene
    texts = [scene.about_version(verdict.version)]
    if verdict.checked:
        texts.append(_("Judged by {checked}.").format(checked=verdict.checked))
    about = html.escape(" ".join((*texts, *verdict.notes)))
    if not verdict.standings:
        return about  # a specialist is compared by other figures, which the reason has
    who = {"base": _("Base"), "current": _("Before"), "new": _("Now")}
    head = ("", _("0 clicks"), _("1 click"), _("3 clicks"), _("HD95 mm"), _("elsewhere"))
    rows = [(who[one.who], *scene.standing_cells(one)) for one in verdict.standings]
    table = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}&nbsp;</td>" for cell in row) + "</tr>"
        for row in [head, *rows]
    )
    return f"<table>{table}</table>{about}"


def _calling(desk: Desk, action: str) -> Callable[..., None]:
    return lambda *_event: desk.pressed(action)
