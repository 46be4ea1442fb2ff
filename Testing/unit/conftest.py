"""A stand-in for a promptable model, volumes whose truth it can find, scripts of benchmarks."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import ndimage

from protosam.errors import InvalidInput
from protosam.geometry import Volume
from protosam.models.slice_model import SliceAnswer, SlicePrompts

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CERTAIN = 6.0


@dataclass(frozen=True, eq=False)
class PlainEmbedding:
    """The image itself."""

    image: np.ndarray

    @property
    def nbytes(self) -> int:
        return int(self.image.nbytes)


@dataclass
class RegionModel:
    """Answers with the bright pixels that hang together with the prompted ones.

    `reach`: how far, in pixels, an answer may grow beyond that of the neighbouring slice, which
    a model that reads no neighbours is told as a box.
    `radius`: how much, in pixels, a negative click takes away.
    `fail_times`, `fail_while`: when `embed` runs out of memory.
    """

    reads_neighbours: bool = True
    context_slices: int = 1
    batch_size: int = 4
    worth_storing: bool = True
    reach: int = 6
    radius: float = 3.0
    name: str = "region"
    digest: str = "region-1"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    fail_times: int = 0
    fail_while: Callable[[RegionModel, int], bool] = lambda _model, _count: False
    batches: list[int] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)
    asked: list[SlicePrompts] = field(default_factory=list)

    @property
    def embedded(self) -> int:
        """Number of images embedded so far."""
        return sum(self.batches)

    def embed(
        self, stacks: np.ndarray, spacing_rc_mm: tuple[float, float]
    ) -> Sequence[PlainEmbedding]:
        if self.fail_times > 0 or self.fail_while(self, len(stacks)):
            self.fail_times -= 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        assert stacks.shape[1] == 2 * self.context_slices + 1
        self.batches.append(len(stacks))
        self.images += [stack[self.context_slices] for stack in stacks]
        return [PlainEmbedding(stack[self.context_slices].copy()) for stack in stacks]

    def predict(self, embedding: PlainEmbedding, prompts: SlicePrompts) -> SliceAnswer:
        self.asked.append(prompts)
        image = embedding.image
        cells = np.clip(
            np.floor(np.asarray(prompts.points_rc) + 0.5).astype(int), 0, np.array(image.shape) - 1
        ).reshape(-1, 2)
        seeds = self._seeds(image.shape, cells, prompts)
        found = self._within(_touching(image > 0.5, seeds), prompts)
        rows, cols = np.indices(image.shape)
        for row, col in cells[~prompts.positive]:
            found &= (rows - row) ** 2 + (cols - col) ** 2 > self.radius**2
        logits = np.where(found, CERTAIN, -CERTAIN).astype(np.float32)
        return SliceAnswer(logits, 0.9, float(found.any()))

    def pack(self, embedding: PlainEmbedding) -> dict[str, torch.Tensor]:
        return {"image": torch.from_numpy(embedding.image)}

    def unpack(self, tensors: Mapping[str, torch.Tensor]) -> PlainEmbedding:
        if "image" not in tensors:
            raise InvalidInput("There is no image in this entry.")
        return PlainEmbedding(tensors["image"].numpy())

    def to(self, device: torch.device) -> None:
        self.device = device

    def _seeds(self, shape: tuple[int, ...], cells: np.ndarray, prompts: SlicePrompts):
        """The clicks on the object; without them what is known of it otherwise."""
        seeds = np.zeros(shape, bool)
        seeds[tuple(cells[prompts.positive].T)] = True
        for known in (prompts.neighbour_logits, prompts.prior_logits):
            if known is not None and not seeds.any():
                seeds = known > 0
        if prompts.box_rc is not None and not seeds.any():
            middle = np.round((prompts.box_rc[:2] + prompts.box_rc[2:]) / 2).astype(int)
            seeds[tuple(middle)] = True
        return seeds

    def _within(self, found: np.ndarray, prompts: SlicePrompts) -> np.ndarray:
        if prompts.box_rc is not None:
            top, left, bottom, right = np.round(prompts.box_rc).astype(int)
            box = np.zeros(found.shape, bool)
            slack = 0 if self.reads_neighbours else round(self.reach)
            box[max(0, top - slack) : bottom + 1 + slack, max(0, left - slack) :] = True
            box[:, right + 1 + slack :] = False
            found = found & box
        beside = prompts.neighbour_logits
        if beside is not None and (beside > 0).any():
            near = ndimage.distance_transform_edt(beside <= 0) <= self.reach
            found = _touching(found & near, beside > 0)
        return found


def _touching(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    return mask & np.isin(labels, np.unique(labels[seeds & mask]))


@pytest.fixture
def region_model() -> Callable[..., RegionModel]:
    """Maker of stand-ins for a model."""
    return RegionModel


def _bright(mask: np.ndarray, spacing_kji_mm: tuple[float, float, float]) -> Volume:
    k, j, i = spacing_kji_mm
    return Volume(np.where(mask, 100, 0).astype(np.int16), np.diag([i, j, k, 1.0]))


@pytest.fixture
def an_ellipsoid() -> Volume:
    """Bright ellipsoid in the dark: middle (14, 30, 34), slices 5 to 23 of 30."""
    k, j, i = np.ogrid[:30, :60, :70]
    inside = ((k - 14) / 9.4) ** 2 + ((j - 30) / 12) ** 2 + ((i - 34) / 16) ** 2 <= 1
    return _bright(inside, (3.0, 1.0, 1.0))


@pytest.fixture
def a_tube() -> Volume:
    """Bright oblique tube of radius 7 in slices 4 to 25 of 30, one column further in each."""
    k, j, i = np.ogrid[:30, :48, :64]
    inside = ((j - 24) ** 2 + (i - 18 - k) ** 2 <= 49) & (k >= 4) & (k <= 25)
    return _bright(inside, (2.0, 1.0, 1.0))


@pytest.fixture
def two_balls() -> Volume:
    """Two bright balls of radius 6 that do not touch, one behind the other along k."""
    k, j, i = np.ogrid[:36, :40, :40]
    first = (k - 9) ** 2 + (j - 20) ** 2 + (i - 20) ** 2 <= 38
    second = (k - 26) ** 2 + (j - 20) ** 2 + (i - 20) ** 2 <= 38
    return _bright(first | second, (1.0, 1.0, 1.0))


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Load a script of the folder of benchmarks, which is no package, by its name."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(
            f"benchmark_{name}", BENCHMARKS / f"{name}.py"
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load
