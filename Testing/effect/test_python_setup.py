"""Which Python runs the worker: the order, what is missing, and what the user is told."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

CORE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture
def setup(bare_app: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("PROTOSAM_PYTHON", raising=False)
    return importlib.import_module("ProtoSAMSlicerLib.PythonSetup")


def a_python(path: Path, answer: str = "", code: int = 0) -> Path:
    """Make a program that gives this answer to whatever it is asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{answer}'\nexit {code}\n")
    path.chmod(0o755)
    return path


def ask(setup: Any, candidates: list[Any]) -> Any:
    search = setup.Search(candidates, CORE)
    end = time.monotonic() + 30
    while not search.poll():
        assert time.monotonic() < end
        time.sleep(0.01)
    return search


def test_the_order_is_settings_environment_checkout_slicer(
    setup: Any, bare_app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare_app.settings[setup.SETTING] = "/chosen/python"
    monkeypatch.setenv("PROTOSAM_PYTHON", "/named/python")
    beside = a_python(tmp_path / ".venv" / "bin" / "python")
    monkeypatch.setattr(setup, "slicers_python", lambda: "/slicer/PythonSlicer")
    found = [(one.python, one.origin) for one in setup.candidates(tmp_path)]
    assert found == [
        ("/chosen/python", "settings"),
        ("/named/python", "environment"),
        (str(beside), "checkout"),
        ("/slicer/PythonSlicer", "slicer"),
    ]


def test_an_environment_beside_the_checkout_is_found_by_itself(setup: Any, tmp_path: Path) -> None:
    beside = a_python(tmp_path / ".venv" / "bin" / "python")
    assert setup.candidates(tmp_path)[0].python == str(beside)
    assert [one.origin for one in setup.candidates(tmp_path / "src")] in ([], ["slicer"])


def test_slicer_itself_is_never_taken_for_a_python(
    setup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup.shutil, "which", lambda _name: None)
    monkeypatch.setattr(sys, "executable", str(a_python(tmp_path / "SlicerApp-real")))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert setup.slicers_python() == ""
    real = a_python(tmp_path / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}")
    assert setup.slicers_python() == str(real)


def test_a_real_python_is_asked_in_a_child_process(setup: Any) -> None:
    search = ask(setup, [setup.Candidate(sys.executable, "settings")])
    assert [one.problem for one in search.findings] == [""]
    assert set(search.findings[0].missing) <= set(setup.NEEDED)


def test_the_search_goes_on_until_one_lacks_nothing(setup: Any, tmp_path: Path) -> None:
    lacking = a_python(tmp_path / "a", '{"version": [3, 11, 2], "missing": ["torch", "skimage"]}')
    whole = a_python(tmp_path / "b", '{"version": [3, 12, 1], "missing": []}')
    never = a_python(tmp_path / "c", "not reached")
    asked = [setup.Candidate(str(one), "settings") for one in (lacking, whole, never)]
    search = ask(setup, asked)
    assert search.chosen.python == str(whole)
    assert len(search.findings) == 2
    assert search.findings[0].sentence == f"{lacking} lacks torch, scikit-image."
    assert search.findings[1].sentence == f"{whole} has everything."


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("hello", "it is not a working Python"),
        ('{"version": [3, 9, 10], "missing": []}', "it is Python 3.9.10, and 3.10 or newer"),
        ("", "it is not a working Python"),
        ("[1]", "it is not a working Python"),
    ],
)
def test_what_is_no_python_for_us_is_said_in_a_sentence(
    setup: Any, tmp_path: Path, answer: str, said: str
) -> None:
    search = ask(setup, [setup.Candidate(str(a_python(tmp_path / "p", answer)), "settings")])
    assert search.chosen is None
    assert said in search.findings[0].sentence


def test_a_program_that_is_not_there_is_said_in_a_sentence(setup: Any) -> None:
    search = ask(setup, [setup.Candidate("/no/such/python", "settings")])
    assert "cannot be started" in search.findings[0].sentence


