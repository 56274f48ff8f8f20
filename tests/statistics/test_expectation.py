"""What is expected of chosen models, against the truth of studies that are drawn."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest

from axsearch.statistics.expectation import Expected, expected_drops
from axsearch.statistics.inference import paired_drops, paired_error
from axsearch.statistics.outcome import Outcome

DIVERGENCE = np.geomspace(0.001, 0.4, 20)
ACCURACY, SLOPE = 0.88, 0.35


class Drawn(NamedTuple):
    """A study with known truth: true drops, and what some hundred examples show of them."""

    truth: np.ndarray
    outcomes: list[Outcome]
    base: Outcome

    @property
    def seen(self) -> np.ndarray:
        return paired_drops(self.outcomes, self.base)[0]


def drawn(seed: int, examples: int, statistic: str = "mean") -> Drawn:
    """Models that flip answers near the boundary: those with more divergence flip more."""
    rng = np.random.default_rng(seed)
    right = rng.random(examples) < ACCURACY
    undecided = rng.random(examples)  # the same examples flip first in all models
    truth, outcomes = [], []
    for x in DIVERGENCE:
        drop = SLOPE * x * math.exp(rng.normal(0, 0.12))
        flips = 0.5 * math.sqrt(x) * 0.4 + drop
        lost = (flips + drop) / 2 / ACCURACY
        won = (flips - drop) / 2 / (1 - ACCURACY)
        mixed = np.where(rng.random(examples) < 0.7, undecided, rng.random(examples))
        ours = np.where(right, mixed >= lost, mixed < won)
        truth.append(lost * ACCURACY - won * (1 - ACCURACY))
        outcomes.append(Outcome(statistic, ours))
    return Drawn(np.array(truth), outcomes, Outcome(statistic, right))


def expected_of(study: Drawn) -> list[Expected]:
    return expected_drops(study.outcomes, study.base, known(DIVERGENCE.tolist()))


def known(divergences: list[float]) -> list[tuple[float, float]]:
    """Divergences without an error."""
    return [(one, 0.0) for one in divergences]


def test_what_is_picked_by_the_expected_drop_keeps_its_limit() -> None:
    """The most approximate model within a limit, of 60 studies of 400 examples."""
    lost: dict[str, list[float]] = {"seen": [], "expected": [], "confident": []}
    for seed in range(60):
        study = drawn(seed, 400)
        seen, expected = study.seen, expected_of(study)
        for way, allowed in {
            "seen": [d <= 0.01 for d in seen],
            "expected": [one.drop <= 0.01 for one in expected],
            "confident": [one.probability(0.01) >= 0.9 for one in expected],
        }.items():
            last = np.flatnonzero(allowed)
            lost[way].append(float(study.truth[last[-1]]) if len(last) else 0.0)
    assert np.mean(lost["seen"]) > 0.013  # the fault that this is for
    assert 0.005 < np.mean(lost["expected"]) <= 0.01
    assert np.mean([one > 0.02 for one in lost["expected"]]) <= 0.1
    assert np.mean([one <= 0.01 for one in lost["confident"]]) >= 0.85
    assert np.mean(lost["confident"]) > 0.001  # which no model at all would also keep


def test_the_interval_has_the_truth_as_often_as_it_says() -> None:
    inside = [
        one.interval.low <= truth <= one.interval.high
        for seed in range(30)
        for study in [drawn(seed, 300)]
        for one, truth in zip(expected_of(study), study.truth, strict=True)
    ]
    assert 0.9 <= np.mean(inside) <= 1


def test_it_is_nearer_to_the_truth_than_what_is_seen() -> None:
    studies = [drawn(seed, 300) for seed in range(20)]
    seen = np.array([study.seen - study.truth for study in studies])
    ours = np.array([[e.drop for e in expected_of(s)] - s.truth for s in studies])
    near = np.array([study.truth for study in studies]) < 0.03
    assert np.sqrt(np.square(ours[near]).mean()) < 0.5 * np.sqrt(np.square(seen[near]).mean())


def test_a_lucky_model_is_shrunk_towards_the_others_and_less_with_more_examples() -> None:
    for examples, share in ((400, (0.5, 1.1)), (40_000, (0.0, 0.6))):
        study = drawn(1, examples)
        right, place = study.base.values, 13
        # One that answers as the base does, but for as many other examples as its divergence says.
        lucky = study.outcomes[place].values.copy()
        lost, won = np.flatnonzero(right & ~lucky), np.flatnonzero(~right & lucky)
        lucky[lost[: max(len(lost) - len(won), 0)]] = True
        study.outcomes[place] = Outcome("mean", lucky)
        assert study.seen[place] <= 0
        truth = study.truth[place]
        assert share[0] < expected_of(study)[place].drop / truth < share[1]


def test_a_model_that_answers_as_the_base_does_is_expected_to_lose_nothing() -> None:
    study = drawn(0, 300)
    own = expected_drops(
        [study.base, *study.outcomes], study.base, known([0.0, *DIVERGENCE.tolist()])
    )[0]
    assert abs(own.drop) < 1e-4
    assert own.error < 1e-3


def test_a_divergence_that_is_not_sure_leaves_the_drop_less_sure() -> None:
    study = drawn(2, 300)
    sure = expected_of(study)[13]
    unsure = expected_drops(study.outcomes, study.base, [(x, 0.4 * x) for x in DIVERGENCE])[13]
    assert unsure.error > 1.2 * sure.error


def test_models_that_were_trained_further_have_a_relation_of_their_own() -> None:
    """They lose a tenth of what models that are as far from the base lose as they were cut."""
    error: dict[str, list[float]] = {"own": [], "shared": []}
    moved = []
    for seed in range(40):
        study, rng = drawn(seed, 600), np.random.default_rng([seed, 1])
        places, right = (13, 15, 17), study.base.values
        outcomes, truth = list(study.outcomes), []
        for place in places:
            drop = 0.1 * SLOPE * DIVERGENCE[place]
            flips = 0.2 * math.sqrt(DIVERGENCE[place])
            lost, won = (flips + drop) / 2 / ACCURACY, (flips - drop) / 2 / (1 - ACCURACY)
            draw = rng.random(len(right))
            outcomes.append(Outcome("mean", np.where(right, draw >= lost, draw < won)))
            truth.append(drop)
        far = known([*DIVERGENCE.tolist(), *DIVERGENCE[list(places)].tolist()])
        trained = [False] * len(DIVERGENCE) + [True] * len(places)
        found = expected_drops(outcomes, study.base, far, trained)
        for name, drops in {
            "own": found,
            "shared": expected_drops(outcomes, study.base, far),
        }.items():
            error[name] += [abs(one.drop - t) for one, t in zip(drops[-3:], truth, strict=True)]
        alone = expected_of(study)
        moved += [abs(one.drop - a.drop) / a.error for one, a in zip(found, alone, strict=False)]
    assert np.mean(error["own"]) < 0.8 * np.mean(error["shared"])
    assert np.mean(moved) < 0.2  # what is expected of models as they were cut stays about the same


@pytest.mark.parametrize("drop", [0.005, 0.02, -0.04])
def test_trained_models_far_from_the_base_do_not_move_what_is_expected_of_others(
    drop: float,
) -> None:
    """They may be further from it than all models as they were cut, and may even gain."""
    before, after, gained = [], [], []
    for seed in range(15):
        study, rng = drawn(seed, 600), np.random.default_rng([seed, 2])
        right, outcomes = study.base.values, list(study.outcomes)
        for _ in range(3):
            lost, won = (0.1 + drop) / 2 / ACCURACY, (0.1 - drop) / 2 / (1 - ACCURACY)
            draw = rng.random(len(right))
            outcomes.append(Outcome("mean", np.where(right, draw >= lost, draw < won)))
        far = known([*DIVERGENCE.tolist(), 0.8, 1.1, 1.5])
        found = expected_drops(outcomes, study.base, far, [False] * 20 + [True] * 3)
        alone = expected_of(study)
        before += [one.drop for one in alone[10:16]]
        after += [one.drop for one in found[10:16]]
        gained += [one.drop for one in found[20:]]
    assert np.mean(after) == pytest.approx(np.mean(before), rel=0.05)
    assert np.mean(gained) == pytest.approx(drop, abs=0.01)


def test_models_that_were_all_trained() -> None:
    study = drawn(1, 600)
    found = expected_drops(
        study.outcomes, study.base, known(DIVERGENCE.tolist()), [True] * len(DIVERGENCE)
    )
    assert found[-1].drop == pytest.approx(study.seen[-1], rel=0.2)


def test_one_model_alone_and_none() -> None:
    study = drawn(0, 300)
    assert expected_drops([], study.base, []) == []
    (one,) = expected_drops(study.outcomes[-1:], study.base, known([0.4]))
    assert one.drop == pytest.approx(study.seen[-1], rel=0.2)
    (same,) = expected_drops([study.base], study.base, known([0.0]))
    assert same.drop == pytest.approx(0, abs=1e-6)
    assert same.probability(0.01) > 0.999


def test_drops_err_together_as_pairs_say() -> None:
    study = drawn(3, 300)
    drops, covariance = paired_drops(study.outcomes, study.base)
    for place, outcome in enumerate(study.outcomes):
        change, error = paired_error(outcome, study.base)
        assert drops[place] == pytest.approx(-change)
        assert covariance[place, place] == pytest.approx(error**2)
    assert covariance[-1, -2] > 0.3 * covariance[-1, -1]  # they share the base's luck


def test_a_metric_that_is_no_mean() -> None:
    rng = np.random.default_rng(0)
    gold = rng.normal(size=200)
    base = Outcome("pearson", np.stack((gold, gold + rng.normal(0, 0.3, 200)), axis=1))
    noise = rng.normal(size=(8, 200))
    outcomes = [
        Outcome("pearson", np.stack((gold, base.values[:, 1] + 0.1 * i * noise[i]), axis=1))
        for i in range(8)
    ]
    found = expected_drops(outcomes, base, known([0.01 * i**2 for i in range(8)]))
    drops = [one.drop for one in found]
    assert drops == sorted(drops)
    assert drops[-1] == pytest.approx(paired_drops(outcomes, base)[0][-1], abs=0.02)


class TestExpected:
    one = Expected(drop=0.006, error=0.004, sampling=0.005, examples=400)

    def test_probability_is_the_normals(self) -> None:
        assert self.one.probability(0.006) == pytest.approx(0.5)
        assert self.one.probability(0.010) == pytest.approx(0.8413, abs=1e-3)
        assert Expected(0.0, 0.0, 0.0, 9).probability(0.0) == 1
        assert Expected(0.0, 0.0, 0.0, 9).probability(-0.1) == 0

    def test_interval(self) -> None:
        assert self.one.interval == pytest.approx(
            (0.006, 0.006 - 0.00784, 0.006 + 0.00784), abs=1e-5
        )

    def test_as_many_examples_as_are_said_do(self) -> None:
        needed = self.one.examples_for(0.01, 0.9)
        assert needed is not None
        assert needed > 400
        # Of the precision, the part from the examples grows with their number.
        other = 1 / self.one.error**2 - 1 / self.one.sampling**2
        for count, enough in ((needed, True), (needed - 2, False)):
            error = (other + count / 400 / self.one.sampling**2) ** -0.5
            assert (Expected(0.006, error, 0.0, count).probability(0.01) >= 0.9) is enough

    def test_none_are_needed_or_none_would_do(self) -> None:
        assert self.one.examples_for(0.02, 0.9) == 400
        assert self.one.examples_for(0.006, 0.9) is None
        assert self.one.examples_for(0.005, 0.9) is None
