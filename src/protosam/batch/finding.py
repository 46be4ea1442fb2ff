"""What a way of segmenting is to a batch: a value that travels, and what it becomes when loaded.

Rules
-----
* Every structure comes with one confidence and one for each slice. What was not found comes with
  an empty mask and the confidence 0.
* It knows volumes and masks (k, j, i), and no model: who only reads and writes needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from protosam.dicom.write import Algorithm
from protosam.geometry import Volume
from protosam.seg_nrrd import Segment


@dataclass(frozen=True, eq=False)
class Case:
    """What is to be looked at."""

    volume: Volume
    names: tuple[str, ...] = ()
    """What the table of prompts may call it."""
    references: tuple[Segment, ...] = ()
    """Earlier segments of its study, on its grid."""


@dataclass(frozen=True, eq=False)
class FoundSegment:
    """One structure, and how sure that is."""

    segment: Segment
    """Its mask may be empty."""
    confidence: float
    """0..1."""
    slices: dict[int, float]
    """Confidence by slice, across the axis that it was found on."""
    notes: tuple[str, ...] = ()


class Finder(Protocol):
    """What a way becomes once it is loaded."""

    @property
    def algorithm(self) -> Algorithm:
        """Who found the segments, for the results."""
        ...

    def find(self, case: Case) -> list[FoundSegment]:
        """Look for all structures in one volume."""
        ...


class Way(Protocol):
    """What can be sent to whoever computes."""

    @property
    def wants_references(self) -> bool:
        """Whether earlier segmentations of the study are needed."""
        ...

    def open(self) -> Finder:
        """Load what it takes."""
        ...
