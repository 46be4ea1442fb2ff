"""Names and Slicer's terminology entries become codes, or are refused with what comes near.

Rules
-----
* The codes are SNOMED CT in `Resources/terminology/protosam-structures.json`, in the format of
  Slicer's terminologies, so Slicer can load the same file; `synonyms.json` has further names.
* A segment is coded by its terminology entry; one that is still the generic tissue is coded by its
  name. A name and an entry that contradict each other are refused, and so is a name that is not in
  the table: nothing is ever coded as what comes near.
* The side is a modifier of the type (left, right), and only of what there are two of.
* It knows texts and codes: no volume, no file format.

Slicer's entry is seven fields parted by '~': name of the terminology, category, type, modifier of
the type, name of the regions, region, modifier of the region; a code is scheme^value^meaning.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydicom.sr.coding import Code as DicomCode

from protosam.cases.corrected import Code as KeptCode
from protosam.errors import InvalidInput
from protosam.seg_nrrd import DEFAULT_COLOUR, DEFAULT_TERMINOLOGY

CONTEXT = "ProtoSAM structures"
"""Name of our table in Slicer."""

REGION_CONTEXT = "Anatomic codes - DICOM master list"
"""Slicer's table of regions."""

NEAR_MATCHES = 6
"""How many are named when a structure has no code."""

_SIDES = {
    "left": "7771000",
    "l": "7771000",
    "lt": "7771000",
    "right": "24028007",
    "r": "24028007",
    "rt": "24028007",
    "bilateral": "51440002",
    "both": "51440002",
}
_GENERIC = "85756007"
# Verhoeff's check: products of the dihedral group of order ten, and his permutation of positions.
_PRODUCTS = (
    "0123456789",
    "1234067895",
    "2340178956",
    "3401289567",
    "4012395678",
    "5987604321",
    "6598710432",
    "7659821043",
    "8765932104",
    "9876543210",
)
_POSITIONS = (
    "0123456789",
    "1576283094",
    "5803796142",
    "8916043527",
    "9453126870",
    "4286573901",
    "2793806415",
    "7046913258",
)


@dataclass(frozen=True)
class Code:
    """One coded concept."""

    scheme: str
    """SCT, DCM ..."""
    value: str
    meaning: str

    def is_same(self, other: Code) -> bool:
        """Compare concepts, whatever their meanings say; retired SRT codes equal their SCT ones."""
        ours = DicomCode(self.value, self.scheme, self.meaning)
        return bool(ours == DicomCode(other.value, other.scheme, other.meaning))

    def __str__(self) -> str:
        return f"{self.scheme}^{self.value}^{self.meaning}"


@dataclass(frozen=True)
class Coding:
    """What a segment is."""

    category: Code
    """Anatomical structure, tissue, abnormal structure ..."""
    type: Code
    """Which one."""
    side: Code | None = None
    """Modifier of the type: left, right, both."""
    region: Code | None = None
    """Where it lies, of a lesion for instance."""
    region_side: Code | None = None
    """Modifier of the region."""
    colour: tuple[float, float, float] = DEFAULT_COLOUR
    """Recommended red, green, blue in 0..1."""

    @property
    def entry(self) -> str:
        """Slicer's terminology entry."""
        codes = [str(code) if code else "^^" for code in (self.category, self.type, self.side)]
        where = [str(code) if code else "^^" for code in (self.region, self.region_side)]
        return "~".join([CONTEXT, *codes, REGION_CONTEXT, *where])


@dataclass(frozen=True)
class _Structure:
    coding: Coding
    sides: tuple[Coding, ...]
    names: tuple[str, ...]


