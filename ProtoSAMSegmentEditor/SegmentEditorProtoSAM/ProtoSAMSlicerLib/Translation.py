"""Texts in the user's language, where this Slicer can translate.

`tr` is Slicer's own function: it finds the context by the file that calls it, so it is handed on
as it is and not wrapped.
"""

from __future__ import annotations

try:
    from slicer.i18n import tr
except ImportError:

    def tr(text: str) -> str:
        """Text as it stands: this Slicer has no translations for Python code."""
        return text


__all__ = ["tr"]
