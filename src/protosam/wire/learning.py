"""What is said about learning: cases to keep, runs that teach, and adapters to choose from.

Rules
-----
* Folders are paths on the machine of the worker, so a worker that listens for other machines
  refuses all of these requests.
* `Adapt` is answered once its gate has judged, minutes later; until then `Progress` and `Taught`
  come, and everything else is answered as if nothing were learnt.
* No name of a case or patient is in a reply. Figures are Dice scores 0 to 1 and millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import ClassVar

from protosam.errors import InvalidInput
from protosam.wire.replies import Reply
from protosam.wire.requests import AboutVolume, Request
from protosam.wire.standings import AdapterInfo, Standing
from protosam.wire.teaching import SegmentClicks, TaughtSegment

ACTIONS = ("activate", "rollback", "discard")
"""What `ChangeAdapter` can do."""


@dataclass(frozen=True)
class CaseSaved(Reply):
    """A case is in the folder, whole."""

    KIND: ClassVar[str] = "case_saved"

    id: str
    """Of the case; nothing in it tells where it came from."""
    role: str
    """What it is for, from now on: ``train`` or ``held-out``."""
    again: bool = False
    """Whether something was saved of this image before; segments of the same names are replaced."""


@dataclass(frozen=True)
class CaseList(Reply):
    """What a folder of cases holds."""

    KIND: ClassVar[str] = "case_list"

    cases: int
    """All of them."""
    held_out: int
    """Those of them that judge."""
    patients: int
    """How many patients they are of."""
    labels: tuple[str, ...]
    """Names of what is segmented in them."""


@dataclass(frozen=True)
class Taught(Reply):
    """One step of a run that teaches."""

    KIND: ClassVar[str] = "taught"

    step: int
    """From 1."""
    steps: int
    """How many there will be."""
    loss: float
    """Of this step."""
    seconds_left: float
    """Until the last step; the gate comes after it."""


@dataclass(frozen=True)
class Adapted(Reply):
    """What came of a run."""

    KIND: ClassVar[str] = "adapted"

    version: AdapterInfo
    """The new version; active if the gate let it in."""
    standings: tuple[Standing, ...]
    """How base, current and new version did, over what was taught."""
    checked: str
    """How much was played, in words."""
    pictures: tuple[bytes, ...]
    """PNG files: one object each, the truth, the answer before and the answer now."""
    seconds: float
    """The whole run took so long."""
    notes: tuple[str, ...]
    """Sentences for the user."""


@dataclass(frozen=True)
class AdapterList(Reply):
    """Every version of every adapter of a folder."""

    KIND: ClassVar[str] = "adapter_list"

    adapters: tuple[AdapterInfo, ...]
    """By name, the oldest first."""


@dataclass(frozen=True)
class SaveCase(AboutVolume):
    """Keep an open volume and its finished segments in a folder of corrected cases."""

    VERB: ClassVar[str] = "save_case"
    ANSWER: ClassVar[type[Reply]] = CaseSaved

    folder: str
    """Of the cases; begun if there is none."""
    segments: tuple[TaughtSegment, ...]
    """What is finished."""
    clicks: tuple[SegmentClicks, ...]
    """From which prompts, as far as there were any."""
    patient: str
    """Whatever tells this patient from the others; only its salted hash is kept."""
    model_digest: str = ""
    """Of the model that answered; empty = none did."""
    day: str = ""
    """As 2026-12-31; empty = none is kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_folder(self.folder)
        if not self.patient.strip():
            raise InvalidInput(
                "Nothing tells whose image this is, so it cannot be told who judges.",
                "Give any text that is the same for all images of one patient.",
            )
        if self.day:
            _day(self.day)


@dataclass(frozen=True)
class LookIntoCases(Request):
    """Ask what a folder of cases holds."""

    VERB: ClassVar[str] = "look_into_cases"
    ANSWER: ClassVar[type[Reply]] = CaseList

    folder: str
    """Corrected cases, or images and labels in any layout of `cases.layouts`."""

    def __post_init__(self) -> None:
        _check_folder(self.folder)


@dataclass(frozen=True)
class Adapt(Request):
    """Teach a new version of an adapter, and let it in if it is no worse."""

    VERB: ClassVar[str] = "adapt"
    ANSWER: ClassVar[type[Reply]] = Adapted

    cases: str
    """Folder, as of `LookIntoCases`."""
    name: str
    """Of the adapter."""
    labels: tuple[str, ...] = ()
    """Names or numbers; all where empty."""
    tier: str = ""
    """``shift``, ``decoder``, ``full``; empty = the machine chooses."""
    method: str = ""
    """How images without labels are used; empty = the usual way."""
    unlabelled: str = ""
    """Folder of images without labels; empty = none."""
    sentinels: str = ""
    """Folder of cases that must not get worse; empty = none."""
    adapters_dir: str = ""
    """Folder of the adapters; empty = the user's own."""
    model: str = ""
    """Name or path of the base; empty = the model in memory."""

    def __post_init__(self) -> None:
        _check_folder(self.cases)

    def hears(self, reply: Reply) -> bool:
        """Whether this reply may come before the answer, as a part of it."""
        return isinstance(reply, Taught)


@dataclass(frozen=True)
class Adapters(Request):
    """Ask which adapters there are."""

    VERB: ClassVar[str] = "adapters"
    ANSWER: ClassVar[type[Reply]] = AdapterList

    adapters_dir: str = ""
    """Folder of the adapters; empty = the user's own."""


@dataclass(frozen=True)
class ChangeAdapter(Request):
    """Make another version the active one, or delete one that is not."""

    VERB: ClassVar[str] = "change_adapter"
    ANSWER: ClassVar[type[Reply]] = AdapterList

    name: str
    """Of the adapter."""
    action: str
    """One of `ACTIONS`."""
    number: int = 0
    """Of the version; a rollback needs none."""
    adapters_dir: str = ""
    """Folder of the adapters; empty = the user's own."""

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise InvalidInput(
                f"An adapter cannot be asked to {self.action!r:.40}.",
                f"Choose from {', '.join(ACTIONS)}.",
            )


def _check_folder(folder: str) -> None:
    if not folder:
        raise InvalidInput("No folder of cases was given.", "Choose one.")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(
            f"{text!r:.40} is no day.", "Give it as 2026-12-31, or nothing."
        ) from error


LEARNING_REQUESTS: dict[str, type[Request]] = {
    one.VERB: one for one in (SaveCase, LookIntoCases, Adapt, Adapters, ChangeAdapter)
}
"""Verbs about learning."""

LEARNING_REPLIES: dict[str, type[Reply]] = {
    one.KIND: one for one in (CaseSaved, CaseList, Taught, Adapted, AdapterList)
}
"""Kinds of replies about learning."""
