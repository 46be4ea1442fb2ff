"""Embeddings: made once, kept while there is room, never mixed up, on disk where it pays."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)

from protosam.errors import InvalidInput
from protosam.geometry import Volume
from protosam.intensity import Window
from protosam.models.cards import MODEL_CARDS
from protosam.models.disk_cache import DiskStore
from protosam.models.embeddings import Embedder, EmbeddingCache, EmbeddingKey
from protosam.models.planes import Planes, Rect
from protosam.models.predictor import SamSliceModel
from protosam.models.slice_model import SlicePrompts
from protosam.models.tiny import TinySAM
from protosam.models.tiny_predictor import TinySliceModel

WINDOW = Window(0, 100)
RECT = Rect(0, 20, 0, 30)
KEY = EmbeddingKey("model", "cpu", "uid", (0.0, 100.0), 0, 3, RECT)
CPU = torch.device("cpu")


class Sized:
    def __init__(self, nbytes):
        self.nbytes = nbytes


def a_block(seed=0, uid=""):
    voxels = np.random.default_rng(seed).integers(0, 100, (9, 20, 30)).astype(np.int16)
    return Volume(voxels, np.diag([1.0, 2.0, 3.0, 1.0]), uid)


def planes_of(volume, axis=0, window=WINDOW):
    return Planes(volume, axis, window)


def tiny_model():
    torch.manual_seed(0)
    return TinySliceModel(TinySAM(), name="tiny", digest="tiny", device=CPU)


def sam_model():
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=64,
        depth=2,
        embed_dim=48,
        num_heads=4,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        window_size=3,
        global_attn_indexes=(1,),
    )
    transformer = TwoWayTransformer(depth=1, embedding_dim=256, num_heads=8, mlp_dim=32)
    network = Sam(
        encoder,
        PromptEncoder(256, (4, 4), (64, 64), mask_in_chans=16),
        MaskDecoder(transformer_dim=256, transformer=transformer),
    )
    card = MODEL_CARDS["sam_vit_b"]
    return SamSliceModel(network, card, name="sam", weights_sha256="sam", device=CPU)


@pytest.mark.parametrize(
    "change",
    [
        {"model_digest": "other"},
        {"device_type": "cuda"},
        {"volume_uid": "other"},
        {"window": (0.0, 100.5)},
        {"axis": 1},
        {"index": 4},
        {"rect": Rect(0, 20, 0, 29)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_embedding_is_not_found_under_a_key_that_differs_in_anything(change):
    cache = EmbeddingCache()
    cache.put(KEY, Sized(1))
    assert cache.get(replace(KEY)) is not None
    assert cache.get(replace(KEY, **change)) is None


def test_the_embeddings_used_longest_ago_make_room():
    cache = EmbeddingCache(limit_bytes=100)
    keys = [replace(KEY, index=n) for n in range(4)]
    for key in keys[:3]:
        cache.put(key, Sized(30))
    assert cache.get(keys[0]) is not None
    cache.put(keys[3], Sized(40))
    assert [key.index for key in keys if cache.get(key) is not None] == [0, 2, 3]
    assert cache.nbytes == 100
    assert len(cache) == 3


def test_the_newest_embedding_is_kept_even_if_it_is_too_large():
    cache = EmbeddingCache(limit_bytes=10)
    cache.put(KEY, Sized(5))
    cache.put(replace(KEY, index=4), Sized(50))
    assert cache.get(replace(KEY, index=4)) is not None
    assert len(cache) == 1


def test_an_embedding_put_twice_counts_once():
    cache = EmbeddingCache()
    cache.put(KEY, Sized(30))
    cache.put(KEY, Sized(40))
    assert (cache.nbytes, len(cache)) == (40, 1)


def test_forgetting_a_volume_leaves_the_others():
    cache = EmbeddingCache()
    cache.put(KEY, Sized(30))
    cache.put(replace(KEY, volume_uid="other"), Sized(7))
    cache.forget_volume("uid")
    assert (cache.nbytes, len(cache)) == (7, 1)
    cache.clear()
    assert (cache.nbytes, len(cache)) == (0, 0)


def test_a_slice_is_embedded_once(region_model):
    model = region_model()
    embedder = Embedder(model, planes_of(a_block()), EmbeddingCache())
    assert not embedder.has(3, RECT)
    first = embedder.get(3, RECT)
    assert embedder.has(3, RECT)
    assert embedder.get(3, RECT) is first
    assert model.embedded == 1


@pytest.mark.parametrize(
    ("planes", "digest", "rect"),
    [
        (planes_of(a_block(1)), "region-1", RECT),
        (planes_of(a_block(), window=Window(0, 101)), "region-1", RECT),
        (planes_of(a_block()), "region-2", RECT),
        (planes_of(a_block()), "region-1", Rect(0, 20, 1, 30)),
        (planes_of(a_block(), axis=1), "region-1", Rect(0, 9, 0, 30)),
    ],
    ids=["voxels", "window", "model or adapter", "rectangle", "axis"],
)
def test_an_embedding_is_made_anew_after_anything_has_changed(
    region_model, tmp_path, planes, digest, rect
):
    disk = DiskStore(tmp_path)
    cache = EmbeddingCache(disk=disk)
    Embedder(region_model(), planes_of(a_block()), cache).get(3, RECT)
    disk.wait()
    model = region_model(digest=digest)
    embedder = Embedder(model, planes, cache)
    assert not embedder.has(3, rect)
    embedder.get(3, rect)
    assert model.embedded == 1
    disk.close()


def test_slices_ahead_are_embedded_in_one_batch_when_the_first_is_missing(region_model):
    model = region_model(batch_size=3)
    embedder = Embedder(model, planes_of(a_block()), EmbeddingCache())
    embedder.get(2, RECT)
    embedder.prefetch([1, 2, 3, 4], RECT)
    assert model.batches == [1, 2]  # 1 and 3; 2 is there, 4 is beyond the batch
    embedder.prefetch([1, 5, 6], RECT)
    embedder.prefetch([], RECT)
    assert model.batches == [1, 2]


def test_little_memory_means_one_slice_at_a_time(region_model):
    model = region_model(batch_size=4)
    embedder = Embedder(model, planes_of(a_block()), EmbeddingCache(), one_at_a_time=True)
    embedder.prefetch([1, 2, 3, 4], RECT)
    assert model.batches == [1]


def test_the_next_process_reads_from_the_disk_instead_of_embedding(region_model, tmp_path):
    disk = DiskStore(tmp_path)
    embedder = Embedder(region_model(), planes_of(a_block()), EmbeddingCache(disk=disk))
    made = embedder.get(3, RECT)
    disk.close()

    model = region_model()
    cache = EmbeddingCache(disk=DiskStore(tmp_path))
    later = Embedder(model, planes_of(a_block()), cache)
    assert later.has(3, RECT)
    assert np.array_equal(later.get(3, RECT).image, made.image)
    later.prefetch([3], RECT)
    assert model.embedded == 0
    assert len(cache) == 1


def test_a_model_that_is_faster_than_the_disk_does_not_use_it(region_model, tmp_path):
    disk = DiskStore(tmp_path / "disk")
    model = region_model(worth_storing=False)
    Embedder(model, planes_of(a_block()), EmbeddingCache(disk=disk)).get(3, RECT)
    disk.wait()
    assert not disk.folder.exists()
    assert SamSliceModel.worth_storing
    assert not TinySliceModel.worth_storing


def test_a_uid_that_lies_does_not_bring_up_other_voxels_from_the_disk(region_model, tmp_path):
    disk = DiskStore(tmp_path)
    first = planes_of(a_block(0, uid="the same"))
    Embedder(region_model(), first, EmbeddingCache(disk=disk)).get(3, RECT)
    disk.wait()
    model = region_model()
    other = planes_of(a_block(1, uid="the same"))
    Embedder(model, other, EmbeddingCache(disk=disk)).get(3, RECT)
    assert model.embedded == 1
    disk.close()


def test_an_entry_that_the_model_cannot_use_is_made_anew(region_model, tmp_path, caplog):
    disk = DiskStore(tmp_path)
    embedder = Embedder(region_model(), planes_of(a_block()), EmbeddingCache(disk=disk))
    embedder.get(3, RECT)
    disk.wait()
    (path,) = tmp_path.iterdir()
    disk.write_later(path.stem, {"something else": torch.zeros(3)})
    disk.wait()

    model = region_model()
    again = Embedder(model, planes_of(a_block()), EmbeddingCache(disk=disk))
    again.get(3, RECT)
    assert model.embedded == 1
    assert "no image in this entry" in caplog.text
    disk.wait()
    assert "image" in disk.read(path.stem)
    disk.close()


def test_a_disk_that_fails_costs_no_answer(region_model, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    disk = DiskStore(tmp_path / "file" / "embeddings")
    model = region_model()
    embedder = Embedder(model, planes_of(a_block()), EmbeddingCache(disk=disk))
    assert embedder.get(3, RECT).image.shape == (20, 30)
    disk.wait()
    assert embedder.get(4, RECT).image.shape == (20, 30)
    assert "no longer kept on disk" in caplog.text


@pytest.mark.parametrize("make_model", [tiny_model, sam_model], ids=["tiny", "sam"])
def test_an_embedding_from_the_disk_gives_the_very_same_answer(make_model, tmp_path):
    model = make_model()
    channels = 2 * model.context_slices + 1
    stacks = np.random.default_rng(5).random((1, channels, 40, 56), dtype=np.float32)
    (made,) = model.embed(stacks, (1.0, 1.5))
    disk = DiskStore(tmp_path)
    disk.write_later("ab", model.pack(made))
    disk.close()
    packed = disk.read("ab")
    assert packed is not None
    read = model.unpack(packed)
    prompts = SlicePrompts(np.array([[20.0, 30.0], [3.0, 50.0]]), np.array([True, False]))
    one, other = model.predict(made, prompts), model.predict(read, prompts)
    assert np.array_equal(one.logits, other.logits)
    assert (one.score, one.presence) == (other.score, other.presence)
    assert read.nbytes == made.nbytes


@pytest.mark.parametrize("make_model", [tiny_model, sam_model], ids=["tiny", "sam"])
def test_tensors_of_another_model_are_no_embedding(make_model):
    model = make_model()
    with pytest.raises(InvalidInput, match="no embedding of"):
        model.unpack({"features": torch.zeros(3), "frame": torch.zeros(2)})
    with pytest.raises(InvalidInput, match="another model"):
        model.pack(Sized(3))


def test_moving_a_model_keeps_its_answers():
    model = tiny_model()
    stacks = np.random.default_rng(5).random((1, 3, 40, 56), dtype=np.float32)
    prompts = SlicePrompts(np.array([[20.0, 30.0]]), np.array([True]))
    before = model.predict(model.embed(stacks, (1.0, 1.0))[0], prompts)
    digest = model.digest
    model.to(CPU)
    after = model.predict(model.embed(stacks, (1.0, 1.0))[0], prompts)
    assert model.digest == digest
    assert np.array_equal(before.logits, after.logits)
