"""Plays the one-shot protocol with every method on several data sets, and prints the table.

    python benchmarks/oneshot/play.py DATA [--out benchmarks/oneshot] [--part validation]

Writes ``<data set>_<method>.json`` into the output folder; what is there is not played again, so
that a run can be stopped and resumed. References and targets are drawn with a fixed seed, the same
for all methods.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from protosam.evaluate import this_machine
from protosam.labelled import cases_of_split, read_dataset
from protosam.models.load import load_model
from protosam.prompting.methods import METHODS, method_named
from protosam.prompting.oneshot_protocol import OneShotSettings, play_oneshot

DATASETS = {
    "hippocampus_msd": (3, 4),
    "btcv_abdomen_ct": (2, 2),
    "openkbp_headneck_ct": (2, 2),
    "acdc_cine_mri": (3, 3),
    "la2018_mri": (2, 2),
}
"""Data sets with the numbers of references and of targets for each."""

LABELS = {"btcv_abdomen_ct": frozenset({1, 2, 3, 6, 7, 8})}
"""Of the abdomen only spleen, kidneys, liver, stomach and aorta, to keep a run within an hour."""

METHOD_ORDER = ("p2sam", "persam", "top-k", "propagate")
"""Played by default; the others of `METHODS` by --methods."""


def main() -> None:
    """Play what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--part", default="validation")
    parser.add_argument("--methods", default=",".join(METHOD_ORDER))
    parser.add_argument("--datasets", default=",".join(DATASETS))
    given = parser.parse_args()
    methods, datasets = given.methods.split(","), given.datasets.split(",")
    for dataset in datasets:
        for name in methods:
            path = given.out / f"{dataset}_{name}.json"
            if not path.exists():
                play(given.data, given.part, dataset, name, path)
    for dataset in datasets:
        for name in METHODS:
            path = given.out / f"{dataset}_{name}.json"
            if path.exists():
                print(row(dataset, name, path))


def play(data: Path, part: str, dataset: str, name: str, path: Path) -> None:
    """Play one method on one data set."""
    folder = read_dataset(data / dataset)
    cases = folder.chosen(cases_of_split(data / "split.json", part, dataset))
    references, targets = DATASETS[dataset]
    settings = OneShotSettings(method_named(name), LABELS.get(dataset), references, targets)
    report = play_oneshot(
        load_model(),
        cases,
        settings,
        machine=this_machine().to_json(),
        on_progress=lambda done, text: print(f"{dataset} {name} {done:.0%} {text}", flush=True),
    )
    report.write(path)


def row(dataset: str, name: str, path: Path) -> str:
    """Line of a Markdown table."""
    report = json.loads(path.read_text(encoding="utf-8"))
    mean = report["mean"]
    return (
        f"| {dataset} | {name} | {mean['objects']} | {mean['dice']:.3f} | "
        f"{mean['dice_spread']:.3f} | {mean['kept_empty']:.3f} | {mean['seconds']:.1f} |"
    )


if __name__ == "__main__":
    main()
