"""What each strategy takes from a teacher's answers, and how it asks the student.

Owns the three that teach the adapter. Each makes targets (which pixels teach what) of answers, asks
the student in views of its own, and has its own loss. Ramps, refreshing and alarms are `term`'s.

* ``ema``: pixels of 0.95 or 0.05, in steady slices of continuous objects of a likely size, the half
  of them on which two opinions agree most; two views by complementary channel dropout (UniMatch
  V2, arXiv 2410.10777; FixMatch, arXiv 2001.07685; LoRA with an average as teacher: SynFoC,
  CVPR 2025; the half: MuDuo).
* ``protosam``: pixels on which decoder and prototypes agree, away from edges (`learn.pseudo`).
* ``sss``: the slices of the best window (`prompting.continuity`); two views of strongly changed
  pictures, and a third of both joined (`enhance`). SSS itself asks for no confidence; 0.95 is
  asked for here, because without it a wrong answer teaches as much as a right one.

Coordinates are (row, col) of a slice's rectangle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from protosam.learn.pseudo import PseudoLabels, PseudoSettings, gated_labels, pseudo_loss
from protosam.learn.unlabelled.enhance import FeatureEnhancement, enhanced
from protosam.learn.unlabelled.seen import MIN_PIXELS, SeenSlice
from protosam.learn.unlabelled.teacher import Answer, Teacher
from protosam.learn.unlabelled.views import dropped_pair, features_of, strongly_changed
from protosam.models.bank_tokens import bank_of_slices, memberships_on
from protosam.models.prototype_bank import PrototypeBank
from protosam.models.slice_model import SliceEmbedding
from protosam.models.token_grid import NeckTokens
from protosam.prompting.continuity import CONTINUOUS, best_window, share_of_bodies, steady_slices

BoolArray = npt.NDArray[np.bool_]
Float32Array = npt.NDArray[np.float32]

CONFIDENT = 0.95
"""Probability from which a pixel teaches the object; 1 - CONFIDENT its absence."""

KEPT = 0.5
"""Share of the slices that teach, those of the most agreement and continuity."""

LIKELY_SIZE = (0.4, 2.5)
"""Mean area of an object's slices, in multiples of the smallest and of the largest labelled one."""


@dataclass(frozen=True, eq=False)
class Target:
    """What a slice of the pool teaches.

    Attributes
    ----------
    number : int
        Of the slice.
    mask, weight : (H, W) bool
        The object, and the pixels that teach.
    """

    number: int
    mask: BoolArray
    weight: BoolArray


@dataclass(frozen=True, eq=False)
class Seen:
    """Everything that targets are made of.

    Attributes
    ----------
    answers : sequence of Answer
        Of all slices of the pool, in their order.
    labelled : sequence of (SeenSlice, NeckTokens)
        Labelled slices with the teacher's features.
    areas_mm2 : label -> (float, float)
        Smallest and largest mean area of a labelled object's slices.
    done : float
        Part of the term's time that is over, 0..1.
    """

    answers: Sequence[Answer]
    labelled: Sequence[tuple[SeenSlice, NeckTokens]]
    areas_mm2: dict[int, tuple[float, float]]
    done: float


