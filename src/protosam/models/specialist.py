"""Specialists: small networks that find a few objects in whole volumes, without a click.

Owns the networks that there are (MONAI's), the working grid that they see, how they answer, and
their weights in a file; the card in it is `specialist_card`'s. Nothing of the large model is needed
to use one. Arrays are (k, j, i) in the volume's voxels, or (d, h, w) on the working grid, whose
axes and outer corners are the volume's; spacing is in mm.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.inferers.utils import sliding_window_inference
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet
from monai.networks.nets.vnet import VNet
from safetensors import SafetensorError
from safetensors.torch import save_file
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from protosam.errors import WeightsRefused
from protosam.geometry import Volume
from protosam.intensity import apply_window, auto_window
from protosam.models.slice_axis import choose_axis
from protosam.models.specialist_card import HEADER_KEY, SpecialistCard, card_in
from protosam.models.tensors import read_tensors
from protosam.prompts import PromptSet
from protosam.storage import atomic_path

OVERLAP = 0.5
"""Of neighbouring patches when a volume is answered."""

SMALLEST_BODY = 0.2
"""Bodies of a smaller share of an object's largest are taken away: a specialist has no click that
says where the object is, and small strays far from it are its usual fault."""


def _unet(classes: int) -> nn.Module:
    net: nn.Module = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=classes,
        channels=(16, 32, 64, 128),
        strides=(2, 2, 2),
        num_res_units=1,
        norm="INSTANCE",
        dropout=0.1,
    )
    return net


def _vnet(classes: int) -> nn.Module:
    net: nn.Module = VNet(spatial_dims=3, in_channels=1, out_channels=classes)
    return net


def _segresnet(classes: int) -> nn.Module:
    net: nn.Module = SegResNet(
        spatial_dims=3, init_filters=8, in_channels=1, out_channels=classes, dropout_prob=0.1
    )
    return net


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "unet": _unet,
    "vnet": _vnet,
    "segresnet": _segresnet,
}
"""Networks by name. Forward and backward of a patch of 32x48x48 on one core of a Xeon: ``unet``
(0.6 M numbers) 0.2 s, ``vnet`` (45.6 M, SemiSAM's kind) 1.8 s: for a GPU."""


@dataclass(frozen=True, eq=False)
class Finding:
    """One object that a specialist has found.

    Attributes
    ----------
    name : str
    mask : (K, J, I) bool
        May be empty.
    confidence : float
        Mean probability over the mask; 0 where it is empty.
    slices : slice -> float
        The same of each slice across the axis of work.
    """

    name: str
    mask: npt.NDArray[np.bool_]
    confidence: float
    slices: dict[int, float]


class Specialist:
    """Networks that answer together.

    Parameters
    ----------
    card : SpecialistCard
    networks : sequence of nn.Module
        In the card's order.
    device : torch.device
    """

    def __init__(
        self, card: SpecialistCard, networks: Sequence[nn.Module], device: torch.device
    ) -> None:
        self.card, self.device = card, device
        self.networks = [network.to(device).eval() for network in networks]

    @torch.no_grad()
    def probabilities(self, image: torch.Tensor) -> torch.Tensor:
        """Probabilities on the working grid.

        Parameters
        ----------
        image : (1, d, h, w) tensor
            From `on_working_grid`.

        Returns
        -------
        (classes, d, h, w) tensor
            Summing to 1; the background comes first.
        """
        total = torch.zeros(())
        for network in self.networks:
            logits: Any = sliding_window_inference(
                image[None].to(self.device),
                self.card.patch,
                1,
                network,
                overlap=OVERLAP,
                mode="gaussian",
            )
            total = total.to(self.device) + torch.softmax(logits[0], dim=0)
        return total / len(self.networks)

    def find(self, volume: Volume) -> list[Finding]:
        """Find all objects in a volume.

        Raises
        ------
        InvalidInput
            When the volume shows nothing.
        """
        image = on_working_grid(volume, self.card.spacing_mm)
        probability = on_own_grid(self.probabilities(image).cpu(), volume.shape_kji).numpy()
        chosen = probability.argmax(axis=0)
        found = []
        for number, name in enumerate(self.card.labels, start=1):
            mask = _bodies(chosen == number)
            sure = float(probability[number][mask].mean()) if mask.any() else 0.0
            slices = _by_slice(mask, probability[number], choose_axis(PromptSet(), volume))
            found.append(Finding(name, mask, sure, slices))
        return found


def build_networks(card: SpecialistCard) -> list[nn.Module]:
    """Untaught networks of a card."""
    return [NETWORKS[name](card.classes) for name in card.networks]


def working_shape(volume: Volume, spacing_mm: Sequence[float]) -> tuple[int, int, int]:
    """Voxels of the working grid of a volume."""
    sides = [
        max(1, round(n * own / wanted))
        for n, own, wanted in zip(volume.shape_kji, volume.spacing_kji_mm, spacing_mm, strict=True)
    ]
    return sides[0], sides[1], sides[2]


def on_working_grid(volume: Volume, spacing_mm: Sequence[float]) -> torch.Tensor:
    """Image of a volume on its working grid, with mean 0 and deviation 1; (1, d, h, w)."""
    window = auto_window(volume.voxels)
    image = torch.from_numpy(apply_window(volume.voxels, window))[None]
    resized = resized_to(image, working_shape(volume, spacing_mm))
    return (resized - resized.mean()) / resized.std(correction=0).clamp_min(1e-6)


def on_own_grid(maps: torch.Tensor, shape_kji: Sequence[int]) -> torch.Tensor:
    """Bring maps (c, d, h, w) of the working grid to the volume's voxels (c, K, J, I)."""
    return resized_to(maps, shape_kji)


def resized_to(maps: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Resample maps (c, ...) to another grid between the same outer corners."""
    size = tuple(int(n) for n in shape)
    if tuple(maps.shape[1:]) == size:
        return maps.float()
    d, h, w = (min(a, b) for a, b in zip(maps.shape[1:], size, strict=True))
    pooled = F.adaptive_avg_pool3d(maps.float()[None], (d, h, w))  # no aliases where it shrinks
    return F.interpolate(pooled, size=size, mode="trilinear", align_corners=False)[0]


def save_specialist(specialist: Specialist, path: Path) -> None:
    """Write a specialist, whole or not at all.

    Raises
    ------
    StorageFailure
        When it cannot be written.
    """
    tensors = {
        f"{n}.{key}": value.detach().cpu().contiguous()
        for n, network in enumerate(specialist.networks)
        for key, value in network.state_dict().items()
    }
    header = {HEADER_KEY: json.dumps(dataclasses.asdict(specialist.card))}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=header)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def load_specialist(path: Path, device: torch.device) -> Specialist:
    """Read what `save_specialist` wrote.

    Raises
    ------
    WeightsRefused
        When the file is missing, damaged, no specialist or of another format.
    """
    file = read_tensors(path)
    card = card_in(file, path)
    networks = build_networks(card)
    try:
        for n, network in enumerate(networks):
            own = {k.partition(".")[2]: t for k, t in file.tensors.items() if k.startswith(f"{n}.")}
            network.load_state_dict(own)
    except RuntimeError as error:
        raise WeightsRefused(
            f"The tensors of {path} do not fit the networks {card.networks}.", "Adapt again."
        ) from error
    return Specialist(card, networks, device)


def _by_slice(
    mask: npt.NDArray[np.bool_], probability: npt.NDArray[np.float32], axis: int
) -> dict[int, float]:
    """Mean probability over the mask in each slice that has some of it."""
    turned, said = np.moveaxis(mask, axis, 0), np.moveaxis(probability, axis, 0)
    held = np.flatnonzero(turned.any(axis=(1, 2)))
    return {int(z): float(said[z][turned[z]].mean()) for z in held}


def _bodies(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Bodies that are not much smaller than the largest."""
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept: npt.NDArray[np.bool_] = np.isin(
        labels, np.flatnonzero(sizes >= SMALLEST_BODY * sizes.max())
    )
    return kept
