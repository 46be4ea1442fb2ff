"""Log lines of a shared worker: faults by kind and place, never by what was in the values.

Messages of exceptions of libraries quote what they stumbled over, which may be a name.
"""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from types import TracebackType


class QuietFormatter(logging.Formatter):
    """A formatter that leaves the messages of exceptions out."""

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        """Kind of an exception, and the places that it passed."""
        kind, _, trace = ei
        places = [f"{Path(one.filename).name}:{one.lineno}" for one in traceback.extract_tb(trace)]
        return f"{kind.__name__ if kind else 'no exception'} in {', '.join(places)}"
