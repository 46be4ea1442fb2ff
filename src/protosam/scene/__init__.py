"""The scene side of ProtoSAM: from clicks in slice views to voxels in segments, for every host.

VTK and MRML without Qt. Runs in 3D Slicer, on the package slicer-core, and in tests alike; classes
of Slicer come from the host, so nothing of the application is imported here.
"""

from __future__ import annotations

from protosam.scene.controller import Controller
from protosam.scene.glyphs import Glyph
from protosam.scene.grids import ReferenceGrid, matrix_of, reference_grid
from protosam.scene.layers import BINARY_LABELMAP, Layers
from protosam.scene.records import tag_of
from protosam.scene.settings import PARAMETERS, Settings
from protosam.scene.status import HINTS, TEXTS, Listener, Message, PromptRow, Status
from protosam.scene.writing import LogicWriter, Writer

__all__ = [
    "BINARY_LABELMAP",
    "HINTS",
    "PARAMETERS",
    "TEXTS",
    "Controller",
    "Glyph",
    "Layers",
    "Listener",
    "LogicWriter",
    "Message",
    "PromptRow",
    "ReferenceGrid",
    "Settings",
    "Status",
    "Writer",
    "matrix_of",
    "reference_grid",
    "tag_of",
]
