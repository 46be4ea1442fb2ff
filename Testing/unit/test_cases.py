"""Corrected cases on disk: nothing of the patient, one role for good, nothing broken read."""

from __future__ import annotations

import dataclasses
import gzip
import json
import pickle
import re
from collections import OrderedDict
from datetime import date, datetime
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protosam.cases.corrected import (
    Code,
    CorrectedCase,
    CorrectedSegment,
    segment_from_json,
    segment_to_json,
)
from protosam.cases.layouts import find_cases, import_cases
from protosam.cases.manifest import MANIFEST
from protosam.cases.nifti import nifti_bytes
from protosam.cases.roles import (
    most_held_out,
    patient_hash,
    patient_in_name,
    role_of,
    roles_of,
)
from protosam.cases.saved import FACTS, CaseFolder
from protosam.cases.split_files import convert_split, read_split
from protosam.errors import GeometryError, InvalidInput, StorageFailure, UnreadableFile
from protosam.geometry import Volume
from protosam.prompts import Point, PromptSet

AFFINE = np.array([[0.0, 2, 0, 5], [-1.5, 0, 0, -7], [0, 0, 3, 9], [0, 0, 0, 1]])


def an_image(seed: int = 0, dtype: type = np.int16) -> Volume:
    rng = np.random.default_rng(seed)
    return Volume(rng.integers(0, 100, size=(5, 12, 14)).astype(dtype), AFFINE)


def a_case(seed: int = 0, names: tuple[str, ...] = ("liver",)) -> CorrectedCase:
    segments = []
    for number, name in enumerate(names):
        mask = np.zeros((5, 12, 14), dtype=bool)
        mask[1:4, 2 + 3 * number : 4 + 3 * number, 3:9] = True
        prompts = PromptSet((Point((2.0, 2.0 + 3 * number, 5.0), True, "p1"),))
        code = Code("10200004", "SCT", "Liver") if name == "liver" else None
        segments.append(CorrectedSegment(name, mask, prompts, code))
    return CorrectedCase(an_image(seed), tuple(segments), "digest-1", date(2024, 5, 6))


