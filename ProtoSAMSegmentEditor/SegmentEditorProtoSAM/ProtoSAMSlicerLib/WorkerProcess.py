"""The one worker of this Slicer: its Python, its log, its timer, its end.

Rules
-----
* The only file that knows how Slicer starts a process. All clones of the effect share one worker;
  it is started by the first clone that is used, never by making one.
* Slicer's event loop keeps Python's lock while it rests, so the threads that read the worker's
  pipes run only while a timer lets them: short ticks while something is awaited, rare ones else.
* Nothing here waits for the worker, and the event loop is never entered from here.
* Where the settings name a worker that listens, that one is connected to, and none is started;
  images go there, and nowhere else.
* The worker ends with Slicer: told so at `aboutToQuit` and at the interpreter's end, and otherwise
  by its closed stdin, which also reaches a Python behind a launcher.
"""

from __future__ import annotations

import atexit
import weakref
from pathlib import Path
from typing import Any, Protocol

import qt
import slicer

from ProtoSAMSlicerLib import Core, PythonSetup

REST_MS = 500
"""Between two ticks while no effect is active."""

BUSY_MS = 5
"""Between two ticks while something is awaited."""

TEACHING_MS = 50
"""Between two ticks while no effect is active, and the worker teaches: that takes minutes."""

SEARCH_MS = 20
"""Between two looks at a Python that is being asked."""

SERVER, TOKEN_FILE, CERTIFICATE = (
    "ProtoSAM/Server",
    "ProtoSAM/ServerTokenFile",
    "ProtoSAM/ServerCertificate",
)
"""Keys in Slicer's settings: HOST:PORT of a worker that listens, the file that lets this Slicer in,
and the certificate to trust; all empty = a worker of Slicer's own."""


class Session(Protocol):
    """An effect that is in use, as this module sees it."""

    adapt: Any
    """Its part about learning, which knows whether a run that it has begun is still on."""

    def workerChanged(self) -> None:
        """Take note of another client, or of news about the Pythons."""

    def drain(self) -> int:
        """Handle what has arrived; returns the wanted milliseconds to the next call."""

    def sceneClosed(self) -> None:
        """Let go of the scene, which is about to be emptied."""

    def applicationCloses(self) -> None:
        """End with Slicer."""


