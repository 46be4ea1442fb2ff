"""SAM's mask decoder with what depends on the image alone kept between clicks.

Owns the arithmetic of `segment_anything`'s ``MaskDecoder`` (package segment-anything 1.0) for one
object at work; `two_way.py` has the transformer's. It walks the decoder's own modules; answers are
equal to rounding (1e-5 on logits in float32). Knows nothing of images' own grids.

The decoder's transposed convolutions, of stride and size 2, are products of tokens here, channels
last; only finished masks are put into rows and columns, and only those that are asked for.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch.nn import functional as F

from protosam.models.sam import Sam
from protosam.models.shift import PatternShift
from protosam.models.two_way import ImageSide, TwoWay, as_tokens

IMAGES_KEPT = 4
"""Images whose projections are kept: 10 MB each in float32, the embedding itself has 4."""


class SamDecoder:
    """Runs a network's mask decoder.

    Parameters
    ----------
    network : Sam
        On its device, in evaluation mode.
    precision : torch.dtype
        Of the upscaling, where most of the time goes; the attention stays in float32.
    shift : PatternShift, optional
        Moves the decoder's own tokens.
    """

    def __init__(
        self,
        network: Sam,
        precision: torch.dtype = torch.float32,
        shift: PatternShift | None = None,
    ) -> None:
        self._network, self._precision, self._shift = network, precision, shift
        positions = network.prompt_encoder.get_dense_pe()  # (1, c, h, w)
        self.size = (int(positions.shape[2]), int(positions.shape[3]))
        self._two_way = TwoWay(network.mask_decoder.transformer, as_tokens(positions))
        self._kept: OrderedDict[int, tuple[torch.Tensor, ImageSide]] = OrderedDict()

    def decode(
        self,
        features: torch.Tensor,
        sparse: torch.Tensor,
        dense: torch.Tensor | None,
        *,
        multimask: bool,
        pointed: tuple[torch.Tensor, int] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Answer the prompts of one object.

        Parameters
        ----------
        features : (1, c, h, w) tensor
            Embedding of the image.
        sparse : (1, n, c) tensor
            Embedded clicks and box.
        dense : (1, c, h, w) tensor or None
            Embedded mask; None where there is none.
        multimask : bool
            Three masks for an ambiguous prompt, otherwise one.
        pointed : ((1, h, w) tensor, int), optional
            Cells that the prompts point at and the number of clicks, for a shift.

        Returns
        -------
        low_res : (1, m, 4 h, 4 w) float32 tensor
            Logits.
        scores : (1, m) float32 tensor
            Estimated IoU.
        """
        decoder = self._network.mask_decoder
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        if pointed is not None and self._shift is not None:
            cells, clicks = pointed
            own = own + self._shift(features, cells.to(features.device), clicks)[0]
        image = self._image_side(features) if dense is None else as_tokens(features + dense)
        prompts, seen = self._two_way.run(torch.cat([own, sparse[0]]), image)
        chosen = range(1, decoder.num_mask_tokens) if multimask else range(1)
        hyper = torch.stack(
            [decoder.output_hypernetworks_mlps[m](prompts[1 + m]) for m in chosen]
        )  # (m, c / 8)
        scores = decoder.iou_prediction_head(prompts[:1])  # (1, masks)
        return self._masks(seen, hyper), scores[:, chosen.start : chosen.stop]

    def _image_side(self, features: torch.Tensor) -> ImageSide:
        """Find or make what is kept of an image; the newest few are."""
        kept = self._kept.get(id(features))
        if kept is None or kept[0] is not features:
            no_mask = self._network.prompt_encoder.no_mask_embed.weight[0]
            kept = features, self._two_way.image_side(as_tokens(features) + no_mask)
            self._kept[id(features)] = kept
        self._kept.move_to_end(id(features))
        while len(self._kept) > IMAGES_KEPT:
            self._kept.popitem(last=False)
        return kept[1]

    def _masks(self, image: torch.Tensor, hyper: torch.Tensor) -> torch.Tensor:
        """Upscale (t, c) features four times and read the masks of `hyper` (m, c / 8) in them."""
        first, norm, _, second, _ = self._network.mask_decoder.output_upscaling
        x = _upscaled(image.to(self._precision), first)  # (t, 4, c / 4)
        weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
        x = torch.ops.aten.gelu_(F.layer_norm(x, weight.shape, weight, bias, norm.eps))
        x = torch.ops.aten.gelu_(_upscaled(x.flatten(0, 1), second))  # (4 t, 4, c / 8)
        masks = (x @ hyper.t().to(x.dtype)).float()  # (4 t, 4, m)
        height, width = self.size
        grid = masks.view(height, width, 2, 2, 2, 2, -1)  # row, column, then twice their halves
        low_res: torch.Tensor = grid.permute(6, 0, 2, 4, 1, 3, 5)
        return low_res.reshape(1, -1, 4 * height, 4 * width)


def _upscaled(x: torch.Tensor, convolution: torch.nn.ConvTranspose2d) -> torch.Tensor:
    """Give each token (t, c) the four of twice the resolution (t, 4, outer), row by row."""
    weight: torch.Tensor = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (4 outer, c)
    bias = None if convolution.bias is None else convolution.bias.repeat(4).to(x.dtype)
    four = F.linear(x, weight.to(x.dtype), bias)
    return four.view(x.shape[0], 4, -1)
