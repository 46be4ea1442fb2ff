"""Cases and adapters in the worker: kept, looked up, and made active, without any model.

Rules
-----
* Folders are `protosam.cases`' and `learn.adapters`'; here are only the wire's forms of them.
* Of a case only what `cases.corrected` has a place for is kept: a volume's uid may be a name, so
  that of the voxels takes its place.
* An adapter whose card is damaged is listed with what is wrong with it, and hides no other.
* It is imported when the first of these is asked for. Masks are (k, j, i).
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from protosam.cases.corrected import Code, CorrectedCase, CorrectedSegment
from protosam.cases.layouts import find_cases
from protosam.cases.saved import CaseFolder
from protosam.dicom.terminology import kept_codes, parse_entry
from protosam.errors import GeometryError, InvalidInput, UnreadableFile, WeightsRefused
from protosam.extents import BoolArray, Extent
from protosam.geometry import Volume
from protosam.learn.adapter_cards import AdapterCard, read_card
from protosam.learn.adapters import AdapterStore, AdapterVersion
from protosam.models.adapter_folder import read_active, version_folder, version_numbers
from protosam.prompts import PromptSet
from protosam.wire.messages import (
    AdapterInfo,
    AdapterList,
    Adapters,
    CaseList,
    CaseSaved,
    ChangeAdapter,
    LookIntoCases,
    SaveCase,
    TaughtSegment,
)
from protosam.worker.engine import Keeping, Kept


def answer(request: Keeping, volume: Volume | None) -> Kept:
    """Do what is asked about cases and adapters.

    Raises
    ------
    InvalidInput
        Nothing to save, an image that was saved as another patient's, segments that overlap, no
        such version.
    GeometryError
        A segment lies outside of the volume.
    UnreadableFile, WeightsRefused
        A list or a card that is damaged.
    StorageFailure
        Something cannot be written.
    """
    if isinstance(request, SaveCase):
        return save_case(request, volume)
    if isinstance(request, LookIntoCases):
        return look_into(request)
    if isinstance(request, ChangeAdapter):
        return change_adapter(request)
    return list_adapters(request)


def save_case(request: SaveCase, volume: Volume | None) -> CaseSaved:
    """Keep a volume with its finished segments; see `answer`."""
    if volume is None:
        raise InvalidInput("There is no image to save.", "Open a volume first.")
    clicks = {one.name: one.prompts for one in request.clicks}
    case = CorrectedCase(
        Volume(volume.voxels, volume.affine),
        tuple(_segment(one, clicks.get(one.name), volume) for one in request.segments),
        request.model_digest,
        date.fromisoformat(request.day) if request.day else None,
    )
    folder = CaseFolder.create(Path(request.folder))
    again = any(one.origin == case.origin for one in folder.cases())
    saved = folder.save(case, patient=request.patient)
    return CaseSaved(saved.id, saved.role, again)


def look_into(request: LookIntoCases) -> CaseList:
    """Say what a folder of cases holds; see `answer`."""
    found = find_cases(Path(request.folder))
    return CaseList(
        cases=len(found.data.cases),
        held_out=len(found.of("held-out")),
        patients=len(set(found.patients.values())),
        labels=tuple(name for _, name in found.data.names),
    )


def change_adapter(request: ChangeAdapter) -> AdapterList:
    """Make another version the active one, or delete one; see `answer`."""
    store = _store(request.adapters_dir)
    if request.action == "activate":
        store.activate(request.name, request.number)
    elif request.action == "discard":
        store.discard(request.name, request.number)
    else:
        store.rollback(request.name)
    return list_adapters(Adapters(request.adapters_dir))


def list_adapters(request: Adapters) -> AdapterList:
    """Say which adapters there are; see `answer`."""
    store = _store(request.adapters_dir)
    return AdapterList(
        tuple(info for name in store.names() for info in _versions(store.folder / name))
    )


def info_of(version: AdapterVersion) -> AdapterInfo:
    """Say what is known of a version."""
    card, gate = version.card, version.card.gate
    return AdapterInfo(
        name=version.name,
        number=version.number,
        active=version.active,
        path=str(version.path),
        tier=str(card.tier),
        method=str(card.method),
        base=str(card.base_name),
        labels=tuple(str(label) for label in card.labels),
        cases=len(card.cases),
        accepted=gate.get("accepted") is True,
        reason=str(gate.get("reason", "")),
        validation=str(gate.get("validation", "")),
        dice_before=_one_click(card, "current"),
        dice_now=_one_click(card, "new"),
    )


def _store(folder: str) -> AdapterStore:
    return AdapterStore(Path(folder) if folder else None)


def _segment(one: TaughtSegment, prompts: PromptSet | None, volume: Volume) -> CorrectedSegment:
    whole = Extent.of_shape(volume.shape_kji)
    if whole.union(one.extent) != whole:
        raise GeometryError(
            f"The segment {one.name!r} lies at {one.extent}, outside of the volume's "
            f"{volume.shape_kji} voxels.",
            "Save the segmentation of this very volume.",
        )
    mask: BoolArray = np.zeros(volume.shape_kji, dtype=np.bool_)
    mask[one.extent.slices] = one.mask()
    code, side = _codes(one.terminology)
    return CorrectedSegment(one.name, mask, prompts or PromptSet(), code, side)


def _codes(entry: str) -> tuple[Code | None, Code | None]:
    """Codes of a terminology entry; none where it says nothing that can be trusted."""
    try:
        coding = parse_entry(entry) if entry else None
    except InvalidInput:
        return None, None
    return kept_codes(coding)


def _versions(folder: Path) -> list[AdapterInfo]:
    """All versions of an adapter, the oldest first."""
    try:
        active, wrong = read_active(folder).version, ""
    except UnreadableFile as error:
        active, wrong = None, str(error)
    return [
        _version(folder, number, is_active=number == active, wrong=wrong)
        for number in version_numbers(folder)
    ]


def _version(folder: Path, number: int, *, is_active: bool, wrong: str) -> AdapterInfo:
    place = version_folder(folder, number)
    try:
        card = read_card(place)
        info = info_of(AdapterVersion(folder.name, number, place, card, is_active))
    except WeightsRefused as error:
        return _damaged(folder, number, is_active=is_active, why=str(error))
    except (TypeError, ValueError, AttributeError):  # entries of other types than a card's
        why = f"The card of {place} is not understood. Adapt again."
        return _damaged(folder, number, is_active=is_active, why=why)
    return info if not wrong else _damaged(folder, number, is_active=False, why=wrong)


def _damaged(folder: Path, number: int, *, is_active: bool, why: str) -> AdapterInfo:
    """Say of a version that it cannot be used, and why."""
    return AdapterInfo(
        name=folder.name,
        number=number,
        active=is_active,
        path=str(version_folder(folder, number)),
        tier="",
        method="",
        base="",
        labels=(),
        cases=0,
        accepted=False,
        reason=why,
        validation="",
        dice_before=None,
        dice_now=None,
    )


def _one_click(card: AdapterCard, who: str) -> float | None:
    """Mean Dice after one click; None where the gate played without clicks."""
    means: Any = card.gate.get("mean", {}).get(who)
    figure = means.get("dice_1") if isinstance(means, dict) else None
    return float(figure) if isinstance(figure, int | float) else None
