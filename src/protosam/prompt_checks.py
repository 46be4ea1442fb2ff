"""Checks of single prompt fields, and of the strict JSON that prompts travel in.

Rules
-----
* A check returns the plain value or raises `InvalidPrompt` with what was given and what was wanted.
* It knows types and ranges only: no prompt classes, no volumes.
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from protosam.errors import InvalidPrompt
from protosam.extents import PointKJI

MAX_ID_LENGTH = 128
"""Longest id in characters: a UUID has 36, an MRML node id with a counter about 60."""


def strict_record(data: object, keys: Sequence[str], what: str) -> dict[str, Any]:
    """Return a dict with exactly these keys; `what` names it in the error."""
    if not isinstance(data, Mapping):
        raise wrong_value(what, data, f"an object with the keys {', '.join(keys)}")
    unknown, missing = [k for k in data if k not in keys], [k for k in keys if k not in data]
    if unknown or missing:
        raise InvalidPrompt(
            f"A {what} has unknown keys {unknown} and lacks {missing}.",
            f"Give exactly the keys {', '.join(keys)}.",
        )
    return dict(data)


def strict_list(value: object, what: str) -> list[Any]:
    """Return the value, if it is a JSON list."""
    if not isinstance(value, list):
        raise wrong_value(what, value, "a list")
    return value


def finite_point(values: object, what: str) -> PointKJI:
    """Three floats from any three finite real numbers."""
    plain = list(values) if isinstance(values, (Sequence, np.ndarray)) else []
    floats = [_finite_float(value) for value in plain]
    if len(floats) != 3 or None in floats:
        raise wrong_value(what, values, "three finite numbers (k, j, i)")
    k, j, i = (value for value in floats if value is not None)
    return k, j, i


def _finite_float(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value) + 0.0  # -0.0 becomes 0.0: equal prompts, equal text
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def check_bool(value: object) -> None:
    """Refuse what is not true or false; 0 and 1 are numbers."""
    if not isinstance(value, bool):
        raise wrong_value("positive", value, "true or false")


def check_id(value: object) -> None:
    """Refuse what is not a text of a usable length."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_LENGTH:
        raise wrong_value("id", value, f"a text of 1 to {MAX_ID_LENGTH} characters")


def check_axis(value: object) -> None:
    """Refuse what is neither an array axis nor None."""
    if value is not None and (type(value) is not int or value not in (0, 1, 2)):
        raise wrong_value("axis", value, "0 (k), 1 (j), 2 (i) or nothing")


def strict_loads(text: str) -> object:
    """Value of a JSON text; what is not JSON and keys that occur twice are refused."""
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise InvalidPrompt(
            f"The prompts are not JSON: {error}.", "Remove them and click again."
        ) from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return record


def wrong_value(what: str, given: object, wanted: str) -> InvalidPrompt:
    """Error that says what was given and what was wanted, ready to be raised."""
    shown = repr(given)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return InvalidPrompt(f"The {what} is {shown}, wanted {wanted}.", "Correct it and try again.")
