"""What an adapter goes on practising beside its cases: procedural shapes, so that clicks stay law.

A model that sees one organ alone for some hundred steps learns to find it wherever one clicks.
Every few questions are therefore asked of shapes that have nothing to do with the cases and that
the base was trained on too (`shapes`). No patient's image is needed for it. Voxels are (k, j, i).
"""

from __future__ import annotations

import numpy as np

from protosam.geometry import Volume
from protosam.learn.finished_cases import FinishedCase
from protosam.learn.shapes import procedural_volume

VOLUMES = 4
"""Procedural volumes that are made; each takes a second."""

SHAPES = 6
"""Shapes of each that are asked about, at most."""

FIRST_SEED = 1_000_000
"""Seeds from here on belong to replays; the base was trained on smaller ones."""


def replayed_cases(seed: int) -> list[FinishedCase]:
    """Make the volumes that are practised on beside the cases.

    Parameters
    ----------
    seed : int
        Not negative; the same volumes for the same seed.
    """
    return [_case(FIRST_SEED + VOLUMES * seed + number) for number in range(VOLUMES)]


def _case(seed: int) -> FinishedCase:
    painted = procedural_volume(seed)
    there = np.unique(painted.labels)
    there = there[there > 0]
    chosen = np.random.default_rng(seed).permutation(there)[:SHAPES]
    affine = np.eye(4)
    return FinishedCase(
        f"procedural {seed}",
        Volume(painted.image, affine),
        Volume(painted.labels, affine),
        tuple(sorted(int(label) for label in chosen)),
    )
