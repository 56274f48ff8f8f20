"""The cost of evaluating the recipes of a search, and the cost of doing it the plain way.

A study of axsearch is replayed, trial by trial, three times in turn: twice as axsearch evaluates
(slicing, weights refit once for each level of a block, by the calibration before the first trial,
length buckets made once, layers run before not run again, a trial written in one transaction), in
bfloat16 and in float32; and once plainly (weights refit, the model copied, every batch padded to
its longest example in the order of the data, all layers run in float32, each parameter of a trial
committed by itself). Then the trials are replayed in stages, to count the examples that would have
been run and the hypervolume that would have been kept. For the demo's model:

    make demo
    python studies/benchmarks/evaluation.py .cache/movie_reviews/base .cache/movie_reviews/data

It runs the study if there is none, and writes evaluation.json.
"""

import argparse
import copy
import json
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.storages import BaseStorage, RDBStorage
from rich.progress import track

from axsearch import Evaluator, Recipe, Study, Task, search
from axsearch.approximations.modeling import apply_choices
from axsearch.evaluation.stages import STANDARD_ERRORS, Stages, worth
from axsearch.models.base_model import Base
from axsearch.models.refit.compensation import Moments
from axsearch.models.surgery import halves_of
from axsearch.models.weights import ClosedForm
from axsearch.statistics.metrics import value
from axsearch.statistics.outcome import Outcome
from axsearch.statistics.pareto import front, hypervolume
from axsearch.store.database import open_database

BATCH = 64


def plain_accuracy(task: Task, recipe: Recipe, state: dict[str, Any]) -> float:
    """Copy the base, insert the recipe's weights, and run the data in their order."""
    model = copy.deepcopy(task.model)
    family, layers = task.base.family, task.base.plan(recipe).layers
    family.set_layers(model, layers)
    apply_choices(model, recipe.to_dict()["sites"], layers, family.layout, halves_of(recipe))
    model.load_state_dict(state)
    model.eval()
    answers: list[Any] = []
    with torch.no_grad():
        for start in range(0, len(task.search), BATCH):
            rows = np.arange(start, min(start + BATCH, len(task.search)))
            logits = task.kind.logits(model(**task.search.collate(rows)))
            answers += task.kind.decode(logits, task.search, rows)
    outcome = task.kind.outcome(task.metric, task.search, answers)
    return float(outcome.values.mean())


def refit_all(evaluator: Evaluator, recipes: Sequence[Recipe]) -> None:
    """Refit the weights of each block's choice, as measuring its damage does."""
    for site, choices in {pair for recipe in recipes for pair in recipe.sites}:
        evaluator.weights.shrink(Recipe.of({site: dict(choices)}, "least_squares"))


def record(storage: BaseStorage, params: dict[str, int], levels: dict[str, int]) -> None:
    """Write a trial as a sampler and a worker would."""
    study = optuna.create_study(
        study_name="replayed", storage=storage, directions=["maximize"], load_if_exists=True
    )
    study.enqueue_trial(params)
    trial = study.ask()
    for name, most in levels.items():
        trial.suggest_int(name, 0, most)
    trial.set_user_attr("recipe", "of this trial")
    study.tell(trial, 0.0)


def staged(
    stages: Stages, outcomes: Sequence[Outcome], costs: np.ndarray[Any, Any], trivial: float
) -> tuple[float, list[int]]:
    """The share of examples that a staged search would have run, and the trials it kept."""
    kept: list[int] = []
    accuracy = np.array([value(outcome) for outcome in outcomes])
    seen_examples = 0
    for number, outcome in enumerate(outcomes):
        points = [(-accuracy[i], *costs[i]) for i in kept]
        members = [kept[i] for i in front(points)]
        cheaper = [accuracy[i] for i in members if (costs[i] <= costs[number]).all()]
        least = max(cheaper, default=trivial)
        needed = worth(least, costs[number], accuracy[members], costs[members], trivial)
        for stage in range(len(stages.parts)):
            seen = stages.seen(stage)
            if number == 0 or stage == len(stages.parts) - 1:
                seen_examples += len(outcome)
                kept.append(number)
                break
            ours = Outcome(outcome.statistic, outcome.values[seen])
            found, error = stages.estimate(ours, stage, [outcomes[i] for i in (0, *members)])
            if found + STANDARD_ERRORS * error < needed:
                seen_examples += len(seen)
                break
    return seen_examples / sum(map(len, outcomes)), kept


