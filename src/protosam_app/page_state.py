"""What the page shows, as plain values by name, read from the scene and the controller's status.

Rules
-----
* Reading only; the same scene gives the same values. Who pushes them to a browser is not known.
* Names here are the names in the page's templates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from protosam.scene import SURE, Controller, Status, StripSlice
from protosam_app.segments import Segments, ml_of
from protosam_app.shelf import Shelf
from protosam_app.stage import Stage
from protosam_app.views import PLANES, Views

Values = dict[str, object]

WORKER_TEXTS = {
    "stopped": "Not started",
    "starting": "Starting",
    "ready": "Ready",
    "refused": "Not working",
    "closed": "Closed",
}

CT_WINDOWS: tuple[tuple[str, float, float], ...] = (
    ("Soft tissue", -160.0, 240.0),
    ("Lung", -1350.0, 150.0),
    ("Bone", -450.0, 1050.0),
    ("Brain", 0.0, 80.0),
)
"""Windows by name, in HU."""


LEVELS: tuple[tuple[float, str], ...] = (
    (SURE / 2, "#ff5c5c"),
    (SURE, "#ff9f4a"),
    ((1 + SURE) / 2, "#e3d15b"),
    (float("inf"), "#3fcf78"),
)
"""Colours of confidences below a limit; the first two are doubtful."""

CHECKED_COLOUR = "#6fa8ff"
"""Slices in which the user has clicked."""


def status_values(status: Status, last_ms: int | None) -> Values:
    """Hint line, status chip, list of prompts."""
    progress = -1 if status.progress is None else round(100 * status.progress)
    word = "Working" if status.busy and status.worker == "ready" else WORKER_TEXTS[status.worker]
    parts = [word, status.model, "" if last_ms is None else _time_text(last_ms)]
    memory = "" if status.memory_mb is None else f"{status.memory_mb:.0f} MB"
    details = [
        ("Model", status.model),
        ("Device", status.device),
        ("Memory of the worker", memory),
        ("Last answer", "" if last_ms is None else _time_text(last_ms)),
        ("of it in the worker", _seconds_text(status.elapsed_s)),
        ("Model's own estimate", "" if status.score is None else f"{status.score:.2f}"),
        ("Contrast it saw", _window_text(status.window)),
    ]
    return {
        "hint": status.hint,
        "hint_key": status.hint_key,
        "busy": status.busy,
        "progress": progress,
        "progress_text": status.progress_text,
        "can_cancel": status.can_cancel,
        "can_clear": status.can_clear,
        "notes": list(status.notes),
        "clean_up": status.clean_up,
        "worker": status.worker,
        "chip": "  ·  ".join(part for part in parts if part),
        "chip_text": status.worker_text,
        "chip_rows": [{"name": name, "text": text} for name, text in details if text],
        "prompts": [asdict(row) for row in status.prompts],
        "model_loaded": status.model,
    }


def scene_values(stage: Stage, segments: Segments, counts: Mapping[str, int]) -> Values:
    """Volumes, segments and how they are shown."""
    grid = segments.grid()
    rows: list[Values] = []
    for row in segments.rows():
        ml = "" if grid is None else _ml_text(ml_of(counts.get(row.id, 0), grid))
        rows.append({**asdict(row), "ml": ml})
    display = stage.display()
    window: Values = {"window_low": 0.0, "window_high": 1.0, "range_low": 0.0, "range_high": 1.0}
    if display is not None:
        window = {
            "window_low": _short(display.low),
            "window_high": _short(display.high),
            "range_low": _short(display.range_low),
            "range_high": _short(display.range_high),
        }
    fill, outline = stage.layers()
    presets = CT_WINDOWS if display is not None and display.is_ct else ()
    return {
        "volumes": [{"id": one.GetID(), "name": one.GetName()} for one in stage.volumes],
        "volume_id": "" if stage.volume is None else stage.volume.GetID(),
        "segments": rows,
        "segment_id": segments.selected,
        "has_mask": any(counts.get(one, 0) for one in segments.ids()),
        "keep_others": segments.keeps_others,
        "can_undo": bool(stage.logic.CanUndo()),
        "can_redo": bool(stage.logic.CanRedo()),
        "scope": stage.setting("Scope"),
        "layer_opacity": fill,
        "layer_outline": outline,
        "model_window": stage.setting("Window"),
        "smoothing_mm": float(stage.setting("SmoothingMm")),
        "bodies": int(stage.setting("Bodies")),
        "presets": [{"name": name, "low": low, "high": high} for name, low, high in presets],
        **window,
    }


def example_values(controller: Controller, shelf: Shelf, views: Views) -> Values:
    """Examples at hand, what goes on with them, and the review."""
    status = controller.status.examples
    strip = status.strip
    here = controller.strip_index(views.cursor()) if strip else None
    chosen = next((one for one in strip if one.index == here), None)
    return {
        "examples": [
            {"id": one.id, "name": one.name, "chosen": one.chosen} for one in shelf.entries
        ],
        "example_phase": status.phase,
        "example_progress": round(100 * status.progress),
        "example_text": status.progress_text,
        "can_make": status.can_make,
        "can_apply": status.can_apply,
        "proposals": [
            {**asdict(one), "colour": level_colour(one.confidence)} for one in status.rows
        ],
        "proposal_open": status.selected is not None and status.selected.decision != "accepted",
        "strip": [
            {
                "index": one.index,
                "level": round(one.confidence, 2),
                "colour": CHECKED_COLOUR if one.checked else level_colour(one.confidence),
                "text": _slice_text(one),
            }
            for one in strip
        ],
        "strip_here": -1 if here is None else here,
        "strip_first": strip[0].index if strip else 0,
        "strip_last": strip[-1].index if strip else 0,
        "strip_text": "" if chosen is None else f"{chosen.index + 1}: {_slice_text(chosen)}",
    }


def level_colour(confidence: float) -> str:
    """Colour of a confidence, from red to green."""
    return next(colour for limit, colour in LEVELS if confidence < limit)


def _slice_text(one: StripSlice) -> str:
    return "checked" if one.checked else f"confidence {one.confidence:.2f}"


def view_values(views: Views) -> Values:
    """Letters and slice numbers of the planes."""
    return {f"plane_{name}": asdict(views.plane(name)) for name in PLANES}


def _time_text(ms: int) -> str:
    return f"{ms} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def _seconds_text(seconds: float | None) -> str:
    return "" if seconds is None else _time_text(round(1000 * seconds))


def _window_text(window: tuple[float, float] | None) -> str:
    return "" if window is None else f"{window[0]:g} to {window[1]:g}"


def _ml_text(ml: float) -> str:
    if ml == 0:
        return "empty"
    return f"{ml:.0f} ml" if ml >= 100 else f"{ml:.1f} ml" if ml >= 1 else f"{ml:.2f} ml"


def _short(number: float) -> float:
    """As many digits as a slider needs."""
    return float(f"{number:.5g}")
