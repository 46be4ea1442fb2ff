"""The built-in model as a slice model: frames, precision, and loading from safetensors.

Owns the built-in model's frame: the slice resampled to square pixels with its longer side within
`SIDE_RANGE`, in the top left corner of a square that is cropped to multiples of 16. The frame's
(x, y) never leaves this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

from protosam.errors import InvalidInput, InvalidPrompt, WeightsRefused
from protosam.models.geodesic import edge_cost
from protosam.models.lanes import MAX_LANES, Lanes
from protosam.models.precision import has_fast_bfloat16
from protosam.models.prompt_maps import FramePrompts, draw
from protosam.models.shift import PatternShift
from protosam.models.slice_model import SliceAnswer, SliceEmbedding, SlicePrompts
from protosam.models.tiny import STRIDE, Features, TinySAM, TinySettings, Tokens, choose_mask
from protosam.models.tiny_decoder import TinyDecoder
from protosam.models.token_grid import NeckTokens

CELL = 8
"""Pixels of the frame along a side of one token's cell."""

SIDE_RANGE = (128, 256)
"""Shortest and longest side of the frame in pixels; both were trained at."""

MAGNIFICATION = 2.0
"""Frame pixels per voxel that are wanted, within the range of sides."""


@dataclass(frozen=True)
class Frame:
    """Where a slice lies in its frame.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of the slice in its own pixels.
    inner : (int, int)
        Rows and columns that it covers in the frame.
    outer : (int, int)
        Rows and columns of the frame, multiples of 16.
    """

    shape: tuple[int, int]
    inner: tuple[int, int]
    outer: tuple[int, int]

    @classmethod
    def of(cls, shape: tuple[int, int], spacing_rc_mm: tuple[float, float]) -> Frame:
        """Frame of a slice of `shape` pixels and `spacing_rc_mm`."""
        size_mm = np.array(shape) * np.array(spacing_rc_mm)
        longest_mm = float(size_mm.max())
        side = float(np.clip(MAGNIFICATION * longest_mm / min(spacing_rc_mm), *SIDE_RANGE))
        rows, cols = (max(1, round(float(v))) for v in size_mm * side / longest_mm)
        return cls(shape, (rows, cols), (_up(rows), _up(cols)))

    @property
    def side(self) -> int:
        """Side of the square that positions are measured in."""
        return max(self.outer)

    def to_xy(self, points_rc: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Take (n, 2) points from (row, col) of the slice to (x, y) of the frame."""
        scale = np.array(self.inner) / np.array(self.shape)
        moved = (np.asarray(points_rc, dtype=np.float64).reshape(-1, 2) + 0.5) * scale - 0.5
        return np.ascontiguousarray(moved[:, ::-1], dtype=np.float32)

    def put(self, images: torch.Tensor) -> torch.Tensor:
        """Resample (b, c, H, W) to the frame and pad with zeros on the bottom and right."""
        resized = F.interpolate(
            images, size=self.inner, mode="bilinear", align_corners=False, antialias=True
        )
        rows, cols = (o - i for o, i in zip(self.outer, self.inner, strict=True))
        return F.pad(resized, (0, cols, 0, rows))

    def take(self, half_logits: torch.Tensor) -> torch.Tensor:
        """Bring (n, h, w) logits of the half grid to the slice's own grid (n, H, W)."""
        full = F.interpolate(
            half_logits.unsqueeze(1), size=self.outer, mode="bilinear", align_corners=False
        )
        inner = full[:, :, : self.inner[0], : self.inner[1]]
        if self.inner != self.shape:
            inner = F.interpolate(
                inner, size=self.shape, mode="bilinear", align_corners=False, antialias=True
            )
        return inner.squeeze(1)


@dataclass(frozen=True, eq=False)
class TinyEmbedding:
    """Features of one slice, its frame, and the edge cost for geodesic maps.

    Attributes
    ----------
    features : Features
        One image.
    cost : (h/4, w/4) float64
    frame : Frame
    """

    features: Features
    cost: npt.NDArray[np.float64]
    frame: Frame

    @property
    def nbytes(self) -> int:
        """Bytes that the features occupy."""
        f = self.features
        return sum(t.nbytes for t in (f.embedding, f.quarter, f.half)) + self.cost.nbytes


class TinySliceModel:
    """A `SliceModel` around the built-in network.

    Parameters
    ----------
    network : TinySAM
        With its weights; moved to `device` and put in evaluation mode.
    name, digest : str
        Card's name and identity of the weights.
    device : torch.device
    bfloat16 : bool, optional
        Whether to compute in bfloat16; where the device is faster with it, if not given.
    """

    context_slices = 1
    reads_neighbours = True
    # On one core of an EPYC (Zen 4) a slice takes 28 ms, and 6 ms from the disk. Too little is
    # gained to write 1 MB for every slice seen.
    worth_storing = False

    def __init__(
        self,
        network: TinySAM,
        *,
        name: str,
        digest: str,
        device: torch.device,
        bfloat16: bool | None = None,
    ) -> None:
        self._bfloat16 = bfloat16
        self.network = network.eval().requires_grad_(False)
        self.name = name
        self.weights_sha256 = digest
        self._shift: PatternShift | None = None
        self.to(device)

    def to(self, device: torch.device) -> None:
        """Move the network; the precision, and with it the digest, follows the device."""
        self.network.to(device)
        self.device = device
        wanted = self._bfloat16
        self._half_precision = has_fast_bfloat16(device) if wanted is None else wanted
        self._decoder = TinyDecoder(self.network, self._shift)
        # A processor works at slices side by side, each on one core, and one by one for a core:
        # four at once take it only a tenth less time. A graphics card wants them at once.
        on_cores, threads = device.type == "cpu", torch.get_num_threads()
        self.batch_size = 1 if on_cores else 4
        # Who allows one thread gets one: nothing is embedded ahead beside what is answered.
        self.lookahead = min(threads, MAX_LANES) if on_cores and threads > 1 else 0
        # Answers have a lane of their own, so as not to wait for what is embedded ahead.
        self._answering = Lanes(1) if on_cores else None
        self._encoding = Lanes(max(1, self.lookahead))
        # Whatever changes an answer is part of the identity, or a cache would mix them up.
        self.digest = f"{self.weights_sha256}-{'bf16' if self._half_precision else 'fp32'}"
        if self._shift is not None:
            self._shift.to(device)
            self.digest += f"-{self._shift.digest()}"

    def shift_by(self, shift: PatternShift | None) -> None:
        """Move the decoder's own tokens from now on, or (None) no longer; the digest follows."""
        self._shift = shift
        self.to(self.device)

    def embed(
        self, stacks: npt.NDArray[np.float32], spacing_rc_mm: tuple[float, float]
    ) -> Sequence[TinyEmbedding]:
        """Encode images (b, 3, H, W) in 0..1; see `SliceModel.embed`.

        Raises
        ------
        InvalidInput
            If the shape is another one.
        """
        if stacks.ndim != 4 or stacks.shape[1] != 3 or 0 in stacks.shape:
            raise InvalidInput(
                f"The built-in model wants images of shape (b, 3, H, W); got {stacks.shape}.",
                "Give each slice between its two neighbours.",
            )
        if self.lookahead == 0:
            return self._embed(stacks, spacing_rc_mm)
        begun = [self._encoding.start(self._embed, stack[None], spacing_rc_mm) for stack in stacks]
        return [one for each in begun for one in each.result()]

    def embed_later(
        self, stack: npt.NDArray[np.float32], spacing_rc_mm: tuple[float, float]
    ) -> Future[SliceEmbedding]:
        """Begin to encode one image (3, H, W); see `WorksAhead.embed_later`."""
        return self._encoding.start(lambda: self._embed(stack[None], spacing_rc_mm)[0])

    @torch.inference_mode()
    def _embed(
        self, stacks: npt.NDArray[np.float32], spacing_rc_mm: tuple[float, float]
    ) -> list[TinyEmbedding]:
        frame = Frame.of((stacks.shape[2], stacks.shape[3]), spacing_rc_mm)
        images = frame.put(torch.from_numpy(np.ascontiguousarray(stacks)))
        coarse = F.avg_pool2d(images[:, 1:2], 4)[:, 0].numpy()
        with self._precision():
            features = self.network.encode(images.to(self.device))
        one = [features.select(torch.tensor([b])) for b in range(len(stacks))]
        return [
            TinyEmbedding(f, edge_cost(image), frame) for f, image in zip(one, coarse, strict=True)
        ]

    def predict(self, embedding: SliceEmbedding, prompts: SlicePrompts) -> SliceAnswer:
        """Answer the prompts of one object; see `SliceModel.predict`.

        Raises
        ------
        InvalidPrompt
            If there is nothing to go by.
        """
        own = self._own(embedding)
        if prompts.count == 0 and prompts.prior_logits is None and prompts.neighbour_logits is None:
            raise InvalidPrompt(
                "There is no click, box or prior to go by.", "Give at least one of them."
            )
        if self._answering is None:
            return self._predict(own, prompts)
        return self._answering.run(self._predict, own, prompts)

    @torch.inference_mode()
    def _predict(self, own: TinyEmbedding, prompts: SlicePrompts) -> SliceAnswer:
        frame = own.frame
        tokens, ambiguous = self.tokens_of(own, prompts)
        with self._precision():
            masks = self._decoder.decode(own.features, tokens, frame.side, ambiguous=ambiguous)
        chosen = int(choose_mask(masks, torch.tensor([ambiguous], device=self.device)))
        logits = frame.take(masks.logits[:, chosen].cpu())[0]
        return SliceAnswer(
            logits=logits.numpy(),
            score=float(torch.sigmoid(masks.iou[0, chosen])),
            presence=float(torch.sigmoid(masks.presence[0])),
        )

    def tokens_of(self, own: TinyEmbedding, prompts: SlicePrompts) -> tuple[Tokens, bool]:
        """Draw the prompts of one object; also tell whether they are a single, ambiguous click."""
        framed = self._framed(prompts, own)
        return draw([framed], *own.frame.outer).to(self.device), framed.is_single_click

    def neck_tokens(self, embedding: SliceEmbedding) -> NeckTokens:
        """Neck tokens of an embedding; see `HasNeckTokens.neck_tokens`."""
        own = self._own(embedding)
        frame = own.frame
        return NeckTokens(own.features.embedding[0], frame.shape, frame.inner, CELL)

    def pack(self, embedding: SliceEmbedding) -> dict[str, torch.Tensor]:
        """Bring an embedding into named tensors in main memory; see `SliceModel.pack`."""
        own = self._own(embedding)
        frame, features = own.frame, own.features
        return {
            "embedding": features.embedding.cpu(),
            "quarter": features.quarter.cpu(),
            "half": features.half.cpu(),
            "cost": torch.from_numpy(own.cost),
            "frame": torch.tensor([*frame.shape, *frame.inner, *frame.outer]),
        }

    def unpack(self, tensors: Mapping[str, torch.Tensor]) -> TinyEmbedding:
        """Make an embedding from what `pack` gave; see `SliceModel.unpack`.

        Raises
        ------
        InvalidInput
            If the tensors are others.
        """
        try:
            names = ("embedding", "quarter", "half")
            features = Features(*(tensors[name].to(self.device) for name in names))
            rows, cols, inner_rows, inner_cols, outer_rows, outer_cols = tensors["frame"].tolist()
            cost = tensors["cost"].numpy()
        except (KeyError, ValueError) as error:
            raise InvalidInput(
                f"These tensors are no embedding of {self.name}: {error}.", "Encode the slice anew."
            ) from error
        sizes = (rows, cols), (inner_rows, inner_cols), (outer_rows, outer_cols)
        return TinyEmbedding(features, cost, Frame(*sizes))

    def _own(self, embedding: SliceEmbedding) -> TinyEmbedding:
        if not isinstance(embedding, TinyEmbedding):
            raise InvalidInput(
                f"{self.name} got an embedding of type {type(embedding).__name__}.",
                "Embeddings of another model cannot be used.",
            )
        return embedding

    def _framed(self, prompts: SlicePrompts, embedding: TinyEmbedding) -> FramePrompts:
        frame = embedding.frame
        box = None
        if prompts.box_rc is not None:
            box = frame.to_xy(prompts.box_rc).reshape(4)
        return FramePrompts(
            points_xy=frame.to_xy(prompts.points_rc),
            positive=np.asarray(prompts.positive, dtype=bool),
            box_xyxy=box,
            own=_on_half_grid(prompts.prior_logits, frame),
            neighbour=_on_half_grid(prompts.neighbour_logits, frame),
            cost=embedding.cost,
        )

    def _precision(self) -> AbstractContextManager[Any]:
        if not self._half_precision:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def load_tiny(path: Path, *, digest: str, device: torch.device) -> TinySliceModel:
    """Load the built-in model from a safetensors file.

    Parameters
    ----------
    path : path
        Written by `save_tiny`.
    digest : str
        SHA-256 of the file (and of an adapter), checked by the caller.
    device : torch.device

    Raises
    ------
    WeightsRefused
        If the file is damaged or does not fit the network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        settings = json.loads(metadata["settings"])
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        network = TinySAM(TinySettings(**settings))
        network.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsRefused(
            f"{path.name} does not hold the built-in network: {str(error).splitlines()[0]}",
            "Fetch or train the weights again.",
        ) from error
    return TinySliceModel(network, name=path.stem, digest=digest, device=device)


def save_tiny(network: TinySAM, path: Path, facts: dict[str, str]) -> None:
    """Write weights as float16 safetensors with the network's settings in the header.

    Parameters
    ----------
    network : TinySAM
    path : path
    facts : dict of str
        Further header entries, such as steps and seed of the training.
    """
    tensors = {k: v.detach().half().contiguous() for k, v in network.state_dict().items()}
    metadata = {"family": "tiny", "settings": json.dumps(asdict(network.settings)), **facts}
    save_file(tensors, path, metadata=metadata)


def _up(pixels: int) -> int:
    return -(-pixels // STRIDE) * STRIDE


def _on_half_grid(logits: npt.NDArray[np.float32] | None, frame: Frame) -> torch.Tensor | None:
    """Bring (H, W) logits to the half grid; beyond the slice there is nothing (very negative)."""
    if logits is None:
        return None
    image = torch.from_numpy(np.ascontiguousarray(logits, dtype=np.float32))[None, None]
    inner = F.interpolate(
        image, size=frame.inner, mode="bilinear", align_corners=False, antialias=True
    )
    rows, cols = (o - i for o, i in zip(frame.outer, frame.inner, strict=True))
    padded = F.pad(inner, (0, cols, 0, rows), value=-8.0)
    return F.avg_pool2d(padded, 2)[0, 0]
