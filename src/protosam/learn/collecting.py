"""Collect a model's answers to the robot's clicks over folders of labelled cases.

Owns the choice of the objects and the names of the files. What was collected before is kept, so
that a collection which was stopped goes on. Knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protosam.errors import InvalidInput
from protosam.labelled import LabelledCase, LabelledData
from protosam.learn.evidence import play_object, write_evidence
from protosam.models.slice_model import SliceModel

LEAST_VOXELS = 30
"""Smaller objects are left out."""

LONGEST_VOXELS = 160
"""Objects that reach further along an axis are left out: each takes a minute to play."""


@dataclass(frozen=True)
class CollectSettings:
    """How much is collected."""

    clicks: int = 5
    """For each object."""
    objects: int | None = None
    """Of each data set at most; all if None."""
    seed: int = 5
    """Order in which objects are taken."""


def collect(
    model: SliceModel,
    data: Sequence[LabelledData],
    out: Path,
    settings: CollectSettings,
    on_progress: Callable[[float, str], None] | None = None,
) -> list[Path]:
    """Play objects of labelled cases and keep the answers.

    Parameters
    ----------
    model : SliceModel
    data : sequence of LabelledData
        Training cases alone.
    out : path
        Folder of the files, one an object.
    settings : CollectSettings
    on_progress : (part done 0..1, text) -> None, optional

    Returns
    -------
    list of path
        Of every object, those collected before among them.

    Raises
    ------
    InvalidInput
        When no object is fit to be played.
    """
    report = on_progress or (lambda _part, _text: None)
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for place, one in enumerate(data):
        wanted = _drawn(one, settings)
        for number, (case, label) in enumerate(wanted):
            report((place + number / len(wanted)) / len(data), f"{case.name}, label {label}")
            path = out / f"{one.name}__{case.name.replace('/', '_')}__{label}.npz"
            if path.is_file() or _played(model, case, label, path, settings.clicks):
                written.append(path)
    if not written:
        raise InvalidInput(
            f"None of the {len(data)} data sets has an object of {LEAST_VOXELS} voxels or more "
            f"that reaches less than {LONGEST_VOXELS} voxels along every axis.",
            "Give other cases.",
        )
    return written


def _drawn(data: LabelledData, settings: CollectSettings) -> list[tuple[LabelledCase, int]]:
    """Objects of a data set in an order of chance."""
    every = [(case, label) for case in data.cases for label in _labels_of(case)]
    rng = np.random.default_rng(settings.seed)
    return [every[n] for n in rng.permutation(len(every))[: settings.objects]]


def _labels_of(case: LabelledCase) -> Collection[int]:
    _, labels = case.read()
    return [int(n) for n in np.unique(labels.voxels) if n > 0]


def _played(model: SliceModel, case: LabelledCase, label: int, path: Path, clicks: int) -> bool:
    """Play one object; False where it is not fit."""
    image, labels = case.read()
    places = np.argwhere(labels.voxels == label)
    if len(places) < LEAST_VOXELS or int(np.ptp(places, axis=0).max()) >= LONGEST_VOXELS:
        return False
    write_evidence(path, play_object(model, image, labels.voxels, label, clicks))
    return True
