"""Settings of the training of the built-in model, one documented field each."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from protosam.errors import InvalidInput

DEVICES = ("cpu", "cuda")
"""Where the network can be computed in training."""


def _default_mix() -> dict[str, float]:
    return {
        "btcv_abdomen_ct": 0.36,
        "openkbp_headneck_ct": 0.13,
        "hippocampus_msd": 0.13,
        "sunnybrook_2d": 0.05,
        "procedural": 0.33,
    }


@dataclass(frozen=True)
class TrainBaseSettings:
    """What decides the result of `protosam train-base`, apart from the images themselves."""

    steps: int = 20_000
    """Optimiser steps."""
    decay_steps: int = 4_000
    """Last steps, over which the learning rate falls linearly to nothing."""
    seed: int = 0
    """Seed of initial weights, samples and simulated clicks; step and process are mixed in."""
    device: str = "cpu"
    """Where the network is computed: "cpu" or "cuda"; several processes may share one GPU."""
    processes: int = 2
    """Processes with one thread each; gradients are averaged over them at each step."""
    loaders: int = 0
    """Further processes beside each of them that draw its samples; 0 = it draws its own."""
    batch: int = 4
    """Samples in a batch of each process at 128 px; as many pixels at other frames."""
    objects: int = 3
    """Objects prompted in each sample."""
    stages: tuple[tuple[float, dict[str, float]], ...] = (
        (0.25, {"96": 1.0}),
        (0.6, {"96": 0.3, "128": 0.4, "192": 0.2, "256": 0.1}),
        (1.0, {"128": 0.5, "192": 0.25, "256": 0.25}),
    )
    """Frame sides in pixels with their shares, each stage until a fraction of the steps."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.02
    """Weight decay of AdamW."""
    warmup_steps: int = 300
    """First steps, over which the learning rate rises linearly."""
    ema_decay: float = 0.998
    """Decay of the exponential moving average of the weights, which is what is shipped."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    procedural_volumes: int = 160
    """Number of volumes of procedural shapes."""
    mix: dict[str, float] = field(default_factory=_default_mix)
    """Share of the samples from each source; sources that are absent are left out."""
    held_out: int = 2
    """Training cases of each 3-D source that are never trained on, for choosing settings."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    log_every: int = 20
    """Steps between lines of the log, each of which has the means since the line before it."""

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.decay_steps <= self.steps:
            raise InvalidInput(
                f"Training needs at least one step and no more decay steps than steps; "
                f"got steps={self.steps}, decay_steps={self.decay_steps}.",
                "Lower --decay-steps or raise --steps.",
            )
        sides = [int(side) for _, shares in self.stages for side in shares]
        if not sides or any(side <= 0 or side % 16 for side in sides) or self.stages[-1][0] < 1:
            raise InvalidInput(
                f"Frame sides must be multiples of 16 and the stages reach 1.0; got {self.stages}.",
                "Choose for example 128 and 256.",
            )
        if self.device not in DEVICES:
            raise InvalidInput(
                f"Training runs on {' or '.join(DEVICES)}; got device={self.device!r}.",
                "Give one of them.",
            )
        if min(self.processes, self.batch, self.objects) < 1 or self.loaders < 0:
            raise InvalidInput(
                "Training needs at least one process, one sample and one object a batch, and no "
                "fewer than no loaders.",
                "Raise the setting that is too low.",
            )
        if min(self.checkpoint_every, self.log_every) < 1:
            raise InvalidInput(
                "Checkpoints and lines of the log are at least one step apart; got "
                f"checkpoint_every={self.checkpoint_every}, log_every={self.log_every}.",
                "Raise the setting that is below 1.",
            )

    def sides_at(self, step: int) -> dict[str, float]:
        """Frame sides of a step with their shares."""
        return next(shares for until, shares in self.stages if step < until * self.steps)

    def batch_at(self, side: int) -> int:
        """Count the samples in a batch of frames of `side` pixels: as many pixels for any side."""
        return max(1, round(self.batch * 128**2 / side**2))

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, constant, linear decay (WSD schedule)."""
        rising = min(1.0, (step + 1) / max(1, self.warmup_steps))
        left = self.steps - step
        falling = 1.0 if left > self.decay_steps else left / max(1, self.decay_steps)
        return self.learning_rate * rising * falling

    def to_json(self) -> str:
        """Serialise, in the order given: draws depend on the order of `mix` and of shares."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> TrainBaseSettings:
        """Inverse of `to_json`; what is left out has its default.

        Raises
        ------
        InvalidInput
            If the text is not a JSON object, names an unknown setting, has stages of another
            form than `stages`, or holds values that no training can have.
        """
        values = _json_object(text)
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InvalidInput(
                f"Unknown training settings: {', '.join(unknown)}.", "Remove them from the file."
            )
        if "stages" in values:
            values["stages"] = _stages(values["stages"])
        try:
            return cls(**values)
        except (TypeError, AttributeError) as error:
            raise InvalidInput(
                f"A training setting has a value of the wrong type: {error}.",
                "Compare the file with the settings.json of a run.",
            ) from error


def _json_object(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InvalidInput(
            f"The training settings are not JSON: {error}.", "Give the settings.json of a run."
        ) from error
    if not isinstance(values, dict):
        raise InvalidInput(
            f"The training settings are a {type(values).__name__}; wanted is a JSON object.",
            "Give the settings.json of a run.",
        )
    return values


def _stages(given: object) -> tuple[tuple[float, dict[str, float]], ...]:
    """JSON has lists only: make each [until, shares] a tuple again."""
    try:
        return tuple(
            (float(until), {str(int(side)): float(share) for side, share in shares.items()})
            for until, shares in given  # type: ignore[attr-defined]
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"Stages are pairs of a fraction and shares of frame sides; got {given!r}.",
            'Write for example [[0.5, {"96": 1}], [1, {"128": 1}]].',
        ) from error
