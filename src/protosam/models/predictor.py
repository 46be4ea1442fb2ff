"""The segment-anything family as a slice model: embed an image once, answer prompts often.

Owns SAM's own frame: (x, y) in pixels of the padded input square, where x runs along columns.
It never leaves this module; callers speak (row, col) of the image, with pixel centres at
integers. Knows nothing of files, volumes or affines.

Answers equal those of `segment_anything.SamPredictor` (package segment-anything 1.0) to rounding.
As there, coordinates are scaled by the ratio of the sides, without a half-pixel shift.
`sam_images.py` has the ways of the pixels, `attention.py` and `sam_decoder.py` the arithmetic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from protosam.errors import InvalidInput, InvalidPrompt, OutOfMemory
from protosam.models.attention import Encoder, encode
from protosam.models.cards import ModelCard
from protosam.models.compiled import Compiled
from protosam.models.precision import has_fast_bfloat16
from protosam.models.sam import Sam
from protosam.models.sam_decoder import SamDecoder
from protosam.models.sam_images import Frame, to_image_grid, to_mask_input, to_square
from protosam.models.sam_prompts import SamMasks, SamPrompts
from protosam.models.shift import PatternShift
from protosam.models.slice_model import SliceAnswer, SliceEmbedding, SlicePrompts
from protosam.models.token_grid import NeckTokens

Float32Array = npt.NDArray[np.float32]
Precision = Literal["auto", "float32", "bfloat16", "float16"]

BATCH_SIZE = 4
"""Images that a graphics card encodes at once."""

STABILITY_OFFSET = 1.0
"""Logits by which the threshold is moved up and down for the stability score, as in
segment-anything's automatic mask generator."""


@dataclass(frozen=True, eq=False)
class SamEmbedding:
    """Features of one image.

    Attributes
    ----------
    features : (1, 256, side / 16, side / 16) float32 tensor
        What the image encoder gave.
    frame : Frame
        Where the image lies in the square.
    """

    features: torch.Tensor
    frame: Frame

    @property
    def nbytes(self) -> int:
        """Bytes that the features occupy."""
        return self.features.nbytes


