"""What may follow a backbone's own answer, each to be left out: so its worth can be measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stages:
    """What follows a backbone's own answer; each stage can be left out to see its worth."""

    further_views: bool = True
    """Sweeps across the other axes; only with models that read neighbours."""
    bank: bool = True
    """Memberships of the prototype bank, for the 3-D head."""
    head: bool = True
    """The 3-D head, where there is one."""
    walk: bool = True
    """The random walk over small objects."""
    decoder: bool = True
    """The 2-D decoder, where there is one: in slices that are answered alone."""
