from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protosam.errors import InvalidPrompt
from protosam.extents import Extent
from protosam.prompts import Box, Point, PriorMask, PromptSet

coordinates = st.floats(-1e6, 1e6)
places = st.tuples(coordinates, coordinates, coordinates)
sides = st.tuples(*[st.floats(0.01, 1e6)] * 3)
ids = st.text(min_size=1, max_size=20)


@st.composite
def boxes(draw, id):
    low, side, axis = draw(places), draw(sides), draw(st.sampled_from([None, 0, 1, 2]))
    high = [a if n == axis else a + b for n, (a, b) in enumerate(zip(low, side, strict=True))]
    pairs = [draw(st.permutations(pair)) for pair in zip(low, high, strict=True)]
    return Box(tuple(p[0] for p in pairs), tuple(p[1] for p in pairs), axis, id)


@st.composite
def priors(draw, id):
    mask = draw(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)))
    mask[0, 0, 0] = True
    return PriorMask.from_mask(mask, id)


@st.composite
def prompt_sets(draw):
    names = draw(st.lists(ids, unique=True, max_size=7))
    cut = draw(st.integers(0, len(names)))
    prior = draw(priors(names.pop())) if len(names) > cut and draw(st.booleans()) else None
    return PromptSet(
        points=tuple(Point(draw(places), draw(st.booleans()), name) for name in names[:cut]),
        boxes=tuple(draw(boxes(name)) for name in names[cut:]),
        prior=prior,
        scope=draw(st.sampled_from(["slice", "volume"])),
        axis=draw(st.sampled_from([None, 0, 1, 2])),
    )


def a_set() -> PromptSet:
    mask = np.zeros((3, 4, 5), dtype=bool)
    mask[1, 2, 3] = True
    return PromptSet(
        points=(Point((1, 2, 3), True, "p1"), Point((0.5, 2, 3), False, "p2")),
        boxes=(Box((0, 0, 0), (2, 3, 4), None, "b1"),),
        prior=PriorMask.from_mask(mask, "m1"),
    )


@given(prompt_sets())
def test_json_brings_back_an_equal_set(prompts):
    assert PromptSet.from_json(prompts.to_json()) == prompts
    assert PromptSet.from_json(json.loads(json.dumps(prompts.to_json()))) == prompts
    assert PromptSet.from_text(prompts.to_text()) == prompts


@given(prompt_sets())
def test_equal_sets_have_equal_texts_and_hashes(prompts):
    twin = PromptSet.from_text(prompts.to_text())

    assert twin.to_text() == prompts.to_text()
    assert hash(twin) == hash(prompts)


@given(prompt_sets(), st.data())
def test_any_prompt_can_be_removed_and_the_others_stay(prompts, data):
    if prompts.is_empty:
        with pytest.raises(InvalidPrompt, match="no prompt"):
            prompts.without("x")
        return
    gone = data.draw(st.sampled_from(prompts.ids))

    assert prompts.without(gone).ids == tuple(one for one in prompts.ids if one != gone)


