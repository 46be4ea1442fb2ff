"""Series that can be read: every voxel lies where the slice that it came from says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_tools import catalogue_of, digests, only_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from phantom_series import (
    PLANES,
    Ids,
    Layout,
    enhanced,
    oblique,
    same_values,
    set_pixels,
    slice_of,
    write_series,
)
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from protosam.dicom.find import find_series
from protosam.dicom.read import read_series
from protosam.dicom.sources import Files

HALF_STEP = 0.3
"""Values are stored to 0.5; a voxel moved by 0.1 mm differs by more than this along any axis."""


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("step_mm", [2.5, -2.5])
def test_every_voxel_lies_where_its_slice_says(tmp_path: Path, plane: str, step_mm: float) -> None:
    layout = Layout(PLANES[plane], depths=tuple(np.arange(6) * step_mm))
    write_series(tmp_path, layout)
    found = only_series(tmp_path)
    assert found.volume.shape_kji == (6, 9, 13)
    assert found.volume.spacing_kji_mm == pytest.approx((2.5, 1.25, 0.75), abs=1e-6)
    assert same_values(found.volume.voxels, found.volume.affine) < HALF_STEP


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    degrees=st.tuples(*[st.floats(-180, 180)] * 3),
    slices=st.integers(1, 5),
    shape=st.tuples(st.integers(2, 6), st.integers(2, 6)),
    spacing=st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)),
    step_mm=st.floats(0.4, 9),
)
def test_any_plane_and_spacing_is_placed_right(
    tmp_path_factory: pytest.TempPathFactory,
    degrees: tuple[float, float, float],
    slices: int,
    shape: tuple[int, int],
    spacing: tuple[float, float],
    step_mm: float,
) -> None:
    folder = tmp_path_factory.mktemp("series")
    write_series(folder, Layout(oblique(*degrees), slices, shape, spacing, step_mm))
    found = only_series(folder)
    assert found.volume.shape_kji == (slices, *shape)
    assert same_values(found.volume.voxels, found.volume.affine) < HALF_STEP


def test_the_affine_agrees_with_an_independent_reader(tmp_path: Path) -> None:
    paths = write_series(tmp_path, Layout(PLANES["oblique"]))
    found = only_series(tmp_path)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    assert len(names) == len(paths)
    image = sitk.ReadImage(names)
    np.testing.assert_allclose(sitk.GetArrayFromImage(image), found.volume.voxels, atol=1e-3)
    for index in ((0, 0, 0), (12, 8, 5), (3, 1, 4)):
        lps = np.array(image.TransformContinuousIndexToPhysicalPoint([float(n) for n in index]))
        ras = (found.volume.affine @ (*index, 1))[:3]
        np.testing.assert_allclose(lps * (-1, -1, 1), ras, atol=1e-4)


def test_one_slice_gets_its_thickness(tmp_path: Path) -> None:
    write_series(tmp_path, Layout(slices=1, step_mm=4.0))
    assert only_series(tmp_path).volume.spacing_kji_mm == pytest.approx((4.0, 1.25, 0.75))


def test_nothing_of_the_source_is_changed_by_reading(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    before = digests(paths)
    only_series(tmp_path).source_headers()
    assert digests(paths) == before
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_each_slice_keeps_its_own_rescaling_as_pet_has_it(tmp_path: Path) -> None:
    layout = Layout()

    def change(n: int, dataset: Dataset) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = n + 1, -n
        set_pixels(dataset, np.full(layout.shape, 10, np.int16))

    write_series(tmp_path, layout, change=change)
    voxels = only_series(tmp_path).volume.voxels
    assert voxels.dtype == np.int16
    assert voxels[:, 0, 0].tolist() == [10 * (n + 1) - n for n in range(6)]


def test_hounsfield_units_are_whole_numbers_of_two_bytes(tmp_path: Path) -> None:
    def change(n: int, dataset: Dataset) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        set_pixels(dataset, np.full((9, 13), 1000 + n, np.int16))

    write_series(tmp_path, change=change)
    voxels = only_series(tmp_path).volume.voxels
    assert voxels.dtype == np.int16
    assert np.unique(voxels).tolist() == [-24, -23, -22, -21, -20, -19]


def test_a_modality_lut_is_obeyed(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor = [4, 0, 16]
    table.LUTData = np.array([7, 70, 700, 7000], "<u2").tobytes()
    table.ModalityLUTType = "US"

    def change(n: int, dataset: Dataset) -> None:
        del dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType
        set_pixels(dataset, np.full((9, 13), n % 5, np.int16))
        dataset.PixelRepresentation = 0
        dataset.ModalityLUTSequence = [table]

    write_series(tmp_path, change=change)
    # The value behind the end of the table is its last.
    assert only_series(tmp_path).volume.voxels[:, 0, 0].tolist() == [7, 70, 700, 7000, 7000, 7]


def test_overlays_in_unused_bits_are_no_values(tmp_path: Path) -> None:
    def change(n: int, dataset: Dataset) -> None:
        del dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType
        set_pixels(dataset, np.full((9, 13), 0x5000 + 100 + n, np.int16))
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0

    write_series(tmp_path, change=change)
    assert only_series(tmp_path).volume.voxels[:, 0, 0].tolist() == [100, 101, 102, 103, 104, 105]


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_slices_are_read_as_if_they_were_not(tmp_path: Path, syntax: str) -> None:
    write_series(tmp_path, change=lambda _, dataset: dataset.compress(syntax))
    found = only_series(tmp_path)
    assert same_values(found.volume.voxels, found.volume.affine) < HALF_STEP


@pytest.mark.parametrize(
    ("compressor", "syntax"), [("JPEG", JPEGLosslessSV1), ("JPEG2000", JPEG2000Lossless)]
)
def test_slices_compressed_by_another_program_are_read(
    tmp_path: Path, compressor: str, syntax: str
) -> None:
    """GDCM compresses; lossless JPEG is what most archives keep, and pydicom cannot decode it."""
    packed = tmp_path / "packed.dcm"
    for path in write_series(tmp_path / "series"):
        header = pydicom.dcmread(path)
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        writer.SetFileName(str(packed))
        writer.Execute(sitk.GetImageFromArray(header.pixel_array[None]))
        other = pydicom.dcmread(packed)
        assert other.file_meta.TransferSyntaxUID == syntax
        header.PixelData = other.PixelData
        header["PixelData"].is_undefined_length = True
        header.file_meta.TransferSyntaxUID = syntax
        header.save_as(path)
    found = only_series(tmp_path / "series")
    assert same_values(found.volume.voxels, found.volume.affine) < HALF_STEP


def test_big_endian_slices_are_read(tmp_path: Path) -> None:
    for path in write_series(tmp_path):
        dataset = pydicom.dcmread(path)
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        pydicom.dcmwrite(path, dataset, little_endian=False, implicit_vr=False)
    found = only_series(tmp_path)
    assert same_values(found.volume.voxels, found.volume.affine) < HALF_STEP


@pytest.mark.parametrize("shared", [True, False])
def test_an_enhanced_file_is_one_volume(tmp_path: Path, shared: bool) -> None:
    dataset = enhanced(Layout(PLANES["oblique"]), Ids.new(), shared=shared)
    dataset.save_as(tmp_path / "one", enforce_file_format=True)
    found = only_series(tmp_path)
    assert found.volume.shape_kji == (6, 9, 13)
    assert same_values(found.volume.voxels, found.volume.affine) < HALF_STEP


def test_the_echoes_of_an_enhanced_file_are_volumes_of_their_own(tmp_path: Path) -> None:
    dataset = enhanced(Layout(), Ids.new(), echoes=(10.0, 80.5))
    dataset.save_as(tmp_path / "one", enforce_file_format=True)
    rows = catalogue_of(tmp_path).series
    assert [row.part for row in rows] == ["echo time 10", "echo time 80.5"]
    for number, row in enumerate(rows):
        found = read_series(row).volume
        assert same_values(found.voxels - 1000.0 * number, found.affine) < HALF_STEP


@pytest.mark.parametrize(
    ("tag", "values", "names"),
    [
        ("EchoNumbers", (1, 2), ["echo 1", "echo 2"]),
        ("EchoTime", (9.5, 80), ["echo time 9.5", "echo time 80"]),
        ("TemporalPositionIdentifier", (2, 10), ["time point 2", "time point 10"]),
        ("TriggerTime", (0, 640), ["trigger time 0", "trigger time 640"]),
        ("DiffusionBValue", (0.0, 1000.0), ["b-value 0", "b-value 1000"]),
        ("AcquisitionNumber", (3, 4), ["acquisition 3", "acquisition 4"]),
    ],
)
def test_several_volumes_in_one_series_are_parted_by_what_differs(
    tmp_path: Path, tag: str, values: tuple[float, float], names: list[str]
) -> None:
    ids = Ids.new()
    for number, value in enumerate(values):

        def change(n: int, dataset: Dataset, value: float = value, number: int = number) -> None:
            dataset.InstanceNumber = 2 * n + number
            setattr(dataset, tag, value)
            dataset.RescaleIntercept = 1000 * number - 50

        write_series(tmp_path, ids=ids, modality="MR", change=change, name=f"{number}_")
    rows = catalogue_of(tmp_path).series
    assert [row.part for row in rows] == names
    for number, row in enumerate(rows):
        found = read_series(row).volume
        assert same_values(found.voxels - 1000.0 * number, found.affine) < HALF_STEP


def test_echoes_at_several_times_take_two_tags(tmp_path: Path) -> None:
    ids = Ids.new()
    for number in range(6):

        def change(n: int, dataset: Dataset, number: int = number) -> None:
            dataset.EchoTime = (10, 20)[number % 2]
            dataset.TemporalPositionIdentifier = number // 2 + 1

        write_series(tmp_path, ids=ids, modality="MR", change=change, name=f"{number}_")
    rows = catalogue_of(tmp_path).series
    assert len(rows) == 6
    assert rows[0].part == "echo time 10, time point 1"
    assert all(row.is_taken and len(row.paths) == 6 for row in rows)


def test_an_acquisition_number_for_each_slice_parts_nothing(tmp_path: Path) -> None:
    def change(n: int, dataset: Dataset) -> None:
        dataset.AcquisitionNumber = n + 1

    write_series(tmp_path, change=change)
    assert len(catalogue_of(tmp_path).taken) == 1


def test_a_missing_slice_of_one_time_point_does_not_cost_the_others(tmp_path: Path) -> None:
    ids = Ids.new()
    for number in (1, 2):

        def change(n: int, dataset: Dataset, number: int = number) -> None:
            dataset.TemporalPositionIdentifier = number

        paths = write_series(tmp_path, ids=ids, modality="MR", change=change, name=f"{number}_")
    paths[2].unlink()
    first, second = catalogue_of(tmp_path).series
    assert first.is_taken
    assert "1 slices are missing" in second.reason


def test_a_tilted_gantry_is_resampled_on_request(tmp_path: Path) -> None:
    layout = Layout(slices=8, shape=(20, 16), tilt_mm=2.5 * np.tan(np.radians(18.5)))
    write_series(tmp_path, layout)
    found = only_series(tmp_path, straighten=True)
    assert found.is_straightened
    assert "18.5 degrees" in found.notes[0]
    # A plane function survives linear interpolation; outside of the source there is no truth.
    inside = found.volume.voxels[:, 6:18, 2:14]
    affine = found.volume.affine.copy()
    affine[:3, 3] = (affine @ (2, 6, 0, 1))[:3]
    fill = found.volume.voxels.min()
    known = inside != fill
    assert known.mean() > 0.8
    k, j, i = np.nonzero(known)
    ras = (affine @ np.stack([i, j, k, np.ones_like(i)]))[:3]
    wanted = -3 * ras[0] + 5 * ras[1] + 8 * ras[2]
    edge = np.abs(inside[known] - wanted) > HALF_STEP + 0.3
    # Pixels beside the edge of a slice mix with the filling.
    assert edge.mean() < 0.05


def test_uneven_steps_are_resampled_on_request(tmp_path: Path) -> None:
    write_series(tmp_path, Layout(depths=(0, 2, 4, 6, 9, 12, 15)))
    (row,) = catalogue_of(tmp_path).series
    assert "between 2.00 and 3.00 mm" in row.reason
    found = read_series(row, straighten=True)
    assert same_values(found.volume.voxels, found.volume.affine) < HALF_STEP


def test_positions_rounded_by_the_scanner_are_even_enough(tmp_path: Path) -> None:
    depths = tuple(round(0.625 * n, 1) for n in range(20))
    write_series(tmp_path, Layout(depths=depths))
    spacing = only_series(tmp_path).volume.spacing_kji_mm
    assert spacing[0] == pytest.approx(0.625, abs=0.005)


def test_single_files_may_be_given_without_a_folder(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    (row,) = find_series(Files(tuple(paths[:3]))).series
    assert read_series(row).volume.shape_kji == (3, 9, 13)


def test_the_slices_keep_the_instance_that_they_came_from(tmp_path: Path) -> None:
    layout, ids = Layout(PLANES["coronal"], depths=tuple(np.arange(6) * -2.5)), Ids.new()
    paths = write_series(tmp_path, layout, ids)
    found = only_series(tmp_path)
    for k, frame in enumerate(found.frames):
        dataset = pydicom.dcmread(frame.path)
        assert str(dataset.SOPInstanceUID) == frame.instance_uid
        corner = found.volume.affine @ (0, 0, k, 1)
        lps = np.array(dataset.ImagePositionPatient, float)
        np.testing.assert_allclose(corner[:3] * (-1, -1, 1), lps, atol=1e-4)
    assert len(paths) == 6
    assert slice_of(layout, ids, 0).PatientID not in repr(found.identity)
