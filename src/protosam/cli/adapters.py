"""`protosam adapters`: the versions of what was learnt, and which of them is in use.

The work is `protosam.learn.adapters`'. Speaks no coordinates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from protosam.cli.options import AdaptersOption
from protosam.cli.screen import results, show_table
from protosam.learn.unlabelled.methods import SPECIALIST

app = typer.Typer(help="Show, activate and export what was learnt.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="Name of the adapter.")]
VersionOption = Annotated[
    int | None, typer.Option("--version", help="Number of the version; the active one if left out.")
]


@app.command("list")
def list_adapters(adapters_dir: AdaptersOption = None) -> None:
    """Show every version of every adapter."""
    from protosam.learn.adapters import AdapterStore

    store = AdapterStore(adapters_dir)
    rows = [
        (
            one.name,
            str(one.number),
            "active" if one.active else "",
            one.card.tier,
            one.card.base_name,
            ", ".join(one.card.labels),
            "yes" if one.card.gate.get("accepted") else "no",
        )
        for name in store.names()
        for one in store.versions(name)
    ]
    show_table("Adapters", ("name", "version", "", "tier", "model", "labels", "passed"), rows)


@app.command()
def show(
    name: NameArgument, version: VersionOption = None, adapters_dir: AdaptersOption = None
) -> None:
    """Show the card of a version, with the gate's figures, as JSON."""
    import dataclasses
    import json

    from protosam.learn.adapters import AdapterStore

    one = AdapterStore(adapters_dir).version(name, version)
    card = {
        "name": one.name,
        "version": one.number,
        "active": one.active,
        **dataclasses.asdict(one.card),
    }
    results().print(json.dumps(card, indent=1), markup=False)


@app.command()
def activate(
    name: NameArgument,
    version: Annotated[int, typer.Option("--version", help="Number of the version.")],
    adapters_dir: AdaptersOption = None,
) -> None:
    """Use a version from now on, whatever the gate has said of it."""
    from protosam.learn.adapters import AdapterStore

    one = AdapterStore(adapters_dir).activate(name, version)
    results().print(f"Version {one.number} of {name} is active.", markup=False)


@app.command()
def rollback(name: NameArgument, adapters_dir: AdaptersOption = None) -> None:
    """Use again what was in use before."""
    from protosam.learn.adapters import AdapterStore

    one = AdapterStore(adapters_dir).rollback(name)
    what = "No version" if one is None else f"Version {one.number}"
    results().print(f"{what} of {name} is active.", markup=False)


@app.command()
def discard(
    name: NameArgument,
    version: Annotated[int, typer.Option("--version", help="Number of the version.")],
    adapters_dir: AdaptersOption = None,
) -> None:
    """Delete a version that is not active."""
    from protosam.learn.adapters import AdapterStore

    AdapterStore(adapters_dir).discard(name, version)
    results().print(f"Version {version} of {name} is deleted.", markup=False)


@app.command()
def export(
    name: NameArgument,
    target: Annotated[Path, typer.Argument(help="New folder to write.")],
    version: VersionOption = None,
    adapters_dir: AdaptersOption = None,
) -> None:
    """Copy a version into a folder of its own, in peft's format where it is a LoRA."""
    from protosam.learn.adapters import AdapterStore

    written = AdapterStore(adapters_dir).export(name, target, version)
    results().print(f"Written: {written}", markup=False)


def resolved(adapter: str, adapters_dir: Path | None) -> str:
    """Path of what a name means in a folder of adapters; without a folder the text itself.

    Parameters
    ----------
    adapter : str
        As given with ``--adapter``.
    adapters_dir : Path or None
        As given with ``--adapters-dir``; what is named must then be there. Without it, whoever
        loads the model looks the name up in the user's own folder.

    Raises
    ------
    InvalidInput
        When there is a folder but nothing of that name in it, or no version in use.
    """
    from protosam.learn.adapters import AdapterStore

    if not adapter or adapters_dir is None:
        return adapter
    shift = adapters_dir / f"{adapter}.shift"
    return str(shift if shift.is_file() else AdapterStore(adapters_dir).version(adapter).path)


def resolved_model(model: str, adapters_dir: Path | None) -> str:
    """Look a specialist up in the folder of adapters; other models stay as they are.

    Raises
    ------
    InvalidInput
        When there is no active specialist of that name.
    """
    if adapters_dir is None or not model.startswith(SPECIALIST):
        return model
    from protosam.learn.unlabelled.specialist_names import find_specialist

    return f"{SPECIALIST}{find_specialist(model, adapters_dir)}"
