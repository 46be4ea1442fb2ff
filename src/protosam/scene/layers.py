"""Segments as voxels: reading parts of a segmentation's label maps, and making new ones.

Rules
-----
* Extents are of the segmentation's reference grid. Stored label maps are cropped differently, may
  be shared by segments (a label value each) and may even lie on another grid: all of that ends
  here.
* Only the asked-for box is touched: whole-volume calls take tenths of a second.
* Classes of Slicer come from the host's namespace.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from vtkmodules.vtkCommonCore import VTK_UNSIGNED_CHAR
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from protosam.extents import BoolArray, Extent, VoxelArray, three_ints
from protosam.geometry import ras_to_kji
from protosam.scene.grids import (
    SAME_GRID_VOXELS,
    Node,
    ReferenceGrid,
    array_of,
    matrix_of,
    vtk_matrix,
    within,
)

BINARY_LABELMAP = "Binary labelmap"
"""Slicer's name of the representation that is edited."""

LARGE_VOXELS = 1 << 23
"""Shared label maps from this size on are worth leaving, see `Layers.part`."""

SCALARS_NAME = "ImageScalars"
"""Slicer's exporter takes segments whose scalars have another name, or none, for empty."""


class Layers:
    """The label maps of one segmentation, read on its reference grid.

    Parameters
    ----------
    mrml : namespace
        Slicer's classes.
    segmentation_node : vtkMRMLSegmentationNode
    grid : ReferenceGrid
    """

    def __init__(self, mrml: Node, segmentation_node: Node, grid: ReferenceGrid) -> None:
        self._mrml = mrml
        self._segmentation = segmentation_node.GetSegmentation()
        self.grid = grid

    def segment(self, segment_id: str, box: Extent) -> BoolArray:
        """Voxels of one segment in a box.

        Returns
        -------
        (k, j, i) bool
            All False if there is no such segment.
        """
        segment = self._segmentation.GetSegment(segment_id)
        image = None if segment is None else segment.GetRepresentation(BINARY_LABELMAP)
        if image is None:
            return np.zeros(box.shape_kji, dtype=np.bool_)
        found: BoolArray = self._labels(image, box) == segment.GetLabelValue()
        return found

    def ids(self) -> tuple[str, ...]:
        """Ids of all segments."""
        count = self._segmentation.GetNumberOfSegments()
        return tuple(self._segmentation.GetNthSegmentID(n) for n in range(count))

    def union(self, segment_ids: Collection[str], box: Extent) -> BoolArray:
        """Voxels of any of some segments in a box.

        Returns
        -------
        (k, j, i) bool
        """
        found = np.zeros(box.shape_kji, dtype=np.bool_)
        for image, members in self._by_image():
            values = [label for one, label in members if one in segment_ids]
            if values:
                found |= np.isin(self._labels(image, box), values)
        return found

    def others(self, segment_id: str, box: Extent, mask: BoolArray) -> dict[str, BoolArray]:
        """Other segments that own voxels of a mask.

        Parameters
        ----------
        segment_id : str
            The one that is left out.
        box : Extent
        mask : (k, j, i) bool
            Crop on the box.

        Returns
        -------
        dict of (k, j, i) bool
            By segment id, their voxels inside of the mask.
        """
        owned: dict[str, BoolArray] = {}
        for image, members in self._by_image():
            if [one for one, _ in members] == [segment_id]:
                continue
            labels = self._labels(image, box)
            here = set(np.unique(labels[mask]).tolist())
            for one, label in members:
                if one != segment_id and label in here:
                    owned[one] = (labels == label) & mask
        return owned

    def count(self, segment_id: str) -> int:
        """Count the voxels of a segment, over all of its label map."""
        segment = self._segmentation.GetSegment(segment_id)
        image = None if segment is None else segment.GetRepresentation(BINARY_LABELMAP)
        array = None if image is None else _array(image)
        if array is None:
            return 0
        return int(np.count_nonzero(array == segment.GetLabelValue()))

    def whole(self, segment_id: str) -> tuple[Extent, BoolArray]:
        """Box that holds all of a segment's layer, and the segment's voxels in it."""
        segment = self._segmentation.GetSegment(segment_id)
        image = None if segment is None else segment.GetRepresentation(BINARY_LABELMAP)
        if image is None or _array(image) is None:
            return Extent((0, 0, 0), (0, 0, 0)), np.zeros((0, 0, 0), dtype=np.bool_)
        offset = self._offset(image)
        if offset is None:
            box = Extent.of_shape(self.grid.shape_kji)
        else:
            box = _extent_of(image, offset).clip(self.grid.shape_kji)
        return box, self.segment(segment_id, box)

    def shared(self, one_id: str, other_id: str) -> bool:
        """Whether two segments have one label map."""
        one, other = (
            self._segmentation.GetSegment(name).GetRepresentation(BINARY_LABELMAP)
            for name in (one_id, other_id)
        )
        return one is other

    def part(self, segment_id: str) -> None:
        """Give an empty segment a label map of its own, if it shares a large one.

        Each write works through the whole of the label map: 0.1 s with a segment beside it that
        fills 512x512x400 voxels. Slicer joins label maps again when it saves.
        """
        for image, members in self._by_image():
            shared = len(members) > 1 and segment_id in dict(members)
            if shared and image.GetNumberOfPoints() >= LARGE_VOXELS:
                own = self._mrml.vtkOrientedImageData()
                own.SetImageToWorldMatrix(vtk_matrix(self.grid.matrix))
                own.SetExtent(0, -1, 0, -1, 0, -1)
                own.AllocateScalars(VTK_UNSIGNED_CHAR, 1)
                segment = self._segmentation.GetSegment(segment_id)
                segment.AddRepresentation(BINARY_LABELMAP, own)

    def labelmap(self, box: Extent, mask: BoolArray) -> Node:
        """Slicer's image of a mask: the reference grid's own origin, cropped by extent."""
        image = self._blank(box)
        scalars = image.GetPointData().GetScalars()
        scalars.SetName(SCALARS_NAME)
        array_of(scalars)[:] = mask.ravel()
        scalars.Modified()
        return image

    def _blank(self, box: Extent) -> Node:
        image = self._mrml.vtkOrientedImageData()
        image.SetImageToWorldMatrix(vtk_matrix(self.grid.matrix))
        image.SetExtent(*self.grid.vtk_extent(box))
        image.AllocateScalars(VTK_UNSIGNED_CHAR, 1)
        return image

    def _by_image(self) -> Iterator[tuple[Node, list[tuple[str, int]]]]:
        """Each label map once, with the segments that share it and their label values."""
        found: dict[int, tuple[Node, list[tuple[str, int]]]] = {}
        for n in range(self._segmentation.GetNumberOfSegments()):
            segment = self._segmentation.GetNthSegment(n)
            image = segment.GetRepresentation(BINARY_LABELMAP)
            if image is not None:
                members = found.setdefault(id(image), (image, []))[1]
                members.append((self._segmentation.GetNthSegmentID(n), segment.GetLabelValue()))
        yield from found.values()

    def _labels(self, image: Node, box: Extent) -> VoxelArray:
        """(k, j, i) label values in a box; 0 outside of the stored crop."""
        offset = self._offset(image)
        if offset is None:
            return self._resampled(image, box)
        array = _array(image)
        out = np.zeros(box.shape_kji, dtype=np.uint8 if array is None else array.dtype)
        if array is not None:
            stored = _extent_of(image, offset)
            both = stored.intersection(box)
            if not both.is_empty:
                out[within(both, box)] = array[within(both, stored)]
        return out

    def _offset(self, image: Node) -> tuple[int, int, int] | None:
        """Find the reference index of an image's voxel (0, 0, 0); None if the lattice differs."""
        local = vtkMatrix4x4()
        image.GetImageToWorldMatrix(local)
        stored = matrix_of(local)
        steps = np.linalg.inv(self.grid.matrix[:3, :3]) @ stored[:3, :3] - np.eye(3)
        reach = max(self.grid.shape_kji)
        at = ras_to_kji(self.grid.matrix, stored[:3, 3]) - self.grid.first_kji
        whole = np.round(at)
        same = np.abs(steps).max() * reach < SAME_GRID_VOXELS
        if not same or np.abs(at - whole).max() > SAME_GRID_VOXELS:
            return None
        return three_ints(whole.astype(int), "offset")

    def _resampled(self, image: Node, box: Extent) -> VoxelArray:
        """Label values on the reference grid, by Slicer's nearest-neighbour resampling."""
        out = self._mrml.vtkOrientedImageData()
        resample = self._mrml.vtkOrientedImageDataResample
        resample.ResampleOrientedImageToReferenceOrientedImage(
            image, self._blank(box), out, False, False
        )
        array = _array(out)
        empty = np.zeros(box.shape_kji, dtype=np.uint8)
        return empty if array is None else array


def _array(image: Node) -> VoxelArray | None:
    """(k, j, i) view of an image's scalars; None if it has no voxel."""
    i, j, k = image.GetDimensions()
    scalars = image.GetPointData().GetScalars()
    if min(i, j, k) < 1 or scalars is None or scalars.GetNumberOfTuples() != i * j * k:
        return None
    array: VoxelArray = array_of(scalars).reshape(k, j, i)
    return array


def _extent_of(image: Node, offset: tuple[int, int, int]) -> Extent:
    bounds = image.GetExtent()
    start = np.add(bounds[4::-2], offset)
    shape = [bounds[n + 1] - bounds[n] + 1 for n in (4, 2, 0)]
    return Extent(three_ints(start, "start"), three_ints(start + shape, "stop"))
