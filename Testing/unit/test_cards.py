"""The cards of the models: what is on them, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from protosam.errors import InvalidInput, ModelUnavailable, StorageFailure
from protosam.models import cards
from protosam.models.cards import (
    MODEL_CARDS,
    ModelCard,
    builtin_folder,
    card_named,
    read_cards,
    record_digest,
    write_json,
)


def an_entry(**changes: object) -> dict[str, Any]:
    return {**dataclasses.asdict(MODEL_CARDS["sam_vit_b"]), **changes}


def a_cards_file(folder: Path, *entries: dict[str, Any], version: int = 1) -> Path:
    path = folder / "cards.json"
    path.write_text(json.dumps({"format": version, "models": list(entries)}))
    return path


def test_the_models_of_the_product_have_cards() -> None:
    assert list(MODEL_CARDS) == [
        "protosam-tiny",
        "sam_vit_b",
        "sam_vit_l",
        "sam_vit_h",
        "medsam_vit_b",
    ]
    assert all(card.name == name for name, card in MODEL_CARDS.items())


@pytest.mark.parametrize(
    ("name", "file", "sha256"),
    [
        (
            "sam_vit_b",
            "sam_vit_b_01ec64.pth",
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ),
        (
            "sam_vit_l",
            "sam_vit_l_0b3195.pth",
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ),
        (
            "sam_vit_h",
            "sam_vit_h_4b8939.pth",
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        ),
    ],
)
def test_official_checkpoints_carry_their_digests(name: str, file: str, sha256: str) -> None:
    card = MODEL_CARDS[name]

    assert (card.file, card.sha256) == (file, sha256)
    assert card.url == f"https://dl.fbaipublicfiles.com/segment_anything/{file}"


def test_medsam_is_prepared_as_its_makers_do() -> None:
    card = MODEL_CARDS["medsam_vit_b"]

    assert (card.architecture, card.normalisation, card.resize) == ("vit_b", "unit", "square")
    assert not card.multimask
    assert card.sha256 is None
    assert card.md5 is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"family": "yolo"}, "family 'yolo'"),
        ({"normalisation": "zscore"}, "normalisation 'zscore'"),
        ({"resize": "crop"}, "resize 'crop'"),
        ({"sha256": "EC2D"}, "SHA-256"),
        ({"md5": "12"}, "MD5"),
        ({"file": "../evil.pth"}, "without a folder"),
        ({"file": ""}, "without a folder"),
        ({"name": ""}, "without a folder"),
        ({"url": "http://example.org/a.pth"}, "without https"),
        ({"input_size": 0}, "input size 0"),
    ],
)
def test_a_card_that_cannot_be_true_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        ModelCard(**an_entry(**change))


def test_cards_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = a_cards_file(tmp_path, an_entry(name="b"), an_entry(name="a"))

    assert list(read_cards(path)) == ["b", "a"]


def test_a_list_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="format 1"):
        read_cards(a_cards_file(tmp_path, an_entry(), version=2))


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 1, "models": 3}'])
def test_a_list_that_is_not_one_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "cards.json").write_text(text)

    with pytest.raises(ModelUnavailable, match="list of models"):
        read_cards(tmp_path / "cards.json")


def test_a_missing_list_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        read_cards(tmp_path / "cards.json")


def test_unknown_and_missing_keys_of_an_entry_are_refused(tmp_path: Path) -> None:
    lacking = an_entry()
    del lacking["licence"]

    for entry in (an_entry(colour="red"), lacking):
        with pytest.raises(ModelUnavailable, match="exactly the keys"):
            read_cards(a_cards_file(tmp_path, entry))


def test_values_that_no_card_can_have_are_refused_with_the_file_in_the_message(
    tmp_path: Path,
) -> None:
    for entry in (an_entry(resize="crop"), an_entry(input_size=None)):
        with pytest.raises(ModelUnavailable, match=r"cards\.json"):
            read_cards(a_cards_file(tmp_path, entry))


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="twice"):
        read_cards(a_cards_file(tmp_path, an_entry(), an_entry()))


def test_an_unknown_name_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ModelUnavailable, match="no model 'sam_vitb'") as caught:
        card_named("sam_vitb")

    assert "Did you mean sam_vit_b?" in caught.value.next_step
    assert "protosam-tiny" in caught.value.next_step


def test_a_digest_is_recorded_in_its_own_entry_alone(tmp_path: Path) -> None:
    path = a_cards_file(tmp_path, an_entry(name="one"), an_entry(name="two"))

    record_digest(path, "two", "a" * 64, 123)

    one, two = read_cards(path).values()
    assert one == ModelCard(**an_entry(name="one"))
    assert two == ModelCard(**an_entry(name="two", sha256="a" * 64, size_bytes=123))
    assert list(tmp_path.iterdir()) == [path]


def test_a_digest_for_an_unknown_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="no model 'two'"):
        record_digest(a_cards_file(tmp_path, an_entry(name="one")), "two", "a" * 64, 1)


def test_a_full_disk_leaves_the_old_list_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = a_cards_file(tmp_path, an_entry())
    before = path.read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageFailure, match="No space left"):
        write_json(path, {})

    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_installation_without_its_list_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards, "__file__", str(tmp_path / "a" / "b" / "c" / "cards.py"))

    with pytest.raises(ModelUnavailable, match="lacks its list of models"):
        builtin_folder()


def test_an_installed_package_reads_the_folder_inside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "site" / "protosam" / "model_weights"
    inside.mkdir(parents=True)
    a_cards_file(inside, an_entry())
    module = inside.parent / "models" / "cards.py"
    monkeypatch.setattr(cards, "__file__", str(module))

    assert builtin_folder() == inside


def test_cards_and_digests_are_read_without_torch() -> None:
    code = "import sys, protosam.models.weights; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
