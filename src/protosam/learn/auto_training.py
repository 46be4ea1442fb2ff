"""Teaching automatic prompts: minutes on a CPU, the encoder and the decoder frozen.

Owns the lessons, their losses and the optimiser. Slices with the object and slices without it are
encoded once. Cells are (row, col) of the embedding's grid; distances are in cells of it.

Source: ProMISe, Wang et al. 2024, arXiv:2403.04164, where coordinates learn from the mask loss
alone, back through the frozen decoder. What is added: presence; a rough mask; and for each point a
hinge on its signed distance to the object's edge, with repulsion between points of one sign,
because gradients through the decoder's position code are noisy until a point lies on the right
side.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch.nn import functional as F

from protosam.errors import InvalidInput
from protosam.intensity import auto_window
from protosam.learn.finished_cases import FinishedCase, OnProgress
from protosam.learn.losses import mask_loss
from protosam.learn.pupils import Pupil, pupil_of
from protosam.models.planes import Planes
from protosam.models.slice_axis import choose_axis
from protosam.models.slice_model import SliceEmbedding, SliceModel
from protosam.prompting.auto import AutoPrompter, AutoShape, Proposal
from protosam.prompting.auto_levels import Levels, levels_of
from protosam.prompts import PromptSet

MARGIN = 0.5
"""Cells that a point keeps from the object's edge: 4 pixels of the built-in model's frame. In an
object that is thinner, half of its own depth is asked for."""

LEASH = 3.0
"""Cells from the object's edge beyond which a negative point says nothing and is drawn back."""

REACH = 2.0
"""Cells within which points of one sign repel each other."""

WEIGHTS = {"rough": 1.0, "presence": 1.0, "edge": 0.5, "leash": 0.1, "apart": 0.1, "mask": 0.5}
"""Weights of the losses."""


@dataclass(frozen=True)
class AutoSettings:
    """What decides automatic prompts, apart from cases and model."""

    steps: int = 400
    """Optimiser steps."""
    batch: int = 8
    """Slices in each step."""
    decode_from: float = 0.5
    """Share of the steps after which one slice of each step goes through the frozen decoder."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW; it falls to nothing along a cosine."""
    weight_decay: float = 0.05
    """Weight decay of AdamW."""
    width: int = 48
    """Channels after the fusion."""
    slices: int = 24
    """Slices taken from each case; about half of them with the object."""
    held_out: float = 0.2
    """Share of the cases (of the slices, with fewer than 3 cases) that choose when to stop."""
    check_every: int = 50
    """Steps between looks at what is held out."""
    seed: int = 0
    """Decides slices, initial weights and batches."""

    def __post_init__(self) -> None:
        counts = (self.steps, self.batch, self.width, self.slices, self.check_every)
        shares = (self.held_out, self.decode_from)
        if min(counts) < 1 or self.learning_rate <= 0 or self.weight_decay < 0:
            raise InvalidInput(
                f"Automatic prompts cannot be trained with these settings: {self}.",
                "Counts and the learning rate are above 0.",
            )
        if not all(0 < share < 1 for share in shares):
            raise InvalidInput("The held-out share and decode_from lie between 0 and 1.")


@dataclass(frozen=True, eq=False)
class Lesson:
    """One slice.

    Attributes
    ----------
    case : str
    levels : Levels
    share : (h, w) tensor
        Share of the object in each cell.
    depth : (h, w) tensor
        Signed distance to the object's edge in cells, positive inside.
    embedding, target : SliceEmbedding, (h', w') tensor; or None where the object is not there
        For the way through the decoder.
    """

    case: str
    levels: Levels
    share: torch.Tensor
    depth: torch.Tensor
    embedding: SliceEmbedding | None
    target: torch.Tensor | None

    @property
    def present(self) -> bool:
        """Whether the object is in the slice."""
        return self.embedding is not None


@dataclass(frozen=True)
class AutoFigures:
    """How good automatic prompts are on slices that were not trained on."""

    points_right: float
    """Share of the points, in slices with the object, that lie on the right side of its edge."""
    presence_right: float
    """Share of the slices of which presence is told rightly."""

    @property
    def both(self) -> float:
        """Mean of the two: what chooses when to stop."""
        return (self.points_right + self.presence_right) / 2


