"""What 3D Slicer's own storage node makes of our files, and we of its files.

slicer-core is Slicer's MRML and VTK code without the application. Nothing here renders.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from protosam.extents import bounding_extent
from protosam.geometry import Volume, kji_to_ras
from protosam.phantom import make_phantom
from protosam.volume_io import (
    DEFAULT_TERMINOLOGY,
    Segment,
    read_segmentation,
    read_volume,
    write_segmentation,
)

slicer = pytest.importorskip("slicer")
vtk = pytest.importorskip("vtk")
numpy_support = pytest.importorskip("vtk.util.numpy_support")

ORIENTATIONS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
OBLIQUE = Rotation.from_euler("xyz", (11, -17, 23), degrees=True).as_matrix()
LABELMAP = "Binary labelmap"


@pytest.fixture
def a_scene() -> Iterator[object]:
    scene = slicer.vtkMRMLScene()
    yield scene
    scene.Clear(True)


def load(scene, path: Path):
    """Segmentation node of a file, read by Slicer's storage node."""
    node, storage = slicer.vtkMRMLSegmentationNode(), slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(node)
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.ReadData(node) == 1, storage.GetUserMessages().GetAllMessagesAsString()
    return node


def array_of(image) -> np.ndarray:
    k, j, i = image.GetDimensions()[::-1]
    return numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(k, j, i)


def matrix_of(matrix) -> np.ndarray:
    return np.array([[matrix.GetElement(row, n) for n in range(4)] for row in range(4)])


def voxels_of(segment) -> np.ndarray:
    """Indices (k, j, i) of a segment's voxels on the segmentation's own grid."""
    image = segment.GetRepresentation(LABELMAP)
    i0, _, j0, _, k0, _ = image.GetExtent()
    if 0 in image.GetDimensions():
        return np.zeros((0, 3), int)
    return np.argwhere(array_of(image) == segment.GetLabelValue()) + np.array((k0, j0, i0))


def world_points(segment) -> np.ndarray:
    """RAS of a segment's voxels by the matrix that Slicer holds."""
    to_world = vtk.vtkMatrix4x4()
    segment.GetRepresentation(LABELMAP).GetImageToWorldMatrix(to_world)
    return in_order(kji_to_ras(matrix_of(to_world), voxels_of(segment)))


def in_order(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(points.round(4).T)]


def tag(segment, name: str) -> str:
    value = vtk.reference("")
    return str(value) if segment.GetTag(name, value) else ""


def segments_of(node) -> list:
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(n) for n in range(segmentation.GetNumberOfSegments())]


