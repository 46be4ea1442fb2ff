"""Out of memory: the same work again with less, step by step, and a sentence about each step.

Rules
-----
* The steps: everything that can be made again is dropped and slices are encoded one at a time;
  then the model moves to the CPU. There is no way back up but loading the model anew.
* After a step the work starts from its beginning, so that no answer is made in two ways.
* It knows the model's device, and nothing of volumes, slices or prompts.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from protosam.errors import OutOfMemory
from protosam.models.slice_model import SliceModel

Done = TypeVar("Done")

_LOGGER = logging.getLogger(__name__)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn the ways in which memory runs out into one error.

    Raises
    ------
    OutOfMemory
        In place of numpy's and torch's own errors.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _out_of_memory() from error
    except RuntimeError as error:
        # torch's allocator for the CPU has no class of its own for this.
        if "can't allocate memory" not in str(error):
            raise
        raise _out_of_memory() from error


class MemoryLadder:
    """Does work with a model, with less memory each time that it runs out.

    Parameters
    ----------
    model : SliceModel
    drop_caches : () -> None
        Drops everything that can be made again.
    """

    def __init__(self, model: SliceModel, drop_caches: Callable[[], None]) -> None:
        self._model, self._drop_caches = model, drop_caches
        self._one_at_a_time = False

    @property
    def one_at_a_time(self) -> bool:
        """Whether slices are to be encoded one at a time."""
        return self._one_at_a_time

    def run(self, work: Callable[[], Done], tell: Callable[[str], None]) -> Done:
        """Do the work, from its beginning each time that memory runs out.

        Parameters
        ----------
        work : () -> result
        tell : (text) -> None
            Gets a sentence for each step down.

        Raises
        ------
        OutOfMemory
            If it runs out after the last step as well.
        """
        while True:
            try:
                with memory_errors():
                    return work()
            except OutOfMemory as error:
                # A new one: the old one's traceback holds the very arrays that did not fit.
                failure = OutOfMemory(error.message, error.next_step)
            step = self._step_down()
            if step is None:
                raise failure
            _LOGGER.warning(step)
            tell(step)

    def _step_down(self) -> str | None:
        """Take the next step; None if there is none."""
        device = self._model.device
        if self._one_at_a_time and device.type == "cpu":
            return None
        self._drop_caches()
        if self._one_at_a_time:
            self._model.to(torch.device("cpu"))
            step = f"Memory ran out on {device}: the model works on the processor now, more slowly."
        else:
            self._one_at_a_time = True
            step = f"Memory ran out on {device}: what was cached was dropped to make room."
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return step


def _out_of_memory() -> OutOfMemory:
    return OutOfMemory(
        "There was not enough memory for this request.",
        "Close other volumes or programs, choose a smaller model, or work in one slice.",
    )
