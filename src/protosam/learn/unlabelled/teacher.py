"""The teacher: the moving average of the adapter, asked twice about every slice of the pool.

Owns how the average is put into the network for a while and taken out again, what the teacher is
asked (clicks in what it was sure of, then a box round it: two opinions of one object) and what is
made of the two. No gradient flows here, and no label is at hand. Coordinates are (row, col) of a
slice's rectangle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from protosam import metrics
from protosam.learn.fronts import front_of
from protosam.learn.pupils import pupil_of
from protosam.learn.recipe import network_of
from protosam.learn.recipe_settings import RecipeSettings
from protosam.learn.unlabelled.seen import SeenSlice, core_box, core_clicks
from protosam.models.lora import lora_parameters
from protosam.models.slice_model import SliceModel, SlicePrompts
from protosam.models.token_grid import HasNeckTokens, NeckTokens
from protosam.prompting.reliable import reliable_prompts

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Answer:
    """What the teacher says of a slice.

    Attributes
    ----------
    number : int
        Of the slice in the pool.
    seen : SeenSlice
    probability : (H, W) float32
        Mean of the two opinions; 0 everywhere where the teacher was sure of nothing before.
    agreement : float
        Dice of the two opinions.
    tokens : NeckTokens or None
        Features of the slice, of models that show them.
    """

    number: int
    seen: SeenSlice
    probability: Float32Array
    agreement: float
    tokens: NeckTokens | None


@contextmanager
def values_in(parameters: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> Iterator[None]:
    """Let a network have other values of these parameters while a block runs."""
    own = [parameter.detach().clone() for parameter in parameters]
    _fill(parameters, values)
    try:
        yield
    finally:
        _fill(parameters, own)


@torch.no_grad()
def _fill(parameters: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


class Teacher:
    """Answers for slices of the pool.

    Parameters
    ----------
    model : SliceModel
        With the adapter that learns.
    run : RecipeSettings
    """

    def __init__(self, model: SliceModel, run: RecipeSettings) -> None:
        self._model = model
        self.pupil, self.front = pupil_of(model), front_of(model, run.blocks)
        self._parameters = lora_parameters(network_of(model))
        for parameter in self._parameters:  # the lesson form of SAM freezes its network
            parameter.requires_grad_(True)

    def answers(
        self,
        pool: Sequence[SeenSlice],
        beliefs: Sequence[Float32Array],
        average: Sequence[torch.Tensor],
    ) -> list[Answer]:
        """Answer every slice.

        Parameters
        ----------
        pool : sequence of SeenSlice
        beliefs : sequence of (H, W) float32
            What is believed of each so far, 0..1; prompts come from it.
        average : sequence of tensors
            The teacher's adapter.
        """
        with values_in(self._parameters, average), torch.no_grad():
            return [
                self._answer(number, seen, belief)
                for number, (seen, belief) in enumerate(zip(pool, beliefs, strict=True))
            ]

    def tokens(
        self, slices: Sequence[SeenSlice], average: Sequence[torch.Tensor]
    ) -> list[tuple[SeenSlice, NeckTokens]]:
        """Features of slices; none for models that do not show them."""
        if not isinstance(self._model, HasNeckTokens):
            return []
        with values_in(self._parameters, average), torch.no_grad():
            return [
                (seen, self._model.neck_tokens(self.front.finish(seen.begun))) for seen in slices
            ]

    def _answer(self, number: int, seen: SeenSlice, belief: Float32Array) -> Answer:
        embedding = self.front.finish(seen.begun)
        model = self._model
        tokens = model.neck_tokens(embedding) if isinstance(model, HasNeckTokens) else None
        core = reliable_prompts(belief)
        if core is None:
            return Answer(number, seen, np.zeros(belief.shape, dtype=np.float32), 0.0, tokens)

        def opinion(prompts: SlicePrompts) -> Float32Array:
            reading = self.pupil.ask(embedding, prompts, None)
            logits = self.pupil.on_slice(embedding, reading.shown)
            return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))), dtype=np.float32)

        one, other = opinion(core_clicks(core)), opinion(core_box(core))
        agreement = metrics.dice(one > 0.5, other > 0.5)
        mean = np.asarray((one + other) / 2, dtype=np.float32)
        return Answer(number, seen, mean, agreement, tokens)
