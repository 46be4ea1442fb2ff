"""DICOM SEG: what is written is what was given, on the slices that it was found in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_tools import (
    catalogue_of,
    digests,
    masks_by_source,
    only_series,
    validator_errors,
)
from hypothesis import HealthCheck, given, settings
from hypothesis.extra.numpy import arrays
from phantom_series import PLANES, Ids, Layout, enhanced, write_series
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from protosam.dicom.read import SeriesVolume, read_series
from protosam.dicom.results import FORMS, save_segments
from protosam.dicom.segmentations import read_segments
from protosam.dicom.verify import check_dicom_seg
from protosam.dicom.write import Algorithm, build_segmentation
from protosam.errors import GeometryError, InvalidInput, StorageFailure, UnreadableFile
from protosam.geometry import Volume
from protosam.seg_nrrd import Segment, read_segmentation

Organs = Callable[..., list[Segment]]


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("step_mm", [2.5, -2.5])
def test_every_source_slice_gets_its_mask_in_any_orientation(
    tmp_path: Path, plane: str, step_mm: float, an_algorithm: Algorithm, two_organs: Organs
) -> None:
    layout = Layout(PLANES[plane], depths=tuple(np.arange(6) * step_mm))
    write_series(tmp_path / "series", layout)
    source = only_series(tmp_path / "series")
    segments = two_organs(source.volume.shape_kji)
    path = save_segments(tmp_path / "seg.dcm", segments, source, an_algorithm)
    found = masks_by_source(path)
    for number, one in enumerate(segments, 1):
        for k, frame in enumerate(source.frames):
            mask = found.pop((number, frame.instance_uid, 1), None)
            if one.mask[k].any():
                np.testing.assert_array_equal(mask, one.mask[k])
            else:
                assert mask is None  # empty frames are left out
    assert found == {}


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mask=arrays(bool, (6, 9, 13)))
def test_any_mask_comes_back(
    a_series: SeriesVolume, tmp_path: Path, an_algorithm: Algorithm, mask: np.ndarray
) -> None:
    segments = [Segment("Liver", mask)]
    if not mask.any():
        with pytest.raises(InvalidInput, match="empty"):
            build_segmentation(segments, a_series, an_algorithm)
        return
    path = save_segments(tmp_path / "seg.dcm", segments, a_series, an_algorithm)
    (found,) = read_segments(path, a_series).segments
    np.testing.assert_array_equal(found.mask, mask)


@pytest.mark.parametrize("form", ["seg", "rtstruct"])
@pytest.mark.parametrize("plane", ["axial", "oblique"])
def test_the_validator_finds_no_error(
    tmp_path: Path, plane: str, form: str, an_algorithm: Algorithm, two_organs: Organs
) -> None:
    write_series(tmp_path / "series", Layout(PLANES[plane]))
    source = only_series(tmp_path / "series")
    segments = two_organs(source.volume.shape_kji)
    path = save_segments(tmp_path / "result.dcm", segments, source, an_algorithm, form)
    assert validator_errors(path) == []


def test_highdicom_parses_it_with_codes_sides_and_algorithm(
    tmp_path: Path, a_series: SeriesVolume, an_algorithm: Algorithm, two_organs: Organs
) -> None:
    segments = two_organs(a_series.volume.shape_kji)
    path = save_segments(tmp_path / "seg.dcm", segments, a_series, an_algorithm)
    seg = hd.seg.segread(path)
    kidney, liver = (seg.get_segment_description(n) for n in (1, 2))
    assert kidney.segmented_property_type == codes.SCT.Kidney
    assert liver.segmented_property_type == codes.SCT.Liver
    (side,) = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
    assert (side.CodeValue, side.CodingSchemeDesignator) == ("7771000", "SCT")
    assert kidney.algorithm_type.value == "SEMIAUTOMATIC"
    (named,) = kidney.SegmentationAlgorithmIdentificationSequence
    assert named.AlgorithmName == "ProtoSAM tiny"
    assert "a1" * 32 in named.AlgorithmParameters
    assert "b2" * 32 in named.AlgorithmParameters
    volume = seg.get_volume(combine_segments=False, allow_missing_positions=True)
    assert int(volume.array[..., 0].sum()) == int(segments[0].mask.sum())


def test_it_is_filed_with_its_patient_study_and_place(
    tmp_path: Path, a_series: SeriesVolume, an_algorithm: Algorithm, two_organs: Organs
) -> None:
    path = save_segments(
        tmp_path / "seg.dcm", two_organs(a_series.volume.shape_kji), a_series, an_algorithm
    )
    seg, first = pydicom.dcmread(path), pydicom.dcmread(a_series.frames[0].path)
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[name].value == first[name].value
    assert seg.SeriesInstanceUID != first.SeriesInstanceUID
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    named = {one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence}
    assert named == {frame.instance_uid for frame in a_series.frames}


@pytest.mark.parametrize("form", FORMS)
def test_the_source_is_the_same_to_the_last_bit(
    tmp_path: Path, an_algorithm: Algorithm, two_organs: Organs, form: str
) -> None:
    paths = write_series(tmp_path / "series")
    before = digests(paths)
    source = only_series(tmp_path / "series")
    segments = two_organs(source.volume.shape_kji, overlapping=False)
    save_segments(tmp_path / "result.seg.nrrd", segments, source, an_algorithm, form)
    assert digests(paths) == before
    assert sorted((tmp_path / "series").iterdir()) == sorted(paths)


def test_a_file_of_the_source_is_never_a_target(
    a_series: SeriesVolume, an_algorithm: Algorithm, two_organs: Organs, tmp_path: Path
) -> None:
    segments = two_organs(a_series.volume.shape_kji)
    target = a_series.frames[2].path
    before = digests([target])
    (tmp_path / "link.dcm").symlink_to(target)
    for path in (target, target.parent / ".." / "series" / target.name, tmp_path / "link.dcm"):
        with pytest.raises(InvalidInput, match="source series"):
            save_segments(path, segments, a_series, an_algorithm)
    assert digests([target]) == before


def test_a_label_map_holds_the_same_masks(
    tmp_path: Path, a_series: SeriesVolume, an_algorithm: Algorithm, two_organs: Organs
) -> None:
    segments = two_organs(a_series.volume.shape_kji, overlapping=False)
    path = save_segments(tmp_path / "map.dcm", segments, a_series, an_algorithm, "labelmap")
    seg = pydicom.dcmread(path)
    assert seg.SegmentationType == "LABELMAP"
    by_place = {
        tuple(float(x) for x in item.PlanePositionSequence[0].ImagePositionPatient): frame
        for item, frame in zip(
            seg.PerFrameFunctionalGroupsSequence, np.atleast_3d(seg.pixel_array), strict=True
        )
    }
    for k, frame in enumerate(a_series.frames):
        labels = by_place.get(tuple(frame.position_lps_mm.tolist()))
        wanted = segments[0].mask[k] * 1 + segments[1].mask[k] * 2
        if labels is None:
            assert not wanted.any()
        else:
            np.testing.assert_array_equal(labels, wanted)


def test_segments_that_overlap_do_not_fit_into_a_label_map(
    tmp_path: Path, a_series: SeriesVolume, an_algorithm: Algorithm, two_organs: Organs
) -> None:
    segments = two_organs(a_series.volume.shape_kji, overlapping=True)
    with pytest.raises(InvalidInput, match="share voxels"):
        save_segments(tmp_path / "map.dcm", segments, a_series, an_algorithm, "labelmap")
    assert not (tmp_path / "map.dcm").exists()


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("form", ["seg", "rtstruct", "labelmap"])
def test_frames_of_an_enhanced_file_are_named_by_number(
    tmp_path: Path, an_algorithm: Algorithm, two_organs: Organs, form: str, shared: bool
) -> None:
    dataset = enhanced(Layout(), Ids.new(), echoes=(10.0, 80.0), shared=shared)
    (tmp_path / "series").mkdir()
    dataset.save_as(tmp_path / "series" / "one", enforce_file_format=True)
    for row in catalogue_of(tmp_path / "series").series:
        source = read_series(row)
        segments = two_organs(source.volume.shape_kji, overlapping=False)
        path = save_segments(tmp_path / "result.dcm", segments, source, an_algorithm, form)
        if form != "seg":
            continue
        found = masks_by_source(path)
        for k, frame in enumerate(source.frames):
            if segments[0].mask[k].any():
                mask = found[1, frame.instance_uid, frame.index + 1]
                np.testing.assert_array_equal(mask, segments[0].mask[k])


@pytest.mark.parametrize("form", ["seg", "rtstruct", "labelmap", "seg.nrrd"])
def test_a_straightened_series_keeps_its_results_in_place(
    tmp_path: Path, an_algorithm: Algorithm, form: str
) -> None:
    layout = Layout(slices=8, shape=(20, 16), tilt_mm=0.9)
    write_series(tmp_path / "series", layout)
    source = only_series(tmp_path / "series", straighten=True)
    masks = np.zeros((2, *source.volume.shape_kji), bool)
    masks[0, 2:4, 5:9, 4:8] = masks[1, 3:5, 9:12, 4:8] = True
    segments = [Segment("Liver", masks[0]), Segment("Spleen", masks[1])]
    path = tmp_path / "result.seg.nrrd"
    save_segments(path, segments, source, an_algorithm, form)
    if form == "seg":
        found = read_segments(path, source)
        np.testing.assert_array_equal(found.segments[1].mask, masks[1])
        overlapping = [segments[0], Segment("Spleen", masks[1] | masks[0])]
        save_segments(tmp_path / "both.dcm", overlapping, source, an_algorithm)


def test_a_segment_without_a_code_is_refused_and_nothing_is_written(
    tmp_path: Path, a_series: SeriesVolume, an_algorithm: Algorithm
) -> None:
    mask = np.zeros(a_series.volume.shape_kji, bool)
    mask[2, 3, 4] = True
    segments = [Segment("livr", mask), Segment("Spleen", mask), Segment("kidny", mask)]
    with pytest.raises(InvalidInput, match=r"'livr'.*Liver.*'kidny'.*Kidney"):
        save_segments(tmp_path / "seg.dcm", segments, a_series, an_algorithm)
    assert list(tmp_path.iterdir()) == [tmp_path / "series"]


def test_slicers_own_file_may_hold_what_has_no_code(
    tmp_path: Path, a_series: SeriesVolume, an_algorithm: Algorithm
) -> None:
    mask = np.zeros(a_series.volume.shape_kji, bool)
    mask[2, 3, 4] = True
    segments = [Segment("livr", mask), Segment("right kidney", mask)]
    path = tmp_path / "a.seg.nrrd"
    save_segments(path, segments, a_series, an_algorithm, "seg.nrrd")
    unknown, kidney = read_segmentation(path).segments
    assert "Kidney~SCT^24028007^Right" in kidney.terminology
    assert "Tissue" in unknown.terminology
    assert kidney.tags["ProtoSAM.ModelSHA256"] == "a1" * 32


@pytest.mark.parametrize(
    ("mask", "error"),
    [(np.zeros((6, 9, 13), bool), "empty"), (np.ones((6, 9, 12), bool), "shape")],
)
def test_masks_that_do_not_fit_are_refused(
    a_series: SeriesVolume, an_algorithm: Algorithm, mask: np.ndarray, error: str
) -> None:
    with pytest.raises(InvalidInput, match=error):
        build_segmentation([Segment("Liver", mask)], a_series, an_algorithm)
    with pytest.raises(InvalidInput, match="no segment"):
        build_segmentation([], a_series, an_algorithm)


def test_a_source_without_a_frame_of_reference_is_refused(
    tmp_path: Path, an_algorithm: Algorithm, two_organs: Organs
) -> None:
    def change(n: int, dataset: Dataset) -> None:
        del dataset.FrameOfReferenceUID

    write_series(tmp_path, change=change)
    source = only_series(tmp_path)
    with pytest.raises(GeometryError, match="no frame of reference"):
        build_segmentation(two_organs(source.volume.shape_kji), source, an_algorithm)


@pytest.mark.parametrize("form", ["seg", "rtstruct"])
def test_sloppy_headers_are_mended_in_the_copy_only(
    tmp_path: Path, an_algorithm: Algorithm, two_organs: Organs, form: str
) -> None:
    def change(n: int, dataset: Dataset) -> None:
        del dataset.AccessionNumber, dataset.StudyID, dataset.SpecificCharacterSet
        dataset.PatientName = "Phantom"
        dataset.PatientSex = "0000"
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = ""

    for path in write_series(tmp_path / "series", change=change):
        path.write_bytes(path.read_bytes().replace(b"19700101", b"1970.1.1"))
    source = only_series(tmp_path / "series")
    segments = two_organs(source.volume.shape_kji)
    path = save_segments(tmp_path / "seg.dcm", segments, source, an_algorithm, form)
    seg = pydicom.dcmread(path)
    assert (seg.PatientSex, seg.PatientBirthDate) == ("", "")
    assert validator_errors(path) == []


@pytest.mark.parametrize("form", ["seg", "rtstruct"])
def test_an_id_that_no_object_can_carry_is_refused_without_naming_it(
    tmp_path: Path, an_algorithm: Algorithm, two_organs: Organs, form: str
) -> None:
    def change(n: int, dataset: Dataset) -> None:
        dataset["PatientID"] = DataElement("PatientID", "LO", "SECRET" * 20, validation_mode=0)

    write_series(tmp_path / "series", change=change)
    source = only_series(tmp_path / "series")
    segments = two_organs(source.volume.shape_kji)
    with pytest.raises(InvalidInput, match="PatientID") as caught:
        save_segments(tmp_path / "seg.dcm", segments, source, an_algorithm, form)
    assert "SECRET" not in str(caught.value)


def test_letters_of_any_script_reach_the_file(
    tmp_path: Path, a_series: SeriesVolume, an_algorithm: Algorithm
) -> None:
    mask = np.ones(a_series.volume.shape_kji, bool)
    entry = "X~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~Y~^^~^^"
    segments = [Segment("肝臓 Größe", mask, terminology=entry)]
    path = save_segments(tmp_path / "seg.dcm", segments, a_series, an_algorithm)
    seg = pydicom.dcmread(path)
    assert seg.SegmentSequence[0].SegmentLabel == "肝臓 Größe"
    assert str(seg.PatientName) == "Phantom^Müller"


@pytest.mark.parametrize("bit", [0, 100, -1])
def test_one_wrong_voxel_on_the_disk_is_found(
    tmp_path: Path, a_series: SeriesVolume, an_algorithm: Algorithm, two_organs: Organs, bit: int
) -> None:
    segments = two_organs(a_series.volume.shape_kji)
    path = save_segments(tmp_path / "seg.dcm", segments, a_series, an_algorithm)
    seg = pydicom.dcmread(path)
    pixels = bytearray(seg.PixelData)
    size = seg.Rows * seg.Columns * seg.NumberOfFrames
    place = size - 1 if bit < 0 else bit
    pixels[place // 8] ^= 1 << (place % 8)
    seg.PixelData = bytes(pixels)
    seg.save_as(path)
    with pytest.raises(StorageFailure, match="1 voxels of the segment"):
        check_dicom_seg(path, segments, a_series)


def _other_code(seg: Dataset) -> None:
    seg.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0].CodeValue = "78961009"


def _other_side(seg: Dataset) -> None:
    kind = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue = "24028007"


def _other_reference(seg: Dataset) -> None:
    seg.FrameOfReferenceUID = "1.2.3"


def _other_study(seg: Dataset) -> None:
    seg.StudyInstanceUID = "1.2.3"


def _other_source(seg: Dataset) -> None:
    first, *_, last = seg.PerFrameFunctionalGroupsSequence
    named = first.DerivationImageSequence[0].SourceImageSequence[0]
    other = last.DerivationImageSequence[0].SourceImageSequence[0]
    named.ReferencedSOPInstanceUID = other.ReferencedSOPInstanceUID


@pytest.mark.parametrize(
    "damage", [_other_code, _other_side, _other_reference, _other_study, _other_source]
)
def test_every_other_difference_on_the_disk_is_found(
    tmp_path: Path,
    a_series: SeriesVolume,
    an_algorithm: Algorithm,
    two_organs: Organs,
    damage: Callable[[Dataset], None],
) -> None:
    segments = two_organs(a_series.volume.shape_kji)
    path = save_segments(tmp_path / "seg.dcm", segments, a_series, an_algorithm)
    seg = pydicom.dcmread(path)
    damage(seg)
    seg.save_as(path)
    with pytest.raises((StorageFailure, GeometryError)):
        check_dicom_seg(path, segments, a_series)


def test_a_result_that_fails_its_check_leaves_the_old_one(
    tmp_path: Path,
    a_series: SeriesVolume,
    an_algorithm: Algorithm,
    two_organs: Organs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    segments = two_organs(a_series.volume.shape_kji)
    path = save_segments(tmp_path / "seg.dcm", segments, a_series, an_algorithm)
    before = path.read_bytes()
    write = Dataset.save_as

    def cut(self: Dataset, file: Path, **more: object) -> None:
        write(self, file, **more)
        Path(file).write_bytes(Path(file).read_bytes()[:-40])

    monkeypatch.setattr(pydicom.FileDataset, "save_as", cut)
    monkeypatch.setattr(Dataset, "save_as", cut)
    with pytest.raises((StorageFailure, UnreadableFile)):
        save_segments(path, segments, a_series, an_algorithm)
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["seg.dcm", "series"]


def test_a_segmentation_of_another_place_is_refused(
    tmp_path: Path, a_series: SeriesVolume, an_algorithm: Algorithm, two_organs: Organs
) -> None:
    path = save_segments(
        tmp_path / "seg.dcm", two_organs(a_series.volume.shape_kji), a_series, an_algorithm
    )
    elsewhere = replace(
        a_series, identity=replace(a_series.identity, frame_of_reference_uid="1.2.3.4")
    )
    with pytest.raises(GeometryError, match="frame of reference"):
        read_segments(path, elsewhere)


def test_a_segmentation_lands_on_another_grid_of_the_same_place(
    tmp_path: Path, an_algorithm: Algorithm
) -> None:
    """A coarse series' mask, read onto a finer one of the same study, is resampled, and says so."""
    ids = Ids.new()
    coarse = Layout(slices=4, shape=(8, 8), spacing_mm=(2, 2), step_mm=4, origin=(0, 0, 0))
    fine = Layout(slices=8, shape=(16, 16), spacing_mm=(1, 1), step_mm=2, origin=(-0.5, -0.5, -1))
    write_series(tmp_path / "coarse", coarse, ids)
    write_series(tmp_path / "fine", fine, ids.other_series())
    source, target = only_series(tmp_path / "coarse"), only_series(tmp_path / "fine")
    mask = np.zeros((4, 8, 8), bool)
    mask[1:3, 2:5, 3:6] = True
    path = save_segments(tmp_path / "seg.dcm", [Segment("Liver", mask)], source, an_algorithm)
    found = read_segments(path, target)
    wanted = mask.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(found.segments[0].mask, wanted)
    assert "resampled" in found.notes[0]