def test_a_saved_case_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = CaseFolder.create(tmp_path / "cases")
    case = a_case(names=("liver", "spleen"))
    saved = folder.save(case, patient="P1")
    back = CaseFolder(tmp_path / "cases").read(saved.id)
    np.testing.assert_array_equal(back.image.voxels, case.image.voxels)
    np.testing.assert_allclose(back.image.affine, case.image.affine, atol=1e-6)
    for one, other in zip(back.segments, case.segments, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
        assert (one.name, one.prompts, one.code) == (other.name, other.prompts, other.code)
    assert (back.model_digest, back.day) == ("digest-1", date(2024, 5, 6))


def test_a_side_is_kept_and_cases_that_were_saved_without_one_are_read(tmp_path: Path) -> None:
    folder, left = CaseFolder.create(tmp_path / "cases"), Code("7771000", "SCT", "Left")
    one = dataclasses.replace(a_case().segments[0], side=left)
    saved = folder.save(dataclasses.replace(a_case(), segments=(one,)), patient="P1")
    assert folder.read(saved.id).segments[0].side == left
    entry = segment_to_json(one, 1)
    del entry["side"]
    assert segment_from_json(entry, one.mask.astype(np.uint8)).side is None


def test_nothing_but_the_grid_is_in_the_header_of_a_saved_image() -> None:
    data = nifti_bytes(an_image())
    assert data[3] & 0x1C == 0  # gzip's flags for extra fields, a file's name and a comment
    assert data[4:8] == bytes(4)  # gzip's time
    header = nib.Nifti1Image.from_bytes(gzip.decompress(data)).header
    for field in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        assert bytes(header[field]).strip(b"\0") == b""
    assert len(header.extensions) == 0
    assert nifti_bytes(an_image()) == data


def test_the_patient_is_nowhere_in_the_folder(tmp_path: Path) -> None:
    folder = CaseFolder.create(tmp_path / "cases")
    saved = folder.save(a_case(), patient="Doe^John-4711")
    written = [path for path in (tmp_path / "cases").rglob("*") if path.is_file()]
    assert len(written) >= 4
    for path in written:
        data = path.read_bytes()
        plain = gzip.decompress(data) if path.suffix == ".gz" else data
        assert b"Doe" not in plain and b"4711" not in plain
    facts = (tmp_path / "cases" / saved.id / FACTS).read_text("utf-8")
    assert json.loads(facts)["day"] == "2024-05-06"
    assert not re.search(r"\d\d:\d\d", facts)


@given(st.lists(st.text("abcdef0123456789", min_size=1), min_size=1, max_size=20, unique=True))
def test_the_role_follows_from_the_patient_alone(patients: list[str]) -> None:
    alone = {p: role_of(patient_hash(p, "salt")) for p in patients}
    assert {p: role_of(patient_hash(f" {p} ", "salt")) for p in reversed(patients)} == alone


def test_about_the_asked_share_of_patients_is_held_out() -> None:
    roles = [role_of(patient_hash(str(n)), 0.25) for n in range(2000)]
    assert roles.count("held-out") / 2000 == pytest.approx(0.25, abs=0.04)
    assert all(role_of(patient_hash(str(n)), 0.0) == "train" for n in range(50))


@given(st.sets(st.text("abcdef0123456789", min_size=1), min_size=1, max_size=30))
def test_of_a_few_patients_most_teach(patients: set[str]) -> None:
    hashes = {patient_hash(p) for p in patients}
    roles = roles_of(hashes)
    held = {h for h, role in roles.items() if role == "held-out"}
    assert roles.keys() == hashes
    assert len(held) <= most_held_out(len(hashes)) <= max(1, len(hashes) // 2)
    assert all(role_of(h) == "held-out" for h in held)
    assert len(held) == min(
        most_held_out(len(hashes)), sum(role_of(h) == "held-out" for h in hashes)
    )


def test_a_folder_keeps_roles_and_lets_further_patients_teach(tmp_path: Path) -> None:
    folder = CaseFolder.create(tmp_path / "cases", held_out_share=0.99)  # the hashes say: all
    saved = [folder.save(a_case(n), patient=str(n)) for n in range(5)]
    assert [one.role for one in saved] == ["held-out", "train", "train", "train", "held-out"]
    assert folder.save(a_case(5), patient="4").role == "held-out"
    assert folder.save(a_case(6), patient="1").role == "train"


def test_roles_stay_when_cases_are_added_and_a_patient_has_one(tmp_path: Path) -> None:
    folder = CaseFolder.create(tmp_path / "cases", held_out_share=0.5)
    before = [folder.save(a_case(n), patient=f"patient {n // 2}") for n in range(8)]
    folder.save(a_case(20), patient="another")
    assert list(CaseFolder(tmp_path / "cases").cases())[:8] == before
    assert all(one.role == two.role for one, two in zip(before[::2], before[1::2], strict=True))
    parted = {role: len(folder.cases(role)) for role in ("train", "held-out")}
    assert sum(parted.values()) == 9


def test_a_name_has_one_number_in_all_cases(tmp_path: Path) -> None:
    folder = CaseFolder.create(tmp_path / "cases")
    folder.save(a_case(0, ("liver", "spleen")), patient="1")
    second = folder.save(a_case(1, ("kidney", "spleen")), patient="2")
    data = folder.data()
    assert dict(data.names) == {1: "liver", 2: "spleen", 3: "kidney"}
    labels = next(case for case in data.cases if case.name == second.id).read()[1]
    assert set(np.unique(labels.voxels)) == {0, 2, 3}


def test_an_image_that_is_saved_again_stays_one_case_with_its_newest_segments(
    tmp_path: Path,
) -> None:
    folder = CaseFolder.create(tmp_path / "cases")
    first = folder.save(a_case(names=("liver", "spleen")), patient="1")
    liver = a_case(names=("liver",)).segments[0]
    smaller = dataclasses.replace(liver, mask=liver.mask & (np.arange(14) < 6))
    kidney = a_case(names=("x", "y", "kidney")).segments[2]
    again = dataclasses.replace(a_case(), segments=(smaller, kidney), model_digest="digest-2")
    second = folder.save(again, patient="1")
    assert (second.id, second.role) == (first.id, first.role)
    assert [one.id for one in CaseFolder(tmp_path / "cases").cases()] == [first.id]
    places = [path.name for path in (tmp_path / "cases").iterdir() if path.is_dir()]
    assert places == [second.place] != [first.place]
    assert [case.name for case in folder.data().cases] == [first.id]
    back = {one.name: one for one in folder.read(second.id).segments}
    assert set(back) == {"liver", "spleen", "kidney"}
    np.testing.assert_array_equal(back["liver"].mask, smaller.mask)
    assert folder.read(second.id).model_digest == ""  # two models have answered
    assert back["spleen"].prompts == a_case(names=("liver", "spleen")).segments[1].prompts


def test_a_case_that_was_saved_three_times_is_removed_with_all_its_files(tmp_path: Path) -> None:
    folder = CaseFolder.create(tmp_path / "cases")
    saved = [folder.save(a_case(), patient="1") for _ in range(3)]
    assert [one.revision for one in saved] == [1, 2, 3]
    assert folder.told(saved[0].id)[0] == ("liver",)
    folder.remove(saved[0].id)
    assert not [path for path in (tmp_path / "cases").iterdir() if path.is_dir()]


@pytest.mark.parametrize("id", ["../0123456789abcdef", "..", "", "0123456789abcdef/x"])
def test_a_list_whose_cases_lie_elsewhere_is_refused(tmp_path: Path, id: str) -> None:
    folder = CaseFolder.create(tmp_path / "cases")
    folder.save(a_case(), patient="1")
    path = tmp_path / "cases" / MANIFEST
    entries = json.loads(path.read_text("utf-8"))
    entries["cases"] = {id: next(iter(entries["cases"].values()))}
    path.write_text(json.dumps(entries), "utf-8")
    with pytest.raises(UnreadableFile, match="no folder of its own"):
        CaseFolder(tmp_path / "cases")


@pytest.mark.parametrize(
    ("revision", "told"),
    [("x", "damaged"), (None, "damaged"), (-1, "no folder of its own"), (10**40, "missing")],
)
def test_a_number_of_savings_that_cannot_be_is_told(
    tmp_path: Path, revision: object, told: str
) -> None:
    saved = CaseFolder.create(tmp_path / "cases").save(a_case(), patient="1")
    path = tmp_path / "cases" / MANIFEST
    entries = json.loads(path.read_text("utf-8"))
    entries["cases"][saved.id]["revision"] = revision
    path.write_text(json.dumps(entries), "utf-8")
    with pytest.raises(UnreadableFile, match=told):
        CaseFolder(tmp_path / "cases").read(saved.id)


def test_what_overlaps_earlier_segments_of_the_image_is_refused_and_they_stay(
    tmp_path: Path,
) -> None:
    folder = CaseFolder.create(tmp_path / "cases")
    saved = folder.save(a_case(), patient="1")
    with pytest.raises(InvalidInput, match="shares 36 voxels"):
        folder.save(a_case(names=("lesion",)), patient="1")
    assert [s.name for s in CaseFolder(tmp_path / "cases").read(saved.id).segments] == ["liver"]


def test_an_image_cannot_change_its_patient_until_it_was_removed(tmp_path: Path) -> None:
    folder = CaseFolder.create(tmp_path / "cases")
    saved = folder.save(a_case(), patient="1")
    with pytest.raises(InvalidInput, match=f"another patient's: case {saved.id}"):
        folder.save(a_case(), patient="2")
    folder.remove(saved.id)
    assert not (tmp_path / "cases" / saved.id).exists()
    assert folder.save(a_case(), patient="2").patient != saved.patient


def test_an_image_whose_files_were_changed_is_not_saved_over(tmp_path: Path) -> None:
    folder = CaseFolder.create(tmp_path / "cases")
    saved = folder.save(a_case(), patient="1")
    (tmp_path / "cases" / saved.id / FACTS).write_text("{}")
    with pytest.raises(UnreadableFile, match="or remove the case"):
        folder.save(a_case(), patient="1")


def test_two_programs_that_save_by_turns_lose_nothing(tmp_path: Path) -> None:
    one = CaseFolder.create(tmp_path / "cases")
    two = CaseFolder(tmp_path / "cases")
    one.save(a_case(0), patient="1")
    two.save(a_case(1), patient="2")
    one.save(a_case(2), patient="3")
    assert len(CaseFolder(tmp_path / "cases").cases()) == 3


def test_a_changed_or_missing_file_is_refused(tmp_path: Path) -> None:
    folder = CaseFolder.create(tmp_path / "cases")
    saved = folder.save(a_case(), patient="1")
    facts = tmp_path / "cases" / saved.id / FACTS
    facts.write_text(facts.read_text("utf-8").replace("liver", "liven"), "utf-8")
    with pytest.raises(UnreadableFile, match="changed"):
        folder.read(saved.id)
    facts.unlink()
    with pytest.raises(UnreadableFile, match="missing"):
        folder.read(saved.id)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 2}, "version 2"),
        ({"format": "else"}, "no list"),
        ({"cases": [1]}, "damaged"),
        ({"cases": {"a": {"role": "none"}}}, "damaged"),
    ],
)
def test_a_list_of_another_form_is_refused(tmp_path: Path, change: dict, told: str) -> None:
    CaseFolder.create(tmp_path / "cases")
    path = tmp_path / "cases" / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **change}), "utf-8")
    with pytest.raises(UnreadableFile, match=told):
        CaseFolder(tmp_path / "cases")


