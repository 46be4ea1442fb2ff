"""Adapt in the panel on the left: keep corrected cases, teach, judge, and choose what is used.

Widgets only, as in `ui`; values come from `adapting`, actions are the names of `actions`. What is
typed about a patient stands in its field alone until it is sent with *Save corrected case*.
"""

from __future__ import annotations

from collections.abc import Sequence

from trame.widgets import html
from trame.widgets import vuetify3 as v3

from protosam_app.pieces import act, folding_head, mini, spoken

TIERS = (
    ("", "Automatic"),
    ("shift", "Shift"),
    ("decoder", "Decoder"),
    ("full", "Full"),
)
"""How much of the model learns."""

TIERS_TIP = "How much of the model learns. Shift: seconds; Decoder: minutes; Full: for a GPU"

LINES = (("truth", "Truth"), ("before", "Before"), ("now", "Now"))
"""Lines in the pictures; their colours are the style sheet's."""

OWN: dict[str, object] = {
    "adapt_open": False,
    "adapt_typed": "",
    "adapt_name": "",
    "adapt_tier": "",
    "adapt_unlabelled": "",
    "adapt_discard": None,
}
"""Values of this panel that never leave the browser; see `ui.OWN_TO_EACH_WINDOW`."""


def build() -> None:
    """Build the section."""
    with html.Section(classes="ps-section", id="ps-adapt"):
        with folding_head("Adapt", "adapt_open", "ps-adapt-body", act("adapt_look")):
            html.Span("{{ adapt_short }}", classes="ps-quiet ps-plain")
        with html.Div(v_if=("adapt_open",), id="ps-adapt-body"):
            _cases()
            _order()
            _progress()
            _verdict()
            _words()
            _versions()
    _confirmation()


def _cases() -> None:
    # A field that the server writes into would lose what is being typed at its next word.
    _field(
        "Folder of cases on this machine",
        "ps-adapt-folder",
        [
            '@vue:mounted="adapt_typed = adapt_folder"',
            '@keydown.enter="$event.target.blur()"',
        ],
        v_model=("adapt_typed",),
        title=("adapt_typed",),
        change=act("adapt_folder", "adapt_typed"),
    )
    with html.Div(classes="ps-row", v_if=("adapt_cases",)):
        html.Span(
            "{{ adapt_cases }}",
            classes="ps-quiet ps-small ps-grow",
            id="ps-adapt-cases",
            raw_attrs=spoken(live="polite"),
        )
        mini("mdi-refresh", "Look into the folder again", act("adapt_look"))
    # The form is another one for each volume, so that no patient is given to the next image.
    save = act("adapt_save", "$event.target.patient.value")
    with html.Form(
        v_if=("volume_id",), key=("volume_id",), raw_attrs=[f'@submit.prevent="{save}"']
    ):
        _save()


def _save() -> None:
    _field(
        "Patient: any text, only a hash of it is kept",
        "ps-adapt-patient",
        name="patient",
        maxlength=200,
        placeholder=(
            "adapt_patient_known ? 'Patient: as the header says, or any text' : "
            "'Patient (any text; only a hash is kept)'",
        ),
    )
    with (
        html.Div(classes="ps-block mt-1"),
        v3.VBtn(
            "Save corrected case",
            variant="tonal",
            block=True,
            disabled=("!adapt_can_save",),
            loading=("adapt_saving",),
            raw_attrs=['type="submit"'],
            id="ps-adapt-save",
        ),
    ):
        _tip("Keep this image and its visible segments in the folder")


