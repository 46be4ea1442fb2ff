"""How a specialist is taught: patches, teachers, opinions, alarms, checkpoints.

Owns the order of a training whose losses are `mean_teacher`'s. Every draw is a function of seed and
step, and everything else that a step depends on is in the checkpoint, so a run that was stopped and
goes on takes the same steps. Arrays are (c, d, h, w) on the working grid.
"""

from __future__ import annotations

import copy
import math
import pickle
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from protosam.errors import Cancelled, InvalidInput
from protosam.learn.recipe import Checkpoint, OnStep, RecipeProgress
from protosam.learn.unlabelled.alarms import WINDOW, Signs, alarm_of, disagreement
from protosam.learn.unlabelled.generalists import Generalist
from protosam.learn.unlabelled.mean_teacher import (
    MeanTeacherSettings,
    certain_teacher_loss,
    mean_entropy,
    model_loss,
    supervised_loss,
    teacher_loss,
)
from protosam.learn.unlabelled.opinions import Assistance, joined, single
from protosam.learn.unlabelled.ramps import teacher_decay
from protosam.learn.unlabelled.scans import (
    LabelledScan,
    PoolScan,
    classes_of,
    cut,
    drawn_patch,
    varied,
)
from protosam.models.specialist import (
    Specialist,
    build_networks,
    on_own_grid,
    resized_to,
)
from protosam.models.specialist_card import SpecialistCard
from protosam.storage import atomic_path


@dataclass(frozen=True, eq=False)
class Material3D:
    """What a specialist learns from.

    Attributes
    ----------
    card : SpecialistCard
    labelled : sequence of LabelledScan
    pool : sequence of PoolScan
        May be empty where settings use none.
    generalists : sequence of Generalist
    """

    card: SpecialistCard
    labelled: Sequence[LabelledScan]
    pool: Sequence[PoolScan]
    generalists: Sequence[Generalist]


@dataclass(frozen=True, eq=False)
class _Batch:
    """Patches of a step; those of the pool come after the labelled one."""

    images: torch.Tensor  # (b, 1, d, h, w)
    classes: torch.Tensor  # (1, classes, d, h, w), of the labelled one
    target: torch.Tensor | None  # (1, classes, d, h, w), of the pool's
    weight: torch.Tensor | None


def teach_specialist(
    material: Material3D,
    settings: MeanTeacherSettings,
    *,
    checkpoint: Checkpoint,
    on_step: OnStep,
    should_stop: Callable[[], bool],
    device: torch.device,
) -> tuple[Specialist, dict[str, Any]]:
    """Teach a specialist.

    Returns
    -------
    Specialist, dict
        The averages, and what a card says of the training.

    Raises
    ------
    Cancelled
        When `should_stop` said so; a checkpoint was written.
    InvalidInput
        When there is nothing to learn from, or the loss is no longer a number.
    StorageFailure
        When a checkpoint cannot be written.
    """
    run = SpecialistRunner(material, settings, checkpoint, device)
    run.restore()
    begun, first = time.monotonic(), run.step
    while run.step < settings.steps:
        if should_stop():
            run.save()
            raise Cancelled(
                f"Stopped at step {run.step} of {settings.steps}.",
                "The same command goes on from there.",
            )
        loss = run.take_step()
        left = (time.monotonic() - begun) / (run.step - first) * (settings.steps - run.step)
        on_step(RecipeProgress(run.step, settings.steps, loss, left))
        if run.step % settings.checkpoint_every == 0:
            run.save()
    run.save()
    return Specialist(material.card, run.teachers, device), run.report()


