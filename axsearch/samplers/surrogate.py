"""Predicts the accuracy of recipes that were not evaluated, from the trials so far."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from axsearch.space.problem import Floats, Genomes, Problem

FLOOR = 1e-4
"""Damage, in nats, below which differences are the noise of a few hundred examples."""

STIFFNESS = 0.3
"""The ridge of the corrections, in observations: trials that a dimension needs to count."""

MOST = 192
"""Trials that the Gaussian process is fitted to: the nearest to the front, then the newest."""

SPREADS = (0.004, 0.01, 0.025)
REACHES = (0.04, 0.1, 0.25)
NOISE = 0.0015
SCATTER = 0.01
"""Parts of the way from a trivial answer to the base's accuracy."""


class Observations(NamedTuple):
    """Results of trials.

    Attributes:
        genomes: (trials, dimensions).
        accuracy: the metric, (trials,).
        divergence: from the base's outputs on the search split, (trials,), NaN where not known.
        error: the standard error of the accuracy of a trial that was stopped, (trials,), 0 where
            all examples were seen; None if all saw all examples.
    """

    genomes: Genomes
    accuracy: Floats
    divergence: Floats
    error: Floats | None = None

    @property
    def errors(self) -> Floats:
        """The errors, (trials,), an array of zeros for None."""
        return np.zeros(len(self.accuracy)) if self.error is None else self.error


@dataclass(frozen=True)
class Curve:
    """How accuracy falls with damage: ``low + (high - low) exp(-(damage / scale)^power)``.

    ``high`` is the base's, ``low`` that of a trivial answer.
    """

    high: float
    low: float
    scale: float
    power: float

    def __call__(self, damage: Floats) -> Floats:
        """The accuracy at each damage."""
        return self.low + (self.high - self.low) * np.exp(-((damage / self.scale) ** self.power))


class Surrogate:
    """The accuracy of any genome, as a normal distribution.

    Damage measured alone is summed over dimensions, after each dimension's was corrected by what
    the trials have shown: a ridge regression of the logarithm of their divergence on the shares
    that the dimensions, and neighbouring ones together, have in their damage. A curve takes damage
    to accuracy. A Gaussian process models the residuals: recipes that differ little, in damage or
    in their changes to the model, answer similarly and so have similar errors.

    Args:
        problem: the space and what is known of it.
        seen: the trials.
        correct: whether to correct damage.
        process: whether to model the residuals.
    """

    def __init__(
        self, problem: Problem, seen: Observations, *, correct: bool = True, process: bool = True
    ) -> None:
        self.problem = problem
        self.scale = np.ones(len(problem.levels))
        self._process: _Process | None = None
        with _one_thread():
            if correct:
                self.scale = _corrections(problem, seen)
            self.curve = _fit_curve(problem, self.damage(seen.genomes), seen)
            self._unit = max(self.curve.high - self.curve.low, 1e-6)
            if process and len(seen.accuracy) > 2:
                self._process = self._fit_process(seen)

    def damage(self, genomes: Genomes) -> Floats:
        """The corrected damage of each genome, (genomes,)."""
        damage: Floats = (self.problem.damages(genomes) * self.scale).sum(axis=1)
        return damage

    def predict(self, genomes: Genomes) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the accuracy of each genome, (genomes,) each."""
        mean = self.curve(self.damage(genomes))
        if self._process is None:
            # Before any trial the curve is trusted less the further it has fallen.
            return mean, NOISE * self._unit + 0.1 * (self.curve.high - mean)
        with _one_thread():
            left, spread = self._process.predict(*self._places(genomes))
        return mean + left * self._unit, spread * self._unit

    def _places(self, genomes: Genomes) -> tuple[Floats, Floats]:
        roots = np.sqrt(self.problem.damages(genomes) * self.scale)
        return np.log(np.square(roots).sum(axis=1) + FLOOR), roots

    def _fit_process(self, seen: Observations) -> _Process:
        left = (seen.accuracy - self.curve(self.damage(seen.genomes))) / self._unit
        rows = np.arange(len(left))
        if len(rows) > MOST:
            # A trial far below its curve shows little about where the front may go.
            rows = np.sort(np.argsort(-left, kind="stable")[: MOST // 2])
            rest = np.setdiff1d(np.arange(len(left)), rows)
            rows = np.concatenate((rows, rest[-(MOST - len(rows)) :]))
        logs, roots = self._places(seen.genomes[rows])
        return _Process.fitted(logs, roots, left[rows], seen.errors[rows] / self._unit)


@dataclass(frozen=True)
class _Process:
    """A Gaussian process over the logarithm of damage and over its roots, dimension by dimension.

    Distances between roots are, to first order, those between the changes of the outputs.
    """

    logs: Floats
    roots: Floats
    spread: float
    reach: float
    factor: Floats
    weights: Floats

    @classmethod
    def fitted(cls, logs: Floats, roots: Floats, values: Floats, errors: Floats) -> _Process:
        best, found = -np.inf, None
        noise = NOISE**2 + np.square(errors)
        base, near = _kernels(logs, roots, logs, roots)
        shapes = [0.5 * base + 0.5 * np.exp(-near / (2 * reach**2)) for reach in REACHES]
        for spread in SPREADS:
            for reach, shape in zip(REACHES, shapes, strict=True):
                cover = spread**2 * shape
                cover[np.diag_indices_from(cover)] += noise
                factor: Floats = np.linalg.cholesky(cover).astype(float, copy=False)
                weights = linalg.cho_solve((factor, True), values, check_finite=False)
                likelihood = -0.5 * values @ weights - np.log(np.diag(factor)).sum()
                if likelihood > best:
                    best = likelihood
                    found = cls(logs, roots, spread, reach, factor, weights)
        assert found is not None
        return found

    def predict(self, logs: Floats, roots: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation, (genomes,) each."""
        base, near = _kernels(logs, roots, self.logs, self.roots)
        cover = self.spread**2 * (0.5 * base + 0.5 * np.exp(-near / (2 * self.reach**2)))
        solved = linalg.solve_triangular(self.factor, cover.T, lower=True, check_finite=False)
        variance = self.spread**2 - np.square(solved).sum(axis=0)
        return cover @ self.weights, np.sqrt(np.maximum(variance, 0.0) + NOISE**2)


