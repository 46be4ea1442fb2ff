"""What every backbone offers: embed slices once, then answer prompts often.

Owns the value types that pass between a backbone and the volume logic. Coordinates are pixel
coordinates of one 2-D image, ``(row, col)``, with pixel centres at integers. A backbone's own
frame (SAM's padded 1024 px square with its (x, y) order, the built-in model's 256 px frame)
never leaves the backbone. Knows nothing of volumes, affines or prompts' ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

FloatArray = npt.NDArray[np.floating[Any]]
BoolArray = npt.NDArray[np.bool_]


def _no_points() -> FloatArray:
    return np.zeros((0, 2), dtype=np.float32)


def _no_labels() -> BoolArray:
    return np.zeros(0, dtype=bool)


@dataclass(frozen=True, eq=False)
class SlicePrompts:
    """Prompts of one object in one 2-D image.

    Attributes
    ----------
    points_rc : (n, 2) float
        Clicks as (row, col) in pixels.
    positive : (n,) bool
        True where the click lies on the object.
    box_rc : (4,) float or None
        First row, first column, last row, last column; inclusive, in pixels.
    prior_logits : (H, W) float32 or None
        The last answer for this very image; positive inside.
    neighbour_logits : (H, W) float32 or None
        The answer for a neighbouring slice; read only by models that say `reads_neighbours`.
    """

    points_rc: FloatArray = field(default_factory=_no_points)
    positive: BoolArray = field(default_factory=_no_labels)
    box_rc: FloatArray | None = None
    prior_logits: npt.NDArray[np.float32] | None = None
    neighbour_logits: npt.NDArray[np.float32] | None = None

    @property
    def count(self) -> int:
        """Number of clicks and boxes (priors do not count)."""
        return len(self.points_rc) + (self.box_rc is not None)


@dataclass(frozen=True, eq=False)
class SliceAnswer:
    """A backbone's answer for one object in one image.

    Attributes
    ----------
    logits : (H, W) float32
        Positive inside the object, on the image's own grid.
    score : float
        Estimated IoU with the object meant, 0..1.
    presence : float
        Estimated probability that the object is in this image at all, 0..1.
    """

    logits: npt.NDArray[np.float32]
    score: float
    presence: float


class SliceEmbedding(Protocol):
    """Features of one image; opaque to callers."""

    @property
    def nbytes(self) -> int:
        """Bytes that the features occupy, for cache limits."""
        ...


class SliceModel(Protocol):
    """A promptable segmentation model for 2-D images.

    Attributes
    ----------
    name : str
        Name of the model's card.
    digest : str
        Identity of the weights and adapter; part of every cache key.
    device : torch.device
        Where the model runs.
    context_slices : int
        Neighbouring slices that `embed` wants on each side (0 for SAM).
    reads_neighbours : bool
        Whether it was trained to continue a neighbouring slice's answer. Others are given that
        answer as prior, box and point.
    batch_size : int
        Images that are worth giving to `embed` at once; 1 if it takes them one after the other
        anyway, so that nothing is gained by embedding ahead.
    worth_storing : bool
        Whether reading an embedding from a disk is clearly faster than making it.
    """

    name: str
    digest: str
    device: torch.device
    context_slices: int
    reads_neighbours: bool
    batch_size: int
    worth_storing: bool

    def embed(
        self, stacks: npt.NDArray[np.float32], spacing_rc_mm: tuple[float, float]
    ) -> Sequence[SliceEmbedding]:
        """Encode images.

        Parameters
        ----------
        stacks : (b, 2 * context_slices + 1, H, W) float32
            Windowed intensities in 0..1; the middle channel is the image itself.
        spacing_rc_mm : (float, float)
            Distance of rows and of columns in mm.
        """
        ...

    def predict(self, embedding: SliceEmbedding, prompts: SlicePrompts) -> SliceAnswer:
        """Answer the prompts of one object in an encoded image."""
        ...

    def pack(self, embedding: SliceEmbedding) -> dict[str, torch.Tensor]:
        """Bring an embedding into a form that can be written: named tensors in main memory.

        Nothing is rounded: `unpack` gives back an embedding with the very same answers.
        """
        ...

    def unpack(self, tensors: Mapping[str, torch.Tensor]) -> SliceEmbedding:
        """Make an embedding on `device` from what `pack` gave.

        Raises
        ------
        InvalidInput
            If the tensors are not those of an embedding of this kind of model.
        """
        ...

    def to(self, device: torch.device) -> None:
        """Move the model; embeddings made before cannot be used any more."""
        ...


@runtime_checkable
class WorksAhead(Protocol):
    """A slice model that can encode slices while its caller goes on.

    Attributes
    ----------
    lookahead : int
        Slices that are worth encoding ahead; 0 if none are, as the model lies now.
    """

    lookahead: int

    def embed_later(
        self, stack: npt.NDArray[np.float32], spacing_rc_mm: tuple[float, float]
    ) -> Future[SliceEmbedding]:
        """Begin to encode one image.

        Parameters
        ----------
        stack : (2 * context_slices + 1, H, W) float32
            As for `SliceModel.embed`; the embedding will be the same.
        spacing_rc_mm : (float, float)
            Distance of rows and of columns in mm.
        """
        ...
