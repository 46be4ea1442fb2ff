"""`protosam train-auto`: options of the training of automatic prompts, its progress and its result.

The training is `protosam.learn.train_auto`. Speaks no coordinates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from protosam.cli.options import (
    BUILT_IN_MODEL,
    CasesArgument,
    CasesOption,
    DeviceOption,
    LabelsOption,
    LimitOption,
    ModelOption,
    SplitOption,
    WeightsOption,
    given,
    listed,
)
from protosam.cli.screen import progress_bar, results


def train_auto(  # noqa: PLR0913 - each option of the command is a parameter
    data: CasesArgument,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="File to write, or a name to find it by later.")
    ],
    *,
    labels: LabelsOption = "",
    split: SplitOption = None,
    cases: CasesOption = "",
    limit: LimitOption = None,
    model: ModelOption = BUILT_IN_MODEL,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    slices: Annotated[int | None, typer.Option(help="Slices taken from each case.")] = None,
    seed: Annotated[int, typer.Option(help="Decides slices, batches and initial weights.")] = 0,
    device: DeviceOption = "auto",
    weights_dir: WeightsOption = None,
) -> None:
    """Teach where to click for one label, from finished cases, in minutes; see segment --auto."""
    from protosam.learn.auto_training import AutoSettings
    from protosam.learn.finished_cases import CaseChoice
    from protosam.learn.train_auto import train_auto as train
    from protosam.models.add_ons import place_for
    from protosam.models.load import load_model

    settings = AutoSettings(seed=seed, **given(steps=steps, slices=slices))
    choice = CaseChoice(data, listed(labels), split, listed(cases), limit)
    target = place_for(out, "auto")
    with progress_bar("teaching") as bar:
        base = load_model(model, weights_dir=weights_dir, device=device)
        result = train(choice, base, target, settings, on_progress=bar)
    figures = result.figures
    results().print(
        f"Written: {result.path} (on what was held out {figures.points_right:.0%} of the points "
        f"lie on the right side, presence is right in {figures.presence_right:.0%} of the slices; "
        f"{result.seconds:.0f} s). Use it with protosam segment --auto {out}.",
        markup=False,
    )
