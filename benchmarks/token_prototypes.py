"""Do cluster branches earn their place? One short training with them and one without.

Both begin at the built-in weights and train adapters of rank 4 in two blocks of the encoder on the
same samples; one of them has the branches' gates and temperatures besides. Scores are IoU on
training cases that neither saw (`TrainBaseSettings.held_out`), in the clicked slice and in two
further ones that the answer is handed on to, over the same samples and clicks for all.

    python benchmarks/token_prototypes.py --data DIR --out RUN --steps 400
"""

from __future__ import annotations

import argparse
import json
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from protosam.learn.rounds import play
from protosam.learn.sampler import Sample, Sampler
from protosam.learn.settings import TrainBaseSettings
from protosam.learn.sources import load_sources, prepare, training_cases
from protosam.learn.train_base import autocast_for
from protosam.models.cluster_attention import neighbouring
from protosam.models.cluster_branches import (
    add_cluster_branches,
    cluster_branches,
    init_prototypes,
    save_branches,
    train_branches,
)
from protosam.models.load import load_model
from protosam.models.lora import inject_lora, lora_parameters, save_adapter
from protosam.models.moving_prototypes import usage_entropy
from protosam.models.tiny import TinySAM

MIX = {"btcv_abdomen_ct": 0.5, "openkbp_headneck_ct": 0.25, "hippocampus_msd": 0.25}
SETTINGS = TrainBaseSettings(mix=MIX, processes=1)
BLOCKS, SIDE, BATCH, WARMUP = (2, 4), 128, 4, 20
ARMS = ("base", "adapters", "branches")


def held_out_data(data: Path, out: Path) -> Path:
    """Folder in which the kept-aside cases are the only training cases."""
    folder = out / "held_out_data"
    folder.mkdir(exist_ok=True)
    kept = {
        name: sorted(
            set(training_cases(data, name, 0)) - set(training_cases(data, name, SETTINGS.held_out))
        )
        for name in MIX
    }
    (folder / "split.json").write_text(json.dumps({"train": kept}), "utf-8")
    for name in MIX:
        if not (folder / name).exists():
            (folder / name).symlink_to(data / name)
    return folder


def samplers(data: Path, out: Path) -> tuple[Sampler, Sampler]:
    """Samplers of the training cases and of those kept aside."""
    made = []
    pairs = (("train", data, SETTINGS.held_out), ("held_out", held_out_data(data, out), 0))
    for name, folder, aside in pairs:
        settings = replace(SETTINGS, held_out=aside)
        prepare(folder, out / name, settings, lambda _done, _total: None)
        made.append(Sampler(load_sources(out / name, settings), MIX, SETTINGS.objects))
    return made[0], made[1]