def lessons_of(
    cases: Sequence[FinishedCase],
    model: SliceModel,
    settings: AutoSettings,
    on_progress: OnProgress,
) -> list[Lesson]:
    """Choose and encode the slices.

    Raises
    ------
    InvalidInput
        If no slice has the object in it.
    """
    rng = np.random.default_rng([settings.seed, 5])
    found: list[Lesson] = []
    for number, case in enumerate(cases):
        on_progress(number / len(cases), f"encoding case {number + 1} of {len(cases)}")
        found += _lessons(case, model, settings.slices, rng)
    if not any(lesson.present for lesson in found):
        raise InvalidInput(
            f"None of the {len(cases)} cases has the object in a slice.",
            "Check the labels that were asked for, and the label maps.",
        )
    return found


def teach_auto(
    model: SliceModel, lessons: Sequence[Lesson], settings: AutoSettings, on_progress: OnProgress
) -> tuple[AutoPrompter, AutoFigures]:
    """Teach automatic prompts; gives the best ones found, and how good they are.

    Raises
    ------
    InvalidInput
        If there are too few slices.
    """
    taught, held = _parted(lessons, settings)
    pupil = pupil_of(model)
    rng = np.random.default_rng([settings.seed, 13])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        shape = AutoShape(lessons[0].levels.features.shape[1], settings.width)
        prompter = AutoPrompter(shape).to(model.device)
    optimiser = torch.optim.AdamW(
        prompter.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    best, figures = copy.deepcopy(prompter), measure(prompter, held)
    for step in range(1, settings.steps + 1):
        optimiser.zero_grad(set_to_none=True)
        decode = step > settings.decode_from * settings.steps
        for number in range(settings.batch):
            lesson = _drawn(taught, rng)
            loss = _loss(prompter, lesson, pupil if decode and number == 0 else None)
            torch.autograd.backward(loss / settings.batch)
        torch.nn.utils.clip_grad_norm_(prompter.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % settings.check_every == 0 or step == settings.steps:
            now = measure(prompter, held)
            if now.both >= figures.both:
                best, figures = copy.deepcopy(prompter), now
        on_progress(step / settings.steps, f"step {step}, right {figures.both:.2f}")
    return best.eval().requires_grad_(False), figures


@torch.no_grad()
def measure(prompter: AutoPrompter, lessons: Sequence[Lesson]) -> AutoFigures:
    """Measure points and presence on slices."""
    sides: list[float] = []
    presence: list[bool] = []
    positives = prompter.shape.positives
    for lesson in lessons:
        proposal = prompter(lesson.levels.features, lesson.levels.real)
        presence.append(bool(proposal.presence[0] > 0) == lesson.present)
        if lesson.present:
            depth = _at(lesson.depth, proposal.points[0])
            sides += [*(depth[:positives] > 0).tolist(), *(depth[positives:] < 0).tolist()]
    return AutoFigures(float(np.mean(sides)) if sides else 0.0, float(np.mean(presence)))


def _lessons(
    case: FinishedCase, model: SliceModel, count: int, rng: np.random.Generator
) -> list[Lesson]:
    axis = choose_axis(PromptSet(), case.image)
    planes = Planes(case.image, axis, auto_window(case.image.voxels))
    truth = np.isin(np.moveaxis(case.labels.voxels, axis, 0), case.wanted)
    filled = truth.any(axis=(1, 2))
    chosen = [*_spread(np.flatnonzero(filled), count - count // 2, rng)]
    chosen += _spread(np.flatnonzero(~filled), count // 2, rng)
    return [_lesson(case.name, model, planes, index, truth[index]) for index in chosen]


def _spread(indices: npt.NDArray[np.int_], count: int, rng: np.random.Generator) -> list[int]:
    if indices.size <= count:
        return [int(index) for index in indices]
    return [int(rng.choice(part)) for part in np.array_split(indices, count)]


def _lesson(
    case: str, model: SliceModel, planes: Planes, index: int, truth: npt.NDArray[np.bool_]
) -> Lesson:
    stack = planes.stack(index, planes.whole, model.context_slices)
    (embedding,) = model.embed(stack[None], planes.spacing_rc_mm)
    levels = levels_of(model, embedding)
    share = levels.share(truth)
    kept = target = None
    if truth.any():
        pupil = pupil_of(model)
        kept = pupil.keep(embedding)
        target = pupil.target(kept, truth)
    depth = signed_depth(share).to(model.device)
    return Lesson(case, levels, share, depth, kept, target)


def signed_depth(share: torch.Tensor) -> torch.Tensor:
    """Distance of each cell's centre to the object's edge, in cells; positive inside.

    Parameters
    ----------
    share : (h, w) tensor
        Share of the object in each cell. Where no cell is half full, the fullest one counts.

    Returns
    -------
    (h, w) float32 tensor
        All -(h + w) for an empty object.
    """
    values = share.cpu().numpy()
    if values.max() <= 0:
        return torch.full(share.shape, -float(sum(share.shape)))
    mask = values >= min(0.5, float(values.max()))
    inside = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    outside = ndimage.distance_transform_edt(~mask)
    # Half a cell from a centre to the edge between two cells.
    signed = np.where(mask, inside - 0.5, 0.5 - outside)
    return torch.from_numpy(signed.astype(np.float32))


def _parted(lessons: Sequence[Lesson], settings: AutoSettings) -> tuple[list[Lesson], list[Lesson]]:
    names = sorted({lesson.case for lesson in lessons})
    by_case = len(names) >= 3
    units = names if by_case else [str(n) for n in range(len(lessons))]
    if len(units) < 2:
        raise InvalidInput(
            f"Automatic prompts need 2 slices at least, one to stop by; got {len(units)}.",
            "Give more cases.",
        )
    rng = np.random.default_rng([settings.seed, 3])
    count = min(len(units) - 1, max(1, round(settings.held_out * len(units))))
    chosen = {units[int(n)] for n in rng.permutation(len(units))[:count]}
    keys = [lesson.case if by_case else str(n) for n, lesson in enumerate(lessons)]
    both = list(zip(lessons, keys, strict=True))
    return [e for e, key in both if key not in chosen], [e for e, key in both if key in chosen]


def _drawn(lessons: Sequence[Lesson], rng: np.random.Generator) -> Lesson:
    """Draw a slice, one with the object twice as often as one without."""
    kinds = [[e for e in lessons if e.present], [e for e in lessons if not e.present]]
    kinds = [kind for kind in kinds if kind]
    kind = kinds[0] if len(kinds) == 1 or rng.random() < 2 / 3 else kinds[1]
    return kind[int(rng.integers(len(kind)))]


def _loss(prompter: AutoPrompter, lesson: Lesson, pupil: Pupil | None) -> torch.Tensor:
    """Loss of what is said of one slice; through the decoder where there is a pupil."""
    proposal: Proposal = prompter(lesson.levels.features, lesson.levels.real)
    there = torch.tensor(float(lesson.present), device=proposal.presence.device)
    parts = {
        "rough": mask_loss(proposal.rough[0], lesson.share),
        "presence": F.binary_cross_entropy_with_logits(proposal.presence[0], there),
    }
    if lesson.embedding is not None and lesson.target is not None:
        parts |= _point_losses(proposal.points[0], lesson.depth, prompter.shape.positives)
        if pupil is not None:
            signs = torch.arange(len(proposal.points[0])) < prompter.shape.positives
            reading = pupil.ask_at(lesson.embedding, proposal.points[0], signs.numpy())
            parts["mask"] = mask_loss(reading.logits[0], lesson.target)
    return torch.stack([WEIGHTS[name] * value for name, value in parts.items()]).sum()


def _point_losses(
    points: torch.Tensor, depth: torch.Tensor, positives: int
) -> dict[str, torch.Tensor]:
    at = _at(depth, points)
    margin = min(MARGIN, 0.5 * float(depth.max()))
    on, beside = at[:positives], at[positives:]
    edge = F.relu(margin - on).sum() + F.relu(margin + beside).sum()
    leash = F.relu(-beside - LEASH).sum()
    apart = _crowding(points[:positives]) + _crowding(points[positives:])
    return {"edge": edge / len(at), "leash": leash / len(at), "apart": apart}


def _crowding(points: torch.Tensor) -> torch.Tensor:
    """Mean repulsion of points (n, 2): 1 where two coincide, nothing beyond `REACH` or so."""
    if len(points) < 2:
        return points.new_zeros(())
    first, second = torch.triu_indices(len(points), len(points), 1)
    squared = (points[first] - points[second]).square().sum(dim=1)
    return torch.exp(-squared / REACH**2).mean()


def _at(values: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Values (h, w) at cells (n, 2), between centres bilinearly; gradients reach the points."""
    rows, columns = values.shape
    place = (points.flip(1) + 0.5) / points.new_tensor([columns, rows]) * 2 - 1  # (x, y)
    sampled: torch.Tensor = F.grid_sample(
        values[None, None], place[None, None], padding_mode="border", align_corners=False
    )
    return sampled[0, 0, 0]
