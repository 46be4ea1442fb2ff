"""The rules of the house that no other tool checks: sizes, names, tests that test."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TESTS = sorted((ROOT / "Testing").rglob("*.py"))

MODULE_LINES = 400
FUNCTION_LINES = 40
POSITIONAL_ARGUMENTS = 6
BANNED_NAMES = {"common", "helper", "helpers", "manager", "misc", "util", "utils"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions_in(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def code_lines(function: Function) -> int:
    """Lines of the body, without the docstring, blank lines and comments."""
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None
    begin = (first.end_lineno or 0) + 1 if has_docstring else first.lineno
    return (function.end_lineno or 0) - begin + 1


def relative(path: Path) -> str:
    return path.relative_to(ROOT / "src").as_posix()


def asserts_something(function: Function) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call) and re.search(
            r"assert|raises|warns|check|expect|fail|verify|equal|compare", ast.unparse(node.func)
        ):
            return True
    return False


def test_no_module_is_longer_than_one_idea() -> None:
    lengths = {relative(path): path.read_text("utf-8").count("\n") for path in SOURCES}
    assert {name: n for name, n in lengths.items() if n > MODULE_LINES} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        f"{relative(path)}:{function.name}": code_lines(function)
        for path in SOURCES
        for function in functions_in(path)
        if code_lines(function) > FUNCTION_LINES
    }
    assert long == {}


def test_further_arguments_are_given_by_name() -> None:
    crowded = [
        f"{relative(path)}:{function.name}"
        for path in SOURCES
        for function in functions_in(path)
        if len(function.args.posonlyargs) + len(function.args.args) > POSITIONAL_ARGUMENTS
    ]
    assert crowded == []


def test_modules_are_named_for_what_they_know() -> None:
    assert [relative(path) for path in SOURCES if path.stem in BANNED_NAMES] == []


def test_each_module_opens_with_its_rules() -> None:
    silent = [
        relative(path)
        for path in SOURCES
        if path.read_text("utf-8").strip()
        and not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert silent == []


def test_annotations_are_never_evaluated() -> None:
    missing = [
        relative(path)
        for path in SOURCES
        if path.read_text("utf-8").strip()
        and path.name != "__init__.py"
        and "from __future__ import annotations" not in path.read_text("utf-8")
    ]
    assert missing == []


def test_nothing_is_left_to_do_in_the_sources() -> None:
    unfinished = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|raise NotImplementedError")
    assert [relative(p) for p in SOURCES if unfinished.search(p.read_text("utf-8"))] == []


def test_no_error_is_swallowed() -> None:
    swallowed = [
        f"{relative(path)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and len(node.body) == 1
        and isinstance(node.body[0], ast.Pass)
    ]
    assert swallowed == []


def test_every_test_asserts_something() -> None:
    idle = [
        f"{path.relative_to(ROOT)}:{function.name}"
        for path in TESTS
        for function in functions_in(path)
        if function.name.startswith("test") and not asserts_something(function)
    ]
    assert idle == []


def test_the_command_line_answers_without_torch() -> None:
    code = "import sys, protosam.cli.app; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == 0


def test_every_library_that_the_package_needs_is_pinned() -> None:
    tomllib = pytest.importorskip("tomllib", reason="comes with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = {
        _plain(requirement)
        for requirement in [*project["dependencies"], *extras["slicer"], *extras["dev"]]
    }
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {_plain(line) for line in lines if "==" in line}
    assert needed - pinned == set()


def test_the_constraints_name_no_place_to_download_from() -> None:
    for name in ("constraints.txt", "pyproject.toml", "Makefile", "scripts/setup_venv.sh"):
        assert "://" not in (ROOT / name).read_text("utf-8"), name


def test_the_ci_calls_the_command_of_the_readme() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text("utf-8")
    assert "make test" in (ROOT / "README.md").read_text("utf-8")


def _plain(requirement: str) -> str:
    """Name of a library as the index compares it."""
    return re.split(r"[<>=!;\[ ]", requirement, maxsplit=1)[0].lower().replace("_", "-")