@pytest.mark.parametrize("where", [(), ("points", 0), ("boxes", 0), ("prior",)])
def test_unknown_and_missing_keys_are_refused_at_every_level(where):
    for change in ("unknown", "missing"):
        data = a_set().to_json()
        record = data
        for step in where:
            record = record[step]
        if change == "unknown":
            record["colour"] = "red"
        else:
            record.pop("id" if where else "scope")
        with pytest.raises(InvalidPrompt, match="unknown keys"):
            PromptSet.from_json(data)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 2),
        ("version", True),
        ("version", "1"),
        ("version", None),
        ("scope", "whole"),
        ("scope", 1),
        ("axis", 3),
        ("axis", True),
        ("axis", 1.0),
        ("axis", "1"),
        ("points", {}),
        ("points", None),
        ("points", [1]),
        ("boxes", "none"),
        ("prior", []),
        ("prior", False),
    ],
)
def test_a_field_of_a_wrong_type_or_value_is_refused(key, value):
    data = a_set().to_json()
    data[key] = value
    with pytest.raises(InvalidPrompt):
        PromptSet.from_json(data)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("point_kji", [1, 2]),
        ("point_kji", [1, 2, 3, 4]),
        ("point_kji", [1, 2, float("nan")]),
        ("point_kji", [1, 2, float("inf")]),
        ("point_kji", [1, 2, "3"]),
        ("point_kji", [1, 2, True]),
        ("point_kji", [1, 2, None]),
        ("point_kji", [1, 2, 10**400]),
        ("point_kji", "123"),
        ("point_kji", 1),
        ("positive", 1),
        ("positive", "yes"),
        ("positive", None),
        ("id", ""),
        ("id", 5),
        ("id", "x" * 129),
    ],
)
def test_a_point_with_a_wrong_field_is_refused(key, value):
    data = a_set().to_json()
    data["points"][0][key] = value
    with pytest.raises(InvalidPrompt, match="wanted"):
        PromptSet.from_json(data)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bits", "not base64!"),
        ("bits", 5),
        ("bits", ""),
        ("start_kji", [0, 0]),
        ("start_kji", [0.5, 0, 0]),
        ("start_kji", [-1, 0, 0]),
        ("stop_kji", [0, 0, 0]),
        ("stop_kji", "123"),
    ],
)
def test_a_prior_mask_with_a_wrong_field_is_refused(key, value):
    data = a_set().to_json()
    data["prior"][key] = value
    with pytest.raises(InvalidPrompt):
        PromptSet.from_json(data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "null",
        "[]",
        '{"version": 1, "version": 1}',
        a_set().to_text().replace("0.5", "NaN"),
        a_set().to_text().replace("0.5", "Infinity"),
        a_set().to_text().replace("0.5", "1e999"),
    ],
)
def test_text_that_is_no_prompt_set_is_refused(text):
    with pytest.raises(InvalidPrompt):
        PromptSet.from_text(text)


def test_a_prompt_id_is_used_once_in_a_set():
    with pytest.raises(InvalidPrompt, match=r"\['p1'\] occur more than once"):
        PromptSet(
            points=(Point((0, 0, 0), True, "p1"),), boxes=(Box((0, 0, 0), (1, 1, 1), None, "p1"),)
        )


def test_a_set_refuses_what_is_not_a_prompt():
    with pytest.raises(InvalidPrompt, match="wanted Point"):
        PromptSet(points=(Box((0, 0, 0), (1, 1, 1), None, "b"),))
    with pytest.raises(InvalidPrompt, match="a sequence of Point"):
        PromptSet(points="none")
    with pytest.raises(InvalidPrompt, match="prior mask or nothing"):
        PromptSet(prior=np.ones((1, 1, 1), dtype=bool))


def test_a_new_set_is_empty_and_fills_the_volume():
    assert PromptSet().is_empty
    assert PromptSet().scope == "volume"
    assert not PromptSet(points=(Point((0, 0, 0), True, "p"),)).is_empty


def test_a_point_is_added_at_the_end_or_moved_in_its_place():
    first, second = Point((0, 0, 0), True, "p1"), Point((1, 1, 1), False, "p2")
    moved = Point((5, 5, 5), True, "p1")
    prompts = PromptSet().with_point(first).with_point(second)

    assert prompts.points == (first, second)
    assert prompts.with_point(moved).points == (moved, second)


def test_a_box_is_added_at_the_end_or_moved_in_its_place():
    first, second = Box((0, 0, 0), (1, 1, 1), None, "b1"), Box((2, 2, 2), (2, 3, 3), 0, "b2")
    moved = Box((5, 5, 5), (6, 6, 6), None, "b1")
    prompts = PromptSet().with_box(first).with_box(second)

    assert prompts.boxes == (first, second)
    assert prompts.with_box(moved).boxes == (moved, second)


def test_a_point_knows_the_voxel_that_it_lies_in():
    assert Point((0.49, 0.5, -0.5), True, "p").voxel_kji == (0, 1, 0)


def test_prompts_take_numpy_numbers_and_keep_plain_floats():
    point = Point(tuple(np.float32([1.5, 2, 3])), True, "p")

    assert point == Point((1.5, 2.0, 3.0), True, "p")
    assert all(type(x) is float for x in point.point_kji)
    assert Point(np.array([1, 2, 3]), True, "p").point_kji == (1.0, 2.0, 3.0)


