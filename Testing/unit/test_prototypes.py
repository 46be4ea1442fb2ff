"""Prototypes of tokens: how they are found, what belongs to them, and that none is lost."""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from protosam.errors import InvalidInput
from protosam.intensity import auto_window
from protosam.models.load import load_model
from protosam.models.moving_prototypes import Prototypes, momentum_at, usage_entropy
from protosam.models.prototypes import (
    away_from,
    centre_of,
    cosines,
    fuzzy_centres,
    fuzzy_memberships,
    memberships,
    spherical_kmeans,
)
from protosam.phantom import make_phantom

SEEDS = st.integers(0, 2**31)
ASSIGNMENTS = pytest.mark.parametrize("belonging", [memberships, fuzzy_memberships])


def random_tokens(n: int, c: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, c, generator=torch.Generator().manual_seed(seed))


def in_a_cone(n: int, c: int, seed: int = 0) -> torch.Tensor:
    """Tokens as networks make them: all in one half space, most near its middle."""
    return random_tokens(n, c, seed) + 3 * F.normalize(torch.ones(c), dim=0) * math.sqrt(c)


@ASSIGNMENTS
@given(seed=SEEDS, n=st.integers(1, 30), k=st.integers(1, 9), c=st.integers(1, 12))
def test_memberships_of_a_token_sum_to_one(belonging, seed, n, k, c):
    weights = belonging(random_tokens(n, c, seed), random_tokens(k, c, seed + 1))
    assert weights.shape == (n, k)
    assert bool((weights >= 0).all())
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(n))


@ASSIGNMENTS
@given(seed=SEEDS, scale=st.floats(1e-3, 1e3))
def test_lengths_of_tokens_and_of_prototypes_do_not_matter(belonging, seed, scale):
    tokens, prototypes = random_tokens(20, 8, seed), random_tokens(5, 8, seed + 1)
    plain = belonging(tokens, prototypes)
    torch.testing.assert_close(belonging(tokens * scale, prototypes), plain, atol=2e-3, rtol=0)
    torch.testing.assert_close(belonging(tokens, prototypes * scale), plain, atol=2e-3, rtol=0)


@ASSIGNMENTS
@given(seed=SEEDS)
def test_memberships_follow_the_order_of_tokens_and_prototypes(belonging, seed):
    tokens, prototypes = random_tokens(12, 6, seed), random_tokens(7, 6, seed + 1)
    rows = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    columns = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    mixed = belonging(tokens[rows], prototypes[columns])
    torch.testing.assert_close(
        mixed, belonging(tokens, prototypes)[rows][:, columns], atol=1e-3, rtol=0
    )


def test_memberships_are_computed_in_full_precision_whatever_is_around_them():
    tokens, prototypes = random_tokens(50, 32), random_tokens(8, 32, 1)
    plain = memberships(tokens, prototypes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(memberships(tokens, prototypes), plain)


def test_the_released_temperature_does_not_separate_and_ours_does():
    prototypes = random_tokens(64, 768)
    on_the_first = prototypes[:1] * 5

    def weight(alpha: float) -> float:
        return float(memberships(on_the_first, prototypes, 1 / alpha)[0, 0])

    assert weight(0.1) == pytest.approx(0.0172, abs=2e-4)
    assert weight(0.999) == pytest.approx(0.0412, abs=1e-3)  # what the released code has
    assert weight(10) == pytest.approx(0.997, abs=1e-3)
    assert float(memberships(on_the_first, prototypes)[0, 0]) > 0.9999


@pytest.mark.parametrize("fuzziness", [1.5, 2.0, 3.0])
def test_fuzzy_memberships_are_those_of_the_formula(fuzziness):
    tokens, prototypes = random_tokens(9, 5), random_tokens(4, 5, 1)
    distance = 1 - F.cosine_similarity(tokens[:, None], prototypes[None], dim=-1) + 1e-6
    ratios = (distance[:, :, None] / distance[:, None]) ** (2 / (fuzziness - 1))
    torch.testing.assert_close(
        fuzzy_memberships(tokens, prototypes, fuzziness), 1 / ratios.sum(dim=2)
    )


def test_fuzzy_c_means_comes_to_rest_at_the_two_bundles_of_tokens():
    axes = torch.eye(6)[:2].repeat_interleave(40, dim=0)
    tokens = axes + 0.1 * random_tokens(80, 6)
    centres = tokens[[0, 79]] + 0.5 * random_tokens(2, 6, 3)
    for _ in range(30):
        centres = fuzzy_centres(tokens, fuzzy_memberships(tokens, centres))
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(2))
    assert float(cosines(centres, torch.eye(6)[:2]).amax(dim=1).min()) > 0.98


