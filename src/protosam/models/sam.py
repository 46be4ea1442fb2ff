"""Builds the networks of the segment-anything family from tensors.

Owns the way from a table of tensors to a `Sam` of the segment-anything package (image encoder,
prompt encoder and mask decoder are that package's own modules). Knows nothing of files,
digests or images; `predictor.py` feeds the network. Speaks no coordinates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam as _Sam

from protosam.errors import ModelUnavailable, WeightsRefused

Sam: TypeAlias = _Sam

ARCHITECTURE_OF_WIDTH = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
"""Width of the image encoder's tokens to the name of its size."""

_PATCH_WEIGHT = "image_encoder.patch_embed.proj.weight"


def build_sam(architecture: str) -> Sam:
    """Build an untrained network.

    Parameters
    ----------
    architecture : {"vit_b", "vit_l", "vit_h"}
        Size of the image encoder.

    Returns
    -------
    Sam
        On the CPU, float32, random weights, in evaluation mode.

    Raises
    ------
    ModelUnavailable
        When there is no such size.
    """
    if architecture not in ARCHITECTURE_OF_WIDTH.values():
        raise ModelUnavailable(
            f"There is no SAM architecture {architecture!r}.",
            f"Known are {', '.join(ARCHITECTURE_OF_WIDTH.values())}.",
        )
    return sam_model_registry[architecture]()


def architecture_of(tensors: Mapping[str, torch.Tensor], source: str) -> str:
    """Tell the size of a SAM from its tensors.

    Parameters
    ----------
    tensors : mapping of str to torch.Tensor
        A state dict.
    source : str
        Where it comes from, for the message.

    Raises
    ------
    WeightsRefused
        When these are not the tensors of a SAM of known size.
    """
    patch = tensors.get(_PATCH_WEIGHT)
    width = int(patch.shape[0]) if patch is not None and patch.ndim == 4 else None
    if width is None:
        raise WeightsRefused(
            f"{source} does not hold a SAM: {_PATCH_WEIGHT} is missing "
            f"(it begins with {_some(tensors)}).",
            "Give weights of SAM ViT-B, ViT-L or ViT-H, of MedSAM, or of protosam-tiny.",
        )
    if width not in ARCHITECTURE_OF_WIDTH:
        raise WeightsRefused(
            f"{source} holds a SAM whose encoder is {width} wide; known widths are "
            f"{', '.join(map(str, ARCHITECTURE_OF_WIDTH))}.",
            "Give weights of SAM ViT-B, ViT-L or ViT-H.",
        )
    return ARCHITECTURE_OF_WIDTH[width]


def fill_sam(network: Sam, tensors: Mapping[str, torch.Tensor], source: str) -> Sam:
    """Put weights into a network.

    Parameters
    ----------
    network : Sam
        Changed in place.
    tensors : mapping of str to torch.Tensor
        Exactly the network's own names and shapes; any float dtype.
    source : str
        Where they come from, for the message.

    Returns
    -------
    Sam
        The same network, in evaluation mode.

    Raises
    ------
    WeightsRefused
        When names are missing or unknown, or shapes or types differ; the message gives the
        first of them.
    """
    wanted = network.state_dict()
    complaints = [
        f"{len(names)} {what} ({_some(names)})"
        for what, names in (
            ("missing", [name for name in wanted if name not in tensors]),
            ("unknown", [name for name in tensors if name not in wanted]),
            (
                "of another shape",
                [
                    f"{name} {tuple(tensors[name].shape)} instead of {tuple(value.shape)}"
                    for name, value in wanted.items()
                    if name in tensors and tensors[name].shape != value.shape
                ],
            ),
            (
                "not of a float type",
                [name for name, value in tensors.items() if not value.is_floating_point()],
            ),
        )
        if names
    ]
    if complaints:
        raise WeightsRefused(
            f"{source} does not fit the network: tensors are {', '.join(complaints)}.",
            "Give the weights of this very architecture.",
        )
    network.load_state_dict(tensors)
    network.eval()
    return network


def _some(names: Iterable[str], count: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:count]) + (", ..." if len(listed) > count else "")
