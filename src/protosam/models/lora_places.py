"""Where low-rank adapters may go: layers of an image encoder and of a mask decoder, by name.

Owns the parts and their names in every family of models. Plain names such as ``proj`` would also
hit ``patch_embed.proj``, so a part is a pattern over whole names. Knows nothing of peft. Speaks no
coordinates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from torch import nn

from protosam.errors import InvalidInput

Part = Literal["attention", "mlp", "neck", "decoder"]
"""Where adapters can go: attention and feed-forward layers of the encoder's blocks, the layers
after the blocks, the mask decoder."""

_BLOCK = r"image_encoder\.(?:.+\.)?blocks\.(\d+)\."
_PARTS_OF_BLOCKS: frozenset[Part] = frozenset({"attention", "mlp"})
_PATTERNS: dict[Part, re.Pattern[str]] = {
    "attention": re.compile(_BLOCK + r"attn\.(?:qkv|proj)"),
    "mlp": re.compile(_BLOCK + r"mlp\.lin[12]"),
    "neck": re.compile(r"image_encoder\.(?:from_trunk|neck\.\d+)"),
    "decoder": re.compile(r"mask_decoder\..+"),
}


def targets(network: nn.Module, blocks: Sequence[int] | None, parts: Sequence[Part]) -> list[str]:
    """Names of the layers to adapt.

    Parameters
    ----------
    network : nn.Module
    blocks : sequence of int or None
        Numbers of the encoder's blocks, for the parts that lie in blocks; all if None.
    parts : sequence of {"attention", "mlp", "neck", "decoder"}

    Raises
    ------
    InvalidInput
        When a block or a part is not there.
    """
    chosen = None if blocks is None or not _PARTS_OF_BLOCKS & set(parts) else set(blocks)
    names, found, lacking = [], set[int](), set(parts)
    for name, module in network.named_modules():
        part = part_of(name)
        if part not in parts or not takes_lora(module):
            continue
        block = _block_of(name)
        if block is not None and chosen is not None and block not in chosen:
            continue
        names.append(name)
        lacking.discard(part)
        found |= set() if block is None else {block}
    if lacking or (chosen is not None and found != chosen):
        raise InvalidInput(
            f"LoRA was asked for in {', '.join(parts)} of the blocks "
            f"{'all' if chosen is None else sorted(chosen)}; the network offers "
            f"{sorted(found) or 'none'} of these blocks"
            + (f" and no {', '.join(sorted(lacking))}." if lacking else ".")
        )
    return names


def part_of(name: str) -> Part | None:
    """Part that a layer belongs to by its whole name; None for all others."""
    return next((part for part, one in _PATTERNS.items() if one.fullmatch(name)), None)


def takes_lora(module: nn.Module) -> bool:
    """Whether a layer is a product or an ungrouped convolution."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def _block_of(name: str) -> int | None:
    match = next((m for p in _PARTS_OF_BLOCKS if (m := _PATTERNS[p].fullmatch(name))), None)
    return None if match is None else int(match[1])
