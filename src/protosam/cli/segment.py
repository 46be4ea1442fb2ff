"""`protosam segment`: an image and prompts in, one segment in a file out.

Owns the order of things: everything that can be refused is refused before a model is loaded. The
computing is the engine's, the geometry is `protosam.geometry`'s. Indices are (k, j, i).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from protosam.cli.engines import Answer, Choice, Engine, InProcessEngine, Job, WorkerEngine
from protosam.cli.prompt_options import parse_axis, parse_boxes, parse_points, parse_window
from protosam.cli.screen import Bar, messages, progress_bar, results
from protosam.cli.specialist import segment_alone
from protosam.cli.suggesting import suggested_prompts
from protosam.errors import InvalidInput, InvalidPrompt, StorageFailure
from protosam.geometry import Volume
from protosam.intensity import Window
from protosam.itk_grid import set_image_affine
from protosam.learn.unlabelled.methods import SPECIALIST
from protosam.mending import CleanUp
from protosam.metrics import volume_ml
from protosam.prompts import PromptSet, Scope
from protosam.seg_nrrd import Segment, write_segmentation
from protosam.storage import atomic_path
from protosam.volume_io import read_volume

LABELMAP_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Endings of files that hold one number for each voxel: 1 in the segment, 0 elsewhere."""

SEGMENTATION_ENDING = ".seg.nrrd"


@dataclass(frozen=True)
class Order:
    """What the user asked for, as text where it needs the image to be understood."""

    image: Path
    """File to segment."""
    out: Path
    """File to write; its ending chooses the format."""
    points: Sequence[str] = ()
    """``k,j,i,+`` each, or ``R,A,S,+`` in mm with `ras`."""
    boxes: Sequence[str] = ()
    """``k0,j0,i0,k1,j1,i1`` each."""
    ras: bool = False
    """Whether points and boxes are RAS mm."""
    scope: Scope = "volume"
    """The clicked slices only, or the volume."""
    axis: str | None = None
    """k, j or i."""
    window: str = "auto"
    """``low,high`` or ``auto``."""
    clean_up: CleanUp = field(default_factory=CleanUp)
    """How the mask is cleaned."""
    name: str = "segment"
    """Name of the segment in the file."""
    choice: Choice = field(default_factory=Choice)
    """Model, adapter and device."""
    use_worker: bool = True
    """Through the worker, or in this process."""
    auto: str = ""
    """Name or file of automatic prompts, used where no prompt is given; empty = none."""

    def __post_init__(self) -> None:
        if self.choice.server is not None and not self.use_worker:
            raise InvalidInput(
                "--worker and --no-worker contradict each other.", "Give one of them."
            )


def segment(order: Order) -> None:
    """Carry out an order and say what came of it.

    Raises
    ------
    ProtoSAMError
        Any of them; nothing has been written then.
    """
    check_output(order.out)
    if order.choice.model.startswith(SPECIALIST):
        segment_alone(order)
        return
    with progress_bar("reading the image") as bar:
        volume = read_volume(order.image)
        job = job_of(order, volume)
        if job.prompts.is_empty:
            job = _with_suggestions(order, volume, job, bar)
        elif order.auto:
            messages().print("Your own prompts were used; --auto clicks where there are none.")
        answer = _nothing(job) if job.prompts.is_empty else _answered(order, volume, job, bar)
        bar(1.0, "writing the segment")
        write_answer(order.out, volume, answer, order.name)
    _tell(order, volume, answer)


