"""Fronts, knees and volumes against their definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from axsearch.statistics.pareto import (
    Floats,
    expected_improvement,
    front,
    hypervolume,
    knee,
    tie_groups,
)

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


def cloud(seed: int, costs: int, most: float = 1.3) -> tuple[Floats, Floats, float]:
    """Costs, some above 1, and accuracies, some below the reference, of a few points."""
    draw = np.random.default_rng(seed)
    count = int(draw.integers(0, 9))
    points = draw.uniform(0.1, most, (count, costs)).round(int(draw.integers(1, 4)))
    return points, draw.uniform(0.3, 1.0, count).round(2), 0.5


def inclusion_exclusion(costs: Floats, accuracy: Floats, reference: float) -> float:
    """The volume of a union of boxes, by all their intersections."""
    volume = 0.0
    for size in range(1, len(accuracy) + 1):
        for chosen in itertools.combinations(range(len(accuracy)), size):
            own = list(chosen)
            sides = np.maximum(1 - costs[own].max(axis=0), 0)
            height = max(float(accuracy[own].min()) - reference, 0)
            volume -= (-1) ** size * float(np.prod(sides)) * height
    return volume


@pytest.mark.parametrize("costs", [0, 1, 2])
@pytest.mark.parametrize("seed", range(25))
def test_hypervolume_is_that_of_the_union(costs: int, seed: int) -> None:
    points = cloud(seed, costs)
    assert hypervolume(*points) == pytest.approx(inclusion_exclusion(*points), abs=1e-12)


@pytest.mark.parametrize("costs", [0, 1, 2])
def test_hypervolume_of_nothing(costs: int) -> None:
    assert hypervolume(np.empty((0, costs)), np.empty(0), 0.5) == 0


def test_hypervolume_of_one_point_is_its_box() -> None:
    assert hypervolume(np.array([[0.25, 0.5]]), np.array([0.9]), 0.5) == pytest.approx(0.15)
    assert hypervolume(np.empty((1, 0)), np.array([0.9]), 0.5) == pytest.approx(0.4)


@pytest.mark.parametrize("costs", [0, 1, 2])
@pytest.mark.parametrize("seed", range(8))
def test_expected_improvement_is_the_mean_of_what_draws_add(costs: int, seed: int) -> None:
    front_costs, front_accuracy, reference = cloud(seed, costs)
    draw = np.random.default_rng(100 + seed)
    mean, spread = draw.uniform(0.3, 1.0, 6), draw.uniform(0.005, 0.2, 6)
    own = draw.uniform(0.05, 1.2, (6, costs))
    found = expected_improvement(mean, spread, own, front_accuracy, front_costs, reference)
    assert found.shape == (6,)
    # The normal in even parts: better than as many random numbers.
    normal = ndtri((np.arange(1500) + 0.5) / 1500)
    before = hypervolume(front_costs, front_accuracy, reference)
    for number in range(6):
        drawn = mean[number] + spread[number] * normal
        # In between it is linear: what is added is a pile of boxes, each above one accuracy.
        knots = np.unique([*front_accuracy, reference, drawn.min(), drawn.max()])
        added = [
            hypervolume(
                np.vstack((front_costs, own[number])), np.append(front_accuracy, y), reference
            )
            - before
            for y in knots
        ]
        mean_added = np.interp(drawn, knots, added).mean()
        assert found[number] == pytest.approx(mean_added, rel=0.01, abs=3e-5)


@pytest.mark.parametrize("costs", [0, 1, 2])
def test_expected_improvement_over_nothing_is_all_of_the_box(costs: int) -> None:
    found = expected_improvement(
        np.array([0.9]), np.array([1e-6]), np.full((1, costs), 0.5),
        np.empty(0), np.empty((0, costs)), 0.5,
    )  # fmt: skip
    assert found[0] == pytest.approx(0.4 * 0.5**costs)


def test_expected_improvement_of_what_costs_more_than_the_base_is_0() -> None:
    found = expected_improvement(
        np.array([0.9, 0.9]), np.array([0.1, 0.1]), np.array([[1.0, 0.2], [0.2, 1.5]]),
        np.empty(0), np.empty((0, 2)), 0.5,
    )  # fmt: skip
    assert found.tolist() == [0, 0]


def test_front_of_many_points_and_of_some_that_are_not_numbers() -> None:
    draw = np.random.default_rng(0)
    many = draw.integers(0, 9, (500, 3)).astype(float)
    expected = [
        i
        for i, point in enumerate(many)
        if not ((many <= point).all(1) & (many < point).any(1)).any()
        and not (many[:i] == point).all(1).any()
    ]
    assert front(many) == expected
    assert len(expected) < 60
    assert front([(math.nan, 0), (1, 1), (2, 2)]) == [0, 1]


class TestTieGroups:
    @given(st.integers(0, 12), st.integers(0, 2**32 - 1), st.floats(0, 1))
    def test_tied_points_share_a_group_and_others_none(
        self, count: int, seed: int, share: float
    ) -> None:
        above = np.triu(np.random.default_rng(seed).random((count, count)) < share, 1)
        tied = above | above.T
        groups = tie_groups(tied)
        for first in range(count):
            for second in range(count):
                together = any(first in group and second in group for group in groups)
                assert first == second or together == tied[first, second]
        assert all(len(group) > 1 and group == sorted(set(group)) for group in groups)
        assert len({*map(tuple, groups)}) == len(groups)

    def test_all_tied_are_one_group(self) -> None:
        assert tie_groups(~np.eye(300, dtype=bool)) == [list(range(300))]
