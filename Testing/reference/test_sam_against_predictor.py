"""Ours against theirs: the same ViT-B weights through this package and through SamPredictor.

The weights are random, saved in the official format; two images, one wide, one tall. MedSAM's
own script has no package: the steps of its MedSAM_Inference.py are repeated here on a network
of two blocks.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from skimage.transform import resize

from protosam.errors import InvalidInput, InvalidPrompt, OutOfMemory, WeightsRefused
from protosam.models.cards import MODEL_CARDS
from protosam.models.load import load_model
from protosam.models.predictor import SamEmbedding, SamSliceModel
from protosam.models.sam_prompts import SamMasks
from protosam.models.slice_model import SlicePrompts

# Four images through ViT-B: 70 s of one core in all, several times that on a busy machine.
pytestmark = pytest.mark.timeout(900)

CPU = torch.device("cpu")
Pair: TypeAlias = tuple[SamPredictor, SamEmbedding]
SHAPES = {"wide": (150, 260), "tall": (333, 120)}

PROMPTS = {
    "one click": SlicePrompts(np.array([[60.0, 40.0]]), np.array([True])),
    "three clicks": SlicePrompts(
        np.array([[60.0, 40.0], [100.25, 70.5], [20.0, 110.0]]), np.array([True, True, False])
    ),
    "box": SlicePrompts(box_rc=np.array([30.0, 20.0, 120.0, 90.0])),
    "box and clicks": SlicePrompts(
        np.array([[70.0, 60.0], [35.0, 25.0]]),
        np.array([True, False]),
        np.array([30.0, 20.0, 120.0, 90.0]),
    ),
}


def shake(network: Sam, seed: int) -> Sam:
    """Random weights everywhere, also where the package starts from zero (positions)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return network.eval()


def small_sam(side: int = 256) -> Sam:
    """A SAM of two narrow blocks on a small square, from the package's own modules."""
    torch.manual_seed(3)
    tokens = side // 16
    network = Sam(
        ImageEncoderViT(
            img_size=side,
            depth=2,
            embed_dim=48,
            num_heads=3,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=7,
            global_attn_indexes=(1,),
        ),
        PromptEncoder(256, (tokens, tokens), (side, side), mask_in_chans=16),
        MaskDecoder(
            transformer_dim=256,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=128),
        ),
    )
    return shake(network, 4)


def small_model(card: str = "sam_vit_b", **settings: Any) -> SamSliceModel:
    return SamSliceModel(
        small_sam(),
        MODEL_CARDS[card],
        name="small",
        weights_sha256="0" * 64,
        device=CPU,
        **settings,
    )


