"""Pareto fronts: pure functions of plain numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def front(points: Sequence[Sequence[float]]) -> list[int]:
    """The indices of the points that no other dominates; every coordinate is minimised.

    A point dominates another that it is nowhere above and somewhere below. Of equal points the
    first stays. The order of the points is kept.

    Example:
        >>> front([(1, 2), (2, 1), (2, 2), (1, 2)])
        [0, 1]
    """
    array = np.asarray(points, dtype=float)
    kept = []
    for i, point in enumerate(array):
        no_worse = (array <= point).all(axis=1)
        better = no_worse & (array < point).any(axis=1)
        repeated = (array[:i] == point).all(axis=1).any()
        if not better.any() and not repeated:
            kept.append(i)
    return kept


def knee(points: Sequence[Sequence[float]]) -> int:
    """The index of the front member nearest to the ideal point; every coordinate is minimised.

    Coordinates are first scaled to 0..1 over the points, so that units do not matter; distance
    is Euclidean, and of equal distances the first wins.

    Example:
        >>> knee([(0, 10), (1, 1), (10, 0)])
        1
    """
    array = np.asarray(points, dtype=float)
    low, high = array.min(axis=0), array.max(axis=0)
    scaled = (array - low) / np.where(high > low, high - low, 1.0)
    return int(np.argmin(np.linalg.norm(scaled, axis=1)))
