"""When no Python can run the worker: what the panel says, and its three ways out.

Rules
-----
* One sentence says what is missing where; the rest is in the tool tip.
* Dialogs open only when a button was pressed, and never while Slicer tests itself.
* An installation runs in a child process and is looked after from the timer.
"""

from __future__ import annotations

from typing import Any

import qt
import slicer

from ProtoSAMSlicerLib import Installation, Names, PythonSetup
from ProtoSAMSlicerLib.Translation import tr as _


class SetupDesk:
    """The part of the panel about the worker's Python, models and adapters.

    Parameters
    ----------
    session : EditorSession
        Whose panel it is.
    """

    ACTIONS = ("choosePython", "install", "searchAgain", "addModel", "addAdapter")

    def __init__(self, session: Any) -> None:
        self._session = session
        self._shared: Any = None
        self._installation: Installation.Installation | None = None

    def show(self, shared: Any) -> None:
        """Show what is known of the Pythons."""
        self._shared = shared
        panel = self._session.panel
        if shared.client is not None:
            panel.showSetup("")
            return
        if shared.searching:
            panel.showNoWorker(_("Looking for a Python"))
            panel.showHint(_("Looking for a Python with ProtoSAM's libraries. One moment."))
            return
        panel.showNoWorker(_("No Python for the worker"))
        panel.showHint(
            _("Before the first click the worker needs a Python that has its libraries.")
        )
        own = self._own(shared)
        panel.showSetup(self._sentence(shared.findings), can_install=own is not None)

    def remind(self) -> None:
        """Explain a click that came before there is a worker."""
        if self._shared is not None:
            self.show(self._shared)

    def pressed(self, action: str, shared: Any) -> None:
        """One of `ACTIONS` was pressed."""
        self._shared = shared
        if action == "searchAgain":
            shared.search()
            self.show(shared)
        elif slicer.app.testingEnabled():
            self._session.panel.showMessage(_("Dialogs stay closed while Slicer is tested."), "")
        elif action == "choosePython":
            self._choosePython()
        elif action == "install":
            self._install()
        elif action == "addModel":
            path = qt.QFileDialog.getOpenFileName(
                None, _("Weights file"), "", _("Weights (*.safetensors *.pth *.pt)")
            )
            self._added("Model", Names.MODELS, path)
        else:
            path = qt.QFileDialog.getExistingDirectory(None, _("Folder of the adapter"))
            self._added("Adapter", Names.ADAPTERS, path)

    def poll(self) -> None:
        """Look after an installation."""
        if self._installation is None:
            return
        panel = self._session.panel
        if not self._installation.poll():
            panel.showSetup(_("Installing. {line}").format(line=self._installation.lastLine))
            return
        problem = self._installation.problem
        self._installation = None
        if problem:
            panel.showMessage(_("The installation has failed. Its last lines are here."), problem)
        self._shared.search()
        self.show(self._shared)

    def _choosePython(self) -> None:
        path = qt.QFileDialog.getOpenFileName(None, _("Python with ProtoSAM's libraries"), "")
        if path:
            slicer.app.userSettings().setValue(PythonSetup.SETTING, str(path))
            self._shared.search()
            self.show(self._shared)

    def _install(self) -> None:
        own = self._own(self._shared)
        if own is None or self._installation is not None:
            return
        missing = own.missing
        asked = Installation.question(own.candidate.python, missing)
        if not slicer.util.confirmOkCancelDisplay(asked, windowTitle="ProtoSAM"):
            return
        if any(name in missing for name in Installation.TORCH) and (
            Installation.install_torch_by_extension()
        ):
            missing = tuple(name for name in missing if name not in Installation.TORCH)
        self._installation = Installation.Installation(
            own.candidate, missing, self._shared.core.folder
        )

    def _added(self, parameter: str, key: str, path: str) -> None:
        if path:
            self._session.parameterChosen(parameter, Names.add(key, str(path)))
            self._session.showParameters()

    @staticmethod
    def _own(shared: Any) -> PythonSetup.Finding | None:
        """Return the finding about Slicer's own Python, if all it lacks is packages."""
        for one in shared.findings:
            if one.candidate.own and one.missing:
                return one
        return None

    @staticmethod
    def _sentence(findings: list[PythonSetup.Finding]) -> str:
        if not findings:
            return _("No Python was found that could run the worker. Choose one.")
        parts = " ".join(one.sentence for one in findings)
        return _("{findings} Choose a Python that has them, or install them.").format(
            findings=parts
        )
