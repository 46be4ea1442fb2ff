"""What is known of a specialist, and the file that it lies in.

Owns the card, in the header of the safetensors file, and its form. It takes no time to import: the
networks are `specialist`'s, and with them MONAI. Axes are (k, j, i), spacing is in mm.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protosam import __version__
from protosam.errors import InvalidInput, WeightsRefused
from protosam.models.tensors import TensorFile, read_tensors

FORMAT = 1
"""Version of the card; another one is refused."""

HEADER_KEY = "protosam_specialist"
"""Entry of the safetensors header that holds the card."""

FILE = "specialist.safetensors"
"""Name of the file in the folder of a version."""

NETWORK_NAMES = ("unet", "vnet", "segresnet")
"""Networks that there are, see `specialist.NETWORKS`."""

CELL = 16
"""Sides of patches are multiples of this."""


@dataclass(frozen=True)
class SpecialistCard:
    """What is known of a specialist.

    Attributes
    ----------
    labels : tuple of str
        Names of what it finds, in the order of its outputs after the background.
    networks : tuple of str
        Of `NETWORK_NAMES`; several answer together.
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
        strangers = [name for name in self.networks if name not in NETWORK_NAMES]
        if strangers or not self.networks or not self.labels:
            raise InvalidInput(
                f"A specialist of the networks {self.networks} for {self.labels} cannot be built.",
                f"Networks are {', '.join(NETWORK_NAMES)}; give at least one, and one label.",
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


def read_specialist_card(path: Path) -> SpecialistCard:
    """Read the card alone.

    Raises
    ------
    WeightsRefused
        As `load_specialist`.
    """
    return card_in(read_tensors(path), path)


def card_in(file: TensorFile, path: Path) -> SpecialistCard:
    """Card of a file that was read; see `read_specialist_card`."""
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
