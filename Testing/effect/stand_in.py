"""As much of Slicer's application as the effect touches, in plain Python: widgets, editor, timer.

Made after what was seen in Slicer 5.8.1. It proves wiring and order of events, not PythonQt:
properties are read as attributes and set by setters, signals are connected by their signature.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import vtk


class Thing:
    """Something with signals and properties, like a QObject."""

    def __init__(self, kind: str = "QObject", name: str = "", parent: Any = None, **values: Any):
        self.kind, self.name, self._slots, self._blocked = kind, name, {}, False
        self.kids: list[Thing] = []
        self.values = {"visible": True, "enabled": True, "text": "", "toolTip": "", **values}
        if isinstance(parent, Thing):
            parent.kids.append(self)
        self.parent_thing = parent

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name.startswith("set") and name[3:4].isupper():
            key = name[3].lower() + name[4:]
            return lambda *given: self._set(key, given[0] if len(given) == 1 else given)
        if name in self.values:
            return self.values[name]
        raise AttributeError(f"{self.kind} {self.name} has no {name}")

    def _set(self, key: str, value: Any) -> None:
        changed = self.values.get(key) != value
        self.values[key] = value
        signal = {
            "checked": "toggled(bool)",
            "value": f"valueChanged({'int' if self.kind in ('QSpinBox', 'QSlider') else 'double'})",
            "currentIndex": "currentIndexChanged(int)",
            "currentRow": "currentRowChanged(int)",
        }.get(key)
        if changed and signal:
            self.emit(signal, value)

    def className(self) -> str:
        return self.kind

    def children(self) -> list[Thing]:
        return list(self.kids)

    def property(self, name: str) -> Any:
        return self.values.get(name)

    def setProperty(self, name: str, value: Any) -> None:
        self._set(name, value)

    def setParent(self, parent: Any) -> None:
        if isinstance(self.parent_thing, Thing):
            self.parent_thing.kids.remove(self)
        self.parent_thing = parent

    def deleteLater(self) -> None:
        self._slots.clear()
        self.setParent(None)

    def blockSignals(self, on: bool) -> bool:
        before, self._blocked = self._blocked, on
        return before

    def connect(self, signature: str, slot: Callable[..., Any]) -> bool:
        self._slots.setdefault(signature, []).append(slot)
        return True

    def disconnect(self, signature: str, slot: Callable[..., Any]) -> bool:
        self._slots[signature].remove(slot)
        return True

    def emit(self, signature: str, *arguments: Any) -> None:
        if not self._blocked:
            for slot in list(self._slots.get(signature, ())):
                slot(*arguments)

    def click(self) -> None:
        """A user's click: a button that is out of use takes none."""
        assert self.values["enabled"] and self.values["visible"], f"{self.name} cannot be clicked"
        if self.values.get("checkable"):
            self.setChecked(not self.values.get("checked", False))
        self.emit("clicked()")


class Combo(Thing):
    def __init__(self, *given: Any, **values: Any):
        super().__init__(*given, **{"currentIndex": -1, **values})
        self.items: list[tuple[str, Any]] = []

    @property
    def count(self) -> int:
        return len(self.items)

    def addItem(self, text: str, data: Any = None) -> None:
        self.items.append((text, data))
        if len(self.items) == 1:
            self.setCurrentIndex(0)

    def removeItem(self, index: int) -> None:
        del self.items[index]
        if self.currentIndex >= len(self.items):
            self.setCurrentIndex(len(self.items) - 1)

    def itemData(self, index: int) -> Any:
        return self.items[index][1] if 0 <= index < len(self.items) else None

    def findData(self, data: Any) -> int:
        return next((i for i, (_t, one) in enumerate(self.items) if one == data), -1)


class Rows(Thing):
    def __init__(self, *given: Any, **values: Any):
        super().__init__(*given, **{"currentRow": -1, **values})
        self.rows: list[str] = []

    def clear(self) -> None:
        self.rows = []
        self.setCurrentRow(-1)

    def addItem(self, text: str) -> None:
        self.rows.append(text)


KINDS: dict[str, type[Thing]] = {"QComboBox": Combo, "QListWidget": Rows}


class Timer(Thing):
    made: ClassVar[list[Timer]] = []

    def __init__(self) -> None:
        super().__init__("QTimer", interval=0)
        self.running = False
        Timer.made.append(self)

    def start(self, milliseconds: int) -> None:
        self.running = True
        self.values["interval"] = milliseconds

    def isActive(self) -> bool:
        return self.running

    def stop(self) -> None:
        self.running = False

    def fire(self) -> None:
        if self.running:
            self.emit("timeout()")


