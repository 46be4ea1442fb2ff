"""The server: one page on this machine, for one user, until Ctrl+C.

Rules
-----
* It listens on the loopback address alone, and `guard` stands before everything.
* One line is printed: the address with the token in it. Nothing else of trame's or VTK's is.
* The worker, the scene and the folder of uploads end with it, however it ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from trame.app import get_server
from vtkmodules.vtkCommonCore import vtkObject

from protosam.errors import InvalidInput, MissingExtra
from protosam.phantom import make_phantom
from protosam.scene import Message
from protosam.wire.client import ServerAddress, WorkerClient
from protosam_app.actions import act
from protosam_app.app import App
from protosam_app.guard import Guard
from protosam_app.opening import Opened, shown
from protosam_app.page_state import Values
from protosam_app.pictures import Picture
from protosam_app.routes import Routes
from protosam_app.shortcuts import actions_by_key, sheet
from protosam_app.ui import OWN_TO_EACH_WINDOW, build
from protosam_app.uploads import Inbox
from protosam_app.view_panes import AREAS

WEB = Path(__file__).parent / "web"
WEB_ADDRESS = "__protosam"

PHANTOM_NAME = "Practice volume"

_GL_PROBE = (
    "import vtkmodules.vtkRenderingOpenGL2\n"
    "from vtkmodules.vtkRenderingCore import vtkRenderWindow\n"
    "window = vtkRenderWindow()\n"
    "window.SetOffScreenRendering(1)\n"
    "window.SetSize(16, 16)\n"
    "window.Render()\n"
)


@dataclass(frozen=True)
class Wish:
    """What the command line asks for."""

    path: Path | None = None
    """Image or folder to show at first; None = the phantom."""
    port: int = 0
    """Port to listen on; 0 = a free one."""
    model: str = ""
    """Model to begin with."""
    device: str = "auto"
    """Where the worker computes."""
    weights_dir: Path | None = None
    """Folder searched first for weights."""
    browser: bool = True
    """Whether to open a browser, where there is one."""
    server: ServerAddress | None = None
    """A worker that listens elsewhere, instead of a process of the page's own."""


