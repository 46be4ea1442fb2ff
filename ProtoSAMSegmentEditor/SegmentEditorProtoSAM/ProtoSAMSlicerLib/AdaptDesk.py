"""Learning in Slicer: the folder of cases, whose image it is, and what the buttons do.

Rules
-----
* What is saved, taught and used is the scene package's; here are settings and dialogs.
* The folder stands in Slicer's settings, never in a scene; the batch module keeps its corrected
  cases in the same one.
* Nothing is saved unless its button is pressed. Nothing waits; no dialog opens while Slicer is
  tested.
"""

from __future__ import annotations

from typing import Any

import qt
import slicer

from ProtoSAMSlicerLib import Names, PatientKey
from ProtoSAMSlicerLib.AdaptPanel import AdaptPanel
from ProtoSAMSlicerLib.Translation import tr as _

SETTING = "ProtoSAM/CasesFolder"
"""Key in Slicer's settings: folder of corrected cases."""


class AdaptDesk:
    """The part of an editor session about learning.

    Parameters
    ----------
    session : EditorSession
        Whose controller is asked.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._greeted: Any = None
        self._named: tuple[Any, ...] = ()
        self.panel = AdaptPanel(self)

    @property
    def isTeaching(self) -> bool:
        """Whether a run is on, whatever effect is chosen."""
        learning = self._learning()
        return learning is not None and learning.is_teaching

    def names(self) -> list[str]:
        """Names of all adapters that can be used: those of folders, and those that were taught."""
        taught = () if self._session.controller is None else self._status().names
        return list(dict.fromkeys((*Names.known(Names.ADAPTERS), *taught)))

    def show(self, status: Any) -> None:
        """Show what the controller says; with a new worker, ask it what there is."""
        learning = status.learning
        self.panel.show(learning, status.volume_name)
        named = (learning.names, learning.adapter)
        if named != self._named:
            self._named = named
            self._session.showParameters()
        if status.worker == "ready" and self._greeted is not self._session.client:
            self._greeted = self._session.client
            self._greet()

    def pressed(self, action: str) -> None:
        """Do what a button is for."""
        learning = self._learning()
        if action == "unlabelled":
            self._chooseUnlabelled()
        elif learning is None:
            self._session.panel.showMessage(
                _("There is no worker yet; the lines above say what is missing."), ""
            )
        else:
            getattr(self, f"do{action[0].upper()}{action[1:]}")(learning)
        self._session.wake()

    def doCasesFolder(self, learning: Any) -> bool:
        """Choose the folder of cases, and remember it."""
        path = self._askFolder(_("Folder for corrected cases"))
        if not path or not learning.choose_folder(path):
            return False
        slicer.app.userSettings().setValue(SETTING, path)
        return True

    def doSaveCase(self, learning: Any) -> None:
        """Keep what is finished as a case; the first time, ask where."""
        if not self._status().folder and not self.doCasesFolder(learning):
            return
        if learning.save_case(self.panel.text("patientEdit")):
            self.panel.setText("patientEdit", "")

    def doTeach(self, learning: Any) -> None:
        """Begin a run."""
        panel = self.panel
        learning.start(
            panel.text("nameEdit"), tier=panel.tier(), unlabelled=panel.text("unlabelledEdit")
        )

    def doStopTeaching(self, learning: Any) -> None:
        """Stop it."""
        learning.cancel()

    def doUseAdapter(self, learning: Any) -> None:
        """Have clicks answered with the adapter that is selected."""
        chosen = self.panel.version()
        if chosen is not None:
            learning.use(chosen.name)

    def doUseNone(self, learning: Any) -> None:
        """Have clicks answered without an adapter."""
        learning.use(None)

    def doActivate(self, learning: Any) -> None:
        """Have the name mean the version that is selected."""
        chosen = self.panel.version()
        if chosen is not None:
            learning.activate(chosen.name, chosen.number)

    def doRollBack(self, learning: Any) -> None:
        """Have the name mean what it meant before."""
        chosen = self.panel.version()
        if chosen is not None:
            learning.rollback(chosen.name)

    def doDiscard(self, learning: Any) -> None:
        """Delete the version that is selected, if the user agrees."""
        chosen = self.panel.version()
        if chosen is None:
            return
        question = _("Delete version {number} of {name}? This cannot be undone.").format(
            number=chosen.number, name=chosen.name
        )
        if slicer.app.testingEnabled() or slicer.util.confirmOkCancelDisplay(
            question, windowTitle="ProtoSAM"
        ):
            learning.discard(chosen.name, chosen.number)

    def _greet(self) -> None:
        """Tell a new worker which folder there is, and ask for adapters."""
        learning = self._learning()
        learning.ask_patients(PatientKey.patientOf)
        folder = str(slicer.app.userSettings().value(SETTING) or "")
        if folder and not self._status().folder:
            learning.choose_folder(folder)
        learning.list_adapters()

    def _chooseUnlabelled(self) -> None:
        path = self._askFolder(_("Folder of images without labels"))
        if path:
            self.panel.setText("unlabelledEdit", path)

    def _askFolder(self, title: str) -> str:
        """Ask for a folder; empty if there is none."""
        if slicer.app.testingEnabled():
            text = _("Dialogs stay closed while Slicer is tested.")
            self._session.panel.showMessage(text, "")
            return ""
        return str(qt.QFileDialog.getExistingDirectory(None, title) or "")

    def _learning(self) -> Any:
        controller = self._session.controller
        return None if controller is None else controller.learning

    def _status(self) -> Any:
        return self._session.controller.status.learning