class SharedWorker:
    """What all clones of the effect share.

    Parameters
    ----------
    core : Core.Core
        The core package.
    """

    def __init__(self, core: Core.Core) -> None:
        self.core = core
        self.client: Any = None
        self.candidate: PythonSetup.Candidate | None = None
        self.closed = False
        self._search: PythonSetup.Search | None = None
        self.findings: list[PythonSetup.Finding] = []
        self._known: weakref.WeakSet[Session] = weakref.WeakSet()
        self._active: weakref.WeakSet[Session] = weakref.WeakSet()
        self._timer = qt.QTimer()
        self._timer.connect("timeout()", self._tick)
        slicer.app.connect("aboutToQuit()", self.close)
        atexit.register(self.close)
        self._scene = slicer.mrmlScene
        self._scene_tag = self._scene.AddObserver(self._scene.StartCloseEvent, self._sceneCloses)

    @property
    def searching(self) -> bool:
        """Whether Pythons are being asked."""
        return self._search is not None

    @property
    def logPath(self) -> Path:
        """File that gets all that workers print."""
        return Path(slicer.app.temporaryPath) / "ProtoSAM-worker.log"

    def join(self, session: Session) -> None:
        """Serve an effect from now on."""
        self._known.add(session)
        self._active.add(session)
        if self.client is None and self._search is None:
            self._begin()
        self.wake()

    def leave(self, session: Session) -> None:
        """Serve an effect no longer."""
        self._active.discard(session)

    def search(self) -> None:
        """Look for a Python again."""
        self._begin()
        self._tellAll()
        self.wake()

    def restart(self) -> None:
        """End the worker, if it runs, and start a new one."""
        if self.client is None:
            self.search()
        else:
            self.client.restart()
        self.wake()

    def stop(self) -> None:
        """Let the worker end; the next click starts a new one."""
        if self.client is not None:
            self.client.shutdown()
        self.wake()

    def wake(self) -> None:
        """Something is awaited: look soon."""
        wanted = SEARCH_MS if self._search is not None else BUSY_MS
        # A timer that is started anew by every move of the mouse would never run out.
        if not self.closed and not (self._timer.isActive() and self._timer.interval <= wanted):
            self._timer.start(wanted)

    def close(self) -> None:
        """Slicer ends: so does the worker."""
        if self.closed:
            return
        self.closed = True
        atexit.unregister(self.close)
        self._timer.stop()
        # A scene also says that it closes when it is deleted, and then Python may be gone.
        self._scene.RemoveObserver(self._scene_tag)
        if self._search is not None:
            self._search.stop()
            self._search = None
        for session in list(self._known):
            session.applicationCloses()
        if self.client is not None:
            self.client.close()

    def _begin(self) -> None:
        # One that looks complete is taken at once, so that a first click does not wait for the
        # asking; if the asking finds fault with it, another one takes its place.
        if self.closed:
            return
        if self._search is not None:
            self._search.stop()
            self._search = None
        if self._connect():
            return
        found = PythonSetup.candidates(Core.checkout_folder())
        self._search = PythonSetup.Search(found, self.core.folder)
        self.findings = []
        likely = next((one for one in found if one.looks_complete()), None)
        if likely is not None:
            self._take(likely)

    def _connect(self) -> bool:
        """Use the worker that the settings name; False where they name none."""
        settings = slicer.app.userSettings()
        server, token, certificate = (
            str(settings.value(key) or "") for key in (SERVER, TOKEN_FILE, CERTIFICATE)
        )
        if not server:
            return False
        self._take(None)
        try:
            address = self.core.client.server_address(
                server,
                Path(token) if token else None,
                Path(certificate) if certificate else None,
            )
        except self.core.errors.InvalidInput as error:
            named = PythonSetup.Candidate(server, "settings")
            self.findings = [PythonSetup.Finding(named, problem=str(error))]
            return True
        self.findings = []
        self.client = self.core.client.WorkerClient(address, env=None, log_path=self.logPath)
        return True

    def _tick(self) -> None:
        if self._search is not None:
            self._look(self._search)
        wanted = [session.drain() for session in list(self._active)]
        if self.client is not None and not wanted and self.client.busy:
            self.client.drain(wait_s=0.005)
            teaches = any(session.adapt.isTeaching for session in list(self._known))
            wanted = [TEACHING_MS if teaches else BUSY_MS]
        if self._search is not None:
            wanted.append(SEARCH_MS)
        if self.closed:
            return
        if not wanted and not self._active:
            self._timer.stop()
            return
        interval = min(wanted, default=REST_MS)
        if self._timer.interval != interval:
            self._timer.start(interval)

    def _look(self, search: PythonSetup.Search) -> None:
        if not search.poll():
            return
        self._search = None
        self.findings = search.findings
        if search.chosen is None:
            self._take(None)
        elif search.chosen != self.candidate:
            self._take(search.chosen)
        self._tellAll()

    def _tellAll(self) -> None:
        for session in list(self._active):
            session.workerChanged()

    def _take(self, candidate: PythonSetup.Candidate | None) -> None:
        if candidate == self.candidate and self.client is not None:
            return
        if self.client is not None:
            self.client.close()
            self.client = None
        self.candidate = candidate
        if candidate is not None:
            self.client = self.core.client.WorkerClient(
                (candidate.python, "-m", "protosam.worker"),
                env=candidate.environment(self.core.folder),
                log_path=self.logPath,
            )

    def _sceneCloses(self, *_event: object) -> None:
        for session in list(self._known):
            session.sceneClosed()


class _Registry:
    """Holds the application's one worker; made by the first effect that is used."""

    def __init__(self) -> None:
        self.worker: SharedWorker | None = None


_REGISTRY = _Registry()


def sharedWorker(core: Core.Core) -> SharedWorker:
    """Return the worker that all effects of this Slicer share."""
    if _REGISTRY.worker is None:
        _REGISTRY.worker = SharedWorker(core)
    return _REGISTRY.worker
