"""Teaching a shift: `protosam train-shift`, seconds to a minute on a CPU.

Owns the lessons and the optimiser. The encoder has done its work before (`shift_examples`); only
the decoder runs, with all of its weights frozen, and what is learnt is a `PatternShift`. Each
lesson is one question as it comes at work: a click in the whole slice; the same click looked at
closer, with the first answer as prior; a correction of that; a neighbouring slice with no click at
all. The questions before the last one run without gradient, as in SAM's training (Kirillov et al.
2023, appendix A). Coordinates are (row, col) of a view.

Source: ProMISe, Wang et al. 2024, arXiv:2403.04164. Deviations: logits go through one sigmoid, not
two; all readings of a click are trained, because any of them may be shown; clicks are simulated
where the answer is wrong, so that the model stays promptable; cases that choose the moment to stop
are not trained on; offsets pay a price for their length.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from protosam.clicks import first_click
from protosam.errors import InvalidInput
from protosam.learn.click_game import ClickGame, Question
from protosam.learn.clicks import deep_point, pick
from protosam.learn.finished_cases import OnProgress
from protosam.learn.pupils import Pupil, pupil_of
from protosam.learn.shift_examples import Example
from protosam.models.shift import PatternShift, ShiftShape
from protosam.models.slice_model import SliceModel, SlicePrompts

LESSONS = {"first": 0.4, "closer": 0.25, "corrected": 0.2, "followed": 0.15}
"""Distribution of the questions that are taught."""

CLICKS = 3
"""Clicks on an example, at most: in lessons and when it is measured."""

SLACK = 0.005
"""Mean Dice after `CLICKS` clicks that may be lost for a better first answer."""

SURE = 6.0
"""Logit of what is told of a neighbouring slice whose object is known."""


@dataclass(frozen=True)
class ShiftSettings:
    """What decides a shift, apart from cases and model."""

    steps: int = 100
    """Optimiser steps."""
    batch: int = 4
    """Questions in each step."""
    hidden: int = 32
    """Width of the hidden layer."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW; it falls to nothing along a cosine."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    length_price: float = 0.01
    """Weight of the mean square of the offsets."""
    examples: int = 128
    """Slices that are encoded, over all cases and labels."""
    held_out: float = 0.2
    """Share of the cases (of the slices, with fewer than 3 cases) that only choose when to stop."""
    check_every: int = 20
    """Steps between looks at what is held out."""
    seed: int = 0
    """Decides initial weights, slices, lessons and clicks."""

    def __post_init__(self) -> None:
        counts = (self.steps, self.batch, self.hidden, self.examples, self.check_every)
        if min(counts) < 1 or self.learning_rate <= 0 or not 0 < self.held_out < 1:
            raise InvalidInput(
                f"A shift cannot be trained with these settings: {self}.",
                "Counts and the learning rate are above 0, the held-out share is between 0 and 1.",
            )
        if min(self.weight_decay, self.length_price) < 0:
            raise InvalidInput("Weight decay and price of length are 0 or more.")


@dataclass(frozen=True)
class ClickedDice:
    """Mean Dice over examples."""

    one: float
    """After one click, looked at closer."""
    several: float
    """After `CLICKS` clicks."""

    def is_better_than(self, other: ClickedDice, base: ClickedDice) -> bool:
        """Whether one click gives more than with another, and several no less than the base."""
        return self.one > other.one and self.several >= base.several - SLACK


@dataclass(frozen=True, eq=False)
class TaughtShift:
    """What came of the training."""

    shift: PatternShift
    """The best one found; all zero where nothing helped."""
    before: ClickedDice
    """Of the base model, on what was held out."""
    after: ClickedDice
    """The same with the shift."""
    step: int
    """Step at which the best one was found; 0 where nothing helped."""
    seconds: float
    """Wall time of the training, without the encoding."""