def test_prompts_cannot_be_changed():
    with pytest.raises(AttributeError):
        Point((0, 0, 0), True, "p").positive = False


def test_a_box_orders_its_corners():
    box = Box((3, 0, 5), (1, 2, 4), None, "b")

    assert box.low_kji == (1, 0, 4)
    assert box.high_kji == (3, 2, 5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_box_in_one_slice_lies_in_a_slice_of_its_axis(axis):
    low, high = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]
    high[axis] = low[axis]

    assert Box(tuple(low), tuple(high), axis, "b").axis == axis
    with pytest.raises(InvalidPrompt, match="3 voxels apart on that axis"):
        Box(low, [a + 3 for a in low], axis, "b")


@pytest.mark.parametrize(
    ("corner", "axis", "letters"),
    [
        ((1, 0, 1), None, "j"),
        ((0, 0, 0), None, "k, j, i"),
        ((0, 0, 1), 0, "j"),
        ((1, 1, 0), 1, "i"),
    ],
)
def test_a_box_of_no_volume_is_refused_with_the_flat_axes(corner, axis, letters):
    if axis is not None:
        corner = tuple(0 if n == axis else c for n, c in enumerate(corner))
    with pytest.raises(InvalidPrompt, match=f"flat along {letters}"):
        Box((0, 0, 0), corner, axis, "b")


@pytest.mark.parametrize(
    ("prompts", "name"),
    [
        (PromptSet(points=(Point((3, 0, 0), True, "far"),)), "point 'far'"),
        (PromptSet(points=(Point((0, -0.6, 0), True, "far"),)), "point 'far'"),
        (PromptSet(points=(Point((0, 0, 4.5), True, "far"),)), "point 'far'"),
        (PromptSet(boxes=(Box((0, 0, 0), (2, 2, 4.6), None, "far"),)), "box corner 'far'"),
        (PromptSet(boxes=(Box((0, -1, 0), (0, 2, 4), 0, "far"),)), "box corner 'far'"),
    ],
)
def test_a_prompt_outside_of_the_volume_is_refused_by_name(prompts, name):
    with pytest.raises(InvalidPrompt, match=rf"{name} at .* outside of the image \(3, 4, 5\)"):
        prompts.check_inside((3, 4, 5))


def test_prompts_on_the_faces_of_the_volume_are_inside():
    PromptSet(
        points=(Point((-0.5, -0.5, -0.5), True, "p1"), Point((2.49, 3.49, 4.49), True, "p2")),
        boxes=(Box((-0.5, -0.5, -0.5), (2.5, 3.5, 4.5), None, "b"),),
    ).check_inside((3, 4, 5))
    a_set().check_inside((3, 4, 5))

    with pytest.raises(InvalidPrompt, match="prior mask ends at"):
        PromptSet(prior=a_set().prior).check_inside((3, 2, 5))


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)))
def test_a_prior_mask_brings_back_its_mask(mask):
    if not mask.any():
        with pytest.raises(InvalidPrompt, match="empty"):
            PriorMask.from_mask(mask, "m")
        return
    back = PriorMask.from_mask(mask, "m").to_mask(mask.shape)

    assert back.dtype == np.bool_
    np.testing.assert_array_equal(back, mask)


def test_a_prior_mask_is_cut_to_its_bounding_box():
    prior = a_set().prior

    assert prior.extent == Extent((1, 2, 3), (2, 3, 4))
    assert prior.bits == b"\x80"


def test_a_prior_mask_refuses_other_than_an_extent_and_bytes():
    with pytest.raises(InvalidPrompt, match="an Extent and packed bytes"):
        PriorMask(((0, 0, 0), (1, 1, 1)), b"\x80", "m")


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 2, 5), (3, 4, 3)])
def test_a_prior_mask_does_not_fit_into_a_smaller_volume(shape):
    with pytest.raises(InvalidPrompt, match="ends at"):
        a_set().prior.to_mask(shape)
