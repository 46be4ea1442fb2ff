"""What is known of a proposal while a user reviews it: how sure each slice is, what was decided.

Rules
-----
* It stands in a tag of the segment. So it is undone, redone, saved and copied with the mask, and a
  segment of which nobody has decided is told after a load, too.
* A slice in which the user has clicked is checked, and no longer doubtful.
* Neighbouring doubtful slices are one place to look at: the least sure of them.
* Values only; slices are counted along an array axis of the volume.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from protosam.errors import InvalidPrompt
from protosam.prompt_checks import strict_loads, strict_record, wrong_value
from protosam.prompts import PromptSet

REVIEW_TAG = "ProtoSAM.Proposal"
"""Tag with the review; see `Review`."""

REVIEW_VERSION = 1
"""Version of the tag's JSON; raised whenever a key changes its meaning."""

SURE = 0.5
"""Slices of less confidence are doubtful, as the command line counts them."""

FOUND_PREFIX = "example-"
"""How the ids of prompts begin that an example has placed."""

Decision: TypeAlias = Literal["proposed", "corrected", "accepted"]

_LOG = logging.getLogger(__name__)
_KEYS = ("version", "axis", "revision", "confidences", "accepted", "added")


@dataclass(frozen=True)
class Review:
    """A proposal under review."""

    axis: int
    """Array axis of the volume across which the slices lie."""
    revision: str
    """State of the segment that the proposal made, see `records.Record`."""
    confidences: Mapping[int, float]
    """How sure each slice is, 0 to 1, by its index."""
    accepted: bool = False
    """Whether the user has accepted it."""
    added: bool = False
    """Whether the segment was added for it."""

    def decision(self, revision: str) -> Decision:
        """Where the review stands, given the state that the segment is in."""
        if self.accepted:
            return "accepted"
        return "proposed" if revision == self.revision else "corrected"

    def places(self, checked: Collection[int] = ()) -> tuple[int, ...]:
        """Slices to look at, the most doubtful first.

        Parameters
        ----------
        checked : ints
            Slices that need no look.

        Returns
        -------
        tuple of int
            The least sure slice of each run of doubtful ones. Where nothing is doubtful, the one
            least sure slice; empty only where there is no slice left.
        """
        left = sorted(z for z in self.confidences if z not in checked)
        doubtful = [z for z in left if self.confidences[z] < SURE]
        runs = itertools.groupby(enumerate(doubtful), key=lambda pair: pair[1] - pair[0])
        least = [min((z for _, z in run), key=self._order) for _, run in runs]
        if not least and left:
            least = [min(left, key=self._order)]
        return tuple(sorted(least, key=self._order))

    def doubtful(self, checked: Collection[int] = ()) -> int:
        """Count the doubtful slices that are not checked."""
        return sum(one < SURE and z not in checked for z, one in self.confidences.items())

    def accept(self) -> Review:
        """Make the review after the user has accepted the proposal."""
        return replace(self, accepted=True)

    def to_text(self) -> str:
        """Text of the tag."""
        content = {
            "version": REVIEW_VERSION,
            "axis": self.axis,
            "revision": self.revision,
            "confidences": {str(z): round(one, 3) for z, one in sorted(self.confidences.items())},
            "accepted": self.accepted,
            "added": self.added,
        }
        text = json.dumps(content, allow_nan=False, separators=(",", ":"))
        return text.replace("|", "\\u007c")

    @classmethod
    def from_text(cls, text: str) -> Review:
        """Review from `to_text`'s form.

        Raises
        ------
        InvalidPrompt
            It is not JSON, of another version, or holds something else than it should.
        """
        content = strict_record(strict_loads(text), _KEYS, "proposal tag")
        if content["version"] != REVIEW_VERSION:
            raise InvalidPrompt(
                f"The review of this segment has format version {content['version']!r:.20}, wanted "
                f"{REVIEW_VERSION}.",
                "Use the same version of ProtoSAM that saved it, or apply the example anew.",
            )
        kinds: dict[str, type[Any]] = {"revision": str, "accepted": bool, "added": bool}
        for key, kind in kinds.items():
            if type(content[key]) is not kind:
                raise wrong_value(key, content[key], kind.__name__)
        if type(content["axis"]) is not int or content["axis"] not in (0, 1, 2):
            raise wrong_value("axis", content["axis"], "0, 1 or 2")
        confidences = _confidences(content["confidences"])
        return cls(
            content["axis"],
            content["revision"],
            confidences,
            content["accepted"],
            content["added"],
        )

    def _order(self, index: int) -> tuple[float, int]:
        return self.confidences[index], index


