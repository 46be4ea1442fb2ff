"""One door to every model: by name, from a folder, or from a file.

Owns the choice of the code that builds a model and of the device it runs on. Everything is
checked before anything is built. Speaks no coordinates.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from protosam.errors import InvalidInput, ModelUnavailable, WeightsRefused
from protosam.models.add_ons import find_add_on
from protosam.models.cards import MODEL_CARDS, ModelCard, card_named
from protosam.models.predictor import Precision, SamSliceModel
from protosam.models.sam import architecture_of, build_sam, fill_sam
from protosam.models.shift import load_shift
from protosam.models.slice_model import SliceModel
from protosam.models.tensors import read_tensors
from protosam.models.tiny_predictor import TinySliceModel, load_tiny
from protosam.models.weights import file_digest, find_weights, verify_weights

FAMILY_KEY = "family"
"""Entry of a safetensors header that names the family (``tiny``) of weights without a card."""

DEFAULT_MODEL = "protosam-tiny"


def load_model(
    name_or_path: str | Path = DEFAULT_MODEL,
    *,
    adapter: Path | None = None,
    weights_dir: Path | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    like: str | None = None,
) -> SliceModel:
    """Load a model, ready to answer.

    Parameters
    ----------
    name_or_path : str or Path
        Name of a card; or a folder that holds the file of exactly one card; or a weights file.
        A file that has the name of a card's file must be that file. Any other file is taken as
        the user's own: its tensors tell what it is.
    adapter : Path, optional
        Folder of a LoRA adapter in peft's format, or file of a shift (`models.shift`), or the
        name of one of them in `add_ons.names_folder`.
    weights_dir : Path, optional
        Folder in which names are looked up first.
    device : str
        ``auto`` (a CUDA device if there is one), ``cpu``, ``cuda``, ``cuda:1`` and so on.
    precision : {"float32", "bfloat16", "float16"}
        Of the image encoder of the SAM family.
    like : str, optional
        Name of the card whose image preparation the user's own SAM weights were trained with
        (``medsam_vit_b`` for weights tuned from MedSAM); SAM's own if None.

    Returns
    -------
    SliceModel
        On the device.

    Raises
    ------
    ModelUnavailable
        When there is no such name, folder, file or architecture.
    WeightsRefused
        When the file or adapter is not the right one, is damaged, or holds more than tensors.
    InvalidInput
        When the device is unknown or not there.
    """
    target = choose_device(device)
    known, path = _resolve(name_or_path, weights_dir)
    if known is not None and like is not None:
        raise InvalidInput(f"{path} has a card of its own; `like` is for files without one.")
    sha256 = file_digest(path) if known is None else verify_weights(known, path)
    card = known or _card_of_own_file(path, like)
    given = None if adapter is None else find_add_on(adapter)
    shift = None
    if given is not None and given.is_file():
        shift, given = load_shift(given, base_sha256=sha256), None
    model = (
        _load_tiny(path, sha256, target, given)
        if card.family == "tiny"
        else _load_sam(card, path, sha256, device=target, precision=precision, adapter=given)
    )
    if shift is not None:
        shift.check_fits(model.network.mask_decoder)
        model.shift_by(shift)
    return model


def choose_device(device: str) -> torch.device:
    """Turn a device's name into a device that is there.

    Parameters
    ----------
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:1`` and so on.

    Raises
    ------
    InvalidInput
        When the name is unknown or this machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    next_step = "Use auto or cpu."
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InvalidInput(f"There is no device {device!r}.", next_step) from error
    count = torch.cuda.device_count() if chosen.type == "cuda" else int(chosen.type == "cpu")
    if (chosen.index or 0) >= count:
        raise InvalidInput(
            f"The device {device!r} was asked for; this machine has {torch.cuda.device_count()} "
            "CUDA devices, and the models run on cpu and cuda.",
            next_step,
        )
    return chosen


def _resolve(name_or_path: str | Path, weights_dir: Path | None) -> tuple[ModelCard | None, Path]:
    """Find the file, and the card if the file has a card's name."""
    if isinstance(name_or_path, str) and name_or_path in MODEL_CARDS:
        card = MODEL_CARDS[name_or_path]
        return card, find_weights(card, weights_dir)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return _only_card_in(path)
    if path.is_file():
        by_file = {card.file: card for card in MODEL_CARDS.values()}
        return by_file.get(path.name), path
    if path.suffix or path.name != str(name_or_path):
        raise ModelUnavailable(
            f"There is no file or folder {path}.",
            f"Give a weights file, a folder that holds one, or one of {', '.join(MODEL_CARDS)}.",
        )
    return card_named(str(name_or_path)), path


def _only_card_in(folder: Path) -> tuple[ModelCard, Path]:
    held = [card for card in MODEL_CARDS.values() if (folder / card.file).is_file()]
    if len(held) == 1:
        return held[0], folder / held[0].file
    what = ", ".join(card.file for card in held) or "none of the known weights files"
    raise ModelUnavailable(
        f"The folder {folder} holds {what}; wanted is exactly one.",
        "Give the file, or the model's name together with the folder.",
    )


def _card_of_own_file(path: Path, like: str | None) -> ModelCard:
    """Describe the user's own weights by what their tensors tell."""
    file = read_tensors(path)
    if file.metadata.get(FAMILY_KEY) == "tiny":
        return replace(card_named(DEFAULT_MODEL), name=path.stem, file=path.name, sha256=None)
    architecture = architecture_of(file.tensors, str(path))
    model = card_named(like or f"sam_{architecture}")
    if model.architecture != architecture:
        raise WeightsRefused(
            f"{path} holds a {architecture}; {model.name} is a {model.architecture}.",
            "Leave `like` out or name a model of the same size.",
        )
    return replace(model, name=path.stem, file=path.name, sha256=None, md5=None)


def _load_sam(
    card: ModelCard,
    path: Path,
    sha256: str,
    *,
    device: torch.device,
    precision: Precision,
    adapter: Path | None,
) -> SamSliceModel:
    network = fill_sam(build_sam(card.architecture), read_tensors(path).tensors, str(path))
    if adapter is not None:
        _add_adapter(network, sha256, adapter)
    return SamSliceModel(
        network,
        card,
        name=card.name,
        weights_sha256=_identity(sha256, adapter),
        device=device,
        precision=precision,
    )


def _load_tiny(
    path: Path, sha256: str, device: torch.device, adapter: Path | None
) -> TinySliceModel:
    model = load_tiny(path, digest=_identity(sha256, adapter), device=device)
    if adapter is not None:
        _add_adapter(model.network, sha256, adapter)
    return model


def _add_adapter(network: nn.Module, sha256: str, adapter: Path) -> None:
    # Late, because peft and transformers take 3 s to import and few users have an adapter.
    from protosam.models.lora import load_adapter  # noqa: PLC0415

    device = next(network.parameters()).device
    load_adapter(network, adapter, base_sha256=sha256).to(device)


def _identity(sha256: str, adapter: Path | None) -> str:
    """Digest of weights and adapter together; the weights' own digest without an adapter."""
    if adapter is None:
        return sha256
    from protosam.models.lora import adapter_digest  # noqa: PLC0415 - as above

    return hashlib.sha256(f"{sha256}\n{adapter_digest(adapter)}".encode()).hexdigest()
