"""Weights on this machine: found, checked by digest, read as tensors and nothing else."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from protosam.errors import ModelUnavailable, StorageFailure, WeightsRefused
from protosam.models import weights
from protosam.models.cards import MODEL_CARDS, ModelCard
from protosam.models.tensors import read_tensors
from protosam.models.weights import (
    file_digest,
    find_weights,
    list_weights,
    search_folders,
    trust_digest,
    trusted_digests,
    user_folder,
    verify_weights,
    weights_status,
)

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}


def a_card(content: bytes | None = None, **changes: object) -> ModelCard:
    sha256 = None if content is None else hashlib.sha256(content).hexdigest()
    base = dataclasses.replace(MODEL_CARDS["sam_vit_b"], name="mine", file="mine.pth")
    return dataclasses.replace(base, **{"sha256": sha256, **changes})


class Payload:
    """What a hostile checkpoint would hold: unpickling it creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.target),)


@pytest.fixture(autouse=True)
def a_home_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the real user's weights."""
    home = tmp_path / "home" / "weights"
    monkeypatch.setattr(weights, "user_folder", lambda: home)
    monkeypatch.delenv("PROTOSAM_WEIGHTS", raising=False)
    return home


@pytest.fixture
def a_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.pth"
    torch.save(TENSORS, path)
    return path


# -- finding ------------------------------------------------------------------------------------


def test_the_users_folder_is_the_platforms_own() -> None:
    assert user_folder().parts[-2:] == ("protosam", "weights")


def test_folders_are_searched_in_the_stated_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a_home_of_its_own: Path
) -> None:
    monkeypatch.setenv("PROTOSAM_WEIGHTS", str(tmp_path / "shared"))

    folders = search_folders(tmp_path / "given")

    assert folders[:3] == (tmp_path / "given", tmp_path / "shared", a_home_of_its_own)
    assert (folders[3] / "cards.json").is_file()
    assert search_folders()[0] == tmp_path / "shared"


def test_the_first_folder_that_holds_the_file_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("given", "shared"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.pth").write_bytes(name.encode())
    monkeypatch.setenv("PROTOSAM_WEIGHTS", str(tmp_path / "shared"))

    assert find_weights(a_card(), tmp_path / "given") == tmp_path / "given" / "mine.pth"
    assert find_weights(a_card()) == tmp_path / "shared" / "mine.pth"


def test_missing_weights_are_told_with_the_folders_and_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="are not on this machine") as caught:
        find_weights(a_card(), tmp_path / "given")

    assert str(tmp_path / "given") in caught.value.message
    assert "protosam weights fetch mine" in caught.value.next_step


def test_missing_built_in_weights_ask_for_a_new_installation() -> None:
    with pytest.raises(ModelUnavailable) as caught:
        find_weights(a_card(url=None))

    assert "install it again" in caught.value.next_step


# -- digests ------------------------------------------------------------------------------------


def test_the_digest_is_that_of_the_bytes(a_file: Path) -> None:
    assert file_digest(a_file) == hashlib.sha256(a_file.read_bytes()).hexdigest()
    assert file_digest(a_file, "md5") == hashlib.md5(a_file.read_bytes()).hexdigest()


def test_a_digest_is_computed_again_after_the_file_changed(a_file: Path) -> None:
    before = file_digest(a_file)
    a_file.write_bytes(b"something else")

    assert file_digest(a_file) != before


def test_an_unchanged_file_is_not_read_twice(a_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = file_digest(a_file)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("read again"))

    assert file_digest(a_file) == first


def test_the_right_file_is_verified(a_file: Path) -> None:
    card = a_card(a_file.read_bytes())

    assert verify_weights(card, a_file) == card.sha256


def test_a_wrong_digest_is_refused_with_both_digests_and_the_next_step(a_file: Path) -> None:
    with pytest.raises(WeightsRefused) as caught:
        verify_weights(a_card(b"another file"), a_file)

    assert hashlib.sha256(b"another file").hexdigest() in caught.value.message
    assert file_digest(a_file) in caught.value.message
    assert "protosam weights" in caught.value.next_step


def test_weights_without_a_known_digest_ask_for_an_import(a_file: Path) -> None:
    with pytest.raises(WeightsRefused, match="No digest is known for mine") as caught:
        verify_weights(a_card(), a_file)

    assert f"protosam weights import mine {a_file}" in caught.value.next_step


def test_a_recorded_digest_is_wanted_from_then_on(a_file: Path) -> None:
    trust_digest("mine.pth", file_digest(a_file))
    trust_digest("other.pth", "a" * 64)

    assert verify_weights(a_card(), a_file) == file_digest(a_file)
    a_file.write_bytes(b"something else")
    with pytest.raises(WeightsRefused, match="is not the file of mine"):
        verify_weights(a_card(), a_file)
    assert set(trusted_digests()) == {"mine.pth", "other.pth"}


@pytest.mark.parametrize("text", ["{", "[]", '{"mine.pth": 3}'])
def test_a_broken_list_of_trusted_digests_is_never_taken_for_empty(
    a_home_of_its_own: Path, text: str
) -> None:
    a_home_of_its_own.mkdir(parents=True)
    (a_home_of_its_own / "trusted.json").write_text(text)

    with pytest.raises(WeightsRefused, match="list of trusted digests"):
        trusted_digests()


def test_a_folder_that_cannot_be_made_is_told(a_home_of_its_own: Path) -> None:
    a_home_of_its_own.parent.parent.mkdir(exist_ok=True)
    a_home_of_its_own.parent.write_text("a file where a folder should be")

    with pytest.raises(StorageFailure, match="cannot be made"):
        trust_digest("mine.pth", "a" * 64)