def _one_thread() -> AbstractContextManager[Any]:
    """Run linear algebra in this thread only.

    Matrices of a few hundred rows gain nothing from more threads, which wait for each other: while
    other processes keep the cores busy, a factorisation of one millisecond takes 250.
    """
    limiter: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return limiter


@functools.cache
def _controller() -> Any:
    return ThreadpoolController()  # looks for the libraries, in 4 ms


def _kernels(
    logs: Floats, roots: Floats, other_logs: Floats, other_roots: Floats
) -> tuple[Floats, Floats]:
    base = np.exp(-0.5 * np.square(logs[:, None] - other_logs[None]))
    near = (
        np.square(roots).sum(1)[:, None] + np.square(other_roots).sum(1)[None]
        - 2 * roots @ other_roots.T
    )  # fmt: skip
    return base, np.maximum(near, 0.0)


def _corrections(problem: Problem, seen: Observations) -> Floats:
    """Factors of the dimensions' damages, (dimensions,): 1 without evidence from trials.

    To first order ``log sum(s_i d_i) = log sum(d_i) + sum((s_i - 1) d_i / sum(d_j))``.
    """
    known = np.isfinite(seen.divergence)
    damages = problem.damages(seen.genomes[known])
    total = damages.sum(axis=1)
    rows = total > FLOOR
    if rows.sum() < 4:
        return np.ones(len(problem.levels))
    damages, total = damages[rows], total[rows]
    target = np.log(np.maximum(seen.divergence[known][rows], FLOOR))
    shares = damages / total[:, None]
    pairs = [np.sqrt(shares[:, a] * shares[:, b]) for a, b in problem.together]
    free = np.column_stack((np.ones(len(total)), np.log(total)))
    features = np.column_stack((free, shares, *pairs))
    penalty = np.full(features.shape[1], STIFFNESS)
    penalty[: free.shape[1]] = 1e-6
    solved = np.linalg.solve(features.T @ features + np.diag(penalty), features.T @ target)
    slope = float(np.clip(solved[1], 0.3, 2.0))
    return np.exp(np.clip(solved[2 : 2 + shares.shape[1]] / slope, -1.5, 1.5))


def _fit_curve(problem: Problem, damage: Floats, seen: Observations) -> Curve:
    """The curve with the least squared error, among those of a grid."""
    accuracy = seen.accuracy
    exact = (damage <= 0) & (seen.errors == 0)
    high = float(accuracy[exact].max()) if exact.any() else float(accuracy.max(initial=1.0))
    low = min(problem.trivial, high - 1e-3)
    target = (accuracy - low) / (high - low)
    scales, powers = np.geomspace(0.01, 3.0, 25), np.linspace(0.6, 2.0, 8)
    # A prior worth two trials, for a curve as it usually is.
    usual = np.square(np.log(scales / 0.4))[:, None] / 50 + np.square(powers - 1.3)[None] / 50
    fell = np.exp(-((damage[None, None] / scales[:, None, None]) ** powers[None, :, None]))
    weights = 1 / (1 + np.square(seen.errors / SCATTER))
    errors = (np.square(fell - target) * weights).sum(axis=2) + 0.01 * usual
    i, j = np.unravel_index(int(errors.argmin()), errors.shape)
    return Curve(high, low, float(scales[i]), float(powers[j]))


def stacked(rows: Sequence[NDArray[np.int64]], dimensions: int) -> Genomes:
    """Rows as an array, (rows, dimensions), even if there are none."""
    return np.array(rows, np.int64).reshape(-1, dimensions)
