"""Folders of images with labels, in whatever layout they come.

Owns how a layout is recognised: a folder of corrected cases (``manifest.json``); nnU-Net's
(``imagesTr/<case>_0000.nii.gz``, ``labelsTr/<case>.nii.gz``, ``dataset.json``); the plain one
(``imagesTr`` and ``labelsTr`` with the same file names, ``labels.json``); else this project's own
(`labelled`). Nothing is copied: cases are read where they lie. Voxels are (k, j, i).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protosam.cases.corrected import CorrectedCase, CorrectedSegment
from protosam.cases.manifest import MANIFEST
from protosam.cases.roles import Role, patient_hash, patient_in_name, roles_of
from protosam.cases.saved import CaseFolder
from protosam.errors import InvalidInput, UnreadableFile
from protosam.labelled import LabelledCase, LabelledData, read_dataset
from protosam.volume_io import READABLE_ENDINGS

IMAGES, TRUTHS, DATASET, NAMES = "imagesTr", "labelsTr", "dataset.json", "labels.json"
PATIENTS = "patients.json"
"""Optional, ``{case: patient}``: where names of cases do not tell the patient."""


@dataclass(frozen=True)
class CasesFound:
    """What a folder holds, and who is who in it."""

    data: LabelledData
    """All cases."""
    patients: dict[str, str]
    """Hash of the patient of each case."""
    roles: dict[str, Role]
    """Role of each case."""

    def of(self, role: Role) -> tuple[LabelledCase, ...]:
        """Cases of one role."""
        return tuple(case for case in self.data.cases if self.roles[case.name] == role)


def find_cases(folder: Path) -> CasesFound:
    """Find the cases of a folder in any layout.

    Raises
    ------
    InvalidInput
        No such folder, no cases, images without labels, or several channels.
    UnreadableFile
        A list that is damaged or of another version.
    """
    if (folder / MANIFEST).is_file():
        saved = CaseFolder(folder)
        known = saved.cases()
        if not known:
            raise InvalidInput(f"{folder} holds no case yet.", "Save corrected cases first.")
        return CasesFound(
            saved.data(), {c.id: c.patient for c in known}, {c.id: c.role for c in known}
        )
    data = _pairs(folder) if (folder / IMAGES).is_dir() else read_dataset(folder)
    given = _json_object(folder / PATIENTS) if (folder / PATIENTS).is_file() else {}
    patients = {
        case.name: patient_hash(str(given.get(case.name, patient_in_name(case.name))))
        for case in data.cases
    }
    roles = roles_of(patients.values())
    return CasesFound(data, patients, {name: roles[h] for name, h in patients.items()})


def import_cases(found: CasesFound, into: CaseFolder) -> tuple[int, int]:
    """Save every case of a folder into a folder of corrected cases.

    Returns
    -------
    (int, int)
        How many were saved, and how many had been before.

    Raises
    ------
    ProtoSAMError
        What reading or saving raises; what was saved until then stays.
    """
    known = {case.origin for case in into.cases()}
    saved = 0
    for case in found.data.cases:
        image, labels = case.read()
        if image.uid in known:
            continue
        segments = tuple(
            CorrectedSegment(
                found.data.label_name(int(n)), np.asarray(labels.voxels == n, dtype=np.bool_)
            )
            for n in np.unique(labels.voxels)
            if n > 0
        )
        into.save(CorrectedCase(image, segments), patient=found.patients[case.name])
        known.add(image.uid)
        saved += 1
    return saved, len(found.data.cases) - saved


def _pairs(folder: Path) -> LabelledData:
    """nnU-Net's layout where there is a ``dataset.json``, else the plain one."""
    is_nnunet = (folder / DATASET).is_file()
    images, truths = _files(folder / IMAGES), _files(folder / TRUTHS)
    if is_nnunet:
        images = _first_channels(images)
    bare = sorted(set(images) - set(truths))
    if bare:
        raise InvalidInput(
            f"{len(bare)} images of {folder} have no labels in {TRUTHS}: {', '.join(bare[:5])}.",
            "Add them, or move these images out of the folder.",
        )
    if not images:
        raise InvalidInput(
            f"{folder / IMAGES} holds no image with one of the endings "
            f"{', '.join(READABLE_ENDINGS)}.",
            f"Put images into {IMAGES} and label maps into {TRUTHS}.",
        )
    names = _nnunet_names(folder / DATASET) if is_nnunet else _plain_names(folder / NAMES)
    cases = tuple(LabelledCase(name, images[name], truths[name]) for name in sorted(images))
    return LabelledData(folder, cases, tuple(sorted(names.items())))


def _files(folder: Path) -> dict[str, Path]:
    """Readable files of a folder by their names without ending."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*")):
        lowered = path.name.lower()
        ending = max((e for e in READABLE_ENDINGS if lowered.endswith(e)), key=len, default=None)
        if ending is None or path.name.startswith("."):
            continue
        case = path.name[: -len(ending)]
        if case in found:
            raise InvalidInput(
                f"The case {case} has two files: {found[case].name} and {path.name}.",
                "Keep one of them in the folder.",
            )
        found[case] = path
    return found


def _first_channels(images: dict[str, Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, path in images.items():
        case, _, channel = name.rpartition("_")
        if not case or not channel.isdecimal() or len(channel) != 4:
            raise InvalidInput(
                f"{path.name} has no channel in its name.",
                "Name images <case>_0000.nii.gz, or remove dataset.json.",
            )
        if channel != "0000":
            raise InvalidInput(
                f"{case} has several channels ({path.name}); one image is looked at here.",
                "Give a copy of the folder with the channel to look at as _0000.",
            )
        found[case] = path
    return found


def _nnunet_names(path: Path) -> dict[int, str]:
    """Labels of ``dataset.json``: name to number (version 2) or number to name (version 1)."""
    labels = _json_object(path).get("labels")
    if not isinstance(labels, dict):
        raise UnreadableFile(f"{path} has no labels.", "Write them as nnU-Net wants them.")
    named: dict[int, str] = {}
    for key, value in labels.items():
        if isinstance(value, list):
            raise InvalidInput(
                f"The label {key!r} of {path} is a region of several labels.",
                "Give a dataset whose labels are single numbers.",
            )
        number, name = (key, value) if str(key).isdecimal() else (value, key)
        if not str(number).isdecimal():
            raise UnreadableFile(f"The label {key!r} of {path} has no number.", "Mend the file.")
        if int(number) > 0:
            named[int(number)] = str(name)
    return named


def _plain_names(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    return {int(n): str(name) for n, name in _json_object(path).items() if n.isdecimal()}


def _json_object(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadableFile(f"{path} cannot be read: {error.strerror}.", "Check it.") from error
    except ValueError as error:
        raise UnreadableFile(f"{path} is not JSON: {error}.", "Mend it.") from error
    if not isinstance(entries, dict):
        raise UnreadableFile(f"{path} is not a JSON object.", "Mend it.")
    return entries
