"""Training of the 3-D head on collected answers: `protosam train-head`.

The model that gave the answers stays as it is. Each step takes some objects; to some of them the
robot adds clicks where the head's own answer is most wrong, so that the head learns what a click
means. Every random draw is a function of seed and step, so a run that was stopped and resumed
takes the same steps. Dice plus weighted cross-entropy on the head's grid.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from protosam.clicks import next_click
from protosam.errors import InvalidInput
from protosam.learn.evidence import Evidence, read_evidence
from protosam.learn.head_samples import HeadSample, plain_sample, varied_sample
from protosam.learn.rough_answers import RoughSource
from protosam.learn.train_base import autocast_for
from protosam.models.lru import LruStore
from protosam.models.volume_head import VolumeHead

INSIDE_WEIGHT = 5.0
"""Weight of a voxel of the object in the cross-entropy; one of the surroundings has 1."""

BCE_WEIGHT = 2.0
"""Weight of cross-entropy against Dice."""

KEPT_BYTES = 4_000_000_000
"""Collected answers that are kept in memory."""


@dataclass(frozen=True)
class HeadTraining:
    """Settings of one training."""

    steps: int = 6000
    """Optimiser steps."""
    objects: int = 2
    """Objects of each step."""
    learning_rate: float = 2e-3
    """Largest; it rises over `warmup_steps` and falls along a cosine."""
    warmup_steps: int = 150
    weight_decay: float = 0.02
    ema_decay: float = 0.998
    """Of the moving average that is kept as the result."""
    further_clicks: tuple[float, ...] = (0.5, 0.3, 0.2)
    """Chances of 0, 1, 2 ... further clicks on the head's own errors."""
    rough_share: float = 0.5
    """Share of the objects whose answer is made up (`rough_answers`), where there are cases."""
    seed: int = 1
    checkpoint_every: int = 250
    log_every: int = 50

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step, from 0."""
        rise = min(1.0, (step + 1) / max(1, self.warmup_steps))
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, self.steps))))
        return self.learning_rate * rise * (fall + 0.01)


def train_head(
    settings: HeadTraining,
    *,
    answers: Sequence[Path],
    out: Path,
    shares: Sequence[float] | None = None,
    rough: RoughSource | None = None,
    on_progress: Callable[[int, str], None] | None = None,
) -> VolumeHead:
    """Train a head, or go on with the run in `out`.

    Parameters
    ----------
    settings : HeadTraining
    answers : sequence of path
        Files of collected answers, one an object.
    out : path
        Folder of the run: checkpoint.pt and log.jsonl.
    shares : sequence of float, optional
        How often each file is drawn; all alike if not given.
    rough : RoughSource, optional
        Makes up answers beside the collected ones.
    on_progress : (step, text) -> None, optional

    Returns
    -------
    VolumeHead
        The moving average.

    Raises
    ------
    InvalidInput
        If there are no answers.
    """
    if not answers:
        raise InvalidInput("There are no collected answers.", "Collect some first.")
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    trainer = _Trainer(settings, list(answers), shares, rough)
    trainer.restore(out / "checkpoint.pt")
    while trainer.step < settings.steps:
        trainer.train_step()
        if trainer.step % settings.log_every == 0:
            line = trainer.figures()
            with (out / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            if on_progress is not None:
                text = f"Dice {line['dice_before']:.3f} -> {line['dice']:.3f}"
                on_progress(trainer.step, text)
        if trainer.step % settings.checkpoint_every == 0 or trainer.step == settings.steps:
            trainer.save(out / "checkpoint.pt")
    return trainer.average


def corrected(head: VolumeHead, sample: HeadSample) -> torch.Tensor:
    """Logits (1, 1, k, j, i) of a sample with the head's correction."""
    device = next(head.parameters()).device
    with autocast_for(device)():
        correction = head(sample.maps().to(device))
    logits: torch.Tensor = sample.answer + correction.float().cpu()
    return logits


def dice_of(logits: torch.Tensor, truth: torch.Tensor) -> float:
    """Dice of thresholded logits and truth on the grid; two empty masks have 1."""
    found, wanted = logits > 0, truth >= 0.5
    total = int(found.sum() + wanted.sum())
    return 2 * int((found & wanted).sum()) / total if total else 1.0


@torch.no_grad()
def compare(head: VolumeHead, answers: Sequence[Evidence]) -> list[tuple[float, float]]:
    """Dice on the grid without and with the head, for each answer as it is at work."""
    head.eval()
    samples = [plain_sample(answer) for answer in answers]
    return [(dice_of(s.answer, s.truth), dice_of(corrected(head, s), s.truth)) for s in samples]