def test_a_save_that_fails_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CaseFolder.create(tmp_path / "cases")
    folder.save(a_case(0), patient="1")
    before = sorted(p.name for p in (tmp_path / "cases").iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageFailure, match="Free some space"):
        folder.save(a_case(1), patient="2")
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "cases").iterdir()) == before
    assert len(CaseFolder(tmp_path / "cases").cases()) == 1


def test_what_a_killed_program_has_left_is_deleted_by_the_next_save(tmp_path: Path) -> None:
    folder = CaseFolder.create(tmp_path / "cases")
    kept = folder.save(a_case(0), patient="1")
    for left in (".new-x1", "0123456789abcdef"):
        (tmp_path / "cases" / left).mkdir()
        (tmp_path / "cases" / left / "image.nii.gz").write_bytes(b"half")
    assert [case.id for case in CaseFolder(tmp_path / "cases").cases()] == [kept.id]
    added = folder.save(a_case(1), patient="2")
    names = {path.name for path in (tmp_path / "cases").iterdir() if path.is_dir()}
    assert names == {kept.id, added.id}


def test_a_folder_that_holds_something_else_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InvalidInput, match="something else"):
        CaseFolder.create(tmp_path)


def test_cases_that_cannot_be_are_refused() -> None:
    mask = np.ones((5, 12, 14), dtype=bool)
    with pytest.raises(InvalidInput, match="is empty"):
        CorrectedSegment("liver", np.zeros_like(mask))
    with pytest.raises(InvalidInput, match="0 segments"):
        CorrectedCase(an_image(), ())
    with pytest.raises(GeometryError, match="grid"):
        CorrectedCase(an_image(), (CorrectedSegment("liver", mask[:4]),))
    with pytest.raises(InvalidInput, match="time of day"):
        CorrectedCase(an_image(), (CorrectedSegment("x", mask),), "", datetime(2024, 1, 2, 3))
    both = CorrectedCase(an_image(), (CorrectedSegment("a", mask), CorrectedSegment("b", mask)))
    with pytest.raises(InvalidInput, match="shares 840 voxels"):
        both.label_map((1, 2))


