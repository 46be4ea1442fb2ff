"""DICOM series and folders: put together by their positions, or refused with the numbers."""

from __future__ import annotations

import random
import zipfile

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from protosam.errors import InvalidInput, UnreadableFile
from protosam_app.opening import open_path
from protosam_app.uploads import Inbox

SHAPE = (6, 5, 7)
SPACING_KJI_MM = (2.5, 0.8, 0.7)


@pytest.fixture
def inbox():
    made = Inbox()
    yield made
    made.close()


@pytest.fixture
def opened(inbox):
    return lambda path: open_path(path, unpack=inbox.unpack)


def axes():
    """Unit vectors of columns, rows and slices in LPS: a tilted, right-handed set."""
    angle = np.radians(25)
    along = np.array([np.cos(angle), np.sin(angle), 0.0])
    down = np.array([0.0, 0.0, -1.0])
    return along, down, np.cross(along, down)


def write_slice(folder, k, *, series="1.2.3", name=None, shift=(0, 0, 0), **changes):
    along, down, normal = axes()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, generate_uid()
    data.SeriesInstanceUID, data.Modality, data.PatientName = series, "CT", "Secret^Name"
    data.Rows, data.Columns = SHAPE[1:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.RescaleSlope, data.RescaleIntercept = 1, -1000
    data.PixelSpacing = list(SPACING_KJI_MM[1:])
    data.ImageOrientationPatient = [*along, *down]
    position = np.array([10.0, -20.0, 30.0]) + k * SPACING_KJI_MM[0] * normal + np.array(shift)
    data.ImagePositionPatient = [f"{x:.6f}" for x in position]
    data.PixelData = voxels()[k % SHAPE[0]].tobytes()
    for key, value in changes.items():
        setattr(data, key, value)
    path = folder / (name or f"{random.Random(k).randrange(10**6):06d}_{k}_{series}.dcm")
    data.save_as(path, enforce_file_format=True)
    return path


def voxels():
    return np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def test_slices_are_put_in_order_by_their_places_not_by_their_names(opened, tmp_path):
    for k in range(SHAPE[0]):
        write_slice(tmp_path, k)
    volume = opened(tmp_path).volume
    assert np.array_equal(volume.voxels, voxels() - 1000)
    along, down, normal = axes()
    lps = np.c_[along * SPACING_KJI_MM[2], down * SPACING_KJI_MM[1], normal * SPACING_KJI_MM[0]]
    assert np.allclose(volume.affine[:3, :3], np.diag([-1, -1, 1]) @ lps, atol=1e-5)
    assert np.allclose(volume.affine[:3, 3], (-10, 20, 30), atol=1e-5)


def test_the_largest_of_several_series_is_opened_and_said_so(opened, tmp_path):
    for k in range(SHAPE[0]):
        write_slice(tmp_path, k)
    write_slice(tmp_path, 0, series="1.2.4")
    (tmp_path / "DICOMDIR").write_bytes(b"an index, no image")
    found = opened(tmp_path)
    assert found.volume.shape_kji == SHAPE
    assert "2 series" in found.note


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: write_slice(folder, 8), "missing"),
        (lambda folder: write_slice(folder, 3, name="again.dcm"), "where another one lies"),
        (lambda folder: write_slice(folder, 6, shift=axes()[1]), "tilted"),
        (
            lambda folder: write_slice(folder, 6, ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
            "orientations",
        ),
        (lambda folder: write_slice(folder, 6, PixelSpacing=[1, 1]), "differ in size"),
    ],
)
def test_a_series_that_is_no_regular_grid_is_refused(opened, tmp_path, spoil, reason):
    for k in range(SHAPE[0]):
        write_slice(tmp_path, k)
    spoil(tmp_path)
    with pytest.raises(InvalidInput, match=reason) as refused:
        opened(tmp_path)
    assert refused.value.next_step
    assert "Secret" not in str(refused.value)


def test_several_frames_and_colours_are_refused(opened, tmp_path):
    path = write_slice(tmp_path, 0, NumberOfFrames=3)
    with pytest.raises(InvalidInput, match="frames"):
        opened(path)
    path = write_slice(tmp_path, 0, SamplesPerPixel=3)
    with pytest.raises(InvalidInput, match="colours"):
        opened(path)


def test_a_folder_without_an_image_is_refused(opened, tmp_path):
    with pytest.raises(UnreadableFile, match="no files"):
        opened(tmp_path)
    (tmp_path / "readme.txt").write_text("nothing")
    with pytest.raises(UnreadableFile, match="None of the files"):
        opened(tmp_path)


def test_real_series_are_opened_or_refused_with_the_reason(opened, shared_data):
    folder = shared_data / "dicom"
    assert opened(folder / "brainix_mr_T1.zip").volume.shape_kji[0] > 10
    with pytest.raises(InvalidInput, match=r"tilted|missing"):
        opened(folder / "ge_head_ct_28slices_tilt18.5.zip")
    knee = opened(folder / "knee_mese_t2map_6pos_x_8echoes_bigendian.zip")
    assert knee.volume.shape_kji[0] == 6
    assert "8 series" in knee.note


def test_a_zip_in_a_zip_is_not_followed(opened, tmp_path):
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(tmp_path / "inner.zip", "inner.zip")
    with pytest.raises(UnreadableFile, match="None of the files"):
        opened(tmp_path / "outer.zip")


def test_whose_image_a_series_is_comes_from_its_header_and_stays_out_of_texts(opened, tmp_path):
    for k in range(SHAPE[0]):
        write_slice(tmp_path, k, PatientID=" 4711 ")
    made = opened(tmp_path)
    assert made.patient == "4711"
    assert "4711" not in repr(made)


def test_a_series_without_an_identifier_tells_nobody(opened, tmp_path):
    for k in range(SHAPE[0]):
        write_slice(tmp_path, k)
    assert opened(tmp_path).patient == ""
