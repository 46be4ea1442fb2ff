"""From a folder of finished cases to a file with a shift: `protosam train-shift`.

Owns the order of the work and what stands on the card. A shift that does not help on what was held
out is not written. Speaks no coordinates.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

from protosam.errors import InvalidInput
from protosam.learn.finished_cases import CaseChoice, OnProgress, read_cases
from protosam.learn.shift import ShiftSettings, TaughtShift, teach_shift
from protosam.learn.shift_examples import examples_of
from protosam.models.add_ons import AddOnCard, case_digest
from protosam.models.predictor import SamSliceModel
from protosam.models.shift import save_shift
from protosam.models.slice_model import SliceModel
from protosam.models.tiny_predictor import TinySliceModel

ENCODING = 0.3
"""Share of the work, for the progress, that goes into encoding."""


@dataclass(frozen=True)
class ShiftResult:
    """What came of `train_shift`."""

    path: Path | None
    """File that was written; None where the shift did not help."""
    before: float
    """Mean Dice after one click on what was held out, without the shift."""
    after: float
    """The same with it."""
    seconds: float
    """Wall time of encoding and training."""


def train_shift(
    choice: CaseChoice,
    model: SliceModel,
    out: Path,
    settings: ShiftSettings,
    *,
    on_progress: OnProgress,
) -> ShiftResult:
    """Teach a shift on a folder of cases, and write it if it helps.

    Parameters
    ----------
    choice : CaseChoice
    model : SliceModel
        The base, as it was loaded, without an adapter.
    out : Path
        File to write.
    settings : ShiftSettings
    on_progress : (fraction 0..1, text) -> None

    Raises
    ------
    InvalidInput
        If the cases or the model cannot be used.
    StorageFailure
        If the file cannot be written.
    """
    base = weights_of(model)
    found = read_cases(choice)
    begun = time.perf_counter()
    examples = examples_of(
        found.cases,
        model,
        count=settings.examples,
        seed=settings.seed,
        on_progress=lambda done, text: on_progress(ENCODING * done, text),
    )
    taught = teach_shift(
        model,
        examples,
        settings,
        on_progress=lambda done, text: on_progress(ENCODING + (1 - ENCODING) * done, text),
    )
    seconds = time.perf_counter() - begun
    if taught.step == 0:
        return ShiftResult(None, taught.before.one, taught.after.one, seconds)
    card = AddOnCard(
        kind="shift",
        base_name=model.name,
        base_sha256=base,
        labels=found.labels,
        cases=tuple(case_digest(case.name) for case in found.cases),
        seed=settings.seed,
        settings=dataclasses.asdict(settings),
        figures=_figures(taught, len(examples)),
    )
    save_shift(taught.shift, card, out)
    return ShiftResult(out, taught.before.one, taught.after.one, seconds)


def weights_of(model: SliceModel) -> str:
    """SHA-256 of a model's weights.

    Raises
    ------
    InvalidInput
        If the model is of no family that can be taught.
    """
    if isinstance(model, TinySliceModel | SamSliceModel):
        return model.weights_sha256
    raise InvalidInput(
        f"{model.name} cannot be taught ({type(model).__name__}).",
        "Choose the built-in model or one of the SAM family.",
    )


def _figures(taught: TaughtShift, examples: int) -> dict[str, float]:
    return {
        "held_out_dice_1_click_before": round(taught.before.one, 4),
        "held_out_dice_1_click_after": round(taught.after.one, 4),
        "held_out_dice_3_clicks_before": round(taught.before.several, 4),
        "held_out_dice_3_clicks_after": round(taught.after.several, 4),
        "best_step": taught.step,
        "examples": examples,
    }
