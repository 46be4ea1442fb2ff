"""Turn reports of ``protosam evaluate --json`` into one table in Markdown.

``python benchmarks/tables.py FILE.json [FILE.json ...] > table.md``

One row for each report: dataset, scope, engine, cases and objects, mean Dice after each click,
``dsc_auc``, surface Dice and times. ``--labels`` adds a table of each label's Dice after the
last click, ``--title TEXT`` a heading. Knows only the JSON, nothing of the package.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Report = dict[str, Any]

WHOLE_IMAGE_MM = 1000
"""A working region with this margin reaches the faces of any image of a patient."""


def read(paths: Iterable[Path]) -> list[Report]:
    """Return the reports, sorted by dataset, scope, box and engine."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return sorted(
        reports,
        key=lambda r: (
            (*(str(r["protocol"][k]) for k in ("dataset", "scope", "box")), label_of(r))
        ),
    )


def label_of(report: Report) -> str:
    """Return the engine, with what sets it apart: its model, its adapter, a frame far away."""
    protocol = report["protocol"]
    settings = protocol["engine_settings"]
    name = str(settings.get("model", protocol["engine"]))
    if protocol["adapter"]:
        name += f" + {protocol['adapter']}"
    if protocol["engine"] == "protosam" and "head" not in settings:
        name += ", plain"  # from before there were correcting networks
    if settings.get("without"):
        name += f", without {settings['without']}"
    if settings.get("region_mm", 0) >= WHOLE_IMAGE_MM:
        name += ", whole image"
    return name


def summary(reports: Sequence[Report]) -> str:
    """Return the table of means."""
    clicks = max(len(report["mean"]["dice"]) for report in reports)
    head = ["dataset", "scope", "engine", "cases", "objects"]
    head += [f"Dice {n}" for n in range(1, clicks + 1)]
    head += ["dsc_auc", "NSD 2 mm", "s first", "s next"]
    rows = []
    for report in reports:
        protocol, mean = report["protocol"], report["mean"]
        scope = protocol["scope"] + (" + box" if protocol["box"] else "")
        dice = [f"{x:.3f}" for x in mean["dice"]]
        rows.append(
            [protocol["dataset"], scope, label_of(report)]
            + [str(protocol["cases"]), str(protocol["objects"])]
            + dice
            + [""] * (clicks - len(dice))
            + [f"**{mean['dsc_auc']:.3f}**", f"{mean['nsd_final']:.3f}"]
            + [_seconds(mean["seconds_first"]), _seconds(mean["seconds_next"])]
        )
    return _table(head, rows, right_from=3)


def by_label(reports: Sequence[Report]) -> str:
    """Return, for each dataset and scope, a table of labels over engines: last Dice."""
    parts = []
    for key in dict.fromkeys(_key(report) for report in reports):
        group = [report for report in reports if _key(report) == key]
        labels = list(dict.fromkeys(name for report in group for name in report["per_label"]))
        rows = []
        for name in labels:
            found = [report["per_label"].get(name) for report in group]
            objects = max(one["objects"] for one in found if one)
            scores = [
                "" if one is None else f"{one['dice'][0]:.3f} / {one['dsc_final']:.3f}"
                for one in found
            ]
            rows.append([name, str(objects), *scores])
        head = ["label", "objects", *(label_of(report) for report in group)]
        parts.append(
            f"{' '.join(key)}, Dice after the first / last click\n\n"
            + _table(head, rows, right_from=1)
        )
    return "\n\n".join(parts)


def machines(reports: Sequence[Report]) -> str:
    """Return one line for each machine that the reports were measured on."""
    lines = dict.fromkeys(
        "Measured on {cpu}, {cores} cores, {memory_gb} GB, {platform}, Python {python}, "
        "torch {torch}.".format(**report["machine"])
        for report in reports
    )
    return "\n".join(lines)


def _key(report: Report) -> tuple[str, ...]:
    protocol = report["protocol"]
    return (protocol["dataset"], protocol["scope"], *(["box"] if protocol["box"] else []))


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right_from: int) -> str:
    rule = ["---" if n < right_from else "--:" for n in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def main() -> None:
    """Read the reports named on the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", nargs="+", type=Path, help="JSON files of protosam evaluate")
    parser.add_argument("--labels", action="store_true", help="add a table of each label")
    parser.add_argument("--title", default="", help="heading above the tables")
    given = parser.parse_args()
    reports = read(given.reports)
    parts = [f"## {given.title}"] if given.title else []
    parts += [machines(reports), summary(reports)]
    if given.labels:
        parts.append(by_label(reports))
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
