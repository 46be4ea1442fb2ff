"""Where weights lie and whether they are the right ones.

Owns the search order of the folders, the digests and the user's list of digests trusted at
first import. Never opens a weights file as anything but bytes, and knows nothing of torch:
`tensors.py` reads them, `install.py` brings them. Speaks no coordinates.

Search order: the folder given by the caller, the folder in ``PROTOSAM_WEIGHTS``, the user's own
folder, the folder that comes with the package. The first file of the right name counts; when it
is the wrong one it is refused, and no other folder is tried in silence.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import platformdirs

from protosam.errors import ModelUnavailable, StorageFailure, WeightsRefused
from protosam.models.cards import MODEL_CARDS, ModelCard, builtin_folder, write_json

ENVIRONMENT_FOLDER = "PROTOSAM_WEIGHTS"
"""Environment variable that names a folder of weights."""

TRUSTED_FILE = "trusted.json"
"""In the user's folder: digests recorded when weights without a published digest came in."""

CHUNK_BYTES = 1 << 20

State = Literal["verified", "present", "missing", "wrong digest", "digest unknown"]


@dataclass(frozen=True)
class WeightsStatus:
    """What is known of one model's file on this machine.

    Attributes
    ----------
    card : ModelCard
        The model.
    path : Path or None
        The file found first in the search order; None when there is none.
    state : str
        ``verified`` (digest computed and right), ``present`` (found, digest not computed),
        ``missing``, ``wrong digest`` or ``digest unknown`` (nothing to compare with).
    sha256 : str or None
        Digest of the file, if it was computed.
    """

    card: ModelCard
    path: Path | None
    state: State
    sha256: str | None = None


def user_folder() -> Path:
    """Folder of the weights that this user imported or downloaded."""
    return Path(platformdirs.user_data_dir("protosam", appauthor=False)) / "weights"


def environment_folder() -> Path | None:
    """Folder named by ``PROTOSAM_WEIGHTS``; None when it is not set."""
    value = os.environ.get(ENVIRONMENT_FOLDER, "")
    return Path(value).expanduser() if value else None


def search_folders(weights_dir: Path | None = None) -> tuple[Path, ...]:
    """Folders in which weights are looked for, first one first.

    Parameters
    ----------
    weights_dir : Path, optional
        A folder that the caller names.
    """
    candidates = (weights_dir, environment_folder(), user_folder(), builtin_folder())
    return tuple(dict.fromkeys(folder for folder in candidates if folder is not None))


def locate_weights(card: ModelCard, weights_dir: Path | None = None) -> Path | None:
    """First file of the card's name in the search order, or None."""
    for folder in search_folders(weights_dir):
        if (folder / card.file).is_file():
            return folder / card.file
    return None


def find_weights(card: ModelCard, weights_dir: Path | None = None) -> Path:
    """First file of the card's name in the search order.

    Parameters
    ----------
    card : ModelCard
        The model.
    weights_dir : Path, optional
        A folder that is searched before all others.

    Raises
    ------
    ModelUnavailable
        When no folder holds the file; the message lists the folders.
    """
    path = locate_weights(card, weights_dir)
    if path is not None:
        return path
    folders = ", ".join(str(folder) for folder in search_folders(weights_dir))
    raise ModelUnavailable(
        f"The weights of {card.name} ({card.file}) are not on this machine; looked in {folders}.",
        how_to_get(card),
    )


def how_to_get(card: ModelCard) -> str:
    """Sentence that says how the weights of a model come to this machine."""
    take_in = f"`protosam weights import {card.name} FILE` takes in a file that you have"
    if card.url is None:
        return f"The weights come with the package: install it again. {take_in}."
    return f"`protosam weights fetch {card.name}` downloads the weights, {take_in}."


def file_digest(path: Path, algorithm: Literal["sha256", "md5"] = "sha256") -> str:
    """Digest of a file's bytes.

    A file whose size and time of change are as before is not read again.

    Parameters
    ----------
    path : Path
        The file.
    algorithm : {"sha256", "md5"}
        Which digest.

    Returns
    -------
    str
        Lower-case hexadecimal digits.

    Raises
    ------
    WeightsRefused
        When the file cannot be read.
    """
    try:
        stat = path.stat()
        return _digest_of(path.resolve(), stat.st_size, stat.st_mtime_ns, algorithm)
    except OSError as error:
        raise WeightsRefused(
            f"{path} cannot be read: {error.strerror or error}.",
            "Check that the file exists and that you may read it.",
        ) from error


