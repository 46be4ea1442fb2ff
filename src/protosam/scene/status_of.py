"""The status of a controller, gathered from where its parts stand.

Owns the order in which hints come: what prevents clicking, then what was just tried in vain, then
what became of the last answer. Reads only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protosam.prompts import Box, Point, PromptSet
from protosam.scene.desk import Desk
from protosam.scene.editing import Place
from protosam.scene.grids import Node
from protosam.scene.sessions import Session
from protosam.scene.status import HINTS, TEXTS, PromptRow, Status

Translate = Callable[[str], str]


def status_of(
    place: Place, desk: Desk, session: Session | None, slip: str, translate: Translate
) -> Status:
    """Status of now.

    Parameters
    ----------
    place : Place
    desk : Desk
    session : Session or None
        Of the selected segment.
    slip : str
        Key of the hint about what was just tried in vain; empty = nothing was.
    translate : callable
    """
    selection, state = place.selection, desk.client.state
    key = selection.problem or slip or _hint_key(place, session)
    job = None if session is None else session.job
    last = None if session is None else session.last
    wanted = PromptSet() if session is None else session.wanted
    unanswered = frozenset() if session is None else session.unanswered
    ready, stats = state.ready, desk.stats
    return Status(
        worker=state.phase,
        worker_text=state.text,
        model=stats.model if stats is not None else (ready.model if ready else ""),
        device=stats.device if stats is not None else (ready.device if ready else ""),
        memory_mb=None if stats is None else stats.memory_mb,
        busy=job is not None,
        progress=None if job is None else job.progress,
        progress_text="" if job is None else job.progress_text,
        hint=translate(HINTS[key]).format(detail=selection.detail),
        hint_key=key,
        can_click=not selection.problem,
        can_cancel=job is not None or bool(unanswered),
        can_clear=not selection.problem and not wanted.is_empty,
        volume_name=_name(selection.volume_node),
        segment_name=_name(selection.segment),
        prompts=_rows(wanted, unanswered, translate),
        score=None if last is None else last.score,
        notes=() if last is None else last.notes,
        window=None if last is None else (last.window.low, last.window.high),
        elapsed_s=None if last is None else last.timings_s.get("total"),
        clean_up="" if last is None else last.clean_up.in_words(translate),
    )


def _hint_key(place: Place, session: Session | None) -> str:
    source = place.selection.source
    if session is None:
        return "no_segment"
    if session.job is not None:
        return "working"
    if source is not None and session.is_elsewhere(source):
        return "other_volume"
    if session.hint and session.hint != "working":
        return session.hint
    return "first_click" if session.wanted.is_empty else "refine"


def _rows(
    prompts: PromptSet, unanswered: frozenset[str], translate: Translate
) -> tuple[PromptRow, ...]:
    rows: list[PromptRow] = []
    everything: tuple[Any, ...] = (*prompts.points, *prompts.boxes)
    for one in everything:
        is_point = isinstance(one, Point)
        rows.append(
            PromptRow(
                id=one.id,
                kind="point" if is_point else "box",
                positive=one.positive if is_point else True,
                text=_text(one, translate),
                answered=one.id not in unanswered,
            )
        )
    return tuple(rows)


def _text(prompt: Point | Box, translate: Translate) -> str:
    if isinstance(prompt, Point):
        k, j, i = prompt.voxel_kji
        text = TEXTS["inside" if prompt.positive else "outside_point"]
        return translate(text).format(k=k, j=j, i=i)
    low, high = prompt.low_kji, prompt.high_kji
    numbers = dict(zip(("k", "j", "i", "k2", "j2", "i2"), (*low, *high), strict=True))
    return translate(TEXTS["box"]).format(**numbers)


def _name(node: Node) -> str:
    return "" if node is None else str(node.GetName() or "")
