"""`protosam doctor`: what this machine has for ProtoSAM, and what is broken.

Each check measures one thing and says it in one row. A warning is something that works less well;
broken is something without which nothing can be segmented, and makes the exit code 1. Nothing is
changed, nothing is downloaded. Speaks no coordinates.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from protosam import __version__
from protosam.cli.screen import show_table
from protosam.errors import ProtoSAMError

LEAST_MEMORY_GB = 4.0
"""Memory that the worker and a large volume take together."""

LEAST_DISK_GB = 2.0
"""Room for the weights of one large model and for what is being written."""

OLDEST_PYTHON = (3, 10)

State = Literal["ok", "warning", "broken"]


@dataclass(frozen=True)
class Finding:
    """One row of the table."""

    what: str
    """What was looked at."""
    state: State
    """Whether it serves."""
    detail: str
    """What was seen, and the next step where it does not serve."""


def examine(*, start_worker: bool = True) -> list[Finding]:
    """Look at everything.

    Parameters
    ----------
    start_worker : bool
        Also start a worker and measure how long it takes.
    """
    checks: list[Callable[[], Finding]] = [
        _package,
        _python,
        _torch,
        _device,
        _bfloat16,
        _memory,
        _disk,
        _slicer_core,
    ]
    findings = [check() for check in checks]
    findings += _weights()
    if start_worker:
        findings.append(_worker())
    return findings


def show(findings: list[Finding]) -> bool:
    """Print the table; returns whether everything that is needed works."""
    marks = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "broken": "[bold red]broken[/]"}
    rows = [(one.what, marks[one.state], one.detail) for one in findings]
    show_table("This machine", ("what", "state", "seen"), rows)
    return all(one.state != "broken" for one in findings)


def _package() -> Finding:
    return Finding("ProtoSAM", "ok", f"{__version__}, {Path(__file__).parents[1]}")


def _python() -> Finding:
    state: State = "ok" if sys.version_info >= OLDEST_PYTHON else "broken"
    return Finding("Python", state, f"{platform.python_version()}, {sys.executable}")


def _torch() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("torch", "broken", f"{error}; install ProtoSAM again in this environment")
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} processors"
    return Finding("torch", "ok", f"{torch.__version__}, {threads}")


def _device() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("device", "broken", "without torch there is none")
    import torch

    if not torch.cuda.is_available():
        return Finding("device", "ok", f"cpu ({torch.backends.cpu.get_cpu_capability()}), no GPU")
    properties = torch.cuda.get_device_properties(0)
    return Finding("device", "ok", f"{properties.name}, {properties.total_memory / 1e9:.0f} GB")


def _bfloat16() -> Finding:
    flags = _processor_flags()
    if flags is None:
        return Finding("bfloat16 on the CPU", "ok", "not known on this system")
    fast = sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    seen = ", ".join(fast) if fast else "none; float32 is used"
    return Finding("bfloat16 on the CPU", "ok", seen)


def _processor_flags() -> set[str] | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return set(lines[0].partition(":")[2].split()) if lines else None


def _memory() -> Finding:
    free_gb = psutil.virtual_memory().available / 1e9
    total_gb = psutil.virtual_memory().total / 1e9
    seen = f"{free_gb:.1f} of {total_gb:.1f} GB free"
    if free_gb < LEAST_MEMORY_GB:
        return Finding("memory", "warning", f"{seen}; close other programs before a large volume")
    return Finding("memory", "ok", seen)


def _disk() -> Finding:
    from protosam.models.weights import user_folder

    folder = user_folder()
    while not folder.exists():
        folder = folder.parent
    free_gb = shutil.disk_usage(folder).free / 1e9
    seen = f"{free_gb:.1f} GB free for weights in {user_folder()}"
    if free_gb < LEAST_DISK_GB:
        return Finding("disk", "warning", f"{seen}; free some space before fetching a model")
    return Finding("disk", "ok", seen)


def _slicer_core() -> Finding:
    try:
        version = importlib.metadata.version("slicer-core")
    except importlib.metadata.PackageNotFoundError:
        missing = "not installed; only the engine grow-from-seeds of `protosam evaluate` needs it"
        return Finding("slicer-core", "ok", missing)
    return Finding("slicer-core", "ok", version)


def _weights() -> list[Finding]:
    from protosam.models.weights import list_weights

    try:
        statuses = list_weights(check=True)
    except ProtoSAMError as error:
        return [Finding("weights", "broken", str(error))]
    found = [one for one in statuses if one.state != "missing" or one.card.url is None]
    rows = []
    for one in found:
        state: State = "ok" if one.state in ("verified", "digest unknown") else "warning"
        if state != "ok" and one.card.url is None:
            state = "broken"
        rows.append(Finding(f"weights {one.card.name}", state, f"{one.state}, {one.path or '-'}"))
    others = [one.card.name for one in statuses if one not in found]
    if others:
        rows.append(Finding("weights not here", "ok", f"{', '.join(others)} (protosam weights)"))
    return rows


def _worker() -> Finding:
    from protosam.cli.engines import Choice, WorkerEngine

    try:
        with WorkerEngine(Choice()) as engine:
            start_s = engine.start()
    except ProtoSAMError as error:
        return Finding("worker", "broken", str(error))
    return Finding("worker", "ok", f"ready after {start_s:.1f} s")
