"""How well the latency table predicts whole models, and how long it takes to measure.

The table is measured once, then random models of the search space are timed in turn with the base.
For the demo's model:

    make demo
    python studies/benchmarks/latency_table.py .cache/movie_reviews/base .cache/movie_reviews/data

It writes latency_table.json.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from scipy.stats import spearmanr
from sqlalchemy import create_engine

from axsearch import Evaluator, Task, shrink
from axsearch.calibration.block_timing import measure_latency_table
from axsearch.calibration.costs import slower_levels
from axsearch.evaluation.latency import measure_latency
from axsearch.models.base_model import Base
from axsearch.runtimes import open_session
from axsearch.space.genome import SearchSpace
from axsearch.space.scenario import Scenario

MODELS = 30
PAIRS = 15


def main() -> None:
    """Measure the table, then the models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a fine-tuned model")
    parser.add_argument("data", help="its data: a folder or a hub dataset")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--models", type=int, default=MODELS)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=None, help="for the table's rounds")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = Task.load(options.model, options.data)
    scenario = Scenario(threads=options.threads)
    evaluator = Evaluator(task, create_engine("sqlite://"), scenario)
    batches, _ = evaluator.workload
    sites = Base(task.model, task.longest).sites
    orders = {site_id: range(site.units.count) for site_id, site in sites.items()}
    space = SearchSpace(list(sites.values()), orders)
    limit = {} if options.seconds is None else {"seconds": options.seconds}
    started = time.perf_counter()
    table = measure_latency_table(Base(task.model), space, batches, scenario, **limit)
    seconds = time.perf_counter() - started
    random = np.random.default_rng(1)
    rows = []
    for _ in track(range(options.models), description="timing whole models"):
        # Models of every size: the share of dimensions that are not exact is drawn as well.
        busy = random.random()
        genome = {
            d.name: int(random.integers(len(d.levels)) if random.random() < busy else 0)
            for d in space.dimensions
        }
        recipe = space.recipe(genome)
        small = shrink(task.model, recipe)
        with open_session(task.model, scenario) as base, open_session(small, scenario) as session:
            measured = measure_latency(base, session, batches, pairs=options.pairs)
        rows.append({"predicted": table.ratio(recipe), "measured": measured.ratio})
    predicted, measured_ratios = (np.array([r[k] for r in rows]) for k in ("predicted", "measured"))
    errors = np.abs(predicted / measured_ratios - 1)
    facts = {
        "seconds": seconds,
        "rounds": table.rounds,
        "shapes": len(table.blocks),
        "own_error": table.error,
        "mean_absolute_error": float(errors.mean()),
        "worst_error": float(errors.max()),
        "spearman": float(spearmanr(predicted, measured_ratios).statistic),
        "scenario": scenario.to_dict(),
        "left_out": {name: list(levels) for name, levels in slower_levels(space, table).items()},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    result = {"facts": facts, "blocks": table.blocks, "models": rows}
    (options.out / "latency_table.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
