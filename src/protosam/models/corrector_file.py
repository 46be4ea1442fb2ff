"""Weights files of the networks that correct answers: the 3-D head and the 2-D decoder.

Owns the form of the file (float16 safetensors with family and widths in the header), the card
beside the one that comes with the package, and every refusal. Knows nothing of what the networks
see.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from protosam.errors import ModelUnavailable, WeightsRefused
from protosam.models.cards import builtin_folder

Network = TypeVar("Network", bound=nn.Module)
Widths = tuple[int, int, int, int]


@dataclass(frozen=True)
class CorrectorKind:
    """What tells one kind of file from the other, and what messages call it."""

    family: str
    """Entry ``family`` of the header."""
    name: str
    """As in "does not hold the 3-D head"."""
    builtin_file: str
    """The one that comes with the package; its card lies beside it."""
    next_step: str
    """What to do about a file that is refused."""


def write_corrector(
    kind: CorrectorKind, network: nn.Module, widths: Widths, path: Path, facts: dict[str, str]
) -> None:
    """Write the weights; `facts` are further entries of the header."""
    tensors = {k: v.detach().half().contiguous() for k, v in network.state_dict().items()}
    settings = json.dumps({"widths": widths})
    save_file(tensors, path, metadata={"family": kind.family, "settings": settings, **facts})


def builtin_corrector(kind: CorrectorKind) -> tuple[Path, str]:
    """Path of the file that comes with the package, and the digest on its card.

    Raises
    ------
    ModelUnavailable
        If the package lacks the card.
    """
    path = builtin_folder() / kind.builtin_file
    card = path.with_suffix(".card.json")
    try:
        return path, str(json.loads(card.read_text("utf-8"))["sha256"])
    except (OSError, ValueError, KeyError) as error:
        raise ModelUnavailable(
            f"This installation lacks its {kind.name}, or the card of it ({card}).",
            "Install the package again.",
        ) from error


def read_corrector(
    kind: CorrectorKind, path: Path, sha256: str | None, build: Callable[[Widths], Network]
) -> tuple[Network, str]:
    """Read the network and the digest of its file.

    Parameters
    ----------
    kind : CorrectorKind
    path : path
    sha256 : str or None
        What the digest must be; not checked if None.
    build : widths -> network
        Makes a network to be filled.

    Raises
    ------
    WeightsRefused
        If the file is another one, damaged, or does not fit the network.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if sha256 is not None and digest != sha256:
            raise WeightsRefused(
                f"{path.name} has the digest {digest[:12]}...; wanted is {sha256[:12]}...",
                kind.next_step,
            )
        return _filled(kind, path, build), digest
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsRefused(
            f"{path.name} does not hold the {kind.name}: {str(error).splitlines()[0]}",
            kind.next_step,
        ) from error


def _filled(kind: CorrectorKind, path: Path, build: Callable[[Widths], Network]) -> Network:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    if metadata.get("family") != kind.family:
        raise WeightsRefused(f"{path.name} holds no {kind.name}.", kind.next_step)
    fine, half, quarter, eighth = (int(n) for n in json.loads(metadata["settings"])["widths"])
    network = build((fine, half, quarter, eighth))
    network.load_state_dict(tensors)
    return network
