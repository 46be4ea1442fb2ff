"""SAM's image encoder through kernels that never hold a whole attention map.

Owns the arithmetic of `segment_anything`'s ``ImageEncoderViT`` at work, and nothing of training:
`encode` walks the encoder's own modules, so that its weights keep their names, adapters in
``attn.qkv`` and ``attn.proj`` are used as they lie there, and the encoder itself stays untouched.
Tokens are (rows, columns) of the encoder's grid. Knows nothing of images or precision: that is the
caller's autocast.

The encoder adds to the score of query q and key k a bias that depends on their distance in rows
and in columns ("decomposed relative positions", Li et al. 2022, arXiv:2112.01526, section 4.1).
Computed as in the package, a block of 64 x 64 tokens writes and reads its 0.8 GB of scores six
times. Here three ways to the same sum are taken:

* a graphics card gets longer vectors: q' = [q, q Rh, q Rw] and k' = [k, one-hot row, one-hot
  column] have the biased score as their scalar product, so that the plain fused kernel does it;
* a processor gets the bias as the mask of the fused kernel, for some queries at a time (longer
  vectors cost 1.9 s a block on one core of an AMD EPYC with AVX-512, the mask 0.8 s);
* in bfloat16 on a processor the scores of some queries at a time are two plain products with a
  softmax between them, in memory near the core (0.56 s; the fused kernel takes 0.9 s there).
"""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import (
    Attention,
    Block,
    get_rel_pos,
    window_partition,
    window_unpartition,
)
from torch.nn import functional as F

from protosam.models.cluster_attention import ClusterBlock

Encoder: TypeAlias = ImageEncoderViT
"""The package has no types."""

SCORES_AT_ONCE = 1 << 20
"""Scores that a processor holds at a time: 2 to 4 MB, what lies near two cores."""


def encode(encoder: Encoder, squares: torch.Tensor) -> torch.Tensor:
    """Encode images as the encoder itself would.

    Parameters
    ----------
    encoder : ImageEncoderViT
        In evaluation mode; its attention may carry adapters.
    squares : (b, 3, side, side) tensor
        Normalised and padded pixels.

    Returns
    -------
    (b, 256, side / 16, side / 16) tensor
        Equal to ``encoder(squares)`` to rounding (relative error 1e-6 in float32).
    """
    x = encoder.patch_embed(squares)  # (b, h, w, c)
    if encoder.pos_embed is not None:
        x = x + encoder.pos_embed
    # The sum of all blocks stays in the precision that it came in: each of them adds little.
    for block in encoder.blocks:
        normed = block.norm1(x)
        # Sums of two types take a processor several times as long as the cast before them.
        x = x + _attended(block, normed).to(x.dtype)
        if isinstance(block, ClusterBlock):
            x = block.joined(x, normed)
        x = x + block.mlp(block.norm2(x)).to(x.dtype)
    return cast(torch.Tensor, encoder.neck(x.permute(0, 3, 1, 2)))


def _attended(block: Block, x: torch.Tensor) -> torch.Tensor:
    """Attention of a block, in windows or over all tokens; (b, h, w, c) to the same."""
    layer, size = block.attn, block.window_size
    qkv = layer.qkv(x)  # (b, h, w, 3 c)
    if size == 0:
        return cast(torch.Tensor, layer.proj(_attention(layer, qkv)))
    height, width = x.shape[1:3]
    windows, padded = _windows(layer, qkv, size)
    mixed = window_unpartition(_attention(layer, windows), size, padded, (height, width))
    return cast(torch.Tensor, layer.proj(mixed))


