"""From cases and images to a version of a specialist that has passed its gate.

Owns the order of the work for the methods that leave a specialist: cases are parted, images are
read, the network is taught beside the frozen model, written as it will be loaded, judged, and only
then added to the adapters' store, where it has versions, can be rolled back and is found as
``specialist:NAME``. Speaks no coordinates.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from protosam.cases.layouts import find_cases
from protosam.errors import Cancelled, InvalidInput
from protosam.learn.adapt_order import AdaptOrder, AdaptResult, Watch
from protosam.learn.adapter_cards import AdapterCard
from protosam.learn.adapters import AdapterStore
from protosam.learn.division import Division, Judge, divide, whole
from protosam.learn.finished_cases import FinishedCase
from protosam.learn.found_cases import finished, renumbered
from protosam.learn.recipe import STATE, Checkpoint, RecipeProgress
from protosam.learn.train_shift import weights_of
from protosam.learn.unlabelled.assemble import pool_of
from protosam.learn.unlabelled.generalists import generalists_of
from protosam.learn.unlabelled.mean_teacher import PRESETS, MeanTeacherSettings
from protosam.learn.unlabelled.pool import PoolImage
from protosam.learn.unlabelled.scans import card_for, labelled_scan, pool_scan
from protosam.learn.unlabelled.specialist_gate import judge_specialist
from protosam.learn.unlabelled.specialists import Material3D, teach_specialist
from protosam.models.add_ons import case_digest
from protosam.models.load import load_model
from protosam.models.memory_ladder import memory_errors
from protosam.models.slice_model import SliceModel
from protosam.models.specialist import Specialist, load_specialist, save_specialist
from protosam.models.specialist_card import FILE
from protosam.models.weights import make_folder

TAUGHT = 0.85
"""How far the work is after teaching, for the progress."""


class SpecialistRun:
    """One run, holding its folder.

    Parameters
    ----------
    order : AdaptOrder
    watch : Watch
    store : AdapterStore
    folder : Path
        Of the run's checkpoint.
    """

    def __init__(self, order: AdaptOrder, watch: Watch, store: AdapterStore, folder: Path) -> None:
        self._order, self._watch, self._store, self._folder = order, watch, store, folder
        self._notes: list[str] = []
        self._begun = time.monotonic()

    def carried_out(self) -> AdaptResult:
        """Do the work, in its order."""
        order = self._order
        self._watch.on_progress(0.0, "reading cases")
        found = find_cases(order.cases)
        cases = finished(found, order.labels)
        names = {n: found.data.label_name(n) for case in cases for n in case.wanted}
        division = divide(cases, found.roles)
        current = self._current()
        judges = [*self._marked(division.judges), *self._sentinels(names)]
        with memory_errors():
            specialist, report, settings, base = self._taught(division, names)
        path = self._folder / FILE
        save_specialist(specialist, path)
        verdict = judge_specialist(
            load_specialist(path, specialist.device),
            current,
            judges,
            division.validation,
            names=names,
            on_judge=self._on_judge(len(judges)),
        )
        labels = specialist.card.labels
        card = dataclasses.replace(
            self._card(settings, report, labels),
            base_name=base.name,
            base_sha256=weights_of(base),
            cases=_digests(division.taught),
            held_out=_digests([one.case for one in judges]),
            gate=verdict.to_json(),
        )
        version = self._store.add(
            order.name,
            card,
            lambda new: _copied(path, new),
            activate=verdict.accepted,
        )
        shutil.rmtree(self._folder, ignore_errors=True)
        seconds = time.monotonic() - self._begun
        return AdaptResult(version, verdict, "specialist", seconds, tuple(self._notes))

    def _card(
        self, settings: MeanTeacherSettings, report: dict[str, Any], labels: tuple[str, ...]
    ) -> AdapterCard:
        """Card of the training; base, cases and verdict are filled in by the caller."""
        return AdapterCard(
            tier="specialist",
            base_name="",
            base_sha256="",
            labels=labels,
            cases=(),
            held_out=(),
            seed=settings.seed,
            settings={**dataclasses.asdict(settings), "unlabelled": report},
            figures={k: float(v) for k, v in report.items() if not isinstance(v, str)},
            gate={},
            method=self._order.method,
        )

    def _taught(
        self, division: Division, names: dict[int, str]
    ) -> tuple[Specialist, dict[str, Any], MeanTeacherSettings, SliceModel]:
        order = self._order
        settings = self._settings()
        model = load_model(order.model, weights_dir=order.weights_dir, device=order.device)
        pool = self._pool(division)
        card = card_for(division.taught, names, settings.networks)
        numbers = sorted(names)
        material = Material3D(
            card,
            [labelled_scan(case, numbers, card) for case in division.taught],
            [pool_scan(one.volume, card) for one in pool],
            generalists_of(settings.generalists, model),
        )
        digest = weights_of(model)
        specialist, report = teach_specialist(
            material,
            settings,
            checkpoint=Checkpoint(
                self._folder / STATE, _fingerprint(settings, digest, division.taught, pool)
            ),
            on_step=self._on_step,
            should_stop=self._watch.should_stop,
            device=model.device,
        )
        if report["alarm"]:
            self._tell(f"Images without labels were left out in the end: {report['alarm']}.")
        return specialist, report, settings, model

    def _settings(self) -> MeanTeacherSettings:
        """Return the method's settings, with the seed and, where others were given, the steps."""
        given = self._order.settings
        settings = dataclasses.replace(PRESETS[self._order.method], seed=given.seed)
        if given.steps is None:
            return settings
        return dataclasses.replace(settings, steps=given.steps)

    def _pool(self, division: Division) -> list[PoolImage]:
        if self._order.unlabelled is None:
            raise InvalidInput(
                f"The method {self._order.method!r} needs images.", "Give a folder of them."
            )
        pool, notes = pool_of(self._order.unlabelled, division)
        for note in notes:
            self._tell(note)
        return pool

    def _current(self) -> Specialist | None:
        path = self._store.active_path(self._order.name)
        if path is None:
            return None
        if not (path / FILE).is_file():
            raise InvalidInput(
                f"The name {self._order.name!r} is that of an adapter, not of a specialist.",
                "Give another name.",
            )
        return load_specialist(path / FILE, torch.device("cpu"))

    def _marked(self, judges: Sequence[Judge]) -> list[Judge]:
        """Make sentinels of the cases that the current version was judged by."""
        if self._store.active_path(self._order.name) is None:
            return list(judges)
        known = set(self._store.version(self._order.name).card.held_out)
        return [
            dataclasses.replace(one, sentinel=case_digest(one.case.name) in known) for one in judges
        ]

    def _sentinels(self, names: dict[int, str]) -> list[Judge]:
        if self._order.sentinels is None:
            return []
        found = find_cases(self._order.sentinels)
        by_name = {name: n for n, name in names.items()}
        cases = finished(found, tuple(names.values()))
        return [whole(renumbered(case, found, by_name), sentinel=True) for case in cases]

    def _on_step(self, now: RecipeProgress) -> None:
        self._watch.on_step(now)
        text = f"specialist: step {now.step} of {now.steps}, loss {now.loss:.3f}"
        self._watch.on_progress(
            TAUGHT * now.step / now.steps, f"{text}, {now.seconds_left:.0f} s left"
        )

    def _on_judge(self, count: int) -> Any:
        def show(number: int) -> None:
            if self._watch.should_stop():
                raise Cancelled("Stopped at the gate.", "The same command goes on from there.")
            self._watch.on_progress(TAUGHT + (1 - TAUGHT) * number / count, "gate: specialist")

        return show

    def _tell(self, note: str) -> None:
        self._notes.append(note)
        self._watch.on_progress(0.0, note)


def _fingerprint(
    settings: MeanTeacherSettings,
    base: str,
    cases: Sequence[FinishedCase],
    pool: Sequence[PoolImage],
) -> str:
    """Digest of everything that decides a training."""
    told = {
        "settings": dataclasses.asdict(settings),
        "base": base,
        "cases": [[case.image.uid, case.labels.uid, *case.wanted] for case in cases],
        "pool": [one.volume.uid for one in pool],
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _digests(cases: Sequence[FinishedCase]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(case_digest(case.name) for case in cases))


def _copied(source: Path, folder: Path) -> None:
    make_folder(folder)
    shutil.copyfile(source, folder / source.name)
