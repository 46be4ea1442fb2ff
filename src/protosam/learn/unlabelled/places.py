"""Where an object may be in an image of which nothing is known: told by finished cases.

Owns the first guess, from which teachers go on: finished cases are made into an example (P2SAM's
parts, landmarks, transport) and applied. No click and no label of the image is used. Masks are
(k, j, i).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protosam.errors import InvalidInput
from protosam.learn.finished_cases import FinishedCase, OnProgress
from protosam.learn.unlabelled.pool import PoolImage
from protosam.learn.unlabelled.seen import ObjectIn
from protosam.models.slice_model import SliceModel
from protosam.prompting.apply import apply_example
from protosam.prompting.example import Example, merged
from protosam.prompting.making import make_example
from protosam.seg_nrrd import Segment

EXAMPLES = 3
"""Finished cases that are made into an example; with more, every image is aligned more often."""

FEWEST_VOXELS = 24
"""A guess of fewer voxels is none."""


def places_in(
    model: SliceModel,
    cases: Sequence[FinishedCase],
    pool: Sequence[PoolImage],
    *,
    on_progress: OnProgress,
) -> list[ObjectIn]:
    """Guess where the objects of finished cases are in other images.

    Parameters
    ----------
    model : SliceModel
        Without an adapter.
    cases : sequence of FinishedCase
        The first `EXAMPLES` of each label are used.
    pool : sequence of PoolImage
    on_progress : (fraction 0..1, text) -> None

    Raises
    ------
    InvalidInput
        When nothing was found in any image.
    """
    example = _example(model, cases)
    found: list[ObjectIn] = []
    for number, image in enumerate(pool):
        on_progress(number / len(pool), f"looking at image {number + 1} of {len(pool)}")
        for proposal in apply_example(model, image.volume, example):
            mask = proposal.full_mask(image.volume.shape_kji)
            if int(mask.sum()) >= FEWEST_VOXELS:
                found.append(ObjectIn(image.volume, int(proposal.name), mask))
    if not found:
        raise InvalidInput(
            f"Nothing like the finished cases was found in {len(pool)} images without labels.",
            "Give images of the same kind and region, or choose the method labelled.",
        )
    return found


def _example(model: SliceModel, cases: Sequence[FinishedCase]) -> Example:
    used: dict[int, int] = {}
    examples = []
    for case in cases:
        segments = [
            Segment(str(label), np.asarray(case.labels.voxels == label, dtype=np.bool_))
            for label in case.wanted
            if used.get(label, 0) < EXAMPLES and (case.labels.voxels == label).any()
        ]
        for segment in segments:
            used[int(segment.name)] = used.get(int(segment.name), 0) + 1
        if segments:
            examples.append(make_example(model, case.image, segments))
    return merged(examples)
