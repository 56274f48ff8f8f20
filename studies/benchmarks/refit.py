"""What the sequential refit, its parts and the order of units are worth, and what a trial costs.

Four parts, each on the same recipes with the same data:

- ``accuracy``: holdout accuracy of a study's front, its weights refitted as in version 0.1
  (``least_squares``), sequentially on 256, 512 and 2,048 examples, and without the input
  projections.
- ``ablation``: which blocks are refitted, the ridge, the weights of tokens.
- ``order``: FFNs, or heads, of all layers at the same share, the units in three orders, with
  refitted outputs alone.
- ``cost``: processor time of a trial's refit and whole evaluation, the two ways in turn.

Divergence is the mean KL divergence from the base's outputs on examples of train that nothing else
used. For the demo's model and a study of it whose recipes were chosen under ``least_squares``:

    make demo
    axsearch search --model .cache/movie_reviews/base --data .cache/movie_reviews/data \
        --storage sqlite:///refit.db --study refit --trials 24 --compensation least_squares
    python studies/benchmarks/refit.py .cache/movie_reviews/base .cache/movie_reviews/data \
        --storage sqlite:///refit.db --study refit

Without a study its recipes are those of uniform shares. It writes refit_NAME.json; rows that are
already in the file are not measured again.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sqlalchemy import create_engine
from transformers import PreTrainedModel

from axsearch import Evaluator, Recipe, Study, Task
from axsearch.approximations.choices import Kept
from axsearch.approximations.site import SiteId
from axsearch.calibration.importance import importance_along_path
from axsearch.calibration.order import orders_after_refit, surgeon
from axsearch.evaluation.accuracy import Predictor
from axsearch.models.refit.compensation import DAMPING
from axsearch.models.refit.sample import SENSITIVE, Sample, SampleSize, measure_sample
from axsearch.models.refit.sequential import RIDGE, SequentialRefit
from axsearch.models.weights import ClosedForm
from axsearch.space.recipe import EXACT
from axsearch.statistics.metrics import value
from axsearch.tasks.split import Split

SHARES = {"ffn": (1 / 8, 1 / 4, 1 / 2, 3 / 4), "heads": (1 / 6, 1 / 3, 1 / 2)}
MANY = 10**9
HELD = 200
Orders = dict[SiteId, tuple[int, ...]]


class Bench:
    """The task, its weights, and the rows that are known."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.task = Task.load(options.model, options.data)
        self.base = self.task.base
        self.evaluator = Evaluator(self.task, create_engine("sqlite://"), None)
        self.predictor = Predictor(self.task.kind, memory=0)
        self.holdout = self.task.holdout.take(np.arange(options.holdout))
        self.samples: dict[tuple[int, float], Sample] = {}
        self.target = options.out / f"refit_{options.name}.json"
        self.facts = {
            "model": self.task.model_fingerprint, "metric": self.task.metric,
            "holdout": len(self.holdout), "train": len(self.task.training),
        }  # fmt: skip
        self.rows: list[dict[str, Any]] = []
        if self.target.exists() and (found := json.loads(self.target.read_text())):
            self.rows = found["rows"] if found["facts"] == self.facts else []
        order = np.random.default_rng(1).permutation(len(self.task.training))
        calibration = {tuple(one["input_ids"]) for one in self.task.calibration.inputs}
        unseen = [
            i for i in order if tuple(self.task.training.inputs[i]["input_ids"]) not in calibration
        ]
        self.held = self.task.training.take(np.sort(unseen[:HELD]))
        self.outputs: dict[int, torch.Tensor] = {}

    def row(self, measure: Callable[[], dict[str, Any]], **key: Any) -> None:
        """Measure a row and write it, unless it is known."""
        if any(key.items() <= row.items() for row in self.rows):
            return
        self.rows.append({**key, **measure()})
        print(self.rows[-1], flush=True)
        self.target.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(row) for row in self.rows)
        self.target.write_text(f'{{"facts": {json.dumps(self.facts)},\n"rows": [\n{lines}\n]}}\n')

    def sample(self, examples: int, sensitive: float = SENSITIVE) -> Sample:
        """The first examples of calibration, or, where these are not enough, of train."""
        known = self.samples.get((examples, sensitive))
        if known is None:
            task = self.task
            split = task.calibration if examples <= len(task.calibration) else task.training
            known = measure_sample(
                self.base, split, task.kind, SampleSize(examples, MANY), sensitive=sensitive
            )
            self.samples = {**self.samples, (examples, sensitive): known}
        return known

    def accuracy(self, model: PreTrainedModel, split: Split) -> float:
        """The task's metric."""
        answers = self.predictor.predict(model, split).answers
        return value(self.task.kind.outcome(self.task.metric, split, answers))

    def divergence(self, model: PreTrainedModel) -> float:
        """Mean KL divergence from the base's outputs on the held-out examples of train."""
        found, kind = 0.0, self.task.kind
        if not self.outputs:
            self.predictor.run(
                self.task.model, self.held, lambda rows, out, _: self.outputs.update({rows[0]: out})
            )

        def see(rows: Any, logits: torch.Tensor, targets: torch.Tensor) -> None:
            nonlocal found
            found += float(kind.divergence(logits, self.outputs[rows[0]], targets).sum())

        self.predictor.run(model, self.held, see)
        return found / len(self.held)

    def sequential(self, recipe: Recipe, refit: SequentialRefit) -> PreTrainedModel:
        """A recipe's model as a certain refit makes it."""
        weights = ClosedForm(self.base, None, lambda: refit.sample)
        weights._sequential = refit
        return weights.shrink(as_way(recipe, "sequential"))


