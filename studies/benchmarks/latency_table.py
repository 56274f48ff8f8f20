"""How well the latency table predicts whole models, and how long it takes to measure.

The table is measured once, then models are timed in turn with the base: random ones of the search
space, and those in which one kind of block has one size in all layers. For the demo's model:

    make demo
    python studies/benchmarks/latency_table.py .cache/movie_reviews/base .cache/movie_reviews/data

It writes latency_table.json (--name). What a busy machine makes of it, which levels a search would
keep, is the question of

    python studies/benchmarks/latency_table.py MODEL DATA --busy 2 --tables 10 \\
        --name latency_table_busy.json

and for a runtime that serves the model, of which whole models are timed:

    python studies/benchmarks/latency_table.py MODEL DATA --runtime onnxruntime --precision int8 \\
        --pairs 5 --name latency_table_onnxruntime_int8.json
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from scipy.stats import spearmanr
from sqlalchemy import create_engine

from axsearch import Evaluator, Task, shrink
from axsearch.approximations import approximations
from axsearch.approximations.site import SiteId
from axsearch.calibration.block_timing import measure_latency_table
from axsearch.calibration.costs import slower_levels
from axsearch.calibration.narrowed_layer import narrowed
from axsearch.calibration.timed_models import shapes
from axsearch.evaluation.latency import measure_latency
from axsearch.models.base_model import Base
from axsearch.runtimes import open_session, runtimes
from axsearch.space.genome import SearchSpace, supported
from axsearch.space.recipe import Recipe
from axsearch.space.scenario import Scenario

MODELS = 30
PAIRS = 15


def main() -> None:
    """Measure the table, then the models."""
    options = asked()
    torch.set_num_threads(options.threads)
    task = Task.load(options.model, options.data)
    scenario = Scenario(
        options.batch_size, options.length, options.threads,
        runtime=options.runtime, precision=options.precision,
    )  # fmt: skip
    evaluator = Evaluator(task, create_engine("sqlite://"), scenario)
    batches, _ = evaluator.workload
    base = Base(task.model, task.longest)
    sites = base.sites
    orders = {site_id: range(site.count) for site_id, site in sites.items()}
    every = approximations().values()
    kernels = runtimes()[options.runtime].kernels
    names = supported(
        [one.name for one in every if one.searched and (kernels or not one.kernel)],
        list(sites.values()),
    )
    space = SearchSpace(list(sites.values()), orders, names=names)
    limit = {} if options.seconds is None else {"seconds": options.seconds}

    def measured_table():
        started = time.perf_counter()
        table = measure_latency_table(base, space, batches, scenario, evaluator.examples, **limit)
        return table, time.perf_counter() - started

    if options.busy:
        with busy(options.busy):
            tables = [measured_table() for _ in track(range(options.tables))]
        write(options, {"busy": options.busy, "tables": [known(space, *one) for one in tables]})
        return
    table, seconds = measured_table()

    def timed(recipes, description):
        rows = []
        for recipe in track(recipes, description=description):
            recipe = narrowed(recipe, space)  # as a search's models are
            small = shrink(task.model, recipe)
            with (
                open_session(task.model, scenario, evaluator.examples) as one,
                open_session(small, scenario, evaluator.examples, lasting=False) as other,
            ):
                measured = measure_latency(one, other, batches, pairs=options.pairs)
            rows.append({"predicted": table.ratio(recipe), "measured": measured.ratio})
        return rows

    rows = timed(at_random(space, options.models), "timing random models")
    uniform = of_one_size(space)
    sizes = timed(list(uniform.values()), "timing models of one size")
    facts = {
        **known(space, table, seconds),
        "pairs": options.pairs,
        "shapes": len(table.blocks),
        **summary(rows),
        "of_one_size": summary(sizes),
        "scenario": scenario.to_dict(),
    }
    result = {"facts": facts, "blocks": table.blocks, "errors": table.errors, "models": rows}
    result["of_one_size"] = dict(zip(uniform, sizes, strict=True))
    write(options, result)
    print(json.dumps(facts, indent=1))


def known(space, table, seconds):
    """What a search learns from a table."""
    return {
        "seconds": seconds,
        "rounds": table.rounds,
        "own_error": table.error,
        "own_error_of_one_size": table.error_of_one_size,
        "left_out": {name: list(levels) for name, levels in slower_levels(space, table).items()},
    }


def write(options, result):
    """The result, as JSON."""
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / options.name).write_text(json.dumps(result, indent=1) + "\n")


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that never rest."""
    processes = [multiprocessing.Process(target=multiply, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()


def multiply() -> None:
    """Multiply matrices that do not fit into a cache, in one thread, until stopped."""
    torch.set_num_threads(1)
    one = torch.randn(1024, 1024)
    while True:
        torch.mm(one, one)


def asked() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a fine-tuned model")
    parser.add_argument("data", help="its data: a folder or a hub dataset")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--name", default="latency_table.json", help="of the file in that folder")
    parser.add_argument("--models", type=int, default=MODELS, help="random ones")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=None, help="in tokens; else the examples'")
    parser.add_argument("--runtime", default="torch")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--busy", type=int, default=0, help="processes beside it; nothing is timed")
    parser.add_argument("--tables", type=int, default=10, help="how many to measure beside those")
    parser.add_argument("--seconds", type=float, default=None, help="for the table's rounds")
    return parser.parse_args()


def at_random(space, count):
    """Models of every size: the share of dimensions that are not exact is drawn as well."""
    random = np.random.default_rng(1)
    found = []
    for _ in range(count):
        busy = random.random()
        genome = {
            d.name: int(random.integers(len(d.levels)) if random.random() < busy else 0)
            for d in space.dimensions
        }
        found.append(space.recipe(genome))
    return found


def of_one_size(space):
    """The models in which one kind of block has one shape in all layers, by the shape."""
    blocks = [site.id for site in space.sites if site.units is not None]
    kinds = {site.kind: site for site in blocks}
    layers = {site.layer for site in blocks}
    return {
        key: Recipe.of({SiteId(layer, kind): choices for layer in layers})
        for kind, site in kinds.items()
        for key, choices in list(shapes(space, site).items())[1:]
    }


def summary(rows):
    """How far predicted ratios are from measured ones."""
    predicted, measured = (np.array([r[k] for r in rows]) for k in ("predicted", "measured"))
    errors = np.abs(predicted / measured - 1)
    return {
        "mean_absolute_error": float(errors.mean()),
        "worst_error": float(errors.max()),
        "spearman": float(spearmanr(predicted, measured).statistic),
    }


if __name__ == "__main__":
    main()
