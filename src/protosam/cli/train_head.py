"""`protosam train-head`: collect answers of a model, train the 3-D head on them, write it.

The work is done in `protosam.learn`. Speaks no coordinates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from protosam.cli.options import BUILT_IN_MODEL, DeviceOption, ModelOption, WeightsOption
from protosam.cli.screen import progress_bar, results


def train_head(  # noqa: PLR0913 - each option of the command is a parameter
    data: Annotated[list[Path], typer.Argument(help="Folders of <case>_img.* with <case>_lab.*.")],
    out: Annotated[Path, typer.Option(help="Folder of the run: answers, checkpoint, weights.")],
    *,
    split: Annotated[
        Path | None, typer.Option(help="JSON of the split; only its cases for training are used.")
    ] = None,
    without: Annotated[str, typer.Option(help="Cases to keep aside, parted by commas.")] = "",
    objects: Annotated[
        int | None, typer.Option(help="Objects of each data set; all if left out.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 6000,
    seed: Annotated[int, typer.Option(help="Decides weights, samples and clicks.")] = 1,
    model: ModelOption = BUILT_IN_MODEL,
    device: DeviceOption = "auto",
    weights_dir: WeightsOption = None,
) -> None:
    """Train the head that corrects answers in 3-D, on a model's answers to simulated clicks."""
    from dataclasses import asdict

    from protosam.learn.collecting import CollectSettings, collect
    from protosam.learn.export_head import export_head
    from protosam.learn.rough_answers import RoughSource
    from protosam.learn.train_head import HeadTraining
    from protosam.learn.train_head import train_head as train
    from protosam.models.load import load_model

    kept_aside = {name.strip() for name in without.split(",")}
    chosen = [_training_cases(folder, split, kept_aside) for folder in data]
    base = load_model(model, weights_dir=weights_dir, device=device)
    with progress_bar("collecting") as bar:
        answers = collect(base, chosen, out / "answers", CollectSettings(objects=objects), bar)
    settings = HeadTraining(steps=steps, seed=seed)
    with progress_bar("training") as bar:
        head = train(
            settings,
            answers=answers,
            out=out,
            rough=RoughSource([case for one in chosen for case in one.cases]),
            on_progress=lambda step, text: bar(step / steps, f"{step}/{steps} {text}"),
        )
    facts = {
        "base": base.name,
        "base_digest": base.digest,
        "data": [{"name": one.name, "cases": len(one.cases)} for one in chosen],
        "objects": len(answers),
        "training": asdict(settings),
    }
    results().print(f"Written: {export_head(head, out, facts)}", markup=False)


def _training_cases(folder: Path, split: Path | None, kept_aside: set[str]) -> Any:
    from protosam.labelled import cases_of_split, read_dataset

    every = read_dataset(folder)
    named = [] if split is None else cases_of_split(split, "train", every.name)
    names = named or [case.name for case in every.cases]
    return every.chosen([name for name in names if name not in kept_aside])