def an_image(shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    rows, columns = np.indices(shape)
    noise = np.random.default_rng(7).random(shape)
    blob = np.exp(-(((rows - 60) / 40) ** 2) - ((columns - 50) / 25) ** 2)
    return (0.7 * blob + 0.3 * noise).astype(np.float32)


def as_rgb(image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """What a user of SamPredictor would hand over."""
    return np.repeat(np.round(image * 255).astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.fixture(scope="session")
def official_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """375 MB of random ViT-B weights, as the official checkpoints are saved."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("official") / "own_vit_b.pth"
    torch.save(shake(sam_model_registry["vit_b"](), 2).state_dict(), path)
    yield path
    path.unlink()


@pytest.fixture(scope="session")
def our_model(official_weights: Path) -> SamSliceModel:
    model = load_model(official_weights, device="cpu")
    assert isinstance(model, SamSliceModel)
    return model


@pytest.fixture(scope="session")
def encoded(official_weights: Path, our_model: SamSliceModel) -> Callable[[str], Pair]:
    """Encodes an image both ways, once a session: 17 s of one core a time."""
    network = sam_model_registry["vit_b"](checkpoint=str(official_weights))

    @cache
    def encode(kind: str) -> Pair:
        image = an_image(SHAPES[kind])
        theirs = SamPredictor(network)
        theirs.set_image(as_rgb(image))
        return theirs, our_model.embed(image[None, None], (1.0, 1.0))[0]

    return encode


@pytest.fixture(params=sorted(SHAPES))
def both(request: pytest.FixtureRequest, encoded: Callable[[str], Pair]) -> Pair:
    """Their predictor with an image set, and our embedding of the same image."""
    return encoded(request.param)


def their_masks(theirs: SamPredictor, prompts: SlicePrompts, **settings: Any) -> Any:
    points = prompts.points_rc[:, ::-1].copy() if len(prompts.points_rc) else None
    box = None if prompts.box_rc is None else np.asarray(prompts.box_rc)[[1, 0, 3, 2]]
    return theirs.predict(
        point_coords=points,
        point_labels=None if points is None else prompts.positive.astype(int),
        box=box,
        return_logits=True,
        **settings,
    )


def assert_alike(ours: SamMasks, theirs: Any) -> None:
    logits, scores, low_res = theirs
    assert np.abs(ours.logits.numpy() - logits).max() < 1e-3
    assert np.abs(ours.low_res_logits.numpy() - low_res).max() < 1e-3
    assert np.abs(ours.scores.numpy() - scores).max() < 1e-3
    for our_mask, their_mask in zip(ours.logits.numpy() > 0, logits > 0, strict=True):
        union = (our_mask | their_mask).sum()
        assert union == 0 or (our_mask & their_mask).sum() / union >= 0.999


@pytest.mark.slow
def test_the_image_embedding_equals_that_of_the_reference(
    both: Pair,
) -> None:
    theirs, embedding = both

    assert embedding.frame.original_size == theirs.original_size
    assert embedding.frame.input_size == theirs.input_size
    assert (embedding.features - theirs.get_image_embedding()).abs().max() < 1e-3
    assert embedding.features.std() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("kind", sorted(PROMPTS))
def test_masks_for_clicks_and_boxes_equal_those_of_the_reference(
    both: Pair, our_model: SamSliceModel, kind: str, multimask: bool
) -> None:
    theirs, embedding = both
    request = our_model.prompts_in_frame(PROMPTS[kind], embedding.frame)

    ours = our_model.decode(embedding, request, multimask=multimask)

    assert_alike(ours, their_masks(theirs, PROMPTS[kind], multimask_output=multimask))
    assert 0.01 < (ours.logits > 0).float().mean() < 0.99


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["three clicks", "box"])
def test_masks_for_a_mask_input_equal_those_of_the_reference(
    both: Pair, our_model: SamSliceModel, kind: str
) -> None:
    theirs, embedding = both
    low_res = their_masks(theirs, PROMPTS[kind], multimask_output=False)[2]
    request = dataclasses.replace(
        our_model.prompts_in_frame(PROMPTS[kind], embedding.frame),
        mask_input=torch.from_numpy(low_res)[None],
    )

    ours = our_model.decode(embedding, request, multimask=False)

    assert_alike(
        ours, their_masks(theirs, PROMPTS[kind], mask_input=low_res, multimask_output=False)
    )


@pytest.mark.slow
def test_the_answer_is_the_best_of_the_reference_masks(
    both: Pair, our_model: SamSliceModel
) -> None:
    theirs, embedding = both
    three, scores, _ = their_masks(theirs, PROMPTS["one click"], multimask_output=True)
    one, score, _ = their_masks(theirs, PROMPTS["box"], multimask_output=False)

    click = our_model.predict(embedding, PROMPTS["one click"])
    box = our_model.predict(embedding, PROMPTS["box"])

    assert np.abs(click.logits - three[scores.argmax()]).max() < 1e-3
    assert click.score == pytest.approx(np.clip(scores.max(), 0, 1), abs=1e-4)
    assert np.abs(box.logits - one[0]).max() < 1e-3
    assert box.score == pytest.approx(np.clip(score[0], 0, 1), abs=1e-4)


@pytest.mark.slow
def test_official_weights_load_by_name_and_from_a_folder(
    official_weights: Path,
    our_model: SamSliceModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sha256 = hashlib.sha256(official_weights.read_bytes()).hexdigest()
    card = dataclasses.replace(MODEL_CARDS["sam_vit_b"], sha256=sha256)
    monkeypatch.setitem(MODEL_CARDS, "sam_vit_b", card)
    (tmp_path / card.file).symlink_to(official_weights)

    by_name = load_model("sam_vit_b", weights_dir=tmp_path, device="cpu")
    from_folder = load_model(tmp_path, device="cpu")

    assert by_name.name == from_folder.name == "sam_vit_b"
    assert by_name.digest == from_folder.digest == our_model.digest


@pytest.mark.slow
def test_weights_of_another_size_than_the_named_one_are_refused(official_weights: Path) -> None:
    with pytest.raises(WeightsRefused, match="vit_b; sam_vit_h is a vit_h"):
        load_model(official_weights, like="sam_vit_h", device="cpu")


@pytest.mark.parametrize("shape", [(90, 31), (31, 90), (256, 256), (700, 512)])
def test_a_small_network_answers_as_the_reference_on_images_of_any_shape(
    shape: tuple[int, int],
) -> None:
    ours = small_model()
    theirs = SamPredictor(ours.network)
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    theirs.set_image(as_rgb(image))
    prompts = SlicePrompts(np.array([[12.0, 9.0], [3.5, 20.0]]), np.array([True, False]))

    embedding = ours.embed(image[None, None], (0.7, 0.7))[0]
    answer = ours.predict(embedding, prompts)

    assert (embedding.features - theirs.get_image_embedding()).abs().max() < 1e-5
    assert answer.logits.shape == shape
    assert answer.logits.dtype == np.float32
    expected = their_masks(theirs, prompts, multimask_output=False)[0][0]
    assert np.abs(answer.logits - expected).max() < 1e-5


def test_several_images_are_embedded_as_each_alone() -> None:
    model = small_model()
    stack = np.random.default_rng(0).random((3, 1, 40, 60), dtype=np.float32)

    together = model.embed(stack, (1.0, 1.0))
    alone = [model.embed(stack[i : i + 1], (1.0, 1.0))[0] for i in range(3)]

    assert all(torch.equal(a.features, b.features) for a, b in zip(together, alone, strict=True))
    assert together[0].nbytes == 256 * 16 * 16 * 4


@pytest.mark.parametrize("shape", [(200, 90), (90, 200), (128, 128)])
def test_a_prior_on_the_image_grid_becomes_the_low_resolution_mask_it_came_from(
    shape: tuple[int, int],
) -> None:
    model = small_model()
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    embedding = model.embed(image[None, None], (1.0, 1.0))[0]
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    low_res = 12 * torch.exp(-((rows - 14) ** 2 + (columns - 12) ** 2) / 128)[None, None] - 6
    size, original = embedding.frame.input_size, embedding.frame.original_size
    on_image = model.network.postprocess_masks(low_res, size, original)[0, 0]

    prompts = SlicePrompts(prior_logits=on_image.numpy())
    back = model.prompts_in_frame(prompts, embedding.frame).mask_input

    assert back is not None
    assert back.shape == (1, 1, 64, 64)
    filled = (slice(None), slice(None), slice(0, size[0] // 4 - 1), slice(0, size[1] // 4 - 1))
    assert (back - low_res)[filled].abs().max() < 0.5
    inside, was_inside = back[filled] > 0, low_res[filled] > 0
    assert (inside & was_inside).sum() / (inside | was_inside).sum() > 0.97


def test_the_padding_of_a_prior_is_surely_outside_and_strong_priors_are_clamped() -> None:
    model = small_model()
    embedding = model.embed(np.zeros((1, 1, 100, 40), np.float32), (1.0, 1.0))[0]

    prompts = SlicePrompts(prior_logits=np.full((100, 40), 99.0, np.float32))
    prior = model.prompts_in_frame(prompts, embedding.frame).mask_input

    assert prior is not None
    assert prior[0, 0, 32, 5] == 10
    assert prior[0, 0, 32, 60] == -10


def test_a_prior_alone_is_answered_with_a_single_mask() -> None:
    model = small_model()
    image = np.random.default_rng(0).random((50, 80), dtype=np.float32)
    embedding = model.embed(image[None, None], (1.0, 1.0))[0]
    prompts = SlicePrompts(prior_logits=np.ones((50, 80), np.float32))

    answer = model.predict(embedding, prompts)

    request = model.prompts_in_frame(prompts, embedding.frame)
    single = model.decode(embedding, request, multimask=False)
    assert np.array_equal(answer.logits, single.logits[0].numpy())


def test_presence_is_the_stability_of_the_mask_and_zero_without_a_mask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small_model()
    embedding = model.embed(np.zeros((1, 1, 2, 3), np.float32), (1.0, 1.0))[0]
    logits = torch.tensor([[2.0, 0.5, -0.5], [-3.0, 2.0, -2.0]])
    box = SlicePrompts(box_rc=np.array([0.0, 0.0, 1.0, 2.0]))

    def decode(some: torch.Tensor) -> Callable[..., SamMasks]:
        return lambda *_, **__: SamMasks(some[None], torch.tensor([1.3]), some[None])

    monkeypatch.setattr(model, "decode", decode(logits))
    unsure = model.predict(embedding, box)
    monkeypatch.setattr(model, "decode", decode(-logits.abs()))
    absent = model.predict(embedding, box)

    assert unsure.presence == pytest.approx(2 / 4)
    assert unsure.score == 1.0
    assert absent.presence == 0.0


def test_medsam_images_and_masks_equal_those_of_its_own_script() -> None:
    model = small_model("medsam_vit_b")
    network, side = model.network, 256
    image = an_image((120, 200))
    box_rc = np.array([30.0, 20.0, 90.0, 80.0])

    stretched = resize(
        as_rgb(image), (side, side), order=3, preserve_range=True, anti_aliasing=True
    ).astype(np.uint8)
    stretched = (stretched - stretched.min()) / np.clip(
        stretched.max() - stretched.min(), 1e-8, None
    )
    with torch.no_grad():
        features = network.image_encoder(
            torch.tensor(stretched).float().permute(2, 0, 1).unsqueeze(0)
        )
        box = box_rc[[1, 0, 3, 2]] / np.array([200, 120, 200, 120]) * side
        sparse, dense = network.prompt_encoder(
            points=None, boxes=torch.as_tensor(box[None], dtype=torch.float)[:, None], masks=None
        )
        low_res, _ = network.mask_decoder(
            image_embeddings=features,
            image_pe=network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        expected = F.interpolate(
            low_res.sigmoid(), (120, 200), mode="bilinear", align_corners=False
        )[0, 0].numpy()

    embedding = model.embed(image[None, None], (1.0, 1.0))[0]
    answer = model.predict(embedding, SlicePrompts(box_rc=box_rc))

    assert (embedding.features - features).abs().max() < 1e-5
    assert np.abs(1 / (1 + np.exp(-answer.logits)) - expected).max() < 1e-5


def test_medsam_takes_the_single_mask_even_for_one_click() -> None:
    model = small_model("medsam_vit_b")
    embedding = model.embed(an_image((64, 64))[None, None], (1.0, 1.0))[0]
    click = SlicePrompts(np.array([[30.0, 30.0]]), np.array([True]))

    answer = model.predict(embedding, click)

    request = model.prompts_in_frame(click, embedding.frame)
    single = model.decode(embedding, request, multimask=False)
    assert np.array_equal(answer.logits, single.logits[0].numpy())


def test_lower_precision_changes_features_little_and_the_identity_entirely() -> None:
    image = an_image((64, 90))[None, None]
    full, lower = small_model(), small_model(precision="bfloat16")

    exact = full.embed(image, (1.0, 1.0))[0].features
    rough = lower.embed(image, (1.0, 1.0))[0].features

    assert rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().mean() < 0.05 * exact.abs().mean()
    assert full.digest != lower.digest
    assert full.digest != small_model("medsam_vit_b").digest


@pytest.mark.parametrize(
    ("stacks", "words"),
    [
        (np.zeros((1, 3, 8, 8), np.float32), "shape"),
        (np.zeros((8, 8), np.float32), "shape"),
        (np.zeros((1, 1, 0, 8), np.float32), "shape"),
        (np.full((1, 1, 8, 8), np.nan, np.float32), "NaN"),
        (np.zeros((1, 1, 1, 600), np.float32), "too narrow"),
    ],
)
def test_images_that_cannot_be_embedded_are_refused(
    stacks: npt.NDArray[np.float32], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        small_model().embed(stacks, (1.0, 1.0))


def test_prompts_that_say_nothing_or_do_not_fit_are_refused() -> None:
    model = small_model()
    embedding = model.embed(np.zeros((1, 1, 8, 8), np.float32), (1.0, 1.0))[0]

    with pytest.raises(InvalidPrompt, match="no click, box or prior"):
        model.predict(embedding, SlicePrompts())
    with pytest.raises(InvalidPrompt, match="shape"):
        model.predict(embedding, SlicePrompts(prior_logits=np.zeros((8, 9), np.float32)))
    with pytest.raises(InvalidPrompt, match="NaN"):
        model.predict(embedding, SlicePrompts(prior_logits=np.full((8, 8), np.nan, np.float32)))


def test_an_embedding_of_another_model_is_refused() -> None:
    class Other:
        nbytes = 0

    with pytest.raises(InvalidInput, match="type Other"):
        small_model().predict(Other(), PROMPTS["box"])


def test_a_full_device_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(model.network.image_encoder.patch_embed, "forward", full)
    with pytest.raises(OutOfMemory, match="cpu could not hold"):
        model.embed(np.zeros((1, 1, 8, 8), np.float32), (1.0, 1.0))
