"""Series of real scanners, where they lie beside the repository; skipped where they do not."""

from __future__ import annotations

import zipfile
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_tools import catalogue_of, masks_by_source, validator_errors

from protosam.dicom.find import find_series
from protosam.dicom.read import read_series
from protosam.dicom.results import save_segments
from protosam.dicom.segmentations import read_segments
from protosam.dicom.sources import files_of
from protosam.dicom.write import Algorithm
from protosam.errors import InvalidInput
from protosam.geometry import kji_to_ras
from protosam.seg_nrrd import Segment


@pytest.fixture
def unpacked(shared_data: Path, tmp_path: Path):
    def unpack(name: str) -> Path:
        path = shared_data / "dicom" / f"{name}.zip"
        if not path.exists():
            pytest.skip(f"no series {path}")
        with zipfile.ZipFile(path) as archive:
            archive.extractall(tmp_path / name)
        return tmp_path / name

    return unpack


def test_the_tilted_head_is_refused_with_its_angle_and_read_on_request(unpacked) -> None:
    folder = unpacked("ge_head_ct_28slices_tilt18.5")
    (row,) = catalogue_of(folder).series
    assert not row.is_taken
    assert "tilted by 18.5 degrees" in row.reason
    with pytest.raises(InvalidInput, match=r"18\.5 degrees"):
        read_series(row)
    found = read_series(row, straighten=True)
    assert "18.5 degrees" in found.notes[0]
    # The patient is where the slices say: air, bone and the middle of the head, slice by slice.
    for frame in found.frames[4::6]:
        dataset = pydicom.dcmread(frame.path)
        stored = dataset.pixel_array * float(dataset.RescaleSlope) + dataset.RescaleIntercept
        rows, columns = np.mgrid[40:480:20, 40:480:20].reshape(2, -1)
        lps = (
            frame.position_lps_mm
            + columns[:, None] * frame.spacing_mm[1] * frame.axes_lps[0]
            + rows[:, None] * frame.spacing_mm[0] * frame.axes_lps[1]
        )
        kji = np.linalg.inv(found.volume.affine) @ np.c_[lps * (-1, -1, 1), np.ones(len(lps))].T
        k, j, i = kji[2::-1].round().astype(int)
        ours = found.volume.voxels[k, j, i].astype(float)
        assert np.corrcoef(ours, stored[rows, columns])[0, 1] > 0.9


def test_the_knee_is_parted_into_its_eight_echoes(unpacked) -> None:
    rows = catalogue_of(unpacked("knee_mese_t2map_6pos_x_8echoes_bigendian")).series
    assert [row.part for row in rows] == [f"echo {n}" for n in range(1, 9)]
    means = []
    for number, row in enumerate(rows, 1):
        found = read_series(row)
        assert found.volume.shape_kji == (6, 256, 256)
        for frame, voxels in zip(found.frames, found.volume.voxels, strict=True):
            dataset = pydicom.dcmread(frame.path)
            assert dataset.EchoNumbers == number
            np.testing.assert_array_equal(dataset.pixel_array, voxels)
        means.append(float(found.volume.voxels.mean()))
    assert means[1:] == sorted(means[1:], reverse=True)  # T2 decays from echo to echo


@pytest.mark.parametrize("name", ["brainix_mr_T1", "brainix_mr_FLAIR", "brainix_mr_ROI"])
def test_oblique_slices_lie_right_to_a_tenth_of_a_millimetre(unpacked, name: str) -> None:
    folder = unpacked(name)
    (row,) = catalogue_of(folder).series
    found = read_series(row)
    files = [str(frame.path) for frame in found.frames]
    sitk.ProcessObject.GlobalWarningDisplayOff()
    image = sitk.ReadImage(files)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), found.volume.voxels)
    last = [n - 1 for n in found.volume.shape_kji]
    for kji in ([0, 0, 0], last, [last[0], 0, last[2]], [3, 17, 200]):
        lps = np.array(image.TransformIndexToPhysicalPoint([int(n) for n in kji[::-1]]))
        ras = kji_to_ras(found.volume.affine, kji)
        assert np.linalg.norm(lps * (-1, -1, 1) - ras) < 0.1
    for k, frame in enumerate(found.frames):  # and by the headers themselves
        corner = kji_to_ras(found.volume.affine, [k, 0, 0]) * (-1, -1, 1)
        wanted = np.array(pydicom.dcmread(frame.path).ImagePositionPatient, float)
        assert np.linalg.norm(corner - wanted) < 0.1


def test_the_segmentation_of_another_program_lies_on_its_ct(unpacked) -> None:
    folder = unpacked("dcmqi_ct3slice_liver_SEG")
    found = catalogue_of(folder)
    source = read_series(found.taken[0])
    (reference,) = found.references
    (liver,) = read_segments(reference.paths[0], source).segments
    seg = hd.seg.segread(reference.paths[0])
    uids = [frame.instance_uid for frame in source.frames]
    theirs = seg.get_pixels_by_source_instance(
        uids, segment_numbers=[1], ignore_spatial_locations=True
    )[..., 0]
    np.testing.assert_array_equal(liver.mask, theirs)
    assert "T-62000^Liver" in liver.terminology
    values = source.volume.voxels[liver.mask]
    assert 20 < np.median(values) < 200  # a liver, in HU


def test_a_liver_goes_back_into_the_study_of_the_ct(
    unpacked, tmp_path: Path, an_algorithm: Algorithm
) -> None:
    folder = unpacked("dcmqi_ct3slice_liver_SEG")
    found = catalogue_of(folder)
    source = read_series(found.taken[0])
    (liver,) = read_segments(found.references[0].paths[0], source).segments
    path = save_segments(
        tmp_path / "liver.dcm", [Segment("Liver", liver.mask)], source, an_algorithm
    )
    again = masks_by_source(path)
    for k, frame in enumerate(source.frames):
        np.testing.assert_array_equal(again[1, frame.instance_uid, 1], liver.mask[k])
    assert validator_errors(path) == []


def test_an_archive_is_read_as_its_folder_is(shared_data: Path) -> None:
    path = shared_data / "dicom" / "brainix_mr_FLAIR.zip"
    with files_of(path) as files:
        (row,) = find_series(files).taken
        assert read_series(row).volume.shape_kji == (22, 288, 288)
