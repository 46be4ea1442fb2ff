"""A worker with a small random network, whose runs that teach take a second: MODEL STEPS."""

from __future__ import annotations

import os
import sys
import time

from protosam.worker.descriptors import claim_descriptors

STARTED_S = time.monotonic()
WIRE = claim_descriptors() if __name__ == "__main__" else (-1, -1)

from io import FileIO  # noqa: E402

from protosam.worker.server import Server  # noqa: E402

RECIPE = {
    "rear_blocks": 1,
    "rank": 2,
    "batch": 1,
    "examples": 4,
    "replayed": 0,
    "checkpoint_every": 1,
}


def build(tell):
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the real door does, for busy machines
    from protosam.worker.service import ModelEngine, ModelSettings

    recipe = {**RECIPE, "steps": int(sys.argv[2])}
    return ModelEngine(ModelSettings(sys.argv[1], "cpu", None, recipe), tell)


if __name__ == "__main__":
    server = Server(FileIO(WIRE[0], "rb"), FileIO(WIRE[1], "wb"), started_s=STARTED_S)
    server.start()
    sys.exit(server.serve(build))
