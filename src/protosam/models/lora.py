"""Low-rank adapters (LoRA) on an image encoder and a mask decoder, through peft.

The only module that knows LoRA; where adapters may go is `lora_places`'. Knows nothing of training
loops or images. Speaks no coordinates.

Files are peft's own (``adapter_config.json``, ``adapter_model.safetensors``), so peft loads
them and plain LoRA adapters made by peft load here. At work an adapter is added to the weights:
the decoders' fast forms (`two_way`, `sam_decoder`) read weights past peft's layers. Importing this
module imports peft and with it transformers, 3 s on an AMD EPYC; import it only when an adapter is
asked for.

Source of the method: Hu et al. 2021, arXiv 2106.09685, equation 3.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from protosam.errors import InvalidInput, StorageFailure, WeightsRefused
from protosam.models.lora_places import Part, part_of, takes_lora, targets
from protosam.models.tensors import read_tensors
from protosam.models.weights import file_digest, make_folder

Network = TypeVar("Network", bound=nn.Module)

CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"
BASE_DIGEST_KEY = "base_sha256"
"""Entry of the safetensors header that names the weights an adapter was made for."""

_ADAPTER = "default"
_PEFT_PREFIX = "base_model.model."
_USED_SETTINGS = {"r", "lora_alpha", "lora_dropout", "use_rslora"}
# What says who made the adapter and for what, or is replaced by the names of its tensors.
_IGNORED_SETTINGS = {
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "peft_type",
    "peft_version",
    "revision",
    "target_modules",
    "task_type",
}


def inject_lora(
    network: Network,
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    blocks: Sequence[int] | None = None,
    parts: Sequence[Part] = ("attention",),
) -> Network:
    """Put untrained adapters into an image encoder and, if wanted, a mask decoder.

    They change nothing until they are trained, because the second factor starts at zero.

    Parameters
    ----------
    network : nn.Module
        Owner of an ``image_encoder`` with ``blocks.N.attn.qkv`` and ``.proj``; changed in
        place. Only the adapters are trainable afterwards.
    rank : int
        Rank of the update; 0 leaves the network untouched.
    alpha : float
        The update is scaled by ``alpha / rank``.
    dropout : float
        Probability with which an input of the adapter is dropped in training.
    blocks : sequence of int, optional
        Numbers of the blocks; all if None.
    parts : sequence of {"attention", "mlp", "neck", "decoder"}, optional
        What is adapted; `blocks` chooses among the first two.

    Returns
    -------
    nn.Module
        The same network.

    Raises
    ------
    InvalidInput
        When a setting is out of range, a block does not exist, or the network has an adapter.
    """
    if rank < 0 or alpha <= 0 or not 0 <= dropout < 1 or not parts:
        raise InvalidInput(
            f"LoRA was asked for with rank {rank}, alpha {alpha}, dropout {dropout} in "
            f"{', '.join(parts) or 'no part'}; wanted are a rank of 0 or more, a positive alpha, a "
            "dropout from 0 to below 1 and a part at least."
        )
    if rank == 0:
        return network
    _refuse_second(network)
    names = targets(network, blocks, parts)
    config = LoraConfig(
        r=rank,
        # peft annotates int, computes with any number, and stores what it is given.
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules="|".join(map(re.escape, names)),
    )
    return _inject(network, config)


def unload_lora(network: Network) -> Network:
    """Take adapters out again; the base weights are the very tensors of before.

    Parameters
    ----------
    network : nn.Module
        Changed in place; without an adapter it is left as it is.

    Returns
    -------
    nn.Module
        The same network, all of its parameters trainable.
    """
    for name, layer in list(_lora_layers(network)):
        parent_name, _, child_name = name.rpartition(".")
        setattr(network.get_submodule(parent_name), child_name, layer.get_base_layer())
    if hasattr(network, "peft_config"):
        del network.peft_config
    network.requires_grad_(True)
    return network


def merge_lora(network: Network) -> Network:
    """Add the adapters to the base weights for good and take them out.

    Parameters
    ----------
    network : nn.Module
        Changed in place. Its answers stay the same to rounding (1e-5 at float32).

    Returns
    -------
    nn.Module
        The same network, all of its parameters trainable.
    """
    for _, layer in list(_lora_layers(network)):
        layer.merge()
    return unload_lora(network)


def lora_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Parameters of the adapters, in the network's order; empty without an adapter."""
    return [parameter for name, parameter in network.named_parameters() if ".lora_" in name]


