"""What a run that teaches is told: the request, and what the worker knows besides.

Owns the value that goes from the worker into the process that teaches. Speaks no coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from protosam.wire.messages import Adapt


@dataclass(frozen=True)
class TeachingPlan:
    """What was asked for, and where; can be pickled."""

    request: Adapt
    """As it came over the wire."""
    model: str
    """Name or path of the base."""
    device: str
    """As `models.load.choose_device` understands it."""
    weights_dir: Path | None
    """Folder that is searched first for weights."""
    threads: int
    """CPU threads."""
    recipe: Mapping[str, int | float] = field(default_factory=dict)
    """Changes to the usual `learn.recipe_settings.RecipeSettings`."""
