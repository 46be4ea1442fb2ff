"""`protosam demo`: scripted clicks in a phantom, and in any volume that is given.

Each subject leaves a segmentation, a picture and its timings. Files are named for what they are,
not for the image, because file names may carry patients' names. Indices are (k, j, i).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from protosam.cli.engines import Answer, Choice, Engine, Job, WorkerEngine
from protosam.cli.picture import draw_segment
from protosam.cli.prompt_options import parse_points
from protosam.cli.screen import Bar, progress_bar, results, show_table
from protosam.cli.seed import bright_body_centre
from protosam.errors import StorageFailure
from protosam.evaluate import this_machine
from protosam.extents import BoolArray
from protosam.geometry import Volume
from protosam.metrics import dice, volume_ml
from protosam.phantom import make_phantom
from protosam.prompts import Point, PromptSet, Scope
from protosam.seg_nrrd import Segment, write_segmentation
from protosam.storage import atomic_path
from protosam.volume_io import read_volume


@dataclass(frozen=True, eq=False)
class Subject:
    """A volume and the clicks to make in it."""

    name: str
    """What its files are called."""
    volume: Volume
    """The image."""
    points: tuple[Point, ...]
    """Clicks, in the order they are made."""
    said: str
    """Where the clicks come from, as a sentence."""
    truth: BoolArray | None = None
    """(K, J, I) bool, where it is known."""


@dataclass
class Played:
    """What was measured for one subject."""

    steps_s: dict[str, float] = field(default_factory=dict)
    """Seconds by step."""
    answer: Answer | None = None
    """The last answer."""


def demo(out: Path, *, image: Path | None, points: str, choice: Choice) -> None:
    """Segment the phantom, and an image if there is one.

    Parameters
    ----------
    out : Path
        Folder for what is written; it is made.
    image : Path or None
        A further volume to segment.
    points : str
        Clicks in that volume, parted by blanks: ``40,120,130,+ 40,150,130,-``; empty lets one be
        found.
    choice : Choice
        Model, adapter and device.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFailure(f"{out} cannot be made: {error.strerror}.", "Name another.") from error
    with progress_bar("starting the model") as bar, WorkerEngine(choice) as engine:
        subjects = [_phantom()]
        if image is not None:
            bar(0.0, "reading the image")
            subjects.append(_given(image, points))
        bar(0.0, "starting the model")
        start_s = engine.start()
        played = [_play(engine, subject, bar) for subject in subjects]
    for subject, game in zip(subjects, played, strict=True):
        _write(out, subject, game, start_s)


def _phantom() -> Subject:
    phantom = make_phantom()
    points = tuple(
        Point(place, positive, f"point-{n}")
        for n, (place, positive) in enumerate(phantom.clicks, start=1)
    )
    said = "The phantom is computed; its clicks come with it."
    return Subject("phantom", phantom.volume, points, said, phantom.truth)


def _given(image: Path, points: str) -> Subject:
    volume = read_volume(image)
    texts = points.split()
    if texts:
        return Subject(
            "image", volume, parse_points(texts, volume, ras=False), "The points were given."
        )
    place = bright_body_centre(volume)
    said = (
        f"No points were given; the click {','.join(map(str, place))},+ was set in the middle of "
        "the largest even, bright body."
    )
    return Subject("image", volume, (Point(place, True, "point-1"),), said)


def _play(engine: Engine, subject: Subject, bar: Bar) -> Played:
    """Click one after the other; first in the slice alone, as a user sees it, then the volume."""
    game = Played()
    game.steps_s["open the volume"] = engine.open(subject.volume)
    scopes: tuple[Scope, ...] = ("slice", "volume")
    for count in range(1, len(subject.points) + 1):
        for scope in scopes:
            prompts = PromptSet(points=subject.points[:count], scope=scope)
            game.answer = engine.segment(subject.volume, Job(prompts), bar)
            game.steps_s[f"click {count}, {scope}"] = game.answer.elapsed_s
    return game


def _write(out: Path, subject: Subject, game: Played, start_s: float) -> None:
    answer = game.answer
    if answer is None:
        return
    volume, begin = subject.volume, time.perf_counter()
    mask = answer.mask(volume.shape_kji)
    write_segmentation(out / f"{subject.name}.seg.nrrd", [Segment(subject.name, mask)], volume)
    game.steps_s["write the segment"] = time.perf_counter() - begin
    draw_segment(
        out / f"{subject.name}.png", volume, mask, window=answer.window, points=subject.points
    )
    figures = _figures(subject, answer, mask)
    steps_s = {"start the worker": start_s, **game.steps_s}
    report = {
        "machine": this_machine().to_json(),
        "model": answer.model,
        "shape_kji": volume.shape_kji,
        "spacing_kji_mm": volume.spacing_kji_mm,
        "points": [f"{p.point_kji} {'+' if p.positive else '-'}" for p in subject.points],
        "seconds": {name: round(value, 4) for name, value in steps_s.items()},
        **figures,
    }
    with atomic_path(out / f"{subject.name}_timings.json") as path:
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _tell(out, subject, steps_s, figures)


def _figures(subject: Subject, answer: Answer, mask: BoolArray) -> dict[str, float]:
    figures = {
        "volume_ml": round(volume_ml(mask, subject.volume.spacing_kji_mm), 3),
        "score": round(answer.score, 4),
    }
    if subject.truth is not None:
        figures["dice"] = round(dice(mask, subject.truth), 4)
    return figures


def _tell(
    out: Path, subject: Subject, steps_s: dict[str, float], figures: dict[str, float]
) -> None:
    rows: Sequence[Sequence[str]] = [
        *((name, f"{value:.3f} s") for name, value in steps_s.items()),
        *((name, f"{value:g}") for name, value in figures.items()),
    ]
    show_table(f"{subject.name}: {subject.volume.shape_kji} voxels", ("step", "took, is"), rows)
    console = results()
    console.print(subject.said, markup=False)
    endings = (".seg.nrrd", ".png", "_timings.json")
    written = ", ".join(str(out / f"{subject.name}{ending}") for ending in endings)
    console.print(f"Written: {written}", markup=False)
