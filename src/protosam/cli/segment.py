"""`protosam segment`: an image and prompts in, one segment in a file out.

Owns the order of things: everything that can be refused is refused before a model is loaded. The
computing is the engine's, the geometry is `protosam.geometry`'s. Indices are (k, j, i).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from protosam.cli.engines import Answer, Engine, InProcessEngine, Job, WorkerEngine
from protosam.cli.prompt_options import parse_axis, parse_boxes, parse_points, parse_window
from protosam.cli.screen import Bar, messages, progress_bar, results
from protosam.cli.segment_files import check_output, write_segments
from protosam.cli.segment_order import Order
from protosam.cli.specialist import segment_alone
from protosam.cli.suggesting import suggested_prompts
from protosam.errors import InvalidPrompt
from protosam.geometry import Volume
from protosam.intensity import Window
from protosam.learn.unlabelled.methods import SPECIALIST
from protosam.metrics import volume_ml
from protosam.prompts import PromptSet
from protosam.seg_nrrd import Segment
from protosam.volume_io import read_volume


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
        mask = answer.mask(volume.shape_kji)
        write_segments(order.out, [Segment(order.name, mask)], volume)
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


def open_engine(order: Order) -> Engine:
    """Engine that an order names."""
    return WorkerEngine(order.choice) if order.use_worker else InProcessEngine(order.choice)


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
