"""The two-way transformer of Segment Anything, for one object, with few products over the image.

Owns the arithmetic of `segment_anything`'s ``TwoWayTransformer`` (package segment-anything 1.0) at
work. It walks the transformer's own modules; results are equal to rounding (1e-5 in float32).
Knows nothing of masks, frames or prompts.

The package projects all image tokens, thousands, to keys, values and queries in every layer, for
the sake of a few prompt tokens. Here

* what the first layer's attention makes of an image before any prompt (`ImageSide`) can be made
  once and handed in;
* elsewhere the prompt tokens are projected into the image's channels: ``(p Wq) (x Wk)^T`` is
  ``(p Wq Wk^T) x^T``, and a weighted sum over the image is taken before it is projected. With
  ``n`` prompt tokens and ``a`` heads this costs ``a n`` channels in place of half of ``c`` (56 in
  place of 128 for one click in SAM).

Shapes: ``t`` image tokens, ``n`` prompt tokens, ``c`` channels, ``a`` heads of ``d`` channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling.transformer import (
    Attention,
    TwoWayAttentionBlock,
    TwoWayTransformer,
)
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class ImageSide:
    """What the first layer makes of an image before it knows any prompt.

    Attributes
    ----------
    tokens : (t, c) tensor
        The image.
    keys, values : (a, t, d) tensors
        Of the attention from prompts to the image.
    queries : (a, d, t) tensor
        Of the attention from the image to prompts.
    """

    tokens: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    queries: torch.Tensor


class TwoWay:
    """Runs a two-way transformer.

    Parameters
    ----------
    transformer : TwoWayTransformer
        In evaluation mode.
    positions : (t, c) tensor
        Of the image tokens.
    """

    def __init__(self, transformer: TwoWayTransformer, positions: torch.Tensor) -> None:
        self._transformer, self._positions = transformer, positions
        # Written anew for each layer: fresh memory of 4 MB costs more than the sum that fills it.
        self._placed = torch.empty_like(positions)

    def image_side(self, tokens: torch.Tensor) -> ImageSide:
        """Make what can be kept of an image (t, c)."""
        placed = tokens + self._positions
        first: TwoWayAttentionBlock = self._transformer.layers[0]
        inward, outward = first.cross_attn_token_to_image, first.cross_attn_image_to_token
        return ImageSide(
            tokens,
            _by_head(inward, inward.k_proj(placed)),
            _by_head(inward, inward.v_proj(tokens)),
            _by_head(outward, outward.q_proj(placed)).transpose(1, 2).contiguous(),
        )

    def run(
        self, prompts: torch.Tensor, image: torch.Tensor | ImageSide
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Let prompts and image look at each other.

        Parameters
        ----------
        prompts : (n, c) tensor
        image : (t, c) tensor or ImageSide
            Tokens are overwritten; an `ImageSide` is left as it is.

        Returns
        -------
        prompts : (n, c) tensor
        image : (t, c) tensor
        """
        side = image if isinstance(image, ImageSide) else None
        tokens = image.tokens if isinstance(image, ImageSide) else image
        asked = prompts
        for layer in self._transformer.layers:
            prompts, tokens = self._layer(layer, (prompts, asked), tokens, side)
            side = None
        final = self._transformer.final_attn_token_to_image
        placed = torch.add(tokens, self._positions, out=self._placed)
        seen = _gathered(final, prompts + asked, tokens, placed)
        return self._transformer.norm_final_attn(prompts + seen), tokens

    def _layer(
        self,
        layer: TwoWayAttentionBlock,
        both: tuple[torch.Tensor, torch.Tensor],
        image: torch.Tensor,
        side: ImageSide | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One layer; `both` are the prompts now and as they were asked."""
        prompts, asked = both
        if layer.skip_first_layer_pe:
            prompts = _among(layer.self_attn, prompts, prompts)
        else:
            prompts = prompts + _among(layer.self_attn, prompts + asked, prompts)
        prompts = layer.norm1(prompts)
        inward, outward = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        if side is None:
            placed = torch.add(image, self._positions, out=self._placed)
            seen = _gathered(inward, prompts + asked, image, placed)
        else:
            seen = _mixed(inward, prompts + asked, side.keys, side.values)
        prompts = layer.norm2(prompts + seen)
        prompts = layer.norm3(prompts + layer.mlp(prompts))
        keys = _by_head(outward, outward.k_proj(prompts + asked))  # (a, n, d)
        values = _by_head(outward, outward.v_proj(prompts))
        if side is None:
            weights, given = _handed_out(outward, _scores(outward, placed, keys), values)
            image.addmm_(weights.t(), given)
        else:
            weights, given = _handed_out(outward, torch.bmm(keys, side.queries), values)
            image = torch.addmm(image, weights.t(), given)
        return prompts, layer.norm4(image)


def as_tokens(features: torch.Tensor) -> torch.Tensor:
    """Bring features (1, c, h, w) into new memory as tokens (h w, c)."""
    return features.flatten(2)[0].t().clone(memory_format=torch.contiguous_format)


def _by_head(attention: Attention, x: torch.Tensor) -> torch.Tensor:
    """(t, a d) to (a, t, d)."""
    return x.view(x.shape[0], attention.num_heads, -1).transpose(0, 1).contiguous()


def _mixed(
    attention: Attention, prompts: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """Attention of prompts (n, c) to keys and values (a, t, d)."""
    queries = _by_head(attention, attention.q_proj(prompts))
    mixed = F.scaled_dot_product_attention(queries[None], keys[None], values[None])[0]
    out: torch.Tensor = attention.out_proj(mixed.transpose(0, 1).flatten(1))
    return out


def _among(attention: Attention, places: torch.Tensor, contents: torch.Tensor) -> torch.Tensor:
    """Attention of the prompts among themselves."""
    keys = _by_head(attention, attention.k_proj(places))
    values = _by_head(attention, attention.v_proj(contents))
    return _mixed(attention, places, keys, values)


def _gathered(
    attention: Attention, prompts: torch.Tensor, image: torch.Tensor, placed: torch.Tensor
) -> torch.Tensor:
    """Attention from prompts (n, c) to the image (t, c), without projecting the image."""
    heads, n = attention.num_heads, prompts.shape[0]
    queries = _by_head(attention, attention.q_proj(prompts))  # (a, n, d)
    queries = queries * queries.shape[-1] ** -0.5
    into = attention.k_proj.weight.unflatten(0, (heads, -1))  # (a, d, c)
    asked = torch.bmm(queries, into).flatten(0, 1)  # (a n, c)
    # The bias of the keys adds the same to all scores of a query, which softmax does not see.
    weights = torch.softmax(asked @ placed.t(), dim=-1)  # (a n, t)
    seen = (weights @ image).view(heads, n, -1)  # (a, n, c)
    out_of = attention.v_proj.weight.unflatten(0, (heads, -1))  # (a, d, c)
    mixed = torch.bmm(seen, out_of.transpose(1, 2)).transpose(0, 1).flatten(1)  # (n, a d)
    out: torch.Tensor = attention.out_proj(mixed + attention.v_proj.bias)
    return out


def _scores(attention: Attention, placed: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Scores (a, n, t) of prompts' keys (a, n, d) with image tokens (t, c)."""
    heads, n = keys.shape[:2]
    weight = attention.q_proj.weight.unflatten(0, (heads, -1))  # (a, d, c)
    bias = attention.q_proj.bias.unflatten(0, (heads, -1))  # (a, d)
    into = torch.bmm(keys, weight).flatten(0, 1)  # (a n, c)
    offset = torch.bmm(keys, bias.unsqueeze(-1)).view(-1, 1)  # (a n, 1)
    return torch.addmm(offset, into, placed.t()).view(heads, n, -1)


def _handed_out(
    attention: Attention, scores: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (a n, t) of prompts for image tokens, and what each prompt hands out (a n, c).

    From scores (a, n, t) and values (a, n, d).
    """
    heads = attention.num_heads
    # Over the middle axis: along the last one, of 7 tokens, softmax takes ten times as long.
    weights = torch.softmax(scores * values.shape[-1] ** -0.5, dim=1).flatten(0, 1)
    out_of = attention.out_proj.weight.unflatten(1, (heads, -1))  # (c, a, d)
    given = torch.einsum("and,cad->anc", values, out_of).flatten(0, 1)
    # The weights of each head sum to 1, so that a share of the bias in every row adds up to it.
    return weights, given + attention.out_proj.bias / heads
