"""The ways in which images without labels are used, by name.

Owns the list: what each of them leaves behind, and whether it needs images. Knows nothing of
tensors and takes no time to import. Speaks no coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from protosam.errors import InvalidInput

Leaves = Literal["adapter", "specialist"]


@dataclass(frozen=True)
class Method:
    """One way."""

    leaves: Leaves
    """An adapter of the model, or a small network that needs neither the model nor a click."""
    needs_images: bool
    says: str
    """What it does, in one line."""


METHODS: dict[str, Method] = {
    "labelled": Method("adapter", False, "corrected cases alone"),
    "ema": Method(
        "adapter",
        True,
        "what the average of the adapter is sure of, in two disturbed views (mean teacher)",
    ),
    "protosam": Method(
        "adapter", True, "what decoder and prototypes agree on, away from edges (ProtoSAM)"
    ),
    "sss": Method(
        "adapter", True, "one plain and two strongly changed views, joined features (SSS)"
    ),
    "semisam": Method(
        "specialist", True, "a small network, its average and the frozen model (SemiSAM)"
    ),
    "semisam-plus": Method(
        "specialist",
        True,
        "the same with uncertainties and several opinions of the model (SemiSAM+)",
    ),
}
"""``--method``: its name, and what it is."""

SPECIALIST = "specialist:"
"""What a model's name begins with where a specialist is meant, as in ``specialist:atrium``."""

DEFAULT = "ema"
"""What is taken where images without labels are given and no method is."""


def method_named(name: str) -> Method:
    """Return the method of a name.

    Raises
    ------
    InvalidInput
        When there is none.
    """
    if name not in METHODS:
        raise InvalidInput(f"There is no method {name!r}.", f"Give one of: {', '.join(METHODS)}.")
    return METHODS[name]


def check_images(name: str, *, given: bool) -> None:
    """Refuse a method without the images that it needs, and images that it would not look at.

    Raises
    ------
    InvalidInput
        In either case, and when there is no such method.
    """
    needed = method_named(name).needs_images
    if needed and not given:
        raise InvalidInput(
            f"The method {name!r} learns from images without labels, and none were given.",
            "Give their folder, or choose the method labelled.",
        )
    if given and not needed:
        raise InvalidInput(
            f"The method {name!r} learns from labelled cases alone.",
            f"Leave their folder out, or choose the method {DEFAULT}.",
        )
