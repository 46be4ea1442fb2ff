"""The folder of corrected cases that a user has chosen to keep.

Owns what lies in it::

    manifest.json                 salt, share held out, labels, and of each case: patient's hash,
                                  role, origin, digests of its files
    <16 hexadecimal digits>/      image.nii.gz  labels.nii.gz  case.json
    <16 hexadecimal digits>-2/    the same, of an image that was saved a second time

A case appears complete or not at all: its folder is filled under another name and renamed, and the
manifest names it afterwards; what it does not name is deleted when something is saved. Two programs
may save at once. Nothing says where a case came from: no header's text, no file's name, of the
patient a salted hash. Voxels are (k, j, i).
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from protosam.cases.corrected import (
    MOST_SEGMENTS,
    CorrectedCase,
    segment_from_json,
    segment_to_json,
)
from protosam.cases.manifest import (
    MANIFEST,
    PLACE,
    VERSION,
    Manifest,
    SavedCase,
    place_of,
    read_manifest,
    write_manifest,
)
from protosam.cases.nifti import nifti_bytes
from protosam.cases.roles import HELD_OUT_SHARE, Role, patient_hash, role_beside
from protosam.errors import InvalidInput, StorageFailure, UnreadableFile
from protosam.geometry import Volume
from protosam.labelled import LabelledCase, LabelledData
from protosam.storage import atomic_path, storage_failure
from protosam.volume_io import read_labelmap, read_volume

IMAGE, LABELS, FACTS = "image.nii.gz", "labels.nii.gz", "case.json"

PARTIAL = ".new-"
"""Beginning of the name of a case's folder while it is filled."""

WAIT_S = 30.0
"""How long to wait for another program that is saving."""


