"""Learning at work: cases, runs that teach, adapters, and which of these answers clicks.

Rules
-----
* Every action returns at once and says whether it was begun; what comes of it stands in `status`,
  with a sentence and its next step. One run at a time; everything else goes on meanwhile.
* An adapter in use is a name on the segment editor node, and means the version that is active. When
  another one is used, masks that are there stay as they are.
* A run belongs to the worker: it goes on while another effect is chosen, and a worker's death ends
  it, until the same `start` goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from protosam.errors import Cancelled, InvalidInput, ProtoSAMError, WorkerDied
from protosam.scene.case_saving import CaseSaving
from protosam.scene.desk import Desk
from protosam.scene.editing import Place
from protosam.scene.learning_cases import LearningCases
from protosam.scene.learning_status import Curve, RunStatus
from protosam.scene.settings import PREFIX
from protosam.scene.status import Message
from protosam.wire.messages import (
    Adapt,
    Adapted,
    AdapterList,
    Adapters,
    ChangeAdapter,
    Progress,
    Taught,
)
from protosam.wire.pending import Pending


class LearningDesk(LearningCases):
    """One controller's business with cases, runs and adapters; `Controller.learning`.

    Parameters
    ----------
    desk : Desk
    place : Place
        Kept up to date by the controller.
    saving : CaseSaving
        Reads what is kept of the scene.
    tell : callable
        Gets messages: how runs have ended, whatever is shown by then.
    translate : callable
        From an English sentence to the user's language.
    publish : callable
        Has the controller look at the scene and tell its listener.
    """

    def __init__(
        self,
        desk: Desk,
        place: Place,
        saving: CaseSaving,
        *,
        tell: Callable[[Message], None],
        translate: Callable[[str], str],
        publish: Callable[[], None],
    ) -> None:
        super().__init__(desk, place, saving, translate, publish)
        self._tell = tell
        self._curve = Curve()
        self._run: Pending[Adapted] | None = None

    @property
    def is_teaching(self) -> bool:
        """Whether a run is on, so that the worker owes an answer for minutes."""
        return self._run is not None

    def refresh(self) -> bool:
        """Ask for the adapters, and for what the folder of cases holds."""
        self._look()
        return self.list_adapters()

    def list_adapters(self) -> bool:
        """Ask for the adapters."""
        self._list()
        self._publish()
        return True

    # Runs

    def start(
        self,
        name: str,
        *,
        tier: str = "",
        method: str = "",
        unlabelled: str = "",
        labels: tuple[str, ...] = (),
    ) -> bool:
        """Begin to teach a new version of an adapter, or go on where it was stopped.

        Parameters
        ----------
        name : str
            Of the adapter.
        tier : str
            ``shift``, ``decoder`` or ``full``; empty = the machine chooses.
        method : str
            How images without labels are used; empty = the usual way.
        unlabelled : str
            Folder of images without labels; empty = none.
        labels : tuple of str
            Names of what is taught; empty = all.
        """
        self._publish()  # the settings as they are by now
        name, folder = name.strip(), self._status.folder
        if self._run is not None:
            return self._note("warning", "one_run", "wait_or_stop", name=self._status.run.name)
        if not folder:
            return self._note("warning", "no_folder", "choose_folder")
        if not name:
            return self._note("warning", "no_name", "give_name")
        if self._desk.adapter_path(name) != name:
            return self._note("error", "other_name", "rename", name=name)
        model = self._desk.model_path(self._place.settings)
        try:
            request = Adapt(
                folder,
                name,
                labels=tuple(labels),
                tier=tier,
                method=method,
                unlabelled=unlabelled.strip(),
                model=model,
            )
        except InvalidInput as error:
            return self._refused_by(error)
        self._curve = Curve()
        run = RunStatus("running", name, text=self._text("starting"))
        self._status = replace(self._status, run=run, verdict=None)
        self._clear_note()
        self._run = self._desk.client.adapt(request, self._ended, self._progressed, self._taught)
        self._publish()
        return True

    def cancel(self) -> bool:
        """Stop the run; what is in use stays, and the same `start` goes on. False if none runs."""
        if self._run is None:
            return False
        self._run.cancel()
        run = replace(self._status.run, phase="stopping", text=self._text("stopping"))
        self._status = replace(self._status, run=run)
        self._publish()
        return True

    # Adapters

    def use(self, name: str | None) -> bool:
        """Have clicks from now on answered with an adapter, or without one; False if it cannot be.

        Masks that are there stay: they were seen and perhaps corrected as they are.
        """
        node, version = self._place.editor_node, self._active(name or "")
        if node is None:
            return self._note("warning", "no_editor", "open_first")
        if name:
            if version is None:
                return self._note("warning", "no_version", "activate_first", name=name)
            if self._desk.adapter_path(name) != name:
                return self._note("error", "other_name", "rename", name=name)
        node.SetAttribute(f"{PREFIX}Adapter", name or "")
        self._publish()  # reads the setting
        if version is None:
            self._note("info", "not_in_use", "masks_stay")
        else:
            self._note("info", "in_use", "masks_stay", name=name, number=version.number)
        return True

    def activate(self, name: str, number: int) -> bool:
        """Have the adapter's name mean a version."""
        return self._change(name, "activate", number)

    def rollback(self, name: str) -> bool:
        """Have the adapter's name mean the version that it meant before."""
        return self._change(name, "rollback", 0)

    def discard(self, name: str, number: int) -> bool:
        """Delete a version that is not in use; the host asks the user first."""
        return self._change(name, "discard", number)

    # What the worker says

    def _list(self) -> None:
        self._desk.client.adapters(Adapters(), self._listed)

    def _listed(self, pending: Pending[AdapterList]) -> None:
        if pending.error is not None:
            self._failed(pending.error)
        else:
            self._status = replace(self._status, adapters=pending.result().adapters)

    def _progressed(self, report: Progress) -> None:
        run = self._status.run
        if run.phase != "running":
            return
        run = replace(run, fraction=report.fraction, text=report.text)
        self._status = replace(self._status, run=run)

    def _taught(self, taught: Taught) -> None:
        self._curve.add(taught)
        # After the last step it is the gate that goes on, and nobody knows how long.
        left = taught.seconds_left if taught.step < taught.steps else None
        points = self._curve.points()
        run = replace(
            self._status.run,
            step=taught.step,
            steps=taught.steps,
            seconds_left=left,
            losses=points,
        )
        self._status = replace(self._status, run=run)

    def _ended(self, pending: Pending[Adapted]) -> None:
        self._run = None
        if pending.error is not None:
            self._gave_up(pending.error)
        else:
            self._judged(pending.result())
        now = self._status
        self._tell(Message(now.level, now.message, now.next_step))

    def _judged(self, verdict: Adapted) -> None:
        run = replace(self._status.run, phase="done", fraction=1.0, text="", seconds_left=None)
        self._status = replace(self._status, run=run, verdict=verdict)
        version = verdict.version
        reason = version.reason.rstrip(".")
        said = {"name": version.name, "number": version.number, "reason": reason}
        if not version.accepted:
            self._note("warning", "rejected", "kept_old", publish=False, **said)
        elif version.name == self._place.settings.adapter:
            self._note("info", "accepted", "used_now", publish=False, **said)
        else:
            self._note("info", "accepted", "use_it", publish=False, **said)
        self._list()

    def _gave_up(self, error: ProtoSAMError) -> None:
        name = self._status.run.name
        run = replace(self._status.run, phase="idle", text="", seconds_left=None)
        self._status = replace(self._status, run=run)
        if isinstance(error, Cancelled):
            self._note("info", "stopped", "goes_on", publish=False)
        elif isinstance(error, WorkerDied):
            self._note("error", "worker_died", "goes_on", publish=False, name=name)
        else:
            self._failed(error)

    def _change(self, name: str, action: str, number: int) -> bool:
        try:
            request = ChangeAdapter(name, action, number)
        except InvalidInput as error:
            return self._refused_by(error)
        self._clear_note()
        self._desk.client.change_adapter(request, lambda pending: self._changed(request, pending))
        self._publish()
        return True

    def _changed(self, request: ChangeAdapter, pending: Pending[AdapterList]) -> None:
        if pending.error is not None:
            self._failed(pending.error)
            return
        self._status = replace(self._status, adapters=pending.result().adapters)
        version, name = self._active(request.name), request.name
        is_used = name == self._place.settings.adapter
        if request.action == "discard":
            self._note("info", "discarded", publish=False, name=name, number=request.number)
        elif version is None:
            step = "stop_using" if is_used else ""
            self._note("info", "rolled_off", step, publish=False, name=name)
        else:
            done = "activated" if request.action == "activate" else "rolled_back"
            step = "masks_stay" if is_used else ""
            self._note("info", done, step, publish=False, name=name, number=version.number)
