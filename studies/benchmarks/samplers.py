"""Samplers side by side: hypervolume of accuracy against latency, by examples run and by time.

Every contender searches the same model with the same examples; latency comes from one latency
table. Evaluations are kept in a database, so a recipe that two runs ask for is evaluated once, and
an interrupted benchmark continues; the cost of each run is counted as if it had run alone. Kwon et
al.'s allocation and AxFormer's greedy search have search spaces of their own. For the demo's model:

    make demo
    python studies/benchmarks/samplers.py .cache/movie_reviews/base .cache/movie_reviews/data

It writes samplers.json, .md and .svg.
"""

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import optuna
import torch
from kwon import allocate, shares
from rich.progress import Progress
from samplers_results import write_results

from axsearch import Evaluator, Recipe, Task
from axsearch.calibration.damage import calibration_sample
from axsearch.calibration.importance import gate_slopes
from axsearch.calibration.preparation import prepare
from axsearch.models.base_model import Base
from axsearch.samplers import build_sampler, samplers
from axsearch.samplers.auto import AutoSampler, Parts
from axsearch.samplers.base import finished
from axsearch.samplers.warm_start import warm_start
from axsearch.space.genome import SearchSpace
from axsearch.space.problem import Problem
from axsearch.space.recipe import EXACT
from axsearch.space.scenario import Scenario
from axsearch.statistics.divergence import divergence_of_losses
from axsearch.store.attributes import DIVERGENCE_ATTR, MEAN_LOSS_ATTR, NOT_WORSE_ATTR
from axsearch.store.database import open_database
from axsearch.system.machine import machine_name

EXAMPLES = 400
FEW, MANY = 50, 200
STEPS = 130
"""Trials of Kwon et al.'s allocation: as many examples as auto runs with its calibration."""
ABLATIONS = 3
"""The number of seeds for auto without one of its parts."""

OBJECTIVES = ("accuracy", "latency")
GENERAL = ("tpe", "nsga2", "gp", "random")
EPSILONS = (0.1, 0.3, 1.0)
PARTS = {
    "auto": Parts(),
    "auto, damage not corrected": Parts(correct=False),
    "auto, no Gaussian process": Parts(process=False),
    "auto, knapsack only": Parts(sources=("knapsack",)),
    "auto, level switches only": Parts(sources=("switches",)),
    "auto, any candidate": Parts(improve=False),
    "auto, not thrifty": Parts(thrifty=False),
}


@dataclass(frozen=True)
class Run:
    """One search to make: a contender, its seed, and how many trials it may have."""

    contender: str
    seed: int
    trials: int


def wanted(seeds: int) -> list[Run]:
    """All runs, starting with those that the others are compared with."""
    others = [name for name in PARTS if name != "auto"]
    others += ["auto, no warm start", "warm start, then tpe"]
    found = [Run("auto", seed, FEW) for seed in range(seeds)]
    found += [Run("kwon", 0, STEPS), Run("axformer", 0, MANY)]
    found += [Run(f"axformer, epsilon {epsilon}", 0, MANY) for epsilon in EPSILONS]
    general = [Run(name, seed, MANY) for seed in range(seeds) for name in GENERAL]
    hat = [Run("hat", seed, MANY) for seed in range(seeds)]
    first = ABLATIONS * len(GENERAL)
    found += general[:first]
    found += [Run(name, seed, FEW) for seed in range(min(seeds, ABLATIONS)) for name in others]
    return found + hat + general[first:]


