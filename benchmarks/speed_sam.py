"""Ours against `segment_anything.SamPredictor`: the same weights, in one process, in turns.

The weights are random unless some are given: time does not depend on them, and rounding hardly.
Everything is measured with `--threads` threads, theirs and ours one after the other in every round,
so that whatever else the machine does falls on both; the best of each is compared. What an image
would show to a user cannot be told with random weights; that lower precision changes no mask is
shown with the built-in model, on real slices.
"""

from __future__ import annotations

import copy
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from segment_anything import SamPredictor

from protosam.geometry import Volume
from protosam.intensity import apply_window, auto_window
from protosam.labelled import read_dataset
from protosam.models.cards import MODEL_CARDS
from protosam.models.half_resolution import halve
from protosam.models.predictor import SamSliceModel
from protosam.models.sam import Sam, build_sam, fill_sam
from protosam.models.slice_model import SlicePrompts
from protosam.models.tensors import read_tensors
from protosam.models.tiny_predictor import TinySliceModel, load_tiny
from protosam.models.weights import find_weights

DATASETS = ("btcv_abdomen_ct", "acdc_cine_mri", "hippocampus_msd", "kvasir_seg_2d")
"""Where real slices are taken from."""

CASES_EACH = 2
"""Cases of each of them."""

CLICKS = 40
"""Repeats of a decoder's answer."""


@dataclass
class Turns:
    """Times of several ways to do the same, taken in turns.

    Attributes
    ----------
    wall, cpu : name -> seconds of each turn
    """

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)

    def take(self, name: str, work: Callable[[], Any]) -> Any:
        """Do some work and note how long it took."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)
        self.cpu.setdefault(name, []).append(time.process_time() - cpu)
        return result

    def best(self) -> dict[str, float]:
        """Shortest wall time of each."""
        return {name: min(seconds) for name, seconds in self.wall.items()}

    def best_cpu(self) -> dict[str, float]:
        """Shortest processor time of each, over all threads."""
        return {name: min(seconds) for name, seconds in self.cpu.items()}


def a_network(architecture: str, weights: Path | None) -> Sam:
    """Build a network with random weights everywhere, or with those of a file."""
    torch.manual_seed(0)
    network = build_sam(architecture)
    if weights is not None:
        return fill_sam(network, read_tensors(weights).tensors, str(weights))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return network.eval().requires_grad_(False)


def a_model(network: Sam, architecture: str, device: torch.device, **settings: Any) -> Any:
    """Our way with a network."""
    card = MODEL_CARDS[f"sam_{architecture}"]
    return SamSliceModel(
        network, card, name="bench", weights_sha256="0" * 64, device=device, **settings
    )


def an_image() -> np.ndarray:
    """Draw a blob in noise, 512 x 512 pixels, 0..1."""
    rows, columns = np.indices((512, 512))
    blob = np.exp(-(((rows - 240) / 120) ** 2) - ((columns - 260) / 80) ** 2)
    return (0.7 * blob + 0.3 * np.random.default_rng(7).random((512, 512))).astype(np.float32)


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Norm of the difference in parts of the norm."""
    return float((ours - theirs).norm() / theirs.norm())