def test_centring_makes_the_tokens_of_a_cone_differ():
    tokens = in_a_cone(500, 32)
    centre = centre_of(tokens)
    assert float(centre.norm()) > 0.9
    assert float(cosines(tokens, tokens).mean()) > 0.85
    seen = away_from(tokens, centre)
    assert abs(float(cosines(seen, seen).mean())) < 0.02
    spread = memberships(tokens, spherical_kmeans(tokens, 16)).amax(dim=1).mean()
    chosen = memberships(seen, spherical_kmeans(seen, 16)).amax(dim=1).mean()
    assert float(chosen) > 2 * float(spread)


@given(seed=SEEDS, k=st.integers(1, 8))
def test_prototypes_are_of_length_one_and_follow_from_the_seed(seed, k):
    tokens = random_tokens(60, 5, seed)
    found = spherical_kmeans(tokens, k, seed)
    assert found.shape == (k, 5)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(k))
    assert torch.equal(found, spherical_kmeans(tokens, k, seed))
    torch.testing.assert_close(found, spherical_kmeans(tokens * 4, k, seed))


def test_bundles_that_are_far_apart_are_found():
    bundles = F.normalize(random_tokens(10, 24, 4), dim=1)
    tokens = bundles.repeat(50, 1) + 0.03 * random_tokens(500, 24)
    closest = cosines(bundles, spherical_kmeans(tokens, 10)).amax(dim=1)
    assert float(closest.min()) > 0.99


def test_every_prototype_has_tokens_and_more_of_them_come_closer():
    tokens = random_tokens(400, 6)

    def closeness(k: int) -> float:
        cosine = cosines(tokens, spherical_kmeans(tokens, k))
        assert len(cosine.argmax(dim=1).unique()) == k
        return float(cosine.amax(dim=1).mean())

    assert closeness(4) < closeness(16) < closeness(64)


@pytest.mark.parametrize(
    ("tokens", "k", "message"),
    [
        (torch.zeros(9, 4), 2, "0 tokens that are not zero"),
        (torch.zeros(0, 4), 1, "0 tokens that are not zero"),
        (torch.ones(9, 4), 2, "only 1 directions"),
        (random_tokens(3, 4), 4, "Ask for 1 to 3"),
        (random_tokens(3, 4), 0, "Ask for 1 to 3"),
        (torch.tensor([[1.0, math.nan]]), 1, "infinite or no numbers"),
        (random_tokens(9, 4)[None], 1, "table"),
        (torch.ones(3, 4, dtype=torch.int64), 1, "floating"),
    ],
)
def test_tokens_that_cannot_be_clustered_are_refused(tokens, k, message):
    with pytest.raises(InvalidInput, match=message):
        spherical_kmeans(tokens, k)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(InvalidInput, match="above 0"):
        memberships(random_tokens(2, 3), random_tokens(2, 3), temperature)


@pytest.mark.parametrize("fuzziness", [1.0, 0.0, math.nan])
def test_a_fuzziness_that_is_none_is_refused(fuzziness):
    with pytest.raises(InvalidInput, match="above 1"):
        fuzzy_memberships(random_tokens(2, 3), random_tokens(2, 3), fuzziness)


def test_the_first_updates_make_a_plain_mean_and_later_ones_are_slow():
    assert [momentum_at(t) for t in (0, 1, 3)] == [0, 0.5, 0.75]
    assert momentum_at(10_000) == 0.99
    with pytest.raises(InvalidInput, match="less than 1"):
        momentum_at(3, 1.0)


