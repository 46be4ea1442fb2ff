"""What is known of a proposal: its tag, the order of doubt, what the user has checked."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protosam.errors import InvalidPrompt
from protosam.prompts import Box, Point, PromptSet
from protosam.scene.review import (
    SURE,
    Review,
    checked_slices,
    own_prompts,
    review_of,
    strip_of,
)

CONFIDENCES = st.dictionaries(st.integers(0, 400), st.floats(0, 1).map(lambda x: round(x, 3)))
REVIEWS = st.builds(
    Review, st.integers(0, 2), st.text(max_size=40), CONFIDENCES, st.booleans(), st.booleans()
)


@given(REVIEWS)
def test_a_review_comes_back_from_its_tag(review):
    text = review.to_text()
    assert Review.from_text(text) == review
    assert "|" not in text  # which parts the tags in Slicer's files


@given(REVIEWS, st.sets(st.integers(0, 400)))
def test_places_are_the_least_sure_slices_and_none_is_checked(review, checked):
    places = review.places(checked)
    left = set(review.confidences) - checked
    assert set(places) <= left
    assert bool(places) == bool(left)
    sure = [review.confidences[z] for z in places]
    assert sure == sorted(sure)
    if left:
        assert sure[0] == min(review.confidences[z] for z in left)
    assert review.doubtful(checked) >= sum(one < SURE for one in sure)


def test_neighbouring_doubtful_slices_are_one_place():
    sure = {3: 0.9, 4: 0.3, 5: 0.1, 6: 0.4, 7: 0.8, 9: 0.2, 10: 0.25}
    review = Review(0, "r", sure)
    assert review.places() == (5, 9)
    assert review.doubtful() == 5
    assert review.places({5}) == (9, 4, 6)
    assert review.places({4, 5, 6, 9, 10}) == (7,)


def test_a_decision_follows_from_the_state_of_the_segment():
    review = Review(0, "now", {1: 0.5})
    assert review.decision("now") == "proposed"
    assert review.decision("later") == "corrected"
    assert review.accept().decision("later") == "accepted"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        Review(0, "r", {1: 0.5}).to_text().replace('"version":1', '"version":2'),
        Review(0, "r", {1: 0.5}).to_text().replace('"axis":0', '"axis":true'),
        Review(0, "r", {1: 0.5}).to_text().replace('"axis":0', '"axis":3'),
        Review(0, "r", {1: 0.5}).to_text().replace("0.5", "1.5"),
        Review(0, "r", {1: 0.5}).to_text().replace("0.5", "NaN"),
        Review(0, "r", {1: 0.5}).to_text().replace('"1"', '"-1"'),
        Review(0, "r", {1: 0.5}).to_text().replace('{"1":0.5}', "[1]"),
        Review(0, "r", {1: 0.5}).to_text().replace('"r"', "7"),
    ],
)
def test_a_tag_that_cannot_be_read_is_no_review_and_is_logged(text, caplog):
    with pytest.raises(InvalidPrompt):
        Review.from_text(text)
    review_of.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert review_of(text) is None
    assert "cannot be read" in caplog.text


def test_slices_with_clicks_of_the_user_are_checked_and_those_of_the_example_are_not():
    prompts = PromptSet(
        (
            Point((4.4, 1, 1), True, "example-1"),
            Point((6.6, 1, 1), False, "p1"),
            Point((2.5, 1, 1), True, "p2"),
        ),
        (Box((9, 1, 1), (9, 3, 3), 0, "p3"), Box((1, 1, 1), (8, 3, 3), None, "p4")),
    )
    assert checked_slices(prompts, 0) == {7, 3, 9}
    assert own_prompts(prompts).ids == ("p1", "p2", "p3", "p4")
    text = Review(0, "r", {7: 0.25, 4: 0.5}).to_text()
    assert [(one.index, one.checked) for one in strip_of(text, checked_slices(prompts, 0))] == [
        (4, False),
        (7, True),
    ]
