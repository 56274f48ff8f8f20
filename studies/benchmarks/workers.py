"""Two workers of one thread against one worker of two threads, on a fixed study of the demo's task.

The same random recipes, with ``least_squares``, wait in a study, and ``axsearch worker`` finishes
them, without stages: whole runs of the command are timed, in turn, each on its own copy of the
database. The time includes the start of the processes, loading model and data, and timing the front
at the end. For evaluations alone, the limit of the ratio is half of a second thread's speed-up:
0.92 if that is 1.85.

    make demo
    python studies/benchmarks/workers.py .cache/movie_reviews/base .cache/movie_reviews/data

It writes workers.json.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sqlalchemy import text

from axsearch import search
from axsearch.evaluation.evaluator import Evaluator
from axsearch.evaluation.loading import load_task
from axsearch.running.session import problem_of
from axsearch.space.recipe import Recipe
from axsearch.store.database import open_database
from axsearch.store.studies import ask_for
from axsearch.study.spec import StoredSettings
from axsearch.study.study import Study

NAME = "fixed"
WAYS = {"two of one thread": (2, 1), "one of two threads": (1, 2)}


def prepare(url: str, model: str, data: str, count: int) -> None:
    """Make a study in which this many random recipes wait."""
    made = search(
        model, data, storage=url, study=NAME, trials=1, sampler="random", staged=False,
        compensation="least_squares",
    )  # fmt: skip
    made.database.close()  # or what is not in its file yet would not be copied
    database = open_database(url)
    study = Study.of(database, NAME)
    spec, (_, settings) = study.spec, study.asked
    task = load_task(spec)
    evaluator = Evaluator(
        task, database.engine, spec.scenario, spec.device, spec.dtype, machine=spec.machine
    )
    space = problem_of(evaluator, spec, settings).space
    draw, waiting = np.random.default_rng(0), 0
    while waiting < count:
        genome = {
            name: int(draw.integers(kind.low, kind.high + 1))
            for name, kind in space.distributions().items()
        }
        claim = database.storage.enqueue(study.id, space.recipe(genome), genome)
        waiting += claim.state == "own"
    ask_for(database.engine, NAME, count + 1, StoredSettings.of(settings).model_dump(mode="json"))
    database.close()


def run(url: str, workers: int, threads: int) -> dict[str, float]:
    """Seconds of the command, and of an evaluation within it."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "axsearch", "worker", "--storage", url, "--study", NAME,
         "--workers", str(workers), "--cpus-per-worker", str(threads)],
        check=True, capture_output=True,
    )  # fmt: skip
    took = time.perf_counter() - began
    database = open_database(url)
    with database.engine.connect() as connection:
        rows = connection.execute(text("SELECT recipe, seconds FROM ax_trials WHERE finished"))
        each = {row.recipe: row.seconds for row in rows}
    database.close()
    each.pop(Recipe.of({}).hash)
    return {
        "seconds": took,
        "recipes": len(each),
        "seconds_a_recipe": float(np.mean([*each.values()])),
    }


def main() -> None:
    """Time both ways in turn and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the base, a folder")
    parser.add_argument("data", help="its data, a folder")
    parser.add_argument("--recipes", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "workers.json"
    )
    given = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.db"
        prepare(f"sqlite:///{prepared}", given.model, given.data, given.recipes)
        for number in range(given.rounds):
            order = list(WAYS.items())
            for name, way in order if number % 2 == 0 else order[::-1]:
                copy = Path(folder) / "copy.db"
                shutil.copy(prepared, copy)
                found[name].append(run(f"sqlite:///{copy}", *way))
                print(name, found[name][-1])
    two, one = (np.array([each["seconds"] for each in found[name]]) for name in WAYS)
    results = {
        "machine": platform.machine(),
        "recipes": given.recipes,
        "ratio": float(np.median(two / one)),
        "ratios": (two / one).tolist(),
        "runs": found,
    }
    given.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps({"ratio of seconds, two workers to one": results["ratio"]}))


if __name__ == "__main__":
    main()
