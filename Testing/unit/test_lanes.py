"""Threads of one core each, and a function through a compiler that may not be there."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
import torch

from protosam.models.compiled import Compiled
from protosam.models.lanes import Lanes


def test_a_lane_computes_on_one_core_and_others_are_left_alone() -> None:
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        lanes = Lanes(2)

        assert lanes.run(torch.get_num_threads) == 1
        assert torch.get_num_threads() == 2
        found: list[int] = []
        other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert found == [2]
    finally:
        torch.set_num_threads(usual)


def test_lanes_work_side_by_side() -> None:
    lanes = Lanes(2)
    meeting = threading.Barrier(2)

    both = [lanes.start(meeting.wait, 30) for _ in range(2)]

    assert sorted(one.result() for one in both) == [0, 1]


def test_what_fails_in_a_lane_fails_for_the_caller() -> None:
    def fail() -> None:
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        Lanes(1).run(fail)


def test_without_a_compiler_the_plain_function_answers(caplog: pytest.LogCaptureFixture) -> None:
    def broken(plain: Any) -> Any:
        def fast(*_: Any) -> Any:
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nin PATH")

        return fast

    double = Compiled(lambda x: 2 * x, broken)
    with caplog.at_level(logging.WARNING):
        assert double.is_on
        assert [double(1), double(2)] == [2, 4]

    assert not double.is_on
    assert [record.getMessage() for record in caplog.records] == [
        "Compiling failed; it goes on without, more slowly. "
        "InvalidCxxCompiler: No working C++ compiler found"
    ]


def test_a_full_device_is_no_fault_of_the_compiler() -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("full")

    double = Compiled(lambda x: 2 * x, lambda _plain: full)

    with pytest.raises(torch.OutOfMemoryError):
        double(1)
    assert double.is_on
