"""What the surrogate says, against scripted models whose damage and accuracy are known."""

from __future__ import annotations

import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from axsearch.samplers.surrogate import MOST, NOISE, Observations, Surrogate, stacked
from axsearch.space.problem import Floats
from axsearch.testing.problems import Truth, genomes_of, problem_of

PROBLEM = problem_of(6)
OTHERS = genomes_of(PROBLEM, 400, seed=9)[1:]


def error(found: Floats, expected: Floats) -> float:
    return float(np.sqrt(np.square(found - expected).mean()))


@pytest.mark.parametrize("together", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_corrections_that_trials_have_shown(seed: int, together: float) -> None:
    problem = problem_of(6, together=together)
    truth = Truth(problem, seed)
    seen = truth.seen(genomes_of(problem, 150, seed))
    plain, corrected = (Surrogate(problem, seen, correct=c) for c in (False, True))
    np.testing.assert_array_equal(plain.scale, 1)
    assert np.corrcoef(np.log(corrected.scale), np.log(truth.scale))[0, 1] > 0.8
    # A factor common to all says nothing: the curve takes it up.
    logs = [np.log(s.damage(OTHERS) + 1e-4) - np.log(truth.damage(OTHERS) + 1e-4)
            for s in (plain, corrected)]  # fmt: skip
    assert np.std(logs[1]) < 0.6 * np.std(logs[0])
    accuracy = truth.accuracy(OTHERS)
    errors = [error(s.predict(OTHERS)[0], accuracy) for s in (plain, corrected)]
    assert errors[1] < 0.8 * errors[0]


def test_no_correction_where_damage_is_right_or_nothing_is_known() -> None:
    truth = Truth(PROBLEM, spread=0.0)
    seen = truth.seen(genomes_of(PROBLEM, 150), noise=0.01)
    assert np.abs(np.log(Surrogate(PROBLEM, seen).scale)).max() < 0.1
    unknown = seen._replace(divergence=np.full(150, np.nan))
    np.testing.assert_array_equal(Surrogate(PROBLEM, unknown).scale, 1)
    few = Observations(*(column[:4] for column in seen[:3]))
    np.testing.assert_array_equal(Surrogate(PROBLEM, few).scale, 1)


def test_trials_of_unknown_divergence_are_left_out_of_corrections_alone() -> None:
    seen = Truth(PROBLEM).seen(genomes_of(PROBLEM, 100))
    known = np.arange(100) % 2 == 0
    some = seen._replace(divergence=np.where(known, seen.divergence, np.nan))
    half = Observations(*(column[known] for column in seen[:3]))
    found = Surrogate(PROBLEM, some)
    np.testing.assert_allclose(found.scale, Surrogate(PROBLEM, half).scale, rtol=1e-9)
    assert found._process is not None
    assert len(found._process.logs) == 100


@pytest.mark.parametrize(("scale", "power"), [(0.2, 1.0), (0.5, 1.5), (1.0, 0.8)])
def test_curve(scale: float, power: float) -> None:
    genomes = genomes_of(PROBLEM, 60)
    damage = PROBLEM.damages(genomes).sum(axis=1)
    accuracy = 0.5 + 0.42 * np.exp(-((damage / scale) ** power))
    seen = Observations(genomes, accuracy, np.full(60, np.nan))
    found = Surrogate(PROBLEM, seen, correct=False, process=False)
    assert found.curve.high == pytest.approx(0.92)
    assert found.curve.low == 0.5
    other = np.linspace(0, damage.max(), 50)
    expected = 0.5 + 0.42 * np.exp(-((other / scale) ** power))
    assert np.abs(found.curve(other) - expected).max() < 0.03  # a curve of a grid


@pytest.mark.parametrize("count", [3, 40, 250])
def test_seen_trials_are_met_again(count: int) -> None:
    truth = Truth(PROBLEM)
    seen = truth.seen(genomes_of(PROBLEM, count))
    mean, spread = Surrogate(PROBLEM, seen).predict(seen.genomes)
    assert error(mean, seen.accuracy) < 2 * NOISE * 0.4
    assert (spread > 0).all()
    _, elsewhere = Surrogate(PROBLEM, seen).predict(OTHERS)
    assert np.median(elsewhere) > np.median(spread)


def test_intervals_cover_what_comes() -> None:
    covered, within = [], []
    for seed in range(6):
        truth = Truth(PROBLEM, seed)
        seen = truth.seen(genomes_of(PROBLEM, 120, seed))
        others = genomes_of(PROBLEM, 200, 50 + seed)[1:]
        mean, spread = Surrogate(PROBLEM, seen).predict(others)
        z = np.abs(truth.accuracy(others) - mean) / spread
        covered.append((z < 2).mean())
        within.append((z < 1).mean())
    assert 0.8 < np.mean(covered) <= 1
    assert 0.4 < np.mean(within) < 0.97


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_few_trials(count: int, exact: bool, known: bool) -> None:
    seen = Truth(PROBLEM).seen(
        genomes_of(PROBLEM, count + 1)[slice(count) if exact else slice(1, None)]
    )
    if not known:
        seen = seen._replace(divergence=np.full(count, np.nan))
    mean, spread = Surrogate(PROBLEM, seen).predict(OTHERS)
    assert mean.shape == spread.shape == (len(OTHERS),)
    assert np.isfinite(mean).all()
    assert (spread > 0).all()
    # More damage, less accuracy, and less certain before there is anything to go by.
    order = np.argsort(Surrogate(PROBLEM, seen).damage(OTHERS))
    assert mean[order[0]] > mean[order[-1]]
    if count < 3:
        assert (np.diff(mean[order]) <= 1e-12).all()
        assert spread[order[0]] < spread[order[-1]]


@pytest.mark.parametrize("accuracy", [0.9, 0.5, 0.3, 1.0])
def test_accuracies_that_are_all_alike(accuracy: float) -> None:
    seen = Truth(PROBLEM).seen(genomes_of(PROBLEM, 30))
    alike = seen._replace(accuracy=np.full(30, accuracy))
    mean, spread = Surrogate(PROBLEM, alike).predict(seen.genomes)
    np.testing.assert_allclose(mean, accuracy, atol=0.02)
    assert (spread > 0).all()


def test_the_same_genome_many_times() -> None:
    seen = Truth(PROBLEM).seen(np.repeat(genomes_of(PROBLEM, 3), 20, axis=0))
    mean, spread = Surrogate(PROBLEM, seen).predict(seen.genomes)
    assert np.isfinite(mean).all()
    assert np.isfinite(spread).all()


def test_of_many_trials_those_near_the_front_and_the_newest_are_modelled() -> None:
    seen = Truth(PROBLEM).seen(genomes_of(PROBLEM, 700))
    found = Surrogate(PROBLEM, seen)
    assert found._process is not None
    logs, _ = found._places(seen.genomes)
    left = seen.accuracy - found.curve(found.damage(seen.genomes))
    assert len(found._process.logs) == MOST
    assert logs[-1] in found._process.logs
    assert logs[np.argmax(left)] in found._process.logs


def test_no_rows_are_an_array_too() -> None:
    assert stacked([], 7).shape == (0, 7)
    assert stacked([np.array([1, 2])], 2).tolist() == [[1, 2]]


def test_threads_are_as_they_were() -> None:
    before = [library["num_threads"] for library in threadpool_info()]
    Surrogate(PROBLEM, Truth(PROBLEM).seen(genomes_of(PROBLEM, 20))).predict(OTHERS)
    assert [library["num_threads"] for library in threadpool_info()] == before


def test_a_thousand_trials_of_72_dimensions_take_little_time() -> None:
    problem = problem_of(24, together=0.3)
    assert len(problem.levels) == 72
    seen = Truth(problem).seen(genomes_of(problem, 1000))
    candidates = genomes_of(problem, 350, seed=3)
    taken = []
    for _ in range(9):
        began = time.process_time()  # of this process alone: others may be at work
        Surrogate(problem, seen).predict(candidates)
        taken.append(time.process_time() - began)
    assert np.median(taken) < 0.2  # it takes 0.02
