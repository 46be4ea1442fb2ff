"""How the gate measures a model: it answers as at work, and the click robot scores it.

Slices are played with no click (the object of the slice beside is known, which models that read
neighbours can follow), with one and with three; whole objects with one. Answers are those that a
user gets, the corrections by 2-D decoder and 3-D head included. Indices are (k, j, i), distances in
mm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from protosam import metrics, robot
from protosam.errors import InvalidInput
from protosam.extents import BoolArray
from protosam.geometry import Volume
from protosam.intensity import auto_window
from protosam.learn.gate_boards import Board
from protosam.learn.lessons import SURE
from protosam.models.planes import Planes
from protosam.models.refiner import builtin_refiner
from protosam.models.segmenter import Segmenter, SegmentRequest
from protosam.models.slice_model import SliceModel, SlicePrompts
from protosam.models.slice_refiner import builtin_slice_refiner
from protosam.prompts import PromptSet
from protosam.robot import Plane, Rules, Target

CLICKS = (0, 1, 3)
"""Numbers of clicks after which an answer is measured."""


@dataclass(frozen=True)
class Marks:
    """How one contender did on one board."""

    dice: tuple[float | None, float, float]
    """After `CLICKS`; None without a click for models that do not read neighbours."""
    hd95_mm: float
    """95th-percentile Hausdorff distance after the last click."""

    @property
    def mean(self) -> float:
        """Mean Dice over the numbers of clicks, by which the gate judges."""
        return float(np.mean([d for d in self.dice if d is not None]))


def measure(
    model: SliceModel,
    boards: Sequence[Board],
    *,
    on_board: Callable[[int], None],
    on_first: Callable[[int, BoolArray], None] | None = None,
) -> list[Marks]:
    """Let a model play all boards.

    Parameters
    ----------
    model : SliceModel
    boards : sequence of Board
    on_board : (number) -> None
        Called before each; may raise `Cancelled`.
    on_first : (number, mask) -> None, optional
        Gets the answer after one click, of the slice that is played.
    """
    player = _Player(model)
    marks = []
    for number, board in enumerate(boards):
        on_board(number)
        marks.append(player.play(board.target))
        if on_first is not None and player.first is not None:
            on_first(number, board.target.board(player.first).copy())
    return marks


def measure_wholes(
    model: SliceModel, targets: Sequence[Target], *, on_target: Callable[[int], None]
) -> list[float]:
    """Dice of whole objects after one click.

    Parameters
    ----------
    model : SliceModel
    targets : sequence of Target
        Without a plane.
    on_target : (number) -> None
        Called before each; may raise `Cancelled`.
    """
    player, found = _Player(model), []
    for number, target in enumerate(targets):
        on_target(number)
        found.append(robot.play(target, player, Rules(clicks=1)).dice[0])
    return found


def can_play_wholes(model: SliceModel) -> bool:
    """Whether a whole object costs seconds: others embed each of its slices for so long."""
    return model.reads_neighbours or model.device.type == "cuda"


class _Player:
    """A model at work, as an engine for the click robot."""

    name = "adapted"

    def __init__(self, model: SliceModel) -> None:
        self._model = model
        # With the correctors that come with the package: a user's answers have passed them too.
        self._segmenter = Segmenter(
            model,
            refiner=builtin_refiner(model.device),
            decoder=builtin_slice_refiner(model.device),
        )
        self._volume: Volume | None = None
        self.first: BoolArray | None = None
        """Answer after one click to the object that was played last, (K, J, I)."""

    def settings(self) -> dict[str, str | float]:
        """Return what a report says of the engine; see `robot.Engine`."""
        return {"model": self._model.name, "digest": self._model.digest}

    def begin(self, volume: Volume, plane: Plane | None) -> None:  # noqa: ARG002 - see answer
        """Take a new object; see `robot.Engine`."""
        self._volume, self.first = volume, None

    def answer(self, prompts: PromptSet) -> BoolArray:
        """Return the object that the prompts mean; see `robot.Engine`."""
        if self._volume is None:
            raise InvalidInput("The player has no image yet.", "Call begin before answer.")
        found = self._segmenter.segment(self._volume, SegmentRequest(prompts))
        mask = found.full_mask(self._volume.shape_kji)
        self.first = mask if self.first is None else self.first
        return mask

    def play(self, target: Target) -> Marks:
        """Play one board."""
        score = robot.play(target, self, Rules(clicks=CLICKS[-1]))
        one, three = score.dice[CLICKS[1] - 1], score.dice[CLICKS[2] - 1]
        return Marks((self._unclicked(target), one, three), score.hd95_mm[-1])

    def _unclicked(self, target: Target) -> float | None:
        """Dice when only the object in the slice beside is known."""
        if not self._model.reads_neighbours or target.plane is None:
            return None
        axis, index = target.plane.axis, target.plane.index
        beside = _beside(np.moveaxis(target.truth, axis, 0), index)
        if beside is None:
            return None
        planes = Planes(target.volume, axis, auto_window(target.volume.voxels))
        stack = planes.stack(index, planes.whole, self._model.context_slices)
        embedding = self._model.embed(stack[None], planes.spacing_rc_mm)[0]
        known = np.where(beside, SURE, -SURE).astype(np.float32)
        found = self._model.predict(embedding, SlicePrompts(neighbour_logits=known))
        return metrics.dice(found.logits > 0, target.board(target.truth))


def _beside(truth: BoolArray, index: int) -> BoolArray | None:
    """Object in the slice below, else above, of (slices, rows, columns); None if in neither."""
    for near in (index - 1, index + 1):
        if 0 <= near < len(truth) and truth[near].any():
            return np.asarray(truth[near])
    return None
