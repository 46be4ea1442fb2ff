"""The desk of a batch without its window: real commands in real processes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import batch_runner
import numpy as np
import pytest

pytest.importorskip("vtk", reason="the scene package needs VTK")

from protosam.batch.manifest import rows_in
from protosam.batch.review import decide
from protosam.cases.saved import CaseFolder
from protosam.errors import InvalidInput, UnreadableFile, WorkerFailure
from protosam.scene.batch_desk import BatchDesk, BatchWish
from protosam.scene.batch_rows import read_rows
from protosam.scene.commands import Interpreter
from protosam.seg_nrrd import read_segmentation
from protosam.volume_io import read_volume

LIMIT_S = 60.0
PROGRAM = Path(__file__).with_name("desk_program.py")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stand-in is a script of POSIX")


class Notes:
    """A listener that keeps what it was told."""

    def __init__(self):
        self.told = []
        self.changes = 0

    def rows_changed(self):
        self.changes += 1

    def batch_ended(self, error):
        self.told.append(("ended", error))

    def opened(self, row, image, segmentation):
        self.told.append(("opened", row, image, segmentation))

    def accepted(self, row, files):
        self.told.append(("accepted", row, files))

    def corrected(self, row, case):
        self.told.append(("corrected", row, case))

    def failed(self, error):
        self.told.append(("failed", error))


class Desk:
    """A desk, its listener, and the host's loop."""

    def __init__(self, folder, **env):
        program = folder / "python"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{PROGRAM}" "$@"\n')
        program.chmod(0o755)
        self.notes = Notes()
        python = Interpreter(str(program), {**os.environ, **env})
        self.desk = BatchDesk(python, folder, self.notes)

    def until(self, condition):
        end = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < end, self.notes.told
            begun = time.monotonic()
            self.desk.poll()
            assert time.monotonic() - begun < 5, "the host was kept waiting"
            time.sleep(0.01)

    def run(self, wish):
        self.desk.start(wish)
        self.until(lambda: self.notes.told and self.notes.told[-1][0] == "ended")
        return self.notes.told.pop()[1]

    def next(self):
        self.until(lambda: self.notes.told)
        return self.notes.told.pop(0)


@pytest.fixture
def make_desk(tmp_path):
    made = []

    def make(**env):
        folder = tmp_path / "host"
        folder.mkdir(exist_ok=True)
        made.append(Desk(folder, **env))
        return made[-1]

    yield make
    for one in made:
        one.desk.close()


@pytest.fixture
def a_wish(tmp_path, a_study):
    return BatchWish(a_study, tmp_path / "out", examples=(tmp_path / "a.psexample",))


def test_a_batch_is_run_shown_opened_accepted_and_corrected(make_desk, a_wish, tmp_path):
    one = make_desk()
    assert one.run(a_wish) is None
    assert [row.status for row in one.desk.rows] == ["done"] * 3
    assert one.desk.progress.finished == one.desk.progress.total == 3
    first, second, _ = one.desk.rows

    one.desk.open_result(first)
    one.desk.accept(second)
    _, row, image, segmentation = one.next()
    assert row == first
    assert read_volume(image).shape_kji == read_segmentation(segmentation).shape_kji
    kind, row, files = one.next()
    assert (kind, row, [path.name for path in files]) == ("accepted", second, ["segmentation.dcm"])

    one.desk.correct(first, segmentation, tmp_path / "cases")
    kind, _, case = one.next()
    assert kind == "corrected"
    assert CaseFolder(tmp_path / "cases").read(case).segments[0].mask.any()
    one.until(lambda: sorted(row.verdict for row in one.desk.rows) == ["", "accepted", "corrected"])


def test_a_cancelled_batch_goes_on_where_it_stopped(make_desk, a_wish):
    slow = make_desk(DESK_PAUSE_S="1")
    slow.desk.start(a_wish)
    with pytest.raises(InvalidInput, match="at work"):
        slow.desk.start(a_wish)
    slow.until(lambda: any(row.status == "done" for row in slow.desk.rows))
    assert slow.desk.progress.running
    assert slow.desk.progress.left_s > 0
    slow.desk.cancel()
    assert slow.next() == ("ended", None)
    done = {row.key for row in slow.desk.rows if row.status == "done"}
    assert 0 < len(done) < 3
    before = {row.key: row for row in rows_in(a_wish.out) if row.key in done}

    quick = make_desk()
    assert quick.run(a_wish) is None
    assert [row.status for row in quick.desk.rows] == ["done"] * 3
    assert {row.key: row for row in rows_in(a_wish.out) if row.key in done} == before


