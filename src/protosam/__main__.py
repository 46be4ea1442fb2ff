"""`python -m protosam` is the command `protosam`."""

from __future__ import annotations

from protosam.cli import main

if __name__ == "__main__":
    main()
