"""What a host shows: the status, the hints, the prompts as rows, and messages.

Rules
-----
* Values only; a new status is made whenever something has changed, and an old one never changes.
* Each text has a stable key. Texts are English sentences that go through the host's translation
  before their numbers are put in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from protosam.scene.learning_status import LearningStatus
from protosam.scene.review import ExamplesStatus

Level: TypeAlias = Literal["info", "warning", "error"]

HINTS: dict[str, str] = {
    "detached": "Choose the ProtoSAM effect to begin.",
    "no_volume": "Choose a source volume.",
    "bad_volume": "{detail}",
    "no_segmentation": "Choose or create a segmentation.",
    "bad_segmentation": "{detail}",
    "no_segment": "Add a segment, then click inside the object.",
    "hidden": "The segment is hidden: show it, then click.",
    "completed": "The segment is marked as completed: change its status to edit it.",
    "first_click": "Click inside the object, or drag a box round it.",
    "outside": "That place lies outside of the volume: click inside of it.",
    "light_box": "This view shows several slices: switch it to one slice, then click.",
    "negative_first": "First click inside the object; then take away what is too much.",
    "small_box": "That box has no area: drag it round the object.",
    "working": "Working. Go on clicking, or cancel.",
    "refine": "Click what is missing, Ctrl+click what is too much.",
    "needs_object": "Only points outside of the object are left: click inside of it.",
    "empty_answer": "Nothing was found there: click in the middle of the object, or drag a box.",
    "masked": "The answer lies where the masking settings allow no change.",
    "failed": "There was no answer. Click again, or press Cancel to take the last point back.",
    "sealed": "The mask is kept. The next click starts a new list of points.",
    "other_volume": "The points of this segment belong to another volume. A click starts anew.",
    "not_ours": "The mask was changed since its points were placed: a click adds to it.",
}
"""The next useful action, by its key."""

TEXTS: dict[str, str] = {
    "inside": "Inside, voxel ({k:.0f}, {j:.0f}, {i:.0f})",
    "outside_point": "Outside, voxel ({k:.0f}, {j:.0f}, {i:.0f})",
    "box": "Box, voxels ({k:.0f}, {j:.0f}, {i:.0f}) to ({k2:.0f}, {j2:.0f}, {i2:.0f})",
    "bad_parameter": "The setting {detail} cannot be read; its default is used.",
    "bad_tag": "The points of this segment cannot be read: {detail}",
    "not_selected": (
        "The answer was not written, because another segment was selected while an editable area "
        "is set."
    ),
    "select_again": "Select the segment again and press Update.",
    "nothing_finished": "There is no finished segment to learn from.",
    "finish_first": "Show a segment with a mask; accept or reject proposals first.",
    "proposed": "Proposed: {names}.",
    "review_next": "Look at the doubtful slices; then accept, correct by clicks, or reject.",
    "gone_on": "{name}: not proposed, because the segment was changed meanwhile.",
    "bad_window": (
        "The window's upper value must be above its lower one; it is chosen automatically."
    ),
}
"""Other texts, by their keys."""


@dataclass(frozen=True)
class Message:
    """Something to tell the user once."""

    level: Level
    """How much it matters."""
    text: str
    """What has happened."""
    next_step: str = ""
    """What the user can do."""
    details: str = ""
    """More for a curious user, of several lines."""


@dataclass(frozen=True)
class PromptRow:
    """One prompt in a list."""

    id: str
    """To remove it by."""
    kind: Literal["point", "box"]
    """What it is."""
    positive: bool
    """Whether it says what belongs to the object."""
    text: str
    """What the list shows."""
    answered: bool
    """Whether the mask follows from it already."""


@dataclass(frozen=True)
class Status:
    """Everything that a panel shows."""

    worker: Literal["stopped", "starting", "ready", "refused", "closed"] = "stopped"
    """State of the worker process."""
    worker_text: str = ""
    """A sentence about it, or empty."""
    model: str = ""
    """Model in memory; empty = not known yet."""
    device: str = ""
    """Where it computes."""
    memory_mb: float | None = None
    """Resident memory of the worker, in 10^6 bytes."""
    busy: bool = False
    """Whether an answer for the selected segment is awaited."""
    progress: float | None = None
    """0 to 1 while one is."""
    progress_text: str = ""
    """What is being done."""
    hint: str = ""
    """The next useful action."""
    hint_key: str = "detached"
    """Key of `HINTS`."""
    can_click: bool = False
    """Whether a click would be taken."""
    can_cancel: bool = False
    """Whether there is something to give up."""
    can_clear: bool = False
    """Whether there are prompts."""
    volume_name: str = ""
    """Name of the source volume's node."""
    segment_name: str = ""
    """Name of the selected segment."""
    prompts: tuple[PromptRow, ...] = ()
    """In the order in which they were made, boxes last."""
    score: float | None = None
    """Estimated quality of the last answer, 0 to 1."""
    notes: tuple[str, ...] = ()
    """Sentences that came with it."""
    window: tuple[float, float] | None = None
    """Window that it was made with, in the volume's units."""
    elapsed_s: float | None = None
    """How long it took the worker."""
    clean_up: str = ""
    """What the clean-up has changed in it, in words; empty = nothing."""
    examples: ExamplesStatus = field(default_factory=ExamplesStatus)
    """What goes on with examples, and what there is to review."""
    learning: LearningStatus = field(default_factory=LearningStatus)
    """Cases, adapters and the run that teaches."""


class Listener(Protocol):
    """What a host implements to be told."""

    def status_changed(self, status: Status) -> None:
        """Show a status."""

    def prompts_changed(self) -> None:
        """Draw the prompts anew."""

    def message(self, message: Message) -> None:
        """Tell the user, once."""
