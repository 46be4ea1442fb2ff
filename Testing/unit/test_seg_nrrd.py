from __future__ import annotations

import errno
import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation

from protosam.errors import GeometryError, InvalidInput, StorageFailure, UnreadableFile
from protosam.geometry import Volume, kji_to_ras
from protosam.volume_io import (
    DEFAULT_TERMINOLOGY,
    Segment,
    read_labelmap,
    read_segmentation,
    read_volume,
    write_segmentation,
)

ORIENTATIONS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
OBLIQUE = Rotation.from_euler("xyz", (11, -17, 23), degrees=True).as_matrix()
LIVER = (
    "Segmentation category and type - 3D Slicer General Anatomy list"
    "~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^"
    "~Anatomic codes - DICOM master list~^^~^^"
)


def grid(order, signs, turn, shape=(5, 6, 7)) -> Volume:
    matrix = np.zeros((3, 3))
    for n, spacing in enumerate((0.7, 1.3, 4.0)):
        matrix[order[n], n] = signs[n] * spacing
    affine = np.eye(4)
    affine[:3, :3] = turn @ matrix
    affine[:3, 3] = (12.5, -40.0, 7.25)
    return Volume(np.zeros(shape, np.uint8), affine)


def world_points(mask, affine) -> np.ndarray:
    points = kji_to_ras(affine, np.argwhere(mask))
    return points[np.lexsort(points.round(4).T)]


def header(path: Path) -> dict[str, str]:
    """Fields of the file as they stand in it."""
    text = path.read_bytes().split(b"\n\n")[0].decode("utf-8")
    lines = [line for line in text.splitlines()[1:] if not line.startswith("#")]
    return dict(line.split(":=", 1) if ":=" in line else line.split(": ", 1) for line in lines)


def ball(shape, middle, radius) -> np.ndarray:
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    return sum((a - m) ** 2 for a, m in zip(axes, middle, strict=True)) <= radius**2


def two_segments(volume: Volume, *, apart: int) -> list[Segment]:
    first = ball(volume.shape_kji, (4, 5, 5), 2.5)
    second = ball(volume.shape_kji, (4, 5, 5 + apart), 2.5)
    return [
        Segment("Leber größe 肝", first, (0.8, 0.2, 0.1), "liver", LIVER),
        Segment("b", second, (0.1, 0.25, 1.0), "other", tags={"ProtoSAM.Model": "tiny: v1"}),
    ]


@pytest.mark.parametrize("turn", [np.eye(3), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_a_written_mask_covers_the_same_world_points_in_simpleitk(tmp_path, order, signs, turn):
    volume = grid(order, signs, turn)
    mask = np.random.default_rng(1).random(volume.shape_kji) < 0.3
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, [Segment("x", mask)], volume)

    image = sitk.ReadImage(str(path))
    lps = [
        image.TransformIndexToPhysicalPoint(tuple(index[::-1]))
        for index in np.argwhere(sitk.GetArrayFromImage(image) == 1).tolist()
    ]
    found = np.array(lps) * (-1, -1, 1)
    found = found[np.lexsort(found.round(4).T)]
    np.testing.assert_allclose(found, world_points(mask, volume.affine), atol=1e-9)

    back = read_segmentation(path)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-12)
    np.testing.assert_array_equal(back.segments[0].mask, mask)


