"""Mean of the gradients of several processes of one machine, through memory that they share.

Every process writes its gradients to a row of its own, then averages its share of the columns for
all; so the sum has one order, whoever comes first, and a run repeats bit for bit. Works alike for
networks on the CPU and on a GPU that the processes share, where NCCL takes one process only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class SharedGradients:
    """What the processes have in common; travels to them when they are started.

    Attributes
    ----------
    rows : (processes, n) float32, shared
    mean : (n,) float32, shared
    barrier : multiprocessing barrier of as many processes
    """

    rows: torch.Tensor
    mean: torch.Tensor
    barrier: Any

    @classmethod
    def of(
        cls, parameters: Iterable[torch.Tensor], processes: int, context: Any
    ) -> SharedGradients:
        """Reserve the memory.

        Parameters
        ----------
        parameters : tensors
            As every process will give them to `average`.
        processes : int
        context : multiprocessing context
            That the processes are started by.
        """
        count = sum(p.numel() for p in parameters)
        rows, mean = torch.zeros(processes, count), torch.zeros(count)
        for memory in (rows, mean):
            memory.share_memory_()  # type: ignore[no-untyped-call]
        return cls(rows, mean, context.Barrier(processes))

    def average(self, parameters: list[torch.nn.Parameter], rank: int) -> None:
        """Replace the gradients of `parameters` by their means over the processes.

        Waits for all processes. A parameter without a gradient counts with zeros.
        """
        processes, count = self.rows.shape
        flat = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]
        self.rows[rank].copy_(torch.cat(flat))
        self.barrier.wait()
        share = slice(rank * count // processes, (rank + 1) * count // processes)
        torch.mean(self.rows[:, share], dim=0, out=self.mean[share])
        self.barrier.wait()
        averaged = self.mean.to(parameters[0].device, copy=True)
        start = 0
        for p in parameters:
            p.grad = averaged[start : start + p.numel()].view_as(p)
            start += p.numel()
