"""Rounds of prompting in training: click, answer, correct, and on to the neighbouring slice.

The rounds before the last run without gradient, as in SAM's training (Kirillov et al. 2023,
appendix A). Slice A is prompted by hand; slice B by the answer for A (as propagation does), with
or without corrections, and slice C by the answer for B, so that errors add up as
they do at work. Coordinates are those of `learn.clicks`: (x, y) pixels of the frame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch.nn import functional as F

from protosam.learn.clicks import corrective_click, deep_point, jittered_box, pick, spoiled
from protosam.learn.losses import LossParts, hard_iou, prompt_loss
from protosam.models.geodesic import edge_cost
from protosam.models.prompt_maps import FramePrompts, draw
from protosam.models.tiny import Features, Masks, TinySAM, choose_mask

ROUNDS = {1: 0.32, 2: 0.19, 3: 0.14, 4: 0.11, 5: 0.09, 6: 0.06, 8: 0.06, 11: 0.03}
"""Distribution of the number of rounds on slice A; many clicks must be seen in training."""

FIRST_PROMPTS = {"click": 0.58, "box": 0.15, "box+click": 0.15, "mask": 0.06, "mask+click": 0.06}
"""Distribution of what the first round on slice A is prompted by."""

NEIGHBOUR_PRIORS = {"answer": 0.62, "truth": 0.19, "spoiled": 0.19}
"""Distribution of what a slice is told about its neighbour."""

EXTRA_ROUNDS = {0: 0.58, 1: 0.22, 2: 0.12, 3: 0.08}
"""Distribution of corrective clicks on slices B and C after their prior."""

FURTHER = 1.4
"""Weight of the losses of slices B and C together against that of slice A."""

NO_GEODESIC = 0.15
"""Share of the objects that get no geodesic maps, so that the model also works without them."""

Autocast = Callable[[], AbstractContextManager[object]]


@dataclasses.dataclass(frozen=True, eq=False)
class Played:
    """Result of a batch: the losses of slices A, B and C and the IoU reached in each."""

    clicked: LossParts
    propagated: LossParts
    handed_on: LossParts
    iou_clicked: float
    iou_propagated: float
    iou_handed_on: float

    @property
    def total(self) -> torch.Tensor:
        """What is minimised: the clicked slice counts one, both others together `FURTHER`."""
        return self.clicked.total + FURTHER / 2 * (self.propagated.total + self.handed_on.total)


class Table:
    """The objects of one slice of a batch: their features, truth and prompts so far."""

    def __init__(
        self,
        model: TinySAM,
        features: Features,
        images: torch.Tensor,
        targets: torch.Tensor,
        rng: np.random.Generator,
    ) -> None:
        samples, per_sample = targets.shape[:2]
        self._model, self._rng, self._side = model, rng, images.shape[-1]
        self.owner = torch.arange(samples).repeat_interleave(per_sample)
        self.features = features
        self.targets = targets.flatten(0, 1)  # (n, h, w)
        self.wanted = [t.numpy() >= 0.5 for t in self.targets]
        coarse = F.avg_pool2d(images[:, 1:2], 4)[:, 0].numpy()
        costs = [edge_cost(image) for image in coarse]
        none = np.zeros((0, 2), dtype=np.float32)
        self.prompts = [
            FramePrompts(
                none,
                np.zeros(0, dtype=bool),
                cost=None if rng.random() < NO_GEODESIC else costs[int(owner)],
            )
            for owner in self.owner
        ]

    def start(self) -> None:
        """Give every object its first prompt, as a user would."""
        for index, wanted in enumerate(self.wanted):
            kind = pick(self._rng, FIRST_PROMPTS)
            if "box" in kind:
                self._change(index, box_xyxy=jittered_box(wanted, self._rng))
            if "mask" in kind:
                self._change(index, own=torch.from_numpy(spoiled(wanted, self._rng)))
            if "click" in kind:
                self._click(index, deep_point(wanted, self._rng), True)

    def start_from(self, answers: torch.Tensor, truth: torch.Tensor) -> None:
        """Give every object what is known of the neighbouring slice.

        Parameters
        ----------
        answers : (n, h, w)
            Logits found there.
        truth : (n, h, w)
            Soft masks there.
        """
        for index, wanted in enumerate(self.wanted):
            kind = pick(self._rng, NEIGHBOUR_PRIORS)
            prior = answers[index]
            lost = not bool((prior > 0).any()) and bool((truth[index] >= 0.5).any())
            if kind == "truth" or lost:  # a propagation that has lost its object goes no further
                prior = (truth[index] * 2 - 1) * float(self._rng.uniform(2, 8))
            elif kind == "spoiled":
                prior = torch.from_numpy(spoiled(truth[index].numpy() >= 0.5, self._rng))
            self._change(index, neighbour=prior)
            if wanted.any() and self._rng.random() < 0.12:
                self._click(index, deep_point(wanted, self._rng), True)

    def answer(self) -> tuple[Masks, torch.Tensor]:
        """Decode all objects; returns the masks and which prompts are single clicks (n,)."""
        single = torch.tensor([p.is_single_click for p in self.prompts])
        device = self.features.embedding.device
        tokens = draw(self.prompts, self._side, self._side).to(device)
        chosen = self.features.select(self.owner.to(device))
        return self._model.decode(chosen, tokens, self._side), single.to(device)

    def loss(self, masks: Masks, single: torch.Tensor) -> LossParts:
        """Loss of an answer to all objects."""
        return prompt_loss(masks, self.targets.to(masks.logits.device), single)

    def correct(self, logits: torch.Tensor) -> None:
        """Click each object where its answer (n, h, w) is most wrong, and keep the answer."""
        for index, wanted in enumerate(self.wanted):
            click = corrective_click((logits[index] > 0).numpy(), wanted, self._rng)
            self._change(index, own=logits[index])
            if click is not None:
                self._click(index, *click)

    def _click(self, index: int, point_xy: tuple[float, float], positive: bool) -> None:
        old = self.prompts[index]
        self._change(
            index,
            points_xy=np.concatenate([old.points_xy, [point_xy]]).astype(np.float32),
            positive=np.append(old.positive, positive),
        )

    def _change(self, index: int, **values: object) -> None:
        self.prompts[index] = dataclasses.replace(self.prompts[index], **values)  # type: ignore[arg-type]


def chosen_logits(masks: Masks, single: torch.Tensor) -> torch.Tensor:
    """Logits (n, h, w) of the mask that would be shown, without gradient, on the CPU."""
    index = choose_mask(masks, single)
    return masks.logits.detach()[torch.arange(len(index)), index].cpu()


def play(
    model: TinySAM,
    images: torch.Tensor,
    targets: torch.Tensor,
    rng: np.random.Generator,
    autocast: Autocast,
) -> Played:
    """Play one batch of samples; gradients flow through the last answer for each slice.

    Parameters
    ----------
    model : TinySAM
        On any device; prompts are simulated on the CPU.
    images : (b, 3, 3, S, S) float32, on the CPU
    targets : (b, m, 3, S/2, S/2) float32, on the CPU
    autocast : () -> context manager
        Precision of the network's own computation.
    """
    samples, slices = images.shape[:2]
    device = next(model.parameters()).device
    with autocast():
        features = model.encode(images.to(device).transpose(0, 1).flatten(0, 1))  # (3 b, ...)
    tables = []
    for index in range(slices):
        rows = torch.arange(index * samples, (index + 1) * samples, device=device)
        own = features.select(rows)
        tables.append(Table(model, own, images[:, index], targets[:, :, index], rng))
    tables[0].start()
    losses: list[LossParts] = []
    logits: list[torch.Tensor] = []
    for index, table in enumerate(tables):
        if index:
            table.start_from(logits[-1], tables[index - 1].targets)
        rounds = int(pick(rng, EXTRA_ROUNDS)) + 1 if index else int(pick(rng, ROUNDS))
        masks, single, answer = _rounds(table, rounds, autocast)
        losses.append(table.loss(masks, single))
        logits.append(answer)
    a, b, c = (float(hard_iou(x, t.targets).mean()) for x, t in zip(logits, tables, strict=True))
    clicked, propagated, handed_on = losses
    return Played(clicked, propagated, handed_on, a, b, c)


def _rounds(
    table: Table, count: int, autocast: Autocast
) -> tuple[Masks, torch.Tensor, torch.Tensor]:
    """Answer and correct `count` times; only the last answer keeps its gradient."""
    for _ in range(count - 1):
        with torch.no_grad(), autocast():
            masks, single = table.answer()
        table.correct(chosen_logits(masks, single))
    with autocast():
        masks, single = table.answer()
    return masks, single, chosen_logits(masks, single)