printable = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=12)
tag_keys = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters=":|"), min_size=1
)
tag_values = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="|"))
fields = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="|~"), max_size=9
)
segments = st.builds(
    Segment,
    name=printable,
    mask=hnp.arrays(np.bool_, (3, 4, 5)),
    colour=st.tuples(*[st.floats(0, 1)] * 3),
    id=st.uuids().map(str),
    terminology=st.tuples(*[fields] * 7).map("~".join),
    tags=st.dictionaries(
        tag_keys.filter(lambda key: key != "TerminologyEntry"), tag_values, max_size=3
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(segments, max_size=5, unique_by=lambda segment: segment.id))
def test_reading_undoes_writing(tmp_path, given_segments):
    volume = grid((2, 0, 1), (1, -1, -1), OBLIQUE, (3, 4, 5))
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, given_segments, volume)
    back = read_segmentation(path)

    assert back.shape_kji == (3, 4, 5)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-12)
    assert len(back.segments) == len(given_segments)
    for one, other in zip(back.segments, given_segments, strict=True):
        assert (one.name, one.id, one.terminology, one.tags, one.colour) == (
            other.name,
            other.id,
            other.terminology,
            other.tags,
            other.colour,
        )
        np.testing.assert_array_equal(one.mask, other.mask)


def test_segments_that_do_not_meet_share_a_layer_with_the_keys_of_slicer(tmp_path, a_volume):
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, two_segments(a_volume, apart=6), a_volume)
    found = header(path)

    assert found["dimension"] == "3"
    assert found["space"] == "left-posterior-superior"
    assert found["encoding"] == "gzip"
    assert found["sizes"] == "14 12 9"
    assert {key: value for key, value in found.items() if key.startswith("Segment0_")} == {
        "Segment0_ID": "liver",
        "Segment0_Name": "Leber größe 肝",
        "Segment0_NameAutoGenerated": "0",
        "Segment0_Color": "0.8 0.2 0.1",
        "Segment0_ColorAutoGenerated": "0",
        "Segment0_Extent": "3 7 3 7 2 6",
        "Segment0_LabelValue": "1",
        "Segment0_Layer": "0",
        "Segment0_Tags": f"TerminologyEntry:{LIVER}|",
    }
    assert found["Segment1_Layer"] == "0"
    assert found["Segment1_LabelValue"] == "2"
    assert (
        found["Segment1_Tags"] == f"ProtoSAM.Model:tiny: v1|TerminologyEntry:{DEFAULT_TERMINOLOGY}|"
    )
    assert found["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    assert found["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert found["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"
    geometry = found["Segmentation_ConversionParameters"].split("|")
    assert geometry[0] == "Reference image geometry"
    numbers = [float(part) for part in geometry[1].split(";")[:-1]]
    np.testing.assert_array_equal(np.reshape(numbers[:16], (4, 4)), a_volume.affine)
    assert numbers[16:] == [0, 13, 0, 11, 0, 8]


def test_segments_that_meet_lie_in_layers_along_a_list_axis(tmp_path, a_volume):
    path = tmp_path / "a.seg.nrrd"
    given_segments = two_segments(a_volume, apart=2)
    write_segmentation(path, given_segments, a_volume)
    found = header(path)

    assert found["dimension"] == "4"
    assert found["kinds"].split() == ["list", "domain", "domain", "domain"]
    assert found["sizes"] == "2 14 12 9"
    assert [found[f"Segment{n}_Layer"] for n in (0, 1)] == ["0", "1"]
    assert [found[f"Segment{n}_LabelValue"] for n in (0, 1)] == ["1", "1"]
    for one, other in zip(read_segmentation(path).segments, given_segments, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)


def test_a_segment_goes_into_the_first_layer_where_it_meets_no_other(tmp_path, a_volume):
    shape = a_volume.shape_kji
    masks = [ball(shape, (4, 5, column), 2.5) for column in (3, 5, 10, 11)]
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, [Segment(str(n), mask) for n, mask in enumerate(masks)], a_volume)
    found = header(path)

    assert [found[f"Segment{n}_Layer"] for n in range(4)] == ["0", "1", "0", "1"]


def test_more_than_255_segments_in_a_layer_are_kept_apart(tmp_path):
    volume = Volume(np.zeros((3, 10, 10), np.uint8), np.eye(4))
    masks = np.eye(300, dtype=bool).reshape(300, 3, 10, 10)
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, [Segment(f"s{n}", mask) for n, mask in enumerate(masks)], volume)
    back = read_segmentation(path).segments

    assert header(path)["dimension"] == "3"
    np.testing.assert_array_equal([segment.mask for segment in back], masks)


