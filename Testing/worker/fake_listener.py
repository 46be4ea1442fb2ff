"""The real door of a worker that listens, with the fake engine behind it."""

from __future__ import annotations

import sys

from fake_worker import FakeEngine

from protosam.worker import __main__ as door

if __name__ == "__main__":
    door._build = lambda options, tell: FakeEngine()
    sys.exit(door.main())
