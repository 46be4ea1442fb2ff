"""Replies about examples: what was learnt, and what is proposed, while it is made and at its end.

Rules
-----
* As in `replies`: indices are (k, j, i), masks are bounding boxes with packed bits.
* An example travels as the bytes of a `.psexample` file, so that host and worker need not share a
  disk. They are not looked into here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from protosam.errors import InvalidInput
from protosam.extents import BoolArray, Extent, unpack_bits
from protosam.intensity import Window
from protosam.prompts import PromptSet
from protosam.wire.replies import Reply, check_bits
from protosam.wire.teaching import Colour

_STEP = "Use a worker and a host of the same ProtoSAM version."


def _check_confidences(confidences: dict[int, float], axis: int) -> None:
    if axis not in (0, 1, 2) or not all(0 <= one <= 1 for one in confidences.values()):
        raise InvalidInput(
            f"Confidences of slices across axis {axis!r:.20} are not 0 to 1 across 0, 1 or 2.",
            _STEP,
        )


@dataclass(frozen=True)
class ProposedSlices(Reply):
    """Slices of a proposal that is on its way; a later one, or `Proposed`, takes their place."""

    KIND: ClassVar[str] = "proposed_slices"

    name: str
    """Of the segment."""
    axis: int
    """Array axis across which the slices lie."""
    confidences: dict[int, float]
    """The slices that it speaks about, and how sure each is, 0 to 1; not empty."""
    extent: Extent | None
    """Bounding box of their mask in the volume; None = nothing is in them."""
    bits: bytes
    """The mask inside the box, packed by `extents.pack_bits`; b"" if it is empty."""

    def __post_init__(self) -> None:
        check_bits(self.extent, self.bits)
        _check_confidences(self.confidences, self.axis)
        if not self.confidences:
            raise InvalidInput("A part of a proposal speaks about no slice.", _STEP)

    @property
    def slices(self) -> tuple[int, ...]:
        """The slices that it speaks about, ascending."""
        return tuple(sorted(self.confidences))

    def mask(self) -> BoolArray:
        """(k, j, i) bool inside of `extent`, or (0, 0, 0) if it is empty."""
        return unpack_bits(self.bits, self.extent.shape_kji if self.extent else (0, 0, 0))


@dataclass(frozen=True)
class Proposed(Reply):
    """The proposal for one segment is ready; those for further ones follow."""

    KIND: ClassVar[str] = "proposed"

    name: str
    """Of the segment, as the example has it."""
    terminology: str
    """Likewise."""
    colour: Colour
    """Likewise."""
    extent: Extent | None
    """Bounding box of the mask in the volume; None = the object was not found."""
    bits: bytes
    """The mask inside the box, packed by `extents.pack_bits`; b"" if it is empty."""
    axis: int
    """Array axis across which the slices lie."""
    confidences: dict[int, float]
    """How sure each slice is, 0 to 1, by its index; it orders slices and is no probability."""
    distance: float
    """Of the whole from the reference."""
    notes: tuple[str, ...]
    """Sentences for the user."""
    prompts: PromptSet
    """Clicks that were found (ids begin with ``example-``) with those of the user."""
    window: Window
    """Window that was used."""
    model: str
    """Model that answered."""
    digest: str
    """Identity of its weights and adapter."""
    elapsed_s: float
    """How long this segment took."""

    def __post_init__(self) -> None:
        check_bits(self.extent, self.bits)
        _check_confidences(self.confidences, self.axis)

    def mask(self) -> BoolArray:
        """(k, j, i) bool inside of `extent`, or (0, 0, 0) if it is empty."""
        return unpack_bits(self.bits, self.extent.shape_kji if self.extent else (0, 0, 0))


@dataclass(frozen=True)
class ExampleMade(Reply):
    """The segments are learnt."""

    KIND: ClassVar[str] = "example_made"

    example: bytes
    """Content of a `.psexample` file; it holds no image and nothing of the patient."""
    names: tuple[str, ...]
    """Segments in it."""
    model: str
    """Whose features it holds; no other model can use them."""
    digest: str
    """Identity of its weights and adapter."""


@dataclass(frozen=True)
class ExampleApplied(Reply):
    """All proposals are made; each came as a `Proposed` before."""

    KIND: ClassVar[str] = "example_applied"

    volume_uid: str
    """From the request."""
    target: str
    """From the request."""
    generation: int
    """From the request."""
    names: tuple[str, ...]
    """Segments that were looked for."""
    model: str
    """Model that answered."""
    digest: str
    """Identity of its weights and adapter."""
    elapsed_s: float
    """How long all of it took."""


PROPOSALS: dict[str, type[Reply]] = {
    "proposed_slices": ProposedSlices,
    "proposed": Proposed,
    "example_made": ExampleMade,
    "example_applied": ExampleApplied,
}
"""Every kind of reply about examples."""