def test_an_empty_segment_and_no_segment_at_all_are_stored(tmp_path, a_volume):
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, [Segment("none", np.zeros(a_volume.shape_kji, bool))], a_volume)

    assert header(path)["Segment0_Extent"] == "0 -1 0 -1 0 -1"
    assert not read_segmentation(path).segments[0].mask.any()

    write_segmentation(path, [], a_volume)
    assert read_segmentation(path).segments == ()


def test_segments_without_an_id_are_numbered(tmp_path, a_volume):
    mask = np.ones(a_volume.shape_kji, dtype=bool)
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, [Segment("a", mask), Segment("b", mask)], a_volume)

    assert [one.id for one in read_segmentation(path).segments] == ["Segment_1", "Segment_2"]


def test_the_file_is_small_and_a_label_map_for_others(tmp_path, a_volume):
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, two_segments(a_volume, apart=6), a_volume)

    assert path.stat().st_size < 3000
    assert set(read_labelmap(path).voxels.ravel().tolist()) == {0, 1, 2}


def test_layers_are_not_read_as_one_volume(tmp_path, a_volume):
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, two_segments(a_volume, apart=2), a_volume)
    with pytest.raises(InvalidInput, match="overlapping segments"):
        read_volume(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": ""}, "no name"),
        ({"name": "two\nlines"}, "control characters"),
        ({"name": "\ud800"}, "control characters"),
        ({"id": "a\tb"}, "control characters"),
        ({"mask": np.zeros((2, 2), bool)}, "wanted bool"),
        ({"mask": np.zeros((2, 2, 2), np.uint8)}, "wanted bool"),
        ({"colour": (255, 0, 0)}, "numbers from 0 to 1"),
        ({"colour": (0.5, 0.5)}, "numbers from 0 to 1"),
        ({"colour": (np.nan, 0, 0)}, "numbers from 0 to 1"),
        ({"terminology": "Liver"}, "seven"),
        ({"terminology": LIVER.replace("Liver", "Li|ver")}, "seven"),
        ({"tags": {"a:b": "c"}}, "cannot be stored"),
        ({"tags": {"a": "b|c"}}, "cannot be stored"),
        ({"tags": {"TerminologyEntry": LIVER}}, "cannot be stored"),
        ({"tags": {"a": "b\n"}}, "control characters"),
    ],
)
def test_a_segment_that_cannot_be_stored_is_refused(change, reason):
    settings_ = {"name": "a", "mask": np.zeros((2, 2, 2), bool), **change}
    with pytest.raises(InvalidInput, match=reason) as caught:
        Segment(**settings_)

    assert caught.value.next_step


def test_a_segmentation_that_cannot_be_stored_is_refused(tmp_path, a_volume):
    mask = np.zeros(a_volume.shape_kji, bool)
    path = tmp_path / "a.seg.nrrd"
    with pytest.raises(InvalidInput, match=r"End the name with \.seg\.nrrd"):
        write_segmentation(tmp_path / "a.nrrd", [Segment("a", mask)], a_volume)
    with pytest.raises(InvalidInput, match=r"shape \(2, 2, 2\)"):
        write_segmentation(path, [Segment("a", np.zeros((2, 2, 2), bool))], a_volume)
    with pytest.raises(InvalidInput, match=r"\['x'\] occur more than once"):
        write_segmentation(path, [Segment("a", mask, id="x"), Segment("b", mask, id="x")], a_volume)
    with pytest.raises(InvalidInput, match="one voxel"):
        write_segmentation(path, [], Volume(np.zeros((1, 1, 1)), np.eye(4)))

    assert not list(tmp_path.iterdir())


def test_an_image_without_segments_is_no_segmentation(tmp_path):
    sitk.WriteImage(sitk.Image(4, 3, 2, sitk.sitkUInt8), str(tmp_path / "a.seg.nrrd"))
    with pytest.raises(UnreadableFile, match="without segments"):
        read_segmentation(tmp_path / "a.seg.nrrd")


