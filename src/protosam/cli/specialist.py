"""`protosam segment --model specialist:NAME`: an image in, all that a specialist finds out.

Owns what is refused, because a specialist takes no prompts, and what is told. Masks are (k, j, i).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from protosam.cli.screen import messages, progress_bar, results
from protosam.errors import InvalidInput
from protosam.metrics import volume_ml
from protosam.volume_io import read_volume

if TYPE_CHECKING:
    from protosam.cli.segment_order import Order


def segment_alone(order: Order) -> None:
    """Let a specialist segment an image, in this process.

    Raises
    ------
    InvalidInput
        Prompts or options that a specialist does not take, or no specialist of that name.
    ProtoSAMError
        What reading, finding and writing raise; nothing has been written then.
    """
    _refuse_prompts(order)
    from protosam.cli.segment_files import write_segments
    from protosam.learn.unlabelled.specialist_names import find_specialist
    from protosam.models.load import choose_device
    from protosam.models.specialist import load_specialist
    from protosam.seg_nrrd import Segment

    with progress_bar("reading the image") as bar:
        path = find_specialist(order.choice.model)
        volume = read_volume(order.image)
        bar(0.3, "loading the specialist")
        specialist = load_specialist(path, choose_device(order.choice.device))
        begun = time.perf_counter()
        found = specialist.find(volume)
        seconds = time.perf_counter() - begun
        bar(1.0, "writing the segments")
        write_segments(order.out, [Segment(one.name, one.mask) for one in found], volume)
    for one in found:
        size_ml = volume_ml(one.mask, volume.spacing_kji_mm)
        results().print(
            f"{order.out}: {one.name}, {size_ml:.2f} ml, confidence {one.confidence:.2f}",
            markup=False,
        )
        if not one.mask.any():
            messages().print(f"{one.name} was not found.", style="yellow", markup=False)
    results().print(f"{seconds:.2f} s", markup=False)


def _refuse_prompts(order: Order) -> None:
    from protosam.mending import CleanUp

    given = {
        "--point": order.points,
        "--box": order.boxes,
        "--auto": order.auto,
        "--adapter": order.choice.adapter,
        "--axis": order.axis,
        "--scope slice": order.scope == "slice",
        "--window": order.window != "auto",
        "the options that clean up": order.clean_up != CleanUp(),
    }
    refused = [name for name, value in given.items() if value]
    if refused:
        raise InvalidInput(
            f"A specialist finds its structures alone, without {', '.join(refused)}.",
            "Leave them out, or choose another --model.",
        )
