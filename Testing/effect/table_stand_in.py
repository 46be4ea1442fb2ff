"""Slicer's table, text field and spin widgets, as far as the batch module touches them.

In PythonQt `rowCount` is a property; items and selections are asked by methods.
"""

from __future__ import annotations

import types
from typing import Any


def table_of(thing: type) -> type:
    """Class of a QTableWidget on the stand-in's own widgets."""

    class Table(thing):  # type: ignore[misc, valid-type]
        def __init__(self, *given: Any, **values: Any):
            super().__init__(*given, **{"rowCount": 0, "columnCount": 0, **values})
            self.cells: dict[tuple[int, int], Any] = {}
            self.chosen: list[int] = []

        def setRowCount(self, count: int) -> None:
            self.values["rowCount"] = count
            self.cells = {key: one for key, one in self.cells.items() if key[0] < count}

        def setItem(self, row: int, column: int, item: Any) -> None:
            assert row < self.rowCount and column < self.columnCount
            self.cells[row, column] = item

        def texts(self) -> list[list[str]]:
            return [
                [self.cells[row, column].text() for column in range(self.columnCount)]
                for row in range(self.rowCount)
            ]

        def clearSelection(self) -> None:
            self.chosen = []

        def selectRow(self, row: int) -> None:
            self.choose(row)

        def choose(self, *rows: int) -> None:
            self.chosen = list(rows)
            self.emit("itemSelectionChanged()")

        def selectionModel(self) -> Any:
            rows = [types.SimpleNamespace(row=lambda n=n: n) for n in self.chosen]
            return types.SimpleNamespace(selectedRows=lambda: rows)

    return Table


class Item:
    """A QTableWidgetItem."""

    def __init__(self, text: str) -> None:
        assert isinstance(text, str)
        self._text = text

    def text(self) -> str:
        return self._text

    def setToolTip(self, text: str) -> None:
        self.tip = text
