"""The recipe of the built-in model, from nothing to weights: `protosam train-base`.

Several processes of one thread each draw their own samples and average their gradients (two such
processes are faster on two cores than one process with two threads). On a GPU they share it: what
takes their time is the simulation of clicks, which runs on the CPU. Every random draw is a
function of seed, process and step, so a run that was stopped and resumed takes the same steps.
The checkpoint holds weights, their moving average and the optimiser; the log has one JSON object
a line.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import spawn

from protosam.errors import InvalidInput
from protosam.learn.averaging import SharedGradients
from protosam.learn.batches import Batch, Batches
from protosam.learn.rounds import Autocast, Played, play
from protosam.learn.settings import TrainBaseSettings
from protosam.learn.sources import prepare
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
    gradients: SharedGradients


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
        If `out` has a checkpoint and `resume` is False, or the reverse; if the settings want a
        GPU and there is none.
    """
    report = on_progress or (lambda _progress: None)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.is_file() != resume:
        raise InvalidInput(
            f"{checkpoint} {'exists already' if not resume else 'does not exist'}.",
            "Give --resume to go on with a run, or another folder to begin one.",
        )
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("PyTorch sees no CUDA device here.", "Train with --device cpu.")
    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.json").write_text(settings.to_json(), "utf-8")
    cache = out / "volumes"
    prepare(data, cache, settings, lambda d, t: report(TrainingProgress("prepare", d, t, "")))
    context = mp.get_context("spawn")
    queue = context.Queue()
    gradients = SharedGradients.of(TinySAM().parameters(), settings.processes, context)
    run = _Run(settings, cache, out, queue, gradients)
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
    torch.set_num_threads(1)
    torch.manual_seed(run.settings.seed)
    trainer = _Trainer(run, rank)
    trainer.restore()
    for batch in Batches(run.cache, run.settings, rank).from_step(trainer.step):
        trainer.train_step(batch)
    trainer.save()


class _Trainer:
    """Model, moving average and optimiser of one process."""

    def __init__(self, run: _Run, rank: int) -> None:
        self._run, self._rank, self._settings = run, rank, run.settings
        self.step = 0
        device = torch.device(run.settings.device)
        self._model = TinySAM().to(device)
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]
        self._average = copy.deepcopy(self._model).requires_grad_(False)
        self._optimiser = torch.optim.AdamW(
            self._parameters, lr=1.0, weight_decay=run.settings.weight_decay
        )
        self._autocast = autocast_for(device)
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

    def train_step(self, batch: Batch) -> None:
        """Play the batch of this step, average gradients, step."""
        settings = self._settings
        rng = np.random.default_rng([settings.seed, 2 + self._rank, self.step, 1])
        played = play(self._model, batch.images, batch.targets, rng, self._autocast)
        self._optimiser.zero_grad(set_to_none=True)
        played.total.backward()  # type: ignore[no-untyped-call]
        self._run.gradients.average(self._parameters, self._rank)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, settings.clip_norm)
        for group in self._optimiser.param_groups:
            group["lr"] = settings.learning_rate_at(self.step)
        if torch.isfinite(norm):
            self._optimiser.step()
        self._update_average()
        self.step += 1
        self._log(played, batch, float(norm))
        if self.step % settings.checkpoint_every == 0:
            self.save()

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self._settings.ema_decay, (1 + self.step) / (10 + self.step))
        pairs = zip(self._average.parameters(), self._model.parameters(), strict=True)
        for average, current in pairs:
            average.lerp_(current, 1 - decay)

    def _log(self, played: Played, batch: Batch, norm: float) -> None:
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
                "iou_handed_on": played.iou_handed_on,
                "norm": norm,
                "samples": len(batch.images) * self._settings.processes,
            }
        )
        if self.step % self._settings.log_every:
            return
        now = time.monotonic()
        means = {k: float(np.mean([r[k] for r in self._recent])) for k in self._recent[0]}
        seconds = (now - self._clock) / len(self._recent)
        line = {"step": self.step, "side": batch.side, "seconds_per_step": seconds, **means}
        with (self._run.out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({k: round(v, 5) for k, v in line.items()}) + "\n")
        text = f"IoU clicked {means['iou_clicked']:.3f}, propagated {means['iou_propagated']:.3f}"
        total = self._settings.steps
        self._run.progress.put(TrainingProgress("train", self.step, total, text))
        self._recent, self._clock = [], now


def autocast_for(device: torch.device) -> Autocast:
    """bfloat16 on a GPU and where the processor has it (1.6 times faster there), else float32."""
    if device.type == "cuda" or torch.backends.cpu.get_cpu_capability() == "AVX512":
        return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext
