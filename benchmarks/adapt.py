"""Dice before and after ``protosam adapt`` on 1, 2, 5 and 10 cases, on cases that it never saw.

    python benchmarks/adapt.py DATA --out benchmarks/adapt [--sets la2018,brats] [--cases 5]

DATA holds the data sets and split.json. Of the training cases so many patients are drawn by the
seed (fewer where there are no more), one case of each; all of them are handed to ``adapt``, which
holds some back for its gate. The validation cases report: `SLICES_EACH` slices of at most `OBJECTS`
objects, after no click (the object of the slice beside is known), one and three; with five cases
the same objects as wholes after one click and three, too, by the engine with head and decoder.
`OTHERS` are played with the adapter on, although nobody would. Each row is a file of its own; rows
that are there already are not computed again, and where the same cases were asked for under
another number, because there are no more, their row is taken.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protosam import robot
from protosam.engines import EngineChoice, make_engine
from protosam.evaluate import this_machine
from protosam.labelled import LabelledData, cases_of_split, read_dataset
from protosam.learn.adapt_order import AdaptOrder, AdaptResult, Watch
from protosam.learn.division import whole
from protosam.learn.finished_cases import FinishedCase
from protosam.learn.gate_boards import Board, boards_of
from protosam.learn.gate_play import CLICKS, Marks, measure
from protosam.learn.gated_run import adapt
from protosam.learn.recipe_settings import RecipeSettings
from protosam.models.load import load_model
from protosam.robot import Rules, Target

OBJECTS = 12
"""Most objects that report, in slices and with five cases as volumes."""

WITH_VOLUMES = 5
"""Number of cases with which whole objects play, too."""

OTHERS = (("btcv_abdomen_ct", ("btcv_03",), ("liver", "spleen", "right kidney", "aorta")),)
"""Organs that none of the sets teaches."""


@dataclass(frozen=True)
class TaughtSet:
    """What is taught and reported."""

    dataset: str
    labels: tuple[str, ...] = ()
    """All if empty."""
    is_new: bool = True
    """Whether the built-in model has never seen such images."""


SETS = {
    "acdc_lv": TaughtSet("acdc_cine_mri", ("LV blood pool",)),
    "acdc_myo": TaughtSet("acdc_cine_mri", ("LV myocardium",)),
    "la2018": TaughtSet("la2018_mri"),
    "brats": TaughtSet("brats2013_mri"),
    "hippocampus": TaughtSet("hippocampus_msd", is_new=False),
}

PATIENTS = {"brats_2013_pat0003_1_Flair": "pat0003", "brats_2013_pat0003_1_T1c": "pat0003"}
"""Patients whose cases do not say it by their names."""


def patient_of(case: str) -> str:
    """Patient of a case."""
    return PATIENTS.get(case, case.split("_frame", maxsplit=1)[0])


def drawn(cases: Sequence[str], seed: int, count: int) -> tuple[str, ...]:
    """Draw `count` cases: one of each patient first, further ones only where patients run out."""
    rng = np.random.default_rng(seed)
    order = [cases[n] for n in rng.permutation(len(cases))]
    firsts = {patient_of(case): case for case in reversed(order)}.values()
    ranked = sorted(order, key=lambda case: (case not in firsts, order.index(case)))
    return tuple(ranked[:count])


def handed_over(data: Path, names: Sequence[str], folder: Path) -> Path:
    """Make a folder of links to the cases."""
    folder.mkdir(parents=True)
    for name in names:
        for path in data.glob(f"{name}_*"):
            if "_scribble" not in path.name:
                (folder / path.name).symlink_to(path.resolve())
    (folder / "labels.json").write_text((data / "labels.json").read_text("utf-8"), "utf-8")
    known = {name: patient_of(name) for name in names}
    (folder / "patients.json").write_text(json.dumps(known), "utf-8")
    return folder


def read(data: LabelledData, names: Sequence[str], labels: tuple[str, ...]) -> list[FinishedCase]:
    """Read cases with the labels that are meant."""
    wanted = data.labels_named(labels)
    cases = []
    for one in data.chosen(tuple(names), None).cases:
        image, truth = one.read()
        there = {int(n) for n in np.unique(truth.voxels) if n > 0}
        kept = there if wanted is None else there & wanted
        cases.append(FinishedCase(one.name, image, truth, tuple(sorted(kept))))
    return cases


class Reporter:
    """Everything that a set is measured by, with the base's figures measured once.

    Parameters
    ----------
    data : Path
        Folder of the data sets.
    name : str
        Key of `SETS`.
    keep : Path
        File for the base's figures.
    """

    def __init__(self, data: Path, name: str, keep: Path) -> None:
        taught = SETS[name]
        found = read_dataset(data / taught.dataset)
        members = cases_of_split(data / "split.json", "validation", found.name)
        cases = read(found, members, taught.labels)
        named = {n: found.label_name(n) for case in cases for n in case.wanted}
        boards = boards_of([whole(case) for case in cases], named)
        self._boards = [b for b in boards if _key(b) in _first(boards, OBJECTS)]
        self._volumes = [_in_whole(b.target) for b in _one_each(self._boards)]
        self._others = list(_other_boards(data))
        self._keep = keep

    def before(self, *, volumes: bool) -> dict[str, Any]:
        """Figures of the base, from the file if they are there."""
        known = json.loads(self._keep.read_text("utf-8")) if self._keep.is_file() else {}
        if not known or (volumes and known["volumes"] is None):
            known = self.figures(None, volumes=volumes)
            self._keep.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
        return known if volumes else {**known, "volumes": None}

    def figures(self, adapter: Path | None, *, volumes: bool) -> dict[str, Any]:
        """Figures with an adapter, or of the base."""
        model = load_model(adapter=adapter, device="cpu")
        return {
            "slices": _means(measure(model, self._boards, on_board=_silent)),
            "others": _means(measure(model, self._others, on_board=_silent)),
            "volumes": self._played(adapter) if volumes else None,
        }

    def _played(self, adapter: Path | None) -> dict[str, float]:
        engine = make_engine(EngineChoice(adapter=None if adapter is None else str(adapter)))
        dice = [robot.play(one, engine, Rules(clicks=3)).dice for one in self._volumes]
        means = np.mean(dice, axis=0)
        return {"dice_1": round(means[0], 4), "dice_3": round(means[2], 4), "objects": len(dice)}


def _key(board: Board) -> tuple[str, int]:
    return board.target.case, board.target.label


def _first(boards: Sequence[Board], count: int) -> set[tuple[str, int]]:
    return set(list(dict.fromkeys(_key(board) for board in boards))[:count])


def _one_each(boards: Sequence[Board]) -> Iterator[Board]:
    yield from {_key(board): board for board in boards}.values()


def _in_whole(target: Target) -> Target:
    return Target(target.case, target.label, target.name, target.volume, target.truth, None)


def _other_boards(data: Path) -> Iterator[Board]:
    for dataset, names, labels in OTHERS:
        found = read_dataset(data / dataset)
        cases = read(found, names, labels)
        named = {n: found.label_name(n) for case in cases for n in case.wanted}
        yield from boards_of([whole(case) for case in cases], named)


def _means(marks: Sequence[Marks]) -> dict[str, float]:
    columns = np.array([[np.nan if d is None else d for d in m.dice] for m in marks])
    means = np.nanmean(columns, axis=0)
    named = {f"dice_{n}": round(float(v), 4) for n, v in zip(CLICKS, means, strict=True)}
    hd95_mm = float(np.mean([m.hd95_mm for m in marks]))
    return {**named, "hd95_mm": round(hd95_mm, 2), "slices": len(marks)}


def _silent(*_: object) -> None:
    """Take progress and say nothing."""


def taught(
    data: Path, name: str, chosen: tuple[str, ...], settings: RecipeSettings, folder: Path
) -> AdaptResult:
    """Hand cases over to ``adapt``."""
    of = SETS[name]
    order = AdaptOrder(
        cases=handed_over(data / of.dataset, chosen, folder / "cases"),
        name=name,
        labels=of.labels,
        tier="decoder",
        adapters_dir=folder / "adapters",
        device="cpu",
        settings=settings,
    )
    return adapt(order, Watch(_silent))


def row(
    data: Path, name: str, ask: tuple[int, RecipeSettings], reporter: Reporter
) -> dict[str, Any]:
    """Teach so many cases, and measure."""
    count, settings = ask
    seed = settings.seed
    found = read_dataset(data / SETS[name].dataset)
    members = cases_of_split(data / "split.json", "train", found.name)
    chosen = drawn(members, seed, count)
    volumes = count == WITH_VOLUMES
    before = reporter.before(volumes=volumes)
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        result = taught(data, name, chosen, settings, Path(folder))
        spent = time.perf_counter() - wall, time.process_time() - cpu
        after = reporter.figures(result.version.path, volumes=volumes)
    card = result.version.card
    return {
        "set": name,
        "is_new": SETS[name].is_new,
        "asked": count,
        "cases": len(chosen),
        "patients": len({patient_of(case) for case in chosen}),
        "taught": len(card.cases),
        "seed": seed,
        "accepted": result.report.accepted,
        "reason": result.report.reason,
        "gate": {k: card.gate[k] for k in ("validation", "checked", "mean", "elsewhere", "whole")},
        "wall_seconds": round(spent[0], 1),
        "cpu_seconds": round(spent[1], 1),
        "training": card.figures,
        "settings": card.settings,
        "before": before,
        "after": after,
        "machine": this_machine().to_json(),
    }


def of_same_cases(rows: Iterable[Path], count: int, steps: int) -> dict[str, Any] | None:
    """Find a row that the same cases have taught; whole objects left out.

    Parameters
    ----------
    rows : iterable of Path
        Of one set and seed, of which so many cases are always the same.
    count, steps : int
    """
    for path in sorted(rows):
        known: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if (known["cases"], known["settings"]["steps"]) == (count, steps):
            parts = {key: {**known[key], "volumes": None} for key in ("before", "after")}
            return {**known, **parts}
    return None


def main() -> None:
    """Compute the rows that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", type=lambda text: text.split(","), default=list(SETS))
    parser.add_argument("--cases", type=_numbers, default=[5, 1, 2, 10])
    parser.add_argument("--seeds", type=_numbers, default=[0, 1, 2])
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON of RecipeSettings")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for count, seed, name in (
        (count, seed, name) for count in args.cases for seed in args.seeds for name in args.sets
    ):
        target = args.out / f"{name}_{count:02d}_cases_seed_{seed}.json"
        members = cases_of_split(args.data / "split.json", "train", SETS[name].dataset)
        if target.is_file() or (count > len(members) and count > 5):
            continue
        keep = args.out / f"{name}_base.json"
        settings = RecipeSettings(**{"seed": seed, **args.settings})
        rows = args.out.glob(f"{name}_*_cases_seed_{seed}.json") if count != WITH_VOLUMES else ()
        entries = of_same_cases(rows, min(count, len(members)), settings.planned)
        if entries is None:
            entries = row(args.data, name, (count, settings), Reporter(args.data, name, keep))
        target.write_text(json.dumps({**entries, "asked": count}, indent=1) + "\n", "utf-8")
        one = (entries[key]["slices"]["dice_1"] for key in ("before", "after"))
        print(target.stem, *one, entries["accepted"], entries["wall_seconds"], flush=True)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
