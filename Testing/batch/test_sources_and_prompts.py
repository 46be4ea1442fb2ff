"""What lies in a source, tables of prompts, and patients who stay unnamed."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phantom_series import Ids, Layout, write_series

from protosam.batch.patients import KEY_FILE, patient_key, whose
from protosam.batch.prompts import prompts_of, read_prompts
from protosam.batch.sources import inventory
from protosam.dicom.sources import files_of
from protosam.errors import InvalidInput, InvalidPrompt, UnreadableFile
from protosam.geometry import Volume, kji_to_ras

HEADER = "series,structure,kind,r,a,s,r2,a2,s2\n"
KEY = b"k" * 32


def found_in(source: Path, **options):
    with files_of(source) as files:
        return inventory(files, **options)


def save(volume: Volume, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.asarray(volume.voxels).transpose(2, 1, 0)
    nibabel.save(nibabel.Nifti1Image(voxels, volume.affine), path)
    return path


def test_series_plain_files_and_the_rest_are_told_apart(tmp_path: Path, a_ball: Volume):
    write_series(tmp_path / "ct", Layout(), Ids.new())
    write_series(tmp_path / "gap", Layout(depths=(0, 2.5, 7.5, 10)), Ids.new())
    save(a_ball, tmp_path / "Mustermann" / "scan.nii.gz")
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "old.seg.nrrd").write_text("nothing")
    found = found_in(tmp_path)
    assert len(found.tasks) == 2
    (refused,) = found.refused
    assert refused.status == "refused" and "missing" in refused.reason
    assert found.left_out == {
        "It is not a DICOM file.": 1,
        "It is a segmentation, not an image.": 1,
    }


def test_names_of_files_come_into_rows_only_where_they_may_be_shown(tmp_path: Path, a_ball: Volume):
    save(a_ball, tmp_path / "Mustermann" / "scan.nii.gz")
    (task,) = found_in(tmp_path).tasks
    assert "Mustermann" not in repr(task.row) and task.row.series_uid == f"file-{task.row.key}"
    assert task.content.names == ("Mustermann/scan.nii.gz", "scan.nii.gz")
    (shown,) = found_in(tmp_path, show_names=True).tasks
    assert shown.row.name == "Mustermann/scan.nii.gz" and shown.row.key == task.row.key


def test_a_tilted_series_is_a_task_only_where_it_may_be_straightened(tmp_path: Path):
    write_series(tmp_path, Layout(tilt_mm=0.8), Ids.new())
    assert not found_in(tmp_path).tasks
    assert len(found_in(tmp_path, straighten=True).tasks) == 1


def test_keys_stay_the_same_when_a_study_is_read_again(tmp_path: Path):
    ids = Ids.new()
    write_series(tmp_path / "a", Layout(), ids)
    write_series(tmp_path / "b", Layout(), ids.other_series())
    keys = [task.row.key for task in found_in(tmp_path).tasks]
    assert keys == [task.row.key for task in found_in(tmp_path).tasks]
    assert len(set(keys)) == 2


def test_points_and_boxes_in_mm_become_voxels(tmp_path: Path, a_ball: Volume):
    table = tmp_path / "prompts.csv"
    at = kji_to_ras(a_ball.affine, [(12, 11, 10), (3, 4, 5), (20, 19, 18)])
    inside, low, high = (",".join(f"{x:g}" for x in one) for one in at)
    table.write_text(
        HEADER
        + f"scan.nii.gz,liver,positive,{inside},,,\n"
        + f"scan.nii.gz,liver,negative,{low},,,\n"
        + f"scan.nii.gz,spleen,box,{low},{high}\n"
        + f"other,liver,positive,{inside},,,\n"
    )
    found = prompts_of(read_prompts(table), ["scan.nii.gz"], a_ball)
    assert list(found) == ["liver", "spleen"]
    assert [p.point_kji for p in found["liver"].points] == [(12, 11, 10), (3, 4, 5)]
    assert [p.positive for p in found["liver"].points] == [True, False]
    (box,) = found["spleen"].boxes
    assert (box.low_kji, box.high_kji, box.axis) == ((3, 4, 5), (20, 19, 18), None)


def test_a_point_outside_of_its_image_is_refused_when_that_is_opened(tmp_path: Path, a_ball):
    table = tmp_path / "prompts.csv"
    table.write_text(HEADER + "a,liver,positive,900,0,0,,,\n")
    with pytest.raises(InvalidPrompt, match="outside"):
        prompts_of(read_prompts(table), ["a"], a_ball)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("a,liver,plus,1,2,3", "kind is 'plus'"),
        ("a,liver,positive,1,2,", "not all numbers"),
        ("a,liver,positive,1,nan,3", "not all finite"),
        ("a,liver,box,1,2,3", "not all numbers"),
        ("a,liver,positive,1,2,3,4,5,6", "no second corner"),
        (",liver,positive,1,2,3", "no series"),
        ("a,,positive,1,2,3", "no series or structure"),
        ("a,liver,positive,1,2,3,,,,9", "too many fields"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, line: str, what: str):
    table = tmp_path / "prompts.csv"
    table.write_text(HEADER + "a,liver,positive,1,2,3,,,\n" + line + "\n")
    with pytest.raises(InvalidInput, match=f"prompts.csv, line 3: .*{what}"):
        read_prompts(table)


def test_a_file_that_is_no_table_is_refused(tmp_path: Path):
    for content in (b"", b"a,b\n1,2\n", b"series,kind,structure,r,a,s\n", HEADER.upper().encode()):
        (tmp_path / "x.csv").write_bytes(content)
        with pytest.raises(InvalidInput, match="Begin it with the line series,structure"):
            read_prompts(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UnreadableFile):
        read_prompts(tmp_path / "x.csv")
    with pytest.raises(UnreadableFile):
        read_prompts(tmp_path / "missing.csv")


@given(st.dates(), st.dates(), st.text(min_size=1, max_size=20))
def test_days_between_studies_stay_true_and_dates_hidden(first, second, patient):
    one, two = (whose(patient, f"{d:%Y%m%d}".zfill(8), KEY, show=False) for d in (first, second))
    assert one.patient == two.patient and len(one.patient) == 8
    assert two.day - one.day == (second - first).days
    assert one.date == two.date == ""


def test_patients_differ_by_id_and_by_key():
    a = whose("PID-1", "20240229", KEY, show=False)
    assert a.patient != whose("PID-2", "20240229", KEY, show=False).patient
    assert a.patient != whose("PID-1", "20240229", b"x" * 32, show=False).patient
    shown = whose("PID-1", "20240229", KEY, show=True)
    assert (shown.patient, shown.date) == ("PID-1", "2024-02-29")


def test_a_header_without_id_or_date_tells_nothing():
    assert whose("", "20240229", KEY, show=True).patient == ""
    assert whose("PID-1", "unknown", KEY, show=True).day is None


def test_the_key_is_made_once_and_is_for_its_owner_only(tmp_path: Path):
    key = patient_key(tmp_path)
    assert patient_key(tmp_path) == key and len(key) == 32
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o077 == 0
    (tmp_path / KEY_FILE).write_bytes(b"short")
    with pytest.raises(UnreadableFile, match="5 bytes"):
        patient_key(tmp_path)
