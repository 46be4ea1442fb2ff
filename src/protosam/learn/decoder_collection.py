"""Collected cases on a disk: one file for each slice that was played.

Owns the plan of a collection (which data sets, how often, how many slices of each volume) and the
form of the files: numbers in whole steps of one byte, beside the prompts as they are. Knows
nothing of what a case means, nor of training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protosam.errors import InvalidInput
from protosam.learn.decoder_cases import (
    PROCEDURAL,
    DecoderCase,
    cases_to_play,
    played_slices,
    read_case,
)
from protosam.models.decoder_maps import SliceEvidence
from protosam.models.slice_model import SliceModel, SlicePrompts
from protosam.models.slice_refiner import CorrectsSlices
from protosam.storage import atomic_path

ANSWER_STEPS, MEMBERSHIP_STEPS, GREY_STEPS = 7, 30, 255
"""Steps in a unit, of which logits, memberships and intensities are kept on a disk."""


def _default_shares() -> dict[str, float]:
    return {
        "btcv_abdomen_ct": 0.45,
        "openkbp_headneck_ct": 0.2,
        "hippocampus_msd": 0.1,
        "sunnybrook_2d": 0.1,
        PROCEDURAL: 0.15,
    }


def _default_slices() -> dict[str, int]:
    return {
        "btcv_abdomen_ct": 14,
        "openkbp_headneck_ct": 12,
        "hippocampus_msd": 4,
        "sunnybrook_2d": 2,
        PROCEDURAL: 6,
    }


@dataclass(frozen=True)
class CollectSettings:
    """What decides which slices are played."""

    visits: int = 150
    """Volumes to open, one after the other; one can come several times."""
    seed: int = 0
    """Seed of the volumes, slices, objects and clicks."""
    held_out: int = 2
    """The last training cases of each 3-D data set, which are never opened."""
    shares: dict[str, float] = field(default_factory=_default_shares)
    """Share of the visits to each data set; those that are absent are left out."""
    slices: dict[str, int] = field(default_factory=_default_slices)
    """Slices to draw at each visit to a volume of a data set."""

    def __post_init__(self) -> None:
        if self.visits < 1 or set(self.shares) - set(self.slices):
            raise InvalidInput(
                f"A collection needs a visit at least, and a number of slices for each data set; "
                f"got visits={self.visits}, shares of {sorted(self.shares)}, slices of "
                f"{sorted(self.slices)}.",
                "Give visits of 1 or more, and slices for all data sets with a share.",
            )


def collect(
    settings: CollectSettings,
    model: SliceModel,
    *,
    data: Path | None,
    out: Path,
    refiner: CorrectsSlices | None = None,
    should_stop: Callable[[int], bool] | None = None,
) -> int:
    """Play slices of training cases and write what was seen.

    Parameters
    ----------
    settings : CollectSettings
    model : SliceModel
        Frozen.
    data : path or None
        Folder of the data sets, with split.json; None plays procedural shapes alone.
    out : path
        Folder for the files; what is there of other seeds stays.
    refiner : CorrectsSlices, optional
        Corrects the answers that clicks are made from.
    should_stop : (number of files so far) -> bool, optional
        Asked before each volume.

    Returns
    -------
    int
        Files written.

    Raises
    ------
    InvalidInput
        If `data` has no split.json.
    """
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([settings.seed, 7])
    plan = cases_to_play(
        data,
        settings.shares,
        count=settings.visits,
        held_out=settings.held_out,
        seed=settings.seed,
    )
    written = 0
    for case in plan:
        if should_stop is not None and should_stop(written):
            break
        volume, labels = read_case(case, data)
        slices = settings.slices[case.dataset]
        for cases in played_slices(volume, labels, model, rng, slices=slices, refiner=refiner):
            if cases:
                save_cases(cases, out / f"{case.dataset}_{settings.seed}_{written:05d}.npz")
                written += 1
    return written


def save_cases(cases: Sequence[DecoderCase], path: Path) -> None:
    """Write the cases of one slice to a .npz file.

    Numbers are kept in whole steps of one byte; logits are cut to 18 either way.
    """
    kept: dict[str, Any] = {"count": np.array(len(cases))}
    for number, case in enumerate(cases):
        e, p = case.evidence, case.prompts
        kept |= {
            f"{number}_answer": _steps(e.answer * ANSWER_STEPS),
            f"{number}_membership": _steps(e.membership * MEMBERSHIP_STEPS),
            f"{number}_grey": np.round(e.grey * GREY_STEPS).astype(np.uint8),
            f"{number}_spacing": np.array(e.spacing_rc_mm),
            f"{number}_points": p.points_rc,
            f"{number}_positive": p.positive,
            f"{number}_box": np.zeros(0) if p.box_rc is None else p.box_rc,
            f"{number}_truth": case.truth,
            f"{number}_labels": case.labels,
            f"{number}_beyond": np.array(case.beyond),
        }
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **kept)


def load_cases(path: Path) -> list[DecoderCase]:
    """Read what `save_cases` wrote."""
    with np.load(path) as kept:
        return [_loaded(kept, str(number)) for number in range(int(kept["count"]))]


def _loaded(kept: np.lib.npyio.NpzFile, number: str) -> DecoderCase:
    high, wide = (float(mm) for mm in kept[f"{number}_spacing"])
    box = kept[f"{number}_box"]
    return DecoderCase(
        evidence=SliceEvidence(
            answer=_scaled(kept[f"{number}_answer"], ANSWER_STEPS),
            membership=_scaled(kept[f"{number}_membership"], MEMBERSHIP_STEPS),
            grey=_scaled(kept[f"{number}_grey"], GREY_STEPS),
            spacing_rc_mm=(high, wide),
        ),
        prompts=SlicePrompts(
            kept[f"{number}_points"], kept[f"{number}_positive"], box if box.size else None
        ),
        truth=kept[f"{number}_truth"],
        labels=kept[f"{number}_labels"],
        beyond=int(kept[f"{number}_beyond"]),
    )


def _scaled(steps: npt.NDArray[Any], a_unit: int) -> npt.NDArray[np.float32]:
    return np.asarray(steps, dtype=np.float32) / np.float32(a_unit)


def _steps(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    """Round to whole steps, away from 0 within half a step: a sign must not be lost."""
    rounded = np.where(values > 0, np.ceil(values), np.floor(values))
    return np.clip(rounded, -127, 127).astype(np.int8)
