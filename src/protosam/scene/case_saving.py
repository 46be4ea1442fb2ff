"""What of a scene is kept as a corrected case: finished segments, their clicks, whose image it is.

Rules
-----
* It looks and changes nothing. What cannot be saved comes back as the key of a text.
* Clicks are the user's own, and those only that the mask follows from.
* Whose image it is, the host says or nobody: it is never guessed from names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from protosam.scene.editing import Editing, Place
from protosam.scene.finished import finished_ids, finished_segments
from protosam.scene.grids import Node
from protosam.scene.records import tag_of
from protosam.scene.review import own_prompts
from protosam.scene.selection import BLOCKING
from protosam.scene.source import Source
from protosam.wire.messages import SegmentClicks, TaughtSegment

DIGEST_TAG = "ProtoSAM.Digest"
"""Tag of a segment with the identity of the weights that have answered."""


@dataclass(frozen=True, eq=False)
class CaseContent:
    """What is kept of a scene."""

    source: Source
    """The volume."""
    segments: tuple[TaughtSegment, ...]
    """What is finished, on the volume's grid."""
    clicks: tuple[SegmentClicks, ...]
    """From which prompts."""
    model_digest: str
    """Of the model that has answered; empty = none or several."""
    left_out: tuple[str, ...]
    """Names of the segments that are not kept."""


class CaseSaving:
    """One controller's reading of cases.

    Parameters
    ----------
    editing : Editing
    place : Place
        Kept up to date by the controller.
    """

    def __init__(self, editing: Editing, place: Place) -> None:
        self._editing, self._place = editing, place
        self._patient_of: Callable[[Node], str] = _nobody
        self._asked: tuple[str, str] = ("", "")

    def ask_patients(self, patient_of: Callable[[Node], str]) -> None:
        """Have a host asked whose image a volume is, see `LearningCases.ask_patients`."""
        self._patient_of, self._asked = patient_of, ("", "")

    def patient(self) -> str:
        """Whatever tells the patient of the open volume from the others; empty = not known."""
        node, source = self._place.selection.volume_node, self._place.selection.source
        if node is None or source is None:
            return ""
        uid = source.volume.uid
        if self._asked[0] != uid:
            self._asked = (uid, str(self._patient_of(node) or "").strip())
        return self._asked[1]

    def has_finished(self) -> bool:
        """Whether there are segments that could be saved; some may turn out to be empty."""
        selection = self._place.selection
        node = selection.segmentation_node
        if selection.source is None or selection.problem in BLOCKING or node is None:
            return False
        return node.GetScene() is not None and bool(finished_ids(node))

    def read(self) -> CaseContent | str:
        """Read what there is to keep; a key of `LEARNING_TEXTS` where nothing can be kept.

        Raises
        ------
        InvalidInput
            The segmentation has no grid that could be read.
        """
        selection = self._place.selection
        source, node = selection.source, selection.segmentation_node
        if source is None or node is None or selection.problem in BLOCKING:
            return "not_ready"
        if self._editing.awaits(node):
            return "answer_awaited"
        segments = finished_segments(node, self._editing.layers(selection), source)
        if not segments:
            return "nothing_to_save"
        ids = [one for one in finished_ids(node) if self._name(one) in _names(segments)]
        return CaseContent(
            source, segments, self._clicks(ids, source), self._digest(ids), self._others(segments)
        )

    def _clicks(self, ids: list[str], source: Source) -> tuple[SegmentClicks, ...]:
        found = []
        for one in ids:
            session = self._editing.session_of(one)
            if session is None or session.record.source_grid != source.grid:
                continue
            own = replace(own_prompts(session.record.prompts), prior=None)
            if not own.is_empty:
                found.append(SegmentClicks(self._name(one), own))
        return tuple(found)

    def _digest(self, ids: list[str]) -> str:
        segmentation = self._place.selection.segmentation_node.GetSegmentation()
        tags = {tag_of(segmentation.GetSegment(one), DIGEST_TAG) for one in ids} - {""}
        return tags.pop() if len(tags) == 1 else ""

    def _others(self, segments: tuple[TaughtSegment, ...]) -> tuple[str, ...]:
        segmentation = self._place.selection.segmentation_node.GetSegmentation()
        count = segmentation.GetNumberOfSegments()
        names = [str(segmentation.GetNthSegment(n).GetName() or "") for n in range(count)]
        return tuple(name for name in names if name not in _names(segments))

    def _name(self, segment_id: str) -> str:
        segmentation = self._place.selection.segmentation_node.GetSegmentation()
        return str(segmentation.GetSegment(segment_id).GetName())


def _names(segments: tuple[TaughtSegment, ...]) -> set[str]:
    return {one.name for one in segments}


def _nobody(_volume_node: Node) -> str:
    return ""
