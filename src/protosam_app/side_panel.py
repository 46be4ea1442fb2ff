"""The panel on the left: segments, tools, points, examples, what is learnt, display.

Widgets only, as in `ui`; values come from `page_state`, actions are the names of `actions`.
"""

from __future__ import annotations

from trame.widgets import html
from trame.widgets import vuetify3 as v3

from protosam_app import adapt_panel, example_panel
from protosam_app.actions import MOST_BODIES, MOST_SMOOTHING_MM
from protosam_app.pieces import act, head, mini, spoken
from protosam_app.segments import NAME_LETTERS, PALETTE

TOOL_BUTTONS = (
    ("inside", "mdi-plus-circle", "Inside", "Point on the object (1)"),
    ("outside", "mdi-minus-circle", "Outside", "Point beside the object (2, or Ctrl+click)"),
    ("box", "mdi-select-drag", "Box", "Box round the object (3, or Shift+drag)"),
    ("window", "mdi-contrast-circle", "Contrast", "Window and level by dragging (4)"),
)


def build() -> None:
    """Build the panel."""
    with html.Aside(classes="ps-side"):
        _segments()
        _tools()
        _points()
        example_panel.build()
        adapt_panel.build()
        _clean_up()
        _display()


def _segments() -> None:
    with html.Section(classes="ps-section"):
        with head("Segments"):
            v3.VBtn(
                "New",
                size="x-small",
                variant="text",
                prepend_icon="mdi-plus",
                disabled=("!volume_id",),
                click=act("add"),
                id="ps-new",
            )
        with (
            html.Div(classes="ps-segments", raw_attrs=spoken(role="listbox", label="Segments")),
            html.Div(
                v_for="one in segments",
                key="one.id",
                classes=(
                    "['ps-segment', one.id === segment_id ? 'chosen' : '', one.visible ? '' : "
                    "'hidden']",
                ),
                tabindex=0,
                raw_attrs=[
                    *spoken(role="option", selected=("one.id === segment_id",)),
                    f'@keydown.enter="{act("select", "one.id")}"',
                ],
                click=act("select", "one.id"),
            ),
        ):
            _swatch()
            _name()
            _row_buttons()
        _keep_others()


def _keep_others() -> None:
    v3.VCheckbox(
        v_if=("segments.length > 1",),
        model_value=("keep_others",),
        label="Leave other segments untouched",
        density="compact",
        hide_details=True,
        color="primary",
        classes="ps-check",
        update_modelValue=act("keep_others", "$event"),
    )


def _row_buttons() -> None:
    html.Span("{{ one.ml }}", classes="ps-ml")
    mini(
        "one.visible ? 'mdi-eye-outline' : 'mdi-eye-off-outline'",
        "Show or hide (H)",
        act("show", "one.id"),
    )
    mini(
        "one.locked ? 'mdi-lock' : 'mdi-lock-open-variant-outline'",
        "Lock (L)",
        act("lock", "one.id"),
        classes=("['ps-mini', one.locked ? 'on' : '']",),
    )
    mini("mdi-trash-can-outline", "Delete", act("delete", "one.id"), disabled=("one.locked",))


def _swatch() -> None:
    with v3.VMenu(location="bottom start"):
        with v3.Template(v_slot_activator="{ props }"):
            html.Button(
                v_bind="props",
                classes="ps-swatch",
                style=("`background: ${one.colour}`",),
                raw_attrs=spoken(label="Colour"),
                click="$event.stopPropagation()",
            )
        with html.Div(classes="ps-swatches"):
            for colour in PALETTE:
                html.Button(
                    style=f"background: {colour}",
                    raw_attrs=spoken(label=f"Colour {colour}"),
                    click=act("colour", "one.id", f"'{colour}'"),
                )


def _name() -> None:
    done = act("rename", "one.id", "rename_text") + "; rename_id = ''"
    html.Input(
        v_if=("rename_id === one.id",),
        v_model=("rename_text",),
        classes="ps-rename",
        maxlength=NAME_LETTERS,
        raw_attrs=[
            *spoken(label="Name of the segment"),
            '@vue:mounted="({ el }) => { el.focus(); el.select() }"',
            '@keydown.enter.stop="$event.target.blur()"',
            "@keydown.escape.stop=\"rename_id = ''\"",
        ],
        click="$event.stopPropagation()",
        blur=f"if (rename_id === one.id) {{ {done} }}",
    )
    html.Span(
        "{{ one.name }}",
        v_else=True,
        classes="ps-name",
        title="Double-click to rename",
        dblclick="rename_text = one.name; rename_id = one.id",
    )
    mini(
        "mdi-pencil-outline",
        "Rename",
        "rename_text = one.name; rename_id = one.id",
        v_if=("one.id === segment_id && rename_id !== one.id",),
    )


def _tools() -> None:
    with html.Section(classes="ps-section"):
        with head("Tool"):
            pass
        with html.Div(classes="ps-tools", raw_attrs=spoken(role="radiogroup", label="Tool")):
            for name, icon, title, tip in TOOL_BUTTONS:
                with v3.VBtn(
                    variant="flat",
                    classes=(f"['ps-tool', '{name}', tool === '{name}' ? 'on' : '']",),
                    click=act(f"tool:{name}"),
                    raw_attrs=spoken(role="radio", checked=(f"tool === '{name}'",)),
                    id=f"ps-tool-{name}",
                ):
                    v3.VIcon(icon)
                    html.Span(title)
                    v3.VTooltip(tip, activator="parent", location="top", open_delay=500)
        with html.Div(
            classes="ps-scope", raw_attrs=spoken(role="radiogroup", label="What a click fills")
        ):
            for value, title in (("volume", "Whole object"), ("slice", "This slice only")):
                v3.VBtn(
                    title,
                    variant="flat",
                    classes=(f"scope === '{value}' ? 'on' : ''",),
                    click=act(f"scope:{value}"),
                    id=f"ps-scope-{value}",
                )
        _edit_buttons()


