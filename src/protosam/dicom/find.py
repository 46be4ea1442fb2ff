"""Files become series, each taken or refused with its reason.

Rules
-----
* Headers only; pixels are opened by `read.py`. One broken file is one note and never the end.
* A row is one volume: a series that holds several echoes or times gives several rows.
* The same file twice counts once; two different files with one SOP instance UID refuse the series.
* Rows and notes name UIDs, series numbers, geometry and file names; nothing else of a header, so
  no descriptions: people write names into them.
"""

from __future__ import annotations

import filecmp
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from protosam.dicom.faults import DAMAGED
from protosam.dicom.frames import Frame, frames_of, read_header
from protosam.dicom.pixels import can_decode
from protosam.dicom.quiet import quiet_headers
from protosam.dicom.sources import FileNote, Files
from protosam.dicom.split import Part, parts_of
from protosam.dicom.stacks import CrookedStack, Stack, check_even, stack_of
from protosam.errors import InvalidInput, ProtoSAMError

Kind = Literal["image", "segmentation", "structures", "other"]

_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@dataclass(frozen=True)
class SeriesIdentity:
    """Which series it is, without anything about the patient."""

    study_uid: str
    """Study instance UID."""
    series_uid: str
    """Series instance UID."""
    number: str
    """Series number; '' where the header has none."""
    modality: str
    """CT, MR ..."""
    frame_of_reference_uid: str
    """Frame of reference; '' where the header has none."""


@dataclass(frozen=True, eq=False)
class FoundSeries:
    """One row: a volume that can be read, or why not."""

    identity: SeriesIdentity
    kind: Kind
    """What its files are."""
    part: str
    """Which volume of the series, as 'echo 2'; '' where there is one."""
    paths: tuple[Path, ...]
    """Its files."""
    stack: Stack | None
    """Slices in order; None where there is no order."""
    reason: str = ""
    """Why it is refused; '' when it is taken."""
    next_step: str = ""
    """What can be done about it."""
    notes: tuple[str, ...] = ()
    """What else was seen."""
    can_straighten: bool = False
    """Refused for a tilt or uneven steps alone, which `read_series` can resample."""

    @property
    def is_taken(self) -> bool:
        """Whether it can be read as it is."""
        return self.kind == "image" and not self.reason


@dataclass(frozen=True)
class Catalogue:
    """All that was found under one source."""

    series: tuple[FoundSeries, ...]
    """Sorted by study, series number, UID and part."""
    notes: tuple[FileNote, ...] = ()
    """Files that are not DICOM, broken, or not reachable."""

    @property
    def taken(self) -> tuple[FoundSeries, ...]:
        """Image series that can be read."""
        return tuple(one for one in self.series if one.is_taken)

    @property
    def references(self) -> tuple[FoundSeries, ...]:
        """Segmentations and structure sets of the study."""
        return tuple(one for one in self.series if one.kind in ("segmentation", "structures"))


@dataclass(frozen=True, eq=False)
class _Member:
    path: Path
    header: Dataset
    kind: Kind
    identity: SeriesIdentity
    instance_uid: str


def find_series(files: Files) -> Catalogue:
    """Sort files into series.

    Parameters
    ----------
    files : Files
        From `sources.files_of`, or paths of one's own.

    Returns
    -------
    Catalogue
        Nothing is left out: each file belongs to a row or a note.
    """
    with quiet_headers():
        return _found(files)


def _found(files: Files) -> Catalogue:
    groups: dict[tuple[str, str, Kind], list[_Member]] = defaultdict(list)
    notes = list(files.notes)
    for path in files.paths:
        found = _member(path)
        if isinstance(found, str):
            notes.append(FileNote(_shown(path, files.root), found))
            continue
        identity = found.identity
        groups[identity.study_uid, identity.series_uid, found.kind].append(found)
    rows = [row for members in groups.values() for row in _rows(members)]
    # Parts of one series keep the order in which `split.py` put them: the sort is stable.
    return Catalogue(tuple(sorted(rows, key=_order)), tuple(notes))


def _member(path: Path) -> _Member | str:
    """Find out what a file is, or why it is nothing, as a sentence."""
    try:
        header = read_header(path)
        identity = _identity(header)
        kind = _kind(header)
        instance_uid = str(header.get("SOPInstanceUID", ""))
    except InvalidDicomError:
        return "It is not a DICOM file."
    except DAMAGED:
        return "It is a damaged DICOM file."
    if not identity.series_uid or not instance_uid:
        return "It has no series or instance UID."
    return _Member(path, header, kind, identity, instance_uid)


def _identity(header: Dataset) -> SeriesIdentity:
    names = (
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SeriesNumber",
        "Modality",
        "FrameOfReferenceUID",
    )
    values = [str(header.get(name, None) or "") for name in names]
    return SeriesIdentity(*values)