def test_a_missing_file_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(WeightsRefused, match="cannot be read"):
        file_digest(tmp_path / "none.pth")


def test_the_status_of_a_file_is_told(a_file: Path, tmp_path: Path) -> None:
    right, wrong = a_card(a_file.read_bytes()), a_card(b"another")

    states = [
        weights_status(right, tmp_path).state,
        weights_status(wrong, tmp_path).state,
        weights_status(a_card(), tmp_path).state,
        weights_status(wrong, tmp_path, check=False).state,
        weights_status(right, tmp_path / "elsewhere").state,
    ]

    assert states == ["verified", "wrong digest", "digest unknown", "present", "missing"]


def test_all_cards_are_listed(a_file: Path, tmp_path: Path) -> None:
    cards = {"mine": a_card(a_file.read_bytes()), "other": a_card(name="other", file="o.pth")}

    listed = list_weights(tmp_path, check=True, cards=cards)

    assert [(status.card.name, status.state) for status in listed] == [
        ("mine", "verified"),
        ("other", "missing"),
    ]
    assert listed[0].sha256 == file_digest(a_file)
    assert [status.card.name for status in list_weights()] == list(MODEL_CARDS)


# -- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_files_are_read_plain_and_wrapped(
    tmp_path: Path, wrapper: str | None, zipped: bool
) -> None:
    content = TENSORS if wrapper is None else {wrapper: TENSORS, "epoch": 3}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)

    file = read_tensors(tmp_path / "w.pth")

    assert file.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(file.tensors[name], value) for name, value in TENSORS.items())
    assert file.metadata == {}


def test_safetensors_are_read_with_their_header(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "w.safetensors", metadata={"family": "tiny"})

    file = read_tensors(tmp_path / "w.safetensors")

    assert all(torch.equal(file.tensors[name], value) for name, value in TENSORS.items())
    assert file.metadata == {"family": "tiny"}


@pytest.mark.parametrize("how", ["plain pickle", "zip", "old layout", "beside tensors"])
def test_a_pickle_with_code_is_refused_and_nothing_is_executed(tmp_path: Path, how: str) -> None:
    target, path = tmp_path / "executed", tmp_path / "evil.pth"
    payload = Payload(target)
    if how == "plain pickle":
        path.write_bytes(pickle.dumps(payload))
    elif how == "beside tensors":
        torch.save({"model": TENSORS, "epoch": payload}, path)
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=how == "zip")

    with pytest.raises(WeightsRefused, match="nothing in it was executed"):
        read_tensors(path)

    assert not target.exists()


def test_the_hostile_pickle_of_this_test_would_have_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "executed")))

    assert (tmp_path / "executed").exists()


def test_a_web_page_instead_of_weights_is_called_that(tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    path.write_text("\n<!DOCTYPE html><html><title>Sign in</title></html>")

    with pytest.raises(WeightsRefused, match="is a web page, not weights"):
        read_tensors(path)


def test_a_git_lfs_pointer_is_called_that(tmp_path: Path) -> None:
    path = tmp_path / "sam.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")

    with pytest.raises(WeightsRefused, match="Git LFS pointer"):
        read_tensors(path)


def test_an_empty_file_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "sam.pth").touch()

    with pytest.raises(WeightsRefused, match="is empty"):
        read_tensors(tmp_path / "sam.pth")


@pytest.mark.parametrize("name", ["sam.onnx", "sam", "sam.zip"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")

    with pytest.raises(WeightsRefused, match=r"weights are \.safetensors"):
        read_tensors(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsRefused, match="cannot be read"):
        read_tensors(tmp_path / "none.pth")


@pytest.mark.parametrize("cut", [10, 400, -10])
def test_a_torn_checkpoint_is_refused(a_file: Path, cut: int) -> None:
    a_file.write_bytes(a_file.read_bytes()[:cut])

    with pytest.raises(WeightsRefused, match="damaged or not a weights file"):
        read_tensors(a_file)


@pytest.mark.parametrize("cut", [4, 40, -1])
def test_torn_safetensors_are_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:cut])

    with pytest.raises(WeightsRefused, match="damaged or not a weights file"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([TENSORS["a.bias"]], "holds list, wanted is a table"),
        ({}, "wanted is a table"),
        ({"model": {"a": 3}}, "'a' of type int"),
        ({"a": TENSORS["a.bias"], "epoch": 3}, "'epoch' of type int"),
        ({1: TENSORS["a.bias"]}, "wanted are named tensors"),
        (collections.OrderedDict(model=[1]), "'model' of type list"),
    ],
)
def test_files_that_hold_no_table_of_tensors_are_refused(
    tmp_path: Path, content: object, words: str
) -> None:
    torch.save(content, tmp_path / "w.pth")

    with pytest.raises(WeightsRefused, match=words):
        read_tensors(tmp_path / "w.pth")


def test_mutated_files_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "zip.pth")
    torch.save(TENSORS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(TENSORS, tmp_path / "st.safetensors")
    originals = [(path.suffix, path.read_bytes()) for path in sorted(tmp_path.glob("*.*"))]
    generator = random.Random(0)
    refused = 0
    for _ in range(400):
        suffix, content = generator.choice(originals)
        mutated = bytearray(content)
        start = generator.randrange(len(mutated))
        if generator.random() < 0.5:
            mutated[start] = generator.randrange(256)
        del mutated[start : start + generator.choice((0, 1, 50, len(mutated)))]
        path = tmp_path / f"mutated{suffix}"
        path.write_bytes(mutated)
        try:
            read_tensors(path)
        except WeightsRefused:
            refused += 1

    assert refused > 300
