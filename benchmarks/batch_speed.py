"""Series an hour of `protosam batch`, with one process and with two, one thread each.

`python benchmarks/batch_speed.py --json batch_speed.json` writes phantoms as DICOM, segments three
organs of each from boxes by the built-in model, reads every result back (that is part of a batch),
and does so with 1, 2, 1, 2 workers in turn, so that a change of the machine's load shows. Seconds
are those of the whole command, with the loading of the models.

Two workers are to take at most 1 / 1.6 of the time of one. On a machine that does something else
besides, the figures mean nothing: the load before the run stands beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import batch_study
from rich.console import Console
from rich.table import Table

from protosam.batch.manifest import rows_in
from protosam.evaluate import this_machine

ORGANS = ("liver", "spleen", "left kidney")
WANTED_RATIO = 1.6
FIRST_SEED = 100


def run(study: Path, boxes: Path, out: Path, workers: int) -> dict[str, Any]:
    """Carry out one batch; its time, and the times of its series."""
    command = [sys.executable, "-m", "protosam", "batch", str(study), "-o", str(out)]
    command += ["--prompts", str(boxes), "--device", "cpu", "--workers", str(workers)]
    begun = time.perf_counter()
    subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    whole_s = time.perf_counter() - begun
    rows = rows_in(out)
    if any(row.status != "done" for row in rows):
        raise RuntimeError(f"not all series were segmented: {[row.reason for row in rows]}")
    series_s = [row.elapsed_s for row in rows]
    return {
        "workers": workers,
        "seconds": whole_s,
        "series_an_hour": 3600 * len(rows) / whole_s,
        "median_series_s": statistics.median(series_s),
    }


def results_of(out: Path) -> dict[str, list[float]]:
    """Volumes of each series: the same, however many workers there were."""
    return {
        row.series_uid: [round(one.volume_ml, 3) for one in row.structures] for row in rows_in(out)
    }


def measure(count: int) -> dict[str, Any]:
    """Run all batches and compare them."""
    with tempfile.TemporaryDirectory(prefix="protosam-batch-") as name:
        folder = Path(name)
        seeds = list(range(FIRST_SEED, FIRST_SEED + count))
        series = batch_study.write_study(folder / "study", seeds)
        batch_study.write_boxes(folder / "boxes.csv", series, ORGANS)
        load = os.getloadavg()[0]
        runs, seen = [], []
        for number, workers in enumerate((1, 2, 1, 2)):
            out = folder / f"out{number}"
            runs.append(run(folder / "study", folder / "boxes.csv", out, workers))
            seen.append(results_of(out))
    one, two = (
        statistics.mean(run["seconds"] for run in runs if run["workers"] == n) for n in (1, 2)
    )
    return {
        "machine": this_machine().to_json(),
        "load_before": load,
        "series": count,
        "organs": ORGANS,
        "runs": runs,
        "ratio": one / two,
        "wanted_ratio": WANTED_RATIO,
        "same_results": all(one == seen[0] for one in seen),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=12)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options.series)
    table = Table("workers", "seconds", "series an hour", "median of a series")
    for one in found["runs"]:
        table.add_row(
            str(one["workers"]),
            f"{one['seconds']:.1f}",
            f"{one['series_an_hour']:.0f}",
            f"{one['median_series_s']:.1f} s",
        )
    console = Console()
    console.print(table)
    console.print(f"two against one: {found['ratio']:.2f} (wanted {WANTED_RATIO})")
    console.print(f"same results: {found['same_results']}; load before: {found['load_before']:.1f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