def _confidences(value: Any) -> dict[int, float]:
    if not isinstance(value, dict):
        raise wrong_value("confidences", value, "an object")
    for key, one in value.items():
        is_index = key.isascii() and key.isdigit() and len(key) < 10
        if not is_index or type(one) not in (int, float) or not 0 <= one <= 1:
            raise wrong_value("confidences", {key: one}, "numbers from 0 to 1 by slice")
    return {int(key): float(one) for key, one in value.items()}


@lru_cache(maxsize=256)
def review_of(text: str) -> Review | None:
    """Review in the text of a tag; None for an empty one and for one that cannot be read.

    An unreadable tag only means that there is nothing to review: the mask is what it is. It is
    logged, once.
    """
    try:
        return Review.from_text(text) if text else None
    except InvalidPrompt as error:
        _LOG.warning("A segment's review cannot be read: %s", error)
        return None


@lru_cache(maxsize=256)
def summary_of(text: str, checked: frozenset[int]) -> tuple[float, int]:
    """Mean confidence and number of doubtful slices of the review in the text of a tag."""
    review = review_of(text)
    if review is None or not review.confidences:
        return 0.0, 0
    return sum(review.confidences.values()) / len(review.confidences), review.doubtful(checked)


@lru_cache(maxsize=32)
def strip_of(text: str, checked: frozenset[int]) -> tuple[StripSlice, ...]:
    """Slices of the review in the text of a tag, ascending."""
    review = review_of(text)
    if review is None:
        return ()
    return tuple(StripSlice(z, one, z in checked) for z, one in sorted(review.confidences.items()))


def is_found(prompt_id: str) -> bool:
    """Whether an example has placed a prompt, and not the user."""
    return prompt_id.startswith(FOUND_PREFIX)


def own_prompts(prompts: PromptSet) -> PromptSet:
    """Prompts of the user alone."""
    points = tuple(one for one in prompts.points if not is_found(one.id))
    boxes = tuple(one for one in prompts.boxes if not is_found(one.id))
    return replace(prompts, points=points, boxes=boxes)


def checked_slices(prompts: PromptSet, axis: int) -> frozenset[int]:
    """Slices across an axis in which the user has clicked."""
    places = [one.point_kji for one in prompts.points if not is_found(one.id)]
    places += [one.low_kji for one in prompts.boxes if one.axis == axis and not is_found(one.id)]
    return frozenset(math.floor(place[axis] + 0.5) for place in places)


@dataclass(frozen=True)
class StripSlice:
    """One slice of the strip."""

    index: int
    """Along the strip's axis of the volume."""
    confidence: float
    """0 to 1."""
    checked: bool
    """Whether the user has clicked in it."""


@dataclass(frozen=True)
class ReviewRow:
    """One segment under review."""

    segment_id: str
    """To select, accept or reject it by."""
    name: str
    """Of the segment."""
    decision: Decision
    """Where its review stands."""
    confidence: float
    """Mean over its slices."""
    doubtful: int
    """Doubtful slices that are not checked."""


@dataclass(frozen=True)
class ExamplesStatus:
    """Everything that a panel shows about examples."""

    phase: Literal["", "making", "applying"] = ""
    """What goes on."""
    progress: float = 0.0
    """0 to 1."""
    progress_text: str = ""
    """What is being done."""
    can_make: bool = False
    """Whether there are segments that could be learnt."""
    can_apply: bool = False
    """Whether examples could be applied now."""
    rows: tuple[ReviewRow, ...] = ()
    """Proposals that are not accepted yet, the most doubtful first."""
    selected: ReviewRow | None = None
    """The review of the selected segment, also after it was accepted."""
    strip: tuple[StripSlice, ...] = field(default=())
    """Its slices, ascending."""
    axis: int = 0
    """Array axis of the volume across which they lie."""
