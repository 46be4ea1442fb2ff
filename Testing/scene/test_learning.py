"""Learning in a real scene: cases that are kept, runs that teach, and which adapter answers."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protosam.errors import Cancelled, InvalidInput, WorkerDied, WorkerFailure
from protosam.scene import LearningStatus, about_version, standing_cells
from protosam.scene.learning_status import LEARNING_TEXTS, MOST_POINTS, Curve
from protosam.scene.review import REVIEW_TAG, Review
from protosam.wire.client import WorkerClient
from protosam.wire.messages import (
    Adapted,
    AdapterInfo,
    AdapterList,
    CaseList,
    CaseSaved,
    Progress,
    Standing,
    Taught,
)
from protosam.wire.patience import WorkerState
from protosam.wire.replies import Ready

SHAPE = (14, 16, 18)
PATIENT = "DOE-1234"
CODE = (
    "Segmentation category and type - 3D Slicer General Anatomy list"
    "~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^"
    "~Anatomic codes - DICOM master list~^^~^^"
)
FIVE = CaseList(5, 2, 4, ("liver",))


def block(k, j, i, size=4):
    mask = np.zeros(SHAPE, bool)
    mask[k : k + size, j : j + size, i : i + size] = True
    return mask


def version(name="liver", number=1, *, active=True, accepted=True):
    return AdapterInfo(
        name=name,
        number=number,
        active=active,
        path=f"/adapters/{name}/v{number}",
        tier="decoder",
        method="labelled",
        base="fake",
        labels=("liver",),
        cases=4,
        accepted=accepted,
        reason="mean Dice rose" if accepted else "mean Dice fell by 0.1",
        validation="not validated on another patient",
        dice_before=0.7,
        dice_now=0.8,
    )


def verdict(**given):
    rows = (
        Standing("base", None, 0.6, 0.7, 4.0, 0.9),
        Standing("new", 0.5, 0.71239, 0.8, 3.06, None),
    )
    return Adapted(version(**given), rows, "2 objects of 2 cases", (b"png",), 61.0, ())


class Script:
    """The worker's side of learning: what was asked, answered by hand."""

    VERBS = ("save_case", "look_into_cases", "adapt", "adapters", "change_adapter")

    def __init__(self, client):
        self.client, self.out, self.requests = client, [], []
        self.given_up = []
        for verb in self.VERBS:
            setattr(client, verb, self.ask)
        client.give_up = self.given_up.append

    def ask(self, request, on_done=None, on_progress=None, on_taught=None):
        pending = self.client._ask(request, on_done, on_progress)
        if on_taught is not None:
            pending.on_partial(on_taught)
        self.out.append(pending)
        self.requests.append(request)
        return pending

    def asked(self, verb):
        return [one for one in self.requests if verb == one.VERB]

    def settle(self, verb, outcome):
        pending = next(one for one in self.out if verb == one.request.VERB)
        self.out.remove(pending)
        pending.settle(outcome)
        self.client.drain()

    @property
    def run(self):
        return next(one for one in self.out if one.request.VERB == "adapt")

    def say(self, *replies):
        for one in replies:
            if isinstance(one, Taught):
                self.run.hand_out(one)
            else:
                self.run.report(one)
        self.client.drain()


class Bench:
    """A desk with a script, and a folder of cases that is chosen."""

    def __init__(self, desk, folder):
        self.desk, self.folder = desk, folder
        self.script = Script(desk.client)
        self.learning = desk.controller.learning
        self.learning.ask_patients(lambda node: PATIENT)

    @property
    def status(self) -> LearningStatus:
        self.desk.controller.refresh()
        return self.desk.status.learning

    def choose(self, cases=FIVE):
        (self.folder / "manifest.json").write_text("{}")
        assert self.learning.choose_folder(str(self.folder))
        self.script.settle("look_into_cases", cases)

    def know(self, *adapters):
        self.learning.refresh()
        self.script.settle("adapters", AdapterList(adapters))

    def start(self, name="liver", **more):
        self.choose()
        assert self.learning.start(name, **more)

    def says(self, key, step="", **said):
        now = self.status
        wanted = (LEARNING_TEXTS[key], LEARNING_TEXTS[step] if step else "")
        assert (now.message, now.next_step) == tuple(one.format(**said) for one in wanted)


@pytest.fixture
def bench(desk, tmp_path):
    folder = tmp_path / "cases"
    folder.mkdir()
    return Bench(desk, folder)


