"""Boxes of whole voxels, and masks as packed bits.

Rules
-----
* Indices are (k, j, i), whole, and half open: the stop is one past the last voxel.
* It knows arrays only: no affines, no millimetres (`geometry` does), no prompts, no files.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protosam.errors import InvalidInput

BoolArray: TypeAlias = NDArray[np.bool_]
FloatArray: TypeAlias = NDArray[np.float64]
VoxelArray: TypeAlias = NDArray[Any]
IndexKJI: TypeAlias = tuple[int, int, int]
PointKJI: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Extent:
    """A box of whole voxels, half open: start_kji is inside, stop_kji is not.

    It may reach outside of an array (after `pad`) until `clip` cuts it to one.
    """

    start_kji: IndexKJI
    """First index along k, j, i."""
    stop_kji: IndexKJI
    """One past the last index along k, j, i; never below `start_kji`."""

    def __post_init__(self) -> None:
        start, stop = three_ints(self.start_kji, "start"), three_ints(self.stop_kji, "stop")
        if any(b < a for a, b in zip(start, stop, strict=True)):
            raise InvalidInput(
                f"An extent from {start} to {stop} (k, j, i) ends before it starts.",
                "Give the smaller index of each axis first.",
            )
        object.__setattr__(self, "start_kji", start)
        object.__setattr__(self, "stop_kji", stop)

    @classmethod
    def of_shape(cls, shape_kji: Sequence[int]) -> Extent:
        """Extent of a whole array of this shape."""
        return cls((0, 0, 0), three_ints(shape_kji, "shape"))

    @property
    def shape_kji(self) -> IndexKJI:
        """Number of voxels along k, j, i."""
        k, j, i = (b - a for a, b in zip(self.start_kji, self.stop_kji, strict=True))
        return k, j, i

    @property
    def is_empty(self) -> bool:
        """Whether it holds no voxel."""
        return 0 in self.shape_kji

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box in an array; refused while it starts before index 0."""
        if min(self.start_kji) < 0:
            raise InvalidInput(
                f"An extent that starts at {self.start_kji} (k, j, i) lies outside of the array.",
                "Clip it to the array's shape first.",
            )
        k, j, i = (slice(a, b) for a, b in zip(self.start_kji, self.stop_kji, strict=True))
        return k, j, i

    def union(self, other: Extent) -> Extent:
        """Smallest extent that holds both; an empty one adds nothing."""
        if self.is_empty or other.is_empty:
            return other if self.is_empty else self
        start = np.minimum(self.start_kji, other.start_kji)
        stop = np.maximum(self.stop_kji, other.stop_kji)
        return Extent(three_ints(start, "start"), three_ints(stop, "stop"))

    def intersection(self, other: Extent) -> Extent:
        """Largest extent that lies in both; empty if there is none."""
        start = np.maximum(self.start_kji, other.start_kji)
        stop = np.maximum(start, np.minimum(self.stop_kji, other.stop_kji))
        return Extent(three_ints(start, "start"), three_ints(stop, "stop"))

    def clip(self, shape_kji: Sequence[int]) -> Extent:
        """Part of it that lies in an array of this shape; empty if there is none."""
        return self.intersection(Extent.of_shape(shape_kji))

    def pad(self, margin_kji: int | Sequence[int]) -> Extent:
        """Extent with a margin of voxels (one number, or one per axis) added on both sides."""
        start = np.subtract(self.start_kji, margin_kji)
        stop = np.add(self.stop_kji, margin_kji)
        return Extent(three_ints(start, "start"), three_ints(stop, "stop"))

    def moved(self, offset_kji: Sequence[int]) -> Extent:
        """Extent of the same shape elsewhere: both of its corners shifted by so many voxels."""
        start = np.add(self.start_kji, offset_kji)
        stop = np.add(self.stop_kji, offset_kji)
        return Extent(three_ints(start, "start"), three_ints(stop, "stop"))

    def relative_to(self, other: Extent) -> Extent:
        """Return this extent in indices of an array that covers `other`."""
        return self.moved([-a for a in other.start_kji])

    def holds(self, index_kji: Sequence[int]) -> bool:
        """Whether the voxel at this index lies inside."""
        bounds = zip(self.start_kji, index_kji, self.stop_kji, strict=True)
        return all(a <= n < b for a, n, b in bounds)


def bounding_extent(mask: VoxelArray) -> Extent | None:
    """Smallest extent that holds every voxel that is not zero; None if there is none.

    Parameters
    ----------
    mask : (K, J, I) bool or number
    """
    start, stop = [0, 0, 0], [int(n) for n in mask.shape]
    for axis, others in enumerate(((1, 2), (0, 2), (0, 1))):
        # Each pass looks only at what the one before has left over.
        found = np.flatnonzero(mask[_box(start, stop)].any(axis=others))
        if found.size == 0:
            return None
        start[axis], stop[axis] = int(found[0]), int(found[-1]) + 1
    return Extent(three_ints(start, "start"), three_ints(stop, "stop"))


def pack_bits(mask: BoolArray) -> bytes:
    """Mask as bits: C order (k, j, i), first voxel in the highest bit, last byte filled with 0.

    Parameters
    ----------
    mask : (K, J, I) bool
    """
    return np.packbits(np.asarray(mask, dtype=np.bool_)).tobytes()


def unpack_bits(bits: bytes, shape_kji: Sequence[int]) -> BoolArray:
    """Mask from `pack_bits`.

    Parameters
    ----------
    bits : bytes
        ceil(K * J * I / 8) bytes.
    shape_kji : 3 ints
        (K, J, I).

    Returns
    -------
    (K, J, I) bool
        A new, writable array.

    Raises
    ------
    InvalidInput
        The number of bytes does not fit the shape, or a filling bit is set.
    """
    shape = three_ints(shape_kji, "shape")
    count = shape[0] * shape[1] * shape[2]
    if len(bits) != -(-count // 8):
        raise InvalidInput(
            f"A mask of shape {shape} takes {-(-count // 8)} bytes, {len(bits)} were given.",
            "Send the whole mask, packed as one bit per voxel.",
        )
    flat = np.unpackbits(np.frombuffer(bits, dtype=np.uint8))
    if flat[count:].any():
        raise InvalidInput(
            f"The bits behind the last voxel of a mask of shape {shape} are not 0.",
            "Pack the mask with zeros at its end.",
        )
    return flat[:count].view(np.bool_).reshape(shape)


def _box(start: Sequence[int], stop: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in zip(start, stop, strict=True))


def three_ints(values: ArrayLike, name: str) -> IndexKJI:
    """Plain ints (k, j, i) from whole numbers of any kind; `name` says in errors what they are."""
    try:
        first, second, third = (operator.index(v) for v in values)  # type: ignore[union-attr, arg-type]
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"The {name} is {values!r}, wanted three whole numbers (k, j, i).",
            "Give one whole number for each axis.",
        ) from error
    return first, second, third