def test_an_update_moves_only_the_prototypes_that_tokens_are_nearest_to():
    before = Prototypes.at(torch.eye(3), updates=1)
    after = before.updated(torch.tensor([[4.0, 4.0, 0.0], [3.0, 1.0, 0.0]]), dead_below=0)
    wanted = F.normalize(
        0.5 * torch.eye(3)[0]
        + 0.25 * torch.tensor([0.5**0.5 + 3 / 10**0.5, 0.5**0.5 + 0.1**0.5, 0]),
        dim=0,
    )
    torch.testing.assert_close(after.directions[0], wanted)
    assert torch.equal(after.directions[1:], torch.eye(3)[1:])
    torch.testing.assert_close(after.usage, torch.tensor([2 / 3, 1 / 6, 1 / 6]))
    assert (before.updates, after.updates) == (1, 2)
    assert torch.equal(before.directions, torch.eye(3))


@given(seed=SEEDS, updates=st.integers(0, 200))
def test_updated_prototypes_stay_of_length_one(seed, updates):
    prototypes = Prototypes.at(random_tokens(7, 5, seed), updates)
    moved = prototypes.updated(random_tokens(40, 5, seed + 1))
    torch.testing.assert_close(moved.directions.norm(dim=1), torch.ones(7))


def test_tokens_that_cancel_out_or_are_zero_leave_a_prototype_where_it_is():
    one = Prototypes.at(torch.tensor([[1.0, 0.0]]))
    opposed = one.updated(torch.tensor([[0.0, 2.0], [0.0, -2.0]]))
    assert torch.equal(opposed.directions, one.directions)
    assert one.updated(torch.zeros(5, 2)) is one
    assert one.updated(torch.zeros(0, 2)) is one


def test_a_prototype_that_nobody_uses_moves_to_the_token_that_all_others_are_far_from():
    lost = Prototypes.at(torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0], [-1.0, 0, 0]]), updates=500)
    tokens = torch.tensor([[1.0, 0, 0]] * 30 + [[0.9, 0.1, 0]] * 30 + [[0, 0, 2.0]])
    now = lost
    for _ in range(1000):
        now = now.updated(tokens)
        if not torch.equal(now.directions[2], lost.directions[2]):
            break
    torch.testing.assert_close(now.directions[2], torch.tensor([0.0, 0, 1]))
    assert float(now.usage[2]) == pytest.approx(1 / 3)


def test_two_unused_prototypes_do_not_move_to_the_same_place():
    start = Prototypes(torch.eye(4)[[0, 1, 1]], torch.tensor([1.0, 0, 0]), updates=10_000)
    tokens = torch.eye(4)[[0, 0, 0, 2, 3]]
    moved = start.updated(tokens, dead_below=0.005)
    assert sorted(moved.directions[1:].argmax(dim=1).tolist()) == [2, 3]


def test_unused_prototypes_wait_where_they_are_while_no_token_is_far_from_the_others():
    start = Prototypes(torch.eye(4)[:3], torch.tensor([1.0, 0, 0]), updates=10_000)
    moved = start.updated(torch.eye(4)[[0, 0, 0]], dead_below=0.005)
    assert torch.equal(moved.directions, start.directions)
    assert moved.usage[1:].tolist() == [0, 0]


def test_prototypes_that_were_never_used_at_all_begin_anew_around_the_most_used():
    start = Prototypes(torch.eye(4)[:3], torch.zeros(3), updates=10_000)
    moved = start.updated(torch.eye(4)[[0, 0, 3, 2]], dead_below=0.5)
    assert moved.directions.argmax(dim=1).tolist() == [0, 2, 3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prototypes.at(torch.zeros(3, 2)), "3 of 3 prototypes are zero"),
        (lambda: Prototypes.at(torch.full((3, 2), math.inf)), "infinite"),
        (lambda: Prototypes(torch.eye(3), torch.ones(2)), "came with a usage"),
        (lambda: Prototypes(torch.eye(3), torch.ones(3), -1), "0 or more"),
        (lambda: Prototypes.at(torch.eye(3)).updated(random_tokens(4, 2)), "2 channels"),
        (lambda: Prototypes.at(torch.eye(3)).updated(torch.full((4, 3), math.nan)), "infinite"),
        (lambda: Prototypes.at(torch.eye(3)).updated(torch.eye(3), momentum=1), "less than 1"),
        (lambda: centre_of(torch.zeros(3, 2)), "None of 3 tokens"),
        (lambda: away_from(torch.eye(3), torch.ones(2)), "3 channels"),
        (lambda: memberships(torch.eye(3), torch.eye(2)), "3 channels"),
        (lambda: memberships(torch.eye(3), torch.zeros(0, 3)), "no prototypes"),
        (lambda: usage_entropy(torch.zeros(3)), "sum to 0"),
        (lambda: usage_entropy(torch.tensor([2.0, -1.0])), "0 or more"),
    ],
)
def test_what_would_be_lost_for_good_is_refused(make, message):
    with pytest.raises(InvalidInput, match=message):
        make()


