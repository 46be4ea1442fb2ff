"""What an adaptation is asked for, how it is followed, and what comes of it.

Owns these values, and the report as a file. Speaks no coordinates.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from protosam.errors import InvalidInput
from protosam.learn.adapters import AdapterVersion, checked_name
from protosam.learn.finished_cases import OnProgress
from protosam.learn.recipe import RecipeProgress
from protosam.learn.recipe_settings import RecipeSettings, Tier
from protosam.learn.unlabelled.methods import check_images, method_named
from protosam.models.load import DEFAULT_MODEL
from protosam.storage import atomic_path


class Verdict(Protocol):
    """What a gate has said, of an adapter or of a specialist."""

    @property
    def accepted(self) -> bool:
        """Whether the new version became active."""
        ...

    @property
    def reason(self) -> str:
        """Why, in words."""
        ...

    def to_text(self) -> str:
        """Return the table of means and the verdict, for a screen."""
        ...


@dataclass(frozen=True)
class AdaptOrder:
    """What ``protosam adapt`` was asked for."""

    cases: Path
    """Folder, in any layout of `cases.layouts`."""
    name: str
    """Of the adapter; a new version is added where it exists."""
    labels: tuple[str, ...] = ()
    """Names or numbers; all where empty."""
    tier: Tier | None = None
    """None lets the machine choose."""
    method: str = "labelled"
    """One of `unlabelled.methods.METHODS`: how images without labels are used."""
    unlabelled: Path | None = None
    """Folder of images without labels, for methods that use them."""
    sentinels: Path | None = None
    """Folder of cases that must not get worse, with the same names of labels."""
    adapters_dir: Path | None = None
    """Folder of the adapters; the user's own if None."""
    model: str = DEFAULT_MODEL
    """Name or file of the base."""
    weights_dir: Path | None = None
    """Folder searched first for weights."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` ..."""
    settings: RecipeSettings = field(default_factory=RecipeSettings)
    """Of the training; its tier is replaced."""

    def __post_init__(self) -> None:
        checked_name(self.name)
        check_images(self.method, given=self.unlabelled is not None)
        if self.tier == "shift" and self.method != "labelled":
            raise InvalidInput(
                f"The tier 'shift' learns from labels alone, and the method {self.method!r} was "
                "asked for.",
                "Choose the tier decoder or full, or the method labelled.",
            )
        counted = self.settings.examples != RecipeSettings().examples
        if method_named(self.method).leaves == "specialist" and (self.tier or counted):
            raise InvalidInput(
                f"The method {self.method!r} teaches a small network, which has neither tiers nor "
                "examples.",
                "Choose neither a tier nor a number of examples.",
            )


@dataclass(frozen=True)
class AdaptResult:
    """What came of it."""

    version: AdapterVersion
    """Active if the gate let it in."""
    report: Verdict
    tier: Tier | Literal["specialist"]
    seconds: float
    notes: tuple[str, ...]
    """Sentences for the user."""
    pictures: tuple[Path, ...] = ()
    """Of what has changed, in the version's folder, see `gate_pictures`; specialists have none."""


@dataclass(frozen=True)
class Watch:
    """How a caller follows a run."""

    on_progress: OnProgress
    """Gets a fraction from 0 to 1 and what is being done."""
    on_step: Callable[[RecipeProgress], None] = lambda _progress: None
    """Gets every step with its loss, for a curve."""
    should_stop: Callable[[], bool] = lambda: False
    """Asked between the parts of the work."""


def write_report(path: Path, result: AdaptResult) -> None:
    """Write a result as JSON, without any name of a case.

    Raises
    ------
    StorageFailure
        When it cannot be written.
    """
    version = result.version
    entries = {
        "name": version.name,
        "version": version.number,
        "active": version.active,
        "tier": result.tier,
        "seconds": round(result.seconds, 1),
        "notes": list(result.notes),
        "card": dataclasses.asdict(version.card),
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
