"""The examples that the page has at hand: made here, or loaded from files.

Rules
-----
* Contents of `.psexample` files, as bytes, in memory until the program ends; the worker checks them
  when they are applied. Saving one is a download.
* Names come from the segments or from the file, never from the image: that may hold a patient's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from protosam.errors import InvalidInput
from protosam_app.uploads import safe_name

ENDING = ".psexample"

MAX_BYTES = 256 * 2**20
"""Largest example that the worker reads."""

MOST = 64
"""Examples at hand at most, which is as many as can be applied at once."""

SHOWN_NAMES = 3
"""Segments that an example is named after."""


@dataclass(frozen=True)
class Entry:
    """One example at hand."""

    id: int
    """To choose, save or forget it by."""
    name: str
    """As the user reads it."""
    content: bytes
    """Of its file."""
    chosen: bool = True
    """Whether it is applied with the next *Apply example*."""

    @property
    def file_name(self) -> str:
        """Name for the download."""
        return safe_name(self.name) + ENDING


class Shelf:
    """The examples of one page."""

    def __init__(self) -> None:
        self._count = 0
        self.entries: tuple[Entry, ...] = ()

    def put(self, name: str, content: bytes) -> Entry:
        """Keep an example; it alone is chosen then.

        Raises
        ------
        InvalidInput
            It is empty or too large, or there are too many.
        """
        if not 0 < len(content) <= MAX_BYTES:
            raise InvalidInput(
                f"The example has {len(content) / 2**20:.1f} MB, wanted up to "
                f"{MAX_BYTES / 2**20:.0f} MB.",
                "Give a file that *Use as example* or `protosam example make` has written.",
            )
        if len(self.entries) >= MOST:
            raise InvalidInput(f"There are {MOST} examples already.", "Take some away first.")
        self._count += 1
        taken = {one.name for one in self.entries}
        free = (f"{name} ({n})" for n in range(2, MOST + 2))
        own = name if name not in taken else next(one for one in free if one not in taken)
        entry = Entry(self._count, own, content)
        self.entries = (*(replace(one, chosen=False) for one in self.entries), entry)
        return entry

    def put_made(self, names: Sequence[str], content: bytes) -> Entry:
        """Keep an example that was made here, named after its segments."""
        rest = len(names) - SHOWN_NAMES
        shown = ", ".join(names[:SHOWN_NAMES])
        return self.put(shown if rest <= 0 else f"{shown} and {rest} more", content)

    def put_file(self, path: Path) -> Entry:
        """Keep an example from a file."""
        if path.stat().st_size > MAX_BYTES:
            raise InvalidInput(
                f"{path.name} has {path.stat().st_size / 2**20:.0f} MB, an example "
                f"{MAX_BYTES / 2**20:.0f} MB at most.",
                "Give a file that *Use as example* or `protosam example make` has written.",
            )
        return self.put(path.stem, path.read_bytes())

    def choose(self, entry_id: int, chosen: bool) -> None:
        """Have an example applied the next time, or not."""
        self.entries = tuple(
            replace(one, chosen=chosen) if one.id == entry_id else one for one in self.entries
        )

    def forget(self, entry_id: int) -> None:
        """Take an example away."""
        self.entries = tuple(one for one in self.entries if one.id != entry_id)

    def get(self, entry_id: int) -> Entry | None:
        """Look an example up."""
        return next((one for one in self.entries if one.id == entry_id), None)

    def chosen(self) -> tuple[bytes, ...]:
        """Contents of those that are applied."""
        return tuple(one.content for one in self.entries if one.chosen)
