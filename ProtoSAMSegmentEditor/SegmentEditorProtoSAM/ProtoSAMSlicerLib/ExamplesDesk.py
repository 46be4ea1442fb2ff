"""Examples in Slicer: their files in a folder of the user's choice, and what the buttons do.

Rules
-----
* What is learnt, proposed and decided is the scene package's; here are files and views.
* The folder stands in Slicer's settings, never in a scene. Files are named after segments, never
  after volumes: those may hold a patient's name.
* Nothing waits; no dialog opens while Slicer is tested.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import qt
import slicer

from ProtoSAMSlicerLib.ExamplesPanel import ExamplesPanel
from ProtoSAMSlicerLib.Translation import tr as _

SETTING = "ProtoSAM/ExampleFolder"
"""Key in Slicer's settings: folder with `.psexample` files."""

ENDING = ".psexample"

MAX_BYTES = 256 * 2**20
"""Largest example that the worker reads."""

LONGEST_NAME = 60
"""Letters of a file's name."""


class ExamplesDesk:
    """The part of an editor session about examples.

    Parameters
    ----------
    session : EditorSession
        Whose controller is asked.
    scriptedEffect : qSlicerSegmentEditorScriptedEffect
        Slicer's side of the effect.
    """

    def __init__(self, session: Any, scriptedEffect: Any) -> None:
        self._session, self._effect = session, scriptedEffect
        self.panel = ExamplesPanel(self)

    def show(self, status: Any) -> None:
        """Show what the controller says."""
        self.panel.show(status.examples)

    def listFiles(self, chosen: str = "") -> None:
        """Offer the examples of the folder."""
        folder = self._folder()
        paths: list[str] = []
        if folder is not None:
            paths = sorted(str(one) for one in folder.iterdir() if one.suffix.lower() == ENDING)
        self.panel.showFiles(paths, chosen or "".join(self.panel.chosenFiles()[:1]))
        if self._session.controller is not None:
            self.show(self._session.controller.status)

    def pressed(self, action: str) -> None:
        """Do what a button is for."""
        controller = self._session.controller
        if action == "folder":
            self._chooseFolder()
        elif controller is None:
            self._tell(_("There is no worker yet; the lines above say what is missing."))
        elif action == "use":
            if self._folder() is not None or self._chooseFolder():
                controller.make_example(self._made)
        elif action == "apply":
            self._apply(controller)
        elif action == "doubtful":
            self._goTo(controller.doubtful_place())
        else:
            {
                "exampleCancel": controller.cancel_examples,
                "accept": controller.accept_proposal,
                "reject": controller.reject_proposal,
            }[action]()
        self._session.wake()

    def sliceChosen(self, index: int) -> None:
        """Show a slice of the strip."""
        if self._session.controller is not None:
            self._goTo(self._session.controller.place_of_slice(index))

    def proposalChosen(self, segment_id: str) -> None:
        """Select a proposal; the node tells the session."""
        node = self._effect.parameterSetNode()
        if node is not None:
            node.SetSelectedSegmentID(segment_id)

    def _goTo(self, place: Any) -> None:
        """Have all slice views show a place, RAS mm, and the strip its slice."""
        if place is None:
            return
        r, a, s = (float(one) for one in place)
        node = slicer.vtkMRMLSliceNode
        node.JumpAllSlices(slicer.mrmlScene, r, a, s, node.CenteredJumpSlice)
        index = self._session.controller.strip_index(place)
        if index is not None:
            self.panel.showSlice(index)

    def _made(self, example: Any) -> None:
        """Write an example that was made."""
        folder = self._folder()
        if folder is None:
            self._tell(_("The example was not kept: its folder is gone. Choose another one."))
            return
        name = re.sub(r"[^\w-]+", "_", "-".join(example.names)).strip("_") or "example"
        path = _free(folder, name[:LONGEST_NAME])
        part = path.with_suffix(".part")
        try:
            part.write_bytes(example.content)
            part.replace(path)
        except OSError as error:
            self._tell(
                _("The example cannot be written: {error}. Choose another folder.").format(
                    error=error.strerror
                )
            )
            return
        self._tell(_("Learnt, and kept as {name}.").format(name=path.name))
        self.listFiles(str(path))

    def _apply(self, controller: Any) -> None:
        """Apply the examples that are chosen."""
        path = Path()
        try:
            contents = []
            for path in map(Path, self.panel.chosenFiles()):
                if path.stat().st_size > MAX_BYTES:
                    self._tell(_("{name} is too large for an example.").format(name=path.name))
                    return
                contents.append(path.read_bytes())
        except OSError as error:
            text = _("{name} cannot be read: {error}. Choose another example.")
            self._tell(text.format(name=path.name, error=error.strerror))
            self.listFiles()
            return
        controller.apply_examples(contents)

    def _chooseFolder(self) -> bool:
        """Ask for the folder; whether there is one now."""
        if slicer.app.testingEnabled():
            self._tell(_("Dialogs stay closed while Slicer is tested."))
            return False
        path = qt.QFileDialog.getExistingDirectory(None, _("Folder for examples"))
        if path:
            slicer.app.userSettings().setValue(SETTING, str(path))
            self.listFiles()
        return self._folder() is not None

    def _folder(self) -> Path | None:
        """Return the folder, if it was chosen and is still there."""
        text = str(slicer.app.userSettings().value(SETTING) or "")
        return Path(text) if text and Path(text).is_dir() else None

    def _tell(self, text: str) -> None:
        self._session.panel.showMessage(text, "")


def _free(folder: Path, name: str) -> Path:
    """Path of a file that is not there yet."""
    path, number = folder / f"{name}{ENDING}", 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}{ENDING}"
    return path
