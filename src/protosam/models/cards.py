"""The cards of the models that this package knows by name.

Owns `model_weights/cards.json`: one card per model with its file, digest, licence, address and
the way its images are prepared. Knows nothing of torch, of where the files lie or of how they
are loaded. Speaks no coordinates.

The folder is read from the installed package (``protosam/model_weights``, put there by the
wheel) or, in a source checkout, from ``model_weights/`` beside ``src/``.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from protosam.errors import InvalidInput, ModelUnavailable
from protosam.storage import atomic_path

Family = Literal["tiny", "sam"]
Normalisation = Literal["sam", "unit"]
Resize = Literal["longest_side", "square"]

CARDS_FORMAT = 1
"""Version of the layout of cards.json; another number is refused."""

CARDS_FILE = "cards.json"


@dataclass(frozen=True)
class ModelCard:
    """What is known of one model before its weights are opened.

    Attributes
    ----------
    name : str
        What the user calls it.
    family : {"tiny", "sam"}
        Which code builds it.
    architecture : str
        Size within the family (``vit_b``, ``vit_l``, ``vit_h``; ``protosam-tiny``).
    file : str
        Name of the weights file, without a folder.
    sha256 : str or None
        Digest of the file, 64 lower-case hexadecimal digits; None where its makers publish none.
    md5 : str or None
        Weaker checksum of the makers, used only where `sha256` is None.
    size_bytes : int or None
        Size of the file, where known.
    licence : str
        SPDX identifier of the weights' licence.
    url : str or None
        Where the file can be downloaded; None for a model that is built in.
    input_size : int
        Side of the square that the encoder sees, in pixels.
    normalisation : {"sam", "unit"}
        ``sam``: 8-bit grey levels less SAM's mean, over its standard deviation. ``unit``:
        each image stretched to 0..1.
    resize : {"longest_side", "square"}
        ``longest_side``: aspect kept, padded at the bottom or right. ``square``: both sides
        stretched to `input_size`.
    multimask : bool
        Whether the three masks for an ambiguous click were trained.
    notes : str
        One or two sentences for the user.
    """

    name: str
    family: Family
    architecture: str
    file: str
    sha256: str | None
    md5: str | None
    size_bytes: int | None
    licence: str
    url: str | None
    input_size: int
    normalisation: Normalisation
    resize: Resize
    multimask: bool
    notes: str

    def __post_init__(self) -> None:
        for value, allowed, what in (
            (self.family, get_args(Family), "family"),
            (self.normalisation, get_args(Normalisation), "normalisation"),
            (self.resize, get_args(Resize), "resize"),
        ):
            if value not in allowed:
                raise InvalidInput(
                    f"The card of {self.name!r} has {what} {value!r}; "
                    f"known are {', '.join(allowed)}."
                )
        if not self.name or self.file != Path(self.file).name or not self.file:
            raise InvalidInput(
                f"The card {self.name!r} needs a name and a file name without a folder "
                f"(got {self.file!r})."
            )
        for digest, length, what in ((self.sha256, 64, "SHA-256"), (self.md5, 32, "MD5")):
            if digest is not None and not re.fullmatch(rf"[0-9a-f]{{{length}}}", digest):
                raise InvalidInput(
                    f"The card of {self.name!r} has a {what} that is not {length} lower-case "
                    f"hexadecimal digits: {digest!r}."
                )
        if self.url is not None and not self.url.startswith("https://"):
            raise InvalidInput(
                f"The card of {self.name!r} has an address without https: {self.url!r}."
            )
        if self.input_size < 1:
            raise InvalidInput(f"The card of {self.name!r} has input size {self.input_size}.")


def builtin_folder() -> Path:
    """Folder of cards.json and of the weights that come with the package.

    Raises
    ------
    ModelUnavailable
        When neither the installed package nor a source checkout holds it.
    """
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "model_weights", package.parents[1] / "model_weights")
    for folder in candidates:
        if (folder / CARDS_FILE).is_file():
            return folder
    raise ModelUnavailable(
        f"This installation lacks its list of models ({candidates[0] / CARDS_FILE}).",
        "Install the package again.",
    )


def read_cards(path: Path) -> dict[str, ModelCard]:
    """Read a list of cards.

    Parameters
    ----------
    path : Path
        A cards.json.

    Returns
    -------
    dict of str to ModelCard
        In the order of the file.

    Raises
    ------
    ModelUnavailable
        When the file is missing, is not JSON of the expected layout, or names a model twice.
    """
    next_step = "Install the package again."
    entries = _read_document(path)["models"]
    wanted = {field.name for field in fields(ModelCard)}
    cards: dict[str, ModelCard] = {}
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != wanted:
            raise ModelUnavailable(
                f"An entry of {path} does not have exactly the keys {', '.join(sorted(wanted))}.",
                next_step,
            )
        try:
            card = ModelCard(**entry)
        except (InvalidInput, TypeError) as error:
            raise ModelUnavailable(f"{path}: {error}", next_step) from error
        if card.name in cards:
            raise ModelUnavailable(f"{path} names {card.name!r} twice.", next_step)
        cards[card.name] = card
    return cards


def card_named(name: str, cards: Mapping[str, ModelCard] | None = None) -> ModelCard:
    """Look a model up.

    Parameters
    ----------
    name : str
        Name on a card.
    cards : mapping, optional
        Where to look; the package's own cards if None.

    Raises
    ------
    ModelUnavailable
        When no card has that name; the message names the nearest one.
    """
    known = MODEL_CARDS if cards is None else cards
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise ModelUnavailable(
        f"There is no model {name!r}.",
        f"{hint}Known are {', '.join(known)}; a file or a folder of weights can be given too.",
    )


def record_digest(cards_file: Path, name: str, sha256: str, size_bytes: int) -> None:
    """Write the digest of newly exported weights into their card.

    Parameters
    ----------
    cards_file : Path
        A cards.json; replaced atomically, other entries stay as they are.
    name : str
        The model whose file was exported.
    sha256 : str
        Digest of the new file.
    size_bytes : int
        Size of the new file.

    Raises
    ------
    ModelUnavailable
        When the list cannot be read or has no such model.
    StorageFailure
        When the list cannot be written.
    """
    card_named(name, read_cards(cards_file))
    document = _read_document(cards_file)
    for entry in document["models"]:
        if entry["name"] == name:
            entry.update(sha256=sha256, size_bytes=size_bytes)
    write_json(cards_file, document)


def write_json(path: Path, document: object) -> None:
    """Replace a small JSON file so that a reader sees the old or the new one, never half.

    Parameters
    ----------
    path : Path
        The file; its folder must exist.
    document : object
        What `json.dumps` takes.

    Raises
    ------
    StorageFailure
        When there is no space or no permission.
    """
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _read_document(path: Path) -> dict[str, Any]:
    next_step = "Install the package again."
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnavailable(
            f"The list of models {path} cannot be read: {error}.", next_step
        ) from error
    if (
        not isinstance(document, dict)
        or document.get("format") != CARDS_FORMAT
        or not isinstance(document.get("models"), list)
    ):
        raise ModelUnavailable(
            f"The list of models {path} is not of format {CARDS_FORMAT}.", next_step
        )
    return document


MODEL_CARDS: dict[str, ModelCard] = read_cards(builtin_folder() / CARDS_FILE)
"""Name to card, as this installation has them."""