def test_entropy_is_one_for_even_use_and_zero_for_one_alone():
    assert usage_entropy(torch.full((64,), 1 / 64)) == pytest.approx(1)
    assert usage_entropy(torch.eye(64)[3] * 9) == 0
    assert usage_entropy(torch.tensor([1, 1, 0, 0])) == pytest.approx(0.5)
    assert usage_entropy(torch.tensor([5.0])) == 1


def released_update(prototypes: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The released scheme: zeros as they are, ties to the first, nobody revived."""
    unit = F.normalize(tokens, dim=1)
    cosine = cosines(tokens, prototypes)
    best = cosine.amax(dim=1, keepdim=True)
    nearest = (cosine == best).int().argmax(dim=1)
    moved = prototypes.clone()
    for k in nearest.unique().tolist():
        moved[k] = 0.999 * prototypes[k] + 0.001 * unit[nearest == k].mean(dim=0)
    return moved


def test_the_released_scheme_keeps_one_of_64_prototypes_and_ours_keeps_all():
    tokens = in_a_cone(2000, 48)
    theirs = torch.zeros(64, 48)  # every block but the first begins like this
    ours = Prototypes.at(spherical_kmeans(tokens, 64), updates=20)
    for batch in tokens.chunk(4):
        theirs = released_update(theirs, batch)
        ours = ours.updated(batch)
    assert int((theirs.norm(dim=1) > 0).sum()) == 1
    used = cosines(tokens, ours.directions).argmax(dim=1).bincount(minlength=64)
    assert int((used > 0).sum()) == 64


def block_tokens(images: torch.Tensor) -> list[torch.Tensor]:
    """What blocks 2 and 4 of the built-in model see of images, as one table each."""
    encoder = load_model("protosam-tiny", device="cpu").network.image_encoder
    seen: list[torch.Tensor] = []
    for index in (2, 4):
        encoder.blocks[index].norm1.register_forward_hook(
            lambda _module, _given, out: seen.append(out.flatten(0, 2))
        )
    with torch.no_grad():
        encoder(images)
    return seen


def assert_no_collapse(tokens: torch.Tensor) -> None:
    seen = away_from(tokens, centre_of(tokens))
    now = Prototypes.at(spherical_kmeans(seen, 64), updates=20)
    random = torch.Generator().manual_seed(1)
    for _ in range(200):
        now = now.updated(seen[torch.randperm(len(seen), generator=random)[:500]])
    used = cosines(seen, now.directions).argmax(dim=1).bincount(minlength=64)
    assert usage_entropy(used) > 0.7
    assert usage_entropy(now.usage) > 0.7


def stacks(voxels: np.ndarray, numbers: range) -> torch.Tensor:
    """Slices between their neighbours, 0..1, 256 pixels wide."""
    window = auto_window(voxels)
    scaled = np.clip((voxels.astype(np.float32) - window.low) / (window.high - window.low), 0, 1)
    chosen = np.stack([scaled[k - 1 : k + 2] for k in numbers])
    return F.interpolate(torch.from_numpy(chosen), size=(256, 256), mode="bilinear")


def test_prototypes_of_phantom_features_do_not_collapse_in_200_updates():
    for tokens in block_tokens(stacks(make_phantom().volume.voxels, range(6, 50, 5))):
        assert_no_collapse(tokens)


def test_prototypes_of_real_features_do_not_collapse_in_200_updates(shared_data):
    path = shared_data / "btcv_abdomen_ct" / "btcv_05_img.nii.gz"
    voxels = np.asarray(nib.load(path).dataobj).T
    for tokens in block_tokens(stacks(voxels, range(10, len(voxels) - 1, len(voxels) // 10))):
        assert_no_collapse(tokens)
