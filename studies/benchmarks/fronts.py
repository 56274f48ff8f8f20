"""What whole studies reach on the holdout split: with today's defaults, and with older ones.

Each variant is searched with several seeds; as in every search its front is timed on whole models,
and polished where it was refitted sequentially. At every latency the member counts that the search
split shows as the best, so that nothing is chosen on the holdout split. For the demo's model:

    make demo
    python studies/benchmarks/fronts.py .cache/movie_reviews/base .cache/movie_reviews/data

It writes fronts_NAME.json, and keeps its studies in a database: what is there is not searched
again, and its seconds are then none of a search. ``most`` is what a front would have that gives the
base's accuracy in no time.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import track

from axsearch import Study, Task, search
from axsearch.running.holdout import evaluate_front
from axsearch.study.tables import Tables

DROP = 0.010
OLD = {"compensation": "least_squares", "approximations": ("heads", "ffn", "topk")}
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults, 50 trials": {"trials": 50},
    "defaults, 15 trials": {"trials": 15},
    "least squares without one_token, 50 trials": {"trials": 50, **OLD},
}


class Point(NamedTuple):
    """A member of a front.

    Attributes:
        latency: as a share of the base's, measured on whole models.
        seen: accuracy on the search split.
        holdout: accuracy on the holdout split.
    """

    latency: float
    seen: float
    holdout: float


def stairs(points: Sequence[Point]) -> list[Point]:
    """Those that are better on the search split than all that are faster, fastest first."""
    found: list[Point] = []
    for point in sorted(points, key=lambda one: (one.latency, -one.seen)):
        if not found or point.seen > found[-1].seen:
            found.append(point)
    return found


def volume(points: Sequence[Point], trivial: float) -> float:
    """The mean, over latencies from 0 to 1, of holdout accuracy above ``trivial``."""
    steps = [point for point in stairs(points) if point.latency < 1]
    ends = [*(point.latency for point in steps[1:]), 1.0][: len(steps)]
    return sum(
        (end - point.latency) * (point.holdout - trivial)
        for point, end in zip(steps, ends, strict=True)
    )


def measured(study: Study) -> list[Point]:
    """The front of a study, on both splits."""
    evaluate_front(study)
    members = study.front()
    holdout = study.holdout(members)
    return [
        Point(one.latency_ratio or 1.0, one.accuracy, holdout[one.trial].value)
        for one in members
        if one.trial is not None
    ]


def run(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One study, and what its front is on the holdout split."""
    began = time.perf_counter()
    study = search(
        options.model, options.data, storage=f"sqlite:///{options.cache}",
        study=f"{name}, seed {seed}", threads=options.threads,
        **{**VARIANTS[name], "trials": min(VARIANTS[name]["trials"], options.most)},
        seed=seed,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    points, trivial = measured(study), Tables(study).trivial
    base, seen = study.holdout([study.baseline])[study.baseline.trial or 0].value, study.baseline
    study.database.close()
    assert trivial is not None
    kept = [point for point in points if seen.accuracy - point.seen <= DROP + 1e-9]
    fastest = min(kept, key=lambda point: point.latency, default=None)
    return {
        "variant": name, "seed": seed, "volume": round(volume(points, trivial), 4),
        "most": round(base - trivial, 4),
        "seen_within_0.010": fastest and round(fastest.latency, 4),
        "its_holdout_drop": fastest and round(base - fastest.holdout, 4),
        "base": base, "trivial": trivial, "seconds": round(seconds, 1),
        "front": [[round(value, 4) for value in point] for point in sorted(points)],
    }  # fmt: skip


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean volumes, and their ratios to the old defaults, paired by seeds.

    A seed of which the old defaults found nothing faster than the base has no ratio.
    """
    found: dict[str, Any] = {}
    old = {row["seed"]: row["volume"] for row in rows if row["variant"] == [*VARIANTS][-1]}
    for name in VARIANTS:
        own = {row["seed"]: row["volume"] for row in rows if row["variant"] == name}
        if own:
            ratios = [own[seed] / old[seed] for seed in own if old.get(seed)]
            found[name] = {
                "seeds": len(own), "volume": round(float(np.mean([*own.values()])), 4),
                "of_old": [round(value, 3) for value in ratios],
                "of_old_mean": round(float(np.mean(ratios)), 3) if ratios else None,
            }  # fmt: skip
    return found


def main() -> None:
    """Make the runs that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a fine-tuned model")
    parser.add_argument("data", help="its data: a folder or a hub dataset")
    parser.add_argument("--name", default="movie_reviews")
    parser.add_argument("--cache", type=Path, help="database; .cache/fronts_NAME.db by default")
    parser.add_argument("--variants", nargs="+", default=[*VARIANTS])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--most", type=int, default=10**6, help="trials of a study")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.cache = options.cache or Path(f".cache/fronts_{options.name}.db")
    for folder in (options.out, options.cache.parent):
        folder.mkdir(parents=True, exist_ok=True)
    target = options.out / f"fronts_{options.name}.json"
    task = Task.load(options.model, options.data)
    facts = {"model": task.model_fingerprint, "threads": options.threads, "most": options.most}
    found = json.loads(target.read_text()) if target.exists() else {}
    rows = found["rows"] if found.get("facts") == facts else []
    known = {(row["variant"], row["seed"]) for row in rows}
    todo = [(name, seed) for seed in range(options.seeds) for name in options.variants]
    for name, seed in track([one for one in todo if one not in known], description="searching"):
        rows.append(run(name, seed, options))
        lines = ",\n".join(json.dumps(row) for row in rows)
        text = json.dumps(summary(rows), indent=1)
        head = f'{{"facts": {json.dumps(facts)},\n"summary": {text},\n"rows": [\n'
        target.write_text(f"{head}{lines}\n]}}\n")


if __name__ == "__main__":
    main()
