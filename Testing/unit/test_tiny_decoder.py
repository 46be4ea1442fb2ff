"""The built-in network's answer at work against the way it is trained, and slices encoded ahead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from protosam.errors import ModelUnavailable
from protosam.geometry import Volume
from protosam.intensity import Window
from protosam.labelled import read_dataset
from protosam.models.cards import MODEL_CARDS
from protosam.models.embeddings import Embedder, EmbeddingCache
from protosam.models.planes import Planes, Rect
from protosam.models.prompt_maps import FramePrompts, draw
from protosam.models.segmenter import Segmenter, SegmentRequest
from protosam.models.slice_model import SlicePrompts, WorksAhead
from protosam.models.tiny import Features, TinySAM, Tokens
from protosam.models.tiny_decoder import TinyDecoder
from protosam.models.tiny_predictor import TinySliceModel, load_tiny
from protosam.models.weights import find_weights
from protosam.prompts import Point, PromptSet

CPU = torch.device("cpu")


def a_network() -> TinySAM:
    torch.manual_seed(3)
    return TinySAM().eval().requires_grad_(False)


def the_built_in_network() -> TinySAM:
    try:
        path = find_weights(MODEL_CARDS["protosam-tiny"], None)
    except ModelUnavailable:
        pytest.skip("the built-in weights are not here")
    return load_tiny(path, digest="d", device=CPU).network


def a_model(network: TinySAM, **settings: bool) -> TinySliceModel:
    return TinySliceModel(network, name="tiny", digest="d", device=CPU, **settings)


def a_problem(network: TinySAM, clicks: int) -> tuple[Features, Tokens]:
    rng = np.random.default_rng(0)
    features = network.encode(torch.rand(1, 3, 128, 96))
    prompts = FramePrompts(
        points_xy=rng.uniform(0, 96, size=(clicks, 2)),
        positive=np.arange(clicks) % 2 == 0,
        neighbour=torch.randn(64, 48) if clicks == 0 else None,
        cost=np.full((32, 24), 0.1),
    )
    return features, draw([prompts], 128, 96)


@pytest.mark.parametrize("clicks", [0, 1, 9])
@pytest.mark.parametrize("ambiguous", [False, True])
def test_the_answer_at_work_is_that_of_training(clicks: int, ambiguous: bool) -> None:
    network = a_network()
    features, tokens = a_problem(network, clicks)
    expected = network.decode(features, tokens, 128)
    decoder = TinyDecoder(network)

    for _ in range(2):
        found = decoder.decode(features, tokens, 128, ambiguous=ambiguous)

        count = 4 if ambiguous else 1
        assert found.logits.shape[1] == found.iou.shape[1] == count
        torch.testing.assert_close(found.logits, expected.logits[:, :count], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.iou, expected.iou[:, :count], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.presence, expected.presence, atol=1e-4, rtol=1e-4)


def test_bfloat16_changes_masks_of_real_slices_by_less_than_a_fiftieth(shared_data: Path) -> None:
    network = the_built_in_network()
    models = [a_model(network, bfloat16=lower) for lower in (False, True)]
    image = _a_real_slice(shared_data)
    agreed = []
    for place in np.random.default_rng(1).uniform(0.25, 0.75, size=(6, 2)) * image.shape[1:]:
        prompts = SlicePrompts(place[None], np.array([True]))
        one, other = (
            m.predict(m.embed(image[None], (1.0, 1.0))[0], prompts).logits > 0 for m in models
        )
        agreed.append((one & other).sum() / max(1, (one | other).sum()))

    assert models[0].digest != models[1].digest
    assert np.mean(agreed) >= 0.98


@pytest.fixture
def two_threads() -> Iterator[None]:
    """With one thread allowed nothing is encoded ahead."""
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(usual)


def test_with_one_thread_nothing_is_encoded_ahead(two_threads: None) -> None:
    assert a_model(a_network()).lookahead == 2
    torch.set_num_threads(1)
    assert a_model(a_network()).lookahead == 0


@pytest.mark.usefixtures("two_threads")
def test_slices_encoded_ahead_are_those_encoded_when_asked() -> None:
    model = a_model(a_network())
    planes, rect = Planes(a_block(), 0, Window(0, 100)), Rect(0, 24, 0, 24)
    assert isinstance(model, WorksAhead)
    assert model.lookahead >= 1
    ahead = Embedder(model, planes, EmbeddingCache())
    alone = Embedder(model, planes, EmbeddingCache(), one_at_a_time=True)

    for z in range(6):
        ahead.prefetch(range(z, 9), rect)
        found, expected = ahead.get(z, rect).features, alone.get(z, rect).features
        assert torch.equal(found.embedding, expected.embedding)
        assert torch.equal(found.half, expected.half)


@pytest.mark.usefixtures("two_threads")
def test_what_was_begun_for_another_rectangle_is_not_taken() -> None:
    model = a_model(a_network())
    planes, cache = Planes(a_block(), 0, Window(0, 100)), EmbeddingCache()
    embedder = Embedder(model, planes, cache)
    near, far = Rect(0, 12, 0, 12), Rect(0, 24, 0, 24)

    embedder.prefetch([2, 3, 4], near)
    embedder.prefetch([2, 3, 4], far)

    assert embedder.get(3, far).frame.shape == (24, 24)
    assert embedder.get(3, near).frame.shape == (12, 12)
    assert embedder.has(2, far)


@pytest.mark.usefixtures("two_threads")
def test_an_organ_is_the_same_with_slices_encoded_ahead_and_one_after_the_other() -> None:
    volume = a_block((30, 48, 48))
    prompts = PromptSet((Point((15.0, 24.0, 24.0), True, "a"),), axis=0, scope="volume")
    model = a_model(the_built_in_network())

    ahead = Segmenter(model).segment(volume, SegmentRequest(prompts))
    model.lookahead = 0
    after = Segmenter(model).segment(volume, SegmentRequest(prompts))

    one, other = (a.full_mask(volume.shape_kji) for a in (ahead, after))
    assert one.sum() > 500
    assert (one & other).sum() / (one | other).sum() >= 0.999


def a_block(shape: tuple[int, int, int] = (9, 24, 24)) -> Volume:
    """A bright ellipsoid in noise."""
    grids = np.indices(shape)
    inside = sum(((g - n / 2) / (n / 3)) ** 2 for g, n in zip(grids, shape, strict=True)) < 1
    noise = np.random.default_rng(0).normal(30, 6, shape)
    return Volume((noise + 50 * inside).astype(np.int16), np.eye(4), "block")


def _a_real_slice(shared_data: Path) -> np.ndarray:
    image, labels = read_dataset(shared_data / "btcv_abdomen_ct").cases[0].read()
    cuts = Planes(image, 0, Window(-160, 240))
    index = int((labels.voxels > 0).sum(axis=(1, 2)).argmax())
    return cuts.stack(index, cuts.whole, 1)
