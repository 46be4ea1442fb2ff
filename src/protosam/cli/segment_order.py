"""What `protosam segment` was asked for, as text where it needs the image to be understood.

A value; who carries it out is `segment` or, for a specialist, `specialist`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from protosam.cli.engines import Choice
from protosam.errors import InvalidInput
from protosam.mending import CleanUp
from protosam.prompts import Scope


@dataclass(frozen=True)
class Order:
    """What the user asked for, as text where it needs the image to be understood."""

    image: Path
    """File to segment."""
    out: Path
    """File to write; its ending chooses the format."""
    points: Sequence[str] = ()
    """``k,j,i,+`` each, or ``R,A,S,+`` in mm with `ras`."""
    boxes: Sequence[str] = ()
    """``k0,j0,i0,k1,j1,i1`` each."""
    ras: bool = False
    """Whether points and boxes are RAS mm."""
    scope: Scope = "volume"
    """The clicked slices only, or the volume."""
    axis: str | None = None
    """k, j or i."""
    window: str = "auto"
    """``low,high`` or ``auto``."""
    clean_up: CleanUp = field(default_factory=CleanUp)
    """How the mask is cleaned."""
    name: str = "segment"
    """Name of the segment in the file."""
    choice: Choice = field(default_factory=Choice)
    """Model, adapter and device."""
    use_worker: bool = True
    """Through the worker, or in this process."""
    auto: str = ""
    """Name or file of automatic prompts, used where no prompt is given; empty = none."""

    def __post_init__(self) -> None:
        if self.choice.server is not None and not self.use_worker:
            raise InvalidInput(
                "--worker and --no-worker contradict each other.", "Give one of them."
            )
