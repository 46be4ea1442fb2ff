"""From a volume to clicks that a user may take, move or delete.

Owns the way from slices to a volume: every slice is looked at alone, its neighbours vote on whether
the object is in it, the largest connected run of slices is kept, and clicks are set in a few of
them. Prompts come out in (k, j, i).

In three dimensions ProMISe says nothing; the vote and the run are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from protosam.geometry import Volume
from protosam.intensity import Window, auto_window
from protosam.models.planes import Planes
from protosam.models.slice_axis import choose_axis
from protosam.models.slice_model import SliceModel
from protosam.prompting.auto import AutoPrompter
from protosam.prompting.auto_levels import Levels, levels_of
from protosam.prompts import Point, PromptSet, Scope

OnProgress = Callable[[float, str], None]

VOTERS = 5
"""Slices that vote on one of them: itself and two on each side."""

PRESENT = 0.5
"""Mean probability from which the object counts as being in a slice."""

CLICKED_SLICES = 3
"""Slices of a volume that get clicks: the middle one, and one in each half."""

ROUGH = 0.3
"""Mean probability of the rough mask, over a slice and its neighbours, below which a point
on the object is dropped."""


@dataclass(frozen=True, eq=False)
class Suggestion:
    """Clicks for one object.

    Attributes
    ----------
    prompts : PromptSet
        Empty where the object was not found.
    presence : (n,) float array
        Probability of the object in each slice, after the vote.
    axis : int
        Array axis across which the slices lie.
    note : str
        A sentence for the user.
    """

    prompts: PromptSet
    presence: npt.NDArray[np.float64]
    axis: int
    note: str


@dataclass(frozen=True, eq=False)
class _Slice:
    """What was said of one slice, in its own pixels."""

    points_rc: npt.NDArray[np.float64]
    inside: npt.NDArray[np.float64]
    area: float
    presence: float


@dataclass(frozen=True)
class Look:
    """How a volume is looked at."""

    window: Window | None = None
    """Intensities that become black and white; None = chosen from the image."""
    axis: int | None = None
    """Array axis across which the slices lie; None = chosen as for clicks."""
    scope: Scope = "volume"
    """With ``slice`` only the slice of largest rough mask is clicked."""


def suggest(
    volume: Volume,
    model: SliceModel,
    prompter: AutoPrompter,
    look: Look | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> Suggestion:
    """Suggest clicks in a volume.

    Parameters
    ----------
    volume : Volume
    model : SliceModel
        The one that the prompter was trained with.
    prompter : AutoPrompter
    look : Look, optional
    on_progress : (fraction 0..1, text) -> None, optional
    """
    wanted = look or Look()
    axis, window, scope = wanted.axis, wanted.window, wanted.scope
    chosen = choose_axis(PromptSet(axis=axis), volume)
    planes = Planes(volume, chosen, auto_window(volume.voxels) if window is None else window)
    seen = _looked(planes, model, prompter, on_progress or (lambda _done, _text: None))
    presence = voted(np.array([one.presence for one in seen]))
    run = longest_run(presence >= PRESENT, presence)
    if run is None:
        note = (
            "Nothing was suggested: the object does not seem to be in this image "
            f"(highest probability of a slice {presence.max():.2f}). Click on it yourself."
        )
        return Suggestion(PromptSet(scope=scope, axis=chosen), presence, chosen, note)
    placed = [
        ((float(index), *place), positive)
        for index in _clicked(seen, run, scope)
        for place, positive in _points(seen, index, prompter.shape.positives)
    ]
    points = [
        Point(planes.unturn_point(place), positive, f"auto-{number}")
        for number, (place, positive) in enumerate(placed, start=1)
    ]
    note = (
        f"{len(points)} clicks were suggested; the object seems to lie in slices {run[0]} to "
        f"{run[1]}. Move or delete those that are wrong."
    )
    return Suggestion(PromptSet(tuple(points), scope=scope, axis=chosen), presence, chosen, note)


def voted(presence: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean probability over `VOTERS` slices about each slice; the ends count themselves again."""
    mean: npt.NDArray[np.float64] = ndimage.uniform_filter1d(presence, VOTERS, mode="nearest")
    return mean


def longest_run(
    present: npt.NDArray[np.bool_], weight: npt.NDArray[np.float64]
) -> tuple[int, int] | None:
    """First and last slice of the run of present slices with the largest sum of weights."""
    labels, count = ndimage.label(present)
    if count == 0:
        return None
    sums = ndimage.sum_labels(weight, labels, np.arange(1, count + 1))
    (span,) = ndimage.find_objects(labels)[int(np.argmax(sums))]
    return int(span.start), int(span.stop) - 1


@torch.no_grad()
def _looked(
    planes: Planes, model: SliceModel, prompter: AutoPrompter, on_progress: OnProgress
) -> list[_Slice]:
    seen: list[_Slice] = []
    prompter = prompter.to(model.device)
    before: torch.Tensor | None = None
    for index in range(planes.depth):
        on_progress(index / planes.depth, f"looking at slice {index + 1} of {planes.depth}")
        stack = planes.stack(index, planes.whole, model.context_slices)
        (embedding,) = model.embed(stack[None], planes.spacing_rc_mm)
        levels = levels_of(model, embedding)
        before = _said(seen, levels, prompter, before)
    return seen


def _said(
    seen: list[_Slice], levels: Levels, prompter: AutoPrompter, before: torch.Tensor | None
) -> torch.Tensor:
    """Add what is said of a slice; points are looked up in its rough mask and the one before."""
    proposal = prompter(levels.features, levels.real)
    rough = torch.sigmoid(proposal.rough[0])
    both = rough if before is None else (rough + before) / 2
    cells = proposal.points[0].round().long()
    inside = both[cells[:, 0], cells[:, 1]]
    seen.append(
        _Slice(
            points_rc=levels.to_slice(proposal.points[0]),
            inside=inside.double().cpu().numpy(),
            area=float(rough.sum()),
            presence=float(torch.sigmoid(proposal.presence[0])),
        )
    )
    return rough


def _clicked(seen: list[_Slice], run: tuple[int, int], scope: Scope) -> list[int]:
    """Slices of a run to click in: the one of largest rough mask in each part of the run."""
    areas = np.array([seen[index].area for index in range(run[0], run[1] + 1)])
    if scope == "slice":
        return [run[0] + int(areas.argmax())]
    parts = np.array_split(np.arange(len(areas)), min(CLICKED_SLICES, len(areas)))
    best = [run[0] + int(part[areas[part].argmax()]) for part in parts]
    # The surest first: a volume is built up from its first click.
    return sorted(best, key=lambda index: -areas[index - run[0]])


def _points(
    seen: list[_Slice], index: int, positives: int
) -> list[tuple[tuple[float, float], bool]]:
    """Points of a slice that its rough masks agree with; the best positive one always."""
    one = seen[index]
    best = int(one.inside[:positives].argmax())
    kept = []
    for number, ((row, col), inside) in enumerate(zip(one.points_rc, one.inside, strict=True)):
        positive = number < positives
        agrees = inside >= ROUGH if positive else inside < ROUGH
        if number == best or agrees:
            kept.append(((float(round(row)), float(round(col))), positive))
    return sorted(kept, key=lambda item: not item[1])