class Bench:
    """The task, its calibration, and how every contender searches it."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self.task = Task.load(options.model, options.data, search_examples=options.examples)
        database = open_database(f"sqlite:///{options.cache}", create=True)
        self.evaluator = Evaluator(
            self.task, database.engine, Scenario(threads=options.timed_threads)
        )
        self.sites = Base(self.task.model, self.task.longest).sites
        self.facts: dict[str, float] = {}

    def space(
        self, orders: Any, dropped: Any = MappingProxyType({}), names: Any = None
    ) -> SearchSpace:
        """The default space, or that of the named approximations, which then has no refitting."""
        sites, way = list(self.sites.values()), "none" if names else "least_squares"
        return SearchSpace(sites, orders, names=names, compensation=way, dropped=dropped)

    @cached_property
    def levels(self) -> Problem:
        """The problem of a sampler in the default space; the cost of it is kept in ``facts``."""
        before, started = self.evaluator.examples_forwarded, time.perf_counter()
        made = prepare(self.evaluator, self.space, machine_name(), objectives=OBJECTIVES, limits={})
        self.table = self.evaluator.table
        levels = int((made.levels - 1).sum())
        sample = len(calibration_sample(self.task.calibration))
        # Every model is counted in full, although most of its layers are not run again.
        self.facts["damage_examples"] = (1 + levels + len(made.neighbours)) * sample
        if self.evaluator.examples_forwarded > before:  # else it was kept from an earlier run
            self.facts["calibration_seconds"] = time.perf_counter() - started
        return made

    def masks(self, epsilon: float | None) -> Problem:
        """The problem of AxFormer's greedy search; its latency table is that of its own space."""
        return prepare(
            self.evaluator,
            partial(self.space, names=samplers()["axformer"].approximations),
            machine_name(),
            objectives=OBJECTIVES,
            limits={},
            epsilon=epsilon,
            calibrated=False,
        )

    def latency(self, recipe: Recipe) -> float:
        """The ratio by the table, interpolated between its shapes."""
        ratio = self.evaluator.predicted_ratio(recipe)
        assert ratio is not None
        return ratio

    def run(self, run: Run) -> dict[str, Any]:
        """Accuracy, latency and the sampler's seconds of every trial."""
        _ = self.levels
        self.evaluator.table = self.table
        recipes = self._kwon(run) if run.contender == "kwon" else self._optuna(run)
        rows = [
            {"accuracy": accuracy, "latency": latency, "sampler_seconds": seconds}
            for accuracy, latency, seconds in recipes
        ]
        return {"contender": run.contender, "seed": run.seed, "trials": rows}

    def _kwon(self, run: Run) -> Iterator[tuple[float, float, float]]:
        slopes = gate_slopes(Base(self.task.model), self.task.calibration, self.task.kind)
        length = float(np.mean(self.task.search.lengths))
        for share in shares(run.trials):
            started = time.perf_counter()
            recipe = allocate(self.sites, slopes, share, length, "least_squares")
            seconds = time.perf_counter() - started
            value = self.evaluator.accuracy(recipe, self.task.search).value
            yield value, self.latency(recipe), seconds

    def _optuna(self, run: Run) -> list[tuple[float, float, float]]:
        problem, sampler, first = self._sampler(run)
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        for genome in first:
            study.enqueue_trial(genome)
        rows: list[tuple[float, float, float]] = []
        evaluating, found = 0.0, (0.0, 0.0)

        def objective(trial: optuna.Trial) -> tuple[float, float]:
            nonlocal evaluating, found
            genome = {
                name: trial.suggest_int(name, d.low, d.high)
                for name, d in problem.space.distributions().items()
            }
            started = time.perf_counter()
            recipe = problem.space.recipe(genome)
            value = self.evaluator.accuracy(recipe, self.task.search).value
            losses, base = self.evaluator.losses(recipe), self.evaluator.losses(EXACT)
            trial.set_user_attr(MEAN_LOSS_ATTR, float(losses.mean(dtype=np.float64)))
            trial.set_user_attr(NOT_WORSE_ATTR, float((losses <= base).mean()))
            trial.set_user_attr(DIVERGENCE_ATTR, divergence_of_losses(losses, base))
            found = value, self.latency(recipe)
            evaluating = time.perf_counter() - started
            return found

        for _ in range(run.trials):
            if finished(sampler, study):
                break
            started = time.perf_counter()
            study.optimize(objective, n_trials=1)
            rows.append((*found, time.perf_counter() - started - evaluating))
        return rows

    def _sampler(self, run: Run) -> tuple[Problem, Any, list[dict[str, int]]]:
        name, _, how = run.contender.partition(", ")
        if name == "axformer":
            problem = self.masks(float(how.split(" ")[1]) if how else None)
            return problem, build_sampler(name, problem, run.seed), [problem.space.exact()]
        problem = self.levels
        exact, warm = [problem.space.exact()], warm_start(problem)
        if run.contender in PARTS:
            return problem, AutoSampler(problem, run.seed, PARTS[run.contender]), warm
        if run.contender == "auto, no warm start":
            return problem, AutoSampler(problem, run.seed), exact
        if name == "warm start":
            return problem, build_sampler("tpe", problem, run.seed), warm
        return problem, build_sampler(name, problem, run.seed), []  # as Optuna's users have them


