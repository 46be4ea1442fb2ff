"""Fields of messages: from values to JSON and arrays, and strictly back.

Rules
-----
* The annotation of a dataclass field, as text, names its codec in `CODECS`; a field with another
  annotation cannot travel.
* Every field of a message is on the wire and nothing else is: a missing or an unknown field is an
  error that names it. Only the fields of `LATER` may be missing.
* Types are exact: True is not 1, "1" is not 1, NaN and infinity do not travel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from protosam.errors import InvalidInput
from protosam.extents import Extent
from protosam.intensity import Window
from protosam.mending import CleanUp, CleanUpReport, StepReport
from protosam.prompts import PriorMask, PromptSet
from protosam.wire.standings import AdapterInfo, Standing
from protosam.wire.teaching import SegmentClicks, TaughtSegment, packed_bytes

Arrays = dict[str, NDArray[Any]]
_STEP = "Use a worker and a host of the same ProtoSAM version."

LATER: dict[str, frozenset[str]] = {
    "CleanUp": frozenset({"smoothing_mm", "bodies"}),
    "Predict": frozenset({"partial", "settled"}),
    "Result": frozenset({"clean_up"}),
}
"""Fields that came after the first messages of this protocol version, by message: an older sender
leaves them out, and then their defaults hold."""


@dataclass(frozen=True)
class Codec:
    """How one kind of field travels."""

    to_json: Callable[[Any, str, Arrays], Any]
    """(value, field name, arrays to add to) -> what stands in the body; None for an array."""
    from_json: Callable[[Any, str, Arrays], Any]
    """(what stood in the body, field name, arrays to take from) -> value."""
    in_body: bool = True
    """False for a field that travels as an array only."""


def to_body(message: object) -> tuple[dict[str, Any], Arrays]:
    """Body and arrays of a message.

    Parameters
    ----------
    message : dataclass instance
        All its annotations are in `CODECS`.
    """
    if not is_dataclass(message):
        _refuse("message", message, "a message")
    body: dict[str, Any] = {}
    arrays: Arrays = {}
    for one in fields(message):
        codec = CODECS[str(one.type)]
        value = codec.to_json(getattr(message, one.name), one.name, arrays)
        if codec.in_body:
            body[one.name] = value
    return body, arrays


def from_body(message_type: type[Any], body: Mapping[str, Any], arrays: Arrays) -> Any:
    """Message of a type from its body and arrays.

    Parameters
    ----------
    message_type : dataclass
        All its annotations are in `CODECS`.
    body : mapping
        As it came; not trusted.
    arrays : dict of arrays
        As they came; every one must belong to a field.

    Raises
    ------
    InvalidInput
        A field is missing, unknown, of another type, or its value is refused by its own class.
    """
    described = fields(message_type)
    wanted = {one.name for one in described if CODECS[str(one.type)].in_body}
    left_out = (wanted & LATER.get(message_type.__name__, frozenset())) - body.keys()
    if body.keys() != wanted - left_out:
        missing, unknown = sorted(wanted - left_out - body.keys()), sorted(body.keys() - wanted)
        raise InvalidInput(
            f"A {message_type.__name__} message lacks the fields {missing} and has unknown "
            f"fields {unknown!r:.200}.",
            _STEP,
        )
    arrays = dict(arrays)
    values = {
        one.name: CODECS[str(one.type)].from_json(body.get(one.name), one.name, arrays)
        for one in described
        if one.name not in left_out
    }
    if arrays:
        raise InvalidInput(
            f"A {message_type.__name__} message came with unknown arrays {sorted(arrays)!r:.200}.",
            _STEP,
        )
    return message_type(**values)


def _refuse(name: str, value: object, wanted: str) -> NoReturn:
    raise InvalidInput(f"The field {name!r} is {value!r:.80}, wanted {wanted}.", _STEP)


def _exactly(kind: type[Any], wanted: str) -> Callable[[Any, str], Any]:
    def read(value: Any, name: str) -> Any:
        if type(value) is not kind:
            _refuse(name, value, wanted)
        return value

    return read


def _number(value: Any, name: str) -> float:
    if type(value) not in (int, float):
        _refuse(name, value, "a number")
    try:
        number = float(value)
    except OverflowError:
        _refuse(name, value, "a number below 1e308")
    if not math.isfinite(number):
        _refuse(name, value, "a finite number")
    return number


_text = _exactly(str, "text")
_whole = _exactly(int, "a whole number")
_truth = _exactly(bool, "true or false")
_list = _exactly(list, "a list")
_object = _exactly(dict, "an object")


def _three(read: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    def read_three(value: Any, name: str) -> Any:
        if len(_list(value, name)) != 3:
            _refuse(name, value, "three numbers")
        return tuple(read(one, name) for one in value)

    return read_three


def _parts(value: Any, name: str, *keys: str) -> list[Any]:
    """Values of an object that has exactly these keys."""
    if _object(value, name).keys() != set(keys):
        _refuse(name, value, f"an object of {', '.join(keys)}")
    return [value[key] for key in keys]


def _record(record_type: type[Any]) -> Callable[[Any, str], Any]:
    """Read one flat dataclass."""
    return lambda value, name: from_body(record_type, _object(value, name), {})


def _record_json(record: object) -> dict[str, Any]:
    return to_body(record)[0]


def _numbers_by_text(value: Any, name: str) -> dict[str, float]:
    return {key: _number(one, name) for key, one in _object(value, name).items()}


def _numbers_by_index(value: Any, name: str) -> dict[int, float]:
    if not all(key.isascii() and key.isdigit() and len(key) < 10 for key in _object(value, name)):
        _refuse(name, value, "an object with indices as keys")
    return {int(key): _number(one, name) for key, one in value.items()}


def _plain(write: Callable[[Any], Any], read: Callable[[Any, str], Any]) -> Codec:
    """Codec of a field that needs no array."""
    return Codec(lambda value, _, __: write(value), lambda value, name, _: read(value, name))


def _or_none(write: Callable[[Any], Any], read: Callable[[Any, str], Any]) -> Codec:
    return _plain(
        lambda value: None if value is None else write(value),
        lambda value, name: None if value is None else read(value, name),
    )


def _same(value: Any) -> Any:
    return value


def _take(name: str, arrays: Arrays, dtype: str, axes: int) -> NDArray[Any]:
    array = arrays.pop(name, None)
    if array is None:
        raise InvalidInput(f"The array {name!r} is missing.", _STEP)
    if array.ndim != axes or (dtype and array.dtype.str[1:] != dtype):
        wanted = f"{axes} axes{f' of {dtype}' if dtype else ''}"
        _refuse(name, f"{array.dtype.str[1:]} of shape {array.shape}", wanted)
    return array


def _put_array(value: Any, name: str, arrays: Arrays) -> None:
    # Booleans travel as the bytes that they are; a volume of 0 and 1 looks the same to a model.
    arrays[name] = value.view(np.uint8) if value.dtype == np.bool_ else value


def _put_bytes(value: bytes, name: str, arrays: Arrays) -> None:
    arrays[name] = np.frombuffer(value, dtype=np.uint8)


def _take_bytes(_: Any, name: str, arrays: Arrays) -> bytes:
    return _take(name, arrays, "u1", 1).tobytes()


def _put_prompts(prompts: PromptSet, name: str, arrays: Arrays) -> dict[str, Any]:
    """Prompts as their own JSON; the bits of a prior mask go as an array, not as base64."""
    prior = prompts.prior
    if prior is None:
        return {"set": prompts.to_json(), "prior": None}
    _put_bytes(prior.bits, f"{name}.prior", arrays)
    bare = replace(prompts, prior=None)
    return {"set": bare.to_json(), "prior": {"id": prior.id, "extent": _record_json(prior.extent)}}


def _take_prompts(value: Any, name: str, arrays: Arrays) -> PromptSet:
    bare, prior = _parts(value, name, "set", "prior")
    prompts = PromptSet.from_json(_object(bare, name))
    if prior is None:
        return prompts
    prior_id, extent = _parts(prior, name, "id", "extent")
    bits = _take_bytes(None, f"{name}.prior", arrays)
    return replace(
        prompts, prior=PriorMask(_record(Extent)(extent, name), bits, _text(prior_id, name))
    )


@dataclass(frozen=True)
class ModelInfo:
    """One model that the worker knows, whether its weights are there or not."""

    name: str
    """Name to ask for it."""
    family: str
    """What kind of model it is, as its card says."""
    licence: str
    """Licence of the weights."""
    available: bool
    """Whether the weights lie ready; False means import or fetch them first."""
    loaded: bool
    """Whether it is the model in memory."""


def _put_pieces(pieces: Sequence[bytes], name: str, arrays: Arrays) -> None:
    """Several runs of bytes as one array: a frame has few arrays, and may have many pieces."""
    _put_bytes(b"".join(pieces), name, arrays)


def _take_pieces(sizes: Sequence[int], name: str, arrays: Arrays) -> tuple[bytes, ...]:
    whole = _take_bytes(None, name, arrays)
    if any(size < 0 for size in sizes) or sum(sizes) != len(whole):
        _refuse(name, f"{len(whole)} bytes", f"{sum(sizes)} bytes in {len(sizes)} pieces")
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    return tuple(whole[end - size : end] for end, size in zip(ends, sizes, strict=True))


def _put_files(files: tuple[bytes, ...], name: str, arrays: Arrays) -> list[int]:
    _put_pieces(files, name, arrays)
    return [len(one) for one in files]


def _take_files(value: Any, name: str, arrays: Arrays) -> tuple[bytes, ...]:
    return _take_pieces([_whole(one, name) for one in _list(value, name)], name, arrays)


def _put_taught(segments: tuple[TaughtSegment, ...], name: str, arrays: Arrays) -> list[Any]:
    _put_pieces([one.bits for one in segments], name, arrays)
    return [
        {
            "name": one.name,
            "terminology": one.terminology,
            "colour": list(one.colour),
            "extent": _record_json(one.extent),
        }
        for one in segments
    ]


def _take_taught(value: Any, name: str, arrays: Arrays) -> tuple[TaughtSegment, ...]:
    rows = [
        _parts(one, name, "name", "terminology", "colour", "extent") for one in _list(value, name)
    ]
    extents = [_record(Extent)(row[3], name) for row in rows]
    pieces = _take_pieces([packed_bytes(one) for one in extents], name, arrays)
    return tuple(
        TaughtSegment(
            _text(row[0], name), _text(row[1], name), _three(_number)(row[2], name), extent, bits
        )
        for row, extent, bits in zip(rows, extents, pieces, strict=True)
    )


def _clicks(value: Any, name: str) -> SegmentClicks:
    of, prompts = _parts(value, name, "name", "set")
    return SegmentClicks(_text(of, name), PromptSet.from_json(_object(prompts, name)))


def _records(record_type: type[Any]) -> Codec:
    """Codec of any number of one flat dataclass."""
    read = _record(record_type)
    return _plain(
        lambda records: [_record_json(one) for one in records],
        lambda value, name: tuple(read(one, name) for one in _list(value, name)),
    )


CODECS: dict[str, Codec] = {
    "str": _plain(_same, _text),
    "int": _plain(int, _whole),
    "bool": _plain(bool, _truth),
    "float": _plain(float, _number),
    "float | None": _or_none(float, _number),
    "int | None": _or_none(int, _whole),
    "tuple[str, ...]": _plain(
        list, lambda value, name: tuple(_text(one, name) for one in _list(value, name))
    ),
    "tuple[int, ...]": _plain(
        list, lambda value, name: tuple(_whole(one, name) for one in _list(value, name))
    ),
    "dict[str, float]": _plain(
        lambda value: {key: float(one) for key, one in value.items()}, _numbers_by_text
    ),
    "dict[int, float]": _plain(
        lambda value: {str(key): float(one) for key, one in value.items()}, _numbers_by_index
    ),
    "IndexKJI": _plain(list, _three(_whole)),
    "PointKJI": _plain(list, _three(_number)),
    "Extent | None": _or_none(_record_json, _record(Extent)),
    "Window": _plain(_record_json, _record(Window)),
    "Window | None": _or_none(_record_json, _record(Window)),
    "CleanUp | None": _or_none(_record_json, _record(CleanUp)),
    "CleanUpReport": _plain(
        lambda report: [_record_json(one) for one in report.steps],
        lambda value, name: CleanUpReport(
            tuple(_record(StepReport)(one, name) for one in _list(value, name))
        ),
    ),
    "PromptSet": Codec(_put_prompts, _take_prompts),
    "VoxelArray": Codec(_put_array, lambda _, name, arrays: _take(name, arrays, "", 3), False),
    "FloatArray": Codec(_put_array, lambda _, name, arrays: _take(name, arrays, "f8", 2), False),
    "bytes": Codec(_put_bytes, _take_bytes, False),
    "tuple[bytes, ...]": Codec(_put_files, _take_files),
    "Colour": _plain(list, _three(_number)),
    "tuple[TaughtSegment, ...]": Codec(_put_taught, _take_taught),
    "tuple[SegmentClicks, ...]": _plain(
        lambda clicks: [{"name": one.name, "set": one.prompts.to_json()} for one in clicks],
        lambda value, name: tuple(_clicks(one, name) for one in _list(value, name)),
    ),
    "AdapterInfo": _plain(_record_json, _record(AdapterInfo)),
    "tuple[AdapterInfo, ...]": _records(AdapterInfo),
    "tuple[ModelInfo, ...]": _records(ModelInfo),
    "tuple[Standing, ...]": _records(Standing),
}
"""Codec of each annotation that a field of a message may have."""
