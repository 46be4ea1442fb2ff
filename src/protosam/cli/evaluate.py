"""`protosam evaluate`: options of the click robot, its progress and its table.

The rules are `protosam.evaluate`'s; here they are asked for and shown. Speaks no coordinates.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protosam.cli.adapters import resolved
from protosam.cli.example import MethodName
from protosam.cli.options import (
    BUILT_IN_MODEL,
    AdapterOption,
    AdaptersOption,
    DeviceOption,
    ModelOption,
    ScopeChoice,
    WeightsOption,
)
from protosam.cli.screen import progress_bar, results, show_table

if TYPE_CHECKING:
    from protosam.evaluate import EvaluateReport, EvaluateSettings


class EngineName(str, Enum):
    """Values of ``--engine``."""

    protosam = "protosam"
    grow_from_seeds = "grow-from-seeds"
    random_walker = "random-walker"


class ProtocolName(str, Enum):
    """Values of ``--protocol``."""

    clicks = "clicks"
    oneshot = "oneshot"


def evaluate(  # noqa: PLR0913 - each option of the command is a parameter
    data: Annotated[
        Path, typer.Option(help="Folder of <case>_img.* with <case>_lab.* and labels.json.")
    ],
    *,
    model: ModelOption = BUILT_IN_MODEL,
    adapter: AdapterOption = "",
    adapters_dir: AdaptersOption = None,
    engine: Annotated[EngineName, typer.Option(help="Who answers.")] = EngineName.protosam,
    scope: Annotated[
        ScopeChoice, typer.Option(help="The volume, or each label's largest slice alone.")
    ] = ScopeChoice.volume,
    labels: Annotated[str, typer.Option(help="Names or numbers, parted by commas.")] = "",
    clicks: Annotated[int, typer.Option(help="Clicks for each object.")] = 5,
    box: Annotated[bool, typer.Option("--box", help="Begin with a jittered box.")] = False,
    limit: Annotated[int | None, typer.Option(help="Play the first so many cases.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report into this file.")] = None,
    split: Annotated[
        str | None, typer.Option(help="FILE:PART; play the cases of that part only.")
    ] = None,
    cases: Annotated[str, typer.Option(help="Play these cases only, parted by commas.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the box's jitter.")] = 0,
    device: DeviceOption = "auto",
    weights_dir: WeightsOption = None,
    keep_cache: Annotated[
        bool, typer.Option("--keep-cache", help="Keep embeddings between the objects of a case.")
    ] = False,
    without: Annotated[
        str,
        typer.Option(help="Stages to leave out, parted by commas: views, bank, head, walk ..."),
    ] = "",
    protocol: Annotated[
        ProtocolName, typer.Option(help="Clicks, or one finished case for the others.")
    ] = ProtocolName.clicks,
    method: Annotated[
        MethodName, typer.Option(help="With --protocol oneshot: how objects are looked for.")
    ] = MethodName.p2sam,
    references: Annotated[
        int | None, typer.Option(help="With oneshot: draw so many references; all if left out.")
    ] = None,
    targets: Annotated[
        int | None, typer.Option(help="With oneshot: draw so many targets for each.")
    ] = None,
    region_mm: Annotated[
        float | None,
        typer.Option(
            "--region-mm",
            help="Margin of the classical engines' background; their own if left out.",
        ),
    ] = None,
) -> None:
    """Let the click robot play every label of every case, and measure each answer."""
    from protosam.engines import EngineChoice
    from protosam.evaluate import EvaluateSettings

    settings = EvaluateSettings(
        data=data,
        choice=EngineChoice(
            engine.value,
            model,
            resolved(adapter, adapters_dir) or None,
            weights_dir=weights_dir,
            device=device,
            keep_cache=keep_cache,
            without=frozenset(_listed(without)),
            region_mm=region_mm,
        ),
        scope=scope.value,
        labels=_listed(labels),
        clicks=clicks,
        box=box,
        limit=limit,
        split=split,
        cases=_listed(cases),
        seed=seed,
    )
    if protocol is ProtocolName.oneshot:
        _play_oneshot(settings, json, method.value, (references, targets))
    else:
        _play(settings, json)


def _play_oneshot(
    settings: EvaluateSettings,
    json: Path | None,
    method: str,
    counts: tuple[int | None, int | None],
) -> None:
    from protosam.evaluate import this_machine
    from protosam.labelled import cases_of_split, read_dataset
    from protosam.models.load import load_model
    from protosam.prompting.methods import method_named
    from protosam.prompting.oneshot_protocol import OneShotReport, OneShotSettings, play_oneshot

    data, choice = read_dataset(settings.data), settings.choice
    members = settings.cases
    if settings.split is not None:
        path, _, part = settings.split.rpartition(":")
        listed = cases_of_split(Path(path), part, data.name)
        members = tuple(name for name in listed if not members or name in members)
    data = data.chosen(members, settings.limit)
    wanted = data.labels_named(settings.labels)
    order = OneShotSettings(method_named(method), wanted, *counts, settings.seed)

    def keep(so_far: OneShotReport) -> None:
        if json is not None:
            so_far.write(json)

    with progress_bar("loading") as bar:
        model = load_model(
            choice.model,
            adapter=Path(choice.adapter) if choice.adapter else None,
            weights_dir=choice.weights_dir,
            device=choice.device,
        )
        machine = this_machine().to_json()
        report = play_oneshot(model, data, order, machine=machine, on_progress=bar, on_case=keep)
    keep(report)
    _tell_oneshot(report.to_json())


def _tell_oneshot(report: dict[str, Any]) -> None:
    keys = ("dice", "dice_spread", "kept_empty", "seconds")
    rows = [
        (name, str(mean["objects"]), *(_figure(mean[key]) for key in keys))
        for name, mean in (*report["per_label"].items(), ("all", report["mean"]))
    ]
    protocol = report["protocol"]
    title = f"{protocol['method']['name']} on {protocol['dataset']}, {protocol['pairs']} pairs"
    show_table(title, ("label", "objects", "Dice", "spread", "kept empty", "s"), rows)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _play(settings: EvaluateSettings, json: Path | None) -> None:
    from protosam.evaluate import evaluate as play

    def keep(so_far: EvaluateReport) -> None:
        if json is not None:
            so_far.write(json)

    with progress_bar("loading") as bar:
        report = play(settings, on_progress=bar, on_case=keep)
    keep(report)
    _tell(report.to_json())
    if json is not None:
        results().print(f"Written: {json}", markup=False)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _tell(report: dict[str, Any]) -> None:
    protocol, machine = report["protocol"], report["machine"]
    clicks = protocol["clicks"]
    header = ("label", "objects", *(f"Dice {n}" for n in range(1, clicks + 1)))
    header += ("auc", "NSD 2 mm", "first s", "next s")
    rows = [
        (name, str(mean["objects"]), *_figures(mean)) for name, mean in report["per_label"].items()
    ]
    rows.append(("all", str(protocol["objects"]), *_figures(report["mean"])))
    title = f"{protocol['engine']} on {protocol['dataset']}, {protocol['scope']} scope"
    show_table(title, header, rows)
    seen = (f"{machine['cpu']}, {machine['cores']} cores", f"torch {machine['torch']}")
    results().print("; ".join(seen), markup=False)


def _figures(mean: dict[str, Any]) -> list[str]:
    figures = [*mean["dice"], mean["dsc_auc"], mean["nsd_final"]]
    times = [mean["seconds_first"], mean["seconds_next"]]
    return [
        *(f"{value:.3f}" for value in figures),
        *("-" if value is None else f"{value:.2f}" for value in times),
    ]
