"""What a user asks for: points, boxes, a prior mask, and the set that one answer follows from.

Rules
-----
* Coordinates are continuous voxel indices (k, j, i); voxel n covers [n - 0.5, n + 0.5).
* Every prompt carries an id that is unique in its set, so that it can be removed or moved.
* Values are frozen and validated when made: a prompt that exists can be obeyed, save for its place
  in a volume, which `PromptSet.check_inside` checks.
* JSON is strict both ways: unknown or missing keys, wrong types, NaN and infinity are refused.
* It knows nothing of voxels' values, models, scenes or files.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np

from protosam import prompt_checks as checks
from protosam.errors import InvalidInput, InvalidPrompt
from protosam.extents import (
    BoolArray,
    Extent,
    IndexKJI,
    PointKJI,
    bounding_extent,
    pack_bits,
    unpack_bits,
)

Scope: TypeAlias = Literal["slice", "volume"]

FORMAT_VERSION = 1
"""Version of the JSON form; raised whenever a key changes its meaning."""

_SET_KEYS = ("version", "scope", "axis", "points", "boxes", "prior")
_POINT_KEYS = ("id", "point_kji", "positive")
_BOX_KEYS = ("id", "corner_a_kji", "corner_b_kji", "axis")
_PRIOR_KEYS = ("id", "start_kji", "stop_kji", "bits")
_Prompt = TypeVar("_Prompt", "Point", "Box")


@dataclass(frozen=True)
class Point:
    """A click: this voxel belongs to the object (positive) or does not (negative)."""

    point_kji: PointKJI
    """Continuous voxel index (k, j, i)."""
    positive: bool
    """True inside the object, False outside."""
    id: str
    """Unique in its set."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "point_kji", checks.finite_point(self.point_kji, "point"))
        checks.check_bool(self.positive)
        checks.check_id(self.id)

    @property
    def voxel_kji(self) -> IndexKJI:
        """Index of the voxel that the point lies in."""
        k, j, i = (math.floor(x + 0.5) for x in self.point_kji)
        return k, j, i


