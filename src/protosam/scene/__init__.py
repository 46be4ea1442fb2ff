"""The scene side of ProtoSAM: from clicks in slice views to voxels in segments, for every host.

VTK and MRML without Qt. Runs in 3D Slicer, on the package slicer-core, and in tests alike; classes
of Slicer come from the host, so nothing of the application is imported here.
"""

from __future__ import annotations

from protosam.scene.batch_desk import BatchDesk, BatchWish
from protosam.scene.batch_rows import BatchRow
from protosam.scene.commands import Interpreter
from protosam.scene.controller import Controller
from protosam.scene.examples import MadeExample
from protosam.scene.glyphs import Glyph
from protosam.scene.grids import ReferenceGrid, matrix_of, reference_grid
from protosam.scene.layers import BINARY_LABELMAP, Layers
from protosam.scene.learning import LearningDesk
from protosam.scene.learning_status import (
    LearningStatus,
    LossPoint,
    RunStatus,
    about_version,
    standing_cells,
)
from protosam.scene.records import tag_of
from protosam.scene.review import SURE, ExamplesStatus, ReviewRow, StripSlice
from protosam.scene.settings import PARAMETERS, Settings
from protosam.scene.status import HINTS, TEXTS, Listener, Message, PromptRow, Status
from protosam.scene.writing import LogicWriter, Writer

__all__ = [
    "BINARY_LABELMAP",
    "HINTS",
    "PARAMETERS",
    "SURE",
    "TEXTS",
    "BatchDesk",
    "BatchRow",
    "BatchWish",
    "Controller",
    "ExamplesStatus",
    "Glyph",
    "Interpreter",
    "Layers",
    "LearningDesk",
    "LearningStatus",
    "Listener",
    "LogicWriter",
    "LossPoint",
    "MadeExample",
    "Message",
    "PromptRow",
    "ReferenceGrid",
    "ReviewRow",
    "RunStatus",
    "Settings",
    "Status",
    "StripSlice",
    "Writer",
    "about_version",
    "matrix_of",
    "reference_grid",
    "standing_cells",
    "tag_of",
]
