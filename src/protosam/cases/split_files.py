"""Split files of others: who was for training and who for validation.

Owns the forms that are read (JSON) and the one way from a pickle to JSON. A pickle is a program;
its operations are listed first, and one that does anything but build lists, tables, texts and
numbers is refused before any of it is carried out. Speaks no coordinates.
"""

from __future__ import annotations

import io
import json
import pickle
import pickletools
from pathlib import Path
from typing import Any

from protosam.errors import InvalidInput, UnreadableFile
from protosam.storage import atomic_path

MOST_BYTES = 16 << 20
"""A split of 100,000 cases takes 3 MB; more is no split."""

# fmt: off
HARMLESS = frozenset(
    {
        "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE",
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "UNICODE",
        "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "STRING", "SHORT_BINSTRING", "BINSTRING",
        "EMPTY_LIST", "APPEND", "APPENDS", "LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2",
        "TUPLE3", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS",
        "FROZENSET", "PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET", "MEMOIZE",
    }
)
# fmt: on
"""Operations of a pickle that build plain values and import nothing."""


class _NothingImported(pickle.Unpickler):
    """Second lock behind the list of operations."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Refuse every import."""
        raise pickle.UnpicklingError(f"{module_name}.{global_name} was asked for")

    def persistent_load(self, pid: Any) -> Any:
        """Refuse every outside reference."""
        raise pickle.UnpicklingError(f"the outside object {pid} was asked for")


def read_split(path: Path, part: str, fold: int = 0) -> tuple[str, ...]:
    """Cases of one part of a split file.

    Parameters
    ----------
    path : Path
        JSON: ``{part: [case, ...]}``, or nnU-Net's ``[{"train": [...], "val": [...]}, ...]``.
    part : str
        For instance ``train``.
    fold : int
        Which of nnU-Net's folds.

    Raises
    ------
    UnreadableFile
        When the file is missing or of another form; a pickle is refused with the next step.
    InvalidInput
        When the part or fold is not there or empty.
    """
    if path.suffix in (".pkl", ".pickle"):
        raise UnreadableFile(
            f"{path.name} is a pickle, which can carry code.",
            "Convert it: protosam cases convert-split FILE.pkl FILE.json.",
        )
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"{path} cannot be read: {error}.", "Check the file.") from error
    if isinstance(parts, list):
        if not 0 <= fold < len(parts):
            raise InvalidInput(f"{path.name} has no fold {fold}.", f"It has {len(parts)}.")
        parts = parts[fold]
    cases = parts.get(part) if isinstance(parts, dict) else None
    if not isinstance(cases, list) or not cases or not all(isinstance(c, str) for c in cases):
        has = ", ".join(map(str, parts)) if isinstance(parts, dict) else "none"
        raise InvalidInput(f"{path.name} has no cases in the part {part!r}.", f"It has: {has}.")
    return tuple(cases)


def convert_split(source: Path, target: Path) -> None:
    """Write a pickled split as JSON, without ever running code that may be in it.

    Parameters
    ----------
    source : Path
        Lists, tables, texts and numbers, of at most `MOST_BYTES`.
    target : Path
        JSON file to write.

    Raises
    ------
    UnreadableFile
        When the file cannot be read, is too large, or holds anything else.
    StorageFailure
        When the target cannot be written.
    """
    value = _plain(_checked_bytes(source), source)
    try:
        text = json.dumps(value, indent=1, default=_listed, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UnreadableFile(
            f"{source.name} holds what JSON cannot: {error}.", "Give a split of lists and texts."
        ) from error
    with atomic_path(target) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _checked_bytes(source: Path) -> bytes:
    try:
        size = source.stat().st_size
        data = source.read_bytes() if size <= MOST_BYTES else b""
    except OSError as error:
        raise UnreadableFile(f"{source} cannot be read: {error.strerror}.", "Check it.") from error
    if size > MOST_BYTES:
        raise UnreadableFile(
            f"{source.name} has {size} bytes; a split has at most {MOST_BYTES}.",
            "Give the split file alone.",
        )
    try:
        used = {operation.name for operation, _, _ in pickletools.genops(data)}
    except (ValueError, IndexError, UnicodeDecodeError, OverflowError) as error:
        raise UnreadableFile(f"{source.name} is no pickle: {error}.", "Give another file.") from (
            error
        )
    if refused := sorted(used - HARMLESS):
        raise UnreadableFile(
            f"{source.name} was not read: it asks for code ({', '.join(refused)}).",
            "Write the split as JSON with the program that made it.",
        )
    return data


def _plain(data: bytes, source: Path) -> Any:
    try:
        return _NothingImported(io.BytesIO(data), encoding="utf-8").load()
    except (pickle.UnpicklingError, ValueError, IndexError, KeyError, TypeError, EOFError) as error:
        raise UnreadableFile(f"{source.name} is damaged: {error}.", "Give another file.") from error


def _listed(value: object) -> list[Any]:
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"a {type(value).__name__}")
