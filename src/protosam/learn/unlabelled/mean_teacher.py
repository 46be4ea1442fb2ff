"""SemiSAM and SemiSAM+: small networks, their averages as teachers, and the frozen model's help.

Owns settings and losses. Sources: SemiSAM (Zhang et al. 2024, arXiv 2312.06316), SemiSAM+ (Zhang et
al. 2025, arXiv 2502.20749), mean teacher (arXiv 1703.01780), uncertainty-aware mean teacher (Yu et
al. 2019, arXiv 1907.07034). The total is

    L = L_sup + c r(t) L_teacher + a r(1 - t) L_model,   r(x) = exp(-5 (1 - x)^2),

t going from 0 to 1: the model helps at the beginning, when the network knows little, and the
network's own average takes over. What the released programs do otherwise, and is not done here:
they take the model's prompts from the labels of "unlabelled" images, give clicks inside the object
the negative sign, and divide the model's term by itself, which leaves no gradient of it.

Shapes are (b, classes, d, h, w); the background is the first class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from protosam.errors import InvalidInput
from protosam.learn.unlabelled.ramps import gaussian_ramp

UNCERTAIN_FIRST = 0.75
"""Part of the largest entropy up to which a voxel counts at the beginning; all of it at the end."""


@dataclass(frozen=True)
class MeanTeacherSettings:
    """What decides a specialist, apart from cases and images."""

    networks: tuple[str, ...] = ("unet",)
    """Keys of `models.specialist.NETWORKS`; several are taught side by side and answer together."""
    generalists: tuple[str, ...] = ("slices",)
    """Keys of `generalists.GENERALISTS`; none leaves the plain mean teacher."""
    plus: bool = False
    """SemiSAM+: uncertainties weigh the teacher's and the model's voxels."""
    consistency: float = 0.1
    """Largest weight of the teacher's term (c)."""
    assistance: float = 0.05
    """Largest weight of the model's term (a)."""
    steps: int = 300
    """Optimiser steps, each with a labelled patch and, while images help, one of the pool."""
    learning_rate: float = 3e-3
    """Peak of AdamW; it falls along a cosine."""
    decay: float = 0.99
    """Of the teachers' averages, see `ramps.teacher_decay`."""
    noise: float = 0.1
    """Deviation of the teacher's noise, cut at twice of it."""
    passes: int = 4
    """Noisy passes from which `plus` tells the teacher's uncertainty."""
    begin: float = 0.2
    """Part of the steps after which the model is asked first."""
    refreshes: int = 2
    """How often it is asked; never in every step."""
    checkpoint_every: int = 25
    """Steps between checkpoints."""
    seed: int = 0
    """Decides weights, patches and noise."""

    def __post_init__(self) -> None:
        counts = (self.steps, self.passes, self.refreshes, self.checkpoint_every)
        if min(counts) < 1 or self.seed < 0 or not self.networks:
            raise InvalidInput(
                f"A specialist cannot be taught with these settings: {self}.",
                "Counts are 1 or more, the seed 0 or more, and one network is needed.",
            )
        weights = (self.consistency, self.assistance, self.noise)
        if not all(math.isfinite(w) and w >= 0 for w in weights) or not self.learning_rate > 0:
            raise InvalidInput(f"A specialist cannot be taught with these weights: {self}.")
        if not (0 <= self.decay < 1 and 0 <= self.begin < 1):
            raise InvalidInput("The decay and the beginning are from 0 to below 1.")

    @property
    def uses_pool(self) -> bool:
        """Whether images without labels are looked at."""
        return self.consistency > 0 or self.helped

    @property
    def helped(self) -> bool:
        """Whether the frozen model is asked."""
        return self.assistance > 0 and bool(self.generalists)

    @property
    def refresh_steps(self) -> list[int]:
        """Steps in which the model is asked."""
        if not self.uses_pool:
            return []
        first = math.ceil(self.begin * self.steps)
        rest = self.steps - first
        return sorted({first + n * rest // self.refreshes for n in range(self.refreshes)})

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        rising = min(1.0, (step + 1) / max(1, self.steps // 20))
        return self.learning_rate * rising * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def weights_at(self, step: int) -> tuple[float, float]:
        """Weights of the teacher's and of the model's term in a step."""
        done = step / self.steps
        return (
            self.consistency * gaussian_ramp(done),
            self.assistance * gaussian_ramp(1 - done),
        )


PRESETS: dict[str, MeanTeacherSettings] = {
    "semisam": MeanTeacherSettings(),
    "semisam-plus": MeanTeacherSettings(plus=True, generalists=("slices", "volume")),
}
"""Settings of the methods that leave a specialist."""


def supervised_loss(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Half cross-entropy, half Dice of the objects, against shares of classes."""
    entropy = -(classes * F.log_softmax(logits, dim=1)).sum(dim=1).mean()
    probability = torch.softmax(logits, dim=1)[:, 1:]
    wanted = classes[:, 1:]
    axes = (0, 2, 3, 4)
    overlap = (probability * wanted).sum(dim=axes)
    sizes = (probability**2).sum(dim=axes) + (wanted**2).sum(dim=axes)
    dice = 1 - (2 * overlap + 1e-5) / (sizes + 1e-5)
    return 0.5 * (entropy + dice.mean())


def teacher_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of probabilities (mean teacher)."""
    return ((student - teacher.detach()) ** 2).mean()


def certain_teacher_loss(
    student: torch.Tensor, teacher: torch.Tensor, uncertainty: torch.Tensor, done: float
) -> torch.Tensor:
    """Mean squared difference where the teacher is certain (UA-MT).

    Parameters
    ----------
    student, teacher : (b, classes, d, h, w) tensor
        Probabilities.
    uncertainty : (b, d, h, w) tensor
        Entropy of the teacher's mean answer, in nats.
    done : float
        Part of the training that is over: the limit rises from 0.75 to 1 of ln(classes).
    """
    classes = student.shape[1]
    limit = (UNCERTAIN_FIRST + (1 - UNCERTAIN_FIRST) * gaussian_ramp(done)) * math.log(classes)
    certain = (uncertainty < limit).to(student)
    apart = ((student - teacher.detach()) ** 2).sum(dim=1)
    return (certain * apart).sum() / (classes * certain.sum() + 1e-8)


def model_loss(student: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted mean squared difference from what the frozen model says.

    Divided by the weights and by nothing that the student computes.

    Parameters
    ----------
    student : (b, classes, d, h, w) tensor
        Probabilities.
    target : (b, classes, d, h, w) tensor
    weight : (b, 1, d, h, w) tensor
        Without gradient.
    """
    apart = ((student - target.detach()) ** 2).mean(dim=1, keepdim=True)
    return (weight * apart).sum() / weight.sum().clamp_min(1e-8)


def mean_entropy(probability: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of probabilities (b, classes, ...), (b, ...)."""
    return -(probability * torch.log(probability.clamp_min(1e-6))).sum(dim=1)
