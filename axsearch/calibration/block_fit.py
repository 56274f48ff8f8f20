"""From the times of layers to the times of their blocks, with how far each may be off."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from axsearch.approximations import removal
from axsearch.approximations.choices import Choice, Kept
from axsearch.approximations.site import SiteKind

Shapes = Mapping[SiteKind, Mapping[str, Mapping[str, Choice]]]
"""For each kind of block the shapes it can have: their choices by their keys, the exact one
first."""

Cell = Mapping[SiteKind, str]
"""The shapes of the blocks of one layer that was timed."""

BEND = 0.05
"""How far the time of a block with some of its units is expected to be off the straight line
through all counts of units, as a share of a layer's time; the standard deviation of the prior."""

LOST = "lost"
"""In place of a shape: a layer that is removed with all its blocks, and what it saves besides."""

SMALLEST = 1e-7
"""The noise of a layer's time as a share of it is taken to be at least this, never nothing."""


@dataclass(frozen=True)
class Blocks:
    """The times of blocks by their shapes, as shares of the base's pass.

    Attributes:
        shares: of each shape of each kind of block.
        errors: the standard error of the difference between each shape and the exact one.
    """

    shares: Mapping[str, float]
    errors: Mapping[str, float]

    def precision(self, there: Shapes) -> float:
        """The largest mean error of a kind's shapes, as a share of its exact block."""
        found = [0.0]
        for own in there.values():
            exact, *others = own
            if others and self.shares[exact] > 0:
                mean = np.mean([self.errors[key] for key in others])
                found.append(float(mean) / self.shares[exact])
        return max(found)


def fit(
    there: Shapes,
    cells: Sequence[Cell],
    added: NDArray[np.float64],
    whole: NDArray[np.float64],
    layer: float,
    parameters: Mapping[SiteKind, int],
) -> Blocks:
    """The least squares fit to what layers of other shapes take above the same layers of the base.

    Only sums over the blocks of a layer are seen. So the unknowns are the differences between each
    shape and the exact one; they are identifiable if some cell has each shape with all other blocks
    exact, which raises AssertionError otherwise. What is known beforehand is a prior: the time of a
    block with some of its units lies near a straight line in their number, as its multiply-adds do
    (deviations from the line are shrunk by their noise, see :data:`BEND`), and fewer units take no
    more time (isotonic regression). A block that is removed is on no line: it saves overhead, too.

    Args:
        there: every shape.
        cells: the layers that were timed.
        added: what each took above the base's layer in each round, as shares of the base's pass,
            (rounds, cells).
        whole: the base's share of the same layers, (cells,).
        layer: the base's share of a layer, on average.
        parameters: of an exact block of each kind, which tell how to split the time of a layer
            between those that cannot be removed.
    """
    columns = [key for own in there.values() for key in list(own)[1:]]
    if not columns:
        exact = _exact(there, {}, layer, parameters)
        return Blocks({next(iter(own)): exact[kind] for kind, own in there.items()}, {})
    place = {key: i for i, key in enumerate(columns)}
    design = np.zeros((len(cells), len(columns)))
    for row, cell in zip(design, cells, strict=True):
        for key in cell.values():
            if key in place:
                row[place[key]] = 1
    assert np.linalg.matrix_rank(design) == len(columns), "the design does not tell shapes apart"
    center = np.median(added, axis=0)
    took = np.maximum(whole + center, SMALLEST * whole)  # the cells' own times
    noise = took * standard_error(added, took)
    solved, covariance = _solve(there, place, design, center, noise, whole)
    left = len(cells) - len(columns)
    if left > 0:  # where times of blocks do not just add up, residuals are above the noise
        residuals = (center - design @ solved) / noise
        covariance *= max(1.0, float(residuals @ residuals) / left)
    errors = dict(zip(columns, np.sqrt(np.diag(covariance)).tolist(), strict=True))
    differences = dict(zip(columns, solved.tolist(), strict=True))
    for own in there.values():
        differences |= _monotone(own, differences, errors)
    return Blocks(_shares(there, differences, layer, parameters), errors)


def fit_whole(
    there: Shapes,
    models: Sequence[Mapping[str, int]],
    ratios: NDArray[np.float64],
    error: float,
    layers: int,
    parameters: Mapping[SiteKind, int],
) -> tuple[Blocks, float]:
    """The same fit to the times of whole models, of layers that have the same blocks.

    A model differs from the base by the sum of the differences of its shapes from the exact ones.
    A removed layer saves its blocks and some more (:data:`LOST`).

    Args:
        there: every shape that was timed.
        models: how often a pass of each model runs each shape.
        ratios: the models' times over the base's, (models,).
        error: the standard error of each ratio, as a share of it.
        layers: how many a pass of the base runs.
        parameters: as in :func:`fit`.

    Returns:
        The blocks, and the share of one layer.
    """
    columns = [key for own in there.values() for key in list(own)[1:]]
    if not columns:
        exact = _exact(there, {}, 1 / layers, parameters)
        return Blocks({next(iter(own)): exact[kind] for kind, own in there.items()}, {}), 1 / layers
    if any(LOST in model for model in models):
        columns = [*columns, LOST]
    place = {key: i for i, key in enumerate(columns)}
    design = np.zeros((len(models), len(columns)))
    for row, model in zip(design, models, strict=True):
        for key in model.keys() & place.keys():
            row[place[key]] = model[key]
    assert np.linalg.matrix_rank(design) == len(columns), "the design does not tell shapes apart"
    share = np.array([1 / layers])
    solved, covariance = _solve(there, place, design, ratios - 1, error * ratios, share)
    errors = dict(zip(columns, np.sqrt(np.diag(covariance)).tolist(), strict=True))
    differences = dict(zip(columns, solved.tolist(), strict=True))
    besides = min(differences.pop(LOST, 0.0), 0.0)
    errors.pop(LOST, None)
    for own in there.values():
        differences |= _monotone(own, differences, errors)
    saved = -besides - sum(
        differences[key]
        for own in there.values()
        for key, choices in own.items()
        if key in differences and any(choice.removes for choice in choices.values())
    )
    removable = any(removal(kind) is not None for kind in there)
    layer = min(max(saved, SMALLEST), 1 / layers) if removable and saved > 0 else 1 / layers
    return Blocks(_shares(there, differences, layer, parameters), errors), layer


