"""Which Python the worker runs in: where one may be, and what each of them lacks.

Rules
-----
* Order: the one in Slicer's settings, the environment variable PROTOSAM_PYTHON, the checkout's own
  `.venv`, Slicer's Python. The first that lacks nothing is taken.
* A candidate is asked in a child process, which finds libraries without importing them. The
  asking is started and looked after; nothing here waits.
* A foreign Python gets an environment without Slicer's, whose PYTHONHOME and libraries break it.
* Knows no widgets. Paths stay on this machine: in Slicer's settings, never in a scene.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import slicer

from ProtoSAMSlicerLib.Translation import tr as _

SETTING = "ProtoSAM/Python"
"""Key in Slicer's settings: the Python that the user has chosen."""

VARIABLE = "PROTOSAM_PYTHON"
"""Environment variable that names a Python."""

NEEDED = {
    "numpy": "numpy",
    "scipy": "scipy",
    "skimage": "scikit-image",
    "torch": "torch",
    "torchvision": "torchvision",
    "segment_anything": "segment-anything",
    "safetensors": "safetensors",
    "platformdirs": "platformdirs",
    "psutil": "psutil",
}
"""What a worker imports to segment with any of the models: import name -> name for pip."""

CHECK_LIMIT_S = 60.0
"""A virus scanner may take half a minute over a Python that it has not seen before."""

_QUESTION = """
import importlib.util, json, sys
names = {names!r}
missing = [name for name in names if importlib.util.find_spec(name) is None]
sys.stdout.write(json.dumps({{"version": list(sys.version_info[:3]), "missing": missing}}))
"""

_SLICERS_OWN = ("PYTHONHOME", "PYTHONPATH", "PYTHONNOUSERSITE", "PIP_REQUIRE_VIRTUALENV")
_LIBRARY_PATHS = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PATH")


