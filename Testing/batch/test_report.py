"""The page and the table of a batch."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protosam.batch.manifest import Row, Structure
from protosam.batch.report import COLUMNS, PAGE, PICTURES, TABLE, by_doubt, courses, write_report
from protosam.batch.report_picture import draw_planes
from protosam.errors import StorageFailure
from protosam.geometry import Volume
from protosam.plane_pictures import middle_of
from protosam.seg_nrrd import Segment


def done(uid: str, confidence: float, *, ml: float = 10.0, **more) -> Row:
    liver = Structure("liver", "SCT 10200004 Liver", ml, confidence, f"series/{uid}/a.dcm", (4, 7))
    return Row(uid, uid, status="done", structures=(liver,), **more)


def table_in(folder: Path) -> list[dict[str, str]]:
    with (folder / TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


class Addresses(HTMLParser):
    """What a page loads or links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href")]


def test_the_doubtful_come_first():
    rows = [
        done("sure", 0.9),
        Row("r", "r", status="refused", reason="tilt"),
        done("unsure", 0.2),
        Row("f", "f", status="failed", reason="time"),
    ]
    assert [row.key for row in by_doubt(rows)] == ["f", "unsure", "sure", "r"]


def test_the_table_has_one_line_a_structure(tmp_path: Path):
    two = Structure("spleen", "", 0.0, 0.0)
    row = done("1.2", 0.75, ml=12.3456, part="echo 2", reason="Not found: spleen.")
    row = Row(**{**vars(row), "structures": (*row.structures, two)})
    write_report(tmp_path, [row, Row("r", "1.3", status="refused", reason="A\ngap.")], {})
    lines = table_in(tmp_path)
    known = ("1.2 echo 2", "done", "Not found: spleen.")
    assert tuple(lines[0]) == COLUMNS
    assert [tuple(line.values()) for line in lines] == [
        (*known, "liver", "SCT 10200004 Liver", "12.346", "0.750", "series/1.2/a.dcm"),
        (*known, "spleen", "", "0.000", "0.000", ""),
        ("1.3", "refused", "A gap.", "", "", "", "", ""),
    ]


def test_texts_are_neither_formulas_nor_markup(tmp_path: Path):
    evil = Structure("=cmd|' /C calc'!A0", "<script>alert(1)</script>", 1.0, 0.5)
    row = Row(
        "k", "1.2", status="done", structures=(evil,), reason="@SUM(A1)", notes=("<img src=x>",)
    )
    write_report(tmp_path, [row], {"<b>bad</b>": 2})
    (line,) = table_in(tmp_path)
    assert line["structure"].startswith("'=") and line["reason"].startswith("'@")
    page = Addresses((tmp_path / PAGE).read_text())
    assert "script" not in page.tags and "img" not in page.tags and "b" not in page.tags


def test_the_page_loads_nothing_from_elsewhere(tmp_path: Path, a_ball: Volume):
    rows = []
    for n in range(2):
        folder = tmp_path / "series" / str(n)
        folder.mkdir(parents=True)
        mask = np.asarray(a_ball.voxels) > 70
        draw_planes(folder / "picture.png", a_ball, [Segment("liver", mask)])
        rows.append(
            done(str(n), 0.5, patient="ab12", day=100 + 30 * n, picture=f"series/{n}/picture.png")
        )
    write_report(tmp_path, rows, {})
    text = (tmp_path / PAGE).read_text()
    page = Addresses(text)
    assert page.loaded
    assert all(one.startswith(("data:image/png;base64,", "series/")) for one in page.loaded)
    assert sum(one.startswith("data:") for one in page.loaded) == 3  # two series and one course
    assert "script" not in page.tags and not re.search(r"url\(|@import|https?://", text)


def test_pictures_beyond_a_number_are_linked(tmp_path: Path):
    (tmp_path / "p.png").write_bytes(b"png")
    rows = [done(str(n), 0.5, picture="p.png") for n in range(PICTURES + 3)]
    write_report(tmp_path, rows, {})
    assert Addresses((tmp_path / PAGE).read_text()).loaded.count("p.png") == 3


def test_volumes_over_time_need_two_days_of_one_patient():
    rows = [
        done("1", 0.9, ml=10, patient="ab", day=500),
        done("2", 0.9, ml=14, patient="ab", day=500),
        done("3", 0.9, ml=20, patient="ab", day=530),
        done("4", 0.9, ml=30, patient="cd", day=700),
        done("5", 0.9, ml=30, patient="", day=800),
        Row("6", "6", status="failed", patient="ab", day=900),
    ]
    (course,) = courses(rows)
    assert (course.patient, course.structure) == ("ab", "liver")
    assert course.points == ((0, 12.0), (30, 20.0))


def test_a_report_that_cannot_be_written_is_told(tmp_path: Path):
    with pytest.raises(StorageFailure):
        write_report(tmp_path / "missing", [done("1", 0.5)], {})


def test_an_outline_is_drawn_where_the_segment_is_fullest(tmp_path: Path, a_ball: Volume):
    mask = np.asarray(a_ball.voxels) > 70
    assert all(abs(n - 12) <= 1 for n in middle_of(mask))
    draw_planes(tmp_path / "with.png", a_ball, [Segment("liver", mask, (1.0, 0.0, 0.0))])
    draw_planes(tmp_path / "without.png", a_ball, [])
    reds = []
    for name in ("with.png", "without.png"):
        with Image.open(tmp_path / name) as picture:
            rgb = np.asarray(picture.convert("RGB")).astype(int)
        reds.append(int(((rgb[..., 0] > 150) & (rgb[..., 1] < 60)).sum()))
    assert reds[0] > 50 and reds[1] == 0


def test_flat_and_empty_volumes_have_a_picture(tmp_path: Path, a_ball: Volume):
    flat = Volume(np.asarray(a_ball.voxels)[12:13], a_ball.affine)
    draw_planes(tmp_path / "flat.png", flat, [Segment("liver", np.zeros(flat.shape_kji, bool))])
    with Image.open(tmp_path / "flat.png") as picture:
        assert picture.size[0] > 100
