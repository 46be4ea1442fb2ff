"""`protosam app`: the browser page.

Understands the options and prints the address; the page itself is `protosam_app`, which is imported
late because it brings Slicer's libraries.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from protosam.cli.options import (
    BUILT_IN_MODEL,
    DeviceOption,
    ModelOption,
    TlsCaOption,
    TokenFileOption,
    WeightsOption,
    WorkerOption,
    server_of,
)
from protosam.cli.screen import messages, results
from protosam.errors import MissingExtra


def app_command(  # noqa: PLR0913 - each option of the command is a parameter
    image: Annotated[
        Path | None,
        typer.Argument(help="Image, DICOM folder or zip file; a practice volume if left out."),
    ] = None,
    *,
    port: Annotated[int, typer.Option(help="Port on this machine; 0 = a free one.")] = 0,
    model: ModelOption = BUILT_IN_MODEL,
    device: DeviceOption = "auto",
    weights_dir: WeightsOption = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address, open nothing.")
    ] = False,
    worker: WorkerOption = "",
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
) -> None:
    """Segment by clicking in a web page on this machine."""
    server = server_of(worker, token_file, tls_ca)
    messages().print("Starting; this takes some seconds.")
    try:
        from protosam_app.serve import Wish, serve
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"The page needs the library {error.name}.", "Install it: pip install 'protosam[app]'"
        ) from error

    def announce(address: str) -> None:
        results().print(f"ProtoSAM is at {address}", soft_wrap=True)
        messages().print("Ctrl+C ends it.")

    wish = Wish(image, port, model, device, weights_dir, browser=not no_browser, server=server)
    serve(wish, announce)
