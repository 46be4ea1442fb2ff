"""The term of the recipe's loss that needs no labels: when, how strongly, and when no longer.

Owns the order: labels alone at first; then pseudo-labels of the whole pool are made by the
teacher, are looked over for signs of a collapse, and teach with a weight that rises; they are made
anew a few times, never in every step. After an alarm the term is out for good. Everything that a
step depends on is in `state`, so that a run which goes on takes the same steps. What teaches is
the `Way`'s. Coordinates are (row, col) of a slice's rectangle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from protosam.errors import InvalidInput
from protosam.learn.recipe_settings import RecipeSettings
from protosam.learn.unlabelled.alarms import WINDOW, Signs, alarm_of, disagreement
from protosam.learn.unlabelled.ramps import linear_ramp
from protosam.learn.unlabelled.seen import MIN_PIXELS, SeenSlice, question
from protosam.learn.unlabelled.teacher import Answer, Teacher
from protosam.learn.unlabelled.ways import Seen, Target, Way, by_group, is_likely_size
from protosam.prompting.continuity import CONTINUOUS, share_of_bodies
from protosam.prompting.reliable import entropy

FIRST_BELIEF = np.float32(0.99)
"""Probability of what is believed of the pool. Prompts come from the shape of the last answer that
can be right, not from its probabilities: two opinions that differ leave hardly a pixel above 0.9,
and prompts from what was left made the next answers smaller, and the one after them empty."""


@dataclass(frozen=True)
class TermSettings:
    """How a term comes in."""

    weight: float = 0.5
    """At the end of its rise; that of the lessons is 1."""
    begin: float = 0.3
    """Part of the steps in which labels teach alone."""
    rise: float = 0.3
    """Part of the term's own time over which its weight rises."""
    refreshes: int = 3
    """How often pseudo-labels are made."""
    batch: int = 2
    """Slices of the pool in each step."""

    def __post_init__(self) -> None:
        parts_fit = 0 <= self.begin < 1 and 0 < self.rise <= 1
        if not parts_fit or self.weight < 0 or min(self.refreshes, self.batch) < 1:
            raise InvalidInput(
                f"A term without labels cannot be made with {self}.",
                "Parts are below 1, counts 1 or more, the weight 0 or more.",
            )


@dataclass(frozen=True, eq=False)
class Material:
    """What a term works on.

    Attributes
    ----------
    labelled : sequence of SeenSlice
        Their masks are true.
    pool : sequence of SeenSlice
        Their masks are guesses.
    """

    labelled: Sequence[SeenSlice]
    pool: Sequence[SeenSlice]

    def __post_init__(self) -> None:
        if not self.labelled or not self.pool:
            raise InvalidInput(
                f"{len(self.labelled)} labelled slices and {len(self.pool)} without labels are "
                "not enough to learn from.",
                "Give cases and images in which the object has a few slices.",
            )

    @property
    def areas_mm2(self) -> dict[int, tuple[float, float]]:
        """Smallest and largest mean area of the slices of each labelled object."""
        means: dict[int, dict[int, list[float]]] = {}
        for one in self.labelled:
            area = float(one.mask.sum()) * one.pixel_mm2
            means.setdefault(one.label, {}).setdefault(one.group, []).append(area)
        found = {}
        for label, groups in means.items():
            sizes = [float(np.mean(areas)) for areas in groups.values()]
            found[label] = (min(sizes), max(sizes))
        return found

    @property
    def foreground(self) -> float:
        """Share of the object in labelled slices."""
        return float(np.mean([one.mask.mean() for one in self.labelled]))


