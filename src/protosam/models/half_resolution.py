"""SAM at half its input size: a fifth of the encoder's time for coarser masks.

Owns how a network made for a square of ``s`` pixels becomes one for ``s / 2``: what it has learnt
of positions is resampled, all other weights stay. Knows nothing of images or files.

Absolute positions are resampled as pictures (bicubic, as usual since Dosovitskiy et al. 2021,
arXiv:2010.11929, section 3.2). Relative positions of blocks that see all tokens are resampled
linearly, as `segment_anything` itself does when sizes differ; those of windows stay, since windows
hold as many tokens as before. The prompt encoder's positions are measured in parts of the square.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from protosam.errors import InvalidInput
from protosam.models.sam import Sam


def halve(network: Sam) -> Sam:
    """Make a network work on a square of half the side.

    Parameters
    ----------
    network : Sam
        Changed in place; its weights then differ in shape from those it was loaded from. Adapters
        stay where they are.

    Returns
    -------
    Sam
        The same network.

    Raises
    ------
    InvalidInput
        When half the square is not a whole number of tokens.
    """
    encoder, prompts = network.image_encoder, network.prompt_encoder
    tokens = int(prompts.image_embedding_size[0])
    if tokens % 2:
        raise InvalidInput(
            f"This network sees {tokens} x {tokens} tokens, which cannot be halved.",
            "Use it at its full size.",
        )
    side = int(encoder.img_size) // 2
    encoder.img_size = side
    if encoder.pos_embed is not None:
        encoder.pos_embed = _replaced(encoder.pos_embed, _positions(encoder.pos_embed, tokens // 2))
    for block in encoder.blocks:
        if block.window_size == 0 and block.attn.use_rel_pos:
            for name in ("rel_pos_h", "rel_pos_w"):
                old = getattr(block.attn, name)
                setattr(block.attn, name, _replaced(old, _distances(old, tokens - 1)))
    prompts.input_image_size = (side, side)
    prompts.image_embedding_size = (tokens // 2, tokens // 2)
    prompts.mask_input_size = (2 * tokens, 2 * tokens)
    return network


def _positions(learnt: torch.Tensor, tokens: int) -> torch.Tensor:
    """(1, h, w, c) to (1, tokens, tokens, c)."""
    picture = learnt.detach().permute(0, 3, 1, 2)
    resampled = F.interpolate(picture, (tokens, tokens), mode="bicubic", antialias=True)
    return resampled.permute(0, 2, 3, 1)


def _distances(learnt: torch.Tensor, count: int) -> torch.Tensor:
    """(2 n - 1, d) to (count, d)."""
    line = learnt.detach().t()[None]
    return F.interpolate(line, count, mode="linear")[0].t()


def _replaced(old: nn.Parameter, values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values.contiguous(), requires_grad=old.requires_grad)
