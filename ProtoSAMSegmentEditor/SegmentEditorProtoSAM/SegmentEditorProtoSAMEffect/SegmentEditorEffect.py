"""The ProtoSAM effect of the Segment Editor: Slicer's calls, handed on.

Slicer loads this file by its path, as a module that is no package; everything else lies in the
package ProtoSAMSlicerLib and is imported absolutely. Making an effect starts nothing: Slicer clones
it for every editor widget.
"""

from __future__ import annotations

from pathlib import Path

import qSlicerSegmentationsEditorEffectsPythonQt as effects
import qt
from ProtoSAMSlicerLib.EditorSession import EditorSession
from ProtoSAMSlicerLib.Parameters import setDefaults
from ProtoSAMSlicerLib.Translation import tr as _
from ProtoSAMSlicerLib.ViewPipelines import cursor
from SegmentEditorEffects import AbstractScriptedSegmentEditorEffect

FILE = Path(__file__).resolve()


class SegmentEditorEffect(AbstractScriptedSegmentEditorEffect):
    """Slicer's view of the effect.

    Parameters
    ----------
    scriptedEffect : qSlicerSegmentEditorScriptedEffect
        Slicer's side of it.
    """

    def __init__(self, scriptedEffect) -> None:
        scriptedEffect.name = "ProtoSAM"
        scriptedEffect.title = _("ProtoSAM")
        # A first click may add the segment, so the effect can be chosen, and stays, without one.
        scriptedEffect.perSegment = False
        scriptedEffect.requireSegments = False
        AbstractScriptedSegmentEditorEffect.__init__(self, scriptedEffect)
        self.session: EditorSession | None = None

    def clone(self):
        """Make another one, for another editor widget."""
        cloned = effects.qSlicerSegmentEditorScriptedEffect(None)
        cloned.setPythonSource(FILE.as_posix())
        return cloned

    def icon(self):
        """Picture on the effect's button."""
        return qt.QIcon(str(FILE.with_suffix(".png")))

    def helpText(self) -> str:
        """Explain the effect; Slicer shows the first paragraph and folds up the rest."""
        return "<html>" + _(
            "Segment an object by clicking on it, in any slice view.<br>"
            '<p><ul style="margin: 0">'
            "<li>Click: this belongs to the object.</li>"
            "<li>Ctrl + click: this does not.</li>"
            "<li>Shift + drag: a box round the object.</li>"
            "<li>Drag a point to move it; Delete removes the one under the mouse.</li>"
            "<li>In a 3D view, click on a surface.</li>"
            "</ul>"
            "Undo takes back the mask and its point. Images stay on this computer. "
            "Not a medical device.</p>"
        )

    def setupOptionsFrame(self) -> None:
        """Make the panel."""
        self.session = EditorSession(self.scriptedEffect)

    def setMRMLDefaults(self) -> None:
        """Give the segment editor node the parameters that it lacks."""
        setDefaults(self.scriptedEffect)

    def activate(self) -> None:
        """Begin: the effect has been chosen."""
        if self.session is not None:
            self.session.activate()

    def deactivate(self) -> None:
        """End: the effect is left."""
        if self.session is not None:
            self.session.deactivate()

    def cleanup(self) -> None:
        """End: the editor widget goes. Called by Slicer 5.10 and later."""
        self.deactivate()

    def createCursor(self, _viewWidget):
        """Cursor over a slice view."""
        return cursor("positive" if self.session is None else self.session.cursorFor())

    def processInteractionEvents(self, callerInteractor, eventId, viewWidget) -> bool:
        """Handle a mouse or key event. Slicer wants a real bool."""
        if self.session is None:
            return False
        return bool(self.session.handleEvent(callerInteractor, eventId, viewWidget))

    def processViewNodeEvents(self, _callerViewNode, _eventId, viewWidget) -> None:
        """Follow a view that was scrolled, panned, zoomed or resized."""
        if self.session is not None:
            self.session.viewChanged(viewWidget)

    def interactionNodeModified(self, _interactionNode) -> None:
        """Stay in another mouse mode, so that window/level can be set in between."""

    def sourceVolumeNodeChanged(self) -> None:
        """Take note of another source volume."""
        self._refresh()

    def referenceGeometryChanged(self) -> None:
        """Take note of another grid of the segmentation."""
        self._refresh()

    def layoutChanged(self) -> None:
        """Draw into the views of another layout."""
        if self.session is not None:
            self.session.layoutChanged()

    def updateGUIFromMRML(self) -> None:
        """Show the parameters, and have the controller read them."""
        if self.session is not None:
            self.session.showParameters()
            self.session.refresh()

    def updateMRMLFromGUI(self) -> None:
        """Nothing: the panel sets each parameter when it is changed."""

    def _refresh(self) -> None:
        if self.session is not None:
            self.session.refresh()
