"""From the text of ``--point``, ``--box``, ``--axis`` and ``--window`` to values.

Points and boxes come as voxel indices (k, j, i) or, with ``--ras``, as RAS mm, which
`protosam.geometry` turns into the voxel that they lie in.
"""

from __future__ import annotations

from collections.abc import Sequence

from protosam.errors import InvalidInput, InvalidPrompt
from protosam.extents import PointKJI
from protosam.geometry import Volume, nearest_voxel
from protosam.intensity import Window
from protosam.prompts import Box, Point

_SIGNS = {"+": True, "-": False}
_AXES = {"k": 0, "j": 1, "i": 2, "0": 0, "1": 1, "2": 2}


def parse_points(texts: Sequence[str], volume: Volume, *, ras: bool) -> tuple[Point, ...]:
    """Clicks from texts like ``40,120,130,+``; the sign may be left out and is then ``+``.

    Parameters
    ----------
    texts : sequence of str
        ``k,j,i`` or, with `ras`, ``R,A,S`` in mm, then ``+`` (object) or ``-`` (not object).
    volume : Volume
        The image that they lie in.
    ras : bool
        Whether they are RAS mm.

    Raises
    ------
    InvalidPrompt
        A text is not a point, or the point lies outside of the image.
    """
    return tuple(
        _parse_point(text, f"point-{n}", volume, ras) for n, text in enumerate(texts, start=1)
    )


def parse_boxes(texts: Sequence[str], volume: Volume, *, ras: bool) -> tuple[Box, ...]:
    """Boxes from texts like ``20,80,90,60,150,160``: two opposite corners, both inside.

    A box whose corners share the index of one axis lies in that slice; any other is 3-D.

    Parameters
    ----------
    texts : sequence of str
        Six numbers: ``k,j,i`` (or ``R,A,S`` in mm with `ras`) of one corner, then of the other.
    volume : Volume
        The image that they lie in.
    ras : bool
        Whether they are RAS mm.

    Raises
    ------
    InvalidPrompt
        A text is not a box, a corner lies outside, or the box is flat along two axes.
    """
    return tuple(_parse_box(text, f"box-{n}", volume, ras) for n, text in enumerate(texts, start=1))


def parse_axis(text: str | None) -> int | None:
    """Array axis from ``k``, ``j``, ``i`` or 0, 1, 2; None stays None.

    Raises
    ------
    InvalidInput
        The text is none of these.
    """
    if text is None:
        return None
    if text.lower() not in _AXES:
        raise InvalidInput(f"There is no axis {text!r}.", "Choose k (or 0), j (1) or i (2).")
    return _AXES[text.lower()]


def parse_window(text: str) -> Window | None:
    """Window from ``low,high``; None for ``auto``.

    Raises
    ------
    InvalidInput
        The text is neither, or the window is empty.
    """
    if text.strip().lower() == "auto":
        return None
    numbers = _numbers(text.split(","))
    if numbers is None or len(numbers) != 2:
        raise InvalidInput(
            f"The window {text!r} is not two numbers.", "Give --window LOW,HIGH or --window auto."
        )
    return Window(numbers[0], numbers[1])


def _parse_point(text: str, id: str, volume: Volume, ras: bool) -> Point:
    parts = [part.strip() for part in text.split(",")]
    positive = _SIGNS.get(parts[-1])
    numbers = _numbers(parts if positive is None else parts[:-1])
    if numbers is None or len(numbers) != 3:
        raise InvalidPrompt(
            f"The point {text!r} is not three numbers and a sign.",
            "Write it as R,A,S,+ in mm." if ras else "Write it as k,j,i,+ or k,j,i,-.",
        )
    place = _in_voxels(numbers, volume, ras)
    return Point(place, positive is not False, id)


def _parse_box(text: str, id: str, volume: Volume, ras: bool) -> Box:
    numbers = _numbers(text.split(","))
    if numbers is None or len(numbers) != 6:
        raise InvalidPrompt(
            f"The box {text!r} is not six numbers.",
            "Write its two corners as k0,j0,i0,k1,j1,i1 (or, with --ras, as R,A,S,R,A,S in mm).",
        )
    first, second = (_in_voxels(corner, volume, ras) for corner in (numbers[:3], numbers[3:]))
    shared = [axis for axis in range(3) if first[axis] == second[axis]]
    return Box(first, second, shared[0] if len(shared) == 1 else None, id)


def _in_voxels(numbers: Sequence[float], volume: Volume, ras: bool) -> PointKJI:
    if ras:
        return nearest_voxel(volume.affine, numbers, volume.shape_kji)
    k, j, i = numbers
    return k, j, i


def _numbers(parts: Sequence[str]) -> list[float] | None:
    try:
        return [float(part) for part in parts]
    except ValueError:
        return None
