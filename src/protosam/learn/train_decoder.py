"""The recipe of the 2-D decoder: collected cases in, a trained decoder out.

Each step learns from a few cases; some of them get further clicks first, where the decoder is
wrong now, so that it learns to obey a correction of its own answer. Every random draw is a
function of seed and step, so a run that was stopped and resumed takes the same steps, as long as
the cases are the same. The checkpoint holds weights, their moving average and the optimiser; the
log has one JSON object a line.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from protosam.clicks import next_click
from protosam.errors import InvalidInput
from protosam.learn.decoder_cases import DecoderCase
from protosam.learn.decoder_collection import load_cases
from protosam.learn.decoder_samples import DecoderSample, sample_of, varied
from protosam.learn.losses import hard_iou, mask_loss
from protosam.models.decoder import STRIDE, SliceDecoder
from protosam.models.decoder_maps import resampled
from protosam.models.precision import has_fast_bfloat16

CACHED = 400
"""Files whose cases are kept in memory, about 0.5 MB each."""


@dataclass(frozen=True)
class TrainDecoderSettings:
    """What decides the result, apart from the cases."""

    steps: int = 4_000
    """Optimiser steps."""
    batch: int = 4
    """Cases in each step."""
    sides: tuple[int, ...] = (48, 64, 64, 96)
    """Sides of the grid in pixels, one of them for each step; multiples of 8."""
    seed: int = 0
    """Seed of initial weights, cases, their variation and the simulated clicks."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW; it falls to nothing as half a cosine."""
    warmup_steps: int = 100
    """First steps, over which the learning rate rises linearly."""
    weight_decay: float = 0.02
    """Weight decay of AdamW."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.998
    """Decay of the exponential moving average of the weights, which is what is kept."""
    further_clicks: tuple[float, ...] = (0.6, 0.3, 0.1)
    """Shares of the cases that get 0, 1, 2, ... clicks on the decoder's own errors."""
    log_every: int = 50
    """Steps between lines of the log."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.log_every, self.checkpoint_every) < 1:
            raise InvalidInput(
                "Training of the decoder needs at least one step, one case in each, and one step "
                f"between checkpoints; got {self}.",
                "Give 1 or more.",
            )
        if not self.sides or any(side < STRIDE or side % STRIDE for side in self.sides):
            raise InvalidInput(
                f"Sides of the grid must be multiples of {STRIDE}; got {self.sides}.",
                "Give for instance 48 64 96.",
            )
        if not self.further_clicks or abs(sum(self.further_clicks) - 1) > 1e-6:
            raise InvalidInput(
                f"The shares of further clicks {self.further_clicks} do not sum to 1.",
                "Give for instance 0.6 0.3 0.1.",
            )

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        rise = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class Gain:
    """Mean Dice of the backbone's answers, and with the decoder's correction."""

    before: float
    after: float
    answers: int


def train_decoder(
    settings: TrainDecoderSettings,
    *,
    cases: Path,
    out: Path,
    resume: bool = False,
    until: Callable[[int], bool] | None = None,
    on_log: Callable[[dict[str, float]], None] | None = None,
) -> SliceDecoder:
    """Train the decoder.

    Parameters
    ----------
    settings : TrainDecoderSettings
    cases : path
        Folder of files by `decoder_collection.save_cases`, read anew at the beginning.
    out : path
        Folder of the run: checkpoint.pt, log.jsonl, settings.json.
    resume : bool
        Go on from the checkpoint in `out`.
    until : (step) -> bool, optional
        Asked before every step; stops the run where it says so.
    on_log : (line of the log) -> None, optional

    Returns
    -------
    SliceDecoder
        With the moving average of the weights.

    Raises
    ------
    InvalidInput
        If there are no cases, or `out` has a checkpoint and `resume` is False, or the reverse.
    """
    # A name with a dot before it is that of a file that is still being written.
    files = sorted(path for path in cases.glob("*.npz") if not path.name.startswith("."))
    if not files:
        raise InvalidInput(
            f"{cases} holds no collected cases.", "Collect some with `decoder_collection.collect`."
        )
    checkpoint = out / "checkpoint.pt"
    if checkpoint.is_file() != resume:
        raise InvalidInput(
            f"{checkpoint} {'exists already' if not resume else 'does not exist'}.",
            "Resume the run that is there, or begin one in another folder.",
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.json").write_text(json.dumps(asdict(settings), indent=1) + "\n", "utf-8")
    trainer = _Trainer(settings, files, out, on_log or (lambda _line: None))
    if resume:
        trainer.restore()
    while trainer.step < settings.steps and not (until is not None and until(trainer.step)):
        trainer.train_step()
    trainer.save()
    return trainer.average


@torch.inference_mode()
def gain_on(decoder: SliceDecoder, cases: Sequence[DecoderCase]) -> Gain:
    """Compare answers with and without the decoder, on the pixels of the slices.

    Raises
    ------
    InvalidInput
        If there are no cases.
    """
    if not cases:
        raise InvalidInput("There are no cases to compare on.", "Collect some first.")
    pairs = []
    for case in cases:
        sample = sample_of(case)
        with _precision():
            change = decoder(sample.maps)
        added = resampled(change.float(), case.truth.shape)[0, 0].numpy()
        answer = case.evidence.answer
        pairs.append((_dice(answer, case), _dice(answer + added, case)))
    before, after = np.mean(pairs, axis=0)
    return Gain(float(before), float(after), len(pairs))


class _Trainer:
    """Decoder, moving average and optimiser."""

    def __init__(
        self,
        settings: TrainDecoderSettings,
        files: Sequence[Path],
        out: Path,
        on_log: Callable[[dict[str, float]], None],
    ) -> None:
        self._settings, self._files, self._out, self._on_log = settings, files, out, on_log
        self.step = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self._decoder = SliceDecoder().to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self._decoder).requires_grad_(False)
        self._optimiser = torch.optim.AdamW(
            self._decoder.parameters(), lr=1.0, weight_decay=settings.weight_decay
        )
        self._read = lru_cache(maxsize=CACHED)(load_cases)
        self._recent: list[tuple[float, float, float]] = []

    def restore(self) -> None:
        """Load the checkpoint."""
        state = torch.load(self._out / "checkpoint.pt", weights_only=True)
        self._decoder.load_state_dict(state["decoder"])
        self.average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.step = int(state["step"])

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "decoder": self._decoder.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "step": self.step,
        }
        path = self._out / "checkpoint.pt"
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def train_step(self) -> None:
        """Learn from the cases of this step."""
        settings = self._settings
        rng = np.random.default_rng([settings.seed, self.step])
        self._optimiser.zero_grad(set_to_none=True)
        self._recent.append(self._learn(self._draw(rng), rng))
        torch.nn.utils.clip_grad_norm_(self._decoder.parameters(), settings.clip_norm)
        for group in self._optimiser.param_groups:
            group["lr"] = settings.learning_rate_at(self.step)
        self._optimiser.step()
        self._update_average()
        self.step += 1
        self._log()
        if self.step % settings.checkpoint_every == 0:
            self.save()

    def _draw(self, rng: np.random.Generator) -> list[DecoderSample]:
        """Draw the cases of a step, all on grids of one side."""
        side = int(rng.choice(self._settings.sides))
        chosen = []
        for _ in range(self._settings.batch):
            cases = self._read(self._files[int(rng.integers(len(self._files)))])
            chosen.append(varied(cases[int(rng.integers(len(cases)))], rng))
        return [sample_of(case, side) for case in chosen]

    def _learn(
        self, samples: list[DecoderSample], rng: np.random.Generator
    ) -> tuple[float, float, float]:
        """Find the gradient; return the loss, and mean Dice before and after the correction."""
        shares = self._settings.further_clicks
        due = rng.choice(len(shares), size=len(samples), p=shares)
        for number in range(1, len(shares)):
            chosen = np.flatnonzero(due >= number)
            for index, clicked in zip(
                chosen, self._clicked([samples[n] for n in chosen]), strict=True
            ):
                samples[index] = clicked
        logits = self._logits(samples)
        truth = torch.cat([s.truth for s in samples])
        loss = mask_loss(logits, truth).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        answers = torch.cat([s.answer for s in samples])
        return float(loss.detach()), _mean_dice(answers, truth), _mean_dice(logits.detach(), truth)

    def _logits(self, samples: Sequence[DecoderSample]) -> torch.Tensor:
        """Corrected logits of samples on grids of one side, (n, 1, row, col) float32."""
        maps = torch.cat([s.maps for s in samples]).to(memory_format=torch.channels_last)
        with _precision():
            change: torch.Tensor = self._decoder(maps)
        return torch.cat([s.answer for s in samples]) + change.float()

    @torch.no_grad()
    def _clicked(self, samples: Sequence[DecoderSample]) -> list[DecoderSample]:
        """Click where the decoder is wrong now; the same samples where it is not."""
        if not samples:
            return []
        found = self._logits(samples)[:, 0].numpy() > 0
        out = []
        for mask, sample in zip(found, samples, strict=True):
            wanted = sample.truth[0, 0].numpy() >= 0.5
            click = next_click(mask, wanted, sample.grid.pixel_rc_mm)
            out.append(
                sample if click is None else sample.clicked(click.place, positive=click.positive)
            )
        return out

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self._settings.ema_decay, (1 + self.step) / (10 + self.step))
        pairs = zip(self.average.parameters(), self._decoder.parameters(), strict=True)
        for average, current in pairs:
            average.lerp_(current, 1 - decay)

    def _log(self) -> None:
        if self.step % self._settings.log_every:
            return
        loss, before, after = (float(x) for x in np.mean(self._recent, axis=0))
        line = {"step": self.step, "loss": loss, "dice_before": before, "dice_after": after}
        with (self._out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({k: round(v, 5) for k, v in line.items()}) + "\n")
        self._recent = []
        self._on_log(line)


def _precision() -> AbstractContextManager[Any]:
    if not has_fast_bfloat16(torch.device("cpu")):
        return nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)


def _dice(logits: np.ndarray[Any, Any], case: DecoderCase) -> float:
    """Dice on the pixels of the slice, the object's part beyond the rectangle counted as missed."""
    found = logits > 0
    total = int(found.sum()) + int(case.truth.sum()) + case.beyond
    return 2 * int((found & case.truth).sum()) / total if total else 1.0


def _mean_dice(logits: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean Dice of thresholded answers (n, 1, row, col)."""
    iou = hard_iou(logits, truth)
    return float((2 * iou / (1 + iou)).mean())
