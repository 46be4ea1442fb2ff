"""`protosam review`: looking through what a batch has found.

The rules are `protosam.batch.review`'s. With ``--json`` each command answers in one line that
programs read, as Slicer's module does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from protosam.cli.dicom import needing_libraries
from protosam.cli.screen import ErrorLineGroup, results, show_table

app = typer.Typer(cls=ErrorLineGroup, no_args_is_help=True, help="Look through a batch.")

FolderArgument = Annotated[Path, typer.Argument(help="Folder of the batch.")]
KeyArgument = Annotated[str, typer.Argument(help="Key of the series, or its first letters.")]
SourceOption = Annotated[
    Path, typer.Option(help="Folder, archive or list that the batch was run on.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]


@app.callback()
def root() -> None:
    """Look through a batch."""


@app.command("list")
def list_results(folder: FolderArgument, *, as_json: JsonOption = False) -> None:
    """Show the results, the doubtful ones on top, and what was decided."""
    with needing_libraries():
        from protosam.batch.manifest import rows_in
        from protosam.batch.report import by_doubt
        from protosam.batch.review import verdicts

    said = verdicts(folder)
    rows = [(row, said.get(row.key, "")) for row in by_doubt(rows_in(folder))]
    if as_json:
        typer.echo(
            json.dumps([{"key": row.key, "status": row.status, "verdict": v} for row, v in rows])
        )
        return
    table = [
        (
            row.key,
            row.status,
            f"{1 - row.doubt:.2f}" if row.status == "done" else "-",
            ", ".join(one.name for one in row.structures) or row.reason or "-",
            verdict or "-",
        )
        for row, verdict in rows
    ]
    show_table(f"{len(table)} series", ("key", "status", "sure", "structures", "verdict"), table)


@app.command("open")
def open_result(
    folder: FolderArgument,
    key: KeyArgument,
    *,
    source: SourceOption,
    into: Annotated[Path, typer.Option(help="Folder to write image and result into.")],
    as_json: JsonOption = False,
) -> None:
    """Write image and result of a series, as an editor opens them."""
    with needing_libraries():
        from protosam.batch.review import hand_out

    found = hand_out(folder, source, key, into)
    paths = {"image": str(found.image), "segmentation": str(found.segmentation)}
    _answer(paths, f"{found.image}\n{found.segmentation}", as_json)


@app.command("accept")
def accept(folder: FolderArgument, key: KeyArgument, *, as_json: JsonOption = False) -> None:
    """Note that a result is right, and name its DICOM files."""
    with needing_libraries():
        from protosam.batch.review import accepted_files, decide, finished_row

    files = accepted_files(folder, finished_row(folder, key))
    decide(folder, key, "accepted")
    paths = [str(path) for path in files]
    _answer({"files": paths}, "Accepted: " + ", ".join(paths), as_json)


@app.command("correct")
def correct(
    folder: FolderArgument,
    key: KeyArgument,
    segmentation: Annotated[Path, typer.Argument(help="Corrected .seg.nrrd.")],
    *,
    source: SourceOption,
    cases: Annotated[Path, typer.Option(help="Folder of corrected cases; made if it is not.")],
    as_json: JsonOption = False,
) -> None:
    """Keep a corrected result as a case to learn from."""
    with needing_libraries():
        from protosam.batch.review import keep_corrected

    saved = keep_corrected(folder, source, key, segmentation, cases)
    said = f"Saved as case {saved.id} in {cases}."
    _answer({"case": saved.id, "role": saved.role}, said, as_json)


@app.command("reopen")
def reopen(folder: FolderArgument, key: KeyArgument, *, as_json: JsonOption = False) -> None:
    """Take the verdict on a result back."""
    with needing_libraries():
        from protosam.batch.review import decide

    row = decide(folder, key, None)
    _answer({"key": row.key}, f"{row.key} is to be looked at.", as_json)


def _answer(data: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(data))
    else:
        results().print(text, markup=False, soft_wrap=True)
