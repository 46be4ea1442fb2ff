"""Visible module for many series at once: choose, segment, look through, accept or correct.

Showing it starts nothing; the first process is that of the first batch or the first result.
"""

from __future__ import annotations

import sys
from pathlib import Path

from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleWidget

FOLDER = Path(__file__).resolve().parent
# In an installed extension all modules share one folder; in a checkout the effect's lies beside.
for one in (FOLDER, FOLDER.parent / "SegmentEditorProtoSAM"):
    if one.is_dir() and str(one) not in sys.path:
        sys.path.append(str(one))

from ProtoSAMBatchLib.BatchSession import BatchSession  # noqa: E402 (its folder has to be known)
from ProtoSAMSlicerLib.Translation import tr as _  # noqa: E402 (likewise)


class ProtoSAMBatch(ScriptedLoadableModule):
    """The module as Slicer's list of modules knows it."""

    def __init__(self, parent) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "ProtoSAM Batch"
        self.parent.categories = ["Segmentation"]
        self.parent.dependencies = ["SegmentEditorProtoSAM", "Segmentations"]
        self.parent.contributors = ["ProtoSAM contributors"]
        self.parent.helpText = _(
            "Segments many series at once and shows the doubtful results first. "
            "Images stay on this computer. Not a medical device."
        )
        self.parent.acknowledgementText = _("ProtoSAM is not a medical device.")


class ProtoSAMBatchWidget(ScriptedLoadableModuleWidget):
    """The module's panel."""

    def setup(self) -> None:
        """Make the widgets."""
        ScriptedLoadableModuleWidget.setup(self)
        self.session = BatchSession()
        self.layout.addWidget(self.session.panel.widget)

    def enter(self) -> None:
        """Show what the database holds by now."""
        self.session.entered()

    def cleanup(self) -> None:
        """End: the widget goes, as when the module is reloaded."""
        self.session.close()