_BENCH: list[Bench] = []


def _begin(options: argparse.Namespace) -> None:
    _BENCH.append(Bench(options))


def _work(run: Run) -> dict[str, Any]:
    return _BENCH[0].run(run)


def facts_of(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """The facts that all runs share, and the cost of calibration."""
    task = bench.task
    problem = bench.levels
    bench.masks(None)  # its table is measured here, while nothing else runs
    base = bench.evaluator.accuracy(EXACT, task.search)
    started = time.perf_counter()
    bench.evaluator.predictor.predict(task.model, task.search)
    return {
        "model": task.model_fingerprint, "search": task.search.fingerprint,
        "examples": len(task.search), "calibration_examples": len(task.calibration),
        "metric": task.metric, "base_accuracy": base.value, "trivial": problem.trivial,
        "base_seconds": time.perf_counter() - started, "threads": options.threads,
        "levels": {d.name: list(d.levels) for d in problem.space.dimensions}, **bench.facts,
    }  # fmt: skip


def main() -> None:
    """Make the runs that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a fine-tuned model")
    parser.add_argument("data", help="its data: a folder or a hub dataset")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--cache", type=Path, default=Path("samplers.db"), help="evaluations")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="of the search split")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument("--timed-threads", type=int, default=2, help="that latency is measured for")
    parser.add_argument("--only", default="", help="contenders, with semicolons between")
    parser.add_argument("--few", type=int, default=FEW)
    parser.add_argument("--many", type=int, default=MANY)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / "samplers.json"
    stored = json.loads(target.read_text()) if target.exists() else None
    if stored is None:
        stored = {"facts": facts_of(Bench(options), options), "runs": []}
    done = {(run["contender"], run["seed"]) for run in stored["runs"]}
    limits = {FEW: options.few, MANY: options.many, STEPS: min(STEPS, options.many)}
    only = [name for name in options.only.split(";") if name]
    todo = [
        replace(run, trials=limits[run.trials])
        for run in wanted(options.seeds)
        if (run.contender, run.seed) not in done and (not only or run.contender in only)
    ]

    def keep(*results: dict[str, Any]) -> None:
        stored["runs"].extend(results)
        lines = ",\n".join(json.dumps(run) for run in stored["runs"])
        facts = json.dumps(stored["facts"], indent=1)
        target.write_text(f'{{"facts": {facts},\n"runs": [\n{lines}\n]}}\n')

    keep()  # what calibration took is known once only
    if todo:
        with (
            ProcessPoolExecutor(options.workers, initializer=_begin, initargs=(options,)) as pool,
            Progress() as progress,
        ):
            bar = progress.add_task("searching", total=len(todo))
            futures = [pool.submit(_work, run) for run in todo]
            try:
                for future in as_completed(futures):
                    keep(future.result())
                    progress.advance(bar)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    write_results(stored, options.out)


if __name__ == "__main__":
    main()
