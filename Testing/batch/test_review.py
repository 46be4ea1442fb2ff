"""Looking through a batch: what an editor gets, verdicts, and corrected cases."""

from __future__ import annotations

import json
from pathlib import Path

import batch_runner
import nibabel
import numpy as np
import pytest
from cheap_way import CheapWay
from phantom_series import Layout, write_series
from typer.testing import CliRunner

from protosam.batch.manifest import RESULTS, rows_in
from protosam.batch.review import FILE, decide, finished_row, hand_out, keep_corrected, verdicts
from protosam.cases.saved import CaseFolder
from protosam.cli.app import app
from protosam.dicom.find import find_series
from protosam.dicom.read import read_series
from protosam.dicom.sources import LIST_ENDING, files_of
from protosam.errors import GeometryError, InvalidInput, UnreadableFile
from protosam.prompting.finished import read_segments
from protosam.seg_nrrd import Segment, write_segmentation
from protosam.volume_io import read_volume


def go(source, out, **options):
    return batch_runner.go(source, out, batch_runner.Here, **options)


@pytest.fixture
def a_batch(tmp_path: Path, a_study: Path) -> Path:
    assert go(a_study, tmp_path / "out")
    return tmp_path / "out"


def first_key(folder: Path) -> str:
    return rows_in(folder)[0].key


@pytest.mark.parametrize("form", ["seg", "labelmap", "rtstruct", "seg.nrrd"])
def test_image_and_result_are_handed_out_on_the_grid_of_the_source(tmp_path, a_study, form):
    out = tmp_path / "out"
    assert go(a_study, out, forms=(form,))
    row = rows_in(out)[0]
    found = hand_out(out, a_study, row.key, tmp_path / "desk")
    image = read_volume(found.image)
    (segment,) = read_segments(found.segmentation, image)
    with files_of(a_study) as files:
        (series,) = (
            one for one in find_series(files).taken if one.identity.series_uid == row.series_uid
        )
        source = read_series(series).volume

    assert np.allclose(image.affine, source.affine, atol=1e-4)
    assert np.array_equal(image.voxels, source.voxels)
    assert segment.name.lower() == "liver"
    assert np.array_equal(segment.mask, source.voxels > np.median(source.voxels))


def test_a_corrected_result_becomes_a_case_without_what_names_the_patient(
    tmp_path, a_batch, a_study
):
    key = first_key(a_batch)
    found = hand_out(a_batch, a_study, key, tmp_path / "desk")
    image = read_volume(found.image)
    (segment,) = read_segments(found.segmentation, image)
    better = segment.mask.copy()
    better[0] = False
    empty = Segment("unfinished", np.zeros(image.shape_kji, bool))
    write_segmentation(found.segmentation, [Segment("liver", better), empty], image)
    before = digests(a_batch / RESULTS)
    saved = keep_corrected(a_batch, a_study, key, found.segmentation, tmp_path / "cases")

    case = CaseFolder(tmp_path / "cases").read(saved.id)
    assert [one.name for one in case.segments] == ["liver"]
    assert case.segments[0].code.value == "10200004"
    assert np.array_equal(case.segments[0].mask, better)
    assert verdicts(a_batch) == {key: "corrected"}
    assert digests(a_batch / RESULTS) == before
    for path in [*(tmp_path / "cases").rglob("*"), a_batch / FILE]:
        assert not path.is_file() or b"4711" not in path.read_bytes()
    again = keep_corrected(a_batch, a_study, key, found.segmentation, tmp_path / "cases")
    assert [one.id for one in CaseFolder(tmp_path / "cases").cases()] == [again.id]