class Served:
    """The page's server and what stands behind it.

    Parameters
    ----------
    wish : Wish
    announce : callable
        Gets the address, once, when the page can be opened.
    """

    def __init__(self, wish: Wish, announce: Callable[[str], None]) -> None:
        self._wish, self._announce = wish, announce
        self.guard, self.inbox = Guard(), Inbox()
        self.client = WorkerClient(wish.server or _worker_command(wish))
        self.client.start()  # it loads its model while the page is being built
        self.server = get_server("protosam")
        self.app = App(self.client, self._publish, self.inbox)
        self._tasks: list[asyncio.Task[Any]] = []
        self._prepare_page()
        self._prepare_hooks()

    def run(self) -> None:
        """Serve until the process is asked to end."""
        try:
            self.server.start(
                port=self._wish.port,
                host="127.0.0.1",
                open_browser=False,
                show_connection_info=False,
                disable_logging=True,
                backend="aiohttp",
                timeout=0,
            )
        finally:
            self.app.close()
            self.inbox.close()

    def _prepare_page(self) -> None:
        state = self.server.state
        state.update({**OWN_TO_EACH_WINDOW, **self.app.values()})
        state.update({"shortcuts": actions_by_key(), "sheet": sheet()})
        state.trame__client_only = [*state.trame__client_only, *OWN_TO_EACH_WINDOW]
        icon = f"{WEB_ADDRESS}/icon.svg"
        state.trame__title, state.trame__favicon = "ProtoSAM", icon
        self.server.enable_module(
            {
                "serve": {WEB_ADDRESS: str(WEB)},
                "scripts": [f"{WEB_ADDRESS}/page.js"],
                "styles": [f"{WEB_ADDRESS}/page.css"],
            }
        )
        build(self.server, icon)

    def _prepare_hooks(self) -> None:
        controller = self.server.controller
        controller.on_server_bind.add(self._bind)
        controller.on_server_ready.add(self._ready)
        controller.trigger("act")(lambda name, *rest: act(self.app, str(name), *rest))
        controller.trigger("tell")(
            lambda text, step="": self.app.message(Message("error", str(text), str(step)))
        )
        controller.trigger("phantom")(self._show_phantom)

    def _bind(self, wslink_server: Any) -> None:
        """Put guard and routes into the web application before it begins to listen."""
        wslink_server.app.middlewares.append(self.guard.middleware())
        wslink_server.app.add_routes(Routes(self.app).table())

    def _ready(self, **_: object) -> None:
        self.guard.port = self.server.port
        for name, view in self.app.views.all.items():
            picture = Picture(AREAS[name], view, partial(self.app.views.resized, name))
            self.server.controller.rc_area_register(picture)
        self._tasks.append(asyncio.ensure_future(self.app.run()))
        self._tasks.append(asyncio.ensure_future(self._first_volume()))
        for task in self._tasks:
            task.add_done_callback(self._ended)
        self._announce(self.guard.address())
        if self._wish.browser and _has_browser():
            webbrowser.open(self.guard.address())

    async def _first_volume(self) -> None:
        if self._wish.path is None:
            await self._show_phantom()
        else:
            await self.app.open(self._wish.path)

    async def _show_phantom(self) -> None:
        self.app.opening.append(PHANTOM_NAME)
        self.app.touch()
        opened = await self.app.beside(_phantom)
        self.app.opening.pop(0)
        self.app.show(opened)

    def _publish(self, values: Values) -> None:
        """Push what has changed to every window of the page."""
        with self.server.state as state:
            state.update(values)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """Say so if a fault has ended what should go on; the scene can still be saved."""
        if task.cancelled() or task.exception() is None:
            return
        logging.getLogger(__name__).error("The page's loop has ended.", exc_info=task.exception())
        self.app.message(
            Message(
                "error",
                "The program has a fault and does not go on.",
                "Save your segments, then start it again; the terminal shows the details.",
            )
        )
        self._publish(self.app.values())


def serve(wish: Wish, announce: Callable[[str], None]) -> None:
    """Show the page until the process is asked to end.

    Raises
    ------
    InvalidInput
        The path does not exist.
    MissingExtra
        Nothing can be rendered on this machine.
    """
    if wish.path is not None and not wish.path.exists():
        raise InvalidInput(f"{wish.path} does not exist.", "Name a file or a folder.")
    _quieten()
    _check_rendering()
    Served(wish, announce).run()


def _phantom() -> Opened:
    return shown(make_phantom().volume, PHANTOM_NAME)


def _worker_command(wish: Wish) -> list[str]:
    command = [sys.executable, "-m", "protosam.worker", "--device", wish.device]
    if wish.weights_dir is not None:
        command += ["--weights-dir", str(wish.weights_dir.absolute())]
    return [*command, "--model", wish.model]


def _quieten() -> None:
    """No log lines of trame and VTK, which are many and may hold the token."""
    for name in ("trame_server", "trame_client", "trame_rca", "wslink", "aiohttp.access"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # VTK warns of an event that it will drop, and of slice views without a volume.
    vtkObject.GlobalWarningDisplayOff()
    # Arguments of the command line are protosam's, not trame's.
    sys.argv = sys.argv[:1]


def _check_rendering() -> None:
    """Try to render in another process: without OpenGL, VTK ends the one that tries."""
    if sys.platform.startswith("linux"):
        os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
    probe = subprocess.run([sys.executable, "-c", _GL_PROBE], capture_output=True, check=False)
    if probe.returncode:
        raise MissingExtra(
            "Nothing can be rendered: OpenGL is missing.",
            "On Debian and Ubuntu: apt-get install libegl1 libgl1-mesa-dri",
        )


def _has_browser() -> bool:
    """Whether a browser with windows can be opened, not one in the terminal."""
    has_screen = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return has_screen or not sys.platform.startswith("linux")
