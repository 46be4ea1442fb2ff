"""`protosam train-base`: options of the recipe of the built-in model, and its progress.

The recipe is `protosam.learn.train_base`. Speaks no coordinates.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from protosam.cli.options import given
from protosam.cli.screen import progress_bar, results

if TYPE_CHECKING:
    from protosam.learn.train_base import TrainingProgress


def train_base(  # noqa: PLR0913 - each option of the command is a parameter
    out: Annotated[
        Path, typer.Option(help="Folder of the run: checkpoint, log.jsonl, settings.json.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the data sets and split.json; procedural shapes only if left out."
        ),
    ] = None,
    *,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    decay_steps: Annotated[
        int | None, typer.Option(help="Last steps, over which the learning rate falls.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides weights, samples and clicks.")] = None,
    processes: Annotated[int | None, typer.Option(help="Processes of one thread each.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, or cuda: one GPU that all processes share.")
    ] = None,
    settings_file: Annotated[
        Path | None,
        typer.Option("--settings", help="JSON of all settings, as a run writes it; options win."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Do not train: write the weights of --out and their data sheet into this folder."
        ),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="JSON of an evaluation, for the data sheet of --export.")
    ] = None,
) -> None:
    """Train the built-in model from nothing; deterministic by seed, can be stopped and resumed."""
    import dataclasses

    if export is not None:
        _export(out, export, figures)
        return

    from protosam.learn.settings import TrainBaseSettings
    from protosam.learn.train_base import train_base as train

    settings = TrainBaseSettings()
    path = out / "settings.json" if resume and settings_file is None else settings_file
    if path is not None:
        settings = TrainBaseSettings.from_json(_text_of(path))
    changed = given(
        steps=steps, decay_steps=decay_steps, seed=seed, processes=processes, device=device
    )
    settings = dataclasses.replace(settings, **changed)
    with progress_bar("training") as bar:

        def show(progress: TrainingProgress) -> None:
            text = f"{progress.stage} {progress.done}/{progress.total} {progress.text}"
            bar(progress.done / max(1, progress.total), text.strip())

        checkpoint = train(settings, data=data, out=out, resume=resume, on_progress=show)
    results().print(f"Written: {checkpoint}", markup=False)


def _export(run: Path, target: Path, figures: Path | None) -> None:
    import json

    from protosam.errors import UnreadableFile
    from protosam.evaluate import this_machine
    from protosam.learn.export import export_base

    try:
        measured = None if figures is None else json.loads(_text_of(figures))
    except ValueError as error:
        raise UnreadableFile(f"{figures} is not JSON: {error}.", "Give a report.") from error
    written = export_base(run, target, figures=measured, machine=this_machine().to_json())
    results().print(f"Written: {written.weights} ({written.size_bytes / 1e6:.1f} MB)", markup=False)


def _text_of(path: Path) -> str:
    from protosam.errors import UnreadableFile

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(
            f"The settings {path} cannot be read: {error}.", "Give the settings.json of a run."
        ) from error
