"""What SAM's encoder is fed, and how its low-resolution masks lie on the image.

Owns the ways between an image's own grid and the padded square: resizing, normalising, padding,
and back. Sizes and arrays are (rows, columns); points and SAM's (x, y) belong to
`predictor.py`. Knows nothing of files or prompts.

Two ways, chosen by the model's card. ``resize: longest_side`` follows
`segment_anything.SamPredictor` (package segment-anything 1.0); ``resize: square`` follows
``MedSAM_Inference.py`` of bowang-lab/MedSAM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from segment_anything.utils.transforms import ResizeLongestSide
from skimage.transform import resize as resize_with_splines

from protosam.errors import InvalidInput, InvalidPrompt
from protosam.models.cards import ModelCard
from protosam.models.sam import Sam

PRIOR_LIMIT = 10.0
"""Priors are clamped to this many logits either way, and the padding holds its negative: a
certainty that later clicks can still overrule."""

LOW_RES_STEP = 4
"""Pixels of the square per pixel of the decoder's masks."""

PROBABILITY_FLOOR = 1e-6
"""Keeps the logit of a probability of 0 or 1 finite (+-13.8)."""


@dataclass(frozen=True)
class Frame:
    """How an image lies in the square that the encoder sees.

    Attributes
    ----------
    original_size : (int, int)
        Rows and columns of the image.
    input_size : (int, int)
        Rows and columns that it fills of the square, from the top left corner.
    side : int
        Side of the square in pixels.
    """

    original_size: tuple[int, int]
    input_size: tuple[int, int]
    side: int


def to_square(
    image: npt.NDArray[np.float32], network: Sam, card: ModelCard
) -> tuple[torch.Tensor, Frame]:
    """Prepare an image for the encoder.

    Parameters
    ----------
    image : (H, W) float32
        Intensities in 0..1; values outside are clipped. They become the 256 grey levels that a
        user of `SamPredictor.set_image` would give.
    network : Sam
        Tells the side of the square and SAM's own mean and deviation.
    card : ModelCard
        Tells the ways of resizing and normalising.

    Returns
    -------
    square : (1, 3, side, side) float32 tensor
        On the network's device.
    frame : Frame
        Where the image lies in it.

    Raises
    ------
    InvalidInput
        When one side is so short that it would vanish.
    """
    side = int(network.image_encoder.img_size)
    grey = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    resized = _stretched(grey, side) if card.resize == "square" else _longest_side(grey, side)
    pixels = torch.from_numpy(resized).to(network.device)  # (3, h, w) uint8
    if card.normalisation == "sam":
        square = torch.as_tensor(network.preprocess(pixels))
    else:
        values = pixels.float()
        low, high = values.min(), values.max()
        values = (values - low) / (high - low).clamp_min(1e-8)
        square = F.pad(values, (0, side - values.shape[2], 0, side - values.shape[1]))
    rows, columns = grey.shape
    return square[None], Frame((rows, columns), (resized.shape[1], resized.shape[2]), side)


def to_image_grid(low_res: torch.Tensor, frame: Frame, card: ModelCard) -> torch.Tensor:
    """Bring the decoder's masks to the image's own grid.

    Parameters
    ----------
    low_res : (b, m, side / 4, side / 4) float32 tensor
        Logits over the square.
    frame : Frame
        Where the image lies in the square.
    card : ModelCard
        Tells the way of resizing.

    Returns
    -------
    (b, m, H, W) float32 tensor
        Logits. For ``square`` they come from probabilities that were resized in one step, as
        MedSAM's script does, and stay within +-13.8.
    """
    if card.resize == "square":
        probability = F.interpolate(
            low_res.sigmoid(), frame.original_size, mode="bilinear", align_corners=False
        )
        return torch.logit(probability, eps=PROBABILITY_FLOOR)
    # As `Sam.postprocess_masks`, but the padding is not enlarged only to be cut off.
    height, width = frame.input_size
    rows, columns = (-(-pixels // LOW_RES_STEP) + 1 for pixels in (height, width))
    filled = low_res[:, :, :rows, :columns]
    large = F.interpolate(
        filled, scale_factor=float(LOW_RES_STEP), mode="bilinear", align_corners=False
    )
    inner = large[:, :, :height, :width]
    return F.interpolate(inner, frame.original_size, mode="bilinear", align_corners=False)


def to_mask_input(
    prior_logits: npt.NDArray[np.float32], frame: Frame, network: Sam
) -> torch.Tensor:
    """Inverse of `to_image_grid`: a mask on the image's grid as the prompt encoder takes it.

    Parameters
    ----------
    prior_logits : (H, W) float32
        Positive inside; clamped to +-`PRIOR_LIMIT`.
    frame : Frame
        Where the image lies in the square.
    network : Sam
        The network that will take it.

    Returns
    -------
    (1, 1, side / 4, side / 4) float32 tensor
        On the network's device; the padding holds -`PRIOR_LIMIT`.

    Raises
    ------
    InvalidPrompt
        When the prior is not of the image's size or holds NaN.
    """
    if prior_logits.shape != frame.original_size or np.isnan(prior_logits).any():
        raise InvalidPrompt(
            f"A prior of shape {prior_logits.shape} was given for an image of shape "
            f"{frame.original_size}; wanted is the same shape, without NaN."
        )
    prior = torch.as_tensor(prior_logits, dtype=torch.float32, device=network.device)
    prior = prior.clamp(-PRIOR_LIMIT, PRIOR_LIMIT)[None, None]
    prior = _resize(prior, frame.input_size)  # (1, 1, h, w)
    height, width = frame.input_size
    prior = F.pad(prior, (0, frame.side - width, 0, frame.side - height), value=-PRIOR_LIMIT)
    rows, columns = network.prompt_encoder.mask_input_size
    return _resize(prior, (int(rows), int(columns)))


def _stretched(grey: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    # Cubic, as MedSAM's own script; its three channels are alike here.
    resized: npt.NDArray[Any] = resize_with_splines(
        grey, (side, side), order=3, preserve_range=True, anti_aliasing=True
    )
    return np.repeat(resized.astype(np.uint8)[None], 3, axis=0)  # (3, side, side)


def _longest_side(grey: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    transform = ResizeLongestSide(side)
    rows, columns = grey.shape
    if min(transform.get_preprocess_shape(rows, columns, side)) < 1:
        raise InvalidInput(
            f"An image of {rows} x {columns} pixels is too narrow for this model: its longer "
            f"side becomes {side} pixels, its shorter one none."
        )
    resized = transform.apply_image(np.repeat(grey[:, :, None], 3, axis=2))  # (h, w, 3)
    return np.ascontiguousarray(resized.transpose(2, 0, 1))


def _resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
