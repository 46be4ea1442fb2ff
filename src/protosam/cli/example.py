"""`protosam example make` and `apply`, and `protosam oneshot`: one finished case for the next.

Owns options, order and what is said; the work is `protosam.prompting`'s. Everything that can be
refused is refused before a model is loaded. Speaks no coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from protosam.cli.options import (
    BUILT_IN_MODEL,
    AdapterOption,
    DeviceOption,
    ModelOption,
    WeightsOption,
)
from protosam.cli.screen import messages, progress_bar, results, show_table

if TYPE_CHECKING:
    from protosam.geometry import Volume
    from protosam.models.slice_model import SliceModel
    from protosam.prompting.apply import Proposal, Wish
    from protosam.prompting.example import Example

SURE = 0.5
"""Slices of less confidence are counted as doubtful."""


class MethodName(str, Enum):
    """Values of ``--method``."""

    p2sam = "p2sam"
    p2sam_paper = "p2sam-paper"
    persam = "persam"
    persam_f = "persam-f"
    top_k = "top-k"
    top_k_placed = "top-k-placed"
    persam_placed = "persam-placed"
    propagate = "propagate"


MethodOption = Annotated[MethodName, typer.Option(help="How the object is looked for.")]
app = typer.Typer(help="Learn from a finished case, and propose segments in the next one.")


@app.command()
def make(  # noqa: PLR0913 - each option of the command is a parameter
    image: Annotated[Path, typer.Argument(help="Image of the finished case.")],
    segmentation: Annotated[Path, typer.Argument(help="Its .seg.nrrd or label map.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="File to write: .psexample.")],
    *,
    name: Annotated[str | None, typer.Option(help="Name of the segment, if it is one.")] = None,
    also: Annotated[
        list[Path] | None, typer.Option("--merge", help="Examples to join with; may be repeated.")
    ] = None,
    model: ModelOption = BUILT_IN_MODEL,
    adapter: AdapterOption = "",
    device: DeviceOption = "auto",
    weights_dir: WeightsOption = None,
) -> None:
    """Make an example of a finished case; it holds no image and no patient data."""
    from protosam.prompting.example import merged
    from protosam.prompting.example_file import check_ending, load_example, save_example
    from protosam.prompting.finished import read_segments
    from protosam.prompting.making import make_example
    from protosam.volume_io import read_volume

    check_ending(out)
    others = [load_example(path) for path in also or ()]
    volume = read_volume(image)
    segments = read_segments(segmentation, volume, name=name)
    with progress_bar("loading the model") as bar:
        loaded = _model(model, adapter, device, weights_dir)
        example = make_example(loaded, volume, segments, on_progress=bar)
    save_example(merged([*others, example]), out)
    names = ", ".join(segment.name for segment in segments)
    results().print(f"{out}: {names} ({out.stat().st_size / 1e6:.1f} MB)", markup=False)


@app.command()
def apply(  # noqa: PLR0913 - each option of the command is a parameter
    example: Annotated[list[Path], typer.Argument(help="Examples (several are joined), IMAGE.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="File to write: .seg.nrrd.")],
    *,
    method: MethodOption = MethodName.p2sam,
    model: ModelOption = BUILT_IN_MODEL,
    adapter: AdapterOption = "",
    device: DeviceOption = "auto",
    weights_dir: WeightsOption = None,
) -> None:
    """Propose the segments of one or more examples in another image, which is named last."""
    from protosam.errors import InvalidInput
    from protosam.prompting.example import merged
    from protosam.prompting.example_file import load_example
    from protosam.volume_io import read_volume

    _check_output(out)
    if len(example) < 2:
        raise InvalidInput(
            "One file was given; wanted are an example and an image.",
            "Write: protosam example apply liver.psexample scan.nii.gz -o liver.seg.nrrd",
        )
    joined = merged([load_example(path) for path in example[:-1]])
    volume = read_volume(example[-1])
    loaded = _model(model, adapter, device, weights_dir)
    _propose(loaded, joined, volume, out, _wish(method, loaded))


def oneshot(  # noqa: PLR0913 - each option of the command is a parameter
    reference: Annotated[Path, typer.Argument(help="Image of the finished case.")],
    segmentation: Annotated[Path, typer.Argument(help="Its .seg.nrrd or label map.")],
    targets: Annotated[list[Path], typer.Argument(help="Images to segment.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the .seg.nrrd files.")],
    *,
    method: MethodOption = MethodName.p2sam,
    model: ModelOption = BUILT_IN_MODEL,
    adapter: AdapterOption = "",
    device: DeviceOption = "auto",
    weights_dir: WeightsOption = None,
) -> None:
    """Segment images from one finished case, without a click."""
    from protosam.prompting.finished import read_segments
    from protosam.prompting.making import make_example
    from protosam.volume_io import read_volume

    files = _output_files(out, targets)
    volume = read_volume(reference)
    segments = read_segments(segmentation, volume)
    with progress_bar("loading the model") as bar:
        loaded = _model(model, adapter, device, weights_dir)
        example = make_example(loaded, volume, segments, on_progress=bar)
    wish = _wish(method, loaded)
    for target, file in zip(targets, files, strict=True):
        _propose(loaded, example, read_volume(target), file, wish)


def _wish(method: MethodName, model: SliceModel) -> Wish:
    from protosam.models.refiner import builtin_refiner
    from protosam.prompting.apply import Wish
    from protosam.prompting.methods import method_named

    return Wish(method_named(method.value), refiner=builtin_refiner(model.device))


def _propose(model: SliceModel, example: Example, volume: Volume, out: Path, wish: Wish) -> None:
    from protosam.prompting.apply import Hooks, apply_example
    from protosam.seg_nrrd import Segment, write_segmentation

    with progress_bar("describing the image") as bar:
        proposals = apply_example(model, volume, example, wish=wish, hooks=Hooks(on_progress=bar))
    segments = [
        Segment(p.name, p.full_mask(volume.shape_kji), p.colour, terminology=p.terminology)
        for p in proposals
    ]
    write_segmentation(out, segments, volume)
    _tell(out, volume, proposals)


def _tell(out: Path, volume: Volume, proposals: Sequence[Proposal]) -> None:
    from protosam.metrics import volume_ml

    rows = []
    for one in proposals:
        doubtful = sorted(one.confidences, key=lambda z: one.confidences[z])
        doubtful = [z for z in doubtful if one.confidences[z] < SURE]
        size_ml = volume_ml(one.mask, volume.spacing_kji_mm) if one.extent is not None else 0.0
        rows.append(
            (
                one.name,
                f"{size_ml:.2f}",
                f"{one.confidence:.2f}",
                ", ".join(map(str, doubtful[:8])) or "-",
                f"{one.elapsed_s:.1f}",
            )
        )
    for note in dict.fromkeys(note for one in proposals for note in one.notes):
        messages().print(note, style="yellow", markup=False)
    header = ("segment", "ml", "confidence", "doubtful slices first", "s")
    show_table(str(out), header, rows)


def _model(name: str, adapter: str, device: str, weights_dir: Path | None) -> SliceModel:
    from protosam.models.load import load_model

    return load_model(
        name,
        adapter=Path(adapter) if adapter else None,
        weights_dir=weights_dir,
        device=device,
    )


def _check_output(path: Path) -> None:
    from protosam.errors import InvalidInput, StorageFailure

    if not path.name.lower().endswith(".seg.nrrd"):
        raise InvalidInput(
            f"Proposals cannot be written as {path.name}.", "End the name with .seg.nrrd."
        )
    if not path.parent.is_dir():
        raise StorageFailure(f"There is no folder {path.parent}.", "Make it first.")


def _output_files(folder: Path, targets: Sequence[Path]) -> list[Path]:
    """Name a file for each target; refuse two of one name."""
    from protosam.errors import InvalidInput
    from protosam.models.weights import make_folder

    names = [target.name.split(".")[0] for target in targets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidInput(
            f"Several targets are named {twice[0]}; their answers would replace each other.",
            "Rename them, or segment them one by one.",
        )
    make_folder(folder)
    return [folder / f"{name}.seg.nrrd" for name in names]