def digests(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_correction_on_another_grid_is_refused(tmp_path, a_batch, a_study):
    key = first_key(a_batch)
    found = hand_out(a_batch, a_study, key, tmp_path / "desk")
    image = read_volume(found.image)
    affine = image.affine.copy()
    affine[0, 3] += 0.4
    moved = type(image)(image.voxels, affine)
    mask = np.ones(image.shape_kji, bool)
    write_segmentation(found.segmentation, [Segment("liver", mask)], moved)

    with pytest.raises(GeometryError):
        keep_corrected(a_batch, a_study, key, found.segmentation, tmp_path / "cases")
    assert verdicts(a_batch) == {}


def test_plain_files_are_reviewed_like_series(tmp_path, a_ball):
    (tmp_path / "in").mkdir()
    picture = nibabel.Nifti1Image(np.asarray(a_ball.voxels).transpose(2, 1, 0), a_ball.affine)
    nibabel.save(picture, tmp_path / "in" / "Mustermann.nii.gz")
    out = tmp_path / "out"
    assert go(tmp_path / "in", out)
    found = hand_out(out, tmp_path / "in", first_key(out), tmp_path / "desk")

    assert np.allclose(read_volume(found.image).voxels, a_ball.voxels)
    saved = keep_corrected(
        out, tmp_path / "in", first_key(out), found.segmentation, tmp_path / "cases"
    )
    assert CaseFolder(tmp_path / "cases").read(saved.id).image.shape_kji == a_ball.shape_kji


def test_verdicts_can_be_given_changed_and_taken_back(a_batch):
    one, two, _ = (row.key for row in rows_in(a_batch))
    decide(a_batch, one, "accepted")
    decide(a_batch, two[:8], "corrected")
    decide(a_batch, one, "corrected")
    assert verdicts(a_batch) == {one: "corrected", two: "corrected"}
    decide(a_batch, one, None)
    assert verdicts(a_batch) == {two: "corrected"}


def test_what_has_no_result_cannot_be_decided(tmp_path, a_study, a_batch):
    with pytest.raises(InvalidInput, match="0 series of this batch begin with"):
        decide(a_batch, "zz", "accepted")
    with pytest.raises(InvalidInput, match=r"3 series|0 series"):
        finished_row(a_batch, "")
    uid = rows_in(a_batch)[0].series_uid
    go(a_study, tmp_path / "other", way=CheapWay(wrong=(uid,)))
    (bad,) = (row for row in rows_in(tmp_path / "other") if row.status == "failed")
    with pytest.raises(InvalidInput, match="is failed"):
        decide(tmp_path / "other", bad.key, "accepted")
    with pytest.raises(UnreadableFile):
        rows_in(tmp_path / "nothing")


def test_a_damaged_file_of_verdicts_is_told(a_batch):
    for text in ("[1]", "nothing", '{"a": "perhaps"}'):
        (a_batch / FILE).write_text(text)
        with pytest.raises(UnreadableFile, match="is damaged"):
            verdicts(a_batch)


def test_another_source_is_not_taken_for_the_batchs_own(tmp_path, a_batch):
    write_series(tmp_path / "else" / "s", Layout())
    with pytest.raises(InvalidInput, match="not in the source"):
        hand_out(a_batch, tmp_path / "else", first_key(a_batch), tmp_path / "desk")
    assert not (tmp_path / "desk").exists()


def test_the_commands_answer_in_json(tmp_path, a_batch, a_study):
    def ask(*words):
        shown = CliRunner().invoke(app, ["review", *map(str, words), "--json"])
        assert shown.exit_code == 0, shown.output
        return json.loads(shown.stdout)

    rows = ask("list", a_batch)
    key = rows[0]["key"]
    desk = tmp_path / "desk"
    paths = ask("open", a_batch, key, "--source", a_study, "--into", desk)
    cases = ("--source", a_study, "--cases", tmp_path / "cases")

    assert [row["status"] for row in rows] == ["done"] * 3
    assert all(Path(path).is_file() for path in paths.values())
    assert ask("accept", a_batch, key)["files"][0].endswith("segmentation.dcm")
    assert ask("list", a_batch)[0]["verdict"] == "accepted"
    assert ask("reopen", a_batch, key) == {"key": key}
    assert len(ask("correct", a_batch, key, paths["segmentation"], *cases)["case"]) == 16
    assert ask("list", a_batch)[0]["verdict"] == "corrected"
    assert "corrected" in CliRunner().invoke(app, ["review", "list", str(a_batch)]).output


def test_a_list_of_files_is_a_source(tmp_path, a_study):
    paths = sorted(path for path in a_study.rglob("*") if path.is_file())
    listed = tmp_path / f"chosen{LIST_ENDING}"
    listed.write_text("\n".join(map(str, paths[: len(paths) // 3])) + "\n/not/there\n\n")
    with files_of(listed) as files:
        found = find_series(files)

    assert len(found.taken) == 1
    assert [note.reason for note in files.notes] == ["A file of the list is not there."]
    assert go(listed, tmp_path / "out")
    hand_out(tmp_path / "out", listed, first_key(tmp_path / "out"), tmp_path / "desk")
    listed.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UnreadableFile, match="list"), files_of(listed):
        raise AssertionError("it was read")
