"""What the 3-D head learns from: answers of a model to the robot's clicks, with the truth.

Owns playing an object with a frozen model, and the files that keep what came of it. One file holds
one object: after each click what the views said, what the bank said, the picture and the labels in
a box round all that. Array order is (k, j, i); clicks are voxels of the whole volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from protosam.clicks import Click, first_click, next_click
from protosam.errors import UnreadableFile
from protosam.extents import Extent, three_ints
from protosam.geometry import Volume
from protosam.intensity import Window, apply_window
from protosam.models.head_maps import box_of
from protosam.models.segmenter import Segmenter, SegmentRequest
from protosam.models.slice_model import SliceModel
from protosam.models.views import SURE, Field, fused
from protosam.prompts import Point, PromptSet
from protosam.storage import atomic_path

SCALE = 31.0
"""Logits are kept as whole numbers, so many to one."""

MARGIN, MARGIN_MM = 0.4, 14.0
"""Room round the answer that is kept: more than the head sees, so that its box can be varied."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """One answer, in a box of the volume.

    Attributes
    ----------
    views : (v, k, j, i) int8
        Logits of each view, times `SCALE`.
    weights : (v,) float
        What each view counts.
    member : (k, j, i) int8
        Log odds of the prototype bank, times `SCALE`.
    grey : (k, j, i) uint8
        Windowed picture.
    labels : (k, j, i) uint8
        All labels of the case; the object's own and its neighbours'.
    label : int
        Which of them the object is.
    points : (n, 3) float
        Clicks so far, in voxels of the box.
    positive : (n,) bool
    spacing : (3,) float
        In mm.
    """

    views: npt.NDArray[np.int8]
    weights: npt.NDArray[np.float64]
    member: npt.NDArray[np.int8]
    grey: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    label: int
    points: npt.NDArray[np.float64]
    positive: npt.NDArray[np.bool_]
    spacing: npt.NDArray[np.float64]

    @property
    def nbytes(self) -> int:
        """Bytes that the maps occupy."""
        return sum(a.nbytes for a in (self.views, self.member, self.grey, self.labels))


class Recorder:
    """Stands where the 3-D head stands, changes nothing and keeps what it was shown."""

    def __init__(self) -> None:
        self.views: Sequence[Field] = ()
        self.membership: Field | None = None
        self.window = Window(0.0, 1.0)

    def refined(
        self,
        volume: Volume,  # noqa: ARG002 - see Refines
        views: Sequence[Field],
        membership: Field | None,
        points: Sequence[Point],  # noqa: ARG002
        window: Window,
    ) -> Field:
        """Keep the views and return their mean; see `Refines.refined`."""
        self.views, self.membership, self.window = views, membership, window
        return fused(views)


def play_object(
    model: SliceModel, volume: Volume, labels: npt.NDArray[Any], label: int, clicks: int
) -> list[Evidence]:
    """Let the robot click at an object, and keep what the model says after each click.

    Parameters
    ----------
    model : SliceModel
    volume : Volume
    labels : (K, J, I) int
    label : int
        Present in `labels`.
    clicks : int
        At most; fewer where an answer has no error left.
    """
    truth = labels == label
    spacing = volume.spacing_kji_mm
    recorder = Recorder()
    segmenter = Segmenter(model, refiner=recorder)
    prompts = PromptSet()
    kept: list[Evidence] = []
    click: Click | None = first_click(truth, spacing)
    while click is not None and len(kept) < clicks:
        k, j, i = (float(n) for n in click.place)
        prompts = prompts.with_point(Point((k, j, i), click.positive, f"click-{len(kept)}"))
        answer = segmenter.segment(volume, SegmentRequest(prompts))
        kept.append(_evidence(volume, labels, label, prompts, recorder))
        click = next_click(answer.full_mask(volume.shape_kji), truth, spacing)
    return kept


def _evidence(
    volume: Volume,
    labels: npt.NDArray[Any],
    label: int,
    prompts: PromptSet,
    seen: Recorder,
) -> Evidence:
    box = box_of(volume, fused(seen.views), prompts.points, (MARGIN, MARGIN_MM))
    if box is None:
        box = Extent.of_shape(volume.shape_kji)
    member = None if seen.membership is None else seen.membership.on(box, 0.0)
    places = np.array([p.point_kji for p in prompts.points], dtype=np.float64)
    return Evidence(
        views=np.stack([_whole_numbers(view.on(box, -SURE)) for view in seen.views]),
        weights=np.array([view.weight for view in seen.views]),
        member=_whole_numbers(np.zeros(box.shape_kji) if member is None else member),
        grey=np.round(apply_window(volume.voxels[box.slices], seen.window) * 255).astype(np.uint8),
        labels=labels[box.slices].astype(np.uint8),
        label=label,
        points=places - np.asarray(box.start_kji),
        positive=np.array([p.positive for p in prompts.points], dtype=bool),
        spacing=np.asarray(volume.spacing_kji_mm),
    )


def _whole_numbers(logits: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    return np.clip(np.round(logits * SCALE), -127, 127).astype(np.int8)


def write_evidence(path: Path, answers: Sequence[Evidence]) -> None:
    """Write the answers for one object, whole or not at all."""
    names = tuple(Evidence.__dataclass_fields__)
    arrays = {f"{n}_{name}": getattr(a, name) for n, a in enumerate(answers) for name in names}
    with atomic_path(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_evidence(path: Path) -> list[Evidence]:
    """Read what `write_evidence` wrote.

    Raises
    ------
    UnreadableFile
        If the file is damaged or another one.
    """
    names = tuple(Evidence.__dataclass_fields__)
    answers: list[Evidence] = []
    try:
        with np.load(path, allow_pickle=False) as file:
            while f"{len(answers)}_label" in file:
                fields = {name: file[f"{len(answers)}_{name}"] for name in names}
                answers.append(Evidence(**{**fields, "label": int(fields["label"])}))
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise UnreadableFile(
            f"{path} is no file of collected answers: {error}.", "Collect them anew."
        ) from error
    if not answers:
        raise UnreadableFile(f"{path} holds no answers.", "Collect them anew.")
    return answers


def box_shape(answer: Evidence) -> Extent:
    """Box of an answer in its own voxels."""
    return Extent((0, 0, 0), three_ints(answer.grey.shape, "shape"))