@dataclass(frozen=True)
class Candidate:
    """A Python that might run the worker."""

    python: str
    """Path of the program."""
    origin: str
    """"settings", "environment", "checkout" or "slicer"."""

    @property
    def own(self) -> bool:
        """Whether it is the Python that Slicer itself uses."""
        return self.origin == "slicer"

    def environment(self, core_folder: Path) -> dict[str, str]:
        """Environment for it, with the core in its path."""
        paths = [str(core_folder)]
        if self.own:
            environment = dict(os.environ)
            paths += [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
        else:
            environment = foreign_environment()
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        environment["PYTHONUNBUFFERED"] = "1"
        environment["PYTHONUTF8"] = "1"
        return environment

    def looks_complete(self) -> bool:
        """Whether its folders hold everything, as far as that can be seen without running it."""
        if not Path(self.python).is_file():
            return False
        if self.own:
            return all(find_spec(name) is not None for name in NEEDED)
        root = Path(self.python).parent.parent
        folders = [*root.glob("lib/python3.*/site-packages"), root / "Lib" / "site-packages"]
        return any(
            all((one / name).exists() or (one / f"{name}.py").exists() for name in NEEDED)
            for one in folders
        )


@dataclass(frozen=True)
class Finding:
    """What became of asking a candidate."""

    candidate: Candidate
    """Who was asked."""
    missing: tuple[str, ...] = ()
    """Import names of what it lacks."""
    problem: str = ""
    """Why it cannot be used at all, or empty."""

    @property
    def usable(self) -> bool:
        """Whether the worker can run in it."""
        return not self.missing and not self.problem

    @property
    def sentence(self) -> str:
        """What to tell the user."""
        where = self.candidate.python
        if self.problem:
            return self.problem
        if self.missing:
            names = ", ".join(NEEDED[name] for name in self.missing)
            return _("{python} lacks {names}.").format(python=where, names=names)
        return _("{python} has everything.").format(python=where)


def candidates(checkout: Path) -> list[Candidate]:
    """All Pythons that may be there, in the order in which they are asked."""
    program = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    found = [
        Candidate(str(slicer.app.userSettings().value(SETTING) or ""), "settings"),
        Candidate(os.environ.get(VARIABLE, ""), "environment"),
    ]
    environment = checkout.joinpath(".venv", *program)
    if environment.is_file():
        found.append(Candidate(str(environment), "checkout"))
    found.append(Candidate(slicers_python(), "slicer"))
    unique: dict[str, Candidate] = {}
    for one in found:
        if one.python:
            unique.setdefault(one.python, one)
    return list(unique.values())


def slicers_python() -> str:
    """Program that runs Slicer's Python outside of Slicer, or an empty text.

    `sys.executable` is not believed when it is not called python: started with `-m`, Slicer itself
    would open a second window.
    """
    known = shutil.which("PythonSlicer")
    if known:
        return known
    folder = Path(sys.prefix) / ("" if os.name == "nt" else "bin")
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    likely = [Path(sys.executable or ""), folder / version, folder / "python3", folder / "python"]
    for one in likely:
        if one.stem.lower().startswith("python") and one.is_file():
            return str(one)
    return ""


def foreign_environment() -> dict[str, str]:
    """Return the environment of this process without what belongs to Slicer."""
    environment = dict(slicer.util.startupEnvironment())
    home = Path(slicer.app.slicerHome).resolve()
    for name in (*_SLICERS_OWN, "SSL_CERT_FILE"):
        environment.pop(name, None)
    for name in _LIBRARY_PATHS:
        kept = [
            part
            for part in environment.get(name, "").split(os.pathsep)
            if part and home not in (Path(part).resolve(), *Path(part).resolve().parents)
        ]
        environment.pop(name, None)
        if kept:
            environment[name] = os.pathsep.join(kept)
    return {name: value for name, value in environment.items() if not name.startswith("QT_")}


class Check:
    """One candidate being asked, in a child process."""

    def __init__(self, candidate: Candidate, core_folder: Path) -> None:
        self._candidate = candidate
        self._end_s = time.monotonic() + CHECK_LIMIT_S
        self._given_up = False
        self._process: subprocess.Popen[bytes] | None = None
        self._finding: Finding | None = None
        question = _QUESTION.format(names=tuple(NEEDED))
        try:
            self._process = subprocess.Popen(
                [candidate.python, "-c", question],
                env=candidate.environment(core_folder),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            self._finding = self._failed(_("it cannot be started ({error})").format(error=error))

    def poll(self) -> Finding | None:
        """Return what was found, or None while the child still runs; never waits."""
        process = self._process
        if process is not None and self._finding is None:
            if process.poll() is not None:
                self._finding = self._read(process)
            elif time.monotonic() > self._end_s and not self._given_up:
                self._given_up = True
                process.kill()
        return self._finding

    def stop(self) -> None:
        """End the child, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def _read(self, process: subprocess.Popen[bytes]) -> Finding:
        # The child has ended, and its one line fits into the pipe: reading does not wait.
        output, _errors = process.communicate()
        if self._given_up:
            return self._failed(_("it does not answer"))
        try:
            answer = json.loads(output.decode("utf-8").strip().splitlines()[-1])
            version, missing = tuple(answer["version"]), tuple(answer["missing"])
        except (ValueError, IndexError, KeyError, TypeError):
            return self._failed(_("it is not a working Python"))
        if version[:2] < (3, 10):
            return self._failed(
                _("it is Python {version}, and 3.10 or newer is needed").format(
                    version=".".join(str(part) for part in version)
                )
            )
        return Finding(self._candidate, missing)

    def _failed(self, reason: str) -> Finding:
        problem = _("{python} cannot be used: {reason}.")
        return Finding(
            self._candidate, problem=problem.format(python=self._candidate.python, reason=reason)
        )


class Search:
    """Candidates asked one after the other until one lacks nothing."""

    def __init__(self, waiting: list[Candidate], core_folder: Path) -> None:
        self._waiting = list(waiting)
        self._core_folder = core_folder
        self._check: Check | None = None
        self.findings: list[Finding] = []

    @property
    def chosen(self) -> Candidate | None:
        """The one that lacks nothing; None until it is found."""
        usable = [one.candidate for one in self.findings if one.usable]
        return usable[0] if usable else None

    def poll(self) -> bool:
        """Go on; returns whether the search has ended. Never waits."""
        while self.chosen is None:
            if self._check is None:
                if not self._waiting:
                    return True
                self._check = Check(self._waiting.pop(0), self._core_folder)
            finding = self._check.poll()
            if finding is None:
                return False
            self.findings.append(finding)
            self._check = None
        return True

    def stop(self) -> None:
        """Give it up."""
        self._waiting.clear()
        if self._check is not None:
            self._check.stop()
