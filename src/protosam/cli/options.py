"""Options of the commands, each explained once, where several share it or it is long."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from protosam.errors import InvalidInput
from protosam.wire.tls import ServerAddress, server_address

BUILT_IN_MODEL = "protosam-tiny"
"""`protosam.models.load.DEFAULT_MODEL`, which is not to be had without torch; a test compares."""

ModelOption = Annotated[str, typer.Option(help="Model by name, or a weights file.")]
AdapterOption = Annotated[
    str, typer.Option(help="Adapter by name; or folder of a LoRA, or file of train-shift.")
]
AdaptersOption = Annotated[
    Path | None, typer.Option("--adapters-dir", help="Folder of adapters in place of your own.")
]
AutoOption = Annotated[
    str, typer.Option(help="File or name of train-auto: it clicks where no prompt is given.")
]
CasesArgument = Annotated[
    Path, typer.Argument(help="Folder of <case>_img.* with <case>_lab.* and labels.json.")
]
LabelsOption = Annotated[str, typer.Option(help="Names or numbers, parted by commas.")]
SplitOption = Annotated[
    str | None, typer.Option(help="FILE:PART; learn from the cases of that part only.")
]
CasesOption = Annotated[str, typer.Option(help="Learn from these cases only, parted by commas.")]
LimitOption = Annotated[int | None, typer.Option(help="Learn from the first so many cases.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 and so on.")]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights-dir", help="Folder searched first for weights.")
]
PointOption = Annotated[
    list[str] | None,
    typer.Option(help="k,j,i,+ on the object or k,j,i,- beside it; may be repeated."),
]
BoxOption = Annotated[
    list[str] | None,
    typer.Option(help="Two corners k0,j0,i0,k1,j1,i1, both inside; may be repeated."),
]
RasOption = Annotated[bool, typer.Option("--ras", help="Points and boxes are RAS mm.")]
AxisOption = Annotated[
    str | None, typer.Option(help="Axis across which the slices lie: k, j or i.")
]
WindowOption = Annotated[str, typer.Option(help="LOW,HIGH in the image's own units, or auto.")]
ClosingOption = Annotated[float, typer.Option(help="Close gaps up to twice this radius.")]
OpeningOption = Annotated[float, typer.Option(help="Remove parts thinner than twice this radius.")]
SmoothingOption = Annotated[
    float, typer.Option(help="Smooth with this standard deviation in mm; the volume stays.")
]
BodiesOption = Annotated[
    int, typer.Option(help="Keep at most this many bodies, clicked ones first; 0 = any number.")
]
IslandsOption = Annotated[
    bool, typer.Option("--keep-islands", help="Keep parts that hold no click.")
]
HolesOption = Annotated[bool, typer.Option("--keep-holes", help="Do not fill holes.")]
NameOption = Annotated[str, typer.Option(help="Name of the segment in the file.")]
NoWorkerOption = Annotated[
    bool, typer.Option("--no-worker", help="Compute in this process instead of the worker.")
]
WorkerOption = Annotated[
    str, typer.Option("--worker", help="HOST:PORT of a worker that listens, instead of an own one.")
]
TokenFileOption = Annotated[
    Path | None, typer.Option("--token-file", help="What lets this client in, with --worker.")
]
TlsCaOption = Annotated[
    Path | None, typer.Option("--tls-ca", help="Certificate to trust, with --worker.")
]


def server_of(worker: str, token_file: Path | None, tls_ca: Path | None) -> ServerAddress | None:
    """Address of the worker that the options name; None = one of this command's own.

    Raises
    ------
    InvalidInput
        A token or certificate for no worker, or what `wire.tls.server_address` refuses.
    """
    if worker:
        return server_address(worker, token_file, tls_ca)
    if token_file or tls_ca:
        raise InvalidInput(
            "--token-file and --tls-ca are for a worker that listens.", "Give --worker HOST:PORT."
        )
    return None


def given(**options: object) -> dict[str, Any]:
    """Return the options that were given; the others keep what the settings say."""
    return {name: value for name, value in options.items() if value is not None}


def listed(text: str) -> tuple[str, ...]:
    """Return the parts of a text between commas, without blanks around them."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


class ScopeChoice(str, Enum):
    """Values of ``--scope``."""

    slice = "slice"
    volume = "volume"
