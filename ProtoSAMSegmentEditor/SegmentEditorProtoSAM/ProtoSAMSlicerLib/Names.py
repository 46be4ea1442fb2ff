"""Weights files and adapters that the user has added, by name.

Rules
-----
* The scene holds names; where a name leads on this machine stands in Slicer's settings. A scene
  that is given to somebody else so never holds a path.
* A name that is not known here is handed on as it is: it may be one of the built-in names.
"""

from __future__ import annotations

import json
from pathlib import Path

import slicer

MODELS = "ProtoSAM/ModelFiles"
"""Key in Slicer's settings: JSON object, name -> weights file."""

ADAPTERS = "ProtoSAM/AdapterFolders"
"""Key in Slicer's settings: JSON object, name -> adapter folder."""


def known(key: str) -> dict[str, str]:
    """Names and paths under a key; empty if the setting cannot be read."""
    text = slicer.app.userSettings().value(key)
    try:
        entries = json.loads(str(text)) if text else {}
    except ValueError:
        return {}
    if not isinstance(entries, dict):
        return {}
    return {str(name): str(path) for name, path in entries.items()}


def add(key: str, path: str) -> str:
    """Remember a file or folder under its own name, and return that name."""
    name = Path(path).stem if Path(path).is_file() else Path(path).name
    entries = known(key)
    entries[name] = path
    slicer.app.userSettings().setValue(key, json.dumps(entries))
    return name


def path_of(key: str, name: str) -> str:
    """Where a name leads; the name itself where nothing is known of it."""
    return known(key).get(name, name)
