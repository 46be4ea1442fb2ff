"""Out of memory: which steps are taken, in which order, and what is said."""

from __future__ import annotations

import pytest
import torch

from protosam.errors import InvalidInput, OutOfMemory
from protosam.models.memory_ladder import MemoryLadder, memory_errors

CUDA = torch.device("cuda")


def failing(times, error):
    """Work that fails so many times, and the list of its attempts."""
    attempts = []

    def work():
        attempts.append(None)
        if len(attempts) <= times:
            raise error
        return "done"

    return work, attempts


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError("Unable to allocate 9 GiB"),
        OutOfMemory("The card could not hold it."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_every_way_of_running_out_of_memory_is_a_step(region_model, error):
    told, dropped = [], []
    ladder = MemoryLadder(region_model(), lambda: dropped.append(None))
    work, attempts = failing(1, error)
    assert ladder.run(work, told.append) == "done"
    assert len(attempts) == 2
    assert len(dropped) == 1
    assert ladder.one_at_a_time
    assert len(told) == 1


def test_the_steps_go_from_the_cache_to_the_processor(region_model):
    model, told = region_model(device=CUDA), []
    places = []

    def work():
        places.append((model.device.type, ladder.one_at_a_time))
        if len(places) < 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return "done"

    ladder = MemoryLadder(model, lambda: None)
    assert ladder.run(work, told.append) == "done"
    assert places == [("cuda", False), ("cuda", True), ("cpu", True)]
    assert "dropped" in told[0]
    assert "processor" in told[1]


def test_the_last_step_is_not_taken_twice(region_model):
    ladder = MemoryLadder(region_model(), lambda: None)
    work, attempts = failing(99, MemoryError())
    with pytest.raises(OutOfMemory, match="not enough memory") as raised:
        ladder.run(work, lambda _text: None)
    assert len(attempts) == 2
    assert "smaller model" in raised.value.next_step
    with pytest.raises(OutOfMemory):
        ladder.run(work, lambda _text: None)
    assert len(attempts) == 3


def test_work_that_fits_takes_no_step(region_model):
    told = []
    ladder = MemoryLadder(region_model(), lambda: pytest.fail("nothing is to be dropped"))
    assert ladder.run(lambda: 7, told.append) == 7
    assert told == []


def test_other_errors_are_no_matter_of_memory(region_model):
    ladder = MemoryLadder(region_model(), lambda: None)
    for error in (InvalidInput("wrong"), RuntimeError("shapes do not fit")):
        work, attempts = failing(1, error)
        with pytest.raises(type(error)):
            ladder.run(work, lambda _text: None)
        assert len(attempts) == 1


def test_the_error_that_is_raised_holds_no_arrays():
    with pytest.raises(OutOfMemory) as raised, memory_errors():
        raise MemoryError
    assert isinstance(raised.value.__cause__, MemoryError)