def test_a_segmentation_of_an_older_slicer_is_refused_with_the_way_out(tmp_path):
    image = sitk.Image([4, 3, 2, 2], sitk.sitkUInt8)
    image.SetMetaData("Segment0_ID", "a")
    sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
    with pytest.raises(UnreadableFile, match="older form") as caught:
        read_segmentation(tmp_path / "a.seg.nrrd")

    assert "save it again" in caught.value.next_step


@pytest.mark.parametrize(
    ("key", "value"),
    [("Color", "red"), ("Layer", "7"), ("LabelValue", "one"), ("Tags", "TerminologyEntry:x|")],
)
def test_a_segmentation_with_wrong_keys_is_refused(tmp_path, key, value):
    image = sitk.Image(4, 3, 2, sitk.sitkUInt8)
    image.SetMetaData("Segment0_ID", "a")
    image.SetMetaData(f"Segment0_{key}", value)
    sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
    with pytest.raises(UnreadableFile, match=r"a\.seg\.nrrd describes its segments wrongly"):
        read_segmentation(tmp_path / "a.seg.nrrd")


def test_missing_keys_get_the_values_that_slicer_gives_them(tmp_path):
    image = sitk.GetImageFromArray(np.ones((2, 3, 4), np.uint8))
    image.SetMetaData("Segment0_ID", "only")
    sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
    (segment,) = read_segmentation(tmp_path / "a.seg.nrrd").segments

    assert (segment.name, segment.id, segment.colour) == ("only", "only", (0.5, 0.5, 0.5))
    assert segment.mask.all()


def test_a_damaged_segmentation_is_refused(tmp_path, a_volume):
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, two_segments(a_volume, apart=6), a_volume)
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    with pytest.raises(UnreadableFile, match="damaged"):
        read_segmentation(path)

    path.write_bytes(
        b"\n".join(
            b"space directions: (0,0,0) (0,1,0) (0,0,1)" if b"directions" in line else line
            for line in content.split(b"\n")
        )
    )
    with pytest.raises(GeometryError, match="spacing of 0 mm"):
        read_segmentation(path)


def test_a_folder_that_does_not_exist_is_a_storage_failure(tmp_path, a_volume):
    with pytest.raises(StorageFailure, match="No such file"):
        write_segmentation(tmp_path / "gone" / "a.seg.nrrd", [], a_volume)


def refuse_no_space(*_args, **_keywords):
    raise OSError(errno.ENOSPC, "No space left on device")


def refuse_as_itk(*_args, **_keywords):
    raise RuntimeError("NrrdImageIO: Write: Error writing file")


@pytest.mark.parametrize("refuse", [refuse_no_space, refuse_as_itk])
def test_no_space_left_is_said_and_the_old_file_stays(tmp_path, monkeypatch, a_volume, refuse):
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, [], a_volume)
    before = path.read_bytes()
    monkeypatch.setattr(sitk.ImageFileWriter, "Execute", refuse)
    with pytest.raises(StorageFailure, match=r"a\.seg\.nrrd was not written") as caught:
        write_segmentation(path, two_segments(a_volume, apart=2), a_volume)

    assert "Free some space" in caught.value.next_step
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_really_full_is_said_and_the_old_file_stays(a_full_disk):
    volume = Volume(np.zeros((50, 100, 100), np.uint8), np.eye(4))
    noise = np.random.default_rng(0).random(volume.shape_kji) < 0.5
    path = a_full_disk / "a.seg.nrrd"
    write_segmentation(path, [], volume)
    before = path.read_bytes()
    with pytest.raises(StorageFailure, match="MB are free on its disk"):
        write_segmentation(path, [Segment("noise", noise)], volume)

    assert path.read_bytes() == before
    assert list(a_full_disk.iterdir()) == [path]
