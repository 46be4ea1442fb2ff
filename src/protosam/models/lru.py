"""A least-recently-used store that is limited in bytes: what the caches in memory share.

Knows nothing of what it keeps but its size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Kept = TypeVar("Kept")


class LruStore(Generic[Key, Kept]):
    """Least-recently-used store, limited in bytes.

    Parameters
    ----------
    limit_bytes : int
        The newest entry is kept even if it alone is larger.
    nbytes_of : entry -> int
        Size of an entry.
    """

    def __init__(self, limit_bytes: int, nbytes_of: Callable[[Kept], int]) -> None:
        self._limit_bytes, self._nbytes_of = limit_bytes, nbytes_of
        self._entries: OrderedDict[Key, Kept] = OrderedDict()
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes held in memory now."""
        return self._nbytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Kept | None:
        """Entry of a key, or None; makes it the newest."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: Key, entry: Kept) -> None:
        """Keep an entry, dropping the oldest ones where the limit is passed."""
        self._drop(key)
        self._entries[key] = entry
        self._nbytes += self._nbytes_of(entry)
        while self._nbytes > self._limit_bytes and len(self._entries) > 1:
            self._drop(next(iter(self._entries)))

    def drop_where(self, unwanted: Callable[[Key], bool]) -> None:
        """Drop the entries of some keys."""
        for key in [k for k in self._entries if unwanted(k)]:
            self._drop(key)

    def clear(self) -> None:
        """Drop everything from memory."""
        self._entries.clear()
        self._nbytes = 0

    def _drop(self, key: Key) -> None:
        if key in self._entries:
            self._nbytes -= self._nbytes_of(self._entries.pop(key))
