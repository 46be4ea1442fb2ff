"""What requests about examples hold: finished segments to learn from, and clicks made already.

Values only; how they travel is `fields`'. Indices are (k, j, i), masks are boxes with packed bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from protosam.errors import InvalidInput
from protosam.extents import BoolArray, Extent, unpack_bits
from protosam.prompts import PromptSet

Colour: TypeAlias = tuple[float, float, float]
"""Red, green, blue, 0 to 1."""


@dataclass(frozen=True)
class TaughtSegment:
    """One finished segment to learn from."""

    name: str
    """As the user reads it; proposals carry it."""
    terminology: str
    """Slicer's terminology entry; empty = none."""
    colour: Colour
    """Proposals carry it."""
    extent: Extent
    """Box of the mask in the volume; not empty."""
    bits: bytes
    """The mask inside the box, packed by `extents.pack_bits`."""

    def __post_init__(self) -> None:
        inside = not self.extent.is_empty and min(self.extent.start_kji) >= 0
        if not inside or len(self.bits) != packed_bytes(self.extent):
            raise InvalidInput(
                f"The mask of segment {self.name!r:.80} has {len(self.bits)} bytes, which do not "
                f"fit into {self.extent}.",
                "Leave empty segments out.",
            )

    def mask(self) -> BoolArray:
        """(k, j, i) bool inside of `extent`."""
        return unpack_bits(self.bits, self.extent.shape_kji)


@dataclass(frozen=True)
class SegmentClicks:
    """What the user has clicked for a segment already, by its name."""

    name: str
    """Of the segment."""
    prompts: PromptSet
    """Points and boxes; a prior mask does not travel here."""

    def __post_init__(self) -> None:
        if self.prompts.prior is not None:
            raise InvalidInput(
                f"The clicks for {self.name!r:.80} hold a mask, wanted points and boxes.",
                "Leave the mask out.",
            )


def packed_bytes(extent: Extent) -> int:
    """Count the bytes of a mask that fills a box, packed."""
    return -(-math.prod(extent.shape_kji) // 8)
