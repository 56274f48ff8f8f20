"""AxFormer's greedy, step by step over scripted losses."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from axsearch.errors import UsageError
from axsearch.samplers import build_sampler
from axsearch.samplers.axformer import APPROXIMATIONS, AxFormerSampler, Result, build, steps
from axsearch.samplers.base import finished
from axsearch.space.genome import SearchSpace
from axsearch.space.problem import Problem
from axsearch.store.attributes import MEAN_LOSS_ATTR, NOT_WORSE_ATTR
from axsearch.testing.problems import sites_of

optuna.logging.set_verbosity(optuna.logging.WARNING)


def problem_of(
    layers: int,
    heads: int = 2,
    neurons: int = 3,
    *,
    epsilon: float | None = None,
    length: int = 40,
    names: Sequence[str] = APPROXIMATIONS,
    dropped: dict[str, list[int]] | None = None,
) -> Problem:
    sites = sites_of(layers, {"attention": heads, "ffn": neurons}, length)
    orders = {site.id: list(reversed(range(site.units.count))) for site in sites}
    space = SearchSpace(sites, orders, names=names, dropped=dropped or {})
    return Problem(space, ("accuracy", "size"), {}, epsilon=epsilon)


class Line(NamedTuple):
    """A step: what is gone in its genome, its loss, the share not worse; kept? a new trial?

    ``K2`` is hard attention with K = 30 in layer 2, ``F2`` its FFN, ``F2.1`` group 1 of it, ``A2``
    and ``A2.1`` the attention and head 1.
    """

    gone: str
    loss: float
    not_worse: float
    kept: bool
    measured: bool = True


ACCURACY = [
    Line("", 1.0, 1.0, True),
    # Hard attention, from the bottom. As good as the base is not better.
    Line("K0", 1.0, 1.0, False),
    # Better on average, but no more than half of the examples are not worse.
    Line("K1", 0.99, 0.5, False),
    Line("K2", 0.98, 0.51, True),
    # The top layer: its FFN is near (1.07 < 1.1 * 0.98), so its groups are tried.
    Line("K2 F2", 1.07, 0.9, False),
    Line("K2 F2.0", 0.97, 0.7, True),
    # Better than the base, but not than the best so far.
    Line("K2 F2.0 F2.1", 0.97, 0.9, False),
    Line("K2 F2.0 F2.2", 0.96, 0.6, True),
    # Its attention is not near: 1.06 > 1.1 * 0.96.
    Line("K2 F2.0 F2.2 A2", 1.06, 0.9, False),
    Line("K2 F2.0 F2.2 F1", 0.90, 0.9, True),
    # Near, 0.98 < 1.1 * 0.90: head by head.
    Line("K2 F2.0 F2.2 F1 A1", 0.98, 0.1, False),
    Line("K2 F2.0 F2.2 F1 A1.0", 0.95, 1.0, False),
    Line("K2 F2.0 F2.2 F1 A1.1", 0.80, 0.4, False),
    # Better, but not for more than half: rejected, and near.
    Line("K2 F2.0 F2.2 F1 F0", 0.89, 0.5, False),
    Line("K2 F2.0 F2.2 F1 F0.0", 0.88, 0.6, True),
    Line("K2 F2.0 F2.2 F1 F0.0 F0.1", 0.87, 0.6, True),
    # The last group is the rest of the block, which was measured.
    Line("K2 F2.0 F2.2 F1 F0", 0.89, 0.5, False, measured=False),
    Line("K2 F2.0 F2.2 F1 F0.0 F0.1 A0", 5.0, 0.0, False),
]

SPEED = [
    Line("", 2.0, 1.0, True),
    # Epsilon 0.05: up to 2.1, that included; single examples do not count.
    Line("K0", 2.1, 0.0, True),
    Line("K0 K1", 2.2, 1.0, False),
    # Near is below 1.1 * 2.1 = 2.31, above the base's own 2.2.
    Line("K0 F1", 2.3, 1.0, False),
    Line("K0 F1.0", 2.05, 0.0, True),
    Line("K0 F1.0 F1.1", 2.11, 1.0, False),
    Line("K0 F1.0 F1.2", 1.5, 0.0, True),
    Line("K0 F1.0 F1.2 A1", 2.32, 1.0, False),
    # The bound stays where it is after a better step.
    Line("K0 F1.0 F1.2 F0", 2.09, 0.0, True),
    Line("K0 F1.0 F1.2 F0 A0", 2.2, 1.0, False),
    Line("K0 F1.0 F1.2 F0 A0.0", 2.4, 1.0, False),
    Line("K0 F1.0 F1.2 F0 A0.1", 2.0, 0.0, True),
]

FORMS = pytest.mark.parametrize(
    ("golden", "problem"),
    [
        pytest.param(ACCURACY, problem_of(3), id="accuracy"),
        pytest.param(SPEED, problem_of(2, epsilon=0.05), id="speed"),
    ],
)


def genome(gone: str, problem: Problem) -> dict[str, int]:
    made = problem.space.exact()
    for word in gone.split():
        block, _, part = word.partition(".")
        name = {"K": "topk_hard", "F": "ffn_mask", "A": "head_mask"}[block[0]]
        prefix = f"layer{int(block[1:]):02d}.{name}" + (f".{int(part):02d}" if part else "")
        made |= {parameter: 1 for parameter in made if parameter.startswith(prefix)}
    return made


class Losses:
    """The objective: what the golden lines say; any other genome is a KeyError."""

    def __init__(self, golden: Iterable[Line], problem: Problem) -> None:
        self.problem = problem
        self.lines = {tuple(genome(line.gone, problem).values()): line for line in golden}

    def __call__(self, trial: optuna.Trial) -> tuple[float, float]:
        row = tuple(
            trial.suggest_int(name, d.low, d.high)
            for name, d in self.problem.space.distributions().items()
        )
        trial.set_user_attr(MEAN_LOSS_ATTR, self.lines[row].loss)
        trial.set_user_attr(NOT_WORSE_ATTR, self.lines[row].not_worse)
        return 0.0, 0.0


def new_study(problem: Problem) -> optuna.Study:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=build(problem, 0))
    study.enqueue_trial(problem.space.exact())
    return study


def complete(study: optuna.Study) -> list[dict[str, int]]:
    return [trial.params for trial in study.get_trials(states=(TrialState.COMPLETE,))]


def measured(golden: Iterable[Line], problem: Problem) -> list[dict[str, int]]:
    return [genome(line.gone, problem) for line in golden if line.measured]


@FORMS
class TestGolden:
    def test_the_trace(self, golden: list[Line], problem: Problem) -> None:
        study = new_study(problem)
        study.optimize(Losses(golden, problem), timeout=60)  # it stops by itself
        assert complete(study) == measured(golden, problem)
        assert len(study.trials) == len(complete(study))
        sampler = study.sampler
        assert isinstance(sampler, AxFormerSampler)
        trace = [(step.genome, step.result, step.kept) for step in sampler.trace(study)]
        assert trace == [
            (genome(line.gone, problem), Result(line.loss, line.not_worse), line.kept)
            for line in golden
        ]

    def test_resumed_after_any_step_it_goes_on_the_same(
        self, golden: list[Line], problem: Problem
    ) -> None:
        wanted = measured(golden, problem)
        for stopped in range(len(wanted)):
            study = new_study(problem)
            study.optimize(Losses(golden, problem), n_trials=stopped)
            assert not finished(study.sampler, study)
            study.sampler = build(problem, stopped)
            assert not finished(study.sampler, study)
            study.optimize(Losses(golden, problem), timeout=60)
            assert complete(study) == wanted
            assert finished(study.sampler, study)
            assert finished(build(problem, 0), study)

    def test_what_fails_is_tried_again(self, golden: list[Line], problem: Problem) -> None:
        losses = Losses(golden, problem)

        def objective(trial: optuna.Trial) -> tuple[float, float]:
            values = losses(trial)
            if trial.number % 3 == 1:
                raise ArithmeticError
            return values

        study = new_study(problem)
        study.optimize(objective, catch=(ArithmeticError,), timeout=60)
        assert complete(study) == measured(golden, problem)
        for before, after in itertools.pairwise(study.trials):
            if before.state == TrialState.FAIL:
                assert before.params == after.params

    def test_other_trials_do_no_harm(self, golden: list[Line], problem: Problem) -> None:
        losses = Losses(golden, problem)
        study = new_study(problem)
        study.optimize(losses, n_trials=3)
        distributions: dict[str, BaseDistribution] = dict(problem.space.distributions())
        hanging = study.ask(distributions)
        assert hanging.params == genome(golden[3].gone, problem)
        # A step again, with other numbers; one that is none; one of another space; without losses.
        attrs = {MEAN_LOSS_ATTR: 0.1, NOT_WORSE_ATTR: 1.0}
        far = genome("F0.1 A1.1", problem)
        for params, user_attrs in (
            (genome(golden[2].gone, problem), attrs),
            (far, attrs),
            (genome(golden[3].gone, problem), {}),
        ):
            study.add_trial(
                optuna.create_trial(
                    params=params,
                    distributions=distributions,
                    values=[0.0, 0.0],
                    user_attrs=user_attrs,
                )
            )
        study.add_trial(optuna.create_trial(values=[0.0, 0.0], user_attrs=attrs))
        before = len(study.trials)
        study.optimize(losses, timeout=60)
        assert [t.params for t in study.trials[before:]] == measured(golden, problem)[3:]

    def test_asked_and_told(self, golden: list[Line], problem: Problem) -> None:
        losses = Losses(golden, problem)
        study = new_study(problem)
        while not finished(study.sampler, study):
            trial = study.ask()
            study.tell(trial, losses(trial))
        assert complete(study) == measured(golden, problem)
        # A trial that is asked for nevertheless repeats what the greedy came to.
        trial = study.ask()
        study.tell(trial, losses(trial))
        final = next(line for line in reversed(golden) if line.kept)
        assert trial.params == genome(final.gone, problem)
        assert finished(study.sampler, study)


class Scripted(dict[tuple[int, ...], Result]):
    """Every genome but the base has the loss of its turn."""

    def __init__(self, first: float, factor: float) -> None:
        super().__init__()
        self.loss, self.factor = first, factor

    def get(self, row: tuple[int, ...], default: object = None) -> Result:
        if row not in self:
            self[row] = Result(self.loss, 1.0)
            self.loss *= self.factor
        return self[row]


BIG = problem_of(12, 12, 3072, length=128)
HARD = "layer00.topk_hard"


class TestNumberOfEvaluations:
    @pytest.mark.parametrize("epsilon", [None, 0.0])
    def test_everything_kept(self, epsilon: float | None) -> None:
        problem = problem_of(12, 12, 3072, length=128, epsilon=epsilon)
        results = Scripted(1.0, 0.99)
        walked = list(steps(problem, results))
        assert len(walked) == len(results) == 37
        assert all(step.kept for step in walked)
        assert set(walked[-1].genome.values()) == {1, BIG.space.to_dict()[HARD].index(30)}

    def test_nothing_near(self) -> None:
        results = Scripted(1.0, 1.2)
        assert len(list(steps(BIG, results))) == len(results) == 37

    def test_everything_near(self) -> None:
        results = Scripted(1.0, 1.0)
        walked = list(steps(BIG, results))
        assert len(walked) == len(results) == 325
        assert [step.kept for step in walked] == [True] + [False] * 324


def test_order() -> None:
    walked = list(steps(BIG, Scripted(1.0, 1.0)))
    tried = [step.change.levels for step in walked[1:]]
    level = BIG.space.to_dict()[HARD].index(30)
    assert tried[:12] == [{f"layer{layer:02d}.topk_hard": level} for layer in range(12)]
    wanted: list[dict[str, int]] = []
    for layer in range(11, -1, -1):
        for name in ("ffn_mask", "head_mask"):
            parts = [f"layer{layer:02d}.{name}.{part:02d}" for part in range(12)]
            wanted += [dict.fromkeys(parts, 1), *({part: 1} for part in parts)]
    assert tried[12:] == wanted


class TestSpacesThatLackSomething:
    def tried(self, problem: Problem) -> set[str]:
        return {
            name.split(".")[1]
            for step in steps(problem, Scripted(1.0, 1.0))
            for name in step.change.levels
        }

    def test_inputs_that_are_shorter_than_k(self) -> None:
        assert self.tried(problem_of(2, length=30)) == {"ffn_mask", "head_mask"}
        assert self.tried(problem_of(2, length=8)) == {"ffn_mask", "head_mask"}

    @pytest.mark.parametrize("name", APPROXIMATIONS)
    def test_one_kind_only(self, name: str) -> None:
        assert self.tried(problem_of(2, names=[name])) == {name}

    def test_a_level_that_was_dropped(self) -> None:
        problem = problem_of(2, dropped={HARD: [30], "layer01.ffn_mask.01": [2]})
        changes = [step.change.levels for step in steps(problem, Scripted(1.0, 1.0))]
        assert changes[1] == {"layer01.topk_hard": 1}
        assert changes[2] == {"layer01.ffn_mask.00": 1, "layer01.ffn_mask.02": 1}

    def test_other_parameters_stay_exact(self) -> None:
        problem = problem_of(1, names=[*APPROXIMATIONS, "heads", "topk"])
        for step in steps(problem, Scripted(1.0, 0.9)):
            assert step.genome["layer00.heads"] == step.genome["layer00.topk"] == 0

    @pytest.mark.parametrize(
        "problem",
        [problem_of(2, names=["heads", "ffn"]), problem_of(2, names=["topk_hard"], length=20)],
        ids=["none", "no K of 30"],
    )
    def test_nothing_of_it_is_refused(self, problem: Problem) -> None:
        with pytest.raises(UsageError, match="needs `approximations=head_mask,ffn_mask,topk_hard"):
            build_sampler("axformer", problem, 0)


def test_a_trial_that_says_nothing_of_its_loss_is_an_error() -> None:
    problem = problem_of(1)
    study = new_study(problem)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        for name, d in problem.space.distributions().items():
            trial.suggest_int(name, d.low, d.high)
        return 0.0, 0.0

    with pytest.raises(KeyError, match=MEAN_LOSS_ATTR):
        study.optimize(objective, n_trials=5)
    assert len(study.trials) == 1


def test_a_parameter_of_another_space_stays_exact() -> None:
    problem = problem_of(1)
    study = new_study(problem)
    assert study.ask().suggest_int("layer07.heads", 0, 3) == 0


def test_samplers_without_an_end_are_never_finished() -> None:
    study = optuna.create_study()
    assert not finished(optuna.samplers.RandomSampler(), study)
