"""`protosam dicom`: which series there are, each taken or refused with its reason.

The rules are `protosam.dicom`'s; here they are asked for and shown. Speaks no coordinates.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protosam.cli.screen import ErrorLineGroup, results, show_table
from protosam.errors import MissingExtra

if TYPE_CHECKING:
    from protosam.dicom.find import Catalogue, FoundSeries

app = typer.Typer(cls=ErrorLineGroup, no_args_is_help=True, help="Look into DICOM studies.")


@contextmanager
def needing_libraries() -> Iterator[None]:
    """Say which extra is missing where an import in this block finds no library.

    Raises
    ------
    MissingExtra
        One is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"DICOM needs the library {error.name}.", "Install it: pip install protosam[dicom]"
        ) from error


@app.callback()
def root() -> None:
    """Look into DICOM studies."""


@app.command("list")
def list_series(
    source: Annotated[Path, typer.Argument(help="Folder, zip archive, DICOMDIR or one file.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")] = False,
) -> None:
    """List the series of a study, each taken or refused with its reason."""
    with needing_libraries():
        from protosam.dicom.find import find_series
        from protosam.dicom.sources import files_of
    with files_of(source) as files:
        found = find_series(files)
    if as_json:
        typer.echo(json.dumps(_as_json(found), indent=2))
        return
    rows = [
        (
            row.identity.number or "-",
            row.identity.modality or "-",
            row.part or "-",
            _size(row),
            _verdict(row),
        )
        for row in found.series
    ]
    show_table(f"Series in {source}", ("series", "kind", "part", "slices", "verdict"), rows)
    for note in found.notes:
        results().print(f"{note.name}: {note.reason}", markup=False)


def _size(row: FoundSeries) -> str:
    return str(len(row.stack.frames)) if row.stack else f"{len(row.paths)} files"


def _verdict(row: FoundSeries) -> str:
    if row.kind in ("segmentation", "structures"):
        return "a reference segmentation"
    verdict = "taken" if row.is_taken else f"refused: {row.reason} {row.next_step}"
    return " ".join([verdict, *row.notes])


def _as_json(found: Catalogue) -> dict[str, Any]:
    return {
        "series": [
            {
                "study_uid": row.identity.study_uid,
                "series_uid": row.identity.series_uid,
                "series_number": row.identity.number,
                "modality": row.identity.modality,
                "kind": row.kind,
                "part": row.part,
                "slices": len(row.stack.frames) if row.stack else None,
                "files": len(row.paths),
                "taken": row.is_taken,
                "can_be_straightened": row.can_straighten,
                "reason": row.reason,
                "next_step": row.next_step,
                "notes": list(row.notes),
            }
            for row in found.series
        ],
        "files_left_out": [{"name": one.name, "reason": one.reason} for one in found.notes],
    }