def job_of(order: Order, volume: Volume) -> Job:
    """Turn the texts of an order into prompts in this image.

    Raises
    ------
    InvalidPrompt
        There is no prompt, or one does not lie in the image.
    InvalidInput
        Axis or window cannot be understood.
    """
    prompts = PromptSet(
        points=parse_points(order.points, volume, ras=order.ras),
        boxes=parse_boxes(order.boxes, volume, ras=order.ras),
        scope=order.scope,
        axis=parse_axis(order.axis),
    )
    if prompts.is_empty and not order.auto:
        raise InvalidPrompt(
            "There is no point and no box to start from.",
            "Give at least one --point k,j,i,+ or --box k0,j0,i0,k1,j1,i1, or --auto.",
        )
    prompts.check_inside(volume.shape_kji)
    return Job(prompts, parse_window(order.window), order.clean_up)


def _with_suggestions(order: Order, volume: Volume, job: Job, bar: Bar) -> Job:
    look = (job.window, job.prompts.axis, order.scope)
    prompts = suggested_prompts(order.auto, volume, order.choice, look, bar)
    return replace(job, prompts=prompts)


def _answered(order: Order, volume: Volume, job: Job, bar: Bar) -> Answer:
    with open_engine(order) as engine:
        bar(0.0, "starting the model")
        engine.start()
        bar(0.0, "opening the volume")
        engine.open(volume)
        return engine.segment(volume, job, bar)


def _nothing(job: Job) -> Answer:
    """Answer for an object that was not found: an empty mask."""
    window = job.window or Window(0.0, 1.0)
    return Answer(None, np.zeros((0, 0, 0), dtype=bool), 0.0, window, "", (), 0.0)


def check_output(path: Path) -> None:
    """Refuse an output whose format is not known or whose folder is not there.

    Raises
    ------
    InvalidInput
        The ending is none of those that can be written.
    StorageFailure
        The folder does not exist.
    """
    endings = (SEGMENTATION_ENDING, *LABELMAP_ENDINGS)
    if not path.name.lower().endswith(endings):
        raise InvalidInput(
            f"{path.name} does not say what to write.",
            f"Let the name end in {', '.join(endings[:-1])} or {endings[-1]}.",
        )
    if not path.parent.is_dir():
        raise StorageFailure(f"There is no folder {path.parent}.", "Make it first.")


def write_answer(path: Path, volume: Volume, answer: Answer, name: str) -> None:
    """Write a segment as ``.seg.nrrd``, or as a labelmap for the other endings.

    Raises
    ------
    StorageFailure
        It could not be written.
    """
    mask = answer.mask(volume.shape_kji)
    if path.name.lower().endswith(SEGMENTATION_ENDING):
        write_segmentation(path, [Segment(name, mask)], volume)
    else:
        write_labelmap(path, mask, volume)


def open_engine(order: Order) -> Engine:
    """Engine that an order names."""
    return WorkerEngine(order.choice) if order.use_worker else InProcessEngine(order.choice)


def write_labelmap(path: Path, labels: npt.NDArray[Any], volume: Volume) -> None:
    """Write labels (k, j, i), 0 to 255, as an image.

    Raises
    ------
    StorageFailure
        It could not be written.
    """
    image = sitk.GetImageFromArray(labels.astype(np.uint8))
    set_image_affine(image, volume.affine)
    with atomic_path(path) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
        except RuntimeError as error:
            # ITK does not pass on what the system said; no space is the usual reason.
            raise StorageFailure(
                f"{path} was not written.", "Check the space and the permissions there."
            ) from error


def _tell(order: Order, volume: Volume, answer: Answer) -> None:
    for note in answer.notes:
        messages().print(note, style="yellow", markup=False)
    if answer.extent is None and answer.model:
        messages().print(
            "The segment is empty: the model found nothing at these prompts. "
            "Try another point, a box, or another --window.",
            style="yellow",
        )
    if changes := answer.clean_up.in_words():
        messages().print(f"Cleaned up: {changes}", markup=False, highlight=False)
    size_ml = volume_ml(answer.mask(volume.shape_kji), volume.spacing_kji_mm)
    results().print(
        f"{order.out}: {size_ml:.2f} ml, score {answer.score:.2f}, {answer.elapsed_s:.2f} s",
        markup=False,
    )