def _windows(
    layer: Attention, qkv: torch.Tensor, size: int
) -> tuple[torch.Tensor, tuple[int, int]]:
    """Cut into windows; the padding holds what the layer makes of nothing.

    The package pads the tokens with zeros and projects them with the rest (a fifth more work at
    64 x 64 tokens and windows of 14).
    """
    height, width, channels = qkv.shape[1:]
    below, right = -height % size, -width % size
    if below or right:
        nothing = layer.qkv(qkv.new_zeros((1, channels // 3)))[0]
        padded = nothing.expand(qkv.shape[0], height + below, width + right, channels).clone()
        padded[:, :height, :width] = qkv
        qkv = padded
    windows, padded_to = window_partition(qkv, size)
    return windows, padded_to


def _attention(layer: Attention, qkv: torch.Tensor) -> torch.Tensor:
    """Attention among the tokens of each window, (n, h, w, 3 c) to (n, h, w, c)."""
    n, height, width, channels = qkv.shape
    heads = layer.num_heads
    grid = qkv.reshape(n, height * width, 3, heads, -1).permute(2, 0, 3, 1, 4)
    # Made contiguous once, or each product would copy its part of the keys again.
    q, k, v = grid.flatten(1, 2).contiguous().unbind(0)  # (n heads, h w, d) each
    if layer.use_rel_pos:
        mixed = biased_attention(q, k, v, _biases(layer, q, (height, width)), layer.scale)
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, scale=layer.scale)
    mixed = mixed.view(n, heads, height * width, -1).transpose(1, 2)
    return mixed.reshape(n, height, width, channels // 3)


def _biases(
    layer: Attention, q: torch.Tensor, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bias of each query for each row and each column of keys: (m, h w, h) and (m, h w, w)."""
    height, width = size
    by_row = get_rel_pos(height, height, layer.rel_pos_h).to(q.dtype)  # (h, h, d)
    by_column = get_rel_pos(width, width, layer.rel_pos_w).to(q.dtype)  # (w, w, d)
    grid = q.view(q.shape[0], height, width, -1)
    row = grid @ by_row.transpose(1, 2)  # (m, h, w, h)
    column = grid.transpose(1, 2) @ by_column.transpose(1, 2)  # (m, w, h, w)
    return row.flatten(1, 2), column.transpose(1, 2).flatten(1, 2)


def biased_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: tuple[torch.Tensor, torch.Tensor],
    scale: float,
) -> torch.Tensor:
    """Attention with a bias that is a sum over rows and columns of the keys.

    Parameters
    ----------
    q, k, v : (m, h w, d) tensors
        Of ``m`` heads and windows.
    biases : (m, h w, h) tensor, (m, h w, w) tensor
        What is added to the scaled score of a query with the keys of each row, and of each column.
    scale : float
        Factor of the scalar product.

    Returns
    -------
    (m, h w, d) tensor
    """
    if q.device.type != "cpu":
        return _through_longer_vectors(q, k, v, biases, scale)
    row, column = biases
    m, queries = q.shape[:2]
    together = max(1, SCORES_AT_ONCE // (queries * k.shape[1]))  # heads and windows at once
    step = queries if together > 1 else max(1, SCORES_AT_ONCE // k.shape[1])
    # Many small maps are the fused kernel's: 0.07 s a block of windows, against 0.11 s.
    way = _through_products if q.dtype == torch.bfloat16 and together == 1 else _through_mask
    out = torch.empty_like(v)
    for first in range(0, m, together):
        some = slice(first, first + together)
        for begin in range(0, queries, step):
            part = (some, slice(begin, begin + step))
            out[part] = way(q[part] * scale, k[some], v[some], (row[part], column[part]))
    return out


def _through_mask(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, biases: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    row, column = biases
    bias = (row.unsqueeze(-1) + column.unsqueeze(-2)).flatten(2)  # (m, queries, h w)
    # The kernel for processors wants four axes, or falls back to the plain way.
    mixed = F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=bias[None], scale=1)
    return mixed[0]


def _through_products(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, biases: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    row, column = biases
    scores = torch.bmm(q, k.transpose(1, 2))  # (m, queries, h w)
    on_grid = scores.view(*scores.shape[:2], row.shape[-1], column.shape[-1])
    on_grid.add_(row.unsqueeze(-1)).add_(column.unsqueeze(-2))
    return torch.bmm(torch.softmax(scores, dim=-1), v)


def _through_longer_vectors(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: tuple[torch.Tensor, torch.Tensor],
    scale: float,
) -> torch.Tensor:
    row, column = biases
    height, width = row.shape[-1], column.shape[-1]
    options: dict[str, Any] = {"dtype": k.dtype, "device": k.device}
    rows = torch.eye(height, **options).repeat_interleave(width, dim=0)  # (h w, h)
    columns = torch.eye(width, **options).repeat(height, 1)  # (h w, w)
    places = torch.cat([rows, columns], dim=1).expand(k.shape[0], -1, -1)
    longer_q = torch.cat([q * scale, row, column], dim=2)
    longer_k = torch.cat([k, places], dim=2)
    # One length for all three, a multiple of 8, or the fused kernels refuse.
    length = -(-longer_q.shape[2] // 8) * 8
    fill = length - longer_q.shape[2]
    mixed = F.scaled_dot_product_attention(
        F.pad(longer_q, (0, fill))[None],
        F.pad(longer_k, (0, fill))[None],
        F.pad(v, (0, length - v.shape[2]))[None],
        scale=1,
    )
    return mixed[0, :, :, : v.shape[2]]
