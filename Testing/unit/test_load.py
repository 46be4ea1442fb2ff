"""One door to every model: by name, from a folder, from a file, with an adapter."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)

from protosam.errors import InvalidInput, ModelUnavailable, WeightsRefused
from protosam.models import load, weights
from protosam.models.cards import MODEL_CARDS
from protosam.models.load import choose_device, load_model
from protosam.models.lora import inject_lora, lora_parameters, save_adapter
from protosam.models.predictor import SamSliceModel
from protosam.models.sam import architecture_of, build_sam, fill_sam
from protosam.models.slice_model import SlicePrompts
from protosam.models.tiny import TinySAM
from protosam.models.tiny_predictor import TinySliceModel, save_tiny

CPU = torch.device("cpu")


def small_sam() -> Sam:
    """A SAM that is as wide as ViT-B, two blocks deep, on a square of 64 pixels."""
    torch.manual_seed(0)
    return Sam(
        ImageEncoderViT(
            img_size=64,
            depth=2,
            embed_dim=768,
            num_heads=12,
            mlp_ratio=0.1,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=3,
            global_attn_indexes=(1,),
        ),
        PromptEncoder(256, (4, 4), (64, 64), mask_in_chans=16),
        MaskDecoder(
            transformer_dim=256,
            transformer=TwoWayTransformer(depth=1, embedding_dim=256, num_heads=8, mlp_dim=32),
        ),
    ).eval()


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.target),)


@pytest.fixture(autouse=True)
def quiet_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the real user's weights, and vit_b is small here."""
    monkeypatch.setattr(weights, "user_folder", lambda: tmp_path / "home")
    monkeypatch.delenv("PROTOSAM_WEIGHTS", raising=False)
    monkeypatch.setattr(load, "build_sam", lambda _: small_sam())


@pytest.fixture
def sam_file(tmp_path: Path) -> Path:
    path = tmp_path / "own.pth"
    torch.save(small_sam().state_dict(), path)
    return path


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "protosam-tiny.safetensors"
    save_tiny(TinySAM(), path, {})
    return path


def give_digest(monkeypatch: pytest.MonkeyPatch, name: str, path: Path) -> None:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(MODEL_CARDS, name, dataclasses.replace(MODEL_CARDS[name], sha256=sha256))


def an_adapter(network: torch.nn.Module, folder: Path, base: Path) -> Path:
    inject_lora(network, rank=2, alpha=4)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lora_parameters(network):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    sha256 = hashlib.sha256(base.read_bytes()).hexdigest()
    save_adapter(network, folder, base_sha256=sha256)
    return folder


# -- what is loaded -----------------------------------------------------------------------------


def test_the_users_own_sam_loads_from_a_file(sam_file: Path) -> None:
    model = load_model(sam_file, device="cpu")

    assert isinstance(model, SamSliceModel)
    assert (model.name, model.device) == ("own", CPU)
    assert model.weights_sha256 == hashlib.sha256(sam_file.read_bytes()).hexdigest()
    assert (model.card.normalisation, model.card.resize) == ("sam", "longest_side")
    assert (model.context_slices, model.reads_neighbours) == (0, False)


def test_the_users_own_medsam_can_be_prepared_like_medsam(sam_file: Path) -> None:
    plain = load_model(sam_file, device="cpu")
    like = load_model(str(sam_file), device="cpu", like="medsam_vit_b")

    assert isinstance(like, SamSliceModel)
    assert (like.card.normalisation, like.card.resize) == ("unit", "square")
    assert like.digest != plain.digest


