"""What a model picked for its drop loses on the holdout split, over several tasks and seeds.

A folder holds a folder for each task, with its `data` (JSON lines), and its `base` as `axsearch
finetune` writes it. Each task is searched with some hundred examples of its search split, drawn
anew for each seed, and the smallest model with a drop of at most 0.01 is picked in three ways: by
the drop that the search split shows, by the expected drop, and with a confidence of 0.9.

    python studies/benchmarks/promises.py FOLDER

It writes promises.json and .md, and keeps studies in FOLDER/TASK/promises.db: what is there is not
computed again.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from scipy import stats

from axsearch import Evaluator, Recipe, Study, UsageError, search
from axsearch.evaluation.loading import load_task
from axsearch.statistics.inference import paired_difference
from axsearch.statistics.measurement import Measurement
from axsearch.statistics.outcome import Outcome
from axsearch.study.choosing import ROUNDING, choose
from axsearch.study.settings import Limits

DROP, CONFIDENCE, FAR = 0.01, 0.9, 0.02
EXAMPLES = (300, 600, 1000)
"""How many examples the search has with the first seed, the second and so on, in turn."""

WAYS = {
    "seen": "at most 0.01 on the search split",
    "expected": "expected at most 0.01",
    "confident": "at most 0.01, confidence 0.9",
}


def subset(data: Path, seed: int, options: argparse.Namespace) -> Path:
    """A folder with the same data, but only so many examples for calibration and for the search."""
    examples = options.examples[seed % len(options.examples)]
    folder = data.parent / f"data-{seed}-{examples}"
    folder.mkdir(exist_ok=True)
    for name, wanted in (("train", options.train), ("validation", examples), ("test", None)):
        rows = (data / f"{name}.jsonl").read_text().splitlines(keepends=True)
        if name == "validation":
            drawn = np.random.default_rng(seed).permutation(len(rows))[:wanted]
            rows = [rows[row] for row in sorted(drawn)]
        (folder / f"{name}.jsonl").write_text("".join(rows[:wanted]))
    return folder


def searched(folder: Path, seed: int, options: argparse.Namespace) -> Study:
    """The study of a task with a seed; searched, where that was not done.

    Not by the options `search_examples` and `seed`: another seed would draw another calibration
    split, too, and calibration takes longer than the search.
    """
    data = subset(folder / "data", seed, options)
    storage = f"sqlite:///{folder}/promises.db"
    name = f"{folder.name}{data.name.removeprefix('data')}"
    with suppress(UsageError):  # there is no such study yet
        study = Study.open(storage, name)
        if len(study.optuna.get_trials(deepcopy=False)) >= options.trials:
            return study
    return search(
        str(folder / "base"),
        str(data),
        storage=storage,
        study=name,
        trials=options.trials,
        objectives=("accuracy", "size"),  # a latency table takes minutes, and changes no accuracy
        approximations=options.approximations,
        compensation="least_squares",  # which leaves nothing to be polished
    )


def picked(study: Study, way: str) -> Measurement | None:
    """The smallest model that keeps the limit; None where none can be promised to."""
    if way == "seen":
        return choose(study.front(), study.baseline, Limits(max_drop=DROP), {}, by="size")
    try:
        confidence = CONFIDENCE if way == "confident" else None
        return study.pick(max_drop=DROP, confidence=confidence, by="size")
    except UsageError:
        return None


def on_holdout(study: Study, recipes: Sequence[Recipe]) -> Mapping[str, Outcome]:
    """Outcomes on the holdout split by the hash of the recipe; what is stored is not computed."""
    known = study.outcomes(list(recipes), "holdout")
    if any(recipe.hash not in known for recipe in recipes):
        task = load_task(study.spec)
        evaluator = Evaluator(task, study.database.engine, None, study.spec.device)
        known = {recipe.hash: evaluator.accuracy(recipe, task.holdout) for recipe in recipes}
    return {recipe: found.outcome for recipe, found in known.items()}


def run(study: Study) -> dict[str, Any]:
    """What was picked of a study, and what it loses on the holdout split."""
    base, exact = study.baseline, Recipe.of({})
    members = {way: picked(study, way) for way in WAYS}
    recipes = {way: Recipe.from_dict(m.recipe) for way, m in members.items() if m is not None}
    outcomes = on_holdout(study, [exact, *recipes.values()])
    found: dict[str, Any] = {}
    for way, member in members.items():
        if member is None:
            found[way] = None
            continue
        change = paired_difference(outcomes[recipes[way].hash], outcomes[exact.hash])
        own = study.expected[member.trial or 0]
        found[way] = {
            "trial": member.trial,
            "size": member.size_ratio,
            "seen": base.accuracy - member.accuracy,
            "expected": own.drop,
            "error": own.error,
            "holdout": -change.value,
            "low": -change.high,
            "high": -change.low,
        }
    return {
        "examples": len(study.outcomes([exact])[exact.hash].outcome),
        "holdout_examples": len(outcomes[exact.hash]),
        "metric": study.spec.metric,
        "base": base.accuracy,
        "picked": found,
    }


def summary(rows: Sequence[dict[str, Any]], way: str) -> dict[str, Any]:
    """The drops on the holdout split of all runs that picked a model in a way.

    The interval of the mean is Student's over tasks: runs of one task have one holdout split.
    """
    own = [(row["task"], row["picked"][way]["holdout"]) for row in rows if row["picked"][way]]
    drops = np.array([drop for _, drop in own])
    tasks = list(dict.fromkeys(task for task, _ in own))
    means = [float(np.mean([drop for task, drop in own if task == one])) for one in tasks]
    ends: tuple[float | None, float | None] = (None, None)
    if len(means) > 1:
        reach = float(stats.t.ppf(0.975, len(means) - 1) * stats.sem(means))
        ends = (float(np.mean(means)) - reach, float(np.mean(means)) + reach)
    return {
        "runs": len(own),
        "of": len(rows),
        "mean": float(drops.mean()),
        "low": ends[0],
        "high": ends[1],
        "kept": float((drops <= DROP + ROUNDING).mean()),
        "far": float((drops > FAR + ROUNDING).mean()),
        "size": float(np.mean([row["picked"][way]["size"] for row in rows if row["picked"][way]])),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row for each way of picking, then one for each run."""
    text = [
        f"| picked by | runs | holdout drop, mean | 95 % over tasks | at most {DROP} | above {FAR} "
        "| size |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for way, words in WAYS.items():
        if not any(row["picked"][way] for row in rows):
            continue
        one = summary(rows, way)
        interval = "" if one["low"] is None else f"{one['low']:.4f} to {one['high']:.4f}"
        text.append(
            f"| {words} | {one['runs']} of {one['of']} | {one['mean']:.4f} | {interval} | "
            f"{one['kept']:.0%} | {one['far']:.0%} | {one['size']:.3f} |"
        )
    text += [
        "",
        "Each run, with drops on the search split, expected, and on the holdout split:",
        "",
        "| task | metric | seed | examples | picked by | trial | size | search | expected | "
        "holdout | 95 % |",
        "|---|---|--:|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        about = f"| {row['task']} | {row['metric']} | {row['seed']} | {row['examples']}"
        for way in WAYS:
            own = row["picked"][way]
            text.append(
                f"{about} | {way} | none | | | | | |"
                if own is None
                else f"{about} | {way} | {own['trial']} | {own['size']:.3f} | {own['seen']:.4f} | "
                f"{own['expected']:.4f} | {own['holdout']:.4f} | {own['low']:.4f} to "
                f"{own['high']:.4f} |"
            )
    return "\n".join(text) + "\n"


def main() -> None:
    """Make the runs that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder with a folder for each task")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--only", nargs="+", default=[], help="names of tasks")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--examples", type=int, nargs="+", default=EXAMPLES)
    parser.add_argument("--train", type=int, help="of the train split, all by default")
    parser.add_argument("--trials", type=int, default=26)
    parser.add_argument("--approximations", nargs="+", default=["heads", "ffn"])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / "promises.json"
    rows = json.loads(target.read_text())["runs"] if target.exists() else []
    known = {(row["task"], row["seed"]) for row in rows}
    folders = sorted(one.parent for one in options.folder.glob("*/base"))
    folders = [one for one in folders if not options.only or one.name in options.only]
    todo = [
        (folder, seed)
        for folder in folders
        for seed in range(options.seeds)
        if (folder.name, seed) not in known
    ]
    for folder, seed in track(todo, description="searching"):
        study = searched(folder, seed, options)
        about = {"task": folder.name, "seed": seed}
        settings = {"approximations": options.approximations, "train": options.train}
        rows.append({**about, **run(study), **settings})
        study.database.close()
        found = {way: summary(rows, way) for way in WAYS if any(r["picked"][way] for r in rows)}
        lines = ",\n".join(json.dumps(row) for row in rows)
        target.write_text(f'{{"summary": {json.dumps(found, indent=1)},\n"runs": [\n{lines}\n]}}\n')
        (options.out / "promises.md").write_text(table(rows))


if __name__ == "__main__":
    main()
