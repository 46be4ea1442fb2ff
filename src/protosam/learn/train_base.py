"""The recipe of the built-in model, from nothing to weights: `protosam train-base`.

Several processes of one thread each draw their own samples and average their gradients (two such
processes are faster on two cores than one process with two threads). Every random draw is
a function of seed, process and step, so a run that was stopped and resumed takes the same steps.
The checkpoint holds weights, their moving average and the optimiser; the log has one JSON object
a line.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import spawn

from protosam.errors import InvalidInput
from protosam.learn.clicks import pick
from protosam.learn.rounds import Autocast, Played, play
from protosam.learn.sampler import Sampler
from protosam.learn.settings import TrainBaseSettings
from protosam.learn.sources import load_sources, prepare
from protosam.models.tiny import TinySAM


@dataclass(frozen=True)
class TrainingProgress:
    """What a caller can show while training runs."""

    stage: str
    done: int
    total: int
    text: str


@dataclass(frozen=True)
class _Run:
    """What every process needs to know."""

    settings: TrainBaseSettings
    cache: Path
    out: Path
    progress: Any


def train_base(
    settings: TrainBaseSettings,
    *,
    data: Path | None,
    out: Path,
    resume: bool = False,
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> Path:
    """Train the built-in model.

    Parameters
    ----------
    settings : TrainBaseSettings
        Written to settings.json in `out`. When a run is resumed they replace those that it was
        begun with: a run can be given more steps or another decay. It repeats what an
        uninterrupted run would have done only where the settings are the same.
    data : path or None
        Folder with the licensed data sets and split.json; None for procedural shapes only.
    out : path
        Folder of the run: prepared volumes, checkpoint.pt, log.jsonl, settings.json.
    resume : bool
        Go on from the checkpoint in `out`.
    on_progress : callable, optional
        Called in this process.

    Returns
    -------
    path of the checkpoint

    Raises
    ------
    InvalidInput
        If `out` has a checkpoint and `resume` is False, or the reverse.
    """
    report = on_progress or (lambda _progress: None)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.is_file() != resume:
        raise InvalidInput(
            f"{checkpoint} {'exists already' if not resume else 'does not exist'}.",
            "Give --resume to go on with a run, or another folder to begin one.",
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.json").write_text(settings.to_json(), "utf-8")
    cache = out / "volumes"
    prepare(data, cache, settings, lambda d, t: report(TrainingProgress("prepare", d, t, "")))
    context = mp.get_context("spawn")
    queue = context.Queue()
    run = _Run(settings, cache, out, queue)
    rendezvous = out / "rendezvous"
    rendezvous.unlink(missing_ok=True)
    workers = spawn(  # type: ignore[no-untyped-call]
        _process, args=(run,), nprocs=settings.processes, join=False
    )
    running = True
    while running:
        running = not workers.join(timeout=1)
        while not queue.empty():
            report(queue.get())
    return checkpoint


def _process(rank: int, run: _Run) -> None:
    """One training process."""
    settings = run.settings
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{(run.out / 'rendezvous').absolute()}",
        rank=rank,
        world_size=settings.processes,
    )
    torch.manual_seed(settings.seed)
    trainer = _Trainer(run, rank)
    trainer.restore()
    while trainer.step < settings.steps:
        trainer.train_step()
    trainer.save()
    dist.destroy_process_group()


class _Trainer:
    """Model, moving average and optimiser of one process."""

    def __init__(self, run: _Run, rank: int) -> None:
        self._run, self._rank, self._settings = run, rank, run.settings
        self.step = 0
        self._model = TinySAM()
        self._average = copy.deepcopy(self._model).requires_grad_(False)
        self._optimiser = torch.optim.AdamW(
            self._model.parameters(), lr=1.0, weight_decay=run.settings.weight_decay
        )
        sources = load_sources(run.cache, run.settings)
        self._sampler = Sampler(sources, run.settings.mix, run.settings.objects)
        self._autocast = autocast_for_cpu()
        self._recent: list[dict[str, float]] = []
        self._clock = time.monotonic()

    def restore(self) -> None:
        """Load the checkpoint where there is one."""
        path = self._run.out / "checkpoint.pt"
        if path.is_file():
            state = torch.load(path, weights_only=True, map_location="cpu")
            self._model.load_state_dict(state["model"])
            self._average.load_state_dict(state["average"])
            self._optimiser.load_state_dict(state["optimiser"])
            self.step = int(state["step"])

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        if self._rank != 0:
            return
        path = self._run.out / "checkpoint.pt"
        state = {
            "model": self._model.state_dict(),
            "average": self._average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "step": self.step,
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def train_step(self) -> None:
        """Draw, play, average gradients, step."""
        settings = self._settings
        shared = np.random.default_rng([settings.seed, 1, self.step])
        rng = np.random.default_rng([settings.seed, 2 + self._rank, self.step])
        side = int(pick(shared, settings.sides_at(self.step)))
        pairs = settings.pairs_at(side)
        drawn = [self._sampler.draw(rng, side) for _ in range(pairs)]
        images = torch.stack([p.images for p in drawn])
        targets = torch.stack([p.targets for p in drawn])
        played = play(self._model, images, targets, rng, self._autocast)
        loss = played.clicked.total + played.propagated.total
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._average_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), settings.clip_norm)
        for group in self._optimiser.param_groups:
            group["lr"] = settings.learning_rate_at(self.step)
        if torch.isfinite(norm):
            self._optimiser.step()
        self._update_average()
        self.step += 1
        self._log(played, side, float(norm), pairs)
        if self.step % settings.checkpoint_every == 0:
            self.save()

    def _average_gradients(self) -> None:
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]
        )
        dist.all_reduce(flat)
        flat /= self._settings.processes
        start = 0
        for p in parameters:
            p.grad = flat[start : start + p.numel()].view_as(p)
            start += p.numel()

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self._settings.ema_decay, (1 + self.step) / (10 + self.step))
        pairs = zip(self._average.parameters(), self._model.parameters(), strict=True)
        for average, current in pairs:
            average.lerp_(current, 1 - decay)

    def _log(self, played: Played, side: int, norm: float, pairs: int) -> None:
        """Collect figures; write a line and report every `log_every` steps."""
        if self._rank != 0:
            return
        self._recent.append(
            {
                "mask_clicked": played.clicked.mask,
                "mask_propagated": played.propagated.mask,
                "score": played.clicked.iou,
                "presence": played.propagated.presence,
                "iou_clicked": played.iou_clicked,
                "iou_propagated": played.iou_propagated,
                "norm": norm,
                "pairs": pairs * self._settings.processes,
            }
        )
        if self.step % self._settings.log_every:
            return
        now = time.monotonic()
        means = {k: float(np.mean([r[k] for r in self._recent])) for k in self._recent[0]}
        seconds = (now - self._clock) / len(self._recent)
        line = {"step": self.step, "side": side, "seconds_per_step": seconds, **means}
        with (self._run.out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({k: round(v, 5) for k, v in line.items()}) + "\n")
        text = f"IoU clicked {means['iou_clicked']:.3f}, propagated {means['iou_propagated']:.3f}"
        total = self._settings.steps
        self._run.progress.put(TrainingProgress("train", self.step, total, text))
        self._recent, self._clock = [], now


def autocast_for_cpu() -> Autocast:
    """bfloat16 where the processor has it (1.6 times faster there), else float32."""
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        return lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    return nullcontext