@dataclass(frozen=True)
class Box:
    """A box that holds the object, its two opposite corners included.

    With `axis` it lies in one slice: both corners have the same coordinate on that axis.
    """

    corner_a_kji: PointKJI
    """One corner, continuous voxel index (k, j, i)."""
    corner_b_kji: PointKJI
    """The opposite corner; any order."""
    axis: int | None
    """0, 1, 2 (k, j, i) for a box in one slice across that axis; None for a 3-D box."""
    id: str
    """Unique in its set."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "corner_a_kji", checks.finite_point(self.corner_a_kji, "corner"))
        object.__setattr__(self, "corner_b_kji", checks.finite_point(self.corner_b_kji, "corner"))
        checks.check_axis(self.axis)
        checks.check_id(self.id)
        sides = [b - a for a, b in zip(self.low_kji, self.high_kji, strict=True)]
        if self.axis is not None and sides[self.axis] != 0:
            raise InvalidPrompt(
                f"A box in one slice across axis {self.axis} has corners {sides[self.axis]:g} "
                "voxels apart on that axis, wanted 0.",
                "Give both corners the same slice, or make it a 3-D box.",
            )
        flat = ["kji"[n] for n in range(3) if n != self.axis and sides[n] <= 0]
        if flat:
            kind = "3-D box" if self.axis is None else "box"
            raise InvalidPrompt(
                f"The {kind} {self.low_kji} to {self.high_kji} (k, j, i) is flat along "
                f"{', '.join(flat)}.",
                "Drag a box with an area, or give it two different slices.",
            )

    @property
    def low_kji(self) -> PointKJI:
        """Corner with the smaller coordinates."""
        k, j, i = (min(a, b) for a, b in zip(self.corner_a_kji, self.corner_b_kji, strict=True))
        return k, j, i

    @property
    def high_kji(self) -> PointKJI:
        """Corner with the larger coordinates."""
        k, j, i = (max(a, b) for a, b in zip(self.corner_a_kji, self.corner_b_kji, strict=True))
        return k, j, i


@dataclass(frozen=True)
class PriorMask:
    """A mask to start from, cut to its bounding box and packed."""

    extent: Extent
    """Where the crop lies in the volume; not empty, starts at index 0 or later."""
    bits: bytes
    """The crop, packed by `extents.pack_bits`."""
    id: str
    """Unique in its set."""

    def __post_init__(self) -> None:
        checks.check_id(self.id)
        if not isinstance(self.extent, Extent) or not isinstance(self.bits, bytes):
            raise checks.wrong_value("prior mask", self.extent, "an Extent and packed bytes")
        if self.extent.is_empty or min(self.extent.start_kji) < 0:
            raise InvalidPrompt(
                f"The prior mask lies at {self.extent.start_kji} to {self.extent.stop_kji} "
                "(k, j, i), wanted a box with voxels that starts at index 0 or later.",
                "Make it from a mask that is not empty.",
            )
        try:
            unpack_bits(self.bits, self.extent.shape_kji)
        except InvalidInput as error:
            raise InvalidPrompt(f"Prior mask: {error.message}", error.next_step) from error

    @classmethod
    def from_mask(cls, mask: BoolArray, id: str) -> PriorMask:
        """Prior of a whole mask.

        Parameters
        ----------
        mask : (K, J, I) bool
        id : str

        Raises
        ------
        InvalidPrompt
            The mask is empty.
        """
        extent = bounding_extent(mask)
        if extent is None:
            raise InvalidPrompt("The prior mask is empty.", "Leave the prior mask out.")
        return cls(extent, pack_bits(mask[extent.slices]), id)

    def to_mask(self, shape_kji: Sequence[int]) -> BoolArray:
        """Whole mask in a volume of this shape.

        Returns
        -------
        (K, J, I) bool

        Raises
        ------
        InvalidPrompt
            The prior does not fit into the shape.
        """
        self.check_inside(shape_kji)
        mask = np.zeros(tuple(shape_kji), dtype=np.bool_)
        mask[self.extent.slices] = unpack_bits(self.bits, self.extent.shape_kji)
        return mask

    def check_inside(self, shape_kji: Sequence[int]) -> None:
        """Refuse a prior that reaches out of a volume of this shape."""
        if any(b > n for b, n in zip(self.extent.stop_kji, shape_kji, strict=True)):
            raise InvalidPrompt(
                f"The prior mask ends at {self.extent.stop_kji} (k, j, i), the image at "
                f"{tuple(shape_kji)}.",
                "Give a mask on the grid of this image.",
            )


@dataclass(frozen=True)
class PromptSet:
    """Everything that one answer follows from; each request carries the whole set."""

    points: tuple[Point, ...] = ()
    """Clicks, in the order they were made."""
    boxes: tuple[Box, ...] = ()
    """Boxes, in the order they were made."""
    prior: PriorMask | None = None
    """Mask to start from, if any."""
    scope: Scope = "volume"
    """Whether the answer fills the clicked slices only, or the volume."""
    axis: int | None = None
    """Array axis across which the user's slices lie; None lets the segmenter choose."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", _all_of(self.points, Point, "points"))
        object.__setattr__(self, "boxes", _all_of(self.boxes, Box, "boxes"))
        if self.prior is not None and not isinstance(self.prior, PriorMask):
            raise checks.wrong_value("prior", self.prior, "a prior mask or nothing")
        if self.scope not in get_args(Scope):
            raise checks.wrong_value("scope", self.scope, "'slice' or 'volume'")
        checks.check_axis(self.axis)
        ids = self.ids
        if len(set(ids)) != len(ids):
            twice = sorted({one for one in ids if ids.count(one) > 1})
            raise InvalidPrompt(
                f"The prompt ids {twice} occur more than once.", "Give each prompt its own id."
            )

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of all prompts: points, boxes, prior."""
        prior = () if self.prior is None else (self.prior.id,)
        return (*(p.id for p in self.points), *(b.id for b in self.boxes), *prior)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to follow."""
        return not self.ids

    def with_point(self, point: Point) -> PromptSet:
        """Set with one more click; a click with an id of the set takes the place of the old one."""
        if any(p.id == point.id for p in self.points):
            moved = tuple(point if p.id == point.id else p for p in self.points)
            return replace(self, points=moved)
        return replace(self, points=(*self.points, point))

    def with_box(self, box: Box) -> PromptSet:
        """Set with one more box; a box with an id of the set takes the place of the old one."""
        if any(b.id == box.id for b in self.boxes):
            return replace(self, boxes=tuple(box if b.id == box.id else b for b in self.boxes))
        return replace(self, boxes=(*self.boxes, box))

    def without(self, id: str) -> PromptSet:
        """Set without the prompt of this id.

        Raises
        ------
        InvalidPrompt
            There is no prompt with this id.
        """
        if id not in self.ids:
            raise InvalidPrompt(f"There is no prompt {id!r}.", f"The prompts are {self.ids}.")
        return replace(
            self,
            points=tuple(p for p in self.points if p.id != id),
            boxes=tuple(b for b in self.boxes if b.id != id),
            prior=None if self.prior is not None and self.prior.id == id else self.prior,
        )

    def check_inside(self, shape_kji: Sequence[int]) -> None:
        """Refuse a set of which any part lies outside of a volume.

        A volume of n voxels along an axis reaches from -0.5 to n - 0.5; box corners may lie on
        either face, points on the lower one.

        Parameters
        ----------
        shape_kji : 3 ints
            Shape of the volume.

        Raises
        ------
        InvalidPrompt
            Names the prompt, its place and the shape.
        """
        for point in self.points:
            if not _inside(point.voxel_kji, shape_kji):
                raise _outside("point", point.id, point.point_kji, shape_kji)
        for box in self.boxes:
            for corner in (box.low_kji, box.high_kji):
                if any(not -0.5 <= x <= n - 0.5 for x, n in zip(corner, shape_kji, strict=True)):
                    raise _outside("box corner", box.id, corner, shape_kji)
        if self.prior is not None:
            self.prior.check_inside(shape_kji)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form: plain dicts, lists, numbers, strings; the bits as base64."""
        prior = self.prior
        return {
            "version": FORMAT_VERSION,
            "scope": self.scope,
            "axis": self.axis,
            "points": [
                {"id": p.id, "point_kji": list(p.point_kji), "positive": p.positive}
                for p in self.points
            ],
            "boxes": [
                {
                    "id": b.id,
                    "corner_a_kji": list(b.corner_a_kji),
                    "corner_b_kji": list(b.corner_b_kji),
                    "axis": b.axis,
                }
                for b in self.boxes
            ],
            "prior": None
            if prior is None
            else {
                "id": prior.id,
                "start_kji": list(prior.extent.start_kji),
                "stop_kji": list(prior.extent.stop_kji),
                "bits": base64.b64encode(prior.bits).decode("ascii"),
            },
        }

    @classmethod
    def from_json(cls, data: object) -> PromptSet:
        """Set from `to_json`'s form.

        Raises
        ------
        InvalidPrompt
            Another version, an unknown or missing key, a wrong type, or an invalid prompt.
        """
        fields = checks.strict_record(data, _SET_KEYS, "prompt set")
        if type(fields["version"]) is not int or fields["version"] != FORMAT_VERSION:
            raise InvalidPrompt(
                f"The prompts have format version {fields['version']!r}, wanted {FORMAT_VERSION}.",
                "Use the same version of ProtoSAM that saved them.",
            )
        points = checks.strict_list(fields["points"], "points")
        boxes = checks.strict_list(fields["boxes"], "boxes")
        return cls(
            points=tuple(Point(**checks.strict_record(p, _POINT_KEYS, "point")) for p in points),
            boxes=tuple(Box(**checks.strict_record(b, _BOX_KEYS, "box")) for b in boxes),
            prior=None if fields["prior"] is None else _prior_from_json(fields["prior"]),
            scope=fields["scope"],
            axis=fields["axis"],
        )

    def to_text(self) -> str:
        """JSON text of `to_json`, on one line with sorted keys: equal sets give equal texts."""
        return json.dumps(self.to_json(), allow_nan=False, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> PromptSet:
        """Set from `to_text`'s form; refuses what is not JSON, repeated keys included."""
        return cls.from_json(checks.strict_loads(text))


