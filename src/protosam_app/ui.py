"""The page: its frame, the bar on top, the views, the hint line, the sheets that open over it.

Rules
-----
* Widgets and where they stand; what they show are the values of `page_state`, what they do are the
  names of `actions`. No behaviour is written here.
* The panel on the left is in `side_panel`.
"""

from __future__ import annotations

from typing import Any

from trame.ui.vuetify3 import VAppLayout
from trame.widgets import html
from trame.widgets import vuetify3 as v3

from protosam_app import adapt_panel, side_panel, view_panes
from protosam_app.pieces import act, spoken

THEME = {
    "theme": {
        "defaultTheme": "protosam",
        "themes": {
            "protosam": {
                "dark": True,
                "colors": {
                    "background": "#0e1113",
                    "surface": "#1c2126",
                    "primary": "#4fc3cf",
                    "secondary": "#8b97a3",
                    "error": "#ff5c5c",
                    "warning": "#ffb454",
                    "info": "#6fa8ff",
                    "success": "#3fcf78",
                },
            }
        },
    }
}

OWN_TO_EACH_WINDOW: dict[str, object] = {
    "help_open": False,
    "first_closed": False,
    "upload_percent": -1,
    "saving": False,
    "rename_id": "",
    "rename_text": "",
    **adapt_panel.OWN,
}
"""Values that never leave the browser, so that two windows do not open each other's sheets."""


def build(server: Any, icon: str) -> None:
    """Build the page.

    Parameters
    ----------
    server : trame Server
    icon : str
        Address of the icon.
    """
    with VAppLayout(server, vuetify_config=THEME) as layout:
        layout.root.theme = "protosam"
        with html.Div(classes="ps-page"):
            _bar(icon)
            side_panel.build()
            _views()
            _hint_line()
        _help_sheet()
        with html.Div(classes="ps-drop"):
            html.Div("Drop images, a DICOM folder or a zip file to open them")


def _bar(icon: str) -> None:
    with html.Header(classes="ps-bar"):
        with html.Div(classes="ps-brand"):
            html.Img(src=icon, alt="")
            html.Span("ProtoSAM", classes="ps-wide")
        _volume_picker()
        _open_menu()
        _save_menu()
        html.Div(classes="ps-grow")
        _model_picker()
        _status_chip()
        with v3.VBtn(
            icon=True,
            size="small",
            variant="text",
            click="help_open = true",
            raw_attrs=spoken(label="Help"),
        ):
            v3.VIcon("mdi-help-circle-outline")
            v3.VTooltip("Keys and mouse (?)", activator="parent", location="bottom")


def _volume_picker() -> None:
    v3.VSelect(
        model_value=("volume_id",),
        items=("volumes",),
        item_title="name",
        item_value="id",
        density="compact",
        variant="solo",
        flat=True,
        hide_details=True,
        placeholder="No volume",
        prepend_inner_icon="mdi-cube-outline",
        raw_attrs=spoken(label="Volume"),
        classes="ps-volume",
        update_modelValue=act("volume", "$event"),
    )


def _model_picker() -> None:
    v3.VSelect(
        model_value=("model_loaded",),
        items=(
            "models.map(one => ({title: one.name, value: one.name, props: {disabled: "
            "!one.available, subtitle: one.available ? one.licence : 'not installed'}}))",
        ),
        density="compact",
        variant="solo",
        flat=True,
        hide_details=True,
        placeholder="Model",
        prepend_inner_icon="mdi-brain",
        raw_attrs=spoken(label="Model"),
        classes="ps-model",
        update_modelValue=act("model", "$event"),
    )


def _open_menu() -> None:
    with v3.VMenu():
        with v3.Template(v_slot_activator="{ props }"):
            v3.VBtn(
                "Open",
                v_bind="props",
                prepend_icon="mdi-folder-open-outline",
                variant="tonal",
                size="small",
                height=32,
                id="ps-open",
            )
        with v3.VList(density="compact"):
            v3.VListItem(
                title="Image file or zip …",
                subtitle="NIfTI, NRRD, MetaImage, DICOM in a zip",
                prepend_icon="mdi-file-outline",
                click="window.protosam.pick(false)",
            )
            v3.VListItem(
                title="DICOM folder …",
                prepend_icon="mdi-folder-outline",
                click="window.protosam.pick(true)",
            )
            v3.VListItem(
                title="Practice volume",
                subtitle="A computed abdomen",
                prepend_icon="mdi-school-outline",
                click="trame.trigger('phantom')",
            )
            v3.VDivider()
            v3.VListItem(
                title="Close this volume",
                subtitle="Its segments go, too",
                prepend_icon="mdi-close",
                disabled=("!volume_id",),
                click=act("close_volume"),
            )