def _order() -> None:
    with html.Div(classes="ps-row mt-2"):
        _field("Name of the adapter", "ps-adapt-name", v_model=("adapt_name",), maxlength=64)
        with html.Select(
            v_model=("adapt_tier",),
            classes="ps-field ps-tier mt-1",
            id="ps-adapt-tier",
            title=TIERS_TIP,
            raw_attrs=spoken(label="Tier: how much of the model learns"),
        ):
            for value, title in TIERS:
                html.Option(title, value=value)
    _field(
        "Folder of images without labels (optional)",
        "ps-adapt-unlabelled",
        v_model=("adapt_unlabelled",),
        placeholder="Images without labels (optional)",
    )
    order = act("adapt_start", "adapt_name", "adapt_tier", "adapt_unlabelled")
    with html.Div(classes="ps-pair mt-1"):
        with v3.VBtn(
            "Teach",
            variant="tonal",
            color="primary",
            disabled=("!adapt_can_start",),
            click=order,
            id="ps-adapt-start",
        ):
            _tip("Learn from the cases; what is worse than before is not let in")
        v3.VBtn(
            "{{ adapt_phase === 'stopping' ? 'Stopping' : 'Stop' }}",
            variant="tonal",
            disabled=("adapt_phase !== 'running'",),
            click=act("adapt_stop"),
            id="ps-adapt-stop",
        )


def _progress() -> None:
    with html.Div(classes="mt-2", v_if=("adapt_phase",), id="ps-adapt-progress"):
        v3.VProgressLinear(
            model_value=("adapt_progress",),
            height=3,
            color="primary",
            raw_attrs=spoken(label="Progress of the run"),
        )
        with html.Div(classes="ps-row ps-small ps-quiet"):
            html.Span("{{ adapt_text }}", classes="ps-grow ps-cut", title=("adapt_text",))
            html.Span("{{ adapt_left }}", classes="ps-left", id="ps-adapt-left")
    with html.Figure(v_if=("adapt_curve.points",), classes="ps-curve mt-2"):
        html.Svg(
            '<polyline class="each" :points="adapt_curve.points" />'
            '<polyline :points="adapt_curve.means" />',
            id="ps-adapt-curve",
            raw_attrs=[
                'viewBox="0 0 100 40"',
                'preserveAspectRatio="none"',
                *spoken(role="img", label=("adapt_curve.text",)),
            ],
        )
        with html.Figcaption(classes="ps-range"):
            html.Span("loss {{ adapt_curve.first }}")
            html.Span("{{ adapt_curve.steps }}")
            html.Span("{{ adapt_curve.last }}")


def _words() -> None:
    """Message of the last action, with what to do next."""
    with (
        html.Div(raw_attrs=spoken(live="polite"), id="ps-adapt-words"),
        html.Div(v_if=("adapt_note",), classes="ps-said mt-1"),
    ):
        v3.VIcon(
            icon=(
                "adapt_level === 'info' ? 'mdi-information-outline' : 'mdi-alert-circle-outline'",
            ),
            size=16,
            color=("adapt_level",),
        )
        html.Span("{{ adapt_note }}")


def _verdict() -> None:
    with html.Div(v_if=("adapt_verdict",), classes="mt-2", id="ps-adapt-verdict"):
        with html.Div(classes="ps-row"):
            v3.VIcon(
                icon=("adapt_verdict.accepted ? 'mdi-check-circle' : 'mdi-close-circle'",),
                size=18,
                color=("adapt_verdict.accepted ? 'success' : 'error'",),
            )
            html.Strong("{{ adapt_verdict.title }}", classes="ps-small")
        html.Div("{{ adapt_verdict.reason }}", classes="ps-small")
        _table()
        html.Div("{{ adapt_verdict.checked }}", classes="ps-quiet ps-small")
        html.Div(
            "{{ one }}",
            v_for="one in adapt_verdict.notes",
            key="one",
            classes="ps-quiet ps-small",
        )
        with html.Div(v_if=("adapt_verdict.pictures.length",)):
            with html.Div(classes="ps-row ps-small ps-quiet ps-lines"):
                for who, title in LINES:
                    html.I(classes=f"ps-line {who}")
                    html.Span(title)
                html.Span("after one click", classes="ps-grow text-right")
            _pictures()


def _pictures() -> None:
    with (
        html.Div(classes="ps-pictures"),
        html.A(
            v_for="one in adapt_verdict.pictures",
            key="one.address",
            href=("one.address",),
            target="_blank",
            raw_attrs=[':title="`${one.text}: open it larger`"'],
        ),
    ):
        html.Img(src=("one.address",), alt=("one.text",))


