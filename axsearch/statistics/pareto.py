"""Pareto fronts: pure functions of plain numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NEGLIGIBLE = 1e-15
"""Below this expected rise in accuracy, the gain in hypervolume is not computed."""


def front(points: Sequence[Sequence[float]] | Floats) -> list[int]:
    """The indices of the points that no other dominates; every coordinate is minimised.

    A point dominates another if it is nowhere above and somewhere below it. Of equal points the
    first stays. The order of the points is preserved.

    Example:
        >>> front([(1, 2), (2, 1), (2, 2), (1, 2)])
        [0, 1]
    """
    array = np.asarray(points, dtype=float)
    if not len(array):
        return []
    # In this order no point is dominated, or repeated, by a later one.
    left = np.lexsort(array.T[::-1])
    kept = []
    while len(left):
        first, left = left[0], left[1:]
        kept.append(int(first))
        left = left[~(array[first] <= array[left]).all(axis=1)]
    return sorted(kept)


def knee(points: Sequence[Sequence[float]]) -> int:
    """The index of the front member nearest to the ideal point; every coordinate is minimised.

    Coordinates are first scaled to 0..1 over the points, so that units do not matter. Distance
    is Euclidean; of points at equal distance the first is returned.

    Example:
        >>> knee([(0, 10), (1, 1), (10, 0)])
        1
    """
    array = np.asarray(points, dtype=float)
    low, high = array.min(axis=0), array.max(axis=0)
    scaled = (array - low) / np.where(high > low, high - low, 1.0)
    return int(np.argmin(np.linalg.norm(scaled, axis=1)))


def tie_groups(tied: NDArray[np.bool_]) -> list[list[int]]:
    """Groups of points that cannot be told apart, as the letters of a compact letter display.

    All members of a group are tied with each other, and any two tied points share a group, so two
    points without a common group differ. The display is that of Piepho 2004, "An algorithm for a
    letter-based representation of all-pairwise comparisons", Journal of Computational and Graphical
    Statistics 13; here groups grow point by point. A point may be in several groups, since ties are
    not transitive, or in none.

    Args:
        tied: whether each pair is tied, (points, points), symmetric.

    Example:
        >>> tie_groups(np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]], bool))
        [[0, 1], [1, 2]]
    """
    covered = np.eye(len(tied), dtype=bool)
    groups = []
    for first, second in zip(*np.nonzero(np.triu(tied, 1)), strict=True):
        if covered[first, second]:
            continue
        group = [int(first), int(second)]
        for other in range(len(tied)):
            if other not in group and tied[other, group].all():
                group.append(other)
        covered[np.ix_(group, group)] = True
        groups.append(sorted(group))
    return groups


def tie_letters(groups: Sequence[Sequence[int]]) -> dict[int, str]:
    """The letters of each point's :func:`tie_groups`; a point without a group has no entry.

    Example:
        >>> tie_letters([[3, 4], [4, 7]])
        {3: 'a', 4: 'ab', 7: 'b'}
    """
    letters: dict[int, str] = {}
    for index, group in enumerate(groups):
        if len(set(group)) > 1:
            for point in dict.fromkeys(group):
                letters[point] = letters.get(point, "") + letter(index)
    return letters


def letter(index: int) -> str:
    """``a`` to ``z``, then ``a1`` and so on, so that a string of letters stays unambiguous."""
    turn, letter = divmod(index, 26)
    return chr(ord("a") + letter) + (str(turn) if turn else "")


def hypervolume(costs: Floats, accuracy: Floats, reference: float) -> float:
    """The volume that the points dominate, up to 1 in each cost and down to the reference accuracy.

    Args:
        costs: (points, costs); at most two costs, from 0 to 1, each minimised.
        accuracy: (points,), maximised.
        reference: the accuracy below which nothing counts.

    Example:
        >>> round(hypervolume(np.array([[0.5], [1.0]]), np.array([0.7, 0.9]), 0.5), 3)
        0.1
    """
    # Slice by accuracy from the top; a slice's area is that covered by the points above it.
    order = np.argsort(-accuracy, kind="stable")
    levels = np.append(np.maximum(accuracy[order], reference), reference)
    origin = np.zeros((1, costs.shape[1]))
    volume = 0.0
    for count in range(1, len(order) + 1):
        height = levels[count - 1] - levels[count]
        if height > 0:
            volume += height * float(1 - _not_covered(origin, costs[order[:count]])[0])
    return float(volume)


def expected_improvement(
    mean: Floats,
    spread: Floats,
    costs: Floats,
    front_accuracy: Floats,
    front_costs: Floats,
    reference: float,
) -> Floats:
    """The expected increase of the hypervolume by each candidate, (candidates,).

    Only accuracy is uncertain: normal with ``mean`` and standard deviation ``spread``. A candidate
    of accuracy y adds ``integral from the reference to y of A(t) dt``, where A(t) is the area that
    its costs cover and that no member of the front with accuracy t or more covers. The expectation
    is the integral of ``A(t) P(Y > t)`` over all t: A is constant between the members' accuracies,
    and the integral of the probability is known in closed form.

    Args:
        mean: expected accuracy of the candidates, (candidates,).
        spread: its standard deviation, (candidates,).
        costs: of the candidates, (candidates, costs); at most two costs.
        front_accuracy: of the front's members, (members,).
        front_costs: of the front's members, (members, costs).
        reference: the accuracy below which nothing counts.
    """
    inside = front_accuracy > reference
    order = np.argsort(front_accuracy[inside], kind="stable")
    accuracy, members = front_accuracy[inside][order], front_costs[inside][order]
    edges = np.concatenate(([reference], accuracy, [np.inf]))
    tail = spread[:, None] * _loss_function((edges[None] - mean[:, None]) / spread[:, None])
    within = tail[:, :-1] - tail[:, 1:]
    total, open_ = np.zeros(len(mean)), np.ones(len(mean), bool)
    # From the top, where there are few members: a candidate covered there is covered below as well.
    for step in range(len(accuracy), -1, -1):
        rows = np.flatnonzero(open_ & (within[:, step] > NEGLIGIBLE))
        if len(rows):
            area = _not_covered(costs[rows], members[step:])
            total[rows] += area * within[rows, step]
            open_[rows] = area > 0
    return total


def _loss_function(z: Floats) -> Floats:
    """``E max(Z - z, 0)`` of a standard normal Z."""
    from scipy.special import ndtr  # takes half a second, which commands that only read can save

    finite = np.where(np.isfinite(z), z, 0.0)
    found = np.exp(-0.5 * finite**2) / np.sqrt(2 * np.pi) - finite * ndtr(-finite)
    return np.where(np.isfinite(z), found, 0.0)


def _not_covered(costs: Floats, members: Floats) -> Floats:
    """The area from each candidate's costs up to 1 that no member covers, (candidates,).

    ``members`` are (members, costs). Without costs the area is 1, or 0 if there is any member.
    """
    if costs.shape[1] == 0:
        return np.full(len(costs), 0.0 if len(members) else 1.0)
    if costs.shape[1] == 1:
        edge = min(1.0, float(members.min())) if len(members) else 1.0
        return np.maximum(edge - costs[:, 0], 0.0)
    order = np.lexsort((members[:, 1], members[:, 0]))
    first = np.concatenate(([-np.inf], members[order, 0]))
    # To the right of a member's first cost, everything above the lowest second cost is covered.
    lowest = np.concatenate(([1.0], np.minimum.accumulate(np.minimum(members[order, 1], 1.0))))
    ends = np.append(first[1:], np.inf)
    widths = np.minimum(ends, 1.0)[None] - np.maximum(first[None], costs[:, :1])
    heights = lowest[None] - costs[:, 1:]
    area: Floats = (np.maximum(widths, 0.0) * np.maximum(heights, 0.0)).sum(axis=1)
    return area
