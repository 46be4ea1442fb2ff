"""Examples in the panel on the left: learn, apply, and review what is proposed slice by slice.

Widgets only, as in `ui`; values come from `page_state`, actions are the names of `actions`.
"""

from __future__ import annotations

from trame.widgets import html
from trame.widgets import vuetify3 as v3

from protosam_app.pieces import act, head, mini, spoken


def build() -> None:
    """Build the two sections."""
    with html.Section(classes="ps-section", v_if=("volume_id",), id="ps-examples"):
        with head("Examples"):
            v3.VBtn(
                "Load",
                size="x-small",
                variant="text",
                prepend_icon="mdi-folder-open-outline",
                click="window.protosam.pick(false)",
                id="ps-example-load",
            )
        _shelf()
        _buttons()
        _progress()
    with html.Section(classes="ps-section", v_if=("proposals.length || strip.length",)):
        with head("Review"):
            html.Span("{{ proposals.length }}", v_if=("proposals.length",), classes="ps-quiet")
        _rows()
        _strip()


def _shelf() -> None:
    with (
        html.Div(v_if=("examples.length",), classes="ps-shelf"),
        html.Div(v_for="one in examples", key="one.id", classes="ps-row ps-example"),
    ):
        v3.VCheckboxBtn(
            model_value=("one.chosen",),
            density="compact",
            color="primary",
            raw_attrs=spoken(label=("'Apply ' + one.name",)),
            classes="ps-choose",
            update_modelValue=act("example_choose", "one.id", "$event"),
        )
        html.Span("{{ one.name }}", classes="ps-name", title=("one.name",))
        mini("mdi-download-outline", "Save as a file", "window.protosam.saveExample(one.id)")
        mini("mdi-close", "Take away", act("example_forget", "one.id"))
    html.Div(
        "A finished case proposes the segments of the next one.",
        v_if=("!examples.length",),
        classes="ps-quiet ps-small mb-1",
    )


def _buttons() -> None:
    with html.Div(classes="ps-pair"):
        with v3.VBtn(
            "Use as example",
            variant="tonal",
            disabled=("!can_make",),
            click=act("example_make"),
            id="ps-example-make",
        ):
            v3.VTooltip(
                "Learn the visible segments of this volume",
                activator="parent",
                location="top",
                open_delay=500,
            )
        with v3.VBtn(
            "Apply example",
            variant="tonal",
            color="primary",
            disabled=("!can_apply || !!example_phase || !examples.some(one => one.chosen)",),
            click=act("example_apply"),
            id="ps-example-apply",
        ):
            v3.VTooltip(
                "Propose the segments in this volume",
                activator="parent",
                location="top",
                open_delay=500,
            )


def _progress() -> None:
    with html.Div(classes="ps-row mt-2", v_if=("example_phase",), id="ps-example-progress"):
        with html.Div(classes="ps-grow", style="min-width: 0"):
            v3.VProgressLinear(
                model_value=("example_progress",),
                height=3,
                color="primary",
                raw_attrs=spoken(label="Progress of the example"),
            )
            html.Div(
                "{{ example_text || (example_phase === 'making' ? 'Learning' : 'Applying') }}",
                classes="ps-quiet ps-small ps-cut",
                raw_attrs=spoken(live="polite"),
            )
        v3.VBtn(
            "Cancel",
            size="x-small",
            variant="text",
            click=act("example_cancel"),
            id="ps-example-cancel",
        )


def _rows() -> None:
    with (
        html.Div(
            classes="ps-proposals", raw_attrs=spoken(role="listbox", label="Proposals to review")
        ),
        html.Div(
            v_for="one in proposals",
            key="one.segment_id",
            classes=("['ps-segment', one.segment_id === segment_id ? 'chosen' : '']",),
            tabindex=0,
            raw_attrs=[
                *spoken(role="option", selected=("one.segment_id === segment_id",)),
                f'@keydown.enter="{act("proposal_select", "one.segment_id")}"',
            ],
            click=act("proposal_select", "one.segment_id"),
        ),
    ):
        html.I(classes="ps-level", style=("`background: ${one.colour}`",))
        html.Span("{{ one.name }}", classes="ps-name")
        html.Span("{{ one.doubtful ? one.doubtful + ' doubtful' : one.decision }}", classes="ps-ml")
        mini("mdi-check", "Accept", act("proposal_accept", "one.segment_id"))
        mini("mdi-close", "Reject", act("proposal_reject", "one.segment_id"))


def _strip() -> None:
    with html.Div(v_if=("strip.length",), classes="mt-1"):
        with html.Div(
            classes="ps-strip",
            id="ps-strip",
            raw_attrs=spoken(role="group", label="Confidence of each slice"),
        ):
            html.Button(
                v_for="one in strip",
                key="one.index",
                classes=("['ps-slice', one.index === strip_here ? 'here' : '']",),
                raw_attrs=[
                    ':title="`Slice ${one.index + 1}: ${one.text}`"',
                    ':aria-label="`Slice ${one.index + 1}, ${one.text}`"',
                    ':data-slice="one.index"',
                    ":style=\"{'--level': one.level, '--colour': one.colour}\"",
                ],
                click=act("strip", "one.index"),
            )
        with html.Div(classes="ps-range"):
            html.Span("{{ strip_first + 1 }}")
            html.Span("{{ strip_text }}", id="ps-strip-text")
            html.Span("{{ strip_last + 1 }}")
        with html.Div(classes="ps-row mt-1"):
            with v3.VBtn(
                "Most doubtful slice",
                variant="tonal",
                size="small",
                prepend_icon="mdi-magnify-scan",
                classes="ps-grow",
                click=act("doubtful"),
                id="ps-doubtful",
            ):
                v3.VTooltip(
                    "Again: the next one (D)", activator="parent", location="bottom", open_delay=500
                )
            _decide("accept", "mdi-check", "Accept this proposal", "success")
            _decide("reject", "mdi-close", "Reject this proposal", "error")


def _decide(name: str, icon: str, label: str, colour: str) -> None:
    with v3.VBtn(
        icon=True,
        size="x-small",
        variant="tonal",
        color=colour,
        v_if=("proposal_open",),
        raw_attrs=spoken(label=label),
        click=act(f"proposal_{name}"),
        id=f"ps-{name}",
    ):
        v3.VIcon(icon)
        v3.VTooltip(label, activator="parent", location="bottom", open_delay=500)
