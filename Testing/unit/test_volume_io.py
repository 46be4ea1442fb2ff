from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from protosam.errors import GeometryError, InvalidInput, OutOfMemory, UnreadableFile
from protosam.geometry import Volume, kji_to_ras
from protosam.volume_io import READABLE_ENDINGS, read_labelmap, read_volume

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
STRAIGHT = np.array([[-2.0, 0, 0, 10], [0, -2, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]])
TURNED = np.array([[0, 2.0, 0, 1], [2, 0, 0, 2], [0, 0, -3, 3], [0, 0, 0, 1]])


def itk_affine(path: Path) -> np.ndarray:
    image = sitk.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return FLIP @ matrix


def write_nifti(path: Path, volume: Volume, kind=nibabel.Nifti1Image) -> Path:
    kind(np.asarray(volume.voxels).T, volume.affine).to_filename(path)
    return path


def write_itk(path: Path, volume: Volume) -> Path:
    image = sitk.GetImageFromArray(volume.voxels)
    lps = FLIP @ volume.affine
    spacing = np.array(volume.spacing_kji_mm[::-1])
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".NRRD"])
def test_every_3d_format_brings_voxels_and_place_back(tmp_path, a_volume, ending):
    write = write_nifti if ending.startswith(".nii") else write_itk
    path = write(tmp_path / f"a{ending}", a_volume)
    back = read_volume(path)

    np.testing.assert_array_equal(back.voxels, a_volume.voxels)
    assert back.voxels.dtype == np.int16
    np.testing.assert_allclose(back.affine, a_volume.affine, atol=1e-4)
    np.testing.assert_allclose(back.affine, itk_affine(path), atol=1e-4)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8", ">i2", ">f4"])
def test_every_number_type_of_nifti_is_kept(tmp_path, a_volume, dtype):
    voxels = (a_volume.voxels % 100).astype(dtype)
    image = nibabel.Nifti1Image(voxels.T, a_volume.affine)
    image.set_data_dtype(dtype)
    image.to_filename(tmp_path / "a.nii")
    back = read_volume(tmp_path / "a.nii")

    np.testing.assert_array_equal(back.voxels, voxels)
    assert back.voxels.dtype == np.dtype(dtype).newbyteorder("=")


def test_nifti_2_is_read(tmp_path, a_volume):
    path = write_nifti(tmp_path / "a.nii.gz", a_volume, nibabel.Nifti2Image)

    np.testing.assert_array_equal(read_volume(path).voxels, a_volume.voxels)


def test_scaled_nifti_voxels_become_float32_in_their_unit(tmp_path, a_volume):
    image = nibabel.Nifti1Image(np.asarray(a_volume.voxels).T, a_volume.affine)
    image.header.set_slope_inter(0.5, 10)
    image.to_filename(tmp_path / "a.nii")
    stored = nibabel.load(tmp_path / "a.nii")
    back = read_volume(tmp_path / "a.nii")

    assert back.voxels.dtype == np.float32
    np.testing.assert_allclose(back.voxels, stored.get_fdata().T, rtol=1e-6)


@pytest.mark.parametrize("sform", [0, 1, 2, 4])
@pytest.mark.parametrize("qform", [0, 1, 2, 4])
def test_of_two_places_in_a_nifti_header_that_of_itk_is_taken(tmp_path, sform, qform):
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), None)
    image.header.set_zooms((2, 2, 3))
    image.set_qform(TURNED, qform)
    image.set_sform(STRAIGHT, sform)
    image.to_filename(tmp_path / "a.nii")

    np.testing.assert_allclose(
        read_volume(tmp_path / "a.nii").affine, itk_affine(tmp_path / "a.nii"), atol=1e-5
    )


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1), ("meter", 1000), ("micron", 0.001)])
def test_the_length_unit_of_a_nifti_header_counts(tmp_path, unit, mm):
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), STRAIGHT)
    image.header.set_xyzt_units(unit)
    image.to_filename(tmp_path / "a.nii")

    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").affine[:3], STRAIGHT[:3] * mm)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 1, 1), (4, 5, 6, 1)])
def test_nifti_axes_of_length_one_are_dropped_or_added(tmp_path, shape):
    values = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    nibabel.Nifti1Image(values, STRAIGHT).to_filename(tmp_path / "a.nii")
    expected = values.reshape((*shape, 1)[:3]).transpose(2, 1, 0)

    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").voxels, expected)


