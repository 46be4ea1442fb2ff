"""Small files that go with a model: what a few cases have taught, and the card that says so.

Owns the format: a safetensors file whose header holds one card as JSON, and the folder in which
names are looked up. Knows nothing of what the tensors mean (`shift.py` and `prompting.auto` do).
Speaks no coordinates.

A card holds no name of a case, because names of files can be names of patients: only digests of
them, by which a file tells whether a given case was used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from protosam import __version__
from protosam.errors import StorageFailure, WeightsRefused
from protosam.models.adapter_folder import followed
from protosam.models.weights import make_folder, user_folder
from protosam.storage import atomic_path

Kind = Literal["shift", "auto"]
Number = float | int | str

FORMAT = 1
"""Version of the card; another number is refused."""

HEADER_KEY = "protosam_add_on"
"""Entry of the safetensors header that holds the card."""

NEXT_STEPS = {
    "shift": "A file of `protosam train-shift` goes with --adapter.",
    "auto": "A file of `protosam train-auto` goes with --auto.",
}
"""Where a file of each kind belongs."""


@dataclass(frozen=True)
class AddOnCard:
    """What is known of an add-on.

    Attributes
    ----------
    kind : {"shift", "auto"}
    base_name : str
        Name of the model that it goes with.
    base_sha256 : str
        Digest of that model's weights; on others it is refused.
    labels : tuple of str
        Names of the labels that were taught.
    cases : tuple of str
        Digests of the names of the cases, see `case_digest`.
    seed : int
    settings : dict
        Of the training, and the widths that the tensors need.
    figures : dict
        What was measured on cases that were not trained on.
    version : str
        Of the program that made it.
    format : int
    """

    kind: Kind
    base_name: str
    base_sha256: str
    labels: tuple[str, ...]
    cases: tuple[str, ...]
    seed: int
    settings: dict[str, Number]
    figures: dict[str, float]
    version: str = __version__
    format: int = FORMAT

    def check_base(self, sha256: str, path: Path) -> None:
        """Refuse other weights than those that this add-on was made for.

        Raises
        ------
        WeightsRefused
            When the digests differ.
        """
        if sha256 != self.base_sha256:
            raise WeightsRefused(
                f"{path.name} was made for {self.base_name} with SHA-256 {self.base_sha256}; "
                f"these weights have {sha256}.",
                f"Choose --model {self.base_name}, or train it anew for this model.",
            )


@dataclass(frozen=True, eq=False)
class AddOn:
    """A card and its tensors."""

    card: AddOnCard
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


def case_digest(name: str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a case's name."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def names_folder() -> Path:
    """Folder in which add-ons are looked up by name."""
    return user_folder().parent / "adapters"


def find_add_on(
    given: Path, kinds: Sequence[Kind] = get_args(Kind), *, folder: Path | None = None
) -> Path:
    """File or folder that a name or path means; `given` itself where nothing else is found.

    The folder of a named adapter means its version in use, see `adapter_folder.followed`.

    Parameters
    ----------
    given : Path
        What exists is taken as it is. A bare name is looked up in the folder, as it stands
        and with the ending of each kind.
    kinds : sequence of {"shift", "auto"}
    folder : Path, optional
        Where names are looked up before anything else; else in `names_folder`, last.

    Raises
    ------
    InvalidInput
        When a named adapter has no version in use.
    UnreadableFile
        When the file that says which one is in use is damaged.
    """
    is_name = given.name == str(given)
    places = [names_folder() if folder is None else folder] if is_name else []
    named = [place / f"{given}{end}" for place in places for end in ("", *(f".{k}" for k in kinds))]
    candidates = [given, *named] if folder is None else [*named, given]
    return followed(next((path for path in candidates if path.exists()), given))


def place_for(given: Path, kind: Kind) -> Path:
    """File to write for a name or path; a bare name without an ending goes into `names_folder`.

    Raises
    ------
    StorageFailure
        When there is no such folder; asked before a training, not after it.
    """
    if given.suffix or given.name != str(given):
        if given.is_dir() or not given.parent.is_dir():
            raise StorageFailure(
                f"{given} is no file in a folder that exists.", "Name a file, and make its folder."
            )
        return given
    make_folder(names_folder())
    return names_folder() / f"{given}.{kind}"


def write_add_on(path: Path, add_on: AddOn) -> None:
    """Write an add-on so that a reader sees the old or the new file, never half.

    Raises
    ------
    StorageFailure
        When there is no space, no permission or no such folder.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in add_on.tensors.items()}
    header = {HEADER_KEY: json.dumps(dataclasses.asdict(add_on.card))}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=header)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read_add_on(path: Path, kind: Kind) -> AddOn:
    """Read an add-on of one kind.

    Raises
    ------
    WeightsRefused
        When the file is missing, damaged, no add-on, or one of another kind or format.
    """
    next_step = NEXT_STEPS[kind]
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = (file.metadata() or {}).get(HEADER_KEY)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise WeightsRefused(f"{path} cannot be read: {reason}.", next_step) from error
    if header is None:
        raise WeightsRefused(f"{path} is no add-on of ProtoSAM: it has no card.", next_step)
    card = _card(header, path)
    if card.kind != kind:
        raise WeightsRefused(
            f"{path} is of the kind {card.kind!r}; wanted is {kind!r}.", NEXT_STEPS[card.kind]
        )
    return AddOn(card, tensors)


def _card(header: str, path: Path) -> AddOnCard:
    wrong = WeightsRefused(f"The card of {path} cannot be understood.", "Train it again.")
    try:
        entries = json.loads(header)
        card = AddOnCard(**entries)
        card = dataclasses.replace(card, labels=tuple(card.labels), cases=tuple(card.cases))
    except (ValueError, TypeError) as error:
        raise wrong from error
    if card.kind not in get_args(Kind):
        raise wrong
    if not isinstance(card.settings, dict) or not isinstance(card.figures, dict):
        raise wrong
    if card.format != FORMAT:
        raise WeightsRefused(
            f"{path} has a card of format {card.format}; this program reads {FORMAT}.",
            "Update ProtoSAM, or train it again.",
        )
    return card