# Cases.


def test_a_saved_case_has_image_segments_clicks_code_and_digest(bench):
    desk = bench.desk
    bench.choose()
    desk.click((5, 6, 7))
    desk.click((5, 6, 9), positive=False)
    desk.scene.segment("a").SetTag("TerminologyEntry", CODE)
    desk.scene.paint("b", block(9, 11, 12))
    assert bench.status.can_save
    assert bench.learning.save_case()
    assert bench.status.saving
    assert not bench.status.can_save

    (request,) = bench.script.asked("save_case")
    assert request.volume_uid in desk.client.volumes
    assert request.folder == str(bench.folder)
    assert [one.name for one in request.segments] == ["a", "b"]
    assert request.segments[0].terminology == CODE
    whole = np.zeros(SHAPE, bool)
    whole[request.segments[0].extent.slices] = request.segments[0].mask()
    np.testing.assert_array_equal(whole, desk.scene.mask("a"))
    (clicks,) = request.clicks
    assert clicks.name == "a"
    assert [point.positive for point in clicks.prompts.points] == [True, False]
    assert (request.patient, request.model_digest) == (PATIENT, "0123")
    assert len(request.day) == 10

    bench.script.settle("save_case", CaseSaved("c0ffee", "held-out"))
    bench.script.settle("look_into_cases", CaseList(6, 3, 5, ("a", "b")))
    now = bench.status
    assert now.message == "Saved: a, b."
    assert "judge" in now.next_step
    assert f"c0ffee in {bench.folder}" in now.next_step
    assert (now.cases.cases, now.saving, now.can_save) == (6, False, True)
    assert PATIENT not in f"{desk.told.statuses} {desk.told.messages}"


def test_a_case_that_is_saved_again_is_told_so(bench):
    bench.choose()
    bench.desk.click((5, 6, 7))
    assert bench.learning.save_case()
    bench.script.settle("save_case", CaseSaved("c0ffee", "train", again=True))
    assert bench.status.message.startswith("Saved again: ")


def test_saving_changes_nothing_in_the_scene(bench):
    desk = bench.desk
    bench.choose()
    desk.click((5, 6, 7))
    before = desk.masks(), desk.prompts(), desk.scene.logic.CanUndo()
    bench.learning.save_case()
    bench.script.settle("save_case", CaseSaved("c0ffee", "train"))
    after = desk.masks(), desk.prompts(), desk.scene.logic.CanUndo()
    for one in before[0]:
        np.testing.assert_array_equal(before[0][one], after[0][one])
    assert before[1:] == after[1:]


def test_what_is_hidden_empty_or_not_accepted_is_left_out_and_named(bench, desks):
    desk = desks(segments=("liver", "hidden", "empty", "proposal"))
    other = Bench(desk, bench.folder)
    other.choose()
    desk.scene.paint("liver", block(3, 3, 3))
    desk.scene.paint("hidden", block(3, 9, 9))
    desk.scene.paint("proposal", block(9, 3, 3))
    desk.scene.segmentation.GetDisplayNode().SetSegmentVisibility("hidden", False)
    review = Review(0, "", {9: 0.4}).to_text()
    desk.scene.segment("proposal").SetTag(REVIEW_TAG, review)
    assert other.learning.save_case()
    (request,) = other.script.asked("save_case")
    assert [one.name for one in request.segments] == ["liver"]
    assert (request.clicks, request.model_digest) == ((), "")
    other.script.settle("save_case", CaseSaved("c0ffee", "train"))
    assert "hidden, empty, proposal" in other.status.next_step


def test_clicks_that_were_made_on_another_volume_are_not_kept(bench):
    desk = bench.desk
    bench.choose()
    desk.click((5, 6, 7))
    affine = np.diag([1.0, 1.0, 1.5, 1.0])
    other = desk.scene.add_volume(desk.voxels, affine, "other")
    desk.scene.editor.SetAndObserveSourceVolumeNode(other)
    desk.controller.refresh()
    assert bench.learning.save_case()
    assert bench.script.asked("save_case")[0].clicks == ()


def test_no_case_is_saved_before_its_answer_is_there(bench):
    desk = bench.desk
    bench.choose()
    desk.scene.paint("b", block(9, 11, 12))
    desk.client.holds = True
    desk.click((5, 6, 7))
    assert not bench.learning.save_case()
    bench.says("answer_awaited", "wait_first")
    desk.client.holds = False
    desk.settle()
    assert bench.learning.save_case()