def teach_shift(
    model: SliceModel,
    examples: Sequence[Example],
    settings: ShiftSettings,
    *,
    on_progress: OnProgress,
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
) -> TaughtShift:
    """Teach a shift.

    Parameters
    ----------
    model : SliceModel
        The base; not changed.
    examples : sequence of Example
        Of `examples_of` with this very model.
    settings : ShiftSettings
    on_progress : (fraction 0..1, text) -> None
    on_step : (step, loss) -> None, optional
        From 1; the mean loss of the step's questions.

    Raises
    ------
    InvalidInput
        If there are fewer than two examples: one to learn from, one to stop by.
    """
    begun = time.perf_counter()
    pupil = pupil_of(model)
    taught, held = hold_out(examples, settings)
    generator = np.random.default_rng([settings.seed, 11])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        shift = PatternShift(ShiftShape(pupil.channels, pupil.tokens, settings.hidden))
    shift.to(model.device)
    before = clicked_dice(pupil, held, None)
    best, best_dice, best_step = copy.deepcopy(shift), before, 0
    optimiser = torch.optim.AdamW(
        shift.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    lessons = _Lessons(pupil, shift, generator)
    for step in range(1, settings.steps + 1):
        optimiser.zero_grad(set_to_none=True)
        mean = 0.0
        for _ in range(settings.batch):
            example = taught[int(generator.integers(len(taught)))]
            loss = lessons.loss(example, settings.length_price) / settings.batch
            torch.autograd.backward(loss)
            mean += loss.item()
        torch.nn.utils.clip_grad_norm_(shift.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % settings.check_every == 0 or step == settings.steps:
            dice = clicked_dice(pupil, held, shift)
            if dice.is_better_than(best_dice, before):
                best, best_dice, best_step = copy.deepcopy(shift), dice, step
        on_step(step, mean)
        on_progress(
            step / settings.steps, f"step {step}, Dice {before.one:.3f} -> {best_dice.one:.3f}"
        )
    seconds = time.perf_counter() - begun
    return TaughtShift(best.requires_grad_(False), before, best_dice, best_step, seconds)


def hold_out(
    examples: Sequence[Example], settings: ShiftSettings
) -> tuple[list[Example], list[Example]]:
    """Part examples into those to learn from and those to stop by; by cases where there are 3.

    Raises
    ------
    InvalidInput
        If there are fewer than two.
    """
    if len(examples) < 2:
        raise InvalidInput(
            f"A shift needs 2 slices at least, one of them to stop by; got {len(examples)}.",
            "Give more cases.",
        )
    names = sorted({example.case for example in examples})
    by_case = len(names) >= 3
    units = names if by_case else list(range(len(examples)))
    rng = np.random.default_rng([settings.seed, 3])
    count = min(len(units) - 1, max(1, round(settings.held_out * len(units))))
    chosen = {units[int(n)] for n in rng.permutation(len(units))[:count]}
    keys = [example.case if by_case else n for n, example in enumerate(examples)]
    held = [e for e, key in zip(examples, keys, strict=True) if key in chosen]
    return [e for e, key in zip(examples, keys, strict=True) if key not in chosen], held


@torch.no_grad()
def clicked_dice(
    pupil: Pupil, examples: Sequence[Example], shift: PatternShift | None
) -> ClickedDice:
    """Play examples as at work, and measure after one click and after `CLICKS`.

    Parameters
    ----------
    pupil : Pupil
    examples : sequence of Example
    shift : PatternShift or None
        None for the base model.
    """
    first, last = [], []
    for example in examples:
        point = np.array(first_click(example.whole.truth, (1.0, 1.0)).place, dtype=float)
        game = ClickGame(example, point, pupil, shift)
        game.answer()
        if game.look_closer():
            game.answer()
        first.append(game.dice())
        for _ in range(CLICKS - 1):
            if not game.correct():
                break
            game.answer()
        last.append(game.dice())
    return ClickedDice(float(np.mean(first)), float(np.mean(last)))


class _Lessons:
    """Draws questions and tells how badly they were answered."""

    def __init__(self, pupil: Pupil, shift: PatternShift, rng: np.random.Generator) -> None:
        self._pupil, self._shift, self._rng = pupil, shift, rng

    def loss(self, example: Example, length_price: float) -> torch.Tensor:
        """Loss of one question about an example, with the price of the offsets."""
        asked = self._question(example)
        pupil, view = self._pupil, asked.view
        reading = pupil.ask(view.embedding, asked.prompts, self._shift)
        loss = pupil.loss(reading, view.target)
        if reading.offsets is None:
            return loss
        return loss + length_price * reading.offsets.square().mean()

    def _question(self, example: Example) -> Question:
        kind = pick(self._rng, LESSONS)
        if kind == "followed" and example.followed is not None:
            beside = np.where(example.closer.truth, SURE, -SURE).astype(np.float32)
            return Question(example.followed, SlicePrompts(neighbour_logits=beside))
        x, y = deep_point(example.whole.truth, self._rng)
        point = np.array([(y - 0.5) / 2, (x - 0.5) / 2])
        game = ClickGame(example, point, self._pupil, self._shift)
        if kind != "first":
            game.answer()
            game.look_closer()
        if kind == "corrected":
            for _ in range(int(self._rng.integers(1, CLICKS))):
                game.answer()
                if not game.correct():
                    break
        return game.question
