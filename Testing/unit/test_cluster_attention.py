"""Cluster branches: no bit of difference untrained, context across slices, and their file."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from segment_anything.modeling import ImageEncoderViT
from torch import nn
from torch.nn import functional as F

from protosam.errors import InvalidInput, StorageFailure, WeightsRefused
from protosam.models import attention
from protosam.models.cluster_attention import (
    BranchSettings,
    ClusterAttention,
    ClusterBlock,
    SliceStack,
    neighbouring,
)
from protosam.models.cluster_branches import (
    BASE_KEY,
    add_cluster_branches,
    cluster_branches,
    init_prototypes,
    load_branches,
    remove_cluster_branches,
    save_branches,
    train_branches,
)
from protosam.models.lora import (
    inject_lora,
    load_adapter,
    lora_parameters,
    mark_only_lora_trainable,
    save_adapter,
)
from protosam.models.tiny import TinyImageEncoder, TinySettings

BASE = "b" * 64
SMALL = BranchSettings(prototypes=5)
IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(5))


class Owner(nn.Module):
    """What adapters are put into: a network that has an image encoder."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder = encoder


def sam_encoder() -> nn.Module:
    """Blocks 0 and 1 have windows that do not divide the 4 x 4 tokens; relative positions."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=64,
        depth=3,
        embed_dim=24,
        num_heads=2,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(2,),
    )
    for name, parameter in encoder.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            nn.init.normal_(parameter, std=0.5)
    return encoder.eval()


def tiny_encoder() -> nn.Module:
    torch.manual_seed(0)
    return TinyImageEncoder(TinySettings(trunk_dim=24, trunk_heads=2)).eval()


ENCODERS = pytest.mark.parametrize("build", [sam_encoder, tiny_encoder])


def embedding(encoder: nn.Module, images: torch.Tensor = IMAGES) -> torch.Tensor:
    found = encoder(images)
    return found if isinstance(found, torch.Tensor) else found.embedding


def opened(encoder: nn.Module, gate: float = 0.8) -> nn.Module:
    """Stand-in for training."""
    with torch.no_grad():
        for branch in cluster_branches(encoder).values():
            branch.gate.fill_(gate)
    return encoder


def branched(build, settings: BranchSettings = SMALL) -> nn.Module:
    encoder = add_cluster_branches(build(), settings=settings)
    init_prototypes(encoder, [IMAGES])
    return opened(encoder)


def bits(values: torch.Tensor) -> torch.Tensor:
    """Bit patterns, which tell 0.0 from -0.0."""
    return (
        values.detach()
        .contiguous()
        .view(torch.int16 if values.element_size() == 2 else torch.int32)
    )


def a_block(settings: BranchSettings = SMALL) -> ClusterBlock:
    block = add_cluster_branches(sam_encoder(), (2,), settings).blocks[2]
    assert isinstance(block, ClusterBlock)
    return block


@contextmanager
def counted(encoder: nn.Module) -> Iterator[list[int]]:
    """Numbers of the branches that were computed within."""
    computed: list[int] = []
    handles = [
        branch.register_forward_hook(lambda *_given, index=index: computed.append(index))
        for index, branch in cluster_branches(encoder).items()
    ]
    yield computed
    for handle in handles:
        handle.remove()


@ENCODERS
@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_an_untrained_branch_changes_no_bit_though_it_is_computed(build, learning, half):
    plain, changed = build(), add_cluster_branches(build(), settings=SMALL)
    with (
        torch.set_grad_enabled(learning),
        torch.autocast("cpu", dtype=torch.bfloat16) if half else nullcontext(),
        counted(changed) as computed,
    ):
        wanted, found = embedding(plain), embedding(changed)
    assert found.requires_grad == learning
    assert computed == list(cluster_branches(changed))
    assert torch.equal(bits(found), bits(wanted))


@torch.no_grad()
@pytest.mark.parametrize("half", [False, True])
def test_the_fused_kernels_compute_the_branches_too(half):
    plain, untrained = sam_encoder(), add_cluster_branches(sam_encoder(), settings=SMALL)
    encoder = branched(sam_encoder)
    with torch.autocast("cpu", dtype=torch.bfloat16) if half else nullcontext():
        wanted, found = (attention.encode(e, IMAGES) for e in (plain, untrained))
        assert torch.equal(bits(found), bits(wanted))
        with neighbouring((0, 1, 2)):
            theirs, ours = encoder(IMAGES), attention.encode(encoder, IMAGES)
        together = float((ours - wanted).abs().max())
    assert float((ours - theirs).abs().max()) < (0.02 if half else 1e-5) * float(theirs.abs().max())
    assert together > 0.1


@ENCODERS
def test_an_untrained_branch_leaves_all_other_gradients_as_they_are(build):
    plain, changed = build(), add_cluster_branches(build(), settings=SMALL)
    for encoder in (plain, changed):
        embedding(encoder).square().sum().backward()
    theirs = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    ours = dict(changed.named_parameters())
    assert len(theirs) > 20
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name].grad, gradient, rtol=1e-4, atol=1e-5)


def test_a_closed_gate_keeps_negative_zero_and_stands_an_infinite_branch():
    block = a_block()
    x = torch.full((1, 4, 4, 24), -0.0)
    with torch.no_grad():
        nn.init.constant_(block.attn.proj.bias, float("inf"))
        normed = torch.rand(1, 4, 4, 24)
        assert not bool(block.clusters(normed, block.attn).isfinite().any())
        assert torch.equal(bits(block.joined(x, normed)), bits(x))


@ENCODERS
def test_the_gate_of_an_untrained_branch_has_a_gradient_and_can_open(build):
    encoder = add_cluster_branches(build(), settings=SMALL).requires_grad_(False)
    init_prototypes(encoder, [IMAGES])
    before = embedding(encoder).detach()
    parameters = train_branches(encoder)
    assert len(parameters) == 2 * len(cluster_branches(encoder))
    (embedding(encoder) * torch.rand_like(before)).sum().backward()
    for branch in cluster_branches(encoder).values():
        assert float(branch.gate.grad.abs()) > 0
        assert float(branch.log_temperature.grad) == 0  # until the gate is open
    torch.optim.SGD(parameters, lr=1e-3).step()
    assert not torch.equal(embedding(encoder), before)


def test_gradients_of_an_open_gate_are_those_of_the_plain_sum():
    block = opened_block()
    x = torch.randn(1, 2, 3, 24, requires_grad=True)
    normed = torch.randn(1, 2, 3, 24)
    branch = block.clusters(normed, block.attn)
    (x + block.clusters.gate * branch).square().sum().backward()
    wanted = [p.grad.clone() for p in (x, *block.clusters.parameters(), block.attn.qkv.weight)]
    block.zero_grad()
    x.grad = None
    block.joined(x, normed).square().sum().backward()
    found = [p.grad for p in (x, *block.clusters.parameters(), block.attn.qkv.weight)]
    for one, other in zip(found, wanted, strict=True):
        assert float(other.abs().sum()) > 0
        torch.testing.assert_close(one, other)


def opened_block(settings: BranchSettings = SMALL) -> ClusterBlock:
    block = a_block(settings)
    with torch.no_grad():
        block.clusters.gate.fill_(0.7)
    return block


def by_the_formula(
    tokens: torch.Tensor, block: ClusterBlock, near: list[list[int]]
) -> torch.Tensor:
    """The branch as ProtoSAM writes it down, image by image and head by head, in float64."""
    clusters, attention = block.clusters.double(), block.attn.double()
    images = tokens.double().flatten(1, 2)
    seen = F.normalize(images, dim=-1) - clusters.centre
    cosine = F.cosine_similarity(seen[:, :, None], clusters.directions[None, None], dim=-1)
    belonging = torch.softmax(cosine / clusters.temperature, dim=-1)
    results = []
    for index in range(len(images)):
        s = torch.cat([belonging[j] for j in near[index]])
        t = torch.cat([images[j] for j in near[index]])
        c = torch.stack([(s[:, k, None] * t).sum(0) / (s[:, k].sum() + 1e-6) for k in range(5)])
        q, k, v = attention.qkv(c).chunk(3, dim=-1)
        heads = [slice(h * 12, h * 12 + 12) for h in range(2)]
        o = torch.cat(
            [torch.softmax(q[:, h] @ k[:, h].T / 12**0.5, dim=-1) @ v[:, h] for h in heads], dim=-1
        )
        results.append(attention.proj(belonging[index] @ o))
    return torch.stack(results).view_as(tokens).float()


@pytest.mark.parametrize(
    ("numbers", "near"),
    [
        (None, [[0], [1], [2]]),
        ((4, 5, 6), [[0, 1], [0, 1, 2], [1, 2]]),
        ((9, 4, 5), [[0], [1, 2], [1, 2]]),
    ],
)
def test_the_branch_is_the_published_formula_over_the_slices_within_reach(numbers, near):
    block = opened_block(BranchSettings(prototypes=5, reach=1))
    tokens = torch.randn(3, 4, 3, 24, generator=torch.Generator().manual_seed(2))
    block.clusters.place(block.clusters.prototypes, centre=torch.full((24,), 0.05))
    with torch.no_grad(), neighbouring(numbers) if numbers else nullcontext():
        found = block.clusters(tokens, block.attn)
        torch.testing.assert_close(
            found, by_the_formula(tokens, copy.deepcopy(block), near), rtol=1e-4, atol=1e-5
        )


@ENCODERS
@torch.no_grad()
def test_neighbouring_slices_give_context_and_distant_ones_none(build):
    encoder = branched(build)
    alone = embedding(encoder)
    torch.testing.assert_close(torch.cat([embedding(encoder, i[None]) for i in IMAGES]), alone)
    with neighbouring((0, 1, 2)):
        together = embedding(encoder)
    with neighbouring((0, 10, 20)):
        distant = embedding(encoder)
    with neighbouring((0, 1, 2), volumes=(0, 1, 2)):
        other_patients = embedding(encoder)
    assert float((together - alone).abs().max()) > 1e-4
    torch.testing.assert_close(distant, alone)
    torch.testing.assert_close(other_patients, alone)
    assert torch.equal(embedding(encoder), alone)


@ENCODERS
@torch.no_grad()
def test_neighbours_that_look_the_same_change_nothing(build):
    encoder = branched(build)
    with neighbouring((4, 5, 6)):
        found = embedding(encoder, IMAGES[:1].expand(3, -1, -1, -1))
    torch.testing.assert_close(found[1:2], embedding(encoder, IMAGES[:1]), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_the_order_of_slices_in_a_batch_does_not_matter():
    encoder = branched(tiny_encoder, BranchSettings(prototypes=5, reach=1))
    order = [2, 0, 1]
    with neighbouring((7, 8, 9)):
        found = embedding(encoder)
    with neighbouring([(7, 8, 9)[i] for i in order]):
        mixed = embedding(encoder, IMAGES[order])
    torch.testing.assert_close(mixed, found[order])


@torch.no_grad()
def test_slices_are_told_to_their_own_thread_only():
    encoder = branched(tiny_encoder)
    alone = embedding(encoder)
    with ThreadPoolExecutor(1) as pool, neighbouring((0, 1, 2)):
        elsewhere = pool.submit(lambda: embedding(encoder).detach()).result()
    torch.testing.assert_close(elsewhere, alone)


def test_a_batch_of_another_length_than_its_slices_is_refused():
    encoder = branched(tiny_encoder)
    with neighbouring((0, 1)), pytest.raises(InvalidInput, match="3 images within `neighbouring`"):
        encoder(IMAGES)
    with pytest.raises(InvalidInput, match="2 slice numbers came with 1 volumes"):
        SliceStack((0, 1), (0,))


@ENCODERS
def test_prototypes_move_in_training_alone(build):
    encoder = branched(build)

    def memory() -> dict[str, torch.Tensor]:
        return {k: v.clone() for k, v in encoder.state_dict().items() if "clusters" in k}

    before = memory()
    embedding(encoder).sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in memory().items())
    encoder.train()
    embedding(encoder).sum().backward()  # what waits for its gradient must not have moved
    after = memory()
    for index in cluster_branches(encoder):
        name = f"blocks.{index}.clusters."
        assert not torch.equal(after[name + "directions"], before[name + "directions"])
        assert int(after[name + "updates"]) == int(before[name + "updates"]) + 1
        assert torch.equal(after[name + "centre"], before[name + "centre"])


def test_accepted_tokens_move_prototypes_when_asked():
    branch = a_block().clusters.eval()
    before = branch.prototypes
    branch.update(torch.randn(40, 24, requires_grad=True))
    assert branch.prototypes.updates == before.updates + 1
    assert not torch.equal(branch.directions, before.directions)
    assert not branch.directions.requires_grad
    with pytest.raises(InvalidInput, match="Tokens of 12 channels"):
        branch.update(torch.randn(40, 12))


def test_a_learned_temperature_stays_in_its_range():
    branch = ClusterAttention(8, SMALL)
    assert float(branch.temperature.detach()) == pytest.approx(SMALL.temperature)
    for value, limit in ((-50.0, 0.01), (50.0, 1.0)):
        nn.init.constant_(branch.log_temperature, value)
        assert float(branch.temperature.detach()) == pytest.approx(limit)


@ENCODERS
def test_adapters_take_part_in_the_branch_once_its_gate_is_open(build):
    network = Owner(branched(build))
    inject_lora(network, rank=2, alpha=2)
    train_branches(network.image_encoder)
    block = next(b for b in network.image_encoder.blocks if isinstance(b, ClusterBlock))
    x = torch.randn(1, 4, 4, 24)
    for gate, reached in ((0.0, False), (0.7, True)):
        network.zero_grad()
        nn.init.constant_(block.clusters.gate, gate)
        block.joined(torch.zeros_like(x), x).square().sum().backward()
        gradients = [
            layer.lora_B["default"].weight.grad for layer in (block.attn.qkv, block.attn.proj)
        ]
        assert [bool(g.abs().sum() > 0) for g in gradients] == [reached, reached]


def test_adapters_have_the_same_names_with_branches_and_without(tmp_path):
    plain, changed = Owner(sam_encoder()), Owner(add_cluster_branches(sam_encoder()))
    inject_lora(plain, rank=2, alpha=2)
    for parameter in lora_parameters(plain):
        nn.init.normal_(parameter, std=0.3)
    save_adapter(plain, tmp_path / "adapter", base_sha256=BASE)
    load_adapter(changed, tmp_path / "adapter", base_sha256=BASE, trainable=True)
    with torch.no_grad():
        wanted, found = embedding(plain.image_encoder), embedding(changed.image_encoder)
    assert torch.equal(found, wanted)
    mark_only_lora_trainable(changed)
    assert not any(b.gate.requires_grad for b in cluster_branches(changed.image_encoder).values())
    train_branches(changed.image_encoder)
    assert all(b.gate.requires_grad for b in cluster_branches(changed.image_encoder).values())


def test_the_default_blocks_are_those_that_the_authors_name():
    assert list(cluster_branches(add_cluster_branches(tiny_encoder()))) == [2, 4]
    twelve = sam_encoder()
    twelve.blocks.extend(copy.deepcopy(twelve.blocks[0]) for _ in range(9))
    assert list(cluster_branches(add_cluster_branches(twelve))) == [4, 8]


@ENCODERS
def test_branches_add_their_own_names_to_the_weights_and_leave_with_them(build):
    encoder = build()
    blocks, names = list(encoder.blocks), set(encoder.state_dict())
    wanted = embedding(encoder).detach()
    add_cluster_branches(encoder, (1,), SMALL)
    own = ("gate", "log_temperature", "directions", "centre", "usage", "updates")
    assert set(encoder.state_dict()) - names == {f"blocks.1.clusters.{name}" for name in own}
    assert names < set(encoder.state_dict())
    remove_cluster_branches(opened(encoder))
    assert all(a is b for a, b in zip(encoder.blocks, blocks, strict=True))
    assert torch.equal(embedding(encoder), wanted)


@pytest.mark.parametrize("blocks", [(), (3,), (-1,), (1, 1)])
def test_blocks_that_do_not_exist_are_refused_and_the_encoder_is_left_alone(blocks):
    encoder = sam_encoder()
    with pytest.raises(InvalidInput, match="different numbers from 0 to 2"):
        add_cluster_branches(encoder, blocks)
    assert cluster_branches(encoder) == {}


def test_a_second_set_of_branches_and_a_network_without_blocks_are_refused():
    with pytest.raises(InvalidInput, match="already"):
        add_cluster_branches(add_cluster_branches(sam_encoder()))
    with pytest.raises(InvalidInput, match="no attention blocks"):
        add_cluster_branches(nn.Linear(2, 2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"prototypes": 0},
        {"prototypes": 5000},
        {"reach": -1},
        {"temperature": 0.0},
        {"temperature": 2.0},
        {"momentum": 1.0},
    ],
)
def test_settings_that_no_branch_can_have_are_refused(wrong):
    with pytest.raises(InvalidInput, match="wanted are"):
        BranchSettings(**wrong)


@ENCODERS
def test_first_prototypes_lie_among_the_tokens_of_every_block(build):
    encoder = add_cluster_branches(build(), settings=SMALL).train()
    hooks = len(encoder.blocks[1].norm1._forward_hooks)
    closeness = init_prototypes(encoder, [IMAGES[:2], IMAGES[2:]], seed=3)
    assert encoder.training
    assert len(encoder.blocks[1].norm1._forward_hooks) == hooks
    for index, branch in cluster_branches(encoder).items():
        assert closeness[index] > 0.4
        assert branch.prototypes.updates == 2
        assert 0 < float(branch.centre.norm()) < 1
        torch.testing.assert_close(branch.directions.norm(dim=1), torch.ones(5))
    again = add_cluster_branches(build(), settings=SMALL)
    assert init_prototypes(again, [IMAGES[:2], IMAGES[2:]], seed=3) == closeness


def test_prototypes_cannot_begin_without_branches_images_or_variety():
    with pytest.raises(InvalidInput, match="no cluster branches"):
        init_prototypes(sam_encoder(), [IMAGES])
    encoder = add_cluster_branches(sam_encoder(), settings=BranchSettings(prototypes=17))
    with pytest.raises(InvalidInput, match="No images"):
        init_prototypes(encoder, [])
    with pytest.raises(InvalidInput, match="17 prototypes were asked for of 16 tokens"):
        init_prototypes(encoder, [IMAGES[:1]])


@ENCODERS
def test_saved_branches_give_the_same_answers_when_loaded(build, tmp_path):
    encoder = branched(build, BranchSettings(prototypes=7, temperature=0.1, reach=2))
    path = tmp_path / "branches.safetensors"
    save_branches(encoder, path, base_sha256=BASE)
    other = load_branches(build(), path, base_sha256=BASE)
    assert cluster_branches(other)[1 if build is sam_encoder else 2].settings.reach == 2
    with torch.no_grad(), neighbouring((0, 2, 4)):
        assert torch.equal(embedding(other), embedding(encoder))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.fixture
def a_file(tmp_path) -> Path:
    path = tmp_path / "branches.safetensors"
    save_branches(branched(sam_encoder), path, base_sha256=BASE)
    return path


def expect_refusal(path: Path, message: str, base: str = BASE) -> None:
    encoder = sam_encoder()
    before = list(encoder.blocks)
    with pytest.raises(WeightsRefused, match=message):
        load_branches(encoder, path, base_sha256=base)
    assert all(a is b for a, b in zip(encoder.blocks, before, strict=True))


def rewritten(path: Path, changes: dict[str, torch.Tensor | None], **header: str) -> Path:
    tensors = {**load_file(path), **changes}
    facts = {
        "family": "protosam-cluster-branches",
        BASE_KEY: BASE,
        "blocks": "[1, 2]",
        "branch_settings": '{"prototypes": 5}',
    }
    target = path.with_name("changed.safetensors")
    kept = {k: v for k, v in tensors.items() if v is not None}
    save_file(kept, target, metadata={**facts, **header})
    return target


def test_branches_of_another_base_are_refused(a_file):
    expect_refusal(a_file, "were made for weights with SHA-256 b+; these have c+", base="c" * 64)


def test_files_that_are_no_branches_or_do_not_fit_are_refused(a_file, tmp_path):
    gate, directions = "blocks.1.clusters.gate", "blocks.1.clusters.directions"
    assert load_branches(sam_encoder(), rewritten(a_file, {}), base_sha256=BASE)
    expect_refusal(rewritten(a_file, {}, family="tiny"), "does not hold cluster branches")
    expect_refusal(rewritten(a_file, {}, blocks="[1, 9]"), "different numbers from 0 to 2")
    expect_refusal(rewritten(a_file, {}, blocks="5"), "does not describe")
    expect_refusal(rewritten(a_file, {}, branch_settings='{"prototypes": 0}'), "does not describe")
    expect_refusal(rewritten(a_file, {}, branch_settings='{"colour": 1}'), "does not describe")
    expect_refusal(
        rewritten(a_file, {gate: None}), "missing, unknown or not finite: blocks.1.clusters.gate"
    )
    expect_refusal(rewritten(a_file, {"more": torch.ones(1)}), "unknown or not finite: more")
    expect_refusal(rewritten(a_file, {gate: torch.tensor(float("nan"))}), "not finite")
    expect_refusal(rewritten(a_file, {directions: torch.ones(5, 9)}), "do not fit")
    expect_refusal(
        rewritten(a_file, {directions: torch.zeros(5, 24)}), "block 1 are not of length 1"
    )
    expect_refusal(rewritten(a_file, {}, branch_settings='{"prototypes": 1000000000}'), "1 to 4096")
    expect_refusal(
        rewritten(a_file, {}, branch_settings='{"prototypes": 5.5}'), "does not describe"
    )
    expect_refusal(rewritten(a_file, {}, branch_settings="[1]"), "does not describe")
    expect_refusal(rewritten(a_file, {}, blocks="[1.5]"), "does not describe")
    expect_refusal(rewritten(a_file, {"blocks.1.clusters.updates": torch.tensor(-3)}), "0 or more")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(a_file.read_bytes()[:100])
    expect_refusal(damaged, "damaged")
    expect_refusal(tmp_path / "nowhere.safetensors", "cannot be read")


def test_a_copy_of_an_encoder_is_independent_of_it():
    encoder = branched(sam_encoder)
    wanted = embedding(encoder).detach()
    other = copy.deepcopy(encoder)
    assert torch.equal(embedding(other), wanted)
    remove_cluster_branches(other)
    nn.init.zeros_(other.blocks[1].attn.qkv.weight)
    assert torch.equal(embedding(encoder), wanted)


def test_branches_are_not_loaded_on_top_of_others(a_file):
    encoder = branched(sam_encoder)
    wanted = cluster_branches(encoder)
    with pytest.raises(InvalidInput, match="already"):
        load_branches(encoder, a_file, base_sha256=BASE)
    assert cluster_branches(encoder) == wanted


def test_only_new_safetensors_files_with_branches_are_written(a_file, tmp_path):
    for encoder, path in (
        (sam_encoder(), tmp_path / "none.safetensors"),
        (branched(sam_encoder), a_file),
        (branched(sam_encoder), tmp_path / "branches.pth"),
    ):
        with pytest.raises(InvalidInput, match="in a new file"):
            save_branches(encoder, path, base_sha256=BASE)
    with pytest.raises(StorageFailure, match="could not be written"):
        save_branches(branched(sam_encoder), tmp_path / "no" / "x.safetensors", base_sha256=BASE)