def test_a_2d_image_of_itk_is_one_slice(tmp_path):
    image = sitk.GetImageFromArray(np.arange(12, dtype=np.int16).reshape(3, 4))
    image.SetSpacing((2.0, 3.0))
    image.SetOrigin((5.0, 7.0))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    volume = read_volume(tmp_path / "a.mha")

    assert volume.shape_kji == (1, 3, 4)
    np.testing.assert_array_equal(
        volume.affine, [[-2, 0, 0, -5], [0, -3, 0, -7], [0, 0, 1, 0], [0, 0, 0, 1]]
    )


def test_a_4d_image_of_itk_with_one_time_point_is_a_volume(tmp_path):
    image = sitk.JoinSeries([sitk.GetImageFromArray(np.arange(24).reshape(2, 3, 4))])
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))

    assert read_volume(tmp_path / "a.nrrd").shape_kji == (2, 3, 4)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".jpeg"])
def test_a_picture_is_one_slice_of_rows_and_columns_of_1_mm(tmp_path, ending):
    rows = np.repeat(np.arange(10, 250, 40, dtype=np.uint8)[:, np.newaxis], 9, axis=1)
    Image.fromarray(rows).save(tmp_path / f"a{ending}")
    volume = read_volume(tmp_path / f"a{ending}")

    assert volume.shape_kji == (1, 6, 9)
    np.testing.assert_allclose(volume.voxels[0].astype(int), rows, atol=5)
    assert kji_to_ras(volume.affine, (0, 2, 3)).tolist() == [-3, -2, 0]
    assert volume.spacing_kji_mm == (1, 1, 1)


def test_a_picture_lies_where_itk_puts_it(tmp_path):
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(tmp_path / "a.png")
    image = sitk.ReadImage(str(tmp_path / "a.png"))
    x, y = image.TransformIndexToPhysicalPoint((4, 3))

    assert kji_to_ras(read_volume(tmp_path / "a.png").affine, (0, 3, 4)).tolist() == [-x, -y, 0]


def test_a_colour_picture_becomes_its_luminance_without_transparency(tmp_path):
    colours = np.zeros((2, 3, 4), np.uint8)
    colours[0] = (255, 0, 0, 255)
    colours[1] = (0, 255, 0, 0)
    Image.fromarray(colours).save(tmp_path / "a.png")

    assert read_volume(tmp_path / "a.png").voxels[0, :, 0].tolist() == [76, 150]


