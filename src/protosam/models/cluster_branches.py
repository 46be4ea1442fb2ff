"""Where cluster branches go, how they begin, and their file.

Owns the attachment of `ClusterAttention` to the blocks of an image encoder (Segment Anything's or
the built-in one; both have the same blocks), the initialisation of all prototypes from data, and
a small safetensors file that names the weights it was made for. Knows nothing of training loops.
Speaks no coordinates.

Branches and adapters go together in either order, but `protosam.models.lora` freezes all that is
not an adapter: call `train_branches` after it. Weights of a base are loaded before branches are
put in, because the table of a base has no tensors for them.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from segment_anything.modeling.image_encoder import Block
from torch import nn

from protosam.errors import InvalidInput, StorageFailure, WeightsRefused
from protosam.models.cluster_attention import BranchSettings, ClusterAttention, ClusterBlock
from protosam.models.moving_prototypes import Prototypes
from protosam.models.prototypes import away_from, centre_of, cosines, spherical_kmeans
from protosam.models.tensors import read_tensors

Encoder = TypeVar("Encoder", bound=nn.Module)

BASE_KEY = "base_sha256"
"""Entry of the header that names the weights (with adapter) that branches were made for."""

SETTINGS_KEY = "branch_settings"
BLOCKS_KEY = "blocks"
FAMILY = "protosam-cluster-branches"

LENGTH_TOLERANCE = 1e-2
"""A prototype's length may differ so much from 1: what rounding to float16 or bfloat16 leaves."""

INIT_TOKENS = 20_000
"""Tokens of each block that the first prototypes are found from."""