def _save_menu() -> None:
    with v3.VMenu():
        with v3.Template(v_slot_activator="{ props }"):
            v3.VBtn(
                "Save",
                v_bind="props",
                prepend_icon="mdi-download-outline",
                variant="tonal",
                size="small",
                height=32,
                loading=("saving",),
                disabled=("!has_mask",),
                id="ps-save",
            )
        with v3.VList(density="compact"):
            v3.VListItem(
                title="Segmentation (.seg.nrrd)",
                subtitle="For 3D Slicer: names, colours, overlaps",
                click="window.protosam.save('seg')",
            )
            v3.VListItem(
                title="Labelmap (.nii.gz)",
                subtitle="1, 2, 3 … in the order of the list",
                click="window.protosam.save('labelmap')",
            )


def _status_chip() -> None:
    with v3.VMenu(close_on_content_click=False):
        with (
            v3.Template(v_slot_activator="{ props }"),
            v3.VBtn(
                v_bind="props",
                variant="text",
                size="small",
                height=32,
                classes="ps-chip",
                id="ps-chip",
                raw_attrs=spoken(label="State of the worker"),
            ),
        ):
            html.Span(classes=("`ps-dot ${busy ? 'busy' : worker}`",))
            html.Span("{{ chip }}")
        with v3.VCard(classes="pa-3", min_width=260):
            html.Div("{{ chip_text }}", v_if=("chip_text",), classes="mb-2")
            with html.Div(v_for="row in chip_rows", key="row.name", classes="ps-row ps-small"):
                html.Span("{{ row.name }}", classes="ps-quiet", style="width: 160px")
                html.Span("{{ row.text }}")
            v3.VBtn(
                "Restart the worker",
                size="small",
                variant="tonal",
                classes="mt-3",
                prepend_icon="mdi-restart",
                click=act("restart"),
            )


def _views() -> None:
    with html.Main(classes=("`ps-views ${enlarged ? 'one' : ''}`",)):
        for name in view_panes.ORDER:
            view_panes.build(name)
        _welcome()
        _alerts()


def _welcome() -> None:
    with html.Div(classes="ps-welcome", v_if=("!volume_id",)), html.Div():
        v3.VProgressCircular(v_if=("opening",), indeterminate=True, color="primary", size=36)
        v3.VIcon("mdi-image-plus-outline", v_else=True, size=42, color="secondary")
        html.H2("{{ opening ? 'Opening ' + opening : 'Open an image to begin' }}")
        html.P(
            "NIfTI, NRRD, MetaImage, a DICOM folder, or a zip file with one of them. Drop it "
            "anywhere on this page. It stays on this machine.",
            classes="ps-quiet",
        )
        with html.Div(classes="mt-4", v_if=("!opening",)):
            v3.VBtn("Choose a file", color="primary", click="window.protosam.pick(false)")
            v3.VBtn(
                "Practice volume", variant="text", classes="ml-2", click="trame.trigger('phantom')"
            )


def _alerts() -> None:
    with html.Div(classes="ps-alerts", raw_attrs=spoken(live="polite")):
        v3.VAlert(
            v_for="one in alerts",
            key="one.id",
            type=("one.level",),
            closable=True,
            density="compact",
            variant="flat",
            color="#262d34",
            icon_color=("one.level",),
            border="start",
            border_color=("one.level",),
            text=("one.next_step ? one.text + ' ' + one.next_step : one.text",),
            click_close=act("close_alert", "one.id"),
        )


def _hint_line() -> None:
    with html.Footer(classes="ps-hint"):
        v3.VProgressLinear(
            v_if=("busy || opening || upload_percent >= 0",),
            height=2,
            color="primary",
            indeterminate=("progress < 0 || !busy",),
            model_value=("progress",),
        )
        v3.VIcon(
            icon=("busy ? 'mdi-progress-clock' : 'mdi-lightbulb-on-outline'",),
            size=18,
            color="primary",
        )
        html.Span(
            "{{ upload_percent >= 0 ? 'Uploading, ' + upload_percent + ' %' : opening ? 'Opening ' "
            "+ opening + ' …' : busy && progress_text ? progress_text : hint }}",
            classes="ps-text",
            id="ps-hint",
            raw_attrs=spoken(live="polite"),
        )
        v3.VBtn(
            "Cancel",
            v_if=("busy && can_cancel",),
            size="small",
            variant="tonal",
            prepend_icon="mdi-close",
            id="ps-cancel",
            click=act("cancel"),
        )
        html.Div(classes="ps-grow")
        html.Span("{{ readout }}", classes="ps-readout ps-wide", id="ps-readout")


def _help_sheet() -> None:
    with (
        v3.VDialog(v_model=("help_open",), max_width=1020, scrollable=True),
        v3.VCard(classes="pa-2"),
    ):
        with v3.VCardTitle(classes="d-flex align-center"):
            html.Span("Mouse and keys")
            html.Div(classes="ps-grow")
            v3.VBtn(
                icon="mdi-close",
                variant="text",
                size="small",
                click="help_open = false",
                raw_attrs=spoken(label="Close"),
            )
        with (
            v3.VCardText(),
            html.Div(classes="ps-keys"),
            html.Div(v_for="group in sheet", key="group.title"),
        ):
            html.H4("{{ group.title }}")
            with html.P(v_for="row in group.rows", key="row.keys"):
                html.Kbd("{{ row.keys }}")
                html.Span("{{ row.text }}")