def as_way(recipe: Recipe, way: Any) -> Recipe:
    """The same choices with another compensation."""
    return Recipe.of({site: dict(choices) for site, choices in recipe.sites}, way)


def accuracies(bench: Bench, recipes: dict[str, Recipe]) -> None:
    """Holdout accuracy by compensation and number of examples."""
    bench.row(
        lambda: {"accuracy": bench.accuracy(bench.task.model, bench.holdout)},
        part="accuracy", recipe="base",
    )  # fmt: skip
    for name, recipe in recipes.items():
        before = bench.evaluator.weights
        bench.row(
            lambda r=recipe, w=before: {
                "accuracy": bench.accuracy(w.shrink(as_way(r, "least_squares")), bench.holdout)
            },
            part="accuracy", recipe=name, way="least_squares", examples=512,
        )  # fmt: skip
    for examples, inputs in ((256, True), (512, True), (2048, False), (2048, True)):
        kind = SequentialRefit if inputs else OutputsAlone
        refit = kind(bench.base, lambda n=examples: bench.sample(n))
        for name, recipe in recipes.items():
            bench.row(
                lambda r=recipe, s=refit: {
                    "accuracy": bench.accuracy(bench.sequential(r, s), bench.holdout)
                },
                part="accuracy", recipe=name, way="sequential" if inputs else "outputs alone",
                examples=examples,
            )  # fmt: skip


class OutputsAlone(SequentialRefit):
    """Leaves input projections as they are."""

    inputs = False


class Other(SequentialRefit):
    """Refits other blocks: of one kind only, only those that lost units, or all above a change."""

    which = ""

    def fits(self, recipe: Recipe, site: SiteId) -> bool:
        """Whether a block is refitted."""
        if self.which == "all above the first change":
            first = min(other for other, _, _ in recipe.choices())
            return not recipe.removed(*site) and site >= first  # attention before ffn
        if self.which == "changed":
            return bool(recipe.at(*site)) and super().fits(recipe, site)
        return site.kind == self.which and super().fits(recipe, site)


def ablations(bench: Bench, recipes: dict[str, Recipe]) -> None:
    """Divergence with one thing changed at a time, on 256 examples."""

    def variants() -> Iterator[tuple[str, SequentialRefit]]:
        yield "as it is", SequentialRefit(bench.base, lambda: bench.sample(256))
        yield "outputs alone", OutputsAlone(bench.base, lambda: bench.sample(256))
        for which in ("ffn", "attention", "changed", "all above the first change"):
            other = Other(bench.base, lambda: bench.sample(256))
            other.which = which
            yield f"blocks: {which}", other
        for ridge in (1e-4, 1e-3, 1e-1):
            assert ridge != RIDGE
            yield (
                f"ridge {ridge}",
                SequentialRefit(bench.base, lambda: bench.sample(256), ridge=ridge),
            )
        for share in (0.0, 0.9):
            yield (
                f"sensitive {share}",
                SequentialRefit(bench.base, lambda s=share: bench.sample(256, s)),
            )
        yield "2,048 examples", SequentialRefit(bench.base, lambda: bench.sample(2048))

    order = orders_after_refit(bench.base, bench.evaluator.moments)
    half = len(bench.base.layers(bench.base.model)) // 2
    lower = uniform(bench, order, {"ffn": 1 / 4, "heads": 1 / 4}, half)
    gone = {
        SiteId(half - 1, "attention"): {"heads": Kept(of=count(bench, "attention"), kept=())},
        SiteId(half, "ffn"): {"ffn": Kept(of=count(bench, "ffn"), kept=())},
    }
    recipes = {
        **recipes,
        "1/4 of the lower half": lower,  # the upper half is as it was
        "two blocks removed": Recipe.of(gone, "sequential"),
    }
    for name, recipe in recipes.items():
        bench.row(
            lambda r=recipe: {
                "divergence": bench.divergence(
                    bench.evaluator.weights.shrink(as_way(r, "least_squares"))
                )
            },
            part="ablation", recipe=name, variant="least_squares",
        )  # fmt: skip
    for variant, refit in variants():
        for name, recipe in recipes.items():
            bench.row(
                lambda r=recipe, s=refit: {"divergence": bench.divergence(bench.sequential(r, s))},
                part="ablation", recipe=name, variant=variant,
            )  # fmt: skip


def count(bench: Bench, kind: str) -> int:
    """The units of a block."""
    return int(bench.base.sites[SiteId(0, kind)].count)