def test_pixels_outside_of_the_series_are_counted(
    tmp_path: Path, a_series: SeriesVolume, an_algorithm: Algorithm
) -> None:
    mask = np.ones(a_series.volume.shape_kji, bool)
    path = save_segments(tmp_path / "seg.dcm", [Segment("Liver", mask)], a_series, an_algorithm)
    part = replace(a_series, volume=Volume(a_series.volume.voxels[:4], a_series.volume.affine))
    found = read_segments(path, part)
    assert found.segments[0].mask.all()
    assert found.notes == (f"{2 * 9 * 13} pixels of the segmentation lie outside of the series.",)


@pytest.mark.parametrize("keep", [100, 600, 0.5, 0.99])
def test_cut_segmentations_are_reported(
    tmp_path: Path, a_series: SeriesVolume, an_algorithm: Algorithm, keep: float
) -> None:
    mask = np.ones(a_series.volume.shape_kji, bool)
    path = save_segments(tmp_path / "seg.dcm", [Segment("Liver", mask)], a_series, an_algorithm)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep > 1 else keep * len(whole))])
    with pytest.raises(UnreadableFile, match="damaged"):
        read_segments(path, a_series)


def test_an_algorithm_without_a_digest_is_refused() -> None:
    with pytest.raises(InvalidInput, match="digest"):
        Algorithm("ProtoSAM tiny", "0.9", "")


