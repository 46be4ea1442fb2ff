"""Hidden module that registers the ProtoSAM effect with Slicer's Segment Editor.

It starts nothing: no worker, no timer, no installation. The effect file lies alone in its folder
because Slicer loads that file by path, as a module named like the folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModule

FOLDER = Path(__file__).resolve().parent
if str(FOLDER) not in sys.path:
    sys.path.append(str(FOLDER))

from ProtoSAMSlicerLib.Translation import tr as _  # noqa: E402 (its folder has to be known first)

EFFECT_FILE = FOLDER / "SegmentEditorProtoSAMEffect" / "SegmentEditorEffect.py"


class SegmentEditorProtoSAM(ScriptedLoadableModule):
    """The module as Slicer's list of modules knows it."""

    def __init__(self, parent) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "SegmentEditorProtoSAM"
        self.parent.categories = ["Segmentation"]
        self.parent.dependencies = ["Segmentations"]
        self.parent.contributors = ["ProtoSAM contributors"]
        self.parent.hidden = True
        self.parent.helpText = _(
            "This hidden module registers the ProtoSAM effect of the Segment Editor."
        )
        self.parent.acknowledgementText = _("ProtoSAM is not a medical device.")
        slicer.app.connect("startupCompleted()", self.registerEditorEffect)

    def registerEditorEffect(self) -> None:
        """Make the effect known to every editor that is opened from now on."""
        import qSlicerSegmentationsEditorEffectsPythonQt as effects  # noqa: PLC0415 (Slicer makes it)

        instance = effects.qSlicerSegmentEditorScriptedEffect(None)
        instance.setPythonSource(EFFECT_FILE.as_posix())
        instance.self().register()
