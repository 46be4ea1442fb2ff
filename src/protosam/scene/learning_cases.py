"""The folder of corrected cases: chosen, looked into, added to.

Rules
-----
* A case is kept when the user asks for it, and never otherwise.
* Paths are of this machine and go to the local worker; none stands in a scene.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

from protosam.errors import InvalidInput
from protosam.scene.case_saving import CaseContent
from protosam.scene.grids import Node
from protosam.scene.learning_notes import LearningNotes
from protosam.wire.messages import CaseList, CaseSaved, LookIntoCases, SaveCase
from protosam.wire.pending import Pending


class LearningCases(LearningNotes):
    """The part of a learning desk about cases; see `LearningDesk`."""

    def ask_patients(self, patient_of: Callable[[Node], str]) -> None:
        """Have the host asked whose image a volume is.

        Parameters
        ----------
        patient_of : callable
            From a volume node to whatever tells its patient from the others, for instance DICOM's
            PatientID; empty = the host cannot tell. It is asked once for each volume, and never
            shown.
        """
        self._saving.ask_patients(patient_of)

    def choose_folder(self, path: str) -> bool:
        """Choose the folder of cases; it is begun with the first one. False if it cannot be one.

        Parameters
        ----------
        path : str
            Absolute; ``~`` is one's own folder.
        """
        if not path.strip():
            return self._note("warning", "no_folder", "choose_folder")
        try:
            folder = Path(path.strip()).expanduser()
            problem = _problem_of(folder)
        except (OSError, RuntimeError) as error:  # not allowed, too long, no such user
            return self._note(
                "error", "unknown_folder", "no_such_folder", folder=path.strip(), why=error
            )
        if problem:
            return self._note("error", problem, "no_such_folder", folder=folder)
        self._status = replace(self._status, folder=str(folder), cases=None)
        self._clear_note()
        self._look()
        self._publish()
        return True

    def save_case(self, patient: str = "") -> bool:
        """Keep the volume, its finished segments and their clicks; False if that cannot be.

        Parameters
        ----------
        patient : str
            Any text that is the same for all images of the patient; only a salted hash of it is
            kept. Empty = what the host tells of the volume.
        """
        self._publish()  # the scene as it is by now
        folder = self._status.folder
        if not folder:
            return self._note("warning", "no_folder", "choose_folder")
        if self._status.saving:
            return self._note("warning", "still_saving", "wait_first")
        patient = patient.strip() or self._saving.patient()
        try:
            content = self._saving.read()
            if isinstance(content, str):
                return self._refused(content)
            if not patient:
                return self._note("warning", "no_patient", "give_patient")
            request = SaveCase(
                content.source.volume.uid,
                folder,
                content.segments,
                content.clicks,
                patient,
                model_digest=content.model_digest,
                day=date.today().isoformat(),  # of saving; the image's own is not known here
            )
        except InvalidInput as error:
            return self._refused_by(error)
        self._desk.open(content.source)
        self._status = replace(self._status, saving=True)
        self._clear_note()
        self._desk.client.save_case(request, lambda pending: self._saved(request, content, pending))
        self._publish()
        return True

    def _look(self) -> None:
        """Ask what the folder holds; one that is empty or not there yet holds nothing."""
        folder = self._status.folder
        if not folder:
            return
        place = Path(folder)
        try:
            is_new = not place.is_dir() or not any(place.iterdir())
        except OSError:
            is_new = False  # the worker says what is wrong with it
        if is_new:
            self._status = replace(self._status, cases=CaseList(0, 0, 0, ()))
            self._note("info", "new_folder", publish=False)
            return
        self._desk.client.look_into_cases(
            LookIntoCases(folder), lambda pending: self._looked(folder, pending)
        )

    def _looked(self, folder: str, pending: Pending[CaseList]) -> None:
        if folder != self._status.folder:
            return
        cases = None if pending.error is not None else pending.result()
        self._status = replace(self._status, cases=cases)
        if pending.error is not None:
            self._failed(pending.error)

    def _saved(self, request: SaveCase, content: CaseContent, pending: Pending[CaseSaved]) -> None:
        self._status = replace(self._status, saving=False)
        if pending.error is not None:
            self._failed(pending.error)
            return
        saved = pending.result()
        names = ", ".join(one.name for one in content.segments)
        role = self._text(f"saved_{saved.role}")
        where = self._text("saved_where", role=role, id=saved.id, folder=request.folder)
        if content.left_out:
            where += " " + self._text("left_out", names=", ".join(content.left_out))
        self._look()
        done = "saved_again" if saved.again else "saved"
        self._set_note("info", self._text(done, names=names), where)

    def _refused(self, key: str) -> bool:
        """Say why a case cannot be saved."""
        steps = {"answer_awaited": "wait_first", "nothing_to_save": "finish_first"}
        return self._note("warning", key, steps.get(key, "open_first"))


def _problem_of(folder: Path) -> str:
    """Key of what keeps a folder from being one of cases; empty = nothing."""
    if not folder.is_absolute() or "\0" in str(folder):
        return "relative_folder"
    if folder.exists():
        return "" if folder.is_dir() else "not_folder"
    return "" if folder.parent.is_dir() else "missing_folder"