def coding_of(name: str, entry: str = DEFAULT_TERMINOLOGY) -> Coding:
    """Codes of a segment.

    Parameters
    ----------
    name : str
        What the user calls it, as 'left kidney'.
    entry : str
        Slicer's terminology entry of the segment.

    Raises
    ------
    InvalidInput
        No code for the name (the message lists near matches), an entry that is damaged, or a name
        and an entry that contradict each other.
    """
    by_name = _by_name(name)
    by_entry = parse_entry(entry)
    if by_entry is None:
        return by_name if by_name is not None else _refuse_unknown(name)
    if by_name is None:
        return by_entry
    if not by_name.type.is_same(by_entry.type) and not _is_finer(by_entry.type, by_name.type):
        raise InvalidInput(
            f"The segment {name!r} has the code of {by_entry.type.meaning!r}; new segments take "
            "over the terminology of the one before.",
            "Set its terminology in the segment list, or rename it.",
        )
    if by_name.side and by_entry.side and by_name.side.value != by_entry.side.value:
        raise InvalidInput(
            f"The segment {name!r} has the code of the other side ({by_entry.side.meaning}).",
            "Set its terminology in the segment list, or rename it.",
        )
    return replace(by_entry, side=by_entry.side or by_name.side, colour=by_name.colour)


def kept_codes(coding: Coding | None) -> tuple[KeptCode | None, KeptCode | None]:
    """Return what a corrected case keeps of a coding: the type, and which side of it."""
    if coding is None:
        return None, None
    kind, side = (
        None if one is None else KeptCode(one.value, one.scheme, one.meaning)
        for one in (coding.type, coding.side)
    )
    return kind, side


def parse_entry(entry: str) -> Coding | None:
    """Codes of a terminology entry; None for Slicer's generic tissue, which says nothing.

    Raises
    ------
    InvalidInput
        Not seven fields, a code without scheme or value, or a SNOMED CT code with a wrong check
        digit or the meaning of another structure.
    """
    fields = entry.split("~")
    if len(fields) != 7:
        raise InvalidInput(
            f"The terminology entry has {len(fields)} fields, wanted seven parted by '~'.",
            "Set the terminology of the segment again.",
        )
    category, kind = _code(fields[1]), _code(fields[2])
    if category is None or kind is None:
        raise InvalidInput(
            f"The terminology entry {entry!r} has no category or no type.",
            "Set the terminology of the segment again.",
        )
    coding = Coding(category, kind, _code(fields[3]), _code(fields[5]), _code(fields[6]))
    if kind.value == _GENERIC and coding.side is None and coding.region is None:
        return None
    known = _coded(kind)
    return replace(coding, colour=known.coding.colour) if known else coding


def near_matches(name: str) -> list[str]:
    """Names in the table that come near, the nearest first."""
    plain, _ = _without_side(_words(name))
    wanted = " ".join(plain)
    names = {each: one.coding.type.meaning for one in _structures() for each in one.names}
    close = difflib.get_close_matches(wanted, names, n=NEAR_MATCHES, cutoff=0.5)
    holding = [each for each in names if set(plain) & set(each.split())]
    return list(dict.fromkeys(names[each] for each in [*close, *holding]))[:NEAR_MATCHES]


def structure_names() -> list[str]:
    """Meanings of all structures in the table."""
    return [one.coding.type.meaning for one in _structures()]


def _refuse_unknown(name: str) -> Coding:
    near = near_matches(name)
    shown = f"Near it are: {', '.join(near)}." if near else "Nothing in the table comes near it."
    raise InvalidInput(
        f"There is no code for the structure {name!r}. {shown}",
        "Name the segment as one of them, or set its terminology in Slicer's segment list.",
    )


def _by_name(name: str) -> Coding | None:
    """Coding of a name in the table; a number behind it counts the bodies of one structure."""
    words = _words(name)
    for candidate in (words, words[:-1] if words and words[-1].isdigit() else []):
        whole = _named(" ".join(candidate))
        if whole is not None:
            return whole.coding
        plain, side = _without_side(candidate)
        if side is None:
            continue
        found = _named(" ".join(plain))
        if found is None:
            continue
        for sided in found.sides:
            if sided.side is not None and sided.side.value == side:
                return sided
        raise InvalidInput(
            f"The structure {name!r} names a side, but there is one {found.names[0]} only.",
            f"Name it {found.names[0]!r}.",
        )
    return None


def _named(name: str) -> _Structure | None:
    return next((one for one in _structures() if name in one.names), None) if name else None


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W_]+", name.casefold())


