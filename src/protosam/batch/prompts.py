"""Points and boxes for many series from one table: a CSV file in RAS millimetres.

::

    series,structure,kind,r,a,s,r2,a2,s2
    1.2.840.1,liver,positive,-60,12,110,,,
    1.2.840.1,liver,negative,-20,40,110,,,
    scan7.nii.gz,spleen,box,50,-60,80,95,-10,130

Rules
-----
* `series` is a series instance UID, that with its part ('1.2.840.1 echo 2'), or the name of a file.
* The whole table is checked when it is read, and the first wrong line is named; whether a point
  lies in its image shows when that is opened.
* It knows the table and turns a line into prompts (k, j, i) of a volume.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from protosam.errors import InvalidInput, UnreadableFile
from protosam.geometry import Volume, nearest_voxel
from protosam.prompts import Box, Point, PromptSet

Kind = Literal["positive", "negative", "box"]

COLUMNS = ("series", "structure", "kind", "r", "a", "s", "r2", "a2", "s2")
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class PromptLine:
    """One line of the table."""

    series: str
    structure: str
    kind: Kind
    places_ras_mm: tuple[tuple[float, float, float], ...]
    """One point, or two opposite corners."""


def read_prompts(path: Path) -> tuple[PromptLine, ...]:
    """Read a table.

    Raises
    ------
    UnreadableFile
        It is missing, too large, or no text.
    InvalidInput
        Other columns, or a line that is no prompt; the message names the line.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnreadableFile(f"{path.name} is larger than 64 MiB.", "Give a table of prompts.")
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            header = tuple(name.strip() for name in table.fieldnames or ())
            if header != COLUMNS[: len(header)] or len(header) < 6:
                raise InvalidInput(
                    f"{path.name} has the columns {', '.join(header) or 'none'}.",
                    f"Begin it with the line {','.join(COLUMNS)}",
                )
            table.fieldnames = list(header)
            return tuple(_line(path, n, row) for n, row in enumerate(table, 2))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnreadableFile(
            f"{path} cannot be read as a table.", "Save it as CSV in UTF-8."
        ) from error


def _line(path: Path, number: int, row: dict[str, str]) -> PromptLine:
    def refused(what: str) -> InvalidInput:
        return InvalidInput(f"{path.name}, line {number}: {what}.", "Mend the line.")

    texts = {name: (row.get(name) or "").strip() for name in COLUMNS}
    if None in row or not texts["series"] or not texts["structure"]:
        raise refused("it has no series or structure, or too many fields")
    if texts["kind"] not in get_args(Kind):
        raise refused(f"the kind is {texts['kind']!r}, wanted {', '.join(get_args(Kind))}")
    kind: Kind = texts["kind"]  # type: ignore[assignment]  # checked one line above
    names = COLUMNS[3:] if kind == "box" else COLUMNS[3:6]
    try:
        numbers = [float(texts[name]) for name in names]
    except ValueError as error:
        raise refused(f"{', '.join(names)} are not all numbers") from error
    if not all(math.isfinite(one) for one in numbers):
        raise refused(f"{', '.join(names)} are not all finite")
    if kind != "box" and any(texts[name] for name in COLUMNS[6:]):
        raise refused("a point has no second corner")
    places = tuple((numbers[n], numbers[n + 1], numbers[n + 2]) for n in range(0, len(numbers), 3))
    return PromptLine(texts["series"], texts["structure"], kind, places)


def prompts_of(
    lines: Iterable[PromptLine], names: Iterable[str], volume: Volume
) -> dict[str, PromptSet]:
    """Prompts of one series by structure, in the order of the table.

    Parameters
    ----------
    lines : iterable of PromptLine
    names : iterable of str
        What the series may be called in the table.
    volume : Volume

    Raises
    ------
    InvalidPrompt
        A place outside of the volume, or a box without a volume.
    """
    known = set(names)
    by_structure: dict[str, list[PromptLine]] = {}
    for line in lines:
        if line.series in known:
            by_structure.setdefault(line.structure, []).append(line)
    return {name: _prompt_set(own, volume) for name, own in by_structure.items()}


def _prompt_set(lines: Sequence[PromptLine], volume: Volume) -> PromptSet:
    points, boxes = [], []
    for number, line in enumerate(lines, 1):
        places = [
            nearest_voxel(volume.affine, place, volume.shape_kji) for place in line.places_ras_mm
        ]
        if line.kind == "box":
            flat = [axis for axis in range(3) if places[0][axis] == places[1][axis]]
            axis = flat[0] if len(flat) == 1 else None
            boxes.append(Box(places[0], places[1], axis, f"box-{number}"))
        else:
            points.append(Point(places[0], line.kind == "positive", f"point-{number}"))
    return PromptSet(tuple(points), tuple(boxes))
