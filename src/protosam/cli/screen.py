"""What the command line shows: results on stdout, everything else on stderr.

Owns the consoles, the progress bar and the one red line in which an error ends. Knows nothing of
what is computed. Speaks no coordinates.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from typer.core import TyperGroup

from protosam.errors import InvalidInput, ProtoSAMError

EXIT_FAILURE = 1
"""Exit code of what was asked rightly and could not be done."""

EXIT_INVALID = 2
"""Exit code of what was asked wrongly; typer uses the same for unknown options."""

PIPE_COLUMNS = 200
"""Width of tables where there is no terminal; rich would assume 80 and fold every path."""


class Bar(Protocol):
    """Shows how far a job is; what the library calls `on_progress`."""

    def __call__(self, fraction: float, text: str, /) -> None:
        """Show a fraction (0..1) and what is being done."""


class ErrorLineGroup(TyperGroup):
    """Commands whose expected errors end in one line and an exit code, never in a traceback.

    Errors that are not this package's own are faults of the program and keep their traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ProtoSAMError as error:
            tell_error(error)
            code = EXIT_INVALID if isinstance(error, InvalidInput) else EXIT_FAILURE
            raise typer.Exit(code) from error


def results() -> Console:
    """Console of what was asked for; a pipe gets it without colours and hardly ever folded."""
    width = None if sys.stdout.isatty() else PIPE_COLUMNS
    return Console(highlight=False, soft_wrap=True, width=width)


def messages() -> Console:
    """Console of all that is said beside the result."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def tell_error(error: ProtoSAMError) -> None:
    """Say what was given, what was wanted and the next step, in one red line."""
    messages().print(" ".join(str(error).split()), style="bold red", markup=False)


@contextmanager
def progress_bar(text: str) -> Iterator[Bar]:
    """Show a bar on a terminal while the block runs; elsewhere show nothing.

    Parameters
    ----------
    text : str
        What is being done at first.
    """
    console = messages()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(text, total=None)

        def show(fraction: float, what: str, /) -> None:
            # Without a total the bar pulses: something is going on, and nobody knows how long.
            total = 1.0 if fraction > 0 else None
            progress.update(task, completed=fraction, total=total, description=what or text)

        yield show


def show_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text under a header as the command's result."""
    table = Table(title=title, title_justify="left")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    results().print(table)
