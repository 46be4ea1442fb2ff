"""The one-shot protocol: each case once as reference for the others, no clicks.

Owns which reference meets which target, what is measured, and the report's keys: ``protocol``,
``machine``, ``cases``, ``mean``, ``per_label``. Of several references the spread over them is
given. A label that the target does not have counts for the rule of the absent object, not for
the Dice. Masks are (k, j, i).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protosam import __version__
from protosam.errors import InvalidInput
from protosam.geometry import Volume
from protosam.labelled import LabelledCase, LabelledData
from protosam.metrics import dice
from protosam.models.embeddings import EmbeddingCache
from protosam.models.refiner import builtin_refiner
from protosam.models.slice_model import SliceModel
from protosam.prompting.apply import Proposal, Wish, apply_example
from protosam.prompting.example import Example
from protosam.prompting.making import make_example
from protosam.prompting.methods import METHODS, Method
from protosam.seg_nrrd import Segment
from protosam.storage import atomic_path

CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class OneShotSettings:
    """What is played."""

    method: Method = METHODS["p2sam"]
    """Who proposes."""
    labels: frozenset[int] | None = None
    """Labels to look for; all where None."""
    references: int | None = None
    """Draw so many references; every case is one where None."""
    targets: int | None = None
    """Draw so many targets for each reference; all others where None."""
    seed: int = 0
    """Of the drawing."""


@dataclass(frozen=True)
class OneShotScore:
    """One segment of one target, proposed from one reference."""

    reference: str
    case: str
    label: int
    name: str
    dice: float | None
    """None where the target does not have the label."""
    present: bool
    empty_slices: int
    """Slices of the target without the object."""
    kept_empty: int
    """Those of them in which nothing was proposed."""
    confidence: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the report's row."""
        row = asdict(self)
        for key in ("dice", "confidence", "seconds"):
            row[key] = None if row[key] is None else round(row[key], 4)
        return row


