"""From a folder of corrected cases to a version of an adapter that has passed the gate.

Owns the order of the work: cases are parted, the base is taught, the candidate is written as it
will be loaded, loaded, judged beside base and current version, and only then added; it becomes
active if the gate lets it in. Until then the old version answers, whatever happens. A run that was
stopped or killed goes on when the same is asked again. Speaks no coordinates.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from protosam.cases.layouts import find_cases
from protosam.errors import Cancelled, InvalidInput, OutOfMemory, StorageFailure, WeightsRefused
from protosam.learn.adapt_order import AdaptOrder, AdaptResult, Watch
from protosam.learn.adapter_cards import AdapterCard
from protosam.learn.adapters import AdapterStore, AdapterVersion
from protosam.learn.division import Division, divide
from protosam.learn.finished_cases import FinishedCase, OnProgress
from protosam.learn.found_cases import finished
from protosam.learn.fronts import Front, front_of
from protosam.learn.gate import Contender, GateReport
from protosam.learn.judging import Games, games_of, judged
from protosam.learn.lessons import Lesson, lessons_of
from protosam.learn.recipe import (
    STATE,
    Checkpoint,
    RecipeProgress,
    network_of,
    teach,
    with_adapter,
    without_adapter,
)
from protosam.learn.recipe_settings import RecipeSettings, Tier, choose_tier, for_model
from protosam.learn.replay import replayed_cases
from protosam.learn.sentinels import named_sentinels, watchful
from protosam.learn.shift import ShiftSettings, teach_shift
from protosam.learn.shift_examples import examples_of
from protosam.learn.train_shift import weights_of
from protosam.learn.unlabelled.assemble import material_of, pool_of, term_of
from protosam.learn.unlabelled.methods import method_named
from protosam.learn.unlabelled.specialist_run import SpecialistRun
from protosam.learn.unlabelled.term import Material, PoolTerm
from protosam.models.adapter_folder import SHIFT_FILE, loadable
from protosam.models.add_ons import AddOnCard, case_digest
from protosam.models.load import load_model
from protosam.models.lora import save_adapter
from protosam.models.memory_ladder import memory_errors
from protosam.models.shift import save_shift
from protosam.models.slice_model import SliceModel
from protosam.models.weights import make_folder

ENCODED, TAUGHT = 0.2, 0.75
"""How far the work is after encoding and after teaching, for the progress."""

STEPS_DOWN: dict[Tier, Tier] = {"full": "decoder", "decoder": "shift"}
"""What is tried where a tier does not fit into memory."""


def adapt(order: AdaptOrder, watch: Watch) -> AdaptResult:
    """Teach, judge, and keep what is better.

    Raises
    ------
    InvalidInput
        Cases, labels, model or settings that cannot be used; another run of the same name.
    OutOfMemory
        When not even the smallest tier fits.
    WeightsRefused
        When the active version was made for another base.
    Cancelled
        When `watch.should_stop` said so; the same order goes on where it was stopped.
    StorageFailure
        When something cannot be written; the old version stays active.
    ProtoSAMError
        What reading cases and loading models raises.
    """
    store = AdapterStore(order.adapters_dir)
    run = store.folder / ".runs" / order.name
    make_folder(run)
    lock = FileLock(run.parent / f"{order.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InvalidInput(
            f"The adapter {order.name!r} is being taught by another run.",
            "Wait for it, or give another name.",
        ) from error
    try:
        if method_named(order.method).leaves == "specialist":
            return SpecialistRun(order, watch, store, run).carried_out()
        return _Run(order, watch, store, run).carried_out()
    finally:
        lock.release()


class _Run:
    """One run, holding its folder."""

    def __init__(self, order: AdaptOrder, watch: Watch, store: AdapterStore, run: Path) -> None:
        self._order, self._watch, self._store, self._folder = order, watch, store, run
        self._notes: list[str] = []
        self._begun = time.monotonic()
        self._term: PoolTerm | None = None
        self._beside: tuple[str, ...] = (order.method,)

    def carried_out(self) -> AdaptResult:
        """Do the work, in its order."""
        order = self._order
        self._watch.on_progress(0.0, "reading cases")
        found = find_cases(order.cases)
        cases = finished(found, order.labels)
        names = {n: found.data.label_name(n) for case in cases for n in case.wanted}
        division = divide(cases, found.roles, found.patients)
        base = self._loaded(None)
        digest = weights_of(base)
        # What can be refused is refused before the minutes that teaching takes.
        current = self._current(digest)
        known = () if current is None else current.card.held_out
        judges = (
            *watchful(division.judges, known),
            *named_sentinels(order.sentinels, names),
        )
        games = games_of(judges, names, division.validation, base)
        candidate = self._folder / "candidate"
        tier, figures = self._taught(base, digest, division, names, candidate)
        report = self._judged(base, candidate, current, games)
        card = AdapterCard(
            tier=tier,
            base_name=base.name,
            base_sha256=digest,
            labels=tuple(names[n] for n in sorted(names)),
            cases=_digests(division.taught),
            held_out=_digests([one.case for one in judges]),
            seed=order.settings.seed,
            settings={**dataclasses.asdict(self._settings(tier, base)), **self._unlabelled()},
            figures=figures,
            gate=report.to_json(),
            method=order.method,
        )
        version = self._store.add(
            order.name, card, lambda new: _copied(candidate, new), activate=report.accepted
        )
        shutil.rmtree(self._folder, ignore_errors=True)
        seconds = time.monotonic() - self._begun
        return AdaptResult(version, report, tier, seconds, tuple(self._notes), version.pictures)

    def _settings(self, tier: Tier, base: SliceModel) -> RecipeSettings:
        return for_model(dataclasses.replace(self._order.settings, tier=tier), base)

    def _loaded(self, adapter: Path | None) -> SliceModel:
        order = self._order
        return load_model(
            order.model, adapter=adapter, weights_dir=order.weights_dir, device=order.device
        )

    def _taught(
        self,
        base: SliceModel,
        digest: str,
        division: Division,
        names: dict[int, str],
        candidate: Path,
    ) -> tuple[Tier, dict[str, float]]:
        """Write a candidate by the tier that fits; returns the tier and figures of the training."""
        tier = self._order.tier or choose_tier(base.device)
        while True:
            shutil.rmtree(candidate, ignore_errors=True)
            try:
                with memory_errors():
                    if tier == "shift":
                        labels = tuple(names[n] for n in sorted(names))
                        return tier, self._shifted(base, digest, division, labels, candidate)
                    return tier, self._learnt(base, digest, division, tier, candidate)
            except OutOfMemory:
                if tier not in STEPS_DOWN:
                    raise
                self._tell(
                    f"The tier {tier} does not fit into memory; {STEPS_DOWN[tier]} is tried."
                )
                tier = STEPS_DOWN[tier]

    def _learnt(
        self, base: SliceModel, digest: str, division: Division, tier: Tier, candidate: Path
    ) -> dict[str, float]:
        settings, watch = self._settings(tier, base), self._watch
        front = front_of(base, settings.blocks)
        lessons = self._lessons(base, front, division, settings)

        def on_step(now: RecipeProgress) -> None:
            watch.on_step(now)
            done = ENCODED + (TAUGHT - ENCODED) * now.step / now.steps
            text = f"{tier}: step {now.step} of {now.steps}, loss {now.loss:.3f}"
            watch.on_progress(done, f"{text}, {now.seconds_left:.0f} s left{self._alarm()}")

        material = self._material(base, front, division)
        with_adapter(base, settings)
        try:
            if material is not None:
                self._term = term_of(self._order.method, base, material, settings)
            taught = teach(
                base,
                lessons,
                settings,
                checkpoint=Checkpoint(
                    self._folder / STATE,
                    _fingerprint(settings, digest, division.taught, self._beside),
                ),
                on_step=on_step,
                should_stop=watch.should_stop,
                term=self._term,
            )
            save_adapter(network_of(base), candidate, base_sha256=digest)
        finally:
            without_adapter(base)
        last = taught.losses[-max(1, len(taught.losses) // 10) :]
        return {
            "steps": len(taught.losses),
            "loss_first": round(taught.losses[0], 4),
            "loss_last": round(float(np.mean(last)), 4),
            "seconds": round(taught.seconds, 1),
            "slices": len(lessons),
        }

    def _lessons(
        self, base: SliceModel, front: Front, division: Division, settings: RecipeSettings
    ) -> list[Lesson]:
        """Lessons of the cases, and of what is practised beside them."""
        seed, own = settings.seed, settings.examples / (settings.examples + settings.replayed)
        parts = [(division.taught, settings.examples, (0.0, own * ENCODED))]
        if settings.replayed:
            parts.append((tuple(replayed_cases(seed)), settings.replayed, (own * ENCODED, ENCODED)))
        found: list[Lesson] = []
        for cases, count, (low, high) in parts:
            between = self._between(low, high)
            found += lessons_of(cases, base, front, count=count, seed=seed, on_progress=between)
        return found

    def _material(self, base: SliceModel, front: Front, division: Division) -> Material | None:
        """Slices of the images without labels; None for methods that use none."""
        folder = self._order.unlabelled
        if folder is None:
            return None
        pool, notes = pool_of(folder, division)
        self._beside = (self._order.method, *(one.volume.uid for one in pool))
        for note in notes:
            self._tell(note)
        return material_of(
            base, front, division.taught, pool, on_progress=self._between(0.0, ENCODED)
        )

    def _alarm(self) -> str:
        """Text for the progress where images without labels teach no longer."""
        alarm = None if self._term is None else self._term.alarm
        return "" if alarm is None else f"; images without labels left out: {alarm}"

    def _unlabelled(self) -> dict[str, object]:
        """Part of the card about images without labels; notes tell the user."""
        if self._term is None:
            return {}
        report = self._term.report()
        if report["alarm"]:
            self._tell(f"Images without labels were left out in the end: {report['alarm']}.")
        return {"unlabelled": report}

    def _shifted(
        self,
        base: SliceModel,
        digest: str,
        division: Division,
        labels: tuple[str, ...],
        candidate: Path,
    ) -> dict[str, float]:
        if self._order.unlabelled is not None:
            self._term = None  # of a tier that did not fit
            self._tell("The tier shift learns from labels alone: images without were not used.")
        settings = ShiftSettings(seed=self._order.settings.seed)
        between = self._between(0.0, ENCODED)
        examples = examples_of(
            division.taught, base, count=settings.examples, seed=settings.seed, on_progress=between
        )
        between, begun = self._between(ENCODED, TAUGHT), time.monotonic()

        def on_step(step: int, loss: float) -> None:
            left = (time.monotonic() - begun) / step * (settings.steps - step)
            self._watch.on_step(RecipeProgress(step, settings.steps, loss, left))

        taught = teach_shift(base, examples, settings, on_progress=between, on_step=on_step)
        if taught.step == 0:
            self._tell("The shift did not help: this version answers as the model alone does.")
        card = AddOnCard(
            kind="shift",
            base_name=base.name,
            base_sha256=digest,
            labels=labels,
            cases=_digests(division.taught),
            seed=settings.seed,
            settings=dataclasses.asdict(settings),
            figures={"best_step": taught.step},
        )
        make_folder(candidate)
        save_shift(taught.shift, card, candidate / SHIFT_FILE)
        return {"best_step": taught.step, "seconds": round(taught.seconds, 1)}

    def _current(self, base: str) -> AdapterVersion | None:
        name = self._order.name
        if self._store.active_path(name) is None:
            return None
        current = self._store.version(name)
        if current.card.base_sha256 != base:
            raise WeightsRefused(
                f"The adapter {name!r} was made for {current.card.base_name} with SHA-256 "
                f"{current.card.base_sha256}; this base has {base}.",
                "Give an adapter of this model another name.",
            )
        return current

    def _judged(
        self, base: SliceModel, candidate: Path, current: AdapterVersion | None, games: Games
    ) -> GateReport:
        contenders: dict[Contender, Callable[[], SliceModel]] = {"base": lambda: base}
        if current is not None:
            contenders["current"] = partial(self._loaded, current.path)
        contenders["new"] = partial(self._loaded, loadable(candidate))

        def on_progress(done: float, text: str) -> None:
            if self._watch.should_stop():
                raise Cancelled("Stopped at the gate.", "The same command goes on from there.")
            self._watch.on_progress(TAUGHT + (1 - TAUGHT) * done, text)

        return judged(games, contenders, candidate, on_progress)

    def _between(self, low: float, high: float) -> OnProgress:
        """Progress of a part of the work, with a look at whether it is still wanted."""

        def show(done: float, text: str) -> None:
            if self._watch.should_stop():
                raise Cancelled("Stopped before the first step.", "Ask again when there is time.")
            self._watch.on_progress(low + (high - low) * done, text)

        return show

    def _tell(self, note: str) -> None:
        self._notes.append(note)
        self._watch.on_progress(0.0, note)


def _fingerprint(
    settings: RecipeSettings, base: str, cases: Sequence[FinishedCase], beside: tuple[str, ...]
) -> str:
    """Digest of everything that decides a training."""
    told = {
        "settings": dataclasses.asdict(settings),
        "base": base,
        "cases": [[case.image.uid, case.labels.uid, *case.wanted] for case in cases],
        "beside": beside,
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _digests(cases: Sequence[FinishedCase]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(case_digest(case.name) for case in cases))


def _copied(source: Path, target: Path) -> None:
    try:
        for path in sorted(source.iterdir()):
            shutil.copyfile(path, target / path.name)
    except OSError as error:
        raise StorageFailure(
            f"The adapter was not copied to {target}: {error.strerror}.", "Free some space."
        ) from error