def test_a_name_is_looked_up_in_the_folder_given(
    tmp_path: Path, sam_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_digest(monkeypatch, "sam_vit_b", sam_file)
    (tmp_path / "w").mkdir()
    sam_file.rename(tmp_path / "w" / "sam_vit_b_01ec64.pth")

    by_name = load_model("sam_vit_b", weights_dir=tmp_path / "w", device="cpu")
    from_folder = load_model(tmp_path / "w", device="cpu")
    from_file = load_model(tmp_path / "w" / "sam_vit_b_01ec64.pth", device="cpu")

    assert by_name.name == from_folder.name == from_file.name == "sam_vit_b"
    assert by_name.digest == from_folder.digest == from_file.digest


def test_the_built_in_model_loads_by_name_and_from_a_file(
    tmp_path: Path, tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_digest(monkeypatch, "protosam-tiny", tiny_file)
    copy = tmp_path / "of-my-own.safetensors"
    copy.write_bytes(tiny_file.read_bytes())

    by_name = load_model("protosam-tiny", weights_dir=tmp_path, device="cpu")
    own = load_model(copy, device="cpu")

    assert isinstance(by_name, TinySliceModel)
    assert isinstance(own, TinySliceModel)
    assert by_name.digest == own.digest


def test_without_an_adapter_peft_is_not_imported(sam_file: Path) -> None:
    code = "import sys, protosam.models.load; sys.exit('peft' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_adapter_changes_the_answers_and_the_identity_of_sam(
    sam_file: Path, tmp_path: Path
) -> None:
    adapter = an_adapter(small_sam(), tmp_path / "adapter", sam_file)
    image = np.random.default_rng(0).random((1, 1, 30, 40), dtype=np.float32)
    box = SlicePrompts(box_rc=np.array([3.0, 3.0, 20.0, 20.0]))

    plain = load_model(sam_file, device="cpu")
    adapted = load_model(sam_file, device="cpu", adapter=adapter)
    again = load_model(sam_file, device="cpu", adapter=adapter)
    answers = [
        model.predict(model.embed(image, (1.0, 1.0))[0], box).logits
        for model in (plain, adapted, again)
    ]

    assert not np.array_equal(answers[0], answers[1])
    assert np.array_equal(answers[1], answers[2])
    assert plain.digest != adapted.digest == again.digest


def test_an_adapter_changes_the_answers_and_the_identity_of_the_built_in_model(
    tiny_file: Path, tmp_path: Path
) -> None:
    own = tiny_file.rename(tmp_path / "own.safetensors")
    adapter = an_adapter(TinySAM(), tmp_path / "adapter", own)
    image = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    box = SlicePrompts(box_rc=np.array([3.0, 3.0, 20.0, 20.0]))

    plain = load_model(own, device="cpu")
    adapted = load_model(own, device="cpu", adapter=adapter)
    before, after = (
        model.predict(model.embed(image, (1.0, 1.0))[0], box).logits for model in (plain, adapted)
    )

    assert not np.array_equal(before, after)
    assert plain.digest != adapted.digest


def test_an_adapter_of_other_weights_is_refused(sam_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    torch.save(build_sam("vit_b").mask_decoder.state_dict(), other)
    adapter = an_adapter(small_sam(), tmp_path / "adapter", other)

    with pytest.raises(WeightsRefused, match="was made for weights"):
        load_model(sam_file, device="cpu", adapter=adapter)


def test_a_missing_adapter_is_told(sam_file: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsRefused, match="cannot be read"):
        load_model(sam_file, device="cpu", adapter=tmp_path / "none")


# -- what is refused ----------------------------------------------------------------------------


def test_a_file_with_an_official_name_and_another_content_is_refused(sam_file: Path) -> None:
    disguised = sam_file.rename(sam_file.with_name("sam_vit_b_01ec64.pth"))

    with pytest.raises(WeightsRefused, match="is not the file of sam_vit_b"):
        load_model(disguised, device="cpu")


def test_a_hostile_file_given_by_path_is_refused_and_nothing_is_executed(tmp_path: Path) -> None:
    torch.save({"model": Payload(tmp_path / "executed")}, tmp_path / "evil.pth")

    with pytest.raises(WeightsRefused, match="nothing in it was executed"):
        load_model(tmp_path / "evil.pth", device="cpu")

    assert not (tmp_path / "executed").exists()


def test_weights_that_are_not_here_are_told(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="are not on this machine"):
        load_model("sam_vit_h", weights_dir=tmp_path, device="cpu")


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(ModelUnavailable, match="no model 'sam_vit_x'"):
        load_model("sam_vit_x", device="cpu")


@pytest.mark.parametrize("path", ["none/of/these", "none.pth", "./none"])
def test_a_path_to_nothing_is_told_as_a_path(path: str) -> None:
    with pytest.raises(ModelUnavailable, match="no file or folder"):
        load_model(path, device="cpu")


def test_a_folder_must_hold_exactly_one_known_file(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="none of the known weights files"):
        load_model(tmp_path, device="cpu")
    for name in ("sam_vit_b", "sam_vit_l"):
        (tmp_path / MODEL_CARDS[name].file).touch()
    with pytest.raises(ModelUnavailable, match="wanted is exactly one"):
        load_model(tmp_path, device="cpu")


def test_like_is_for_files_without_a_card(tmp_path: Path, sam_file: Path) -> None:
    official = sam_file.rename(tmp_path / "sam_vit_b_01ec64.pth")

    with pytest.raises(InvalidInput, match="`like` is for files without one"):
        load_model(official, device="cpu", like="medsam_vit_b")


def test_like_must_be_of_the_same_size(sam_file: Path) -> None:
    with pytest.raises(WeightsRefused, match="holds a vit_b; sam_vit_h is a vit_h"):
        load_model(sam_file, device="cpu", like="sam_vit_h")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "mps", "meta", "cpu:1"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(InvalidInput, match=r"device '.*'"):
        choose_device(device)


def test_auto_takes_a_cuda_device_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


# -- building -----------------------------------------------------------------------------------


def test_vit_b_has_the_counted_parameters() -> None:
    network = build_sam("vit_b")

    counted = {
        "image_encoder": 89_670_912,
        "prompt_encoder": 6_220,
        "mask_decoder": 4_058_340,
    }
    found = {
        name: sum(parameter.numel() for parameter in getattr(network, name).parameters())
        for name in counted
    }
    assert found == counted
    assert not network.training


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ModelUnavailable, match="no SAM architecture 'vit_x'"):
        build_sam("vit_x")


@pytest.mark.parametrize(("width", "name"), [(768, "vit_b"), (1024, "vit_l"), (1280, "vit_h")])
def test_the_width_of_the_encoder_tells_the_size(width: int, name: str) -> None:
    tensors = {"image_encoder.patch_embed.proj.weight": torch.zeros(width, 3, 16, 16)}

    assert architecture_of(tensors, "this file") == name


def test_tensors_of_something_else_are_refused(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.zeros(3)}, tmp_path / "other.safetensors")

    with pytest.raises(WeightsRefused, match=r"does not hold a SAM.*begins with conv\.weight"):
        load_model(tmp_path / "other.safetensors", device="cpu")


