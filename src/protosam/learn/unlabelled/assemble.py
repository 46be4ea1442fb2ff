"""From finished cases and a folder of images to the term of a run.

Owns what is read and made before the first step, in two parts: the material, for which the model
must be without an adapter, and the term, for which it must have one. Masks are (k, j, i).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from protosam.learn.division import Division
from protosam.learn.finished_cases import FinishedCase, OnProgress
from protosam.learn.fronts import Front
from protosam.learn.recipe_settings import RecipeSettings
from protosam.learn.unlabelled.places import places_in
from protosam.learn.unlabelled.pool import Known, PoolImage, image_files, patients_of, read_pool
from protosam.learn.unlabelled.seen import ObjectIn, SeenSlice, SliceTaker
from protosam.learn.unlabelled.teacher import Teacher
from protosam.learn.unlabelled.term import Material, PoolTerm, TermSettings
from protosam.learn.unlabelled.ways import way_of
from protosam.models.slice_model import SliceModel

LABELLED_SLICES, POOL_SLICES = 12, 24
"""Slices of each object that are looked at; in the pool so many that neighbours are alike."""

PER_LABELLED = 10
"""Slices without labels for each labelled one, at most."""


def pool_of(folder: Path, division: Division) -> tuple[list[PoolImage], list[str]]:
    """Images of a folder without those that teach or judge, and notes for the user; see `pool`."""
    judges = [one.case for one in division.judges]
    known = Known(
        frozenset(case.image.uid for case in (*division.taught, *judges)),
        patients_of([case.name for case in judges]),
    )
    return read_pool(image_files(folder), known)


def material_of(
    model: SliceModel,
    front: Front,
    cases: Sequence[FinishedCase],
    pool: Sequence[PoolImage],
    *,
    on_progress: OnProgress,
) -> Material:
    """Find the objects of finished cases in images, and take slices of both.

    Parameters
    ----------
    model : SliceModel
        Without an adapter.
    front : Front
        Of the same model.
    cases : sequence of FinishedCase
    pool : sequence of PoolImage
    on_progress : (fraction 0..1, text) -> None

    Raises
    ------
    InvalidInput
        When nothing is found in the pool, or too little to learn from.
    """
    places = places_in(model, cases, pool, on_progress=on_progress)
    return material_at(model, front, cases, places)


def material_at(
    model: SliceModel, front: Front, cases: Sequence[FinishedCase], places: Sequence[ObjectIn]
) -> Material:
    """Take slices of finished cases, and of places that are known already."""
    taker = SliceTaker(front, model.context_slices)
    true = [
        ObjectIn(case.image, label, np.asarray(case.labels.voxels == label, dtype=np.bool_))
        for case in cases
        for label in case.wanted
    ]
    labelled = _slices(taker, true, LABELLED_SLICES)
    known = {one.label for one in labelled}
    there = [place for place in places if place.label in known]
    each = min(POOL_SLICES, max(1, PER_LABELLED * len(labelled) // max(1, len(there))))
    return Material(labelled, _slices(taker, there, each))


def term_of(
    method: str,
    model: SliceModel,
    material: Material,
    run: RecipeSettings,
    settings: TermSettings | None = None,
) -> PoolTerm:
    """Term of a method that teaches the adapter.

    Parameters
    ----------
    method : str
        One of `methods.METHODS` that leaves an adapter and needs images.
    model : SliceModel
        With the adapter that learns.
    material : Material
    run : RecipeSettings
    settings : TermSettings, optional
    """
    teacher = Teacher(model, run)
    way = way_of(method, teacher, material.pool[0], run.seed)
    return PoolTerm(teacher, way, material, run, settings)


def _slices(taker: SliceTaker, objects: Sequence[ObjectIn], most: int) -> list[SeenSlice]:
    return [one for n, found in enumerate(objects) for one in taker.slices(found, n, most)]