def test_a_python_that_never_answers_is_given_up(
    setup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "CHECK_LIMIT_S", 0.1)
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    search = ask(setup, [setup.Candidate(str(slow), "settings")])
    assert "does not answer" in search.findings[0].sentence


def test_a_foreign_python_gets_nothing_of_slicers(
    setup: Any, bare_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = bare_app.application.slicerHome
    given = {
        "PYTHONHOME": f"{home}/lib/Python",
        "PYTHONPATH": f"{home}/lib",
        "PYTHONNOUSERSITE": "1",
        "SSL_CERT_FILE": f"{home}/ca.crt",
        "LD_LIBRARY_PATH": os.pathsep.join([f"{home}/lib/Slicer-5.8", "/opt/cuda/lib"]),
        "DYLD_LIBRARY_PATH": f"{home}/lib",
        "PATH": os.pathsep.join([f"{home}/bin", "/usr/bin"]),
        "QT_PLUGIN_PATH": f"{home}/lib/QtPlugins",
        "HOME": "/home/someone",
    }
    monkeypatch.setattr(sys.modules["slicer"].util, "startupEnvironment", lambda: given)
    environment = setup.Candidate("/venv/bin/python", "checkout").environment(CORE)
    assert environment == {
        "LD_LIBRARY_PATH": "/opt/cuda/lib",
        "PATH": "/usr/bin",
        "HOME": "/home/someone",
        "PYTHONPATH": str(CORE),
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
    }


def test_slicers_own_python_keeps_its_paths(setup: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/slicer/lib")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/slicer/lib/Slicer-5.8")
    environment = setup.Candidate("/slicer/PythonSlicer", "slicer").environment(CORE)
    assert environment["PYTHONPATH"] == os.pathsep.join([str(CORE), "/slicer/lib"])
    assert environment["LD_LIBRARY_PATH"] == "/slicer/lib/Slicer-5.8"


def test_a_complete_environment_is_seen_without_running_it(setup: Any, tmp_path: Path) -> None:
    python = a_python(tmp_path / "bin" / "python")
    candidate = setup.Candidate(str(python), "checkout")
    assert candidate.looks_complete() is False
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name in setup.NEEDED:
        (packages / name).mkdir(parents=True)
    assert candidate.looks_complete() is True
    assert setup.Candidate(str(tmp_path / "none"), "checkout").looks_complete() is False


def test_what_is_needed_is_all_that_a_worker_imports(setup: Any) -> None:
    sources = [
        *(CORE / "protosam" / "worker").glob("*.py"),
        *(CORE / "protosam" / "models").glob("*.py"),
    ]
    imported = {
        line.split()[1].partition(".")[0]
        for path in sources
        for line in path.read_text("utf-8").splitlines()
        if line.startswith(("import ", "from "))
    }
    ours = set(sys.stdlib_module_names) | {"protosam", "__future__"}
    # peft is imported by the adapters' module alone, which is loaded for an adapter only, and monai
    # by the specialists', which no worker loads.
    assert imported - ours - {"peft", "monai"} <= set(setup.NEEDED)


class TestWithoutAUsablePython:
    """What the panel says and does."""

    @pytest.fixture
    def editor(self, app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        setup = importlib.import_module("ProtoSAMSlicerLib.PythonSetup")
        own = setup.Candidate(str(tmp_path / "PythonSlicer"), "slicer")
        lacking = setup.Finding(own, ("segment_anything", "safetensors"))
        monkeypatch.setattr(setup, "candidates", lambda _checkout: [own])
        monkeypatch.setattr(setup.Candidate, "looks_complete", lambda _self: False)
        monkeypatch.setattr(setup.Check, "poll", lambda _self: lacking)
        editor = app.editor().choose()
        self.own = own
        return editor

    def test_it_says_so_in_one_sentence_with_buttons(self, editor: Any) -> None:
        assert "Looking" in editor.ui.statusChip.text
        editor.app.tick()
        assert editor.controller is None
        assert editor.ui.setupFrame.visible is True
        assert "lacks segment-anything, safetensors" in editor.ui.setupLabel.text
        assert editor.ui.installButton.enabled is True
        assert editor.ui.startButton.enabled is False

    def test_a_click_is_taken_and_explained_and_nothing_breaks(self, editor: Any) -> None:
        assert editor.click() == (True, True)
        editor.app.tick()
        assert editor.click() == (True, True)
        editor.drag((1, 1), (30, 30), "shift")
        assert "libraries" in editor.ui.hintLabel.text

    def test_no_dialog_opens_while_slicer_tests_itself(self, editor: Any) -> None:
        editor.app.tick()
        editor.app.testing = True
        editor.ui.installButton.click()
        editor.ui.choosePythonButton.click()
        assert editor.app.asked == []
        assert "tested" in editor.ui.messageLabel.text

    def test_a_chosen_python_is_kept_in_the_settings_and_asked(
        self, editor: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        setup = importlib.import_module("ProtoSAMSlicerLib.PythonSetup")
        editor.app.tick()
        editor.app.file_name = "/venv/bin/python"
        chosen = setup.Candidate("/venv/bin/python", "settings")
        monkeypatch.setattr(setup, "candidates", lambda _checkout: [chosen])
        monkeypatch.setattr(setup.Check, "poll", lambda _self: setup.Finding(chosen))
        editor.ui.choosePythonButton.click()
        editor.app.tick()
        assert editor.app.settings[setup.SETTING] == "/venv/bin/python"
        assert editor.session.client.command == ("/venv/bin/python", "-m", "protosam.worker")
        assert editor.ui.setupFrame.visible is False
        assert not any("venv" in value for value in editor.node.attributes.values())

    def test_looking_again_finds_what_was_installed_meanwhile(
        self, editor: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        setup = importlib.import_module("ProtoSAMSlicerLib.PythonSetup")
        editor.app.tick()
        monkeypatch.setattr(setup.Check, "poll", lambda _self: setup.Finding(self.own))
        editor.ui.searchAgainButton.click()
        editor.app.tick()
        assert editor.controller is not None

    def test_nothing_is_installed_without_consent(self, editor: Any) -> None:
        editor.app.tick()
        editor.app.answer = False
        editor.ui.installButton.click()
        assert "segment-anything" in editor.app.asked[0]
        assert editor.session._setup._installation is None

    def test_an_installation_is_followed_and_then_looked_at(
        self, editor: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        setup = importlib.import_module("ProtoSAMSlicerLib.PythonSetup")
        a_python(Path(self.own.python), "Successfully installed")
        editor.app.tick()
        editor.ui.installButton.click()
        installation = editor.session._setup._installation
        monkeypatch.setattr(setup.Check, "poll", lambda _self: setup.Finding(self.own))
        wait_for(installation)
        assert not list(Path(editor.app.folder).glob("ProtoSAM-*.txt"))
        editor.app.tick()
        editor.app.tick()
        assert editor.controller is not None

    def test_an_installation_that_fails_shows_its_last_lines(self, editor: Any) -> None:
        a_python(Path(self.own.python), "No matching distribution", 1)
        editor.app.tick()
        editor.ui.installButton.click()
        wait_for(editor.session._setup._installation)
        editor.app.tick()
        assert "failed" in editor.ui.messageLabel.text
        assert editor.ui.messageLabel.toolTip == "No matching distribution"


def test_a_python_that_only_looked_complete_is_replaced(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = importlib.import_module("ProtoSAMSlicerLib.PythonSetup")
    broken, whole = setup.Candidate("/broken", "checkout"), setup.Candidate("/whole", "slicer")
    answers = [setup.Finding(broken, ("torch",)), setup.Finding(whole)]
    monkeypatch.setattr(setup, "candidates", lambda _checkout: [broken, whole])
    monkeypatch.setattr(setup.Check, "poll", lambda _self: answers.pop(0))
    editor = app.editor().choose()
    first = editor.controller
    assert first.client.command[0] == "/broken"
    app.tick()
    assert editor.controller is not first
    assert editor.session.client.command[0] == "/whole"
    assert first.client.calls.count("close") == 1


def test_packages_that_slicer_has_are_pinned_and_torch_comes_first(bare_app: Any) -> None:
    installation = importlib.import_module("ProtoSAMSlicerLib.Installation")
    wanted = installation.packages(("safetensors", "torchvision", "torch"))
    assert wanted[:2] == ["torch", "torchvision"]
    small = {"peft", "POT", "scikit-learn", "SimpleITK"}
    assert set(wanted) == {"torch", "torchvision", "safetensors"} | small
    assert any(line.startswith("numpy==") for line in installation.constraints().splitlines())


def test_torch_comes_through_slicers_extension_where_that_is(
    bare_app: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installation = importlib.import_module("ProtoSAMSlicerLib.Installation")
    assert installation.install_torch_by_extension() is False
    (tmp_path / "PyTorchUtils.py").write_text(
        "class PyTorchUtilsLogic:\n"
        "    def installTorch(self, askConfirmation):\n"
        "        return 'torch' if askConfirmation else None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installation.install_torch_by_extension() is True
    monkeypatch.delitem(sys.modules, "PyTorchUtils")


def test_an_old_python_in_slicer_is_a_sentence_in_the_panel(
    bare_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = importlib.import_module("ProtoSAMSlicerLib.Core")
    monkeypatch.setattr(core, "OLDEST_PYTHON", (99, 0))
    editor = bare_app.editor().choose()
    assert "Python 3.10 or newer" in editor.ui.hintLabel.text
    assert editor.click() == (False, False)
    editor.leave()


def test_a_missing_core_is_a_sentence_in_the_panel(
    bare_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = importlib.import_module("ProtoSAMSlicerLib.Core")
    monkeypatch.setattr(core, "core_folder", lambda: None)
    editor = bare_app.editor().choose()
    assert "not complete" in editor.ui.hintLabel.text


def test_the_core_is_found_in_a_checkout_and_beside_an_installed_module(
    bare_app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = importlib.import_module("ProtoSAMSlicerLib.Core")
    assert core.core_folder() == CORE
    (tmp_path / "protosam").mkdir()
    (tmp_path / "protosam" / "__init__.py").touch()
    monkeypatch.setattr(core, "module_folder", lambda: tmp_path)
    assert core.core_folder() == tmp_path


def wait_for(installation: Any) -> None:
    end = time.monotonic() + 20
    while not installation.poll():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def shared(app: Any, tmp_path: Path) -> Any:
    """The worker of a Slicer whose settings name a server; nothing is connected to."""
    from protosam.wire.tls import server_address

    process = importlib.import_module("ProtoSAMSlicerLib.WorkerProcess")
    core = importlib.import_module("ProtoSAMSlicerLib.Core").load()
    core.client.server_address = server_address
    (tmp_path / "token").write_text("a-token-of-some-length")
    app.settings[process.SERVER] = "gpu.example:7310"
    app.settings[process.TOKEN_FILE] = str(tmp_path / "token")
    one = process.SharedWorker(core)
    yield one
    one.close()


def test_a_worker_that_the_settings_name_is_connected_to_and_none_is_started(shared: Any) -> None:
    shared.search()
    assert shared.client is not None
    assert str(shared.client.command) == "gpu.example:7310"
    assert not shared.searching


def test_a_server_without_a_token_is_a_sentence_and_images_go_nowhere(
    shared: Any, app: Any
) -> None:
    process = sys.modules["ProtoSAMSlicerLib.WorkerProcess"]
    app.settings[process.TOKEN_FILE] = ""
    shared.search()
    assert shared.client is None
    assert "There is no token" in shared.findings[0].sentence


def test_without_the_setting_a_worker_is_started_again(shared: Any, app: Any) -> None:
    process = sys.modules["ProtoSAMSlicerLib.WorkerProcess"]
    shared.search()
    app.settings[process.SERVER] = ""
    shared.search()
    assert shared.client.command == (sys.executable, "-m", "protosam.worker")