def _kind(header: Dataset) -> Kind:
    sop_class = str(header.get("SOPClassUID", ""))
    if sop_class in _SEGMENTATIONS:
        return "segmentation"
    if sop_class == _STRUCTURES:
        return "structures"
    return "image" if header.get("Rows") else "other"


def _rows(members: Sequence[_Member]) -> list[FoundSeries]:
    try:
        return _rows_of(members)
    except ProtoSAMError as error:
        return [_refused(members, error.message, error.next_step)]
    except DAMAGED:
        return [_refused(members, "A header of the series is damaged.", "Export it again.")]


def _rows_of(members: Sequence[_Member]) -> list[FoundSeries]:
    first = members[0]
    if first.kind == "other":
        name = UID(str(first.header.get("SOPClassUID", ""))).name or "unknown objects"
        return [_refused(members, f"It holds no images: {name}.")]
    if first.kind != "image":
        return [
            FoundSeries(one.identity, one.kind, "", (one.path,), None)
            for one in _without_copies(members)[0]
        ]
    single, notes = _without_copies(members)
    frames, more = _frames(single)
    parts = parts_of(frames)
    return [_row(first.identity, part, (*notes, *more)) for part in parts]


def _row(identity: SeriesIdentity, part: Part, notes: tuple[str, ...]) -> FoundSeries:
    paths = tuple(dict.fromkeys(frame.path for frame in part.frames))
    stack: Stack | None = None
    try:
        stack = stack_of(part.frames)
        check_even(stack)
    except ProtoSAMError as error:
        return FoundSeries(
            identity,
            "image",
            part.name,
            paths,
            stack,
            error.message,
            error.next_step,
            notes,
            isinstance(error, CrookedStack),
        )
    return FoundSeries(identity, "image", part.name, paths, stack, notes=notes)


def _refused(members: Sequence[_Member], reason: str, next_step: str = "") -> FoundSeries:
    first = members[0]
    paths = tuple(one.path for one in members)
    step = next_step or "Choose a series of CT, MR or PET images."
    return FoundSeries(first.identity, first.kind, "", paths, None, reason, step)


def _without_copies(members: Sequence[_Member]) -> tuple[list[_Member], tuple[str, ...]]:
    seen: dict[str, _Member] = {}
    copies = 0
    for one in members:
        uid = one.instance_uid
        if uid not in seen:
            seen[uid] = one
        elif filecmp.cmp(seen[uid].path, one.path, shallow=False):
            copies += 1
        else:
            raise InvalidInput(
                f"Two different files claim to be the instance {uid}.",
                "Export the series again into an empty folder.",
            )
    notes = (f"{copies} files were there twice and count once.",) if copies else ()
    return list(seen.values()), notes


def _frames(members: Sequence[_Member]) -> tuple[list[Frame], tuple[str, ...]]:
    """Slices of a series without its scouts."""
    for one in members:
        _refuse_capture(one.header)
        _refuse_syntax(one.header)
    references = {one.identity.frame_of_reference_uid for one in members}
    if len(references) > 1:
        raise InvalidInput(
            f"The images lie in {len(references)} frames of reference, so their places cannot be "
            "compared.",
            "Export them as separate series.",
        )
    frames = [frame for one in members for frame in frames_of(one.path, one.header)]
    kept = [frame for frame in frames if not frame.is_localizer]
    if not kept:
        raise InvalidInput(
            f"It is a localizer ({len(frames)} images).", "Choose the series planned on it."
        )
    scouts = len(frames) - len(kept)
    return kept, (f"{scouts} localizer images were left out.",) if scouts else ()


def _refuse_capture(header: Dataset) -> None:
    sop_class = str(header.get("SOPClassUID", ""))
    is_capture = sop_class == _SECONDARY_CAPTURE or sop_class.startswith(f"{_SECONDARY_CAPTURE}.")
    if is_capture or header.get("ConversionType"):
        raise InvalidInput(
            "It is a secondary capture: a picture of a screen or a page, not of a patient's grid.",
            "Choose the series that it was taken from.",
        )


def _refuse_syntax(header: Dataset) -> None:
    syntax = UID(str(header.file_meta.get("TransferSyntaxUID", "")))
    if not can_decode(syntax):
        raise InvalidInput(
            f"Its pixels are compressed as {syntax.name or 'an unnamed syntax'}, which cannot be "
            "decoded here.",
            "Export it uncompressed, or as JPEG 2000, JPEG-LS, lossless JPEG or RLE.",
        )


def _shown(path: Path, root: Path | None) -> str:
    if root is not None and path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    return path.name


def _order(row: FoundSeries) -> tuple[str, int, str, str]:
    number = row.identity.number
    return (
        row.identity.study_uid,
        int(number) if number.lstrip("-").isdigit() else 1 << 31,
        row.identity.series_uid,
        row.kind,
    )
