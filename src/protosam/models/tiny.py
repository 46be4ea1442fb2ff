"""The built-in network: Segment Anything's form at a size made for CPUs.

The mask decoder's transformer, the prompt encoder's point embeddings and the encoder's
attention blocks are the `segment_anything` package's own modules (Kirillov et al. 2023,
arXiv:2304.02643); LoRA therefore finds the same ``blocks.N.attn.(qkv|proj)``. Different are:

* a convolutional stem to 1/8, and attention at 1/16 only (hybrid encoder, 3.6 M parameters);
* features at 1/4 and 1/2 of the frame enter the decoder's upscaling, as in SAM 2
  (Ravi et al. 2024, arXiv:2408.00714, section 4), so that edges are sharp;
* prompts are also drawn as maps (`MAP_CHANNELS`), among them geodesic closeness to the clicks;
* a presence output tells whether the object is in the image at all (SAM 2, section 4), and the
  score of a mask is read from the features under that mask.

Coordinates are SAM's (x, y) pixels of the square frame, pixel centres at integers. Shapes:
``b`` images, ``n`` objects, ``S`` frame side, a multiple of `STRIDE`. Frames may be cropped on
the bottom and right (``H, W <= S``): positions are always measured in units of ``S``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.image_encoder import Block
from torch import nn
from torch.nn import functional as F

from protosam.models.mask_facts import seen_under

STRIDE = 16
"""Frame sides must be multiples of this."""

MAP_CHANNELS = ("own", "neighbour", "positive", "negative", "box", "near_positive", "near_negative")
"""Prompt maps on the half grid, in order: squashed prior logits of this slice and of a
neighbouring one, discs of clicks, filled box, geodesic closeness to clicks."""

PAD, NEGATIVE, POSITIVE, BOX_FIRST, BOX_LAST = -1, 0, 1, 2, 3
"""Labels of point tokens, as in SAM's ONNX export."""


@dataclass(frozen=True)
class TinySettings:
    """Widths and depths of the built-in network."""

    embed_dim: int = 128
    """Channels of the image embedding and of all prompt tokens."""
    stem_widths: tuple[int, int, int] = (24, 48, 96)
    """Channels at 1/2, 1/4 and 1/8 of the frame."""
    trunk_dim: int = 192
    """Channels of the attention blocks at 1/16."""
    trunk_depth: int = 6
    """Number of attention blocks."""
    trunk_heads: int = 6
    """Attention heads of each block."""
    refine_widths: tuple[int, int] = (32, 16)
    """Channels of the decoder's refinement at 1/4 and 1/2 of the frame."""


@dataclass(frozen=True, eq=False)
class Features:
    """Encoder output for ``b`` images.

    Attributes
    ----------
    embedding : (b, embed_dim, H/8, W/8)
    quarter : (b, embed_dim/4, H/4, W/4)
    half : (b, embed_dim/8, H/2, W/2)
    """

    embedding: torch.Tensor
    quarter: torch.Tensor
    half: torch.Tensor

    def select(self, index: torch.Tensor) -> Features:
        """Features of the images `index` (n,), repeated where an index repeats."""
        return Features(self.embedding[index], self.quarter[index], self.half[index])


@dataclass(frozen=True, eq=False)
class Tokens:
    """Prompt tokens and maps of ``n`` objects.

    Attributes
    ----------
    coords_xy : (n, t, 2) float32
        Pixels of the frame.
    labels : (n, t) int64
        `PAD`, `NEGATIVE`, `POSITIVE`, `BOX_FIRST` or `BOX_LAST`.
    maps : (n, len(MAP_CHANNELS), H/2, W/2) float32
        See `MAP_CHANNELS`.
    """

    coords_xy: torch.Tensor
    labels: torch.Tensor
    maps: torch.Tensor

    def to(self, device: torch.device) -> Tokens:
        """Move to a device."""
        return Tokens(self.coords_xy.to(device), self.labels.to(device), self.maps.to(device))


@dataclass(frozen=True, eq=False)
class Masks:
    """Decoder output for ``n`` objects.

    Attributes
    ----------
    logits : (n, 4, H/2, W/2)
        Mask 0 is for several prompts, masks 1-3 are the readings of a single one; only mask 0
        where no more was asked for.
    iou : (n, 4)
        Logit of the estimated IoU of each mask.
    presence : (n,)
        Logit of the object being in the image.
    """

    logits: torch.Tensor
    iou: torch.Tensor
    presence: torch.Tensor


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // 12), channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group normalisation around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            _norm(channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            _norm(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (b, c, h, w) to the same shape."""
        out: torch.Tensor = F.gelu(x + self.body(x))
        return out


def _down(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, stride=2, padding=1, bias=False), _norm(outer), nn.GELU()
    )


