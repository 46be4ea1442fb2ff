"""Folders of images with label maps, as the evaluation and the training read them.

Owns the naming rule: ``<case>_img.<ending>`` lies beside ``<case>_lab.<ending>``, in the
folder or below it; the endings may differ; files named otherwise (``_scribble``, ``_lab2``)
are not looked at. A case is named by its path from the folder, with forward slashes.
``labels.json`` names the labels, ``{"1": "liver"}``; what in it is no such pair is passed
over, and labels without a name get one from their number.

Knows files and grids, nothing of prompts or models. Voxels are (k, j, i).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protosam.errors import GeometryError, InvalidInput, UnreadableFile
from protosam.geometry import Volume
from protosam.volume_io import READABLE_ENDINGS, read_labelmap, read_volume

IMAGE_MARK = "_img"
LABELS_MARK = "_lab"

GRID_TOLERANCE = 1e-3
"""Largest difference of two affines in mm: NIfTI stores them as float32."""


@dataclass(frozen=True)
class LabelledCase:
    """An image and its label map, not read yet."""

    name: str
    """Path from the dataset's folder, with forward slashes and without ``_img`` and ending."""
    image: Path
    """File of the image."""
    labels: Path
    """File of the label map."""

    def read(self) -> tuple[Volume, Volume]:
        """Return the image and its label map, on one grid.

        Raises
        ------
        GeometryError
            The two files have different shapes, or places that differ by more than
            `GRID_TOLERANCE`.
        UnreadableFile, InvalidInput
            A file that cannot be read.
        """
        image, labels = read_volume(self.image), read_labelmap(self.labels)
        if image.shape_kji != labels.shape_kji:
            raise GeometryError(
                f"{self.image.name} has {image.shape_kji} voxels (k, j, i), "
                f"{self.labels.name} has {labels.shape_kji}.",
                "Resample the labels onto the grid of the image.",
            )
        apart_mm = float(np.abs(image.affine - labels.affine).max())
        if apart_mm > GRID_TOLERANCE:
            raise GeometryError(
                f"The affines of {self.image.name} and {self.labels.name} differ by "
                f"{apart_mm:g} mm.",
                "Resample the labels onto the grid of the image.",
            )
        return image, labels


@dataclass(frozen=True)
class LabelledData:
    """A folder of cases and the names of their labels."""

    folder: Path
    """Where it lies."""
    cases: tuple[LabelledCase, ...]
    """In the order of their names."""
    names: tuple[tuple[int, str], ...]
    """Pairs of label value and name, as far as ``labels.json`` names them."""

    @property
    def name(self) -> str:
        """Name of the folder, which is the dataset's in a split file."""
        return self.folder.resolve().name

    def label_name(self, label: int) -> str:
        """Return the name of a label, made from its number where it has none."""
        return dict(self.names).get(label, f"label {label}")

    def chosen(self, wanted: Sequence[str], limit: int | None = None) -> LabelledData:
        """Return the data with these cases only, all where none is named.

        Parameters
        ----------
        wanted : sequence of str
            Names of cases.
        limit : int, optional
            Keep the first so many.

        Raises
        ------
        InvalidInput
            A case that is not there, or a limit below 1.
        """
        known = {case.name: case for case in self.cases}
        missing = sorted(set(wanted) - set(known))
        if missing:
            raise InvalidInput(
                f"There is no case {', '.join(missing)} in {self.name}.",
                f"It has {len(known)} cases: {_some(list(known))}.",
            )
        if limit is not None and limit < 1:
            raise InvalidInput(f"--limit {limit} leaves no case.", "Give 1 or more.")
        kept = [case for case in self.cases if not wanted or case.name in set(wanted)]
        return LabelledData(self.folder, tuple(kept[:limit]), self.names)

    def labels_named(self, wanted: Collection[str]) -> frozenset[int] | None:
        """Return the labels of these names or numbers; None, for all, where none is named.

        Raises
        ------
        InvalidInput
            Neither a number nor a name of ``labels.json``.
        """
        if not wanted:
            return None
        by_name = {name.casefold(): label for label, name in self.names}
        chosen: set[int] = set()
        for text in wanted:
            label = by_name.get(text.strip().casefold())
            if label is None and text.strip().isdecimal():
                label = int(text)
            if label is None:
                raise InvalidInput(
                    f"There is no label {text.strip()!r} in {self.name}.",
                    f"Give a number or one of: {', '.join(name for _, name in self.names)}.",
                )
            chosen.add(label)
        return frozenset(chosen)