class SpecialistRunner:
    """A training in the middle of its steps.

    Attributes
    ----------
    students, teachers : list of nn.Module
    step : int
    alarm : str or None
        Why images without labels were left out.
    """

    def __init__(
        self,
        material: Material3D,
        settings: MeanTeacherSettings,
        checkpoint: Checkpoint,
        device: torch.device,
    ) -> None:
        if not material.labelled or (settings.uses_pool and not material.pool):
            raise InvalidInput(
                f"{len(material.labelled)} finished cases and {len(material.pool)} images without "
                "labels are not enough for a specialist.",
                "Give at least one of each.",
            )
        self._material, self._settings, self._checkpoint = material, settings, checkpoint
        self._device = device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.students = [net.to(device).train() for net in build_networks(material.card)]
        self.teachers = [copy.deepcopy(net).eval().requires_grad_(False) for net in self.students]
        own = [p for net in self.students for p in net.parameters()]
        self._optimiser = torch.optim.AdamW(own, lr=1.0, weight_decay=1e-4)
        self._assistance: list[Assistance | None] = [None] * len(material.pool)
        self.step = 0
        self.losses: list[float] = []
        self._dice: list[float] = []
        self._was_well = False
        self.alarm: str | None = None

    def take_step(self) -> float:
        """Learn from one batch; returns the loss."""
        if self._asks_pool and self.step in self._settings.refresh_steps:
            self._refresh()
        rng = np.random.default_rng([self._settings.seed, 51, self.step])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            parts = self.loss_parts(self._batch(rng))
            total = torch.stack(list(parts.values())).sum()
            self._optimiser.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
        if not math.isfinite(total.item()):
            raise InvalidInput(
                f"The loss of step {self.step} is {total.item()}: the run has lost its way.",
                "Look for odd values in the images, or lower the learning rate.",
            )
        nn.utils.clip_grad_norm_([p for n in self.students for p in n.parameters()], 5.0)
        for group in self._optimiser.param_groups:
            group["lr"] = self._settings.learning_rate_at(self.step)
        self._optimiser.step()
        self._follow()
        self.step += 1
        self.losses.append(total.item())
        return self.losses[-1]

    def loss_parts(self, batch: _Batch) -> dict[str, torch.Tensor]:
        """Weighted terms of the loss, by name; those that are off are left out."""
        settings = self._settings
        parts: dict[str, torch.Tensor] = {}
        for number, (student, teacher) in enumerate(zip(self.students, self.teachers, strict=True)):
            logits = student(batch.images)  # (b, classes, d, h, w)
            parts[f"labels {number}"] = supervised_loss(logits[:1], batch.classes)
            if len(batch.images) == 1:
                continue
            said = torch.softmax(logits, dim=1)
            consistency, assistance = settings.weights_at(self.step)
            if consistency > 0:
                own = self._teacher_term(teacher, batch.images, said)
                parts[f"teacher {number}"] = consistency * own
            if batch.target is not None and batch.weight is not None and assistance > 0:
                helped = model_loss(said[1:], batch.target, batch.weight)
                parts[f"model {number}"] = assistance * helped
        return parts

    def restore(self) -> None:
        """Go on from a checkpoint of this very run; one of another run is left aside."""
        path = self._checkpoint.file
        if not path.is_file():
            return
        damaged = InvalidInput(f"The checkpoint {path} is damaged.", "Delete it to begin anew.")
        if not zipfile.is_zipfile(path):
            raise damaged
        try:
            state = torch.load(path, weights_only=True, map_location=self._device)
        except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            raise damaged from error
        if state["fingerprint"] != self._checkpoint.fingerprint:
            return
        for nets, name in ((self.students, "students"), (self.teachers, "teachers")):
            for net, values in zip(nets, state[name], strict=True):
                net.load_state_dict(values)
        self._optimiser.load_state_dict(state["optimiser"])
        self._assistance = [
            None if told is None else Assistance(*(one.cpu() for one in told))
            for told in state["assistance"]
        ]
        self.step, self.losses = int(state["step"]), list(state["losses"])
        self._dice, self.alarm = list(state["dice"]), state["alarm"]
        self._was_well = bool(state["was_well"])

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "fingerprint": self._checkpoint.fingerprint,
            "students": [net.state_dict() for net in self.students],
            "teachers": [net.state_dict() for net in self.teachers],
            "optimiser": self._optimiser.state_dict(),
            "assistance": [None if a is None else [a.target, a.weight] for a in self._assistance],
            "step": self.step,
            "losses": self.losses,
            "dice": self._dice,
            "alarm": self.alarm,
            "was_well": self._was_well,
        }
        with atomic_path(self._checkpoint.file) as temporary:
            torch.save(state, temporary)

    def report(self) -> dict[str, Any]:
        """Facts of the training, for a card."""
        last = self.losses[-max(1, len(self.losses) // 10) :]
        return {
            "steps": len(self.losses),
            "loss_first": round(self.losses[0], 4),
            "loss_last": round(float(np.mean(last)), 4),
            "images": len(self._material.pool),
            "helped": sum(one is not None for one in self._assistance),
            "alarm": self.alarm or "",
        }

    @property
    def _asks_pool(self) -> bool:
        return self._settings.uses_pool and self.alarm is None

    def _teacher_term(
        self, teacher: nn.Module, images: torch.Tensor, said: torch.Tensor
    ) -> torch.Tensor:
        settings = self._settings
        if not settings.plus:
            known = self._taught(teacher, images)
            self._compare(said[1:], known[1:])
            return teacher_loss(said, known)
        passes = [self._taught(teacher, images[1:]) for _ in range(settings.passes)]
        mean = torch.stack(passes).mean(dim=0)
        self._compare(said[1:], mean)
        done = self.step / settings.steps
        return certain_teacher_loss(said[1:], passes[0], mean_entropy(mean), done)

    @torch.no_grad()
    def _taught(self, teacher: nn.Module, images: torch.Tensor) -> torch.Tensor:
        most = 2 * self._settings.noise
        noise = (self._settings.noise * torch.randn_like(images)).clamp(-most, most)
        return torch.softmax(teacher(images + noise), dim=1)

    @torch.no_grad()
    def _compare(self, student: torch.Tensor, teacher: torch.Tensor) -> None:
        one, other = student.argmax(dim=1) > 0, teacher.argmax(dim=1) > 0
        total = int(one.sum() + other.sum())
        dice = 2 * int((one & other).sum()) / total if total else 1.0
        self._dice = [*self._dice, dice][-WINDOW:]
        # Both begin as noise: that they differ before the first look at the pool says nothing.
        if self._was_well and self.alarm is None:
            self.alarm = disagreement(self._dice)

    @torch.no_grad()
    def _follow(self) -> None:
        decay = teacher_decay(self.step, self._settings.decay)
        for student, teacher in zip(self.students, self.teachers, strict=True):
            for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                mine.lerp_(theirs, 1 - decay)
            for own, given in zip(teacher.buffers(), student.buffers(), strict=True):
                own.copy_(given)

    def _batch(self, rng: np.random.Generator) -> _Batch:
        card, sides = self._material.card, self._material.card.patch
        scan = self._material.labelled[int(rng.integers(len(self._material.labelled)))]
        place = drawn_patch(scan.image.shape[1:], card, rng, scan.objects.amax(dim=0))
        images = [varied(cut(scan.image, place, sides, beyond="border"), rng)]
        classes = classes_of(cut(scan.objects, place, sides, beyond="zeros"))[None]
        target = weight = None
        if self._asks_pool:
            number = int(rng.integers(len(self._material.pool)))
            other = self._material.pool[number].image
            place = drawn_patch(other.shape[1:], card, rng)
            images.append(varied(cut(other, place, sides, beyond="border"), rng))
            told = self._assistance[number]
            if told is not None:
                shares = classes_of(cut(told.target.float(), place, sides, beyond="zeros"))
                target = shares[None].to(self._device)
                counted = cut(told.weight.float(), place, sides, beyond="zeros")
                weight = counted[None].to(self._device)
        return _Batch(
            torch.stack(images).to(self._device), classes.to(self._device), target, weight
        )

    def _refresh(self) -> None:
        """Look at the whole pool: whether all is well, and what the frozen model says."""
        together = Specialist(self._material.card, self.teachers, self._device)
        said = [together.probabilities(scan.image).cpu() for scan in self._material.pool]
        alarm = alarm_of(self._signs(said))
        is_last = self.step == self._settings.refresh_steps[-1]
        if alarm is not None:
            # A young network may have found nothing yet; one that had is running away.
            self.alarm = alarm if self._was_well or is_last else None
            return
        self._was_well = True
        if self._settings.helped:
            self._assistance = [
                self._helped(scan, answer)
                for scan, answer in zip(self._material.pool, said, strict=True)
            ]

    def _signs(self, said: Sequence[torch.Tensor]) -> Signs:
        inside = float(np.mean([float((p.argmax(dim=0) > 0).float().mean()) for p in said]))
        true = [
            float((s.objects.amax(dim=0) > 0.5).float().mean()) for s in self._material.labelled
        ]
        # Per class, so that the limit for yes or no holds for several objects as well.
        most = math.log(self._material.card.classes) / math.log(2)
        entropies = [float(mean_entropy(p[None]).mean()) / most for p in said]
        return Signs(
            inside, float(np.mean(true)), float(np.mean(entropies)), 1.0, inside, 1 - inside
        )

    def _helped(self, scan: PoolScan, said: torch.Tensor) -> Assistance | None:
        """Ask the generalists about one image; None where there is nothing to prompt them by."""
        targets, weights = [], []
        for label in range(1, self._material.card.classes):
            own = on_own_grid(said[label : label + 1], scan.volume.shape_kji)[0].numpy()
            opinions = [
                _on_grid(torch.from_numpy(opinion), said.shape[1:])
                for generalist in self._material.generalists
                for opinion in generalist.opinions(scan.volume, own)
            ]
            if not opinions:
                return None
            plus = self._settings.plus
            target, weight = joined(opinions, said[label]) if plus else single(opinions[0])
            targets.append(target)
            weights.append(weight)
        least = torch.stack(weights).amin(dim=0, keepdim=True)
        return Assistance(torch.stack(targets).half(), least.half())


def _on_grid(opinion: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Bring an opinion to the working grid; NaN where most of a voxel was not asked for."""
    asked = opinion.isfinite()
    both = torch.stack([torch.where(asked, opinion, torch.zeros(())), asked.float()])
    told, share = resized_to(both, shape)
    return torch.where(share > 0.5, told / share.clamp_min(1e-6), torch.full((), math.nan))
