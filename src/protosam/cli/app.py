"""The commands and their options; each hands over to the module that does the work.

Options are understood and explained here and nowhere else. Heavy libraries are imported by the
command that needs them, so that `protosam --help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from protosam import __version__
from protosam.cli import (
    adapt,
    adapters,
    dicom,
    evaluate,
    example,
    options,
    review,
    train,
    train_head,
    weights,
)
from protosam.cli.app_command import app_command
from protosam.cli.batch import batch
from protosam.cli.options import (
    BUILT_IN_MODEL,
    AdapterOption,
    AdaptersOption,
    DeviceOption,
    ModelOption,
    ScopeChoice,
    WeightsOption,
)
from protosam.cli.screen import EXIT_FAILURE, ErrorLineGroup, progress_bar, results
from protosam.cli.train_auto import train_auto
from protosam.cli.train_shift import train_shift

app = typer.Typer(
    name="protosam",
    cls=ErrorLineGroup,
    help="Segment a volume by clicking. Images stay on this machine. Not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    # A traceback with the values of variables in it could show a patient's data.
    pretty_exceptions_enable=False,
)
app.add_typer(weights.app, name="weights")
app.add_typer(example.app, name="example")
app.add_typer(adapters.app, name="adapters")
app.add_typer(adapt.cases_app, name="cases")
app.command("adapt")(adapt.adapt)
app.add_typer(dicom.app, name="dicom")
app.add_typer(review.app, name="review")
app.command("oneshot")(example.oneshot)
app.command("evaluate")(evaluate.evaluate)
app.command("train-base")(train.train_base)
app.command("train-head")(train_head.train_head)
app.command("train-shift")(train_shift)
app.command("train-auto")(train_auto)
app.command("batch")(batch)
app.command("app")(app_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        results().print(f"protosam {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Segment a volume by clicking. Images stay on this machine. Not a medical device."""


@app.command()
def segment(  # noqa: PLR0913 - each option of the command is a parameter
    image: Annotated[Path, typer.Argument(help="NIfTI, NRRD, MetaImage, PNG or JPEG file.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="File to write: .seg.nrrd, or a labelmap .nii.gz.")
    ],
    point: options.PointOption = None,
    box: options.BoxOption = None,
    *,
    ras: options.RasOption = False,
    scope: Annotated[
        ScopeChoice, typer.Option(help="Fill the volume, or only the slices with prompts.")
    ] = ScopeChoice.volume,
    axis: options.AxisOption = None,
    model: ModelOption = BUILT_IN_MODEL,
    adapter: AdapterOption = "",
    adapters_dir: AdaptersOption = None,
    auto: options.AutoOption = "",
    device: DeviceOption = "auto",
    weights_dir: WeightsOption = None,
    window: options.WindowOption = "auto",
    closing_mm: options.ClosingOption = 0.0,
    opening_mm: options.OpeningOption = 0.0,
    smoothing_mm: options.SmoothingOption = 0.0,
    bodies: options.BodiesOption = 0,
    islands: options.IslandsOption = False,
    holes: options.HolesOption = False,
    name: options.NameOption = "segment",
    no_worker: options.NoWorkerOption = False,
    worker: options.WorkerOption = "",
    token_file: options.TokenFileOption = None,
    tls_ca: options.TlsCaOption = None,
) -> None:
    """Segment one object of an image from points and boxes."""
    from protosam.cli.engines import Choice
    from protosam.cli.segment import segment as carry_out
    from protosam.cli.segment_order import Order
    from protosam.mending import CleanUp

    server = options.server_of(worker, token_file, tls_ca)
    order = Order(
        image=image,
        out=out,
        points=point or (),
        boxes=box or (),
        ras=ras,
        scope=scope.value,
        axis=axis,
        window=window,
        clean_up=CleanUp(
            remove_islands=not islands,
            fill_holes=not holes,
            closing_mm=closing_mm,
            opening_mm=opening_mm,
            smoothing_mm=smoothing_mm,
            bodies=bodies,
        ),
        name=name,
        choice=Choice(
            adapters.resolved_model(model, adapters_dir),
            # A worker elsewhere has adapters of its own, by name.
            adapter if server else adapters.resolved(adapter, adapters_dir),
            device,
            weights_dir,
            server,
        ),
        use_worker=not no_worker,
        auto=auto,
    )
    carry_out(order)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for what is written.")] = Path("demo_out"),
    image: Annotated[Path | None, typer.Option(help="A volume to segment, too.")] = None,
    points: Annotated[
        str, typer.Option(help='Clicks in it: "k,j,i,+ k,j,i,-"; one is found if left out.')
    ] = "",
    model: ModelOption = BUILT_IN_MODEL,
    device: DeviceOption = "auto",
    weights_dir: WeightsOption = None,
) -> None:
    """Segment a phantom, and a volume of yours, from scripted clicks."""
    from protosam.cli.demo import demo as play
    from protosam.cli.engines import Choice

    choice = Choice(model, device=device, weights_dir=weights_dir)
    play(out, image=image, points=points, choice=choice)


@app.command()
def doctor() -> None:
    """Say what this machine has for ProtoSAM; exit code 1 if something needed is broken."""
    from protosam.cli.doctor import examine, show

    with progress_bar("looking"):
        findings = examine()
    if not show(findings):
        raise typer.Exit(EXIT_FAILURE)


@app.command(
    "worker", help="Serve requests on stdin and stdout, as hosts start it, or over TLS (--listen)."
)
def worker_command() -> None:
    """Explain the worker; the command itself is recognised before this module is imported."""
    from protosam.errors import InvalidInput

    raise InvalidInput(
        "The worker must be the first argument, because it takes stdout before all else.",
        "Start it as: protosam worker",
    )
