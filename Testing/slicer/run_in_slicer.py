"""Run the tests inside Slicer and end it: exit code 0 if all passed, 1 otherwise.

Given to Slicer with ``--python-script``; see ProtoSAMEffectTest.py for the whole command. An error
that nobody catches would leave Slicer running for ever, so every one is caught here.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

import slicer


def main() -> int:
    """Run all tests; returns the exit code."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    try:
        importlib.import_module("ProtoSAMEffectTest").ProtoSAMEffectTest().runTest()
    except Exception:  # noqa: BLE001 (whatever it is, Slicer has to end with a failure)
        traceback.print_exc()
        return 1
    return 0


slicer.util.exit(main())
