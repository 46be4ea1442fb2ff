"""The recipe by which a model learns from a few corrected cases, top to bottom.

Owns the tiers ``decoder`` (LoRA in the mask decoder and the encoder's last blocks, over kept
features of the frozen ones; minutes on a CPU) and ``full`` (in the decoder and all blocks). In the
encoder's attention alone LoRA changes next to nothing. The base's weights stay as they are. What is
kept is the moving average of the adapter, and of nothing else, at a part of its strength. Every
draw is a function of seed and step: a run that was stopped and goes on takes the same steps. The
third tier, ``shift``, is `learn.shift`. Speaks no coordinates.

Source of LoRA on SAM's encoder: Zhang and Liu 2023, arXiv:2304.13785; of the method: Hu et al.
2021, arXiv:2106.09685.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from protosam.errors import Cancelled, InvalidInput, ProtoSAMError
from protosam.learn.fronts import front_of
from protosam.learn.lessons import Asker, Lesson
from protosam.learn.pupils import pupil_of
from protosam.learn.recipe_settings import RecipeSettings
from protosam.models.lora import inject_lora, lora_parameters, scale_lora, unload_lora
from protosam.models.predictor import SamSliceModel
from protosam.models.slice_model import SliceModel
from protosam.models.tiny_predictor import TinySliceModel
from protosam.storage import atomic_path

STATE = "state.pt"
"""File of a run that goes on where it was stopped."""


@dataclass(frozen=True)
class RecipeProgress:
    """What a caller can show after a step."""

    step: int
    steps: int
    loss: float
    """Mean of the step's questions."""
    seconds_left: float
    """At the pace of this run so far."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a run can go on from."""

    file: Path
    """In a folder that exists."""
    fingerprint: str
    """Of everything that decides the run; a checkpoint of another run is left aside."""


@dataclass(frozen=True)
class Taught:
    """What a run has done; the adapter is in the network."""

    losses: tuple[float, ...]
    """Of every step, those before a stop included."""
    seconds: float
    """Of this run; without what was done before a stop."""


OnStep = Callable[[RecipeProgress], None]