def _edit_buttons() -> None:
    buttons = (
        ("undo", "mdi-undo", "Undo (Ctrl+Z)", "!can_undo && !can_cancel"),
        ("redo", "mdi-redo", "Redo (Ctrl+Y)", "!can_redo"),
        ("keep", "mdi-check", "Keep the mask, begin new points (K)", "!can_clear"),
        ("clear", "mdi-eraser", "Remove all points and what they filled", "!can_clear"),
        ("linked", "mdi-crosshairs", "Crosshair (X)", "!volume_id"),
        ("fit", "mdi-fit-to-screen-outline", "Fit the views (0)", "!volume_id"),
    )
    with html.Div(classes="ps-edit"):
        for name, icon, tip, disabled in buttons:
            with v3.VBtn(
                variant="text",
                disabled=(disabled,),
                click=act(name),
                id=f"ps-{name}",
                raw_attrs=spoken(label=tip),
                color=("linked ? 'primary' : undefined",) if name == "linked" else None,
            ):
                v3.VIcon(icon, size=20)
                v3.VTooltip(tip, activator="parent", location="top", open_delay=500)


def _points() -> None:
    with html.Section(classes="ps-section", v_if=("prompts.length",)):
        with head("Points"):
            html.Span("{{ prompts.length }}", classes="ps-quiet")
        with (
            html.Div(classes="ps-prompts"),
            html.Div(
                v_for="one in prompts",
                key="one.id",
                classes=("['ps-prompt', one.answered ? '' : 'waiting']",),
            ),
        ):
            v3.VIcon(
                icon=(
                    "one.kind === 'box' ? 'mdi-select-drag' : one.positive ? 'mdi-plus-circle' : "
                    "'mdi-minus-circle'",
                ),
                size=16,
                color=("one.kind === 'box' ? 'primary' : one.positive ? 'success' : 'error'",),
            )
            html.Span("{{ one.text }}")
            mini("mdi-close", "Take this one back", act("remove", "one.id"))
        html.Div("{{ notes.join(' ') }}", v_if=("notes.length",), classes="ps-quiet ps-small mt-1")


def _clean_up() -> None:
    with html.Section(classes="ps-section", v_if=("volume_id",)):
        with head("Clean up"):
            pass
        with html.Div(classes="ps-row"):
            _number("smoothing_mm", "Smooth", "0 = off", top=MOST_SMOOTHING_MM, step=0.5)
            html.Span("mm", classes="ps-quiet ps-small")
            html.Div(classes="ps-grow")
            _number("bodies", "Bodies", "0 = any number", top=MOST_BODIES, step=1)
        html.Div(
            "Cleaned up: {{ clean_up }}",
            v_if=("clean_up",),
            classes="ps-quiet ps-small mt-1",
            id="ps-cleaned",
        )


def _number(name: str, title: str, tip: str, *, top: int, step: float) -> None:
    """Field for a number from 0 on; a value that is refused makes way for the old one."""
    html.Span(title, classes="ps-small ps-quiet")
    html.Input(
        type="number",
        classes="ps-number",
        value=(name,),
        min=0,
        max=top,
        step=step,
        title=tip,
        id=f"ps-{name}",
        raw_attrs=[*spoken(label=f"{title} ({tip})"), '@keydown.enter="$event.target.blur()"'],
        change=f"{act(name, '$event.target.value')}; $event.target.value = {name}",
    )


def _display() -> None:
    with html.Section(classes="ps-section", v_if=("volume_id",)):
        with head("Display"):
            pass
        with html.Div(classes="ps-range"):
            html.Span("black {{ window_low }}")
            html.Span("white {{ window_high }}")
        v3.VRangeSlider(
            model_value=("[window_low, window_high]",),
            min=("range_low",),
            max=("range_high",),
            step=("(range_high - range_low) / 500",),
            strict=True,
            hide_details=True,
            density="compact",
            thumb_size=13,
            track_size=3,
            color="primary",
            raw_attrs=spoken(label="Window"),
            update_modelValue=act("window", "$event[0]", "$event[1]"),
        )
        with html.Div(classes="ps-presets", v_if=("presets.length",)):
            v3.VBtn(
                "{{ one.name }}",
                v_for="one in presets",
                key="one.name",
                variant="flat",
                size="x-small",
                click=act("window", "one.low", "one.high"),
            )
        _layers()
        v3.VCheckbox(
            model_value=("model_window === 'view'",),
            label="The model sees this contrast, too",
            density="compact",
            hide_details=True,
            color="primary",
            classes="ps-check",
            update_modelValue=act("model_window", "$event ? 'view' : 'automatic'"),
        )


def _layers() -> None:
    for name, title in (("opacity", "Fill"), ("outline", "Outline")):
        with html.Div(classes="ps-row mt-1"):
            html.Span(title, classes="ps-label")
            v3.VSlider(
                model_value=(f"layer_{name}",),
                min=0,
                max=1,
                step=0.05,
                hide_details=True,
                density="compact",
                thumb_size=13,
                track_size=3,
                color="primary",
                raw_attrs=spoken(label=title),
                update_modelValue=act("layer", f"'{name}'", "$event"),
            )
