"""Whether searching in a runtime pays, or a ranking of PyTorch's study for it does as well.

For each seed one study is searched in PyTorch's float32 and ranked for the runtime by what
``axsearch remeasure`` does, and another one is searched in the runtime from its first trial. Both
fronts are timed and evaluated as the runtime serves them, on the search and the holdout split. At
every latency the member counts that the search split shows as the best. Models are refitted by
least squares: polishing sequential ones takes most of a study's time, and is the same for both.
For the demo's model:

    make demo
    python studies/benchmarks/ranked.py .cache/movie_reviews/base .cache/movie_reviews/data

It writes ranked_RUNTIME_PRECISION.json, and keeps its studies in a database, which it goes on from.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from fronts import Point, volume
from rich.progress import track

from axsearch import Study, remeasure, search
from axsearch.running.holdout import evaluate_front
from axsearch.study.rankings import ranked
from axsearch.study.tables import Tables


def points_of(study: Study) -> list[Point]:
    """The front as the study's runtime serves it, on both splits."""
    evaluate_front(study)
    members = study.front()
    holdout = study.holdout(members)
    return [
        Point(one.latency_ratio or 1.0, one.accuracy, holdout[one.trial or 0].value)
        for one in members
    ]


def run(seed: int, options: argparse.Namespace) -> dict[str, object]:
    """Both studies of a seed."""
    served = {"runtime": options.runtime, "precision": options.precision}
    storage, seconds = f"sqlite:///{options.cache}", {}

    def searched(name: str, **more: str) -> Study:
        began = time.perf_counter()
        study = search(
            options.model, options.data, storage=storage, study=f"{name}, seed {seed}", seed=seed,
            trials=options.trials, threads=options.threads, compensation="least_squares", **more,
        )  # fmt: skip
        seconds[name] = round(time.perf_counter() - began, 1)
        return study

    theirs = searched("in PyTorch")
    began = time.perf_counter()
    remeasure(theirs, **served)
    seconds["ranking"] = round(time.perf_counter() - began, 1)
    theirs.refresh()
    ours = searched(f"in {options.runtime} {options.precision}", **served)
    trivial = Tables(ours).trivial
    assert trivial is not None
    fronts = {"ranked": points_of(ranked(theirs, **served)), "searched": points_of(ours)}
    found = {
        name: {
            "search": round(volume([p._replace(holdout=p.seen) for p in points], trivial), 4),
            "holdout": round(volume(points, trivial), 4),
            "front": [[round(value, 4) for value in point] for point in sorted(points)],
        }
        for name, points in fronts.items()
    }
    for study in (theirs, ours):
        study.database.close()
    return {"seed": seed, "seconds": seconds, **found}


def main() -> None:
    """Search, rank and compare, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a fine-tuned model")
    parser.add_argument("data", help="its data: a folder or a hub dataset")
    parser.add_argument("--runtime", default="openvino")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--cache", type=Path, default=Path(".cache/ranked.db"), help="database")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for folder in (options.out, options.cache.parent):
        folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in track(range(options.seeds), description="searching"):
        rows.append(run(seed, options))
        ratios = {
            split: [round(row["searched"][split] / row["ranked"][split], 4) for row in rows]
            for split in ("search", "holdout")
        }
        result = {
            "facts": {"trials": options.trials, "threads": options.threads},
            "searched_over_ranked": ratios,
            "means": {split: round(float(np.mean(own)), 4) for split, own in ratios.items()},
            "rows": rows,
        }
        target = options.out / f"ranked_{options.runtime}_{options.precision}.json"
        target.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: result[name] for name in ("searched_over_ranked", "means")}, indent=1))


if __name__ == "__main__":
    main()