def plain_surgeon(bench: Bench) -> Orders:
    """Optimal brain surgeon with all outputs alike."""
    found, moments = {}, bench.evaluator.moments
    for site in filter(lambda site: site.units, bench.base.sites.values()):
        second = moments.covariance[site.id].double()
        second += DAMPING * second.diagonal().mean() * torch.eye(len(second))
        weight = bench.base.state[site.units.output.tensor].double()
        inverse, at_once = torch.linalg.inv(second), max(1, site.units.count // 64)
        found[site.id] = surgeon(weight, inverse, site.units.width, at_once)
    return found


def orders(bench: Bench) -> None:
    """FFNs, or heads, of all layers at the same share."""
    task = bench.task
    made: dict[str, Callable[[], Orders]] = {
        "after refit": lambda: orders_after_refit(bench.base, bench.evaluator.moments),
        "after refit, all outputs alike": lambda: plain_surgeon(bench),
        "Fisher along a path": lambda: dict(
            importance_along_path(
                bench.base, task.calibration, task.kind, bench.evaluator.weights.shrink,
                "least_squares",
            ).orders
        ),
    }  # fmt: skip
    refit = OutputsAlone(bench.base, lambda: bench.sample(256))
    for name, make in made.items():
        order: Orders | None = None
        for kind, shares in SHARES.items():
            for share in shares:
                key = {"part": "order", "kind": kind, "share": round(share, 3), "order": name}
                if any(key.items() <= row.items() for row in bench.rows):
                    continue
                order = make() if order is None else order
                small = bench.sequential(uniform(bench, order, {kind: share}), refit)
                measured = {
                    "divergence": bench.divergence(small),
                    "accuracy": bench.accuracy(small, bench.holdout),
                }
                bench.row(lambda found=measured: found, **key)


def uniform(
    bench: Bench, order: Orders, shares: dict[str, float], below: int | None = None
) -> Recipe:
    """Keep the same share of the units of every layer, or of those below one."""
    sites = {}
    for site in filter(lambda site: site.units, bench.base.sites.values()):
        name = "ffn" if site.id.kind == "ffn" else "heads"
        if name in shares and (below is None or site.id.layer < below):
            count = max(1, round(shares[name] * site.count))
            kept = tuple(sorted(order[site.id][site.count - count :]))
            sites[site.id] = {name: Kept(of=site.count, kept=kept)}
    return Recipe.of(sites, "sequential")


def costs(bench: Bench, trials: list[Recipe]) -> None:
    """Processor seconds of trials in the order of a study, the two ways in turn."""
    ways = ("least_squares", "sequential")
    evaluators = {
        way: Evaluator(bench.task, create_engine("sqlite://"), None) for way in ways
    }  # each with what it keeps from trial to trial
    for way, evaluator in evaluators.items():
        evaluator.weights.prepare(way)
    spent = {f"{way} {what}": [] for way in ways for what in ("refit", "evaluation")}
    for recipe in trials:
        for way, evaluator in evaluators.items():
            own = as_way(recipe, way)
            began = time.process_time()
            small = evaluator.weights.shrink(own)
            made = time.process_time()
            shared = evaluator.predictor.predict(small, bench.task.search, bench.base, own)
            assert len(shared.losses) == len(bench.task.search)
            spent[f"{way} refit"].append(round(made - began, 2))
            spent[f"{way} evaluation"].append(round(time.process_time() - made, 2))
    bench.row(lambda: {"seconds": spent}, part="cost")


def main() -> None:
    """Measure the rows that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a fine-tuned model")
    parser.add_argument("data", help="its data: a folder or a hub dataset")
    parser.add_argument("--storage", help="database with a study of this model")
    parser.add_argument("--study", help="whose front and trials to take")
    parser.add_argument("--parts", nargs="+", default=["accuracy", "ablation", "order", "cost"])
    parser.add_argument("--trials", nargs="+", type=int, help="of the front; all if left out")
    parser.add_argument("--most", type=int, default=12, help="trials whose cost is measured")
    parser.add_argument("--holdout", type=int, default=10**6, help="examples at most")
    parser.add_argument("--name", default="movie_reviews")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    if options.study:
        study = Study.open(options.storage, options.study)
        front = [m for m in study.front() if not options.trials or m.trial in options.trials]
        recipes = {f"{m.latency_ratio:.3f}": Recipe.from_dict(m.recipe) for m in front}
        trials = [Recipe.from_dict(m.recipe) for m in study.measurements]
    else:
        order = orders_after_refit(bench.base, bench.evaluator.moments)
        recipes = {
            f"{share:g} of all": uniform(bench, order, {"ffn": share, "heads": share})
            for share in (1 / 2, 1 / 4, 1 / 6)
        }
        trials = list(recipes.values())
    recipes = {name: recipe for name, recipe in recipes.items() if recipe != EXACT}
    parts: dict[str, Callable[[], None]] = {
        "accuracy": lambda: accuracies(bench, recipes),
        "ablation": lambda: ablations(bench, recipes),
        "order": lambda: orders(bench),
        "cost": lambda: costs(bench, [t for t in trials if t != EXACT][: options.most]),
    }
    for part in options.parts:
        parts[part]()


if __name__ == "__main__":
    main()