def test_the_batch_ends_with_its_host(make_desk, a_wish):
    one = make_desk(DESK_PAUSE_S="30")
    one.desk.start(a_wish)
    one.until(lambda: one.desk.rows)
    process = one.desk._batch._process
    one.desk.close()
    process.kill()  # the series at work would take half a minute; the manifest stands that

    assert process.wait(LIMIT_S) != 0
    assert all(row.is_open for row in read_rows(a_wish.out))


def test_a_batch_that_cannot_begin_is_told_in_its_own_words(make_desk, a_wish):
    error = make_desk(DESK="fail").run(a_wish)

    assert isinstance(error, WorkerFailure)
    assert str(error) == "There is no such model. Choose another."


def test_chosen_files_travel_as_a_list_that_stays_with_the_host(make_desk, a_wish, a_study):
    paths = tuple(sorted(path for path in (a_study / "s1").iterdir()))
    one = make_desk()
    wish = BatchWish(paths, a_wish.out, from_seg=True)
    assert one.run(wish) is None

    assert len(one.desk.rows) == 1
    assert not list(a_wish.out.rglob("*.filelist"))
    one.desk.open_result(one.desk.rows[0])
    assert one.next()[0] == "opened"


def test_what_fails_about_a_result_is_told_and_the_next_errand_is_run(make_desk, a_wish, tmp_path):
    one = make_desk()
    one.run(a_wish)
    one.desk.correct(one.desk.rows[0], tmp_path / "none.seg.nrrd", tmp_path / "cases")
    one.desk.open_result(one.desk.rows[0])
    kind, error = one.next()

    assert kind == "failed"
    assert "none.seg.nrrd" in str(error)
    assert one.next()[0] == "opened"


def test_a_python_that_is_missing_is_told(tmp_path, a_wish):
    desk = BatchDesk(Interpreter(str(tmp_path / "none")), tmp_path, Notes())
    with pytest.raises(WorkerFailure, match="could not be started"):
        desk.start(a_wish)
    assert not desk.is_running


def test_a_wish_without_a_way_or_a_source_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="what to look for"):
        BatchWish(tmp_path, tmp_path / "out")
    with pytest.raises(InvalidInput, match="No series"):
        BatchWish((), tmp_path / "out", from_seg=True)


def test_the_words_of_a_wish_are_those_of_the_command(tmp_path):
    wish = BatchWish(
        tmp_path,
        tmp_path / "out",
        examples=(tmp_path / "a",),
        autos=("liver=b",),
        from_seg=True,
        adapter="mine",
        model="sam_vit_b",
        workers=2,
        retry_failed=True,
    )

    assert wish.arguments(tmp_path) == [
        *("batch", str(tmp_path), "--out", str(tmp_path / "out"), "--workers", "2"),
        *("--example", str(tmp_path / "a"), "--auto", "liver=b", "--from-seg"),
        *("--adapter", "mine", "--model", "sam_vit_b", "--retry-failed"),
    ]


def test_rows_are_read_as_the_manifest_writes_them(a_wish):
    assert batch_runner.go(a_wish.source, a_wish.out, batch_runner.Here)
    decide(a_wish.out, rows_in(a_wish.out)[1].key, "accepted")
    shown = {row.key: row for row in read_rows(a_wish.out)}

    for row in rows_in(a_wish.out):
        found = shown[row.key]
        assert (found.series_uid, found.part, found.status) == (row.series_uid, row.part, "done")
        assert np.isclose(found.confidence, 1 - row.doubt)
        assert found.structures[0].volume_ml == row.structures[0].volume_ml
    assert shown[rows_in(a_wish.out)[1].key].verdict == "accepted"


def test_what_is_no_batch_is_told(tmp_path):
    assert read_rows(tmp_path) == ()
    for text in ("", "[]", '{"format": "x", "version": 1}', '{"format": "protosam-batch"}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(UnreadableFile):
            read_rows(tmp_path)
