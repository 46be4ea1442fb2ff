"""Commands of this package, run by a host as child processes that it looks after from its loop.

Rules
-----
* Starting returns at once, and so does every look; what a command says goes into files, so no pipe
  can fill and no thread is needed.
* A command is asked to stop as a user does it (Ctrl+C), so that it leaves things as they should be;
  where a system has no such way it is ended, which a batch survives as well.
* The folder for what they say is the host's, and goes away with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protosam.errors import WorkerFailure

LINES = 12
"""Lines of a failed command that make its message."""


@dataclass(frozen=True)
class Interpreter:
    """The Python that has the libraries, and its environment."""

    program: str
    env: Mapping[str, str] | None = None
    """None = the host's own."""


class Command:
    """One command at work.

    Parameters
    ----------
    python : Interpreter
    arguments : sequence of str
        After `protosam`.
    folder : Path
        For what it says; must exist.

    Raises
    ------
    WorkerFailure
        It cannot be started.
    """

    def __init__(self, python: Interpreter, arguments: Sequence[str], folder: Path) -> None:
        self._out, self._log = folder / f"{id(self)}.out", folder / f"{id(self)}.log"
        try:
            with self._out.open("wb") as out, self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [python.program, "-m", "protosam", *arguments],
                    env=None if python.env is None else dict(python.env),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=log,
                    # Ctrl+C in the host's terminal is the host's; it decides what ends.
                    start_new_session=True,
                    creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                )
        except OSError as error:
            raise WorkerFailure(
                f"The command could not be started: {error}.",
                f"Check that {python.program} is there and may be run.",
            ) from error

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask it to stop; harmless when it has ended."""
        if self.poll() is None:
            if sys.platform == "win32":
                self._process.terminate()
            else:
                os.kill(self._process.pid, signal.SIGINT)

    def kill(self) -> None:
        """End it at once."""
        if self.poll() is None:
            self._process.kill()

    def answer(self) -> dict[str, Any]:
        """Answer of a command that was asked with ``--json`` and has ended well.

        Raises
        ------
        WorkerFailure
            It failed, or said something else.
        """
        text = self._out.read_text("utf-8", errors="replace")
        if self.poll() == 0:
            with contextlib.suppress(ValueError):
                found: dict[str, Any] = json.loads(text)
                return found
        raise self.failure()

    def failure(self) -> WorkerFailure:
        """Error that tells what it said last."""
        lines = self._log.read_text("utf-8", errors="replace").splitlines()
        said = " ".join(line.strip() for line in lines[-LINES:] if line.strip())
        return WorkerFailure(said or f"The command ended with code {self.poll()}.")

    def forget(self) -> None:
        """Remove what it said."""
        for path in (self._out, self._log):
            path.unlink(missing_ok=True)
