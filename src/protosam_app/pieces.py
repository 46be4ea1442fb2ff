"""Pieces that the page's panels are made of: scripts of buttons, words for those who do not see it.

Widgets only, as in `ui`; nothing of what they show or do is known here.
"""

from __future__ import annotations

from trame.widgets import html
from trame.widgets import vuetify3 as v3


def act(name: str, *arguments: str) -> str:
    """Script that asks the server for an action; arguments are expressions of the template."""
    listed = ", ".join((f"'{name}'", *arguments))
    return f"window.protosam.act({listed})"


def spoken(**parts: str | tuple[str]) -> list[str]:
    """Attributes for those who do not see the page; trame's widgets know none of them.

    Parameters
    ----------
    **parts : str or tuple of one str
        `role`, or the end of an ``aria-...`` name; in a tuple, an expression of the template.
    """
    attributes = []
    for part, value in parts.items():
        name = part if part == "role" else f"aria-{part}"
        text = value if isinstance(value, str) else value[0]
        attributes.append(f'{"" if isinstance(value, str) else ":"}{name}="{text}"')
    return attributes


def head(title: str) -> html.Div:
    """Head of a section; buttons may be put into it."""
    head = html.Div(classes="ps-head")
    with head:
        html.Span(title)
        html.Div(classes="ps-grow")
    return head


def folding_head(title: str, is_open: str, body: str, opened: str) -> html.Button:
    """Head of a section that is opened and closed by it.

    Parameters
    ----------
    title : str
    is_open : str
        Name of the page's value that says whether it is open.
    body : str
        Id of what it opens.
    opened : str
        Script that runs when it is opened.
    """
    head = html.Button(
        classes="ps-head ps-fold",
        type="button",
        click=f"if (!{is_open}) {opened}; {is_open} = !{is_open}",
        raw_attrs=spoken(expanded=(is_open,), controls=body),
    )
    with head:
        v3.VIcon(icon=(f"{is_open} ? 'mdi-chevron-down' : 'mdi-chevron-right'",), size=18)
        html.Span(title)
        html.Div(classes="ps-grow")
    return head


def mini(icon: str, label: str, click: str, **more: object) -> None:
    """Small round button that does not choose the row it stands in."""
    classes = more.pop("classes", "ps-mini")
    button = v3.VBtn(
        icon=True,
        variant="text",
        size="x-small",
        raw_attrs=spoken(label=label),
        classes=classes,
        click=f"$event.stopPropagation(); {click}",
        **more,
    )
    with button:
        v3.VIcon(icon=(icon,) if "?" in icon else icon)
        v3.VTooltip(label, activator="parent", location="top", open_delay=500)
