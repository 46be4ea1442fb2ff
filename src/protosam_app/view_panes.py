"""The panes of the four views: the picture, letters, slider, and what stands over an empty one.

Widgets only, as in `ui`; the letters and numbers are the values `plane_...` of `page_state`.
"""

from __future__ import annotations

from trame.widgets import html
from trame.widgets import vuetify3 as v3
from trame_rca.widgets.rca import RemoteControlledArea

from protosam_app.pieces import act, spoken
from protosam_app.views import COLOURS, PLANES, SPACE

AREAS = {name: f"view_{name}" for name in (*PLANES, SPACE)}
"""Name of each view's area in the page."""

ORDER = ("axial", SPACE, "coronal", "sagittal")
"""Of the panes, row by row."""

TITLES = {"axial": "Axial", "coronal": "Coronal", "sagittal": "Sagittal", SPACE: "3-D"}
"""What stands in the corners."""


def build(name: str) -> None:
    """Build the pane of a view."""
    cursor = "tool === 'window' ? 'ps-resize' : 'ps-cross'" if name != SPACE else "''"
    large = f"enlarged === '{name}' ? 'large' : ''"
    active = f"active_view === '{name}' ? 'active' : ''"
    with html.Div(
        classes=(f"['ps-view', {large}, {active}, {cursor}]",),
        id=f"ps-{name}",
        raw_attrs=spoken(label=f"{TITLES[name]} view"),
    ):
        RemoteControlledArea(
            name=AREAS[name],
            display="image",
            classes="ps-area",
            send_mouse_move=True,
            event_throttle_ms=10,
            image_style=("{width: '100%', height: '100%'}",),
        )
        with html.Div(classes="ps-title"):
            if name != SPACE:
                html.I(style=f"background: {COLOURS[name]}")
            tilted = "" if name == SPACE else f"{{{{ plane_{name}.oblique ? ' (tilted)' : '' }}}}"
            html.Span(f"{TITLES[name]}{tilted}")
        if name == SPACE:
            html.Div(
                "The surface of your segments appears here.",
                v_if=(
                    "volume_id && !surface_count && (first_closed || hint_key !== 'first_click')",
                ),
                classes="ps-none",
            )
            _first_steps()
        else:
            _over_plane(name)
        _corner_buttons(name)


def _over_plane(name: str) -> None:
    plane = f"plane_{name}"
    for side in ("top", "bottom", "left", "right"):
        html.Span(f"{{{{ {plane}.{side} }}}}", classes=f"ps-letter {side}")
    with html.Div(classes="ps-slider", v_if=(f"{plane}.count > 1",)):
        v3.VSlider(
            model_value=(f"{plane}.index",),
            min=0,
            max=(f"{plane}.count - 1",),
            step=1,
            hide_details=True,
            density="compact",
            thumb_size=12,
            track_size=2,
            color=COLOURS[name],
            track_color="#3a434b",
            raw_attrs=spoken(label=f"{TITLES[name]} slice"),
            update_modelValue=act("set_slice", f"'{name}'", "$event"),
        )
        html.Span(f"{{{{ {plane}.index + 1 }}}} / {{{{ {plane}.count }}}}", classes="ps-number")


def _corner_buttons(name: str) -> None:
    with (
        html.Div(classes="ps-corner"),
        v3.VBtn(
            icon=True,
            size="x-small",
            variant="text",
            click=act("enlarge", f"'{name}'"),
            raw_attrs=spoken(label=f"Enlarge the {TITLES[name]} view"),
        ),
    ):
        v3.VIcon(icon=("enlarged ? 'mdi-arrow-collapse' : 'mdi-arrow-expand'",))
        v3.VTooltip("Enlarge, or show all (F)", activator="parent", location="left")


def _first_steps() -> None:
    shown = "!surface_count && hint_key === 'first_click' && !first_closed"
    with html.Div(classes="ps-first", v_if=(shown,)):
        v3.VIcon("mdi-cursor-default-click-outline", color="primary", size=28)
        with html.Div():
            html.B("Click inside an organ.")
            html.Span(
                " It is filled in all slices. Then click what is missing, and Ctrl+click what is "
                "too much. The wheel goes through the slices; the keys are under ?"
            )
            html.Div(
                "For trying out, not for diagnosis: ProtoSAM is not a medical device.",
                classes="ps-quiet ps-small",
            )
        v3.VBtn(
            icon="mdi-close",
            size="x-small",
            variant="text",
            click="first_closed = true",
            raw_attrs=spoken(label="Close"),
        )