class TinyImageEncoder(nn.Module):
    """Hybrid encoder: convolutions to 1/8, attention at 1/16."""

    def __init__(self, settings: TinySettings) -> None:
        super().__init__()
        half, quarter, eighth = settings.stem_widths
        dim, embed = settings.trunk_dim, settings.embed_dim
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(12, half, 3, padding=1), _norm(half), nn.GELU()
        )
        self.stage_quarter = nn.Sequential(_down(half, quarter), ResidualBlock(quarter))
        self.stage_eighth = nn.Sequential(
            _down(quarter, eighth), ResidualBlock(eighth), ResidualBlock(eighth)
        )
        self.to_trunk = nn.Conv2d(eighth, dim, 3, stride=2, padding=1)
        self.positions = nn.ModuleList(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim) for _ in range(settings.trunk_depth)
        )
        self.blocks = nn.ModuleList(
            Block(dim, settings.trunk_heads) for _ in range(settings.trunk_depth)
        )
        self.trunk_norm = nn.LayerNorm(dim)
        self.from_trunk = nn.Linear(dim, embed)
        self.lateral = nn.Conv2d(eighth, embed, 1)
        self.neck = nn.Sequential(
            nn.GroupNorm(1, embed), nn.Conv2d(embed, embed, 3, padding=1), nn.GroupNorm(1, embed)
        )
        self.to_quarter = nn.Conv2d(quarter, embed // 4, 1)
        self.to_half = nn.Conv2d(half, embed // 8, 1)

    def forward(self, images: torch.Tensor) -> Features:
        """Encode.

        Parameters
        ----------
        images : (b, 3, H, W) float
            The slice between its two neighbours, intensities in 0..1.
        """
        # Channels last from here on: a tenth less time on a processor than channels first.
        half = self.stem(images * 2 - 1)  # (b, 24, H/2, W/2)
        half = half.contiguous(memory_format=torch.channels_last)
        quarter = self.stage_quarter(half)  # (b, 48, H/4, W/4)
        eighth = self.stage_eighth(quarter)  # (b, 96, H/8, W/8)
        x = self.to_trunk(eighth)  # (b, 192, H/16, W/16)
        for position, block in zip(self.positions, self.blocks, strict=True):
            x = x + position(x)
            x = block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.from_trunk(self.trunk_norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        embedding = self.neck(x + self.lateral(eighth))  # (b, 128, H/8, W/8)
        return Features(embedding, self.to_quarter(quarter), self.to_half(half))


class TinyPromptEncoder(PromptEncoder):
    """SAM's prompt encoder with seven prompt maps in place of one mask, at any frame size."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__(embed_dim, (1, 1), (1, 1), mask_in_chans=32)
        self.mask_downscaling[0] = nn.Conv2d(len(MAP_CHANNELS), 8, kernel_size=2, stride=2)
        del self.no_mask_embed  # an absent prior is an all-zero map here

    def forward(self, tokens: Tokens, side: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed prompts.

        Returns
        -------
        sparse : (n, t, embed_dim)
        dense : (n, embed_dim, H/8, W/8)
        """
        sparse = self.pe_layer.forward_with_coords(tokens.coords_xy + 0.5, (side, side))
        kinds = torch.cat(
            [self.not_a_point_embed.weight, *(e.weight for e in self.point_embeddings)]
        )  # (5, embed_dim), row 0 for PAD
        real = (tokens.labels != PAD).unsqueeze(-1)
        sparse = sparse * real + kinds[tokens.labels + 1]
        return sparse, self.mask_downscaling(tokens.maps)

    def dense_positions(self, height: int, width: int, side: int) -> torch.Tensor:
        """Positional encoding of the embedding's cells.

        Returns
        -------
        (1, embed_dim, height, width)
            For the first `height` rows and `width` columns of a square of `side` frame pixels.
        """
        cells = side // 8
        positions: torch.Tensor = self.pe_layer((cells, cells))
        return positions[:, :height, :width].unsqueeze(0)


class Refinement(nn.Module):
    """Residual 3x3 convolutions over decoder features and prompt maps at one resolution."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels + len(MAP_CHANNELS), width, 3, padding=1)]
        for _ in range(depth - 2):
            layers += [nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)]
        self.body = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, x: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """Map (n, channels, h, w) to the same shape, seeing `maps` (n, 7, h, w)."""
        # One type throughout: sums of two types take a processor several times as long.
        seen = torch.cat([x, maps.to(x.dtype)], dim=1)
        out: torch.Tensor = x + self.body(seen).to(x.dtype)
        return out


class TinyMaskDecoder(MaskDecoder):
    """SAM's mask decoder with high-resolution features, presence and mask-wise scores."""

    def __init__(self, settings: TinySettings) -> None:
        dim = settings.embed_dim
        super().__init__(
            transformer_dim=dim,
            transformer=TwoWayTransformer(depth=2, embedding_dim=dim, mlp_dim=4 * dim, num_heads=4),
        )
        self.presence_token = nn.Embedding(1, dim)
        seen = 3 * dim + 3
        self.presence_head = nn.Sequential(nn.Linear(seen, dim), nn.GELU(), nn.Linear(dim, 1))
        self.up_quarter = nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2)
        self.norm_quarter = nn.GroupNorm(1, dim // 4)
        self.refine_quarter = Refinement(dim // 4, settings.refine_widths[0], depth=3)
        self.up_half = nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2)
        self.refine_half = Refinement(dim // 8, settings.refine_widths[1], depth=2)
        self.iou_prediction_head = nn.Sequential(
            nn.Linear(seen + dim, dim), nn.GELU(), nn.Linear(dim, 1)
        )
        del self.output_upscaling

    def forward(
        self, features: Features, positions: torch.Tensor, prompts: tuple[torch.Tensor, ...]
    ) -> Masks:
        """Decode.

        Parameters
        ----------
        features : Features
            One row per object.
        positions : (1, embed_dim, H/8, W/8)
        prompts : sparse (n, t, embed_dim), dense (n, embed_dim, H/8, W/8), maps (n, 7, H/2, W/2)
        """
        sparse, dense, maps = prompts
        n = sparse.shape[0]
        own = torch.cat(
            [self.iou_token.weight, self.presence_token.weight, self.mask_tokens.weight]
        )
        tokens = torch.cat([own.unsqueeze(0).expand(n, -1, -1), sparse], dim=1)
        src = features.embedding + dense
        _, c, h, w = src.shape
        hs, src = self.transformer(src, positions.expand(n, -1, -1, -1), tokens)
        src = src.transpose(1, 2).reshape(n, c, h, w)
        return self.read(hs, src, (features, maps), ambiguous=True)

    def read(
        self,
        hs: torch.Tensor,
        src: torch.Tensor,
        seen: tuple[Features, torch.Tensor],
        *,
        ambiguous: bool,
    ) -> Masks:
        """Read masks, scores and presence from what the transformer has left.

        Parameters
        ----------
        hs : (n, 6 + t, embed_dim)
            Tokens: score, presence, four masks, prompts.
        src : (n, embed_dim, H/8, W/8)
            The image.
        seen : Features, (n, 7, H/2, W/2)
            What the encoder saw, and the prompt maps.
        ambiguous : bool
            Whether all four masks are wanted, or mask 0 alone.
        """
        upscaled = self._upscale(src, *seen)  # (n, c/8, H/2, W/2)
        count = self.num_mask_tokens if ambiguous else 1
        mask_tokens = hs[:, 2 : 2 + count]
        mlps = self.output_hypernetworks_mlps[:count]
        hyper = torch.stack(
            [mlp(mask_tokens[:, i]) for i, mlp in enumerate(mlps)], dim=1
        )  # (n, count, c/8)
        logits = torch.einsum("nkc,nchw->nkhw", hyper, upscaled)
        logits = logits.float()
        # In full precision: which mask is shown, and where an object ends, hangs on small steps.
        with torch.autocast(src.device.type, enabled=False):
            hs, mask_tokens = hs.float(), mask_tokens.float()
            under = seen_under(logits.detach(), src.float())  # (n, count, 2 c + 3)
            iou_token = hs[:, 0].unsqueeze(1).expand_as(mask_tokens)
            iou = self.iou_prediction_head(torch.cat([iou_token, mask_tokens, under], dim=-1))
            presence = self.presence_head(torch.cat([hs[:, 1], under[:, 0]], dim=-1))
        return Masks(logits, iou.squeeze(-1), presence.squeeze(-1))

    def _upscale(self, src: torch.Tensor, features: Features, maps: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.norm_quarter(self.up_quarter(src) + features.quarter))
        x = F.relu(self.refine_quarter(x, F.avg_pool2d(maps, 2)))  # (n, c/4, H/4, W/4)
        x = F.relu(self.up_half(x) + features.half)
        out: torch.Tensor = self.refine_half(x, maps)
        return out


class TinySAM(nn.Module):
    """Encoder, prompt encoder and mask decoder of the built-in model."""

    def __init__(self, settings: TinySettings | None = None) -> None:
        super().__init__()
        self.settings = settings or TinySettings()
        self.image_encoder = TinyImageEncoder(self.settings)
        self.prompt_encoder = TinyPromptEncoder(self.settings.embed_dim)
        self.mask_decoder = TinyMaskDecoder(self.settings)

    def encode(self, images: torch.Tensor) -> Features:
        """Encode images (b, 3, H, W) in 0..1."""
        features: Features = self.image_encoder(images)
        return features

    def decode(self, features: Features, tokens: Tokens, side: int) -> Masks:
        """Answer prompts; `features` has one row per object, `side` is the frame's."""
        sparse, dense = self.prompt_encoder(tokens, side)
        height, width = features.embedding.shape[-2:]
        positions = self.prompt_encoder.dense_positions(height, width, side)
        masks: Masks = self.mask_decoder(features, positions, (sparse, dense, tokens.maps))
        return masks


def choose_mask(masks: Masks, single_prompt: torch.Tensor) -> torch.Tensor:
    """Index of the mask to show for each object.

    Parameters
    ----------
    masks : Masks
        Decoder output of ``n`` objects.
    single_prompt : (n,) bool
        True where the only prompt is one click; such a prompt is ambiguous, so the best
        of all masks by estimated IoU is taken; elsewhere mask 0.

    Returns
    -------
    (n,) int64
    """
    best = masks.iou.argmax(dim=1)
    return torch.where(single_prompt, best, torch.zeros_like(best))
