"""The command line, and the two things that come before it.

The worker takes stdout for its protocol before anything else is imported, so `protosam worker` is
recognised here, where nothing but the standard library's basics has been imported. And OpenMP reads
its settings once, when torch is imported.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point of the command `protosam`."""
    # OpenMP's threads wait for each other by spinning. Where another program wants a core, too,
    # they spin for whole time slices: on 2 cores beside a training, embedding one slice took over
    # a second that way, and 39 ms with threads that sleep. Workers inherit it.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if sys.argv[1:2] == ["worker"]:
        from protosam.worker.__main__ import main as serve

        sys.exit(serve(sys.argv[2:]))
    from protosam.cli.app import app

    app()
