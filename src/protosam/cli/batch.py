"""`protosam batch`: studies in, segmentations and a report out.

Owns options, credentials from the environment, and what is shown; the work is
`protosam.batch.session`'s. Speaks no coordinates.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from protosam.cli import batch_options as own
from protosam.cli.adapters import resolved, resolved_model
from protosam.cli.dicom import needing_libraries
from protosam.cli.options import (
    BUILT_IN_MODEL,
    AdapterOption,
    AdaptersOption,
    DeviceOption,
    ModelOption,
    WeightsOption,
    listed,
)
from protosam.cli.screen import EXIT_FAILURE, Bar, messages, progress_bar, results

if TYPE_CHECKING:
    from protosam.batch.lanes import Limits, Start
    from protosam.batch.manifest import Row
    from protosam.batch.queue import Hooks, Pool, Progress, Work
    from protosam.batch.session import PoolOf, Summary
    from protosam.batch.ways import Recipe
    from protosam.dicom.transport import Server

UID = re.compile(r"[0-9]+(\.[0-9]+)+")


def batch(  # noqa: PLR0913 - each option of the command is a parameter
    source: own.SourceArgument,
    out: own.OutOption,
    *,
    example: own.ExampleOption = None,
    auto: own.AutosOption = None,
    prompts: own.PromptsOption = None,
    from_seg: own.FromSegOption = False,
    structures: own.StructuresOption = "",
    method: own.MethodOption = "p2sam",
    model: ModelOption = BUILT_IN_MODEL,
    adapter: AdapterOption = "",
    adapters_dir: AdaptersOption = None,
    device: DeviceOption = "auto",
    weights_dir: WeightsOption = None,
    form: own.FormOption = None,
    straighten: own.StraightenOption = False,
    dicomweb: own.DicomwebOption = "",
    store: own.StoreOption = False,
    workers: own.WorkersOption = 1,
    timeout: own.TimeoutOption = 3600.0,
    memory_gb: own.MemoryOption = 0.0,
    ray: own.RayOption = "",
    gpus: own.GpusOption = 0.0,
    retry_failed: own.RetryOption = False,
    show_patient: own.ShowPatientOption = False,
) -> None:
    """Segment all series of a study or folder; the same command again continues it."""
    with needing_libraries():
        from protosam.batch.lanes import Limits, begin_early

        start: Start = "spawn" if ray else begin_early(max(workers, 1))
        from protosam.batch.session import Plan, run_batch

    recipe = _recipe(
        (resolved_model(model, adapters_dir), resolved(adapter, adapters_dir), device, weights_dir),
        (example, auto, prompts),
        from_seg=from_seg,
        structures=structures,
        method=method,
    )
    limits = Limits(timeout, round(memory_gb * 2**30) or None)
    plan = Plan(
        source=_source(source),
        out=out,
        recipe=recipe,
        forms=tuple(one.value for one in form or [own.FormName.seg]),
        straighten=straighten,
        show_patient=show_patient,
        retry_failed=retry_failed,
        server=_server(dicomweb),
        store=store,
        is_shared=ray not in ("", "local"),
    )
    pool_of = _on_ray(workers, limits, ray, gpus) if ray else _here(workers, limits, start)
    with progress_bar("looking for series") as bar, _stoppable(bar) as hooks:
        summary = run_batch(plan, pool_of, hooks)
    _tell(out, summary)


def _source(text: str) -> Path | str:
    """Take what exists for a path, and a study instance UID for itself."""
    return text if UID.fullmatch(text) and not Path(text).exists() else Path(text)


def _recipe(
    model: tuple[str, str, str, Path | None],
    sources: tuple[list[Path] | None, list[str] | None, Path | None],
    *,
    from_seg: bool,
    structures: str,
    method: str,
) -> Recipe:
    from protosam.batch.prompts import read_prompts
    from protosam.batch.ways import Recipe, auto_file

    examples, autos, prompts = sources
    return Recipe(
        *model,
        examples=tuple(examples or ()),
        method=method,
        autos=tuple(auto_file(text) for text in autos or ()),
        lines=read_prompts(prompts) if prompts else (),
        from_seg=from_seg,
        structures=listed(structures),
    )


def _here(workers: int, limits: Limits, start: Start) -> PoolOf:
    """Compute by processes of this machine."""
    from protosam.batch.lanes import LanePool

    return lambda work: LanePool(work, workers, limits, start=start)


def _on_ray(workers: int, limits: Limits, address: str, gpus: float) -> PoolOf:
    """Compute by actors of a Ray cluster."""

    def pool(work: Work) -> Pool:
        from protosam.batch.ray_lanes import RayPool

        return RayPool(work, address, workers, limits, gpus=gpus)

    return pool


def _server(url: str) -> Server | None:
    """PACS with credentials from the environment, where lists of processes do not show them."""
    from protosam.dicom.transport import Server

    if not url:
        return None
    names = ("TOKEN", "USER", "PASSWORD", "CA_FILE")
    token, user, password, ca_file = (
        os.environ.get(f"PROTOSAM_DICOMWEB_{name}", "") for name in names
    )
    return Server(url, token=token, user=user, password=password, ca_file=ca_file)


@contextmanager
def _stoppable(bar: Bar) -> Iterator[Hooks]:
    """Hooks that show a bar and stop at Ctrl+C or a request to end."""
    from protosam.batch.queue import Hooks

    asked = []

    def ask(*_: object) -> None:
        asked.append(True)

    before = {one: signal.signal(one, ask) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield Hooks(lambda progress: _show(bar, progress), lambda: bool(asked))
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _show(bar: Bar, progress: Progress) -> None:
    text = f"{progress.finished} of {progress.total} series"
    if progress.left_s is not None and progress.running:
        text += f", {_duration(progress.left_s)} left"
    bar(progress.finished / max(progress.total, 1), text)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _tell(out: Path, summary: Summary) -> None:
    from protosam.batch.report import PAGE, TABLE, by_doubt

    for row in by_doubt(summary.rows):
        results().print(_line(row), markup=False)
    for problem in summary.problems:
        messages().print(problem, style="yellow", markup=False)
    results().print(f"{out / PAGE} and {out / TABLE} have the rest.", markup=False)
    if summary.was_stopped:
        messages().print("Stopped; the same command continues.", style="yellow")
    failed = any(row.status == "failed" for row in summary.rows)
    if summary.was_stopped or summary.problems or failed:
        raise typer.Exit(EXIT_FAILURE)


def _line(row: Row) -> str:
    name = row.name or f"{row.series_uid} {row.part}".strip()
    found = ", ".join(
        f"{one.name} {one.volume_ml:.1f} ml ({one.confidence:.2f})" for one in row.structures
    )
    said = " ".join(part for part in (found, row.reason) if part)
    return f"{row.status:9} {name} {said}".rstrip()
