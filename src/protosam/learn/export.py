"""From a finished run to the files that ship: weights, their data sheet, and their card's digest.

Owns what is written beside `cards.json`: the moving average of the run's weights as float16
safetensors, and a data sheet of what they were made from and how good they are. The figures are
the caller's: nothing is measured here. Speaks no coordinates.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from protosam.errors import InvalidInput, StorageFailure, UnreadableFile, WeightsRefused
from protosam.learn.settings import TrainBaseSettings
from protosam.learn.sources import SHIPPABLE, load_sources
from protosam.models.cards import CARDS_FILE, card_named, read_cards, record_digest, write_json
from protosam.models.tiny import TinySAM
from protosam.models.tiny_predictor import save_tiny
from protosam.models.weights import file_digest
from protosam.storage import atomic_path

MODEL = "protosam-tiny"
"""Name of the card that an export fills in."""

SHEET_FILE = f"{MODEL}.card.json"
"""Name of the data sheet beside the weights."""

SHEET_FORMAT = 1
"""Version of the data sheet's layout."""

_DAMAGE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, OSError)


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    weights: Path
    """The safetensors file."""
    sheet: Path
    """The data sheet beside it."""
    sha256: str
    """Digest of the weights, as `cards.json` now has it."""
    size_bytes: int
    """Size of the weights."""


@dataclass(frozen=True)
class LogTotals:
    """Sums over the log of a run; a step that was taken again after a stop counts once."""

    steps: int
    """Last step that the log tells of."""
    samples: int
    """Samples of three slices drawn by all processes."""
    objects: int
    """Objects prompted, each on all slices of its sample."""
    seconds: float
    """Time that the steps took, without the preparation of the volumes."""


def export_base(
    run: Path,
    target: Path,
    *,
    figures: Mapping[str, Any] | None = None,
    machine: Mapping[str, Any] | None = None,
) -> Exported:
    """Write the weights of a run, their data sheet and their digest.

    Parameters
    ----------
    run : path
        Folder that `train_base` wrote, with its prepared volumes. It may still be running: what
        its last checkpoint holds is exported.
    target : path
        Folder with a cards.json that knows `MODEL`; the other models' cards stay as they are.
    figures : mapping, optional
        Results of an evaluation, copied into the data sheet.
    machine : mapping, optional
        What the run was trained on (processor, cores ...), copied into the data sheet.

    Raises
    ------
    InvalidInput
        If `run` lacks its checkpoint, settings or volumes, its log is damaged, or it was trained
        on a data set whose licence does not allow shipping.
    WeightsRefused
        If the checkpoint is damaged, of another network, or holds numbers that are not finite.
    ModelUnavailable
        If `target` has no cards.json with a card of `MODEL`.
    StorageFailure
        If a file cannot be written.
    """
    card = card_named(MODEL, read_cards(target / CARDS_FILE))
    settings = TrainBaseSettings.from_json(_text_of(run / "settings.json"))
    network, step = _moving_average(run / "checkpoint.pt")
    settings_digest = hashlib.sha256(settings.to_json().encode()).hexdigest()
    sheet = {
        "format": SHEET_FORMAT,
        "name": MODEL,
        "file": card.file,
        "licence": card.licence,
        "parameters": sum(p.numel() for p in network.parameters()),
        "data": _data(run / "volumes", settings),
        "training": {
            "steps": step,
            "steps_planned": settings.steps,
            "seed": settings.seed,
            "settings_sha256": settings_digest,
            "settings": json.loads(settings.to_json()),
            "logged": asdict(read_log(run / "log.jsonl", settings.objects, until=step)),
        },
        "machine": dict(machine or {}),
        "figures": dict(figures or {}),
    }
    facts = {
        "steps": str(step),
        "seed": str(settings.seed),
        "settings_sha256": settings_digest,
    }
    weights = target / card.file
    _write_weights(network, weights, facts)
    sha256, size = file_digest(weights), weights.stat().st_size
    write_json(target / SHEET_FILE, {**sheet, "sha256": sha256, "size_bytes": size})
    record_digest(target / CARDS_FILE, MODEL, sha256, size)
    return Exported(weights, target / SHEET_FILE, sha256, size)