class PoolTerm:
    """A `recipe.UnlabelledTerm`.

    Parameters
    ----------
    teacher : Teacher
    way : Way
    material : Material
    run : RecipeSettings
    settings : TermSettings, optional

    Attributes
    ----------
    alarm : str or None
        Why the term was taken out.
    """

    def __init__(
        self,
        teacher: Teacher,
        way: Way,
        material: Material,
        run: RecipeSettings,
        settings: TermSettings | None = None,
    ) -> None:
        self._teacher, self._way, self._material = teacher, way, material
        self._run, self._settings = run, settings or TermSettings()
        self._beliefs = [FIRST_BELIEF * one.mask.astype(np.float32) for one in material.pool]
        self._targets: list[Target] = []
        self._dice: list[float] = []
        self.alarm: str | None = None

    @property
    def first_step(self) -> int:
        """Step in which the term comes in."""
        return int(np.ceil(self._settings.begin * self._run.planned))

    @property
    def refresh_steps(self) -> list[int]:
        """Steps in which pseudo-labels are made."""
        rest, count = self._run.planned - self.first_step, self._settings.refreshes
        return sorted({self.first_step + n * rest // count for n in range(count)})

    def weight_at(self, step: int) -> float:
        """Weight of the term in a step."""
        if step < self.first_step:
            return 0.0
        return self._settings.weight * linear_ramp(self._done(step + 1), self._settings.rise)

    def loss(self, step: int, average: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """Weighted loss of a step; see `recipe.UnlabelledTerm`."""
        if step < self.first_step or self.alarm is not None:
            return None
        if step in self.refresh_steps:
            self._refresh(self._done(step), average)
        if self.alarm is not None or not self._targets:
            return None
        rng = np.random.default_rng([self._run.seed, 41, step])
        chosen = rng.integers(len(self._targets), size=self._settings.batch)
        losses = [self._loss(self._targets[int(n)], rng) for n in chosen]
        self.alarm = disagreement(self._dice)
        return self.weight_at(step) * torch.stack(losses).mean()

    def report(self) -> dict[str, Any]:
        """Facts of the term, for a card."""
        return {
            "slices": len(self._material.pool),
            "teaching": len(self._targets),
            "alarm": self.alarm or "",
        }

    def state(self) -> dict[str, Any]:
        """Everything that the next steps depend on; see `recipe.UnlabelledTerm`."""
        return {
            "beliefs": [torch.from_numpy(np.asarray(one)) for one in self._beliefs],
            "targets": [
                [one.number, torch.from_numpy(one.mask), torch.from_numpy(one.weight)]
                for one in self._targets
            ],
            "dice": list(self._dice),
            "alarm": self.alarm,
            "way": self._way.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._beliefs = [one.numpy() for one in state["beliefs"]]
        self._targets = [Target(n, mask.numpy(), w.numpy()) for n, mask, w in state["targets"]]
        self._dice, self.alarm = list(state["dice"]), state["alarm"]
        self._way.restore(state["way"])

    def _done(self, step: int) -> float:
        return (step - self.first_step) / (self._run.planned - self.first_step)

    def _refresh(self, done: float, average: Sequence[torch.Tensor]) -> None:
        answers = self._teacher.answers(self._material.pool, self._beliefs, average)
        wanted = self._material.labelled if self._way.wants_tokens else ()
        labelled = self._teacher.tokens(wanted, average)
        seen = Seen(answers, labelled, self._material.areas_mm2, done)
        self._targets = self._way.targets(seen)
        self.alarm = alarm_of(signs_of(answers, self._targets, self._material.foreground))
        self._believe(answers)

    def _believe(self, answers: Sequence[Answer]) -> None:
        """Let the next prompts come from answers that can be right; others keep the last ones."""
        areas = self._material.areas_mm2
        for group in by_group(answers):
            mask = np.stack([one.probability > 0.5 for one in group])
            if share_of_bodies(mask) >= CONTINUOUS and is_likely_size(group, areas):
                for one in group:
                    held = one.probability > 0.5
                    if held.sum() >= MIN_PIXELS:
                        self._beliefs[one.number] = FIRST_BELIEF * held.astype(np.float32)

    def _loss(self, target: Target, rng: np.random.Generator) -> torch.Tensor:
        seen, pupil = self._material.pool[target.number], self._teacher.pupil
        prompts = question(target.mask, rng)
        views = self._way.views(self._teacher, seen, rng)
        wanted = (pupil.target(views[0], target.mask) >= 0.5).float()  # (h, w)
        weight = (pupil.target(views[0], target.weight) > 0.99).float()
        readings = [pupil.ask(view, prompts, None) for view in views]
        agreed = _dice(readings[0].shown > 0, wanted > 0.5, weight > 0)
        self._dice = [*self._dice, agreed][-WINDOW:]
        losses = [self._way.loss(reading.logits, wanted, weight) for reading in readings]
        return torch.stack(losses).mean()


def signs_of(answers: Sequence[Answer], targets: Sequence[Target], labelled: float) -> Signs:
    """Signs of health of new pseudo-labels."""
    answered = [one.probability for one in answers if one.probability.any()]
    sure_in = float(np.mean([(t.mask & t.weight).mean() for t in targets])) if targets else 0.0
    sure_out = float(np.mean([(~t.mask & t.weight).mean() for t in targets])) if targets else 0.0
    return Signs(
        foreground=float(np.mean([(p > 0.5).mean() for p in answered])) if answered else 0.0,
        labelled=labelled,
        entropy=float(np.mean([entropy(p).mean() for p in answered])) if answered else np.log(2),
        teaching=sure_in + sure_out,
        teaching_inside=sure_in,
        teaching_outside=sure_out,
        slices=len(targets),
    )


def _dice(found: torch.Tensor, wanted: torch.Tensor, where: torch.Tensor) -> float:
    """Dice of two masks over the pixels that teach; 1 where neither has any there."""
    overlap = float((found & wanted & where).sum())
    total = float((found & where).sum() + (wanted & where).sum())
    return 2 * overlap / total if total else 1.0