@dataclass(frozen=True)
class OneShotReport:
    """What was played, and how it went."""

    protocol: Mapping[str, Any]
    machine: Mapping[str, Any]
    scores: tuple[OneShotScore, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain lists, dicts and numbers."""
        names = list(dict.fromkeys(score.name for score in self.scores))
        return {
            "protocol": dict(self.protocol),
            "machine": dict(self.machine),
            "cases": [score.to_json() for score in self.scores],
            "mean": _mean(self.scores),
            "per_label": {
                name: _mean([s for s in self.scores if s.name == name]) for name in names
            },
        }

    def write(self, path: Path) -> None:
        """Write the report as JSON.

        Raises
        ------
        StorageFailure
            The file cannot be written.
        """
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")


def play_oneshot(
    model: SliceModel,
    data: LabelledData,
    settings: OneShotSettings,
    *,
    machine: Mapping[str, Any],
    on_progress: Callable[[float, str], None] = lambda _fraction, _text: None,
    on_case: Callable[[OneShotReport], None] = lambda _report: None,
) -> OneShotReport:
    """Play the protocol.

    Parameters
    ----------
    model : SliceModel
    data : LabelledData
        Two cases or more.
    settings : OneShotSettings
    machine : mapping
        The report's ``machine``.
    on_progress : (fraction 0..1, text) -> None
    on_case : (report so far) -> None
        After each target.

    Raises
    ------
    InvalidInput
        Fewer than two cases, or no reference has a label to look for.
    """
    pairs = pairs_of([case.name for case in data.cases], settings)
    known = {case.name: case for case in data.cases}
    protocol = {
        "version": __version__,
        "kind": "oneshot",
        "method": asdict(settings.method),
        "model": model.name,
        "digest": model.digest,
        "dataset": data.name,
        "references": sorted({a for a, _ in pairs}),
        "pairs": len(pairs),
        "seed": settings.seed,
    }
    scores: list[OneShotScore] = []
    cache = EmbeddingCache(CACHE_BYTES)
    wish = Wish(settings.method, refiner=builtin_refiner(model.device))
    example: Example | None = None
    made_of = ""
    for n, (reference, target) in enumerate(pairs):
        on_progress(n / len(pairs), f"{reference} -> {target}")
        if example is None or made_of != reference:
            example = _example_of(model, known[reference], data, settings, cache)
            made_of = reference
        scores += _scores(model, example, (reference, known[target]), data, wish, cache)
        on_case(OneShotReport(protocol, machine, tuple(scores)))
    on_progress(1.0, "done")
    return OneShotReport(protocol, machine, tuple(scores))


def pairs_of(names: Sequence[str], settings: OneShotSettings) -> list[tuple[str, str]]:
    """Draw pairs of reference and target, those of one reference in a row.

    Raises
    ------
    InvalidInput
        Fewer than two names, or a number below 1.
    """
    if len(names) < 2:
        raise InvalidInput(
            f"There are {len(names)} cases; a reference and a target are wanted.",
            "Give a folder with more cases, or leave --limit and --cases out.",
        )
    for what, count in (("references", settings.references), ("targets", settings.targets)):
        if count is not None and count < 1:
            raise InvalidInput(f"{count} {what} leave nothing to play.", "Give 1 or more.")
    rng = np.random.default_rng(settings.seed)
    pairs = []
    for reference in _drawn(rng, list(names), settings.references):
        others = [name for name in names if name != reference]
        pairs += [(reference, target) for target in _drawn(rng, others, settings.targets)]
    return pairs


def _drawn(rng: np.random.Generator, names: list[str], count: int | None) -> list[str]:
    if count is None or count >= len(names):
        return names
    return [names[int(n)] for n in sorted(rng.choice(len(names), count, replace=False))]


def _example_of(
    model: SliceModel,
    case: LabelledCase,
    data: LabelledData,
    settings: OneShotSettings,
    cache: EmbeddingCache,
) -> Example:
    image, labels = case.read()
    segments = [
        Segment(f"{label}", np.asarray(labels.voxels == label, dtype=bool))
        for label in (int(n) for n in np.unique(labels.voxels) if n > 0)
        if settings.labels is None or label in settings.labels
    ]
    if not segments:
        raise InvalidInput(
            f"The reference {case.name} of {data.name} has none of the labels to look for.",
            "Check --labels, or name other cases.",
        )
    return make_example(model, image, segments, cache=cache)


def _scores(
    model: SliceModel,
    example: Example,
    pair: tuple[str, LabelledCase],
    data: LabelledData,
    wish: Wish,
    cache: EmbeddingCache,
) -> Iterator[OneShotScore]:
    reference, case = pair
    image, labels = case.read()
    begun = time.monotonic()
    proposals = apply_example(model, image, example, wish=wish, cache=cache)
    share = (time.monotonic() - begun) / len(proposals)
    for one in proposals:
        label = int(one.name)
        truth = np.asarray(labels.voxels == label, dtype=bool)
        yield _score(one, image, truth, (reference, case.name, data.label_name(label)), share)


def _score(
    proposal: Proposal,
    image: Volume,
    truth: npt.NDArray[np.bool_],
    names: tuple[str, str, str],
    seconds: float,
) -> OneShotScore:
    found = proposal.full_mask(image.shape_kji)
    others = tuple(a for a in range(3) if a != proposal.axis)
    without = ~truth.any(axis=others)
    return OneShotScore(
        reference=names[0],
        case=names[1],
        label=int(proposal.name),
        name=names[2],
        dice=dice(found, truth) if truth.any() else None,
        present=bool(truth.any()),
        empty_slices=int(without.sum()),
        kept_empty=int((without & ~found.any(axis=others)).sum()),
        confidence=proposal.confidence,
        seconds=seconds,
    )


def _mean(scores: Sequence[OneShotScore]) -> dict[str, Any]:
    """Mean over segments; deviation over the means of the references."""
    measured = [s for s in scores if s.dice is not None]
    by_reference: dict[str, list[float]] = {}
    for score in measured:
        by_reference.setdefault(score.reference, []).append(score.dice or 0.0)
    means = [float(np.mean(values)) for values in by_reference.values()]
    empty = sum(s.empty_slices for s in scores)
    absent = [s for s in scores if not s.present]
    return {
        "objects": len(measured),
        "dice": round(float(np.mean([s.dice for s in measured])), 4) if measured else None,
        "dice_spread": round(float(np.std(means)), 4) if means else None,
        "references": len(means),
        "kept_empty": round(sum(s.kept_empty for s in scores) / empty, 4) if empty else None,
        "absent_objects": len(absent),
        "absent_kept_empty": sum(s.kept_empty == s.empty_slices for s in absent),
        "seconds": round(float(np.mean([s.seconds for s in scores])), 2) if scores else None,
    }
