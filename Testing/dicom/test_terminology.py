"""Codes: right, or refused with what comes near; never something else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.sr.codedict import codes

from protosam.dicom.terminology import (
    CONTEXT,
    Code,
    coding_of,
    near_matches,
    parse_entry,
    structure_names,
    terminology_folder,
)
from protosam.errors import InvalidInput
from protosam.seg_nrrd import DEFAULT_TERMINOLOGY

TABLE = json.loads((terminology_folder() / "protosam-structures.json").read_text("utf-8"))
CATEGORIES = TABLE["SegmentationCodes"]["Category"]
TYPES = [kind for category in CATEGORIES for kind in category["Type"]]
LEFT, RIGHT = "7771000", "24028007"


def dicom_meanings() -> dict[str, set[str]]:
    """Meanings of SNOMED CT codes in DICOM's own context groups, from pydicom's dictionary."""
    found: dict[str, set[str]] = {}
    for name in codes.SCT.dir():
        try:
            code = getattr(codes.SCT, name)
        except RuntimeError:  # several codes share the name
            continue
        found.setdefault(code.value, set()).add(code.meaning.lower())
    return found


def test_every_code_of_the_table_is_one_of_dicoms_with_the_same_meaning() -> None:
    known = dicom_meanings()
    wrong = {
        kind["CodeValue"]: (kind["CodeMeaning"], known.get(kind["CodeValue"]))
        for kind in TYPES
        if kind["CodeMeaning"].lower() not in known.get(kind["CodeValue"], set())
    }
    assert wrong == {}


def test_no_code_and_no_name_stands_for_two_structures() -> None:
    values = [kind["CodeValue"] for kind in TYPES]
    assert len(set(values)) == len(values)
    folder = terminology_folder()
    synonyms = json.loads((folder / "synonyms.json").read_text("utf-8"))["synonyms"]
    names = [kind["CodeMeaning"].lower() for kind in TYPES]
    names += [name.lower() for group in synonyms.values() for name in group]
    assert len(set(names)) == len(names)
    assert set(synonyms) <= set(values)


def test_the_table_has_the_form_of_slicers_terminologies() -> None:
    assert TABLE["SegmentationCategoryTypeContextName"] == CONTEXT
    assert TABLE["@schema"].endswith("segment-context-schema.json#")
    sides = [side for kind in TYPES for side in kind.get("Modifier", ())]
    for one in [*CATEGORIES, *TYPES, *sides]:
        assert one["CodingSchemeDesignator"] == "SCT"
        assert one["CodeValue"]
        assert one["CodeMeaning"]


@pytest.mark.parametrize(
    ("name", "value", "side"),
    [
        ("Liver", "10200004", None),
        ("left kidney", "64033007", LEFT),
        ("Kidney_R", "64033007", RIGHT),
        ("kidney-left", "64033007", LEFT),
        ("RT LUNG", "39607008", RIGHT),
        ("kidneys", "64033007", None),
        ("both kidneys", "64033007", "51440002"),
        ("left and right kidney", "64033007", "51440002"),
        ("Left ventricle", "87878005", None),
        ("gall bladder", "28231008", None),
        ("tumour 2", "108369006", None),
        ("oesophagus", "32849002", None),
        ("IVC", "64131007", None),
    ],
)
def test_names_find_their_codes(name: str, value: str, side: str | None) -> None:
    coding = coding_of(name)
    assert coding.type.value == value
    assert (coding.side.value if coding.side else None) == side


@pytest.mark.parametrize(
    ("name", "near"), [("livr", "Liver"), ("left kidny", "Kidney"), ("spleen cyst", "Spleen")]
)
def test_a_structure_without_a_code_is_refused_with_near_matches(name: str, near: str) -> None:
    assert near in near_matches(name)
    with pytest.raises(InvalidInput, match=rf"no code for the structure '{name}'.*{near}"):
        coding_of(name)


@given(st.text(max_size=20))
def test_no_text_is_coded_by_what_merely_comes_near(name: str) -> None:
    try:
        coding = coding_of(name)
    except InvalidInput as error:
        assert error.next_step
    else:
        assert coding.type.meaning in structure_names()


def test_a_side_of_what_there_is_one_of_is_refused() -> None:
    with pytest.raises(InvalidInput, match="one liver only"):
        coding_of("left liver")


@pytest.mark.parametrize("name", ["liver", "left kidney", "Tumor", "fat", "both lungs"])
def test_an_entry_of_slicer_comes_back_as_it_was(name: str) -> None:
    coding = coding_of(name)
    assert parse_entry(coding.entry) == coding or parse_entry(coding.entry).side == coding.side
    again = coding_of("Segment_1", coding.entry)
    assert (again.category, again.type, again.side) == (coding.category, coding.type, coding.side)


def test_slicers_generic_tissue_leaves_the_name_to_speak() -> None:
    assert parse_entry(DEFAULT_TERMINOLOGY) is None
    assert coding_of("spleen", DEFAULT_TERMINOLOGY).type.meaning == "Spleen"


def test_a_code_taken_over_from_the_segment_before_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'spleen' has the code of 'Liver'"):
        coding_of("spleen", coding_of("liver").entry)


def test_the_other_side_is_refused() -> None:
    with pytest.raises(InvalidInput, match="other side"):
        coding_of("left kidney", coding_of("right kidney").entry)


def test_the_side_in_a_name_completes_the_entry() -> None:
    coding = coding_of("left kidney", coding_of("kidney").entry)
    assert coding.side is not None
    assert coding.side.value == LEFT


def test_a_finer_concept_of_the_same_structure_is_kept() -> None:
    entry = (
        "X~SCT^123037004^Anatomical Structure~SCT^181268008^Entire liver~^^~Y~^^~^^"  # not in ours
    )
    assert coding_of("liver", entry).type.value == "181268008"


def test_the_region_of_a_lesion_is_kept_with_its_side() -> None:
    entry = (
        "Segmentation category and type - DICOM master list"
        "~SCT^49755003^Morphologically Altered Structure~SCT^4147007^Mass~^^"
        "~Anatomic codes - DICOM master list~SCT^64033007^Kidney~SCT^24028007^Right"
    )
    coding = coding_of("my finding", entry)
    assert coding.region == Code("SCT", "64033007", "Kidney")
    assert coding.region_side == Code("SCT", "24028007", "Right")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("a~b~c", "3 fields"),
        ("X~^^~SCT^10200004^Liver~^^~Y~^^~^^", "no category"),
        ("X~SCT^123037004^A~SCT^10200005^Liver~^^~Y~^^~^^", "check digit"),
        ("X~SCT^123037004^A~SCT^10200004^Spleen~^^~Y~^^~^^", "whose code is 78961009"),
        ("X~SCT^123037004^A~SCT^10200004~^^~Y~^^~^^", "scheme\\^value\\^meaning"),
        ("X~SCT^123037004^A~^10200004^Liver~^^~Y~^^~^^", "no scheme"),
    ],
)
def test_damaged_entries_are_refused(entry: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        coding_of("liver", entry)


def test_retired_codes_equal_those_that_took_their_place() -> None:
    assert Code("SRT", "T-62000", "Liver").is_same(Code("SCT", "10200004", "Liver"))
    assert not Code("SRT", "T-62000", "Liver").is_same(Code("SCT", "78961009", "Spleen"))
