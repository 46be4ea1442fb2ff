"""Series that cannot be a volume: each is a row with the reason, and nothing of the patient."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_tools import catalogue_of, only_series
from phantom_series import (
    PLANES,
    Ids,
    Layout,
    header,
    set_pixels,
    slice_of,
    write_series,
)
from pydicom.dataset import Dataset
from pydicom.uid import HTJ2KLossless, SecondaryCaptureImageStorage, generate_uid

from protosam.dicom.find import FoundSeries
from protosam.dicom.read import read_series
from protosam.errors import InvalidInput, UnreadableFile


def only_row(folder: Path) -> FoundSeries:
    (row,) = catalogue_of(folder).series
    return row


def test_missing_slices_are_counted_and_placed(tmp_path: Path) -> None:
    paths = write_series(tmp_path, Layout(slices=9))
    paths[3].unlink()
    paths[4].unlink()
    row = only_row(tmp_path)
    assert not row.is_taken
    assert row.reason == (
        "2 slices are missing: the usual step is 2.50 mm, and there are gaps of 7.50 mm, 5.0 mm "
        "from the first of 7 slices."
    )


def test_missing_slices_are_never_interpolated(tmp_path: Path) -> None:
    write_series(tmp_path, Layout(slices=6))[2].unlink()
    with pytest.raises(InvalidInput, match="missing"):
        only_series(tmp_path, straighten=True)


def test_two_slices_at_one_place_without_a_difference_are_refused(tmp_path: Path) -> None:
    ids = Ids.new()
    write_series(tmp_path, ids=ids, name="a")
    write_series(tmp_path, ids=ids, name="b")
    row = only_row(tmp_path)
    assert not row.is_taken
    assert row.reason.startswith("6 of 12 slices lie where another one lies")


def test_a_tilted_gantry_is_refused_with_its_angle(tmp_path: Path) -> None:
    write_series(tmp_path, Layout(tilt_mm=2.5 * np.tan(np.radians(18.5))))
    row = only_row(tmp_path)
    assert not row.is_taken
    assert "tilted by 18.5 degrees" in row.reason
    with pytest.raises(InvalidInput, match=r"18\.5 degrees.*straighten"):
        read_series(row)


def test_a_tilt_below_half_a_degree_is_a_grid(tmp_path: Path) -> None:
    write_series(tmp_path, Layout(tilt_mm=0.01))
    assert only_row(tmp_path).is_taken


def test_a_changing_spacing_is_refused_with_its_numbers(tmp_path: Path) -> None:
    write_series(tmp_path, Layout(depths=(0, 2, 4, 6, 9, 12, 15)))
    row = only_row(tmp_path)
    assert row.can_straighten
    assert "between 2.00 and 3.00 mm apart" in row.reason


def test_slices_that_wander_sideways_are_refused(tmp_path: Path) -> None:
    def change(n: int, dataset: Dataset) -> None:
        dataset.ImagePositionPatient[0] += 0.5 * (n % 2)

    write_series(tmp_path, change=change)
    assert "sideways" in only_row(tmp_path).reason


def test_mixed_orientations_are_refused_with_their_number(tmp_path: Path) -> None:
    ids = Ids.new()
    for name in ("axial", "coronal", "sagittal"):
        write_series(tmp_path, Layout(PLANES[name]), ids, name=name)
    assert only_row(tmp_path).reason == "The 18 slices lie in 3 orientations."


def test_slices_of_two_sizes_are_refused(tmp_path: Path) -> None:
    ids = Ids.new()
    write_series(tmp_path, Layout(slices=3), ids, name="a")
    write_series(
        tmp_path, Layout(slices=3, shape=(5, 5), origin=(-31.5, 12.25, 90.0)), ids, name="b"
    )
    assert "differ in size" in only_row(tmp_path).reason


def test_two_frames_of_reference_in_one_series_are_refused(tmp_path: Path) -> None:
    def change(n: int, dataset: Dataset) -> None:
        if n == 4:
            dataset.FrameOfReferenceUID = generate_uid()

    write_series(tmp_path, change=change)
    assert "2 frames of reference" in only_row(tmp_path).reason


def test_a_localizer_is_skipped(tmp_path: Path) -> None:
    def change(n: int, dataset: Dataset) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    write_series(tmp_path, change=change)
    assert only_row(tmp_path).reason == "It is a localizer (6 images)."


def test_a_localizer_within_a_series_is_left_out_of_it(tmp_path: Path) -> None:
    ids = Ids.new()
    write_series(tmp_path, ids=ids)
    scout = slice_of(Layout(PLANES["coronal"]), ids, 0)
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.save_as(tmp_path / "scout", enforce_file_format=True)
    row = only_row(tmp_path)
    assert row.is_taken
    assert row.notes == ("1 localizer images were left out.",)


def test_a_secondary_capture_is_skipped(tmp_path: Path) -> None:
    dataset = header(Ids.new(), "OT", SecondaryCaptureImageStorage)
    dataset.ConversionType = "WSD"
    set_pixels(dataset, np.zeros((4, 5), np.int16))
    dataset.save_as(tmp_path / "capture", enforce_file_format=True)
    assert "secondary capture" in only_row(tmp_path).reason


def test_colours_are_refused(tmp_path: Path) -> None:
    def change(n: int, dataset: Dataset) -> None:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"

    write_series(tmp_path, change=change)
    assert "colours" in only_row(tmp_path).reason


def test_images_without_a_place_are_refused(tmp_path: Path) -> None:
    def change(n: int, dataset: Dataset) -> None:
        del dataset.ImagePositionPatient

    write_series(tmp_path, change=change)
    assert "no complete orientation, position" in only_row(tmp_path).reason


@pytest.mark.parametrize("axes", [[0] * 6, [1, 0, 0, 1, 0, 0], [2, 0, 0, 0, 1, 0], [1, 0, 0, 0, 1]])
def test_senseless_directions_are_refused(tmp_path: Path, axes: list[float]) -> None:
    def change(n: int, dataset: Dataset) -> None:
        dataset.ImageOrientationPatient = axes

    write_series(tmp_path, change=change)
    row = only_row(tmp_path)
    assert not row.is_taken
    assert row.reason


@pytest.mark.parametrize("spacing", [[0, 1], [-1, 1], [1]])
def test_senseless_spacings_are_refused(tmp_path: Path, spacing: list[float]) -> None:
    def change(n: int, dataset: Dataset) -> None:
        dataset.PixelSpacing = spacing

    write_series(tmp_path, change=change)
    row = only_row(tmp_path)
    assert not row.is_taken
    assert "spacing" in row.reason


def test_frames_without_places_of_their_own_are_refused(tmp_path: Path) -> None:
    dataset = slice_of(Layout(slices=1), Ids.new(), 0)
    dataset.NumberOfFrames = 3
    dataset.PixelData *= 3
    dataset.save_as(tmp_path / "frames", enforce_file_format=True)
    assert "3 frames, and no place for each" in only_row(tmp_path).reason


def test_a_transfer_syntax_that_nothing_decodes_is_refused_by_name(tmp_path: Path) -> None:
    for path in write_series(tmp_path):
        dataset = pydicom.dcmread(path)
        dataset.PixelData = pydicom.encaps.encapsulate([b"\0\0"])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
        dataset.save_as(path)
    assert "High-Throughput JPEG 2000" in only_row(tmp_path).reason


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_pixels_cut_short_are_reported_when_they_are_read(tmp_path: Path, keep: float) -> None:
    layout = Layout(shape=(64, 64))
    path = write_series(tmp_path, layout)[2]
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    (row,) = [one for one in catalogue_of(tmp_path).series if one.is_taken]
    with pytest.raises(UnreadableFile, match="missing, cut short or damaged"):
        read_series(row)


def test_damaged_compressed_pixels_are_reported_when_they_are_read(tmp_path: Path) -> None:
    for path in write_series(tmp_path):
        dataset = pydicom.dcmread(path)
        dataset.PixelData = pydicom.encaps.encapsulate([b"no JPEG at all"])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLosslessSV1
        dataset.save_as(path)
    with pytest.raises(UnreadableFile, match="JPEG Lossless"):
        only_series(tmp_path)


def test_broken_and_foreign_files_are_one_note_each(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    whole = paths[0].read_bytes()
    (tmp_path / "notes.txt").write_text("not DICOM")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "cut").write_bytes(whole[:200])
    found = catalogue_of(tmp_path)
    assert [note.name for note in found.notes] == ["cut", "empty", "notes.txt"]
    assert found.notes[1].reason == "It is not a DICOM file."
    assert len(found.taken) == 1


def test_scrambled_headers_never_end_the_listing(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    whole = np.frombuffer(write_series(tmp_path / "whole")[0].read_bytes(), np.uint8)
    folder = tmp_path / "scrambled"
    folder.mkdir()
    for n in range(120):
        broken = whole.copy()
        places = rng.integers(132, 1400, size=int(rng.integers(1, 12)))
        broken[places] = rng.integers(0, 256, size=places.size)
        (folder / f"{n:03d}").write_bytes(broken.tobytes())
    found = catalogue_of(folder)
    assert sum(len(row.paths) for row in found.series) + len(found.notes) == 120


def test_the_same_file_twice_counts_once(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    row = only_row(tmp_path)
    assert row.is_taken
    assert len(row.paths) == len(paths)
    assert row.notes == ("6 files were there twice and count once.",)


def test_two_different_files_with_one_uid_refuse_the_series(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    other = pydicom.dcmread(paths[1])
    other.PixelData = bytes(len(other.PixelData))
    other.save_as(tmp_path / "other")
    assert "Two different files claim to be the instance" in only_row(tmp_path).reason


def test_objects_without_pixels_are_rows_of_their_own(tmp_path: Path) -> None:
    ids = Ids.new()
    write_series(tmp_path, ids=ids)
    report = header(ids.other_series(), "SR", pydicom.uid.BasicTextSRStorage)
    report.SeriesNumber = 9
    report.save_as(tmp_path / "report", enforce_file_format=True)
    rows = catalogue_of(tmp_path).series
    assert [row.kind for row in rows] == ["image", "other"]
    assert "Basic Text SR" in rows[1].reason


def test_studies_and_series_are_sorted_by_number(tmp_path: Path) -> None:
    ids = Ids.new()
    for number in (12, 3, 101):

        def change(n: int, dataset: Dataset, number: int = number) -> None:
            dataset.SeriesNumber = number

        write_series(tmp_path / str(number), ids=ids.other_series(), change=change)
    assert [row.identity.number for row in catalogue_of(tmp_path).series] == ["3", "12", "101"]


@pytest.mark.parametrize(
    "change",
    [
        lambda n, dataset: setattr(dataset, "SamplesPerPixel", 3),
        lambda n, dataset: setattr(dataset, "ImageOrientationPatient", [0] * 6),
        lambda n, dataset: setattr(dataset, "ImageType", ["DERIVED", "SECONDARY", "LOCALIZER"]),
    ],
)
def test_nothing_of_the_patient_reaches_a_row_or_a_log(
    tmp_path: Path, change: Callable[[int, Dataset], None], caplog: pytest.LogCaptureFixture
) -> None:
    for path in write_series(tmp_path, change=change):
        # A date that pydicom warns of, and quotes.
        path.write_bytes(path.read_bytes().replace(b"20240229", b"SECRETDY"))
    caplog.clear()
    text = repr([(row.reason, row.notes, row.identity) for row in catalogue_of(tmp_path).series])
    assert "SECRET" not in text + caplog.text
    assert "Phantom" not in text + caplog.text