def _table() -> None:
    heads = ("Clicks", "0", "1", "3", "HD95 mm")
    with html.Table(classes="ps-table", raw_attrs=spoken(label="Dice after 0, 1 and 3 clicks")):
        with html.Thead(), html.Tr():
            for title in heads:
                html.Th(title, raw_attrs=['scope="col"'])
        with (
            html.Tbody(),
            html.Tr(v_for="one in adapt_verdict.rows", key="one.name", classes=("one.who",)),
        ):
            html.Th("{{ one.name }}", raw_attrs=['scope="row"'])
            html.Td("{{ figure }}", v_for="(figure, n) in one.figures", key="n")


def _versions() -> None:
    html.Div("Adapters", v_if=("adapt_versions.length",), classes="ps-quiet ps-small mt-2")
    with (
        html.Div(
            v_if=("adapt_versions.length",),
            classes="ps-shelf",
            id="ps-adapt-versions",
            raw_attrs=spoken(role="list", label="Versions of adapters"),
        ),
        html.Div(
            v_for="one in adapt_versions",
            key="one.key",
            classes="ps-row ps-example",
            raw_attrs=spoken(role="listitem"),
        ),
    ):
        v3.VIcon(
            icon=("one.active ? 'mdi-star' : 'mdi-star-outline'",),
            size=15,
            color=("one.active ? 'primary' : 'secondary'",),
            title=("one.active ? 'Active' : one.accepted ? 'Not active' : 'Rejected'",),
        )
        html.Span("{{ one.short }}", classes="ps-name", title=("one.text",))
        html.Span("{{ one.figures }}", classes="ps-ml")
        _row_buttons()
    v3.VSwitch(
        v_if=("adapt_offer",),
        model_value=("!!adapt_used",),
        label=("`Use adapter ${adapt_offer}`",),
        density="compact",
        hide_details=True,
        color="primary",
        classes="ps-check ps-switch",
        id="ps-adapt-use",
        update_modelValue=act("adapt_use", "$event ? adapt_offer : ''"),
    )


def _row_buttons() -> None:
    mini(
        "one.used ? 'mdi-check-circle' : 'mdi-check-circle-outline'",
        "Use it for the next answers",
        act("adapt_use", "one.name"),
        v_if=("one.active",),
        classes=("['ps-mini', one.used ? 'on' : '']",),
    )
    mini("mdi-undo-variant", "Roll back", act("adapt_back", "one.name"), v_if=("one.active",))
    mini(
        "mdi-star-plus-outline",
        "Activate this version",
        act("adapt_activate", "one.name", "one.number"),
        v_if=("!one.active",),
    )
    mini("mdi-trash-can-outline", "Discard", "adapt_discard = one", v_if=("!one.active",))


def _confirmation() -> None:
    with (
        v3.VDialog(
            model_value=("!!adapt_discard",),
            max_width=360,
            update_modelValue="adapt_discard = $event ? adapt_discard : null",
        ),
        v3.VCard(classes="pa-3", v_if=("adapt_discard",)),
    ):
        html.Div("Discard {{ adapt_discard.title }}? It cannot be brought back.")
        with html.Div(classes="ps-row mt-3"):
            html.Div(classes="ps-grow")
            v3.VBtn("Keep it", size="small", variant="text", click="adapt_discard = null")
            v3.VBtn(
                "Discard",
                size="small",
                variant="tonal",
                color="error",
                click=act("adapt_discard", "adapt_discard.name", "adapt_discard.number")
                + "; adapt_discard = null",
                id="ps-adapt-discard",
            )


def _field(label: str, id: str, script: Sequence[str] = (), **more: object) -> None:
    """Field for a line of text; its label stands in it while it is empty."""
    html.Input(
        type="text",
        autocomplete="off",
        spellcheck="false",
        classes="ps-field mt-1",
        id=id,
        raw_attrs=[*spoken(label=label), *script],
        **{"placeholder": label, **more},
    )


def _tip(text: str) -> None:
    v3.VTooltip(text, activator="parent", location="top", open_delay=500)
