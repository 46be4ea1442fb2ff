"""The queue and its processes: one row a series, whatever happens."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from batch_runner import go
from cheap_way import CheapWay
from phantom_series import Ids, Layout, write_series

from protosam.batch.lanes import NEEDED, LanePool, Limits
from protosam.batch.manifest import FILE, OUTCOME, RESULTS, Manifest, Row, commit, committed
from protosam.batch.queue import Hooks, Progress
from protosam.batch.work import WORKING, Order, SeriesWork
from protosam.dicom.find import find_series
from protosam.dicom.sources import files_of
from protosam.errors import InvalidInput, ModelUnavailable, StorageFailure, UnreadableFile

HERE = Path(__file__).parent
TINY = {"slices": 4, "shape": (6, 7)}


def rows_in(out: Path) -> dict[str, dict]:
    rows = json.loads((out / FILE).read_text())["rows"]
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["series_uid"]: row for row in rows}


def masks_in(out: Path) -> dict[str, bytes]:
    """Pixels of the results by series; the rest of a file has times and new UIDs in it."""
    found = {}
    for uid, row in rows_in(out).items():
        for name in row["files"]:
            found[uid] = pydicom.dcmread(out / name).PixelData
    return found


def verdicts(out: Path) -> dict[str, tuple[str, str]]:
    return {uid: (row["status"], row["reason"]) for uid, row in rows_in(out).items()}


def folder_of(uid: str, study: Path) -> Path:
    """Folder in which a series of a study lies."""
    headers = {folder: pydicom.dcmread(next(folder.iterdir())) for folder in study.iterdir()}
    return next(f for f, header in headers.items() if header.SeriesInstanceUID == uid)


def files_below(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def uids(a_study: Path) -> list[str]:
    """Series in the order in which the queue takes them."""
    with files_of(a_study) as files:
        return [series.identity.series_uid for series in find_series(files).taken]


@pytest.fixture
def a_clinic(tmp_path: Path) -> Path:
    """40 series of which 6 are bad: two with a gap, two tilted, one damaged, one without light."""
    source = tmp_path / "clinic"
    for n in range(40):
        layout = Layout(**TINY, origin=(-31.5, 12.25 + n, 40.0))
        if n in (3, 11):
            layout = Layout(**TINY, depths=(0.0, 2.5, 7.5, 10.0))
        if n in (17, 21):
            layout = Layout(**TINY, tilt_mm=0.8)
        write_series(source / f"{n:02d}", layout, Ids.new(), change=_broken if n == 33 else None)
        if n == 29:
            _darken(source / f"{n:02d}")
    return source


def _broken(_n: int, dataset) -> None:
    dataset.PixelData = dataset.PixelData[:20]


def _darken(folder: Path) -> None:
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PixelData = np.full((6, 7), -500, "<i2").tobytes()
        dataset.save_as(path)


def test_each_series_gets_a_row_and_a_result_and_the_source_stays(a_study: Path, tmp_path: Path):
    before = files_below(a_study)
    seen: list[Progress] = []
    assert go(a_study, tmp_path / "out", hooks=Hooks(on_progress=seen.append))
    rows = rows_in(tmp_path / "out")
    assert [row["status"] for row in rows.values()] == ["done"] * 3
    assert len(masks_in(tmp_path / "out")) == 3
    assert files_below(a_study) == before
    assert (seen[0].finished, seen[0].left_s) == (0, None)
    assert (seen[-1].finished, seen[-1].total, seen[-1].left_s) == (3, 3, 0.0)
    assert not list((tmp_path / "out" / WORKING).iterdir())


def test_nothing_names_the_patient(a_study: Path, tmp_path: Path):
    go(a_study, tmp_path / "out")
    texts = [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".json", ".png")]
    assert len(texts) == 7
    for path in texts:
        content = path.read_bytes()
        assert not any(one in content for one in (b"Mustermann", b"PID-4711", b"20240229"))


def test_a_second_run_repeats_nothing(a_study: Path, tmp_path: Path):
    go(a_study, tmp_path / "out")
    before = files_below(tmp_path / "out" / RESULTS)
    assert go(a_study, tmp_path / "out", way=CheapWay(is_missing=True))
    assert files_below(tmp_path / "out" / RESULTS) == before


def test_a_series_that_kills_its_process_costs_itself_alone(a_study: Path, tmp_path: Path, uids):
    go(a_study, tmp_path / "out", way=CheapWay(deadly=(uids[1],)))
    found = verdicts(tmp_path / "out")
    assert found[uids[1]] == ("failed", "Its process was ended by signal 9, 2 times in a row.")
    assert found[uids[0]] == found[uids[2]] == ("done", "")


def test_a_fault_of_the_program_is_one_row_and_quotes_nothing(a_study: Path, tmp_path: Path, uids):
    go(a_study, tmp_path / "out", way=CheapWay(wrong=(uids[0],)))
    status, reason = verdicts(tmp_path / "out")[uids[0]]
    assert status == "failed"
    assert reason.startswith("A fault of the program: ZeroDivisionError in cheap_way.py, line ")
    assert "Mustermann" not in reason


@pytest.mark.parametrize(
    ("limits", "way", "reason"),
    [
        (Limits(time_s=1), "slow", "It took more than 1 s."),
        (Limits(memory_bytes=800 * 2**20), "large", "It took more than 800 MiB of memory."),
    ],
)
def test_a_series_may_take_so_much_and_no_more(tmp_path: Path, limits, way: str, reason: str):
    ids = Ids.new()
    write_series(tmp_path / "one", Layout(**TINY), ids)
    begun = time.monotonic()
    chosen = CheapWay(**{way: (ids.series,)})
    go(tmp_path / "one", tmp_path / "out", lambda work: LanePool(work, 1, limits), way=chosen)
    assert verdicts(tmp_path / "out") == {ids.series: ("failed", reason)}
    assert time.monotonic() - begun < 250  # left alone it takes 600 s


def test_stopping_takes_seconds_and_the_next_run_does_the_rest(a_study: Path, tmp_path: Path, uids):
    ended = []
    hooks = Hooks(lambda progress: ended.append(progress.finished), lambda: 1 in ended)
    begun = time.monotonic()
    went_through = go(a_study, tmp_path / "out", hooks=hooks, way=CheapWay(slow=tuple(uids[1:])))
    assert not went_through
    assert time.monotonic() - begun < 250  # a slow series takes 600 s
    states = sorted(status for status, _ in verdicts(tmp_path / "out").values())
    assert states == ["cancelled", "cancelled", "done"]
    assert go(a_study, tmp_path / "out")
    assert {status for status, _ in verdicts(tmp_path / "out").values()} == {"done"}


def test_a_missing_model_ends_the_batch_and_leaves_the_rows_waiting(a_study: Path, tmp_path: Path):
    with pytest.raises(ModelUnavailable, match="no such model"):
        go(a_study, tmp_path / "out", way=CheapWay(is_missing=True))
    assert {status for status, _ in verdicts(tmp_path / "out").values()} == {"waiting"}


def test_a_structure_without_a_code_is_refused_and_nothing_is_written(a_study, tmp_path: Path):
    go(a_study, tmp_path / "out", way=CheapWay(structure="livver"))
    for status, reason in verdicts(tmp_path / "out").values():
        assert status == "refused" and "Liver" in reason
    assert not (tmp_path / "out" / RESULTS).exists()


def test_a_series_that_vanished_is_told_and_one_that_came_is_taken(a_study: Path, tmp_path):
    moved = tmp_path / "elsewhere"
    ended = []
    hooks = Hooks(lambda progress: ended.append(progress.finished), lambda: 1 in ended)
    go(a_study, tmp_path / "out", hooks=hooks)
    left = [uid for uid, (status, _) in verdicts(tmp_path / "out").items() if status != "done"]
    folder_of(left[0], a_study).rename(moved)
    write_series(a_study / "new", Layout(**TINY), Ids.new())
    go(a_study, tmp_path / "out")
    found = verdicts(tmp_path / "out")
    assert found[left[0]] == ("failed", "It was in the source before and is no longer there.")
    assert sorted(status for status, _ in found.values()) == ["done", "done", "done", "failed"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_forty_series_killed_ten_times_end_once_each_and_alike(a_clinic: Path, tmp_path: Path):
    assert go(a_clinic, tmp_path / "undisturbed")
    wanted = verdicts(tmp_path / "undisturbed")
    counts = [status for status, _ in wanted.values()]
    assert (counts.count("done"), counts.count("refused"), counts.count("failed")) == (34, 6, 0)

    out = tmp_path / "killed"
    order = [sys.executable, str(HERE / "batch_runner.py"), str(a_clinic), str(out), "1", "0"]
    dice, committed_before = random.Random(8), {}
    kills = 0
    while kills < 10:
        # Some moments lie before the first result, most between two of them.
        enough = len(committed_before) + dice.randint(0, 4)
        _killed_after(order, out, enough, dice.uniform(0, 0.3))
        kills += 1
        now = {path: path.stat().st_ino for path in out.glob(f"{RESULTS}/*/{OUTCOME}")}
        assert committed_before.items() <= now.items()  # nothing was done again
        committed_before = now
    assert go(a_clinic, out, lambda work: LanePool(work, 2))
    assert verdicts(out) == wanted
    assert masks_in(out) == masks_in(tmp_path / "undisturbed")
    assert len(list((out / RESULTS).iterdir())) == 34
    assert not list((out / WORKING).iterdir())


def _killed_after(order: list[str], out: Path, results: int, further_s: float) -> None:
    """Start a batch and kill it some time after so many results are there."""
    process = subprocess.Popen(order, stderr=subprocess.PIPE)
    while process.poll() is None and len(list(out.glob(f"{RESULTS}/*/{OUTCOME}"))) < results:
        time.sleep(0.01)
    time.sleep(further_s)
    process.kill()
    said = process.communicate()[1].decode()
    assert process.returncode in (0, -signal.SIGKILL), said


def test_two_processes_find_what_one_finds(a_study: Path, tmp_path: Path):
    go(a_study, tmp_path / "one")
    go(a_study, tmp_path / "two", lambda work: LanePool(work, 2))
    assert verdicts(tmp_path / "one") == verdicts(tmp_path / "two")
    assert masks_in(tmp_path / "one") == masks_in(tmp_path / "two")


def test_results_that_were_whole_before_a_kill_are_taken_up(tmp_path: Path):
    row = Row("a1", "1.2.3", status="done")
    staging = tmp_path / "staging"
    staging.mkdir()
    assert commit(tmp_path, staging, row) == row
    assert committed(tmp_path, Row("a1", "1.2.3")) == row
    staging.mkdir()
    later = Row("a1", "1.2.3", status="done", reason="Not found: liver.")
    assert commit(tmp_path, staging, later) == row  # the first one counts


def test_a_folder_is_held_by_one_batch_at_a_time(tmp_path: Path):
    with Manifest(tmp_path, "a"), pytest.raises(StorageFailure, match="Another batch"):  # noqa: SIM117
        with Manifest(tmp_path, "a"):
            pass


def test_a_folder_of_other_options_is_refused(tmp_path: Path):
    with Manifest(tmp_path, "a") as manifest:
        manifest.enrol([Row("k", "1.2")])
    with pytest.raises(InvalidInput, match="other options"), Manifest(tmp_path, "b"):
        pass


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"waiting"', '"finished"'),
        lambda text: text.replace('"key"', '"kee"'),
        lambda text: "[]",
        lambda text: text.replace('"notes": []', '"notes": 5'),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, change: Callable[[str], str]):
    with Manifest(tmp_path, "a") as manifest:
        manifest.enrol([Row("k", "1.2")])
    path = tmp_path / FILE
    path.write_text(change(path.read_text()))
    with pytest.raises((UnreadableFile, InvalidInput)), Manifest(tmp_path, "a"):
        pass


def test_a_manifest_that_cannot_be_written_is_told(a_full_disk: Path):
    with Manifest(a_full_disk, "a") as manifest:
        rows = [Row(f"k{n}", "1.2", reason="x" * 1000) for n in range(200)]
        with pytest.raises(StorageFailure, match="No space"):
            manifest.enrol(rows)


def test_what_lanes_are_forked_with_is_there() -> None:
    # A name that is not there would make every lane import for seconds, without a word.
    assert importlib.util.find_spec(NEEDED) is not None


def test_lanes_are_begun_before_there_is_a_task_and_no_more_than_are_needed(a_study, tmp_path):
    before = set(multiprocessing.active_children())

    def lanes() -> int:
        return len(set(multiprocessing.active_children()) - before)

    pool = LanePool(SeriesWork(Order(tmp_path, CheapWay())), 3)
    try:
        pool.expect(2)
        assert lanes() == 2
        pool.expect(200)
        assert lanes() == 3
        pool.expect(1)
        assert lanes() == 1
    finally:
        pool.stop()
    assert lanes() == 0


def test_a_batch_without_a_series_leaves_no_lane_behind(tmp_path):
    source = tmp_path / "empty"
    source.mkdir()
    (source / "notes.txt").write_text("nothing of this")
    before = set(multiprocessing.active_children())
    assert go(source, tmp_path / "out", lambda work: LanePool(work, 2))
    assert set(multiprocessing.active_children()) == before


def test_impossible_limits_are_refused():
    with pytest.raises(InvalidInput, match="limits above 0"):
        Limits(time_s=0)
    with pytest.raises(InvalidInput, match="at least one"):
        LanePool(None, 0)