def test_nothing_is_saved_without_a_folder_a_segment_or_a_patient(bench):
    desk = bench.desk
    assert not bench.learning.save_case()
    bench.says("no_folder", "choose_folder")
    bench.choose()
    assert not bench.learning.save_case()
    bench.says("nothing_to_save", "finish_first")
    desk.scene.paint("a", block(3, 3, 3))
    bench.learning.ask_patients(lambda node: " ")
    assert not bench.status.patient_known
    assert not bench.learning.save_case("  ")
    bench.says("no_patient", "give_patient")
    assert bench.script.asked("save_case") == []

    assert bench.learning.save_case(" the third one ")
    assert bench.script.asked("save_case")[0].patient == "the third one"
    assert not bench.learning.save_case("again")
    bench.says("still_saving", "wait_first")
    desk.controller.detach()
    bench.script.settle("save_case", CaseSaved("c0ffee", "train"))
    assert not bench.learning.save_case("again")
    bench.says("not_ready", "open_first")


def test_the_host_is_asked_once_for_each_volume_whose_image_it_is(bench):
    asked = []
    bench.learning.ask_patients(lambda node: asked.append(node.GetName()) or PATIENT)
    assert bench.status.patient_known
    bench.desk.settle()
    assert asked == ["image"]
    other = bench.desk.scene.add_volume(bench.desk.voxels, np.eye(4), "other")
    bench.desk.scene.editor.SetAndObserveSourceVolumeNode(other)
    bench.desk.settle()
    assert asked == ["image", "other"]


def test_a_case_that_the_worker_refuses_is_told_in_its_words(bench):
    bench.choose()
    bench.desk.scene.paint("a", block(3, 3, 3))
    bench.learning.save_case()
    error = InvalidInput("The image is in the folder already.", "Remove the old case.")
    bench.script.settle("save_case", error)
    now = bench.status
    assert (now.message, now.next_step) == (error.message, error.next_step)
    assert (now.level, now.saving, now.can_save) == ("error", False, True)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("", "no_folder"),
        ("cases", "relative_folder"),
        ("{tmp}/file", "not_folder"),
        ("{tmp}/no/cases", "missing_folder"),
    ],
)
def test_a_wrong_folder_is_refused_with_its_sentence_and_the_old_one_stays(
    bench, tmp_path, path, key
):
    bench.choose()
    (tmp_path / "file").write_text("")
    path = path.format(tmp=tmp_path)
    assert not bench.learning.choose_folder(path)
    step = "choose_folder" if not path else "no_such_folder"
    bench.says(key, step, folder=path)
    assert (bench.status.folder, bench.status.cases) == (str(bench.folder), FIVE)


@pytest.mark.parametrize("path", ["~nobody-of-this-name/cases", "/" + "x" * 300, "/a\0b"])
def test_a_folder_that_no_system_can_look_at_is_refused_with_a_sentence(bench, path):
    assert not bench.learning.choose_folder(path)
    assert bench.status.message
    assert bench.status.next_step == LEARNING_TEXTS["no_such_folder"]
    assert bench.status.folder == ""


def test_a_folder_that_is_not_there_yet_or_empty_is_begun_without_asking(bench, tmp_path):
    for folder in (bench.folder, tmp_path / "new"):
        assert bench.learning.choose_folder(f" {folder} ")
        assert bench.status.folder == str(folder)
        assert bench.status.cases == CaseList(0, 0, 0, ())
        assert not bench.status.can_start
        bench.says("new_folder")
    assert bench.script.requests == []
    assert not (tmp_path / "new").exists()


def test_a_folder_without_cases_is_told_in_the_workers_words(bench):
    bench.choose(InvalidInput("There are no images in it.", "Choose another folder."))
    now = bench.status
    assert now.message == "There are no images in it."
    assert (now.cases, now.can_start) == (None, False)


def test_what_is_said_of_a_folder_that_was_left_meanwhile_is_not_heard(bench, tmp_path):
    (bench.folder / "manifest.json").write_text("{}")
    bench.learning.choose_folder(str(bench.folder))
    bench.learning.choose_folder(str(tmp_path / "new"))
    bench.script.settle("look_into_cases", FIVE)
    assert bench.status.cases == CaseList(0, 0, 0, ())


# Runs.