def standard_error(rounds: NDArray[np.float64], took: NDArray[np.float64]) -> float:
    """The standard error of the median over rounds, as a share of the time that was taken.

    A few rounds say little of one value, so the spread, which is in proportion to the time taken,
    is that of all values together: from one round to the next, and robust, since in one of many
    something else may have run.

    Args:
        rounds: what was measured, (rounds, values).
        took: the time that each value is part of, (values,).
    """
    steps = np.abs(np.diff(rounds, axis=0)) / took
    spread = float(np.median(steps)) / (0.6745 * math.sqrt(2)) if steps.size else 1.0
    return max(SMALLEST, 1.2533 * spread / math.sqrt(len(rounds)))


def _solve(
    there: Shapes,
    place: Mapping[str, int],
    design: NDArray[np.float64],
    center: NDArray[np.float64],
    noise: NDArray[np.float64],
    whole: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The differences of all shapes from the exact ones, and their covariance.

    The slope of each line is one more unknown.
    """
    lines = [line for line in map(_line, there.values()) if len(line) > 1]
    count = len(place)
    prior = []
    for slope, line in enumerate(lines):
        for key, removed in line.items():
            row = np.zeros(count + len(lines))
            row[place[key]], row[count + slope] = 1, -removed
            prior.append(row / (BEND * float(np.mean(whole))))
    seen = np.hstack([design / noise[:, None], np.zeros((len(design), len(lines)))])
    stacked = np.vstack([seen, *prior])
    target = np.concatenate([center / noise, np.zeros(len(prior))])
    solved = np.linalg.lstsq(stacked, target, rcond=None)[0]
    covariance = np.linalg.pinv(stacked.T @ stacked)
    return solved[:count], covariance[:count, :count]


def _line(own: Mapping[str, Mapping[str, Choice]]) -> dict[str, float]:
    """The shapes that keep some of their units and nothing else, with the share removed."""
    found = {}
    for key, choices in own.items():
        (choice, *others) = choices.values() or (None,)
        if isinstance(choice, Kept) and choice.kept and not others:
            found[key] = 1 - len(choice.kept) / choice.of
    return found


def _monotone(
    own: Mapping[str, Mapping[str, Choice]],
    differences: Mapping[str, float],
    errors: Mapping[str, float],
) -> dict[str, float]:
    """The differences of shapes that keep units: with fewer units none takes more time."""
    counts = {
        key: len(choice.kept)
        for key, choices in own.items()
        for choice in choices.values()
        if isinstance(choice, Kept) and len(choices) == 1
    }
    keys = sorted(counts, key=lambda key: counts[key])
    if not keys:
        return {}
    least = min(error for error in errors.values() if error > 0)
    weights = [1 / max(errors[key], least) ** 2 for key in keys]
    exact = 1e6 * sum(weights)  # known: the difference is none
    found = isotonic_regression(
        [*(differences[key] for key in keys), 0.0], weights=[*weights, exact]
    )
    return dict(zip(keys, (found.x[:-1] - found.x[-1]).tolist(), strict=True))


def _shares(
    there: Shapes,
    differences: Mapping[str, float],
    layer: float,
    parameters: Mapping[SiteKind, int],
) -> dict[str, float]:
    """The shares of all shapes: of removable blocks none is below 0."""
    exact = _exact(there, differences, layer, parameters)
    shares: dict[str, float] = {}
    for kind, own in there.items():
        least = 0.0 if removal(kind) is not None else -math.inf
        shares |= {key: max(exact[kind] + differences.get(key, 0.0), least) for key in own}
    return shares


def _exact(
    there: Shapes,
    differences: Mapping[str, float],
    layer: float,
    parameters: Mapping[SiteKind, int],
) -> dict[SiteKind, float]:
    """The shares of the exact blocks, which add up to a layer's.

    A block takes what its removal saves, and an equal part of the rest of its layer. Where the
    removal of some blocks was not timed, the rest is theirs, shared by their parameters. Sites that
    cannot be removed take nothing of their own beside blocks that can; only what their shapes add
    matters.
    """
    blocks = [kind for kind in there if removal(kind) is not None] or list(there)
    saved = {
        kind: max(-differences[key], 0.0)
        for kind in blocks
        for key, choices in there[kind].items()
        if any(choice.removes for choice in choices.values())
    }
    unknown = [kind for kind in blocks if kind not in saved]
    rest = max(layer - sum(saved.values()), 0.0)
    scale = (layer - rest) / sum(saved.values()) if sum(saved.values()) > 0 else 1.0
    found = dict.fromkeys(there, 0.0)
    found |= {kind: share * scale for kind, share in saved.items()}
    total = sum(parameters[kind] for kind in unknown)
    for kind in unknown or blocks:
        part = parameters[kind] / total if unknown and total else 1 / len(unknown or blocks)
        found[kind] += rest * part
    return found
