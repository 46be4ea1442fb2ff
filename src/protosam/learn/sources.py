"""Where training samples come from: licensed image folders and procedural shapes.

Prepares every volume once (windowed to 0..1 with room for other windows, float16, with its labels
beside it) as plain .npy files in a cache folder that processes share by memory map. Only data
sets whose licence allows shipping what was trained on them are named in `SHIPPABLE`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from protosam.errors import InvalidInput
from protosam.geometry import spacing_kji_mm
from protosam.intensity import auto_window
from protosam.learn.settings import TrainBaseSettings
from protosam.learn.shapes import procedural_volume

SHIPPABLE = {
    "btcv_abdomen_ct": "CC BY 4.0",
    "hippocampus_msd": "CC BY-SA 4.0",
    "openkbp_headneck_ct": "free with citation (OpenKBP)",
    "sunnybrook_2d": "public domain",
}
"""Data sets that may be trained on for weights that are given away, with their licences."""

MakeVolume = Callable[[], tuple[Any, Any, tuple[float, float, float]]]
"""Gives image, labels and spacing of one volume."""

ROOM = (-1.0, 2.0)
"""Prepared intensities keep this range round the window's 0..1, so that windows can be varied."""


@dataclass(frozen=True, eq=False)
class Source:
    """One prepared volume.

    Attributes
    ----------
    image : (K, J, I) float16, memory-mapped
        0..1 is the automatic window; clipped to `ROOM`.
    labels : (K, J, I) uint8, memory-mapped
    spacing_kji_mm : (3,) floats
    objects : label -> (start, stop) per axis
        Bounding box of every label.
    """

    image: npt.NDArray[np.float16]
    labels: npt.NDArray[np.uint8]
    spacing_kji_mm: tuple[float, float, float]
    objects: dict[int, tuple[tuple[int, int], ...]]


def training_cases(data: Path, dataset: str, held_out: int) -> list[str]:
    """Names of the training cases of a data set, without the last `held_out` 3-D ones.

    Raises
    ------
    InvalidInput
        If `data` has no split.json.
    """
    split = data / "split.json"
    if not split.is_file():
        raise InvalidInput(
            f"{data} has no split.json.", "Give the folder that holds the data sets and the split."
        )
    cases = sorted(json.loads(split.read_text("utf-8"))["train"].get(dataset, []))
    return cases if dataset.endswith("_2d") else cases[: max(0, len(cases) - held_out)]


def prepare(
    data: Path | None,
    cache: Path,
    settings: TrainBaseSettings,
    on_progress: Callable[[int, int], None],
) -> None:
    """Write all volumes of the mix to `cache`, leaving those that are there.

    Parameters
    ----------
    data : path or None
        Folder of the data sets; None trains on procedural shapes alone.
    cache : path
        One folder a source, one .npy pair a volume.
    on_progress : (done, total) -> None
    """
    jobs = list(_jobs(data, settings))
    missing = [
        (target, make)
        for name, case, make in jobs
        if not ((target := cache / name / case) / "facts.json").is_file()
    ]
    done = len(jobs) - len(missing)
    on_progress(done, len(jobs))
    processes = min(len(missing), settings.processes * (1 + settings.loaders))
    if processes < 2:
        for count, (target, make) in enumerate(missing, start=done + 1):
            _prepare_one(target, make)
            on_progress(count, len(jobs))
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(_prepare_one, target, make) for target, make in missing]
        for count, one in enumerate(as_completed(running), start=done + 1):
            one.result()
            on_progress(count, len(jobs))


def _prepare_one(target: Path, make: MakeVolume) -> None:
    _store(target, *make())


def _jobs(data: Path | None, settings: TrainBaseSettings) -> Iterator[tuple[str, str, MakeVolume]]:
    for name in settings.mix:
        if name == "procedural":
            for index in range(settings.procedural_volumes):
                yield name, f"{index:04d}", partial(_procedural, index, settings.seed)
        elif data is not None and (data / name).is_dir():
            if name not in SHIPPABLE:
                raise InvalidInput(
                    f"{name} is not among the data sets whose licence allows shipping.",
                    f"Use only {', '.join(sorted(SHIPPABLE))}.",
                )
            for case in training_cases(data, name, settings.held_out):
                yield name, case, partial(_read_case, data / name, case)


def _procedural(index: int, seed: int) -> tuple[Any, Any, tuple[float, float, float]]:
    painted = procedural_volume(seed * 100_003 + index)
    return painted.image, painted.labels, (1.0, 1.0, 1.0)


def _read_case(folder: Path, case: str) -> tuple[Any, Any, tuple[float, float, float]]:
    nifti = folder / f"{case}_img.nii.gz"
    if nifti.is_file():
        image = _nifti(nifti)
        voxels = np.asarray(image.dataobj).T
        labels = np.asarray(_nifti(folder / f"{case}_lab.nii.gz").dataobj).T
        spacing = spacing_kji_mm(np.asarray(image.affine))
    else:
        voxels = np.asarray(Image.open(folder / f"{case}_img.png").convert("L"))[None]
        labels = (np.asarray(Image.open(folder / f"{case}_lab.png").convert("L")) > 0)[None]
        spacing = (1.0, 1.0, 1.0)
    window = auto_window(voxels)
    scaled = (voxels.astype(np.float32) - window.low) / (window.high - window.low)
    return scaled, labels.astype(np.uint8), spacing


def _nifti(path: Path) -> nib.Nifti1Image:
    return cast(nib.Nifti1Image, nib.load(path))


def _store(target: Path, image: Any, labels: Any, spacing: tuple[float, float, float]) -> None:
    """Write one volume; facts.json last, so that an interrupted one is written again."""
    target.mkdir(parents=True, exist_ok=True)
    np.save(target / "image.npy", np.clip(image, *ROOM).astype(np.float16))
    np.save(target / "labels.npy", np.ascontiguousarray(labels, dtype=np.uint8))
    boxes = ndimage.find_objects(labels)
    objects = {
        str(value): [[s.start, s.stop] for s in box]
        for value, box in enumerate(boxes, start=1)
        if box is not None and np.count_nonzero(labels[box] == value) >= 20
    }
    facts = {"spacing_kji_mm": [float(v) for v in spacing], "objects": objects}
    (target / "facts.json").write_text(json.dumps(facts), "utf-8")


def load_sources(cache: Path, settings: TrainBaseSettings) -> dict[str, list[Source]]:
    """Memory-map what `prepare` wrote, by name of the source; sources without volumes are absent.

    Raises
    ------
    InvalidInput
        If nothing is there to train on.
    """
    found = {name: [_open(f) for f in sorted((cache / name).glob("*"))] for name in settings.mix}
    found = {name: [s for s in sources if s.objects] for name, sources in found.items()}
    found = {name: sources for name, sources in found.items() if sources}
    if not found:
        raise InvalidInput(f"{cache} holds no prepared volumes.", "Run the preparation first.")
    return found


def _open(folder: Path) -> Source:
    facts = json.loads((folder / "facts.json").read_text("utf-8"))
    k, j, i = facts["spacing_kji_mm"]
    return Source(
        np.load(folder / "image.npy", mmap_mode="r"),
        np.load(folder / "labels.npy", mmap_mode="r"),
        (k, j, i),
        {int(v): tuple((a, b) for a, b in box) for v, box in facts["objects"].items()},
    )