def test_a_run_shows_progress_time_left_and_a_curve_then_its_verdict(bench):
    bench.start(" liver ", tier="shift", method="ema", unlabelled=" /more ", labels=("liver",))
    (request,) = bench.script.asked("adapt")
    assert (request.cases, request.name) == (str(bench.folder), "liver")
    assert (request.tier, request.method, request.unlabelled) == ("shift", "ema", "/more")
    assert (request.labels, request.model) == (("liver",), "")
    now = bench.status
    assert (now.run.phase, now.run.text, now.can_start) == ("running", "Starting.", False)
    assert now.run.seconds_left is None

    bench.script.say(Progress(0.2, "Teaching."), Taught(1, 3, 0.9, 30.0), Taught(2, 3, 0.5, 15.0))
    run = bench.status.run
    assert (run.fraction, run.text, run.seconds_left) == (0.2, "Teaching.", 15.0)
    assert [(one.step, one.loss) for one in run.losses] == [(1, 0.9), (2, 0.5)]
    assert (run.step, run.steps) == (2, 3)
    bench.script.say(Taught(3, 3, 0.4, 0.0), Progress(0.8, "Judging."))
    assert bench.status.run.seconds_left is None

    bench.script.settle("adapt", verdict())
    bench.script.settle("adapters", AdapterList((version(),)))
    now = bench.status
    assert (now.run.phase, now.run.fraction, len(now.run.losses)) == ("done", 1.0, 3)
    assert now.verdict.pictures == (b"png",)
    assert now.verdict.version.validation == "not validated on another patient"
    assert (now.offered, now.adapter, now.can_start) == ("liver", "", True)
    bench.says("accepted", "use_it", name="liver", number=1, reason="mean Dice rose")
    assert bench.desk.told.messages[-1].text == now.message


def test_an_adapter_that_was_in_use_is_used_at_once_when_a_new_version_is_accepted(bench):
    bench.know(version())
    assert bench.learning.use("liver")
    bench.start("liver")
    bench.script.settle("adapt", verdict(number=2))
    bench.script.settle("adapters", AdapterList((version(active=False), version(number=2))))
    now = bench.status
    assert (now.adapter, now.version, now.offered) == ("liver", 2, "")
    bench.says("accepted", "used_now", name="liver", number=2, reason="mean Dice rose")


def test_a_version_that_is_not_accepted_leaves_everything_as_it_is(bench):
    bench.start()
    bench.script.settle("adapt", verdict(accepted=False, active=False))
    now = bench.status
    assert (now.level, now.offered, now.run.phase) == ("warning", "", "done")
    bench.says("rejected", "kept_old", name="liver", number=1, reason="mean Dice fell by 0.1")


def test_a_run_is_stopped_and_the_same_start_goes_on_with_it(bench):
    assert not bench.learning.cancel()
    bench.start()
    bench.script.say(Taught(1, 9, 0.9, 30.0))
    assert bench.learning.cancel()
    assert bench.script.given_up == [bench.script.run.request_id]
    bench.script.say(Progress(0.3, "Teaching."))
    assert (bench.status.run.phase, bench.status.run.text) == (
        "stopping",
        LEARNING_TEXTS["stopping"],
    )
    assert not bench.learning.start("liver")
    bench.script.settle("adapt", Cancelled("The request was given up (cancelled)."))
    assert bench.status.run.phase == "idle"
    bench.says("stopped", "goes_on")
    assert bench.learning.start("liver")
    first, second = bench.script.asked("adapt")
    assert first == second
    assert bench.status.run.losses == ()


def test_a_worker_that_dies_ends_the_run_with_a_sentence_and_it_can_be_started_again(bench):
    bench.start()
    bench.script.say(Taught(1, 9, 0.9, 30.0))
    bench.script.settle("adapt", WorkerDied("The worker ended by itself.\nlines", "Repeat it."))
    now = bench.status
    assert (now.run.phase, now.level, now.can_start) == ("idle", "error", True)
    bench.says("worker_died", "goes_on", name="liver")
    assert bench.learning.start("liver")


def test_what_a_run_fails_by_is_told_in_its_own_words(bench):
    bench.start()
    bench.script.settle("adapt", WorkerFailure("The run ended. Its last lines were:\nx", "Again."))
    assert (bench.status.message, bench.status.next_step) == ("The run ended.", "Again.")
    assert bench.status.run.phase == "idle"


