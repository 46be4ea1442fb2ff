"""Prepared volumes: which cases, written once, read as they were."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from protosam.errors import InvalidInput
from protosam.learn import sources
from protosam.learn.settings import TrainBaseSettings
from protosam.learn.sources import ROOM, load_sources, prepare, training_cases

VOLUMES, IMAGES = "hippocampus_msd", "sunnybrook_2d"
SETTINGS = TrainBaseSettings(mix={VOLUMES: 0.5, IMAGES: 0.5, "openkbp_headneck_ct": 1.0})


@pytest.fixture
def a_data_folder(tmp_path: Path) -> Path:
    """Four volumes and two images with labels, and a split that keeps some for testing."""
    data = tmp_path / "data"
    (data / VOLUMES).mkdir(parents=True)
    (data / IMAGES).mkdir()
    rng = np.random.default_rng(0)
    affine = np.diag([0.5, 1.0, 2.0, 1.0])
    for case in ("a", "b", "c", "d"):
        image = rng.uniform(0, 100, size=(20, 18, 16)).astype(np.float32)  # (i, j, k)
        labels = np.zeros(image.shape, dtype=np.uint8)
        labels[5:9, 4:10, 2:6] = 2
        labels[0, 0, 0] = 1  # too small to be an object
        nib.save(nib.Nifti1Image(image, affine), data / VOLUMES / f"{case}_img.nii.gz")
        nib.save(nib.Nifti1Image(labels, affine), data / VOLUMES / f"{case}_lab.nii.gz")
    for case in ("x", "y"):
        grey = rng.integers(0, 255, size=(30, 40), dtype=np.uint8)
        mask = np.zeros((30, 40), dtype=np.uint8)
        mask[10:20, 10:30] = 255
        Image.fromarray(grey).save(data / IMAGES / f"{case}_img.png")
        Image.fromarray(mask).save(data / IMAGES / f"{case}_lab.png")
    split = {"train": {VOLUMES: ["c", "a", "b"], IMAGES: ["x"]}, "test": {VOLUMES: ["d"]}}
    (data / "split.json").write_text(json.dumps(split))
    return data


def ready(data: Path | None, cache: Path, settings: TrainBaseSettings = SETTINGS) -> list[int]:
    seen: list[int] = []
    prepare(data, cache, settings, lambda done, total: seen.extend((done, total)))
    return seen


def test_held_out_cases_are_the_last_volumes_and_no_images(a_data_folder: Path) -> None:
    assert training_cases(a_data_folder, VOLUMES, 2) == ["a"]
    assert training_cases(a_data_folder, VOLUMES, 0) == ["a", "b", "c"]
    assert training_cases(a_data_folder, VOLUMES, 9) == []
    assert training_cases(a_data_folder, IMAGES, 2) == ["x"]
    assert training_cases(a_data_folder, "btcv_abdomen_ct", 2) == []


def test_a_folder_without_a_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no split\.json"):
        training_cases(tmp_path, VOLUMES, 2)


def test_only_training_cases_of_sources_that_are_there_are_prepared(
    a_data_folder: Path, tmp_path: Path
) -> None:
    progress = ready(a_data_folder, tmp_path / "cache")
    assert progress == [0, 2, 1, 2, 2, 2]
    found = load_sources(tmp_path / "cache", SETTINGS)
    assert {name: len(cases) for name, cases in found.items()} == {VOLUMES: 1, IMAGES: 1}


def test_a_prepared_volume_is_slices_first_with_its_spacing_and_objects(
    a_data_folder: Path, tmp_path: Path
) -> None:
    ready(a_data_folder, tmp_path / "cache")
    source = load_sources(tmp_path / "cache", SETTINGS)[VOLUMES][0]
    original = np.asarray(nib.load(a_data_folder / VOLUMES / "a_img.nii.gz").dataobj).T
    assert source.image.shape == source.labels.shape == (16, 18, 20)
    assert source.spacing_kji_mm == (2.0, 1.0, 0.5)
    assert source.objects == {2: ((2, 6), (4, 10), (5, 9))}
    assert source.image.dtype == np.float16
    assert np.corrcoef(source.image.ravel(), original.ravel())[0, 1] > 0.999
    assert ROOM[0] <= source.image.min() < 0.01
    assert 0.99 < source.image.max() <= ROOM[1]


def test_a_prepared_image_is_one_slice(a_data_folder: Path, tmp_path: Path) -> None:
    ready(a_data_folder, tmp_path / "cache")
    source = load_sources(tmp_path / "cache", SETTINGS)[IMAGES][0]
    assert source.image.shape == (1, 30, 40)
    assert source.objects == {1: ((0, 1), (10, 20), (10, 30))}


def test_what_is_prepared_is_left_and_what_was_interrupted_is_written_again(
    a_data_folder: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    ready(a_data_folder, cache)
    done, broken = cache / VOLUMES / "a", cache / IMAGES / "x"
    before = (done / "image.npy").stat().st_mtime_ns
    (broken / "facts.json").unlink()
    (broken / "image.npy").write_bytes(b"half of it")
    ready(a_data_folder, cache)
    assert (done / "image.npy").stat().st_mtime_ns == before
    assert load_sources(cache, SETTINGS)[IMAGES][0].image.shape == (1, 30, 40)


def test_data_that_may_not_be_shipped_is_not_trained_on(
    a_data_folder: Path, tmp_path: Path
) -> None:
    (a_data_folder / "private_ct").mkdir()
    settings = TrainBaseSettings(mix={"private_ct": 1.0})
    with pytest.raises(InvalidInput, match="private_ct is not among the data sets"):
        ready(a_data_folder, tmp_path / "cache", settings)


def test_without_data_there_are_procedural_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    real = sources.procedural_volume

    def counted(seed: int) -> object:
        made.append(seed)
        return real(seed)

    monkeypatch.setattr(sources, "procedural_volume", counted)
    settings = TrainBaseSettings(seed=4, procedural_volumes=1)
    ready(None, tmp_path, settings)
    ready(None, tmp_path, settings)
    assert len(made) == 1
    assert list(load_sources(tmp_path, settings)) == ["procedural"]


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="holds no prepared volumes"):
        load_sources(tmp_path, SETTINGS)
