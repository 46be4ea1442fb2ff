"""`protosam weights`: what is here, and how it comes here.

The work is done by `protosam.models.weights` and `protosam.models.install`; here it is asked for
and shown. Speaks no coordinates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from protosam.cli.screen import EXIT_FAILURE, messages, progress_bar, results, show_table
from protosam.errors import Cancelled

app = typer.Typer(
    help="List, import, fetch and verify the weights of models.", no_args_is_help=True
)

NameArgument = Annotated[str, typer.Argument(help="Name of the model, as `weights list` shows it.")]
FolderOption = Annotated[
    Path | None,
    typer.Option("--weights-dir", help="Folder to read and write in place of your own."),
]


@app.command("list")
def list_models(weights_dir: FolderOption = None) -> None:
    """Show every model with a card and whether its file is on this machine."""
    from protosam.models.weights import list_weights

    rows = [
        (one.card.name, one.state, _size(one.card.size_bytes), one.card.licence, one.card.notes)
        for one in list_weights(weights_dir)
    ]
    show_table("Models", ("model", "file", "size", "licence", "about"), rows)


@app.command("import")
def import_file(
    name: NameArgument,
    file: Annotated[Path, typer.Argument(help="The weights file.")],
    weights_dir: FolderOption = None,
) -> None:
    """Copy a weights file that you have into your folder of weights, checked by its digest."""
    from protosam.models.cards import card_named
    from protosam.models.install import import_weights

    with progress_bar(f"checking and copying {name}"):
        status = import_weights(file, card_named(name), folder=weights_dir)
    results().print(f"{name} is in {status.path}, SHA-256 {status.sha256}", markup=False)


@app.command()
def fetch(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Agree to the download beforehand.")] = False,
    weights_dir: FolderOption = None,
) -> None:
    """Download the weights of a model, after asking; images never travel, weights only come."""
    from protosam.models.cards import card_named
    from protosam.models.install import fetch_weights

    card = card_named(name)
    consent = yes
    if card.url is not None and not yes:
        question = (
            f"Download {name} ({_size(card.size_bytes)}, licence {card.licence}) "
            f"from {urlsplit(card.url).netloc}?"
        )
        consent = typer.confirm(question, err=True)
        if not consent:
            raise Cancelled("Nothing was downloaded.", "Agree to it, or import a file you have.")
    with progress_bar(f"fetching {name}") as bar:

        def show(done: int, total: int | None) -> None:
            bar(done / total if total else 0.0, f"fetching {name}: {_size(done)}")

        status = fetch_weights(card, consent=consent, folder=weights_dir, on_progress=show)
    results().print(f"{name} is in {status.path}, SHA-256 {status.sha256}", markup=False)


@app.command()
def verify(
    name: Annotated[
        str | None, typer.Argument(help="One model; all that are here if left out.")
    ] = None,
    weights_dir: FolderOption = None,
) -> None:
    """Compute the digests of the weights on this machine and compare them with their cards."""
    from protosam.models.cards import card_named
    from protosam.models.weights import find_weights, list_weights, weights_status

    with progress_bar("computing digests"):
        if name is None:
            known = list_weights(weights_dir, check=True)
            statuses = [one for one in known if one.path is not None]
        else:
            find_weights(card_named(name), weights_dir)
            statuses = [weights_status(card_named(name), weights_dir)]
    rows = [(one.card.name, one.state, one.sha256 or "-", str(one.path)) for one in statuses]
    show_table("Weights", ("model", "state", "SHA-256", "file"), rows)
    wrong = [one for one in statuses if one.state == "wrong digest"]
    if wrong:
        names = ", ".join(one.card.name for one in wrong)
        messages().print(
            f"Not the files of their cards: {names}. Remove them, then fetch or import again.",
            style="bold red",
            markup=False,
        )
        raise typer.Exit(EXIT_FAILURE)


def _size(size_bytes: int | None) -> str:
    return "unknown size" if size_bytes is None else f"{size_bytes / 1e6:.0f} MB"
