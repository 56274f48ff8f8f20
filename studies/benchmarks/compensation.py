"""How much of the accuracy lost by removing units compensation restores, without training.

Ten recipes for each share of the base's multiply-adds, drawn at random around the importance order,
each without compensation and with both kinds of it, on the holdout split. For the demo's model:

    make demo
    python studies/benchmarks/compensation.py .cache/movie_reviews/base .cache/movie_reviews/data

It writes compensation.json and .md; models that are already in the file are not evaluated again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from sqlalchemy import create_engine

from axsearch import Evaluator, Recipe, Task
from axsearch.approximations.choices import Kept
from axsearch.approximations.site import Site, SiteId
from axsearch.calibration.importance import Importance, fisher_importance
from axsearch.evaluation.accuracy import predict
from axsearch.models.base_model import Base
from axsearch.statistics.metrics import value

SHARES = (0.6, 0.4)
RECIPES = 10
WAYS = ("none", "bias", "least_squares")
SPREAD = 0.3  # of the factors that shift importance from layer to layer


def multiply_adds(site: Site, length: float) -> float:
    """The multiply-adds of one head or neuron, for a token of an input of this length."""
    products = 2 * length * site.units.width if site.id.kind == "attention" else 0
    return (site.unit_parameters + products) * site.repeats


def draw(
    sites: dict[SiteId, Site],
    importance: Importance,
    share: float,
    length: float,
    rng: np.random.Generator,
) -> dict[SiteId, dict[str, Kept]]:
    """Remove the units with the least importance per multiply-add until this share is left."""
    units = []
    for site in sites.values():
        factor = np.exp(SPREAD * rng.standard_normal())
        cost = multiply_adds(site, length)
        for unit, score in enumerate(importance.scores[site.id]):
            jitter = np.exp(0.3 * SPREAD * rng.standard_normal())
            units.append((score / cost * factor * jitter, cost, site.id, unit))
    units.sort(key=lambda unit: unit[0])
    budget = (1 - share) * sum(cost for _, cost, _, _ in units)
    gone: dict[SiteId, int] = {}
    for _, cost, site_id, _ in units:
        budget -= cost
        if budget < 0:
            break
        gone[site_id] = gone.get(site_id, 0) + 1
    choices = {}
    for site_id, count in gone.items():
        total = sites[site_id].units.count
        grain = 32 if site_id.kind == "ffn" and total >= 256 else 1  # as the search's levels are
        left = min(total, max(grain, round((total - count) / grain) * grain))
        kept = sorted(importance.order(site_id)[total - left :])
        name = "heads" if site_id.kind == "attention" else "ffn"
        choices[site_id] = {name: Kept(of=total, kept=tuple(kept))}
    return choices


def table(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Markdown: points lost on average, and as a share of the loss without compensation."""
    text = [
        f"Base: {facts['accuracy']:.4f} on {facts['examples']} holdout examples.", "",
        "| multiply-adds left | compensation | points lost, mean | least | most | of `none` |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for share in SHARES:
        lost = {
            way: [
                100 * (facts["accuracy"] - row["accuracy"])
                for row in rows
                if (row["share"], row["compensation"]) == (share, way)
            ]
            for way in WAYS
        }
        for way, points in lost.items():
            if points and lost["none"]:
                part = np.mean(points) / np.mean(lost["none"])
                text.append(
                    f"| {share} | {way} | {np.mean(points):.2f} | {min(points):.2f} | "
                    f"{max(points):.2f} | {part:.2f} |"
                )
    return "\n".join(text) + "\n"


def main() -> None:
    """Evaluate the models that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a fine-tuned model")
    parser.add_argument("data", help="its data: a folder or a hub dataset")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--recipes", type=int, default=RECIPES)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = Task.load(options.model, options.data)
    evaluator = Evaluator(task, create_engine("sqlite://"), None)
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / "compensation.json"

    def accuracy(recipe: Recipe) -> float:
        answers = predict(evaluator.weights.shrink(recipe), task.holdout, task.kind)
        return value(task.kind.outcome(task.metric, task.holdout, answers))

    facts = {
        "model": task.model_fingerprint, "calibration": task.calibration.fingerprint,
        "holdout": task.holdout.fingerprint, "examples": len(task.holdout), "metric": task.metric,
        "accuracy": accuracy(Recipe.of({})),
    }  # fmt: skip
    rows = []
    if target.exists() and (found := json.loads(target.read_text()))["facts"] == facts:
        rows = found["rows"]
    known = {(row["share"], row["number"], row["compensation"]) for row in rows}
    sites = {id: site for id, site in Base(task.model).sites.items() if site.units}
    importance = fisher_importance(Base(task.model), task.calibration, task.kind)
    length = float(np.mean(task.holdout.lengths))
    todo = []
    for share in SHARES:
        rng = np.random.default_rng(0)
        for number in range(options.recipes):
            choices = draw(sites, importance, share, length, rng)
            todo += [(share, number, way, choices) for way in WAYS]
    todo = [item for item in todo if item[:3] not in known]
    for share, number, way, choices in track(todo, description="evaluating"):
        recipe = Recipe.of(choices, way)
        row = {"share": share, "number": number, "compensation": way}
        rows.append({**row, "accuracy": accuracy(recipe)})
        lines = ",\n".join(json.dumps(row) for row in rows)
        target.write_text(f'{{"facts": {json.dumps(facts, indent=1)},\n"rows": [\n{lines}\n]}}\n')
        target.with_suffix(".md").write_text(table(facts, rows))


if __name__ == "__main__":
    main()
