"""`protosam adapt` and `protosam cases`: options, progress and what came of it.

The work is `protosam.learn.gated_run`'s and `protosam.cases`'. Speaks no coordinates.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from protosam.cli.options import (
    BUILT_IN_MODEL,
    AdaptersOption,
    DeviceOption,
    ModelOption,
    WeightsOption,
    given,
    listed,
)
from protosam.cli.screen import EXIT_FAILURE, messages, progress_bar, results, show_table

if TYPE_CHECKING:
    from protosam.learn.adapt_order import AdaptResult

cases_app = typer.Typer(help="Folders of corrected cases.", no_args_is_help=True)


class TierChoice(str, Enum):
    """Values of ``--tier``."""

    auto = "auto"
    shift = "shift"
    decoder = "decoder"
    full = "full"


def adapt(  # noqa: PLR0913 - each option of the command is a parameter
    cases: Annotated[
        Path, typer.Argument(help="Corrected cases, imagesTr/labelsTr, or <case>_img/<case>_lab.")
    ],
    *,
    name: Annotated[str, typer.Option(help="Name of the adapter; a new version is added to it.")],
    labels: Annotated[str, typer.Option(help="Names or numbers, parted by commas.")] = "",
    unlabelled: Annotated[
        Path | None, typer.Option(help="Folder of images without labels, for methods that use it.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="labelled, ema, protosam, sss, semisam or semisam-plus; ema with --unlabelled."
        ),
    ] = "",
    tier: Annotated[
        TierChoice, typer.Option(help="How much learns; auto lets the machine choose.")
    ] = TierChoice.auto,
    sentinels: Annotated[
        Path | None, typer.Option(help="Folder of finished cases that must not get worse.")
    ] = None,
    adapters_dir: AdaptersOption = None,
    json: Annotated[Path | None, typer.Option(help="Write the report into this file.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimiser steps; usually 600, 200 for SAM on a CPU.")
    ] = None,
    examples: Annotated[int | None, typer.Option(help="Slices to learn from.")] = None,
    seed: Annotated[int, typer.Option(help="Decides weights, slices, questions, clicks.")] = 0,
    model: ModelOption = BUILT_IN_MODEL,
    device: DeviceOption = "auto",
    weights_dir: WeightsOption = None,
) -> None:
    """Teach the model from corrected cases; what is worse than before is not let in."""
    from protosam.learn.adapt_order import AdaptOrder, Watch
    from protosam.learn.gated_run import adapt as carry_out
    from protosam.learn.recipe_settings import RecipeSettings
    from protosam.learn.unlabelled.methods import DEFAULT

    order = AdaptOrder(
        cases=cases,
        name=name,
        labels=listed(labels),
        tier=None if tier is TierChoice.auto else tier.value,
        method=method or (DEFAULT if unlabelled else "labelled"),
        unlabelled=unlabelled,
        sentinels=sentinels,
        adapters_dir=adapters_dir,
        model=model,
        weights_dir=weights_dir,
        device=device,
        settings=RecipeSettings(seed=seed, **given(steps=steps, examples=examples)),
    )
    with progress_bar("adapting") as bar:
        result = carry_out(order, Watch(bar))
    _tell(result, json)
    if not result.report.accepted:
        raise typer.Exit(EXIT_FAILURE)


@cases_app.command("list")
def list_cases(
    folder: Annotated[Path, typer.Argument(help="A folder of cases in any layout.")],
) -> None:
    """Show the cases of a folder, who teaches and who is held out."""
    from protosam.cases.layouts import find_cases
    from protosam.cases.manifest import MANIFEST
    from protosam.cases.saved import CaseFolder

    if (folder / MANIFEST).is_file():
        saved = CaseFolder(folder)
        kept = [
            (case.id, case.role, ", ".join(names), "" if day is None else day.isoformat())
            for case in saved.cases()
            for names, day in [saved.told(case.id)]
        ]
        show_table(f"{len(kept)} cases", ("case", "role", "segments", "day"), kept)
        return
    found = find_cases(folder)
    rows = [(case.name, found.roles[case.name]) for case in found.data.cases]
    show_table(f"{len(rows)} cases", ("case", "role"), rows)


@cases_app.command("import")
def import_folder(
    folder: Annotated[Path, typer.Argument(help="A folder of cases in any layout.")],
    into: Annotated[Path, typer.Argument(help="Folder of corrected cases; made if it is not.")],
) -> None:
    """Copy finished cases into a folder of corrected cases, without what names a patient."""
    from protosam.cases.layouts import find_cases, import_cases
    from protosam.cases.saved import CaseFolder

    found = find_cases(folder)
    saved, known = import_cases(found, CaseFolder.create(into))
    results().print(f"Saved {saved} cases in {into}; {known} had been there.", markup=False)


@cases_app.command("remove")
def remove_case(
    folder: Annotated[Path, typer.Argument(help="A folder of corrected cases.")],
    case: Annotated[str, typer.Argument(help="Name of the case, as `cases list` shows it.")],
) -> None:
    """Delete a corrected case for good; adapters that learnt from it stay as they are."""
    from protosam.cases.saved import CaseFolder

    CaseFolder(folder).remove(case)
    results().print(f"Removed: {case}", markup=False)


@cases_app.command("convert-split")
def convert(
    source: Annotated[Path, typer.Argument(help="split.pkl of lists, tables and texts.")],
    target: Annotated[Path, typer.Argument(help="JSON file to write.")],
) -> None:
    """Write a pickled split as JSON; one that holds code is refused, and none of it is run."""
    from protosam.cases.split_files import convert_split

    convert_split(source, target)
    results().print(f"Written: {target}", markup=False)


def _tell(result: AdaptResult, json: Path | None) -> None:
    for note in result.notes:
        messages().print(note, markup=False)
    version = result.version
    results().print(result.report.to_text(), markup=False)
    results().print(
        f"Tier {result.tier}, {result.seconds:.0f} s. Version {version.number} of {version.name} "
        + (f"is active: use it with {_use(result)}" if version.active else "is kept aside"),
        markup=False,
    )
    if result.pictures:
        first = result.pictures[0]
        results().print(
            f"Before and after, {len(result.pictures)} pictures: {first} and beside it",
            markup=False,
        )
    if json is None:
        return
    from protosam.learn.adapt_order import write_report

    write_report(json, result)
    results().print(f"Written: {json}", markup=False)


def _use(result: AdaptResult) -> str:
    version = result.version
    if result.tier == "specialist":
        return f"--model specialist:{version.path}"
    return f"--adapter {version.folder.parent}"  # means the version in use, also of later runs
