"""The one-shot methods that can be chosen and compared, by name.

Owns what each of them does, as settings. `p2sam-paper`, `persam` and `persam-f` follow their
papers; `p2sam` adds what is this project's own: alignment and expected place. `top-k` is the
control that reviewers of P2SAM asked for (as many points, no parts), `propagate` carries the
reference's place over without looking at features. The last two and `p2sam-paper`, `persam` and
`persam-f` share one way through the volume, so that the methods differ in their prompts alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from protosam.errors import InvalidInput


@dataclass(frozen=True)
class Method:
    """How an example is looked for."""

    name: str
    """Key of `METHODS`."""
    points: Literal["parts", "mean", "top", "none"] = "parts"
    """Where positive clicks come from: parts of the object, its mean, the best places of its
    mean, or no features at all."""
    counts: tuple[int, ...] = (1, 2, 3)
    """Numbers of positive clicks to try; several are chosen among by optimal transport."""
    background: int = 1
    """Number of negative clicks."""
    placed: bool = False
    """Whether the place of the object in the aligned reference counts."""
    weighted: bool = False
    """Whether masks are weighted as in PerSAM-F."""
    may_be_absent: bool = True
    """Whether an answer unlike the reference is taken as "not here"."""


METHODS = {
    "p2sam": Method("p2sam", placed=True),
    "p2sam-paper": Method("p2sam-paper"),
    "persam": Method("persam", points="mean", counts=(1,), may_be_absent=False),
    "persam-f": Method(
        "persam-f", points="mean", counts=(1,), background=0, weighted=True, may_be_absent=False
    ),
    "top-k": Method("top-k", points="top", counts=(3,), may_be_absent=False),
    "top-k-placed": Method("top-k-placed", points="top", counts=(3,), placed=True),
    "persam-placed": Method("persam-placed", points="mean", counts=(1,), placed=True),
    "propagate": Method("propagate", points="none", counts=(1,), may_be_absent=False),
}


def method_named(name: str) -> Method:
    """Return a method by its name.

    Raises
    ------
    InvalidInput
        If there is none of that name.
    """
    if name not in METHODS:
        raise InvalidInput(
            f"There is no one-shot method {name!r}.", f"Give one of {', '.join(METHODS)}."
        )
    return METHODS[name]
