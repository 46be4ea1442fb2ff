"""One series that holds several volumes: which tag tells its echoes or times apart.

Rules
-----
* Echoes are always parted. Other tags are asked only where several slices lie at one place, since
  scanners also number what belongs together (every slice an acquisition of its own).
* A tag, or two together, counts if every part has at most one slice at a place and there are not
  more parts than slices at the fullest place. The first in the order of `MARKS` wins.
* It decides who belongs together, and not whether that makes a grid.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protosam.dicom.frames import MARKS, Frame

_NAMES = {
    "EchoNumbers": "echo",
    "EchoTime": "echo time",
    "EffectiveEchoTime": "echo time",
    "TemporalPositionIdentifier": "time point",
    "TemporalPositionIndex": "time point",
    "TriggerTime": "trigger time",
    "NominalCardiacTriggerDelayTime": "trigger delay",
    "DiffusionBValue": "b-value",
    "InversionTime": "inversion time",
    "FlipAngle": "flip angle",
    "ComplexImageComponent": "component",
    "ConvolutionKernel": "kernel",
    "ImageType": "image type",
    "StackID": "stack",
    "AcquisitionNumber": "acquisition",
    "AcquisitionDateTime": "acquisition time",
    "AcquisitionTime": "acquisition time",
    "ContentTime": "content time",
}


@dataclass(frozen=True, eq=False)
class Part:
    """Slices that belong to one volume."""

    name: str
    """What sets it apart in its series, as 'echo 2'; '' where there is one part."""
    frames: tuple[Frame, ...]
    """In any order."""


def parts_of(frames: Sequence[Frame]) -> tuple[Part, ...]:
    """Part the slices of a series by what their headers say.

    Parameters
    ----------
    frames : sequence of Frame
        One series, at least one slice.

    Returns
    -------
    tuple of Part
        Sorted by the values of the tags, numbers as numbers. One part where nothing had to be
        parted, or where no tag could do it.
    """
    echoes = _grouped(frames, ("EchoNumbers",))
    if len(echoes) > 1:
        return tuple(
            Part(_joined(f"echo {key[0]}", part.name), part.frames)
            for key in sorted(echoes, key=_sort_key)
            for part in _parted(echoes[key])
        )
    return _parted(frames)


def _parted(frames: Sequence[Frame]) -> tuple[Part, ...]:
    fullest = max(Counter(_place(one) for one in frames).values())
    if fullest == 1:
        return (Part("", tuple(frames)),)
    varying = [name for name in MARKS if len({one.marks.get(name) for one in frames}) > 1]
    for names in itertools.chain(((a,) for a in varying), itertools.combinations(varying, 2)):
        groups = _grouped(frames, names)
        if len(groups) == fullest and all(_at_most_one(group) for group in groups.values()):
            return tuple(
                Part(_label(names, key), tuple(groups[key]))
                for key in sorted(groups, key=_sort_key)
            )
    return (Part("", tuple(frames)),)


def _grouped(frames: Sequence[Frame], names: tuple[str, ...]) -> dict[tuple[str, ...], list[Frame]]:
    groups: dict[tuple[str, ...], list[Frame]] = defaultdict(list)
    for one in frames:
        groups[tuple(one.marks.get(name, "") for name in names)].append(one)
    return groups


def _place(one: Frame) -> tuple[float, ...]:
    """Round place and direction to 0.01 mm; slices of two planes may share a corner."""
    numbers = np.concatenate([one.position_lps_mm, one.normal_lps])
    return tuple((numbers.round(2) + 0.0).tolist())


def _at_most_one(frames: Sequence[Frame]) -> bool:
    return max(Counter(_place(one) for one in frames).values()) == 1


def _label(names: tuple[str, ...], key: tuple[str, ...]) -> str:
    return ", ".join(
        f"{_NAMES[name]} {_plain(value)}" for name, value in zip(names, key, strict=True)
    )


def _plain(value: str) -> str:
    """Numbers without the zeros that one writer sets and another does not; times as they are."""
    is_number, number, _ = _number_first(value)
    return f"{number:g}" if is_number == 0 and len(value) < 6 + ("." in value) else value


def _joined(*names: str) -> str:
    return ", ".join(name for name in names if name)


def _sort_key(key: tuple[str, ...]) -> tuple[tuple[int, float, str], ...]:
    return tuple(_number_first(value) for value in key)


def _number_first(value: str) -> tuple[int, float, str]:
    """Key that sorts numbers before texts, and 2 before 10."""
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0.0, value
