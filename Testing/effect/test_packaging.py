"""The extension as a package: lists against the tree, resources, sizes, metadata."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "ProtoSAMSegmentEditor" / "SegmentEditorProtoSAM"
BATCH = ROOT / "ProtoSAMSegmentEditor" / "ProtoSAMBatch"
SOURCES = sorted((*MODULE.rglob("*.py"), *BATCH.rglob("*.py")))
BATCH_UI = BATCH / "Resources" / "UI" / "ProtoSAMBatch.ui"
UI = MODULE / "Resources" / "UI" / "ProtoSAMOptions.ui"

MACROS = """
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer-5.8/qt-scripted-modules)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer-5.8/qt-scripted-modules)
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  foreach(one ${MY_SCRIPTS} ${MY_RESOURCES})
    file(APPEND "${CMAKE_BINARY_DIR}/listed.txt" "${one}\\n")
    if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${one}")
      message(FATAL_ERROR "${one} is not there")
    endif()
  endforeach()
endmacro()
macro(slicer_add_python_test)
  cmake_parse_arguments(MY "" "SCRIPT" "SLICER_ARGS" ${ARGN})
  if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${MY_SCRIPT}")
    message(FATAL_ERROR "${MY_SCRIPT} is not there")
  endif()
endmacro()
"""


@pytest.fixture(scope="module")
def a_configured_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    folder = tmp_path_factory.mktemp("extension")
    slicer = folder / "slicer"
    slicer.mkdir()
    (slicer / "use.cmake").write_text(MACROS)
    for name in ("generate", "cpack"):
        (slicer / f"{name}.cmake").write_text(f'message(STATUS "included {name}")\n')
    (slicer / "SlicerConfig.cmake").write_text(
        f'set(Slicer_USE_FILE "{slicer}/use.cmake")\n'
        f'set(Slicer_EXTENSION_GENERATE_CONFIG "{slicer}/generate.cmake")\n'
        f'set(Slicer_EXTENSION_CPACK "{slicer}/cpack.cmake")\n'
    )
    build = folder / "build"
    command = ["cmake", "-S", ROOT, "-B", build, f"-DSlicer_DIR={slicer}", "-DBUILD_TESTING=ON"]
    command.append(f"-DCMAKE_INSTALL_PREFIX={folder / 'installed'}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if "included" in line] == [
        "-- included generate",
        "-- included cpack",
    ]
    return build


def test_every_file_of_the_module_is_in_cmakes_lists(a_configured_build: Path) -> None:
    listed = (a_configured_build / "listed.txt").read_text().split()
    kinds = {".py", ".ui", ".png", ".svg"}
    there = {
        path.relative_to(module).as_posix()
        for module in (MODULE, BATCH)
        for path in module.rglob("*")
        if path.suffix in kinds
    }
    assert set(listed) == there
    assert len(listed) == len(set(listed))


def test_the_core_and_its_weights_lie_beside_the_modules_once_installed(
    a_configured_build: Path,
) -> None:
    command = ["cmake", "--install", a_configured_build]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modules = Path("lib/Slicer-5.8/qt-scripted-modules")
    for folder in (a_configured_build / modules, a_configured_build.parent / "installed" / modules):
        assert (folder / "protosam" / "wire" / "client.py").is_file()
        assert (folder / "protosam" / "model_weights" / "cards.json").is_file()
        assert not list(folder.rglob("__pycache__"))


def test_the_effect_file_is_alone_in_the_folder_that_slicer_loads_by_path() -> None:
    folder = MODULE / "SegmentEditorProtoSAMEffect"
    assert [one.name for one in folder.glob("*.py")] == ["SegmentEditorEffect.py"]
    assert not (MODULE / "SegmentEditorProtoSAMEffect.py").exists()


def test_no_python_file_beside_the_module_is_taken_for_another_module() -> None:
    assert [one.name for one in MODULE.glob("*.py")] == ["SegmentEditorProtoSAM.py"]
    assert [one.name for one in BATCH.glob("*.py")] == ["ProtoSAMBatch.py"]
    assert list(MODULE.parent.glob("*.py")) == []


def test_nothing_is_imported_relative_to_the_effect_file() -> None:
    relative = [
        path.name
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_the_core_is_imported_in_one_place_only() -> None:
    importing = [
        path.name
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("protosam."))
        or (isinstance(node, ast.Import) and node.names[0].name.startswith("protosam"))
    ]
    assert importing == []


def test_the_event_loop_is_never_entered_and_nothing_sleeps() -> None:
    waiting = re.compile(r"processEvents\(|\.sleep\(|\.join\(\)|waitFor|exec_\(|print\(")
    assert [path.name for path in SOURCES if waiting.search(path.read_text("utf-8"))] == []


def test_modules_and_functions_keep_to_their_size() -> None:
    long = [path.name for path in SOURCES if path.read_text("utf-8").count("\n") > 400]
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or 0) - node.body[0].lineno + 1
                if lines > 40:
                    long.append(f"{path.name}:{node.name}")
    assert long == []


def test_the_stand_in_stays_small() -> None:
    assert (Path(__file__).parent / "stand_in.py").read_text("utf-8").count("\n") < 300


def test_each_widget_that_is_used_exists_and_each_button_is_used() -> None:
    names = set(widgets())
    panel = (MODULE / "ProtoSAMSlicerLib" / "OptionsPanel.py").read_text("utf-8")
    used = set(re.findall(r"\bui\.(\w+)\.", panel)) | set(
        re.findall(r'"(\w+(?:Button|Combo|Spin|Check))"', panel)
    )
    assert used - names == set()
    buttons = {name for name in names if name.endswith("Button")} - {"advancedButton"}
    assert buttons - used == set()


def test_each_widget_of_the_batch_module_exists_and_each_button_is_used() -> None:
    names = set(widgets(BATCH_UI))
    texts = "".join(
        (BATCH / "ProtoSAMBatchLib" / name).read_text("utf-8")
        for name in ("BatchPanel.py", "BatchSession.py")
    )
    used = set(re.findall(r"\bui\.(\w+)", texts))
    used |= set(re.findall(r'"(\w+(?:Button|Combo|Edit|Check|Table))"', texts))
    assert used - names == set()
    assert {name for name in names if name.endswith("Button")} - used == set()


@pytest.mark.parametrize("ui", [UI, BATCH_UI], ids=["effect", "batch"])
def test_each_control_has_a_tool_tip_and_a_name_for_screen_readers(ui: Path) -> None:
    kinds = {"QPushButton", "QToolButton", "QRadioButton", "QCheckBox", "QComboBox"}
    kinds |= {"QDoubleSpinBox", "QSpinBox", "QListWidget", "QPlainTextEdit", "QLineEdit"}
    kinds |= {"QTableWidget"}
    for name, node in widgets(ui).items():
        if node.attrib["class"] in kinds:
            given = {one.attrib["name"] for one in node.findall("property")}
            assert {"toolTip", "accessibleName"} <= given, name


@pytest.mark.parametrize("ui", [UI, BATCH_UI], ids=["effect", "batch"])
def test_the_ui_file_names_no_widget_twice(ui: Path) -> None:
    names = [one.attrib["name"] for one in ElementTree.parse(ui).iter("widget")]
    assert len(names) == len(set(names))


def test_pictures_have_the_sizes_that_slicer_wants() -> None:
    sizes = {
        MODULE / "SegmentEditorProtoSAMEffect" / "SegmentEditorEffect.png": (64, 64),
        MODULE / "Resources" / "Icons" / "SegmentEditorProtoSAM.png": (128, 128),
        ROOT / "Resources" / "ProtoSAM.png": (128, 128),
        BATCH / "Resources" / "Icons" / "ProtoSAMBatch.png": (128, 128),
        **{
            MODULE / "Resources" / "Icons" / f"Cursor-{name}.png": (32, 32)
            for name in ("positive", "negative", "box")
        },
    }
    for path, wanted in sizes.items():
        head = path.read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        assert (int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")) == wanted


def test_the_index_entry_has_the_form_that_slicers_index_wants() -> None:
    entry: dict[str, Any] = json.loads((ROOT / "ProtoSAM.json").read_text("utf-8"))
    allowed = {"$schema", "category", "scm_url", "scm_revision", "scm_type", "build_dependencies"}
    allowed |= {"build_subdirectory", "enabled", "tier"}
    assert {"$schema", "category", "scm_url"} <= set(entry) <= allowed
    assert entry["category"] == "Segmentation"
    assert "project(ProtoSAM " in (ROOT / "CMakeLists.txt").read_text("utf-8")
    assert "\r" not in (ROOT / "ProtoSAM.json").read_text("utf-8")


def test_the_guide_shows_pictures_that_belong_to_it_and_explains_literal_messages() -> None:
    guide = (ROOT / "docs" / "slicer-guide.md").read_text("utf-8")
    pictures = re.findall(r"!\[[^\]]+\]\((images/[\w-]+\.png)\)", guide)
    assert pictures
    texts = "".join(path.read_text("utf-8") for path in SOURCES)
    texts += "".join(path.read_text("utf-8") for path in (ROOT / "src" / "protosam").rglob("*.py"))
    known = re.sub(r'"\s+"', "", texts)
    for message in re.findall(r"^\| `([^`]+)` \|", guide, re.MULTILINE):
        assert message in known, message


def widgets(ui: Path = UI) -> dict[str, ElementTree.Element]:
    return {one.attrib["name"]: one for one in ElementTree.parse(ui).iter("widget")}