@pytest.mark.parametrize("turn", [np.eye(3), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_a_written_mask_covers_the_same_world_points_in_slicer(
    tmp_path, a_scene, order, signs, turn
):
    matrix = np.zeros((3, 3))
    for n, spacing in enumerate((0.7, 1.3, 4.0)):
        matrix[order[n], n] = signs[n] * spacing
    affine = np.eye(4)
    affine[:3, :3] = turn @ matrix
    affine[:3, 3] = (12.5, -40.0, 7.25)
    volume = Volume(np.zeros((5, 6, 7), np.uint8), affine)
    mask = np.random.default_rng(1).random(volume.shape_kji) < 0.3
    write_segmentation(tmp_path / "a.seg.nrrd", [Segment("x", mask)], volume)

    (segment,) = segments_of(load(a_scene, tmp_path / "a.seg.nrrd"))
    expected = in_order(kji_to_ras(affine, np.argwhere(mask)))
    np.testing.assert_allclose(world_points(segment), expected, atol=1e-9)


def ball(shape, middle, radius) -> np.ndarray:
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    return sum((a - m) ** 2 for a, m in zip(axes, middle, strict=True)) <= radius**2


@pytest.mark.parametrize("apart", [2, 6], ids=["overlapping", "disjoint"])
def test_names_colours_terminology_and_layers_arrive_in_slicer(tmp_path, a_scene, a_volume, apart):
    shape = a_volume.shape_kji
    liver = DEFAULT_TERMINOLOGY.replace("SCT^85756007^Tissue~^^", "SCT^10200004^Liver~^^")
    given = [
        Segment("Leber größe 肝", ball(shape, (4, 5, 5), 2.5), (0.8, 0.2, 0.1), "liver", liver),
        Segment("b", ball(shape, (4, 5, 5 + apart), 2.5), id="b", tags={"ProtoSAM.Model": "tiny"}),
        Segment("empty", np.zeros(shape, bool), id="none"),
    ]
    write_segmentation(tmp_path / "a.seg.nrrd", given, a_volume)
    node = load(a_scene, tmp_path / "a.seg.nrrd")
    segmentation = node.GetSegmentation()
    found = segments_of(node)

    assert segmentation.GetNumberOfLayers(LABELMAP) == (1 if apart == 6 else 2)
    assert [segmentation.GetNthSegmentID(n) for n in range(3)] == ["liver", "b", "none"]
    for segment, wanted in zip(found, given, strict=True):
        assert segment.GetName() == wanted.name
        np.testing.assert_allclose(segment.GetColor(), wanted.colour)
        assert tag(segment, "TerminologyEntry") == wanted.terminology
        np.testing.assert_array_equal(voxels_of(segment), np.argwhere(wanted.mask))
    assert tag(found[1], "ProtoSAM.Model") == "tiny"


def test_the_reference_geometry_arrives_in_slicer(tmp_path, a_scene, a_volume):
    segment = Segment("b", ball(a_volume.shape_kji, (4, 5, 5), 2.5))
    write_segmentation(tmp_path / "a.seg.nrrd", [segment], a_volume)
    converter = slicer.vtkSegmentationConverter
    text = (
        load(a_scene, tmp_path / "a.seg.nrrd")
        .GetSegmentation()
        .GetConversionParameter(converter.GetReferenceImageGeometryParameterName())
    )
    image, to_world = slicer.vtkOrientedImageData(), vtk.vtkMatrix4x4()
    assert converter.DeserializeImageGeometry(text, image)
    image.GetImageToWorldMatrix(to_world)

    assert image.GetExtent() == (0, 13, 0, 11, 0, 8)
    np.testing.assert_allclose(matrix_of(to_world), a_volume.affine, atol=1e-12)


def test_the_segmentations_module_loads_the_file(tmp_path, a_scene, a_volume):
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(a_scene)
    mask = ball(a_volume.shape_kji, (4, 5, 5), 2.5)
    write_segmentation(tmp_path / "a.seg.nrrd", [Segment("b", mask)], a_volume)
    node = logic.LoadSegmentationFromFile(str(tmp_path / "a.seg.nrrd"), False)

    np.testing.assert_array_equal(voxels_of(segments_of(node)[0]), np.argwhere(mask))


def oriented_image(mask, volume: Volume):
    """Slicer's image of the bounding box of a mask."""
    extent = bounding_extent(mask)
    (k0, j0, i0), (k1, j1, i1) = extent.start_kji, extent.stop_kji
    image, to_world = slicer.vtkOrientedImageData(), vtk.vtkMatrix4x4()
    image.SetExtent(i0, i1 - 1, j0, j1 - 1, k0, k1 - 1)
    scalars = numpy_support.numpy_to_vtk(mask[extent.slices].ravel().astype(np.uint8), deep=1)
    scalars.SetName("ImageScalars")
    image.GetPointData().SetScalars(scalars)
    for row, n in itertools.product(range(4), repeat=2):
        to_world.SetElement(row, n, volume.affine[row, n])
    image.SetImageToWorldMatrix(to_world)
    return image


@pytest.mark.parametrize("crop", [False, True], ids=["whole grid", "cropped"])
def test_a_file_that_slicer_wrote_is_read_with_the_same_world_points(
    tmp_path, a_scene, a_volume, crop
):
    shape = a_volume.shape_kji
    masks = {"Leber größe": ball(shape, (4, 5, 5), 2.5), "b": ball(shape, (4, 5, 7), 2.5)}
    node, storage = slicer.vtkMRMLSegmentationNode(), slicer.vtkMRMLSegmentationStorageNode()
    a_scene.AddNode(node)
    a_scene.AddNode(storage)
    segmentation, converter = node.GetSegmentation(), slicer.vtkSegmentationConverter
    segmentation.SetSourceRepresentationName(LABELMAP)
    whole = oriented_image(np.ones(shape, bool), a_volume)
    segmentation.SetConversionParameter(
        converter.GetReferenceImageGeometryParameterName(), converter.SerializeImageGeometry(whole)
    )
    for name, mask in masks.items():
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetColor(0.25, 0.5, 0.75)
        segment.AddRepresentation(LABELMAP, oriented_image(mask, a_volume))
        segmentation.AddSegment(segment, f"id of {name}")
    storage.SetCropToMinimumExtent(crop)
    storage.SetFileName(str(tmp_path / "theirs.seg.nrrd"))
    assert storage.WriteData(node) == 1

    back = read_segmentation(tmp_path / "theirs.seg.nrrd")
    assert (back.shape_kji == shape) is not crop
    for segment, (name, mask) in zip(back.segments, masks.items(), strict=True):
        assert (segment.name, segment.id) == (name, f"id of {name}")
        assert segment.colour == (0.25, 0.5, 0.75)
        assert segment.terminology == DEFAULT_TERMINOLOGY
        np.testing.assert_allclose(
            in_order(kji_to_ras(back.affine, np.argwhere(segment.mask))),
            in_order(kji_to_ras(a_volume.affine, np.argwhere(mask))),
            atol=1e-5,
        )


def test_slicer_and_we_place_an_image_alike(tmp_path, a_scene):
    phantom = make_phantom()
    write_segmentation(tmp_path / "a.seg.nrrd", [], phantom.volume)
    node, storage = slicer.vtkMRMLScalarVolumeNode(), slicer.vtkMRMLVolumeArchetypeStorageNode()
    a_scene.AddNode(node)
    a_scene.AddNode(storage)
    storage.SetFileName(str(tmp_path / "a.seg.nrrd"))
    assert storage.ReadData(node) == 1
    to_ras = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(to_ras)

    np.testing.assert_allclose(matrix_of(to_ras), phantom.volume.affine, atol=1e-9)
    np.testing.assert_allclose(
        read_volume(tmp_path / "a.seg.nrrd").affine, matrix_of(to_ras), atol=1e-9
    )