def replay(study: Study, task: Task, recipes: list[Recipe]) -> dict[str, Any]:
    """The cost of a study's first trials in each way, and whether the results were the same."""
    trials = study.optuna.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    levels = {n: d.high for n, d in trials[0].distributions.items()}
    times: dict[str, list[float]] = {"bfloat16": [], "float32": [], "plain": []}
    different = dict.fromkeys(("bfloat16", "float32"), 0)
    with tempfile.TemporaryDirectory() as folder:
        databases = {
            dtype: open_database(f"sqlite:///{folder}/{dtype}.db", create=True)
            for dtype in different
        }
        ours = {
            dtype: Evaluator(task, databases[dtype].engine, None, dtype=dtype)
            for dtype in different
        }
        for evaluator in ours.values():
            refit_all(evaluator, recipes)
        moments = ours["float32"].moments
        plainly = RDBStorage(f"sqlite:///{folder}/plain.db")
        for trial, recipe in track(
            list(zip(trials, recipes, strict=False)), description="replaying"
        ):
            values = {}
            for dtype, evaluator in ours.items():
                started = time.perf_counter()
                values[dtype] = evaluator.accuracy(recipe, task.search).value
                record(databases[dtype].storage, trial.params, levels)
                times[dtype].append(time.perf_counter() - started)
            started = time.perf_counter()
            anew = Moments(moments.mean, moments.covariance)  # that refits every time
            state = ClosedForm(Base(task.model), anew).state(recipe)
            other = plain_accuracy(task, recipe, state)
            record(plainly, trial.params, levels)
            times["plain"].append(time.perf_counter() - started)
            for dtype in different:
                different[dtype] += values[dtype] != other
        passes = {
            dtype: evaluator.examples_forwarded / (len(recipes) * len(task.search))
            for dtype, evaluator in ours.items()
        }
    seconds = {way: float(np.sum(own)) for way, own in times.items()}
    return {
        "recipes": len(recipes), "seconds": seconds,
        "ratio": {dtype: seconds[dtype] / seconds["plain"] for dtype in different},
        "different_accuracies": different, "passes": passes,
    }  # fmt: skip


def main() -> None:
    """Run the study if it does not exist, and replay it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a fine-tuned model")
    parser.add_argument("data", help="its data: a folder or a hub dataset")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--storage", default="sqlite:///evaluation.db", help="of the study")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--timed", type=int, default=50, help="the first trials, timed either way")
    parser.add_argument("--sampler", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", "Heartbeat of storage")  # trials are told, not optimised
    study: Study = search(
        options.model, options.data, storage=options.storage, study=f"replay {options.sampler}",
        trials=options.trials, sampler=options.sampler, staged=False, compensation="least_squares",
    )  # fmt: skip
    task = Task.load(options.model, options.data)
    measurements = study.measurements[: options.trials]  # it may have more by now
    recipes = [Recipe.from_dict(m.recipe) for m in measurements]
    evaluator = Evaluator(task, study.database.engine, None, dtype="bfloat16")
    outcomes = [evaluator.accuracy(recipe, task.search).outcome for recipe in recipes]
    costs = np.array(
        [[m.objective_latency or 1.0, m.size_ratio] for m in measurements], dtype=float
    )
    trivial = task.kind.trivial(task.metric, task.calibration, task.search)
    share, kept = staged(evaluator.stages, outcomes, costs, trivial)
    accuracy = np.array([value(outcome) for outcome in outcomes])
    volumes = [hypervolume(costs[i], accuracy[i], trivial) for i in (range(len(costs)), kept)]
    result: dict[str, Any] = {
        "examples": len(task.search), "threads": options.threads, "trials": len(recipes),
        "staged": {
            "examples": share, "kept": len(kept), "hypervolume": volumes[1] / volumes[0],
        },
    }  # fmt: skip
    if options.timed:
        result["timed"] = replay(study, task, recipes[: options.timed])
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / "evaluation.json"
    stored = json.loads(target.read_text()) if target.exists() else {}
    stored[f"{options.sampler}, {options.trials} trials"] = result
    target.write_text(json.dumps(stored, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
