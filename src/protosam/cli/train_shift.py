"""`protosam train-shift`: options of the shift's training, its progress and its result.

The training is `protosam.learn.train_shift`. Speaks no coordinates.
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
from protosam.cli.screen import EXIT_FAILURE, messages, progress_bar, results


def train_shift(  # noqa: PLR0913 - each option of the command is a parameter
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
    examples: Annotated[int | None, typer.Option(help="Slices to encode, over all cases.")] = None,
    seed: Annotated[int, typer.Option(help="Decides slices, clicks and initial weights.")] = 0,
    device: DeviceOption = "auto",
    weights_dir: WeightsOption = None,
) -> None:
    """Teach a model the objects of a few finished cases, in about a minute; see --adapter."""
    from protosam.learn.finished_cases import CaseChoice
    from protosam.learn.shift import ShiftSettings
    from protosam.learn.train_shift import train_shift as train
    from protosam.models.add_ons import place_for
    from protosam.models.load import load_model

    settings = ShiftSettings(seed=seed, **given(steps=steps, examples=examples))
    choice = CaseChoice(data, listed(labels), split, listed(cases), limit)
    target = place_for(out, "shift")
    with progress_bar("teaching") as bar:
        base = load_model(model, weights_dir=weights_dir, device=device)
        result = train(choice, base, target, settings, on_progress=bar)
    change = f"{result.before:.3f} -> {result.after:.3f}"
    if result.path is None:
        messages().print(
            f"Nothing was written: Dice at one click on what was held out did not rise ({change}). "
            "Give more cases, or only one of the --labels.",
            style="yellow",
        )
        raise typer.Exit(EXIT_FAILURE)
    results().print(
        f"Written: {result.path} (Dice at one click on what was held out {change}, "
        f"{result.seconds:.0f} s). Use it with --adapter {out}.",
        markup=False,
    )
