"""Studies from a PACS and results to it; how DICOMweb is spoken is tested beside `dicom.web`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from phantom_series import Ids, Layout, write_series

from protosam.batch.manifest import FILE, Manifest, Row
from protosam.batch.pacs import FETCHED, drop_fetched, fetch_study, store_results
from protosam.dicom.web import RemoteSeries
from protosam.errors import ServerFailure


class Shelf:
    """A PACS of two series that is asked as `Pacs` is, and fails where it is told to."""

    def __init__(self, *failing: str) -> None:
        self.ids = {name: Ids.new() for name in ("first", "second")}
        self.failing = failing
        self.fetched: list[str] = []
        self.stored: list[Path] = []

    def series_of(self, study_uid: str, modality: str = "") -> tuple[RemoteSeries, ...]:
        if study_uid != "1.2":
            return ()
        return tuple(RemoteSeries("1.2", ids.series, "CT", "1", 6) for ids in self.ids.values())

    def fetch_series(
        self, study_uid: str, series_uid: str, folder: Path, *, should_stop=lambda: False
    ) -> tuple[Path, ...]:
        (name,) = [name for name, ids in self.ids.items() if ids.series == series_uid]
        if name in self.failing:
            raise ServerFailure("The server failed.", "Try again.")
        self.fetched.append(name)
        return tuple(write_series(folder, Layout(slices=3), self.ids[name]))

    def store(self, paths: list[Path]) -> tuple[str, ...]:
        if "store" in self.failing:
            raise ServerFailure("The server failed.", "Try again.")
        self.stored += paths
        return tuple(path.name for path in paths)


def go_on() -> bool:
    return False


def test_a_series_that_cannot_be_had_is_one_row_until_it_can(tmp_path: Path):
    shelf = Shelf("second")
    with Manifest(tmp_path, "a") as manifest:
        files = fetch_study(shelf, "1.2", manifest, go_on)
        assert len(files.paths) == 3
        (row,) = manifest.rows
        assert (row.series_uid, row.status) == (shelf.ids["second"].series, "failed")
        assert "The server failed." in row.reason
        shelf.failing = ()
        manifest.reopen_failed()
        assert len(fetch_study(shelf, "1.2", manifest, go_on).paths) == 6
        assert manifest.rows == ()


def test_what_is_finished_is_not_fetched_again(tmp_path: Path):
    shelf = Shelf()
    with Manifest(tmp_path, "a") as manifest:
        manifest.enrol([Row("k", shelf.ids["first"].series, status="done")])
        fetch_study(shelf, "1.2", manifest, go_on)
        assert shelf.fetched == ["second"]
        drop_fetched(manifest)
    assert not (tmp_path / FETCHED).exists()


def test_fetched_files_stay_while_something_is_left_to_do(tmp_path: Path):
    with Manifest(tmp_path, "a") as manifest:
        fetch_study(Shelf(), "1.2", manifest, go_on)
        manifest.enrol([Row("k", "1.2.3", status="cancelled")])
        drop_fetched(manifest)
    assert (tmp_path / FETCHED).exists()


def test_a_study_that_is_not_there_is_told(tmp_path: Path):
    with Manifest(tmp_path, "a") as manifest, pytest.raises(ServerFailure, match="no such study"):
        fetch_study(Shelf(), "1.9", manifest, go_on)


def test_results_are_stored_once_and_what_was_not_taken_is_tried_again(tmp_path: Path):
    row = Row("k", "1.2.3", status="done", files=("series/k/a.dcm", "series/k/a.seg.nrrd"))
    rows = [row, Row("r", "1.2.4", status="refused"), replace(row, key="n", files=())]
    shelf = Shelf("store")
    with Manifest(tmp_path, "a") as manifest:
        manifest.enrol(rows)
        (problem,) = store_results(shelf, manifest, go_on)
        assert "1.2.3 was not stored" in problem and not manifest.row("k").stored
        shelf.failing = ()
        assert store_results(shelf, manifest, go_on) == []
        assert store_results(shelf, manifest, go_on) == []
    assert shelf.stored == [tmp_path / "series/k/a.dcm"]
    assert '"stored": true' in (tmp_path / FILE).read_text()
