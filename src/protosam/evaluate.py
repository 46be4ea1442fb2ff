"""``protosam evaluate``: a dataset played by the click robot, and the report of it.

Owns the order of the objects, the means, and the keys of the report: ``protocol``,
``machine``, ``cases``, ``mean``, ``per_label``. The rules of the game are in `robot`, the
opponents in `engines`, the files in `labelled`. Of the machine only its hardware and
versions go into the report: no paths, no host name.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from protosam import __version__, metrics, robot
from protosam.engines import EngineChoice, make_engine
from protosam.errors import InvalidInput
from protosam.extents import BoolArray
from protosam.geometry import Volume
from protosam.labelled import LabelledCase, LabelledData, cases_of_split, read_dataset
from protosam.prompts import Scope
from protosam.robot import Engine, Plane, Rules, Score, Target
from protosam.storage import atomic_path

OnProgress = Callable[[float, str], None]


@dataclass(frozen=True)
class EvaluateSettings:
    """What ``protosam evaluate`` was asked for."""

    data: Path
    """Folder of the dataset, see `labelled`."""
    choice: EngineChoice = field(default_factory=EngineChoice)
    """The engine and its model."""
    scope: Scope = "volume"
    """``volume``, or ``slice`` for each label's slice of largest area alone."""
    labels: tuple[str, ...] = ()
    """Names or numbers of labels; all where empty."""
    clicks: int = 5
    """Clicks for each object."""
    box: bool = False
    """Begin with a jittered box."""
    limit: int | None = None
    """Play the first so many cases."""
    split: str | None = None
    """``FILE:PART``: play only the cases of that part of a split file."""
    cases: tuple[str, ...] = ()
    """Play only these cases."""
    seed: int = 0
    """Seed of the box's jitter."""

    @property
    def rules(self) -> Rules:
        """The rules that each object is played by."""
        return Rules(self.clicks, self.box, self.seed)


@dataclass(frozen=True)
class Machine:
    """What the figures were measured on."""

    cpu: str
    """Model name of the processor."""
    cores: int
    """Logical cores that this process may use."""
    memory_gb: float | None
    """Memory of the machine in 2^30 bytes; None where the system does not tell."""
    platform: str
    """System and architecture."""
    python: str
    """Version of Python."""
    torch: str
    """Version of torch."""

    def to_json(self) -> dict[str, Any]:
        """Return the report's ``machine``."""
        return dict(vars(self))


@dataclass(frozen=True)
class EvaluateReport:
    """What was played, and how it went."""

    settings: EvaluateSettings
    """What was asked for."""
    dataset: str
    """Name of the dataset."""
    engine_settings: dict[str, str | float]
    """What the engine says of itself."""
    machine: Machine
    """What it ran on."""
    scores: tuple[Score, ...]
    """One for each object, in the order of cases and labels."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain lists, dicts and numbers.

        The keys are ``protocol``, ``machine``, ``cases``, ``mean`` and ``per_label``. Means
        are over objects (a label of a case), each counting once.
        """
        by_label: dict[str, list[Score]] = {}
        for score in self.scores:
            by_label.setdefault(score.name, []).append(score)
        return {
            "protocol": self._protocol(),
            "machine": self.machine.to_json(),
            "cases": [score.to_json() for score in self.scores],
            "mean": _mean(self.scores),
            "per_label": {
                name: {"objects": len(scores), **_mean(scores)} for name, scores in by_label.items()
            },
        }

    def write(self, path: Path) -> None:
        """Write the report as JSON, with one line for each object.

        Raises
        ------
        StorageFailure
            The file cannot be written.
        """
        report = self.to_json()
        rows = ",\n".join(json.dumps(row) for row in report.pop("cases"))
        text = json.dumps({**report, "cases": []}, indent=1)
        with atomic_path(path) as temporary:
            temporary.write_text(
                text.replace('"cases": []', f'"cases": [\n{rows}\n]') + "\n", encoding="utf-8"
            )

    def _protocol(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "version": __version__,
            "engine": settings.choice.engine,
            "engine_settings": self.engine_settings,
            "adapter": Path(settings.choice.adapter).name if settings.choice.adapter else None,
            "dataset": self.dataset,
            "part": None if settings.split is None else _split_parts(settings.split)[1],
            "cases": len({score.case for score in self.scores}),
            "objects": len(self.scores),
            "scope": settings.scope,
            "labels": list(settings.labels),
            "clicks": settings.clicks,
            "box": settings.box,
            "box_jitter": robot.BOX_JITTER,
            "seed": settings.seed,
            "nsd_tolerance_mm": metrics.NSD_TOLERANCE_MM,
        }