def read_log(path: Path, objects: int, *, until: int) -> LogTotals:
    """Add up the log of a run.

    Parameters
    ----------
    path : path
        log.jsonl; a run shorter than one line of it has none.
    objects : int
        Objects in each sample.
    until : int
        Last step that counts: those after the checkpoint are not in its weights.

    Raises
    ------
    InvalidInput
        If a line is not what a run writes.
    """
    lines = _text_of(path).splitlines() if path.is_file() else []
    by_step = {
        line.step: line for line in (_log_line(n, t, path) for n, t in enumerate(lines, start=1))
    }
    last, samples, seconds = 0, 0.0, 0.0
    for step in sorted(s for s in by_step if s <= until):
        # A line holds means over the steps since the line before it.
        samples += by_step[step].samples * (step - last)
        seconds += by_step[step].seconds_per_step * (step - last)
        last = step
    return LogTotals(last, round(samples), round(samples) * objects, round(seconds, 1))


@dataclass(frozen=True)
class _LogLine:
    step: int
    samples: float
    seconds_per_step: float


def _log_line(number: int, text: str, path: Path) -> _LogLine:
    try:
        line = json.loads(text)
        return _LogLine(int(line["step"]), float(line["samples"]), float(line["seconds_per_step"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"Line {number} of {path} is not what a run writes: {error!r}.",
            "Remove the line if the run was killed while it wrote it.",
        ) from error


def _moving_average(path: Path) -> tuple[TinySAM, int]:
    """Weights to ship, and the steps that they have seen."""
    if not path.is_file():
        raise InvalidInput(f"{path} does not exist.", "Give the folder of a run of train-base.")
    network = TinySAM()
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        network.load_state_dict(state["average"])
        step = int(state["step"])
    except _DAMAGE as error:
        raise WeightsRefused(
            f"{path} is no checkpoint of the built-in model: {type(error).__name__}.",
            "Resume the run, so that it writes another one.",
        ) from error
    # The file holds float16, which ends at 65504.
    bad = [k for k, v in network.state_dict().items() if not bool(torch.isfinite(v.half()).all())]
    if bad:
        raise WeightsRefused(
            f"{path} holds numbers that are not finite in float16, first in {bad[0]}.",
            "Train again with a lower learning rate.",
        )
    return network, step


def _data(volumes: Path, settings: TrainBaseSettings) -> list[dict[str, Any]]:
    """List the sources of the samples with licence, number of cases and share."""
    used = load_sources(volumes, settings)
    total = sum(settings.mix[name] for name in used)
    rows: list[dict[str, Any]] = []
    for name, cases in used.items():
        if name != "procedural" and name not in SHIPPABLE:
            raise InvalidInput(
                f"{name} is not among the data sets whose licence allows shipping.",
                f"Train on {', '.join(sorted(SHIPPABLE))} only.",
            )
        licence = SHIPPABLE.get(name, "none needed: drawn by this package")
        share = round(settings.mix[name] / total, 4)
        rows.append({"name": name, "licence": licence, "cases": len(cases), "share": share})
    return rows


def _write_weights(network: TinySAM, path: Path, facts: dict[str, str]) -> None:
    try:
        with atomic_path(path) as temporary:
            save_tiny(network, temporary, facts)
            _sort_header(temporary)
    except SafetensorError as error:
        raise StorageFailure(
            f"{path} was not written: {error}.", "Free some space or check the permissions."
        ) from error


def _sort_header(path: Path) -> None:
    """Put the header's text entries in order.

    safetensors 0.8 writes them in another order each time, and then the same run would not have
    the same digest twice. Offsets of tensors count from the end of the header, so its length is
    free; its format wants a multiple of 8 bytes, filled with spaces.
    """
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InvalidInput(
            f"{path} does not exist.", "Give the folder of a run of train-base."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(
            f"{path} cannot be read: {error}.", "Check its permissions."
        ) from error