class SamSliceModel:
    """A `SliceModel` around a `Sam` of the segment-anything package.

    Parameters
    ----------
    network : Sam
        With its weights, halved or not; moved to `device` and put in evaluation mode.
    card : ModelCard
        How images are prepared and masks chosen.
    name : str
        What the user calls this model.
    weights_sha256 : str
        Digest of the weights file, with the adapter's behind it if there is one.
    device : torch.device
        Where it runs.
    precision : {"auto", "float32", "bfloat16", "float16"}
        Of the image encoder and of the upscaling in the decoder; all else stays in float32.
        ``auto``: bfloat16 where the device is faster with it.

    Notes
    -----
    A single positive click without a box or prior is ambiguous (organ, part or lesion?): the
    three masks trained for that are decoded and the one of highest predicted IoU is taken.
    Everything else, and every prompt of a card without `multimask`, takes the single mask.

    SAM has no output for "nothing here". `presence` is a stand-in: the stability score of the
    mask (IoU of the mask at +1 and at -1 logit), and 0 where no pixel is positive.
    """

    context_slices = 0
    reads_neighbours = False
    worth_storing = True  # seconds to encode on a CPU, 3 ms to read (4 MB, one core of an EPYC)

    def __init__(
        self,
        network: Sam,
        card: ModelCard,
        *,
        name: str,
        weights_sha256: str,
        device: torch.device,
        precision: Precision = "float32",
    ) -> None:
        self.network = network.eval()
        self.card = card
        self.name = name
        self.weights_sha256 = weights_sha256
        self._wanted: Precision = precision
        self._encode: Callable[[Encoder, torch.Tensor], torch.Tensor] = encode
        self._shift: PatternShift | None = None
        self.to(device)

    @property
    def side(self) -> int:
        """Side of the square that the encoder sees, in pixels."""
        return int(self.network.image_encoder.img_size)

    def embed(
        self,
        stacks: Float32Array,
        spacing_rc_mm: tuple[float, float],  # noqa: ARG002 - SAM sees pixels, not millimetres
    ) -> list[SamEmbedding]:
        """Encode images.

        Parameters
        ----------
        stacks : (b, 1, H, W) float32
            Windowed intensities in 0..1; values outside are clipped.
        spacing_rc_mm : (float, float)
            Not used.

        Raises
        ------
        InvalidInput
            When the shape is another one or a value is not finite.
        OutOfMemory
            When the device cannot hold the work.
        """
        if stacks.ndim != 4 or stacks.shape[1] != 1 or 0 in stacks.shape:
            raise InvalidInput(
                f"Images of shape {stacks.shape} were given; wanted is (b, 1, rows, columns)."
            )
        if not np.isfinite(stacks).all():
            raise InvalidInput("An image holds NaN or infinite values; wanted are 0 to 1.")
        step = self.batch_size
        groups = (stacks[first : first + step] for first in range(0, len(stacks), step))
        return [one for group in groups for one in self._embed(group)]

    def predict(self, embedding: SliceEmbedding, prompts: SlicePrompts) -> SliceAnswer:
        """Answer the prompts of one object.

        Parameters
        ----------
        embedding : SamEmbedding
            What `embed` gave for the image.
        prompts : SlicePrompts
            In (row, col) of the image.

        Raises
        ------
        InvalidPrompt
            When there is neither a click, a box nor a prior.
        InvalidInput
            When the embedding is another backbone's.
        """
        own = self._own(embedding)
        masks = self.decode(
            own,
            self.prompts_in_frame(prompts, own.frame),
            multimask=self.reads_as_ambiguous(prompts),
            only_best=True,
        )
        logits = masks.logits[0]
        return SliceAnswer(
            logits=logits.cpu().numpy(),
            score=float(masks.scores[0].clamp(0, 1)),
            presence=_presence(logits),
        )

    def neck_tokens(self, embedding: SliceEmbedding) -> NeckTokens:
        """Neck tokens of an embedding; see `HasNeckTokens.neck_tokens`."""
        own = self._own(embedding)
        frame, features = own.frame, own.features[0]
        stride = frame.side // features.shape[-1]
        return NeckTokens(features, frame.original_size, frame.input_size, stride)

    def pack(self, embedding: SliceEmbedding) -> dict[str, torch.Tensor]:
        """Bring an embedding into named tensors in main memory; see `SliceModel.pack`."""
        own = self._own(embedding)
        sizes = (*own.frame.original_size, *own.frame.input_size, own.frame.side)
        return {"features": own.features.cpu(), "frame": torch.tensor(sizes)}

    def unpack(self, tensors: Mapping[str, torch.Tensor]) -> SamEmbedding:
        """Make an embedding from what `pack` gave; see `SliceModel.unpack`.

        Raises
        ------
        InvalidInput
            When the tensors are others.
        """
        try:
            features = tensors["features"].to(self.device)
            rows, columns, input_rows, input_columns, side = tensors["frame"].tolist()
        except (KeyError, ValueError) as error:
            raise InvalidInput(
                f"These tensors are no embedding of {self.name}: {error}.", "Encode the slice anew."
            ) from error
        return SamEmbedding(features, Frame((rows, columns), (input_rows, input_columns), side))

    def to(self, device: torch.device) -> None:
        """Move the network; precision, digest and size of batches follow; see `SliceModel.to`."""
        self.network.to(device)
        self.device = device
        self.precision = self._wanted
        if self.precision == "auto":
            self.precision = "bfloat16" if has_fast_bfloat16(device) else "float32"
        # A processor is as fast with one image as with several, and needs less memory.
        self.batch_size = 1 if device.type == "cpu" else BATCH_SIZE
        # Whatever changes an embedding is part of the identity, or a cache would mix them up.
        facts = [self.weights_sha256, self.precision, self.card.normalisation, self.card.resize]
        facts.append(str(self.side))
        if self._shift is not None:
            facts.append(self._shift.to(device).digest())
        self.digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        with torch.no_grad():
            self._decoder = SamDecoder(self.network, getattr(torch, self.precision), self._shift)

    def shift_by(self, shift: PatternShift | None) -> None:
        """Move the decoder's own tokens from now on, or (None) no longer; the digest follows."""
        self._shift = shift
        self.to(self.device)

    @property
    def is_shifted(self) -> bool:
        """Whether `shift_by` has given it a shift."""
        return self._shift is not None

    def compile(self) -> None:
        """Let torch's compiler work on the encoder, if it can here; the first image takes long."""
        self._encode = Compiled(encode)

    def prompts_in_frame(self, prompts: SlicePrompts, frame: Frame) -> SamPrompts:
        """Take prompts from the image's grid into SAM's own frame.

        Parameters
        ----------
        prompts : SlicePrompts
            In (row, col) of the image.
        frame : Frame
            Of the embedding that they will meet.

        Raises
        ------
        InvalidPrompt
            When there is nothing to go by, or the prior is not of the image's size.
        """
        if prompts.count == 0 and prompts.prior_logits is None:
            raise InvalidPrompt(
                "There is no click, box or prior to go by.", "Give at least one of them."
            )
        points = labels = box = prior = None
        if len(prompts.points_rc):
            points = torch.from_numpy(_xy_of(prompts.points_rc, frame))[None].to(self.device)
            labels = torch.as_tensor(prompts.positive, dtype=torch.int32, device=self.device)[None]
        if prompts.box_rc is not None:
            box = torch.from_numpy(_xy_of(prompts.box_rc, frame).reshape(1, 4)).to(self.device)
        if prompts.prior_logits is not None:
            prior = to_mask_input(prompts.prior_logits, frame, self.network)
        return SamPrompts(points, labels, box, prior)

    def reads_as_ambiguous(self, prompts: SlicePrompts) -> bool:
        """Whether three masks are decoded for these prompts, of which the best is shown."""
        return self.card.multimask and _is_ambiguous(prompts)

    @torch.no_grad()
    def decode(
        self,
        embedding: SamEmbedding,
        prompts: SamPrompts,
        *,
        multimask: bool,
        only_best: bool = False,
    ) -> SamMasks:
        """Run the prompt encoder and the mask decoder.

        Parameters
        ----------
        embedding : SamEmbedding
            What `embed` gave for the image.
        prompts : SamPrompts
            In SAM's own frame.
        multimask : bool
            Three masks for an ambiguous prompt, otherwise one.
        only_best : bool
            Give only the mask of highest score; the others are not brought to the image's grid.
        """
        with _device_errors(self.device):
            points = None
            if prompts.points_xy is not None:
                points = (prompts.points_xy, prompts.labels)
            sparse, dense = self.network.prompt_encoder(
                points=points, boxes=prompts.box_xyxy, masks=prompts.mask_input
            )  # (1, tokens, 256), (1, 256, side / 16, side / 16)
            pointed = None
            if self._shift is not None:
                pointed = prompts.pointed(self._decoder.size, self.side), prompts.clicks
            low_res, scores = self._decoder.decode(
                embedding.features.to(self.device),
                sparse,
                None if prompts.mask_input is None else dense,
                multimask=multimask,
                pointed=pointed,
            )  # (1, m, side / 4, side / 4), (1, m)
            if only_best:
                best = scores.argmax(dim=1)
                low_res, scores = low_res[:, best], scores[:, best]
            logits = to_image_grid(low_res, embedding.frame, self.card)
            return SamMasks(logits[0], scores[0], low_res[0])

    def _own(self, embedding: SliceEmbedding) -> SamEmbedding:
        if not isinstance(embedding, SamEmbedding):
            raise InvalidInput(
                f"An embedding of type {type(embedding).__name__} was given to {self.name}; "
                "embeddings of another model cannot be used."
            )
        return embedding

    @torch.no_grad()
    def _embed(self, stacks: Float32Array) -> list[SamEmbedding]:
        """Encode (b, 1, H, W) images at once."""
        squares = [to_square(image, self.network, self.card) for image in stacks[:, 0]]
        lower = self.precision != "float32"
        dtype = getattr(torch, self.precision) if lower else None
        with (
            _device_errors(self.device),
            torch.autocast(self.device.type, dtype=dtype, enabled=lower),
        ):
            batch = torch.cat([square for square, _ in squares])  # (b, 3, side, side)
            features = self._encode(self.network.image_encoder, batch).float()
        frames = [frame for _, frame in squares]
        # Cloned, or one slice that is kept would keep the memory of all.
        apart = [features] if len(frames) == 1 else [one[None].clone() for one in features]
        return [SamEmbedding(f, frame) for f, frame in zip(apart, frames, strict=True)]


def _xy_of(points_rc: npt.ArrayLike, frame: Frame) -> Float32Array:
    """Map (row, col) of the image to (x, y) of the square: (2 n,) or (n, 2) -> (n, 2)."""
    scale_rc = np.asarray(frame.input_size) / np.asarray(frame.original_size)
    scaled = np.asarray(points_rc, dtype=np.float64).reshape(-1, 2) * scale_rc
    return np.ascontiguousarray(scaled[:, ::-1], dtype=np.float32)


def _is_ambiguous(prompts: SlicePrompts) -> bool:
    return (
        len(prompts.points_rc) == 1
        and bool(prompts.positive[0])
        and prompts.box_rc is None
        and prompts.prior_logits is None
    )


def _presence(logits: torch.Tensor) -> float:
    if not bool((logits > 0).any()):
        return 0.0
    inner = (logits > STABILITY_OFFSET).sum()
    outer = (logits > -STABILITY_OFFSET).sum()
    return float(inner / outer)


@contextmanager
def _device_errors(device: torch.device) -> Iterator[Any]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"{device} could not hold the work of this model.",
            "Close other programs that use it, choose a smaller model, or run on the CPU.",
        ) from error
