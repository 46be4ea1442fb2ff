"""From a folder of finished cases to a file of automatic prompts: `protosam train-auto`.

Owns the order of the work and what stands on the card. Speaks no coordinates.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

from protosam.errors import InvalidInput
from protosam.learn.auto_training import AutoFigures, AutoSettings, lessons_of, teach_auto
from protosam.learn.finished_cases import CaseChoice, OnProgress, read_cases
from protosam.learn.train_shift import weights_of
from protosam.models.add_ons import AddOnCard, case_digest
from protosam.models.slice_model import SliceModel
from protosam.prompting.auto import save_auto

ENCODING = 0.4
"""Share of the work, for the progress, that goes into encoding."""


@dataclass(frozen=True)
class AutoResult:
    """What came of `train_auto`."""

    path: Path
    """File that was written."""
    figures: AutoFigures
    """Measured on what was held out."""
    seconds: float
    """Wall time of encoding and training."""


def train_auto(
    choice: CaseChoice,
    model: SliceModel,
    out: Path,
    settings: AutoSettings,
    *,
    on_progress: OnProgress,
) -> AutoResult:
    """Teach automatic prompts for one label on a folder of cases, and write them.

    Parameters
    ----------
    choice : CaseChoice
        Its labels must be one.
    model : SliceModel
        The base, as it was loaded, without an adapter.
    out : Path
        File to write.
    settings : AutoSettings
    on_progress : (fraction 0..1, text) -> None

    Raises
    ------
    InvalidInput
        If the cases or the model cannot be used, or more than one label is meant.
    StorageFailure
        If the file cannot be written.
    """
    base = weights_of(model)
    found = read_cases(choice)
    if len(found.labels) != 1:
        raise InvalidInput(
            f"Automatic prompts are for one label; {len(found.labels)} were chosen "
            f"({', '.join(found.labels)}).",
            "Name one with --labels.",
        )
    begun = time.perf_counter()
    lessons = lessons_of(
        found.cases, model, settings, lambda done, text: on_progress(ENCODING * done, text)
    )
    prompter, figures = teach_auto(
        model,
        lessons,
        settings,
        lambda done, text: on_progress(ENCODING + (1 - ENCODING) * done, text),
    )
    card = AddOnCard(
        kind="auto",
        base_name=model.name,
        base_sha256=base,
        labels=found.labels,
        cases=tuple(case_digest(case.name) for case in found.cases),
        seed=settings.seed,
        settings=dataclasses.asdict(settings),
        figures={
            "held_out_points_right": round(figures.points_right, 4),
            "held_out_presence_right": round(figures.presence_right, 4),
            "slices": len(lessons),
        },
    )
    save_auto(prompter, card, out)
    return AutoResult(out, figures, time.perf_counter() - begun)
