"""Two labelled cases, the others without labels: what each way of using the others is worth.

    python benchmarks/semi.py DATA --out benchmarks/semi --work FOLDER

For each dataset and each choice of the two labelled cases, every method of ``protosam adapt`` is
run on the same cases, images, seed and number of steps. Methods that leave an adapter are compared
with the same adapter taught by labels alone (Dice in single slices of validation cases after no
click with the slice beside known, after one and after three). Methods that leave a specialist are
compared with the same network taught by labels alone (Dice of whole volumes, without a click).
Labels of the pool are read for one figure only, how good the first guesses were; no method sees
them. Rows are written as they come, and rows that are there are not computed again. One thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from protosam import metrics
from protosam.evaluate import this_machine
from protosam.learn.division import OTHER_PATIENTS, whole
from protosam.learn.finished_cases import CaseChoice, FinishedCase, read_cases
from protosam.learn.fronts import front_of
from protosam.learn.gate_boards import boards_of
from protosam.learn.gate_play import CLICKS, measure
from protosam.learn.lessons import lessons_of
from protosam.learn.recipe import Checkpoint, network_of, teach, with_adapter
from protosam.learn.recipe_settings import RecipeSettings
from protosam.learn.train_shift import weights_of
from protosam.learn.unlabelled.assemble import material_at, term_of
from protosam.learn.unlabelled.generalists import generalists_of
from protosam.learn.unlabelled.mean_teacher import PRESETS, MeanTeacherSettings
from protosam.learn.unlabelled.methods import METHODS
from protosam.learn.unlabelled.places import places_in
from protosam.learn.unlabelled.pool import Known, PoolImage, read_pool
from protosam.learn.unlabelled.scans import card_for, labelled_scan, pool_scan
from protosam.learn.unlabelled.seen import ObjectIn
from protosam.learn.unlabelled.specialist_gate import judge_specialist
from protosam.learn.unlabelled.specialists import Material3D, teach_specialist
from protosam.models.load import load_model
from protosam.models.lora import save_adapter
from protosam.volume_io import read_labelmap

DATASETS = ("la2018_mri", "hippocampus_msd")
ROWS = (
    "base",
    "labelled",
    "ema",
    "protosam",
    "sss",
    "specialist, labels only",
    "semisam",
    "semisam-plus",
)
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Setting:
    """One dataset with one choice of labelled cases."""

    root: Path
    labelled: tuple[FinishedCase, ...]
    names: dict[int, str]
    pool: list[PoolImage]
    pool_names: tuple[str, ...]
    validation: tuple[FinishedCase, ...]


def quiet(_done: float, _text: str) -> None:
    """Take progress and say nothing."""


def setting_of(args: argparse.Namespace, dataset: str, choice: int) -> Setting:
    """Read the cases of a choice: the list of training cases, begun at another place."""
    root = args.data / dataset
    split = json.loads((args.data / "split.json").read_text("utf-8"))
    cases = split["train"][dataset]
    cases = [*cases[choice * len(cases) // 2 :], *cases[: choice * len(cases) // 2]]
    chosen = read_cases(CaseChoice(root, cases=tuple(cases[: args.labelled])))
    numbers = sorted({n for case in chosen.cases for n in case.wanted})
    pool = tuple(cases[args.labelled : args.labelled + args.pool])
    images, _ = read_pool([root / f"{name}_img.nii.gz" for name in pool], Known())
    held = split["validation"][dataset][: args.validation]
    validation = read_cases(CaseChoice(root, cases=tuple(held))).cases
    names = dict(zip(numbers, chosen.labels, strict=True))
    return Setting(root, chosen.cases, names, images, pool, validation)


def places_of(setting: Setting, folder: Path) -> tuple[list[ObjectIn], float]:
    """First guesses in the pool, kept from run to run, and their mean Dice."""
    places: list[ObjectIn] = []
    if not list(folder.glob("*.npz")):
        folder.mkdir(parents=True, exist_ok=True)
        for place in places_in(load_model(device="cpu"), setting.labelled, setting.pool,
                               on_progress=quiet):  # fmt: skip
            number = next(n for n, i in enumerate(setting.pool) if i.volume is place.volume)
            np.savez_compressed(folder / f"{number}_{place.label}.npz", mask=place.mask)
    dice = []
    for path in sorted(folder.glob("*.npz")):
        number, label = (int(n) for n in path.stem.split("_"))
        mask = np.load(path)["mask"]
        places.append(ObjectIn(setting.pool[number].volume, label, mask))
        truth = read_labelmap(setting.root / f"{setting.pool_names[number]}_lab.nii.gz").voxels
        dice.append(metrics.dice(mask, truth == label))
    return places, round(float(np.mean(dice)), 4)


def adapted(args: argparse.Namespace, setting: Setting, method: str, work: Path) -> dict[str, Any]:
    """Teach an adapter by a method and play validation slices with it."""
    model = load_model(device="cpu")
    boards = boards_of([whole(case) for case in setting.validation], setting.names)
    row: dict[str, Any] = {}
    if method != "base":
        run = RecipeSettings(steps=args.steps, examples=args.examples, seed=args.seed)
        front = front_of(model, run.blocks)
        lessons = lessons_of(
            setting.labelled, model, front, count=run.examples, seed=run.seed, on_progress=quiet
        )
        material = None
        if method != "labelled":
            places, row["first_guesses_dice"] = places_of(setting, work)
            material = material_at(model, front, setting.labelled, places)
        with_adapter(model, run)
        term = None if material is None else term_of(method, model, material, run)
        with tempfile.TemporaryDirectory() as folder:
            taught = teach(
                model,
                lessons,
                run,
                checkpoint=Checkpoint(Path(folder) / "state.pt", "one"),
                on_step=lambda _now: None,
                should_stop=lambda: False,
                term=term,
            )
            # As at work: the decoder's fast form is made from weights that hold the adapter.
            save_adapter(network_of(model), Path(folder) / "adapter", base_sha256=weights_of(model))
            model = load_model(device="cpu", adapter=Path(folder) / "adapter")
        row["loss_last"] = round(float(np.mean(taught.losses[-10:])), 4)
        row["unlabelled"] = {} if term is None else term.report()
    marks = measure(model, boards, on_board=lambda _n: None)
    for place, clicks in enumerate(CLICKS):
        row[f"dice_{clicks}"] = round(float(np.mean([m.dice[place] for m in marks])), 4)
    return row


def specialist(args: argparse.Namespace, setting: Setting, method: str) -> dict[str, Any]:
    """Teach a specialist by a method and let it find the objects of validation volumes."""
    settings = PRESETS.get(method, MeanTeacherSettings(consistency=0.0, assistance=0.0))
    settings = dataclasses.replace(settings, steps=args.specialist_steps, seed=args.seed)
    card = card_for(setting.labelled, setting.names, settings.networks)
    numbers = sorted(setting.names)
    model = load_model(device="cpu")
    material = Material3D(
        card,
        [labelled_scan(case, numbers, card) for case in setting.labelled],
        [pool_scan(one.volume, card) for one in setting.pool] if settings.uses_pool else [],
        generalists_of(settings.generalists, model),
    )
    with tempfile.TemporaryDirectory() as folder:
        found, report = teach_specialist(
            material,
            settings,
            checkpoint=Checkpoint(Path(folder) / "state.pt", "one"),
            on_step=lambda _now: None,
            should_stop=lambda: False,
            device=CPU,
        )
    verdict = judge_specialist(
        found,
        None,
        [whole(case) for case in setting.validation],
        OTHER_PATIENTS,
        names=setting.names,
        on_judge=lambda _n: None,
    )
    return {"dice": verdict.mean("new"), "unlabelled": report}


def main() -> None:
    """Compute the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="For first guesses.")
    parser.add_argument("--datasets", type=lambda text: text.split(","), default=DATASETS)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=ROWS)
    parser.add_argument("--choices", type=int, default=2)
    parser.add_argument("--labelled", type=int, default=2)
    parser.add_argument("--pool", type=int, default=8)
    parser.add_argument("--validation", type=int, default=10)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--examples", type=int, default=48)
    parser.add_argument("--specialist-steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not set(args.methods) <= set(ROWS):
        parser.error(f"--methods are of {', '.join(ROWS)}")
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    caps = {k: v for k, v in vars(args).items() if isinstance(v, int)}
    for choice in range(args.choices):
        for dataset in args.datasets:
            path = args.out / f"{dataset}.json"
            start = {"dataset": dataset, "protocol": caps, "methods": list(METHODS), "runs": []}
            report = json.loads(path.read_text("utf-8")) if path.is_file() else start
            done = {(row["choice"], row["method"]) for row in report["runs"]}
            setting = setting_of(args, dataset, choice)
            for method in args.methods:
                if (choice, method) in done:
                    continue
                cpu = time.process_time()
                if method in ROWS[:5]:
                    row = adapted(args, setting, method, args.work / f"{dataset}-{choice}")
                else:
                    row = specialist(args, setting, method)
                seconds = round(time.process_time() - cpu, 1)
                report["runs"].append(
                    {"choice": choice, "method": method, **row, "cpu_seconds": seconds}
                )
                report["machine"] = this_machine().to_json()
                path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
                print(dataset, report["runs"][-1], flush=True)


if __name__ == "__main__":
    main()