class UnlabelledTerm(Protocol):
    """What a run learns from images without labels, beside its lessons."""

    def loss(self, step: int, average: Sequence[torch.Tensor]) -> torch.Tensor | None:
        """Weighted loss of a step; None where nothing teaches.

        Parameters
        ----------
        step : int
            From 0.
        average : sequence of tensors
            Moving average of the adapter, in the order of `lora_parameters`: the teacher.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Everything that the next steps depend on, for a checkpoint."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        ...


def teach(  # noqa: PLR0913 - five of them are what a run is; the term is not in every run
    model: SliceModel,
    lessons: Sequence[Lesson],
    settings: RecipeSettings,
    *,
    checkpoint: Checkpoint,
    on_step: OnStep,
    should_stop: Callable[[], bool],
    term: UnlabelledTerm | None = None,
) -> Taught:
    """Put an adapter into a model's encoder and teach it.

    Parameters
    ----------
    model : SliceModel
        With an adapter from `with_adapter` in it; nothing else of it changes.
    lessons : sequence of Lesson
        Made with `front_of(model, settings.blocks)`.
    settings : RecipeSettings
    checkpoint : Checkpoint
        Gone on with if it is there.
    on_step : (RecipeProgress) -> None
    should_stop : () -> bool
        Asked before every step.
    term : UnlabelledTerm, optional
        What is learnt beside the lessons.

    Raises
    ------
    Cancelled
        When `should_stop` said so; a checkpoint was written.
    InvalidInput
        When there is no lesson, or the loss is no longer a number.
    StorageFailure
        When a checkpoint cannot be written.
    """
    if not lessons:
        raise InvalidInput("There is no lesson to learn from.", "Give cases with an object.")
    student = _Student(model, settings, checkpoint, term)
    student.restore()
    begun, first = time.monotonic(), student.step
    while student.step < settings.planned:
        if should_stop():
            student.save()
            raise Cancelled(
                f"Stopped at step {student.step} of {settings.planned}.",
                "The same command goes on from there.",
            )
        loss = student.take_step(lessons)
        done = student.step - first
        left = (time.monotonic() - begun) / done * (settings.planned - student.step)
        on_step(RecipeProgress(student.step, settings.planned, loss, left))
        if student.step % settings.checkpoint_every == 0:
            student.save()
    student.save()
    student.show_average()
    scale_lora(network_of(model), settings.strength)
    return Taught(tuple(student.losses), time.monotonic() - begun)


def with_adapter(model: SliceModel, settings: RecipeSettings) -> None:
    """Put an untaught adapter into the blocks that learn; it changes no answer yet.

    Raises
    ------
    InvalidInput
        When the model cannot be adapted or has an adapter.
    """
    network = network_of(model)
    rear = front_of(model, settings.blocks).rear
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network.requires_grad_(False)
        inject_lora(
            network, rank=settings.rank, alpha=settings.alpha, blocks=rear, parts=settings.parts
        )
    network.to(model.device)


def without_adapter(model: SliceModel) -> None:
    """Take the adapter out; the model is what it was, bit for bit."""
    unload_lora(network_of(model)).requires_grad_(False)


def network_of(model: SliceModel) -> torch.nn.Module:
    """Network of a model that can be taught.

    Raises
    ------
    InvalidInput
        When the model is of another family.
    """
    if isinstance(model, TinySliceModel | SamSliceModel):
        network: torch.nn.Module = model.network
        return network
    raise InvalidInput(
        f"{model.name} cannot be adapted ({type(model).__name__}).",
        "Choose the built-in model or one of the SAM family.",
    )


class _Student:
    """An adapter, its moving average and its optimiser."""

    def __init__(
        self,
        model: SliceModel,
        settings: RecipeSettings,
        checkpoint: Checkpoint,
        term: UnlabelledTerm | None,
    ) -> None:
        self._settings, self._checkpoint, self._term = settings, checkpoint, term
        self._parameters = lora_parameters(network_of(model))
        if not self._parameters:
            raise InvalidInput("The model has no adapter to teach.", "Call with_adapter first.")
        self._asker = Asker(pupil_of(model), front_of(model, settings.blocks))
        for parameter in self._parameters:  # the lesson form of SAM freezes its network
            parameter.requires_grad_(True)
        self._average = [p.detach().clone() for p in self._parameters]
        self._optimiser = torch.optim.AdamW(
            self._parameters, lr=1.0, weight_decay=settings.weight_decay
        )
        self.step = 0
        self.losses: list[float] = []

    def restore(self) -> None:
        """Go on from a checkpoint of this very run; one of another run is left aside."""
        if not self._checkpoint.file.is_file():
            return
        damaged = InvalidInput(
            f"The checkpoint {self._checkpoint.file} is damaged.", "Delete it to begin anew."
        )
        if not zipfile.is_zipfile(self._checkpoint.file):
            raise damaged
        try:
            state = torch.load(self._checkpoint.file, weights_only=True, map_location="cpu")
        except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            raise damaged from error
        if state["fingerprint"] != self._checkpoint.fingerprint:
            return
        with torch.no_grad():
            for parameter, value in zip(self._parameters, state["adapter"], strict=True):
                parameter.copy_(value)
            for average, value in zip(self._average, state["average"], strict=True):
                average.copy_(value)
        self._optimiser.load_state_dict(state["optimiser"])
        self.step, self.losses = int(state["step"]), list(state["losses"])
        if self._term is not None:
            self._term.restore(state["term"])

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state: dict[str, Any] = {
            "fingerprint": self._checkpoint.fingerprint,
            "settings": dataclasses.asdict(self._settings),
            "step": self.step,
            "losses": self.losses,
            "adapter": [p.detach().cpu() for p in self._parameters],
            "average": [a.cpu() for a in self._average],
            "optimiser": self._optimiser.state_dict(),
            "term": None if self._term is None else self._term.state(),
        }
        with atomic_path(self._checkpoint.file) as temporary:
            torch.save(state, temporary)

    def take_step(self, lessons: Sequence[Lesson]) -> float:
        """Ask the questions of a step and learn from them; returns their mean loss."""
        settings = self._settings
        rng = np.random.default_rng([settings.seed, 22, self.step])
        self._optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for _ in range(settings.batch):
            loss = self._asker.loss(lessons[int(rng.integers(len(lessons)))], rng)
            (loss / settings.batch).backward()  # type: ignore[no-untyped-call]
            total += loss.item() / settings.batch
        total += self._learn_unlabelled()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, settings.clip_norm)
        if not (math.isfinite(total) and bool(torch.isfinite(norm))):
            raise _lost(self.step, total)
        for group in self._optimiser.param_groups:
            group["lr"] = settings.learning_rate_at(self.step)
        self._optimiser.step()
        self.step += 1
        self.losses.append(total)
        self._update_average()
        return total

    def _learn_unlabelled(self) -> float:
        loss = None if self._term is None else self._term.loss(self.step, self._average)
        if loss is None:
            return 0.0
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self._settings.average, self.step / (10 + self.step))
        for average, current in zip(self._average, self._parameters, strict=True):
            average.lerp_(current.detach(), 1 - decay)

    @torch.no_grad()
    def show_average(self) -> None:
        """Put the moving average into the network."""
        for parameter, average in zip(self._parameters, self._average, strict=True):
            parameter.copy_(average)


def _lost(step: int, loss: float) -> ProtoSAMError:
    return InvalidInput(
        f"The loss of step {step} is {loss}: the run has lost its way.",
        "Look for odd values in the cases, or lower the learning rate.",
    )
