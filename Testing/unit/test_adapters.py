"""The folder of adapters: whole versions, one active, and a way back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from protosam.cli.adapters import resolved
from protosam.cli.app import app
from protosam.errors import InvalidInput, StorageFailure, UnreadableFile, WeightsRefused
from protosam.learn.adapter_cards import CARD, AdapterCard
from protosam.learn.adapters import AdapterStore
from protosam.models.adapter_folder import ACTIVE, SHIFT_FILE
from protosam.models.add_ons import find_add_on


def a_card(**changes: object) -> AdapterCard:
    entries: dict[str, object] = {
        "tier": "decoder",
        "base_name": "small",
        "base_sha256": "0" * 64,
        "labels": ("liver",),
        "cases": ("aa",),
        "held_out": ("bb",),
        "seed": 0,
        "settings": {"rank": 4},
        "figures": {"seconds": 1.5},
        "gate": {"accepted": True},
    }
    return AdapterCard(**{**entries, **changes})  # type: ignore[arg-type]


def a_file(folder: Path, text: str = "weights") -> None:
    (folder / "adapter_model.safetensors").write_text(text)


@pytest.fixture
def a_store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "adapters")


def test_a_version_comes_back_with_its_card(a_store: AdapterStore) -> None:
    assert a_store.names() == () and a_store.active_path("liver") is None
    added = a_store.add("liver", a_card(), a_file, activate=True)
    assert (added.number, added.active, added.card) == (1, True, a_card())
    assert a_store.active_path("liver") == added.folder == added.path
    assert a_store.names() == ("liver",)


def test_what_is_not_let_in_is_kept_aside(a_store: AdapterStore) -> None:
    a_store.add("liver", a_card(), a_file, activate=True)
    second = a_store.add("liver", a_card(seed=1), a_file, activate=False)
    assert not second.active and a_store.version("liver").number == 1
    assert [one.number for one in a_store.versions("liver")] == [1, 2]


def test_rolling_back_leads_to_what_was_before_and_in_the_end_to_the_base(
    a_store: AdapterStore,
) -> None:
    for seed in range(3):
        a_store.add("liver", a_card(seed=seed), a_file, activate=True)
    back = a_store.rollback("liver")
    assert back is not None and back.number == 2
    assert a_store.rollback("liver") is not None
    assert a_store.rollback("liver") is None and a_store.active_path("liver") is None
    with pytest.raises(InvalidInput, match="Nothing was active"):
        a_store.rollback("liver")
    with pytest.raises(InvalidInput, match="no active version"):
        a_store.version("liver")
    assert a_store.activate("liver", 3).active


def test_an_active_version_is_not_discarded(a_store: AdapterStore) -> None:
    a_store.add("liver", a_card(), a_file, activate=True)
    a_store.add("liver", a_card(), a_file, activate=True)
    with pytest.raises(InvalidInput, match="is active"):
        a_store.discard("liver", 2)
    a_store.discard("liver", 1)
    assert [one.number for one in a_store.versions("liver")] == [2]
    assert a_store.rollback("liver") is None  # what was deleted is passed over
    assert a_store.add("liver", a_card(), a_file, activate=False).number == 3


def test_a_version_that_was_changed_is_not_activated(a_store: AdapterStore) -> None:
    a_store.add("liver", a_card(), a_file, activate=True)
    second = a_store.add("liver", a_card(), a_file, activate=False)
    a_file(second.folder, "others")
    with pytest.raises(WeightsRefused, match="was changed"):
        a_store.activate("liver", 2)
    assert a_store.version("liver").number == 1


def test_a_version_that_cannot_be_written_leaves_no_trace(a_store: AdapterStore) -> None:
    a_store.add("liver", a_card(), a_file, activate=True)
    before = sorted(p.name for p in (a_store.folder / "liver").iterdir())

    def full(folder: Path) -> None:
        a_file(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageFailure, match="Free some space"):
        a_store.add("liver", a_card(), full, activate=True)
    assert sorted(p.name for p in (a_store.folder / "liver").iterdir()) == before
    assert a_store.version("liver").number == 1


def test_an_export_is_a_copy_and_never_overwrites(a_store: AdapterStore, tmp_path: Path) -> None:
    a_store.add("liver", a_card(), a_file, activate=True)
    written = a_store.export("liver", tmp_path / "new" / "out")
    assert (written / "adapter_model.safetensors").read_text() == "weights"
    assert (written / CARD).is_file()
    with pytest.raises(InvalidInput, match="exists"):
        a_store.export("liver", tmp_path / "new" / "out")


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "a/b", "a b", "x" * 65, "a\n"])
def test_names_that_are_paths_or_blank_are_refused(a_store: AdapterStore, name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be an adapter's name"):
        a_store.add(name, a_card(), a_file, activate=True)
    assert a_store.active_path(name) is None


def test_a_damaged_note_of_what_is_active_is_told(a_store: AdapterStore) -> None:
    a_store.add("liver", a_card(), a_file, activate=True)
    (a_store.folder / "liver" / ACTIVE).write_text("{")
    with pytest.raises(UnreadableFile, match="Delete it"):
        a_store.version("liver")


def test_a_card_of_another_format_is_refused(a_store: AdapterStore) -> None:
    one = a_store.add("liver", a_card(), a_file, activate=True)
    text = (one.folder / CARD).read_text()
    (one.folder / CARD).write_text(text.replace('"format": 1', '"format": 9'))
    with pytest.raises(WeightsRefused, match="another version"):
        a_store.versions("liver")


def test_a_damaged_version_does_not_stand_in_the_way_of_the_others(a_store: AdapterStore) -> None:
    first, second, third = (
        a_store.add("liver", a_card(), a_file, activate=number < 2) for number in range(3)
    )
    (third.folder / CARD).write_text("{")
    assert a_store.version("liver").number == second.number
    assert a_store.activate("liver", first.number).active
    assert a_store.rollback("liver").number == second.number
    a_store.discard("liver", first.number)
    with pytest.raises(WeightsRefused):
        a_store.version("liver", third.number)


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_adapters import a_card, a_file
from protosam.learn.adapters import AdapterStore

def slow(folder):
    a_file(folder, "half")
    print("writing", flush=True)
    time.sleep(600)

AdapterStore(Path(sys.argv[1])).add("liver", a_card(), slow, activate=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_kill_in_the_middle_leaves_the_old_version_active(a_store: AdapterStore) -> None:
    old = a_store.add("liver", a_card(), a_file, activate=True)
    here = Path(__file__).parent
    command = [sys.executable, "-c", KILLED, str(a_store.folder), str(here)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert a_store.active_path("liver") == old.folder
    assert [one.number for one in a_store.versions("liver")] == [1]
    assert a_store.add("liver", a_card(), a_file, activate=True).number == 2
    assert not list((a_store.folder / "liver").glob(".new-*"))


def test_a_name_means_the_version_in_use_wherever_adapters_are_loaded(
    a_store: AdapterStore, tmp_path: Path
) -> None:
    one = a_store.add("liver", a_card(), a_file, activate=True)
    two = a_store.add("liver", a_card(seed=1), a_file, activate=True)
    named = Path("liver")
    assert find_add_on(named, folder=a_store.folder) == two.folder
    assert find_add_on(a_store.folder / "liver") == two.folder
    assert resolved("liver", a_store.folder) == str(two.folder)
    a_store.rollback("liver")
    assert find_add_on(named, folder=a_store.folder) == one.folder
    assert find_add_on(one.folder) == one.folder  # a version is itself
    assert find_add_on(tmp_path / "none") == tmp_path / "none"


def test_a_name_without_a_version_in_use_is_told_and_not_guessed(a_store: AdapterStore) -> None:
    a_store.add("liver", a_card(), a_file, activate=False)
    for look in (
        lambda: find_add_on(Path("liver"), folder=a_store.folder),
        lambda: resolved("liver", a_store.folder),
    ):
        with pytest.raises(InvalidInput, match=r"no (active )?version") as refused:
            look()
        assert "adapters activate liver" in str(refused.value.next_step)


@pytest.mark.parametrize("text", ['{"format": 1, "version": "2", "before": []}', "[]", "{"])
def test_a_damaged_note_is_told_where_adapters_are_loaded(a_store: AdapterStore, text: str) -> None:
    a_store.add("liver", a_card(), a_file, activate=True)
    (a_store.folder / "liver" / ACTIVE).write_text(text)
    with pytest.raises(UnreadableFile, match=ACTIVE):
        find_add_on(a_store.folder / "liver")


def test_without_a_folder_a_name_is_left_to_whoever_loads_it(
    a_store: AdapterStore, tmp_path: Path
) -> None:
    a_store.add("liver", a_card(), a_file, activate=True)
    assert resolved("", a_store.folder) == ""
    assert resolved(str(tmp_path), None) == str(tmp_path)
    with pytest.raises(InvalidInput, match="no adapter 'spleen'"):
        resolved("spleen", a_store.folder)
    (a_store.folder / "spleen.shift").write_text("x")
    assert resolved("spleen", a_store.folder) == str(a_store.folder / "spleen.shift")


@pytest.mark.parametrize("command", ["segment", "evaluate", "batch", "adapt"])
def test_every_command_that_uses_adapters_takes_their_folder(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0 and "--adapters-dir" in shown.output


def test_a_command_refuses_a_name_that_is_not_in_the_folder(
    a_store: AdapterStore, tmp_path: Path
) -> None:
    given = ["--adapter", "spleen", "--adapters-dir", str(a_store.folder)]
    refused = CliRunner().invoke(app, ["evaluate", "--data", str(tmp_path), *given])
    assert refused.exit_code == 2 and "no adapter 'spleen'" in refused.output


def test_a_shift_is_named_by_its_file(a_store: AdapterStore) -> None:
    def shift(folder: Path) -> None:
        (folder / SHIFT_FILE).write_text("x")

    assert a_store.add("liver", a_card(tier="shift"), shift, activate=True).path.name == SHIFT_FILE


def test_the_commands_show_and_change_what_is_active(a_store: AdapterStore) -> None:
    runner, where = CliRunner(), ["--adapters-dir", str(a_store.folder)]
    for seed in range(2):
        a_store.add("liver", a_card(seed=seed), a_file, activate=True)
    listing = runner.invoke(app, ["adapters", "list", *where])
    assert listing.exit_code == 0 and listing.output.count("liver") >= 2
    assert '"seed": 1' in runner.invoke(app, ["adapters", "show", "liver", *where]).output
    assert "Version 1" in runner.invoke(app, ["adapters", "rollback", "liver", *where]).output
    choose = ["adapters", "activate", "liver", "--version", "2", *where]
    assert runner.invoke(app, choose).exit_code == 0 and a_store.version("liver").number == 2
    assert runner.invoke(app, ["adapters", "show", "spleen", *where]).exit_code == 2