def compare(
    architecture: str, device: torch.device, *, rounds: int, weights: Path | None = None
) -> dict[str, Any]:
    """Compare encoders and decoders of one size; see the module."""
    network = a_network(architecture, weights).to(device)
    theirs = SamPredictor(network)
    models = {
        "bf16": a_model(network, architecture, device, precision="auto"),
        "float32": a_model(network, architecture, device),
        "half": a_model(halve(copy.deepcopy(network)), architecture, device, precision="auto"),
    }
    image = an_image()
    rgb = np.repeat(np.round(image * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    turns, made, peak_gb = Turns(), {}, {}
    for number in range(rounds):
        for name, model in models.items():
            if name == "float32" and number:
                continue
            made[name] = turns.take(
                name, _synchronised(device, lambda m=model: m.embed(image[None, None], (1, 1))[0])
            )
            peak_gb.setdefault(name, peak_memory_gb(device))
        turns.take("theirs", _synchronised(device, lambda: theirs.set_image(rgb)))
        peak_gb.setdefault("theirs", peak_memory_gb(device))
    expected = theirs.get_image_embedding()
    decoder = _decoders(models["bf16"], made["bf16"], theirs)
    seconds, clicks = turns.best(), decoder.best()
    return {
        "encoder_seconds": seconds,
        "encoder_cpu_seconds": turns.best_cpu(),
        "encoder_ratio": seconds["theirs"] / seconds["bf16"],
        "encoder_ratio_float32": seconds["theirs"] / seconds["float32"],
        "encoder_ratio_half_resolution": seconds["theirs"] / seconds["half"],
        "decoder_seconds": clicks,
        "decoder_cpu_seconds": decoder.best_cpu(),
        "decoder_ratio": clicks["theirs"] / clicks["ours"],
        "embedding_rel_error": relative_error(made["float32"].features, expected),
        "embedding_rel_error_bf16": relative_error(made["bf16"].features, expected),
        "precision": models["bf16"].precision,
        "peak_gb_so_far": peak_gb,
    }


def _decoders(model: SamSliceModel, embedding: Any, theirs: SamPredictor) -> Turns:
    """Answer a first click, and clicks after it, both ways."""
    turns = Turns()
    rng = np.random.default_rng(0)
    for _ in range(CLICKS):
        places = rng.uniform(100, 400, size=(2, 2))
        prompts = SlicePrompts(places, np.array([True, False]))
        turns.take("ours", lambda p=prompts: model.predict(embedding, p))
        turns.take(
            "theirs",
            lambda p=places: theirs.predict(
                point_coords=p[:, ::-1].copy(),
                point_labels=np.array([1, 0]),
                multimask_output=False,
                return_logits=True,
            ),
        )
    return turns


def _synchronised(device: torch.device, work: Callable[[], Any]) -> Callable[[], Any]:
    """Let a graphics card finish before the clock is read."""

    def done() -> Any:
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return result

    return done


def peak_memory_gb(device: torch.device) -> float:
    """Most memory that this process (or the card) has held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def real_slices(data: Path) -> Iterator[tuple[np.ndarray, tuple[float, float], np.ndarray]]:
    """Stacks of three slices, pixel spacing and a click in each of their labels."""
    for folder in (data / name for name in DATASETS):
        if not folder.is_dir():
            continue
        for case in read_dataset(folder).cases[:CASES_EACH]:
            image, labels = case.read()
            for label in np.unique(labels.voxels)[1:]:
                yield _largest_slice(image, labels.voxels == label)


def _largest_slice(
    image: Volume, mask: np.ndarray
) -> tuple[np.ndarray, tuple[float, float], np.ndarray]:
    index = int(mask.sum(axis=(1, 2)).argmax())
    near = np.clip([index - 1, index, index + 1], 0, len(mask) - 1)
    stack = apply_window(image.voxels[near], auto_window(image.voxels))
    depth = ndimage.distance_transform_edt(np.pad(mask[index], 1))
    click = np.array(np.unravel_index(int(depth.argmax()), depth.shape)) - 1.0
    return stack, image.spacing_kji_mm[1:], click


def mask_agreement(data: Path) -> list[float]:
    """IoU of the built-in model's masks in bfloat16 with those in float32, on real slices."""
    path = find_weights(MODEL_CARDS["protosam-tiny"], None)
    cpu = torch.device("cpu")
    network = load_tiny(path, digest="d", device=cpu).network
    full, lower = (
        TinySliceModel(network, name="n", digest="d", device=cpu, bfloat16=bf) for bf in (0, 1)
    )
    agreed = []
    for stack, spacing, click in real_slices(data):
        prompts = SlicePrompts(click[None], np.array([True]))
        one, other = (
            m.predict(m.embed(stack[None], spacing)[0], prompts).logits > 0 for m in (full, lower)
        )
        union = int((one | other).sum())
        agreed.append(float((one & other).sum() / union) if union else 1.0)
    return agreed
