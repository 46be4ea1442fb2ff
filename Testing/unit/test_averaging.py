"""Gradients of several processes become one mean, in memory that they share."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import torch

from protosam.learn.averaging import SharedGradients

PROCESSES = 3


def test_every_process_gets_the_mean_of_all() -> None:
    """Threads stand in for processes here; runs of `train_base` have real ones."""
    generator = torch.Generator().manual_seed(0)
    nets = [[torch.nn.Parameter(torch.zeros(n)) for n in (5, 1, 4)] for _ in range(PROCESSES)]
    given = torch.randn(PROCESSES, 10, generator=generator)
    for row, parameters in zip(given, nets, strict=True):
        for p, gradient in zip(parameters, row.split([5, 1, 4]), strict=True):
            p.grad = gradient.clone()
    nets[1][1].grad = None  # it had no part in the loss there
    given[1, 5] = 0
    shared = SharedGradients.of(nets[0], PROCESSES, SimpleNamespace(Barrier=threading.Barrier))
    assert shared.rows.is_shared()

    threads = [
        threading.Thread(target=shared.average, args=(parameters, rank))
        for rank, parameters in enumerate(nets)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for parameters in nets:
        got = torch.cat([p.grad for p in parameters])
        torch.testing.assert_close(got, given.mean(dim=0))
