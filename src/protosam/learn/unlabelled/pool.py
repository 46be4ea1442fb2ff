"""Images without labels: which files they are, and what is kept of them.

Owns the rule that no label is ever read here: `PoolImage` has no place for one, and files that are
named as label maps are passed over unopened. Images of those who judge, or that teach with their
labels already, are left out. Voxels are (k, j, i).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from protosam.cases.roles import patient_hash, patient_in_name
from protosam.errors import InvalidInput
from protosam.geometry import Volume
from protosam.labelled import IMAGE_MARK, LABELS_MARK
from protosam.models.add_ons import case_digest
from protosam.volume_io import READABLE_ENDINGS, read_volume

MOST_IMAGES = 40
"""Images that are looked at; of more, so many are taken evenly over their names."""

FOLDERS = ("imagesUn", "imagesTs", "imagesTr")
"""Where other layouts keep images; the first that exists is taken."""

LABEL_MARKS = (LABELS_MARK, "_lab2", "_label", "_labels", "_seg", "_mask", "_scribble")
"""Ends of names, without the ending of the file, of what is not an image."""


@dataclass(frozen=True, eq=False)
class PoolImage:
    """An image of which nothing is known.

    Attributes
    ----------
    digest : str
        Of its name.
    volume : Volume
    """

    digest: str
    volume: Volume


@dataclass(frozen=True)
class Known:
    """Whose images the pool must not hold."""

    uids: frozenset[str] = frozenset()
    """Identities of volumes that judge, or that teach with their labels."""
    patients: frozenset[str] = frozenset()
    """`patient_hash` of those who judge, where names tell."""


def image_files(folder: Path, most: int = MOST_IMAGES) -> list[Path]:
    """Image files of a folder, in the order of their names.

    Parameters
    ----------
    folder : Path
        With ``<case>_img.*`` (only these are taken then), with one of `FOLDERS`, or with images
        of any name.
    most : int
        Of more, so many are taken evenly.

    Raises
    ------
    InvalidInput
        No such folder, or no image in it.
    """
    if not folder.is_dir():
        raise InvalidInput(f"There is no folder {folder}.", "Give a folder of images.")
    inner = [folder / name for name in FOLDERS if (folder / name).is_dir()]
    found = sorted(path for path in (inner or [folder])[0].rglob("*") if _stem(path))
    marked = [path for path in found if _stem(path).endswith(IMAGE_MARK)]
    images = marked or [path for path in found if not _stem(path).endswith(LABEL_MARKS)]
    if not images:
        raise InvalidInput(
            f"{folder} holds no image with one of the endings {', '.join(READABLE_ENDINGS)}.",
            "Give a folder of images without labels.",
        )
    return _evenly(images, most)


def read_pool(files: Sequence[Path], known: Known) -> tuple[list[PoolImage], list[str]]:
    """Read images, without those that are known.

    Parameters
    ----------
    files : sequence of Path
    known : Known

    Returns
    -------
    list of PoolImage, list of str
        The images, and notes for the user on what was left out.

    Raises
    ------
    InvalidInput
        When none is left.
    ProtoSAMError
        What reading a file raises.
    """
    images: list[PoolImage] = []
    seen: set[str] = set(known.uids)
    for path in files:
        if _patient(path) in known.patients:
            continue
        volume = read_volume(path)
        if volume.uid not in seen:
            seen.add(volume.uid)
            images.append(PoolImage(case_digest(_name(path)), volume))
    if not images:
        raise InvalidInput(
            f"All {len(files)} images without labels are copies of cases, or of patients who judge "
            "the result.",
            "Give images of other patients.",
        )
    left_out = len(files) - len(images)
    notes = [f"{left_out} images were left out of the pool: they judge, or are there twice."]
    return images, notes if left_out else []


def patients_of(names: Collection[str]) -> frozenset[str]:
    """Hashes of the patients that names of cases tell, comparable with those of the pool."""
    return frozenset(patient_hash(patient_in_name(name)) for name in names)


def _patient(path: Path) -> str:
    return patient_hash(patient_in_name(_name(path)))


def _name(path: Path) -> str:
    return _stem(path).removesuffix(IMAGE_MARK).removesuffix("_0000")


def _stem(path: Path) -> str:
    """Name without its ending; empty for what cannot be read as an image."""
    lowered = path.name.lower()
    ending = max((e for e in READABLE_ENDINGS if lowered.endswith(e)), key=len, default=None)
    return "" if ending is None or path.name.startswith(".") else path.name[: -len(ending)]


def _evenly(files: list[Path], most: int) -> list[Path]:
    if len(files) <= most:
        return files
    return [files[n * len(files) // most] for n in range(most)]