class Way(Protocol):
    """One strategy."""

    wants_tokens: bool

    def targets(self, seen: Seen) -> list[Target]:
        """Choose what teaches."""
        ...

    def views(
        self, teacher: Teacher, seen: SeenSlice, rng: np.random.Generator
    ) -> list[SliceEmbedding]:
        """Make the views in which the student is asked; gradients reach the adapter."""
        ...

    def loss(
        self, logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """Loss of logits (m, h, w) against a target (h, w), where `weight` (h, w) is 1."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what the next steps depend on."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        ...


class EmaWay:
    """The default; see the module."""

    wants_tokens = False

    def targets(self, seen: Seen) -> list[Target]:
        """Choose what teaches; see `Way.targets`."""
        ranked: list[tuple[float, Target]] = []
        for group in by_group(seen.answers):
            mask = np.stack([one.probability > 0.5 for one in group])
            whole = share_of_bodies(mask)
            if whole < CONTINUOUS or not is_likely_size(group, seen.areas_mm2):
                continue
            steady = steady_slices(mask)
            ranked += [
                (whole * one.agreement, confident_target(one))
                for place, one in enumerate(group)
                if steady[place] and mask[place].sum() >= MIN_PIXELS
            ]
        ranked.sort(key=lambda pair: (-pair[0], pair[1].number))
        return [target for _, target in ranked[: int(np.ceil(KEPT * len(ranked)))]]

    def views(
        self, teacher: Teacher, seen: SeenSlice, rng: np.random.Generator
    ) -> list[SliceEmbedding]:
        """Two views by complementary channel dropout; see `Way.views`."""
        return list(dropped_pair(teacher.front.finish(seen.begun), rng))

    def loss(
        self, logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """Loss that falls with the share of pixels that teach; see `Way.loss`."""
        return confident_loss(logits, target, weight)

    def state(self) -> dict[str, Any]:
        """Nothing is kept."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing was kept."""


class ProtosamWay(EmaWay):
    """Decoder and prototypes have to agree; see the module."""

    wants_tokens = True

    def __init__(self) -> None:
        self._settings = PseudoSettings()

    def targets(self, seen: Seen) -> list[Target]:
        """Choose what teaches; see `Way.targets`."""
        banks = {
            label: _bank(seen.labelled, label) for label in {a.seen.label for a in seen.answers}
        }
        found = []
        for one in seen.answers:
            bank = banks[one.seen.label]
            if bank is None or one.tokens is None or not one.probability.any():
                continue
            odds = torch.from_numpy(memberships_on(bank, one.tokens))
            logits = torch.logit(torch.from_numpy(one.probability), eps=1e-6)
            labels = gated_labels(logits, odds, self._settings, seen.done)
            mask = one.probability > 0.5
            if mask.sum() >= MIN_PIXELS:
                found.append(Target(one.number, mask, labels.weight.numpy() > 0))
        return found

    def views(
        self, teacher: Teacher, seen: SeenSlice, rng: np.random.Generator
    ) -> list[SliceEmbedding]:
        """One view, with half of the channels dropped in half of the cases; see `Way.views`."""
        return [dropped_pair(teacher.front.finish(seen.begun), rng)[0]]

    def loss(
        self, logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """Loss of `learn.pseudo`, over all masks that may be shown; see `Way.loss`."""
        labels = PseudoLabels(target.expand_as(logits), weight.expand_as(logits))
        return pseudo_loss(logits, labels)


class SssWay(EmaWay):
    """Windows of slices, changed pictures and joined features; see the module.

    Parameters
    ----------
    channels : int
        Of the model's features.
    device : torch.device
    seed : int
    """

    def __init__(self, channels: int, device: torch.device, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.enhancement = FeatureEnhancement(channels).to(device)
        self._optimiser = torch.optim.AdamW(self.enhancement.parameters(), lr=1e-3)

    def targets(self, seen: Seen) -> list[Target]:
        """Choose what teaches; see `Way.targets`."""
        found = []
        for group in by_group(seen.answers):
            window = best_window(np.stack([one.probability for one in group]))
            if window is None or not is_likely_size(group, seen.areas_mm2):
                continue
            found += [
                confident_target(one)
                for one in group[window.first : window.stop]
                if (one.probability > 0.5).sum() >= MIN_PIXELS
            ]
        return found

    def views(
        self, teacher: Teacher, seen: SeenSlice, rng: np.random.Generator
    ) -> list[SliceEmbedding]:
        """Two changed pictures and both together; see `Way.views`."""
        # The gradients of the last step have come by now; the adapter's own optimiser took its.
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        pair = [
            teacher.front.finish(
                teacher.front.begin(strongly_changed(seen.stack, rng), seen.spacing_rc_mm)
            )
            for _ in range(2)
        ]
        return [*pair, enhanced(self.enhancement, pair[0], pair[1])]

    def state(self) -> dict[str, Any]:
        """Weights, their optimiser, and gradients that have not been used."""
        parameters = list(self.enhancement.parameters())
        return {
            "weights": [p.detach().cpu() for p in parameters],
            "gradients": [None if p.grad is None else p.grad.cpu() for p in parameters],
            "optimiser": self._optimiser.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        with torch.no_grad():
            for parameter, value, gradient in zip(
                self.enhancement.parameters(), state["weights"], state["gradients"], strict=True
            ):
                parameter.copy_(value)
                parameter.grad = None if gradient is None else gradient.to(parameter.device)
        self._optimiser.load_state_dict(state["optimiser"])


def way_of(method: str, teacher: Teacher, sample: SeenSlice, seed: int) -> Way:
    """Strategy of a name in `methods.METHODS` that leaves an adapter."""
    if method == "sss":
        with torch.no_grad():
            features = features_of(teacher.front.finish(sample.begun))
        return SssWay(features.shape[1], features.device, seed)
    return {"ema": EmaWay, "protosam": ProtosamWay}[method]()


def by_group(answers: Sequence[Answer]) -> list[list[Answer]]:
    """Answers of each object, in the order of its slices."""
    groups: dict[int, list[Answer]] = {}
    for one in answers:
        groups.setdefault(one.seen.group, []).append(one)
    return list(groups.values())


def is_likely_size(group: Sequence[Answer], areas_mm2: dict[int, tuple[float, float]]) -> bool:
    """Whether an object's slices are about as large as labelled ones."""
    first = group[0].seen
    low, high = areas_mm2[first.label]
    area = float(np.mean([(one.probability > 0.5).sum() for one in group])) * first.pixel_mm2
    return LIKELY_SIZE[0] * low <= area <= LIKELY_SIZE[1] * high


def confident_target(one: Answer) -> Target:
    """Target of what a teacher is sure of, either way."""
    p = one.probability
    return Target(one.number, p > 0.5, (p >= CONFIDENT) | (p <= 1 - CONFIDENT))


def confident_loss(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Half Dice over the pixels that teach, half cross-entropy over all pixels.

    Where few pixels teach, both pull little (UniMatch V2 divides by all pixels, too).

    Parameters
    ----------
    logits : (m, h, w) tensor
        Every mask that may be shown.
    target, weight : (h, w) tensor
        0 or 1.
    """
    target, weight = target.expand_as(logits), weight.expand_as(logits)
    share = weight.mean()
    probability, wanted = torch.sigmoid(logits) * weight, target * weight
    overlap = (probability * wanted).sum(dim=(-2, -1))
    sizes = probability.sum(dim=(-2, -1)) + wanted.sum(dim=(-2, -1))
    dice = (1 - (2 * overlap + 1) / (sizes + 1)).mean()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return 0.5 * share * dice + 0.5 * (entropy * weight).mean()


def _bank(labelled: Sequence[tuple[SeenSlice, NeckTokens]], label: int) -> PrototypeBank | None:
    return bank_of_slices((tokens, seen.mask) for seen, tokens in labelled if seen.label == label)
