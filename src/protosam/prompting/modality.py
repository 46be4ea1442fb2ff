"""Whether an image can be compared with an example's at all.

Owns the feature distance of two images as wholes, and the sentence for the user. The work goes
on: a note is not a refusal, since a strange image may still be the right one.
"""

from __future__ import annotations

import numpy as np

from protosam.prompting.cloud import Cloud, Scale
from protosam.prompting.example import Example

STRANGE = 1.0
"""Mean shift of the channels, in deviations, above which an image is of another kind."""


def image_distance(one: Scale, other: Scale) -> float:
    """Mean shift of the channels' means from one image to another, in deviations of the first."""
    return float(np.abs((other.mean - one.mean) / one.deviation).mean())


def likeness_note(example: Example, cloud: Cloud) -> tuple[str, ...]:
    """Say it if an image is unlike all cases of an example; else nothing."""
    nearest = min(image_distance(case.scale, cloud.scale) for case in example.cases)
    if nearest <= STRANGE:
        return ()
    return (
        f"This image looks unlike the example's (feature distance {nearest:.1f}, up to "
        f"{STRANGE:g} is usual): another modality, sequence or part of the body? "
        "Check the proposals with care.",
    )
