"""Whole batches with the small built-in model: each way from a source to results that count."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import batch_runner
import nibabel
import numpy as np
import pydicom
import pytest
from phantom_series import Ids, Layout, set_pixels, write_series

from protosam.batch.manifest import FILE, rows_in
from protosam.batch.patients import KEY_FILE
from protosam.batch.queue import Hooks
from protosam.batch.session import Plan, run_batch
from protosam.batch.ways import AutoFile, Recipe
from protosam.dicom.find import find_series
from protosam.dicom.read import read_series
from protosam.dicom.results import save_segments
from protosam.dicom.segmentations import read_segments
from protosam.dicom.sources import files_of
from protosam.dicom.web import Pacs
from protosam.dicom.write import Algorithm
from protosam.learn.auto_training import AutoSettings
from protosam.learn.finished_cases import CaseChoice
from protosam.learn.train_auto import train_auto
from protosam.metrics import dice
from protosam.models.load import load_model
from protosam.seg_nrrd import Segment

pytestmark = pytest.mark.slow

SIZE = 24
LAYOUT = Layout(slices=SIZE, shape=(SIZE, SIZE), spacing_mm=(1.5, 1.5), step_mm=1.5)
SECRETS = ("Mustermann", "Erika", "PID-4711", "19610523", "20240229", "Station-7")
"""Of the patient: name, id, birth, day of the study, and what a header says besides."""


def ball(centre: int = 12) -> np.ndarray:
    return ((np.indices((SIZE,) * 3) - centre) ** 2).sum(axis=0) < 30


def bright_ball(n: int, dataset: pydicom.Dataset) -> None:
    noise = np.random.default_rng(n).normal(0, 4, (SIZE, SIZE))
    values = np.where(ball()[n], 120, 20) + noise
    set_pixels(dataset, np.rint(2 * values + 100).astype(np.int16))
    dataset.PatientName, dataset.PatientID = "Mustermann^Erika", "PID-4711"
    dataset.PatientBirthDate, dataset.StudyDate = "19610523", "20240229"
    dataset.StationName = "Station-7"


@pytest.fixture
def a_ball_study(tmp_path: Path) -> tuple[Path, Ids]:
    ids = Ids.new()
    write_series(tmp_path / "study" / "ct", LAYOUT, ids, change=bright_ball)
    return tmp_path / "study", ids


def source_in(folder: Path):
    with files_of(folder) as files:
        (one,) = (one for one in find_series(files).taken if one.kind == "image")
        return read_series(one)


def reference(folder: Path, form: str) -> None:
    """A rough segmentation of the ball beside its series."""
    source = source_in(folder / "ct")
    rough = ball() & (np.indices((SIZE,) * 3)[0] < 14)
    algorithm = Algorithm("somebody else's", "1", "ab" * 32, kind="AUTOMATIC")
    save_segments(folder / f"{form}.dcm", [Segment("Liver", rough)], source, algorithm, form)


def run_here(plan: Plan, hooks: Hooks | None = None):
    return run_batch(plan, batch_runner.Here, hooks)


def found_in(out: Path, folder: Path) -> np.ndarray:
    (row,) = (row for row in rows_in(out) if row.status == "done")
    (path,) = (out / name for name in row.files if name.endswith("segmentation.dcm"))
    (segment,) = read_segments(path, source_in(folder / "ct")).segments
    return segment.mask


@pytest.mark.parametrize("form", ["seg", "rtstruct"])
def test_the_segmentation_of_a_study_is_where_its_new_one_starts(tmp_path, a_ball_study, form):
    folder, _ = a_ball_study
    reference(folder, form)
    out = tmp_path / "out"
    summary = run_here(Plan(folder, out, Recipe(device="cpu", from_seg=True)))

    (row,) = summary.rows
    assert (row.status, [one.name for one in row.structures]) == ("done", ["Liver"])
    assert row.structures[0].code == "SCT 10200004 Liver"
    assert dice(found_in(out, folder), ball()) > 0.7


def test_automatic_prompts_segment_a_study_without_a_click(tmp_path, a_ball_study):
    folder, _ = a_ball_study
    teach(tmp_path / "cases")
    model = load_model(device="cpu")
    settings = AutoSettings(steps=60, batch=4, width=16, slices=16, decode_from=0.9, check_every=20)
    choice = CaseChoice(tmp_path / "cases", labels=("liver",))
    path = tmp_path / "liver.auto"
    train_auto(choice, model, path, settings, on_progress=lambda *_: None)
    out = tmp_path / "out"
    recipe = Recipe(device="cpu", autos=(AutoFile("liver", path),))
    summary = run_here(Plan(folder, out, recipe, forms=("seg", "seg.nrrd")))

    (row,) = summary.rows
    assert row.status == "done", row.reason
    assert [one.code for one in row.structures] == ["SCT 10200004 Liver"]
    assert 0 < row.structures[0].confidence <= 1
    assert len(row.files) == 2
    assert dice(found_in(out, folder), ball()) > 0.6


def teach(folder: Path) -> None:
    folder.mkdir()
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    for n, centre in enumerate((10, 12, 13)):
        mask = ball(centre)
        noise = np.random.default_rng(n).normal(0, 4, mask.shape)
        voxels = (np.where(mask, 120, 20) + noise).astype(np.float32)
        for kind, data in (("img", voxels), ("lab", mask.astype(np.uint8))):
            image = nibabel.Nifti1Image(data.transpose(2, 1, 0), affine)
            nibabel.save(image, folder / f"c{n}_{kind}.nii.gz")
    (folder / "labels.json").write_text('{"1": "liver"}')


def orthanc_fixture():
    """The PACS of the DICOM tests."""
    path = Path(__file__).parents[1] / "dicom" / "test_orthanc.py"
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location("orthanc_of_dicom_tests", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


_orthanc = orthanc_fixture()
an_orthanc = _orthanc.an_orthanc


def command(orthanc, study_uid: str, out: Path, *more: str) -> list[str]:
    words = [study_uid, "-o", str(out), "--dicomweb", orthanc.url, "--device", "cpu", *more]
    return [sys.executable, "-m", "protosam", "batch", *words]


def environment() -> dict[str, str]:
    credentials = {"USER": _orthanc.USER, "PASSWORD": _orthanc.PASSWORD}
    return {
        **os.environ,
        **{f"PROTOSAM_DICOMWEB_{name}": value for name, value in credentials.items()},
    }


def test_nothing_that_is_written_or_said_names_the_patient(tmp_path, a_ball_study, an_orthanc):
    folder, ids = a_ball_study
    reference(folder, "seg")
    pacs = Pacs(an_orthanc.server())
    pacs.store([path for path in folder.rglob("*") if path.is_file()])
    out = tmp_path / "out"
    done = subprocess.run(
        command(an_orthanc, ids.study, out, "--from-seg", "--store"),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    (row,) = rows_in(out)
    assert row.status == "done" and row.stored
    assert len(pacs.series_of(ids.study, "SEG")) == 2
    assert not (out / ".fetched").exists()
    told = {"output": done.stdout, "log": done.stderr, "names": "\n".join(map(str, walk(out)))}
    for path in walk(out):
        # The results themselves are filed with the patient, and the key is its owner's.
        if path.is_file() and path.suffix != ".dcm" and path.name != KEY_FILE:
            told[str(path)] = path.read_bytes().decode("latin-1")
    assert {Path(name).name for name in told} >= {FILE, "results.csv", "report.html"}
    hidden = (*SECRETS, _orthanc.PASSWORD)
    assert {
        (where, secret) for where, text in told.items() for secret in hidden if secret in text
    } == set()


def walk(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


class SlowShelf:
    """A PACS of three series that stops the batch where it is told to."""

    def __init__(self, pacs: Pacs, when: Callable[[str, int], bool]) -> None:
        self.pacs, self.when = pacs, when
        self.stop = False
        self.count = {"fetch": 0, "store": 0}

    def series_of(self, *given):
        return self.pacs.series_of(*given)

    def fetch_series(self, study_uid, series_uid, folder, *, should_stop):
        def asked() -> bool:
            self.count["fetch"] += 1
            self.stop = self.stop or self.when("fetch", self.count["fetch"])
            return should_stop()

        return self.pacs.fetch_series(study_uid, series_uid, folder, should_stop=asked)

    def store(self, paths):
        stored = self.pacs.store(paths)
        self.count["store"] += 1
        self.stop = self.stop or self.when("store", self.count["store"])
        return stored


@pytest.mark.parametrize(
    "when",
    [
        lambda what, n: (what, n) == ("fetch", 1),
        lambda what, n: (what, n) == ("fetch", SIZE + 5),
        lambda what, n: (what, n) == ("store", 1),
    ],
    ids=["before the first file", "in the second series", "after the first result"],
)
def test_a_batch_that_is_stopped_at_the_pacs_loses_and_repeats_nothing(
    tmp_path, an_orthanc, monkeypatch, when
):
    from cheap_way import CheapWay

    from protosam.batch import session

    ids = Ids.new()
    pacs = Pacs(an_orthanc.server())
    for n in range(3):
        files = write_series(tmp_path / f"s{n}", LAYOUT, ids.other_series(), change=bright_ball)
        pacs.store(files)
    shelf = SlowShelf(pacs, when)
    monkeypatch.setattr(session, "Pacs", lambda _server: shelf)

    class CheapRecipe(Recipe):
        """Segments without a model."""

        wants_references = False

        def open(self):
            return CheapWay().open()

    recipe = CheapRecipe(device="cpu", from_seg=True)
    plan = Plan(ids.study, tmp_path / "out", recipe, server=an_orthanc.server(), store=True)
    begun = time.monotonic()
    first = run_here(plan, Hooks(should_stop=lambda: shelf.stop))
    assert shelf.stop
    kept = {row.key: row for row in first.rows if row.status == "done"}
    shelf.when, shelf.stop = lambda what, n: False, False
    second = run_here(plan, Hooks(should_stop=lambda: shelf.stop))

    assert [row.status for row in second.rows] == ["done"] * 3
    assert all(row.stored for row in second.rows)
    assert {row.key: row.files for row in second.rows if row.key in kept} == {
        key: row.files for key, row in kept.items()
    }
    assert len(pacs.series_of(ids.study, "SEG")) == 3
    assert time.monotonic() - begun < 200


def test_ctrl_c_while_a_study_is_fetched_ends_it_and_keeps_what_came(tmp_path, an_orthanc):
    ids = Ids.new()
    pacs = Pacs(an_orthanc.server())
    for n in range(3):
        long = Layout(slices=40, shape=(16, 16))
        pacs.store(write_series(tmp_path / f"s{n}", long, ids.other_series()))
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(an_orthanc, ids.study, out, "--from-seg"),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 120
        while len(list((out / ".fetched").rglob("*.dcm"))) < 5:
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(200) == 1
    finally:
        process.kill()
    rows = json.loads((out / FILE).read_text())["rows"]
    assert not [row for row in rows if row["status"] != "cancelled"]
    assert 5 <= len(list((out / ".fetched").rglob("*.dcm"))) < 3 * 40
