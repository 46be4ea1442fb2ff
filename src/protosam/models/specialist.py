"""Specialists: small networks that find a few objects in whole volumes, without a click.

Owns the networks that there are (MONAI's), the working grid that they see, how they answer, and
their file: safetensors whose header holds the card. Nothing of the large model is needed to use
one. Arrays are (k, j, i) in the volume's voxels, or (d, h, w) on the working grid, whose axes and
outer corners are the volume's; spacing is in mm.
"""

from __future__ import annotations

import dataclasses
import json
import math
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

from protosam import __version__
from protosam.errors import InvalidInput, WeightsRefused
from protosam.geometry import Volume
from protosam.intensity import apply_window, auto_window
from protosam.models.slice_axis import choose_axis
from protosam.models.tensors import TensorFile, read_tensors
from protosam.prompts import PromptSet
from protosam.storage import atomic_path

FORMAT = 1
"""Version of the card; another one is refused."""

HEADER_KEY = "protosam_specialist"
"""Entry of the safetensors header that holds the card."""

FILE = "specialist.safetensors"
"""Name of the file in the folder of a version."""

CELL = 16
"""Sides of patches are multiples of this."""

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


@dataclass(frozen=True)
class SpecialistCard:
    """What is known of a specialist.

    Attributes
    ----------
    labels : tuple of str
        Names of what it finds, in the order of its outputs after the background.
    networks : tuple of str
        Keys of `NETWORKS`; several answer together.
    spacing_mm : (float, float, float)
        Of the working grid, along k, j, i.
    patch : (int, int, int)
        Of the working grid's voxels.
    """

    labels: tuple[str, ...]
    networks: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    patch: tuple[int, int, int]
    program: str = __version__
    format: int = FORMAT

    def __post_init__(self) -> None:
        strangers = [name for name in self.networks if name not in NETWORKS]
        if strangers or not self.networks or not self.labels:
            raise InvalidInput(
                f"A specialist of the networks {self.networks} for {self.labels} cannot be built.",
                f"Networks are {', '.join(NETWORKS)}; give at least one, and one label.",
            )
        three = len(self.spacing_mm) == len(self.patch) == 3
        if not three or any(not math.isfinite(s) or s <= 0 for s in self.spacing_mm):
            raise InvalidInput(f"{self.spacing_mm} mm is no spacing of three axes.")
        if any(side < CELL or side % CELL for side in self.patch):
            raise InvalidInput(f"The sides of {self.patch} are not multiples of {CELL}.")

    @property
    def classes(self) -> int:
        """Outputs of each network."""
        return len(self.labels) + 1


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
    card = _card(file, path)
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


def read_specialist_card(path: Path) -> SpecialistCard:
    """Read the card alone.

    Raises
    ------
    WeightsRefused
        As `load_specialist`.
    """
    return _card(read_tensors(path), path)


def _card(file: TensorFile, path: Path) -> SpecialistCard:
    if HEADER_KEY not in file.metadata:
        raise WeightsRefused(
            f"{path} is no specialist of ProtoSAM.",
            "Give one that `protosam adapt --method semisam` left.",
        )
    try:
        entries: dict[str, Any] = json.loads(file.metadata[HEADER_KEY])
        if entries.get("format") != FORMAT:
            raise WeightsRefused(f"{path} is of another format.", "Update ProtoSAM.")
        card = SpecialistCard(**entries)
        spacing, patch = card.spacing_mm, card.patch
        return dataclasses.replace(
            card,
            labels=tuple(card.labels),
            networks=tuple(card.networks),
            spacing_mm=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
            patch=(int(patch[0]), int(patch[1]), int(patch[2])),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsRefused(f"The card of {path} cannot be understood.", "Adapt again.") from error


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
