"""In place of a Python with a model: the real queue by the cheap way, and the real other commands.

Called as ``desk_program.py -m protosam COMMAND ...``.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))


def main(words: list[str]) -> int:
    if words[0] != "batch":
        sys.argv = ["protosam", *words]
        from protosam.cli.app import app

        app()
        return 0
    import batch_runner
    from cheap_way import CheapWay

    from protosam.batch.queue import Hooks

    asked = []
    signal.signal(signal.SIGINT, lambda *_: asked.append(True))
    if "fail" in os.environ.get("DESK", ""):
        print("There is no such model. Choose another.", file=sys.stderr)
        return 1
    out = Path(words[words.index("--out") + 1])
    way = CheapWay(pause_s=float(os.environ.get("DESK_PAUSE_S", "0")))
    went = batch_runner.go(
        Path(words[1]),
        out,
        batch_runner.Here,
        hooks=Hooks(should_stop=lambda: bool(asked)),
        way=way,
    )
    return 0 if went else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[3:]))
