"""Turn the rows of ``benchmarks/adapt.py`` into tables in Markdown.

``python benchmarks/adapt_table.py benchmarks/adapt > table.md``

The first table has a row for each set and number of cases: means over seeds, with the spread of
the gain; *gets* counts what a user gets, which is the old answer where the gate has said no. The
second has whole objects, the third organs that nobody taught. Knows only the JSON, nothing of the
package.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

CLICKS = ("dice_0", "dice_1", "dice_3")


def read(folder: Path) -> list[Row]:
    """Return the rows of a folder, by set and number of cases."""
    paths = sorted(folder.glob("*_cases_seed_*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def groups(rows: Iterable[Row]) -> dict[tuple[str, int], list[Row]]:
    """Return the rows of each set and number of cases that were asked for."""
    found: dict[tuple[str, int], list[Row]] = {}
    for row in sorted(rows, key=lambda r: (not r["is_new"], r["set"], r["asked"], r["seed"])):
        found.setdefault((row["set"], row["asked"]), []).append(row)
    return found


def got(row: Row, part: str, key: str) -> float:
    """Return what a user gets: the new answer if the gate has let it in, else the old one."""
    which = "after" if row["accepted"] else "before"
    return float(row[which][part][key])


def slices(rows: Sequence[Row]) -> str:
    """Return the table of slices."""
    head = ["set", "cases", "patients", "seeds", "let in"]
    head += [f"Dice at {key[-1]}: before, after" for key in CLICKS]
    head += ["gain at 1, of each seed", "gets at 1", "wall s", "CPU s"]
    lines = []
    for (name, _), group in groups(rows).items():
        gains = [r["after"]["slices"]["dice_1"] - r["before"]["slices"]["dice_1"] for r in group]
        lines.append(
            [name, _range(group, "cases"), _range(group, "patients"), str(len(group))]
            + [f"{sum(r['accepted'] for r in group)} of {len(group)}"]
            + [_pair(group, "slices", key) for key in CLICKS]
            + [", ".join(f"{gain:+.3f}" for gain in gains)]
            + [f"{_mean(group, lambda r: got(r, 'slices', 'dice_1')):.3f}"]
            + [f"{_mean(group, lambda r, k=key: r[k]):.0f}" for key in _TIMES]
        )
    return _table(head, lines, right_from=1)


def volumes(rows: Sequence[Row]) -> str:
    """Return the table of whole objects; only rows that have them."""
    played = [row for row in rows if row["after"]["volumes"] is not None]
    lines = [
        [name, str(group[0]["after"]["volumes"]["objects"]), str(len(group))]
        + [_pair(group, "volumes", key) for key in CLICKS[1:]]
        for (name, _), group in groups(played).items()
    ]
    head = ["set", "objects", "seeds", "Dice at 1: before, after", "Dice at 3: before, after"]
    return _table(head, lines, right_from=1)


def elsewhere(rows: Sequence[Row]) -> str:
    """Return the table of organs that nobody taught, with the adapter on."""
    lines = [
        [name, _range(group, "cases"), *(_pair(group, "others", key) for key in CLICKS)]
        for (name, _), group in groups(rows).items()
    ]
    head = ["set", "cases", *(f"Dice at {key[-1]}: before, after" for key in CLICKS)]
    return _table(head, lines, right_from=1)


def summary(rows: Sequence[Row]) -> str:
    """Return one line for each number of cases: the mean gain over sets that were new."""
    lines = []
    for asked in sorted({row["asked"] for row in rows}):
        found = [g for (_, n), g in groups(r for r in rows if r["is_new"]).items() if n == asked]
        if not found:
            continue
        gains = [_mean(g, _gain) for g in found]
        user = [_mean(g, _user_gain) for g in found]
        lines.append(
            f"{asked} cases: one click {sum(gains) / len(gains):+.3f} on average over "
            f"{len(found)} sets that the model had not seen ({sum(user) / len(user):+.3f} where "
            "what the gate keeps out counts as no gain)."
        )
    return "\n".join(lines)


_TIMES = ("wall_seconds", "cpu_seconds")


def _gain(row: Row) -> float:
    return float(row["after"]["slices"]["dice_1"] - row["before"]["slices"]["dice_1"])


def _user_gain(row: Row) -> float:
    return got(row, "slices", "dice_1") - float(row["before"]["slices"]["dice_1"])


def _mean(group: Sequence[Row], of: Callable[[Row], float]) -> float:
    return sum(float(of(row)) for row in group) / len(group)


def _pair(group: Sequence[Row], part: str, key: str) -> str:
    before = _mean(group, lambda r: r["before"][part][key])
    after = _mean(group, lambda r: r["after"][part][key])
    return f"{before:.3f} {after:.3f}"


def _range(group: Sequence[Row], key: str) -> str:
    found = sorted({row[key] for row in group})
    return " to ".join(map(str, dict.fromkeys((found[0], found[-1]))))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right_from: int) -> str:
    rule = ["---" if n < right_from else "--:" for n in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def main() -> None:
    """Read a folder and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="rows of benchmarks/adapt.py")
    rows = read(parser.parse_args().folder)
    if not rows:
        parser.error("the folder holds no row yet")
    machine = "Measured on {cpu}, {cores} cores, {memory_gb} GB, torch {torch}.".format(
        **rows[0]["machine"]
    )
    print("\n\n".join([machine, summary(rows), slices(rows), volumes(rows), elsewhere(rows)]))


if __name__ == "__main__":
    main()