@torch.no_grad()
def scale_lora(network: nn.Module, factor: float) -> None:
    """Take so much of the update of every adapter: 1 = all, 0 = the base alone.

    The network then lies on the line between the base and what was learnt, which obeys other
    questions better than its end does: Wortsman et al. 2022, arXiv 2109.01903, equation 1.
    """
    for name, parameter in network.named_parameters():
        if ".lora_B." in name:  # the update is a product, so one factor of it is enough
            parameter.mul_(factor)


def mark_only_lora_trainable(network: nn.Module) -> None:
    """Freeze everything but the adapters."""
    network.requires_grad_(False)
    for parameter in lora_parameters(network):
        parameter.requires_grad_(True)


def save_adapter(network: nn.Module, folder: Path, *, base_sha256: str) -> None:
    """Write the adapters of a network in peft's own format.

    Parameters
    ----------
    network : nn.Module
        With adapters from `inject_lora` or `load_adapter`.
    folder : Path
        A new folder; it appears complete or not at all.
    base_sha256 : str
        Digest of the weights below the adapters; `load_adapter` compares it.

    Raises
    ------
    InvalidInput
        When the network has no adapter, or the folder exists.
    StorageFailure
        When it cannot be written.
    """
    if not lora_parameters(network):
        raise InvalidInput("This network has no adapter to save.")
    if folder.exists():
        raise InvalidInput(
            f"{folder} exists already; adapters are not overwritten.", "Choose another name."
        )
    tensors = {
        _PEFT_PREFIX + name: value.detach().cpu().contiguous()
        for name, value in get_peft_model_state_dict(
            network, adapter_name=_ADAPTER, save_embedding_layers=False
        ).items()
    }
    config: LoraConfig = _peft_config(network)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.part")
    make_folder(temporary)
    try:
        save_file(
            tensors,
            temporary / TENSORS_FILE,
            metadata={"format": "pt", BASE_DIGEST_KEY: base_sha256},
        )
        config.save_pretrained(str(temporary))
        temporary.rename(folder)
    except (OSError, SafetensorError) as error:
        raise StorageFailure(
            f"The adapter could not be written to {folder}: {error}.",
            "Free some space or check the permissions.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_adapter(
    network: Network, folder: Path, *, base_sha256: str, trainable: bool = False
) -> Network:
    """Put saved adapters into a network.

    Parameters
    ----------
    network : nn.Module
        The base; changed in place.
    folder : Path
        With ``adapter_config.json`` and ``adapter_model.safetensors``.
    base_sha256 : str
        Digest of the base's weights.
    trainable : bool
        Whether the adapters stay apart and go on learning; else they are added to the weights.

    Returns
    -------
    nn.Module
        The same network.

    Raises
    ------
    WeightsRefused
        When the files are missing or damaged, the adapter was made for other weights, reaches
        beyond every `Part`, uses more than plain LoRA, or does not fit.
    InvalidInput
        When the network has an adapter.
    """
    _refuse_second(network)
    settings = _read_settings(folder)
    file = read_tensors(folder / TENSORS_FILE)
    made_for = file.metadata.get(BASE_DIGEST_KEY)
    if made_for is not None and made_for != base_sha256:
        raise WeightsRefused(
            f"The adapter {folder} was made for weights with SHA-256 {made_for}; these have "
            f"{base_sha256}.",
            "Load it on the model it was made for.",
        )
    config = LoraConfig(target_modules=_targets_of(file.tensors, network, folder), **settings)
    _inject(network, config)
    try:
        result: Any = set_peft_model_state_dict(network, file.tensors, adapter_name=_ADAPTER)
        absent = [name for name in result.missing_keys if ".lora_" in name]
    except RuntimeError as error:
        unload_lora(network)
        raise WeightsRefused(
            f"The adapter {folder} does not fit the network: {str(error).splitlines()[-1].strip()}",
            "Load it on the model it was made for.",
        ) from error
    if absent or result.unexpected_keys:
        unload_lora(network)
        raise WeightsRefused(
            f"The adapter {folder} does not fit the network: {len(absent)} tensors are missing, "
            f"{len(result.unexpected_keys)} unknown ({[*absent, *result.unexpected_keys][0]}).",
            "Load it on the model it was made for.",
        )
    if not trainable:
        return merge_lora(network).requires_grad_(False)
    mark_only_lora_trainable(network)
    return network


