"""The worker's claim to its own stdin and stdout, at the level of the operating system.

Rules
-----
* It imports nothing but `os` and `sys`, so that it can run before anything that might print.
* After the claim descriptor 1 is the error stream, and descriptor 0 is empty: what Python code, C
  code or a child process prints lands in the log, and none of them can read the host's frames.
"""

from __future__ import annotations

import os
import sys


def claim_descriptors() -> tuple[int, int]:
    """Take stdin and stdout away from everybody else.

    Returns
    -------
    (int, int)
        Descriptors to read frames from and to write frames to; not inherited by children.
    """
    # Opened first: where the host has closed the error stream, this takes its place as number 2,
    # which one of the two copies below would otherwise get.
    nothing = os.open(os.devnull, os.O_RDWR)
    wire_in, wire_out = os.dup(0), os.dup(1)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    if nothing == 2:
        os.set_inheritable(2, True)
    else:
        os.close(nothing)
    for stream in (sys.stdout, sys.stderr):
        # Lines appear in the log when they are printed, and in the order in which they are.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True, errors="backslashreplace")
    return wire_in, wire_out
