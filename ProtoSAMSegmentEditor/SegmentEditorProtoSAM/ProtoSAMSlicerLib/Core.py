"""The core package `protosam`: where it lies, and its way into Slicer's Python.

Rules
-----
* Found by itself: beside this package in an installed extension, under `src/` in a checkout.
* The folder found goes to the front of `sys.path`, so that both ends of the wire run the same
  version even where another one is installed.
* A core that cannot be imported is a sentence for the panel, never a traceback at Slicer's start.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ProtoSAMSlicerLib.Translation import tr as _

OLDEST_PYTHON = (3, 10)
"""What the core is written for."""


class CoreUnavailable(Exception):
    """The core cannot be used in this Slicer; the text says why and what to do."""


@dataclass(frozen=True)
class Core:
    """The parts of `protosam` that this side may use."""

    folder: Path
    """Folder that holds the package; goes into the worker's PYTHONPATH."""
    scene: ModuleType
    """`protosam.scene`."""
    client: ModuleType
    """`protosam.wire.client`."""
    errors: ModuleType
    """`protosam.errors`."""


def module_folder() -> Path:
    """Folder of the Slicer module, in which `Resources` lies."""
    return Path(__file__).resolve().parent.parent


def checkout_folder() -> Path:
    """Root of the checkout; in an installed extension a folder without meaning."""
    return module_folder().parent.parent


def core_folder() -> Path | None:
    """Folder that holds the package `protosam`, or None."""
    for folder in (module_folder(), checkout_folder() / "src"):
        if (folder / "protosam" / "__init__.py").is_file():
            return folder
    return None


def load() -> Core:
    """Import the core.

    Raises
    ------
    CoreUnavailable
        This Slicer's Python is too old, or the package is missing or broken.
    """
    if sys.version_info[:2] < OLDEST_PYTHON:
        raise CoreUnavailable(
            _(
                "ProtoSAM needs Python 3.10 or newer, and this Slicer has {version}. "
                "Use a newer version of Slicer."
            ).format(version=sys.version.split()[0])
        )
    folder = core_folder()
    if folder is None:
        raise CoreUnavailable(
            _("The ProtoSAM extension is not complete: the package protosam is missing.")
        )
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        return Core(
            folder,
            importlib.import_module("protosam.scene"),
            importlib.import_module("protosam.wire.client"),
            importlib.import_module("protosam.errors"),
        )
    except ImportError as error:
        raise CoreUnavailable(
            _("The ProtoSAM extension cannot be loaded: {error}.").format(error=error)
        ) from error
