"""Examples as files: `.psexample`, tensors of the safetensors format with a JSON header.

Owns the form of the file and the checks before anything in it is believed. Nothing in a file is
ever executed, and nothing is read before its announced size is found to be small enough. The
header holds names, codes, the model's digest and the shapes' meaning; a digest over all tensors
tells whether they are as written. There is no voxel, no date and no name of a patient in it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from protosam.errors import InvalidInput, UnreadableFile
from protosam.extents import pack_bits, unpack_bits
from protosam.prompting.align import Landmarks
from protosam.prompting.cloud import Scale
from protosam.prompting.example import Case, Closer, Example, Lesson, Sample
from protosam.storage import atomic_path

ENDING = ".psexample"
FORMAT = "protosam-example"
VERSION = 1
"""Raised whenever an entry changes its meaning."""

MAX_BYTES = 256 * 2**20
"""Largest file that is read; thirteen organs of one CT take about 6 MB."""

MAX_CASES, MAX_LESSONS = 200, 200

Tensors = dict[str, npt.NDArray[Any]]


def save_example(example: Example, path: Path) -> None:
    """Write an example.

    Parameters
    ----------
    example : Example
    path : Path
        Ends with ``.psexample``; an old file is replaced once the new one is complete.

    Raises
    ------
    InvalidInput
        Another ending.
    StorageFailure
        It could not be written.
    """
    check_ending(path)
    tensors: Tensors = {}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "model": example.model_name,
        "model_digest": example.model_digest,
        "cases": [_put_case(tensors, n, one) for n, one in enumerate(example.cases)],
        "lessons": [_put_lesson(tensors, n, one) for n, one in enumerate(example.lessons)],
    }
    header["tensors_digest"] = _digest(tensors)
    data = save(tensors, metadata={"example": json.dumps(header)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def check_ending(path: Path) -> None:
    """Refuse a name that does not end with ``.psexample``."""
    if path.suffix.lower() != ENDING:
        raise InvalidInput(
            f"An example cannot be written as {path.name}.", f"End the name with {ENDING}."
        )


def load_example(path: Path) -> Example:
    """Read an example.

    Raises
    ------
    UnreadableFile
        Missing, too large, damaged, changed since it was written, of another version, or not
        an example at all.
    """
    if not path.is_file():
        raise UnreadableFile(f"There is no file {path}.", "Give an example made before.")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UnreadableFile(
            f"{path.name} has {size / 2**20:.0f} MB, an example {MAX_BYTES / 2**20:.0f} at most.",
            "Give a file that `protosam example make` has written.",
        )
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})["example"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise _refused(path, str(error).splitlines()[0] if str(error) else "no header") from error
    _check_header(header, tensors, path)
    try:
        return _example_of(header, tensors)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise _refused(path, f"{type(error).__name__}: {error}") from error


def _check_header(header: Any, tensors: Tensors, path: Path) -> None:
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise _refused(path, "its header is another one")
    if header.get("version") != VERSION:
        raise UnreadableFile(
            f"{path.name} is an example of version {header.get('version')!r}; this program reads "
            f"version {VERSION}.",
            "Make the example anew, or use the program that made it.",
        )
    if header.get("tensors_digest") != _digest(tensors):
        raise _refused(path, "its features are not those that were written")


def _refused(path: Path, reason: str) -> UnreadableFile:
    return UnreadableFile(
        f"{path.name} is not a whole example: {reason}.", "Make the example anew."
    )


def _put_case(tensors: Tensors, n: int, case: Case) -> dict[str, Any]:
    marks = case.landmarks
    tensors[f"case{n}.landmarks"] = marks.features.astype(np.float16)
    tensors[f"case{n}.landmarks_mm"] = marks.at_mm.astype(np.float32)
    tensors[f"case{n}.scale"] = np.stack([case.scale.mean, case.scale.deviation])
    return {
        "low_mm": marks.low_mm.tolist(),
        "high_mm": marks.high_mm.tolist(),
        "spacing_kji_mm": list(case.spacing_kji_mm),
    }


def _put_lesson(tensors: Tensors, n: int, lesson: Lesson) -> dict[str, Any]:
    return {
        "name": lesson.name,
        "terminology": lesson.terminology,
        "colour": list(lesson.colour),
        "samples": [
            _put_sample(tensors, f"lesson{n}.sample{m}", one)
            for m, one in enumerate(lesson.samples)
        ],
    }


def _put_sample(tensors: Tensors, key: str, sample: Sample) -> dict[str, Any]:
    tensors[f"{key}.features"] = sample.features.astype(np.float16)
    tensors[f"{key}.at_mm"] = sample.at_mm.astype(np.float32)
    tensors[f"{key}.slice_index"] = sample.slice_index.astype(np.int32)
    tensors[f"{key}.beside"] = sample.beside.astype(np.float16)
    tensors[f"{key}.beside_mm"] = sample.beside_mm.astype(np.float32)
    tensors[f"{key}.mask"] = np.frombuffer(pack_bits(sample.mask), dtype=np.uint8)
    if sample.closer is not None:
        tensors[f"{key}.closer.features"] = sample.closer.features.astype(np.float16)
        tensors[f"{key}.closer.at_mm"] = sample.closer.at_mm.astype(np.float32)
        tensors[f"{key}.closer.beside"] = sample.closer.beside.astype(np.float16)
    return {
        "case": sample.case,
        "mask_shape": list(sample.mask.shape),
        "mask_affine": sample.mask_affine.tolist(),
        "closer_mm": None if sample.closer is None else sample.closer.side_mm,
        "mask_weights": list(sample.mask_weights),
    }


def _example_of(header: Mapping[str, Any], tensors: Tensors) -> Example:
    cases = [_case(tensors, n, one) for n, one in enumerate(_listed(header["cases"], MAX_CASES))]
    lessons = [
        _lesson(tensors, n, one, len(cases))
        for n, one in enumerate(_listed(header["lessons"], MAX_LESSONS))
    ]
    return Example(
        _text(header["model"]), _text(header["model_digest"]), tuple(cases), tuple(lessons)
    )


def _case(tensors: Tensors, n: int, entry: Mapping[str, Any]) -> Case:
    features = _rows(tensors, f"case{n}.landmarks")
    scale = _rows(tensors, f"case{n}.scale")
    at_mm = _rows(tensors, f"case{n}.landmarks_mm").astype(np.float64)
    if len(features) != len(at_mm) or len(scale) != 2 or not len(features):
        raise ValueError("landmarks without places")
    low, high = (_numbers(entry[key], 3) for key in ("low_mm", "high_mm"))
    k, j, i = _numbers(entry["spacing_kji_mm"], 3)
    if min(k, j, i) <= 0:
        raise ValueError("a spacing that is not positive")
    marks = Landmarks(features, at_mm, np.array(low), np.array(high))
    return Case(marks, Scale(scale[0], scale[1]), (k, j, i))


def _lesson(tensors: Tensors, n: int, entry: Mapping[str, Any], cases: int) -> Lesson:
    samples = tuple(
        _sample(tensors, f"lesson{n}.sample{m}", one, cases)
        for m, one in enumerate(_listed(entry["samples"], MAX_CASES))
    )
    red, green, blue = _numbers(entry["colour"], 3)
    return Lesson(_text(entry["name"]), _text(entry["terminology"]), (red, green, blue), samples)


def _sample(tensors: Tensors, key: str, entry: Mapping[str, Any], cases: int) -> Sample:
    features, at_mm = _rows(tensors, f"{key}.features"), _rows(tensors, f"{key}.at_mm")
    slices = tensors[f"{key}.slice_index"].astype(np.int64)
    if not len(features) or not len(features) == len(at_mm) == len(slices):
        raise ValueError("features without places")
    if entry["case"] not in range(cases):
        raise ValueError("a sample of no case")
    k, j, i = (int(side) for side in _numbers(entry["mask_shape"], 3))
    affine = np.array([_numbers(row, 4) for row in _listed(entry["mask_affine"], 4)])
    closer = None
    if entry["closer_mm"] is not None:
        (side_mm,) = _numbers([entry["closer_mm"]], 1)
        near = [_rows(tensors, f"{key}.closer.{name}") for name in ("features", "at_mm", "beside")]
        closer = Closer(side_mm, near[0], near[1].astype(np.float64), near[2])
    return Sample(
        case=int(entry["case"]),
        features=features,
        at_mm=at_mm.astype(np.float64),
        slice_index=slices,
        beside=_rows(tensors, f"{key}.beside"),
        beside_mm=_rows(tensors, f"{key}.beside_mm").astype(np.float64),
        mask=unpack_bits(tensors[f"{key}.mask"].tobytes(), (k, j, i)),
        mask_affine=affine,
        closer=closer,
        mask_weights=tuple(_numbers(entry["mask_weights"], len(entry["mask_weights"]))),
    )


def _rows(tensors: Tensors, key: str) -> npt.NDArray[np.float32]:
    rows = tensors[key]
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise ValueError(f"{key} is not a table of numbers")
    return rows.astype(np.float32)


def _numbers(values: Any, count: int) -> list[float]:
    numbers = [float(v) for v in values]
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{values!r} instead of {count} numbers")
    return numbers


def _listed(values: Any, limit: int) -> list[Any]:
    if not isinstance(values, list) or not 0 < len(values) <= limit:
        raise ValueError(f"a list of 1 to {limit} entries is missing")
    return values


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > 1000:
        raise ValueError("a text is missing")
    return value


def _digest(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        one = np.ascontiguousarray(tensors[key])
        digest.update(f"{key}{one.dtype.str}{one.shape}".encode())
        digest.update(one.tobytes())
    return digest.hexdigest()