def test_integers_that_nifti_cannot_hold_are_refused_and_others_kept() -> None:
    large = np.full((2, 2, 2), 2**40, dtype=np.int64)
    with pytest.raises(InvalidInput, match="32 bits"):
        nifti_bytes(Volume(large, np.eye(4)))
    small = nib.Nifti1Image.from_bytes(gzip.decompress(nifti_bytes(an_image(dtype=np.int64))))
    np.testing.assert_array_equal(np.asarray(small.dataobj).T, an_image().voxels)


def a_pair(image: Path, labels: Path, seed: int = 0) -> None:
    for path in (image, labels):
        path.parent.mkdir(parents=True, exist_ok=True)
    case = a_case(seed)
    image.write_bytes(nifti_bytes(case.image))
    labels.write_bytes(nifti_bytes(Volume(case.label_map((1,)), AFFINE)))


def test_nnunets_layout_is_read_where_it_lies(tmp_path: Path) -> None:
    for n in range(2):
        image, labels = f"imagesTr/heart_{n:03d}_0000.nii.gz", f"labelsTr/heart_{n:03d}.nii.gz"
        a_pair(tmp_path / image, tmp_path / labels, n)
    dataset = {"labels": {"background": 0, "LV": 1}, "channel_names": {"0": "MR"}}
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    found = find_cases(tmp_path)
    assert [case.name for case in found.data.cases] == ["heart_000", "heart_001"]
    assert found.data.names == ((1, "LV"),)
    assert found.data.cases[0].read()[1].voxels.max() == 1
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"0": "bg", "1": "LV"}}))
    assert find_cases(tmp_path).data.names == ((1, "LV"),)
    a_pair(tmp_path / "imagesTr/heart_000_0001.nii.gz", tmp_path / "labelsTr/heart_000.nii.gz")
    with pytest.raises(InvalidInput, match="several channels"):
        find_cases(tmp_path)