def adapter_digest(folder: Path) -> str:
    """SHA-256 over an adapter's two files.

    Raises
    ------
    WeightsRefused
        When one of them is missing or cannot be read.
    """
    digests = (file_digest(folder / name) for name in (CONFIG_FILE, TENSORS_FILE))
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _inject(network: Network, config: LoraConfig) -> Network:
    mode = network.training
    inject_adapter_in_model(config, network, adapter_name=_ADAPTER)
    return network.train(mode)


def _refuse_second(network: nn.Module) -> None:
    if lora_parameters(network):
        raise InvalidInput(
            "This network has an adapter already.", "Unload it before another one is put in."
        )


def _lora_layers(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """Names and layers; peft's own annotations do not join its two base classes, hence Any."""
    for name, module in network.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _peft_config(network: nn.Module) -> Any:
    return network.peft_config[_ADAPTER]  # type: ignore[index]  # put there by peft


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    next_step = "Give the folder of an adapter that peft or this package saved."
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsRefused(f"{path} cannot be read: {error}.", next_step) from error
    if not isinstance(document, dict) or document.get("peft_type") != "LORA":
        raise WeightsRefused(f"{path} does not describe a LoRA adapter.", next_step)
    plain = dataclasses.asdict(LoraConfig())
    for key, value in document.items():
        if key in _USED_SETTINGS | _IGNORED_SETTINGS:
            continue
        if value != plain.get(key) and value not in (None, False, {}, []):
            raise WeightsRefused(
                f"The adapter {folder} uses {key} = {value!r}; only plain LoRA is supported.",
                "Train it without that setting.",
            )
    settings = {key: document[key] for key in _USED_SETTINGS if key in document}
    numbers = (int, float)
    rank = settings.get("r")
    if (
        not isinstance(rank, int)
        or rank < 1
        or not isinstance(settings.get("lora_alpha", 8), numbers)
        or not isinstance(settings.get("lora_dropout", 0.0), numbers)
        or not isinstance(settings.get("use_rslora", False), bool)
    ):
        raise WeightsRefused(f"{path} has settings of the wrong kind: {settings}.", next_step)
    return settings


def _targets_of(tensors: dict[str, torch.Tensor], network: nn.Module, folder: Path) -> list[str]:
    """Names of the layers that an adapter changes; its tensors say so, not its pattern."""
    names = {name.removeprefix(_PEFT_PREFIX).partition(".lora_")[0] for name in tensors}
    known = {name for name, module in network.named_modules() if takes_lora(module)}
    for name in sorted(names):
        if part_of(name) is None:
            raise WeightsRefused(
                f"The adapter {folder} changes {name}; allowed are the image encoder's blocks and "
                "neck, and the mask decoder.",
                "Train it with the patterns that this package uses.",
            )
        if name not in known:
            raise WeightsRefused(
                f"The adapter {folder} changes {name}, which this network does not have.",
                "Load it on the model it was made for.",
            )
    return sorted(names)
