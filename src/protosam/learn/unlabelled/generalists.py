"""What the large, frozen model says of an object that a small network has roughly found.

Owns the generalists by name. Each makes its own prompts from the part of the small network's answer
that is reliable (`prompting.reliable`), never from a label: none is at hand. Answers are
probabilities on the volume's own voxels (k, j, i).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from protosam.errors import InvalidInput
from protosam.geometry import Volume
from protosam.intensity import auto_window
from protosam.learn.unlabelled.seen import MIN_PIXELS, core_box, core_clicks
from protosam.models.embeddings import Embedder, EmbeddingCache
from protosam.models.planes import Patch, Planes, focus
from protosam.models.segmenter import Segmenter, SegmentRequest
from protosam.models.slice_axis import choose_axis
from protosam.models.slice_model import SliceModel
from protosam.models.stages import Stages
from protosam.prompting.reliable import reliable_prompts
from protosam.prompts import Point, PromptSet

FloatArray = npt.NDArray[np.float32]


class Generalist(Protocol):
    """A large model that can be prompted."""

    def opinions(self, volume: Volume, probability: FloatArray) -> list[FloatArray]:
        """Answer, once for each set of prompts.

        Parameters
        ----------
        volume : Volume
        probability : (K, J, I) float32
            Of the object, by the small network.

        Returns
        -------
        list of (K, J, I) float32
            Probabilities, NaN where it was not asked; empty where the small network is sure of
            nothing.
        """
        ...


class SliceGeneralist:
    """Slice by slice, each with prompts of its own: clicks, then a box.

    Parameters
    ----------
    model : SliceModel
    """

    def __init__(self, model: SliceModel) -> None:
        self._model, self._cache = model, EmbeddingCache()

    def opinions(self, volume: Volume, probability: FloatArray) -> list[FloatArray]:
        """Two opinions; see `Generalist.opinions`."""
        planes = Planes(volume, choose_axis(PromptSet(), volume), auto_window(volume.voxels))
        believed = np.moveaxis(probability, planes.axis, 0)
        held = np.flatnonzero((believed > 0.5).sum(axis=(1, 2)) >= MIN_PIXELS)
        found = [np.full(believed.shape, np.nan, dtype=np.float32) for _ in range(2)]
        if not held.size:
            return []
        around = np.where((believed > 0.5).any(axis=0), 1.0, -1.0).astype(np.float32)
        middle = Patch(planes.whole, around).mask_rect
        rect = planes.whole if middle is None else focus(planes, middle, current=None)
        embedder = Embedder(self._model, planes, self._cache)
        answered = 0
        for z in held:
            core = reliable_prompts(believed[(int(z), *rect.slices)])
            if core is None:
                continue
            answered += 1
            embedding = embedder.get(int(z), rect)
            for opinion, prompts in zip(found, (core_clicks(core), core_box(core)), strict=True):
                logits = self._model.predict(embedding, prompts).logits
                opinion[int(z)] = 0.0
                opinion[(int(z), *rect.slices)] = _probability(logits)
        return [np.moveaxis(one, 0, planes.axis) for one in found] if answered else []


class VolumeGeneralist:
    """The whole object at once: clicks in the core, carried through the volume.

    Parameters
    ----------
    model : SliceModel
    """

    def __init__(self, model: SliceModel) -> None:
        self._segmenter = Segmenter(model, stages=Stages(further_views=False, walk=False))

    def opinions(self, volume: Volume, probability: FloatArray) -> list[FloatArray]:
        """One opinion, of zeros and ones; see `Generalist.opinions`."""
        prompts = core_points(probability)
        if prompts is None:
            return []
        answer = self._segmenter.segment(volume, SegmentRequest(prompts))
        return [answer.full_mask(volume.shape_kji).astype(np.float32)]


def core_points(probability: FloatArray) -> PromptSet | None:
    """Clicks in the reliable part of an answer (K, J, I); None where nothing is reliable."""
    core = reliable_prompts(probability)
    if core is None:
        return None
    prompts = PromptSet()
    for number, (place, positive) in enumerate(zip(core.places, core.signs, strict=True)):
        k, j, i = (float(n) for n in place)
        prompts = prompts.with_point(Point((k, j, i), bool(positive), f"core-{number}"))
    return prompts


GENERALISTS: dict[str, Callable[[SliceModel], Generalist]] = {
    "slices": SliceGeneralist,
    "volume": VolumeGeneralist,
}
"""Generalists by name."""


def generalists_of(names: tuple[str, ...], model: SliceModel) -> list[Generalist]:
    """Generalists of these names.

    Raises
    ------
    InvalidInput
        When one of them is not known.
    """
    strangers = [name for name in names if name not in GENERALISTS]
    if strangers or not names:
        raise InvalidInput(
            f"There is no generalist {', '.join(strangers) or 'given'}.",
            f"Give one or more of: {', '.join(GENERALISTS)}.",
        )
    return [GENERALISTS[name](model) for name in names]


def _probability(logits: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))), dtype=np.float32)
