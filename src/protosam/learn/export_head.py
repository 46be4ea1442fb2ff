"""The finished 3-D head: its weights file, and the card that says what went into it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protosam.models.refiner import BUILTIN_FILE, save_head
from protosam.models.volume_head import VolumeHead
from protosam.storage import atomic_path


def export_head(head: VolumeHead, folder: Path, facts: Mapping[str, Any]) -> Path:
    """Write the weights and their card.

    Parameters
    ----------
    head : VolumeHead
    folder : path
        Gets `BUILTIN_FILE` and the card beside it.
    facts : mapping
        What the card tells besides name, file, size and digest: base model, data, settings.

    Returns
    -------
    path of the weights
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / BUILTIN_FILE
    with atomic_path(path) as part:
        save_head(head, part, {"base": str(facts.get("base", ""))})
    card = {
        "format": 1,
        "name": path.stem,
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "size_bytes": path.stat().st_size,
        "parameters": sum(p.numel() for p in head.parameters()),
        **facts,
    }
    with atomic_path(path.with_suffix(".card.json")) as part:
        part.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return path
