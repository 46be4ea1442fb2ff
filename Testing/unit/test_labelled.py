"""Which files of a folder are a case, what its labels are called, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from protosam.errors import GeometryError, InvalidInput, UnreadableFile
from protosam.labelled import cases_of_split, read_dataset


def write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)


def write_png(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(voxels).save(path)


@pytest.fixture
def a_dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "mixed"
    labels = np.zeros((4, 5, 6), dtype=np.uint8)
    labels[1:3, 1:4, 1:5] = 2
    write_nifti(folder / "b_img.nii.gz", np.ones((4, 5, 6), dtype=np.int16) + labels)
    write_nifti(folder / "b_lab.nii.gz", labels)
    write_nifti(folder / "b_scribble.nii.gz", labels)
    write_png(folder / "train" / "a_img.jpg", np.full((7, 8, 3), 90, dtype=np.uint8))
    write_png(folder / "train" / "a_lab.png", np.eye(7, 8, dtype=np.uint8) * 255)
    write_png(folder / "train" / "a_lab2.png", np.eye(7, 8, dtype=np.uint8) * 255)
    return folder


def test_cases_are_found_in_sub_folders_whatever_their_endings(a_dataset: Path) -> None:
    data = read_dataset(a_dataset)
    assert data.name == "mixed"
    assert [case.name for case in data.cases] == ["b", "train/a"]
    image, labels = data.cases[1].read()
    assert image.shape_kji == labels.shape_kji == (1, 7, 8)
    assert set(np.unique(labels.voxels)) == {0, 255}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"2": "liver"}', "liver"),
        ('{"1-8": "many things", "2": "liver"}', "liver"),
        ('{"255": "polyp"}', "label 2"),
        ('"one text for all"', "label 2"),
        (None, "label 2"),
    ],
)
def test_labels_are_named_as_far_as_the_file_names_them(
    a_dataset: Path, text: str | None, name: str
) -> None:
    if text is not None:
        (a_dataset / "labels.json").write_text(text, encoding="utf-8")
    assert read_dataset(a_dataset).label_name(2) == name


def test_two_labels_of_one_name_are_told_apart(a_dataset: Path) -> None:
    (a_dataset / "labels.json").write_text('{"1": "kidney", "2": "kidney"}', encoding="utf-8")
    data = read_dataset(a_dataset)
    assert (data.label_name(1), data.label_name(2)) == ("kidney (1)", "kidney (2)")


def test_labels_are_chosen_by_name_or_number(a_dataset: Path) -> None:
    (a_dataset / "labels.json").write_text('{"1": "Liver", "2": "spleen"}', encoding="utf-8")
    data = read_dataset(a_dataset)
    assert data.labels_named(()) is None
    assert data.labels_named(["liver", " 2"]) == {1, 2}
    with pytest.raises(InvalidInput, match="heart"):
        data.labels_named(["heart"])


def test_cases_are_chosen_by_name_and_by_number(a_dataset: Path) -> None:
    data = read_dataset(a_dataset)
    assert [case.name for case in data.chosen(["train/a"]).cases] == ["train/a"]
    assert [case.name for case in data.chosen([], limit=1).cases] == ["b"]
    with pytest.raises(InvalidInput, match="no case c"):
        data.chosen(["c"])
    with pytest.raises(InvalidInput, match="--limit"):
        data.chosen([], limit=0)


def test_a_split_gives_the_cases_of_its_part(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": {"mixed": ["b"]}, "note": "x"}), encoding="utf-8")
    assert cases_of_split(path, "train", "mixed") == ("b",)
    with pytest.raises(InvalidInput, match="no part 'test'"):
        cases_of_split(path, "test", "mixed")
    with pytest.raises(InvalidInput, match="no cases of 'other'"):
        cases_of_split(path, "train", "other")
    with pytest.raises(InvalidInput, match="no cases"):
        cases_of_split(path, "note", "mixed")
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UnreadableFile, match="not JSON"):
        cases_of_split(path, "train", "mixed")
    with pytest.raises(UnreadableFile, match="cannot be read"):
        cases_of_split(tmp_path / "absent.json", "train", "mixed")


def test_an_image_and_labels_on_two_grids_are_refused(a_dataset: Path) -> None:
    shifted = np.eye(4)
    shifted[0, 3] = 0.5
    write_nifti(a_dataset / "b_lab.nii.gz", np.ones((4, 5, 6), dtype=np.uint8), shifted)
    with pytest.raises(GeometryError, match=r"0\.5 mm"):
        read_dataset(a_dataset).cases[0].read()
    write_nifti(a_dataset / "b_lab.nii.gz", np.ones((4, 5, 5), dtype=np.uint8))
    with pytest.raises(GeometryError, match="voxels"):
        read_dataset(a_dataset).cases[0].read()


def test_a_folder_that_cannot_be_played_is_refused(a_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no folder"):
        read_dataset(tmp_path / "absent")
    (tmp_path / "bare").mkdir()
    with pytest.raises(InvalidInput, match="holds no image"):
        read_dataset(tmp_path / "bare")
    (a_dataset / "c_img.nrrd").touch()
    with pytest.raises(InvalidInput, match="no labels beside them: c"):
        read_dataset(a_dataset)
    (a_dataset / "c_img.nrrd").rename(a_dataset / "b_img.nrrd")
    with pytest.raises(InvalidInput, match="two files"):
        read_dataset(a_dataset)


@pytest.mark.parametrize(
    ("dataset", "count", "case"),
    [("usgra_nerve_us_2d", 30, "train/0012"), ("btcv_abdomen_ct", 4, "btcv_03")],
)
def test_the_cases_of_the_real_split_are_all_there(
    shared_data: Path, dataset: str, count: int, case: str
) -> None:
    data = read_dataset(shared_data / dataset)
    wanted = cases_of_split(shared_data / "split.json", "validation", dataset)
    chosen = data.chosen(wanted)
    assert len(chosen.cases) == count
    assert chosen.cases[0].name == case