def add_cluster_branches(
    encoder: Encoder,
    blocks: Sequence[int] | None = None,
    settings: BranchSettings | None = None,
    seed: int = 0,
) -> Encoder:
    """Put untrained branches beside the attention of an encoder's blocks.

    They change nothing until their gates are trained. `init_prototypes` should follow: random
    directions all lie equally far from real tokens.

    Parameters
    ----------
    encoder : nn.Module
        With ``blocks`` of Segment Anything; changed in place.
    blocks : sequence of int, optional
        Numbers of the blocks; those at a third and two thirds of the depth if None (4 and 8 of
        12, which ProtoSAM's authors name, and 2 and 4 of the built-in model's 6).
    settings : BranchSettings, optional
    seed : int
        Of the random directions.

    Returns
    -------
    nn.Module
        The same encoder.

    Raises
    ------
    InvalidInput
        When it has no such blocks, a number is out of range or twice there, or it has branches.
    """
    table = _blocks_of(encoder)
    if cluster_branches(encoder):
        raise InvalidInput(
            "This encoder has cluster branches already.", "Take them out before others are put in."
        )
    depth = len(table)
    chosen = (depth // 3, 2 * depth // 3) if blocks is None else tuple(blocks)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(depth)):
        raise InvalidInput(
            f"Cluster branches were asked for in blocks {chosen}; wanted are different numbers "
            f"from 0 to {depth - 1}."
        )
    for index in chosen:
        block = table[index]
        like = next(block.parameters())
        clusters = ClusterAttention(block.attn.proj.out_features, settings, seed + index)
        table[index] = ClusterBlock(block, clusters.to(like.device))
    return encoder


def remove_cluster_branches(encoder: Encoder) -> Encoder:
    """Put the plain blocks back; they hold the same weights and adapters as before."""
    table = _blocks_of(encoder)
    for index in cluster_branches(encoder):
        table[index] = table[index].plain
    return encoder


def cluster_branches(encoder: nn.Module) -> dict[int, ClusterAttention]:
    """Branches of an encoder by the number of their block; empty without any."""
    return {
        index: block.clusters
        for index, block in enumerate(_blocks_of(encoder))
        if isinstance(block, ClusterBlock)
    }


def train_branches(encoder: nn.Module) -> list[nn.Parameter]:
    """Make gates and temperatures trainable, whatever else is; returns them, two a branch."""
    found = [p for branch in cluster_branches(encoder).values() for p in branch.parameters()]
    for parameter in found:
        parameter.requires_grad_(True)
    return found


@torch.no_grad()
def init_prototypes(
    encoder: nn.Module, batches: Iterable[torch.Tensor], seed: int = 0
) -> dict[int, float]:
    """Find the prototypes of every branch by k-means of what its block sees in images.

    At most `INIT_TOKENS` tokens of each block are used, drawn evenly from all batches. The
    encoder's mode is the same afterwards.

    Parameters
    ----------
    encoder : nn.Module
        With branches.
    batches : iterable of (b, 3, S, S) tensors
        As the encoder wants them; slices of 20 volumes or more, or the prototypes know too little.
    seed : int
        Of the drawing and the clustering.

    Returns
    -------
    dict of int to float
        Mean cosine of each block's tokens with their nearest prototype, seen from the centre.

    Raises
    ------
    InvalidInput
        When there is no branch, no batch, or fewer different tokens than prototypes.
    """
    branches = cluster_branches(encoder)
    if not branches:
        raise InvalidInput("This encoder has no cluster branches.", "Add them first.")
    samples, count = _tokens_seen(encoder, list(branches), batches, seed)
    if count == 0:
        raise InvalidInput(
            "No images were given to find prototypes in.", "Give slices of 20 volumes or more."
        )
    closeness = {}
    for index, branch in branches.items():
        centre = centre_of(samples[index])
        seen = away_from(samples[index], centre)
        directions = spherical_kmeans(seen, branch.settings.prototypes, seed)
        branch.place(Prototypes.at(directions, updates=count), centre)
        closeness[index] = float(cosines(seen, directions).amax(dim=1).mean())
    return closeness


class _Sample:
    """An even sample of the rows that go by: those with the smallest of random keys."""

    def __init__(self, seed: int) -> None:
        self._random = torch.Generator().manual_seed(seed)
        self._keys = torch.zeros(0)
        self.rows = torch.zeros(0)

    def add(self, tokens: torch.Tensor) -> None:
        rows = tokens.detach().float().flatten(0, -2)
        keys = torch.cat([self._keys, torch.rand(len(rows), generator=self._random)])
        rows = rows if self.rows.ndim == 1 else torch.cat([self.rows, rows])
        self._keys, kept = keys.topk(min(INIT_TOKENS, len(keys)), largest=False)
        self.rows = rows[kept.to(rows.device)]


def _tokens_seen(
    encoder: nn.Module, numbers: Sequence[int], batches: Iterable[torch.Tensor], seed: int
) -> tuple[dict[int, torch.Tensor], int]:
    """Tokens after the first norm of each block, and the number of batches."""
    samples = {index: _Sample(seed + index) for index in numbers}
    table, mode, count = _blocks_of(encoder), encoder.training, 0
    watching = [
        table[index].norm1.register_forward_hook(
            lambda _module, _given, normed, sample=samples[index]: sample.add(normed)
        )
        for index in numbers
    ]
    encoder.eval()
    try:
        for count, batch in enumerate(batches, start=1):  # noqa: B007 - counted for the caller
            encoder(batch)
    finally:
        for handle in watching:
            handle.remove()
        encoder.train(mode)
    return {index: sample.rows for index, sample in samples.items()}, count


def save_branches(encoder: nn.Module, path: Path, *, base_sha256: str) -> None:
    """Write the branches of an encoder.

    Parameters
    ----------
    encoder : nn.Module
        With branches.
    path : path
        A new ``.safetensors`` file; it appears complete or not at all.
    base_sha256 : str
        Digest of what they were trained on: of the weights, or of weights and adapter together.

    Raises
    ------
    InvalidInput
        When there is no branch, the file exists, or has another ending.
    StorageFailure
        When it cannot be written.
    """
    branches = cluster_branches(encoder)
    if not branches or path.suffix != ".safetensors" or path.exists():
        raise InvalidInput(
            f"{len(branches)} cluster branches were to be saved as {path}; wanted are one or more, "
            "in a new file that ends in .safetensors.",
            "Add branches first, or choose another name.",
        )
    tensors = {
        f"blocks.{index}.clusters.{name}": value.detach().cpu().contiguous()
        for index, branch in branches.items()
        for name, value in branch.state_dict().items()
    }
    settings = asdict(next(iter(branches.values())).settings)
    facts = {
        "family": FAMILY,
        BASE_KEY: base_sha256,
        BLOCKS_KEY: json.dumps(list(branches)),
        SETTINGS_KEY: json.dumps(settings),
    }
    part = path.with_name(f".{path.name}.part")
    try:
        save_file(tensors, part, metadata=facts)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise StorageFailure(
            f"The cluster branches could not be written to {path}: {error}.",
            "Free some space or check the permissions.",
        ) from error


def load_branches(encoder: Encoder, path: Path, *, base_sha256: str) -> Encoder:
    """Put saved branches into an encoder that has none.

    Parameters
    ----------
    encoder : nn.Module
        Changed in place, or not at all when the file is refused.
    path : path
        From `save_branches`.
    base_sha256 : str
        Digest of what the encoder holds.

    Returns
    -------
    nn.Module
        The same encoder.

    Raises
    ------
    WeightsRefused
        When the file is missing, damaged or another kind, was made for other weights, or does
        not fit.
    InvalidInput
        When the encoder has branches.
    """
    file = read_tensors(path)
    made_for = file.metadata.get(BASE_KEY)
    if file.metadata.get("family") != FAMILY:
        raise WeightsRefused(
            f"{path} does not hold cluster branches.", "Give a file that `save_branches` wrote."
        )
    if made_for != base_sha256:
        raise WeightsRefused(
            f"The cluster branches {path} were made for weights with SHA-256 {made_for}; these "
            f"have {base_sha256}.",
            "Load them on the model that they were made for.",
        )
    blocks, settings = _card_of(file.metadata, path)
    if cluster_branches(encoder):
        raise InvalidInput("This encoder has cluster branches already.", "Take them out first.")
    try:
        add_cluster_branches(encoder, blocks, settings)
        _fill(encoder, file.tensors)
    except (InvalidInput, RuntimeError) as error:
        remove_cluster_branches(encoder)
        raise WeightsRefused(
            f"The cluster branches {path} do not fit: {str(error).splitlines()[-1].strip()}",
            "Load them on the model that they were made for.",
        ) from error
    return encoder


def _card_of(metadata: dict[str, str], path: Path) -> tuple[list[int], BranchSettings]:
    try:
        blocks = json.loads(metadata[BLOCKS_KEY])
        values = {**asdict(BranchSettings()), **json.loads(metadata[SETTINGS_KEY])}
        for name in ("prototypes", "reach"):
            values[name] = operator.index(values[name])
        return [operator.index(index) for index in blocks], BranchSettings(**values)
    except (KeyError, ValueError, TypeError) as error:
        raise WeightsRefused(
            f"The header of {path} does not describe cluster branches: {error}.",
            "Give a file that `save_branches` wrote.",
        ) from error


def _fill(encoder: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Load tensors into the branches; a RuntimeError of torch names what does not fit."""
    table = {
        f"blocks.{index}.clusters.{name}": value
        for index, branch in cluster_branches(encoder).items()
        for name, value in branch.state_dict().items()
    }
    wrong = sorted(set(table) ^ set(tensors))
    wrong += [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if wrong:
        raise InvalidInput(f"Tensors are missing, unknown or not finite: {', '.join(wrong[:3])}.")
    for index, branch in cluster_branches(encoder).items():
        start = f"blocks.{index}.clusters."
        own = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        branch.load_state_dict(own)
        lengths = branch.prototypes.directions.norm(dim=1)
        if bool((lengths - 1).abs().amax() > LENGTH_TOLERANCE):
            raise InvalidInput(f"The prototypes of block {index} are not of length 1.")


def _blocks_of(encoder: nn.Module) -> Any:
    """Blocks as a `ModuleList`; they are Segment Anything's, which has no types, hence Any."""
    table = getattr(encoder, "blocks", None)
    if not isinstance(table, nn.ModuleList) or not all(isinstance(b, Block) for b in table):
        raise InvalidInput(
            f"A {type(encoder).__name__} has no attention blocks of Segment Anything.",
            "Give the image encoder of a model of the SAM family or of the built-in model.",
        )
    return table