def load_ui(path: str) -> Thing:
    """Make the widgets of a .ui file."""
    root = ElementTree.parse(path).getroot().find("widget")
    assert root is not None, path
    return _widget(root, None)


def _widget(node: ElementTree.Element, parent: Any) -> Thing:
    values: dict[str, Any] = {}
    for one in node.findall("property"):
        text = one[0].text or ""
        kind = one[0].tag
        values[one.attrib["name"]] = (
            text == "true" if kind == "bool" else float(text) if kind == "double" else text
        )
    if node.attrib["class"] in ("QDoubleSpinBox", "QSpinBox", "QSlider"):
        values.setdefault("value", 0.0 if node.attrib["class"] == "QDoubleSpinBox" else 0)
    if node.attrib["class"] in ("QToolButton", "QRadioButton", "QCheckBox"):
        values.setdefault("checked", False)
    made = KINDS.get(node.attrib["class"], Thing)(
        node.attrib["class"], node.attrib["name"], parent, **values
    )
    for child in _nested(node):
        _widget(child, made)
    return made


def _nested(node: ElementTree.Element) -> list[ElementTree.Element]:
    found = []
    for child in node:
        found += [child] if child.tag == "widget" else _nested(child)
    return found


def child_variables(widget: Thing) -> types.SimpleNamespace:
    found = {widget.name: widget}
    for child in widget.children():
        found.update(vars(child_variables(child)))
    return types.SimpleNamespace(**found)


class ScriptedEffect(Thing):
    """The adaptor between Slicer and an effect in Python."""

    editor: Any = None

    def __init__(self, _parent: Any = None) -> None:
        super().__init__("qSlicerSegmentEditorScriptedEffect")
        self._instance: Any = None
        self.log: list[Any] = []

    def setPythonSource(self, path: str) -> bool:
        name = Path(path).parent.name
        module = sys.modules.get(name)
        if module is None:
            spec = spec_from_loader(name, SourceFileLoader(name, path))
            assert spec is not None and spec.loader is not None
            module = sys.modules[name] = module_from_spec(spec)
            spec.loader.exec_module(module)
        self._instance = getattr(module, Path(path).stem)(self)
        return True

    def self(self) -> Any:
        return self._instance

    def addOptionsWidget(self, widget: Thing) -> None:
        self.options = widget

    def parameterSetNode(self) -> Any:
        return None if self.editor is None else self.editor.node

    def parameterDefined(self, name: str) -> bool:
        return self.editor.node.GetAttribute(f"{self.name}.{name}") is not None

    def parameter(self, name: str) -> str:
        assert self.parameterDefined(name), f"Slicer logs an error: {name} is not defined"
        return str(self.editor.node.GetAttribute(f"{self.name}.{name}"))

    def setParameterDefault(self, name: str, value: str) -> None:
        if not self.parameterDefined(name):
            self.editor.node.SetAttribute(f"{self.name}.{name}", value)

    def setParameter(self, name: str, value: str) -> None:
        self.editor.node.SetAttribute(f"{self.name}.{name}", value)
        if self.editor.active is self:
            self._instance.updateGUIFromMRML()

    def renderer(self, widget: Any) -> Any:
        return widget.renderer

    def segmentationDisplayableInView(self, _node: Any) -> bool:
        return True

    def saveStateForUndo(self) -> None:
        self.log.append("save")

    def modifySelectedSegmentByLabelmap(self, labelmap: Any, mode: int) -> None:
        self.log.append((mode, self.editor.node.GetSelectedSegmentID(), labelmap))

    def modifySegmentByLabelmap(
        self, _node: Any, segment_id: str, labelmap: Any, mode: int
    ) -> None:
        assert self.editor.node.GetSelectedSegmentID() == segment_id
        self.log.append((mode, segment_id, labelmap))


class View(Thing):
    """A slice or 3-D view with an interactor and a renderer; nothing is rendered."""

    def __init__(self, kind: str, node: Any, renderer: Any = None) -> None:
        super().__init__(kind, height=400)
        self.node, self.renderer = node, renderer or vtk.vtkRenderer()
        self.interactor = vtk.vtkGenericRenderWindowInteractor()
        self.cursors: list[Any] = []
        self.renders = 0

    def mrmlSliceNode(self) -> Any:
        return self.node

    def mrmlViewNode(self) -> Any:
        return self.node

    def sliceView(self) -> View:
        return self

    def scheduleRender(self) -> None:
        self.renders += 1

    def setViewCursor(self, cursor: Any) -> None:
        self.cursors.append(cursor)