def test_a_sam_of_unknown_width_is_refused() -> None:
    tensors = {"image_encoder.patch_embed.proj.weight": torch.zeros(160, 3, 16, 16)}

    with pytest.raises(WeightsRefused, match="encoder is 160 wide"):
        architecture_of(tensors, "this file")


def test_weights_that_do_not_fit_are_refused_with_the_first_names() -> None:
    network = small_sam()
    tensors = dict(network.state_dict())
    del tensors["image_encoder.pos_embed"]
    tensors["extra.weight"] = torch.zeros(1)
    tensors["mask_decoder.iou_token.weight"] = torch.zeros(2, 256)
    tensors["prompt_encoder.no_mask_embed.weight"] = torch.zeros(1, 256, dtype=torch.int64)

    with pytest.raises(WeightsRefused) as caught:
        fill_sam(network, tensors, "this file")

    message = caught.value.message
    assert "1 missing (image_encoder.pos_embed)" in message
    assert "1 unknown (extra.weight)" in message
    assert "mask_decoder.iou_token.weight (2, 256) instead of (1, 256)" in message
    assert "1 not of a float type (prompt_encoder.no_mask_embed.weight)" in message


def test_weights_in_half_precision_fill_a_float32_network() -> None:
    tensors = {name: value.half() for name, value in small_sam().state_dict().items()}

    network = fill_sam(small_sam(), tensors, "this file")

    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
