"""Threads that each compute on one core: side by side instead of several cores on one small sum.

The built-in network's sums are so small that cores wait for each other longer than they compute: on
a busy machine of two cores a kidney took 15.4 s with both on every sum, and 6 s with one. So its
slices are encoded side by side, and the next ones while the present one is answered (4.9 s there).

Owns these threads. The number of threads that torch uses elsewhere is left as it is; this is the
one place outside ``__main__`` that sets it, for its own threads alone. Knows nothing of models.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import torch

Given = ParamSpec("Given")
Made = TypeVar("Made")

MAX_LANES = 4
"""More would encode further ahead than an object's outline can be foreseen."""


class Lanes:
    """A few threads of one core each.

    Parameters
    ----------
    count : int
        Number of threads, at least 1.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        usual = torch.get_num_threads()
        together = threading.Barrier(count + 1)
        self._pool = ThreadPoolExecutor(count, "lane", _alone)
        for _ in range(count):
            self._pool.submit(together.wait)
        together.wait()
        # Each lane has also set what threads of the future would begin with.
        torch.set_num_threads(usual)

    def start(
        self, work: Callable[Given, Made], *args: Given.args, **kwargs: Given.kwargs
    ) -> Future[Made]:
        """Begin some work; it waits for a free lane."""
        return self._pool.submit(work, *args, **kwargs)

    def run(self, work: Callable[Given, Made], *args: Given.args, **kwargs: Given.kwargs) -> Made:
        """Do some work in a lane and wait for it.

        Raises
        ------
        Exception
            Whatever the work raises.
        """
        return self.start(work, *args, **kwargs).result()


def _alone() -> None:
    # A thread takes the usual number over when torch is first asked for it there; after that it
    # keeps its own.
    torch.get_num_threads()
    torch.set_num_threads(1)
