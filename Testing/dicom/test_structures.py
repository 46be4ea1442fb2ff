"""RT structure sets: contours that give the same masks again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_tools import only_series
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from phantom_series import PLANES, Layout, write_series

from protosam.dicom.contours import mask_of, polygons_of
from protosam.dicom.read import SeriesVolume
from protosam.dicom.results import save_segments
from protosam.dicom.rtstruct import read_structures
from protosam.dicom.verify import check_structures
from protosam.dicom.write import Algorithm
from protosam.errors import GeometryError, StorageFailure, UnreadableFile
from protosam.seg_nrrd import Segment

RINGS = np.zeros((15, 17), bool)
RINGS[1:14, 1:16] = True
RINGS[3:12, 3:6] = RINGS[3:12, 8:14] = False
RINGS[5:9, 9:13] = True
RINGS[6, 10] = False


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14)))
@example(RINGS)
@example(np.ones((7, 7), bool))
@example(np.eye(6, dtype=bool))
@example(~np.eye(6, dtype=bool))
def test_outlines_give_the_same_mask_again(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(mask_of(polygons_of(mask), mask.shape), mask)


@given(st.lists(st.tuples(st.integers(2, 37), st.integers(2, 37), st.integers(0, 3)), max_size=40))
def test_a_body_with_many_holes_is_one_polygon(
    holes: list[tuple[int, int, int]],
) -> None:
    mask = np.zeros((42, 42), bool)
    mask[1:41, 1:41] = True
    rows, columns = np.indices(mask.shape)
    for row, column, radius in holes:
        mask[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = False
    polygons = polygons_of(mask)
    np.testing.assert_array_equal(mask_of(polygons, mask.shape), mask)


def test_a_ring_is_one_contour_with_a_keyhole() -> None:
    ring = np.zeros((9, 9), bool)
    ring[1:8, 1:8] = True
    ring[3:6, 3:6] = False
    (polygon,) = polygons_of(ring)
    np.testing.assert_array_equal(mask_of([polygon], ring.shape), ring)


def test_a_ring_drawn_as_two_contours_is_a_ring() -> None:
    outer = np.array([[0.5, 0.5], [0.5, 7.5], [7.5, 7.5], [7.5, 0.5]])
    inner = np.array([[2.5, 2.5], [2.5, 5.5], [5.5, 5.5], [5.5, 2.5]])
    mask = mask_of([outer, inner], (9, 9))
    assert mask.sum() == 49 - 9
    assert not mask[4, 4]


def test_what_lies_outside_of_the_slice_is_cut_off() -> None:
    square = np.array([[-3.5, -3.5], [-3.5, 1.5], [2.5, 1.5], [2.5, -3.5]])
    mask = mask_of([square, square + 100], (5, 5))
    assert np.argwhere(mask).max(axis=0).tolist() == [2, 1]
    assert mask.sum() == 6


@pytest.mark.parametrize("plane", PLANES)
def test_structures_come_back_in_any_orientation(
    tmp_path: Path, plane: str, an_algorithm: Algorithm
) -> None:
    write_series(tmp_path / "series", Layout(PLANES[plane], shape=(15, 17)))
    source = only_series(tmp_path / "series")
    rng = np.random.default_rng(2)
    masks = rng.random((2, *source.volume.shape_kji)) > 0.5
    masks[0, 2] = RINGS
    masks[1, 3] = False
    segments = [Segment("left kidney", masks[0]), Segment("Liver", masks[1])]
    path = save_segments(tmp_path / "rt.dcm", segments, source, an_algorithm, "rtstruct")
    found = read_structures(path, source)
    assert found.notes == ()
    for one, mask in zip(found.segments, masks, strict=True):
        np.testing.assert_array_equal(one.mask, mask)
    assert "Kidney~SCT^7771000^Left" in found.segments[0].terminology
    data = pydicom.dcmread(path)
    named = {
        contour.ContourImageSequence[0].ReferencedSOPInstanceUID
        for contour in data.ROIContourSequence[1].ContourSequence
    }
    assert named == {frame.instance_uid for k, frame in enumerate(source.frames) if k != 3}


def test_the_points_are_millimetres_in_the_patient(
    tmp_path: Path, a_series: SeriesVolume, an_algorithm: Algorithm
) -> None:
    mask = np.zeros(a_series.volume.shape_kji, bool)
    mask[2, 4, 7] = True
    path = save_segments(
        tmp_path / "rt.dcm", [Segment("Liver", mask)], a_series, an_algorithm, "rtstruct"
    )
    (contour,) = pydicom.dcmread(path).ROIContourSequence[0].ContourSequence
    points = np.array(contour.ContourData, float).reshape(-1, 3)
    # The layout's origin, spacings and step, by hand: the middle of the pixel.
    middle = (-31.5 + 7 * 0.75, 12.25 + 4 * 1.25, 40 + 2 * 2.5)
    np.testing.assert_allclose((points.min(axis=0) + points.max(axis=0)) / 2, middle, atol=1e-3)
    np.testing.assert_allclose(np.ptp(points, axis=0), (0.75, 1.25, 0), atol=1e-3)


def test_a_contour_longer_than_64_kilobytes_is_kept(
    tmp_path: Path, an_algorithm: Algorithm
) -> None:
    write_series(tmp_path / "series", Layout(slices=2, shape=(100, 100)))
    source = only_series(tmp_path / "series")
    mask = np.zeros(source.volume.shape_kji, bool)
    mask[0] = np.random.default_rng(4).random((100, 100)) > 0.25  # a body full of holes
    path = save_segments(
        tmp_path / "rt.dcm", [Segment("Liver", mask)], source, an_algorithm, "rtstruct"
    )
    contours = pydicom.dcmread(path).ROIContourSequence[0].ContourSequence
    assert max(len("\\".join(str(x) for x in one.ContourData)) for one in contours) > 65536


def test_a_moved_contour_is_found(
    tmp_path: Path, a_series: SeriesVolume, an_algorithm: Algorithm
) -> None:
    mask = np.zeros(a_series.volume.shape_kji, bool)
    mask[2, 3:6, 4:9] = True
    segments = [Segment("Liver", mask)]
    path = save_segments(tmp_path / "rt.dcm", segments, a_series, an_algorithm, "rtstruct")
    data = pydicom.dcmread(path)
    contour = data.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = [
        float(x) + (0.75 if n % 3 == 0 else 0) for n, x in enumerate(contour.ContourData)
    ]
    data.save_as(path)
    with pytest.raises(StorageFailure, match="6 voxels"):
        check_structures(path, segments, a_series)


def test_contours_across_the_slices_are_refused(
    tmp_path: Path, a_series: SeriesVolume, an_algorithm: Algorithm
) -> None:
    mask = np.zeros(a_series.volume.shape_kji, bool)
    mask[2, 3:6, 4:9] = True
    path = save_segments(
        tmp_path / "rt.dcm", [Segment("Liver", mask)], a_series, an_algorithm, "rtstruct"
    )
    data = pydicom.dcmread(path)
    contour = data.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = [
        float(x) + (n if n % 3 == 2 else 0) for n, x in enumerate(contour.ContourData)
    ]
    data.save_as(path)
    with pytest.raises(GeometryError, match="across the slices"):
        read_structures(path, a_series)


def test_points_and_far_contours_are_counted_as_not_placed(
    tmp_path: Path, a_series: SeriesVolume, an_algorithm: Algorithm
) -> None:
    mask = np.zeros(a_series.volume.shape_kji, bool)
    mask[1:4, 3:6, 4:9] = True
    path = save_segments(
        tmp_path / "rt.dcm", [Segment("Liver", mask)], a_series, an_algorithm, "rtstruct"
    )
    data = pydicom.dcmread(path)
    first, second, _ = data.ROIContourSequence[0].ContourSequence
    first.ContourGeometricType = "POINT"
    second.ContourData = [
        float(x) + (500 if n % 3 == 2 else 0) for n, x in enumerate(second.ContourData)
    ]
    data.save_as(path)
    found = read_structures(path, a_series)
    assert found.notes == ("2 contours of structure 1 could not be placed.",)
    assert found.segments[0].mask.sum() == 15


def test_a_file_that_is_no_structure_set_is_refused(a_series: SeriesVolume, tmp_path: Path) -> None:
    (tmp_path / "no").write_bytes(b"no")
    for path in (tmp_path / "no", a_series.frames[0].path):
        with pytest.raises(UnreadableFile, match="structure set"):
            read_structures(path, a_series)
