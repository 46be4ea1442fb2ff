"""Pseudo-labels: who may teach, how strictly, and what is learned from it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from protosam.errors import InvalidInput
from protosam.learn.pseudo import (
    PseudoSettings,
    edge_band,
    gated_labels,
    pseudo_loss,
)

SETTINGS = PseudoSettings()


def a_square(low: float = -6.0, high: float = 6.0) -> torch.Tensor:
    logits = torch.full((1, 20, 20), low)
    logits[:, 5:15, 5:15] = high
    return logits


def test_where_both_judges_agree_surely_and_away_from_the_edge_the_answer_teaches() -> None:
    logits = a_square()
    labels = gated_labels(logits, logits, SETTINGS, 0.0)

    assert torch.equal(labels.target, (logits > 0).float())
    taught = labels.weight[0].bool()
    assert taught[10, 10] and taught[0, 0]
    assert not taught[5, 5:15].any() and not taught[4, 5:15].any()
    assert labels.share == pytest.approx(1 - (144 - 64) / 400)


def test_where_the_judges_disagree_nothing_is_taught() -> None:
    labels = gated_labels(a_square(), -a_square(), SETTINGS, 0.0)

    assert labels.share == 0


def test_the_gate_opens_as_training_goes_on() -> None:
    unsure = a_square(-1.5, 1.5)  # probabilities of 0.18 and 0.82
    shares = [gated_labels(unsure, unsure, SETTINGS, p).share for p in (0.0, 0.3, 0.5, 1.0)]

    assert shares[0] == shares[1] == 0 < shares[2] == shares[3]


@given(progress=st.floats(0, 1), later=st.floats(0, 1))
def test_schedules_are_monotonous_and_bounded(progress: float, later: float) -> None:
    first, second = sorted((progress, later))

    assert SETTINGS.confidence_at(first) >= SETTINGS.confidence_at(second) >= 0.7 - 1e-9
    assert 0 <= SETTINGS.weight_at(first) <= SETTINGS.weight_at(second) <= 0.5
    assert SETTINGS.weight_at(1.0) == 0.5 and SETTINGS.weight_at(0.0) < 0.01


def test_the_band_is_as_wide_on_either_side_as_asked() -> None:
    mask = torch.zeros(2, 12, 12, dtype=torch.bool)
    mask[:, 4:8, 4:8] = True

    assert not edge_band(mask, 0).any()
    assert edge_band(mask, 1)[0].sum() == 36 - 4
    assert edge_band(mask, 2)[1].sum() == 64


def test_no_label_and_no_gradient_reaches_the_teacher() -> None:
    teacher = a_square().requires_grad_()
    labels = gated_labels(teacher, teacher, SETTINGS, 1.0)

    assert not labels.target.requires_grad and not labels.weight.requires_grad


def test_the_pupil_is_drawn_to_the_labels_where_they_teach_and_nowhere_else() -> None:
    labels = gated_labels(a_square(), a_square(), SETTINGS, 1.0)
    pupil = torch.zeros(1, 20, 20, requires_grad=True)
    pseudo_loss(pupil, labels).backward()

    assert pupil.grad is not None
    pull = -pupil.grad
    assert (pull[(labels.weight > 0) & (labels.target > 0)] > 0).all()
    assert (pull[(labels.weight > 0) & (labels.target == 0)] < 0).all()
    assert (pull[labels.weight == 0] == 0).all()
    assert pseudo_loss(a_square(), labels) < pseudo_loss(pupil, labels)


def test_where_nothing_teaches_the_loss_pulls_nowhere() -> None:
    labels = gated_labels(a_square(), -a_square(), SETTINGS, 1.0)
    pupil = torch.zeros(1, 20, 20, requires_grad=True)
    loss = pseudo_loss(pupil, labels)
    loss.backward()

    assert loss.item() == 0 and pupil.grad is not None and not pupil.grad.any()


def test_shapes_and_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidInput, match="one shape"):
        gated_labels(a_square(), torch.zeros(1, 10, 10), SETTINGS, 0.5)
    with pytest.raises(InvalidInput, match="progress"):
        gated_labels(a_square(), a_square(), SETTINGS, 1.5)
    with pytest.raises(InvalidInput, match="confident_last"):
        PseudoSettings(confident_last=1.0)
    with pytest.raises(InvalidInput, match="weight"):
        PseudoSettings(largest_weight=-1.0)
