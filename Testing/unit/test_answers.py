"""Answers that are kept: which questions count as the same, and how much is held."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from protosam.intensity import Window
from protosam.models.answers import AnswerCache, AnswerKey, prompts_digest
from protosam.models.embeddings import Embedder, EmbeddingCache, EmbeddingKey
from protosam.models.planes import Planes, Rect
from protosam.models.segmenter import Segmenter, SegmentRequest
from protosam.models.slice_model import SliceAnswer, SlicePrompts
from protosam.models.slice_solver import SliceInput, SliceSolver
from protosam.prompts import Point, PromptSet

A_KEY = EmbeddingKey("digest", "cpu", "volume", (0.0, 1.0), 0, 3, Rect(0, 8, 0, 8))
QUESTION = SlicePrompts(
    np.array([[2.0, 3.0]]),
    np.array([True]),
    np.array([1.0, 1.0, 5.0, 5.0]),
    np.zeros((8, 8), np.float32),
    np.ones((8, 8), np.float32),
)


def answer(pixels=64):
    return SliceAnswer(np.zeros((1, pixels), np.float32), 0.5, 0.5)


def key(index=0, uid="volume"):
    return AnswerKey(replace(A_KEY, index=index, volume_uid=uid), b"question")


def test_the_same_prompts_are_the_same_question():
    again = SlicePrompts(
        *(getattr(QUESTION, one.name).copy(order="F") for one in fields(SlicePrompts))
    )
    assert prompts_digest(again) == prompts_digest(QUESTION)


@pytest.mark.parametrize("name", [one.name for one in fields(SlicePrompts)])
def test_every_part_of_the_prompts_makes_another_question(name):
    part = getattr(QUESTION, name)
    other = ~part if part.dtype == bool else part + 1
    assert prompts_digest(replace(QUESTION, **{name: other})) != prompts_digest(QUESTION)


def test_a_prior_and_a_neighbour_are_not_the_same_question():
    logits = np.ones((8, 8), np.float32)
    own, beside = SlicePrompts(prior_logits=logits), SlicePrompts(neighbour_logits=logits)
    assert prompts_digest(own) != prompts_digest(beside)


def test_the_oldest_answers_fall_out_where_the_limit_is_passed():
    cache = AnswerCache(limit_bytes=2 * 256)
    for index in (0, 1):
        cache.put(key(index), answer())
    assert cache.get(key(0)) is not None  # makes it newer than the other
    cache.put(key(2), answer())
    assert (cache.get(key(1)), len(cache), cache.nbytes) == (None, 2, 512)
    cache.put(key(3), answer(pixels=1000))
    assert (len(cache), cache.nbytes) == (1, 4000)


def test_an_answer_that_comes_again_is_counted_once():
    cache = AnswerCache()
    for _ in range(2):
        cache.put(key(), answer())
    assert (len(cache), cache.nbytes) == (1, 256)
    cache.clear()
    assert (len(cache), cache.nbytes) == (0, 0)


def test_the_answers_for_a_closed_volume_are_dropped():
    cache = AnswerCache()
    cache.put(key(uid="one"), answer())
    cache.put(key(uid="other"), answer())
    cache.forget_volume("one")
    assert (len(cache), cache.nbytes) == (1, 256)
    assert cache.get(key(uid="other")) is not None


def test_a_question_that_was_asked_before_does_not_reach_the_model(region_model, an_ellipsoid):
    model = region_model()
    planes = Planes(an_ellipsoid, 0, Window(0, 100))
    answers = AnswerCache()

    def solve(col):
        solver = SliceSolver(
            model, planes, Embedder(model, planes, EmbeddingCache()), answers=answers
        )
        return solver.start(14, SliceInput(np.array([[30.0, col]]), np.array([True])))

    first = solve(34.0)
    asked = len(model.asked)
    assert np.array_equal(solve(34.0).patch.logits, first.patch.logits)
    assert len(model.asked) == asked
    solve(36.0)
    assert len(model.asked) > asked


def test_the_next_click_asks_only_what_is_new_and_answers_as_if_all_were_asked(
    region_model, a_tube
):
    clicks = tuple(Point((k, 24, 18 + k), k != 20, f"{k}") for k in (8, 14, 20))
    model = region_model(reach=1.0)
    segmenter = Segmenter(model)
    asked, masks = [], []
    for count in (1, 2, 3):
        before = len(model.asked)
        request = SegmentRequest(PromptSet(clicks[:count]))
        masks.append(segmenter.segment(a_tube, request).full_mask(a_tube.shape_kji))
        asked.append(len(model.asked) - before)
    assert asked[1] < asked[0] / 2
    fresh = Segmenter(region_model(reach=1.0)).segment(a_tube, SegmentRequest(PromptSet(clicks)))
    assert np.array_equal(fresh.full_mask(a_tube.shape_kji), masks[2])
    taken_away = segmenter.segment(a_tube, SegmentRequest(PromptSet(clicks[:2])))
    assert np.array_equal(taken_away.full_mask(a_tube.shape_kji), masks[1])