def read_dataset(folder: Path) -> LabelledData:
    """Find the cases of a folder, and of the folders in it.

    Raises
    ------
    InvalidInput
        No such folder, no case in it, an image without labels, or two files of one case.
    """
    if not folder.is_dir():
        raise InvalidInput(f"There is no folder {folder}.", "Give the folder of a dataset.")
    images = _marked(folder, IMAGE_MARK)
    labels = _marked(folder, LABELS_MARK)
    if not images:
        raise InvalidInput(
            f"{folder} holds no image named <case>_img with one of the endings "
            f"{', '.join(READABLE_ENDINGS)}.",
            "Name images <case>_img.nii.gz and labels <case>_lab.nii.gz.",
        )
    bare = sorted(set(images) - set(labels))
    if bare:
        raise InvalidInput(
            f"{len(bare)} images have no labels beside them: {_some(bare)}.",
            "Add <case>_lab, or move these images out of the folder.",
        )
    cases = tuple(LabelledCase(name, images[name], labels[name]) for name in sorted(images))
    return LabelledData(folder, cases, _label_names(folder / "labels.json"))


def cases_of_split(path: Path, part: str, dataset: str) -> tuple[str, ...]:
    """Return the cases that a split file gives to one part of a dataset.

    Parameters
    ----------
    path : Path
        JSON of the form ``{part: {dataset: [case, ...]}}``.
    part : str
        For instance ``validation``.
    dataset : str
        Name of the dataset's folder.

    Raises
    ------
    UnreadableFile
        The file is missing or not of that form.
    InvalidInput
        The part or the dataset is not in it, or has no cases.
    """
    split = _read_json(path)
    parts = split if isinstance(split, dict) else {}
    if part not in parts:
        raise InvalidInput(
            f"{path.name} has no part {part!r}.", f"It has: {', '.join(map(str, parts))}."
        )
    datasets = parts[part] if isinstance(parts[part], dict) else {}
    cases = datasets.get(dataset)
    if not isinstance(cases, list) or not cases:
        raise InvalidInput(
            f"The part {part!r} of {path.name} has no cases of {dataset!r}.",
            f"It has: {', '.join(map(str, datasets))}.",
        )
    return tuple(str(case) for case in cases)


def _marked(folder: Path, mark: str) -> dict[str, Path]:
    """Return the files whose stem ends with a mark, by case."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob(f"*{mark}.*")):
        stem, ending = path.name.split(f"{mark}.", maxsplit=1)
        if f".{ending.lower()}" not in READABLE_ENDINGS:
            continue
        case = (path.parent / stem).relative_to(folder).as_posix()
        if case in found:
            raise InvalidInput(
                f"The case {case} has two files: {found[case].name} and {path.name}.",
                "Keep one of them in the folder.",
            )
        found[case] = path
    return found


def _label_names(path: Path) -> tuple[tuple[int, str], ...]:
    if not path.exists():
        return ()
    entries = _read_json(path)
    if not isinstance(entries, dict):
        return ()
    named = {
        int(key): value
        for key, value in entries.items()
        if key.strip().isdecimal() and isinstance(value, str)
    }
    texts = list(named.values())
    return tuple(
        (label, name if texts.count(name) == 1 else f"{name} ({label})")
        for label, name in sorted(named.items())
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadableFile(f"{path} cannot be read: {error.strerror}.", "Check the path.") from (
            error
        )
    except ValueError as error:
        raise UnreadableFile(f"{path} is not JSON: {error}.", "Mend it or leave it out.") from error


def _some(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (" ..." if len(names) > count else "")
