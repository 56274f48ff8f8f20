"""Fronts and knees against their definitions."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from axsearch.pareto import front, knee

Point = tuple[float, ...]


def points(minimum: int, many: st.SearchStrategy[float]) -> st.SearchStrategy[list[Point]]:
    """Of few distinct coordinates, so that points tie and repeat, and of ``many``."""
    few = st.integers(0, 3).map(float)
    return st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.one_of(st.tuples(*[few] * width), st.tuples(*[many] * width)),
            min_size=minimum,
            max_size=14,
        )
    )


ANY = points(0, st.floats(allow_nan=False))
# Distances need numbers whose squares do not vanish beside one another.
TAME = points(1, st.integers(-1000, 1000).map(float))


def dominates(a: Point, b: Point) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


@settings(deadline=None, max_examples=150)
@given(ANY)
def test_front_is_what_no_point_dominates(given_points: list[Point]) -> None:
    expected = [
        index
        for index, point in enumerate(given_points)
        if not any(dominates(other, point) for other in given_points)
        and point not in given_points[:index]
    ]
    assert front(given_points) == expected


def test_front_of_nothing() -> None:
    assert front([]) == []


def test_front_of_equal_points_is_the_first() -> None:
    assert front([(1, 1), (1, 1), (1, 1)]) == [0]


def test_front_with_infinite_coordinates() -> None:
    assert front([(math.inf, 0), (0, math.inf), (math.inf, 1)]) == [0, 1]


@settings(deadline=None, max_examples=150)
@given(TAME)
def test_knee_is_nearest_to_the_ideal_point(given_points: list[Point]) -> None:
    columns = list(zip(*given_points, strict=True))
    spans = [(min(column), max(column)) for column in columns]

    def distance(point: Point) -> float:
        scaled = [
            (value - low) / (high - low) if high > low else 0.0
            for value, (low, high) in zip(point, spans, strict=True)
        ]
        return math.sqrt(sum(value * value for value in scaled))

    found = knee(given_points)
    shortest = min(map(distance, given_points))
    assert math.isclose(distance(given_points[found]), shortest, rel_tol=1e-9, abs_tol=1e-12)
    first = next(i for i, point in enumerate(given_points) if point == given_points[found])
    assert found == first


@settings(deadline=None)
@given(TAME)
def test_knee_of_a_front_is_its_member_and_of_all_points_too(given_points: list[Point]) -> None:
    members = front(given_points)
    assert given_points[knee(given_points)] in [given_points[index] for index in members]


def test_knee_does_not_depend_on_units() -> None:
    curve = [(0.0, 10.0), (1.0, 3.0), (4.0, 2.0), (10.0, 0.0)]
    scaled = [tuple(np.array(point) * (1e-6, 1e6) + (5, -5)) for point in curve]
    assert knee(curve) == knee(scaled) == 1


def test_knee_of_one_point() -> None:
    assert knee([(3.0, 4.0)]) == 0