@pytest.mark.parametrize("name", ["x" * 65, "a\\b"])
@pytest.mark.parametrize("form", ["seg", "rtstruct"])
def test_names_that_dicom_cannot_hold_are_refused(
    tmp_path: Path, a_series: SeriesVolume, an_algorithm: Algorithm, name: str, form: str
) -> None:
    mask = np.ones(a_series.volume.shape_kji, bool)
    entry = "X~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~Y~^^~^^"
    segments = [Segment(name, mask, terminology=entry)]
    with pytest.raises(InvalidInput, match="does not fit into DICOM"):
        save_segments(tmp_path / "seg.dcm", segments, a_series, an_algorithm, form)


@pytest.mark.parametrize("form", ["seg", "rtstruct"])
def test_a_segment_says_itself_how_it_was_made(
    tmp_path: Path, a_series: SeriesVolume, an_algorithm: Algorithm, form: str
) -> None:
    mask = np.ones(a_series.volume.shape_kji, bool)
    drawn = Segment("Liver", mask, tags={"DICOM.SegmentAlgorithmType": "MANUAL"})
    path = save_segments(tmp_path / "seg.dcm", [drawn], a_series, an_algorithm, form)
    data = pydicom.dcmread(path)
    if form == "seg":
        assert data.SegmentSequence[0].SegmentAlgorithmType == "MANUAL"
    else:
        assert data.StructureSetROISequence[0].ROIGenerationAlgorithm == "MANUAL"
    wrong = Segment("Liver", mask, tags={"DICOM.SegmentAlgorithmType": "guessed"})
    with pytest.raises(InvalidInput, match="'guessed'"):
        save_segments(tmp_path / "seg.dcm", [wrong], a_series, an_algorithm, form)


