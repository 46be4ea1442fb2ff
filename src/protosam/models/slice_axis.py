"""The array axis across which a volume is worked at. Array order is (k, j, i)."""

from __future__ import annotations

from protosam.geometry import Volume
from protosam.prompts import PromptSet


def choose_axis(prompts: PromptSet, volume: Volume) -> int:
    """Array axis across which to work.

    The user's own slices if known, else those of a drawn 2-D box, else the only slice of a 2-D
    image, else the thickest slices (of equal ones the first axis): within them the pixels are
    finest.
    """
    if prompts.axis is not None:
        return prompts.axis
    drawn = [box.axis for box in prompts.boxes if box.axis is not None]
    if drawn:
        return drawn[0]
    if 1 in volume.shape_kji:
        return volume.shape_kji.index(1)
    spacing = volume.spacing_kji_mm
    return next(a for a in range(3) if spacing[a] >= 0.999 * max(spacing))
