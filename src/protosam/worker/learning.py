"""What the process that teaches does: a request to an order, and what came of it to an answer.

Rules
-----
* The science is `protosam.learn`'s; here are only the wire's forms of it.
* It is imported in the process that teaches and nowhere else: it brings peft and MONAI.
* An answer holds no name of a case. Its pictures show an image and go to the user's own host.
* Figures are Dice scores 0 to 1 and millimetres.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import torch

from protosam.errors import InvalidInput, UnreadableFile, WorkerFailure
from protosam.learn.adapt_order import AdaptOrder, AdaptResult, Verdict, Watch
from protosam.learn.gate import CONTENDERS, Contender, GateReport
from protosam.learn.gated_run import adapt
from protosam.learn.recipe import RecipeProgress
from protosam.learn.recipe_settings import RecipeSettings, Tier
from protosam.learn.unlabelled.methods import DEFAULT
from protosam.wire.messages import Adapt, Adapted, Standing, Taught
from protosam.worker.engine import Follow
from protosam.worker.keeping import info_of
from protosam.worker.teaching_plan import TeachingPlan


def carry_out(plan: TeachingPlan, follow: Follow) -> Adapted:
    """Teach, judge, and say what came of it; sets the number of threads of this process.

    Raises
    ------
    InvalidInput
        A tier that does not exist, or what `learn.adapt_order` refuses.
    ProtoSAMError
        What `learn.gated_run.adapt` raises.
    """
    torch.set_num_threads(plan.threads)
    watch = Watch(follow.on_progress, lambda now: follow.on_taught(_step(now)), follow.should_stop)
    return adapted_of(adapt(order_of(plan), watch))


def order_of(plan: TeachingPlan) -> AdaptOrder:
    """Order that a request means.

    Raises
    ------
    InvalidInput
        A tier that does not exist, or what `learn.adapt_order` refuses.
    """
    request = plan.request
    return AdaptOrder(
        cases=Path(request.cases),
        name=request.name,
        labels=request.labels,
        tier=_tier(request),
        method=request.method or (DEFAULT if request.unlabelled else "labelled"),
        unlabelled=_folder(request.unlabelled),
        sentinels=_folder(request.sentinels),
        adapters_dir=_folder(request.adapters_dir),
        model=plan.model,
        weights_dir=plan.weights_dir,
        device=plan.device,
        settings=RecipeSettings(**plan.recipe),  # type: ignore[arg-type]
    )


def adapted_of(result: AdaptResult) -> Adapted:
    """Answer that a result becomes."""
    return Adapted(
        version=info_of(result.version),
        standings=_standings(result.report),
        checked=_checked(result.report),
        pictures=tuple(_content(path) for path in result.pictures),
        seconds=result.seconds,
        notes=(*_about_wholes(result.report), *result.notes),
    )


def _step(now: RecipeProgress) -> Taught:
    return Taught(now.step, now.steps, now.loss, now.seconds_left)


def _tier(request: Adapt) -> Tier | None:
    for tier in get_args(Tier):
        if tier == request.tier:
            found: Tier = tier
            return found
    if request.tier:
        raise InvalidInput(
            f"There is no tier {request.tier!r:.40}.",
            f"Choose from {', '.join(get_args(Tier))}, or let the machine choose.",
        )
    return None


def _folder(text: str) -> Path | None:
    return Path(text) if text else None


def _standings(report: Verdict) -> tuple[Standing, ...]:
    """How everyone did; a specialist's gate compares by other figures and has none of these."""
    if not isinstance(report, GateReport):
        return ()
    return tuple(_standing(report, who) for who in CONTENDERS)


def _standing(report: GateReport, who: Contender) -> Standing:
    means = report.mean(who)
    return Standing(
        who=who,
        dice_0=means["dice_0"],
        dice_1=_figure(means, "dice_1"),
        dice_3=_figure(means, "dice_3"),
        hd95_mm=_figure(means, "hd95_mm"),
        elsewhere=report.elsewhere(who),
    )


def _about_wholes(report: Verdict) -> tuple[str, ...]:
    if not isinstance(report, GateReport) or not report.wholes:
        return ()
    return (report.about_wholes(),)


def _figure(means: Mapping[str, float | None], name: str) -> float:
    figure = means[name]
    if figure is None:
        raise WorkerFailure(
            f"The gate has not measured {name!r}.", "Report it with the worker's log."
        )
    return figure


def _checked(report: Verdict) -> str:
    if not isinstance(report, GateReport):
        return ""
    checked = report.to_json()["checked"]
    beside = f", and {checked['elsewhere']} that nobody taught" if checked["elsewhere"] else ""
    return f"{report.about_checked()}{beside}"


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableFile(
            f"{path.name} of the new version cannot be read: {error.strerror}.",
            "Look into the folder of the adapters.",
        ) from error
