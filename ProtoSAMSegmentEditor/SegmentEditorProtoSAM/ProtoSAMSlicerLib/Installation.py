"""Installing what the worker needs into Slicer's Python, once the user has agreed.

Rules
-----
* Nothing is installed without consent; the question names every package and the Python.
* PyTorch comes through Slicer's PyTorch extension where that is present, because it picks the
  build that fits the graphics card.
* What is installed already stays at its version: pip gets all of it as constraints, so that
  numpy, SimpleITK and whatever else Slicer stands on are never replaced.
* pip runs as a child process; nothing here waits for it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import subprocess
import tempfile
from pathlib import Path

import slicer

from ProtoSAMSlicerLib.PythonSetup import NEEDED, Candidate
from ProtoSAMSlicerLib.Translation import tr as _

TORCH = ("torch", "torchvision")
OPTIONAL = ("peft", "POT", "scikit-learn", "SimpleITK")
"""Needed for adapters and for examples only, and small."""


def packages(missing: tuple[str, ...]) -> list[str]:
    """Names for pip of what is missing, torch first."""
    names = [NEEDED[name] for name in missing]
    return [one for one in TORCH if one in names] + [
        one for one in (*names, *OPTIONAL) if one not in TORCH
    ]


def question(python: str, missing: tuple[str, ...]) -> str:
    """Return what the user is asked."""
    return _(
        "ProtoSAM needs {packages} in {python}.\n\n"
        "They are downloaded from the Python Package Index. PyTorch is large: up to 3 GB. "
        "Packages that are installed already are not changed. Install them now?"
    ).format(packages=", ".join(packages(missing)), python=python)


def install_torch_by_extension() -> bool:
    """Install torch through the PyTorch extension; False where that extension is not present.

    The extension asks for consent itself and shows its own progress.
    """
    if importlib.util.find_spec("PyTorchUtils") is None:
        return False
    logic = importlib.import_module("PyTorchUtils").PyTorchUtilsLogic()
    return logic.installTorch(askConfirmation=True) is not None


def constraints() -> str:
    """All installed distributions at their versions, as pip's constraints."""
    pinned = {
        f"{one.metadata['Name']}=={one.version}"
        for one in importlib.metadata.distributions()
        if one.metadata["Name"]
    }
    return "\n".join(sorted(pinned)) + "\n"


class Installation:
    """pip at work in a child process.

    Parameters
    ----------
    candidate : Candidate
        The Python to install into.
    missing : tuple of str
        Import names of what it lacks.
    core_folder : Path
        Folder of the core; for the environment.
    """

    def __init__(self, candidate: Candidate, missing: tuple[str, ...], core_folder: Path) -> None:
        folder = slicer.app.temporaryPath
        handle, name = tempfile.mkstemp(prefix="ProtoSAM-", suffix=".txt", dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(constraints())
        self._constraints = Path(name)
        self._log = self._constraints.with_suffix(".log")
        command = [candidate.python, "-m", "pip", "install", "--disable-pip-version-check"]
        command += ["--constraint", name, *packages(missing)]
        self._exit_code: int | None = None
        self._problem = ""
        self._process: subprocess.Popen[bytes] | None = None
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    command,
                    env=candidate.environment(core_folder),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                )
        except OSError as error:
            self._problem = str(error)

    @property
    def lastLine(self) -> str:
        """What pip has said last."""
        lines = self._lines()
        return lines[-1] if lines else ""

    @property
    def problem(self) -> str:
        """Why it did not work, once it is done; empty if it did."""
        if self._exit_code:
            return "\n".join(self._lines()[-12:])
        return self._problem

    def poll(self) -> bool:
        """Whether pip has ended. Returns at once."""
        if self._process is None:
            return True
        self._exit_code = self._process.poll()
        if self._exit_code is not None:
            self._constraints.unlink(missing_ok=True)
        return self._exit_code is not None

    def _lines(self) -> list[str]:
        if not self._log.exists():
            return []
        text = self._log.read_text(encoding="utf-8", errors="replace")
        return [line.strip() for line in text.splitlines() if line.strip()]