def _without_side(words: list[str]) -> tuple[list[str], str | None]:
    sides = {_SIDES[word] for word in words if word in _SIDES}
    plain = [word for word in words if word not in _SIDES and word != "and"]
    if sides == {_SIDES["left"], _SIDES["right"]}:
        return plain, _SIDES["both"]
    return plain, sides.pop() if len(sides) == 1 else None


def _code(text: str) -> Code | None:
    parts = text.split("^")
    if len(parts) != 3:
        raise InvalidInput(
            f"The code {text!r} is not scheme^value^meaning.",
            "Set the terminology of the segment again.",
        )
    code = Code(*parts)
    if not code.value:
        return None
    if not code.scheme or not code.meaning:
        raise InvalidInput(
            f"The code {text!r} has no scheme or no meaning.",
            "Set the terminology of the segment again.",
        )
    _refuse_wrong(code)
    return code


def _refuse_wrong(code: Code) -> None:
    if code.scheme == "SCT" and not _has_right_check_digit(code.value):
        raise InvalidInput(
            f"{code.value!r} is no SNOMED CT code: its check digit is wrong.",
            "Set the terminology of the segment again.",
        )
    known, meant = _coded(code), _named(" ".join(_words(code.meaning)))
    if known is not None and meant is not None and known is not meant:
        raise InvalidInput(
            f"The code {code} says {code.meaning!r}, whose code is {meant.coding.type.value}.",
            "Set the terminology of the segment again.",
        )


def _is_finer(entry: Code, named: Code) -> bool:
    """Whether an entry may be another concept of the structure named, as 'entire liver' of liver.

    SNOMED CT has several for most organs; what our table codes as another structure is none.
    """
    return _coded(entry) is None and bool(set(_words(entry.meaning)) & set(_words(named.meaning)))


def _coded(code: Code) -> _Structure | None:
    return next((one for one in _structures() if one.coding.type.is_same(code)), None)


def _has_right_check_digit(value: str) -> bool:
    """Verhoeff's check of SNOMED CT identifiers (SNOMED CT Technical Guide, section on SCTIDs)."""
    if not (value.isascii() and value.isdigit() and 6 <= len(value) <= 18):
        return False
    state = 0
    for place, digit in enumerate(reversed(value)):
        state = int(_PRODUCTS[state][int(_POSITIONS[place % 8][int(digit)])])
    return state == 0


@lru_cache(maxsize=1)
def _structures() -> tuple[_Structure, ...]:
    folder = terminology_folder()
    table = json.loads((folder / "protosam-structures.json").read_text("utf-8"))
    synonyms = json.loads((folder / "synonyms.json").read_text("utf-8"))["synonyms"]
    return tuple(
        _structure(_plain(category), entry, synonyms.get(entry["CodeValue"], ()))
        for category in table["SegmentationCodes"]["Category"]
        for entry in category["Type"]
    )


def _structure(category: Code, entry: dict[str, Any], synonyms: Iterable[str]) -> _Structure:
    coding = Coding(category, _plain(entry), colour=_colour(entry))
    sides = tuple(
        replace(coding, side=_plain(one), colour=_colour(one)) for one in entry.get("Modifier", ())
    )
    names = (" ".join(_words(name)) for name in (entry["CodeMeaning"], *synonyms))
    return _Structure(coding, sides, tuple(names))


def _plain(entry: dict[str, Any]) -> Code:
    return Code(entry["CodingSchemeDesignator"], entry["CodeValue"], entry["CodeMeaning"])


def _colour(entry: dict[str, Any]) -> tuple[float, float, float]:
    red, green, blue = (int(part) / 255 for part in entry["recommendedDisplayRGBValue"])
    return red, green, blue


def terminology_folder() -> Path:
    """Folder of the tables: in the installed package, or in a checkout beside `src`.

    Raises
    ------
    InvalidInput
        Neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "terminology", package.parents[1] / "Resources" / "terminology"):
        if (folder / "protosam-structures.json").is_file():
            return folder
    raise InvalidInput(
        f"The tables of structures are missing: there is no {package / 'terminology'}.",
        "Install the package again.",
    )