def evaluate(
    settings: EvaluateSettings,
    *,
    on_progress: OnProgress | None = None,
    on_case: Callable[[EvaluateReport], None] | None = None,
    engine: Engine | None = None,
) -> EvaluateReport:
    """Play every label of every case from nothing, and measure each answer.

    Parameters
    ----------
    settings : EvaluateSettings
    on_progress : callable, optional
        Called with the part done, 0..1, and what is being played.
    on_case : callable, optional
        Called after each case with the report so far, so that a long run that is stopped
        leaves something.
    engine : Engine, optional
        Plays instead of the one that `settings` choose.

    Raises
    ------
    InvalidInput
        Nothing to play, or settings that do not fit the data.
    ProtoSAMError
        What reading the data or the engine raises.
    """
    data = _chosen(settings)
    wanted = data.labels_named(settings.labels)
    rules = settings.rules
    player = make_engine(settings.choice) if engine is None else engine
    machine = this_machine()
    scores: list[Score] = []

    def report() -> EvaluateReport:
        return EvaluateReport(settings, data.name, player.settings(), machine, tuple(scores))

    for number, case in enumerate(data.cases):
        targets = targets_of(case, data, wanted, settings.scope)
        for index, target in enumerate(targets):
            if on_progress is not None:
                done = (number + index / len(targets)) / len(data.cases)
                on_progress(done, f"{case.name}: {target.name}")
            scores.append(robot.play(target, player, rules))
        if on_case is not None and targets:
            on_case(report())
    if not scores:
        raise InvalidInput(
            f"None of the {len(data.cases)} cases of {data.name} has a label to play.",
            "Check --labels and the label maps.",
        )
    if on_progress is not None:
        on_progress(1.0, "done")
    return report()


def targets_of(
    case: LabelledCase, data: LabelledData, wanted: frozenset[int] | None, scope: Scope
) -> list[Target]:
    """Return the objects of a case, in the order of their label values.

    Parameters
    ----------
    case : LabelledCase
    data : LabelledData
        Where it belongs, for the labels' names.
    wanted : frozenset of int or None
        Labels to play; None for all. A case need not have all of them.
    scope : {"slice", "volume"}
        With ``slice`` a label is played in its slice of largest area, across the axis of
        `robot.slice_axis`. An image of a single slice is a plane in either scope.
    """
    image, labels = case.read()
    return [
        Target(case.name, label, data.label_name(label), image, truth, _plane(image, truth, scope))
        for label in _present(labels)
        if wanted is None or label in wanted
        for truth in (np.asarray(labels.voxels == label, dtype=np.bool_),)
    ]


def this_machine() -> Machine:
    """Return what this process runs on, without its name."""
    try:
        torch_version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch_version = "not installed"
    return Machine(
        cpu=_cpu_name(),
        cores=_cores(),
        memory_gb=_memory_gb(),
        platform=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch_version,
    )


def _chosen(settings: EvaluateSettings) -> LabelledData:
    data = read_dataset(settings.data)
    wanted = list(settings.cases)
    if settings.split is not None:
        path, part = _split_parts(settings.split)
        members = cases_of_split(path, part, data.name)
        strangers = sorted(set(wanted) - set(members))
        if strangers:
            raise InvalidInput(
                f"The cases {', '.join(strangers)} are not in the part {part!r} of {data.name}.",
                "Leave --split or --cases out, or name cases of that part.",
            )
        wanted = wanted or list(members)
    return data.chosen(wanted, settings.limit)


def _split_parts(split: str) -> tuple[Path, str]:
    path, colon, part = split.rpartition(":")
    if not colon or not path or not part:
        raise InvalidInput(
            f"--split {split} names no part of the file.",
            "Give it as FILE:PART, for instance split.json:validation.",
        )
    return Path(path), part


def _present(labels: Volume) -> list[int]:
    return [int(n) for n in np.unique(labels.voxels) if n > 0]


def _plane(image: Volume, truth: BoolArray, scope: Scope) -> Plane | None:
    if 1 in image.shape_kji:
        return Plane(image.shape_kji.index(1), 0)
    if scope == "slice":
        return robot.largest_slice(truth, robot.slice_axis(image.spacing_kji_mm))
    return None


def _mean(scores: Sequence[Score]) -> dict[str, Any]:
    """Return the means over objects; times over the clicks that were played."""
    first = [score.seconds[0] for score in scores]
    later = [seconds for score in scores for seconds in score.seconds[1 : score.played]]
    return {
        "dice": [round(float(x), 4) for x in np.mean([score.dice for score in scores], axis=0)],
        "dsc_auc": round(float(np.mean([score.dsc_auc for score in scores])), 4),
        "dsc_final": round(float(np.mean([score.dice[-1] for score in scores])), 4),
        "nsd_final": round(float(np.mean([score.nsd_2mm[-1] for score in scores])), 4),
        "seconds_first": round(float(np.mean(first)), 3),
        "seconds_next": round(float(np.mean(later)), 3) if later else None,
    }


def _cpu_name() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gb() -> float | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return round(total / 2**30, 1)