# 0.2 s for 375 MB and 1.5 s for ViT-H on an AMD EPYC, from memory; a disk takes longer, and a
# worker must not repeat it at each load.
@lru_cache(maxsize=64)
def _digest_of(path: Path, _size: int, _mtime_ns: int, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=algorithm == "sha256")
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def expected_digest(card: ModelCard) -> str | None:
    """SHA-256 that the card's file must have: published, or recorded at its first import."""
    return card.sha256 or trusted_digests().get(card.file)


def verify_weights(card: ModelCard, path: Path) -> str:
    """Check that a file is the card's file.

    Parameters
    ----------
    card : ModelCard
        The model.
    path : Path
        The file to check.

    Returns
    -------
    str
        The file's SHA-256.

    Raises
    ------
    WeightsRefused
        When the digest is another one, or when none is known to compare with.
    """
    expected = expected_digest(card)
    if expected is None:
        raise WeightsRefused(
            f"No digest is known for {card.name}, so {path} cannot be checked.",
            f"Import it explicitly with `protosam weights import {card.name} {path}`, "
            "which records the digest seen.",
        )
    found = file_digest(path)
    if found != expected:
        raise wrong_digest(card, str(path), expected=expected, found=found)
    return found


def wrong_digest(
    card: ModelCard, what: str, *, expected: str, found: str, algorithm: str = "SHA-256"
) -> WeightsRefused:
    """Error for something that is not the file on the card, with both digests."""
    return WeightsRefused(
        f"{what} is not the file of {card.name}: its {algorithm} is {found}, "
        f"wanted is {expected}. It was not loaded.",
        how_to_get(card),
    )


def trusted_digests() -> dict[str, str]:
    """File names and SHA-256 that this user took in without a published digest.

    Raises
    ------
    WeightsRefused
        When the list exists and is not readable; it is never taken for empty.
    """
    path = user_folder() / TRUSTED_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise WeightsRefused(
            f"The list of trusted digests {path} cannot be read: {error}.",
            "Delete it and import the weights again.",
        ) from error
    if not isinstance(document, dict) or not all(
        isinstance(value, str) for value in document.values()
    ):
        raise WeightsRefused(
            f"The list of trusted digests {path} is not a table of file names and digests.",
            "Delete it and import the weights again.",
        )
    return document


def trust_digest(file: str, sha256: str) -> None:
    """Record the digest of a file that came in without a published one.

    Parameters
    ----------
    file : str
        Name of the file on its card.
    sha256 : str
        Its digest.

    Raises
    ------
    StorageFailure
        When the list cannot be written.
    """
    folder = user_folder()
    make_folder(folder)
    write_json(folder / TRUSTED_FILE, {**trusted_digests(), file: sha256})


def make_folder(folder: Path) -> None:
    """Create a folder and those above it.

    Raises
    ------
    StorageFailure
        When that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFailure(
            f"The folder {folder} cannot be made: {error.strerror or error}.",
            "Check the permissions, or name another folder.",
        ) from error


def weights_status(
    card: ModelCard, weights_dir: Path | None = None, *, check: bool = True
) -> WeightsStatus:
    """Say whether a model's file is here and right.

    Parameters
    ----------
    card : ModelCard
        The model.
    weights_dir : Path, optional
        A folder that is searched before all others.
    check : bool
        Compute the digest (reads the whole file); otherwise only look for the file.
    """
    path = locate_weights(card, weights_dir)
    if path is None:
        return WeightsStatus(card, None, "missing")
    if not check:
        return WeightsStatus(card, path, "present")
    found, expected = file_digest(path), expected_digest(card)
    if expected is None:
        return WeightsStatus(card, path, "digest unknown", found)
    return WeightsStatus(card, path, "verified" if found == expected else "wrong digest", found)


def list_weights(
    weights_dir: Path | None = None,
    *,
    check: bool = False,
    cards: Mapping[str, ModelCard] | None = None,
) -> list[WeightsStatus]:
    """Status of every model that has a card.

    Parameters
    ----------
    weights_dir : Path, optional
        A folder that is searched before all others.
    check : bool
        Compute the digests of the files found.
    cards : mapping, optional
        The cards; the package's own if None.
    """
    known = MODEL_CARDS if cards is None else cards
    return [weights_status(card, weights_dir, check=check) for card in known.values()]
