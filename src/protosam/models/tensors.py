"""Reads weights files as tensors and nothing else.

Owns the one place where a weights file is opened: ``.safetensors``, or PyTorch files through
``torch.load(weights_only=True)``, which builds tensors and plain containers and refuses any
other object before it is made. Knows nothing of models, digests or folders. Speaks no
coordinates.
"""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from protosam.errors import WeightsRefused

TORCH_SUFFIXES = (".pth", ".pt", ".bin")
"""Names that PyTorch files have."""

WRAPPERS = ("model", "state_dict")
"""Keys under which training scripts keep the tensors beside their own state."""

_DAMAGE = (
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    OSError,
)
"""What torch's own readers raise on damaged files; found by mutating 20,000 of them."""


@dataclass(frozen=True, eq=False)
class TensorFile:
    """What a weights file holds.

    Attributes
    ----------
    tensors : dict of str to torch.Tensor
        On the CPU, as stored.
    metadata : dict of str to str
        The header's text entries of a safetensors file; empty for PyTorch files.
    """

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]


def read_tensors(path: Path) -> TensorFile:
    """Read a weights file; nothing in it is ever executed.

    Parameters
    ----------
    path : Path
        ``.safetensors``, or a PyTorch file (``.pth``, ``.pt``, ``.bin``) that holds a table of
        tensors, plain or under ``model`` or ``state_dict``.

    Raises
    ------
    WeightsRefused
        When the file is missing, of another kind, damaged, or holds more than tensors.
    """
    _refuse_what_is_no_weights_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return TensorFile(_table_of_tensors(_read_torch(path), path), {})


def _refuse_what_is_no_weights_file(path: Path) -> None:
    if path.suffix not in (".safetensors", *TORCH_SUFFIXES):
        raise WeightsRefused(
            f"{path} is named {path.suffix or 'without an ending'}; weights are .safetensors, "
            f"{', '.join(TORCH_SUFFIXES)} files.",
            "Give the weights file itself.",
        )
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise WeightsRefused(
            f"{path} cannot be read: {error.strerror or error}.",
            "Check that the file exists and that you may read it.",
        ) from error
    if not head:
        raise WeightsRefused(f"{path} is empty.", "Download or copy it again.")
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise WeightsRefused(
            f"{path} is a web page, not weights: a site answered the download with a page "
            "(a login, a proxy or a notice).",
            "Download it again in a browser and look at what comes.",
        )
    if text.startswith(b"version https://git-lfs"):
        raise WeightsRefused(
            f"{path} is a Git LFS pointer, not the weights themselves.",
            "Run `git lfs pull` in its repository.",
        )


def _read_safetensors(path: Path) -> TensorFile:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
            return TensorFile(tensors, dict(file.metadata() or {}))
    except (SafetensorError, *_DAMAGE) as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> object:
    try:
        # Only the zip layout can be mapped; mapping avoids a second copy of a 2.5 GB file.
        mapped = zipfile.is_zipfile(path)
        with warnings.catch_warnings():
            # A file of another pickle protocol is read or refused below; both say enough.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            loaded: object = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise _not_only_tensors(path, error) from error
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    return loaded


def _not_only_tensors(path: Path, error: pickle.UnpicklingError) -> WeightsRefused:
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        what = f"holds more than tensors ({found[1]}), which could run code"
    else:
        found = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
        what = f"is no plain table of tensors ({found[1].strip() if found else 'damaged'})"
    return WeightsRefused(
        f"{path} {what}. It was refused and nothing in it was executed.",
        "Ask its makers for a .safetensors file, or download it again.",
    )


def _damaged(path: Path, error: Exception) -> WeightsRefused:
    lines = str(error).strip().splitlines()
    reason = lines[0][:160].rstrip(".") if lines else type(error).__name__
    return WeightsRefused(
        f"{path} is damaged or not a weights file ({reason}).", "Download or copy it again."
    )


def _table_of_tensors(loaded: object, path: Path) -> dict[str, torch.Tensor]:
    table = loaded
    if isinstance(table, Mapping):
        for wrapper in WRAPPERS:
            if isinstance(table.get(wrapper), Mapping):
                table = table[wrapper]
                break
    if not isinstance(table, Mapping) or not table:
        raise WeightsRefused(
            f"{path} holds {type(loaded).__name__}, wanted is a table of named tensors.",
            "Give a file saved from a model's state_dict().",
        )
    for key, value in table.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise WeightsRefused(
                f"{path} holds {key!r} of type {type(value).__name__}; wanted are named tensors.",
                "Give a file saved from a model's state_dict().",
            )
    return dict(table)