def test_files_that_are_gone_are_said_to_be(
    a_series: SeriesVolume, an_algorithm: Algorithm, tmp_path: Path
) -> None:
    for frame in a_series.frames:
        frame.path.unlink()
    segments = [Segment("Liver", np.ones(a_series.volume.shape_kji, bool))]
    with pytest.raises(UnreadableFile, match="no longer there"):
        save_segments(tmp_path / "seg.dcm", segments, a_series, an_algorithm)


def test_a_fractional_segmentation_counts_from_one_half(
    tmp_path: Path, a_series: SeriesVolume
) -> None:
    shares = np.zeros((*a_series.volume.shape_kji, 1), np.float32)
    shares[2, 3, 4:8, 0] = (0.2, 0.45, 0.6, 1.0)
    seg = hd.seg.Segmentation(
        a_series.source_headers(),
        shares,
        "FRACTIONAL",
        [
            hd.seg.SegmentDescription(
                1, "x", codes.SCT.AnatomicalStructure, codes.SCT.Liver, "MANUAL"
            )
        ],
        hd.UID(),
        1,
        hd.UID(),
        1,
        "x",
        "x",
        "1",
        "0",
    )
    seg.save_as(tmp_path / "seg.dcm")
    (found,) = read_segments(tmp_path / "seg.dcm", a_series).segments
    assert np.argwhere(found.mask).tolist() == [[2, 3, 6], [2, 3, 7]]
