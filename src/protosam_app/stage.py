"""The MRML scene of the page: volumes, one segmentation for each, and the segment editor's nodes.

Rules
-----
* The scene is the truth; nothing of it is kept twice. What the page shows is read from here.
* Node classes come from `slicer`, the PyPI package; nothing of a browser is known.
* Voxels of a volume are handed to VTK without a copy and must not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
from trame_slicer.core import SlicerApp
from vtkmodules.util.numpy_support import numpy_to_vtk
from vtkmodules.vtkCommonDataModel import vtkImageData
from vtkmodules.vtkCommonMath import vtkMatrix4x4

from protosam.geometry import Volume
from protosam.scene import PARAMETERS
from protosam_app.opening import Opened

Node = Any

UNDO_STATES = 10
"""Each holds copies of the label maps that changed: some 10 MB for a large organ."""

FILL = 0.35
"""Opacity of segments in the slices at first: what lies under them must be seen."""

SEGMENTATION_ROLE = "protosam.segmentation"
"""Node reference from a volume to the segmentation that is drawn on it."""


@dataclass(frozen=True)
class Display:
    """How a volume is shown."""

    low: float
    """Black, in the volume's units."""
    high: float
    """White."""
    range_low: float
    """Lowest value of the slider."""
    range_high: float
    """Highest value of the slider."""
    is_ct: bool
    """Whether the values look like HU, so that windows by name make sense."""


class Stage:
    """A scene with a segment editor."""

    def __init__(self) -> None:
        self.slicer = SlicerApp()
        self.scene = self.slicer.scene
        self.editor = slicer.vtkMRMLSegmentEditorNode()
        self.editor.SetName("ProtoSAM")
        self.scene.AddNode(self.editor)
        for name, value in PARAMETERS.items():
            self.editor.SetAttribute(f"ProtoSAM.{name}", value)
        self.logic = slicer.vtkSlicerSegmentEditorLogic()
        self.logic.SetMRMLScene(self.scene)
        self.logic.SetSegmentEditorNode(self.editor)
        self.logic.SetMaximumNumberOfUndoStates(UNDO_STATES)
        self._read: dict[str, Volume] = {}

    @property
    def volumes(self) -> list[Node]:
        """Scalar volumes, in the order in which they came."""
        found = self.scene.GetNodesByClass("vtkMRMLScalarVolumeNode")
        found.UnRegister(None)
        return [found.GetItemAsObject(n) for n in range(found.GetNumberOfItems())]

    @property
    def volume(self) -> Node:
        """The volume that is shown, or None."""
        return self.editor.GetSourceVolumeNode()

    @property
    def segmentation(self) -> Node:
        """The segmentation of that volume, or None."""
        return self.editor.GetSegmentationNode()

    @property
    def reference(self) -> Volume | None:
        """The volume that is shown as it was read, or None."""
        return None if self.volume is None else self._read.get(self.volume.GetID())

    def add_volume(self, opened: Opened) -> Node:
        """Put a volume into the scene with an empty segmentation; it is not shown yet."""
        node = slicer.vtkMRMLScalarVolumeNode()
        node.SetName(self._free_name(opened.name))
        node.SetIJKToRASMatrix(_matrix(opened.volume.affine))
        node.SetAndObserveImageData(_image(opened.volume.voxels))
        self.scene.AddNode(node)
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetAutoWindowLevel(0)
        display.SetWindowLevelMinMax(opened.window.low, opened.window.high)
        segmentation = slicer.vtkMRMLSegmentationNode()
        segmentation.SetName(f"{node.GetName()} segmentation")
        self.scene.AddNode(segmentation)
        segmentation.CreateDefaultDisplayNodes()
        segmentation.GetDisplayNode().SetOpacity2DFill(FILL)
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(node)
        segmentation.SetDisplayVisibility(False)
        node.AddNodeReferenceID(SEGMENTATION_ROLE, segmentation.GetID())
        self._read[node.GetID()] = opened.volume
        return node

    def show_volume(self, node: Node) -> None:
        """Make a volume and its segmentation those that are edited; None shows nothing."""
        if self.segmentation is not None:
            self.segmentation.SetDisplayVisibility(False)
        segmentation = None if node is None else node.GetNodeReference(SEGMENTATION_ROLE)
        was_modified = self.editor.StartModify()
        self.editor.SetSelectedSegmentID("")
        self.editor.SetAndObserveSegmentationNode(segmentation)
        self.editor.SetAndObserveSourceVolumeNode(node)
        self.editor.EndModify(was_modified)
        self.logic.ClearUndoState()
        if segmentation is not None:
            segmentation.SetDisplayVisibility(True)

    def remove_volume(self, node: Node) -> None:
        """Remove a volume with its segmentation."""
        segmentation = node.GetNodeReference(SEGMENTATION_ROLE)
        if node is self.volume:
            self.show_volume(None)
        self._read.pop(node.GetID(), None)
        for one in (segmentation, node):
            for n in range(one.GetNumberOfDisplayNodes()):
                self.scene.RemoveNode(one.GetNthDisplayNode(n))
            self.scene.RemoveNode(one)

    def setting(self, name: str) -> str:
        """Read a parameter of the editor, see `protosam.scene.PARAMETERS`."""
        return str(self.editor.GetAttribute(f"ProtoSAM.{name}") or PARAMETERS[name])

    def set_setting(self, name: str, value: str) -> None:
        """Set a parameter of the editor."""
        if name not in PARAMETERS:
            raise KeyError(name)
        self.editor.SetAttribute(f"ProtoSAM.{name}", value)

    def display(self) -> Display | None:
        """How the volume is shown, or None if there is none."""
        if self.volume is None:
            return None
        node = self.volume.GetDisplayNode()
        least, most = self.volume.GetImageData().GetScalarRange()
        low, high = float(node.GetWindowLevelMin()), float(node.GetWindowLevelMax())
        is_ct = least < -500
        # A few bright voxels (metal) would leave no room on the slider for everything else.
        top = min(most, 3000.0) if is_ct else most
        return Display(low, high, min(least, low), max(top, high), is_ct)

    def set_window(self, low: float, high: float) -> None:
        """Set black and white of the volume that is shown."""
        if self.volume is not None and high > low:
            self.volume.GetDisplayNode().SetWindowLevelMinMax(low, high)

    def layers(self) -> tuple[float, float]:
        """Opacity of the segments' fill and of their outline in the slices."""
        if self.segmentation is None:
            return FILL, 1.0
        display = self.segmentation.GetDisplayNode()
        return float(display.GetOpacity2DFill()), float(display.GetOpacity2DOutline())

    def _free_name(self, name: str) -> str:
        taken = {node.GetName() for node in self.volumes}
        if name not in taken:
            return name
        return next(free for n in range(2, 10**6) if (free := f"{name} ({n})") not in taken)


def _matrix(affine: Any) -> vtkMatrix4x4:
    matrix = vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(affine, dtype=np.float64).ravel().tolist())
    return matrix


def _image(voxels: Any) -> vtkImageData:
    image = vtkImageData()
    image.SetDimensions(*voxels.shape[::-1])
    scalars = numpy_to_vtk(voxels.reshape(-1))  # type: ignore[no-untyped-call]  # VTK keeps the array alive
    scalars.SetName("ImageScalars")
    image.GetPointData().SetScalars(scalars)
    return image
