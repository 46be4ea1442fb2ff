"""LoRA on encoder and decoder: where it goes, what it leaves alone, and peft's own files."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import nn

from protosam.errors import InvalidInput, StorageFailure, WeightsRefused
from protosam.models.lora import (
    adapter_digest,
    inject_lora,
    load_adapter,
    lora_parameters,
    mark_only_lora_trainable,
    merge_lora,
    save_adapter,
    unload_lora,
)
from protosam.models.lora_places import Part, part_of

BASE = "b" * 64
PARTS: tuple[Part, ...] = get_args(Part)
IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def small_sam(seed: int = 0) -> Sam:
    torch.manual_seed(seed)
    return Sam(
        ImageEncoderViT(
            img_size=64,
            depth=3,
            embed_dim=24,
            num_heads=2,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=3,
            global_attn_indexes=(2,),
        ),
        PromptEncoder(256, (4, 4), (64, 64), mask_in_chans=16),
        MaskDecoder(
            transformer_dim=256,
            transformer=TwoWayTransformer(depth=1, embedding_dim=256, num_heads=8, mlp_dim=32),
        ),
    ).eval()


def encode(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return network.image_encoder(IMAGES)


def decode(network: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks and scores for one click, in the decoder's plain form."""
    with torch.no_grad():
        points = (torch.tensor([[[20.0, 30.0]]]), torch.ones(1, 1, dtype=torch.int))
        sparse, dense = network.prompt_encoder(points, None, None)
        masks, scores = network.mask_decoder(
            image_embeddings=network.image_encoder(IMAGES),
            image_pe=network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
    return masks, scores


def train_a_little(network: nn.Module, seed: int = 9) -> None:
    """Stand-in for training: adapters that change something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lora_parameters(network):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def adapted_layers(network: nn.Module) -> set[str]:
    return {
        name.partition(".lora_")[0] for name, _ in network.named_parameters() if ".lora_" in name
    }


@pytest.fixture
def a_saved_adapter(tmp_path: Path) -> Path:
    network = inject_lora(small_sam(), rank=4, alpha=8)
    train_a_little(network)
    save_adapter(network, tmp_path / "adapter", base_sha256=BASE)
    return tmp_path / "adapter"


def test_adapters_go_into_the_attention_of_the_encoder_and_nowhere_else() -> None:
    network = inject_lora(small_sam(), rank=2, alpha=2)

    wanted = {
        f"image_encoder.blocks.{block}.attn.{layer}"
        for block in range(3)
        for layer in ("qkv", "proj")
    }
    assert adapted_layers(network) == wanted
    assert isinstance(network.image_encoder.patch_embed.proj, nn.Conv2d)


def test_plain_layer_names_would_have_hit_the_patch_embedding() -> None:
    config = LoraConfig(r=2, target_modules=["qkv", "proj"])

    trapped = get_peft_model(small_sam(), config)

    assert any("patch_embed.proj" in name for name in adapted_layers(trapped))


def test_chosen_blocks_alone_are_adapted() -> None:
    network = inject_lora(small_sam(), rank=2, alpha=2, blocks=[0, 2])

    assert {name.split(".")[2] for name in adapted_layers(network)} == {"0", "2"}


def test_rank_four_on_qkv_and_proj_of_vit_b_trains_the_counted_parameters() -> None:
    network = nn.Module()
    network.image_encoder = ImageEncoderViT(window_size=14, depth=12)

    inject_lora(network, rank=4, alpha=4)

    # Per block: qkv 4 x 768 + 2304 x 4, proj 4 x 768 + 768 x 4.
    counted = 12 * (4 * 768 + 2304 * 4 + 2 * 4 * 768)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == counted


def test_rank_zero_is_the_base_model_bit_for_bit() -> None:
    network = small_sam()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    answer = encode(network)

    inject_lora(network, rank=0, alpha=1)

    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert torch.equal(answer, encode(network))
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_untrained_adapters_change_nothing() -> None:
    network = small_sam()
    before = encode(network)

    assert torch.equal(before, encode(inject_lora(network, rank=4, alpha=8)))


@settings(deadline=None, max_examples=10)
@given(
    rank=st.integers(1, 12), alpha=st.sampled_from([0.5, 1.0, 4.0, 16.0]), seed=st.integers(0, 9)
)
def test_unloading_gives_the_base_model_back_bit_for_bit(
    rank: int, alpha: float, seed: int
) -> None:
    network = small_sam(seed)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    answer = encode(network)

    inject_lora(network, rank=rank, alpha=alpha)
    train_a_little(network, seed)
    changed = encode(network)
    unload_lora(network)

    assert not torch.equal(answer, changed)
    assert list(before) == list(network.state_dict())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert torch.equal(answer, encode(network))
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert lora_parameters(network) == []


@settings(deadline=None, max_examples=10)
@given(
    rank=st.integers(1, 12), alpha=st.sampled_from([0.5, 1.0, 4.0, 16.0]), seed=st.integers(0, 9)
)
def test_merged_adapters_answer_as_unmerged_ones(rank: int, alpha: float, seed: int) -> None:
    network = inject_lora(small_sam(seed), rank=rank, alpha=alpha)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lora_parameters(network):
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    unmerged = encode(network)

    merged = encode(merge_lora(network))

    assert adapted_layers(network) == set()
    assert (merged - unmerged).abs().max() < 1e-5


def test_gradients_reach_the_adapters_alone() -> None:
    network = inject_lora(small_sam(), rank=2, alpha=2)
    train_a_little(network)
    network.requires_grad_(True)

    mark_only_lora_trainable(network)
    network.image_encoder(IMAGES).square().mean().backward()

    with_gradient = {name for name, p in network.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, _ in network.named_parameters() if ".lora_" in name}


def test_injecting_keeps_the_mode_of_the_network() -> None:
    training = inject_lora(small_sam().train(), rank=2, alpha=2, dropout=0.5)
    evaluating = inject_lora(small_sam().eval(), rank=2, alpha=2, dropout=0.5)

    assert all(module.training for module in training.modules())
    assert not any(module.training for module in evaluating.modules())


def test_a_saved_adapter_loads_again_with_the_same_answers(a_saved_adapter: Path) -> None:
    original = inject_lora(small_sam(), rank=4, alpha=8)
    train_a_little(original)

    loaded = load_adapter(small_sam(), a_saved_adapter, base_sha256=BASE, trainable=True)

    assert torch.equal(encode(original), encode(loaded))
    assert {path.name for path in a_saved_adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_a_saved_adapter_is_loaded_by_peft_itself(a_saved_adapter: Path) -> None:
    ours = load_adapter(small_sam(), a_saved_adapter, base_sha256=BASE, trainable=True)

    theirs = PeftModel.from_pretrained(small_sam(), str(a_saved_adapter)).eval()

    assert torch.equal(encode(ours), encode(theirs))


def test_an_adapter_that_peft_saved_loads_here(tmp_path: Path) -> None:
    pattern = r"image_encoder\.blocks\.\d+\.attn\.(qkv|proj)"
    theirs = get_peft_model(small_sam(), LoraConfig(r=3, lora_alpha=5, target_modules=pattern))
    train_a_little(theirs)
    theirs.save_pretrained(str(tmp_path), save_embedding_layers=False)

    ours = load_adapter(small_sam(), tmp_path, base_sha256=BASE, trainable=True)

    assert torch.equal(encode(ours), encode(theirs.eval()))


def test_a_loaded_adapter_can_go_on_learning(a_saved_adapter: Path) -> None:
    network = load_adapter(small_sam(), a_saved_adapter, base_sha256=BASE, trainable=True)

    trainable = [name for name, p in network.named_parameters() if p.requires_grad]
    assert len(trainable) == len(lora_parameters(network)) == 12


def test_an_adapter_refuses_other_base_weights(a_saved_adapter: Path) -> None:
    network = small_sam()

    with pytest.raises(WeightsRefused, match=f"made for weights with SHA-256 {BASE}"):
        load_adapter(network, a_saved_adapter, base_sha256="c" * 64)
    assert lora_parameters(network) == []


def test_an_adapter_for_deeper_networks_is_refused(a_saved_adapter: Path) -> None:
    network = small_sam()
    del network.image_encoder.blocks[2]

    with pytest.raises(WeightsRefused, match=r"blocks\.2.*does not have"):
        load_adapter(network, a_saved_adapter, base_sha256=BASE)


def test_an_adapter_of_another_width_is_refused_and_the_network_left_alone(
    a_saved_adapter: Path,
) -> None:
    network = small_sam()
    network.image_encoder.blocks[1].attn.proj = nn.Linear(24, 36)

    with pytest.raises(WeightsRefused, match="does not fit"):
        load_adapter(network, a_saved_adapter, base_sha256=BASE)
    assert lora_parameters(network) == []


def test_an_adapter_that_reaches_beyond_every_part_is_refused(tmp_path: Path) -> None:
    theirs = get_peft_model(small_sam(), LoraConfig(r=2, target_modules=["qkv", "proj"]))
    theirs.save_pretrained(str(tmp_path), save_embedding_layers=False)

    with pytest.raises(WeightsRefused, match=r"changes .*patch_embed\.proj"):
        load_adapter(small_sam(), tmp_path, base_sha256=BASE)


def test_an_adapter_with_missing_tensors_is_refused(a_saved_adapter: Path) -> None:
    path = a_saved_adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if name.endswith("lora_B.weight")))
    save_file(tensors, path)

    with pytest.raises(WeightsRefused, match="1 tensors are missing"):
        load_adapter(small_sam(), a_saved_adapter, base_sha256=BASE)


def test_an_adapter_with_unknown_tensors_is_refused(a_saved_adapter: Path) -> None:
    path = a_saved_adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors["base_model.model.image_encoder.blocks.0.attn.qkv.lora_C.weight"] = torch.zeros(2)
    save_file(tensors, path)

    with pytest.raises(WeightsRefused, match="1 unknown"):
        load_adapter(small_sam(), a_saved_adapter, base_sha256=BASE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "IA3"}, "does not describe a LoRA"),
        ({"use_dora": True}, "uses use_dora"),
        ({"init_lora_weights": "pissa"}, "uses init_lora_weights"),
        ({"modules_to_save": ["neck"]}, "uses modules_to_save"),
        ({"bias": "all"}, "uses bias"),
        ({"a_setting_of_tomorrow": 3}, "uses a_setting_of_tomorrow"),
        ({"r": "four"}, "settings of the wrong kind"),
        ({"r": 0}, "settings of the wrong kind"),
        ({"lora_alpha": None}, "settings of the wrong kind"),
    ],
)
def test_adapters_that_are_more_or_less_than_plain_lora_are_refused(
    a_saved_adapter: Path, change: dict[str, object], words: str
) -> None:
    path = a_saved_adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    with pytest.raises(WeightsRefused, match=words):
        load_adapter(small_sam(), a_saved_adapter, base_sha256=BASE)


@pytest.mark.parametrize("text", [None, "{", "[]", "\udcff"])
def test_a_missing_or_broken_adapter_description_is_refused(
    a_saved_adapter: Path, text: str | None
) -> None:
    path = a_saved_adapter / "adapter_config.json"
    path.unlink()
    if text is not None:
        path.write_text(text, errors="surrogateescape")

    with pytest.raises(WeightsRefused):
        load_adapter(small_sam(), a_saved_adapter, base_sha256=BASE)


def test_an_adapter_saved_as_a_pickle_is_not_opened(a_saved_adapter: Path) -> None:
    (a_saved_adapter / "adapter_model.safetensors").rename(a_saved_adapter / "adapter_model.bin")

    with pytest.raises(WeightsRefused, match="cannot be read"):
        load_adapter(small_sam(), a_saved_adapter, base_sha256=BASE)


def test_a_second_adapter_is_refused_until_the_first_is_unloaded(a_saved_adapter: Path) -> None:
    network = load_adapter(small_sam(), a_saved_adapter, base_sha256=BASE, trainable=True)

    with pytest.raises(InvalidInput, match="has an adapter already"):
        inject_lora(network, rank=2, alpha=2)
    inject_lora(unload_lora(network), rank=2, alpha=2)


def test_at_work_an_adapter_is_part_of_the_weights(tmp_path: Path) -> None:
    network = inject_lora(small_sam(), rank=3, alpha=5, parts=PARTS)
    train_a_little(network)
    save_adapter(network, tmp_path / "adapter", base_sha256=BASE)

    loaded = load_adapter(small_sam(), tmp_path / "adapter", base_sha256=BASE)

    assert adapted_layers(loaded) == set()
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    # The fast forms of the decoder read weights themselves, past any layer that peft would add.
    weight = "mask_decoder.transformer.final_attn_token_to_image.k_proj.weight"
    assert not torch.equal(loaded.get_parameter(weight), small_sam().get_parameter(weight))
    for one, other in zip(decode(network), decode(loaded), strict=True):
        torch.testing.assert_close(one, other, atol=5e-3, rtol=5e-3)


def test_every_part_is_adapted_where_it_is_asked_for_and_peft_loads_it(tmp_path: Path) -> None:
    network = inject_lora(small_sam(), rank=3, alpha=5, blocks=[2], parts=PARTS)
    train_a_little(network)
    save_adapter(network, tmp_path / "adapter", base_sha256=BASE)

    layers = adapted_layers(network)
    in_blocks = {name for name in layers if ".blocks." in name}
    assert {name.split(".", 3)[3] for name in in_blocks} == {
        "attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2"
    }  # fmt: skip
    assert {name.split(".")[2] for name in in_blocks} == {"2"}
    assert {"image_encoder.neck.0", "image_encoder.neck.2"} <= layers
    assert any(name.startswith("mask_decoder.output_hypernetworks_mlps") for name in layers)
    theirs = PeftModel.from_pretrained(small_sam(), str(tmp_path / "adapter")).eval()
    for one, other in zip(decode(network), decode(theirs.base_model.model), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_alone_changes_what_it_names_and_nothing_else(part: Part) -> None:
    layers = adapted_layers(inject_lora(small_sam(), rank=2, alpha=2, parts=[part]))

    assert layers and all(part_of(name) == part for name in layers)


def test_a_part_that_the_network_lacks_is_told() -> None:
    network = small_sam()
    del network.mask_decoder

    with pytest.raises(InvalidInput, match="no decoder"):
        inject_lora(network, rank=2, alpha=2, parts=["attention", "decoder"])


@pytest.mark.parametrize(
    "settings_",
    [
        {"rank": 2, "alpha": 2, "parts": []},
        {"rank": -1, "alpha": 1},
        {"rank": 2, "alpha": 0},
        {"rank": 2, "alpha": 2, "dropout": 1.0},
        {"rank": 2, "alpha": 2, "blocks": [7]},
        {"rank": 2, "alpha": 2, "blocks": [0, 7]},
        {"rank": 2, "alpha": 2, "blocks": []},
    ],
)
def test_settings_out_of_range_are_refused(settings_: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="LoRA was asked for"):
        inject_lora(small_sam(), **settings_)


def test_a_network_without_attention_blocks_is_refused() -> None:
    with pytest.raises(InvalidInput, match="offers none"):
        inject_lora(nn.Sequential(nn.Linear(2, 2)), rank=2, alpha=2)


def test_saving_needs_an_adapter_and_a_new_folder(a_saved_adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no adapter"):
        save_adapter(small_sam(), tmp_path / "other", base_sha256=BASE)
    with pytest.raises(InvalidInput, match="exists already"):
        save_adapter(inject_lora(small_sam(), rank=2, alpha=2), a_saved_adapter, base_sha256=BASE)


def test_a_failing_disk_leaves_no_half_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    network = inject_lora(small_sam(), rank=2, alpha=2)
    monkeypatch.setattr(Path, "rename", full)

    with pytest.raises(StorageFailure, match="No space left"):
        save_adapter(network, tmp_path / "adapter", base_sha256=BASE)
    assert list(tmp_path.iterdir()) == []


def test_the_digest_of_an_adapter_follows_both_of_its_files(a_saved_adapter: Path) -> None:
    first = adapter_digest(a_saved_adapter)
    path = a_saved_adapter / "adapter_config.json"
    path.write_text(path.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))

    assert adapter_digest(a_saved_adapter) != first
    assert len(first) == 64


def test_training_an_adapter_lowers_a_loss() -> None:
    network = inject_lora(small_sam(), rank=4, alpha=8)
    target = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 256, 4, 4))).float()
    optimiser = torch.optim.Adam(lora_parameters(network), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = (network.image_encoder(IMAGES) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())

    assert losses[-1] < 0.98 * losses[0]