def test_the_plain_layout_is_read_and_images_without_labels_are_told(tmp_path: Path) -> None:
    a_pair(tmp_path / "imagesTr/a.nii.gz", tmp_path / "labelsTr/a.nii.gz")
    (tmp_path / "labels.json").write_text('{"1": "liver"}')
    assert find_cases(tmp_path).data.names == ((1, "liver"),)
    (tmp_path / "labelsTr/a.nii.gz").unlink()
    with pytest.raises(InvalidInput, match="no labels"):
        find_cases(tmp_path)


def test_images_of_one_patient_have_one_role(tmp_path: Path) -> None:
    for n in range(12):
        for moment in ("frame01", "frame12"):
            stem = f"patient{n:03d}_{moment}"
            (tmp_path / f"{stem}_img.nii.gz").write_bytes(b"")
            (tmp_path / f"{stem}_lab.nii.gz").write_bytes(b"")
    found = find_cases(tmp_path)
    for n in range(12):
        roles = {found.roles[f"patient{n:03d}_{m}"] for m in ("frame01", "frame12")}
        assert len(roles) == 1
    assert patient_in_name("BRATS_001") == "BRATS_001"
    assert {len(found.of("train")) % 2, len(found.of("held-out")) % 2} == {0}
    table = {case.name: "the same" for case in found.data.cases}
    (tmp_path / "patients.json").write_text(json.dumps(table))
    assert len(set(find_cases(tmp_path).patients.values())) == 1


def test_a_folder_is_imported_once(tmp_path: Path) -> None:
    a_pair(tmp_path / "in" / "x_img.nii.gz", tmp_path / "in" / "x_lab.nii.gz")
    (tmp_path / "in" / "labels.json").write_text('{"1": "liver"}')
    into = CaseFolder.create(tmp_path / "out")
    assert import_cases(find_cases(tmp_path / "in"), into) == (1, 0)
    assert import_cases(find_cases(tmp_path / "in"), into) == (0, 1)
    assert find_cases(tmp_path / "out").data.names == ((1, "liver"),)
    with pytest.raises(InvalidInput, match="no case yet"):
        CaseFolder.create(tmp_path / "empty")
        find_cases(tmp_path / "empty")


def test_a_harmless_pickle_becomes_json(tmp_path: Path) -> None:
    split = [{"train": ["a", "b"], "val": ("c",)}, {"train": ["c"], "val": ["a"]}]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "split.pkl").write_bytes(pickle.dumps(split, protocol=protocol))
        convert_split(tmp_path / "split.pkl", tmp_path / "split.json")
        assert read_split(tmp_path / "split.json", "val") == ("c",)
        assert read_split(tmp_path / "split.json", "train", fold=1) == ("c",)


class Evil:
    """Would make a file if it were unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, (self.path, "w"))  # type: ignore[return-value]


@pytest.mark.parametrize("value", ["evil", "ordered", "array"])
def test_a_pickle_that_asks_for_code_is_refused_and_not_run(tmp_path: Path, value: str) -> None:
    mark = tmp_path / "owned"
    held = {"evil": Evil(str(mark)), "ordered": OrderedDict(a=1), "array": np.array(["a"])}[value]
    (tmp_path / "split.pkl").write_bytes(pickle.dumps({"train": held}))
    with pytest.raises(UnreadableFile, match="asks for code"):
        convert_split(tmp_path / "split.pkl", tmp_path / "split.json")
    assert not mark.exists() and not (tmp_path / "split.json").exists()


@pytest.mark.parametrize("data", [b"", b"\x80", b"no pickle at all", b"]", b"h\x00.", b"a."])
def test_damaged_pickles_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "split.pkl").write_bytes(data)
    with pytest.raises(UnreadableFile):
        convert_split(tmp_path / "split.pkl", tmp_path / "split.json")


def test_a_pickle_is_never_read_as_a_split(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="convert-split"):
        read_split(tmp_path / "split.pkl", "train")
    (tmp_path / "split.json").write_text('{"train": []}')
    with pytest.raises(InvalidInput, match="'train'"):
        read_split(tmp_path / "split.json", "train")