def test_a_worker_on_a_server_says_that_it_does_not_teach(bench):
    refusal = WorkerFailure("This worker serves other machines.", "Teach with a worker here.")
    bench.learning.refresh()
    bench.script.settle("adapters", refusal)
    assert (bench.status.message, bench.status.next_step) == (refusal.message, refusal.next_step)


def test_a_run_needs_a_name_and_a_folder_and_there_is_one_at_a_time(bench):
    assert not bench.learning.start("liver")
    bench.says("no_folder", "choose_folder")
    bench.choose()
    assert not bench.learning.start("  ")
    bench.says("no_name", "give_name")
    assert bench.learning.start("liver")
    assert not bench.learning.start("heart")
    bench.says("one_run", "wait_or_stop", name="liver")
    assert len(bench.script.asked("adapt")) == 1


def test_clicks_are_answered_while_a_run_teaches_and_it_outlives_the_effect(bench):
    desk = bench.desk
    bench.start()
    desk.client.due.append(lambda: None)  # as the open request keeps a real client busy
    assert desk.controller.wanted_interval_ms() == 50
    assert desk.click((5, 6, 7))
    assert desk.scene.mask("a")[5, 6, 7]
    desk.controller.detach()
    bench.script.say(Taught(1, 9, 0.9, 30.0))
    assert desk.controller.learning.status().run.step == 1
    bench.script.settle("adapt", verdict())
    desk.controller.attach(desk.scene.editor, desk.writer)
    assert desk.status.learning.run.phase == "done"
    assert "accepted" in desk.told.messages[-1].text


def test_a_click_that_is_awaited_beside_a_run_is_listened_for_often(bench):
    bench.start()
    bench.desk.client.holds = True
    bench.desk.click((5, 6, 7))
    assert bench.desk.controller.wanted_interval_ms() == 5


@given(st.lists(st.floats(-1e6, 1e6), max_size=1700))
def test_a_curve_has_few_points_in_order_with_the_mean_of_what_they_stand_for(losses):
    curve = Curve()
    for n, loss in enumerate(losses):
        curve.add(Taught(n + 1, len(losses), loss, 0.0))
    share = 1
    while len(losses) // share > MOST_POINTS:
        share *= 2
    points = curve.points()
    assert len(points) == len(losses) // share
    for n, point in enumerate(points):
        assert point.step == n * share + (share + 1) / 2
        block_of = losses[n * share : (n + 1) * share]
        assert point.loss == pytest.approx(float(np.mean(block_of)), abs=1e-6)


# Adapters.


def test_an_adapter_in_use_answers_the_next_click_and_leaves_masks_as_they_are(bench):
    desk = bench.desk
    bench.know(version(number=3), version("heart"))
    assert bench.status.names == ("liver", "heart")
    desk.click((5, 6, 7))
    before = desk.scene.mask("a")
    assert bench.learning.use("liver")
    bench.says("in_use", "masks_stay", name="liver", number=3)
    desk.settle()
    np.testing.assert_array_equal(desk.scene.mask("a"), before)
    assert len(desk.client.asked) == 1
    assert desk.scene.editor.GetAttribute("ProtoSAM.Adapter") == "liver"
    assert (bench.status.adapter, bench.status.version) == ("liver", 3)
    desk.click((5, 6, 9))
    assert desk.client.asked[-1].adapter == "liver"


def test_without_an_adapter_the_bare_model_is_asked_for_by_its_name(bench):
    desk = bench.desk
    desk.client.state = WorkerState("ready", "", None, Ready("tiny", "cpu", 1.0, ()))
    desk.client.stats = lambda: desk.client._ask(None)
    bench.know(version())
    desk.click((5, 6, 7))
    assert (desk.client.asked[-1].model, desk.client.asked[-1].adapter) == ("", "")
    bench.learning.use("liver")
    desk.click((5, 6, 8))
    assert (desk.client.asked[-1].model, desk.client.asked[-1].adapter) == ("", "liver")
    bench.learning.use(None)
    bench.says("not_in_use", "masks_stay")
    desk.click((5, 6, 9))
    # A request without any name would be answered by what is in memory, with its adapter.
    assert (desk.client.asked[-1].model, desk.client.asked[-1].adapter) == ("tiny", "")


