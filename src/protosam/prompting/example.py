"""An example: what finished cases say of their segments, without their images.

Owns what is kept of a case: features of tokens under each mask and beside it, their places in
RAS mm, the mask itself, landmarks to align by, and the facts that tell whether another image can
be compared. There are no voxels, no dates and no names of patients in it. Several examples of
one model make one of several cases. Knows nothing of files; `making.py` makes examples.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from protosam.errors import InvalidInput
from protosam.models.slice_model import SliceModel
from protosam.prompting.align import Landmarks
from protosam.prompting.cloud import Float32Array, Scale

Places = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Case:
    """What is kept of a case as a whole.

    Attributes
    ----------
    landmarks : Landmarks
    scale : Scale
        Of its raw features; other images are compared with it.
    spacing_kji_mm : (float, float, float)
    """

    landmarks: Landmarks
    scale: Scale
    spacing_kji_mm: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Closer:
    """A small object seen in rectangles not much larger than itself.

    Attributes
    ----------
    side_mm : float
        Of the rectangles.
    features, beside : (n, d), (m, d) float32
        Tokens under the mask and outside of it.
    at_mm : (n, 3) float
        Places of the former.
    """

    side_mm: float
    features: Float32Array
    at_mm: Places
    beside: Float32Array


@dataclass(frozen=True, eq=False)
class Sample:
    """What one case says of one segment.

    Attributes
    ----------
    case : int
        Index of the case.
    features : (n, d) float32
        Standardised, of the tokens under the mask.
    at_mm : (n, 3) float
        Their places.
    slice_index : (n,) int
        Their slices.
    beside, beside_mm : (m, d) float32, (m, 3) float
        Tokens outside of the mask.
    mask : (k, j, i) bool
        In its bounding box.
    mask_affine : (4, 4) float
        Of that box.
    closer : Closer or None
        The closer look at a small object; None where whole slices show enough.
    mask_weights : tuple of float
        What each reading of a click counts, see `weights`.
    """

    case: int
    features: Float32Array
    at_mm: Places
    slice_index: npt.NDArray[np.int64]
    beside: Float32Array
    beside_mm: Places
    mask: npt.NDArray[np.bool_]
    mask_affine: Places
    closer: Closer | None = None
    mask_weights: tuple[float, ...] = (1.0,)

    @property
    def by_slice(self) -> list[Float32Array]:
        """Features of each slice."""
        return [self.features[self.slice_index == z] for z in np.unique(self.slice_index)]


@dataclass(frozen=True, eq=False)
class Lesson:
    """A segment and what the cases say of it."""

    name: str
    terminology: str
    colour: tuple[float, float, float]
    samples: tuple[Sample, ...]


@dataclass(frozen=True, eq=False)
class Example:
    """What finished cases say of their segments.

    Attributes
    ----------
    model_name, model_digest : str
        Whose features these are; no other model can use them.
    cases : tuple of Case
    lessons : tuple of Lesson
        One for each segment.
    """

    model_name: str
    model_digest: str
    cases: tuple[Case, ...]
    lessons: tuple[Lesson, ...]

    def check_model(self, model: SliceModel) -> None:
        """Refuse a model whose features are others.

        Raises
        ------
        InvalidInput
            Names both models.
        """
        if model.digest != self.model_digest:
            raise InvalidInput(
                f"The example holds features of {self.model_name} ({self.model_digest[:12]}), "
                f"and {model.name} ({model.digest[:12]}) was to use them.",
                "Choose that model, adapter and device again, or make the example anew.",
            )


def merged(examples: Sequence[Example]) -> Example:
    """Join examples of one model: segments of one name are learnt from several cases.

    Raises
    ------
    InvalidInput
        If there is none, or they are of different models.
    """
    if not examples:
        raise InvalidInput("No example was given.", "Give one or more.")
    first = examples[0]
    for other in examples[1:]:
        if other.model_digest != first.model_digest:
            raise InvalidInput(
                f"One example is of {first.model_name} ({first.model_digest[:12]}), another of "
                f"{other.model_name} ({other.model_digest[:12]}).",
                "Make all of them with the same model and adapter.",
            )
    starts = [0, *itertools.accumulate(len(one.cases) for one in examples)]
    lessons: dict[str, Lesson] = {}
    for start, one in zip(starts, examples, strict=False):
        for lesson in one.lessons:
            moved = tuple(replace(s, case=s.case + start) for s in lesson.samples)
            known = lessons.get(lesson.name, replace(lesson, samples=()))
            lessons[lesson.name] = replace(known, samples=(*known.samples, *moved))
    cases = tuple(case for one in examples for case in one.cases)
    return Example(first.model_name, first.model_digest, cases, tuple(lessons.values()))
