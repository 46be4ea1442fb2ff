"""Dice before and after a shift was taught on five cases, on cases that it never saw.

    python benchmarks/shift.py DATA DATASET [--labels a,b] [--seeds 0,1] [--limit N] --out FILE.json

DATA holds the data sets and split.json. Of the training cases five are drawn by the seed, patients
in the order of a random permutation; the validation cases report, or with ``--choose N`` the next N
training cases, by which settings are chosen. Everything is played in slices.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from protosam.engines import EngineChoice, ProtoSamEngine
from protosam.evaluate import EvaluateReport, EvaluateSettings, evaluate, this_machine
from protosam.labelled import cases_of_split
from protosam.learn.finished_cases import CaseChoice
from protosam.learn.shift import ShiftSettings
from protosam.learn.train_shift import train_shift
from protosam.models.load import load_model


def drawn(cases: tuple[str, ...], seed: int, count: int) -> tuple[str, ...]:
    """Draw cases patient by patient; volumes named <patient>_frameNN are one patient's."""
    patients = sorted({case.split("_frame")[0] for case in cases})
    order = [patients[n] for n in np.random.default_rng(seed).permutation(len(patients))]
    return tuple(c for patient in order for c in cases if c.split("_frame")[0] == patient)[:count]


def played(args: argparse.Namespace, seed: int, adapter: Path | None) -> EvaluateReport:
    """Play cases that were not taught, with a shift or without."""
    split = args.data / "split.json"
    part = "train" if args.choose else "validation"
    members = cases_of_split(split, part, args.dataset)
    if args.choose:
        members = drawn(members, seed, args.cases + args.choose)[args.cases :]
    settings = EvaluateSettings(
        data=args.data / args.dataset,
        choice=EngineChoice(adapter=None if adapter is None else str(adapter)),
        scope="slice",
        labels=args.labels,
        clicks=args.clicks,
        limit=args.limit,
        split=f"{split}:{part}",
        cases=members,
    )
    return evaluate(settings, engine=ProtoSamEngine(load_model(adapter=adapter)))


def figures(report: EvaluateReport) -> dict[str, object]:
    """Give the mean Dice after each click, over all objects and for each label."""
    whole = report.to_json()
    labels = {name: entry["dice"] for name, entry in whole["per_label"].items()}
    return {"dice": whole["mean"]["dice"], "per_label": labels}


def taught(args: argparse.Namespace, seed: int, folder: Path) -> dict[str, object]:
    """Teach a shift on the cases of a seed, and play with it."""
    folder_of_data = args.data / args.dataset
    split = args.data / "split.json"
    cases = drawn(cases_of_split(split, "train", args.dataset), seed, args.cases)
    choice = CaseChoice(folder_of_data, args.labels, f"{split}:train", cases)
    model, out = load_model(), folder / f"{seed}.shift"
    cpu = time.process_time()
    settings = dataclasses.replace(ShiftSettings(seed=seed), **args.settings)
    result = train_shift(choice, model, out, settings, on_progress=lambda _done, _text: None)
    return {
        "seed": seed,
        "cases": len(cases),
        "held_out": [round(result.before, 4), round(result.after, 4)],
        "seconds": round(result.seconds, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "written": result.path is not None,
        "before": figures(played(args, seed, None)),
        "after": None if result.path is None else figures(played(args, seed, result.path)),
    }


def main() -> None:
    """Play before, teach and play after, for each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("dataset")
    parser.add_argument("--labels", type=lambda text: tuple(text.split(",")), default=())
    parser.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[0])
    parser.add_argument("--cases", type=int, default=5)
    parser.add_argument("--clicks", type=int, default=3)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--choose", type=int, default=0)
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON of ShiftSettings")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    report: dict[str, object] = {
        "dataset": args.dataset,
        "labels": list(args.labels),
        "reported_on": f"{args.choose} other training cases" if args.choose else "validation",
        "limit": args.limit,
        "settings": dataclasses.asdict(dataclasses.replace(ShiftSettings(), **args.settings)),
        "machine": this_machine().to_json(),
        "runs": [],
    }
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            rows.append(taught(args, seed, Path(folder)))
            report["runs"] = rows
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
            print(args.dataset, rows[-1], flush=True)


if __name__ == "__main__":
    main()
