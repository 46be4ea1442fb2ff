"""The prompts of one segment: what is wanted, what is written, what is awaited.

Rules
-----
* `wanted` are the prompts that the user sees. `record` is what the mask follows from. They differ
  while an answer is awaited, and after one has failed.
* The segment's tag is the truth. When it says something else than was last written, somebody has
  undone, redone, loaded or copied; then the tag is followed and what runs is given up.
* A new list of prompts begins by sealing: the mask that the old list gave stays.
* It knows no host and no nodes, only the text of the tag; and that what is shown ahead of an answer
  goes when its request is over.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

from protosam.prompts import PromptSet
from protosam.scene.preview import Preview
from protosam.scene.records import Patch, Record, TagRecord
from protosam.scene.source import Source
from protosam.wire.messages import Result
from protosam.wire.pending import Pending

MAX_RECORDS = 64
"""States that are remembered for undo and redo; the Segment Editor itself keeps 10."""


@dataclass(eq=False)
class Job:
    """One request that is out for a segment."""

    source: Source
    """The volume that it is about."""
    start: Record
    """What its answer builds upon."""
    prompts: PromptSet
    """What was asked."""
    adapter: str = ""
    """Name of the adapter that was asked for."""
    pending: Pending[Result] | None = None
    """The request itself."""
    progress: float = 0.0
    """0 to 1."""
    progress_text: str = ""
    """What is being done."""
    preview: Preview | None = None
    """What is shown of the answer already."""
    joins: bool = False
    """Whether its change belongs to the last undo state, with what was written before."""
    spared: tuple[str, ...] = ()
    """Segments whose voxels the answer leaves alone, whatever may be overwritten."""

    def withdraw(self) -> None:
        """Show nothing ahead of the answer any more."""
        if self.preview is not None:
            self.preview.withdraw()


class Session:
    """State of one segment.

    Attributes
    ----------
    target : str
        Name of the segment on the wire; random, so that nothing of the scene goes there.
    record, start : Record
        What was last written, and what the next answer builds upon (not the same after sealing).
    wanted : PromptSet
        What the user has asked for.
    grid : str
        Digest of the grid of the volume that the prompts lie in.
    loaded : TagRecord or None
        Tag of a state that this session has not written, until the segment was compared with it.
    job : Job or None
        What runs.
    last : Result or None
        The last answer that was written.
    hint : str
        Key of what to tell the user next.
    """

    def __init__(self) -> None:
        self.target = uuid.uuid4().hex
        self.record = self.start = Record()
        self.wanted = PromptSet()
        self.grid = ""
        self.loaded: TagRecord | None = None
        self.job: Job | None = None
        self.last: Result | None = None
        self.hint = ""
        self.generation = 0
        self._tag = ""
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._count = 0

    @property
    def unanswered(self) -> frozenset[str]:
        """Ids of the prompts that the mask does not follow from yet."""
        known = {one.id: one for one in _all(self.record.prompts)}
        return frozenset(one.id for one in _all(self.wanted) if known.get(one.id) != one)

    @property
    def settled(self) -> tuple[str, ...]:
        """Ids of the wanted prompts that the mask follows from already."""
        return tuple(one for one in self.wanted.ids if one not in self.unanswered)

    def next_id(self) -> str:
        """Id for a new prompt, not used in this list before."""
        taken = set(self.wanted.ids) | set(self.record.prompts.ids)
        while True:
            self._count += 1
            if (name := f"p{self._count}") not in taken:
                return name

    def follow(self, tag: str) -> bool:
        """Take over what the segment's tag says, if it is not what was last written.

        Parameters
        ----------
        tag : str
            Text of the tag; empty if there is none.

        Returns
        -------
        bool
            Whether anything has changed.

        Raises
        ------
        InvalidPrompt
            The tag cannot be read; the session is as after a tag that is empty.
        """
        if tag == self._tag:
            return False
        self._tag = tag
        self.give_up()
        self.record = self.start = Record()
        self.loaded = None
        self.wanted, self.grid, self.last, self.hint = PromptSet(), "", None, ""
        if tag:
            content = TagRecord.from_text(tag)
            known = self._records.get(content.revision)
            self.loaded = content if known is None else None
            self.record = self.start = known or Record(
                content.prompts, content.revision, content.source_grid
            )
            self.wanted, self.grid = self.record.prompts, self.record.source_grid
        return True

    def is_elsewhere(self, source: Source) -> bool:
        """Whether the prompts belong to another volume than this one."""
        return bool(self.grid) and self.grid != source.grid

    def read(self, record: Record) -> None:
        """Take over what comparing the segment with its loaded tag has told."""
        self.loaded = None
        if self.start is self.record:
            self.start = record
        self.record = record

    def written(self, record: Record, tag: str) -> None:
        """Take note of what was just written."""
        self.record = self.start = record
        self._tag = tag
        self._records[record.revision] = record
        while len(self._records) > MAX_RECORDS:
            self._records.popitem(last=False)

    def seal(self, *, keep: bool = True) -> None:
        """Begin a new list; `keep` = the mask of the old one may still be corrected by slices."""
        self.give_up()
        if keep:
            self.start = replace(self.record, prompts=PromptSet(), sealed=self.record.ours)
        else:
            self.start = Record()
        self.wanted, self.grid = PromptSet(), ""

    def give_up(self) -> bool:
        """Cancel what runs; its answer will not be heard. Return whether something ran."""
        job, self.job = self.job, None
        self.generation += 1
        if job is None:
            return False
        job.withdraw()
        if job.pending is not None:
            job.pending.cancel()
        return True

    def take_back(self) -> bool:
        """Drop the prompts that have no answer; return whether there were any."""
        ran = self.give_up()
        changed = self.wanted != self.record.prompts
        self.wanted, self.start = self.record.prompts, self.record
        self.grid = self.record.source_grid
        return ran or changed


def new_revision() -> str:
    """Identity of a state."""
    return uuid.uuid4().hex


def restored(tag: TagRecord, reference_grid: str, whole: Patch) -> Record:
    """Record of a segment that was loaded: all of it is ours if it is what the prompts gave.

    Parameters
    ----------
    tag : TagRecord
    reference_grid : str
        Digest of the segmentation's grid.
    whole : Patch
        The segment as it is.
    """
    ours = whole if tag.voxels == whole.count else Patch()
    return Record(
        prompts=tag.prompts,
        revision=tag.revision,
        source_grid=tag.source_grid,
        reference_grid=reference_grid,
        ours=ours,
        alone=not ours.is_empty,
    )


def says_where(prompts: PromptSet) -> bool:
    """Whether anything in a set says where the object is."""
    return bool(prompts.boxes) or any(point.positive for point in prompts.points)


def _all(prompts: PromptSet) -> tuple[Any, ...]:
    return (*prompts.points, *prompts.boxes)
