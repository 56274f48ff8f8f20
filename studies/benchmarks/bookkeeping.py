"""The time of sampler and storage per trial, on SQLite on disk, up to trial 1,000.

The objective is a formula that takes no time, so a trial consists of Optuna's loop, the sampler
`auto`, and the database with a heartbeat, four user attributes and two constraints per trial.

    python studies/benchmarks/bookkeeping.py

It writes bookkeeping.json.
"""

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from rich.progress import track

from axsearch.approximations.choices import Kept
from axsearch.approximations.site import Axis, Site, SiteId, Units
from axsearch.samplers import build_sampler
from axsearch.samplers.warm_start import warm_start
from axsearch.space.genome import SearchSpace
from axsearch.space.problem import Cost, Problem
from axsearch.space.recipe import Recipe
from axsearch.store.attributes import DIVERGENCE_ATTR
from axsearch.store.database import open_database

UNITS = {"attention": 12, "ffn": 3072}
NAMES = {"attention": "heads", "ffn": "ffn"}
SHOWN = 100


def made_up(layers: int) -> Problem:
    """Random damage that rises from level to level; costs in proportion to what is kept."""
    sites = [
        Site(
            SiteId(layer, kind),
            Units(count, 1, axes=(), whole=(), output=Axis("output", 1), bias=None),
            unit_parameters=10,
            length=128,
        )
        for layer in range(layers)
        for kind, count in UNITS.items()
    ]
    space = SearchSpace(sites, {site.id: range(site.count) for site in sites})
    random = np.random.default_rng(0)
    damage = {
        d.name: np.append(0.0, random.exponential(0.1 / layers, len(d.levels) - 1).cumsum())
        for d in space.dimensions
    }

    def share(recipe: Recipe, layer: int) -> float:
        found = 0.0
        for kind, part in (("attention", 0.3), ("ffn", 0.6)):
            choice = recipe.at(layer, kind).get(NAMES[kind])
            found += part * (len(choice.kept) / choice.of if isinstance(choice, Kept) else 1.0)
        return found / layers

    costs = {"latency": Cost(0.1, share), "size": Cost(0.1, share)}
    return Problem(space, ("accuracy", "latency", "size"), costs, damage, trivial=0.5)


def milliseconds(layers: int, trials: int) -> list[float]:
    """Of each trial."""
    problem = made_up(layers)
    random = np.random.default_rng(1)
    factors = np.exp(random.normal(0, 0.5, len(problem.levels)))
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        storage = open_database(f"sqlite:///{folder}/studies.db", create=True).storage
        study = optuna.create_study(
            storage=storage,
            directions=["maximize", "minimize", "minimize"],
            sampler=build_sampler("auto", problem, 0),
        )
        for genome in warm_start(problem):
            study.enqueue_trial(genome)
        distributions = problem.space.distributions()

        def objective(trial: optuna.Trial) -> tuple[float, float, float]:
            genome = {
                name: trial.suggest_int(name, d.low, d.high) for name, d in distributions.items()
            }
            row = problem.array(genome)[None]
            damage = float((problem.damages(row) * factors).sum())
            for name in ("recipe", "measurement", "mean_loss"):
                trial.set_user_attr(name, "x" * 200)
            trial.set_user_attr(DIVERGENCE_ATTR, damage)
            for name in ("max_latency_ratio", "max_size_ratio"):
                trial.set_constraint(name, -1.0)
            costs = (float(problem.cost(name, row)[0]) for name in ("latency", "size"))
            return 0.5 + 0.4 * float(np.exp(-damage / 0.4)), *costs

        for _ in track(range(trials), description=f"{layers} layers"):
            started = time.perf_counter()
            study.optimize(objective, n_trials=1)
            times.append((time.perf_counter() - started) * 1e3)
    return times


def main() -> None:
    """Run both sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1050)
    parser.add_argument("--layers", type=int, nargs="+", default=[6, 24])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    found: dict[str, dict[str, Any]] = {}
    for layers in options.layers:
        times = np.array(milliseconds(layers, options.trials))
        last = times[-SHOWN:]
        found[str(layers)] = {
            "parameters": len(made_up(layers).levels), "trials": options.trials,
            "mean_ms": float(times.mean()), "last_mean_ms": float(last.mean()),
            "last_median_ms": float(np.median(last)),
        }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "bookkeeping.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