def _prior_from_json(data: object) -> PriorMask:
    fields = checks.strict_record(data, _PRIOR_KEYS, "prior mask")
    if not isinstance(fields["bits"], str):
        raise checks.wrong_value("bits", fields["bits"], "base64 text")
    try:
        bits = base64.b64decode(fields["bits"], validate=True)
        extent = Extent(
            tuple(checks.strict_list(fields["start_kji"], "start_kji")),
            tuple(checks.strict_list(fields["stop_kji"], "stop_kji")),
        )
    except (binascii.Error, ValueError) as error:
        raise InvalidPrompt(f"Prior mask: {error}", "Remove it and try again.") from error
    return PriorMask(extent, bits, fields["id"])


def _all_of(values: Sequence[_Prompt], kind: type[_Prompt], what: str) -> tuple[_Prompt, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise checks.wrong_value(what, values, f"a sequence of {kind.__name__}")
    for value in values:
        if not isinstance(value, kind):
            raise checks.wrong_value(what, value, f"{kind.__name__} objects")
    return tuple(values)


def _inside(voxel_kji: Sequence[int], shape_kji: Sequence[int]) -> bool:
    return all(0 <= x < n for x, n in zip(voxel_kji, shape_kji, strict=True))


def _outside(what: str, id: str, place_kji: PointKJI, shape_kji: Sequence[int]) -> InvalidPrompt:
    place = ", ".join(f"{x:.1f}" for x in place_kji)
    return InvalidPrompt(
        f"The {what} {id!r} at (k, j, i) = ({place}) lies outside of the image "
        f"{tuple(int(n) for n in shape_kji)}.",
        "Place it inside the image.",
    )