class CaseFolder:
    """A folder of corrected cases.

    Parameters
    ----------
    folder : Path
        One that `create` has made.

    Raises
    ------
    UnreadableFile
        When it is no such folder, or one of another version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._manifest = read_manifest(folder / MANIFEST)

    @classmethod
    def create(cls, folder: Path, *, held_out_share: float = HELD_OUT_SHARE) -> CaseFolder:
        """Begin a folder; one that is there already is opened.

        Raises
        ------
        InvalidInput
            When the folder holds something else, or the share is not from 0 to below 1.
        StorageFailure
            When it cannot be written.
        """
        if not 0 <= held_out_share < 1:
            raise InvalidInput(
                f"The share held out is {held_out_share}.", "Give 0 or more, below 1."
            )
        if (folder / MANIFEST).exists():
            return cls(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InvalidInput(
                f"{folder} holds something else.", "Choose an empty folder for the cases."
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_failure(folder, error) from error
        write_manifest(folder / MANIFEST, Manifest(secrets.token_hex(16), held_out_share, {}, {}))
        return cls(folder)

    def save(self, case: CorrectedCase, *, patient: str) -> SavedCase:
        """Add a case; of an image that is there already, replace segments of the same names.

        Parameters
        ----------
        case : CorrectedCase
        patient : str
            Whatever tells this patient from the others; only its salted hash is kept.

        Raises
        ------
        InvalidInput
            When the image is there as another patient's, or segments overlap.
        UnreadableFile
            When the image is there and what was saved of it is damaged.
        StorageFailure
            When there is no space, no permission, or another program holds the folder.
        """
        with self._held():
            self._sweep()
            hashed = patient_hash(patient, self._manifest.salt)
            before = self._before(case, hashed)
            if before is not None:
                case = case.over(self.read(before.id))
            role = self._role(hashed)
            labels = self._numbers(case)
            id = secrets.token_hex(8) if before is None else before.id
            revision = 1 if before is None else before.revision + 1
            place = self.folder / place_of(id, revision)
            files = _written(place, case, [labels[s.name] for s in case.segments])
            saved = SavedCase(id, hashed, role, case.origin, files, revision)
            self._replace(
                {**self._manifest.labels, **{n: name for name, n in labels.items()}},
                {**self._manifest.cases, id: saved},
            )
            self._sweep()
        return saved

    def remove(self, id: str) -> None:
        """Take a case out of the folder for good.

        Raises
        ------
        InvalidInput
            When there is none of this id.
        StorageFailure
            When it cannot be removed.
        """
        with self._held():
            place = self.folder / self.case(id).place
            rest = {known: case for known, case in self._manifest.cases.items() if known != id}
            self._replace(self._manifest.labels, rest)
            try:
                shutil.rmtree(place)
            except OSError as error:
                raise storage_failure(place, error) from error

    def case(self, id: str) -> SavedCase:
        """One case.

        Raises
        ------
        InvalidInput
            When there is none of this id.
        """
        if id not in self._manifest.cases:
            raise InvalidInput(
                f"There is no saved case {id!r}.", f"The folder has {len(self._manifest.cases)}."
            )
        return self._manifest.cases[id]

    def cases(self, role: Role | None = None) -> tuple[SavedCase, ...]:
        """All cases, or those of one role, in the order of saving."""
        known = self._manifest.cases.values()
        return tuple(case for case in known if role is None or case.role == role)

    def read(self, id: str) -> CorrectedCase:
        """Read a case, its files compared with their digests.

        Raises
        ------
        UnreadableFile
            When a file is missing, changed or not understood.
        """
        saved = self.case(id)
        place = self.folder / saved.place
        for name, digest in saved.files.items():
            if not (place / name).is_file() or _sha256(place / name) != digest:
                raise UnreadableFile(
                    f"The file {name} of the saved case {id} is missing or was changed.",
                    "Restore it from a copy, or remove the case.",
                )
        image, labels = read_volume(place / IMAGE), read_labelmap(place / LABELS)
        try:
            facts = json.loads((place / FACTS).read_text(encoding="utf-8"))
            segments = tuple(segment_from_json(e, labels.voxels) for e in facts["segments"])
            return CorrectedCase(image, segments, str(facts["model_digest"]), _day_of(facts))
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableFile(
                f"{FACTS} of the saved case {id} is not understood: {error}.", "Remove the case."
            ) from error

    def told(self, id: str) -> tuple[tuple[str, ...], date | None]:
        """Names of a case's segments and its day, by which a user knows it; no voxels are read.

        Raises
        ------
        UnreadableFile
            When the file is missing or not understood.
        """
        path = self.folder / self.case(id).place / FACTS
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            names = tuple(str(entry["name"]) for entry in facts["segments"])
            return names, _day_of(facts)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UnreadableFile(
                f"{FACTS} of the saved case {id} is not understood: {error}.", "Remove the case."
            ) from error

    def data(self, role: Role | None = None) -> LabelledData:
        """Images and label maps, as evaluation and training read them."""
        cases = tuple(
            LabelledCase(case.id, place / IMAGE, place / LABELS)
            for case in self.cases(role)
            for place in [self.folder / case.place]
        )
        return LabelledData(self.folder, cases, tuple(sorted(self._manifest.labels.items())))

    def _before(self, case: CorrectedCase, hashed: str) -> SavedCase | None:
        """Case that was saved of the same image, if any."""
        known = self._manifest.cases.values()
        before = next((one for one in known if one.origin == case.origin), None)
        if before is not None and before.patient != hashed:
            raise InvalidInput(
                f"This image is there already, as another patient's: case {before.id}.",
                "Say the same of the patient as then, or remove that case first.",
            )
        return before

    def _role(self, hashed: str) -> Role:
        """Role of a patient: what it was, or what it is from now on."""
        known: dict[str, Role] = {case.patient: case.role for case in self._manifest.cases.values()}
        if hashed in known:
            return known[hashed]
        return role_beside(hashed, known.values(), self._manifest.held_out_share)

    def _sweep(self) -> None:
        """Delete what a killed program has left: folders that the manifest does not name."""
        known = {case.place for case in self._manifest.cases.values()}
        for path in self.folder.iterdir():
            left = path.name.startswith(PARTIAL) or PLACE.fullmatch(path.name)
            if left and path.name not in known:
                shutil.rmtree(path, ignore_errors=True)

    def _numbers(self, case: CorrectedCase) -> dict[str, int]:
        """Label of each segment: one name has one number in all cases of the folder."""
        known = {name: n for n, name in self._manifest.labels.items()}
        numbers: dict[str, int] = {}
        for segment in case.segments:
            free = max((0, *known.values(), *numbers.values())) + 1
            numbers[segment.name] = known.get(segment.name, free)
        if max(numbers.values()) > MOST_SEGMENTS:
            raise InvalidInput(
                f"The folder has {MOST_SEGMENTS} names of segments already.",
                "Begin another folder.",
            )
        return numbers

    def _replace(self, labels: dict[int, str], cases: dict[str, SavedCase]) -> None:
        old = self._manifest
        manifest = Manifest(old.salt, old.held_out_share, labels, cases)
        write_manifest(self.folder / MANIFEST, manifest)
        self._manifest = manifest

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the folder against other programs, and read the manifest as it is by then."""
        try:
            with FileLock(self.folder / ".lock", timeout=WAIT_S):
                self._manifest = read_manifest(self.folder / MANIFEST)
                yield
        except Timeout as error:
            raise StorageFailure(
                f"Another program has been saving into {self.folder} for {WAIT_S:g} s.",
                "Try again when it is done.",
            ) from error
        except PermissionError as error:
            raise storage_failure(self.folder, error) from error


def _day_of(facts: dict[str, Any]) -> date | None:
    return None if facts["day"] is None else date.fromisoformat(facts["day"])


def _written(place: Path, case: CorrectedCase, labels: list[int]) -> dict[str, str]:
    """Write a case's folder under another name and rename it; returns the files' digests."""
    facts = {
        "version": VERSION,
        "day": None if case.day is None else case.day.isoformat(),
        "model_digest": case.model_digest,
        "origin": case.origin,
        "segments": [segment_to_json(s, n) for s, n in zip(case.segments, labels, strict=True)],
    }
    content = {
        IMAGE: nifti_bytes(case.image),
        LABELS: nifti_bytes(Volume(case.label_map(labels), case.image.affine)),
        FACTS: json.dumps(facts, indent=1).encode(),
    }
    temporary: Path | None = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=place.parent))
        for name, data in content.items():
            with atomic_path(temporary / name) as path:
                path.write_bytes(data)
        temporary.chmod(0o755)
        temporary.rename(place)
    except OSError as error:
        raise storage_failure(place, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
