"""A function through torch's compiler where that works, and as it is where it does not.

The compiler needs a C++ compiler (or, on a graphics card, Triton) on the user's machine, and takes
tens of seconds before the first answer. So it is asked for, never the default; the first failure
turns it off for good and says so in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

Made = TypeVar("Made")

_LOGGER = logging.getLogger(__name__)


class Compiled(Generic[Made]):
    """Calls a function, compiled if possible.

    Parameters
    ----------
    plain : callable
        Works on tensors whose shapes seldom change.
    compiler : callable, optional
        Makes the fast function from the plain one; torch's own by default.
    """

    def __init__(
        self,
        plain: Callable[..., Made],
        compiler: Callable[[Callable[..., Made]], Callable[..., Made]] | None = None,
    ) -> None:
        self._plain = plain
        self._fast: Callable[..., Made] | None = (compiler or _by_torch)(plain)

    @property
    def is_on(self) -> bool:
        """Whether the compiled function is used; False after it has failed once."""
        return self._fast is not None

    def __call__(self, *args: Any) -> Made:
        """Call the function.

        Raises
        ------
        torch.OutOfMemoryError
            From the compiled function too: it is no fault of the compiler. Everything else that
            the plain function raises comes from the plain function.
        """
        if self._fast is None:
            return self._plain(*args)
        try:
            return self._fast(*args)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ImportError, OSError) as error:
            # Missing compilers are told in all of these ways; torch's own errors are the first.
            self._fast = None
            reason = str(error).strip().partition("\n")[0]
            _LOGGER.warning("Compiling failed; it goes on without, more slowly. %s", reason)
        return self._plain(*args)


def _by_torch(plain: Callable[..., Made]) -> Callable[..., Made]:
    fast: Callable[..., Made] = torch.compile(plain, dynamic=False)
    return fast