def test_a_16_bit_picture_keeps_its_values(tmp_path):
    values = np.array([[0, 300], [40_000, 65_535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")

    np.testing.assert_array_equal(read_volume(tmp_path / "a.png").voxels[0], values)


def test_a_black_and_white_picture_is_0_and_255(tmp_path):
    Image.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "a.png")

    assert set(read_volume(tmp_path / "a.png").voxels.ravel().tolist()) == {0, 255}
    assert set(read_labelmap(tmp_path / "a.png").voxels.ravel().tolist()) == {0, 255}


def test_the_indices_of_a_palette_are_labels_but_its_colours_are_an_image(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    picture.putpalette([0, 0, 0, 255, 255, 255, 100, 100, 100])
    picture.putdata([0, 1, 2, 1])
    picture.save(tmp_path / "a.png")

    assert read_labelmap(tmp_path / "a.png").voxels[0].tolist() == [[0, 1], [2, 1]]
    assert read_volume(tmp_path / "a.png").voxels[0].tolist() == [[0, 255], [100, 255]]


def test_labels_in_equal_colour_channels_are_read_and_real_colours_refused(tmp_path):
    grey = np.zeros((3, 3, 3), np.uint8)
    grey[1] = 2
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert read_labelmap(tmp_path / "a.png").voxels[0, 1].tolist() == [2, 2, 2]

    grey[1, :, 0] = 9
    Image.fromarray(grey).save(tmp_path / "a.png")
    with pytest.raises(InvalidInput, match=r"a.png: The label picture is in colours"):
        read_labelmap(tmp_path / "a.png")


def test_whole_numbers_stored_as_floats_are_labels_and_others_are_not(tmp_path, a_volume):
    labels = Volume((a_volume.voxels % 4).astype(np.float32), a_volume.affine)
    back = read_labelmap(write_nifti(tmp_path / "a.nii", labels))
    assert back.voxels.dtype == np.int32
    np.testing.assert_array_equal(back.voxels, labels.voxels)

    halves = Volume(labels.voxels + np.float32(0.5), a_volume.affine)
    with pytest.raises(InvalidInput, match="not whole numbers"):
        read_labelmap(write_nifti(tmp_path / "a.nii", halves))


def nrrd(fields: str, data: bytes = bytes(48), kind: str = "short") -> bytes:
    text = f"NRRD0004\ntype: {kind}\n{fields}\nendian: little\nencoding: raw\n\n"
    return text.encode() + data


def placed(directions: str, sizes: str = "4 3 2") -> bytes:
    return nrrd(
        f"dimension: 3\nspace: LPS\nsizes: {sizes}\nspace directions: {directions}\n"
        "kinds: domain domain domain\nspace origin: (0,0,0)"
    )


def mha(fields: str, data: bytes = bytes(48)) -> bytes:
    return (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\n{fields}\nDimSize = 4 3 2\n"
        "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    ).encode() + data


def nifti(affine=STRAIGHT, values=None) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(np.zeros((4, 3, 2), np.int16) if values is None else values, affine)


def patched(content: bytes, place: int, patch: bytes) -> bytes:
    return content[:place] + patch + content[place + len(patch) :]


def singular_nifti() -> bytes:
    """Header with qform code 0, sform code 1 and two equal columns in the sform."""
    content = patched(nifti().to_bytes(), 252, struct.pack("<2h", 0, 1))
    return patched(content, 280, struct.pack("<12f", 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0))


RGB = np.zeros((4, 3, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
ZERO_PIXDIM = struct.pack("<f", 0.0)

BAD_FILES = {
    "empty.nii": (b"", UnreadableFile, "is empty"),
    "empty.nii.gz": (b"", UnreadableFile, "is empty"),
    "empty.nrrd": (b"", UnreadableFile, "is empty"),
    "empty.png": (b"", UnreadableFile, "is empty"),
    "junk.nii": (b"junk" * 200, UnreadableFile, "damaged"),
    "junk.nii.gz": (b"junk" * 200, UnreadableFile, "damaged"),
    "junk.nrrd": (b"junk" * 200, UnreadableFile, "damaged"),
    "junk.mha": (b"junk" * 200, UnreadableFile, "damaged"),
    "junk.png": (b"junk" * 200, UnreadableFile, "damaged"),
    "junk.jpg": (b"\xff\xd8\xff" + b"junk" * 200, UnreadableFile, "damaged"),
    "short.nii": (nifti().to_bytes()[:-20], UnreadableFile, "damaged"),
    "short.nii.gz": (gzip.compress(nifti().to_bytes())[:-15], UnreadableFile, "damaged"),
    "short.nrrd": (placed("(1,0,0) (0,1,0) (0,0,1)", "4 3 9"), UnreadableFile, "damaged"),
    "short.mha": (mha("ElementSpacing = 1 1 1", bytes(20)), UnreadableFile, "damaged"),
    "other.nii": (placed("(1,0,0) (0,1,0) (0,0,1)"), UnreadableFile, "damaged"),
    "picture.dcm": (b"x", UnreadableFile, "cannot be read"),
    "noending": (b"x", UnreadableFile, "end with nothing"),
    "4d.nii": (
        nifti(values=np.zeros((4, 3, 2, 5), np.int16)).to_bytes(),
        InvalidInput,
        "4 axes of 4 x 3 x 2 x 5",
    ),
    "4d.nrrd": (nrrd("dimension: 4\nsizes: 4 3 1 2\nspacings: 1 1 1 1"), InvalidInput, "4 axes"),
    "rgb.nii": (nifti(values=RGB).to_bytes(), InvalidInput, r"colours \(R, G, B\)"),
    "rgb.nrrd": (
        nrrd(
            "dimension: 4\nspace: LPS\nsizes: 3 4 2 1\nspace origin: (0,0,0)\n"
            "space directions: none (1,0,0) (0,1,0) (0,0,1)\n"
            "kinds: RGB-color domain domain domain"
        ),
        InvalidInput,
        "3 values each",
    ),
    "complex.nii": (
        nifti(values=np.zeros((4, 3, 2), np.complex64)).to_bytes(),
        InvalidInput,
        "complex64",
    ),
    "nan.nii": (
        nifti(values=np.full((4, 3, 2), np.nan, np.float32)).to_bytes(),
        InvalidInput,
        "24 of 24 voxels are NaN",
    ),
    "inf.nrrd": (
        nrrd("dimension: 3\nsizes: 2 1 1\nspacings: 1 1 1", struct.pack("<2f", 1, np.inf), "float"),
        InvalidInput,
        "1 of 2 voxels",
    ),
    "zero.nii": (
        patched(nifti().to_bytes(), 84, ZERO_PIXDIM),
        GeometryError,
        "spacing of 2 x 0 x 3",
    ),
    "zero.nii.gz": (
        gzip.compress(patched(nifti().to_bytes(), 80, ZERO_PIXDIM)),
        GeometryError,
        "spacing of 0 x 2 x 3",
    ),
    "zero.nrrd": (placed("(1,0,0) (0,1,0) (0,0,0)"), GeometryError, "spacing of 0 mm"),
    "zero.mha": (mha("ElementSpacing = 1 0 1"), GeometryError, "spacing of 0 mm"),
    "singular.nii": (singular_nifti(), GeometryError, "singular"),
    "singular.nrrd": (placed("(1,0,0) (0,1,0) (0,1,0)"), GeometryError, "singular"),
    "singular.mha": (
        mha("ElementSpacing = 1 1 1\nTransformMatrix = 1 0 0 0 1 0 0 1 0"),
        GeometryError,
        "singular",
    ),
    "tilted.nrrd": (placed("(1,0,0) (0,1,0) (0,0.3346,1)"), GeometryError, "18.5 degrees"),
    "gone.mhd": (
        mha("ElementSpacing = 1 1 1").split(b"LOCAL")[0] + b"gone.raw\n",
        UnreadableFile,
        "damaged",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("read", [read_volume, read_labelmap])
def test_a_bad_file_is_refused_by_one_sentence_with_a_next_step(tmp_path, name, read):
    content, kind, reason = BAD_FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(kind, match=reason) as caught:
        read(path)

    assert name in caught.value.message
    assert caught.value.message.count(name) == 1
    assert "\n" not in str(caught.value)
    assert caught.value.next_step


def test_a_missing_file_and_a_folder_are_said(tmp_path):
    with pytest.raises(UnreadableFile, match="cannot be opened: No such file"):
        read_volume(tmp_path / "gone.nii")
    (tmp_path / "folder.nrrd").mkdir()
    with pytest.raises(UnreadableFile, match="is a folder"):
        read_volume(tmp_path / "folder.nrrd")


def test_an_image_that_does_not_fit_into_the_memory_is_said(tmp_path, monkeypatch, a_volume):
    huge = placed("(1,0,0) (0,1,0) (0,0,1)", "400000 300000 200000")
    (tmp_path / "huge.nrrd").write_bytes(huge)
    with pytest.raises((OutOfMemory, UnreadableFile), match=r"huge\.nrrd"):
        read_volume(tmp_path / "huge.nrrd")

    def no_memory(*_args, **_keywords):
        raise MemoryError

    path = write_nifti(tmp_path / "a.nii", a_volume)
    monkeypatch.setattr("nibabel.arrayproxy.ArrayProxy.get_unscaled", no_memory)
    with pytest.raises(OutOfMemory, match=r"a\.nii does not fit"):
        read_volume(path)


def test_a_picture_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((50, 50), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InvalidInput, match="too large"):
        read_volume(tmp_path / "a.png")


def test_one_slice_and_constant_images_are_read(tmp_path):
    flat = Volume(np.full((1, 5, 4), 7, np.uint8), STRAIGHT)

    assert read_volume(write_itk(tmp_path / "a.nrrd", flat)).shape_kji == (1, 5, 4)


def test_the_endings_are_listed():
    assert READABLE_ENDINGS == (
        ".nii",
        ".nii.gz",
        ".nrrd",
        ".nhdr",
        ".mha",
        ".mhd",
        ".png",
        ".jpg",
        ".jpeg",
    )


def test_real_images_lie_where_itk_puts_them_and_right_under_their_labels(shared_data):
    for image_path in sorted(shared_data.glob("*/*_img.nii.gz"))[::60]:
        volume = read_volume(image_path)
        labels = read_labelmap(Path(str(image_path).replace("_img", "_lab")))

        np.testing.assert_allclose(volume.affine, itk_affine(image_path), atol=1e-3)
        assert labels.shape_kji == volume.shape_kji
        np.testing.assert_allclose(labels.affine, volume.affine, atol=1e-3)


def test_real_pictures_are_read_with_their_labels(shared_data):
    for label_path in sorted(shared_data.rglob("*_lab*.png"))[::60]:
        labels = read_labelmap(label_path)

        assert labels.shape_kji[0] == 1
        assert labels.voxels.dtype.kind == "u"
