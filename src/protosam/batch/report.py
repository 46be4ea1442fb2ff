"""What a batch found, to look at: one page that needs no network, and one table.

Rules
-----
* Rows come in the order of doubt: what failed first, then the least sure, then what was refused.
* The page holds its pictures itself up to `PICTURES`; later ones are linked beside it. It loads
  nothing else and runs no script.
* It shows what is in the rows and nothing else of a patient; texts are escaped on the page, and
  in the table they cannot be taken for formulas.
* It reads rows and pictures, and knows nothing of images or models. Volumes are millilitres.
"""

from __future__ import annotations

import base64
import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from protosam import __version__
from protosam.batch.manifest import Row, Structure
from protosam.storage import atomic_path

PAGE = "report.html"
TABLE = "results.csv"
COLUMNS = ("series_uid", "status", "reason", "structure", "code", "volume_ml", "confidence", "file")

PICTURES = 200
"""Pictures within the page, of 15 to 60 KB each; a browser still opens 12 MB at once."""

_TEMPLATE = Path(__file__).with_name("report_page.html")
_RANK = {"failed": 0, "done": 1, "refused": 2, "cancelled": 3, "waiting": 4}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, eq=False)
class Course:
    """Volumes of one structure of one patient over time."""

    patient: str
    structure: str
    points: tuple[tuple[int, float], ...]
    """Days since the first study, and ml; at least two days."""
    picture: str
    """PNG as a data address."""


def by_doubt(rows: Sequence[Row]) -> list[Row]:
    """Rows, the doubtful ones first."""
    return sorted(rows, key=lambda row: (_RANK[row.status], -row.doubt, row.series_uid, row.part))


def write_report(folder: Path, rows: Sequence[Row], left_out: dict[str, int]) -> None:
    """Write page and table of a batch.

    Parameters
    ----------
    folder : Path
        Of the batch; pictures are found below it.
    rows : sequence of Row
    left_out : dict
        Reason -> number of files that were nothing of this.

    Raises
    ------
    StorageFailure
        They could not be written; older ones are as they were.
    """
    ordered = by_doubt(rows)
    with atomic_path(folder / TABLE) as temporary:
        temporary.write_text(table_text(ordered), "utf-8", newline="")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_TEMPLATE.read_text("utf-8"))
    counts = {status: sum(row.status == status for row in rows) for status in _RANK}
    page = template.render(
        rows=[(row, _picture(folder, row, n < PICTURES)) for n, row in enumerate(ordered)],
        courses=courses(rows),
        counts=counts,
        left_out=left_out,
        version=__version__,
    )
    with atomic_path(folder / PAGE) as temporary:
        temporary.write_text(page, "utf-8")


def table_text(rows: Sequence[Row]) -> str:
    """Rows as CSV, one line a structure, in the order given."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerows(_lines(row))
    return out.getvalue()


def _lines(row: Row) -> list[list[str]]:
    name = row.name or f"{row.series_uid} {row.part}".strip()
    reason = " ".join(row.reason.split())
    first = [_harmless(name), row.status, _harmless(reason)]
    if not row.structures:
        return [[*first, "", "", "", "", ""]]
    return [[*first, *_cells(one)] for one in row.structures]


def _cells(one: Structure) -> list[str]:
    return [
        _harmless(one.name),
        _harmless(one.code),
        f"{one.volume_ml:.3f}",
        f"{one.confidence:.3f}",
        one.file,
    ]


def _harmless(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def courses(rows: Sequence[Row]) -> list[Course]:
    """Volumes over time where a patient has a structure on several days.

    Several series of one day count with their mean.
    """
    seen: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.status != "done" or not row.patient or row.day is None:
            continue
        for one in row.structures:
            seen[row.patient, one.name][row.day].append(one.volume_ml)
    found = []
    for (patient, structure), days in sorted(seen.items()):
        if len(days) < 2:
            continue
        start = min(days)
        points = tuple((day - start, sum(ml) / len(ml)) for day, ml in sorted(days.items()))
        found.append(Course(patient, structure, points, _drawn(points)))
    return found


def _drawn(points: Sequence[tuple[int, float]]) -> str:
    figure = Figure(figsize=(4.2, 2.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([day for day, _ in points], [ml for _, ml in points], marker="o", color="#1f5fa8")
    axes.set_xlabel("days since the first study")
    axes.set_ylabel("ml")
    axes.set_ylim(0, 1.15 * max([1e-3, *(ml for _, ml in points)]))
    out = io.BytesIO()
    figure.savefig(out, dpi=90, format="png")
    return _address(out.getvalue())


def _picture(folder: Path, row: Row, within: bool) -> str:
    """Address of a picture: the picture itself, or a link beside the page; '' without one."""
    path = folder / row.picture
    if not row.picture or not path.is_file():
        return ""
    return _address(path.read_bytes()) if within else row.picture


def _address(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
