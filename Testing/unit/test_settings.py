"""Settings of the training: round trip, schedules, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protosam.errors import InvalidInput
from protosam.learn.settings import TrainBaseSettings

SHARES = st.dictionaries(
    st.sampled_from(["32", "96", "128", "256"]), st.floats(0.1, 1), min_size=1, max_size=3
)
SETTINGS = st.builds(
    TrainBaseSettings,
    steps=st.integers(100, 10_000),
    decay_steps=st.integers(0, 100),
    seed=st.integers(0, 2**31),
    processes=st.integers(1, 8),
    stages=st.tuples(st.tuples(st.floats(0.1, 0.9), SHARES), st.tuples(st.just(1.0), SHARES)),
    learning_rate=st.floats(1e-6, 1),
    mix=st.dictionaries(st.sampled_from(["procedural", "sunnybrook_2d"]), st.floats(0.1, 1)),
)


@given(SETTINGS)
def test_settings_survive_json(settings: TrainBaseSettings) -> None:
    assert TrainBaseSettings.from_json(settings.to_json()) == settings


def test_the_order_of_the_mix_survives_json() -> None:
    # Draws go by the order of the sources, so a resumed run would take other steps without it.
    settings = TrainBaseSettings()
    again = TrainBaseSettings.from_json(settings.to_json())
    assert list(again.mix) == list(settings.mix)


def test_what_a_file_leaves_out_has_its_default() -> None:
    assert TrainBaseSettings.from_json('{"seed": 5}') == TrainBaseSettings(seed=5)


def test_integers_in_the_stages_of_a_file_are_fractions() -> None:
    text = '{"stages": [[0.5, {"96": 1}], [1, {"128": 1}]]}'
    assert TrainBaseSettings.from_json(text).stages == ((0.5, {"96": 1.0}), (1.0, {"128": 1.0}))


def test_unknown_settings_are_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="Unknown training settings: sed, stepps"):
        TrainBaseSettings.from_json('{"stepps": 5, "sed": 1}')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1, 2]", "are a list"),
        ('{"stages": 3}', "Stages are pairs"),
        ('{"stages": [[0.5]]}', "Stages are pairs"),
        ('{"stages": [[0.5, {"large": 1}]]}', "Stages are pairs"),
        ('{"stages": [[0.5, 128]]}', "Stages are pairs"),
        ('{"steps": "many"}', "wrong type"),
        ('{"processes": null}', "wrong type"),
    ],
)
def test_a_file_of_another_form_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        TrainBaseSettings.from_json(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "at least one step"),
        ({"steps": 10, "decay_steps": 11}, "no more decay steps than steps"),
        ({"decay_steps": -1}, "no more decay steps than steps"),
        ({"stages": ((1.0, {"100": 1.0}),)}, "multiples of 16"),
        ({"stages": ((0.5, {"96": 1.0}),)}, "reach 1.0"),
        ({"stages": ()}, "multiples of 16"),
        ({"processes": 0}, "at least one process"),
        ({"batch": 0}, "at least one process"),
        ({"loaders": -1}, "no fewer than no loaders"),
        ({"device": "tpu"}, "cpu or cuda"),
        ({"objects": 0}, "at least one process"),
        ({"log_every": 0}, "at least one step apart"),
        ({"checkpoint_every": 0}, "at least one step apart"),
    ],
)
def test_settings_that_no_training_can_have_are_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        TrainBaseSettings(**changes)
    with pytest.raises(InvalidInput, match=message):
        TrainBaseSettings.from_json(json.dumps(changes))


def test_the_learning_rate_rises_stays_and_falls_to_nothing() -> None:
    settings = TrainBaseSettings(steps=1000, warmup_steps=100, decay_steps=200, learning_rate=2.0)
    rates = [settings.learning_rate_at(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.02)
    assert rates[:100] == sorted(rates[:100])
    assert set(rates[99:800]) == {2.0}
    assert rates[800:] == sorted(rates[800:], reverse=True)
    assert rates[900] == pytest.approx(1.0)
    assert 0 < rates[-1] == pytest.approx(0.01)
    assert settings.learning_rate_at(1000) == 0


@given(SETTINGS, st.data())
def test_the_learning_rate_never_leaves_its_bounds(
    settings: TrainBaseSettings, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, settings.steps - 1))
    assert 0 < settings.learning_rate_at(step) <= settings.learning_rate


def test_each_stage_has_its_frame_sides() -> None:
    stages = ((0.4, {"96": 1.0}), (0.7, {"128": 1.0}), (1.0, {"128": 0.6, "256": 0.4}))
    settings = TrainBaseSettings(steps=10, decay_steps=0, stages=stages)
    assert [list(settings.sides_at(step)) for step in range(10)] == (
        [["96"]] * 4 + [["128"]] * 3 + [["128", "256"]] * 3
    )


def test_batches_of_larger_frames_have_fewer_samples() -> None:
    settings = TrainBaseSettings(batch=6)
    assert settings.batch_at(128) == 6
    assert settings.batch_at(64) == 24
    assert settings.batch_at(256) == 2
    assert settings.batch_at(1024) == 1