def drawn(sampler: Sampler, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (b, 3, 3, S, S) and targets (b, m, 3, S/2, S/2)."""
    samples: list[Sample] = [sampler.draw(rng, SIDE) for _ in range(BATCH)]
    return torch.stack([s.images for s in samples]), torch.stack([s.targets for s in samples])


def together() -> AbstractContextManager[None]:
    """Make the three slices of each sample neighbours; `play` encodes all A, then all B, all C."""
    return neighbouring(np.repeat(range(3), BATCH).tolist(), list(range(BATCH)) * 3)


def prepared(arm: str, train: Sampler, seed: int) -> tuple[TinySAM, list[dict]]:
    """Build the network of an arm; returns it with the parameter groups that learn."""
    network = load_model("protosam-tiny", device="cpu").network
    groups = []
    if arm == "branches":
        add_cluster_branches(network.image_encoder, BLOCKS)
        rng = np.random.default_rng([seed, 5])
        batches = [drawn(train, rng)[0].flatten(0, 1) for _ in range(30)]
        print("closeness", init_prototypes(network.image_encoder, batches, seed), flush=True)
    if arm != "base":
        torch.manual_seed(seed)
        inject_lora(network, rank=4, alpha=4, blocks=BLOCKS)
        groups.append({"params": lora_parameters(network), "lr": 2e-3})
    if arm == "branches":
        groups.append({"params": train_branches(network.image_encoder), "lr": 2e-2})
    return network, groups


def trained(
    network: TinySAM, groups: list[dict], sampler: Sampler, arguments: argparse.Namespace
) -> None:
    """Train what the groups hold; rates rise over `WARMUP` steps and fall to nothing."""
    if not groups:
        return
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    steps = arguments.steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / WARMUP, (steps - step) / steps)
    )
    parameters = [p for group in groups for p in group["params"]]
    network.train()
    autocast = autocast_for(torch.device("cpu"))
    for step in range(steps):
        images, targets = drawn(sampler, np.random.default_rng([arguments.seed, 2, step]))
        with together():
            rng = np.random.default_rng([arguments.seed, 3, step])
            played = play(network, images, targets, rng, autocast)
        optimiser.zero_grad()
        played.total.backward()
        if torch.isfinite(torch.nn.utils.clip_grad_norm_(parameters, 1.0)):
            optimiser.step()
        schedule.step()
        if step % 20 == 0:
            print(step, round(played.total.item(), 3), gates(network), flush=True)
    network.eval()


def gates(network: TinySAM) -> dict[int, list[float]]:
    """Gate, temperature and relative usage entropy of each branch."""
    return {
        index: [round(v, 4) for v in (b.gate.item(), b.temperature.item(), usage_entropy(b.usage))]
        for index, b in cluster_branches(network.image_encoder).items()
    }


@torch.no_grad()
def scored(network: TinySAM, sampler: Sampler, rounds: int, *, alone: bool = False) -> np.ndarray:
    """IoU (rounds, 3) in slices A, B and C; `alone`: branches see each slice by itself."""
    autocast = autocast_for(torch.device("cpu"))
    found = []
    for index in range(rounds):
        images, targets = drawn(sampler, np.random.default_rng([91, index]))
        rng = np.random.default_rng([92, index])
        if alone:
            played = play(network, images, targets, rng, autocast)
        else:
            with together():
                played = play(network, images, targets, rng, autocast)
        found.append([played.iou_clicked, played.iou_propagated, played.iou_handed_on])
    return np.array(found)


def summary(scores: np.ndarray, others: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Mean IoU in slices A, B and C; paired differences to other arms with their errors."""
    rows = {"iou": scores.mean(axis=0)}
    for name, other in others.items():
        count = min(len(scores), len(other))
        change = scores[:count] - other[:count]
        rows[f"less {name}"] = change.mean(axis=0)
        rows[f"standard error, less {name}"] = change.std(axis=0, ddof=1) / np.sqrt(count)
    return {name: [round(float(v), 4) for v in row] for name, row in rows.items()}


def run_arm(arm: str, train: Sampler, held_out: Sampler, arguments: argparse.Namespace) -> None:
    """Train and score one arm; writes its scores, adapter and branches to the folder."""
    network, groups = prepared(arm, train, arguments.seed)
    trained(network, groups, train, arguments)
    print(arm, gates(network), flush=True)
    ways = {arm: False, f"{arm}, each slice alone": True} if arm == "branches" else {arm: False}
    for name, alone in ways.items():
        scores = scored(network, held_out, arguments.rounds, alone=alone)
        print(name, scores.mean(axis=0), flush=True)
        np.save(arguments.out / f"{name}-{arguments.seed}.npy", scores)
    if groups:
        digest = load_model("protosam-tiny", device="cpu").digest
        target = arguments.out / f"{arm}-{arguments.seed}-{arguments.steps}"
        save_adapter(network, target, base_sha256=digest)
        if arm == "branches":
            save_branches(
                network.image_encoder, target.with_suffix(".safetensors"), base_sha256=digest
            )


def main() -> None:
    """Train and score all arms, and compare those of this seed that the folder holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=150, help="batches of four to score on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    train, held_out = samplers(arguments.data.resolve(), out)
    for arm in arguments.arms:
        run_arm(arm, train, held_out, arguments)
    tables = {p.stem: np.load(p) for p in sorted(out.glob(f"*-{arguments.seed}.npy"))}
    plain = {n: t for n, t in tables.items() if n.startswith(("base", "adapters"))}
    result = {name: summary(table, plain) for name, table in tables.items()}
    (out / f"result-{arguments.seed}.json").write_text(json.dumps(result, indent=1), "utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