def test_an_adapter_without_a_version_in_use_or_without_an_editor_is_refused(bench):
    bench.know(version(active=False))
    assert not bench.learning.use("liver")
    bench.says("no_version", "activate_first", name="liver")
    assert bench.desk.scene.editor.GetAttribute("ProtoSAM.Adapter") in (None, "")
    bench.desk.controller.detach()
    assert not bench.learning.use("liver")
    bench.says("no_editor", "open_first")


def test_a_name_that_stands_for_a_folder_is_neither_taught_nor_used(bench):
    desk = bench.desk
    controller = type(desk.controller)(
        desk.scene.mrml, desk.client, desk.told, adapter_path=lambda name: f"/elsewhere/{name}"
    )
    controller.attach(desk.scene.editor, desk.writer)
    bench.learning, bench.desk.controller = controller.learning, controller
    bench.know(version())
    bench.choose()
    assert not bench.learning.use("liver")
    bench.says("other_name", "rename", name="liver")
    assert not bench.learning.start("liver")
    assert bench.script.asked("adapt") == []


def test_versions_are_activated_rolled_back_and_discarded(bench):
    two = (version(), version(number=2, active=False))
    bench.know(*two)
    bench.learning.use("liver")

    assert bench.learning.activate("liver", 2)
    changed = (version(active=False), version(number=2))
    bench.script.settle("change_adapter", AdapterList(changed))
    assert bench.status.version == 2
    bench.says("activated", "masks_stay", name="liver", number=2)

    bench.learning.rollback("liver")
    bench.script.settle("change_adapter", AdapterList(two))
    bench.says("rolled_back", "masks_stay", name="liver", number=1)
    bench.learning.rollback("liver")
    none = (version(active=False), version(number=2, active=False))
    bench.script.settle("change_adapter", AdapterList(none))
    assert (bench.status.adapter, bench.status.version) == ("liver", None)
    bench.says("rolled_off", "stop_using", name="liver")

    bench.learning.discard("liver", 2)
    bench.script.settle("change_adapter", AdapterList((version(active=False),)))
    bench.says("discarded", name="liver", number=2)
    asked = bench.script.asked("change_adapter")
    assert [(one.action, one.number) for one in asked] == [
        ("activate", 2),
        ("rollback", 0),
        ("rollback", 0),
        ("discard", 2),
    ]


def test_a_change_that_is_refused_is_told_and_the_list_stays(bench):
    bench.know(version())
    bench.learning.discard("liver", 1)
    bench.script.settle("change_adapter", InvalidInput("Version 1 is in use.", "Use another."))
    assert bench.status.message == "Version 1 is in use."
    assert bench.status.adapters == (version(),)


def test_what_the_gate_says_of_a_version_is_one_sentence():
    said = "Mean Dice rose; not validated on another patient."
    assert about_version(version()) == said
    assert about_version(replace(version(), reason="Damaged.", validation="")) == "Damaged."
    assert about_version(replace(version(), reason="", validation="")) == ""


def test_the_cells_of_the_table_say_when_something_was_not_played():
    base, new = verdict().standings
    assert standing_cells(base) == ("-", "0.600", "0.700", "4.0", "0.900")
    assert standing_cells(new) == ("0.500", "0.712", "0.800", "3.1", "-")


# With the real worker.


@pytest.mark.slow
@pytest.mark.skipif(find_spec("protosam.worker.learning") is None, reason="worker does not learn")
def test_two_cases_are_saved_through_the_real_worker_and_looked_into(desks, tmp_path):
    folder = tmp_path / "cases"
    with WorkerClient() as client:
        for n, patient in enumerate(("one", "two")):
            voxels = np.random.default_rng(n).integers(0, 100, SHAPE).astype(np.int16)
            desk = desks(voxels=voxels)
            controller = type(desk.controller)(desk.scene.mrml, client, desk.told)
            controller.attach(desk.scene.editor, desk.writer)
            desk.scene.paint("a", block(3, 3, 3))
            desk.scene.segment("a").SetTag("TerminologyEntry", CODE)
            learning = controller.learning
            assert learning.choose_folder(str(folder))
            assert learning.save_case(patient)
            for _ in range(1200):
                controller.drain(wait_s=0.1)
                if not learning.status().saving and learning.status().cases.cases == n + 1:
                    break
            now = learning.status()
            assert now.message == "Saved: a.", (now.message, now.next_step)
        assert now.cases.patients == 2
        assert now.cases.labels == ("a",)
    content = "".join(path.read_text("utf-8") for path in folder.rglob("*.json"))
    assert '"one"' not in content
    assert "10200004" in content