def head_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Dice plus weighted cross-entropy.

    Parameters
    ----------
    logits, truth : (1, 1, k, j, i)

    Returns
    -------
    0-d tensor
        Soft Dice loss (Milletari et al. 2016, doi 10.1109/3DV.2016.79, eq. 1, without squares)
        plus `BCE_WEIGHT` times the weighted mean of the cross-entropy.
    """
    probability = torch.sigmoid(logits)
    overlap = (probability * truth).sum()
    dice = 1 - (2 * overlap + 1) / (probability.sum() + truth.sum() + 1)
    weight = 1 + (INSIDE_WEIGHT - 1) * truth
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return dice + BCE_WEIGHT * (entropy * weight).sum() / weight.sum()


class _Trainer:
    """Head, moving average and optimiser."""

    def __init__(
        self,
        settings: HeadTraining,
        answers: list[Path],
        shares: Sequence[float] | None,
        rough: RoughSource | None,
    ) -> None:
        self._settings, self._answers, self._rough = settings, answers, rough
        weights = np.ones(len(answers)) if shares is None else np.asarray(shares, dtype=float)
        self._shares = weights / weights.sum()
        self.step = 0
        self._head = VolumeHead()
        self.average = copy.deepcopy(self._head).requires_grad_(False)
        self._optimiser = torch.optim.AdamW(
            self._head.parameters(), lr=1.0, weight_decay=settings.weight_decay
        )
        self._read: LruStore[Path, list[Evidence]] = LruStore(
            KEPT_BYTES, lambda answers: sum(a.nbytes for a in answers)
        )
        self._recent: list[tuple[float, float, float]] = []
        self._clock = time.monotonic()

    def restore(self, path: Path) -> None:
        """Load the checkpoint where there is one."""
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True)
        self._head.load_state_dict(state["head"])
        self.average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.step = int(state["step"])

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "head": self._head.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "step": self.step,
            "settings": json.dumps(asdict(self._settings)),
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def train_step(self) -> None:
        """Take some objects, let the robot click at some of them, step."""
        rng = np.random.default_rng([self._settings.seed, self.step])
        self._optimiser.zero_grad(set_to_none=True)
        for _ in range(self._settings.objects):
            sample = self._clicked(self._drawn(rng), rng)
            logits = corrected(self._head, sample)
            loss = head_loss(logits, sample.truth)
            (loss / self._settings.objects).backward()  # type: ignore[no-untyped-call]
            before = dice_of(sample.answer, sample.truth)
            self._recent.append((loss.item(), before, dice_of(logits, sample.truth)))
        norm = torch.nn.utils.clip_grad_norm_(self._head.parameters(), 1.0)
        for group in self._optimiser.param_groups:
            group["lr"] = self._settings.learning_rate_at(self.step)
        if torch.isfinite(norm):
            self._optimiser.step()
        self._update_average()
        self.step += 1

    def figures(self) -> dict[str, Any]:
        """Means since they were last asked for."""
        now = time.monotonic()
        loss, before, after = np.mean(self._recent, axis=0)
        seconds = (now - self._clock) / len(self._recent) * self._settings.objects
        self._recent, self._clock = [], now
        facts = {"loss": loss, "dice_before": before, "dice": after, "seconds_per_step": seconds}
        return {"step": self.step, **{k: round(float(v), 4) for k, v in facts.items()}}

    def _drawn(self, rng: np.random.Generator) -> HeadSample:
        if self._rough is not None and rng.random() < self._settings.rough_share:
            return self._rough.draw(rng)
        path = self._answers[int(rng.choice(len(self._answers), p=self._shares))]
        answers = self._read.get(path)
        if answers is None:
            answers = read_evidence(path)
            self._read.put(path, answers)
        return varied_sample(answers[int(rng.integers(len(answers)))], rng)

    def _clicked(self, sample: HeadSample, rng: np.random.Generator) -> HeadSample:
        """Add clicks where the head's own answer is most wrong."""
        chances = self._settings.further_clicks
        truth = (sample.truth >= 0.5).numpy()[0, 0]
        for _ in range(int(rng.choice(len(chances), p=chances))):
            with torch.no_grad():
                found = (corrected(self._head, sample) > 0).numpy()[0, 0]
            click = next_click(found, truth, sample.grid.voxel_kji_mm)
            if click is None:
                break
            sample = sample.with_click(click.place, positive=click.positive)
        return sample

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self._settings.ema_decay, (1 + self.step) / (10 + self.step))
        for average, current in zip(
            self.average.parameters(), self._head.parameters(), strict=True
        ):
            average.lerp_(current, 1 - decay)
